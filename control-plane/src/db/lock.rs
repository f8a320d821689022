//! One at a time: read, decide, write about the same thing by two transactions.
//!
//! Whoever locks several things takes them in one order, so that nobody waits in a circle: `order`, `instance`,
//! `provisioning_order`, and `places` last. After them come rows, in this order: servers, provisioning orders,
//! the node's capacity, pools and addresses, the node, VMIDs. `metrics`, one row of samples each, are taken in
//! the order of their names and with nothing else. `checkout`, `account`, `email` and `node` are taken
//! before all others and never two of them, but for `node` before `checkout`, where a node is revoked for an order.

use std::fmt::Display;

use sqlx::{Any, AnyConnection, AssertSqlSafe, any::AnyArguments, query::Query};

use super::DbError;

const POSTGRES: &str = "PostgreSQL";

/// Waits until no other transaction works on this thing; then it is this one's until it ends.
///
/// SQLite has one writer, so there is nothing to wait for. On PostgreSQL two transactions that read a row,
/// decide and write it back with a guard would otherwise both decide on the same state, and the second would
/// find its guard broken.
///
/// # Errors
/// Those of the database.
pub async fn lock(tx: &mut AnyConnection, kind: &'static str, id: impl Display) -> Result<(), DbError> {
    if tx.backend_name() == POSTGRES {
        sqlx::query("SELECT CAST(pg_advisory_xact_lock(hashtextextended($1, 0)) AS TEXT)")
            .bind(format!("{kind}:{id}"))
            .execute(tx)
            .await?;
    }
    Ok(())
}

/// A `SELECT` whose rows are this transaction's until it ends, without those that another one works on.
pub fn pick(tx: &AnyConnection, select: &'static str) -> Query<'static, Any, AnyArguments> {
    if tx.backend_name() == POSTGRES {
        return sqlx::query(AssertSqlSafe(format!("{select} FOR UPDATE SKIP LOCKED")));
    }
    sqlx::query(select)
}
