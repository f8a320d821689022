//! What the policy has to know of the journal.

use ez_protocol::{
    InstanceId, UnixMillis,
    order::{AddressAssignment, ImageDigest, InstanceSpec, MacAddress, NetworkSpec},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    journal::{Facts, Losses, Phase, ResourceRow},
    pve::{GuestConfig, settings},
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
    /// Where its card is and what it may send from: as ordered, and as it was carried out last. Of one that was adopted and
    /// not changed since, what its configuration told.
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

    /// Whether it is this place or more of it.
    pub fn covers(&self, wanted: &Self) -> bool {
        (&self.mac, &self.bridge, self.vlan) == (&wanted.mac, &wanted.bridge, wanted.vlan)
            && wanted.sends_from.iter().all(|net| self.sends_from.contains(net))
    }
}

/// Proxmox has `net0` to `net31`.
const MOST_CARDS: u32 = 32;

/// What a VM's configuration tells of its cards: where each is, and one address of each family, which is all that Proxmox
/// itself knows. What it does not tell (an address that the guest gets from elsewhere) stays unknown.
pub fn networks_of(config: &GuestConfig) -> Vec<UsedNetwork> {
    (0..MOST_CARDS).filter_map(|n| card_of(config, &format!("net{n}"), &format!("ipconfig{n}"))).collect()
}

fn card_of(config: &GuestConfig, net: &str, ipconfig: &str) -> Option<UsedNetwork> {
    // The hardware address stands behind the card's model.
    let is_mac = |part: &str| MacAddress::parse(&part.split_once('=')?.1.to_ascii_uppercase()).ok();
    let mac = config.get(net)?.split(',').find_map(is_mac)?;
    let address = |(ip, gateway): (&str, &str)| {
        let cidr = config.property(ipconfig, ip)?.parse().ok()?;
        let gateway = config.property(ipconfig, gateway).and_then(|text| text.parse().ok());
        Some(settings::sends_from(&AddressAssignment { cidr, gateway }))
    };
    Some(UsedNetwork {
        bridge: config.property(net, "bridge").unwrap_or_default().to_owned(),
        vlan: config.property(net, "tag").and_then(|tag| tag.parse().ok()),
        mac,
        sends_from: [("ip", "gw"), ("ip6", "gw6")].into_iter().filter_map(address).collect(),
    })
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
        // Until something of ours was carried out on it.
        let seen: Option<Vec<UsedNetwork>> = row
            .seen_networks
            .as_deref()
            .filter(|_| applied.is_none())
            .and_then(|json| serde_json::from_str(json).ok());
        let told = [&spec, &applied].into_iter().flatten().map(|spec| UsedNetwork::from(&spec.network));
        Self {
            networks: told.chain(seen.unwrap_or_default()).collect(),
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
