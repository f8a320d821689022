//! SQL of what a server's money is judged by, of what was done about it, and of exemptions.

mod disputes;
mod returns;
mod standings;

use ez_protocol::{AccountId, InstanceId, OrderId, UnixMillis};
use sqlx::{AnyConnection, any::AnyRow};

use super::standing::{Facts, Status, Unpaid};
use crate::{
    billing,
    db::{Cols, DbError},
};

pub(in crate::billing) use self::{disputes::*, returns::*, standings::*};

/// Whose subscription, and what is known of it.
pub(in crate::billing) struct Known {
    pub(in crate::billing) order: OrderId,
    pub(in crate::billing) instance: InstanceId,
    pub(in crate::billing) account: AccountId,
    pub(in crate::billing) subscription: String,
    pub(in crate::billing) email: String,
    pub(in crate::billing) description: String,
    pub(in crate::billing) status: String,
    pub(in crate::billing) charge: Option<(i64, String)>,
    pub(in crate::billing) card: Option<Card>,
    pub(in crate::billing) facts: Facts,
}

/// What is shown of a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// `pm_…`
    pub id: String,
    /// For example `visa`.
    pub brand: String,
    /// Its last four digits.
    pub last4: String,
    /// Last month it is good in, 1 to 12.
    pub exp_month: i64,
    /// And the year.
    pub exp_year: i64,
}

/// Everything the judgement looks at; nothing before an order's subscription is known.
pub(in crate::billing) async fn known(
    connection: &mut AnyConnection,
    order: OrderId,
) -> Result<Option<Known>, DbError> {
    let row = sqlx::query(
        "SELECT s.order_id, s.instance_id, s.account_id, s.stripe_id, s.status, s.end_reason,
                s.period_start, s.period_end, s.cancel_at, s.amount_minor, s.currency, c.email, c.description,
                CASE WHEN e.instance_id IS NULL THEN 0 ELSE 1 END AS exempt, s.collection_paused,
                k.stripe_id AS card_id, k.brand, k.last4, k.exp_month, k.exp_year,
                COALESCE(b.stand, 'run') AS stands, COALESCE(b.why, 'paid') AS stands_why
         FROM billing_subscriptions s
         JOIN billing_checkouts c ON c.order_id = s.order_id
         LEFT JOIN billing_standings b ON b.order_id = s.order_id
         LEFT JOIN billing_exemptions e ON e.instance_id = s.instance_id
         LEFT JOIN billing_customers u ON u.account_id = s.account_id
         LEFT JOIN billing_cards k ON k.stripe_id = COALESCE(s.payment_method_id, u.payment_method_id)
         WHERE s.order_id = $1",
    )
    .bind(order.to_string())
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let row = Cols::of("billing_subscriptions", &row);
    let (subscription, status) = (row.text("stripe_id")?, row.text("status")?);
    let unpaid = unpaid(connection, &subscription, Status::of(&status)).await?;
    let notice_at = match &unpaid {
        Some(unpaid) => step_at(connection, &notice_key(&unpaid.invoice)).await?,
        None => None,
    };
    // What has no copy was never read.
    let mut read_at = last_read(connection, &subscription).await?;
    if let Some(unpaid) = &unpaid {
        read_at = read_at.min(last_read(connection, &unpaid.invoice).await?);
    }
    // In a trial nothing is paid for the period: a set-up fee that went back was not its price.
    let refunded = match row.opt_millis("period_start")?.filter(|_| status != "trialing") {
        Some(begin) => period_is_returned(connection, &subscription, begin).await?,
        None => false,
    };
    let closed = closed_at(connection, &subscription).await?.is_some();
    let orphaned = step_at(connection, &orphan_key(&subscription)).await?;
    let end_reason: Option<String> = row.get("end_reason")?;
    let facts = Facts {
        status: Status::of(&status),
        ended_unpaid: status == "canceled" && end_reason.as_deref() == Some("payment_failed"),
        // Any other reason is somebody's wish: a customer's or an operator's, or the retention that they have set.
        ended_by_dispute: status == "canceled" && end_reason.as_deref() == Some("payment_disputed"),
        period_start: row.opt_millis("period_start")?,
        period_end: row.opt_millis("period_end")?,
        cancel_at: row.opt_millis("cancel_at")?,
        unpaid,
        disputed: disputed(connection, order).await?,
        refunded,
        exempt: row.flag("exempt")?,
        closed,
        orphaned,
        collection_paused: row.flag("collection_paused")?,
        notice_at,
        read_at,
        stands: row.id("stands")?,
        stands_why: row.id("stands_why")?,
    };
    let amount: Option<i64> = row.get("amount_minor")?;
    let currency: Option<String> = row.get("currency")?;
    Ok(Some(Known {
        order,
        instance: row.id("instance_id")?,
        account: row.id("account_id")?,
        subscription,
        email: row.text("email")?,
        description: row.text("description")?,
        status,
        charge: amount.zip(currency),
        card: read_card(row)?,
        facts,
    }))
}

/// When an object of Stripe's was read last; before all times if it never was.
async fn last_read(connection: &mut AnyConnection, object: &str) -> Result<UnixMillis, DbError> {
    Ok(billing::store::read_at(connection, object).await?.unwrap_or(UnixMillis(0)))
}

fn read_card(row: Cols<'_>) -> Result<Option<Card>, DbError> {
    let Some(id) = row.get::<Option<String>>("card_id")? else { return Ok(None) };
    Ok(Some(Card {
        id,
        brand: row.text("brand")?,
        last4: row.text("last4")?,
        exp_month: row.int("exp_month")?,
        exp_year: row.int("exp_year")?,
    }))
}

/// The key of the notice that a server will be deleted because this invoice is unpaid.
pub(in crate::billing) fn notice_key(invoice: &str) -> String {
    format!("notice:{invoice}")
}

/// The key of a subscription's end by the deletion of its customer at Stripe.
pub(in crate::billing) fn orphan_key(subscription: &str) -> String {
    format!("orphaned:{subscription}")
}

/// Notes that the service of a subscription is over for good; `false` if that was noted before.
pub(in crate::billing) async fn close(
    tx: &mut AnyConnection,
    at: UnixMillis,
    order: OrderId,
    subscription: &str,
) -> Result<bool, DbError> {
    first_time(tx, at, order, &format!("closed:{subscription}")).await
}

/// When we ended the service of a subscription for good, if we did.
pub(in crate::billing) async fn closed_at(
    connection: &mut AnyConnection,
    subscription: &str,
) -> Result<Option<UnixMillis>, DbError> {
    step_at(connection, &format!("closed:{subscription}")).await
}

/// What a subscription was invoiced and nobody has paid. Its traffic is no part of it: that was used, whatever came after.
pub(in crate::billing) async fn open_invoices(
    connection: &mut AnyConnection,
    subscription: &str,
) -> Result<Vec<String>, DbError> {
    Ok(sqlx::query_scalar(
        "SELECT stripe_id FROM billing_invoices
         WHERE subscription_id = $1 AND status IN ('open', 'uncollectible') AND COALESCE(reason, '') <> 'manual'
               AND traffic_alone = 0
         ORDER BY issued_at, stripe_id",
    )
    .bind(subscription)
    .fetch_all(connection)
    .await?)
}

/// What of a subscription Stripe has not made final, its traffic left out.
pub(super) async fn drafts(
    connection: &mut AnyConnection,
    subscription: &str,
) -> Result<Vec<String>, DbError> {
    Ok(sqlx::query_scalar(
        "SELECT stripe_id FROM billing_invoices
         WHERE subscription_id = $1 AND status = 'draft' AND traffic_alone = 0",
    )
    .bind(subscription)
    .fetch_all(connection)
    .await?)
}

/// What of a subscription is owed.
struct Owed {
    unpaid: Unpaid,
    /// Whether it is a renewal that may be paid still.
    renewal: bool,
    /// Whether it is the invoice that Stripe's word for the subscription follows.
    latest: bool,
}

/// What of a subscription is owed: what was tried to collect first, since another one may be tried within the hour. What was
/// written off is no beginning of another debt, so it comes last. A bill beside the subscription is none either: Stripe goes
/// on renewing, and what is paid for is served.
async fn owed(connection: &mut AnyConnection, subscription: &str) -> Result<Vec<Owed>, DbError> {
    let rows = sqlx::query(
        "SELECT o.stripe_id, COALESCE(o.due_at, o.issued_at) AS due_at,
                CASE WHEN o.status = 'open' AND o.reason = 'subscription_cycle' THEN 1 ELSE 0 END AS renewal,
                CASE WHEN o.stripe_id = COALESCE(o.latest_invoice_id, '') THEN 1 ELSE 0 END AS latest
         FROM billing_owed o
         WHERE o.subscription_id = $1 AND COALESCE(o.reason, '') <> 'manual' AND o.traffic_alone = 0
         ORDER BY CASE WHEN o.status = 'open' THEN 0 ELSE 1 END, CASE WHEN o.tries > 0 THEN 0 ELSE 1 END,
                  COALESCE(o.due_at, o.issued_at), o.stripe_id",
    )
    .bind(subscription)
    .fetch_all(connection)
    .await?;
    let read = |row: &AnyRow| {
        let row = Cols::of("billing_owed", row);
        Ok(Owed {
            unpaid: Unpaid { invoice: row.text("stripe_id")?, since: row.millis("due_at")? },
            renewal: row.flag("renewal")?,
            latest: row.flag("latest")?,
        })
    };
    rows.iter().map(read).collect()
}

/// What starts the clock of a subscription. Stripe's word for it looks at its latest invoice alone: where that says that all is
/// well, a renewal before that one is owed all the same. The latest itself is not, whose payment may be under way for days, nor
/// a change of plan that waits for its payment, nor what was written off meanwhile.
async fn unpaid(
    connection: &mut AnyConnection,
    subscription: &str,
    status: Status,
) -> Result<Option<Unpaid>, DbError> {
    let counts = |owed: &Owed| status != Status::Active || (owed.renewal && !owed.latest);
    Ok(owed(connection, subscription).await?.into_iter().find(counts).map(|owed| owed.unpaid))
}

/// The renewal to read again that a subscription owes by the copy, where Stripe's word for it is that all is well. The copy may
/// not know yet that another one followed it, so its latest is one too.
pub(in crate::billing) async fn owed_before(
    connection: &mut AnyConnection,
    subscription: &str,
) -> Result<Option<String>, DbError> {
    let owed = owed(connection, subscription).await?.into_iter().find(|owed| owed.renewal);
    Ok(owed.map(|owed| owed.unpaid.invoice))
}

/// Notes that something was done for a cause; `false` if it was done before.
pub(in crate::billing) async fn first_time(
    tx: &mut AnyConnection,
    at: UnixMillis,
    order: OrderId,
    cause_key: &str,
) -> Result<bool, DbError> {
    let done = sqlx::query(
        "INSERT INTO billing_steps (cause_key, order_id, done_at) VALUES ($1, $2, $3)
         ON CONFLICT (cause_key) DO NOTHING",
    )
    .bind(cause_key)
    .bind(order.to_string())
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Whether an effect was done.
pub(in crate::billing) async fn is_done(
    connection: &mut AnyConnection,
    cause_key: &str,
) -> Result<bool, DbError> {
    Ok(step_at(connection, cause_key).await?.is_some())
}

async fn step_at(connection: &mut AnyConnection, cause_key: &str) -> Result<Option<UnixMillis>, DbError> {
    let at: Option<i64> = sqlx::query_scalar("SELECT done_at FROM billing_steps WHERE cause_key = $1")
        .bind(cause_key)
        .fetch_optional(connection)
        .await?;
    Ok(at.map(UnixMillis))
}

/// Whose server an instance is, by the subscription that pays for it.
pub(in crate::billing) async fn order_of(
    connection: &mut AnyConnection,
    instance: InstanceId,
) -> Result<Option<OrderId>, DbError> {
    let row = sqlx::query("SELECT order_id FROM billing_subscriptions WHERE instance_id = $1")
        .bind(instance.to_string())
        .fetch_optional(connection)
        .await?;
    row.map(|row| Cols::of("billing_subscriptions", &row).id("order_id")).transpose()
}

pub(in crate::billing) async fn put_exemption(
    tx: &mut AnyConnection,
    at: UnixMillis,
    instance: InstanceId,
    reason: &str,
    actor: &str,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO billing_exemptions (instance_id, reason, made_by, made_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (instance_id) DO UPDATE SET reason = excluded.reason, made_by = excluded.made_by",
    )
    .bind(instance.to_string())
    .bind(reason)
    .bind(actor)
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(())
}

/// `false` if there was none.
pub(in crate::billing) async fn remove_exemption(
    tx: &mut AnyConnection,
    instance: InstanceId,
) -> Result<bool, DbError> {
    let done = sqlx::query("DELETE FROM billing_exemptions WHERE instance_id = $1")
        .bind(instance.to_string())
        .execute(tx)
        .await?;
    Ok(done.rows_affected() == 1)
}
