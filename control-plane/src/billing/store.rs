//! SQL of billing.

mod calls;
mod checkouts;
mod subscriptions;

use ez_protocol::{AccountId, UnixMillis};
use sqlx::AnyConnection;

use super::{
    model::{EventState, Source},
    stripe::{CustomerView, EventEnvelope, PaymentMethodView},
};
use crate::db::{Cols, DbError};

pub(super) use self::{calls::*, checkouts::*, subscriptions::*};

// ---- the inbox of events ------------------------------------------------------------------------

/// One event as it is stored.
pub(super) struct StoredEvent {
    pub(super) envelope: EventEnvelope,
    pub(super) source: Source,
    pub(super) raw: Vec<u8>,
    /// What it was signed with; of a webhook.
    pub(super) signature: Option<String>,
    pub(super) state: EventState,
    pub(super) error: Option<String>,
}

/// SHA-256 in hexadecimal: what is left of bytes that are thrown away.
fn hash_of(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&<sha2::Sha256 as sha2::Digest>::digest(bytes))
}

/// Stores an event; `false` if it is there already.
pub(super) async fn insert_event(
    tx: &mut AnyConnection,
    at: UnixMillis,
    event: &StoredEvent,
) -> Result<bool, DbError> {
    let envelope = &event.envelope;
    let done = sqlx::query(
        "INSERT INTO stripe_events
             (id, source, type, object_id, object_type, api_version, livemode, created, received_at, raw, state, error,
              raw_hash, signature)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
         ON CONFLICT (id) DO NOTHING",
    )
    .bind(&envelope.id)
    .bind(event.source)
    .bind(&envelope.kind)
    .bind(&envelope.object_id)
    .bind(&envelope.object_kind)
    .bind(&envelope.api_version)
    .bind(envelope.livemode.map(i64::from))
    .bind(envelope.created)
    .bind(at.0)
    .bind(&event.raw)
    .bind(event.state)
    .bind(&event.error)
    .bind(hash_of(&event.raw))
    .bind(&event.signature)
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Marks the events about an object that came in before it was read.
pub(super) async fn finish_events(
    tx: &mut AnyConnection,
    object: &str,
    read_at: UnixMillis,
    now: UnixMillis,
    state: EventState,
) -> Result<(), DbError> {
    sqlx::query(
        "UPDATE stripe_events SET state = $4, done_at = $3
         WHERE object_id = $1 AND state IN ('received', 'parked') AND received_at <= $2",
    )
    .bind(object)
    .bind(read_at.0)
    .bind(now.0)
    .bind(state)
    .execute(tx)
    .await?;
    Ok(())
}

// ---- the local copy -----------------------------------------------------------------------------

/// Writes the copy of an object unless a later reading is there already (`false`).
pub(super) async fn put_object(
    tx: &mut AnyConnection,
    id: &str,
    kind: &str,
    fetched_at: UnixMillis,
    json: &str,
) -> Result<bool, DbError> {
    let hash = hash_of(json.as_bytes());
    let done = sqlx::query(
        "INSERT INTO stripe_objects (id, kind, fetched_at, hash, json)
         VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (id) DO UPDATE SET
             kind = excluded.kind, fetched_at = excluded.fetched_at, hash = excluded.hash, json = excluded.json
         WHERE stripe_objects.fetched_at <= excluded.fetched_at",
    )
    .bind(id)
    .bind(kind)
    .bind(fetched_at.0)
    .bind(hash)
    .bind(json)
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// When the copy of an object was read.
pub(super) async fn read_at(connection: &mut AnyConnection, id: &str) -> Result<Option<UnixMillis>, DbError> {
    let at: Option<i64> = sqlx::query_scalar("SELECT fetched_at FROM stripe_objects WHERE id = $1")
        .bind(id)
        .fetch_optional(connection)
        .await?;
    Ok(at.map(UnixMillis))
}

/// The copy of an object.
pub(super) async fn object(connection: &mut AnyConnection, id: &str) -> Result<Option<String>, DbError> {
    Ok(sqlx::query_scalar("SELECT json FROM stripe_objects WHERE id = $1")
        .bind(id)
        .fetch_optional(connection)
        .await?)
}

// ---- cursors ------------------------------------------------------------------------------------

pub(super) async fn cursor(
    connection: &mut AnyConnection,
    name: &str,
) -> Result<Option<UnixMillis>, DbError> {
    let value: Option<i64> = sqlx::query_scalar("SELECT value FROM stripe_cursors WHERE name = $1")
        .bind(name)
        .fetch_optional(connection)
        .await?;
    Ok(value.map(UnixMillis))
}

/// Moves a cursor forward, never back.
pub(super) async fn move_cursor(
    tx: &mut AnyConnection,
    now: UnixMillis,
    name: &str,
    value: UnixMillis,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO stripe_cursors (name, value, updated_at) VALUES ($1, $2, $3)
         ON CONFLICT (name) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at
         WHERE stripe_cursors.value <= excluded.value",
    )
    .bind(name)
    .bind(value.0)
    .bind(now.0)
    .execute(tx)
    .await?;
    Ok(())
}

/// Sets a cursor, forward or back.
pub(super) async fn set_cursor(
    tx: &mut AnyConnection,
    now: UnixMillis,
    name: &str,
    value: UnixMillis,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO stripe_cursors (name, value, updated_at) VALUES ($1, $2, $3)
         ON CONFLICT (name) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at",
    )
    .bind(name)
    .bind(value.0)
    .bind(now.0)
    .execute(tx)
    .await?;
    Ok(())
}

// ---- customers ----------------------------------------------------------------------------------

pub(super) async fn customer(
    connection: &mut AnyConnection,
    account: AccountId,
) -> Result<Option<String>, DbError> {
    let text = "SELECT stripe_id FROM billing_customers WHERE account_id = $1 AND deleted = 0";
    Ok(sqlx::query_scalar(text).bind(account.to_string()).fetch_optional(connection).await?)
}

/// The customer that an account had and that was deleted at Stripe.
pub(super) async fn deleted_customer(
    connection: &mut AnyConnection,
    account: AccountId,
) -> Result<Option<String>, DbError> {
    let text = "SELECT stripe_id FROM billing_customers WHERE account_id = $1 AND deleted = 1";
    Ok(sqlx::query_scalar(text).bind(account.to_string()).fetch_optional(connection).await?)
}

/// The currency that Stripe keeps an account's customer to, once it has paid.
pub(super) async fn currency_of(
    connection: &mut AnyConnection,
    account: AccountId,
) -> Result<Option<String>, DbError> {
    let query =
        sqlx::query_scalar("SELECT currency FROM billing_customers WHERE account_id = $1 AND deleted = 0");
    Ok(query.bind(account.to_string()).fetch_optional(connection).await?.flatten())
}

/// Writes the account's customer; the first one stays until it is deleted at Stripe.
pub(super) async fn put_customer(
    tx: &mut AnyConnection,
    at: UnixMillis,
    account: AccountId,
    stripe_id: &str,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO billing_customers (account_id, stripe_id, created_at) VALUES ($1, $2, $3)
         ON CONFLICT (account_id) DO UPDATE SET
             stripe_id = excluded.stripe_id, created_at = excluded.created_at, balance_minor = 0, currency = NULL,
             payment_method_id = NULL, deleted = 0
         WHERE billing_customers.deleted = 1",
    )
    .bind(account.to_string())
    .bind(stripe_id)
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(())
}

/// Writes what may be shown of a payment method; what is no card has no row.
pub(super) async fn put_card(
    tx: &mut AnyConnection,
    at: UnixMillis,
    method: &PaymentMethodView,
) -> Result<(), DbError> {
    let Some(card) = &method.card else { return Ok(()) };
    sqlx::query(
        "INSERT INTO billing_cards (stripe_id, customer_id, brand, last4, exp_month, exp_year, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (stripe_id) DO UPDATE SET
             customer_id = excluded.customer_id, brand = excluded.brand, last4 = excluded.last4,
             exp_month = excluded.exp_month, exp_year = excluded.exp_year, updated_at = excluded.updated_at",
    )
    .bind(&method.id)
    .bind(&method.customer)
    .bind(card.brand.as_deref().unwrap_or("card"))
    .bind(card.last4.as_deref().unwrap_or("????"))
    .bind(card.exp_month.unwrap_or(0))
    .bind(card.exp_year.unwrap_or(0))
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(())
}

/// Takes over what a customer is like now; `false` if it is none of ours.
pub(super) async fn change_customer(
    tx: &mut AnyConnection,
    customer: &CustomerView,
) -> Result<bool, DbError> {
    let done = sqlx::query(
        "UPDATE billing_customers SET balance_minor = $2, currency = $3, payment_method_id = $4, deleted = $5
         WHERE stripe_id = $1",
    )
    .bind(&customer.id)
    .bind(customer.balance.unwrap_or(0))
    .bind(&customer.currency)
    .bind(customer.payment_method())
    .bind(i64::from(customer.deleted))
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

// ---- promotion codes ----------------------------------------------------------------------------

/// Writes down that Stripe has a promotion code of ours, and whether it takes it.
pub(super) async fn put_promotion_code(
    tx: &mut AnyConnection,
    at: UnixMillis,
    stripe_id: &str,
    (code, coupon): (&str, &str),
    live: bool,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO billing_promotion_codes (stripe_id, code, coupon_id, live, updated_at)
         VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (stripe_id) DO UPDATE SET live = excluded.live, updated_at = excluded.updated_at
         WHERE billing_promotion_codes.live <> excluded.live",
    )
    .bind(stripe_id)
    .bind(code)
    .bind(coupon)
    .bind(i64::from(live))
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(())
}

/// Every promotion code of ours by Stripe's id, and whether it was taken when last compared.
pub(super) async fn promotion_codes(connection: &mut AnyConnection) -> Result<Vec<(String, bool)>, DbError> {
    let rows =
        sqlx::query("SELECT stripe_id, live FROM billing_promotion_codes").fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("billing_promotion_codes", row);
            Ok((row.text("stripe_id")?, row.flag("live")?))
        })
        .collect()
}

/// Whether there is any promotion code that a customer could type.
///
/// # Errors
/// Those of the query.
pub async fn has_promotion_codes(connection: &mut AnyConnection) -> Result<bool, DbError> {
    let query = sqlx::query_scalar::<_, i64>("SELECT COUNT(*) FROM billing_promotion_codes WHERE live = 1");
    Ok(query.fetch_one(connection).await? > 0)
}

/// Those of Stripe's ids that are promotion codes of ours, live or not.
pub(super) async fn known_promotion_codes(
    connection: &mut AnyConnection,
    ids: &[Option<&str>],
) -> Result<Vec<String>, DbError> {
    let mut known = Vec::new();
    for id in ids.iter().flatten() {
        let query = sqlx::query_scalar::<_, String>(
            "SELECT stripe_id FROM billing_promotion_codes WHERE stripe_id = $1",
        );
        known.extend(query.bind(*id).fetch_optional(&mut *connection).await?);
    }
    Ok(known)
}
