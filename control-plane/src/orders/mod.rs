//! Orders: the commercial purchase, from the payment page to a built server or the money back.
//!
//! Owns `orders` and `order_transitions`. The states and what moves them are in [`model`]; every move is one
//! guarded update that writes history, audit and letters in the same transaction ([`transition`]), so an
//! event that is delivered twice counts once (I7).
//!
//! ```text
//! awaiting_payment ─ paid ─ provisioning ─ fulfilled
//!   │ cancelled/expired  │      │ a fenced attempt goes back to paid
//!   ├── paid too late ── needs_operator ── refunding ── refunded
//!   └── paid too late, and ordered again ─────┘
//! ```
//!
//! *Placing* writes order, server, reservation and what is to be paid in one transaction. *Paying* is told by
//! `billing` through jobs. *Building* is driven by one job per order ([`advance`]) that looks at the order
//! and does what is due, on a signal and on time: nothing waits for an event that may be lost (I3, I12).
//! Another node is tried only after the first is fenced (I1). Where trying on makes no sense the
//! order waits for a person with everything still reserved, and the money goes back by itself after a day.

mod advance;
mod again;
mod api;
mod buyer;
mod exits;
mod jobs;
mod letters;
mod model;
mod pages;
mod place;
mod settle;
mod shop;
mod show;
mod store;
#[cfg(test)]
mod tests;
mod timeline;
mod transition;

use std::time::Duration;

use ez_protocol::{AccountId, OrderId};
use sqlx::AnyConnection;

pub use exits::{ExitError, abandon, re_place, refund, refund_began, retry, revoke_holders};
pub use letters::{
    OrderNeedsAttention, OrderNeedsOperator, OrderRefunded, OrderReturnedByBank, PaymentConfirmation,
    ServerReady,
};
pub use model::{Order, OrderEvent, OrderState, Outcome, Refused, Transition, reason};
pub use place::{MAX_USER_DATA, MOST_UNPAID, PlaceError, PlaceRequest, Setup, cancel, pay, place, user_data};
pub use transition::OrderError;

pub(crate) use api::{docs as api_docs, routes as api_routes};
pub(crate) use jobs::register_jobs;
pub(crate) use pages::routes as page_routes;

use crate::{
    app::Services,
    billing::{self, CheckoutState},
    db::DbError,
};

/// A person who waits for a page does not wait longer than this for Stripe.
const PATIENCE: Duration = Duration::from_secs(4);

/// An order by its id.
///
/// # Errors
/// Those of the query.
pub async fn get(connection: &mut AnyConnection, id: OrderId) -> Result<Option<Order>, DbError> {
    store::get(connection, id).await
}

/// An account's order by its id; somebody else's is as good as none.
///
/// # Errors
/// Those of the query.
pub async fn owned(
    connection: &mut AnyConnection,
    account: AccountId,
    id: OrderId,
) -> Result<Option<Order>, DbError> {
    Ok(store::get(connection, id).await?.filter(|order| order.account == account))
}

/// An account's orders, newest first.
///
/// # Errors
/// Those of the query.
pub async fn list(connection: &mut AnyConnection, account: AccountId) -> Result<Vec<Order>, DbError> {
    store::of_account(connection, account).await
}

/// Orders that wait for a person, longest waiting first.
///
/// # Errors
/// Those of the query.
pub async fn needing_operator(connection: &mut AnyConnection) -> Result<Vec<Order>, DbError> {
    store::in_state(connection, OrderState::NeedsOperator).await
}

/// The newest orders of the installation, for operators; of one state if one is named.
///
/// # Errors
/// Those of the query.
pub async fn newest(
    connection: &mut AnyConnection,
    state: Option<OrderState>,
) -> Result<Vec<Order>, DbError> {
    match state {
        Some(state) => store::in_state(connection, state).await,
        None => store::newest(connection).await,
    }
}

/// The states an order went through, oldest first.
///
/// # Errors
/// Those of the query.
pub async fn history(connection: &mut AnyConnection, id: OrderId) -> Result<Vec<Transition>, DbError> {
    store::history(connection, id).await
}

/// Looks at an unpaid order's payment by the same function as the webhook, for somebody who has come back from the
/// payment page; never for long.
async fn look_at_payment(app: &Services, order: &Order) {
    if order.state != OrderState::AwaitingPayment {
        return;
    }
    let id = order.id;
    let look = async {
        let looked = billing::look_at_checkout(app, id, app.clock.now()).await;
        if looked.map_err(|error| error.to_string())? == CheckoutState::Settled {
            // The job does the same a moment later.
            settle::paid(app, id).await.map_err(|error| error.to_string())?;
            advance::advance(app, id).await.map_err(|error| error.to_string())?;
        }
        Ok::<_, String>(())
    };
    match tokio::time::timeout(PATIENCE, look).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::info!(order.id = %id, error, "the payment could not be looked up"),
        Err(_) => tracing::info!(order.id = %id, "looking up the payment takes too long"),
    }
}
