//! What even a valid signature may not do on this host.
//!
//! The policy file belongs to root of this host; the control plane can neither read nor change it,
//! it only learns a summary. An attacker who owns the portal and its signing key still cannot leave
//! the VMID range, the storages, bridges and address prefixes named here, cannot create faster than
//! allowed, cannot fill the host's disk with orders, and cannot destroy more than a few retired servers, or replace more than a share of the disks, a day.
//!
//! Everything here is pure: [`evaluate`] looks at the policy, at what the journal says is in use, and
//! at the order. The file is strict: an unknown key is an error with its line, never ignored.

mod evaluate;
mod file;
mod keys;
mod owner;
pub mod reference;
mod usage;

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, ops::RangeInclusive};

use ez_protocol::{
    message::PolicySummary,
    refusal::{Refusal, RefusalCode},
};
use ipnet::IpNet;

pub use evaluate::{console, evaluate, image_order, loss_of};
pub use file::{load, parse};
pub use keys::check_change;
pub use usage::{Made, Usage, UsedInstance, UsedNetwork, networks_of};

use crate::pve::CloneMode;

/// The shortest time between retire and purge that a policy can allow.
pub const MIN_PURGE_HOURS: u32 = 24;

/// Every rule that can refuse: keys of the policy file, and four that are none.
pub const RULES: &[&str] = &[
    "vmid_range",
    "network.bridges",
    "network.vlans",
    "network.prefixes",
    "network.require_firewall",
    "network.in_use",
    "images.digests",
    "images.build",
    "images.sources",
    "backups.storage",
    "media.storage",
    "console.allow",
    "limits.instances",
    "limits.vcpus_each",
    "limits.memory_mib_each",
    "limits.disk_gib_each",
    "limits.vcpus",
    "limits.memory_mib",
    "limits.disk_gib",
    "limits.creates_per_minute",
    "limits.creates_per_day",
    "limits.orders_per_server_per_hour",
    "limits.orders_per_hour",
    "destroy.purge_after_hours",
    "destroy.purges_per_10_minutes",
    "destroy.purge_percent_per_day",
    "destroy.replaces_per_server_per_hour",
    "destroy.replaces_per_hour",
    "destroy.replace_percent_per_day",
    "destroy.circuit",
    "config_keys",
];

/// The bounds of one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// VMIDs the agent may use; disjoint between the nodes of a cluster.
    pub vmids: RangeInclusive<u32>,
    /// Pool its VMs live in.
    pub pool: String,
    /// Pool of the templates it may clone.
    pub template_pool: String,
    /// Storages for disks; the first is used.
    pub storages: Vec<String>,
    /// Full or linked clones.
    pub clone: CloneMode,
    /// Bridges it may attach to.
    pub bridges: BTreeSet<String>,
    /// VLAN tags it may use; none means untagged only.
    pub vlans: Vec<RangeInclusive<u16>>,
    /// Prefixes that addresses, and networks routed to a server, must come from; none means any.
    pub prefixes: Vec<IpNet>,
    /// Whether a network card without the host's filter is refused.
    pub require_firewall: bool,
    /// Image digests it may clone; none means any template in the template pool.
    pub digests: BTreeSet<String>,
    /// Storage for backups; none means that there are no backups here.
    pub backup_storage: Option<String>,
    /// Storage whose media customers may insert; none means none.
    pub iso_storage: Option<String>,
    /// Whether a password may be set inside a running guest, through its guest agent. The right for it lets
    /// the token do anything inside a guest, so it is the host's owner who gives it.
    pub guest_passwords: bool,
    /// Whether customers may look at their servers' consoles.
    pub consoles: bool,
    /// Whether and how images may be built by order; `None` refuses such orders.
    pub build: Option<ImageBuilds>,
    /// Sizes and counts.
    pub limits: Limits,
    /// When and how much may be destroyed.
    pub destroy: DestroyLimits,
}

/// How images may be built by order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageBuilds {
    /// Images come from addresses that begin with one of these.
    pub sources: Vec<String>,
    /// VMIDs for templates; apart from those of servers.
    pub vmids: RangeInclusive<u32>,
    /// Storage that takes the downloads.
    pub import_storage: String,
}

/// Sizes and counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most VMs.
    pub instances: u32,
    /// Most vCPUs of one VM.
    pub vcpus_each: u32,
    /// Most memory of one VM, MiB.
    pub memory_mib_each: u32,
    /// Largest disk of one VM, GiB.
    pub disk_gib_each: u32,
    /// Most vCPUs of all VMs together.
    pub vcpus: u32,
    /// Most memory of all VMs together, MiB.
    pub memory_mib: u64,
    /// Most disk of all VMs together, GiB.
    pub disk_gib: u64,
    /// Most creates in any 60 s.
    pub creates_per_minute: u32,
    /// Most creates in any 24 h.
    pub creates_per_day: u32,
    /// Most orders of every kind in any hour.
    pub orders_per_hour: u32,
    /// Most orders of one VM in any hour; its end is always let through.
    pub orders_per_server_per_hour: u32,
}

/// When and how much may be destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DestroyLimits {
    /// Hours between retire and purge, at least [`MIN_PURGE_HOURS`].
    pub purge_after_hours: u32,
    /// Most purges in any 10 minutes.
    pub purges_per_10_minutes: u32,
    /// Most purges in any 24 h, percent of the VMs in the books …
    pub purge_percent_per_day: u32,
    /// … but always at least this many.
    pub purge_floor_per_day: u32,
    /// Most disks that may be replaced by others (rebuild, rollback, restore) in any hour.
    pub replaces_per_hour: u32,
    /// Most times the disk of one server may be replaced in any hour.
    pub replaces_per_server_per_hour: u32,
    /// Most servers that may lose their disk in any 24 h, percent of the VMs in the books …
    pub replace_percent_per_day: u32,
    /// … but always at least this many.
    pub replace_floor_per_day: u32,
}

/// Why the policy refuses an order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {detail}")]
pub struct PolicyRefusal {
    /// Stable name of the rule; the key in the policy file.
    pub rule: &'static str,
    /// One sentence: what is allowed, what was asked.
    pub detail: String,
    /// The destroy budget is used up.
    pub circuit: bool,
}

impl PolicyRefusal {
    fn new(rule: &'static str, detail: String) -> Self {
        Self { rule, detail, circuit: false }
    }
}

impl From<PolicyRefusal> for Refusal {
    fn from(refusal: PolicyRefusal) -> Self {
        let code = if refusal.circuit { RefusalCode::CircuitOpen } else { RefusalCode::Policy };
        Self { code, rule: Some(refusal.rule.to_owned()), detail: refusal.detail }
    }
}

impl Policy {
    /// Every storage the policy names, with the content that Proxmox has to allow there.
    pub fn named_storages(&self) -> Vec<(&str, &'static str)> {
        let disks = self.storages.iter().map(|id| (id.as_str(), "images"));
        let backups = self.backup_storage.iter().map(|id| (id.as_str(), "backup"));
        let media = self.iso_storage.iter().map(|id| (id.as_str(), "iso"));
        let imports = self.build.iter().map(|build| (build.import_storage.as_str(), "import"));
        disks.chain(backups).chain(media).chain(imports).collect()
    }

    /// What placement has to know of it.
    pub fn summary(&self) -> PolicySummary {
        let vlan = |range: &RangeInclusive<u16>| format!("{}-{}", range.start(), range.end());
        PolicySummary {
            vmid_first: *self.vmids.start(),
            vmid_last: *self.vmids.end(),
            pool: self.pool.clone(),
            bridges: self.bridges.iter().cloned().collect(),
            storages: self.storages.clone(),
            prefixes: self.prefixes.iter().map(IpNet::to_string).collect(),
            max_instances: self.limits.instances,
            max_memory_mib: self.limits.memory_mib,
            max_disk_gib: self.limits.disk_gib,
            max_vcpus: self.limits.vcpus,
            vlans: self.vlans.iter().map(vlan).collect(),
            purges_per_10_minutes: Some(self.destroy.purges_per_10_minutes),
            purge_percent_per_day: Some(self.destroy.purge_percent_per_day),
            purge_floor_per_day: Some(self.destroy.purge_floor_per_day),
            replaces_per_hour: Some(self.destroy.replaces_per_hour),
            replaces_per_server_per_hour: Some(self.destroy.replaces_per_server_per_hour),
            replace_percent_per_day: Some(self.destroy.replace_percent_per_day),
            replace_floor_per_day: Some(self.destroy.replace_floor_per_day),
        }
    }
}
