//! Jobs: work that must happen once its cause is durable, whatever crashes.
//!
//! A job is a row `(kind, key)` written in the transaction of its cause by [`enqueue`], so it exists exactly
//! when the cause does (outbox). A worker takes a lease by the database's clock and runs the handler that
//! is registered for the kind. Handlers are idempotent: they may run again after a crash, and a key that is
//! asked for while it is running runs once more afterwards. Two workers never run the same key at once, as
//! long as a worker that loses its lease stops, which it does: it renews at a third of the lease and drops
//! the handler when that fails.
//!
//! A process runs a bounded number of jobs at once. A kind that waits on somebody who may be silent and whom nothing else
//! needs gets slots of its own ([`JobRegistry::give_room`]): letters to a mail server that says nothing then hold up
//! letters, and no paid order.
//!
//! A handler ends in success, [`JobError::Retry`] (again after a back-off of at most [`BACKOFF_CAP`]) or
//! [`JobError::Fail`] (dead: kept and shown to operators, [`dead_letters`]). A periodic job never dies: one that failed
//! runs again with its period.

mod model;
mod registry;
mod store;
#[cfg(test)]
mod tests;
mod worker;

use ez_protocol::UnixMillis;
use sqlx::AnyConnection;

use crate::db::{self, DbError, Topic};

pub use model::{BACKOFF_CAP, DeadJob, JobError, JobRun, backoff};
pub use registry::{Handler, JobRegistry};
#[cfg(test)]
pub(crate) use worker::{arm_periodic, let_leases_end};
pub use worker::{drain, run_until_stopped};

/// Asks for a job, in the caller's transaction.
///
/// The same key again re-arms it: the earlier time wins, the newer payload wins, a dead one lives again, and
/// one that is running runs once more afterwards.
///
/// # Errors
/// Those of the statement.
pub async fn enqueue(
    tx: &mut AnyConnection,
    kind: &'static str,
    key: &str,
    payload: &serde_json::Value,
    run_at: UnixMillis,
) -> Result<(), DbError> {
    store::upsert(tx, kind, key, &payload.to_string(), run_at).await?;
    db::wake_after_commit(Topic::Jobs);
    Ok(())
}

/// Whether a job is there that runs or will.
///
/// # Errors
/// Those of the query.
pub async fn is_asked(
    connection: &mut AnyConnection,
    kind: &'static str,
    key: &str,
) -> Result<bool, DbError> {
    store::is_asked(connection, kind, key).await
}

/// Whether a job is there, be it one that was given up: that one waits for a person.
///
/// # Errors
/// Those of the query.
pub async fn is_there(
    connection: &mut AnyConnection,
    kind: &'static str,
    key: &str,
) -> Result<bool, DbError> {
    store::is_there(connection, kind, key).await
}

/// Takes back a job that is not running. A running one finishes.
///
/// # Errors
/// Those of the statement.
pub async fn cancel(tx: &mut AnyConnection, kind: &'static str, key: &str) -> Result<(), DbError> {
    store::remove_idle(tx, kind, key).await
}

/// Jobs that were given up, newest first, at most 200.
///
/// # Errors
/// Those of the query.
pub async fn dead_letters(connection: &mut AnyConnection) -> Result<Vec<DeadJob>, DbError> {
    store::dead(connection).await
}

/// How many jobs wait that are due, and how many are dead; for metrics.
///
/// # Errors
/// Those of the query.
pub async fn depth(connection: &mut AnyConnection, now: UnixMillis) -> Result<(i64, i64), DbError> {
    store::depth(connection, now).await
}
