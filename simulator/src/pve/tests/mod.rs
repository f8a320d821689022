//! Stories about the simulated Proxmox VE, told over HTTPS.

mod ask;
mod cast;
mod console;
mod faults;
mod judge;
mod killed;
mod known;
mod logged;
mod purchase;
mod refusals;
mod replay;
mod stage;
mod world;
