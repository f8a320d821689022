//! Audit: who did what, in a chain that shows whether anything was changed afterwards (I7).
//!
//! [`record`] writes a row in the transaction of the change, unchained, so that the chain's head does not
//! serialise every write. The sealer gives the rows their place and hash within a second; each hash
//! covers the previous hash, the place and the exact bytes of the entry. [`verify`] recomputes the chain
//! and reports how long the unsealed tail is.

mod model;
mod seal;
mod store;
#[cfg(test)]
mod tests;

use std::time::Duration;

use ez_protocol::{AuditId, UnixMillis};
use sqlx::AnyConnection;
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    db::{self, DbError, Topic},
};

pub use model::{Breach, Entry, Recorded, Verdict};
pub use seal::{seal, verify};

/// Writes down a change, in the caller's transaction.
///
/// ```no_run
/// # use ez_control_plane::{audit, db::DbError};
/// # async fn example(tx: &mut sqlx::AnyConnection, at: ez_protocol::UnixMillis) -> Result<(), DbError> {
/// audit::record(tx, at, audit::Entry {
///     actor: "system".into(),
///     action: "node.cordoned".into(),
///     subject_kind: "node".into(),
///     subject_id: "0190…".into(),
///     detail: serde_json::json!({ "why": "maintenance" }),
/// })
/// .await
/// # }
/// ```
///
/// # Errors
/// Those of the statement.
pub async fn record(tx: &mut AnyConnection, at: UnixMillis, entry: Entry) -> Result<(), DbError> {
    let id = AuditId::generate(at, db::row_randomness(tx).await?);
    store::insert(tx, id, at, &entry, &entry.exact(id, at)).await?;
    db::wake_after_commit(Topic::Audit);
    Ok(())
}

/// What was written down about one subject, oldest first, at most 500.
///
/// # Errors
/// Those of the query.
pub async fn history(
    connection: &mut AnyConnection,
    subject_kind: &str,
    subject_id: &str,
) -> Result<Vec<Recorded>, DbError> {
    store::of_subject(connection, subject_kind, subject_id).await
}

/// How many rows wait for the chain; for metrics.
///
/// # Errors
/// Those of the query.
pub async fn unsealed(connection: &mut AnyConnection) -> Result<i64, DbError> {
    store::count_unsealed(connection).await
}

/// Seals what waits, until told to stop: within a second of each commit, and never more than twice a second.
///
/// Not a job, because a job's lease would write even when there is nothing to seal. Several processes may run
/// it: a place in the chain is unique, so the slower one's transaction fails and finds nothing left to do. On PostgreSQL it
/// may also wait for the quicker one's row, and then finds it chained: to it the row is not there any more.
pub async fn run_until_stopped(app: App, stop: CancellationToken) {
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => {}
            () = app.wake.audit.notified() => {}
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        // Let some gather; also the last ones before the end.
        let _waited_or_stopped = tokio::time::timeout(Duration::from_millis(300), stop.cancelled()).await;
        loop {
            match seal(&app.db).await {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.is_unique() || matches!(error, DbError::NotFound) => break,
                Err(error) => {
                    tracing::error!(%error, "cannot seal the audit log");
                    break;
                }
            }
        }
    }
}
