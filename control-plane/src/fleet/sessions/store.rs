//! SQL of sessions.

use std::collections::HashSet;

use ez_protocol::{NodeId, UnixMillis};
use sqlx::AnyConnection;

use super::greet::Connection;
use crate::{
    db::{Cols, DbError, one_row},
    fleet::model::{NodePolicy, NodeState},
};

pub(super) async fn beat(tx: &mut AnyConnection, at: UnixMillis, process: &str) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO link_processes (id, started_at, beat_at) VALUES ($1, $2, $2)
         ON CONFLICT (id) DO UPDATE SET beat_at = excluded.beat_at",
    )
    .bind(process.to_owned())
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn oldest_living_start(
    conn: &mut AnyConnection,
    beaten_after: UnixMillis,
) -> Result<Option<UnixMillis>, DbError> {
    let row = sqlx::query(
        "SELECT CAST(min(started_at) AS BIGINT) AS started FROM link_processes WHERE beat_at > $1",
    )
    .bind(beaten_after.0)
    .fetch_one(conn)
    .await?;
    Cols::of("link_processes", &row).opt_millis("started")
}

/// Times later than `latest` become `at`.
pub(super) async fn pull_back(
    tx: &mut AnyConnection,
    at: UnixMillis,
    latest: UnixMillis,
) -> Result<(), DbError> {
    for statement in [
        "UPDATE link_processes SET beat_at = CASE WHEN beat_at > $1 THEN $1 ELSE beat_at END,
             started_at = CASE WHEN started_at > $1 THEN $1 ELSE started_at END
         WHERE beat_at > $2 OR started_at > $2",
        "UPDATE node_sessions SET connected_at = $1 WHERE connected_at > $2",
        "UPDATE nodes SET last_seen_at = $1 WHERE last_seen_at > $2",
    ] {
        sqlx::query(statement).bind(at.0).bind(latest.0).execute(&mut *tx).await?;
    }
    Ok(())
}

pub(super) async fn drop_stale(tx: &mut AnyConnection, beat_before: UnixMillis) -> Result<(), DbError> {
    sqlx::query(
        "UPDATE nodes SET last_seen_at = (SELECT p.beat_at FROM node_sessions s JOIN link_processes p ON p.id = s.process
             WHERE s.node_id = nodes.id)
         WHERE id IN (SELECT s.node_id FROM node_sessions s JOIN link_processes p ON p.id = s.process WHERE p.beat_at < $1)",
    )
    .bind(beat_before.0)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "DELETE FROM node_sessions WHERE process IN (SELECT id FROM link_processes WHERE beat_at < $1)",
    )
    .bind(beat_before.0)
    .execute(&mut *tx)
    .await?;
    sqlx::query("DELETE FROM link_processes WHERE beat_at < $1").bind(beat_before.0).execute(tx).await?;
    Ok(())
}

pub(super) async fn end(
    tx: &mut AnyConnection,
    at: UnixMillis,
    node: NodeId,
    connection: &str,
) -> Result<(), DbError> {
    let done = sqlx::query("DELETE FROM node_sessions WHERE node_id = $1 AND connection = $2")
        .bind(node.to_string())
        .bind(connection.to_owned())
        .execute(&mut *tx)
        .await?;
    if done.rows_affected() == 1 {
        sqlx::query("UPDATE nodes SET last_seen_at = $1 WHERE id = $2")
            .bind(at.0)
            .bind(node.to_string())
            .execute(tx)
            .await?;
    }
    Ok(())
}

/// A node as far as its silence is concerned.
pub(super) struct Heard {
    pub(super) id: NodeId,
    pub(super) name: String,
    pub(super) state: NodeState,
    pub(super) last_seen_at: Option<UnixMillis>,
    pub(super) created_at: UnixMillis,
}

/// Every node and when it was heard of last: while it is connected, when its process last beat.
pub(super) async fn heard(conn: &mut AnyConnection) -> Result<Vec<Heard>, DbError> {
    let rows = sqlx::query(
        "SELECT n.id, n.name, n.state, n.last_seen_at, n.created_at, s.connected_at, p.beat_at FROM nodes n
             LEFT JOIN node_sessions s ON s.node_id = n.id LEFT JOIN link_processes p ON p.id = s.process
         ORDER BY n.name",
    )
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("nodes", row);
            let (since, beat) = (row.opt_millis("connected_at")?, row.opt_millis("beat_at")?);
            // A session whose process never beat counts from its beginning.
            let live = since.map(|since| beat.map_or(since, |beat| beat.max(since)));
            Ok(Heard {
                id: row.id("id")?,
                name: row.text("name")?,
                state: row.get("state")?,
                last_seen_at: live.max(row.opt_millis("last_seen_at")?),
                created_at: row.millis("created_at")?,
            })
        })
        .collect()
}

/// What decides about a connection.
pub(super) struct Found {
    pub(super) state: NodeState,
    pub(super) valid_until: UnixMillis,
    pub(super) connection: Option<String>,
}

pub(super) async fn standing(
    conn: &mut AnyConnection,
    node: NodeId,
    serial: &str,
) -> Result<Option<Found>, DbError> {
    let row = sqlx::query(
        "SELECT n.id, n.state, c.valid_until, s.connection FROM nodes n
         JOIN node_certificates c ON c.node_id = n.id AND c.epoch = n.epoch AND c.serial = $2 AND c.state <> 'revoked'
         LEFT JOIN node_sessions s ON s.node_id = n.id
         WHERE n.id = $1",
    )
    .bind(node.to_string())
    .bind(serial.to_owned())
    .fetch_optional(conn)
    .await?;
    row.map(|row| {
        let row = Cols::of("nodes", &row);
        Ok(Found {
            state: row.get("state")?,
            valid_until: row.millis("valid_until")?,
            connection: row.get("connection")?,
        })
    })
    .transpose()
}

pub(super) async fn fallen(
    conn: &mut AnyConnection,
    at: UnixMillis,
    process: &str,
) -> Result<Vec<NodeId>, DbError> {
    let rows = sqlx::query(
        "SELECT s.node_id FROM node_sessions s JOIN nodes n ON n.id = s.node_id
             LEFT JOIN node_certificates c ON c.serial = s.serial
         WHERE s.process = $1 AND (n.state IN ('pending', 'revoked') OR c.serial IS NULL OR c.state = 'revoked'
             OR c.epoch <> n.epoch OR c.valid_until < $2)",
    )
    .bind(process.to_owned())
    .bind(at.0)
    .fetch_all(conn)
    .await?;
    rows.iter().map(|row| Cols::of("node_sessions", row).id("node_id")).collect()
}

pub(super) async fn held_by(conn: &mut AnyConnection, process: &str) -> Result<HashSet<NodeId>, DbError> {
    let rows = sqlx::query("SELECT node_id FROM node_sessions WHERE process = $1")
        .bind(process.to_owned())
        .fetch_all(conn)
        .await?;
    rows.iter().map(|row| Cols::of("node_sessions", row).id("node_id")).collect()
}

pub(super) async fn is_held(conn: &mut AnyConnection, node: NodeId) -> Result<bool, DbError> {
    let row = sqlx::query("SELECT node_id FROM node_sessions WHERE node_id = $1")
        .bind(node.to_string())
        .fetch_optional(conn)
        .await?;
    Ok(row.is_some())
}

/// What we remember of an agent's history.
pub(super) struct History {
    pub(super) epoch: u64,
    pub(super) name: String,
    pub(super) state: NodeState,
    pub(super) cluster: Option<String>,
    pub(super) journal: Option<String>,
    /// The one it had before its last enrolment.
    pub(super) previous_journal: Option<String>,
    /// What its machine was at its enrolment.
    pub(super) fingerprint: Option<String>,
    pub(super) acked_event_seq: u64,
    pub(super) ratchet: Option<Vec<u8>>,
    pub(super) ratchet_previous: Option<Vec<u8>>,
    pub(super) vmid_next: i64,
}

pub(super) async fn history(conn: &mut AnyConnection, node: NodeId) -> Result<Option<History>, DbError> {
    let row = sqlx::query(
        "SELECT id, epoch, name, state, cluster, journal_id, previous_journal_id, fingerprint, acked_event_seq, ratchet,
             ratchet_previous, vmid_next
         FROM nodes WHERE id = $1",
    )
    .bind(node.to_string())
    .fetch_optional(conn)
    .await?;
    row.map(|row| {
        let row = Cols::of("nodes", &row);
        Ok(History {
            epoch: row.num("epoch")?,
            name: row.text("name")?,
            state: row.get("state")?,
            cluster: row.get("cluster")?,
            journal: row.get("journal_id")?,
            previous_journal: row.get("previous_journal_id")?,
            fingerprint: row.get("fingerprint")?,
            acked_event_seq: row.num("acked_event_seq")?,
            ratchet: row.get("ratchet")?,
            ratchet_previous: row.get("ratchet_previous")?,
            vmid_next: row.int("vmid_next")?,
        })
    })
    .transpose()
}

/// A node's agent believes a version of the trust document; gives the node's name.
pub(super) async fn believes(tx: &mut AnyConnection, node: NodeId, version: u64) -> Result<String, DbError> {
    // The word of a connection of before may come late.
    let row = sqlx::query(
        "UPDATE nodes SET trust_version = CASE WHEN trust_version > $1 THEN trust_version ELSE $1 END WHERE id = $2
         RETURNING name",
    )
        .bind(i64::try_from(version).unwrap_or(i64::MAX))
        .bind(node.to_string())
        .fetch_optional(tx)
        .await?;
    Cols::of("nodes", &row.ok_or(DbError::NotFound)?).text("name")
}

/// What a greeting changes on a node.
pub(super) struct Greeted<'a> {
    pub(super) node: NodeId,
    pub(super) at: UnixMillis,
    pub(super) agent_version: &'a str,
    pub(super) pve_version: &'a str,
    pub(super) pve_node: &'a str,
    pub(super) cluster: &'a str,
    pub(super) journal: Option<String>,
    pub(super) policy: &'a NodePolicy,
    pub(super) vmids: (i64, i64),
    pub(super) vmid_next: i64,
    pub(super) ratchet: (Vec<u8>, Option<Vec<u8>>),
    pub(super) trust_version: u64,
}

pub(super) async fn store_greeting(tx: &mut AnyConnection, greeted: &Greeted<'_>) -> Result<(), DbError> {
    let done = sqlx::query(
        "UPDATE nodes SET agent_version = $1,
             pve_version = CASE WHEN $2 = '' THEN pve_version ELSE $2 END, pve_node = $3, cluster = $4, journal_id = $5,
             policy = $6, vmid_first = $7, vmid_last = $8, vmid_next = $9, ratchet = $10, ratchet_previous = $11,
             hello_at = $12, trust_version = $13
         WHERE id = $14",
    )
    .bind(greeted.agent_version.to_owned())
    .bind(greeted.pve_version.to_owned())
    .bind(greeted.pve_node.to_owned())
    .bind(greeted.cluster.to_owned())
    .bind(greeted.journal.clone())
    .bind(serde_json::to_string(greeted.policy).unwrap_or_default())
    .bind(greeted.vmids.0)
    .bind(greeted.vmids.1)
    .bind(greeted.vmid_next)
    .bind(greeted.ratchet.0.clone())
    .bind(greeted.ratchet.1.clone())
    .bind(greeted.at.0)
    .bind(i64::try_from(greeted.trust_version).unwrap_or(i64::MAX))
    .bind(greeted.node.to_string())
    .execute(tx)
    .await?;
    one_row(done)
}

/// Names of other nodes of the cluster whose VMID range touches this one.
pub(super) async fn overlapping(
    conn: &mut AnyConnection,
    node: NodeId,
    cluster: &str,
    vmids: (i64, i64),
) -> Result<Vec<String>, DbError> {
    let rows = sqlx::query(
        "SELECT name FROM nodes WHERE id <> $1 AND cluster = $2 AND vmid_first <= $3 AND vmid_last >= $4
         AND state <> 'revoked' ORDER BY name",
    )
    .bind(node.to_string())
    .bind(cluster.to_owned())
    .bind(vmids.1)
    .bind(vmids.0)
    .fetch_all(conn)
    .await?;
    rows.iter().map(|row| Cols::of("nodes", row).text("name")).collect()
}

/// Writes the session row; whoever held it before has lost it.
pub(super) async fn take_session(
    tx: &mut AnyConnection,
    at: UnixMillis,
    node: NodeId,
    connection: &Connection,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO node_sessions (node_id, process, connection, serial, remote, connected_at)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (node_id) DO UPDATE SET process = excluded.process, connection = excluded.connection,
             serial = excluded.serial, remote = excluded.remote, connected_at = excluded.connected_at",
    )
    .bind(node.to_string())
    .bind(connection.process.clone())
    .bind(connection.id.clone())
    .bind(connection.serial.clone())
    .bind(connection.remote.clone())
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(())
}

/// First use of the next certificate makes it the current one; the one before stays good for a day.
pub(super) async fn promote(
    tx: &mut AnyConnection,
    node: NodeId,
    serial: &str,
    old_until: UnixMillis,
) -> Result<(), DbError> {
    let done = sqlx::query(
        "UPDATE node_certificates SET state = 'current' WHERE node_id = $1 AND serial = $2 AND state = 'next'",
    )
    .bind(node.to_string())
    .bind(serial.to_owned())
    .execute(&mut *tx)
    .await?;
    if done.rows_affected() == 1 {
        sqlx::query(
            "UPDATE node_certificates SET state = 'superseded',
                 valid_until = CASE WHEN valid_until < $1 THEN valid_until ELSE $1 END
             WHERE node_id = $2 AND serial <> $3 AND state = 'current'",
        )
        .bind(old_until.0)
        .bind(node.to_string())
        .bind(serial.to_owned())
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "UPDATE nodes SET certificate_not_after = (SELECT not_after FROM node_certificates WHERE serial = $1)
             WHERE id = $2",
        )
        .bind(serial.to_owned())
        .bind(node.to_string())
        .execute(tx)
        .await?;
    }
    Ok(())
}
