//! SQL of what a person gives.

use ez_protocol::{AccountId, InstanceId, OrderId, UnixMillis};
use sqlx::{AnyConnection, any::AnyRow};

use super::{GiftKind, GiftState};
use crate::{
    billing::model::RefundState,
    db::{Cols, DbError},
};

/// A gift as it is carried out.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) order: OrderId,
    pub(super) kind: GiftKind,
    pub(super) reference: String,
    pub(super) instance: InstanceId,
    pub(super) account: AccountId,
    pub(super) invoice: Option<String>,
    pub(super) amount_minor: i64,
    pub(super) currency: String,
    pub(super) state: GiftState,
}

impl Row {
    /// `<order>:<kind>:<reference>`
    pub(super) fn key(&self) -> String {
        format!("{}:{}:{}", self.order, self.kind, self.reference)
    }
}

/// Reads what [`Row::key`] wrote.
pub(super) fn read_key(key: &str) -> Option<(OrderId, GiftKind, String)> {
    let mut parts = key.splitn(3, ':');
    let (order, kind) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some((order, kind, parts.next()?.to_owned()))
}

/// What was paid with an invoice, and what of it can go back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaidInvoice {
    /// `in_…`
    pub id: String,
    /// Stripe's number.
    pub number: Option<String>,
    /// When it was made.
    pub issued_at: UnixMillis,
    /// Minor units.
    pub paid_minor: i64,
    /// Paid, less what went back or is on its way.
    pub left_minor: i64,
}

/// Something that was given, or went back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// What it is about.
    pub description: String,
    /// A refund or credit.
    pub kind: GiftKind,
    /// Minor units.
    pub amount_minor: i64,
    /// Lower-case ISO code.
    pub currency: String,
    /// How it stands.
    pub state: GiftState,
    /// When.
    pub at: UnixMillis,
    /// Why, as the one who gave it wrote; empty for what was done in Stripe's dashboard.
    pub reason: String,
}

pub(super) async fn get(
    connection: &mut AnyConnection,
    order: OrderId,
    kind: GiftKind,
    reference: &str,
) -> Result<Option<Row>, DbError> {
    let row = sqlx::query(
        "SELECT order_id, kind, reference, instance_id, account_id, invoice_id, amount_minor, currency, state
         FROM billing_gifts WHERE order_id = $1 AND kind = $2 AND reference = $3",
    )
    .bind(order.to_string())
    .bind(kind)
    .bind(reference)
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        let row = Cols::of("billing_gifts", &row);
        Ok(Row {
            order: row.id("order_id")?,
            kind: row.get("kind")?,
            reference: row.text("reference")?,
            instance: row.id("instance_id")?,
            account: row.id("account_id")?,
            invoice: row.get("invoice_id")?,
            amount_minor: row.int("amount_minor")?,
            currency: row.text("currency")?,
            state: row.get("state")?,
        })
    })
    .transpose()
}

pub(super) async fn insert(
    tx: &mut AnyConnection,
    at: UnixMillis,
    row: &Row,
    reason: &str,
    actor: &str,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO billing_gifts
             (order_id, kind, reference, instance_id, account_id, invoice_id, amount_minor, currency, reason, made_by,
              state, made_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12)",
    )
    .bind(row.order.to_string())
    .bind(row.kind)
    .bind(&row.reference)
    .bind(row.instance.to_string())
    .bind(row.account.to_string())
    .bind(&row.invoice)
    .bind(row.amount_minor)
    .bind(&row.currency)
    .bind(reason)
    .bind(actor)
    .bind(row.state)
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn set_state(
    tx: &mut AnyConnection,
    at: UnixMillis,
    row: &Row,
    state: GiftState,
) -> Result<(), DbError> {
    sqlx::query(
        "UPDATE billing_gifts SET state = $4, updated_at = $5
         WHERE order_id = $1 AND kind = $2 AND reference = $3 AND state = 'wanted'",
    )
    .bind(row.order.to_string())
    .bind(row.kind)
    .bind(&row.reference)
    .bind(state)
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(())
}

/// A gift that came to nothing, also after it was taken for done.
pub(super) async fn refuse(
    tx: &mut AnyConnection,
    at: UnixMillis,
    order: OrderId,
    kind: GiftKind,
    reference: &str,
) -> Result<(), DbError> {
    sqlx::query(
        "UPDATE billing_gifts SET state = 'refused', updated_at = $4
         WHERE order_id = $1 AND kind = $2 AND reference = $3",
    )
    .bind(order.to_string())
    .bind(kind)
    .bind(reference)
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(())
}

/// The paid invoices of an order's subscription, the newest first. What is wanted and not seen at Stripe yet counts as
/// gone; for the moment between, it counts twice, which only errs on the careful side.
pub(super) async fn paid_invoices(
    connection: &mut AnyConnection,
    order: OrderId,
) -> Result<Vec<PaidInvoice>, DbError> {
    let rows = sqlx::query(
        "SELECT i.stripe_id, i.number, i.issued_at, i.paid_minor,
                (SELECT CAST(COALESCE(SUM(r.amount_minor), 0) AS BIGINT) FROM billing_returns r
                 WHERE r.invoice_id = i.stripe_id AND r.state <> 'failed') AS returned,
                (SELECT CAST(COALESCE(SUM(g.amount_minor), 0) AS BIGINT) FROM billing_gifts g
                 WHERE g.invoice_id = i.stripe_id AND g.kind = 'refund' AND g.state = 'wanted') AS wanted
         FROM billing_invoices i
         JOIN billing_subscriptions s ON s.stripe_id = i.subscription_id
         WHERE s.order_id = $1 AND i.paid_minor > 0
         ORDER BY i.issued_at DESC, i.stripe_id LIMIT 100",
    )
    .bind(order.to_string())
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("billing_invoices", row);
            let paid_minor = row.int("paid_minor")?;
            Ok(PaidInvoice {
                id: row.text("stripe_id")?,
                number: row.get("number")?,
                issued_at: row.millis("issued_at")?,
                paid_minor,
                left_minor: (paid_minor - row.int("returned")? - row.int("wanted")?).max(0),
            })
        })
        .collect()
}

fn read_given(row: &AnyRow) -> Result<Given, DbError> {
    let row = Cols::of("billing_gifts", row);
    Ok(Given {
        description: row.text("description")?,
        kind: row.get("kind")?,
        amount_minor: row.int("amount_minor")?,
        currency: row.text("currency")?,
        state: row.get("state")?,
        at: row.millis("made_at")?,
        reason: row.text("reason")?,
    })
}

fn read_return(row: &AnyRow) -> Result<Given, DbError> {
    let row = Cols::of("billing_returns", row);
    Ok(Given {
        description: row.text("description")?,
        kind: GiftKind::Refund,
        amount_minor: row.int("amount_minor")?,
        currency: row.text("currency")?,
        state: match row.get::<RefundState>("state")? {
            RefundState::Wanted | RefundState::Pending => GiftState::Wanted,
            RefundState::Succeeded => GiftState::Done,
            RefundState::Failed => GiftState::Refused,
        },
        at: row.millis("made_at")?,
        reason: row.get::<Option<String>>("reason")?.unwrap_or_default(),
    })
}

/// What was given for an order: credit, refunds of which Stripe knows nothing yet, and what went back or was to.
pub(super) async fn given_for(connection: &mut AnyConnection, order: OrderId) -> Result<Vec<Given>, DbError> {
    let gifts = sqlx::query(
        "SELECT c.description, g.kind, g.amount_minor, g.currency, g.state, g.made_at, g.reason
         FROM billing_gifts g JOIN billing_checkouts c ON c.order_id = g.order_id
         WHERE g.order_id = $1 AND (g.kind = 'credit' OR (g.state <> 'done' AND NOT EXISTS (
                SELECT 1 FROM stripe_outbox o JOIN billing_returns r ON r.stripe_id = o.response_id
                WHERE o.purpose = 'goodwill' AND o.subject_id = g.order_id || ':' || g.reference)))
         ORDER BY g.made_at DESC LIMIT 100",
    )
    .bind(order.to_string())
    .fetch_all(&mut *connection)
    .await?;
    let returns = sqlx::query(
        "SELECT c.description, r.amount_minor, r.currency, r.state, r.made_at,
                (SELECT MAX(g.reason) FROM stripe_outbox o
                 JOIN billing_gifts g ON o.subject_id = g.order_id || ':' || g.reference AND g.kind = 'refund'
                 WHERE o.purpose = 'goodwill' AND o.response_id = r.stripe_id) AS reason
         FROM billing_returns r JOIN billing_checkouts c ON c.order_id = r.order_id
         WHERE r.order_id = $1 ORDER BY r.made_at DESC LIMIT 100",
    )
    .bind(order.to_string())
    .fetch_all(connection)
    .await?;
    together(&gifts, &returns)
}

/// The same of all an account's orders.
pub(super) async fn given_to(
    connection: &mut AnyConnection,
    account: AccountId,
) -> Result<Vec<Given>, DbError> {
    let gifts = sqlx::query(
        "SELECT c.description, g.kind, g.amount_minor, g.currency, g.state, g.made_at, g.reason
         FROM billing_gifts g JOIN billing_checkouts c ON c.order_id = g.order_id
         WHERE g.account_id = $1 AND g.kind = 'credit' AND g.state = 'done' ORDER BY g.made_at DESC LIMIT 100",
    )
    .bind(account.to_string())
    .fetch_all(&mut *connection)
    .await?;
    let returns = sqlx::query(
        "SELECT c.description, r.amount_minor, r.currency, r.state, r.made_at, NULL AS reason
         FROM billing_returns r JOIN billing_checkouts c ON c.order_id = r.order_id
         WHERE c.account_id = $1 ORDER BY r.made_at DESC LIMIT 100",
    )
    .bind(account.to_string())
    .fetch_all(connection)
    .await?;
    together(&gifts, &returns)
}

fn together(gifts: &[AnyRow], returns: &[AnyRow]) -> Result<Vec<Given>, DbError> {
    let mut all = gifts.iter().map(read_given).collect::<Result<Vec<_>, _>>()?;
    all.extend(returns.iter().map(read_return).collect::<Result<Vec<_>, _>>()?);
    all.sort_by_key(|one| std::cmp::Reverse(one.at));
    Ok(all)
}
