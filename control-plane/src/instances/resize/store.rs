//! SQL of wished sizes.

use ez_protocol::{InstanceId, UnixMillis};
use sqlx::AnyConnection;

use super::Size;
use crate::db::{Cols, DbError, one_row};

/// The size that a server shall have.
pub(super) struct Wish {
    pub(super) size: Size,
    /// Whether we owe it a restart: it gives something back that a running server cannot.
    pub(super) restart: bool,
    pub(super) settled: bool,
    pub(super) by: String,
    pub(super) at: UnixMillis,
}

pub(super) async fn get(connection: &mut AnyConnection, id: InstanceId) -> Result<Option<Wish>, DbError> {
    let row = sqlx::query(
        "SELECT instance_id, plan_code, vcpu, memory_mib, disk_gib, snapshots, backups, restart, settled, requested_by,
                requested_at
         FROM instance_sizes WHERE instance_id = $1",
    )
    .bind(id.to_string())
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let row = Cols::of("instance_sizes", &row);
    Ok(Some(Wish {
        size: Size {
            plan: row.text("plan_code")?,
            vcpu: row.num("vcpu")?,
            memory_mib: row.num("memory_mib")?,
            disk_gib: row.num("disk_gib")?,
            snapshots: row.num("snapshots")?,
            backups: row.num("backups")?,
        },
        restart: row.flag("restart")?,
        settled: row.flag("settled")?,
        by: row.text("requested_by")?,
        at: row.millis("requested_at")?,
    }))
}

/// Writes a wish over the last one. The caller holds the server's lock.
pub(super) async fn put(tx: &mut AnyConnection, id: InstanceId, wish: &Wish) -> Result<(), DbError> {
    let done = sqlx::query(
        "INSERT INTO instance_sizes
             (instance_id, plan_code, vcpu, memory_mib, disk_gib, snapshots, backups, restart, settled, requested_by,
              requested_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         ON CONFLICT (instance_id) DO UPDATE SET
             plan_code = excluded.plan_code, vcpu = excluded.vcpu, memory_mib = excluded.memory_mib,
             disk_gib = excluded.disk_gib, snapshots = excluded.snapshots, backups = excluded.backups,
             restart = excluded.restart, settled = excluded.settled, requested_by = excluded.requested_by,
             requested_at = excluded.requested_at",
    )
    .bind(id.to_string())
    .bind(&wish.size.plan)
    .bind(i64::from(wish.size.vcpu))
    .bind(i64::from(wish.size.memory_mib))
    .bind(i64::from(wish.size.disk_gib))
    .bind(i64::from(wish.size.snapshots))
    .bind(i64::from(wish.size.backups))
    .bind(i64::from(wish.restart))
    .bind(i64::from(wish.settled))
    .bind(&wish.by)
    .bind(wish.at.0)
    .execute(tx)
    .await?;
    one_row(done)
}

/// Nothing is left to do about a server's size.
pub(super) async fn settle(tx: &mut AnyConnection, id: InstanceId) -> Result<(), DbError> {
    let query = sqlx::query("UPDATE instance_sizes SET settled = 1 WHERE instance_id = $1");
    one_row(query.bind(id.to_string()).execute(tx).await?)
}

/// Live servers whose size waits.
pub(super) async fn due(connection: &mut AnyConnection) -> Result<Vec<InstanceId>, DbError> {
    let rows = sqlx::query(
        "SELECT i.id AS id FROM instance_sizes s JOIN instances i ON i.id = s.instance_id
         WHERE s.settled = 0 AND i.state IN ('running', 'stopped')
         ORDER BY s.requested_at, i.id LIMIT 100",
    )
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Cols::of("instances", row).id("id")).collect()
}
