//! Places for servers: room on a node, a VMID, a MAC and addresses, taken and given back together.
//!
//! Every counter moves by a guarded update whose row count is checked, so whatever races, what is sold
//! never exceeds what there is (I10) and an address is never given out twice (I4). What a server used
//! rests for a day after the VM is known to be gone.

mod hold;
mod snapshot;
mod store;
mod take;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use ez_protocol::{InstanceId, NodeId, UnixMillis};
use sqlx::AnyConnection;

use super::model::{Placement, Release, ReserveError};
use crate::{
    db::{self, DbError},
    entropy::Entropy,
    placement::Need,
};

pub use hold::{Held, can_hold, held, hold};
pub use snapshot::snapshot;

/// How long an address, a MAC and a VMID rest after the VM is known to be gone.
pub const QUARANTINE: Duration = Duration::from_secs(24 * 3_600);

/// Waits until nobody else looks for a place; whoever may try several nodes does this first. Two that try the same
/// nodes in different orders would wait for each other.
///
/// # Errors
/// Those of the database.
pub async fn hold_places(tx: &mut AnyConnection) -> Result<(), DbError> {
    db::lock(tx, "places", "").await
}

/// Takes a place on a node for an instance: capacity, VMID, MAC, IPv4 and, where there is some, IPv6.
///
/// `until` marks a reservation for a checkout; it says when the checkout ends, but nothing is given
/// back by that time alone. After a refusal nothing is taken, also when the caller goes on in the same
/// transaction.
///
/// # Errors
/// [`ReserveError`] says what was missing; ask placement again without this node.
pub async fn reserve(
    tx: &mut AnyConnection,
    at: UnixMillis,
    entropy: &dyn Entropy,
    node: NodeId,
    instance: InstanceId,
    need: &Need,
    until: Option<UnixMillis>,
) -> Result<Placement, ReserveError> {
    if store::find(tx, instance).await?.is_some() {
        return Err(ReserveError::Already);
    }
    if !store::take_room(tx, node, need).await? {
        return Err(ReserveError::NoRoom);
    }
    match fill(tx, at, entropy, node, instance, need, until).await {
        Ok(()) => store::find(tx, instance).await?.ok_or(ReserveError::Db(DbError::NotFound)),
        // After a driver error the whole transaction goes back by itself.
        Err(ReserveError::Db(error)) => Err(error.into()),
        Err(refusal) => {
            store::give_room(tx, node, need.into()).await?;
            store::rest_addresses(tx, instance, Rest::Free).await?;
            store::rest_vmid(tx, instance, Rest::Free).await?;
            Err(refusal)
        }
    }
}

async fn fill(
    tx: &mut AnyConnection,
    at: UnixMillis,
    entropy: &dyn Entropy,
    node: NodeId,
    instance: InstanceId,
    need: &Need,
    until: Option<UnixMillis>,
) -> Result<(), ReserveError> {
    let host = store::host(tx, node).await?.ok_or(ReserveError::NoRoom)?;
    let pools = store::pools_of(tx, &host.location).await?;
    let allowed: Vec<_> =
        pools.iter().filter(|p| host.policy.allows_network(&p.bridge, p.vlan, p.shape.prefix)).collect();
    let mut network = None;
    for pool in allowed.iter().filter(|p| !p.is_ipv6()) {
        if take::store::take_address(tx, at, pool, instance).await? {
            network = Some((pool.bridge.clone(), pool.vlan));
            break;
        }
    }
    let (bridge, vlan) = network.ok_or(ReserveError::NoAddress)?;
    for pool in allowed.iter().filter(|p| p.is_ipv6() && p.bridge == bridge && p.vlan == vlan) {
        if take::store::take_address(tx, at, pool, instance).await? {
            break;
        }
    }
    let (vmid, mac) =
        take::store::take_vmid(tx, at, entropy, node, &host, instance).await?.ok_or(ReserveError::NoVmid)?;
    let place = store::NewPlace { instance, node, cluster: host.cluster, vmid, bridge, vlan, mac, until, at };
    store::insert(tx, &place, need).await?;
    Ok(())
}

/// Makes a reservation permanent: the order is paid.
///
/// # Errors
/// [`DbError::NotFound`] when the instance has no place.
pub async fn confirm(tx: &mut AnyConnection, instance: InstanceId) -> Result<(), DbError> {
    store::confirm(tx, instance).await
}

/// Gives a place back. `false` when there was none (it was given back before).
///
/// # Errors
/// Those of the database.
pub async fn release(
    tx: &mut AnyConnection,
    at: UnixMillis,
    instance: InstanceId,
    how: Release,
) -> Result<bool, DbError> {
    let Some(taken) = store::remove(tx, instance).await? else { return Ok(false) };
    store::give_room(tx, taken.node, taken.size).await?;
    let rest = match how {
        Release::NeverUsed => Rest::Free,
        Release::Gone => Rest::Until(at.plus(QUARANTINE)),
        Release::Unknown => Rest::Forever,
    };
    store::rest_addresses(tx, instance, rest).await?;
    store::rest_vmid(tx, instance, rest).await?;
    Ok(true)
}

/// Says that a VM whose place on this node was given back as [`Release::Unknown`] is gone after all: its addresses
/// begin their day of rest. Changes nothing for others, nor by the word of another node.
///
/// # Errors
/// Those of the database.
pub async fn confirm_gone(
    tx: &mut AnyConnection,
    at: UnixMillis,
    node: NodeId,
    instance: InstanceId,
) -> Result<(), DbError> {
    store::start_rest(tx, node, instance, at.plus(QUARANTINE)).await
}

/// Marks an instance's VMID as belonging to a VM that is not ours; it is never given out again. The
/// instance needs another place: release it and reserve anew.
///
/// # Errors
/// Those of the database.
pub async fn vmid_is_foreign(tx: &mut AnyConnection, instance: InstanceId) -> Result<(), DbError> {
    store::mark_foreign(tx, instance).await
}

/// The place of an instance, if it has one.
///
/// # Errors
/// Those of the database.
pub async fn placement_of(
    conn: &mut AnyConnection,
    instance: InstanceId,
) -> Result<Option<Placement>, DbError> {
    store::find(conn, instance).await
}

/// The addresses that each of these instances holds, IPv4 first; who holds none is left out.
///
/// # Errors
/// Those of the database.
pub async fn addresses_of(
    conn: &mut AnyConnection,
    instances: &[InstanceId],
) -> Result<BTreeMap<InstanceId, Vec<IpAddr>>, DbError> {
    let mut all: BTreeMap<InstanceId, Vec<IpAddr>> = BTreeMap::new();
    for some in instances.chunks(db::MANY) {
        for (instance, address) in store::addresses_of(conn, some).await? {
            all.entry(instance).or_default().push(address);
        }
    }
    Ok(all)
}

/// The servers placed on a node, in no order.
///
/// # Errors
/// Those of the database.
pub async fn placed_on(conn: &mut AnyConnection, node: NodeId) -> Result<Vec<InstanceId>, DbError> {
    store::placed_on(conn, node).await
}

/// What happens to an address or VMID that is given back.
#[derive(Clone, Copy, Debug)]
enum Rest {
    Free,
    Until(UnixMillis),
    Forever,
}

/// What one server takes from a node.
#[derive(Clone, Copy, Debug)]
struct Size {
    vcpu: i64,
    memory_mib: i64,
    disk_gib: i64,
}

impl From<&Need> for Size {
    fn from(need: &Need) -> Self {
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        Self {
            vcpu: i64::from(need.vcpu),
            memory_mib: signed(need.memory_mib),
            disk_gib: signed(need.disk_gib),
        }
    }
}
