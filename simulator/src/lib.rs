//! The outside world in small: a Proxmox VE, a Stripe, a mail server and a network that run anywhere,
//! over real sockets, what starts them, and the checker that proves the invariants of the whole.
//!
//! An honest outsider: this library imports neither the control plane nor the node agent (A6); both
//! talk to it as they would to the real thing and cannot tell the difference.

// `json!` expands by recursion, and Stripe's objects are wide.
#![recursion_limit = "256"]

pub mod check;
pub mod config;
mod html;
mod inject;
pub mod link_proxy;
pub mod mail;
pub mod pve;
#[doc(hidden)]
pub mod reference;
pub mod scenario;
pub mod serve;
pub mod stripe;
pub mod wall;
