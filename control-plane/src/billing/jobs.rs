//! Jobs of billing: one per Stripe object, and the reconciler.

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
        Err(error) if error.is_passing() || matches!(error, BillingError::Db(_)) => Err(sort(error)),
        Err(error) => Ok(inbox::park(&app, kind, &run.key, &error).await?),
    }
}

async fn run_walk(app: App, _run: JobRun) -> Result<(), JobError> {
    inbox::redact(&app).await?;
    let report = walk::reconcile(&app).await.map_err(sort)?;
    for failure in &report.failed {
        tracing::error!(stripe.object = %failure.object, error = %failure.error, "not compared with Stripe");
    }
    Ok(())
}

async fn run_poll(app: App, _run: JobRun) -> Result<(), JobError> {
    reconcile::poll(&app).await.map(|_| ()).map_err(sort)
}

async fn run_look_up(app: App, _run: JobRun) -> Result<(), JobError> {
    // What stops one of them stops none of the others.
    let swept = [dunning::sweep(&app).await, inbox::sweep(&app).await, change::sweep(&app).await];
    let looked_up = reconcile::look_up_old(&app).await.map_err(sort);
    for swept in swept {
        swept?;
    }
    looked_up
}

/// Money is never given up on by itself: whatever may pass is tried again, the rest is shown to operators.
fn sort(error: BillingError) -> JobError {
    match error {
        BillingError::Db(error) => error.into(),
        error if error.is_passing() => JobError::retry(error),
        error => JobError::fail(error),
    }
}
