//! Finding and fixing a place.

use ez_protocol::{InstanceId, NodeId, UnixMillis};
use sqlx::AnyConnection;

use super::{
    change,
    change::InstanceError,
    model::{Instance, InstanceEvent, InstanceState},
};
use crate::{
    db::{self, DbError},
    entropy::Entropy,
    fleet::{self, Placement, Release, ReserveError},
    placement::{self, FleetSnapshot, Need, NoPlace},
};

/// Why a server has no place.
#[derive(Debug, thiserror::Error)]
pub enum AssignError {
    /// No node can take it now. Nothing was changed.
    #[error("no place for the server")]
    NoPlace(#[from] NoPlace),
    /// Its state does not allow it.
    #[error("fixing the server's place")]
    Instance(#[from] InstanceError),
    /// The database.
    #[error("reading or writing places")]
    Db(#[from] DbError),
}

/// Takes a place for an instance on the best node that is not excluded; a node that was sold out in between is
/// passed over. `until` marks a reservation for a checkout.
///
/// # Errors
/// [`AssignError::NoPlace`]: nothing was taken.
pub async fn reserve(
    tx: &mut AnyConnection,
    at: UnixMillis,
    entropy: &dyn Entropy,
    instance: InstanceId,
    need: &Need,
    exclude: &[NodeId],
    until: Option<UnixMillis>,
) -> Result<Placement, AssignError> {
    // What is there to be had is looked at when it is ours to take.
    fleet::hold_places(tx).await?;
    let snapshot = fleet::snapshot(tx, at, Some(&need.location)).await?;
    reserve_in(tx, at, entropy, &snapshot, instance, need, exclude, until).await
}

#[expect(clippy::too_many_arguments, reason = "the same parameters as fleet::reserve and the snapshot")]
async fn reserve_in(
    tx: &mut AnyConnection,
    at: UnixMillis,
    entropy: &dyn Entropy,
    snapshot: &FleetSnapshot,
    instance: InstanceId,
    need: &Need,
    exclude: &[NodeId],
    until: Option<UnixMillis>,
) -> Result<Placement, AssignError> {
    let mut exclude = exclude.to_vec();
    let mut last = None;
    loop {
        let node = match placement::choose(snapshot, need, &exclude) {
            Ok(node) => node,
            // The nodes that refused were full: that is the answer, not "all tried".
            Err(NoPlace::AllTried) => return Err(last.unwrap_or(NoPlace::AllTried).into()),
            Err(other) => return Err(other.into()),
        };
        match fleet::reserve(tx, at, entropy, node, instance, need, until).await {
            Ok(place) => return Ok(place),
            Err(ReserveError::NoRoom) => last = Some(NoPlace::SoldOut),
            Err(ReserveError::NoAddress | ReserveError::NoVmid) => last = Some(NoPlace::NoAddress),
            Err(ReserveError::Already) => {
                return fleet::placement_of(tx, instance).await?.ok_or(AssignError::Db(DbError::NotFound));
            }
            Err(ReserveError::Db(error)) => return Err(error.into()),
        }
        exclude.push(node);
    }
}

/// Fixes a paid server's place: keeps the reserved one if its node can still be used, else moves.
///
/// # Errors
/// [`AssignError::NoPlace`]: nothing was changed, try again later.
pub async fn assign(
    tx: &mut AnyConnection,
    at: UnixMillis,
    entropy: &dyn Entropy,
    instance: Instance,
    actor: &str,
) -> Result<(Instance, Placement), AssignError> {
    let need = instance.need();
    fleet::hold_places(tx).await?;
    let snapshot = fleet::snapshot(tx, at, Some(&need.location)).await?;
    let reserved = fleet::placement_of(tx, instance.id).await?;
    let place = match reserved {
        // Something of it may stand there: it stays where it is, whatever room there is elsewhere (I1).
        Some(place) if instance.state == InstanceState::NeedsOperator => {
            let known = snapshot.nodes.iter().any(|node| node.id == place.node && node.known);
            if !known {
                return Err(NoPlace::NoneAccepting.into());
            }
            place
        }
        Some(place) => match better(&snapshot, &need, &instance, &place)? {
            None => place,
            Some(()) => move_away(tx, at, entropy, &snapshot, &instance, &need, place).await?,
        },
        None => {
            let exclude = &instance.tried_nodes;
            reserve_in(tx, at, entropy, &snapshot, instance.id, &need, exclude, None).await?
        }
    };
    fleet::confirm(tx, instance.id).await?;
    let instance = Instance { node: Some(place.node), assigned_at: Some(at), reason: None, ..instance };
    let instance = change::take(tx, at, instance, InstanceEvent::Assigned, actor).await?;
    Ok((instance, place))
}

/// Takes another place in exchange for the reserved one. Whether there really is one shows only when it is taken: what
/// was promised is given back only for what was got, and stays where it is if its node can still be used.
async fn move_away(
    tx: &mut AnyConnection,
    at: UnixMillis,
    entropy: &dyn Entropy,
    snapshot: &FleetSnapshot,
    instance: &Instance,
    need: &Need,
    place: Placement,
) -> Result<Placement, AssignError> {
    let usable = snapshot.nodes.iter().any(|node| node.id == place.node && node.known);
    let mut exclude = instance.tried_nodes.clone();
    exclude.push(place.node);
    db::begin_step(tx).await?;
    fleet::release(tx, at, instance.id, Release::NeverUsed).await?;
    match reserve_in(tx, at, entropy, snapshot, instance.id, need, &exclude, None).await {
        Ok(found) => {
            db::keep_step(tx).await?;
            Ok(found)
        }
        Err(AssignError::NoPlace(none)) => {
            db::undo_step(tx).await?;
            if usable { Ok(place) } else { Err(none.into()) }
        }
        Err(other) => Err(other),
    }
}

/// Whether the server has to move away from its reserved place (`Some`), may stay (`None`), or can do neither.
fn better(
    snapshot: &FleetSnapshot,
    need: &Need,
    instance: &Instance,
    place: &Placement,
) -> Result<Option<()>, NoPlace> {
    let node = snapshot.nodes.iter().find(|node| node.id == place.node);
    let usable = node.is_some_and(|node| node.known);
    let wanted = node.is_some_and(|node| node.accepts_new());
    if usable && wanted {
        return Ok(None);
    }
    let mut exclude = instance.tried_nodes.clone();
    exclude.push(place.node);
    match placement::choose(snapshot, need, &exclude) {
        Ok(_) => Ok(Some(())),
        // A cordoned or silent node keeps what it has promised when nobody else can.
        Err(_) if usable => Ok(None),
        Err(none) => Err(none),
    }
}
