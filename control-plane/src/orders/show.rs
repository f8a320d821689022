//! What the order's page shows.

use ez_protocol::OrderId;
use sqlx::AnyConnection;

use super::{
    again, letters,
    model::{Order, OrderState, reason},
    store, timeline,
};
use crate::{
    billing::{self, RefundState},
    catalog,
    db::DbError,
    dispatch, fleet,
    instances::{self, Instance, Progress, StepProgress},
    web::views::{
        Money, Step, StepState,
        orders::{Again, Problem, Reach, Show, Unpaid},
    },
};

/// Something small that differs whenever the page would.
pub(super) async fn mark(
    connection: &mut AnyConnection,
    id: OrderId,
) -> Result<(i64, Option<String>, usize), DbError> {
    let order = store::get(connection, id).await?.ok_or(DbError::NotFound)?;
    let instance = instances::get(connection, order.instance).await?.ok_or(DbError::NotFound)?;
    let (state, events) = match instance.provisioning_order {
        Some(provisioning) => {
            let record = dispatch::show(connection, provisioning).await?;
            let events = dispatch::events_of(connection, provisioning).await?;
            (record.map(|record| record.state.to_string()), events.len())
        }
        None => (None, 0),
    };
    Ok((order.version, state, events))
}

pub(super) fn view_step(step: &StepProgress) -> Step {
    Step {
        code: step.name.clone(),
        state: match step.progress {
            Progress::Waiting => StepState::Waiting,
            Progress::Now => StepState::Now,
            Progress::Done => StepState::Done,
            Progress::Failed => StepState::Failed,
            Progress::Skipped => StepState::Skipped,
        },
        at: step.ended_at.or(step.started_at),
        took_ms: timeline::took_ms(step).and_then(|took| i64::try_from(took).ok()),
        note: step.note.clone().filter(|_| step.progress == Progress::Failed),
        queue: step.queue,
    }
}

/// The page of an order.
pub(super) async fn page(connection: &mut AnyConnection, order: &Order) -> Result<Show, DbError> {
    let instance = instances::get(connection, order.instance).await?.ok_or(DbError::NotFound)?;
    let told = timeline::tell(connection, order, &instance).await?;
    let location = fleet::locations(connection)
        .await?
        .into_iter()
        .find(|location| location.code == order.location)
        .map_or_else(|| order.location.clone(), |location| location.name);
    let plan =
        catalog::plan(connection, &order.plan_code).await?.map_or(order.plan_name.clone(), |plan| plan.name);
    let here = format!("/orders/{}", order.id);
    let checkout = billing::checkout_of(connection, order.id).await?;
    let money = |minor: i64| Money::new(minor, order.currency.clone());
    let some = |minor: i64| (minor > 0).then(|| money(minor));
    Ok(Show {
        server_name: order.hostname.clone(),
        state: order.state.as_str(),
        tone: tone(order.state),
        steps: told.steps.iter().map(view_step).collect(),
        payment: (order.state == OrderState::AwaitingPayment).then(|| Unpaid {
            pay_action: format!("{here}/pay"),
            cancel_action: format!("{here}/cancel"),
            until: order.reserved_until,
        }),
        again: match (again::is_offered(order), store::successor(connection, order.id).await?) {
            (true, None) => Some(Again::Order(format!("{here}/again"))),
            (true, Some(next)) => Some(Again::Ordered(format!("/orders/{}", next.id))),
            (false, _) => None,
        },
        problem: problem(
            order,
            billing::refund_state(connection, order.id).await?,
            billing::bank_decides(connection, order.id).await?,
            billing::returned(connection, order.id).await?.by_bank,
        ),
        server: reach(connection, order, &instance).await?,
        plan,
        location,
        image: order.image_name.clone(),
        amount: Money::new(order.amount_minor, order.currency.clone()),
        interval: order.interval.to_string(),
        today: money(order.due_today()),
        setup: some(order.setup_minor),
        trial_days: order.trial_days,
        paid: order.paid_minor.filter(|paid| *paid != order.due_today()).map(money),
        discount: checkout.as_ref().and_then(|checkout| some(checkout.discount_minor)),
        tax: checkout.as_ref().and_then(|checkout| some(checkout.tax_minor)),
        placed_at: order.placed_at,
        events: (!order.state.is_closed()).then(|| format!("{here}/changes")),
    })
}

fn tone(state: OrderState) -> &'static str {
    match state {
        OrderState::AwaitingPayment | OrderState::Paid | OrderState::Provisioning | OrderState::Refunding => {
            "wait"
        }
        OrderState::Fulfilled => "good",
        OrderState::NeedsOperator => "bad",
        OrderState::Cancelled | OrderState::Expired | OrderState::Refunded => "idle",
    }
}

fn problem(order: &Order, refund: Option<RefundState>, bank_decides: bool, by_bank: bool) -> Option<Problem> {
    let (next, money) = match order.state {
        OrderState::NeedsOperator => ("operator", "kept"),
        OrderState::Refunding if bank_decides => ("bank", "disputed"),
        OrderState::Refunding => ("refund", "kept"),
        // It was sent, and the bank has returned it since.
        OrderState::Refunded if refund == Some(RefundState::Failed) => ("operator", "not-returned"),
        OrderState::Refunded if by_bank => ("nothing", "by-bank"),
        OrderState::Refunded => ("nothing", "refunded"),
        _ => return None,
    };
    let code = match order.reason.as_deref() {
        Some(reason::NODE_SILENT | reason::NODE_STUCK) => "node-silent",
        Some(reason::NO_CAPACITY) => "no-capacity",
        Some(reason::BUILD_FAILED) => "build-failed",
        Some(reason::PAYMENT_MISMATCH) => "payment-mismatch",
        Some(reason::PAID_TOO_LATE) => "paid-too-late",
        Some(reason::PAID_TWICE) => "paid-twice",
        _ => "other",
    };
    Some(Problem { code: code.to_owned(), next, money, reference: Some(letters::reference(order)) })
}

async fn reach(
    connection: &mut AnyConnection,
    order: &Order,
    instance: &Instance,
) -> Result<Option<Reach>, DbError> {
    if order.state != OrderState::Fulfilled || !instance.state.is_live() {
        return Ok(None);
    }
    let Some(place) = fleet::placement_of(connection, instance.id).await? else { return Ok(None) };
    let ipv4 = place.ipv4.address.to_string();
    Ok(Some(Reach {
        href: format!("/servers/{}", instance.id),
        ssh: format!("ssh {}@{ipv4}", instance.login_user),
        ipv4: Some(ipv4),
        ipv6: place.ipv6.map(|v6| v6.address.to_string()),
        fingerprints: instance.host_keys.clone(),
    }))
}
