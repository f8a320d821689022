//! SQL of standings, steps, disputes, returns and exemptions.

use std::time::Duration;

use ez_protocol::{AccountId, InstanceId, OrderId, UnixMillis};
use sqlx::{AnyConnection, any::AnyRow};

use super::{
    Standing,
    standing::{Disputed, Facts, Judgement, Stand, Status, Step, Unpaid},
};
use crate::{
    billing::{
        model::RefundState,
        store as billing_store,
        stripe::{DisputeState, DisputeView, InvoiceView, RefundView},
    },
    db::{Cols, DbError},
};

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
                k.stripe_id AS card_id, k.brand, k.last4, k.exp_month, k.exp_year
         FROM billing_subscriptions s
         JOIN billing_checkouts c ON c.order_id = s.order_id
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
async fn period_is_returned(
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
             reason = excluded.reason, amount_minor = excluded.amount_minor,
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

fn read(row: &AnyRow) -> Result<Standing, DbError> {
    let row = Cols::of("billing_standings", row);
    let step = row.opt_id::<Step>("next_step")?;
    Ok(Standing {
        order: row.id("order_id")?,
        instance: row.id("instance_id")?,
        account: row.id("account_id")?,
        stand: row.get("stand")?,
        why: row.get("why")?,
        since: row.millis("since")?,
        next: step.zip(row.opt_millis("next_at")?),
    })
}

macro_rules! select_standings {
    ($rest:literal) => {
        concat!(
            "SELECT order_id, instance_id, account_id, stand, why, since, next_step, next_at FROM billing_standings ",
            $rest
        )
    };
}

pub(in crate::billing) async fn standing(
    connection: &mut AnyConnection,
    order: OrderId,
) -> Result<Option<Standing>, DbError> {
    let row = sqlx::query(select_standings!("WHERE order_id = $1"))
        .bind(order.to_string())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(read).transpose()
}

/// The standings that are not simply "paid, runs": those that are served or can be again first, what comes next before what
/// comes later; then the exempt, who are only charged; then those whose service has ended, the last one first.
pub(in crate::billing) async fn not_running(
    connection: &mut AnyConnection,
    limit: i64,
) -> Result<Vec<Standing>, DbError> {
    let rows = sqlx::query(select_standings!(
        "WHERE stand <> 'run' OR why <> 'paid'
         ORDER BY CASE WHEN stand = 'end' THEN 2 WHEN why = 'exempt' THEN 1 ELSE 0 END,
                  CASE WHEN next_at IS NULL THEN 1 ELSE 0 END, next_at, since DESC, order_id
         LIMIT $1"
    ))
    .bind(limit)
    .fetch_all(connection)
    .await?;
    rows.iter().map(read).collect()
}

/// The standings that a server may not have followed: all that are suspended, and those that ended after a time.
pub(in crate::billing) async fn to_follow(
    connection: &mut AnyConnection,
    ended_after: UnixMillis,
) -> Result<Vec<Standing>, DbError> {
    let rows = sqlx::query(select_standings!(
        "WHERE stand = 'suspend' OR (stand = 'end' AND since >= $1) ORDER BY since, order_id"
    ))
    .bind(ended_after.0)
    .fetch_all(connection)
    .await?;
    rows.iter().map(read).collect()
}

/// Those of an account.
pub(in crate::billing) async fn of_account(
    connection: &mut AnyConnection,
    account: AccountId,
) -> Result<Vec<Standing>, DbError> {
    let rows =
        sqlx::query(select_standings!("WHERE account_id = $1 ORDER BY since DESC, order_id LIMIT 500"))
            .bind(account.to_string())
            .fetch_all(connection)
            .await?;
    rows.iter().map(read).collect()
}

/// Those whose next step should have come already: a lost job costs time, never a step.
pub(in crate::billing) async fn overdue(
    connection: &mut AnyConnection,
    now: UnixMillis,
) -> Result<Vec<OrderId>, DbError> {
    let rows = sqlx::query(
        "SELECT order_id FROM billing_standings
         WHERE stand <> 'end' AND next_at <= $1 ORDER BY next_at LIMIT 200",
    )
    .bind(now.0)
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Cols::of("billing_standings", row).id("order_id")).collect()
}

/// Writes what holds now over what held before.
pub(in crate::billing) async fn put_standing(
    tx: &mut AnyConnection,
    at: UnixMillis,
    known: &Known,
    judged: &Judgement,
    since: UnixMillis,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO billing_standings
             (order_id, instance_id, account_id, stand, why, since, next_step, next_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         ON CONFLICT (order_id) DO UPDATE SET
             stand = excluded.stand, why = excluded.why, since = excluded.since, next_step = excluded.next_step,
             next_at = excluded.next_at, updated_at = excluded.updated_at",
    )
    .bind(known.order.to_string())
    .bind(known.instance.to_string())
    .bind(known.account.to_string())
    .bind(judged.stand)
    .bind(judged.why)
    .bind(since.0)
    .bind(judged.next.map(|(step, _)| step.as_str()))
    .bind(judged.next.map(|(_, at)| at.0))
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(())
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

/// Stand as a word sorts by how bad it is; used by the metric.
pub(in crate::billing) async fn counted(
    connection: &mut AnyConnection,
) -> Result<Vec<(Stand, i64)>, DbError> {
    let rows = sqlx::query("SELECT stand, COUNT(*) AS many FROM billing_standings GROUP BY stand")
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("billing_standings", row);
            Ok((row.get("stand")?, row.int("many")?))
        })
        .collect()
}
