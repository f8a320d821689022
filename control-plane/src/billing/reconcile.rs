//! The reconciler: what webhooks did not tell us, Stripe's own lists do.

use std::time::Duration;

use ez_protocol::UnixMillis;
use sqlx::AnyConnection;

use super::{
    BillingError, checkout, inbox, intake,
    model::Source,
    store,
    stripe::{self, EventList},
};
use crate::{
    app::Services,
    db::DbError,
    fleet::{Severity, alarms},
};

/// The windows of two polls overlap by this much.
const OVERLAP: Duration = Duration::from_secs(10 * 60);
/// How far back the very first poll looks.
const FIRST_LOOK: Duration = Duration::from_secs(60 * 60);
/// A payment page that is open for longer is looked up.
const LOOK_UP_AFTER: Duration = Duration::from_secs(10 * 60);
/// Pages of one poll. Stripe keeps thirty days of events; a list that goes on after a million of them does not end.
const MOST_PAGES: usize = 10_000;
/// An operator hears of it when the last complete walk is older than this.
const BEHIND_AFTER: Duration = Duration::from_secs(30 * 60);

const EVENTS: &str = "events";
/// The alarm about events that have not been read for long.
const BEHIND: &str = "stripe_events_behind";
/// The alarm about payment pages that Stripe does not let us read.
const UNREAD: &str = "payment_pages_unread";
/// What both are about.
const SUBJECT: &str = "stripe";

/// The five-minute poll. An operator hears of it at once where our key does not open Stripe, and of anything else when it has
/// not come to its end for half an hour.
///
/// # Errors
/// Those of [`poll_events`].
pub(super) async fn poll(app: &Services) -> Result<usize, BillingError> {
    let polled = poll_events(app).await;
    let now = app.clock.now();
    let failed = polled.as_ref().err().map(|error| (error.is_locked_out(), inbox::chain(error)));
    app.db
        .write(move |tx| {
            Box::pin(async move {
                match &failed {
                    None => alarms::clear(tx, now, BEHIND, SUBJECT).await,
                    Some((locked_out, why)) => behind(tx, now, *locked_out, why).await,
                }
            })
        })
        .await?;
    polled
}

/// Stripe's list of events was not read to its end.
async fn behind(tx: &mut AnyConnection, now: UnixMillis, locked_out: bool, why: &str) -> Result<(), DbError> {
    let detail = if locked_out {
        format!(
            "Stripe does not take our key ({why}): nothing is read from it, and nothing is told it. That is tried again all the \
             time; see to STRIPE_SECRET_KEY."
        )
    } else {
        let Some(last) = store::cursor(tx, EVENTS).await? else { return Ok(()) };
        if now.since(last) < BEHIND_AFTER {
            return Ok(());
        }
        format!(
            "Stripe's list of events has not been read to its end for {} minutes: {why}. It is tried again all the time; what \
             webhooks bring is taken over as always.",
            now.since(last).as_secs() / 60
        )
    };
    hold(tx, now, BEHIND, &detail).await
}

async fn hold(tx: &mut AnyConnection, now: UnixMillis, kind: &str, detail: &str) -> Result<(), DbError> {
    let alarm = alarms::New { kind, subject: SUBJECT, severity: Severity::Critical, node: None, detail };
    alarms::hold(tx, now, alarm).await.map(|_| ())
}

/// Walks Stripe's list of events since the last walk into the same inbox; gives how many were new.
///
/// # Errors
/// What Stripe or the database said; the cursor moves only after a complete walk.
pub(crate) async fn poll_events(app: &Services) -> Result<usize, BillingError> {
    let began = app.clock.now();
    let since = {
        let mut connection = app.db.read().await?;
        store::cursor(&mut connection, EVENTS).await?
    };
    let since = since.map_or(began.minus(FIRST_LOOK), |at| at.minus(OVERLAP));
    let (mut found, mut after) = (0, None);
    for _ in 0..MOST_PAGES {
        let request = stripe::list_events(since, after.as_deref());
        let page = EventList::read(&app.stripe.get(app.entropy.as_ref(), &request).await?);
        found += take(app, &page).await?;
        after = page.last_id;
        if !page.has_more || after.is_none() {
            app.db
                .write(move |tx| Box::pin(async move { store::move_cursor(tx, began, EVENTS, began).await }))
                .await?;
            return Ok(found);
        }
    }
    Err(BillingError::LookingUp)
}

async fn take(app: &Services, page: &EventList) -> Result<usize, BillingError> {
    let (at, livemode) = (app.clock.now(), app.stripe.livemode());
    let events: Vec<_> = page
        .events
        .iter()
        .map(|(_, event)| intake::judged(&event.to_string(), Source::Poll, livemode))
        .collect();
    let found = app
        .db
        .write(move |tx| {
            Box::pin(async move {
                let mut found = 0;
                for event in &events {
                    found += usize::from(intake::keep(tx, at, event).await?);
                }
                Ok::<_, crate::db::DbError>(found)
            })
        })
        .await?;
    if found > 0 {
        metrics::counter!("ez_billing_events_found_by_poll_total").increment(found as u64);
    }
    Ok(found)
}

/// Looks up payment pages that have been open for long. One that cannot be read keeps none of the others from being looked
/// at. What does not pass by itself is an operator's business, and ends no order: it may be our key that is wrong.
///
/// # Errors
/// Those of the database, and the first one that passes.
pub(super) async fn look_up_old(app: &Services) -> Result<(), BillingError> {
    let orders = {
        let mut connection = app.db.read().await?;
        store::old_checkouts(&mut connection, app.clock.now().minus(LOOK_UP_AFTER)).await?
    };
    let (mut first, mut unread) = (Ok(()), None);
    for order in orders {
        let Err(error) = checkout::sync_checkout(app, order).await else { continue };
        if error.is_passing() || matches!(error, BillingError::Db(_)) {
            first = first.and(Err(error));
            continue;
        }
        let why = inbox::chain(&error);
        tracing::error!(order.id = %order, error = %why, "a payment page cannot be read");
        unread.get_or_insert_with(|| format!("{order} ({why})"));
        // All the others would meet the same.
        if error.is_locked_out() {
            break;
        }
    }
    let (now, passes) = (app.clock.now(), first.is_err());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let Some(one) = unread else {
                    // One that was not reached may be the one that it rings for.
                    return if passes { Ok(()) } else { alarms::clear(tx, now, UNREAD, SUBJECT).await };
                };
                let detail = format!(
                    "Stripe does not let us read payment pages, that of order {one} for example. Their orders wait, and it is \
                     tried again all the time. See whether STRIPE_SECRET_KEY is that of the account and mode in which they \
                     were opened."
                );
                hold(tx, now, UNREAD, &detail).await
            })
        })
        .await?;
    first
}
