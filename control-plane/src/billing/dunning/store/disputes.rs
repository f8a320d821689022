//! SQL of disputes and of fraud warnings.

use ez_protocol::{AccountId, OrderId, UnixMillis};
use sqlx::{AnyConnection, any::AnyRow};

use crate::{
    billing::{
        dunning::standing::Disputed,
        stripe::{DisputeState, DisputeView},
    },
    db::{Cols, DbError},
};

macro_rules! select_disputes {
    ($rest:literal) => {
        concat!("SELECT d.status, d.opened_at FROM billing_disputes d ", $rest)
    };
}

/// What the disputes of something say about its money, and since when each does.
async fn disputes(
    connection: &mut AnyConnection,
    query: &'static str,
    of: &str,
) -> Result<Vec<(DisputeState, UnixMillis)>, DbError> {
    let rows = sqlx::query(query).bind(of).fetch_all(connection).await?;
    let read = |row: &AnyRow| {
        let row = Cols::of("billing_disputes", row);
        Ok((DisputeState::of(&row.text("status")?), row.millis("opened_at")?))
    };
    rows.iter().map(read).collect()
}

/// Those of an order's payments. What was paid twice buys nothing, so a bank that takes it back takes nothing from the server.
async fn disputes_of_order(
    connection: &mut AnyConnection,
    order: OrderId,
) -> Result<Vec<(DisputeState, UnixMillis)>, DbError> {
    let query = select_disputes!(
        "WHERE d.order_id = $1
               AND NOT EXISTS (SELECT 1 FROM billing_surplus s WHERE s.invoice_id = d.invoice_id)"
    );
    disputes(connection, query, &order.to_string()).await
}

/// The worst of some disputes, and of several such the first.
fn worst(disputes: impl Iterator<Item = (DisputeState, UnixMillis)>) -> Disputed {
    let says = |(state, since): (DisputeState, UnixMillis)| match state {
        DisputeState::Over => Disputed::No,
        DisputeState::Inquiry | DisputeState::Open => Disputed::Open(since),
        DisputeState::Lost => Disputed::Lost(since),
    };
    disputes.map(says).min().unwrap_or(Disputed::No)
}

/// Where the disputes of an order's payments stand; a bank's inquiry is one.
pub(in crate::billing) async fn disputed(
    connection: &mut AnyConnection,
    order: OrderId,
) -> Result<Disputed, DbError> {
    Ok(worst(disputes_of_order(connection, order).await?.into_iter()))
}

/// Where the payment of an invoice stands with its bank: while that is open nothing of it can be refunded, and once it is
/// lost the bank has given it back.
pub(in crate::billing) async fn disputed_payment(
    connection: &mut AnyConnection,
    invoice: &str,
) -> Result<Disputed, DbError> {
    let found = disputes(connection, select_disputes!("WHERE d.invoice_id = $1"), invoice).await?;
    Ok(worst(found.into_iter().filter(|(state, _)| state.takes())))
}

/// Whether a bank has a payment of an order and has not decided.
pub(in crate::billing) async fn bank_decides(
    connection: &mut AnyConnection,
    order: OrderId,
) -> Result<bool, DbError> {
    let found = disputes_of_order(connection, order).await?;
    Ok(found.iter().any(|(state, _)| *state == DisputeState::Open))
}

/// Whether a payment of an account is disputed and not decided.
pub(in crate::billing) async fn is_disputing(
    connection: &mut AnyConnection,
    account: AccountId,
) -> Result<bool, DbError> {
    let query =
        select_disputes!("JOIN billing_checkouts c ON c.order_id = d.order_id WHERE c.account_id = $1");
    let found = disputes(connection, query, &account.to_string()).await?;
    Ok(found.iter().any(|(state, _)| state.is_undecided()))
}

/// The order that a fraud warning is about, checked or not.
pub(in crate::billing) async fn warned(
    connection: &mut AnyConnection,
    id: &str,
) -> Result<Option<OrderId>, DbError> {
    let row = sqlx::query(
        "SELECT order_id FROM billing_disputes
         WHERE stripe_id = $1 AND (status = 'early_warning' OR checked_at IS NOT NULL)",
    )
    .bind(id)
    .fetch_optional(connection)
    .await?;
    row.map(|row| Cols::of("billing_disputes", &row).id("order_id")).transpose()
}

/// Writes down that a person has checked a fraud warning; `false` if nothing is left to check. It then stands as one that came to
/// nothing, whatever Stripe goes on saying of it.
pub(in crate::billing) async fn check_warning(
    tx: &mut AnyConnection,
    at: UnixMillis,
    id: &str,
    actor: &str,
) -> Result<bool, DbError> {
    let done = sqlx::query(
        "UPDATE billing_disputes SET status = 'prevented', checked_at = $2, checked_by = $3, updated_at = $2
         WHERE stripe_id = $1 AND status = 'early_warning'",
    )
    .bind(id)
    .bind(at.0)
    .bind(actor)
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Whether a person has checked a fraud warning.
pub(in crate::billing) async fn is_checked(
    connection: &mut AnyConnection,
    id: &str,
) -> Result<bool, DbError> {
    let found: Option<String> = sqlx::query_scalar(
        "SELECT stripe_id FROM billing_disputes WHERE stripe_id = $1 AND checked_at IS NOT NULL",
    )
    .bind(id)
    .fetch_optional(connection)
    .await?;
    Ok(found.is_some())
}

/// Writes how much was charged by the payment that a fraud warning is about.
pub(in crate::billing) async fn put_charged(
    tx: &mut AnyConnection,
    at: UnixMillis,
    id: &str,
    minor: i64,
    currency: &str,
) -> Result<(), DbError> {
    sqlx::query(
        "UPDATE billing_disputes SET amount_minor = $2, currency = $3, updated_at = $4 WHERE stripe_id = $1",
    )
    .bind(id)
    .bind(minor)
    .bind(currency)
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(())
}

pub(in crate::billing) async fn put_dispute(
    tx: &mut AnyConnection,
    at: UnixMillis,
    order: OrderId,
    invoice: Option<&str>,
    dispute: &DisputeView,
) -> Result<(), DbError> {
    let millis = |seconds: Option<i64>| seconds.map(|s| UnixMillis::from_secs(s).0);
    sqlx::query(
        "INSERT INTO billing_disputes
             (stripe_id, order_id, invoice_id, status, reason, amount_minor, currency, answer_by, opened_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         ON CONFLICT (stripe_id) DO UPDATE SET
             status = CASE WHEN billing_disputes.checked_at IS NOT NULL AND excluded.status = 'early_warning'
                           THEN billing_disputes.status ELSE excluded.status END,
             reason = excluded.reason,
             amount_minor = CASE WHEN excluded.currency = '' THEN billing_disputes.amount_minor
                                 ELSE excluded.amount_minor END,
             currency = CASE WHEN excluded.currency = '' THEN billing_disputes.currency ELSE excluded.currency END,
             answer_by = excluded.answer_by, updated_at = excluded.updated_at",
    )
    .bind(&dispute.id)
    .bind(order.to_string())
    .bind(invoice)
    .bind(dispute.status.as_deref().unwrap_or("unknown"))
    .bind(&dispute.reason)
    .bind(dispute.amount.unwrap_or(0))
    .bind(dispute.currency.as_deref().unwrap_or(""))
    .bind(millis(dispute.answer_by()))
    .bind(millis(dispute.created).unwrap_or(at.0))
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(())
}
