//! The outbox: signed bytes that a node has not accepted yet, and when they are to be sent again.

mod store;

use ez_protocol::{NodeId, ProvisioningOrderId, UnixMillis};
use sqlx::AnyConnection;

use super::{images, model::Delivery};
use crate::db::{self, DbError};

/// Waits between two deliveries of the same order: 2 s, doubling up to this.
const LONGEST_WAIT_MS: i64 = 15_000;

/// Un-accepted orders of a node that are due to be sent, oldest first.
///
/// # Errors
/// Those of the database.
pub async fn due(
    conn: &mut AnyConnection,
    at: UnixMillis,
    node: NodeId,
    limit: i64,
) -> Result<Vec<Delivery>, DbError> {
    let mut due = store::due(conn, at, node, limit).await?;
    // A server somebody waits for goes before a template.
    let room = limit.saturating_sub(i64::try_from(due.len()).unwrap_or(limit));
    if room > 0 {
        due.extend(images::due(conn, at, node, room).await?);
    }
    Ok(due)
}

/// The nodes that have un-accepted orders which are due.
///
/// # Errors
/// Those of the database.
pub async fn due_nodes(conn: &mut AnyConnection, at: UnixMillis) -> Result<Vec<NodeId>, DbError> {
    let mut nodes = store::due_nodes(conn, at).await?;
    for node in images::due_nodes(conn, at).await? {
        if !nodes.contains(&node) {
            nodes.push(node);
        }
    }
    Ok(nodes)
}

/// Notes that an order's bytes are about to leave; only after this may they.
///
/// # Errors
/// [`DbError::NotFound`] when it is no longer to be delivered.
pub async fn leaving(
    tx: &mut AnyConnection,
    at: UnixMillis,
    id: ProvisioningOrderId,
    attempts: u64,
) -> Result<(), DbError> {
    let wait = (2_000_i64 << attempts.min(3)).min(LONGEST_WAIT_MS);
    db::lock(tx, "provisioning_order", id).await?;
    let next = UnixMillis(at.0 + wait);
    if images::leaving(tx, at, id, next).await? {
        return Ok(());
    }
    store::leaving(tx, at, id, next).await
}

/// All un-accepted orders of a node are due now: it has just connected.
///
/// # Errors
/// Those of the database.
pub async fn due_again(tx: &mut AnyConnection, at: UnixMillis, node: NodeId) -> Result<(), DbError> {
    images::due_again(tx, at, node).await?;
    store::due_again(tx, at, node).await
}

/// The highest sequence that a node said to have accepted in an epoch; 0 if none.
///
/// # Errors
/// Those of the database.
pub async fn accepted_seq(conn: &mut AnyConnection, node: NodeId, epoch: u64) -> Result<u64, DbError> {
    store::accepted_seq(conn, node, epoch).await
}
