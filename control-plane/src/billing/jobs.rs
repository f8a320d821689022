//! Jobs of billing: one per Stripe object, and the reconciler.
//!
//! What an answer of Stripe's means for a job that runs once:
//!
//! | job | silence, 429, 5xx | our key (401, 403) | no, or no such object |
//! |---|---|---|---|
//! | `sync` | again within seconds | the same | no: parked if its news waits, rings, again later; no such object: nothing to copy |
//! | `stand` | again; rings when a step has waited for an hour | the same, once for all orders | rings, again after an hour |
//! | `plan_change` | again | again | dead; the sweep takes up what is due |
//! | `remind` | again, then the letter without the sum | again for a day at most, then the same | the letter without the sum |
//! | `give_back` | again | rings, again after minutes | rings, again after a day; what cannot be read is dead |
//! | `goodwill` | again | again | refused, as the page says; what cannot be read is dead |
//! | `traffic_bill` | again | rings, again after an hour | the same |
//!
//! The poll rings for a wrong key, so nobody else has to.

use std::time::Duration;

use super::{
    BillingError, change, dunning, goodwill, inbox, reconcile,
    stripe::{Class, at},
    surplus, sync, usage, walk,
};
use crate::{
    app::App,
    jobs::{self, JobError, JobRegistry, JobRun},
};

/// Reads one object again; the key is the object's id, so that one object is never read by two at once.
pub(super) const SYNC: &str = "billing.sync";
const POLL: &str = "billing.poll";
const LOOK_UP: &str = "billing.look_up";
const WALK: &str = "billing.walk";

/// How often Stripe's list of events is walked.
const POLL_EVERY: Duration = Duration::from_secs(5 * 60);
/// How often everything is compared with Stripe.
const WALK_EVERY: Duration = Duration::from_secs(24 * 60 * 60);
/// How often long-open payment pages are looked up.
const LOOK_UP_EVERY: Duration = Duration::from_secs(2 * 60);

/// Names this slice's job handlers.
pub(crate) fn register_jobs(registry: &mut JobRegistry) {
    registry.on(SYNC, run_sync);
    registry.on(surplus::GIVE_BACK, |app, run| at(Class::Background, surplus::run_give_back(app, run)));
    registry.on(dunning::STAND, |app, run| at(Class::Background, dunning::run(app, run)));
    registry.on(dunning::remind::REMIND, |app, run| at(Class::Background, dunning::remind::run(app, run)));
    change::register_jobs(registry);
    registry.on(goodwill::TAKE_UP, |app, run| at(Class::Background, goodwill::run_take_up(app, run)));
    registry.on(usage::POST, |app, run| at(Class::Background, usage::run_post(app, run)));
    registry.every(usage::COUNT, usage::COUNT_EVERY, usage::run);
    registry.every(POLL, POLL_EVERY, |app, run| at(Class::Background, run_poll(app, run)));
    registry.every(WALK, WALK_EVERY, run_walk);
    registry.every(LOOK_UP, LOOK_UP_EVERY, |app, run| at(Class::Background, run_look_up(app, run)));
}

/// Reads an object of which there is news. What decides whether an order is built goes first; the rest takes the turns
/// that are left, and comes back later where others wait for Stripe already: it does not stand in the way of orders.
async fn run_sync(app: App, run: JobRun) -> Result<(), JobError> {
    let kind = run.payload.get("kind").and_then(|kind| kind.as_str()).unwrap_or_default();
    if !inbox::waits(&app, &run.key).await? {
        // It was read together with another object since the news came.
        return Ok(());
    }
    let class = if kind == "checkout.session" { Class::Now } else { Class::Background };
    if class == Class::Background
        && let Some(later) = app.stripe.come_back_in()
    {
        let (run_at, payload, key) = (app.clock.now().plus(later), run.payload, run.key);
        return Ok(app
            .db
            .write(move |tx| Box::pin(async move { jobs::enqueue(tx, SYNC, &key, &payload, run_at).await }))
            .await?);
    }
    match at(class, sync::object(&app, kind, &run.key)).await {
        Ok(()) => Ok(inbox::unpark(&app, &run.key, &run.payload).await?),
        Err(error) if error.is_retryable() || matches!(error, BillingError::Db(_)) => Err(error.into()),
        Err(error) => Ok(inbox::park(&app, kind, &run.key, &error).await?),
    }
}

async fn run_walk(app: App, _run: JobRun) -> Result<(), JobError> {
    inbox::redact(&app).await?;
    let report = walk::reconcile(&app).await?;
    for failure in &report.failed {
        tracing::error!(stripe.object = %failure.object, error = %failure.error, "not compared with Stripe");
    }
    Ok(())
}

async fn run_poll(app: App, _run: JobRun) -> Result<(), JobError> {
    reconcile::poll(&app).await?;
    Ok(())
}

async fn run_look_up(app: App, _run: JobRun) -> Result<(), JobError> {
    // What stops one of them stops none of the others.
    let swept = [dunning::sweep(&app).await, inbox::sweep(&app).await, change::sweep(&app).await];
    let looked_up = reconcile::look_up_old(&app).await;
    for swept in swept {
        swept?;
    }
    Ok(looked_up?)
}

/// Money is never given up on by itself: whatever may pass, or is mended by a person, is tried again; the rest is shown to
/// operators.
impl From<BillingError> for JobError {
    fn from(error: BillingError) -> Self {
        match error {
            BillingError::Db(error) => error.into(),
            error if error.is_retryable() => Self::retry(error),
            error => Self::fail(error),
        }
    }
}
