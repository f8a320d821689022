//! The subscription behind a server.

use ez_protocol::{AccountId, OrderId};
use serde_json::Value;

use super::{
    BillingError, change,
    model::CallState,
    outbox::{self, Call},
    store,
    stripe::{self, FaultKind},
    sync,
};
use crate::{app::Services, audit};

/// Ends the subscription of an order at once: no further charge, nothing paid back. Safe to repeat.
///
/// # Errors
/// What Stripe or the database said.
pub async fn cancel_now(app: &Services, order: OrderId) -> Result<(), BillingError> {
    let known = {
        let mut connection = app.db.read().await?;
        store::subscription_of(&mut connection, order).await?
    };
    let Some(known) = known.filter(|known| !is_over(&known.status)) else {
        return Ok(());
    };
    let read_at = app.clock.now();
    // A DELETE takes no idempotency key and needs none: it can only be done once.
    match app.stripe.get(app.entropy.as_ref(), &stripe::cancel_subscription(&known.stripe_id)).await {
        Ok(answer) => sync::take_subscription(app, read_at, answer).await,
        Err(fault) if matches!(fault.kind, FaultKind::NotFound | FaultKind::Refused) => {
            sync::subscription(app, &known.stripe_id).await
        }
        Err(fault) => Err(fault.into()),
    }
}

/// Has an account's subscription end with the paid period, or takes that back. Safe to repeat.
///
/// # Errors
/// [`BillingError::Unknown`] when the account has no such subscription, [`BillingError::Over`] when it has ended; what
/// Stripe or the database said.
pub async fn cancel_at_period_end(
    app: &Services,
    account: AccountId,
    order: OrderId,
    at_end: bool,
    actor: &str,
) -> Result<(), BillingError> {
    let known = {
        let mut connection = app.db.read().await?;
        store::subscription_of(&mut connection, order).await?
    };
    let known =
        known.filter(|known| known.account == account).ok_or(BillingError::Unknown("subscription"))?;
    if is_over(&known.status) {
        return Err(BillingError::Over);
    }
    if at_end {
        change::clear_the_way(app, order, actor).await?;
    }
    let read_at = app.clock.now();
    let request = stripe::cancel_at_period_end(&known.stripe_id, at_end);
    // Each press is a call of its own: cancelling, keeping and cancelling again are three.
    let call = Call::new("period-end", &known.stripe_id, read_at.0, request);
    let (at, word) = (read_at, if at_end { "billing.cancel_wished" } else { "billing.cancel_taken_back" });
    let entry = audit::Entry {
        actor: actor.to_owned(),
        action: word.to_owned(),
        subject_kind: "order".to_owned(),
        subject_id: order.to_string(),
        detail: serde_json::json!({ "subscription": known.stripe_id }),
    };
    app.db.write(move |tx| Box::pin(async move { audit::record(tx, at, entry).await })).await?;
    match outbox::send(app, &call).await {
        Ok(answer) => {
            sync::take_subscription(app, read_at, answer).await?;
            outbox::close(app, &call, CallState::Done, Some(known.stripe_id), None).await
        }
        // It may have been done; what holds is read, and the person sees it.
        Err(BillingError::LookingUp) => sync::subscription(app, &known.stripe_id).await,
        Err(BillingError::Stripe(fault))
            if matches!(fault.kind, FaultKind::NotFound | FaultKind::Refused) =>
        {
            sync::subscription(app, &known.stripe_id).await?;
            Err(BillingError::Over)
        }
        Err(other) => Err(other),
    }
}

/// The address of Stripe's own page where an account changes its cards and tax ids.
///
/// # Errors
/// [`BillingError::Unknown`] when it never paid; what Stripe said.
pub async fn portal(app: &Services, account: AccountId) -> Result<String, BillingError> {
    let customer = {
        let mut connection = app.db.read().await?;
        store::customer(&mut connection, account).await?.ok_or(BillingError::Unknown("customer"))?
    };
    let request = stripe::create_portal(&customer, &app.config.http.page("/billing"));
    let call = Call::new("portal", account, app.clock.now().0, request);
    let answer = outbox::send(app, &call).await?;
    let url = answer.get("url").and_then(Value::as_str).map(str::to_owned);
    // A visit is good for minutes; nothing of it is kept.
    outbox::close(app, &call, CallState::Replaced, None, None).await?;
    url.ok_or(BillingError::Incomplete("url"))
}

/// Whether a subscription in this status is over for good.
pub(super) fn is_over(status: &str) -> bool {
    matches!(status, "canceled" | "incomplete_expired")
}
