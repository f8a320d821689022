//! SQL of surplus payments.

use ez_protocol::UnixMillis;
use sqlx::{AnyConnection, any::AnyRow};

use super::{RefundState, Surplus};
use crate::db::{Cols, DbError};

fn read(row: &AnyRow) -> Result<Surplus, DbError> {
    let row = Cols::of("billing_surplus", row);
    Ok(Surplus {
        session: row.text("session_id")?,
        order: row.id("order_id")?,
        subscription: row.get("subscription_id")?,
        invoice: row.get("invoice_id")?,
        state: row.get("state")?,
        attempt: row.int("attempt")?,
        refund: row.get("refund_id")?,
    })
}

/// Writes one down; `false` if it is there already.
pub(super) async fn insert(
    tx: &mut AnyConnection,
    at: UnixMillis,
    surplus: &Surplus,
    amount_minor: Option<i64>,
    currency: Option<&str>,
) -> Result<bool, DbError> {
    let done = sqlx::query(
        "INSERT INTO billing_surplus
             (session_id, order_id, subscription_id, invoice_id, state, attempt, amount_minor, currency, found_at,
              updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)
         ON CONFLICT (session_id) DO NOTHING",
    )
    .bind(&surplus.session)
    .bind(surplus.order.to_string())
    .bind(&surplus.subscription)
    .bind(&surplus.invoice)
    .bind(surplus.state)
    .bind(surplus.attempt)
    .bind(amount_minor)
    .bind(currency)
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

pub(super) async fn is_surplus(connection: &mut AnyConnection, subscription: &str) -> Result<bool, DbError> {
    let found: Option<String> =
        sqlx::query_scalar("SELECT session_id FROM billing_surplus WHERE subscription_id = $1 LIMIT 1")
            .bind(subscription)
            .fetch_optional(connection)
            .await?;
    Ok(found.is_some())
}

/// The pages, or invoices, whose payment an invoice took.
pub(super) async fn of_invoice(
    connection: &mut AnyConnection,
    invoice: &str,
) -> Result<Vec<String>, DbError> {
    Ok(sqlx::query_scalar("SELECT session_id FROM billing_surplus WHERE invoice_id = $1 ORDER BY session_id")
        .bind(invoice)
        .fetch_all(connection)
        .await?)
}

pub(super) async fn get(connection: &mut AnyConnection, session: &str) -> Result<Option<Surplus>, DbError> {
    let row = sqlx::query(
        "SELECT session_id, order_id, subscription_id, invoice_id, state, attempt, refund_id
         FROM billing_surplus WHERE session_id = $1",
    )
    .bind(session)
    .fetch_optional(connection)
    .await?;
    row.as_ref().map(read).transpose()
}

/// Writes how its refund stands; nothing comes back if that was known.
pub(super) async fn set_state(
    tx: &mut AnyConnection,
    at: UnixMillis,
    session: &str,
    state: RefundState,
    refund: Option<&str>,
) -> Result<Option<Surplus>, DbError> {
    let row = sqlx::query(
        "UPDATE billing_surplus SET state = $2, refund_id = $3, updated_at = $4
         WHERE session_id = $1 AND state <> $2
         RETURNING session_id, order_id, subscription_id, invoice_id, state, attempt, refund_id",
    )
    .bind(session)
    .bind(state)
    .bind(refund)
    .bind(at.0)
    .fetch_optional(tx)
    .await?;
    row.as_ref().map(read).transpose()
}

/// A refund that failed, or was looked for in vain, is followed by the next one.
pub(super) async fn next_attempt(
    tx: &mut AnyConnection,
    at: UnixMillis,
    session: &str,
    attempt: i64,
) -> Result<(), DbError> {
    sqlx::query(
        "UPDATE billing_surplus SET state = 'wanted', attempt = attempt + 1, refund_id = NULL, updated_at = $2
         WHERE session_id = $1 AND attempt = $3 AND state IN ('failed', 'wanted')",
    )
    .bind(session)
    .bind(at.0)
    .bind(attempt)
    .execute(tx)
    .await?;
    Ok(())
}
