//! An operator's ways out of an order that waits for a person.

use ez_protocol::{NodeId, OrderId, UnixMillis};
use sqlx::AnyConnection;

use super::{
    OrderError,
    advance::SILENT_AFTER,
    model::{Order, OrderEvent, OrderState, reason},
    store,
    transition::{Cause, take},
};
use crate::{
    app::Services,
    billing,
    db::DbError,
    dispatch,
    fleet::{self, NodeChange, Release, Severity, alarms, nodes::NodeError},
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
    /// The node was revoked while it was building, and its agent may not have heard of it.
    #[error(
        "the node was revoked while it was building and may not have heard of it; another node may build the server \
         from {0} (unix ms) on"
    )]
    RevokedLately(UnixMillis),
    /// A refund was begun, which ended the subscription: only a refund can follow.
    #[error("a refund was begun and the subscription has ended; refund it again")]
    RefundBegan,
    /// The node has reported that the server is there.
    #[error("the server is built")]
    Built,
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
/// [`ExitError::HeldByNode`], [`ExitError::NotFencedBefore`] and [`ExitError::RevokedLately`] when the node could
/// still build the server.
pub async fn re_place(
    app: &Services,
    id: OrderId,
    actor: &str,
    node_revoked: bool,
) -> Result<Order, ExitError> {
    run(app, id, actor, OrderEvent::OperatorRePlace, Fence::Needed { node_revoked }).await
}

/// Before another node may build a waiting order's server, those that may have it are put out of reach, unless it is
/// certain already that they cannot act: so the server never exists twice (I1). Says whether some are; that is for
/// [`re_place`].
///
/// What refuses the exit refuses this, under the same locks: no node is revoked for an order that then stays where it is.
///
/// # Errors
/// [`ExitError`]; nothing was changed.
pub async fn revoke_holders(app: &Services, id: OrderId, actor: &str) -> Result<bool, ExitError> {
    let at = app.clock.now();
    let holders = {
        let mut connection = app.db.read().await?;
        let order = store::get(&mut connection, id).await?.ok_or(ExitError::Unknown)?;
        let instance = instances::get(&mut connection, order.instance).await?.ok_or(ExitError::Unknown)?;
        let builds = dispatch::builds_at(&mut connection, at, instance.id, instance.node).await?;
        if builds.is_fenced() {
            return Ok(false);
        }
        builds.without_revoked(&mut connection).await?.nodes()
    };
    for node in holders {
        let actor = actor.to_owned();
        let revoked = app
            .db
            .write(move |tx| {
                Box::pin(async move {
                    fleet::nodes::hold(tx, node).await?;
                    let (_, instance) = may_take(tx, id, OrderEvent::OperatorRePlace).await?;
                    let builds = dispatch::builds_at(tx, at, instance.id, instance.node).await?;
                    if !builds.without_revoked(tx).await?.nodes().contains(&node) {
                        return Ok(false);
                    }
                    match fleet::nodes::change(tx, at, &actor, node, NodeChange::Revoke).await {
                        Ok(_) => Ok(true),
                        Err(NodeError::Db(error)) => Err(ExitError::Db(error)),
                        // It can be told nothing already.
                        Err(_) => Ok(false),
                    }
                })
            })
            .await?;
        if revoked {
            app.links.revoke(node);
        }
    }
    Ok(true)
}

/// Whether a refund of an order was begun, after which only a refund can follow.
///
/// # Errors
/// Those of the query.
pub async fn refund_began(connection: &mut AnyConnection, id: OrderId) -> Result<bool, DbError> {
    Ok(billing::refund_state(connection, id).await?.is_some())
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

/// An order and its server under their locks, if the order has this way out now.
async fn may_take(
    tx: &mut AnyConnection,
    id: OrderId,
    event: OrderEvent,
) -> Result<(Order, Instance), ExitError> {
    // Whether the payment counts may change with it, and that comes before everything else.
    billing::hold_order(tx, id).await?;
    let order = store::get_to_change(tx, id).await?.ok_or(ExitError::Unknown)?;
    order.state.take(event).map_err(OrderError::from)?;
    if event != OrderEvent::RefundStarted && refund_began(tx, id).await? {
        return Err(ExitError::RefundBegan);
    }
    let instance = instances::get_to_change(tx, order.instance).await?.ok_or(ExitError::Unknown)?;
    let leaves = matches!(event, OrderEvent::OperatorRePlace | OrderEvent::OperatorAbandon);
    if leaves && instance.state.is_live() {
        return Err(ExitError::Built);
    }
    Ok((order, instance))
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
                let (order, instance) = may_take(tx, id, event).await?;
                if event == OrderEvent::OperatorAbandon && order.reason.as_deref() == Some(reason::ABANDONED)
                {
                    return Ok(order);
                }
                if let Fence::Needed { node_revoked } = fence {
                    let last = event == OrderEvent::OperatorAbandon;
                    leave_node(tx, at, instance, node_revoked, last, &actor).await?;
                }
                if matches!(event, OrderEvent::OperatorRetry | OrderEvent::OperatorRePlace) {
                    billing::accept_payment(tx, at, id).await?;
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
    if let Some(provisioning) = instance.provisioning_order {
        dispatch::cancel_unaccepted(tx, at, provisioning).await?;
    }
    let builds = dispatch::builds_at(tx, at, instance.id, instance.node).await?;
    // On a node that was revoked nothing more can be done; what stands there is the operator's word.
    let left = if node_revoked { builds.clone().without_revoked(tx).await? } else { builds.clone() };
    if let Some(build) = left.held.first() {
        return Err(ExitError::HeldByNode(build.node));
    }
    if let Some(time) = left.not_before() {
        return Err(ExitError::NotFencedBefore(time));
    }
    if let Some(time) = may_start_until(tx, &builds).await?
        && at < time
    {
        return Err(ExitError::RevokedLately(time));
    }
    let how = match instance.provisioning_order {
        _ if !builds.is_fenced() => Release::Unknown,
        Some(_) => Release::Gone,
        None => Release::NeverUsed,
    };
    if how == Release::Unknown {
        may_still_run(tx, at, &instance).await?;
    }
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

/// Until when a revoked node may start what it was building, as one that has not heard of the revocation; `None`
/// if none was building, or it is not known when it was revoked.
async fn may_start_until(
    tx: &mut AnyConnection,
    builds: &dispatch::Builds,
) -> Result<Option<UnixMillis>, DbError> {
    let mut latest = None;
    // One that is stuck has ended there; one that was never accepted is not started without our knowing.
    let at_work = |state| matches!(state, dispatch::State::Accepted | dispatch::State::Running);
    for build in builds.held.iter().filter(|build| at_work(build.state)) {
        let node = fleet::node(tx, build.node).await?;
        let heard = node.and_then(|node| node.heard_until());
        latest = latest.max(heard.map(|heard| heard.plus(SILENT_AFTER)));
    }
    Ok(latest)
}

/// A revoked node hears nothing any more: whether its half-built server runs there, only a person can see.
async fn may_still_run(tx: &mut AnyConnection, at: UnixMillis, instance: &Instance) -> Result<(), DbError> {
    let Some(place) = fleet::placement_of(tx, instance.id).await? else { return Ok(()) };
    let detail = format!(
        "{} was given up on a revoked node that may still have it as VM {}. Make sure on that host that it is gone, \
         or that the host is off: until then there may be two.",
        instance.hostname, place.vmid
    );
    let alarm = alarms::New {
        kind: "may_run_twice",
        subject: &instance.hostname,
        severity: Severity::Critical,
        node: Some(place.node),
        detail: &detail,
    };
    alarms::raise(tx, at, alarm).await
}
