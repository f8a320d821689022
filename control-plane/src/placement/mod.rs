//! Placement: which node gets a server. Pure: a snapshot and a need go in, a node or a typed "no" comes out.
//!
//! The rules, in this order. A node is *able* if it is in the wanted location, takes new servers
//! (not cordoned, not revoked), has been seen, has the image ready, has a storage and a bridge that
//! new servers may use, a free address and VMID, and room for CPU, memory and disk at once. Among the able
//! ones, those online come before those merely known, then the least full one wins (fullest of its
//! three resources *after* the sale), and the id decides a tie, so that the same snapshot always
//! gives the same answer. The reservation itself is a guarded update in `fleet` (I10): a race lost there
//! means asking here again with the loser excluded.

mod model;
#[cfg(test)]
mod tests;

pub use model::{FleetSnapshot, Need, NoPlace, NodeView, Room};

use ez_protocol::NodeId;

/// Picks the node that gets the server, or says why none can.
///
/// `exclude` holds nodes that were tried already for this server.
///
/// # Errors
/// [`NoPlace`] names the first reason that removed the last candidate, from the coarsest to the finest.
pub fn choose(fleet: &FleetSnapshot, need: &Need, exclude: &[NodeId]) -> Result<NodeId, NoPlace> {
    let mut candidates: Vec<&NodeView> = fleet.nodes.iter().collect();
    let mut keep = |reason: NoPlace, test: &dyn Fn(&NodeView) -> bool| -> Result<(), NoPlace> {
        candidates.retain(|node| test(node));
        if candidates.is_empty() { Err(reason) } else { Ok(()) }
    };
    keep(NoPlace::UnknownLocation, &|n| n.location == need.location)?;
    keep(NoPlace::NoneAccepting, &|n| n.accepts_new())?;
    keep(NoPlace::AllTried, &|n| !exclude.contains(&n.id))?;
    keep(NoPlace::ImageNotReady, &|n| n.images.contains(&need.image_digest))?;
    keep(NoPlace::NoStorageOrBridge, &|n| n.has_storage && n.has_bridge)?;
    keep(NoPlace::NoAddress, &|n| n.free_ipv4 > 0 && n.free_vmids > 0)?;
    keep(NoPlace::SoldOut, &|n| n.fits(need))?;
    candidates
        .into_iter()
        .min_by(|a, b| {
            b.online
                .cmp(&a.online)
                .then_with(|| a.fullness_after(need).cmp(&b.fullness_after(need)))
                .then_with(|| a.id.cmp(&b.id))
        })
        .map(|node| node.id)
        .ok_or(NoPlace::SoldOut)
}

/// How many servers of this need still fit into its location, summed over able nodes.
///
/// Addresses are shared between the nodes of a location, so the sum is capped by the largest
/// pool any able node can see.
pub fn room_for(fleet: &FleetSnapshot, need: &Need) -> u64 {
    let able = fleet.nodes.iter().filter(|n| {
        n.location == need.location
            && n.accepts_new()
            && n.images.contains(&need.image_digest)
            && n.has_storage
            && n.has_bridge
    });
    let (mut slots, mut addresses) = (0_u64, 0_u64);
    for node in able {
        slots = slots.saturating_add(node.slots(need).min(node.free_vmids));
        addresses = addresses.max(node.free_ipv4);
    }
    slots.min(addresses)
}
