//! SQL of nodes and locations.

use ez_protocol::{NodeId, UnixMillis};
use sqlx::{AnyConnection, any::AnyRow};

use super::{CertificateRow, NodeRow};
use crate::{
    db::{Cols, DbError, one_row, padded},
    fleet::model::{Location, NodeState},
    placement::Room,
};

/// Everything about nodes, with what follows. A node that is connected was last seen when its process last beat.
/// One text for each question: a condition that a NULL parameter switches off would read every node for one.
macro_rules! select_nodes {
    ($rest:literal) => {
        concat!(
            "SELECT n.id, n.name, n.location, n.state, n.epoch, n.cluster, n.pve_node, n.pve_version,
                 n.agent_version, n.vmid_first, n.vmid_last, n.vmid_next, n.policy, n.images, n.storages, n.thin_pools, n.warnings,
                 n.foreign_vms, n.certificate_not_after, n.reported_at, n.last_seen_at, n.blind_since, n.trust_version, n.revoked_at, n.created_at, s.connected_at,
                 s.remote, p.beat_at, c.vcpu_capacity, c.vcpu_sold, c.memory_mib_capacity, c.memory_mib_sold,
                 c.disk_gib_capacity, c.disk_gib_sold, c.cores_observed, c.memory_mib_observed, c.memory_mib_used,
                 c.disk_gib_observed, c.disk_gib_used, c.servers, c.servers_capacity, c.cpu_permille
             FROM nodes n JOIN node_capacity c ON c.node_id = n.id
                 LEFT JOIN node_sessions s ON s.node_id = n.id LEFT JOIN link_processes p ON p.id = s.process ",
            $rest
        )
    };
}

fn build(row: &AnyRow) -> Result<NodeRow, DbError> {
    let row = Cols::of("nodes", row);
    let connected_at = row.opt_millis("connected_at")?;
    let beat_at = row.opt_millis("beat_at")?;
    // A session whose process never beat counts from its beginning.
    let live = connected_at.map(|since| beat_at.map_or(since, |beat| beat.max(since)));
    Ok(NodeRow {
        id: row.id("id")?,
        name: row.text("name")?,
        location: row.text("location")?,
        state: row.get("state")?,
        epoch: row.num("epoch")?,
        cluster: row.get("cluster")?,
        pve_node: row.get("pve_node")?,
        pve_version: row.get("pve_version")?,
        agent_version: row.get("agent_version")?,
        vmid_first: row.int("vmid_first")?,
        vmid_last: row.int("vmid_last")?,
        vmid_next: row.int("vmid_next")?,
        policy: row.json("policy")?,
        images: row.json("images")?,
        storages: row.json("storages")?,
        thin_pools: row.json("thin_pools")?,
        warnings: row.json("warnings")?,
        foreign_vms: row.num("foreign_vms")?,
        certificate_not_after: row.opt_millis("certificate_not_after")?,
        reported_at: row.opt_millis("reported_at")?,
        last_seen_at: live.max(row.opt_millis("last_seen_at")?),
        blind_since: row.opt_millis("blind_since")?,
        trust_version: row.num("trust_version")?,
        revoked_at: row.opt_millis("revoked_at")?,
        connected_at,
        remote: row.get("remote")?,
        vcpu: Room { capacity: row.num("vcpu_capacity")?, sold: row.num("vcpu_sold")? },
        memory_mib: Room { capacity: row.num("memory_mib_capacity")?, sold: row.num("memory_mib_sold")? },
        disk_gib: Room { capacity: row.num("disk_gib_capacity")?, sold: row.num("disk_gib_sold")? },
        servers: Room { capacity: row.num("servers_capacity")?, sold: row.num("servers")? },
        memory_seen: (row.num("memory_mib_observed")?, row.num("memory_mib_used")?),
        disk_seen: (row.num("disk_gib_observed")?, row.num("disk_gib_used")?),
        cores_seen: row.num("cores_observed")?,
        cpu_permille: row.num("cpu_permille")?,
        created_at: row.millis("created_at")?,
    })
}

pub(super) async fn list(conn: &mut AnyConnection, location: Option<&str>) -> Result<Vec<NodeRow>, DbError> {
    let query = match location {
        None => sqlx::query(select_nodes!("ORDER BY n.location, n.name")),
        Some(code) => {
            sqlx::query(select_nodes!("WHERE n.location = $1 ORDER BY n.name")).bind(code.to_owned())
        }
    };
    query.fetch_all(conn).await?.iter().map(build).collect()
}

pub(super) async fn by_id(conn: &mut AnyConnection, id: NodeId) -> Result<Option<NodeRow>, DbError> {
    let query = sqlx::query(select_nodes!("WHERE n.id = $1")).bind(id.to_string());
    query.fetch_optional(conn).await?.as_ref().map(build).transpose()
}

/// Some nodes, up to [`crate::db::MANY`] of them, in no order.
pub(super) async fn by_ids(conn: &mut AnyConnection, ids: &[NodeId]) -> Result<Vec<NodeRow>, DbError> {
    let mut query = sqlx::query(select_nodes!(
        "WHERE n.id IN ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21,
             $22, $23, $24, $25)"
    ));
    for id in padded(ids) {
        query = query.bind(id);
    }
    query.fetch_all(conn).await?.iter().map(build).collect()
}

pub(super) async fn by_name(conn: &mut AnyConnection, name: &str) -> Result<Option<NodeRow>, DbError> {
    let query = sqlx::query(select_nodes!("WHERE n.name = $1")).bind(name.to_owned());
    query.fetch_optional(conn).await?.as_ref().map(build).transpose()
}

pub(super) async fn locations(conn: &mut AnyConnection) -> Result<Vec<Location>, DbError> {
    let rows =
        sqlx::query("SELECT code, name, country FROM locations ORDER BY name, code").fetch_all(conn).await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("locations", row);
            Ok(Location { code: row.text("code")?, name: row.text("name")?, country: row.text("country")? })
        })
        .collect()
}

pub(super) async fn location_exists(conn: &mut AnyConnection, code: &str) -> Result<bool, DbError> {
    let row = sqlx::query("SELECT code FROM locations WHERE code = $1")
        .bind(code.to_owned())
        .fetch_optional(conn)
        .await?;
    Ok(row.is_some())
}

pub(super) async fn put_location(
    tx: &mut AnyConnection,
    at: UnixMillis,
    location: &Location,
) -> Result<bool, DbError> {
    let done = sqlx::query(
        "INSERT INTO locations (code, name, country, created_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (code) DO UPDATE SET name = excluded.name, country = excluded.country
         WHERE locations.name <> excluded.name OR locations.country <> excluded.country",
    )
    .bind(location.code.clone())
    .bind(location.name.clone())
    .bind(location.country.clone())
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

pub(super) async fn insert(
    tx: &mut AnyConnection,
    at: UnixMillis,
    id: NodeId,
    actor: &str,
    name: &str,
    location: &str,
) -> Result<bool, DbError> {
    let done = sqlx::query(
        "INSERT INTO nodes (id, name, location, state, epoch, vmid_first, vmid_last, vmid_next, policy, images,
             warnings, storages, foreign_vms, acked_event_seq, report_seq, created_at, created_by)
         VALUES ($1, $2, $3, 'pending', 0, 0, -1, 0, $4, '[]', '[]', '[]', 0, 0, 0, $5, $6)
         ON CONFLICT (name) DO NOTHING",
    )
    .bind(id.to_string())
    .bind(name.to_owned())
    .bind(location.to_owned())
    .bind(serde_json::to_string(&crate::fleet::NodePolicy::default()).unwrap_or_default())
    .bind(at.0)
    .bind(actor.to_owned())
    .execute(&mut *tx)
    .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query(
        "INSERT INTO node_capacity (node_id, vcpu_capacity, vcpu_sold, memory_mib_capacity, memory_mib_sold,
             disk_gib_capacity, disk_gib_sold, cores_observed, memory_mib_observed, memory_mib_used,
             disk_gib_observed, disk_gib_used, cpu_permille, servers, servers_capacity)
         VALUES ($1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)",
    )
    .bind(id.to_string())
    .execute(tx)
    .await?;
    Ok(true)
}

/// What a node is, and whether it was cordoned when it fell out.
pub(super) async fn state(
    conn: &mut AnyConnection,
    id: NodeId,
) -> Result<Option<(NodeState, bool)>, DbError> {
    let row = sqlx::query("SELECT id, state, was_cordoned FROM nodes WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(conn)
        .await?;
    row.map(|row| {
        let row = Cols::of("nodes", &row);
        Ok((row.get("state")?, row.flag("was_cordoned")?))
    })
    .transpose()
}

pub(super) async fn set_state(
    tx: &mut AnyConnection,
    id: NodeId,
    before: NodeState,
    (after, was_cordoned): (NodeState, bool),
    revoked_at: Option<UnixMillis>,
) -> Result<(), DbError> {
    let done = sqlx::query(
        "UPDATE nodes SET state = $1, revoked_at = $4, was_cordoned = $5 WHERE id = $2 AND state = $3",
    )
    .bind(after)
    .bind(id.to_string())
    .bind(before)
    .bind(revoked_at.map(|at| at.0))
    .bind(i64::from(was_cordoned))
    .execute(tx)
    .await?;
    one_row(done)
}

pub(super) async fn revoke_certificates(tx: &mut AnyConnection, id: NodeId) -> Result<(), DbError> {
    sqlx::query("UPDATE node_certificates SET state = 'revoked' WHERE node_id = $1")
        .bind(id.to_string())
        .execute(tx)
        .await?;
    Ok(())
}

pub(super) async fn certificates(
    conn: &mut AnyConnection,
    node: NodeId,
) -> Result<Vec<CertificateRow>, DbError> {
    let rows = sqlx::query(
        "SELECT serial, state, not_after, valid_until FROM node_certificates WHERE node_id = $1
         ORDER BY issued_at DESC, serial LIMIT 20",
    )
    .bind(node.to_string())
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("node_certificates", row);
            Ok(CertificateRow {
                serial: row.text("serial")?,
                state: row.text("state")?,
                not_after: row.millis("not_after")?,
                valid_until: row.millis("valid_until")?,
            })
        })
        .collect()
}
