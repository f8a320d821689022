//! I4: addresses.

use std::{collections::BTreeMap, net::IpAddr};

use super::{Violation, World, found};

/// I4: a v4, v6 or hardware address is on at most one VM, and a VM of ours has only addresses that
/// the books hold for its server (so nothing in quarantine is in use).
pub(super) fn unique(world: &World) -> Vec<Violation> {
    let mut out = Vec::new();
    let mut owners: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for host in &world.hosts {
        for vm in &host.vms {
            let place = format!("VM {} on node {}", vm.vmid, host.node);
            for address in vm.macs.iter().chain(&vm.addresses) {
                owners.entry(address.to_ascii_lowercase()).or_default().push(place.clone());
            }
            let Some(marker) = &vm.marker else { continue };
            let instance = marker.instance.to_string();
            for address in &vm.addresses {
                let row = world.addresses.iter().find(|a| same(&a.address, address));
                let held = row.is_some_and(|a| a.state == "held" && a.instance.as_deref() == Some(&instance));
                if !held {
                    let detail = format!("{place} uses it, but it is not held for instance {instance}");
                    out.push(found("I4", format!("address {address}"), detail));
                }
            }
        }
    }
    let twice = owners.into_iter().filter(|(_, places)| places.len() > 1);
    out.extend(
        twice.map(|(address, places)| found("I4", format!("address {address}"), places.join(" and "))),
    );
    out
}

/// One address may be written in several ways.
fn same(a: &str, b: &str) -> bool {
    match (a.parse::<IpAddr>(), b.parse::<IpAddr>()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a.eq_ignore_ascii_case(b),
    }
}
