//! The subscription behind a server.

use ez_protocol::{InstanceId, OrderId, UnixMillis};
use sqlx::AnyConnection;

use super::{
    BillingError, store,
    stripe::{self, FaultKind},
    sync,
};
use crate::{app::Services, db::DbError};

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

/// Whether a subscription in this status is over for good.
pub(super) fn is_over(status: &str) -> bool {
    matches!(status, "canceled" | "incomplete_expired")
}

/// The servers whose subscriptions ended since then, at most a thousand.
///
/// # Errors
/// Those of the query.
pub async fn ended_since(
    connection: &mut AnyConnection,
    since: UnixMillis,
) -> Result<Vec<InstanceId>, DbError> {
    store::ended_since(connection, since).await
}

/// The end of the period an order's subscription is paid for, where known.
///
/// # Errors
/// Those of the query.
pub async fn period_end(
    connection: &mut AnyConnection,
    order: OrderId,
) -> Result<Option<UnixMillis>, DbError> {
    Ok(store::subscription_of(connection, order).await?.and_then(|known| known.period_end))
}
