//! SQL of orders.

use ez_protocol::{AccountId, OrderId, UnixMillis};
use sqlx::{AnyConnection, any::AnyRow};

use super::model::{Order, OrderState, Transition};
use crate::db::{self, Cols, DbError, one_row};

macro_rules! select_orders {
    ($rest:literal) => {
        concat!(
            "SELECT id, account_id, user_id, email, instance_id, hostname, plan_code, plan_name, image_code, image_name,
                    location, price_id, billing_interval, currency, amount_minor, terms_version, state, reason,
                    reserved_until, placed_at, updated_at, paid_at, fulfilled_at, closed_at, needs_operator_at,
                    refund_due_at, again_of, version, setup_minor, trial_days, paid_minor
             FROM orders ",
            $rest
        )
    };
}

fn read(row: &AnyRow) -> Result<Order, DbError> {
    let row = Cols::of("orders", row);
    Ok(Order {
        id: row.id("id")?,
        account: row.id("account_id")?,
        user: row.id("user_id")?,
        email: row.text("email")?,
        instance: row.id("instance_id")?,
        hostname: row.text("hostname")?,
        plan_code: row.text("plan_code")?,
        plan_name: row.text("plan_name")?,
        image_code: row.text("image_code")?,
        image_name: row.text("image_name")?,
        location: row.text("location")?,
        price_id: row.text("price_id")?,
        interval: row.get("billing_interval")?,
        currency: row.text("currency")?,
        amount_minor: row.int("amount_minor")?,
        setup_minor: row.int("setup_minor")?,
        trial_days: row.num("trial_days")?,
        paid_minor: row.get("paid_minor")?,
        terms_version: row.text("terms_version")?,
        state: row.get("state")?,
        reason: row.get("reason")?,
        reserved_until: row.millis("reserved_until")?,
        placed_at: row.millis("placed_at")?,
        updated_at: row.millis("updated_at")?,
        paid_at: row.opt_millis("paid_at")?,
        fulfilled_at: row.opt_millis("fulfilled_at")?,
        closed_at: row.opt_millis("closed_at")?,
        needs_operator_at: row.opt_millis("needs_operator_at")?,
        refund_due_at: row.opt_millis("refund_due_at")?,
        again_of: row.opt_id("again_of")?,
        version: row.int("version")?,
    })
}

/// The slots of an account that unpaid orders hold.
pub(super) async fn unpaid_slots(tx: &mut AnyConnection, account: AccountId) -> Result<Vec<i64>, DbError> {
    let query = sqlx::query_scalar(
        "SELECT unpaid_slot FROM orders WHERE account_id = $1 AND unpaid_slot IS NOT NULL",
    );
    Ok(query.bind(account.to_string()).fetch_all(tx).await?)
}

/// The currency of an account's oldest order that is not over unpaid.
pub(super) async fn currency_of(
    connection: &mut AnyConnection,
    account: AccountId,
) -> Result<Option<String>, DbError> {
    let query = sqlx::query_scalar(
        "SELECT currency FROM orders WHERE account_id = $1 AND state NOT IN ('cancelled', 'expired')
         ORDER BY placed_at, id LIMIT 1",
    );
    Ok(query.bind(account.to_string()).fetch_optional(connection).await?)
}

/// Whether an account has an order with a trial that came to something, or still can.
pub(super) async fn has_had_trial(
    connection: &mut AnyConnection,
    account: AccountId,
) -> Result<bool, DbError> {
    let query = sqlx::query_scalar::<_, i64>(
        "SELECT COUNT(*) FROM orders
         WHERE account_id = $1 AND trial_days > 0 AND state NOT IN ('cancelled', 'expired')
           AND NOT (state = 'refunded' AND fulfilled_at IS NULL)",
    );
    Ok(query.bind(account.to_string()).fetch_one(connection).await? > 0)
}

/// Writes a new order. A slot that somebody else took in between is a unique conflict.
pub(super) async fn insert(tx: &mut AnyConnection, order: &Order, slot: i64) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO orders
             (id, account_id, user_id, email, instance_id, hostname, plan_code, plan_name, image_code, image_name,
              location, price_id, billing_interval, currency, amount_minor, terms_version, state, reserved_until,
              placed_at, updated_at, unpaid_slot, version, again_of, setup_minor, trial_days)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $19, $20, $21,
              $22, $23, $24)",
    )
    .bind(order.id.to_string())
    .bind(order.account.to_string())
    .bind(order.user.to_string())
    .bind(&order.email)
    .bind(order.instance.to_string())
    .bind(&order.hostname)
    .bind(&order.plan_code)
    .bind(&order.plan_name)
    .bind(&order.image_code)
    .bind(&order.image_name)
    .bind(&order.location)
    .bind(&order.price_id)
    .bind(order.interval)
    .bind(&order.currency)
    .bind(order.amount_minor)
    .bind(&order.terms_version)
    .bind(order.state)
    .bind(order.reserved_until.0)
    .bind(order.placed_at.0)
    .bind(slot)
    .bind(order.version)
    .bind(db::opt_id(order.again_of.as_ref()))
    .bind(order.setup_minor)
    .bind(i64::from(order.trial_days))
    .execute(tx)
    .await?;
    Ok(())
}

/// Writes what can change of an order, if nobody changed it in between; its version rises.
pub(super) async fn save(tx: &mut AnyConnection, was: i64, order: &Order) -> Result<(), DbError> {
    let millis = |time: Option<UnixMillis>| time.map(|at| at.0);
    let done = sqlx::query(
        "UPDATE orders SET
             state = $3, reason = $4, updated_at = $5, paid_at = $6, fulfilled_at = $7, closed_at = $8,
             needs_operator_at = $9, refund_due_at = $10, version = $11, paid_minor = $12,
             unpaid_slot = CASE WHEN $3 = 'awaiting_payment' THEN unpaid_slot ELSE NULL END
         WHERE id = $1 AND version = $2",
    )
    .bind(order.id.to_string())
    .bind(was)
    .bind(order.state)
    .bind(&order.reason)
    .bind(order.updated_at.0)
    .bind(millis(order.paid_at))
    .bind(millis(order.fulfilled_at))
    .bind(millis(order.closed_at))
    .bind(millis(order.needs_operator_at))
    .bind(millis(order.refund_due_at))
    .bind(order.version)
    .bind(order.paid_minor)
    .execute(tx)
    .await?;
    one_row(done)
}

/// The order, and nobody else changes it until this transaction ends.
pub(super) async fn get_to_change(tx: &mut AnyConnection, id: OrderId) -> Result<Option<Order>, DbError> {
    db::lock(tx, "order", id).await?;
    get(tx, id).await
}

pub(super) async fn get(connection: &mut AnyConnection, id: OrderId) -> Result<Option<Order>, DbError> {
    let row =
        sqlx::query(select_orders!("WHERE id = $1")).bind(id.to_string()).fetch_optional(connection).await?;
    row.as_ref().map(read).transpose()
}

/// The order that repeats this one, or repeats one that repeats it and so on, and has not itself ended unpaid.
pub(super) async fn successor(connection: &mut AnyConnection, id: OrderId) -> Result<Option<Order>, DbError> {
    let mut ended = vec![id];
    while let Some(id) = ended.pop() {
        let rows = sqlx::query(select_orders!("WHERE again_of = $1 ORDER BY placed_at DESC, id LIMIT 20"))
            .bind(id.to_string())
            .fetch_all(&mut *connection)
            .await?;
        for row in &rows {
            let order = read(row)?;
            if !matches!(order.state, OrderState::Cancelled | OrderState::Expired) {
                return Ok(Some(order));
            }
            ended.push(order.id);
        }
    }
    Ok(None)
}

pub(super) async fn of_account(
    connection: &mut AnyConnection,
    account: AccountId,
) -> Result<Vec<Order>, DbError> {
    let rows = sqlx::query(select_orders!("WHERE account_id = $1 ORDER BY placed_at DESC, id LIMIT 500"))
        .bind(account.to_string())
        .fetch_all(connection)
        .await?;
    rows.iter().map(read).collect()
}

pub(super) async fn in_state(
    connection: &mut AnyConnection,
    state: OrderState,
) -> Result<Vec<Order>, DbError> {
    let rows = sqlx::query(select_orders!("WHERE state = $1 ORDER BY updated_at, id LIMIT 500"))
        .bind(state)
        .fetch_all(connection)
        .await?;
    rows.iter().map(read).collect()
}

pub(super) async fn newest(connection: &mut AnyConnection) -> Result<Vec<Order>, DbError> {
    let rows =
        sqlx::query(select_orders!("ORDER BY placed_at DESC, id LIMIT 200")).fetch_all(connection).await?;
    rows.iter().map(read).collect()
}

/// Every order for which something can still fall due, oldest change first.
pub(super) async fn open(connection: &mut AnyConnection) -> Result<Vec<OrderId>, DbError> {
    let rows = sqlx::query(
        "SELECT id FROM orders
         WHERE state IN ('awaiting_payment', 'paid', 'provisioning', 'needs_operator', 'refunding')
         ORDER BY updated_at LIMIT 1000",
    )
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Cols::of("orders", row).id("id")).collect()
}

/// Notes that an unpaid order is to be cancelled, and for whom.
pub(super) async fn want_cancel(tx: &mut AnyConnection, id: OrderId, actor: &str) -> Result<(), DbError> {
    // None when it is not unpaid any more: then there is nothing to wish.
    sqlx::query("UPDATE orders SET cancel_wanted_by = $2 WHERE id = $1 AND state = 'awaiting_payment'")
        .bind(id.to_string())
        .bind(actor)
        .execute(tx)
        .await?;
    Ok(())
}

/// Who wanted an order cancelled.
pub(super) async fn cancel_wanted(
    connection: &mut AnyConnection,
    id: OrderId,
) -> Result<Option<String>, DbError> {
    let row = sqlx::query("SELECT id, cancel_wanted_by FROM orders WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map_or(Ok(None), |row| Cols::of("orders", row).get("cancel_wanted_by"))
}

pub(super) async fn insert_transition(
    tx: &mut AnyConnection,
    id: OrderId,
    seq: i64,
    transition: &Transition,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO order_transitions (order_id, seq, from_state, to_state, cause, reason, at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(id.to_string())
    .bind(seq)
    .bind(transition.from.map(OrderState::as_str))
    .bind(transition.to)
    .bind(&transition.cause)
    .bind(&transition.reason)
    .bind(transition.at.0)
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn history(connection: &mut AnyConnection, id: OrderId) -> Result<Vec<Transition>, DbError> {
    let rows = sqlx::query(
        "SELECT order_id, from_state, to_state, cause, reason, at FROM order_transitions
         WHERE order_id = $1 ORDER BY seq",
    )
    .bind(id.to_string())
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("order_transitions", row);
            Ok(Transition {
                from: row.opt_id("from_state")?,
                to: row.get("to_state")?,
                cause: row.text("cause")?,
                reason: row.get("reason")?,
                at: row.millis("at")?,
            })
        })
        .collect()
}
