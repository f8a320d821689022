//! Stories about the simulated Proxmox VE, told over HTTPS.

mod ask;
mod backups;
mod cast;
mod console;
mod download;
mod drives;
mod faults;
mod judge;
mod killed;
mod known;
mod logged;
mod passwords;
mod purchase;
mod refusals;
mod replay;
mod restores;
mod servant;
mod stage;
mod world;
