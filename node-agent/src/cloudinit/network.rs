//! network-config, version 2: every address of the card, and ways to gateways outside of them.
//!
//! Proxmox's own `ipconfig0` knows one address of each family and no gateway outside its prefix, so it
//! only informs people; the guest reads this file. The card is found by its MAC and called `eth0`, as
//! Proxmox would call it.
//!
//! cloud-init turns this into what the distribution reads (netplan, ifupdown, NetworkManager …), and
//! not every turn is right. What was tried with cloud-init 22.4 and all its renderers: `gateway4` and
//! `gateway6` arrive everywhere; a route to `::/0` becomes `::/64` except in netplan; `on-link` is
//! understood by netplan alone; a route without `via` breaks two of them. So gateways are gateways, and
//! a route stands only where nothing else will do: with a gateway outside of its address's prefix.

use std::{collections::BTreeMap, net::IpAddr};

use ez_protocol::order::{AddressAssignment, NetworkSpec};
use ipnet::IpNet;
use serde::Serialize;

/// The whole file.
#[derive(Debug, Serialize)]
pub(super) struct NetworkConfig {
    version: u8,
    ethernets: BTreeMap<&'static str, Card>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Card {
    #[serde(rename = "match")]
    found_by: Match,
    set_name: &'static str,
    dhcp4: bool,
    dhcp6: bool,
    accept_ra: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<IpNet>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway4: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway6: Option<IpAddr>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Route>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nameservers: Option<Nameservers>,
}

#[derive(Debug, Serialize)]
struct Match {
    macaddress: String,
}

#[derive(Debug, Serialize)]
struct Nameservers {
    addresses: Vec<IpAddr>,
}

/// A default route to a gateway that lies on the wire, though not in the prefix.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Route {
    to: IpNet,
    via: IpAddr,
    on_link: bool,
}

/// What the guest is told of its one card.
pub(super) fn config(network: &NetworkSpec) -> NetworkConfig {
    let near = |v6: bool| {
        let family = network.addresses.iter().filter(move |a| a.cidr.addr().is_ipv6() == v6);
        family.filter(|address| !is_outside(address)).find_map(|address| address.gateway)
    };
    let card = Card {
        found_by: Match { macaddress: network.mac.as_str().to_ascii_lowercase() },
        set_name: "eth0",
        dhcp4: false,
        dhcp6: false,
        accept_ra: false,
        addresses: network.addresses.iter().map(|address| address.cidr).collect(),
        gateway4: near(false),
        gateway6: near(true),
        routes: network.addresses.iter().filter(|a| is_outside(a)).filter_map(route).collect(),
        nameservers: (!network.dns.is_empty()).then(|| Nameservers { addresses: network.dns.clone() }),
    };
    NetworkConfig { version: 2, ethernets: BTreeMap::from([("eth0", card)]) }
}

/// Whether an address's gateway can be reached only by being told that it is on the wire. A link-local
/// one always is.
fn is_outside(address: &AddressAssignment) -> bool {
    let link_local = |gateway: IpAddr| matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local());
    address.gateway.is_some_and(|gateway| !link_local(gateway) && !address.cidr.contains(&gateway))
}

fn route(address: &AddressAssignment) -> Option<Route> {
    let via = address.gateway?;
    let everywhere = if via.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0_u16; 8]) };
    Some(Route { to: IpNet::new_assert(everywhere, 0), via, on_link: true })
}
