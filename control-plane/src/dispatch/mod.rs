//! Dispatch: builds, signs and keeps provisioning orders, and keeps what nodes say about them.
//!
//! [`issue`] is the one door. Its caller brings a typed intent and no bytes, sequence, generation, end or
//! key; in one transaction the order is checked, numbered, signed and stored byte for byte (the outbox).
//! The same cause never issues twice. `link` then moves the stored bytes and hands back answers and events;
//! it can neither make nor change an order (A5).
//!
//! ```text
//! signed → queued → accepted → running → succeeded | failed | undone | stuck
//!    └────────┴──→ refused | expired | cancelled | superseded
//! ```
//!
//! Sequence (per node) and generation (per instance) only rise (I9). Each change of an order's state
//! enqueues the job `instances.observe_provisioning` under the order's id, in the same transaction.

mod api;
mod budget;
mod earlier;
mod events;
mod fence;
pub mod images;
mod issue;
mod jobs;
mod model;
mod outbox;
mod pages;
mod record;
mod shown;
mod store;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;

use ez_protocol::{InstanceId, NodeId, ProvisioningOrderId, UnixMillis};
use sqlx::AnyConnection;

use crate::db::DbError;

pub use crate::keys::Keys;
pub use earlier::end_earlier;
pub use fence::{Builds, builds_at, cancel_unaccepted};
pub use issue::issue;
pub use model::{
    BackupView, Delivery, EventRecord, FactsView, FenceOutcome, Intent, IssueError, Pace, ProvisioningRecord,
    QueueView, Refused, SnapshotView, State, is_passing_refusal,
};
pub use outbox::{accepted_seq, due, due_again, due_nodes, leaving};
pub use record::{Recorded, overtaken, record, record_answer};

pub(crate) use api::routes as api_routes;
pub(crate) use jobs::register_jobs;
pub(crate) use pages::routes as page_routes;

/// The job that tells `instances` about every change; its key is the provisioning order's id.
pub const OBSERVE_JOB: &str = "instances.observe_provisioning";

/// One order.
///
/// # Errors
/// Those of the database.
pub async fn show(
    conn: &mut AnyConnection,
    id: ProvisioningOrderId,
) -> Result<Option<ProvisioningRecord>, DbError> {
    store::by_id(conn, id).await
}

/// The newest order about an instance.
///
/// # Errors
/// Those of the database.
pub async fn latest_for(
    conn: &mut AnyConnection,
    instance: InstanceId,
) -> Result<Option<ProvisioningRecord>, DbError> {
    store::latest_for(conn, instance).await
}

/// All orders about an instance, oldest first.
///
/// # Errors
/// Those of the database.
pub async fn history_of(
    conn: &mut AnyConnection,
    instance: InstanceId,
) -> Result<Vec<ProvisioningRecord>, DbError> {
    store::history_of(conn, instance).await
}

/// What a node said about an order, oldest first.
///
/// # Errors
/// Those of the database.
pub async fn events_of(
    conn: &mut AnyConnection,
    id: ProvisioningOrderId,
) -> Result<Vec<EventRecord>, DbError> {
    events::store::events_of(conn, id).await
}

/// An order with what its node said about it, oldest first.
pub type Told = (ProvisioningRecord, Vec<EventRecord>);

/// Those of some orders that there are, up to [`crate::db::MANY`] of them: two statements, however many they are.
///
/// # Errors
/// Those of the database.
pub async fn told_of(
    conn: &mut AnyConnection,
    ids: &[ProvisioningOrderId],
) -> Result<BTreeMap<ProvisioningOrderId, Told>, DbError> {
    let records = store::by_ids(conn, ids).await?.into_iter();
    let mut told: BTreeMap<_, Told> = records.map(|record| (record.id, (record, Vec::new()))).collect();
    for (id, event) in events::store::events_of_some(conn, ids).await? {
        if let Some((_, events)) = told.get_mut(&id) {
            events.push(event);
        }
    }
    Ok(told)
}

/// Which orders a list shows.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only of this node.
    pub node: Option<NodeId>,
    /// Only those that have not ended, or ended stuck.
    pub open: bool,
    /// At most so many.
    pub limit: i64,
}

/// Orders, newest first.
///
/// # Errors
/// Those of the database.
pub async fn list(conn: &mut AnyConnection, filter: &Filter) -> Result<Vec<ProvisioningRecord>, DbError> {
    store::list(conn, filter).await
}

/// Orders that have not been accepted: how many, and when the oldest was issued.
///
/// # Errors
/// Those of the database.
pub async fn waiting(conn: &mut AnyConnection) -> Result<(u64, Option<UnixMillis>), DbError> {
    store::waiting(conn).await
}
