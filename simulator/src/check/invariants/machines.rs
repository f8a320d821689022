//! I1, I5, I10: machines and what was sold of them.

use std::collections::{BTreeMap, BTreeSet};

use super::{Violation, World, found};

/// I1: over all hosts at most one VM carries the marker of a server.
pub(super) fn one_vm_per_instance(world: &World) -> Vec<Violation> {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for host in &world.hosts {
        for vm in &host.vms {
            if let Some(marker) = &vm.marker {
                let place = format!("VM {} on node {}", vm.vmid, host.node);
                places.entry(marker.instance.to_string()).or_default().push(place);
            }
        }
    }
    let twice = places.into_iter().filter(|(_, places)| places.len() > 1);
    twice
        .map(|(instance, places)| found("I1", format!("instance {instance}"), places.join(" and ")))
        .collect()
}

/// I5: a VM with our marker has its row in the journal of its own node; a row points at a VM that is
/// ours or gone; and VMs that are not ours are byte for byte what they were.
pub(super) fn only_our_own(world: &World) -> Vec<Violation> {
    let mut out = Vec::new();
    for host in &world.hosts {
        let rows = world.journal_of(&host.node).map(|j| j.resources.as_slice()).unwrap_or_default();
        for vm in &host.vms {
            let row = rows.iter().find(|(_, vmid, _)| *vmid == vm.vmid);
            match (&vm.marker, row) {
                (Some(marker), Some((instance, ..))) if marker.instance.to_string() != *instance => {
                    let detail = format!("its marker says {}, the journal {instance}", marker.instance);
                    out.push(found("I5", format!("VM {} on node {}", vm.vmid, host.node), detail));
                }
                (Some(_), None) => {
                    let subject = format!("VM {} on node {}", vm.vmid, host.node);
                    out.push(found(
                        "I5",
                        subject,
                        "it carries our marker, but the journal has no row for it",
                    ));
                }
                _ => {}
            }
        }
        for (vmid, before) in &host.foreign_before {
            let now = host.foreign.iter().find(|(id, _)| id == vmid).map(|(_, hash)| hash);
            if now != Some(before) {
                let what = if now.is_some() { "it was changed" } else { "it is gone" };
                out.push(found("I5", format!("foreign VM {vmid} on node {}", host.node), what));
            }
        }
    }
    out
}

/// I10: what is sold of a node fits what there is, and is exactly what its placements add up to.
pub(super) fn sold_within_capacity(world: &World) -> Vec<Violation> {
    const WHAT: [&str; 3] = ["vCPU", "MiB of memory", "GiB of disk"];
    let mut out = Vec::new();
    let mut seen = BTreeSet::new();
    for node in &world.capacity {
        seen.insert(node.node.as_str());
        let mut placed = [0; 3];
        for placement in world.placements.iter().filter(|p| p.node == node.node) {
            placed[0] += placement.vcpu;
            placed[1] += placement.memory_mib;
            placed[2] += placement.disk_gib;
        }
        for (index, what) in WHAT.iter().enumerate() {
            let (sold, capacity) = (node.sold[index], node.capacity[index]);
            if sold > capacity {
                let detail = format!("{sold} {what} sold, {capacity} there are");
                out.push(found("I10", format!("node {}", node.node), detail));
            }
            if sold != placed[index] {
                let detail = format!("{sold} {what} sold, the placements add up to {}", placed[index]);
                out.push(found("I10", format!("node {}", node.node), detail));
            }
        }
    }
    let vms = world.hosts.iter().flat_map(|host| &host.vms);
    for vm in vms {
        let Some(instance) = vm.marker.as_ref().map(|marker| marker.instance.to_string()) else { continue };
        let Some(placement) = world.placements.iter().find(|p| p.instance == instance) else { continue };
        let Some(server) = world.instances.iter().find(|i| i.id == instance) else { continue };
        let quiet = world.settled(server.updated_at)
            && world
                .provisioning
                .iter()
                .filter(|p| p.instance == instance)
                .all(|p| world.settled(p.updated_at));
        let held = [placement.vcpu, placement.memory_mib, placement.disk_gib];
        for (index, what) in WHAT.iter().enumerate().filter(|_| quiet) {
            let (has, held, booked) = (vm.size[index], held[index], server.size[index]);
            if has > held {
                let detail = format!("VM {} has {has} {what}, its place holds {held}", vm.vmid);
                out.push(found("I10", format!("instance {instance}"), detail));
            } else if has != 0 && has < booked {
                let detail = format!("VM {} has {has} {what}, {booked} were sold", vm.vmid);
                out.push(found("I10", format!("instance {instance}"), detail));
            }
        }
    }
    for placement in world.placements.iter().filter(|p| !seen.contains(p.node.as_str())) {
        let detail = format!("placed on node {}, which has no capacity", placement.node);
        out.push(found("I10", format!("instance {}", placement.instance), detail));
    }
    out
}
