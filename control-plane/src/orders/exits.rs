//! An operator's ways out of an order that waits for a person.

use ez_protocol::{NodeId, OrderId, UnixMillis};
use sqlx::AnyConnection;

use super::{
    OrderError,
    model::{Order, OrderEvent, OrderState, reason},
    store,
    transition::{Cause, take},
};
use crate::{
    app::Services,
    db::DbError,
    dispatch::{self, FenceOutcome},
    fleet::{self, Release},
    instances::{self, Instance, InstanceError, InstanceState},
};

/// Why an exit was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ExitError {
    /// There is no such order.
    #[error("there is no such order")]
    Unknown,
    /// The order is not in a state that has this exit.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// The node may still act on the provisioning order; it is certain not to after this time.
    #[error("the node may still carry the order out; wait until {0} (unix ms) or revoke the node")]
    NotFencedBefore(UnixMillis),
    /// The node accepted the provisioning order and may have built the server.
    #[error("node {0} holds the order; another node may only be used once this one is revoked")]
    HeldByNode(NodeId),
    /// The server did not change.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// The database.
    #[error("reading or writing the order")]
    Db(#[from] DbError),
}

/// Tries once more: on the same node if the server has a place, else wherever there is room.
///
/// # Errors
/// [`ExitError`]; nothing was changed.
pub async fn retry(app: &Services, id: OrderId, actor: &str) -> Result<Order, ExitError> {
    run(app, id, actor, OrderEvent::OperatorRetry, Fence::NotNeeded).await
}

/// Tries on another node. The first one is fenced before: its order is taken back, or it was refused or undone;
/// with `node_revoked` the operator has revoked the node, so that it can no longer be told to do anything.
///
/// # Errors
/// [`ExitError::HeldByNode`] and [`ExitError::NotFencedBefore`] when the node could still build the server.
pub async fn re_place(
    app: &Services,
    id: OrderId,
    actor: &str,
    node_revoked: bool,
) -> Result<Order, ExitError> {
    run(app, id, actor, OrderEvent::OperatorRePlace, Fence::Needed { node_revoked }).await
}

/// Lets go of node, addresses and VMID. The order keeps waiting, and the money goes back when it is due.
///
/// # Errors
/// As [`re_place`].
pub async fn abandon(
    app: &Services,
    id: OrderId,
    actor: &str,
    node_revoked: bool,
) -> Result<Order, ExitError> {
    run(app, id, actor, OrderEvent::OperatorAbandon, Fence::Needed { node_revoked }).await
}

/// Ends the subscription, gives the money back in full and ends what may exist of the server.
///
/// # Errors
/// [`ExitError`]; nothing was changed.
pub async fn refund(app: &Services, id: OrderId, actor: &str) -> Result<Order, ExitError> {
    run(app, id, actor, OrderEvent::RefundStarted, Fence::NotNeeded).await
}

/// Whether the place is given up, which needs certainty about the node.
#[derive(Debug, Clone, Copy)]
enum Fence {
    NotNeeded,
    Needed { node_revoked: bool },
}

async fn run(
    app: &Services,
    id: OrderId,
    actor: &str,
    event: OrderEvent,
    fence: Fence,
) -> Result<Order, ExitError> {
    let (at, config, actor) = (app.clock.now(), app.config.clone(), actor.to_owned());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let order = store::get_to_change(tx, id).await?.ok_or(ExitError::Unknown)?;
                order.state.take(event).map_err(OrderError::from)?;
                let instance =
                    instances::get_to_change(tx, order.instance).await?.ok_or(ExitError::Unknown)?;
                if let Fence::Needed { node_revoked } = fence {
                    let last = event == OrderEvent::OperatorAbandon;
                    leave_node(tx, at, instance, node_revoked, last, &actor).await?;
                }
                let why = (event == OrderEvent::OperatorAbandon).then_some(reason::ABANDONED);
                let cause = Cause { event, reason: why, actor: &actor };
                let moved = take(tx, &config, at, order, cause).await?.order();
                debug_assert!(moved.state != OrderState::Fulfilled);
                Ok(moved)
            })
        })
        .await
}

/// Gives up the server's place on its node once that is safe.
async fn leave_node(
    tx: &mut AnyConnection,
    at: UnixMillis,
    instance: Instance,
    node_revoked: bool,
    last: bool,
    actor: &str,
) -> Result<(), ExitError> {
    let how = match instance.provisioning_order {
        None => Release::NeverUsed,
        Some(provisioning) => match (dispatch::cancel_unaccepted(tx, at, provisioning).await?, instance.node)
        {
            (FenceOutcome::Fenced, _) => Release::Gone,
            (_, Some(node)) if node_revoked && is_revoked(tx, node).await? => Release::Unknown,
            (FenceOutcome::NotBefore(time), _) => return Err(ExitError::NotFencedBefore(time)),
            (FenceOutcome::Held, Some(node)) => return Err(ExitError::HeldByNode(node)),
            (FenceOutcome::Held, None) => Release::Unknown,
        },
    };
    fleet::release(tx, at, instance.id, how).await?;
    let instance = match instance.state {
        InstanceState::NeedsOperator | InstanceState::Provisioning | InstanceState::Failed => {
            instances::attempt_fenced(tx, at, instance, None, actor).await?
        }
        _ => instance,
    };
    if last {
        instances::give_up_place(tx, at, instance, how, actor).await?;
    }
    Ok(())
}

async fn is_revoked(tx: &mut AnyConnection, node: NodeId) -> Result<bool, DbError> {
    Ok(fleet::node(tx, node).await?.is_none_or(|node| node.state == fleet::NodeState::Revoked))
}
