//! SQL of the copies of subscriptions, invoices and refunds.

use ez_protocol::{AccountId, OrderId, UnixMillis};
use sqlx::{AnyConnection, any::AnyRow};

use crate::{
    billing::{
        model::{Expectation, Invoice, RefundState},
        stripe::{InvoiceView, SubscriptionView},
        usage,
    },
    db::{Cols, DbError},
};

// ---- subscriptions ------------------------------------------------------------------------------

pub(in crate::billing) async fn put_subscription(
    tx: &mut AnyConnection,
    at: UnixMillis,
    expected: &Expectation,
    subscription: &SubscriptionView,
) -> Result<(), DbError> {
    let millis = |seconds: Option<i64>| seconds.map(|s| UnixMillis::from_secs(s).0);
    let (start, end) = subscription.period();
    let charge = subscription.charge();
    sqlx::query(
        "INSERT INTO billing_subscriptions
             (stripe_id, order_id, instance_id, account_id, status, stripe_price_id, item_id, latest_invoice_id,
              period_start, period_end, cancel_at, canceled_at, updated_at, status_reason, end_reason, customer_id,
              payment_method_id, amount_minor, currency, months, collection_paused)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)
         ON CONFLICT (stripe_id) DO UPDATE SET
             status_reason = excluded.status_reason, end_reason = excluded.end_reason,
             customer_id = excluded.customer_id, payment_method_id = excluded.payment_method_id,
             amount_minor = excluded.amount_minor, currency = excluded.currency, months = excluded.months,
             collection_paused = excluded.collection_paused,
             status = excluded.status, stripe_price_id = excluded.stripe_price_id, item_id = excluded.item_id,
             latest_invoice_id = excluded.latest_invoice_id, period_start = excluded.period_start,
             period_end = excluded.period_end, cancel_at = excluded.cancel_at,
             canceled_at = excluded.canceled_at, updated_at = excluded.updated_at",
    )
    .bind(&subscription.id)
    .bind(expected.order.to_string())
    .bind(expected.instance.to_string())
    .bind(expected.account.to_string())
    .bind(subscription.status.as_deref().unwrap_or("unknown"))
    .bind(subscription.price_id())
    .bind(subscription.item_id())
    .bind(&subscription.latest_invoice)
    .bind(millis(start))
    .bind(millis(end))
    .bind(millis(subscription.cancel_at))
    .bind(millis(subscription.canceled_at))
    .bind(at.0)
    .bind(subscription.pause_reason())
    .bind(subscription.end_reason())
    .bind(&subscription.customer)
    .bind(&subscription.default_payment_method)
    .bind(charge.as_ref().map(|(minor, _, _)| *minor))
    .bind(charge.as_ref().map(|(_, currency, _)| currency.as_str()))
    .bind(charge.as_ref().map_or(1, |(_, _, months)| *months))
    .bind(i64::from(subscription.collection_paused()))
    .execute(tx)
    .await?;
    Ok(())
}

/// A subscription as we last saw it.
pub(in crate::billing) struct KnownSubscription {
    pub(in crate::billing) stripe_id: String,
    pub(in crate::billing) order: OrderId,
    pub(in crate::billing) account: AccountId,
    pub(in crate::billing) status: String,
    pub(in crate::billing) latest_invoice: Option<String>,
    pub(in crate::billing) period_end: Option<UnixMillis>,
}

fn read_subscription(row: &AnyRow) -> Result<KnownSubscription, DbError> {
    let row = Cols::of("billing_subscriptions", row);
    Ok(KnownSubscription {
        stripe_id: row.text("stripe_id")?,
        order: row.id("order_id")?,
        account: row.id("account_id")?,
        status: row.text("status")?,
        latest_invoice: row.get("latest_invoice_id")?,
        period_end: row.opt_millis("period_end")?,
    })
}

pub(in crate::billing) async fn subscription_of(
    connection: &mut AnyConnection,
    order: OrderId,
) -> Result<Option<KnownSubscription>, DbError> {
    let row = sqlx::query(
        "SELECT stripe_id, order_id, account_id, status, latest_invoice_id, period_end
         FROM billing_subscriptions WHERE order_id = $1",
    )
    .bind(order.to_string())
    .fetch_optional(connection)
    .await?;
    row.as_ref().map(read_subscription).transpose()
}

pub(in crate::billing) async fn subscription(
    connection: &mut AnyConnection,
    stripe_id: &str,
) -> Result<Option<KnownSubscription>, DbError> {
    let row = sqlx::query(
        "SELECT stripe_id, order_id, account_id, status, latest_invoice_id, period_end
         FROM billing_subscriptions WHERE stripe_id = $1",
    )
    .bind(stripe_id)
    .fetch_optional(connection)
    .await?;
    row.as_ref().map(read_subscription).transpose()
}

// ---- invoices -----------------------------------------------------------------------------------

pub(in crate::billing) async fn put_invoice(
    tx: &mut AnyConnection,
    at: UnixMillis,
    account: AccountId,
    invoice: &InvoiceView,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO billing_invoices
             (stripe_id, subscription_id, account_id, number, status, currency, total_minor, hosted_url, pdf_url,
              issued_at, updated_at, due_minor, paid_minor, tries, due_at, reason, traffic_alone)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
         ON CONFLICT (stripe_id) DO UPDATE SET
             due_minor = excluded.due_minor, paid_minor = excluded.paid_minor, tries = excluded.tries,
             due_at = excluded.due_at, reason = excluded.reason, traffic_alone = excluded.traffic_alone,
             number = excluded.number, status = excluded.status, currency = excluded.currency,
             total_minor = excluded.total_minor, hosted_url = excluded.hosted_url, pdf_url = excluded.pdf_url,
             updated_at = excluded.updated_at",
    )
    .bind(&invoice.id)
    .bind(invoice.subscription_id())
    .bind(account.to_string())
    .bind(&invoice.number)
    .bind(invoice.status.as_deref().unwrap_or("unknown"))
    .bind(invoice.currency.as_deref().unwrap_or(""))
    .bind(invoice.total.unwrap_or(0))
    .bind(&invoice.hosted_invoice_url)
    .bind(&invoice.invoice_pdf)
    .bind(invoice.created.map_or(at.0, |seconds| UnixMillis::from_secs(seconds).0))
    .bind(at.0)
    .bind(invoice.amount_remaining.unwrap_or(0))
    .bind(invoice.amount_paid.unwrap_or(0))
    .bind(invoice.attempt_count.unwrap_or(0))
    .bind(invoice.due_at().map(|seconds| UnixMillis::from_secs(seconds).0))
    .bind(&invoice.billing_reason)
    .bind(i64::from(usage::is_traffic_alone(invoice)))
    .execute(tx)
    .await?;
    Ok(())
}

/// Stripe's word for an invoice, as we last saw it.
pub(in crate::billing) async fn invoice_status(
    connection: &mut AnyConnection,
    id: &str,
) -> Result<Option<String>, DbError> {
    Ok(sqlx::query_scalar("SELECT status FROM billing_invoices WHERE stripe_id = $1")
        .bind(id)
        .fetch_optional(connection)
        .await?)
}

/// The links to the page and the PDF of an account's invoice, as it was read last; nothing if it has no such invoice.
pub(in crate::billing) async fn invoice_links(
    connection: &mut AnyConnection,
    account: AccountId,
    id: &str,
) -> Result<Option<(Option<String>, Option<String>)>, DbError> {
    let row = sqlx::query(
        "SELECT hosted_url, pdf_url FROM billing_invoices WHERE stripe_id = $1 AND account_id = $2",
    )
    .bind(id)
    .bind(account.to_string())
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        let row = Cols::of("billing_invoices", &row);
        Ok((row.get("hosted_url")?, row.get("pdf_url")?))
    })
    .transpose()
}

/// An account's invoices, newest first. One is refunded if what it took has gone back, whatever became of the others of its
/// order; of an order's own refund also the purchase that took nothing, and what a bank has given back instead of us.
pub(in crate::billing) async fn invoices(
    connection: &mut AnyConnection,
    account: AccountId,
) -> Result<Vec<Invoice>, DbError> {
    let rows = sqlx::query(
        "SELECT i.stripe_id, i.number, i.currency, i.total_minor, i.due_minor, i.paid_minor, i.hosted_url, i.pdf_url, i.issued_at,
                c.description,
                CASE WHEN i.paid_minor > 0
                          AND i.paid_minor <= (SELECT CAST(COALESCE(SUM(b.amount_minor), 0) AS BIGINT)
                                               FROM billing_returns b
                                               WHERE b.invoice_id = i.stripe_id AND b.state = 'succeeded')
                     THEN 'refunded'
                     WHEN r.state = 'succeeded' AND i.reason = 'subscription_create' AND i.paid_minor = 0 THEN 'refunded'
                     WHEN r.state = 'succeeded' AND EXISTS (SELECT 1 FROM billing_disputes d
                                                            WHERE d.invoice_id = i.stripe_id AND d.status = 'lost')
                     THEN 'refunded'
                     ELSE i.status END AS status
         FROM billing_invoices i
         LEFT JOIN billing_subscriptions s ON s.stripe_id = i.subscription_id
         LEFT JOIN billing_checkouts c ON c.order_id = s.order_id
         LEFT JOIN billing_refunds r ON r.order_id = s.order_id
         WHERE i.account_id = $1 AND i.status <> 'draft'
         ORDER BY i.issued_at DESC, i.stripe_id
         LIMIT 200",
    )
    .bind(account.to_string())
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("billing_invoices", row);
            Ok(Invoice {
                id: row.text("stripe_id")?,
                number: row.get("number")?,
                servers: row.get::<Option<String>>("description")?.into_iter().collect(),
                status: row.text("status")?,
                currency: row.text("currency")?,
                total_minor: row.int("total_minor")?,
                due_minor: row.int("due_minor")?,
                paid_minor: row.int("paid_minor")?,
                hosted_url: row.get("hosted_url")?,
                pdf_url: row.get("pdf_url")?,
                issued_at: row.millis("issued_at")?,
            })
        })
        .collect()
}

// ---- refunds ------------------------------------------------------------------------------------

/// A refund as we know it.
pub(in crate::billing) struct KnownRefund {
    pub(in crate::billing) attempt: i64,
    pub(in crate::billing) state: RefundState,
    pub(in crate::billing) stripe_id: Option<String>,
    /// What it gives back in money; minor units.
    pub(in crate::billing) amount_minor: Option<i64>,
    /// Credit that went back with it; `None` while that was not looked at.
    pub(in crate::billing) credit_minor: Option<i64>,
}

impl KnownRefund {
    /// Whether a bank has given the money to its customer: so much went back, and no refund of ours or anybody's has done it.
    pub(in crate::billing) fn is_by_bank(&self) -> bool {
        let went_back =
            self.state == RefundState::Succeeded && self.amount_minor.is_some_and(|minor| minor > 0);
        went_back && self.stripe_id.is_none()
    }
}

pub(in crate::billing) async fn refund(
    connection: &mut AnyConnection,
    order: OrderId,
) -> Result<Option<KnownRefund>, DbError> {
    let row = sqlx::query(
        "SELECT order_id, attempt, state, stripe_id, amount_minor, credit_minor
         FROM billing_refunds WHERE order_id = $1",
    )
    .bind(order.to_string())
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        let row = Cols::of("billing_refunds", &row);
        Ok(KnownRefund {
            attempt: row.int("attempt")?,
            state: row.get("state")?,
            stripe_id: row.get("stripe_id")?,
            amount_minor: row.get("amount_minor")?,
            credit_minor: row.get("credit_minor")?,
        })
    })
    .transpose()
}

/// The order whose refund this one of Stripe's is, also where it was made in the dashboard and names nothing.
pub(in crate::billing) async fn refunded_by(
    connection: &mut AnyConnection,
    stripe_id: &str,
) -> Result<Option<OrderId>, DbError> {
    let row = sqlx::query("SELECT order_id FROM billing_refunds WHERE stripe_id = $1")
        .bind(stripe_id)
        .fetch_optional(connection)
        .await?;
    row.map(|row| Cols::of("billing_refunds", &row).id("order_id")).transpose()
}

/// What an order's invoices took of which something went back; nothing if none did. Minor units.
pub(in crate::billing) async fn paid_of_returned(
    connection: &mut AnyConnection,
    order: OrderId,
) -> Result<Option<i64>, DbError> {
    Ok(sqlx::query_scalar(
        "SELECT CAST(SUM(i.paid_minor) AS BIGINT) FROM billing_invoices i
         WHERE i.stripe_id IN (SELECT r.invoice_id FROM billing_returns r
                               WHERE r.order_id = $1 AND r.state = 'succeeded')",
    )
    .bind(order.to_string())
    .fetch_one(connection)
    .await?)
}

/// Writes down that a refund is wanted; a failed one begins its next attempt.
pub(in crate::billing) async fn want_refund(
    tx: &mut AnyConnection,
    at: UnixMillis,
    order: OrderId,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO billing_refunds (order_id, attempt, state, requested_at, updated_at)
         VALUES ($1, 1, $2, $3, $3)
         ON CONFLICT (order_id) DO UPDATE SET
             attempt = billing_refunds.attempt + 1, state = excluded.state, updated_at = excluded.updated_at
         WHERE billing_refunds.state = 'failed'",
    )
    .bind(order.to_string())
    .bind(RefundState::Wanted)
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(())
}

/// Writes down how much credit went back with a refund.
pub(in crate::billing) async fn put_refund_credit(
    tx: &mut AnyConnection,
    at: UnixMillis,
    order: OrderId,
    credit_minor: i64,
) -> Result<(), DbError> {
    sqlx::query(
        "UPDATE billing_refunds SET credit_minor = $2, updated_at = $3
         WHERE order_id = $1 AND credit_minor IS NULL",
    )
    .bind(order.to_string())
    .bind(credit_minor)
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(())
}

/// A call for a refund was looked up in vain: the next one has another key. One that was made in Stripe's dashboard and counted
/// as ours may have failed since; which that was stays written down, so that news of it are known as such.
pub(in crate::billing) async fn next_refund_attempt(
    tx: &mut AnyConnection,
    at: UnixMillis,
    order: OrderId,
    attempt: i64,
) -> Result<(), DbError> {
    sqlx::query(
        "UPDATE billing_refunds SET attempt = attempt + 1, state = 'wanted', updated_at = $3
         WHERE order_id = $1 AND attempt = $2 AND state IN ('wanted', 'pending')",
    )
    .bind(order.to_string())
    .bind(attempt)
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(())
}

/// Stripe said no to a refund that was asked for: it has failed, so that wanting it again is another attempt.
pub(in crate::billing) async fn refuse_refund(
    tx: &mut AnyConnection,
    at: UnixMillis,
    order: OrderId,
    attempt: i64,
) -> Result<(), DbError> {
    sqlx::query(
        "UPDATE billing_refunds SET state = 'failed', updated_at = $3
         WHERE order_id = $1 AND attempt = $2 AND state = 'wanted'",
    )
    .bind(order.to_string())
    .bind(attempt)
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(())
}

/// Writes how a refund stands; `false` if that was known.
pub(in crate::billing) async fn put_refund(
    tx: &mut AnyConnection,
    at: UnixMillis,
    order: OrderId,
    state: RefundState,
    made: (Option<&str>, Option<i64>, Option<&str>),
) -> Result<bool, DbError> {
    let (stripe_id, amount, currency) = made;
    let done = sqlx::query(
        "INSERT INTO billing_refunds
             (order_id, stripe_id, attempt, state, amount_minor, currency, requested_at, updated_at)
         VALUES ($1, $2, 1, $3, $4, $5, $6, $6)
         ON CONFLICT (order_id) DO UPDATE SET
             stripe_id = excluded.stripe_id, state = excluded.state, amount_minor = excluded.amount_minor,
             currency = excluded.currency, updated_at = excluded.updated_at
         WHERE billing_refunds.state <> excluded.state",
    )
    .bind(order.to_string())
    .bind(stripe_id)
    .bind(state)
    .bind(amount)
    .bind(currency)
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}
