//! What is behind a console: a guest with a login prompt, its screen in pixels, and the two ways to them that a
//! Proxmox host offers on its loopback.
//!
//! | module | is |
//! |---|---|
//! | [`tty`] | the guest: what it answers to what is typed |
//! | [`screen`] | 80 × 25 characters, drawn with [`font`] |
//! | [`rfb`] | RFB 3.8 with VNC authentication ([`des`]) |
//! | [`line`] | the terminal proxy's greeting and messages |

pub(crate) mod des;
mod font;
pub(crate) mod line;
pub(crate) mod rfb;
mod screen;
mod tty;

use super::state::State;

/// The guest's own name, and what it calls itself, for its prompts.
pub(crate) fn guest_name(state: &State, vmid: u32) -> String {
    state.vms.get(vmid).map_or_else(|| format!("VM {vmid}"), super::state::Vm::name)
}

/// Whether the machine still runs.
pub(crate) fn is_running(state: &State, vmid: u32) -> bool {
    state.vms.get(vmid).is_some_and(|vm| vm.run.is_some())
}
