//! What placement and the shop window see of the fleet: a few statements, however many nodes and plans there are.

use std::collections::BTreeSet;

use ez_protocol::UnixMillis;
use sqlx::AnyConnection;

use super::{store, take};
use crate::{
    db::DbError,
    fleet::{
        model::{NodeState, Presence},
        nodes::{self, NodeRow},
    },
    placement::{FleetSnapshot, NodeView},
};

/// All nodes, or those of one location, as placement decides on them.
///
/// # Errors
/// Those of the database.
pub async fn snapshot(
    conn: &mut AnyConnection,
    at: UnixMillis,
    location: Option<&str>,
) -> Result<FleetSnapshot, DbError> {
    let rows = nodes::list(conn, location).await?;
    let vmids_again = take::store::free_vmids_again_of_all(conn, at, location).await?;
    let mut fleet = FleetSnapshot::default();
    let mut pools: Option<(String, Vec<store::Pool>)> = None;
    for node in rows {
        if pools.as_ref().is_none_or(|(code, _)| *code != node.location) {
            pools = Some((node.location.clone(), store::pools_of(conn, &node.location).await?));
        }
        let known: &[store::Pool] = pools.as_ref().map_or(&[], |(_, pools)| pools);
        let again = vmids_again.get(&node.id).copied().unwrap_or(0);
        fleet.nodes.push(view(&node, known, again, at));
    }
    Ok(fleet)
}

fn view(node: &NodeRow, pools: &[store::Pool], vmids_again: u64, at: UnixMillis) -> NodeView {
    let usable = pools
        .iter()
        .filter(|p| !p.is_ipv6() && node.policy.allows_network(&p.bridge, p.vlan, p.shape.prefix));
    let (mut has_bridge, mut free_ipv4) = (false, 0_u64);
    for pool in usable {
        has_bridge = true;
        free_ipv4 = free_ipv4.saturating_add(pool.free);
    }
    let fresh = (node.vmid_last + 1).saturating_sub(node.vmid_next.max(node.vmid_first));
    let servers_left = node.servers.free();
    NodeView {
        id: node.id,
        name: node.name.clone(),
        location: node.location.clone(),
        cordoned: node.state == NodeState::Cordoned,
        known: node.state.takes_orders() && node.reported_at.is_some(),
        online: node.presence(at) == Presence::Online,
        away: matches!(node.presence(at), Presence::Offline | Presence::Never),
        vcpu: node.vcpu,
        memory_mib: node.memory_mib,
        disk_gib: node.disk_gib,
        images: node.images.iter().map(|image| image.digest.clone()).collect::<BTreeSet<_>>(),
        has_storage: node.policy.storages.iter().any(|s| node.storages.iter().any(|seen| seen.id == *s)),
        has_bridge,
        free_ipv4,
        free_vmids: u64::try_from(fresh).unwrap_or(0).saturating_add(vmids_again).min(servers_left),
    }
}
