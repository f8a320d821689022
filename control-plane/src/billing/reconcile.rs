//! The reconciler: what webhooks did not tell us, Stripe's own lists do.

use std::time::Duration;

use super::{
    BillingError, checkout, intake,
    model::Source,
    store,
    stripe::{self, EventList},
};
use crate::{
    app::Services,
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

/// The five-minute poll. While it does not come to its end for half an hour, an operator hears of it.
///
/// # Errors
/// Those of [`poll_events`].
pub(super) async fn poll(app: &Services) -> Result<usize, BillingError> {
    let polled = poll_events(app).await;
    let (now, failed) = (app.clock.now(), polled.as_ref().err().map(ToString::to_string));
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let Some(why) = failed else { return alarms::clear(tx, now, BEHIND, "stripe").await };
                let Some(last) = store::cursor(tx, EVENTS).await? else { return Ok(()) };
                if now.since(last) < BEHIND_AFTER {
                    return Ok(());
                }
                let detail = format!(
                    "Stripe's list of events has not been read to its end for {} minutes: {why}. It is tried again \
                     all the time; what webhooks bring is taken over as always.",
                    now.since(last).as_secs() / 60
                );
                let alarm = alarms::New {
                    kind: BEHIND,
                    subject: "stripe",
                    severity: Severity::Critical,
                    node: None,
                    detail: &detail,
                };
                alarms::hold(tx, now, alarm).await.map(|_| ())
            })
        })
        .await?;
    polled
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

/// Looks up payment pages that have been open for long.
///
/// # Errors
/// What Stripe or the database said about the first one that failed; the others were looked up.
pub(super) async fn look_up_old(app: &Services) -> Result<(), BillingError> {
    let orders = {
        let mut connection = app.db.read().await?;
        store::old_checkouts(&mut connection, app.clock.now().minus(LOOK_UP_AFTER)).await?
    };
    let mut first = Ok(());
    for order in orders {
        let looked = checkout::sync_checkout(app, order).await.map(|_| ());
        if first.is_ok() {
            first = looked;
        }
    }
    first
}
