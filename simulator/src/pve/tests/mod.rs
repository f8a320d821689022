//! Stories about the simulated Proxmox VE, told over HTTPS.

mod console;
mod faults;
mod killed;
mod logged;
mod purchase;
mod refusals;
mod replay;
mod stage;
mod world;
