//! Reading one object again from Stripe and taking over what it says.
//!
//! Every way a fact can reach us (webhook, poll, success page, reconciler) ends here. Two readings may race;
//! the copy is written only by the later one, and what follows happens in the same transaction, from whichever copy stands
//! there then: what follows from an invoice may be done by the earlier reading alone.

use ez_protocol::{OrderId, UnixMillis};
use serde_json::Value;
use sqlx::AnyConnection;

use super::{
    BillingError, Checkout, CheckoutState, announce, back, change, dunning,
    model::{EventState, Problem, judge},
    put_off, revenue, store,
    stripe::{self, CheckoutSession, FaultKind, InvoiceView, SubscriptionView},
    subscription::{cancel_now, is_over},
    surplus, usage, wallet,
};
use crate::{app::Services, config::Config, db::DbError};

/// Reads an object by kind and id. Kinds that decide nothing here end their events as ignored.
///
/// # Errors
/// What Stripe or the database said; the job runs again when it may pass.
pub(super) async fn object(app: &Services, kind: &str, id: &str) -> Result<(), BillingError> {
    let done = match kind {
        "checkout.session" => session(app, id).await,
        "subscription" => subscription(app, id).await,
        "invoice" => invoice(app, id).await.map(|_| ()),
        "refund" => back::refund(app, id).await,
        "charge" => back::charge(app, id).await,
        "dispute" => back::dispute(app, id).await,
        "radar.early_fraud_warning" => back::early_warning(app, id).await,
        "payment_method" => wallet::payment_method(app, id).await,
        "customer" => wallet::customer(app, id).await,
        _ => ignore(app, id, app.clock.now()).await,
    };
    match done {
        // Deleted at Stripe, or of another account: nothing to copy.
        Err(BillingError::Stripe(fault)) if fault.kind == FaultKind::NotFound => {
            if kind == "invoice" {
                dunning::gone(app, id).await?;
            }
            ignore(app, id, app.clock.now()).await
        }
        other => other,
    }
}

pub(super) async fn ignore(app: &Services, id: &str, read_at: UnixMillis) -> Result<(), BillingError> {
    let (id, now) = (id.to_owned(), app.clock.now());
    app.db
        .write(move |tx| {
            Box::pin(async move { store::finish_events(tx, &id, read_at, now, EventState::Ignored).await })
        })
        .await?;
    Ok(())
}

/// Whether the metadata names another installation that shares the Stripe account.
pub(super) fn is_foreign(app: &Services, metadata: &stripe::Metadata) -> bool {
    metadata.get("install_id").is_some_and(|install| *install != app.keys.install().to_string())
}

pub(super) fn view<T: serde::de::DeserializeOwned>(value: &Value) -> Result<T, BillingError> {
    serde_json::from_value(value.clone()).map_err(|_| BillingError::Incomplete("id"))
}

/// Writes the copy of an object; gives what stands there then: what was read, unless a later reading was quicker.
async fn put_newest<T: serde::de::DeserializeOwned>(
    tx: &mut AnyConnection,
    (id, kind): (&str, &str),
    read_at: UnixMillis,
    read: (T, Value),
) -> Result<(T, Value), DbError> {
    if store::put_object(tx, id, kind, read_at, &read.1.to_string()).await? {
        return Ok(read);
    }
    let there = store::object(tx, id).await?;
    let there = there.and_then(|json| serde_json::from_str::<Value>(&json).ok());
    Ok(there.and_then(|value| Some((view(&value).ok()?, value))).unwrap_or(read))
}

// ---- payment pages ------------------------------------------------------------------------------

/// Reads a payment page.
pub(super) async fn session(app: &Services, id: &str) -> Result<(), BillingError> {
    let read_at = app.clock.now();
    let value = app.stripe.get(app.entropy.as_ref(), &stripe::retrieve_session(id)).await?;
    take_session(app, read_at, value).await
}

/// What was read together with a completed page, paid or not yet.
struct Companions {
    subscription: Option<(SubscriptionView, Value)>,
    invoice: Option<(InvoiceView, Value)>,
}

/// Takes over a payment page that was read at `read_at`.
pub(super) async fn take_session(
    app: &Services,
    read_at: UnixMillis,
    value: Value,
) -> Result<(), BillingError> {
    let session: CheckoutSession = view(&value)?;
    let order = session
        .client_reference_id
        .as_ref()
        .or_else(|| session.metadata.get("order_id"))
        .and_then(|id| id.parse::<OrderId>().ok());
    let Some(order) = order.filter(|_| !is_foreign(app, &session.metadata)) else {
        return ignore(app, &session.id, read_at).await;
    };
    let complete = session.status.as_deref() == Some("complete");
    let paid = complete && matches!(session.payment_status.as_deref(), Some("paid" | "no_payment_required"));
    let companions = if complete {
        companions(app, &session).await?
    } else {
        Companions { subscription: None, invoice: None }
    };
    let failed = complete && !paid && has_failed(app, &companions).await?;
    let id = session.id.clone();
    let (now, livemode, config) = (app.clock.now(), app.stripe.livemode(), app.config.clone());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let known = store::checkout_to_change(tx, order).await?;
                let newer =
                    store::put_object(tx, &session.id, "checkout.session", read_at, &value.to_string())
                        .await?;
                if let Some(known) = known.filter(|_| newer) {
                    let seen =
                        Seen { now, read_at, session: &session, companions: &companions, paid, livemode };
                    decide(tx, &config, known, seen).await?;
                }
                store::finish_events(tx, &session.id, read_at, now, EventState::Done).await
            })
        })
        .await?;
    if failed { never_arrives(app, order, id).await } else { Ok(()) }
}

/// Whether the payment of a completed page, which takes days by some ways of paying, has come to nothing.
async fn has_failed(app: &Services, companions: &Companions) -> Result<bool, BillingError> {
    let status = companions.subscription.as_ref().and_then(|(view, _)| view.status.as_deref());
    if status.is_some_and(is_over) {
        return Ok(true);
    }
    let Some((invoice, _)) = &companions.invoice else { return Ok(false) };
    Ok(match invoice.status.as_deref() {
        Some("void" | "uncollectible") => true,
        Some("open") => {
            let intent = intent_status(app, &invoice.id).await?;
            matches!(intent.as_deref(), Some("requires_payment_method" | "canceled"))
        }
        _ => false,
    })
}

/// The payment that an order waits for does not come. First nothing of it may be charged any more, so that nobody pays
/// for what is no longer held; until that is done the page is looked up again and again. Then the order's place is given back.
async fn never_arrives(app: &Services, order: OrderId, session: String) -> Result<(), BillingError> {
    let waits = move |known: &Checkout| {
        known.state == CheckoutState::Processing && known.session_id.as_ref() == Some(&session)
    };
    let known = {
        let mut connection = app.db.read().await?;
        store::checkout(&mut connection, order).await?
    };
    if !known.as_ref().is_some_and(&waits) {
        return Ok(());
    }
    cancel_now(app, order).await?;
    let now = app.clock.now();
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let Some(known) = store::checkout_to_change(tx, order).await?.filter(waits) else {
                    return Ok(());
                };
                let ended = Checkout { state: CheckoutState::Expired, ..known };
                store::save_checkout(tx, now, CheckoutState::Processing, &ended).await?;
                announce::expired(tx, now, order).await
            })
        })
        .await?;
    Ok(())
}

async fn companions(app: &Services, session: &CheckoutSession) -> Result<Companions, BillingError> {
    let mut found = Companions { subscription: None, invoice: None };
    if let Some(id) = &session.subscription {
        let value = app.stripe.get(app.entropy.as_ref(), &stripe::retrieve_subscription(id)).await?;
        found.subscription = Some((view(&value)?, value));
    }
    let latest =
        found.subscription.as_ref().and_then(|(subscription, _)| subscription.latest_invoice.as_ref());
    if let Some(id) = session.invoice.as_ref().or(latest) {
        let value = app.stripe.get(app.entropy.as_ref(), &stripe::retrieve_invoice(id)).await?;
        found.invoice = Some((view(&value)?, value));
    }
    Ok(found)
}

/// A page as it was read.
struct Seen<'a> {
    now: UnixMillis,
    read_at: UnixMillis,
    session: &'a CheckoutSession,
    /// What belongs to it, once it is complete.
    companions: &'a Companions,
    paid: bool,
    livemode: bool,
}

/// What a page's state means for the order's payment.
async fn decide(
    tx: &mut AnyConnection,
    config: &Config,
    known: Checkout,
    seen: Seen<'_>,
) -> Result<(), DbError> {
    let Seen { now, read_at, session, companions, paid, livemode } = seen;
    let was = known.state;
    let order = known.expected.order;
    let current = known.session_id.as_deref() == Some(session.id.as_str());
    if paid {
        let subscription = companions.subscription.as_ref().map(|(view, _)| view);
        if was == CheckoutState::Settled || was == CheckoutState::Suspicious {
            if !current {
                // Two pages, two payments: the order takes one.
                surplus::found(tx, now, order, session, subscription).await?;
            }
            return Ok(());
        }
        let known = Checkout {
            customer_id: known.customer_id.clone().or_else(|| session.customer.clone()),
            session_id: Some(session.id.clone()),
            subscription_id: session.subscription.clone(),
            settled_at: Some(now),
            url: None,
            discount_minor: session.discount_and_tax().map_or(0, |(discount, _)| discount),
            tax_minor: session.discount_and_tax().map_or(0, |(_, tax)| tax),
            paid_minor: session.amount_total,
            ..known
        };
        let ours = store::known_promotion_codes(tx, &session.promotion_codes()).await?;
        let verdict =
            judge(&known, session, subscription, livemode, |code| ours.iter().any(|known| known == code));
        copy_companions(tx, now, read_at, &known, companions).await?;
        // The news that the money went back may have been quicker than the news that it came.
        let verdict = match (verdict, &companions.invoice) {
            (Ok(()), _) if dunning::store::disputed(tx, order).await? != dunning::Disputed::No => {
                Err(Problem::Disputed)
            }
            (Ok(()), Some((invoice, _))) if dunning::store::is_returned(tx, &invoice.id).await? => {
                Err(Problem::Refunded)
            }
            (verdict, _) => verdict,
        };
        let (state, problem) = match verdict {
            Ok(()) => (CheckoutState::Settled, None),
            Err(problem) => (CheckoutState::Suspicious, Some(problem)),
        };
        store::save_checkout(tx, now, was, &Checkout { state, problem, ..known }).await?;
        dunning::judge(tx, config, now, order).await?;
        if problem == Some(Problem::Refunded) {
            back::first_payment_returned(tx, now, order).await?;
        }
        return match problem {
            None => announce::settled(tx, now, order).await,
            Some(problem) => announce::suspicious(tx, now, order, problem).await,
        };
    }
    let pending = matches!(was, CheckoutState::Open | CheckoutState::Wanted | CheckoutState::Processing);
    if !pending || (!current && known.session_id.is_some()) {
        return Ok(());
    }
    match session.status.as_deref() {
        Some("expired") => {
            let ended = Checkout {
                state: CheckoutState::Expired,
                session_id: Some(session.id.clone()),
                url: None,
                ..known
            };
            store::save_checkout(tx, now, was, &ended).await?;
            announce::expired(tx, now, order).await
        }
        Some("complete") => {
            copy_companions(tx, now, read_at, &known, companions).await?;
            if was == CheckoutState::Processing {
                return Ok(());
            }
            let processing = Checkout {
                state: CheckoutState::Processing,
                session_id: Some(session.id.clone()),
                subscription_id: session.subscription.clone(),
                url: None,
                ..known
            };
            store::save_checkout(tx, now, was, &processing).await
        }
        _ => Ok(()),
    }
}

/// Writes what was read together with the order's page.
async fn copy_companions(
    tx: &mut AnyConnection,
    now: UnixMillis,
    read_at: UnixMillis,
    known: &Checkout,
    companions: &Companions,
) -> Result<(), DbError> {
    if let Some(read) = &companions.subscription {
        let (subscription, value): (SubscriptionView, _) =
            put_newest(tx, (&read.0.id, "subscription"), read_at, read.clone()).await?;
        store::put_subscription(tx, now, &known.expected, &subscription).await?;
        revenue::note(tx, now, known.expected.account, &subscription.id, &value).await?;
    }
    if let Some(read) = &companions.invoice {
        let (invoice, _): (InvoiceView, _) =
            put_newest(tx, (&read.0.id, "invoice"), read_at, read.clone()).await?;
        store::put_invoice(tx, now, known.expected.account, &invoice).await?;
    }
    Ok(())
}

// ---- subscriptions and invoices -------------------------------------------------------------------

/// Reads a subscription.
pub(super) async fn subscription(app: &Services, id: &str) -> Result<(), BillingError> {
    let read_at = app.clock.now();
    let value = app.stripe.get(app.entropy.as_ref(), &stripe::retrieve_subscription(id)).await?;
    take_subscription(app, read_at, value).await
}

/// Takes over a subscription that was read at `read_at`. One that is not simply active is read together with its
/// latest invoice. An invoice that cannot be read keeps nothing else from being taken over: the clock waits for it, and the
/// caller hears of it when the rest is done; the news stays to be tried again. Only what Stripe has given up is not judged
/// without it at all: what was owed decides whether that ends at once.
pub(super) async fn take_subscription(
    app: &Services,
    read_at: UnixMillis,
    value: Value,
) -> Result<(), BillingError> {
    let subscription: SubscriptionView = view(&value)?;
    let Some(order) = order_of(app, &subscription).await? else {
        return ignore(app, &subscription.id, read_at).await;
    };
    let active = matches!(subscription.status.as_deref(), Some("active" | "trialing"));
    // One with a change that waits for its payment comes with the link to pay on.
    let well = active && subscription.pending().is_none();
    let mut unread = None;
    let invoice = match subscription.latest_invoice.as_ref().filter(|_| !well) {
        Some(id) => beside(app, id, &mut unread).await,
        None => None,
    };
    // Stripe's word follows the latest invoice. What the copy has as owed before it may be paid by now, and the news lost.
    let older = match owed_before(app, &subscription.id).await?.filter(|_| active) {
        Some(id) => beside(app, &id, &mut unread).await,
        None => None,
    };
    let unread = match unread {
        Some(error) if subscription.is_given_up() => return Err(error),
        other => other,
    };
    let all_read = unread.is_none();
    if let Some(method) = subscription.default_payment_method.clone() {
        wallet::know(app, &method).await?;
    }
    let orphaned = is_orphaned(app, &subscription).await?;
    let (now, config) = (app.clock.now(), app.config.clone());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let known = store::checkout_to_change(tx, order).await?;
                let newer =
                    store::put_object(tx, &subscription.id, "subscription", read_at, &value.to_string())
                        .await?;
                // Before the page says which subscription is the order's, and for one that is surplus, the copy of
                // the object is all there is to write: an order has one subscription.
                let ours = |known: &Checkout| known.subscription_id.as_ref() == Some(&subscription.id);
                if let Some(known) = known.filter(ours) {
                    if newer {
                        store::put_subscription(tx, now, &known.expected, &subscription).await?;
                        revenue::note(tx, now, known.expected.account, &subscription.id, &value).await?;
                    }
                    for (invoice, value) in [&invoice, &older].into_iter().flatten() {
                        if store::put_object(tx, &invoice.id, "invoice", read_at, &value.to_string()).await? {
                            store::put_invoice(tx, now, known.expected.account, invoice).await?;
                        }
                    }
                    if orphaned {
                        dunning::orphaned(tx, now, order, &subscription).await?;
                    }
                    dunning::end_read(tx, &config, now, order).await?;
                    dunning::judge(tx, &config, now, order).await?;
                    if newer && known.state == CheckoutState::Settled {
                        let invoice = invoice.as_ref().map(|(invoice, _)| invoice);
                        change::subscription_read(tx, &config, now, &known.expected, &subscription, invoice)
                            .await?;
                    }
                }
                if !all_read {
                    return Ok(());
                }
                store::finish_events(tx, &subscription.id, read_at, now, EventState::Done).await
            })
        })
        .await?;
    unread.map_or(Ok(()), Err)
}

/// The order that a subscription pays for. What we have sold stays ours, whatever somebody makes of its metadata in Stripe's
/// dashboard: only one that is not known yet is asked whose it is.
async fn order_of(app: &Services, subscription: &SubscriptionView) -> Result<Option<OrderId>, DbError> {
    let known = {
        let mut connection = app.db.read().await?;
        store::subscription(&mut connection, &subscription.id).await?
    };
    if let Some(known) = known {
        return Ok(Some(known.order));
    }
    let named = subscription.metadata.get("order_id").and_then(|id| id.parse().ok());
    Ok(named.filter(|_| !is_foreign(app, &subscription.metadata)))
}

/// The older renewal that a subscription owes by the copy, if there is one.
async fn owed_before(app: &Services, subscription: &str) -> Result<Option<String>, DbError> {
    let mut connection = app.db.read().await?;
    dunning::store::owed_before(&mut connection, subscription).await
}

/// Reads an invoice beside its subscription. One that Stripe does not have says nothing about that; why another one could not
/// be read is left in `unread`.
async fn beside(app: &Services, id: &str, unread: &mut Option<BillingError>) -> Option<(InvoiceView, Value)> {
    let read = match app.stripe.get(app.entropy.as_ref(), &stripe::retrieve_invoice(id)).await {
        Ok(value) => view(&value).map(|invoice| (invoice, value)),
        Err(fault) if fault.kind == FaultKind::NotFound => return None,
        Err(fault) => Err(fault.into()),
    };
    match read {
        Ok(read) => Some(read),
        Err(error) => {
            if unread.is_none() {
                *unread = Some(error);
            }
            None
        }
    }
}

/// Whether a subscription that its server was served for when we last looked has ended because its customer was deleted at
/// Stripe: then nobody wished that for the server. One that was paused or given up has no claim to be.
async fn is_orphaned(app: &Services, subscription: &SubscriptionView) -> Result<bool, BillingError> {
    let over = subscription.status.as_deref().is_some_and(is_over);
    let by_request = over && !subscription.is_given_up();
    let Some(customer) = subscription.customer.as_deref().filter(|_| by_request) else { return Ok(false) };
    let is_news = {
        let mut connection = app.db.read().await?;
        let known = store::subscription(&mut connection, &subscription.id).await?;
        known.is_some_and(|known| matches!(known.status.as_str(), "active" | "trialing" | "past_due"))
            && dunning::store::closed_at(&mut connection, &subscription.id).await?.is_none()
    };
    Ok(is_news && wallet::is_deleted(app, customer).await?)
}

/// Reads an invoice; gives the order whose subscription it bills, if it is one of ours.
pub(super) async fn invoice(app: &Services, id: &str) -> Result<Option<OrderId>, BillingError> {
    let (order, unread) = take_invoice(app, id).await?;
    unread.map_or(Ok(order), Err)
}

/// Reads an invoice and takes it over; beside its order gives what could not be read of its subscription.
pub(super) async fn take_invoice(
    app: &Services,
    id: &str,
) -> Result<(Option<OrderId>, Option<BillingError>), BillingError> {
    let read_at = app.clock.now();
    let value = app.stripe.get(app.entropy.as_ref(), &stripe::retrieve_invoice(id)).await?;
    let invoice: InvoiceView = view(&value)?;
    let Some(subscription_id) = invoice.subscription_id().map(str::to_owned) else {
        ignore(app, id, read_at).await?;
        return Ok((None, None));
    };
    // The invoice of a first payment may be announced before its subscription was read.
    let known = async || {
        let mut connection = app.db.read().await?;
        store::subscription(&mut connection, &subscription_id).await
    };
    let (mut owner, mut unread) = (known().await?, None);
    if owner.is_none() {
        unread = read_with(app, read_at, &subscription_id).await?;
        owner = known().await?;
    }
    let Some(mut owner) = owner else {
        if let Some(error) = unread {
            return Err(error);
        }
        ignore(app, id, read_at).await?;
        return Ok((None, None));
    };
    // A try that ends a pause is announced before the end of the pause is, and what nobody tries is late before its
    // subscription says so; what is written to people depends on it.
    let ends_pause = owner.status == "paused" && was_tried(&invoice);
    if unread.is_none() && (ends_pause || is_late(&invoice, read_at)) {
        unread = read_with(app, read_at, &subscription_id).await?;
        owner = known().await?.unwrap_or(owner);
    }
    let (owed, tried) = (is_owed(&invoice, &owner.status), was_tried(&invoice));
    let needs_a_step = owed && needs_a_step(app, &invoice.id).await?;
    let (now, config) = (app.clock.now(), app.config.clone());
    let (order, invoice_id, id) = (owner.order, invoice.id.clone(), invoice.id.clone());
    let changes = invoice.billing_reason.as_deref() == Some("subscription_update");
    app.db
        .write(move |tx| {
            Box::pin(async move {
                crate::db::lock(tx, "checkout", order).await?;
                // A reading of its subscription or page may have been quicker, and has written the copy alone. All that
                // follows is done once, so it is done from what stands there.
                let (invoice, value): (InvoiceView, _) =
                    put_newest(tx, (&id, "invoice"), read_at, (invoice, value)).await?;
                store::put_invoice(tx, now, owner.account, &invoice).await?;
                dunning::watch(tx, &config, now, order, &invoice).await?;
                // What was tried only since has news of its own, which looks whether its bank waits for a step.
                let tried_since = was_tried(&invoice) && !tried;
                // What was paid for a service that was over buys nothing: no receipt, it goes back.
                if !surplus::late(tx, now, order, &invoice).await? && !tried_since {
                    dunning::invoice_read(tx, &config, now, order, &invoice, needs_a_step).await?;
                }
                usage::invoice_read(tx, now, &invoice.id, &value).await?;
                dunning::judge(tx, &config, now, order).await?;
                store::finish_events(tx, &id, read_at, now, EventState::Done).await
            })
        })
        .await?;
    // The one does not change without the other: a lost event about either costs nothing.
    let renewed = owner.latest_invoice.as_deref() != Some(invoice_id.as_str());
    let unwell = !matches!(owner.status.as_str(), "active" | "trialing");
    if unread.is_none() && (owed || renewed || changes || unwell) {
        unread = put_off(subscription(app, &subscription_id).await)?;
    }
    Ok((Some(order), unread))
}

/// Reads the subscription of an invoice that was read at `read_at`, before the invoice is taken over. What cannot be read of it,
/// such as another of its invoices, is given, to be told when this one is. Only a subscription that could not be read itself
/// and soon may be is waited for, since what is written to people depends on it.
async fn read_with(
    app: &Services,
    read_at: UnixMillis,
    subscription_id: &str,
) -> Result<Option<BillingError>, BillingError> {
    let Some(error) = put_off(subscription(app, subscription_id).await)? else { return Ok(None) };
    if !error.is_retryable() {
        return Ok(Some(error));
    }
    let mut connection = app.db.read().await?;
    let read = store::read_at(&mut connection, subscription_id).await?;
    if read.is_some_and(|read| read >= read_at) { Ok(Some(error)) } else { Err(error) }
}

fn is_open(invoice: &InvoiceView) -> bool {
    invoice.status.as_deref() == Some("open")
}

/// Whether it was tried to collect an invoice, and it is open still.
fn was_tried(invoice: &InvoiceView) -> bool {
    is_open(invoice) && invoice.attempt_count.unwrap_or(0) > 0
}

/// Whether an invoice is open although it was tried to collect it, or although Stripe calls its subscription late.
fn is_owed(invoice: &InvoiceView, subscription: &str) -> bool {
    was_tried(invoice) || (is_open(invoice) && matches!(subscription, "past_due" | "unpaid"))
}

/// Whether an invoice that nobody tries to collect should have been paid by now.
fn is_late(invoice: &InvoiceView, now: UnixMillis) -> bool {
    let due = invoice.due_date.map(UnixMillis::from_secs);
    is_open(invoice) && !was_tried(invoice) && due.is_some_and(|due| due <= now)
}

/// Whether the bank waits for its customer to confirm the payment of an open invoice.
async fn needs_a_step(app: &Services, invoice: &str) -> Result<bool, BillingError> {
    Ok(intent_status(app, invoice).await?.as_deref() == Some("requires_action"))
}

/// Stripe's word for the payment that an open invoice waits for.
async fn intent_status(app: &Services, invoice: &str) -> Result<Option<String>, BillingError> {
    let payments = app.stripe.get(app.entropy.as_ref(), &stripe::list_payments_of(invoice)).await?;
    let Some(intent) = stripe::waiting_intent(&payments) else { return Ok(None) };
    let intent = app.stripe.get(app.entropy.as_ref(), &stripe::retrieve_payment_intent(&intent)).await?;
    Ok(intent.get("status").and_then(Value::as_str).map(str::to_owned))
}
