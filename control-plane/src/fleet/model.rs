//! Plain types of the fleet and the transitions a node may make.

use std::net::IpAddr;

use ez_protocol::{
    InstanceId, NodeId, UnixMillis,
    order::{AddressAssignment, MacAddress, NetworkSpec},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::db::{DbError, text_enum};

text_enum! {
    /// What a node may do.
    pub enum NodeState {
        /// Added by an operator, not enrolled yet.
        Pending = "pending",
        /// Takes new servers.
        Active = "active",
        /// Keeps what it has and takes orders for that; takes nothing new.
        Cordoned = "cordoned",
        /// Its history contradicts ours: reports are taken, orders are not sent.
        Quarantined = "quarantined",
        /// Its certificates are void; only a new join token brings it back.
        Revoked = "revoked",
    }
}

/// What happens to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeChange {
    /// Its agent enrolled with a join token.
    Enrol,
    /// An operator wants nothing new on it.
    Cordon,
    /// An operator allows new servers again.
    Uncordon,
    /// Its agent showed a history that contradicts ours.
    Quarantine,
    /// An operator takes its certificates away.
    Revoke,
}

/// A change that the node's state does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a node that is {state} cannot be changed so ({change:?})")]
pub struct NodeRefusal {
    /// What it is.
    pub state: NodeState,
    /// What was wanted.
    pub change: NodeChange,
}

impl NodeState {
    /// The state after a change.
    ///
    /// # Errors
    /// [`NodeRefusal`] where the change makes no sense.
    pub fn after(self, change: NodeChange) -> Result<Self, NodeRefusal> {
        use NodeChange as C;
        match (self, change) {
            (Self::Pending | Self::Quarantined | Self::Revoked | Self::Active, C::Enrol) => Ok(Self::Active),
            (Self::Cordoned, C::Enrol | C::Cordon) | (Self::Active, C::Cordon) => Ok(Self::Cordoned),
            (Self::Cordoned | Self::Active, C::Uncordon) => Ok(Self::Active),
            (Self::Active | Self::Cordoned | Self::Quarantined, C::Quarantine) => Ok(Self::Quarantined),
            (_, C::Revoke) => Ok(Self::Revoked),
            (state, change) => Err(NodeRefusal { state, change }),
        }
    }

    /// Whether orders may be issued for it and sent to it.
    pub fn takes_orders(self) -> bool {
        matches!(self, Self::Active | Self::Cordoned)
    }

    /// Whether its agent may be connected.
    pub fn may_connect(self) -> bool {
        matches!(self, Self::Active | Self::Cordoned | Self::Quarantined)
    }
}

/// How recently a node's agent was heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// Connected.
    Online,
    /// Silent for more than 45 s.
    Late,
    /// Silent for more than 90 s.
    Offline,
    /// Never seen.
    Never,
}

/// Silence after which a node counts as late.
pub(super) const LATE_AFTER_MS: i64 = 45_000;
/// Silence after which a node counts as offline.
pub(super) const OFFLINE_AFTER_MS: i64 = 90_000;
/// For so long after its own start the control plane calls nobody offline.
pub(super) const START_GRACE_MS: i64 = 300_000;

/// Judges a silence.
pub(super) fn presence(last_seen: Option<UnixMillis>, now: UnixMillis) -> Presence {
    match last_seen.map(|seen| now.0 - seen.0) {
        None => Presence::Never,
        Some(silence) if silence > OFFLINE_AFTER_MS => Presence::Offline,
        Some(silence) if silence > LATE_AFTER_MS => Presence::Late,
        Some(_) => Presence::Online,
    }
}

/// A place where servers can be bought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Location {
    /// Short code, such as `fsn`.
    pub code: String,
    /// Name for people.
    pub name: String,
    /// ISO country code.
    pub country: String,
}

/// An address of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub address: IpAddr,
    /// Length of the prefix the guest is told.
    pub prefix_len: u8,
    /// Its gateway.
    pub gateway: IpAddr,
}

/// Where an instance lives or is to live: everything fixed about it, from reservation on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The instance.
    pub instance: InstanceId,
    /// The node.
    pub node: NodeId,
    /// The node's name.
    pub node_name: String,
    /// Code of the location.
    pub location: String,
    /// Proxmox's number.
    pub vmid: u32,
    /// Bridge on the host.
    pub bridge: String,
    /// VLAN tag.
    pub vlan: Option<u16>,
    /// Hardware address.
    pub mac: MacAddress,
    /// Its IPv4 address.
    pub ipv4: Address,
    /// Its IPv6 address, where the location has some.
    pub ipv6: Option<Address>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// Set while the place is only reserved for a checkout. Nothing ends by this time alone.
    pub reserved_until: Option<UnixMillis>,
}

impl Placement {
    /// The network part of the instance's specification.
    pub fn network(&self, rate_mbit: Option<u32>) -> NetworkSpec {
        let addresses = std::iter::once(&self.ipv4).chain(&self.ipv6).filter_map(|a| {
            let cidr = IpNet::new(a.address, a.prefix_len).ok()?;
            Some(AddressAssignment { cidr, gateway: Some(a.gateway) })
        });
        NetworkSpec {
            bridge: self.bridge.clone(),
            vlan: self.vlan,
            mac: self.mac.clone(),
            addresses: addresses.collect(),
            dns: self.dns.clone(),
            rate_mbit,
            firewall: true,
            rules: None,
        }
    }
}

/// Why a place could not be reserved. Each but the last two means: ask placement again, without this node.
#[derive(Debug, thiserror::Error)]
pub enum ReserveError {
    /// The node was sold out meanwhile, or takes nothing new.
    #[error("the node has no room for this server")]
    NoRoom,
    /// No address is left in the location.
    #[error("no IPv4 address is left in that location")]
    NoAddress,
    /// No VMID is left in the node's range.
    #[error("no VMID is left on the node")]
    NoVmid,
    /// The instance has a place already.
    #[error("the server has a place already")]
    Already,
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// What is known about the VM when its place is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// No VM was ever made: everything is free at once.
    NeverUsed,
    /// The VM is confirmed to be gone: addresses, MAC and VMID rest for 24 h.
    Gone,
    /// Nobody knows (the node was revoked): they rest until an operator or a report says otherwise.
    Unknown,
}

text_enum! {
    /// How urgent an alarm is.
    pub enum Severity {
        /// Somebody should look today.
        Warning = "warning",
        /// Somebody should look now.
        Critical = "critical",
    }
}

/// Something a person must look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Alarm {
    /// Stable word, such as `node_offline`.
    pub kind: String,
    /// What it is about: a node's name, an order's id.
    pub subject: String,
    /// How urgent.
    pub severity: Severity,
    /// The node, if one is concerned.
    pub node: Option<NodeId>,
    /// One sentence.
    pub detail: String,
    /// How often it happened while open.
    pub occurrences: u64,
    /// When it began.
    pub raised_at: UnixMillis,
    /// When it happened last.
    pub last_at: UnixMillis,
    /// When it ended.
    pub cleared_at: Option<UnixMillis>,
}

/// A storage as a node reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageView {
    /// Its name in Proxmox.
    pub id: String,
    /// Its type.
    pub kind: String,
    /// Size, MiB.
    pub total_mib: u64,
    /// Used, MiB.
    pub used_mib: u64,
}

/// A thin pool as a node reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThinPoolView {
    /// Volume group and pool.
    pub name: String,
    /// Size, MiB.
    pub total_mib: u64,
    /// Data in use, per mille.
    pub data_permille: u32,
    /// Metadata in use, per mille.
    pub metadata_permille: u32,
}

/// An image whose template is ready on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageView {
    /// Catalogue name.
    pub name: String,
    /// Digest.
    pub digest: String,
}

/// What an agent warns about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarningView {
    /// Stable code such as `FIREWALL_INERT`.
    pub code: String,
    /// One sentence with the way out.
    pub text: String,
}

/// What a node's policy file allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct NodePolicy {
    /// Pool its VMs live in.
    pub pool: String,
    /// Bridges it may use.
    pub bridges: Vec<String>,
    /// Storages it may use for disks.
    pub storages: Vec<String>,
    /// Address prefixes it may configure; none means any.
    pub prefixes: Vec<String>,
    /// VLAN tags as `first-last`; none means untagged only.
    pub vlans: Vec<String>,
    /// Most VMs; 0 means no bound. The same for the following.
    pub max_instances: u64,
    /// Most virtual CPUs.
    pub max_vcpus: u64,
    /// Most memory, MiB.
    pub max_memory_mib: u64,
    /// Most disk, GiB.
    pub max_disk_gib: u64,
    /// How many servers may be purged; what an older agent does not say is none.
    #[serde(default)]
    pub purges: PurgeLimits,
    /// How many disks may be replaced; what an older agent does not say is none.
    #[serde(default)]
    pub replaces: ReplaceLimits,
}

/// How many disks a node lets be replaced (rebuilds, rollbacks, restores) before it refuses, and how many servers may
/// lose theirs in a day before its destroy circuit opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct ReplaceLimits {
    /// In an hour.
    pub per_hour: Option<u64>,
    /// In an hour, of one server.
    pub per_server_per_hour: Option<u64>,
    /// In a day: of this share of its servers, percent …
    pub percent_per_day: Option<u64>,
    /// … or so many, whichever is more.
    pub floor_per_day: Option<u64>,
}

impl ReplaceLimits {
    /// Most disks replaced in an hour. An agent that says nothing has its own default.
    pub fn per_hour(&self) -> u64 {
        self.per_hour.unwrap_or(10)
    }

    /// Most of one server. An older agent has no such rule; ours keeps one customer from taking the others' turn there.
    pub fn per_server_per_hour(&self) -> u64 {
        self.per_server_per_hour.unwrap_or(3)
    }

    /// Most servers of so many that may lose their disk in a day; an older agent has no such rule.
    pub fn in_a_day(&self, servers: u64) -> Option<u64> {
        let share = servers.saturating_mul(self.percent_per_day?) / 100;
        Some(share.max(self.floor_per_day.unwrap_or(0)))
    }
}

/// How many servers a node lets be purged before it opens its destroy circuit, after which it purges nothing until
/// root of the host has looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct PurgeLimits {
    /// In ten minutes.
    pub per_10_minutes: Option<u64>,
    /// In a day: this share of its servers, percent …
    pub percent_per_day: Option<u64>,
    /// … or so many, whichever is more.
    pub floor_per_day: Option<u64>,
}

impl PurgeLimits {
    /// Most purges in ten minutes.
    pub fn in_ten_minutes(&self) -> u64 {
        self.per_10_minutes.unwrap_or(4)
    }

    /// Most purges in a day on a node with so many servers. An agent that says nothing has its own defaults.
    pub fn in_a_day(&self, servers: u64) -> u64 {
        let share = servers.saturating_mul(self.percent_per_day.unwrap_or(10)) / 100;
        share.max(self.floor_per_day.unwrap_or(3))
    }
}

impl NodePolicy {
    /// Whether a network card on this bridge and VLAN with an address of this prefix is allowed.
    pub fn allows_network(&self, bridge: &str, vlan: Option<u16>, prefix: IpNet) -> bool {
        let tag_ok = vlan.is_none_or(|tag| self.vlans.iter().any(|range| in_range(range, tag)));
        let inside = |allowed: &String| allowed.parse::<IpNet>().is_ok_and(|net| net.contains(&prefix));
        self.bridges.iter().any(|b| b == bridge)
            && tag_ok
            && (self.prefixes.is_empty() || self.prefixes.iter().any(inside))
    }
}

fn in_range(range: &str, tag: u16) -> bool {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    match (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
        (Ok(first), Ok(last)) => (first..=last).contains(&tag),
        _ => false,
    }
}
