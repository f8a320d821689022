//! What `billing` tells the rest: a job per order, enqueued in the transaction that wrote the fact down.

use ez_protocol::{OrderId, UnixMillis};
use serde_json::json;
use sqlx::AnyConnection;

use super::model::{Problem, RefundState};
use crate::{db::DbError, jobs};

/// The money is there, and it is the right money. Payload: `order_id`.
pub const PAYMENT_SETTLED: &str = "orders.payment_settled";
/// Money came that does not match the order. Payload: `order_id`, `problem`.
pub const PAYMENT_SUSPICIOUS: &str = "orders.payment_suspicious";
/// The payment page ran out or was closed. Payload: `order_id`.
pub const CHECKOUT_EXPIRED: &str = "orders.checkout_expired";
/// Whether a server is served has changed. Payload: `order_id`.
pub const STANDING_CHANGED: &str = "instances.standing";
/// What an account pays for a server, or wants to pay, has changed. Payload: `order_id`.
pub const PLAN_CHANGED: &str = "replan.follow";
/// A refund ended. Payload: `order_id`, `state`.
pub const REFUND_SETTLED: &str = "orders.refund_settled";

pub(super) async fn settled(tx: &mut AnyConnection, at: UnixMillis, order: OrderId) -> Result<(), DbError> {
    jobs::enqueue(tx, PAYMENT_SETTLED, &order.to_string(), &json!({"order_id": order}), at).await
}

pub(super) async fn suspicious(
    tx: &mut AnyConnection,
    at: UnixMillis,
    order: OrderId,
    problem: Problem,
) -> Result<(), DbError> {
    tracing::error!(order.id = %order, billing.problem = %problem, "money came that does not match the order");
    let payload = json!({"order_id": order, "problem": problem});
    jobs::enqueue(tx, PAYMENT_SUSPICIOUS, &order.to_string(), &payload, at).await
}

pub(super) async fn expired(tx: &mut AnyConnection, at: UnixMillis, order: OrderId) -> Result<(), DbError> {
    jobs::enqueue(tx, CHECKOUT_EXPIRED, &order.to_string(), &json!({"order_id": order}), at).await
}

pub(super) async fn standing(tx: &mut AnyConnection, at: UnixMillis, order: OrderId) -> Result<(), DbError> {
    jobs::enqueue(tx, STANDING_CHANGED, &order.to_string(), &json!({"order_id": order}), at).await
}

pub(super) async fn plan_changed(
    tx: &mut AnyConnection,
    at: UnixMillis,
    order: OrderId,
) -> Result<(), DbError> {
    jobs::enqueue(tx, PLAN_CHANGED, &order.to_string(), &json!({"order_id": order}), at).await
}

pub(super) async fn refund(
    tx: &mut AnyConnection,
    at: UnixMillis,
    order: OrderId,
    state: RefundState,
) -> Result<(), DbError> {
    let payload = json!({"order_id": order, "state": state});
    jobs::enqueue(tx, REFUND_SETTLED, &order.to_string(), &payload, at).await
}
