//! What a subscription that was read means for the changes of its plan. Runs in the transaction that writes the copy.

use ez_protocol::{PlanChangeId, UnixMillis};
use sqlx::AnyConnection;

use super::{
    Change, ChangeError, ChangeEvent, ChangeState, PlanChangeBooked, PlanChangeOff, PlanChangeWaits,
    PlanSize, Way, carry, note, store, take,
};
use crate::{
    billing::{
        Expectation, announce,
        stripe::{InvoiceView, SubscriptionView},
        subscription::is_over,
    },
    catalog,
    config::Config,
    db::{self, DbError},
    fleet::{Severity, alarms},
    notify, web,
};

/// Who changes what nobody of ours changed.
const STRIPE: &str = "stripe";
/// The alarm about a price that is none of ours.
const FOREIGN: &str = "price_unknown";
/// The alarm about a subscription that is charged for something else than its one server.
const NOT_ONE: &str = "subscription_not_one_server";

/// A subscription as it was read, with its newest invoice if that was read with it.
struct Seen<'a> {
    expected: &'a Expectation,
    subscription: &'a SubscriptionView,
    invoice: Option<&'a InvoiceView>,
    /// Active, or in its trial: nothing is owed for what it costs now.
    paid: bool,
}

/// Takes over what a reading says about the order's plan. Only readings that were written to the copy come here.
pub(in crate::billing) async fn subscription_read(
    tx: &mut AnyConnection,
    config: &Config,
    now: UnixMillis,
    expected: &Expectation,
    subscription: &SubscriptionView,
    invoice: Option<&InvoiceView>,
) -> Result<(), DbError> {
    let paid = matches!(subscription.status.as_deref(), Some("active" | "trialing"));
    let seen = Seen { expected, subscription, invoice, paid };
    if let Some(open) = store::open(tx, expected.order).await? {
        settled(step(tx, config, now, open, &seen).await)?;
    }
    let one = is_one_server(tx, now, &seen).await?;
    if one && paid && subscription.pending().is_none() {
        outside(tx, now, &seen).await?;
    }
    // What nobody pays any more has no price that somebody should put right.
    if is_over(subscription.status.as_deref().unwrap_or_default()) {
        alarms::clear(tx, now, FOREIGN, &expected.order.to_string()).await?;
    }
    Ok(())
}

/// A step that does not fit is none: the row is as it should be already.
fn settled(result: Result<(), ChangeError>) -> Result<(), DbError> {
    match result {
        Err(ChangeError::Db(error)) => Err(error),
        _ => Ok(()),
    }
}

async fn step(
    tx: &mut AnyConnection,
    config: &Config,
    now: UnixMillis,
    open: Change,
    seen: &Seen<'_>,
) -> Result<(), ChangeError> {
    let subscription = seen.subscription;
    let pending = subscription.pending();
    let has_it = subscription.price_id() == Some(open.to_stripe_price.as_str());
    let state = open.state;
    if is_over(subscription.status.as_deref().unwrap_or_default()) {
        let ended = Change { reason: Some("subscription_over".to_owned()), ..open };
        let ended = take(tx, now, ended, ChangeEvent::Drop, STRIPE).await?;
        return Ok(carry::look_at(tx, &ended, now).await?);
    }
    if state == ChangeState::Applied {
        return Ok(());
    }
    if has_it && pending.is_none() {
        // Its period has begun and is not paid yet: it holds when it is.
        return if seen.paid { apply(tx, now, open).await } else { Ok(()) };
    }
    match (state, pending) {
        (ChangeState::Wanted | ChangeState::AwaitingPayment, Some((price, expires)))
            if price == open.to_stripe_price =>
        {
            waits(tx, config, now, open, expires, seen).await
        }
        (ChangeState::AwaitingPayment, None) => {
            let over = Change { reason: Some("not_paid".to_owned()), ..open };
            let over = take(tx, now, over, ChangeEvent::RunOut, STRIPE).await?;
            Ok(tell_off(tx, config, now, seen.expected, &over).await?)
        }
        (ChangeState::Scheduled, _) if subscription.schedule.is_none() => {
            let word = if open.back_wanted { "asked" } else { "released_at_stripe" };
            let actor = if open.back_wanted { open.actor.clone() } else { STRIPE.to_owned() };
            let back = Change { reason: Some(word.to_owned()), released: true, ..open };
            take(tx, now, back, ChangeEvent::TakeBack, &actor).await.map(|_| ())
        }
        // Perhaps with another card, which what is booked has to charge as well.
        (ChangeState::Scheduled, _) => Ok(carry::look_at(tx, &open, now).await?),
        _ => Ok(()),
    }
}

/// It holds.
async fn apply(tx: &mut AnyConnection, now: UnixMillis, open: Change) -> Result<(), ChangeError> {
    let applied = Change {
        applied_no: Some(next_no(tx, &open).await?),
        applied_at: Some(now),
        expires_at: None,
        back_wanted: false,
        ..open
    };
    let applied = take(tx, now, applied, ChangeEvent::Apply, STRIPE).await?;
    if applied.schedule.is_some() && !applied.released {
        carry::look_at(tx, &applied, now).await?;
    }
    Ok(())
}

async fn next_no(tx: &mut AnyConnection, change: &Change) -> Result<i64, DbError> {
    let before = store::paid_for(tx, change.order).await?;
    Ok(before.and_then(|before| before.applied_no).unwrap_or(0) + 1)
}

/// Its invoice has to be paid by a person, who gets the link.
async fn waits(
    tx: &mut AnyConnection,
    config: &Config,
    now: UnixMillis,
    open: Change,
    expires: Option<i64>,
    seen: &Seen<'_>,
) -> Result<(), ChangeError> {
    let first = open.state == ChangeState::Wanted;
    let expires_at = expires.map(UnixMillis::from_secs);
    let invoice = seen.subscription.latest_invoice.clone();
    let waiting = Change { expires_at, invoice, ..open };
    let waiting = take(tx, now, waiting, ChangeEvent::AskedToPay, STRIPE).await?;
    if !first {
        return Ok(());
    }
    carry::look_at(tx, &waiting, expires_at.unwrap_or(now).plus(carry::AFTER_STRIPE)).await?;
    let page = config.http.page(&format!("/servers/{}/plan/{}", waiting.instance, waiting.id));
    let link = seen.invoice.and_then(|invoice| invoice.hosted_invoice_url.clone()).unwrap_or(page);
    let due = seen.invoice.and_then(|invoice| invoice.amount_remaining);
    let due = due.or(waiting.quote.as_ref().map(|quote| quote.due_minor)).unwrap_or(0);
    let letter = PlanChangeWaits {
        server: seen.expected.description.clone(),
        plan: plan_name(tx, &waiting).await?,
        amount: web::written_money(due, &seen.expected.currency),
        until: expires_at.map(web::written_date).unwrap_or_default(),
        link,
    };
    notify::send(tx, now, &seen.expected.email, &letter).await?;
    Ok(())
}

async fn plan_name(tx: &mut AnyConnection, change: &Change) -> Result<String, DbError> {
    Ok(catalog::plan(tx, &change.to_plan).await?.map_or_else(|| change.to_plan.clone(), |plan| plan.name))
}

/// A change did not come about: everything is as before, and its owner is told.
pub(super) async fn tell_off(
    tx: &mut AnyConnection,
    config: &Config,
    now: UnixMillis,
    expected: &Expectation,
    change: &Change,
) -> Result<(), DbError> {
    let letter = PlanChangeOff {
        server: expected.description.clone(),
        plan: plan_name(tx, change).await?,
        why: change.reason.clone().unwrap_or_default(),
        link: config.http.page(&format!("/servers/{}/plan", change.instance)),
    };
    notify::send(tx, now, &expected.email, &letter).await
}

/// A change is booked for the end of the period, and its owner is told when that is.
pub(super) async fn tell_booked(
    tx: &mut AnyConnection,
    config: &Config,
    now: UnixMillis,
    expected: &Expectation,
    change: &Change,
) -> Result<(), DbError> {
    let letter = PlanChangeBooked {
        server: expected.description.clone(),
        plan: plan_name(tx, change).await?,
        on: change.due_at.map(web::written_date).unwrap_or_default(),
        link: config.http.page(&format!("/servers/{}/plan/{}", change.instance, change.id)),
    };
    notify::send(tx, now, &expected.email, &letter).await
}

/// Whether a subscription is for its one server. While it is not, what it costs is no plan of that server's: a person is asked,
/// and nothing follows it.
async fn is_one_server(tx: &mut AnyConnection, now: UnixMillis, seen: &Seen<'_>) -> Result<bool, DbError> {
    let (subscription, subject) = (seen.subscription, seen.expected.order.to_string());
    let one = subscription.is_one_server();
    if one || is_over(subscription.status.as_deref().unwrap_or_default()) {
        alarms::clear(tx, now, NOT_ONE, &subject).await?;
        return Ok(one);
    }
    let what = match subscription.item_count() {
        1 => format!("quantity {}", subscription.quantity()),
        count => format!("{count} items"),
    };
    let detail = format!(
        "Subscription {} has {what}, and here it is for one server. Stripe charges all of it; its server stays as it is, and its \
         plan cannot be changed meanwhile. Leave it one item of quantity 1 in Stripe's dashboard and give back what was charged \
         too much; another server is ordered here. This alarm ends then.",
        subscription.id
    );
    let severity = Severity::Warning;
    let alarm = alarms::New { kind: NOT_ONE, subject: &subject, severity, node: None, detail: &detail };
    alarms::hold(tx, now, alarm).await?;
    Ok(false)
}

/// A price that nobody changed here: one of ours is followed, another one is a person's business.
async fn outside(tx: &mut AnyConnection, now: UnixMillis, seen: &Seen<'_>) -> Result<(), DbError> {
    let expected = seen.expected;
    let Some(price) = seen.subscription.price_id() else { return Ok(()) };
    let before = store::paid_for(tx, expected.order).await?;
    let (from_price, from_stripe_price) = match &before {
        Some(paid) => (paid.to_price.clone(), paid.to_stripe_price.clone()),
        None => (expected.price_id.clone(), expected.stripe_price_id.clone()),
    };
    let subject = expected.order.to_string();
    if price == from_stripe_price {
        return alarms::clear(tx, now, FOREIGN, &subject).await;
    }
    let Some(to) = catalog::price_at_stripe(tx, price).await? else {
        let detail = format!(
            "Subscription {} has the price {price}, which is none of the catalogue's. Its server stays as it is. Put a price of \
             the catalogue on it in Stripe's dashboard, or apply one to the catalogue.",
            seen.subscription.id
        );
        let severity = Severity::Warning;
        let alarm = alarms::New { kind: FOREIGN, subject: &subject, severity, node: None, detail: &detail };
        return alarms::hold(tx, now, alarm).await.map(|_| ());
    };
    alarms::clear(tx, now, FOREIGN, &subject).await?;
    let plan = catalog::plan(tx, &to.plan_code).await?.ok_or(DbError::NotFound)?;
    let to_size = PlanSize::from(&plan);
    let change = Change {
        id: PlanChangeId::generate(now, db::row_randomness(tx).await?),
        order: expected.order,
        instance: expected.instance,
        account: expected.account,
        way: Way::Outside,
        state: ChangeState::Applied,
        from_price,
        from_stripe_price,
        to_price: to.id,
        to_stripe_price: price.to_owned(),
        to_plan: to.plan_code,
        to_size,
        quote: None,
        proration_date: now.as_secs(),
        attempt: 1,
        due_at: None,
        expires_at: None,
        invoice: None,
        schedule: None,
        released: false,
        back_wanted: false,
        reason: None,
        actor: STRIPE.to_owned(),
        applied_no: Some(before.and_then(|before| before.applied_no).unwrap_or(0) + 1),
        created_at: now,
        confirmed_at: None,
        applied_at: Some(now),
        ended_at: None,
        updated_at: now,
    };
    store::insert(tx, &change).await?;
    note(tx, now, &change, None, STRIPE).await?;
    announce::plan_changed(tx, now, change.order).await
}
