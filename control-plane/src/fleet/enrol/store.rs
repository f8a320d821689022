//! SQL of enrolment.

use ez_protocol::{
    NodeId, UnixMillis,
    trust::{EnrolReply, EnrolRequest},
};
use sqlx::AnyConnection;

use crate::{
    db::{Cols, DbError, one_row},
    keys::{Issued, pem_certificate},
};

/// A stored join token.
pub(super) struct Token {
    pub(super) id: String,
    pub(super) node: NodeId,
    pub(super) secret_hash: Vec<u8>,
    pub(super) expires_at: UnixMillis,
    pub(super) used_at: Option<UnixMillis>,
    pub(super) failures: u64,
    pub(super) key_hash: Option<String>,
    pub(super) serial: Option<String>,
    /// Whether it may move its node to another machine.
    pub(super) replaces: bool,
}

pub(super) async fn token(conn: &mut AnyConnection, id: &str) -> Result<Option<Token>, DbError> {
    let row = sqlx::query(
        "SELECT id, node_id, secret_hash, expires_at, used_at, failures, key_hash, serial, replaces FROM join_tokens WHERE id = $1",
    )
    .bind(id.to_owned())
    .fetch_optional(conn)
    .await?;
    row.map(|row| {
        let row = Cols::of("join_tokens", &row);
        Ok(Token {
            id: row.text("id")?,
            node: row.id("node_id")?,
            secret_hash: row.bytes("secret_hash")?,
            expires_at: row.millis("expires_at")?,
            used_at: row.opt_millis("used_at")?,
            failures: row.num("failures")?,
            key_hash: row.get("key_hash")?,
            serial: row.get("serial")?,
            replaces: row.flag("replaces")?,
        })
    })
    .transpose()
}

pub(super) async fn insert_token(
    tx: &mut AnyConnection,
    at: UnixMillis,
    expires_at: UnixMillis,
    id: &str,
    node: NodeId,
    hash: &[u8; 32],
    (actor, replaces): (&str, bool),
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO join_tokens (id, node_id, secret_hash, created_at, created_by, expires_at, failures, replaces)
         VALUES ($1, $2, $3, $4, $5, $6, 0, $7)",
    )
    .bind(id.to_owned())
    .bind(node.to_string())
    .bind(hash.to_vec())
    .bind(at.0)
    .bind(actor.to_owned())
    .bind(expires_at.0)
    .bind(i64::from(replaces))
    .execute(tx)
    .await?;
    Ok(())
}

/// Unused tokens of a node end now.
pub(super) async fn void_tokens(tx: &mut AnyConnection, at: UnixMillis, node: NodeId) -> Result<(), DbError> {
    sqlx::query(
        "UPDATE join_tokens SET expires_at = $1 WHERE node_id = $2 AND used_at IS NULL AND expires_at > $1",
    )
    .bind(at.0)
    .bind(node.to_string())
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn count_failure(tx: &mut AnyConnection, id: &str) -> Result<(), DbError> {
    sqlx::query("UPDATE join_tokens SET failures = failures + 1 WHERE id = $1")
        .bind(id.to_owned())
        .execute(tx)
        .await?;
    Ok(())
}

pub(super) async fn burn(
    tx: &mut AnyConnection,
    at: UnixMillis,
    id: &str,
    key_hash: &str,
) -> Result<bool, DbError> {
    let done = sqlx::query(
        "UPDATE join_tokens SET used_at = $1, key_hash = $2 WHERE id = $3 AND used_at IS NULL AND expires_at > $1",
    )
    .bind(at.0)
    .bind(key_hash.to_owned())
    .bind(id.to_owned())
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

pub(super) async fn note_serial(tx: &mut AnyConnection, id: &str, serial: &str) -> Result<(), DbError> {
    let done = sqlx::query("UPDATE join_tokens SET serial = $1 WHERE id = $2")
        .bind(serial.to_owned())
        .bind(id.to_owned())
        .execute(tx)
        .await?;
    one_row(done)
}

pub(super) async fn owner_of_key(
    conn: &mut AnyConnection,
    key_hash: &str,
) -> Result<Option<NodeId>, DbError> {
    let row = sqlx::query("SELECT serial, node_id FROM node_certificates WHERE key_hash = $1")
        .bind(key_hash.to_owned())
        .fetch_optional(conn)
        .await?;
    row.map(|row| Cols::of("node_certificates", &row).id("node_id")).transpose()
}

/// The machine that a node was enrolled on: its fingerprint and its name in Proxmox.
pub(super) async fn machine_of(conn: &mut AnyConnection, node: NodeId) -> Result<(String, String), DbError> {
    let row = sqlx::query(
        "SELECT COALESCE(fingerprint, '') AS fingerprint, COALESCE(pve_node, '') AS pve_node FROM nodes WHERE id = $1",
    )
    .bind(node.to_string())
    .fetch_one(conn)
    .await?;
    let row = Cols::of("nodes", &row);
    Ok((row.text("fingerprint")?, row.text("pve_node")?))
}

/// A new epoch: what is known of the agent's history no longer counts.
pub(super) async fn start_epoch(
    tx: &mut AnyConnection,
    node: NodeId,
    request: &EnrolRequest,
) -> Result<(String, u64), DbError> {
    let cut = |text: &str| text.chars().filter(|c| !c.is_control()).take(100).collect::<String>();
    let row = sqlx::query(
        "UPDATE nodes SET epoch = epoch + 1, fingerprint = $1, cluster = $2, pve_node = $3, pve_version = $4,
             agent_version = $5, previous_journal_id = COALESCE(journal_id, previous_journal_id),
             journal_id = NULL, acked_event_seq = 0, ratchet = NULL, ratchet_previous = NULL,
             report_epoch = NULL, report_seq = 0
         WHERE id = $6 RETURNING id, name, epoch",
    )
    .bind(cut(&request.fingerprint))
    .bind(cut(&request.cluster))
    .bind(cut(&request.pve_node))
    .bind(cut(&request.pve_version))
    .bind(cut(&request.agent_version))
    .bind(node.to_string())
    .fetch_one(tx)
    .await?;
    let row = Cols::of("nodes", &row);
    Ok((row.text("name")?, row.num("epoch")?))
}

pub(super) async fn insert_certificate(
    tx: &mut AnyConnection,
    at: UnixMillis,
    node: NodeId,
    epoch: u64,
    key_hash: &str,
    state: &'static str,
    issued: &Issued,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO node_certificates (serial, node_id, epoch, key_hash, state, der, not_before, not_after, valid_until,
             issued_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8, $9)",
    )
    .bind(issued.serial.clone())
    .bind(node.to_string())
    .bind(i64::try_from(epoch).unwrap_or(i64::MAX))
    .bind(key_hash.to_owned())
    .bind(state)
    .bind(issued.der.clone())
    .bind(issued.not_before.0)
    .bind(issued.not_after.0)
    .bind(at.0)
    .execute(&mut *tx)
    .await?;
    if state == "current" {
        sqlx::query("UPDATE nodes SET certificate_not_after = $1 WHERE id = $2")
            .bind(issued.not_after.0)
            .bind(node.to_string())
            .execute(tx)
            .await?;
    }
    Ok(())
}

pub(super) async fn reply_again(
    conn: &mut AnyConnection,
    token: &Token,
) -> Result<Option<EnrolReply>, DbError> {
    let row = sqlx::query(
        "SELECT c.serial, c.der, c.epoch, n.name FROM node_certificates c JOIN nodes n ON n.id = c.node_id
         WHERE c.serial = $1 AND c.state <> 'revoked' AND c.epoch = n.epoch",
    )
    .bind(token.serial.clone().unwrap_or_default())
    .fetch_optional(conn)
    .await?;
    row.map(|row| {
        let row = Cols::of("node_certificates", &row);
        Ok(EnrolReply {
            certificate_pem: pem_certificate(&row.bytes("der")?),
            node: token.node,
            node_name: row.text("name")?,
            epoch: row.num("epoch")?,
        })
    })
    .transpose()
}

/// A certificate issued for this key but not used yet: its reply was lost.
pub(super) async fn pending_for_key(
    conn: &mut AnyConnection,
    node: NodeId,
    key_hash: &str,
) -> Result<Option<Vec<u8>>, DbError> {
    let row = sqlx::query(
        "SELECT serial, der FROM node_certificates WHERE node_id = $1 AND key_hash = $2 AND state = 'next'",
    )
    .bind(node.to_string())
    .bind(key_hash.to_owned())
    .fetch_optional(conn)
    .await?;
    row.map(|row| Cols::of("node_certificates", &row).bytes("der")).transpose()
}

/// How many certificates a node was given since then.
pub(super) async fn issued_since(
    conn: &mut AnyConnection,
    node: NodeId,
    since: UnixMillis,
) -> Result<u64, DbError> {
    let row =
        sqlx::query("SELECT count(*) AS issued FROM node_certificates WHERE node_id = $1 AND issued_at > $2")
            .bind(node.to_string())
            .bind(since.0)
            .fetch_one(conn)
            .await?;
    Cols::of("node_certificates", &row).num("issued")
}

/// The one that a node has, or is to use next, is kept however old it is: its key is its.
pub(super) async fn sweep(tx: &mut AnyConnection, before: UnixMillis) -> Result<(), DbError> {
    sqlx::query("DELETE FROM node_certificates WHERE state IN ('superseded', 'revoked') AND not_after < $1")
        .bind(before.0)
        .execute(tx)
        .await?;
    Ok(())
}

/// At most one certificate waits for its first use.
pub(super) async fn void_next(tx: &mut AnyConnection, node: NodeId) -> Result<(), DbError> {
    sqlx::query("UPDATE node_certificates SET state = 'revoked' WHERE node_id = $1 AND state = 'next'")
        .bind(node.to_string())
        .execute(tx)
        .await?;
    Ok(())
}
