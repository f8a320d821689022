//! SQL that takes addresses and VMIDs: fresh ones by a guarded counter, used ones by a guarded update.

use std::collections::BTreeMap;

use ez_protocol::{InstanceId, NodeId, UnixMillis};
use sqlx::AnyConnection;

use crate::{
    db::{Cols, DbError},
    entropy::{Entropy, EntropyExt as _},
    fleet::places::store::{Host, Pool},
};

/// How often a lost race for a used address or VMID is tried again.
const TRIES: usize = 64;

/// Addresses whose rest is over are free again.
async fn end_rests(tx: &mut AnyConnection, at: UnixMillis) -> Result<(), DbError> {
    sqlx::query(
        "UPDATE addresses SET state = 'free', instance_id = NULL, free_at = NULL
         WHERE state = 'quarantine' AND free_at <= $1",
    )
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(())
}

/// Takes one address of a pool: one never used before, else the lowest of its range that is free again.
pub(in crate::fleet::places) async fn take_address(
    tx: &mut AnyConnection,
    at: UnixMillis,
    pool: &Pool,
    instance: InstanceId,
) -> Result<bool, DbError> {
    let family: i64 = if pool.is_ipv6() { 6 } else { 4 };
    loop {
        let row = sqlx::query(
            "UPDATE address_pools SET next_ordinal = next_ordinal + 1 WHERE id = $1 AND next_ordinal < end_ordinal
             RETURNING next_ordinal - 1 AS ordinal",
        )
        .bind(pool.id.clone())
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { break };
        let ordinal = Cols::of("address_pools", &row).int("ordinal")?;
        let Some((address, length)) = pool.shape.address(ordinal) else { continue };
        let done = sqlx::query(
            "INSERT INTO addresses (pool_id, ordinal, address, prefix_len, family, instance_id, state)
             VALUES ($1, $2, $3, $4, $5, $6, 'held') ON CONFLICT DO NOTHING",
        )
        .bind(pool.id.clone())
        .bind(ordinal)
        .bind(address.to_string())
        .bind(i64::from(length))
        .bind(family)
        .bind(instance.to_string())
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 1 {
            return Ok(true);
        }
    }
    end_rests(tx, at).await?;
    for _ in 0..TRIES {
        let done = sqlx::query(
            "UPDATE addresses SET state = 'held', instance_id = $1 WHERE pool_id = $2 AND state = 'free'
             AND ordinal = (SELECT min(a.ordinal) FROM addresses a JOIN address_pools p ON p.id = a.pool_id
                 WHERE a.pool_id = $2 AND a.state = 'free' AND a.ordinal >= p.first_ordinal AND a.ordinal < p.end_ordinal)",
        )
        .bind(instance.to_string())
        .bind(pool.id.clone())
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 1 {
            return Ok(true);
        }
        let left = sqlx::query(
            "SELECT a.pool_id FROM addresses a JOIN address_pools p ON p.id = a.pool_id
             WHERE a.pool_id = $1 AND a.state = 'free' AND a.ordinal >= p.first_ordinal AND a.ordinal < p.end_ordinal
             LIMIT 1",
        )
        .bind(pool.id.clone())
        .fetch_optional(&mut *tx)
        .await?;
        if left.is_none() {
            break;
        }
    }
    Ok(false)
}

/// Takes a VMID of the node's range with a new MAC: one never used before, else one whose rest is over.
pub(in crate::fleet::places) async fn take_vmid(
    tx: &mut AnyConnection,
    at: UnixMillis,
    entropy: &dyn Entropy,
    node: NodeId,
    host: &Host,
    instance: InstanceId,
) -> Result<Option<(i64, String)>, DbError> {
    loop {
        let row = sqlx::query(
            "UPDATE nodes SET vmid_next = vmid_next + 1 WHERE id = $1 AND vmid_next <= vmid_last
             RETURNING vmid_next - 1 AS vmid",
        )
        .bind(node.to_string())
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { break };
        let vmid = Cols::of("nodes", &row).int("vmid")?;
        let mac = new_mac(entropy);
        let done = sqlx::query(
            "INSERT INTO vmid_allocations (cluster, vmid, node_id, instance_id, mac, state)
             VALUES ($1, $2, $3, $4, $5, 'held') ON CONFLICT DO NOTHING",
        )
        .bind(host.cluster.clone())
        .bind(vmid)
        .bind(node.to_string())
        .bind(instance.to_string())
        .bind(mac.clone())
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 1 {
            return Ok(Some((vmid, mac)));
        }
    }
    for _ in 0..TRIES {
        let mac = new_mac(entropy);
        let row = sqlx::query(
            "UPDATE vmid_allocations SET state = 'held', node_id = $1, instance_id = $2, mac = $3, free_at = NULL
             WHERE cluster = $4 AND (state = 'free' OR (state = 'quarantine' AND free_at <= $5))
             AND vmid = (SELECT min(v.vmid) FROM vmid_allocations v, nodes n
                 WHERE n.id = $1 AND v.cluster = $4 AND v.vmid >= n.vmid_first AND v.vmid <= n.vmid_last
                 AND (v.state = 'free' OR (v.state = 'quarantine' AND v.free_at <= $5)))
             AND NOT EXISTS (SELECT 1 FROM vmid_allocations m WHERE m.mac = $3)
             RETURNING vmid",
        )
        .bind(node.to_string())
        .bind(instance.to_string())
        .bind(mac.clone())
        .bind(host.cluster.clone())
        .bind(at.0)
        .fetch_optional(&mut *tx)
        .await?;
        if let Some(row) = row {
            return Ok(Some((Cols::of("vmid_allocations", &row).int("vmid")?, mac)));
        }
        if free_vmids_again(tx, at, node, &host.cluster).await? == 0 {
            break;
        }
    }
    Ok(None)
}

/// VMIDs of the node's range that were used and are free again.
pub(in crate::fleet::places) async fn free_vmids_again(
    conn: &mut AnyConnection,
    at: UnixMillis,
    node: NodeId,
    cluster: &str,
) -> Result<u64, DbError> {
    let row = sqlx::query(
        "SELECT count(*) AS free FROM vmid_allocations v, nodes n
         WHERE n.id = $1 AND v.cluster = $2 AND v.vmid >= n.vmid_first AND v.vmid <= n.vmid_last
         AND (v.state = 'free' OR (v.state = 'quarantine' AND v.free_at <= $3))",
    )
    .bind(node.to_string())
    .bind(cluster.to_owned())
    .bind(at.0)
    .fetch_one(conn)
    .await?;
    Cols::of("vmid_allocations", &row).num("free")
}

/// The same for all nodes, or those of one location, by one statement; who has none is left out.
pub(in crate::fleet::places) async fn free_vmids_again_of_all(
    conn: &mut AnyConnection,
    at: UnixMillis,
    location: Option<&str>,
) -> Result<BTreeMap<NodeId, u64>, DbError> {
    let rows = sqlx::query(
        "SELECT n.id, count(*) AS free FROM nodes n
         JOIN vmid_allocations v ON v.cluster = n.cluster AND v.vmid >= n.vmid_first AND v.vmid <= n.vmid_last
         WHERE (v.state = 'free' OR (v.state = 'quarantine' AND v.free_at <= $1))
             AND (n.location = $2 OR $2 = '')
         GROUP BY n.id",
    )
    .bind(at.0)
    .bind(location.unwrap_or_default().to_owned())
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("nodes", row);
            Ok((row.id("id")?, row.num("free")?))
        })
        .collect()
}

/// Proxmox's own vendor prefix and 24 random bits; uniqueness is the index's business.
fn new_mac(entropy: &dyn Entropy) -> String {
    let [a, b, c] = entropy.bytes::<3>();
    format!("BC:24:11:{a:02X}:{b:02X}:{c:02X}")
}
