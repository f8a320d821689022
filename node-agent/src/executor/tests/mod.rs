//! Stories of the executor against a Proxmox VE in memory.

mod crash;
mod destroying;
mod disturbed;
mod every_step;
mod first_start;
pub(crate) mod kit;
mod life;
mod queue;
mod scenes;
mod stories;
mod unsettled;
mod waiting;
