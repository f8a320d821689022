//! The end of a server: retire, keep the disk for a while, purge. And giving back places that were never used.

use std::time::Duration;

use ez_protocol::{
    ProvisioningOrderId, UnixMillis,
    order::{Empty, Op},
};
use sqlx::AnyConnection;

pub(super) mod again;
pub(super) mod wish;

use super::{
    build, change,
    change::InstanceError,
    model::{Instance, InstanceEvent, InstanceState},
    suspend,
};
use crate::{
    billing::BillingError,
    db::DbError,
    dispatch::{self, Intent, IssueError, Keys},
    entropy::Entropy,
    fleet::{self, Release},
};

/// How long the disk is kept after the service ended.
pub(super) const RETENTION: Duration = Duration::from_secs(72 * 60 * 60);

/// Why a server was not ended.
#[derive(Debug, thiserror::Error)]
pub enum EndError {
    /// There is no such server.
    #[error("there is no such server")]
    Unknown,
    /// It is being built, or gone already.
    #[error("a server that is {0} cannot be deleted")]
    DoesNotFit(InstanceState),
    /// The subscription could not be ended; the server runs on.
    #[error("ending the subscription")]
    Billing(#[from] BillingError),
    /// The order was not issued.
    #[error("issuing the order")]
    Issue(#[from] IssueError),
    /// Its state does not allow it.
    #[error("noting that the server ends")]
    Instance(#[from] InstanceError),
    /// The database.
    #[error("reading or writing the server")]
    Db(#[from] DbError),
}

/// Ends a server's service: retires what may exist on a node, gives back what certainly does not. Safe to repeat.
///
/// # Errors
/// [`EndError`]; nothing was changed.
pub async fn end(
    tx: &mut AnyConnection,
    keys: &Keys,
    at: UnixMillis,
    entropy: &dyn Entropy,
    instance: Instance,
    actor: &str,
) -> Result<Instance, EndError> {
    match instance.state {
        InstanceState::Requested | InstanceState::Assigned | InstanceState::Failed => {
            Ok(give_up_place(tx, at, instance, Release::NeverUsed, actor).await?)
        }
        InstanceState::Running | InstanceState::Stopped | InstanceState::NeedsOperator => {
            retire(tx, keys, at, entropy, instance, actor).await
        }
        // Under way, and repeated by the sweep until it is done.
        InstanceState::Retiring
        | InstanceState::Retired
        | InstanceState::Purging
        | InstanceState::Purged
        | InstanceState::Released => Ok(instance),
        InstanceState::Provisioning => Err(EndError::DoesNotFit(instance.state)),
    }
}

/// What the node is to be told. One that did not work out is followed by the next one; the same one is never issued twice.
/// Nobody need look at one that is stuck once another takes its place: should that get stuck too, it is one alarm, not two.
async fn intent(
    tx: &mut AnyConnection,
    at: UnixMillis,
    instance: &Instance,
    op: Op,
    cause: &'static str,
    actor: &str,
) -> Result<Intent, EndError> {
    if let Some(previous) = instance.provisioning_order {
        dispatch::overtaken(tx, at, previous).await?;
    }
    let previous = instance.provisioning_order.map(|id| id.to_string()).unwrap_or_default();
    Ok(Intent {
        instance: instance.id,
        placement: fleet::placement_of(tx, instance.id).await?.ok_or(EndError::Unknown)?,
        op,
        cause_key: format!("{cause}:{}:after:{previous}", instance.order),
        order: Some(instance.order),
        actor: actor.to_owned(),
        ttl: None,
    })
}

/// Orders a server to be retired. Where its node takes no orders now, its service ends all the same, and the order
/// follows when the node does.
pub(super) async fn retire(
    tx: &mut AnyConnection,
    keys: &Keys,
    at: UnixMillis,
    entropy: &dyn Entropy,
    instance: Instance,
    actor: &str,
) -> Result<Instance, EndError> {
    let intent = intent(tx, at, &instance, Op::Retire(Empty {}), "end", actor).await?;
    let instance = match dispatch::issue(tx, keys, at, entropy, intent).await {
        Ok(id) => {
            build::note_action(tx, at, entropy, &instance, "delete", id, actor).await?;
            Instance { provisioning_order: Some(id), ..instance }
        }
        Err(IssueError::NodeNotServing | IssueError::TooMany { .. }) => instance,
        Err(other) => return Err(other.into()),
    };
    Ok(change::take(tx, at, instance, InstanceEvent::RetireIssued, actor).await?)
}

/// Tells a node that forgot it that a server is retired.
pub(super) async fn retire_again(
    tx: &mut AnyConnection,
    keys: &Keys,
    at: UnixMillis,
    entropy: &dyn Entropy,
    instance: &Instance,
) -> Result<ProvisioningOrderId, EndError> {
    let intent = intent(tx, at, instance, Op::Retire(Empty {}), "keep", "system").await?;
    Ok(dispatch::issue(tx, keys, at, entropy, intent).await?)
}

/// Orders the disk of a retired server to be removed.
pub(super) async fn purge(
    tx: &mut AnyConnection,
    keys: &Keys,
    at: UnixMillis,
    entropy: &dyn Entropy,
    instance: Instance,
    actor: &str,
) -> Result<Instance, EndError> {
    suspend::over(tx, at, instance.id).await?;
    let intent = intent(tx, at, &instance, Op::Purge(Empty {}), "purge", actor).await?;
    let id = dispatch::issue(tx, keys, at, entropy, intent).await?;
    let instance = Instance { provisioning_order: Some(id), ..instance };
    Ok(change::take(tx, at, instance, InstanceEvent::PurgeIssued, actor).await?)
}

/// Gives a server's place back; the caller knows that nothing of it exists there (or, with
/// [`Release::Unknown`], that its node was taken away).
///
/// # Errors
/// [`InstanceError`].
pub async fn give_up_place(
    tx: &mut AnyConnection,
    at: UnixMillis,
    instance: Instance,
    how: Release,
    actor: &str,
) -> Result<Instance, InstanceError> {
    suspend::over(tx, at, instance.id).await?;
    again::over(tx, at, instance.id).await?;
    fleet::release(tx, at, instance.id, how).await?;
    if instance.state == InstanceState::Released {
        return Ok(instance);
    }
    let instance = Instance { node: None, ..instance };
    change::take(tx, at, instance, InstanceEvent::Released, actor).await
}
