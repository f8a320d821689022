//! SQL of billing.

use ez_protocol::{AccountId, OrderId, UnixMillis};
use sqlx::{AnyConnection, any::AnyRow};

use super::{
    model::{
        CallState, Checkout, CheckoutState, EventState, Expectation, Invoice, Problem, RefundState, Source,
    },
    stripe::{CustomerView, EventEnvelope, InvoiceView, PaymentMethodView, SubscriptionView},
};
use crate::db::{self, Cols, DbError, one_row};

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

/// The copy of an object.
pub(super) async fn object(connection: &mut AnyConnection, id: &str) -> Result<Option<String>, DbError> {
    Ok(sqlx::query_scalar("SELECT json FROM stripe_objects WHERE id = $1")
        .bind(id)
        .fetch_optional(connection)
        .await?)
}

// ---- the outbox of calls ------------------------------------------------------------------------

/// A call as it is stored.
pub(super) struct StoredCall {
    pub(super) request: String,
    pub(super) state: CallState,
    pub(super) response_id: Option<String>,
    pub(super) created_at: UnixMillis,
}

/// Writes a call down unless its key is there already; gives what is there now.
pub(super) async fn open_call(
    tx: &mut AnyConnection,
    at: UnixMillis,
    key: &str,
    purpose: &str,
    subject: &str,
    request: (&str, &str),
) -> Result<StoredCall, DbError> {
    let (text, hash) = request;
    sqlx::query(
        "INSERT INTO stripe_outbox (key, purpose, subject_id, params_hash, request, state, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (key) DO NOTHING",
    )
    .bind(key)
    .bind(purpose)
    .bind(subject)
    .bind(hash)
    .bind(text)
    .bind(CallState::Pending)
    .bind(at.0)
    .execute(&mut *tx)
    .await?;
    let row =
        sqlx::query("SELECT key, request, state, response_id, created_at FROM stripe_outbox WHERE key = $1")
            .bind(key)
            .fetch_one(tx)
            .await?;
    let row = Cols::of("stripe_outbox", &row);
    Ok(StoredCall {
        request: row.text("request")?,
        state: row.get("state")?,
        response_id: row.get("response_id")?,
        created_at: row.millis("created_at")?,
    })
}

/// Whether a call was written down.
pub(super) async fn is_call(connection: &mut AnyConnection, key: &str) -> Result<bool, DbError> {
    let found: Option<String> = sqlx::query_scalar("SELECT key FROM stripe_outbox WHERE key = $1")
        .bind(key)
        .fetch_optional(connection)
        .await?;
    Ok(found.is_some())
}

/// Ends a call.
pub(super) async fn close_call(
    tx: &mut AnyConnection,
    at: UnixMillis,
    key: &str,
    state: CallState,
    response_id: Option<&str>,
    error: Option<&str>,
) -> Result<(), DbError> {
    sqlx::query(
        "UPDATE stripe_outbox SET state = $2, response_id = $3, error = $4, done_at = $5
         WHERE key = $1 AND state = 'pending'",
    )
    .bind(key)
    .bind(state)
    .bind(response_id)
    .bind(error)
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(())
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

// ---- customers ----------------------------------------------------------------------------------

pub(super) async fn customer(
    connection: &mut AnyConnection,
    account: AccountId,
) -> Result<Option<String>, DbError> {
    Ok(sqlx::query_scalar("SELECT stripe_id FROM billing_customers WHERE account_id = $1")
        .bind(account.to_string())
        .fetch_optional(connection)
        .await?)
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

/// Writes the account's customer; the first one stays.
pub(super) async fn put_customer(
    tx: &mut AnyConnection,
    at: UnixMillis,
    account: AccountId,
    stripe_id: &str,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO billing_customers (account_id, stripe_id, created_at) VALUES ($1, $2, $3)
         ON CONFLICT (account_id) DO NOTHING",
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

/// Whether there is any code that a customer could type.
pub(super) async fn has_promotion_codes(connection: &mut AnyConnection) -> Result<bool, DbError> {
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

// ---- checkouts ----------------------------------------------------------------------------------

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

pub(super) async fn insert_checkout(
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

pub(super) async fn checkout(
    connection: &mut AnyConnection,
    order: OrderId,
) -> Result<Option<Checkout>, DbError> {
    let row = sqlx::query(CHECKOUT).bind(order.to_string()).fetch_optional(connection).await?;
    row.as_ref().map(read_checkout).transpose()
}

/// The checkout, and nobody else decides about it until this transaction ends. Comes before everything else.
pub(super) async fn checkout_to_change(
    tx: &mut AnyConnection,
    order: OrderId,
) -> Result<Option<Checkout>, DbError> {
    db::lock(tx, "checkout", order).await?;
    checkout(tx, order).await
}

/// Writes what changed of a checkout, if it still is in the state it was read in.
pub(super) async fn save_checkout(
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

/// Orders whose payment page has been open (or wanted) since before a time.
pub(super) async fn old_checkouts(
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

// ---- subscriptions ------------------------------------------------------------------------------

pub(super) async fn put_subscription(
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
pub(super) struct KnownSubscription {
    pub(super) stripe_id: String,
    pub(super) order: OrderId,
    pub(super) account: AccountId,
    pub(super) status: String,
    pub(super) latest_invoice: Option<String>,
    pub(super) period_end: Option<UnixMillis>,
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

pub(super) async fn subscription_of(
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

pub(super) async fn subscription(
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

pub(super) async fn put_invoice(
    tx: &mut AnyConnection,
    at: UnixMillis,
    account: AccountId,
    invoice: &InvoiceView,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO billing_invoices
             (stripe_id, subscription_id, account_id, number, status, currency, total_minor, hosted_url, pdf_url,
              issued_at, updated_at, due_minor, paid_minor, tries, due_at, reason)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
         ON CONFLICT (stripe_id) DO UPDATE SET
             due_minor = excluded.due_minor, paid_minor = excluded.paid_minor, tries = excluded.tries,
             due_at = excluded.due_at, reason = excluded.reason,
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
    .execute(tx)
    .await?;
    Ok(())
}

/// Stripe's word for an invoice, as we last saw it.
pub(super) async fn invoice_status(
    connection: &mut AnyConnection,
    id: &str,
) -> Result<Option<String>, DbError> {
    Ok(sqlx::query_scalar("SELECT status FROM billing_invoices WHERE stripe_id = $1")
        .bind(id)
        .fetch_optional(connection)
        .await?)
}

pub(super) async fn invoices(
    connection: &mut AnyConnection,
    account: AccountId,
) -> Result<Vec<Invoice>, DbError> {
    let rows = sqlx::query(
        "SELECT i.stripe_id, i.number, i.currency, i.total_minor, i.hosted_url, i.pdf_url, i.issued_at,
                c.description, CASE WHEN r.state = 'succeeded' THEN 'refunded' ELSE i.status END AS status
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
                hosted_url: row.get("hosted_url")?,
                pdf_url: row.get("pdf_url")?,
                issued_at: row.millis("issued_at")?,
            })
        })
        .collect()
}

// ---- refunds ------------------------------------------------------------------------------------

/// A refund as we know it.
pub(super) struct KnownRefund {
    pub(super) attempt: i64,
    pub(super) state: RefundState,
}

pub(super) async fn refund(
    connection: &mut AnyConnection,
    order: OrderId,
) -> Result<Option<KnownRefund>, DbError> {
    let row = sqlx::query("SELECT order_id, attempt, state FROM billing_refunds WHERE order_id = $1")
        .bind(order.to_string())
        .fetch_optional(connection)
        .await?;
    row.map(|row| {
        let row = Cols::of("billing_refunds", &row);
        Ok(KnownRefund { attempt: row.int("attempt")?, state: row.get("state")? })
    })
    .transpose()
}

/// Writes down that a refund is wanted; a failed one begins its next attempt.
pub(super) async fn want_refund(
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

/// Writes how a refund stands; `false` if that was known.
pub(super) async fn put_refund(
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
