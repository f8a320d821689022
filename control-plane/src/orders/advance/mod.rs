//! One order, one look: what is due is done, and the answer is when to look again.
//!
//! The same function runs after every move, on every report of the node, and on time. It takes no input but
//! the order, so a lost signal costs time, never the order (I3, I12).

mod build;
mod refunding;

use std::time::Duration;

use ez_protocol::{OrderId, UnixMillis};

use super::{
    OrderError,
    model::{Order, OrderEvent, OrderState},
    settle::{self, SettleError},
    store,
};
use crate::{
    app::Services,
    billing::{self, BillingError, CheckoutState},
    db::DbError,
    instances::{AssignError, BuildError, EndError, InstanceError},
};

/// Unpaid orders are looked at so long after their payment page should be over.
const UNPAID_GRACE: Duration = Duration::from_secs(60);
/// A paid order without a place is tried this often …
const PLACE_AGAIN: Duration = Duration::from_secs(15);
/// … and for this long.
const PLACE_FOR: Duration = Duration::from_secs(15 * 60);
/// A node that accepted and has said nothing for this long is silent. Its agent starts no new server when it has
/// heard nothing for ten minutes, so after this time it starts none either; the difference is room for clocks.
pub(super) const SILENT_AFTER: Duration = Duration::from_secs(15 * 60);
/// So many nodes (or times) are tried before a person is asked.
const MOST_ATTEMPTS: u32 = 3;
/// How often a refund, or an ending for it, is tried.
const REFUND_AGAIN: Duration = Duration::from_secs(60);
/// Open orders are looked at this often even when nothing is due.
const ANYWAY: Duration = Duration::from_secs(5 * 60);

/// Why a look did not work out; the job looks again.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdvanceError {
    #[error(transparent)]
    Order(#[from] OrderError),
    #[error(transparent)]
    Settle(#[from] SettleError),
    #[error(transparent)]
    Instance(#[from] InstanceError),
    #[error("ending the server")]
    End(#[from] EndError),
    #[error("finding a place")]
    Assign(#[source] AssignError),
    #[error("ordering the build")]
    Build(#[source] BuildError),
    #[error("asking about the payment")]
    Billing(#[from] BillingError),
    #[error("reading or writing the order")]
    Db(#[from] DbError),
    #[error("the order's server is missing")]
    NoServer,
}

/// When an unpaid order is looked at if nothing else happens.
pub(super) fn unpaid_due(order: &Order) -> UnixMillis {
    order.reserved_until.plus(UNPAID_GRACE)
}

/// Does what is due for an order; says when to look again.
pub(super) async fn advance(app: &Services, id: OrderId) -> Result<Option<UnixMillis>, AdvanceError> {
    let now = app.clock.now();
    let order = {
        let mut connection = app.db.read().await?;
        store::get(&mut connection, id).await?
    };
    let Some(order) = order else { return Ok(None) };
    match order.state {
        OrderState::AwaitingPayment => unpaid(app, now, &order).await,
        OrderState::Paid | OrderState::Provisioning | OrderState::NeedsOperator => {
            build::build(app, now, id).await
        }
        OrderState::Refunding => refunding::refunding(app, now, id).await,
        OrderState::Fulfilled | OrderState::Cancelled | OrderState::Expired | OrderState::Refunded => {
            Ok(None)
        }
    }
}

/// The reservation ends when Stripe says that the page is over, and it is asked once it should be.
async fn unpaid(app: &Services, now: UnixMillis, order: &Order) -> Result<Option<UnixMillis>, AdvanceError> {
    let due = unpaid_due(order);
    if now < due {
        return Ok(Some(due));
    }
    // What came of it arrives as a job of its own as well. Should that one be lost, the order does not stay here.
    match billing::expire_session(app, order.id).await? {
        CheckoutState::Expired => {
            settle::let_go(app, order.id, OrderEvent::CheckoutExpired, "stripe").await?;
        }
        CheckoutState::Settled => {
            settle::paid(app, order.id).await?;
        }
        CheckoutState::Suspicious => settle::suspicious(app, order.id).await?,
        CheckoutState::Wanted | CheckoutState::Open | CheckoutState::Processing => {
            return Ok(Some(now.plus(UNPAID_GRACE)));
        }
    }
    Ok(Some(now))
}
