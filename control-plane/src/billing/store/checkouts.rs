//! SQL of what orders have to be paid with.

use ez_protocol::{OrderId, UnixMillis};
use sqlx::{AnyConnection, any::AnyRow};

use crate::{
    billing::model::{Checkout, CheckoutState, Expectation, Problem},
    db::{self, Cols, DbError, one_row},
};

fn read_checkout(row: &AnyRow) -> Result<Checkout, DbError> {
    let row = Cols::of("billing_checkouts", row);
    Ok(Checkout {
        expected: Expectation {
            order: row.id("order_id")?,
            instance: row.id("instance_id")?,
            account: row.id("account_id")?,
            email: row.text("email")?,
            description: row.text("description")?,
            price_id: row.text("price_id")?,
            stripe_price_id: row.text("stripe_price_id")?,
            currency: row.text("currency")?,
            amount_minor: row.int("amount_minor")?,
            setup_minor: row.int("setup_minor")?,
            stripe_setup_price_id: row.get("stripe_setup_price_id")?,
            trial_days: row.num("trial_days")?,
            tax: row.get("tax")?,
        },
        discount_minor: row.int("discount_minor")?,
        tax_minor: row.int("tax_minor")?,
        paid_minor: row.get("paid_minor")?,
        attempt: row.int("attempt")?,
        state: row.get("state")?,
        session_id: row.get("session_id")?,
        url: row.get("url")?,
        expires_at: row.opt_millis("expires_at")?,
        customer_id: row.get("customer_id")?,
        subscription_id: row.get("subscription_id")?,
        settled_at: row.opt_millis("settled_at")?,
        problem: row.opt_id::<Problem>("problem")?,
    })
}

const CHECKOUT: &str = "SELECT order_id, instance_id, account_id, email, description, price_id, currency,
            amount_minor, attempt, state, session_id, url, expires_at, stripe_price_id, customer_id,
            subscription_id, settled_at, problem, setup_minor, stripe_setup_price_id, trial_days, tax,
            discount_minor, tax_minor, paid_minor
     FROM billing_checkouts
     WHERE order_id = $1";

pub(in crate::billing) async fn insert_checkout(
    tx: &mut AnyConnection,
    at: UnixMillis,
    expected: &Expectation,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO billing_checkouts
             (order_id, instance_id, account_id, email, description, price_id, currency, amount_minor,
              attempt, state, created_at, updated_at, stripe_price_id, setup_minor, stripe_setup_price_id,
              trial_days, tax)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 1, $9, $10, $10, $11, $12, $13, $14, $15)",
    )
    .bind(expected.order.to_string())
    .bind(expected.instance.to_string())
    .bind(expected.account.to_string())
    .bind(&expected.email)
    .bind(&expected.description)
    .bind(&expected.price_id)
    .bind(&expected.currency)
    .bind(expected.amount_minor)
    .bind(CheckoutState::Wanted)
    .bind(at.0)
    .bind(&expected.stripe_price_id)
    .bind(expected.setup_minor)
    .bind(&expected.stripe_setup_price_id)
    .bind(i64::from(expected.trial_days))
    .bind(expected.tax)
    .execute(tx)
    .await?;
    Ok(())
}

pub(in crate::billing) async fn checkout(
    connection: &mut AnyConnection,
    order: OrderId,
) -> Result<Option<Checkout>, DbError> {
    let row = sqlx::query(CHECKOUT).bind(order.to_string()).fetch_optional(connection).await?;
    row.as_ref().map(read_checkout).transpose()
}

/// The checkout, and nobody else decides about it until this transaction ends. Comes before everything else.
pub(in crate::billing) async fn checkout_to_change(
    tx: &mut AnyConnection,
    order: OrderId,
) -> Result<Option<Checkout>, DbError> {
    db::lock(tx, "checkout", order).await?;
    checkout(tx, order).await
}

/// Writes what changed of a checkout, if it still is in the state it was read in.
pub(in crate::billing) async fn save_checkout(
    tx: &mut AnyConnection,
    at: UnixMillis,
    was: CheckoutState,
    checkout: &Checkout,
) -> Result<(), DbError> {
    let done = sqlx::query(
        "UPDATE billing_checkouts SET
             attempt = $3, state = $4, session_id = $5, url = $6, expires_at = $7, customer_id = $8,
             subscription_id = $9, settled_at = $10, problem = $11, updated_at = $12, discount_minor = $13,
             tax_minor = $14, paid_minor = $15
         WHERE order_id = $1 AND state = $2",
    )
    .bind(checkout.expected.order.to_string())
    .bind(was)
    .bind(checkout.attempt)
    .bind(checkout.state)
    .bind(&checkout.session_id)
    .bind(&checkout.url)
    .bind(checkout.expires_at.map(|at| at.0))
    .bind(&checkout.customer_id)
    .bind(&checkout.subscription_id)
    .bind(checkout.settled_at.map(|at| at.0))
    .bind(checkout.problem.map(Problem::as_str))
    .bind(at.0)
    .bind(checkout.discount_minor)
    .bind(checkout.tax_minor)
    .bind(checkout.paid_minor)
    .execute(tx)
    .await?;
    one_row(done)
}

/// What an order's subscription costs now counts as what it was bought for.
pub(in crate::billing) async fn accept_price(tx: &mut AnyConnection, order: OrderId) -> Result<(), DbError> {
    let done = sqlx::query(
        "UPDATE billing_checkouts SET
             stripe_price_id = COALESCE((SELECT s.stripe_price_id FROM billing_subscriptions s
                                         WHERE s.order_id = billing_checkouts.order_id), stripe_price_id)
         WHERE order_id = $1",
    )
    .bind(order.to_string())
    .execute(tx)
    .await?;
    one_row(done)
}

/// Orders whose payment page has been open (or wanted) since before a time.
pub(in crate::billing) async fn old_checkouts(
    connection: &mut AnyConnection,
    before: UnixMillis,
) -> Result<Vec<OrderId>, DbError> {
    let rows = sqlx::query(
        "SELECT order_id FROM billing_checkouts
         WHERE state IN ('open', 'processing') AND created_at < $1
         ORDER BY created_at LIMIT 200",
    )
    .bind(before.0)
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Cols::of("billing_checkouts", row).id("order_id")).collect()
}
