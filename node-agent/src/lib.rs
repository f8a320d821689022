//! The node agent: runs on a Proxmox VE host, dials the control plane, verifies signed provisioning
//! orders, journals them and carries them out through the host's own API.
//!
//! | module | does |
//! |---|---|
//! | [`link`] | the connection: greeting, orders in, events and states out |
//! | [`intake`] | pure: may this order be carried out here? |
//! | [`policy`] | pure: what even a valid signature may not do on this host |
//! | [`journal`] | the durable record of what was promised, done and still has to be said |
//! | [`executor`] | carries orders out, one actor per instance, observe first |
//! | [`pve`] | Proxmox VE behind one small trait |
//! | [`console`] | a server's screen and serial line, relayed over the connection |
//! | [`cloudinit`] | first-boot files, by serialiser and read back |
//! | [`image`] | from a cloud image on the web to a template, by command or by order |
//! | [`observe`] | what the host and its servers look like |
//! | [`metrics`] | what they use, minute by minute, and the month's traffic |
//! | [`contact`] | when the control plane was last heard |
//! | [`identity`] | joining, certificates, trust |
//! | [`setup`] | users, rights and storages on the Proxmox side |
//! | [`doctor`] | looks at everything the agent needs on this host |
//! | [`config`], [`cli`] | settings and commands |

pub mod agent;
pub mod cli;
pub mod clock;
pub mod cloudinit;
pub mod config;
pub mod console;
pub mod contact;
pub mod doctor;
pub mod entropy;
pub mod executor;
pub mod identity;
pub mod image;
pub mod intake;
pub mod journal;
pub mod link;
pub mod metrics;
pub mod observe;
pub mod policy;
pub mod pve;
pub mod report;
pub mod setup;
#[cfg(test)]
mod testing;
