//! Giving the money back, all of it.

use ez_protocol::OrderId;
use serde_json::Value;
use sqlx::AnyConnection;

use super::{
    BillingError, RefundState, back,
    model::CallState,
    outbox::{self, Call},
    store,
    stripe::{self, FaultKind, Metadata, RefundView, SubscriptionView, page_of},
    subscription,
};
use crate::{app::Services, db::DbError};

/// Ends the order's subscription, then gives back what its latest invoice took. Safe to repeat; the same refund
/// is never made twice.
///
/// # Errors
/// [`BillingError::Unknown`] when no payment is known that could be given back; what Stripe said else.
pub async fn refund_full(app: &Services, order: OrderId) -> Result<RefundState, BillingError> {
    // The subscription first, so that no renewal follows the refund.
    subscription::cancel_now(app, order).await?;
    let at = app.clock.now();
    app.db.write(move |tx| Box::pin(async move { store::want_refund(tx, at, order).await })).await?;
    let known = {
        let mut connection = app.db.read().await?;
        store::refund(&mut connection, order).await?.ok_or(BillingError::Unknown("refund"))?
    };
    if known.state == RefundState::Succeeded {
        return Ok(known.state);
    }
    let intent = match paying_intent(app, order).await {
        Err(BillingError::Unknown("payment")) if nothing_paid(app, order).await? => {
            return nothing_to_give_back(app, order).await;
        }
        other => other?,
    };
    let metadata = Metadata::from([
        ("order_id".to_owned(), order.to_string()),
        ("install_id".to_owned(), app.keys.install().to_string()),
    ]);
    let call = Call::new("refund", order, known.attempt, stripe::create_refund(&intent, metadata));
    let read_at = app.clock.now();
    let answer = send(app, &call, &intent, ("order_id", &order.to_string())).await?;
    let id = answer.get("id").and_then(Value::as_str).map(str::to_owned);
    let state = back::take_refund(app, read_at, answer).await?.unwrap_or(RefundState::Pending);
    outbox::close(app, &call, CallState::Done, id, None).await?;
    Ok(state)
}

/// Whether nothing was due at the purchase: a trial, or a code that took all off.
async fn nothing_paid(app: &Services, order: OrderId) -> Result<bool, BillingError> {
    let mut connection = app.db.read().await?;
    Ok(store::checkout(&mut connection, order).await?.is_some_and(|paid| paid.paid_minor == Some(0)))
}

/// Nothing was paid, so with the subscription it is over.
async fn nothing_to_give_back(app: &Services, order: OrderId) -> Result<RefundState, BillingError> {
    let at = app.clock.now();
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let none = (None, Some(0), None);
                store::put_refund(tx, at, order, RefundState::Succeeded, none).await
            })
        })
        .await?;
    Ok(RefundState::Succeeded)
}

/// How the order's refund stands, if there is one.
///
/// # Errors
/// Those of the query.
pub async fn refund_state(
    connection: &mut AnyConnection,
    order: OrderId,
) -> Result<Option<RefundState>, DbError> {
    Ok(store::refund(connection, order).await?.map(|known| known.state))
}

/// The payment intent that paid the order's latest invoice.
pub(super) async fn paying_intent(app: &Services, order: OrderId) -> Result<String, BillingError> {
    let known = {
        let mut connection = app.db.read().await?;
        store::subscription_of(&mut connection, order).await?.ok_or(BillingError::Unknown("subscription"))?
    };
    let invoice = match known.latest_invoice {
        Some(invoice) => invoice,
        None => {
            let value = app
                .stripe
                .get(app.entropy.as_ref(), &stripe::retrieve_subscription(&known.stripe_id))
                .await?;
            serde_json::from_value::<SubscriptionView>(value)
                .ok()
                .and_then(|subscription| subscription.latest_invoice)
                .ok_or(BillingError::Unknown("invoice"))?
        }
    };
    let payments = app.stripe.get(app.entropy.as_ref(), &stripe::list_payments_of(&invoice)).await?;
    stripe::paid_by(&payments).ok_or(BillingError::Unknown("payment"))
}

/// Sends a refund, or finds the one that was made. `mark` is the word of its metadata that says what it is for.
pub(super) async fn send(
    app: &Services,
    call: &Call,
    intent: &str,
    mark: (&str, &str),
) -> Result<Value, BillingError> {
    match outbox::send(app, call).await {
        Err(BillingError::LookingUp) => look_up(app, intent, mark).await?.ok_or(BillingError::LookingUp),
        Err(BillingError::Stripe(fault)) if fault.kind == FaultKind::Refused => {
            look_up(app, intent, mark).await?.ok_or(BillingError::Stripe(fault))
        }
        other => other,
    }
}

/// Finds a refund that an earlier call with unknown outcome, or a person in Stripe's dashboard, has made.
async fn look_up(app: &Services, intent: &str, mark: (&str, &str)) -> Result<Option<Value>, BillingError> {
    let list = app.stripe.get(app.entropy.as_ref(), &stripe::list_refunds_of(intent)).await?;
    let made = page_of::<RefundView>(&list)
        .into_iter()
        .find(|refund| !matches!(refund.status.as_deref(), Some("failed" | "canceled")));
    let rows = list.get("data").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    Ok(made.and_then(|made| rows.iter().find(|row| row["id"] == made.id.as_str()).cloned()).map(|mut row| {
        row["metadata"][mark.0] = Value::String(mark.1.to_owned());
        row
    }))
}
