//! The loop that runs jobs. Spawns one task per running job; each carries a span with kind and key.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use ez_protocol::UnixMillis;
use futures::FutureExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

use super::{
    BACKOFF_CAP, JobError, JobRegistry, JobRun, backoff,
    registry::Registered,
    store::{self, Claimed, Kinds},
};
use crate::{app::App, db::DbError, entropy::EntropyExt};

/// How long a run may be silent before another worker takes over; renewed at a third of it. On PostgreSQL a
/// killed process costs its jobs this long.
const LEASE: Duration = Duration::from_secs(15);
/// Jobs that run at once in one process, besides those of kinds that have a room of their own.
const SLOTS: usize = 16;
/// How often the table is looked at without a wake-up.
const POLL: Duration = Duration::from_secs(1);
/// How often the periodic jobs are looked at for a time that cannot be, and how far the clock has to jump for that to
/// happen at once.
const ARM_AGAIN: Duration = Duration::from_secs(5 * 60);
/// A periodic job that failed for good is not given up: it comes again with its period, and no later than this.
const FAILED_AGAIN: Duration = Duration::from_secs(60 * 60);

/// Runs jobs until told to stop, then waits for the running ones.
pub async fn run_until_stopped(app: App, registry: JobRegistry, stop: CancellationToken) {
    let registry = Arc::new(registry);
    let rooms = Room::all(&registry);
    let running = TaskTracker::new();
    while let Err(error) = arm_periodic(&app, &registry).await {
        tracing::error!(%error, "cannot arm the periodic jobs");
        if sleep_or_stop(&stop, POLL).await {
            return;
        }
    }
    let mut armed = app.clock.now();
    loop {
        // A clock that was a day ahead has left the next run of each a day away; forward it goes, or back.
        let now = app.clock.now();
        if now.since(armed).max(armed.since(now)) >= ARM_AGAIN {
            armed = now;
            if let Err(error) = arm_periodic(&app, &registry).await {
                tracing::error!(%error, "cannot arm the periodic jobs");
            }
        }
        let mut started = 0;
        for room in &rooms {
            match start_due(&app, &registry, room, &running).await {
                Ok(more) => started += more,
                Err(error) => tracing::error!(%error, "cannot look for jobs"),
            }
        }
        if started > 0 && !stop.is_cancelled() {
            continue;
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = app.wake.jobs.notified() => {}
            () = tokio::time::sleep(POLL) => {}
        }
    }
    running.close();
    running.wait().await;
}

async fn sleep_or_stop(stop: &CancellationToken, time: Duration) -> bool {
    tokio::time::timeout(time, stop.cancelled()).await.is_ok()
}

/// Kinds that share slots.
struct Room {
    kinds: Kinds,
    slots: Arc<Semaphore>,
}

impl Room {
    /// Those of the kinds that have one of their own, and before them the one of all others.
    fn all(registry: &JobRegistry) -> Vec<Self> {
        let room = |kinds, slots| Self { kinds, slots: Arc::new(Semaphore::new(slots)) };
        let shared = room(Kinds::but(registry.rooms.keys().copied()), SLOTS);
        let own = registry.rooms.iter().map(|(kind, slots)| room(Kinds::only(kind), *slots));
        std::iter::once(shared).chain(own).collect()
    }
}

/// Runs what is due now, and what that enqueues for now, until nothing is left; says how many ran.
///
/// For tests and one-shot commands: one job after the other, no periodic jobs unless they were armed.
///
/// # Errors
/// Those of the database.
pub async fn drain(app: &App, registry: &JobRegistry) -> Result<usize, DbError> {
    let mut ran = 0;
    loop {
        let batch = claim(app, &Kinds::all(), SLOTS).await?;
        if batch.is_empty() {
            return Ok(ran);
        }
        for mut job in batch {
            // One after the other: what has waited behind a slow one makes sure that it is still ours.
            let asked = Instant::now();
            if job.since.elapsed() >= LEASE / 3 {
                if !renew(app, &job, LEASE).await? {
                    continue;
                }
                job.since = asked;
            }
            ran += 1;
            run_one(app, registry, job).await;
        }
    }
}

/// Makes sure every reconciler has its row, and that none is given up or waits for longer than it ever would.
pub(crate) async fn arm_periodic(app: &App, registry: &JobRegistry) -> Result<(), DbError> {
    let now = app.clock.now();
    // After a failure it may wait for longer than its period.
    let latest = |period: Duration| now.plus(period.max(BACKOFF_CAP));
    let kinds: Vec<(&'static str, UnixMillis)> =
        registry.kinds.iter().filter_map(|(kind, r)| Some((*kind, latest(r.period?)))).collect();
    app.db
        .write(move |tx| {
            Box::pin(async move {
                for (kind, latest) in kinds {
                    store::insert_missing(tx, kind, now, latest).await?;
                }
                Ok(())
            })
        })
        .await
}

/// Starts as many due jobs of a room as it has free slots; says how many.
async fn start_due(
    app: &App,
    registry: &Arc<JobRegistry>,
    room: &Room,
    running: &TaskTracker,
) -> Result<usize, DbError> {
    let mut permits: Vec<OwnedSemaphorePermit> = Vec::new();
    while let Ok(permit) = room.slots.clone().try_acquire_owned() {
        permits.push(permit);
    }
    if permits.is_empty() {
        return Ok(0);
    }
    let batch = claim(app, &room.kinds, permits.len()).await?;
    let started = batch.len();
    for (job, permit) in batch.into_iter().zip(permits) {
        let (app, registry) = (app.clone(), registry.clone());
        running.spawn(async move {
            run_one(&app, &registry, job).await;
            drop(permit);
            // A slot came free: look again.
            app.wake.jobs.notify_one();
        });
    }
    Ok(started)
}

/// Takes leases; looks without the write lock first.
pub(super) async fn claim(app: &App, kinds: &Kinds, limit: usize) -> Result<Vec<Claimed>, DbError> {
    let now = app.clock.now();
    let mut connection = app.db.read().await?;
    if !store::any_due(&mut connection, kinds, now).await? {
        return Ok(Vec::new());
    }
    drop(connection);
    let token = app.entropy.token("");
    let (kinds, limit) = (kinds.clone(), i64::try_from(limit).unwrap_or(i64::MAX));
    app.db
        .write(move |tx| Box::pin(async move { store::claim(tx, &kinds, now, LEASE, &token, limit).await }))
        .await
}

/// Runs one claimed job to its end and books the result.
pub(super) async fn run_one(app: &App, registry: &JobRegistry, job: Claimed) {
    let span =
        tracing::info_span!("job", job.kind = %job.kind, job.key = %job.key, job.attempt = job.attempts);
    async {
        let Some(registered) = registry.kinds.get(job.kind.as_str()) else {
            let error = JobError::retry(format!("no handler for jobs of kind {:?}", job.kind));
            return book(app, &job, None, Err(error)).await;
        };
        let result = tokio::select! {
            result = call(app, registered, &job) => result,
            // The future is dropped: another worker holds the key now.
            () = lose_lease(app, &job, LEASE) => {
                tracing::warn!("lost the lease; stopped");
                return;
            }
        };
        book(app, &job, registered.period, result).await;
    }
    .instrument(span)
    .await;
}

/// Calls the handler; a panic is worth another attempt.
async fn call(app: &App, registered: &Registered, job: &Claimed) -> Result<(), JobError> {
    let payload = serde_json::from_str(&job.payload).map_err(JobError::fail)?;
    let attempt = u32::try_from(job.attempts).unwrap_or(u32::MAX);
    let run = JobRun { key: job.key.clone(), payload, attempt, at: app.clock.now() };
    let (handler, app) = (registered.handler.clone(), app.clone());
    AssertUnwindSafe(async move { handler(app, run).await })
        .catch_unwind()
        .await
        .unwrap_or_else(|_| Err(JobError::retry("the handler panicked")))
}

/// Renews the lease; returns when it is lost, or soon may be: the next worker does not ask whether this one has stopped. A
/// renewal that hangs is one that did not happen.
pub(super) async fn lose_lease(app: &App, job: &Claimed, lease: Duration) {
    // Sure to be ours, and time enough to stop.
    let safe = lease - lease / 8;
    let mut ends = job.since + safe;
    loop {
        tokio::time::sleep_until(ends.min(Instant::now() + lease / 3)).await;
        let asked = Instant::now();
        if asked >= ends {
            return;
        }
        match tokio::time::timeout_at(ends, renew(app, job, lease)).await {
            Ok(Ok(true)) => ends = asked + safe,
            Ok(Ok(false)) => return,
            Ok(Err(error)) => tracing::warn!(%error, "cannot renew a lease"),
            Err(_) => tracing::warn!("a lease was not renewed in time"),
        }
    }
}

/// Takes a lease anew; `false` if it is somebody else's.
async fn renew(app: &App, job: &Claimed, lease: Duration) -> Result<bool, DbError> {
    let ours = job.clone();
    app.db.write(move |tx| Box::pin(async move { store::renew(tx, &ours, lease).await })).await
}

/// Writes down how a run ended; if that fails the lease runs out and the job runs again.
async fn book(app: &App, job: &Claimed, period: Option<Duration>, result: Result<(), JobError>) {
    let now: UnixMillis = app.clock.now();
    let ours = job.clone();
    let outcome = match (&result, period) {
        (Ok(()), _) => "ok",
        (Err(JobError::Retry(_)), _) => "retry",
        (Err(JobError::Fail(_)), Some(_)) => "failed",
        (Err(JobError::Fail(_)), None) => "dead",
    };
    metrics::counter!("ez_jobs_runs_total", "kind" => job.kind.clone(), "outcome" => outcome).increment(1);
    let booked: Result<(), DbError> = match result {
        Ok(()) => {
            let next = period.map(|period| now.plus(period));
            app.db.write(move |tx| Box::pin(async move { store::succeed(tx, &ours, next).await })).await
        }
        Err(error @ JobError::Retry(_)) => {
            let text = error.chain();
            let next = now.plus(backoff(u32::try_from(job.attempts).unwrap_or(u32::MAX)));
            tracing::warn!(error = %text, "a job will be tried again");
            app.db.write(move |tx| Box::pin(async move { store::retry(tx, &ours, next, &text).await })).await
        }
        Err(error @ JobError::Fail(_)) => {
            let text = error.chain();
            match period {
                // Nobody asks for a reconciler again, so one that is dead stays dead; and what it met ends, a key that
                // was wrong for a minute for example.
                Some(period) => {
                    let next = now.plus(period.min(FAILED_AGAIN));
                    tracing::error!(error = %text, "a periodic job failed; it runs again with its period");
                    app.db
                        .write(move |tx| Box::pin(async move { store::retry(tx, &ours, next, &text).await }))
                        .await
                }
                None => {
                    tracing::error!(error = %text, "a job was given up");
                    app.db
                        .write(move |tx| Box::pin(async move { store::fail(tx, &ours, now, &text).await }))
                        .await
                }
            }
        }
    };
    if let Err(error) = booked {
        tracing::error!(%error, "cannot book the end of a job; it will run again");
    }
}

/// Ends every lease, as time does when a process has died.
#[cfg(test)]
pub(crate) async fn let_leases_end(app: &App) {
    app.db.write(|tx| Box::pin(async move { store::end_leases(tx).await })).await.unwrap();
}
