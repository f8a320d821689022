//! Plain data that placement decides on. `fleet` fills it from its tables.

use std::collections::BTreeSet;

use ez_protocol::NodeId;

/// What one server takes from a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Code of the location the customer picked.
    pub location: String,
    /// Virtual CPUs.
    pub vcpu: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Disk in GiB.
    pub disk_gib: u64,
    /// Digest of the image, `sha256:…`; the node must have a template that carries it.
    pub image_digest: String,
}

/// Capacity and what is sold of it, in one unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Room {
    /// What may be sold in total (policy, observation, over-commit and reserve are already in it).
    pub capacity: u64,
    /// What is sold or reserved.
    pub sold: u64,
}

impl Room {
    /// What can still be sold; zero when oversold.
    pub const fn free(self) -> u64 {
        self.capacity.saturating_sub(self.sold)
    }

    /// How full it would be after selling `more`, in parts per million; more than full if it does not fit.
    pub fn fullness_ppm(self, more: u64) -> u64 {
        if self.capacity == 0 {
            return u64::MAX;
        }
        let after = u128::from(self.sold) + u128::from(more);
        u64::try_from(after * 1_000_000 / u128::from(self.capacity)).unwrap_or(u64::MAX)
    }
}

/// One node as placement sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    /// Which node.
    pub id: NodeId,
    /// Its name, for messages to operators.
    pub name: String,
    /// Code of its location.
    pub location: String,
    /// An operator said: nothing new here.
    pub cordoned: bool,
    /// Enrolled, not revoked, and its agent has reported capacity at least once.
    pub known: bool,
    /// Its agent is connected now.
    pub online: bool,
    /// Nothing has been heard of it for so long that it counts as offline, or never.
    pub away: bool,
    /// Virtual CPUs (after over-commit).
    pub vcpu: Room,
    /// Memory in MiB.
    pub memory_mib: Room,
    /// Disk in GiB.
    pub disk_gib: Room,
    /// Digests of the images it has templates for.
    pub images: BTreeSet<String>,
    /// Some storage for disks is allowed by the node's policy and present.
    pub has_storage: bool,
    /// Some bridge is allowed by the node's policy, present, and served by an address pool of the location.
    pub has_bridge: bool,
    /// IPv4 addresses that a new server on this node could get.
    pub free_ipv4: u64,
    /// Unused VMIDs in the node's range.
    pub free_vmids: u64,
}

impl NodeView {
    /// Whether the node takes new servers at all.
    pub fn accepts_new(&self) -> bool {
        self.known && !self.cordoned && !self.away
    }

    /// Whether CPU, memory and disk fit at once.
    pub fn fits(&self, need: &Need) -> bool {
        self.vcpu.free() >= u64::from(need.vcpu)
            && self.memory_mib.free() >= need.memory_mib
            && self.disk_gib.free() >= need.disk_gib
    }

    /// How full the fullest resource would be after the sale, in parts per million.
    pub fn fullness_after(&self, need: &Need) -> u64 {
        self.vcpu
            .fullness_ppm(u64::from(need.vcpu))
            .max(self.memory_mib.fullness_ppm(need.memory_mib))
            .max(self.disk_gib.fullness_ppm(need.disk_gib))
    }

    /// How many such servers fit by CPU, memory and disk.
    pub fn slots(&self, need: &Need) -> u64 {
        let by = |room: Room, each: u64| room.free().checked_div(each).unwrap_or(u64::MAX);
        by(self.vcpu, u64::from(need.vcpu))
            .min(by(self.memory_mib, need.memory_mib))
            .min(by(self.disk_gib, need.disk_gib))
    }
}

/// All nodes, or those of one location, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FleetSnapshot {
    /// The nodes, in any order.
    pub nodes: Vec<NodeView>,
}

/// Why no node can take the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// No node is in that location.
    #[error("no node is in that location")]
    UnknownLocation,
    /// Every node there is cordoned, revoked, offline or not yet known.
    #[error("no node in that location takes new servers")]
    NoneAccepting,
    /// Every node there was tried already.
    #[error("every node in that location was tried already")]
    AllTried,
    /// No accepting node has the image.
    #[error("the image is not ready on any node of that location")]
    ImageNotReady,
    /// No accepting node has a storage and a bridge for new servers.
    #[error("no node of that location has a storage and a network for new servers")]
    NoStorageOrBridge,
    /// No address (or no VMID) is left.
    #[error("no address is left in that location")]
    NoAddress,
    /// CPU, memory or disk is sold.
    #[error("that location is sold out for this plan")]
    SoldOut,
}
