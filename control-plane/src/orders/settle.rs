//! What `billing` tells: paid, not the right money, page over, refunded. Each exactly once in effect.

use ez_protocol::{OrderId, UnixMillis};
use sqlx::AnyConnection;

use super::{
    OrderError,
    model::{Order, OrderEvent, OrderState, reason},
    store,
    transition::{Cause, Taken, take},
};
use crate::{
    app::Services,
    billing::{self, RefundState},
    config::Config,
    db::DbError,
    fleet::{Release, Severity, alarms},
    instances::{self, InstanceError, InstanceState},
};

/// The alarm about a late payment that is not wanted any more.
const PAID_TWICE: &str = "paid_twice";

/// Why a fact about money was not taken over.
#[derive(Debug, thiserror::Error)]
pub(super) enum SettleError {
    /// The order did not move.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// The server did not change.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// The database.
    #[error("reading or writing the order")]
    Db(#[from] DbError),
}

impl SettleError {
    /// The database's own error, whichever of the three it came through: what is worth another attempt must not look
    /// like a refusal because it met the server's row and not the order's.
    pub(super) fn into_db(self) -> Result<DbError, Self> {
        match self {
            Self::Db(error)
            | Self::Order(OrderError::Db(error))
            | Self::Instance(InstanceError::Db(error)) => Ok(error),
            other => Err(other),
        }
    }
}

/// The money is there. An order whose place was given back meanwhile waits for a person: the money is never lost.
/// If the same was ordered again, it goes back by itself.
pub(super) async fn paid(app: &Services, id: OrderId) -> Result<Option<Order>, SettleError> {
    let (at, config) = (app.clock.now(), app.config.clone());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let Some(mut order) = store::get_to_change(tx, id).await? else { return Ok(None) };
                if order.paid_minor.is_none() {
                    order.paid_minor = billing::checkout_of(tx, id).await?.and_then(|paid| paid.paid_minor);
                }
                let late = matches!(order.state, OrderState::Cancelled | OrderState::Expired);
                let again = if late { store::successor(tx, id).await? } else { None };
                let (event, reason) = match (late, &again) {
                    (true, Some(_)) => (OrderEvent::PaymentSurplus, Some(reason::PAID_TWICE)),
                    (true, None) => (OrderEvent::PaymentSettled, Some(reason::PAID_TOO_LATE)),
                    (false, _) => (OrderEvent::PaymentSettled, None),
                };
                let taken = take(tx, &config, at, order, Cause { event, reason, actor: "stripe" }).await?;
                if let (Taken::Moved(_), Some(again)) = (&taken, again) {
                    let detail = format!(
                        "Order {id} was paid after it had ended; the same was ordered again as {}. The late payment is being given back.",
                        again.id
                    );
                    let (severity, subject) = (Severity::Critical, id.to_string());
                    let alarm = alarms::New { kind: PAID_TWICE, subject: &subject, severity, node: None, detail: &detail };
                    alarms::raise(tx, at, alarm).await?;
                }
                Ok(Some(taken.order()))
            })
        })
        .await
}

/// Money is there that does not match, or it went back already.
pub(super) async fn suspicious(app: &Services, id: OrderId) -> Result<(), SettleError> {
    mismatched(app, id).await?;
    // It may be suspicious because it went back.
    refund_changed(app, id).await
}

async fn mismatched(app: &Services, id: OrderId) -> Result<(), SettleError> {
    let (at, config) = (app.clock.now(), app.config.clone());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let Some(order) = store::get_to_change(tx, id).await? else { return Ok(()) };
                let cause = Cause {
                    event: OrderEvent::PaymentSuspicious,
                    reason: Some(reason::PAYMENT_MISMATCH),
                    actor: "stripe",
                };
                match take(tx, &config, at, order, cause).await {
                    Ok(_) => Ok(()),
                    // It is being built, or was, with the right money.
                    Err(OrderError::Refused(_)) => Ok(()),
                    Err(other) => Err(other.into()),
                }
            })
        })
        .await
}

/// The payment page is over: the order ends and its place is given back.
pub(super) async fn let_go(
    app: &Services,
    id: OrderId,
    event: OrderEvent,
    actor: &str,
) -> Result<(), SettleError> {
    let (at, config, actor) = (app.clock.now(), app.config.clone(), actor.to_owned());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let Some(order) = store::get_to_change(tx, id).await? else { return Ok(()) };
                // Stripe only says that the page is over; why, the customer said before.
                let (event, actor) = match store::cancel_wanted(tx, id).await? {
                    Some(wisher) if event == OrderEvent::CheckoutExpired => {
                        (OrderEvent::CustomerCancelled, wisher)
                    }
                    _ => (event, actor),
                };
                let cause = Cause { event, reason: None, actor: &actor };
                match take(tx, &config, at, order, cause).await {
                    Ok(Taken::Moved(order)) => release(tx, at, &order, &actor).await,
                    // A payment was quicker, or this was done before.
                    Ok(Taken::Already(_)) | Err(OrderError::Refused(_)) => Ok(()),
                    Err(other) => Err(other.into()),
                }
            })
        })
        .await
}

async fn release(
    tx: &mut AnyConnection,
    at: UnixMillis,
    order: &Order,
    actor: &str,
) -> Result<(), SettleError> {
    if let Some(instance) = instances::get_to_change(tx, order.instance).await?
        && instance.state == InstanceState::Requested
    {
        instances::give_up_place(tx, at, instance, Release::NeverUsed, actor).await?;
    }
    Ok(())
}

/// A refund changed: takes over how it stands now, whatever the news said.
pub(super) async fn refund_changed(app: &Services, id: OrderId) -> Result<(), SettleError> {
    let (at, config) = (app.clock.now(), app.config.clone());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let Some(order) = store::get_to_change(tx, id).await? else { return Ok(()) };
                match billing::refund_state(tx, id).await? {
                    Some(RefundState::Succeeded) => refund_ended(tx, &config, at, order, true).await,
                    Some(RefundState::Failed) => refund_ended(tx, &config, at, order, false).await,
                    Some(RefundState::Wanted | RefundState::Pending) | None => Ok(()),
                }
            })
        })
        .await
}

/// No refund is possible now.
pub(super) async fn refund_impossible(app: &Services, id: OrderId) -> Result<(), SettleError> {
    let (at, config) = (app.clock.now(), app.config.clone());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let Some(order) = store::get_to_change(tx, id).await? else { return Ok(()) };
                refund_ended(tx, &config, at, order, false).await
            })
        })
        .await
}

async fn refund_ended(
    tx: &mut AnyConnection,
    config: &Config,
    at: UnixMillis,
    order: Order,
    succeeded: bool,
) -> Result<(), SettleError> {
    let (event, why) = match (succeeded, order.state) {
        // Given back while a person was looking: what is left of it, subscription and server, ends as after any refund.
        (true, OrderState::NeedsOperator) => (OrderEvent::RefundStarted, None),
        (true, _) => (OrderEvent::RefundSettled, None),
        (false, _) => (OrderEvent::RefundFailed, Some(reason::REFUND_FAILED)),
    };
    let subject = order.id.to_string();
    match take(tx, config, at, order, Cause { event, reason: why, actor: "stripe" }).await {
        Ok(Taken::Moved(order)) if order.state == OrderState::Refunded => {
            Ok(alarms::clear(tx, at, PAID_TWICE, &subject).await?)
        }
        // Goodwill from Stripe's dashboard for an order that was fulfilled: the copy of the refund has it.
        Ok(_) | Err(OrderError::Refused(_)) => Ok(()),
        Err(other) => Err(other.into()),
    }
}
