//! SQL of reports.

use ez_protocol::{NodeId, UnixMillis};
use serde::Serialize;
use sqlx::AnyConnection;

use super::{Position, signed};
use crate::{
    db::{Cols, DbError, one_row},
    fleet::{
        capacity::{Observed, Sellable},
        model::{ImageView, StorageView, ThinPoolView, WarningView},
    },
};

pub(super) async fn position(
    conn: &mut AnyConnection,
    node: NodeId,
) -> Result<Option<(Option<String>, u64)>, DbError> {
    let row = sqlx::query("SELECT id, report_epoch, report_seq FROM nodes WHERE id = $1")
        .bind(node.to_string())
        .fetch_optional(conn)
        .await?;
    row.map(|row| {
        let row = Cols::of("nodes", &row);
        Ok((row.get("report_epoch")?, row.num("report_seq")?))
    })
    .transpose()
}

pub(super) async fn set_position(
    tx: &mut AnyConnection,
    at: UnixMillis,
    node: NodeId,
    position: Position<'_>,
) -> Result<(), DbError> {
    let done =
        sqlx::query("UPDATE nodes SET report_epoch = $1, report_seq = $2, reported_at = $3 WHERE id = $4")
            .bind(position.report_epoch.to_owned())
            .bind(signed(position.seq))
            .bind(at.0)
            .bind(node.to_string())
            .execute(tx)
            .await?;
    one_row(done)
}

pub(super) async fn set_blind_since(
    tx: &mut AnyConnection,
    node: NodeId,
    since_ms: Option<i64>,
) -> Result<(), DbError> {
    sqlx::query("UPDATE nodes SET blind_since = $1 WHERE id = $2")
        .bind(since_ms)
        .bind(node.to_string())
        .execute(tx)
        .await?;
    Ok(())
}

/// Makes the row of a node's capacity this transaction's until it ends.
pub(super) async fn hold_capacity(tx: &mut AnyConnection, node: NodeId) -> Result<(), DbError> {
    sqlx::query("UPDATE node_capacity SET updated_at = updated_at WHERE node_id = $1")
        .bind(node.to_string())
        .execute(tx)
        .await?;
    Ok(())
}

/// What a report says about a node itself.
pub(super) struct Facts<'a> {
    pub(super) at: UnixMillis,
    pub(super) node: NodeId,
    pub(super) storages: &'a [StorageView],
    pub(super) thin_pools: &'a [ThinPoolView],
    pub(super) images: &'a [ImageView],
    pub(super) warnings: &'a [WarningView],
    pub(super) foreign_vms: u64,
    pub(super) certificate_not_after: Option<i64>,
    pub(super) versions: (String, String),
}

pub(super) async fn set_facts(tx: &mut AnyConnection, facts: &Facts<'_>) -> Result<(), DbError> {
    let done = sqlx::query(
        "UPDATE nodes SET storages = $1, images = $2, warnings = $3, foreign_vms = $4,
             certificate_not_after = COALESCE($5, certificate_not_after),
             pve_version = CASE WHEN $6 = '' THEN pve_version ELSE $6 END,
             agent_version = CASE WHEN $7 = '' THEN agent_version ELSE $7 END, reported_at = $8, thin_pools = $10
         WHERE id = $9",
    )
    .bind(json(facts.storages))
    .bind(json(facts.images))
    .bind(json(facts.warnings))
    .bind(signed(facts.foreign_vms))
    .bind(facts.certificate_not_after)
    .bind(facts.versions.0.clone())
    .bind(facts.versions.1.clone())
    .bind(facts.at.0)
    .bind(facts.node.to_string())
    .bind(json(facts.thin_pools))
    .execute(tx)
    .await?;
    one_row(done)
}

fn json<T: Serialize>(list: &[T]) -> String {
    serde_json::to_string(list).unwrap_or_default()
}

/// What may be sold and what is really there.
pub(super) struct Capacity {
    pub(super) sale: Sellable,
    pub(super) servers: i64,
    pub(super) observed: Observed,
    pub(super) memory_used_mib: u64,
    pub(super) disk_used_gib: u64,
    pub(super) cpu_permille: u64,
}

pub(super) async fn set_capacity(
    tx: &mut AnyConnection,
    at: UnixMillis,
    node: NodeId,
    capacity: &Capacity,
) -> Result<(), DbError> {
    let done = sqlx::query(
        "UPDATE node_capacity SET vcpu_capacity = $1, memory_mib_capacity = $2, disk_gib_capacity = $3,
             servers_capacity = $4, cores_observed = $5, memory_mib_observed = $6, memory_mib_used = $7,
             disk_gib_observed = $8, disk_gib_used = $9, cpu_permille = $10, updated_at = $11
         WHERE node_id = $12",
    )
    .bind(signed(capacity.sale.vcpu))
    .bind(signed(capacity.sale.memory_mib))
    .bind(signed(capacity.sale.disk_gib))
    .bind(capacity.servers)
    .bind(signed(capacity.observed.cores))
    .bind(signed(capacity.observed.memory_mib))
    .bind(signed(capacity.memory_used_mib))
    .bind(signed(capacity.observed.disk_gib))
    .bind(signed(capacity.disk_used_gib))
    .bind(signed(capacity.cpu_permille))
    .bind(at.0)
    .bind(node.to_string())
    .execute(tx)
    .await?;
    one_row(done)
}

/// The mark only rises, and only for the journal the node has now.
pub(super) async fn events_stored(
    tx: &mut AnyConnection,
    node: NodeId,
    journal: &str,
    event_seq: u64,
) -> Result<(), DbError> {
    sqlx::query(
        "UPDATE nodes SET acked_event_seq = $1 WHERE id = $2 AND journal_id = $3 AND acked_event_seq < $1",
    )
    .bind(signed(event_seq))
    .bind(node.to_string())
    .bind(journal.to_owned())
    .execute(tx)
    .await?;
    Ok(())
}
