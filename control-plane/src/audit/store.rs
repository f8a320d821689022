//! The `audit` table.

use ez_protocol::{AuditId, UnixMillis};
use sqlx::AnyConnection;

use super::Entry;
use crate::db::DbError;

pub(super) async fn insert(
    tx: &mut AnyConnection,
    id: AuditId,
    at: UnixMillis,
    entry: &Entry,
    exact: &str,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO audit (id, at, actor, action, subject_kind, subject_id, entry)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(id.to_string())
    .bind(at.0)
    .bind(&entry.actor)
    .bind(&entry.action)
    .bind(&entry.subject_kind)
    .bind(&entry.subject_id)
    .bind(exact)
    .execute(tx)
    .await?;
    Ok(())
}
