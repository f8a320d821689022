//! Fences: whether a node can still act on what it was told.

use ez_protocol::{InstanceId, NodeId, ProvisioningOrderId, UnixMillis};
use sqlx::AnyConnection;

use super::{
    model::{FenceOutcome, ProvisioningRecord, State},
    record, store,
};
use crate::{
    db::DbError,
    fleet::{self, NodeState},
};

/// What the orders to build one server may still bring about, over all nodes and attempts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Builds {
    /// Orders that a node holds, or has carried out; the newest first.
    pub held: Vec<ProvisioningRecord>,
    /// Orders that a node may have, and from when on it is certain that it does not.
    pub unsure: Vec<(ProvisioningRecord, UnixMillis)>,
}

impl Builds {
    /// Whether none of them can bring a server about any more.
    pub fn is_fenced(&self) -> bool {
        self.held.is_empty() && self.unsure.is_empty()
    }

    /// When the unsure ones are certain to come to nothing; none if there are none.
    pub fn not_before(&self) -> Option<UnixMillis> {
        self.unsure.iter().map(|(_, time)| *time).max()
    }

    /// The same without what was told to nodes that are revoked: they are told nothing any more, and what stands
    /// there is the word of the operator who revoked them.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn without_revoked(self, conn: &mut AnyConnection) -> Result<Self, DbError> {
        let mut kept = Self::default();
        for order in self.held {
            if reach(conn, &order).await? != Reach::Revoked {
                kept.held.push(order);
            }
        }
        for (order, time) in self.unsure {
            if reach(conn, &order).await? != Reach::Revoked {
                kept.unsure.push((order, time));
            }
        }
        Ok(kept)
    }

    /// The same without what an operator has settled: a server was moved away from another node only after that
    /// node was revoked and what stood there was known to be gone. It may have been enrolled again since.
    async fn since_moved_to(self, conn: &mut AnyConnection, node: Option<NodeId>) -> Result<Self, DbError> {
        let mut kept = Self::default();
        for order in self.held {
            if node == Some(order.node) || reach(conn, &order).await? == Reach::Same {
                kept.held.push(order);
            }
        }
        for (order, time) in self.unsure {
            if node == Some(order.node) || reach(conn, &order).await? == Reach::Same {
                kept.unsure.push((order, time));
            }
        }
        Ok(kept)
    }

    /// The nodes that may act, each once.
    pub fn nodes(&self) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = self
            .held
            .iter()
            .chain(self.unsure.iter().map(|(order, _)| order))
            .map(|order| order.node)
            .collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }
}

/// How a node stands to an order that it was told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Same,
    Revoked,
    EnrolledAgain,
}

async fn reach(conn: &mut AnyConnection, order: &ProvisioningRecord) -> Result<Reach, DbError> {
    Ok(match fleet::node(conn, order.node).await? {
        None => Reach::Revoked,
        Some(node) if node.state == NodeState::Revoked => Reach::Revoked,
        Some(node) if node.epoch > order.epoch => Reach::EnrolledAgain,
        Some(_) => Reach::Same,
    })
}

/// Takes back an order that the node has not accepted, and says whether another node may be tried.
///
/// One that never left is fenced at once. One that left is not sent again, but the node may have it: it
/// is fenced when its end and the clocks' tolerance are over, see [`FenceOutcome::NotBefore`].
///
/// # Errors
/// [`DbError::NotFound`] when there is no such order.
pub async fn cancel_unaccepted(
    tx: &mut AnyConnection,
    at: UnixMillis,
    id: ProvisioningOrderId,
) -> Result<FenceOutcome, DbError> {
    let order = store::to_change(tx, id).await?.ok_or(DbError::NotFound)?;
    if order.state.is_undelivered() {
        store::set_state(tx, at, id, order.state, State::Cancelled).await?;
        record::write_down(tx, at, "system", &order, State::Cancelled).await?;
        let order = store::by_id(tx, id).await?.ok_or(DbError::NotFound)?;
        return Ok(order.fence(at));
    }
    Ok(order.fence(at))
}

/// Judges every order to build a server that was ever issued and still matters now that its place is on this node.
/// One that ended well for the fence says nothing about an earlier one: a retry on a silent node leaves the first
/// order where it is, and the node may have built by it.
///
/// # Errors
/// Those of the database.
pub async fn builds_at(
    conn: &mut AnyConnection,
    at: UnixMillis,
    instance: InstanceId,
    node: Option<NodeId>,
) -> Result<Builds, DbError> {
    builds_of(conn, at, instance).await?.since_moved_to(conn, node).await
}

async fn builds_of(
    conn: &mut AnyConnection,
    at: UnixMillis,
    instance: InstanceId,
) -> Result<Builds, DbError> {
    let mut builds = Builds::default();
    for order in store::ensures_of(conn, at, instance).await? {
        match order.fence(at) {
            FenceOutcome::Fenced => {}
            FenceOutcome::NotBefore(time) => builds.unsure.push((order, time)),
            FenceOutcome::Held => builds.held.push(order),
        }
    }
    builds.held.sort_by_key(|order| std::cmp::Reverse(order.generation));
    Ok(builds)
}
