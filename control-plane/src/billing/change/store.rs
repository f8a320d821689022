//! SQL of plan changes.

use ez_protocol::{AccountId, InstanceId, OrderId, PlanChangeId, UnixMillis};
use sqlx::{AnyConnection, any::AnyRow};

use super::model::{Change, ChangeState, Way};
use crate::db::{Cols, DbError, one_row};

macro_rules! select_changes {
    ($rest:literal) => {
        concat!(
            "SELECT id, order_id, instance_id, account_id, way, state, from_price, from_stripe_price, to_price,
                    to_stripe_price, to_plan, to_size, quote, proration_date, attempt, due_at, expires_at, invoice_id,
                    schedule_id, released, back_wanted, reason, actor, applied_no, created_at, confirmed_at,
                    applied_at, ended_at, updated_at
             FROM billing_changes ",
            $rest
        )
    };
}

fn read(row: &AnyRow) -> Result<Change, DbError> {
    let row = Cols::of("billing_changes", row);
    Ok(Change {
        id: row.id("id")?,
        order: row.id("order_id")?,
        instance: row.id("instance_id")?,
        account: row.id("account_id")?,
        way: row.get::<Way>("way")?,
        state: row.get::<ChangeState>("state")?,
        from_price: row.text("from_price")?,
        from_stripe_price: row.text("from_stripe_price")?,
        to_price: row.text("to_price")?,
        to_stripe_price: row.text("to_stripe_price")?,
        to_plan: row.text("to_plan")?,
        to_size: row.json("to_size")?,
        quote: match row.get::<Option<String>>("quote")? {
            Some(_) => Some(row.json("quote")?),
            None => None,
        },
        proration_date: row.int("proration_date")?,
        attempt: row.int("attempt")?,
        due_at: row.opt_millis("due_at")?,
        expires_at: row.opt_millis("expires_at")?,
        invoice: row.get("invoice_id")?,
        schedule: row.get("schedule_id")?,
        released: row.flag("released")?,
        back_wanted: row.flag("back_wanted")?,
        reason: row.get("reason")?,
        actor: row.text("actor")?,
        applied_no: row.get("applied_no")?,
        created_at: row.millis("created_at")?,
        confirmed_at: row.opt_millis("confirmed_at")?,
        applied_at: row.opt_millis("applied_at")?,
        ended_at: row.opt_millis("ended_at")?,
        updated_at: row.millis("updated_at")?,
    })
}

/// Whether its server has something to follow: it has just come about, or room that was kept for it is to be given back.
fn to_follow(state: ChangeState) -> bool {
    !matches!(state, ChangeState::Previewed | ChangeState::Done)
}

pub(super) async fn insert(tx: &mut AnyConnection, change: &Change) -> Result<(), DbError> {
    let quote = change.quote.as_ref().map(|quote| serde_json::to_string(quote).unwrap_or_default());
    sqlx::query(
        "INSERT INTO billing_changes
             (id, order_id, instance_id, account_id, way, state, from_price, from_stripe_price, to_price,
              to_stripe_price, to_plan, quote, proration_date, attempt, due_at, actor, applied_no, followed,
              created_at, applied_at, updated_at, to_size)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)",
    )
    .bind(change.id.to_string())
    .bind(change.order.to_string())
    .bind(change.instance.to_string())
    .bind(change.account.to_string())
    .bind(change.way)
    .bind(change.state)
    .bind(&change.from_price)
    .bind(&change.from_stripe_price)
    .bind(&change.to_price)
    .bind(&change.to_stripe_price)
    .bind(&change.to_plan)
    .bind(quote)
    .bind(change.proration_date)
    .bind(change.attempt)
    .bind(change.due_at.map(|at| at.0))
    .bind(&change.actor)
    .bind(change.applied_no)
    .bind(i64::from(!to_follow(change.state)))
    .bind(change.created_at.0)
    .bind(change.applied_at.map(|at| at.0))
    .bind(change.updated_at.0)
    .bind(serde_json::to_string(&change.to_size).unwrap_or_default())
    .execute(tx)
    .await?;
    Ok(())
}

/// Writes what changed of a change, if it still is in the state it was read in. A change that opens while another of the
/// same order is open is a [`DbError::Conflict`].
pub(super) async fn save(
    tx: &mut AnyConnection,
    at: UnixMillis,
    was: ChangeState,
    change: &Change,
) -> Result<(), DbError> {
    let open = (change.state.is_open() && change.way != Way::Outside).then(|| change.order.to_string());
    // A step within a state leaves what the server has followed.
    let followed = if was == change.state { None } else { Some(i64::from(!to_follow(change.state))) };
    let done = sqlx::query(
        "UPDATE billing_changes SET
             state = $3, open_order = $4, attempt = $5, expires_at = $6, invoice_id = $7, schedule_id = $8,
             released = $9, back_wanted = $10, reason = $11, applied_no = $12, followed = COALESCE($13, followed),
             confirmed_at = $14, applied_at = $15, ended_at = $16, updated_at = $17, actor = $18
         WHERE id = $1 AND state = $2",
    )
    .bind(change.id.to_string())
    .bind(was)
    .bind(change.state)
    .bind(open)
    .bind(change.attempt)
    .bind(change.expires_at.map(|at| at.0))
    .bind(&change.invoice)
    .bind(&change.schedule)
    .bind(i64::from(change.released))
    .bind(i64::from(change.back_wanted))
    .bind(&change.reason)
    .bind(change.applied_no)
    .bind(followed)
    .bind(change.confirmed_at.map(|at| at.0))
    .bind(change.applied_at.map(|at| at.0))
    .bind(change.ended_at.map(|at| at.0))
    .bind(at.0)
    .bind(&change.actor)
    .execute(tx)
    .await?;
    one_row(done)
}

pub(super) async fn get(connection: &mut AnyConnection, id: PlanChangeId) -> Result<Option<Change>, DbError> {
    let row =
        sqlx::query(select_changes!("WHERE id = $1")).bind(id.to_string()).fetch_optional(connection).await?;
    row.as_ref().map(read).transpose()
}

/// The one change of an order that is under way; one made outside is not counted.
pub(super) async fn open(connection: &mut AnyConnection, order: OrderId) -> Result<Option<Change>, DbError> {
    let row = sqlx::query(select_changes!("WHERE open_order = $1"))
        .bind(order.to_string())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(read).transpose()
}

/// The newest of an order's changes that came about: what is paid for now.
pub(super) async fn paid_for(
    connection: &mut AnyConnection,
    order: OrderId,
) -> Result<Option<Change>, DbError> {
    let row = sqlx::query(select_changes!(
        "WHERE order_id = $1 AND applied_no IS NOT NULL ORDER BY applied_no DESC LIMIT 1"
    ))
    .bind(order.to_string())
    .fetch_optional(connection)
    .await?;
    row.as_ref().map(read).transpose()
}

/// An order's changes that came about before its newest and that its server has not followed.
pub(super) async fn overtaken(
    connection: &mut AnyConnection,
    order: OrderId,
) -> Result<Vec<Change>, DbError> {
    let rows = sqlx::query(select_changes!(
        "WHERE order_id = $1 AND state = 'applied'
           AND applied_no < (SELECT MAX(n.applied_no) FROM billing_changes n WHERE n.order_id = $1)
         ORDER BY applied_no"
    ))
    .bind(order.to_string())
    .fetch_all(connection)
    .await?;
    rows.iter().map(read).collect()
}

/// An order's changes that were confirmed or made outside, newest first.
pub(super) async fn of_order(connection: &mut AnyConnection, order: OrderId) -> Result<Vec<Change>, DbError> {
    let rows = sqlx::query(select_changes!(
        "WHERE order_id = $1 AND state <> 'previewed' AND (confirmed_at IS NOT NULL OR way = 'outside')
         ORDER BY created_at DESC, id DESC LIMIT 50"
    ))
    .bind(order.to_string())
    .fetch_all(connection)
    .await?;
    rows.iter().map(read).collect()
}

/// The same of a server's order.
pub(super) async fn open_of_account(
    connection: &mut AnyConnection,
    account: AccountId,
) -> Result<Vec<Change>, DbError> {
    let rows = sqlx::query(select_changes!(
        "WHERE account_id = $1 AND open_order IS NOT NULL ORDER BY created_at, id"
    ))
    .bind(account.to_string())
    .fetch_all(connection)
    .await?;
    rows.iter().map(read).collect()
}

/// Orders whose servers have something to follow.
pub(super) async fn orders_to_follow(connection: &mut AnyConnection) -> Result<Vec<OrderId>, DbError> {
    let rows = sqlx::query(
        "SELECT order_id, MIN(updated_at) AS since FROM billing_changes WHERE followed = 0
         GROUP BY order_id ORDER BY since LIMIT 500",
    )
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Cols::of("billing_changes", row).id("order_id")).collect()
}

/// The server has followed all of an order's changes that are not under way.
pub(super) async fn followed(tx: &mut AnyConnection, order: OrderId) -> Result<(), DbError> {
    sqlx::query(
        "UPDATE billing_changes SET followed = 1
         WHERE order_id = $1 AND followed = 0 AND state IN ('done', 'expired', 'taken_back', 'refused', 'dropped')",
    )
    .bind(order.to_string())
    .execute(tx)
    .await?;
    Ok(())
}

/// Changes under way whose next look is overdue: a lost job costs time, never a change.
pub(super) async fn overdue(
    connection: &mut AnyConnection,
    now: UnixMillis,
    since: UnixMillis,
) -> Result<Vec<PlanChangeId>, DbError> {
    let rows = sqlx::query(
        "SELECT id FROM billing_changes
         WHERE (state = 'wanted' AND updated_at < $2) OR (state = 'awaiting_payment' AND expires_at < $1)
               OR (state = 'scheduled' AND (due_at < $1 OR back_wanted = 1) AND updated_at < $2)
               OR (schedule_id IS NOT NULL AND released = 0 AND state IN ('applied', 'done', 'refused')
                   AND updated_at < $2)
         ORDER BY updated_at LIMIT 100",
    )
    .bind(now.0)
    .bind(since.0)
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Cols::of("billing_changes", row).id("id")).collect()
}

/// Removes what was looked at and never confirmed.
pub(super) async fn forget_previews(tx: &mut AnyConnection, before: UnixMillis) -> Result<(), DbError> {
    sqlx::query("DELETE FROM billing_changes WHERE state = 'previewed' AND created_at < $1")
        .bind(before.0)
        .execute(tx)
        .await?;
    Ok(())
}

/// What people read of a server's subscription from now on.
pub(super) async fn describe(
    tx: &mut AnyConnection,
    order: OrderId,
    description: &str,
) -> Result<(), DbError> {
    let done = sqlx::query("UPDATE billing_checkouts SET description = $2 WHERE order_id = $1")
        .bind(order.to_string())
        .bind(description)
        .execute(tx)
        .await?;
    one_row(done)
}

/// What a change is judged by: the copy of the subscription.
pub(super) struct Copy {
    pub(super) subscription: String,
    pub(super) status: String,
    pub(super) price: Option<String>,
    pub(super) item: Option<String>,
    pub(super) period_start: Option<UnixMillis>,
    pub(super) period_end: Option<UnixMillis>,
    pub(super) cancel_at: Option<UnixMillis>,
    /// What a period costs.
    pub(super) charge: Option<(i64, String)>,
    /// The card that it names; none is the customer's own.
    pub(super) card: Option<String>,
}

pub(super) async fn copy(connection: &mut AnyConnection, order: OrderId) -> Result<Option<Copy>, DbError> {
    let row = sqlx::query(
        "SELECT stripe_id, status, stripe_price_id, item_id, period_start, period_end, cancel_at, amount_minor, currency,
                payment_method_id
         FROM billing_subscriptions WHERE order_id = $1",
    )
    .bind(order.to_string())
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        let row = Cols::of("billing_subscriptions", &row);
        Ok(Copy {
            subscription: row.text("stripe_id")?,
            status: row.text("status")?,
            price: row.get("stripe_price_id")?,
            item: row.get("item_id")?,
            period_start: row.opt_millis("period_start")?,
            period_end: row.opt_millis("period_end")?,
            cancel_at: row.opt_millis("cancel_at")?,
            charge: row.get::<Option<i64>>("amount_minor")?.zip(row.get::<Option<String>>("currency")?),
            card: row.get("payment_method_id")?,
        })
    })
    .transpose()
}

/// Where the invoice of a change can be paid.
pub(super) async fn pay_url(
    connection: &mut AnyConnection,
    invoice: &str,
) -> Result<Option<String>, DbError> {
    let url: Option<Option<String>> = sqlx::query_scalar(
        "SELECT hosted_url FROM billing_invoices WHERE stripe_id = $1 AND status = 'open'",
    )
    .bind(invoice)
    .fetch_optional(connection)
    .await?;
    Ok(url.flatten())
}

/// The order behind a server's subscription.
pub(super) async fn order_of(
    connection: &mut AnyConnection,
    instance: InstanceId,
) -> Result<Option<OrderId>, DbError> {
    let row = sqlx::query("SELECT order_id FROM billing_subscriptions WHERE instance_id = $1")
        .bind(instance.to_string())
        .fetch_optional(connection)
        .await?;
    row.map(|row| Cols::of("billing_subscriptions", &row).id("order_id")).transpose()
}
