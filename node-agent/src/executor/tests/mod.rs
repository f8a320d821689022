//! Stories of the executor against a Proxmox VE in memory.

mod crash;
pub(crate) mod kit;
mod stories;
