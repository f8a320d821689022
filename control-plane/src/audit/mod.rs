//! Audit: who did what, in a chain that shows whether anything was changed afterwards (I7).
//!
//! [`record`] writes a row in the transaction of the change, unchained, so that the chain's head does not
//! serialise every write. The sealer gives the rows their place and hash within a second; each hash
//! covers the previous hash and the exact bytes of the entry. [`verify`] recomputes the chain and reports
//! how long the unsealed tail is.

mod model;
mod store;

use ez_protocol::{AuditId, UnixMillis};
use sqlx::AnyConnection;

use crate::db::{self, DbError, Topic};

pub use model::Entry;

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

/// Names this slice's job handlers.
pub(crate) fn register_jobs(_registry: &mut crate::jobs::JobRegistry) {}
