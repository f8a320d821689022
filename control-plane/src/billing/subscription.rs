//! The subscription behind a server.

use ez_protocol::{AccountId, OrderId};
use serde_json::Value;

use super::{
    BillingError, change, dunning,
    model::CallState,
    outbox::{self, Call},
    store,
    stripe::{self, FaultKind},
    sync,
};
use crate::{
    app::Services,
    audit,
    db::{self, DbError},
    entropy::EntropyExt as _,
};

/// How often one invoice is asked to be voided before it is left as it is.
const MOST_VOIDS: i64 = 5;

/// Ends the subscription of an order at once and for good: no further charge, nothing paid back, and what is unpaid need
/// not be paid any more. Safe to repeat.
///
/// # Errors
/// What Stripe or the database said.
pub async fn cancel_now(app: &Services, order: OrderId) -> Result<(), BillingError> {
    end(app, order, false).await.map(|_| ())
}

/// The same where nobody has paid: invoice and subscription are read again first, and whoever has paid meanwhile keeps
/// the server. Gives whether it is over.
///
/// # Errors
/// What Stripe or the database said.
pub async fn give_up(app: &Services, order: OrderId) -> Result<bool, BillingError> {
    look_again(app, order).await?;
    end(app, order, true).await
}

/// Reads what an order's standing rests on again, unless its subscription is over: money that went back may be that of a
/// period that is past, and the renewal that pays for the server now not be heard of yet.
///
/// # Errors
/// What Stripe or the database said.
pub async fn look_before_end(app: &Services, order: OrderId) -> Result<(), BillingError> {
    let known = {
        let mut connection = app.db.read().await?;
        store::subscription_of(&mut connection, order).await?
    };
    if known.is_none_or(|known| is_over(&known.status)) {
        return Ok(());
    }
    look_again(app, order).await
}

/// Reads it again where it is about to end.
async fn look_again(app: &Services, order: OrderId) -> Result<(), BillingError> {
    match dunning::look_again(app, order).await {
        // Where it had ended when we last looked, there is nothing more to see; else ending it fails as well.
        Err(BillingError::Stripe(fault)) if fault.kind == FaultKind::NotFound => Ok(()),
        other => other,
    }
}

/// Ends a subscription; `if_ended` only if its standing says so.
async fn end(app: &Services, order: OrderId, if_ended: bool) -> Result<bool, BillingError> {
    let known = {
        let mut connection = app.db.read().await?;
        store::subscription_of(&mut connection, order).await?
    };
    let Some(known) = known else { return Ok(true) };
    // First what we mean, so that whatever is paid from now on is known to be for nothing.
    let (at, config, id) = (app.clock.now(), app.config.clone(), known.stripe_id.clone());
    let closed = app
        .db
        .write(move |tx| {
            Box::pin(async move {
                db::lock(tx, "checkout", order).await?;
                let standing = dunning::standing_of(tx, order).await?;
                if if_ended && standing.is_some_and(|standing| standing.stand != dunning::Stand::End) {
                    return Ok(false);
                }
                if dunning::store::close(tx, at, order, &id).await? {
                    dunning::judge(tx, &config, at, order).await?;
                }
                Ok::<_, DbError>(true)
            })
        })
        .await?;
    if !closed {
        return Ok(false);
    }
    if !is_over(&known.status) {
        let read_at = app.clock.now();
        // A DELETE takes no idempotency key and needs none: it can only be done once.
        match app.stripe.get(app.entropy.as_ref(), &stripe::cancel_subscription(&known.stripe_id)).await {
            Ok(answer) => sync::take_subscription(app, read_at, answer).await?,
            // One that Stripe does not have, though it ran when we last looked, may be a wrong key: then nothing is over.
            Err(fault) if matches!(fault.kind, FaultKind::NotFound | FaultKind::Refused) => {
                sync::subscription(app, &known.stripe_id).await?;
            }
            Err(fault) => return Err(fault.into()),
        }
    }
    let open = {
        let mut connection = app.db.read().await?;
        dunning::store::open_invoices(&mut connection, &known.stripe_id).await?
    };
    for invoice in open {
        void(app, &invoice).await?;
    }
    Ok(true)
}

/// Nobody shall pay for what is over. Safe to repeat; one that was paid meanwhile is read, and what that means is
/// [`super::surplus`]'s.
async fn void(app: &Services, invoice: &str) -> Result<(), BillingError> {
    for attempt in 1..=MOST_VOIDS {
        let call = Call::new("end-void", invoice, attempt, stripe::void_invoice(invoice));
        match outbox::send(app, &call).await {
            Ok(_) => {
                sync::invoice(app, invoice).await?;
                return outbox::close(app, &call, CallState::Done, Some(invoice.to_owned()), None).await;
            }
            // It was done, or it is asked for once more under the next key.
            Err(BillingError::LookingUp) => {
                sync::invoice(app, invoice).await?;
                outbox::close(app, &call, CallState::Replaced, None, None).await?;
                let is_open = {
                    let mut connection = app.db.read().await?;
                    store::invoice_status(&mut connection, invoice).await?.as_deref() == Some("open")
                };
                if !is_open {
                    return Ok(());
                }
            }
            Err(BillingError::Stripe(fault)) if fault.kind == FaultKind::NotFound => return Ok(()),
            // Paid or void; or Stripe does not let it go. Nothing of ours waits for that: a payment would go back.
            Err(BillingError::Stripe(fault)) if fault.kind == FaultKind::Refused => {
                return sync::invoice(app, invoice).await.map(|_| ());
            }
            Err(other) => return Err(other),
        }
    }
    tracing::warn!(stripe.invoice = invoice, "an invoice of what has ended could not be voided");
    Ok(())
}

/// Has an account's subscription end with the paid period, or takes that back. Safe to repeat.
///
/// # Errors
/// [`BillingError::Unknown`] when the account has no such subscription, [`BillingError::Over`] when it has ended; what
/// Stripe or the database said, and then nothing was changed.
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
    let (at, word) =
        (app.clock.now(), if at_end { "billing.cancel_wished" } else { "billing.cancel_taken_back" });
    let entry = audit::Entry {
        actor: actor.to_owned(),
        action: word.to_owned(),
        subject_kind: "order".to_owned(),
        subject_id: order.to_string(),
        detail: serde_json::json!({ "subscription": known.stripe_id }),
    };
    app.db.write(move |tx| Box::pin(async move { audit::record(tx, at, entry).await })).await?;
    let id = &known.stripe_id;
    let purpose = if at_end { "period-end" } else { "period-keep" };
    let refused = match tell(app, id, at_end, purpose).await {
        Err(BillingError::Stripe(fault))
            if matches!(fault.kind, FaultKind::NotFound | FaultKind::Refused) =>
        {
            fault
        }
        other => return other,
    };
    // A refusal has many reasons. What was read after it says whether it is over; if not, what is left in the way is a
    // schedule: of a change that came to nothing, or made in Stripe's dashboard.
    let now = {
        let mut connection = app.db.read().await?;
        store::subscription_of(&mut connection, order).await?
    };
    if now.is_none_or(|now| is_over(&now.status)) {
        return Err(BillingError::Over);
    }
    if at_end && change::release_any(app, order, id, actor).await? {
        return tell(app, id, at_end, "period-end-again").await;
    }
    tracing::warn!(order.id = %order, stripe.subscription = %id, "Stripe refuses an end with the period");
    Err(refused.into())
}

/// Tells Stripe that a subscription shall end with its period, or go on. Each press is a call of its own: cancelling,
/// keeping and cancelling again are three, in one millisecond too.
async fn tell(app: &Services, id: &str, at_end: bool, purpose: &'static str) -> Result<(), BillingError> {
    let read_at = app.clock.now();
    // What the process says itself right after a person did (a plan change that undid the wish) is another call, too.
    let one_of_many = i64::from(u16::from_be_bytes(app.entropy.bytes()));
    let press = read_at.0.saturating_mul(100_000).saturating_add(one_of_many);
    let call = Call::new(purpose, id, press, stripe::cancel_at_period_end(id, at_end));
    match outbox::send(app, &call).await {
        Ok(answer) => {
            sync::take_subscription(app, read_at, answer).await?;
            outbox::close(app, &call, CallState::Done, Some(id.to_owned()), None).await
        }
        // It may have been done; what holds is read, and the person sees it.
        Err(BillingError::LookingUp) => sync::subscription(app, id).await,
        Err(BillingError::Stripe(fault))
            if matches!(fault.kind, FaultKind::NotFound | FaultKind::Refused) =>
        {
            sync::subscription(app, id).await?;
            Err(fault.into())
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
