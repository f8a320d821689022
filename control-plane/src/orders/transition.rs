//! Moving an order: one guarded update with its history, audit row and letters, in the caller's transaction.

use std::time::Duration;

use ez_protocol::UnixMillis;
use serde_json::json;
use sqlx::AnyConnection;

use super::{
    jobs::ADVANCE,
    letters,
    model::{Order, OrderEvent, OrderState, Outcome, Refused, Transition},
    store,
};
use crate::{
    audit, billing,
    config::Config,
    db::DbError,
    fleet::{Severity, alarms},
    jobs, notify,
};

/// The money goes back by itself when nobody decided for so long.
pub(super) const REFUND_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// Why an order did not move.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The event makes no sense in its state.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The database; [`DbError::NotFound`] when somebody else moved it in between.
    #[error("writing the order")]
    Db(#[from] DbError),
}

/// Whether something moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Taken {
    /// It moved.
    Moved(Order),
    /// This had happened before.
    Already(Order),
}

impl Taken {
    pub(super) fn order(self) -> Order {
        match self {
            Self::Moved(order) | Self::Already(order) => order,
        }
    }
}

/// An event with who and why.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cause<'a> {
    pub(super) event: OrderEvent,
    pub(super) reason: Option<&'a str>,
    pub(super) actor: &'a str,
}

/// Takes an event.
pub(super) async fn take(
    tx: &mut AnyConnection,
    config: &Config,
    at: UnixMillis,
    order: Order,
    cause: Cause<'_>,
) -> Result<Taken, OrderError> {
    let from = order.state;
    let to = match from.take(cause.event)? {
        Outcome::Already => return Ok(Taken::Already(order)),
        Outcome::Moves(to) => to,
    };
    let was = order.version;
    let asks = to == OrderState::NeedsOperator;
    let pays = matches!(cause.event, OrderEvent::PaymentSettled | OrderEvent::PaymentSurplus);
    let moved = Order {
        state: to,
        reason: cause.reason.map(str::to_owned),
        updated_at: at,
        version: was + 1,
        paid_at: order.paid_at.or(pays.then_some(at)),
        fulfilled_at: order.fulfilled_at.or((to == OrderState::Fulfilled).then_some(at)),
        closed_at: (to.is_closed() && to != OrderState::Fulfilled).then_some(at),
        needs_operator_at: asks.then(|| order.needs_operator_at.unwrap_or(at)),
        // The day runs from the first time a person was asked; trying again does not start it anew.
        refund_due_at: match to {
            OrderState::NeedsOperator => order.refund_due_at.or(Some(at.plus(REFUND_AFTER))),
            OrderState::Paid | OrderState::Provisioning => order.refund_due_at,
            _ => None,
        },
        ..order
    };
    store::save(tx, was, &moved).await?;
    let transition =
        Transition { from: Some(from), to, cause: cause.event.to_string(), reason: moved.reason.clone(), at };
    store::insert_transition(tx, moved.id, moved.version, &transition).await?;
    let entry = audit::Entry {
        actor: cause.actor.to_owned(),
        action: format!("order.{}", cause.event),
        subject_kind: "order".to_owned(),
        subject_id: moved.id.to_string(),
        detail: json!({"from": from, "to": to, "reason": moved.reason}),
    };
    audit::record(tx, at, entry).await?;
    write_letters(tx, config, at, from, &moved, cause.event).await?;
    ask_a_person(tx, at, from, &moved).await?;
    if !to.is_closed() {
        jobs::enqueue(tx, ADVANCE, &moved.id.to_string(), &json!({"order_id": moved.id}), at).await?;
    }
    tracing::info!(order.id = %moved.id, order.from = %from, order.to = %to, order.cause = %cause.event, "order moved");
    Ok(Taken::Moved(moved))
}

/// An order that waits for a person is an alarm for as long as it waits.
async fn ask_a_person(
    tx: &mut AnyConnection,
    at: UnixMillis,
    from: OrderState,
    order: &Order,
) -> Result<(), DbError> {
    let (kind, subject) = ("order_needs_operator", order.id.to_string());
    match order.state {
        OrderState::NeedsOperator => {
            let detail = format!(
                "{} in {} is paid and cannot go on by itself. Its page has the ways out; the money goes back in a day.",
                order.hostname, order.location
            );
            let severity = Severity::Critical;
            let alarm = alarms::New { kind, subject: &subject, severity, node: None, detail: &detail };
            alarms::hold(tx, at, alarm).await.map(|_| ())
        }
        _ if from == OrderState::NeedsOperator => alarms::clear(tx, at, kind, &subject).await,
        _ => Ok(()),
    }
}

/// Letters that belong to a move.
async fn write_letters(
    tx: &mut AnyConnection,
    config: &Config,
    at: UnixMillis,
    from: OrderState,
    order: &Order,
    event: OrderEvent,
) -> Result<(), DbError> {
    let link = config.http.page(&format!("/orders/{}", order.id));
    match (event, order.state) {
        (OrderEvent::PaymentSettled, OrderState::Paid) => {
            notify::send(tx, at, &order.email, &letters::payment_confirmation(order, link)).await
        }
        (OrderEvent::RefundSettled, _) => {
            let returned = billing::returned(tx, order.id).await?;
            if returned.by_bank {
                let letter = letters::returned_by_bank(order, returned, link);
                return notify::send(tx, at, &order.email, &letter).await;
            }
            notify::send(tx, at, &order.email, &letters::refunded(order, returned, link)).await
        }
        (_, OrderState::NeedsOperator) if from != OrderState::NeedsOperator => {
            notify::send(tx, at, &order.email, &letters::attention(order, link)).await?;
            let letter =
                letters::operator(order, config.http.page(&format!("/operator/orders/{}", order.id)));
            notify::send_to_operators(tx, at, config, &letter).await
        }
        _ => Ok(()),
    }
}
