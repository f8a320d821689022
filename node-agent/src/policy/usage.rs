//! What the policy has to know of the journal.

use ez_protocol::{
    InstanceId, UnixMillis,
    order::{ImageDigest, InstanceSpec, MacAddress, NetworkSpec},
};
use ipnet::IpNet;

use crate::{
    journal::{Facts, Losses, Phase, ResourceRow},
    pve::settings,
};

/// One instance in the books.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedInstance {
    /// The instance.
    pub instance: InstanceId,
    /// Its vCPUs as ordered.
    pub vcpus: u32,
    /// Its memory as ordered, MiB.
    pub memory_mib: u32,
    /// Its disk as ordered, GiB.
    pub disk_gib: u32,
    /// Where its card is and what it may send from: as ordered, and as it was carried out last. Unknown of one that was
    /// adopted and not changed since.
    pub networks: Vec<UsedNetwork>,
    /// What its disk was made of, as far as this is known here.
    pub made: Option<Made>,
    /// It is still to be made, or being made.
    pub unmade: bool,
    /// An order of it is under way: what it is by the time of the next one is not known yet.
    pub unsettled: bool,
    /// When it was retired; `None` while it serves.
    pub retired_at: Option<UnixMillis>,
}

/// A server's place in the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedNetwork {
    /// Bridge on the host.
    pub bridge: String,
    /// VLAN tag, if any.
    pub vlan: Option<u16>,
    /// Hardware address.
    pub mac: MacAddress,
    /// What it may send from.
    pub sends_from: Vec<IpNet>,
}

impl From<&NetworkSpec> for UsedNetwork {
    fn from(network: &NetworkSpec) -> Self {
        Self {
            bridge: network.bridge.clone(),
            vlan: network.vlan,
            mac: network.mac.clone(),
            sends_from: network.addresses.iter().map(settings::sends_from).collect(),
        }
    }
}

impl UsedNetwork {
    /// What both would have, in words; none if they can live beside each other. The same address in another VLAN is
    /// another one.
    pub fn clash(&self, other: &Self) -> Option<String> {
        if self.mac == other.mac {
            return Some(format!("hardware address {}", self.mac));
        }
        let apart = (&self.bridge, self.vlan) != (&other.bridge, other.vlan);
        let mine = self.sends_from.iter().filter(|_| !apart);
        let both =
            |net: &&IpNet| other.sends_from.iter().any(|used| used.contains(*net) || net.contains(used));
        mine.filter(both).map(|net| format!("address {net}")).next()
    }
}

/// What a disk was made of when it was made last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// Which of the server's builds it is.
    pub build: u32,
    /// Of which image.
    pub digest: ImageDigest,
}

/// What is in use and what has been done lately.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Usage {
    /// Every instance in the books, promised ones included.
    pub instances: Vec<UsedInstance>,
    /// Creates accepted in the last 60 s.
    pub creates_minute: u64,
    /// Creates accepted in the last 24 h.
    pub creates_day: u64,
    /// Orders of every kind accepted in the last hour.
    pub orders_hour: u64,
    /// Those of the order's own server among them.
    pub orders_here_hour: u64,
    /// Purges accepted in the last 10 minutes.
    pub purges_10min: u64,
    /// Purges accepted in the last 24 h.
    pub purges_day: u64,
    /// What servers have lost lately.
    pub losses: Losses,
    /// Since when the destroy budget's circuit is open.
    pub circuit_open: Option<UnixMillis>,
}

impl From<&ResourceRow> for UsedInstance {
    fn from(row: &ResourceRow) -> Self {
        let spec: Option<InstanceSpec> =
            row.spec_json.as_deref().and_then(|json| serde_json::from_str(json).ok());
        let applied = row.applied();
        Self {
            networks: [&spec, &applied].into_iter().flatten().map(|spec| (&spec.network).into()).collect(),
            instance: row.instance,
            vcpus: spec.as_ref().map_or(0, |s| s.vcpus),
            memory_mib: spec.as_ref().map_or(0, |s| s.memory_mib),
            disk_gib: spec.as_ref().map_or(0, |s| s.disk_gib),
            made: applied.map(|spec| Made { build: spec.build, digest: spec.image.digest }),
            unmade: matches!(row.phase, Phase::Reserved | Phase::Creating),
            unsettled: row.generation > row.observed_generation,
            retired_at: row.retired_at.filter(|_| row.phase == Phase::Retired),
        }
    }
}

impl UsedInstance {
    /// Whether such a wish throws the server's disk away when its turn comes. What lies on the disk decides, not what was
    /// wished last: a wish that came to nothing must not open the way for the next one. Where that is not known, because
    /// the first wish since an adoption or a create is under way, every build but the first counts.
    pub fn loses_disk_to(&self, spec: &InstanceSpec) -> bool {
        match &self.made {
            Some(made) => spec.build > made.build,
            None => self.unsettled && spec.build > 0,
        }
    }
}

impl From<&Facts> for Usage {
    fn from(facts: &Facts) -> Self {
        Self {
            instances: facts.resources.iter().map(UsedInstance::from).collect(),
            creates_minute: facts.creates_minute,
            creates_day: facts.creates_day,
            orders_hour: facts.orders_hour,
            orders_here_hour: facts.orders_here_hour,
            purges_10min: facts.purges_10min,
            purges_day: facts.purges_day,
            losses: facts.losses,
            circuit_open: facts.circuit_open,
        }
    }
}
