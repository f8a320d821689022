//! Node agent.

pub mod pve;
