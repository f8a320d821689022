//! Who is connected where, with which certificate, and who has gone silent.
//!
//! A connected node costs no writes: the process that holds the connection beats once in ten seconds for
//! all of its nodes, and a node counts as seen while its process beats. Only connecting and losing a
//! connection touch a node's own rows.
//!
//! At each greeting the agent's history is compared with ours: its journal, its highest event, its
//! highest order and the value of the last Welcome. An agent that remembers less than it had acknowledged,
//! or whose disk was copied, is quarantined: it may report, but gets no orders, because it could repeat
//! an action it no longer remembers.

mod greet;
mod store;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

use ez_protocol::{NodeId, UnixMillis};
use sqlx::AnyConnection;

use super::{
    alarms,
    model::{NodeChange, NodeState, Presence, START_GRACE_MS, Severity, presence},
    nodes,
};
use crate::db::DbError;

pub use greet::{Connection, Greeting, GreetingRefusal, greet};

/// Says that a process of the control plane lives and serves the link.
///
/// # Errors
/// Those of the database.
pub async fn beat(tx: &mut AnyConnection, at: UnixMillis, process: &str) -> Result<(), DbError> {
    store::beat(tx, at, process).await
}

/// Ends the sessions of processes that stopped beating; their nodes were last seen at the last beat. What was written
/// while our clock was ahead counts from now: else a node that is gone would look connected until that time has come.
///
/// # Errors
/// Those of the database.
pub async fn drop_stale(tx: &mut AnyConnection, at: UnixMillis) -> Result<(), DbError> {
    store::pull_back(tx, at, UnixMillis(at.0 + super::model::LATE_AFTER_MS)).await?;
    store::drop_stale(tx, UnixMillis(at.0 - super::model::OFFLINE_AFTER_MS)).await
}

/// Ends one connection's session; the session of a newer connection stays.
///
/// # Errors
/// Those of the database.
pub async fn end(
    tx: &mut AnyConnection,
    at: UnixMillis,
    node: NodeId,
    connection: &str,
) -> Result<(), DbError> {
    store::end(tx, at, node, connection).await
}

/// What a live connection may do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Orders may be sent.
    Served,
    /// Connected, but no orders: quarantined.
    Quarantined,
    /// Another connection of the same node took over.
    Replaced,
    /// The node or the certificate was revoked.
    Revoked,
}

/// Looks up whether a connection still holds its node's session and its certificate still counts. Asked
/// before each dispatch, so a revocation is seen by every process.
///
/// # Errors
/// Those of the database.
pub async fn standing(
    conn: &mut AnyConnection,
    at: UnixMillis,
    node: NodeId,
    connection: &str,
    serial: &str,
) -> Result<Standing, DbError> {
    let Some(found) = store::standing(conn, node, serial).await? else { return Ok(Standing::Revoked) };
    if !found.state.may_connect() || found.valid_until < at {
        return Ok(Standing::Revoked);
    }
    if found.connection.as_deref() != Some(connection) {
        return Ok(Standing::Replaced);
    }
    Ok(if found.state == NodeState::Quarantined { Standing::Quarantined } else { Standing::Served })
}

/// Whether a certificate lets its node in at all: the first question at a handshake.
///
/// # Errors
/// Those of the database.
pub async fn admitted(
    conn: &mut AnyConnection,
    at: UnixMillis,
    node: NodeId,
    serial: &str,
) -> Result<bool, DbError> {
    let found = store::standing(conn, node, serial).await?;
    Ok(found.is_some_and(|f| f.state.may_connect() && f.valid_until >= at))
}

/// Two agents with one identity are connected at once: the node is quarantined, and an alarm says what was seen.
///
/// # Errors
/// Those of the database.
pub async fn copied(
    tx: &mut AnyConnection,
    at: UnixMillis,
    node: NodeId,
    detail: &str,
) -> Result<(), DbError> {
    match nodes::change(tx, at, "system", node, NodeChange::Quarantine).await {
        Ok(_) => {}
        Err(nodes::NodeError::Db(error)) => return Err(error),
        // Revoked in the meantime: it gets nothing any more anyway.
        Err(_) => return Ok(()),
    }
    let name = nodes::by_id(tx, node).await?.map_or_else(|| node.to_string(), |row| row.name);
    let alarm = alarms::New {
        kind: "identity_copied",
        subject: &name,
        severity: Severity::Critical,
        node: Some(node),
        detail,
    };
    alarms::raise(tx, at, alarm).await
}

/// Writes down which version of the trust document a node's agent believes; gives the node's name.
///
/// # Errors
/// Those of the database.
pub async fn believes(tx: &mut AnyConnection, node: NodeId, version: u64) -> Result<String, DbError> {
    store::believes(tx, node, version).await
}

/// A node that went silent or came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silence {
    /// Its name.
    pub name: String,
    /// When it was last heard of.
    pub last_seen_at: UnixMillis,
}

/// Raises and clears the alarms of silent nodes; returns those that went offline just now.
///
/// For the first five minutes after a start of the control plane nobody is called offline: agents need
/// a while to come back.
///
/// # Errors
/// Those of the database.
pub async fn watch(tx: &mut AnyConnection, at: UnixMillis) -> Result<Vec<Silence>, DbError> {
    let settled = store::oldest_living_start(tx, UnixMillis(at.0 - super::model::LATE_AFTER_MS))
        .await?
        .is_some_and(|started| at.0 - started.0 >= START_GRACE_MS);
    let mut gone = Vec::new();
    let kind = "node_offline";
    // Nearly every node is well and rings no alarm: nothing is written for it.
    let ringing: HashSet<String> = alarms::open_subjects(tx, kind).await?.into_iter().collect();
    for node in store::heard(tx).await? {
        match presence(node.last_seen_at, at) {
            Presence::Online if !ringing.contains(&node.name) => {}
            _ if !node.state.may_connect() => alarms::clear(tx, at, kind, &node.name).await?,
            Presence::Online => alarms::clear(tx, at, kind, &node.name).await?,
            Presence::Offline if settled => {
                let detail = "No word from its agent for more than 90 seconds. Its servers keep running.";
                let last_seen_at = node.last_seen_at.unwrap_or(node.created_at);
                let alarm = alarms::New {
                    kind,
                    subject: &node.name,
                    severity: Severity::Critical,
                    node: Some(node.id),
                    detail,
                };
                if alarms::hold(tx, at, alarm).await? {
                    gone.push(Silence { name: node.name.clone(), last_seen_at });
                }
            }
            _ => {}
        }
    }
    Ok(gone)
}

/// The nodes connected to this process whose certificate or row no longer counts.
///
/// # Errors
/// Those of the database.
pub async fn fallen(conn: &mut AnyConnection, at: UnixMillis, process: &str) -> Result<Vec<NodeId>, DbError> {
    store::fallen(conn, at, process).await
}

/// The value of a node's last Welcome, which its agent has stored; none for a node that never connected.
///
/// # Errors
/// Those of the database.
pub async fn newest_ratchet(conn: &mut AnyConnection, node: NodeId) -> Result<Option<Vec<u8>>, DbError> {
    Ok(store::history(conn, node).await?.and_then(|history| history.ratchet))
}

/// The nodes that have a session with this process.
///
/// # Errors
/// Those of the database.
pub async fn held_by(conn: &mut AnyConnection, process: &str) -> Result<HashSet<NodeId>, DbError> {
    store::held_by(conn, process).await
}

/// Whether a node has a session with any process.
///
/// # Errors
/// Those of the database.
pub async fn is_held(conn: &mut AnyConnection, node: NodeId) -> Result<bool, DbError> {
    store::is_held(conn, node).await
}

/// The value a node must present next time.
#[cfg(test)]
pub(crate) async fn ratchet_for_tests(conn: &mut AnyConnection, node: NodeId) -> Vec<u8> {
    store::history(conn, node).await.unwrap().unwrap().ratchet.unwrap()
}
