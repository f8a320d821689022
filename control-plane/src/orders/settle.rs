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
    config::Config,
    db::DbError,
    fleet::Release,
    instances::{self, InstanceError, InstanceState},
};

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

/// The money is there. An order whose place was given back meanwhile waits for a person: the money is never lost.
pub(super) async fn paid(app: &Services, id: OrderId) -> Result<Option<Order>, SettleError> {
    let (at, config) = (app.clock.now(), app.config.clone());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let Some(order) = store::get_to_change(tx, id).await? else { return Ok(None) };
                let late = matches!(order.state, OrderState::Cancelled | OrderState::Expired);
                let cause = Cause {
                    event: OrderEvent::PaymentSettled,
                    reason: late.then_some(reason::PAID_TOO_LATE),
                    actor: "stripe",
                };
                Ok(Some(take(tx, &config, at, order, cause).await?.order()))
            })
        })
        .await
}

/// Money is there that does not match.
pub(super) async fn suspicious(app: &Services, id: OrderId) -> Result<(), SettleError> {
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
                    // A second payment for an order that is being built or was: the log and Stripe have it.
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

/// A refund ended.
pub(super) async fn refunded(app: &Services, id: OrderId, succeeded: bool) -> Result<(), SettleError> {
    let (at, config) = (app.clock.now(), app.config.clone());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let Some(order) = store::get_to_change(tx, id).await? else { return Ok(()) };
                refund_ended(tx, &config, at, order, succeeded).await
            })
        })
        .await
}

pub(super) async fn refund_ended(
    tx: &mut AnyConnection,
    config: &Config,
    at: UnixMillis,
    order: Order,
    succeeded: bool,
) -> Result<(), SettleError> {
    let (event, why) = if succeeded {
        (OrderEvent::RefundSettled, None)
    } else {
        (OrderEvent::RefundFailed, Some(reason::REFUND_FAILED))
    };
    match take(tx, config, at, order, Cause { event, reason: why, actor: "stripe" }).await {
        // Goodwill from Stripe's dashboard for an order that was fulfilled: the copy of the refund has it.
        Ok(_) | Err(OrderError::Refused(_)) => Ok(()),
        Err(other) => Err(other.into()),
    }
}
