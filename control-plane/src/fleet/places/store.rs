//! SQL of places.

use std::net::IpAddr;

use ez_protocol::{InstanceId, NodeId, UnixMillis, order::MacAddress};
use sqlx::{AnyConnection, any::AnyRow};

use super::{Rest, Size};
use crate::{
    db::{Cols, DbError, one_row, padded},
    fleet::{
        model::{Address, NodePolicy, Placement},
        pool::PoolShape,
    },
    placement::Need,
};

/// What a reservation must know of a node.
pub(super) struct Host {
    pub(super) location: String,
    pub(super) cluster: String,
    pub(super) policy: NodePolicy,
}

/// An address pool.
pub(super) struct Pool {
    pub(super) id: String,
    pub(super) bridge: String,
    pub(super) vlan: Option<u16>,
    pub(super) shape: PoolShape,
    /// Addresses never given out yet, and those that are free again.
    pub(super) free: u64,
}

impl Pool {
    pub(super) fn is_ipv6(&self) -> bool {
        self.shape.prefix.addr().is_ipv6()
    }
}

/// A place about to be written.
pub(super) struct NewPlace {
    pub(super) instance: InstanceId,
    pub(super) node: NodeId,
    pub(super) cluster: String,
    pub(super) vmid: i64,
    pub(super) bridge: String,
    pub(super) vlan: Option<u16>,
    pub(super) mac: String,
    pub(super) until: Option<UnixMillis>,
    pub(super) at: UnixMillis,
}

/// A place just removed.
pub(super) struct Taken {
    pub(super) node: NodeId,
    pub(super) size: Size,
}

/// The guarded sale: it changes a row only if the node takes new servers and all of it fits.
pub(super) async fn take_room(tx: &mut AnyConnection, node: NodeId, need: &Need) -> Result<bool, DbError> {
    let size = Size::from(need);
    let done = sqlx::query(
        "UPDATE node_capacity SET vcpu_sold = vcpu_sold + $1, memory_mib_sold = memory_mib_sold + $2,
             disk_gib_sold = disk_gib_sold + $3, servers = servers + 1
         WHERE node_id = $4 AND vcpu_sold + $1 <= vcpu_capacity AND memory_mib_sold + $2 <= memory_mib_capacity
             AND disk_gib_sold + $3 <= disk_gib_capacity AND servers < servers_capacity
             AND EXISTS (SELECT 1 FROM nodes WHERE nodes.id = $4 AND nodes.state = 'active' AND nodes.location = $5)",
    )
    .bind(size.vcpu)
    .bind(size.memory_mib)
    .bind(size.disk_gib)
    .bind(node.to_string())
    .bind(need.location.clone())
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

pub(super) async fn give_room(tx: &mut AnyConnection, node: NodeId, size: Size) -> Result<(), DbError> {
    let done = sqlx::query(
        "UPDATE node_capacity SET vcpu_sold = vcpu_sold - $1, memory_mib_sold = memory_mib_sold - $2,
             disk_gib_sold = disk_gib_sold - $3, servers = servers - 1
         WHERE node_id = $4",
    )
    .bind(size.vcpu)
    .bind(size.memory_mib)
    .bind(size.disk_gib)
    .bind(node.to_string())
    .execute(tx)
    .await?;
    one_row(done)
}

pub(super) async fn host(tx: &mut AnyConnection, node: NodeId) -> Result<Option<Host>, DbError> {
    let row =
        sqlx::query("SELECT id, location, cluster, policy FROM nodes WHERE id = $1 AND cluster IS NOT NULL")
            .bind(node.to_string())
            .fetch_optional(tx)
            .await?;
    row.map(|row| {
        let row = Cols::of("nodes", &row);
        Ok(Host {
            location: row.text("location")?,
            cluster: row.text("cluster")?,
            policy: row.json("policy")?,
        })
    })
    .transpose()
}

/// The pools of a location, those with the most free addresses first. A range that was narrowed may end before what it
/// has given out; what lies outside of it is nobody's any more once it is free.
pub(super) async fn pools_of(conn: &mut AnyConnection, location: &str) -> Result<Vec<Pool>, DbError> {
    let rows = sqlx::query(
        "SELECT p.id, p.bridge, p.vlan, p.prefix, p.gateway, p.routed,
             CASE WHEN p.end_ordinal > p.next_ordinal THEN p.end_ordinal - p.next_ordinal ELSE 0 END
             + (SELECT count(*) FROM addresses a WHERE a.pool_id = p.id AND a.state = 'free'
                 AND a.ordinal >= p.first_ordinal AND a.ordinal < p.end_ordinal)
             AS free
         FROM address_pools p WHERE p.location = $1 ORDER BY free DESC, p.id",
    )
    .bind(location.to_owned())
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("address_pools", row);
            let shape = PoolShape {
                prefix: row.id("prefix")?,
                gateway: row.id("gateway")?,
                routed: row.flag("routed")?,
            };
            let vlan = match row.get::<Option<i64>>("vlan")? {
                Some(tag) => Some(u16::try_from(tag).map_err(|_| row.inconsistent("vlan"))?),
                None => None,
            };
            Ok(Pool { id: row.text("id")?, bridge: row.text("bridge")?, vlan, shape, free: row.num("free")? })
        })
        .collect()
}

pub(super) async fn insert(tx: &mut AnyConnection, place: &NewPlace, need: &Need) -> Result<(), DbError> {
    let size = Size::from(need);
    sqlx::query(
        "INSERT INTO placements (instance_id, node_id, cluster, vmid, bridge, vlan, mac, vcpu, memory_mib, disk_gib,
             reserved_until, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
    )
    .bind(place.instance.to_string())
    .bind(place.node.to_string())
    .bind(place.cluster.clone())
    .bind(place.vmid)
    .bind(place.bridge.clone())
    .bind(place.vlan.map(i64::from))
    .bind(place.mac.clone())
    .bind(size.vcpu)
    .bind(size.memory_mib)
    .bind(size.disk_gib)
    .bind(place.until.map(|t| t.0))
    .bind(place.at.0)
    .execute(tx)
    .await?;
    Ok(())
}

/// What a place holds of its node.
pub(super) async fn held(
    conn: &mut AnyConnection,
    instance: InstanceId,
) -> Result<Option<(NodeId, Size)>, DbError> {
    let row = sqlx::query(
        "SELECT instance_id, node_id, vcpu, memory_mib, disk_gib FROM placements WHERE instance_id = $1",
    )
    .bind(instance.to_string())
    .fetch_optional(conn)
    .await?;
    row.map(|row| {
        let row = Cols::of("placements", &row);
        let size = Size {
            vcpu: row.int("vcpu")?,
            memory_mib: row.int("memory_mib")?,
            disk_gib: row.int("disk_gib")?,
        };
        Ok((row.id("node_id")?, size))
    })
    .transpose()
}

/// Whether a node has room for so much more; what shrinks always has.
pub(super) async fn has_room(conn: &mut AnyConnection, node: NodeId, more: Size) -> Result<bool, DbError> {
    let row = sqlx::query(
        "SELECT node_id FROM node_capacity
         WHERE node_id = $4 AND ($1 <= 0 OR vcpu_sold + $1 <= vcpu_capacity)
             AND ($2 <= 0 OR memory_mib_sold + $2 <= memory_mib_capacity)
             AND ($3 <= 0 OR disk_gib_sold + $3 <= disk_gib_capacity)",
    )
    .bind(more.vcpu)
    .bind(more.memory_mib)
    .bind(more.disk_gib)
    .bind(node.to_string())
    .fetch_optional(conn)
    .await?;
    Ok(row.is_some())
}

/// The guarded sale of what a server grows by, and what it gives back where it shrinks: all of it or nothing.
pub(super) async fn change_room(tx: &mut AnyConnection, node: NodeId, more: Size) -> Result<bool, DbError> {
    let done = sqlx::query(
        "UPDATE node_capacity SET vcpu_sold = vcpu_sold + $1, memory_mib_sold = memory_mib_sold + $2,
             disk_gib_sold = disk_gib_sold + $3
         WHERE node_id = $4 AND ($1 <= 0 OR vcpu_sold + $1 <= vcpu_capacity)
             AND ($2 <= 0 OR memory_mib_sold + $2 <= memory_mib_capacity)
             AND ($3 <= 0 OR disk_gib_sold + $3 <= disk_gib_capacity)",
    )
    .bind(more.vcpu)
    .bind(more.memory_mib)
    .bind(more.disk_gib)
    .bind(node.to_string())
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Writes what a place holds from now on, if it holds what it was read with.
pub(super) async fn set_size(
    tx: &mut AnyConnection,
    instance: InstanceId,
    was: Size,
    size: Size,
) -> Result<(), DbError> {
    let done = sqlx::query(
        "UPDATE placements SET vcpu = $5, memory_mib = $6, disk_gib = $7
         WHERE instance_id = $1 AND vcpu = $2 AND memory_mib = $3 AND disk_gib = $4",
    )
    .bind(instance.to_string())
    .bind(was.vcpu)
    .bind(was.memory_mib)
    .bind(was.disk_gib)
    .bind(size.vcpu)
    .bind(size.memory_mib)
    .bind(size.disk_gib)
    .execute(tx)
    .await?;
    one_row(done)
}

pub(super) async fn confirm(tx: &mut AnyConnection, instance: InstanceId) -> Result<(), DbError> {
    let done = sqlx::query("UPDATE placements SET reserved_until = NULL WHERE instance_id = $1")
        .bind(instance.to_string())
        .execute(tx)
        .await?;
    one_row(done)
}

pub(super) async fn remove(tx: &mut AnyConnection, instance: InstanceId) -> Result<Option<Taken>, DbError> {
    let row = sqlx::query(
        "DELETE FROM placements WHERE instance_id = $1 RETURNING node_id, vcpu, memory_mib, disk_gib",
    )
    .bind(instance.to_string())
    .fetch_optional(tx)
    .await?;
    row.map(|row| {
        let row = Cols::of("placements", &row);
        let size = Size {
            vcpu: row.int("vcpu")?,
            memory_mib: row.int("memory_mib")?,
            disk_gib: row.int("disk_gib")?,
        };
        Ok(Taken { node: row.id("node_id")?, size })
    })
    .transpose()
}

pub(super) async fn rest_addresses(
    tx: &mut AnyConnection,
    instance: InstanceId,
    rest: Rest,
) -> Result<(), DbError> {
    let (state, free_at) = resting(rest);
    sqlx::query("UPDATE addresses SET state = $1, free_at = $2 WHERE instance_id = $3 AND state = 'held'")
        .bind(state)
        .bind(free_at)
        .bind(instance.to_string())
        .execute(tx)
        .await?;
    Ok(())
}

pub(super) async fn rest_vmid(
    tx: &mut AnyConnection,
    instance: InstanceId,
    rest: Rest,
) -> Result<(), DbError> {
    let (state, free_at) = resting(rest);
    sqlx::query(
        "UPDATE vmid_allocations SET state = $1, free_at = $2 WHERE instance_id = $3 AND state = 'held'",
    )
    .bind(state)
    .bind(free_at)
    .bind(instance.to_string())
    .execute(tx)
    .await?;
    Ok(())
}

fn resting(rest: Rest) -> (&'static str, Option<i64>) {
    match rest {
        Rest::Free => ("free", None),
        Rest::Until(at) => ("quarantine", Some(at.0)),
        Rest::Forever => ("quarantine", None),
    }
}

pub(super) async fn start_rest(
    tx: &mut AnyConnection,
    node: NodeId,
    instance: InstanceId,
    until: UnixMillis,
) -> Result<(), DbError> {
    // An address does not say on which node it was; the number of the VM beside it does.
    sqlx::query(
        "UPDATE addresses SET free_at = $1 WHERE instance_id = $2 AND state = 'quarantine' AND free_at IS NULL
             AND EXISTS (SELECT 1 FROM vmid_allocations v WHERE v.instance_id = $2 AND v.node_id = $3
                 AND v.state = 'quarantine' AND v.free_at IS NULL)",
    )
    .bind(until.0)
    .bind(instance.to_string())
    .bind(node.to_string())
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "UPDATE vmid_allocations SET free_at = $1
         WHERE instance_id = $2 AND node_id = $3 AND state = 'quarantine' AND free_at IS NULL",
    )
    .bind(until.0)
    .bind(instance.to_string())
    .bind(node.to_string())
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn mark_foreign(tx: &mut AnyConnection, instance: InstanceId) -> Result<(), DbError> {
    sqlx::query("UPDATE vmid_allocations SET state = 'foreign' WHERE instance_id = $1 AND state = 'held'")
        .bind(instance.to_string())
        .execute(tx)
        .await?;
    Ok(())
}

pub(super) async fn placed_on(conn: &mut AnyConnection, node: NodeId) -> Result<Vec<InstanceId>, DbError> {
    let rows = sqlx::query("SELECT instance_id FROM placements WHERE node_id = $1")
        .bind(node.to_string())
        .fetch_all(conn)
        .await?;
    rows.iter().map(|row| Cols::of("placements", row).id("instance_id")).collect()
}

pub(super) async fn find(
    conn: &mut AnyConnection,
    instance: InstanceId,
) -> Result<Option<Placement>, DbError> {
    let row = sqlx::query(
        "SELECT p.instance_id, p.node_id, n.name, n.location, p.vmid, p.bridge, p.vlan, p.mac, p.reserved_until
         FROM placements p JOIN nodes n ON n.id = p.node_id WHERE p.instance_id = $1",
    )
    .bind(instance.to_string())
    .fetch_optional(&mut *conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let addresses = sqlx::query(
        "SELECT a.address, a.prefix_len, a.family, p.gateway, p.dns
         FROM addresses a JOIN address_pools p ON p.id = a.pool_id
         WHERE a.instance_id = $1 AND a.state = 'held' ORDER BY a.family",
    )
    .bind(instance.to_string())
    .fetch_all(conn)
    .await?;
    build(&row, &addresses).map(Some)
}

/// The addresses that some instances hold, up to [`crate::db::MANY`] of them, IPv4 first.
pub(super) async fn addresses_of(
    conn: &mut AnyConnection,
    instances: &[InstanceId],
) -> Result<Vec<(InstanceId, IpAddr)>, DbError> {
    let mut query = sqlx::query(
        "SELECT instance_id, address FROM addresses WHERE state = 'held' AND instance_id IN
             ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25)
         ORDER BY instance_id, family",
    );
    for id in padded(instances) {
        query = query.bind(id);
    }
    let rows = query.fetch_all(conn).await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("addresses", row);
            Ok((row.id("instance_id")?, row.id("address")?))
        })
        .collect()
}

fn build(row: &AnyRow, addresses: &[AnyRow]) -> Result<Placement, DbError> {
    let row = Cols::of("placements", row);
    let (mut ipv4, mut ipv6, mut dns) = (None, None, Vec::new());
    for address in addresses {
        let cols = Cols::of("addresses", address);
        let value = Address {
            address: cols.id("address")?,
            prefix_len: cols.num("prefix_len")?,
            gateway: cols.id("gateway")?,
        };
        dns.extend(cols.json::<Vec<IpAddr>>("dns")?);
        if cols.int("family")? == 4 { ipv4 = Some(value) } else { ipv6 = Some(value) }
    }
    // The protocol allows four name servers.
    dns.truncate(4);
    let vlan = match row.get::<Option<i64>>("vlan")? {
        Some(tag) => Some(u16::try_from(tag).map_err(|_| row.inconsistent("vlan"))?),
        None => None,
    };
    Ok(Placement {
        instance: row.id("instance_id")?,
        node: row.id("node_id")?,
        node_name: row.text("name")?,
        location: row.text("location")?,
        vmid: row.num("vmid")?,
        bridge: row.text("bridge")?,
        vlan,
        mac: row.id::<MacAddress>("mac")?,
        ipv4: ipv4.ok_or_else(|| row.inconsistent("instance_id"))?,
        ipv6,
        dns,
        reserved_until: row.opt_millis("reserved_until")?,
    })
}
