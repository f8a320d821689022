//! Stories of the executor against a Proxmox VE in memory.

mod crash;
mod kit;
mod stories;
