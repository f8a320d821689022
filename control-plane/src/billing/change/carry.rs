//! Telling Stripe about a change, and going on wherever that was left half done.
//!
//! Each POST has a key of its own, from the change and its attempt; whoever dies in between sends the same again. What an
//! answer says is not taken over, because it may be the answer of an earlier time: the subscription is read after it.

use std::{pin::Pin, time::Duration};

use ez_protocol::{OrderId, PlanChangeId, UnixMillis};
use serde_json::{Value, json};
use sqlx::AnyConnection;

use super::{Change, ChangeError, ChangeEvent, ChangeState, Way, read, store, take};
use crate::{
    app::{App, Services},
    audit,
    billing::{
        BillingError,
        model::CallState,
        outbox::{self, Call},
        store as billing_store,
        stripe::{self, FaultKind, Phases, Swap},
        subscription, sync,
    },
    catalog,
    db::{self, DbError},
    jobs::{self, JobError, JobRegistry, JobRun},
};

/// Carries a change on; the key is its id.
const CARRY: &str = "billing.plan_change";
/// Stripe's clock is waited for this much longer than it says.
pub(super) const AFTER_STRIPE: Duration = Duration::from_secs(5 * 60);
/// What was to come and did not is looked for again after so long.
const AGAIN: Duration = Duration::from_secs(10 * 60);
/// Two presses are at the same time when no more than this lies between them.
const SAME_TIME: Duration = Duration::from_secs(30);
/// What the calls are for that tell a schedule its phases.
const PHASES: &str = "plan-phases";
/// Previews that nobody confirmed are forgotten after so long.
const FORGET: Duration = Duration::from_secs(24 * 60 * 60);

/// Names the job handler.
pub(in crate::billing) fn register_jobs(registry: &mut JobRegistry) {
    registry.on(CARRY, run);
}

/// Has the job look at a change at a time.
pub(super) async fn look_at(tx: &mut AnyConnection, change: &Change, at: UnixMillis) -> Result<(), DbError> {
    jobs::enqueue(tx, CARRY, &change.id.to_string(), &json!({}), at).await
}

async fn run(app: App, run: JobRun) -> Result<(), JobError> {
    let id: PlanChangeId = run.key.parse().map_err(JobError::fail)?;
    carry_out(&app, id).await?;
    Ok(())
}

/// Changes whose job was lost, and previews that nobody wants any more.
pub(in crate::billing) async fn sweep(app: &Services) -> Result<(), DbError> {
    let now = app.clock.now();
    let overdue = {
        let mut connection = app.db.read().await?;
        store::overdue(&mut connection, now, now.minus(AGAIN)).await?
    };
    app.db
        .write(move |tx| {
            Box::pin(async move {
                for id in &overdue {
                    jobs::enqueue(tx, CARRY, &id.to_string(), &json!({}), now).await?;
                }
                store::forget_previews(tx, now.minus(FORGET)).await
            })
        })
        .await
}

/// Brings a change as far as it can be now: tells Stripe, reads what came of it, tidies up. Safe to repeat at any time;
/// gives the change as it is then.
///
/// # Errors
/// [`BillingError::Unknown`] for a change that is not there; what Stripe or the database said. The job goes on.
pub async fn carry_out(app: &Services, id: PlanChangeId) -> Result<Change, BillingError> {
    let change = load(app, id).await?;
    match (change.state, change.way) {
        (ChangeState::Wanted, Way::Now) => tell_now(app, &change).await?,
        (ChangeState::Wanted, _) => {
            tell_period_end(app, &change).await?;
            leave_if_wished(app, &change).await?;
        }
        (ChangeState::AwaitingPayment, _) => await_payment(app, &change).await?,
        (ChangeState::Scheduled, _) if change.back_wanted => {
            release(app, &change).await?;
            read_again(app, &change).await?;
        }
        (ChangeState::Scheduled, _) if change.due_at.is_none_or(|due| due <= app.clock.now()) => {
            read_again(app, &change).await?;
            later(app, &change).await?;
        }
        // Whoever booked it may have died before looking whether its customer leaves …
        (ChangeState::Scheduled, _) if leave_if_wished(app, &change).await? => {}
        (ChangeState::Scheduled, _) => keep_up(app, &change).await?,
        // … or between taking it back for that and saying so to Stripe.
        (ChangeState::TakenBack, Way::PeriodEnd) => {
            leave_if_wished(app, &change).await?;
        }
        (ChangeState::Applied | ChangeState::Done | ChangeState::Refused, Way::PeriodEnd)
            if !change.released =>
        {
            release(app, &change).await?;
            read_again(app, &change).await?;
        }
        (ChangeState::Dropped, Way::Now) => forgive(app, &change).await?,
        _ => {}
    }
    load(app, id).await
}

/// Cancel pressed at the same time: a schedule that releases undoes it, and leaving is the later word. Whether it was pressed.
async fn leave_if_wished(app: &Services, change: &Change) -> Result<bool, BillingError> {
    let leaves = is_leaving(app, change).await?;
    if leaves {
        leave(app, change).await?;
    }
    Ok(leaves)
}

/// Whether its customer wished to leave when, or after, the change was confirmed, and has not wished to stay since. What was
/// wished after the change had ended was not undone by it.
async fn is_leaving(app: &Services, change: &Change) -> Result<bool, BillingError> {
    let copy = copy_of(app, change.order).await?;
    let mut connection = app.db.read().await?;
    let wish = billing_store::last_end_wish(&mut connection, &copy.subscription).await?;
    let since = change.confirmed_at.unwrap_or(change.created_at).minus(SAME_TIME);
    let in_its_time = |at: UnixMillis| at >= since && change.ended_at.is_none_or(|ended| at < ended);
    Ok(wish.is_some_and(|(leaves, at)| leaves && in_its_time(at)))
}

/// Cancels once more, which takes the change back first. Boxed, because cancelling carries changes out.
fn leave<'a>(
    app: &'a Services,
    change: &'a Change,
) -> Pin<Box<dyn Future<Output = Result<(), BillingError>> + Send + 'a>> {
    Box::pin(subscription::cancel_at_period_end(app, change.account, change.order, true, &change.actor))
}

async fn load(app: &Services, id: PlanChangeId) -> Result<Change, BillingError> {
    let mut connection = app.db.read().await?;
    store::get(&mut connection, id).await?.ok_or(BillingError::Unknown("plan change"))
}

async fn copy_of(app: &Services, order: OrderId) -> Result<store::Copy, BillingError> {
    let mut connection = app.db.read().await?;
    store::copy(&mut connection, order).await?.ok_or(BillingError::Unknown("subscription"))
}

/// Reads the subscription, and with it where the change stands.
async fn read_again(app: &Services, change: &Change) -> Result<(), BillingError> {
    let copy = copy_of(app, change.order).await?;
    sync::subscription(app, &copy.subscription).await
}

/// The next look, if it still waits for something then.
async fn later(app: &Services, change: &Change) -> Result<(), BillingError> {
    let (at, change) = (app.clock.now().plus(AGAIN), change.clone());
    app.db.write(move |tx| Box::pin(async move { look_at(tx, &change, at).await })).await?;
    Ok(())
}

/// Writes something about a change that stands as it stood; somebody who was quicker is right.
async fn amend(app: &Services, change: Change) -> Result<(), BillingError> {
    let at = app.clock.now();
    let done = app
        .db
        .write(move |tx| {
            Box::pin(async move {
                db::lock(tx, "checkout", change.order).await?;
                store::save(tx, at, change.state, &Change { updated_at: at, ..change.clone() }).await
            })
        })
        .await;
    match done {
        Ok(()) | Err(DbError::NotFound) => Ok(()),
        Err(other) => Err(other.into()),
    }
}

/// The change itself: now, billed at once, applied when it is paid.
async fn tell_now(app: &Services, change: &Change) -> Result<(), BillingError> {
    let copy = copy_of(app, change.order).await?;
    let item = copy.item.ok_or(BillingError::Incomplete("item"))?;
    let swap = Swap {
        subscription: &copy.subscription,
        item: &item,
        price: &change.to_stripe_price,
        at: change.proration_date,
    };
    let call = Call::new("plan-change", change.id, change.attempt, stripe::change_price(swap));
    if !outbox::was_begun(app, &call).await? {
        match costs_more(app, change, swap).await {
            Ok(false) => {}
            Ok(true) => return refused(app, change, "costs_more").await,
            Err(BillingError::Stripe(fault))
                if matches!(fault.kind, FaultKind::Refused | FaultKind::NotFound) =>
            {
                return refused(app, change, fault.code.as_deref().unwrap_or("refused")).await;
            }
            Err(other) => return Err(other),
        }
    }
    match outbox::send(app, &call).await {
        Ok(_) => {
            read_again(app, change).await?;
            outbox::close(app, &call, CallState::Done, Some(copy.subscription), None).await?;
            read_its_invoice(app, change.id).await
        }
        Err(BillingError::LookingUp) => {
            read_again(app, change).await?;
            let now = load(app, change.id).await?;
            if now.state == ChangeState::Wanted && now.attempt == change.attempt {
                // It did not come about: it is asked for anew, under another key.
                outbox::close(app, &call, CallState::Replaced, None, None).await?;
                amend(app, Change { attempt: change.attempt + 1, ..now }).await?;
                return Err(BillingError::LookingUp);
            }
            outbox::close(app, &call, CallState::Done, Some(copy.subscription), None).await?;
            read_its_invoice(app, change.id).await
        }
        Err(BillingError::Stripe(fault))
            if matches!(fault.kind, FaultKind::Refused | FaultKind::NotFound) =>
        {
            refused(app, change, fault.code.as_deref().unwrap_or("refused")).await
        }
        Err(other) => Err(other),
    }
}

/// Whether the change would be billed with more than its customer confirmed: something else has used up the credit that was
/// counted on, for example. Asked just before it is made.
async fn costs_more(app: &Services, change: &Change, swap: Swap<'_>) -> Result<bool, BillingError> {
    let Some(quote) = &change.quote else { return Ok(false) };
    // Nothing is made by it: each look asks anew, under a key of its own.
    let call = Call::new("plan-preview", change.id, app.clock.now().0, stripe::preview_change(swap));
    let answer = outbox::send(app, &call).await?;
    outbox::close(app, &call, CallState::Replaced, None, None).await?;
    let seen = stripe::PreviewView::read(&answer).ok_or(BillingError::Incomplete("the sum of a preview"))?;
    Ok(seen.amount_due > quote.due_minor)
}

/// The link to pay on stands in the copy of the invoice.
async fn read_its_invoice(app: &Services, id: PlanChangeId) -> Result<(), BillingError> {
    let change = load(app, id).await?;
    if let Some(invoice) = change.invoice.as_ref().filter(|_| change.state == ChangeState::AwaitingPayment) {
        sync::invoice(app, invoice).await?;
    }
    Ok(())
}

/// Stripe said no. Nothing was changed; its customer is told.
async fn refused(app: &Services, change: &Change, why: &str) -> Result<(), BillingError> {
    let (at, config, id, why) = (app.clock.now(), app.config.clone(), change.id, why.to_owned());
    let order = change.order;
    tracing::warn!(order.id = %order, plan_change.id = %id, why, "Stripe refused a plan change");
    app.db
        .write(move |tx| {
            Box::pin(async move {
                db::lock(tx, "checkout", order).await?;
                let Some(change) = store::get(tx, id).await? else { return Ok(()) };
                let change = Change { reason: Some(why), ..change };
                let refused = match take(tx, at, change, ChangeEvent::Refuse, "stripe").await {
                    Ok(refused) => refused,
                    Err(ChangeError::Db(error)) => return Err(error),
                    Err(_) => return Ok(()),
                };
                if refused.schedule.is_some() {
                    look_at(tx, &refused, at).await?;
                }
                let Some(known) = billing_store::checkout(tx, order).await? else { return Ok(()) };
                read::tell_off(tx, &config, at, &known.expected, &refused).await
            })
        })
        .await?;
    Ok(())
}

/// The change with the end of the period: a schedule, then its phases, then it is booked.
async fn tell_period_end(app: &Services, change: &Change) -> Result<(), BillingError> {
    let copy = copy_of(app, change.order).await?;
    let (Some(start), Some(end)) = (copy.period_start, copy.period_end) else {
        return Err(BillingError::Incomplete("period"));
    };
    // Its period ended before it was booked: what was shown does not hold any more.
    if change.due_at != Some(end) {
        return refused(app, change, "period_over").await;
    }
    let read = stripe::retrieve_subscription(&copy.subscription);
    let seen: stripe::SubscriptionView = sync::view(&app.stripe.get(app.entropy.as_ref(), &read).await?)?;
    // Somebody has it end, at Stripe: phases would undo that. A wish that came through us is told once more below.
    if change.schedule.is_none() && seen.cancel_at.is_some() && !is_leaving(app, change).await? {
        return refused(app, change, "ending").await;
    }
    let schedule = match &change.schedule {
        Some(schedule) => schedule.clone(),
        None => match begin_schedule(app, change, &copy.subscription).await {
            Ok(schedule) => schedule,
            Err(BillingError::Stripe(fault))
                if matches!(fault.kind, FaultKind::Refused | FaultKind::NotFound) =>
            {
                return refused(app, change, fault.code.as_deref().unwrap_or("refused")).await;
            }
            Err(other) => return Err(other),
        },
    };
    let terms = (stripe::ONE_SERVER, &seen.kept());
    let call = phases(app, change, &schedule, (start, end), terms).await?;
    match outbox::send(app, &call).await {
        Ok(_) => outbox::close(app, &call, CallState::Replaced, Some(schedule.clone()), None).await?,
        // The same phases again are the same phases, so there is nothing to look up first.
        Err(BillingError::LookingUp) => {
            outbox::close(app, &call, CallState::Replaced, None, None).await?;
            let now = load(app, change.id).await?;
            amend(app, Change { attempt: change.attempt + 1, ..now }).await?;
            return Err(BillingError::LookingUp);
        }
        Err(BillingError::Stripe(fault))
            if matches!(fault.kind, FaultKind::Refused | FaultKind::NotFound) =>
        {
            return refused(app, change, fault.code.as_deref().unwrap_or("refused")).await;
        }
        Err(other) => return Err(other),
    }
    // The copy has the schedule before the change says that there is one: whoever reads later finds both.
    sync::subscription(app, &copy.subscription).await?;
    booked(app, change.id, schedule, end).await
}

/// The call that tells a schedule what this change means, charged as its subscription is now.
async fn phases(
    app: &Services,
    change: &Change,
    schedule: &str,
    (start, end): (UnixMillis, UnixMillis),
    (quantities, kept): ([i64; 2], &stripe::Kept),
) -> Result<Call, BillingError> {
    let months = {
        let mut connection = app.db.read().await?;
        catalog::price(&mut connection, &change.to_price).await?.map_or(1, |price| price.interval.months())
    };
    let phases = Phases {
        schedule,
        from: &change.from_stripe_price,
        to: &change.to_stripe_price,
        period: (start.as_secs(), end.as_secs()),
        months,
        quantities,
        kept,
    };
    Ok(Call::new(PHASES, change.id, change.attempt, stripe::set_phases(phases)))
}

/// A booked change keeps up with its subscription: what its schedule charges names the card of the day it was booked, and who
/// has named another one since is charged by that. Looked at whenever the subscription was read, so the copy is as new as
/// what was told, and mostly it says the same: then nobody is asked.
async fn keep_up(app: &Services, change: &Change) -> Result<(), BillingError> {
    let copy = copy_of(app, change.order).await?;
    let (Some(start), Some(end)) = (copy.period_start, copy.period_end) else { return Ok(()) };
    if change.due_at == Some(end) && !charges_its_card(app, change, &copy).await? {
        charge_its_card(app, change, &copy.subscription, (start, end)).await?;
    }
    let (change, at) = (change.clone(), end.plus(AFTER_STRIPE));
    app.db.write(move |tx| Box::pin(async move { look_at(tx, &change, at).await })).await?;
    Ok(())
}

/// Whether the schedule was told to charge the card that stands in the copy of its subscription.
async fn charges_its_card(app: &Services, change: &Change, copy: &store::Copy) -> Result<bool, BillingError> {
    let told = outbox::answered(app, &Call::key_of(PHASES, change.id, change.attempt)).await?;
    Ok(told.is_some_and(|told| stripe::card_of(&told) == copy.card))
}

/// Tells the schedule of a booked change which card its subscription is charged with now, if it does not say so.
async fn charge_its_card(
    app: &Services,
    change: &Change,
    subscription: &str,
    period: (UnixMillis, UnixMillis),
) -> Result<(), BillingError> {
    let Some(schedule) = &change.schedule else { return Ok(()) };
    let read = stripe::retrieve_subscription(subscription);
    let seen: stripe::SubscriptionView = sync::view(&app.stripe.get(app.entropy.as_ref(), &read).await?)?;
    let stands = app.stripe.get(app.entropy.as_ref(), &stripe::retrieve_schedule(schedule)).await?;
    let active = stands.get("status").and_then(Value::as_str) == Some("active");
    let kept = seen.kept();
    if !active || stripe::charges(&stands, &kept) {
        return Ok(());
    }
    // Other words need another key; whoever dies here finds the difference again.
    let now = load(app, change.id).await?;
    let anew = Change { attempt: now.attempt + 1, ..now };
    amend(app, anew.clone()).await?;
    // How many each phase charges is as it stands there: somebody may have changed that in Stripe's dashboard.
    let terms = (stripe::quantities_of(&stands), &kept);
    let call = phases(app, &anew, schedule, period, terms).await?;
    match outbox::send(app, &call).await {
        Ok(_) => outbox::close(app, &call, CallState::Replaced, Some(schedule.clone()), None).await,
        Err(BillingError::LookingUp) => {
            outbox::close(app, &call, CallState::Replaced, None, None).await?;
            Err(BillingError::LookingUp)
        }
        // It has ended or was let go since: then the change is judged by its subscription.
        Err(BillingError::Stripe(fault))
            if matches!(fault.kind, FaultKind::Refused | FaultKind::NotFound) =>
        {
            tracing::warn!(plan_change.id = %change.id, %fault, "a booked plan change keeps its card");
            Ok(())
        }
        Err(other) => Err(other),
    }
}

/// Makes the schedule, or finds the one that an earlier call made.
async fn begin_schedule(app: &Services, change: &Change, subscription: &str) -> Result<String, BillingError> {
    let call = Call::new("plan-schedule", change.id, change.attempt, stripe::create_schedule(subscription));
    let answer = match outbox::send(app, &call).await {
        Ok(answer) => answer.get("id").and_then(Value::as_str).map(str::to_owned),
        Err(BillingError::LookingUp) => {
            let read = stripe::retrieve_subscription(subscription);
            let seen: stripe::SubscriptionView =
                sync::view(&app.stripe.get(app.entropy.as_ref(), &read).await?)?;
            outbox::close(app, &call, CallState::Replaced, seen.schedule.clone(), None).await?;
            if seen.schedule.is_none() {
                let now = load(app, change.id).await?;
                amend(app, Change { attempt: change.attempt + 1, ..now }).await?;
                return Err(BillingError::LookingUp);
            }
            seen.schedule
        }
        Err(other) => return Err(other),
    };
    let schedule = answer.ok_or(BillingError::Incomplete("id of a schedule"))?;
    let now = load(app, change.id).await?;
    amend(app, Change { schedule: Some(schedule.clone()), ..now }).await?;
    outbox::close(app, &call, CallState::Replaced, Some(schedule.clone()), None).await?;
    Ok(schedule)
}

async fn booked(
    app: &Services,
    id: PlanChangeId,
    schedule: String,
    due: UnixMillis,
) -> Result<(), BillingError> {
    let (at, config) = (app.clock.now(), app.config.clone());
    let order = load(app, id).await?.order;
    app.db
        .write(move |tx| {
            Box::pin(async move {
                db::lock(tx, "checkout", order).await?;
                let Some(change) = store::get(tx, id).await? else { return Ok(()) };
                if change.state != ChangeState::Wanted {
                    return Ok(());
                }
                let change = Change { schedule: Some(schedule), ..change };
                let actor = change.actor.clone();
                let booked = match take(tx, at, change, ChangeEvent::Booked, &actor).await {
                    Ok(booked) => booked,
                    Err(ChangeError::Db(error)) => return Err(error),
                    Err(_) => return Ok(()),
                };
                look_at(tx, &booked, due.plus(AFTER_STRIPE)).await?;
                let Some(known) = billing_store::checkout(tx, order).await? else { return Ok(()) };
                read::tell_booked(tx, &config, at, &known.expected, &booked).await
            })
        })
        .await?;
    Ok(())
}

/// It waits for its payment: whatever became of that, the link is there and the end is seen.
async fn await_payment(app: &Services, change: &Change) -> Result<(), BillingError> {
    read_again(app, change).await?;
    read_its_invoice(app, change.id).await?;
    let now = load(app, change.id).await?;
    if now.state == ChangeState::AwaitingPayment && now.expires_at.is_none_or(|end| end <= app.clock.now()) {
        later(app, &now).await?;
    }
    Ok(())
}

/// Stripe's schedule is let go: it has done what it was for, or shall not do it.
async fn release(app: &Services, change: &Change) -> Result<(), BillingError> {
    let Some(schedule) = change.schedule.clone().filter(|_| !change.released) else { return Ok(()) };
    let call = Call::new("plan-release", change.id, change.attempt, stripe::release_schedule(&schedule));
    match outbox::send(app, &call).await {
        Ok(_) => {}
        // It has ended by itself, or with its subscription; or it was let go and the answer was lost.
        Err(BillingError::Stripe(fault))
            if matches!(fault.kind, FaultKind::Refused | FaultKind::NotFound) => {}
        Err(BillingError::LookingUp) => {
            read_again(app, change).await?;
            let read = stripe::retrieve_schedule(&schedule);
            let seen = app.stripe.get(app.entropy.as_ref(), &read).await?;
            if seen.get("status").and_then(Value::as_str) == Some("active") {
                outbox::close(app, &call, CallState::Replaced, None, None).await?;
                let now = load(app, change.id).await?;
                amend(app, Change { attempt: change.attempt + 1, ..now }).await?;
                return Err(BillingError::LookingUp);
            }
        }
        Err(other) => return Err(other),
    }
    let now = load(app, change.id).await?;
    amend(app, Change { released: true, ..now }).await?;
    outbox::close(app, &call, CallState::Replaced, Some(schedule), None).await
}

/// The subscription is over while its change waited for a payment: nobody shall pay for it any more.
async fn forgive(app: &Services, change: &Change) -> Result<(), BillingError> {
    let Some(invoice) = &change.invoice else { return Ok(()) };
    let call = Call::new("plan-void", change.id, 1, stripe::void_invoice(invoice));
    match outbox::send(app, &call).await {
        Ok(_) => outbox::close(app, &call, CallState::Replaced, Some(invoice.clone()), None).await?,
        // Paid, or void already.
        Err(BillingError::Stripe(fault))
            if matches!(fault.kind, FaultKind::Refused | FaultKind::NotFound) => {}
        // An invoice that stays open charges nobody by itself.
        Err(BillingError::LookingUp) => outbox::close(app, &call, CallState::Replaced, None, None).await?,
        Err(other) => return Err(other),
    }
    sync::invoice(app, invoice).await.map(|_| ())
}

/// Takes back a change that is booked for the end of the period. Once that has come it is too late, and the answer says so
/// by its state.
///
/// # Errors
/// [`BillingError::Over`] when there is nothing to take back; what Stripe or the database said, and then a job goes on.
pub async fn take_back(app: &Services, id: PlanChangeId, actor: &str) -> Result<Change, BillingError> {
    let (at, actor) = (app.clock.now(), actor.to_owned());
    let order = load(app, id).await?.order;
    let noted = app
        .db
        .write(move |tx| {
            Box::pin(async move {
                db::lock(tx, "checkout", order).await?;
                let Some(change) = store::get(tx, id).await? else { return Ok(false) };
                if change.state != ChangeState::Scheduled {
                    return Ok(change.state == ChangeState::TakenBack);
                }
                let change = Change { back_wanted: true, actor, updated_at: at, ..change };
                store::save(tx, at, ChangeState::Scheduled, &change).await?;
                look_at(tx, &change, at.plus(super::AFTER_THE_WISH)).await?;
                Ok::<_, DbError>(true)
            })
        })
        .await?;
    if !noted {
        return Err(BillingError::Over);
    }
    carry_out(app, id).await
}

/// Before a subscription is told to end with its period: what is booked for that moment does not happen. What was confirmed
/// a moment ago and is not booked yet is booked first, by the same calls: a schedule that came after the end would undo it.
pub(in crate::billing) async fn clear_the_way(
    app: &Services,
    order: OrderId,
    actor: &str,
) -> Result<(), BillingError> {
    for _ in 0..3 {
        let open = {
            let mut connection = app.db.read().await?;
            store::open(&mut connection, order).await?
        };
        match open {
            Some(change) if change.state == ChangeState::Scheduled => {
                match take_back(app, change.id, actor).await {
                    // It came about since it was looked at: then it is in nobody's way.
                    Err(BillingError::Over) => {}
                    other => return other.map(|_| ()),
                }
            }
            Some(change) if (change.state, change.way) == (ChangeState::Wanted, Way::PeriodEnd) => {
                carry_out(app, change.id).await?;
            }
            _ => return Ok(()),
        }
    }
    Err(BillingError::LookingUp)
}

/// Lets go of the schedule that Stripe has on a subscription, as it was last read: one that was left over, or that somebody
/// made in the dashboard. Whether there was one.
pub(in crate::billing) async fn release_any(
    app: &Services,
    order: OrderId,
    subscription: &str,
    actor: &str,
) -> Result<bool, BillingError> {
    let copy = {
        let mut connection = app.db.read().await?;
        billing_store::object(&mut connection, subscription).await?
    };
    let copy = copy.and_then(|copy| serde_json::from_str::<stripe::SubscriptionView>(&copy).ok());
    let Some(schedule) = copy.and_then(|copy| copy.schedule) else { return Ok(false) };
    // It may be one of ours that was booked just now.
    clear_the_way(app, order, actor).await?;
    let at = app.clock.now();
    let entry = audit::Entry {
        actor: actor.to_owned(),
        action: "billing.schedule_released".to_owned(),
        subject_kind: "order".to_owned(),
        subject_id: order.to_string(),
        detail: json!({ "subscription": subscription, "schedule": schedule }),
    };
    app.db.write(move |tx| Box::pin(async move { audit::record(tx, at, entry).await })).await?;
    let call = Call::new("schedule-release", &schedule, at.0, stripe::release_schedule(&schedule));
    match outbox::send(app, &call).await {
        Ok(_) | Err(BillingError::LookingUp) => {
            outbox::close(app, &call, CallState::Replaced, None, None).await?;
        }
        // It has ended by itself.
        Err(BillingError::Stripe(fault))
            if matches!(fault.kind, FaultKind::Refused | FaultKind::NotFound) => {}
        Err(other) => return Err(other),
    }
    sync::subscription(app, subscription).await?;
    Ok(true)
}
