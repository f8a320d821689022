//! Moving a server along its state machine: one guarded update, one audit row.

use ez_protocol::UnixMillis;
use serde_json::json;
use sqlx::AnyConnection;

use super::{
    model::{Instance, InstanceEvent, Refused},
    store,
};
use crate::{audit, db::DbError};

/// Why a server did not change.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// The event makes no sense in its state.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The database; [`DbError::NotFound`] when somebody else changed it in between.
    #[error("writing the server's state")]
    Db(#[from] DbError),
}

/// Takes an event, writes the instance with everything the caller changed in it, and says what it is now.
pub(super) async fn take(
    tx: &mut AnyConnection,
    at: UnixMillis,
    instance: Instance,
    event: InstanceEvent,
    actor: &str,
) -> Result<Instance, InstanceError> {
    let was = instance.state;
    let instance = Instance { state: was.take(event)?, updated_at: at, ..instance };
    store::save(tx, at, was, &instance).await?;
    if was != instance.state {
        let entry = audit::Entry {
            actor: actor.to_owned(),
            action: format!("instance.{}", instance.state),
            subject_kind: "instance".to_owned(),
            subject_id: instance.id.to_string(),
            detail: json!({"from": was, "to": instance.state, "reason": instance.reason, "node": instance.node}),
        };
        audit::record(tx, at, entry).await?;
    }
    Ok(instance)
}

/// The attempt to build it is over and left nothing behind: the node is remembered as tried.
///
/// # Errors
/// [`InstanceError`].
pub(crate) async fn attempt_fenced(
    tx: &mut AnyConnection,
    at: UnixMillis,
    instance: Instance,
    reason: Option<String>,
    actor: &str,
) -> Result<Instance, InstanceError> {
    let mut tried_nodes = instance.tried_nodes.clone();
    tried_nodes.extend(instance.node.filter(|node| !tried_nodes.contains(node)));
    let instance = Instance { tried_nodes, node: None, provisioning_order: None, reason, ..instance };
    take(tx, at, instance, InstanceEvent::AttemptFenced, actor).await
}

/// Nobody knows what the attempt left on the node; everything stays reserved.
///
/// # Errors
/// [`InstanceError`].
pub(crate) async fn went_silent(
    tx: &mut AnyConnection,
    at: UnixMillis,
    instance: Instance,
    reason: String,
    actor: &str,
) -> Result<Instance, InstanceError> {
    take(tx, at, Instance { reason: Some(reason), ..instance }, InstanceEvent::WentSilent, actor).await
}
