//! Stories about the simulated Proxmox VE, told over HTTPS.

mod purchase;
mod replay;
mod stage;
mod world;
