//! One at a time: read, decide, write about the same thing by two transactions.

use std::fmt::Display;

use sqlx::AnyConnection;

use super::DbError;

/// Waits until no other transaction works on this thing; then it is this one's until it ends.
///
/// SQLite has one writer, so there is nothing to wait for. On PostgreSQL two transactions that read a row,
/// decide and write it back with a guard would otherwise both decide on the same state, and the second would
/// find its guard broken. Whoever locks several things takes them in this order: `order`, `instance`,
/// `provisioning_order`.
///
/// # Errors
/// Those of the database.
pub async fn lock(tx: &mut AnyConnection, kind: &'static str, id: impl Display) -> Result<(), DbError> {
    if tx.backend_name() == "PostgreSQL" {
        sqlx::query("SELECT CAST(pg_advisory_xact_lock(hashtextextended($1, 0)) AS TEXT)")
            .bind(format!("{kind}:{id}"))
            .execute(tx)
            .await?;
    }
    Ok(())
}
