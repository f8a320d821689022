//! SQL of money that goes back, and of what it leaves paid.

use std::time::Duration;

use ez_protocol::{OrderId, UnixMillis};
use sqlx::{AnyConnection, any::AnyRow};

use crate::{
    billing::{
        model::RefundState,
        store as billing_store,
        stripe::{InvoiceView, RefundView},
    },
    db::{Cols, DbError},
};

/// Whether everything that was paid for an invoice went back.
pub(in crate::billing) async fn is_returned(
    connection: &mut AnyConnection,
    invoice: &str,
) -> Result<bool, DbError> {
    let row = sqlx::query(
        "SELECT i.paid_minor, CAST(COALESCE(SUM(r.amount_minor), 0) AS BIGINT) AS returned
         FROM billing_invoices i
         LEFT JOIN billing_returns r ON r.invoice_id = i.stripe_id AND r.state = 'succeeded'
         WHERE i.stripe_id = $1
         GROUP BY i.paid_minor",
    )
    .bind(invoice)
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(false) };
    let row = Cols::of("billing_invoices", &row);
    let (paid, returned) = (row.int("paid_minor")?, row.int("returned")?);
    Ok(paid > 0 && returned >= paid)
}

/// Stripe's clock and ours, and the making of an invoice and of its period, are this far apart at most.
const SAME_MOMENT: Duration = Duration::from_secs(60);

/// A plan change that begins a period of its own does so with its preview, which is confirmed this much later at most.
const BEGINS_WITHIN: Duration = Duration::from_secs(16 * 60);

/// An invoice of the running period.
struct Billed {
    invoice: String,
    /// Whether it is for a first payment or a renewal.
    renews: bool,
    issued_at: UnixMillis,
    paid_minor: i64,
    /// Whether a part of it was not paid with money.
    is_short: bool,
}

/// Whether everything that was paid for the running period went back: its renewal, and what plan changes added to it. A plan
/// change that began a period of its own is all there is of it. What was paid for earlier periods, and invoices of traffic
/// alone, do not count. A period that credit has paid for, or a code, keeps its server whatever else goes back.
pub(super) async fn period_is_returned(
    connection: &mut AnyConnection,
    subscription: &str,
    begin: UnixMillis,
) -> Result<bool, DbError> {
    let billed = billed_since(connection, subscription, begin.minus(SAME_MOMENT)).await?;
    let is_renewal = billed.iter().any(|billed| billed.renews);
    let mut period = false;
    for billed in &billed {
        if billed.is_short && credit_has_paid(connection, &billed.invoice).await? {
            return Ok(false);
        }
        if billed.paid_minor <= 0 {
            continue;
        }
        if !is_returned(connection, &billed.invoice).await? {
            return Ok(false);
        }
        period |= if is_renewal { billed.renews } else { billed.issued_at <= begin.plus(BEGINS_WITHIN) };
    }
    Ok(period)
}

/// Whether it was credit that paid what no money did. What is too small to be charged nobody has paid: it is owed with the
/// next invoice.
async fn credit_has_paid(connection: &mut AnyConnection, invoice: &str) -> Result<bool, DbError> {
    let copy = billing_store::object(connection, invoice).await?;
    let read = copy.and_then(|json| serde_json::from_str::<InvoiceView>(&json).ok());
    Ok(read.is_none_or(|invoice| invoice.used_credit()))
}

async fn billed_since(
    connection: &mut AnyConnection,
    subscription: &str,
    since: UnixMillis,
) -> Result<Vec<Billed>, DbError> {
    let rows = sqlx::query(
        "SELECT stripe_id, issued_at, paid_minor,
                CASE WHEN reason IN ('subscription_create', 'subscription_cycle') THEN 1 ELSE 0 END AS renews,
                CASE WHEN status = 'paid' AND total_minor > paid_minor THEN 1 ELSE 0 END AS is_short
         FROM billing_invoices
         WHERE subscription_id = $1 AND issued_at >= $2 AND status <> 'void' AND COALESCE(reason, '') <> 'manual'
               AND traffic_alone = 0",
    )
    .bind(subscription)
    .bind(since.0)
    .fetch_all(connection)
    .await?;
    let read = |row: &AnyRow| {
        let row = Cols::of("billing_invoices", row);
        Ok(Billed {
            invoice: row.text("stripe_id")?,
            renews: row.flag("renews")?,
            issued_at: row.millis("issued_at")?,
            paid_minor: row.int("paid_minor")?,
            is_short: row.flag("is_short")?,
        })
    };
    rows.iter().map(read).collect()
}

/// Writes money that goes back; `true` if its state is news.
pub(in crate::billing) async fn put_return(
    tx: &mut AnyConnection,
    at: UnixMillis,
    order: OrderId,
    invoice: &str,
    refund: &RefundView,
) -> Result<bool, DbError> {
    let done = sqlx::query(
        "INSERT INTO billing_returns
             (stripe_id, order_id, invoice_id, state, amount_minor, currency, made_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $7)
         ON CONFLICT (stripe_id) DO UPDATE SET
             state = excluded.state, amount_minor = excluded.amount_minor, updated_at = excluded.updated_at
         WHERE billing_returns.state <> excluded.state",
    )
    .bind(&refund.id)
    .bind(order.to_string())
    .bind(invoice)
    .bind(RefundState::of(refund))
    .bind(refund.amount.unwrap_or(0))
    .bind(refund.currency.as_deref().unwrap_or(""))
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}
