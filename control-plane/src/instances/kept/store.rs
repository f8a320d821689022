//! SQL of the lists that nodes tell.

use ez_protocol::{InstanceId, UnixMillis};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::AnyConnection;

use crate::db::{Cols, DbError};

/// Writes a list, unless a newer order told one already.
pub(super) async fn put<T: Serialize + Sync>(
    tx: &mut AnyConnection,
    at: UnixMillis,
    id: InstanceId,
    kind: &'static str,
    seq: u64,
    items: &Vec<T>,
) -> Result<(), DbError> {
    let items = serde_json::to_string(items).unwrap_or_else(|_| "[]".to_owned());
    sqlx::query(
        "INSERT INTO instance_lists (instance_id, kind, items, seq, reported_at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (instance_id, kind) DO UPDATE SET
             items = excluded.items, seq = excluded.seq, reported_at = excluded.reported_at
         WHERE instance_lists.seq <= excluded.seq",
    )
    .bind(id.to_string())
    .bind(kind)
    .bind(items)
    .bind(i64::try_from(seq).unwrap_or(i64::MAX))
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn get<T: DeserializeOwned>(
    connection: &mut AnyConnection,
    id: InstanceId,
    kind: &'static str,
) -> Result<Vec<T>, DbError> {
    let row =
        sqlx::query("SELECT instance_id, items FROM instance_lists WHERE instance_id = $1 AND kind = $2")
            .bind(id.to_string())
            .bind(kind)
            .fetch_optional(connection)
            .await?;
    row.map_or_else(|| Ok(Vec::new()), |row| Cols::of("instance_lists", &row).json("items"))
}
