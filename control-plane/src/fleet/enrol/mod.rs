//! Enrolment: join tokens, and the certificates that nodes get for them.
//!
//! A token is for one node, once, for at most an hour; only the hash of its secret is stored. Using it
//! burns it *first*; then the node's epoch goes up, all its earlier certificates are void, and it gets one
//! for the key that it made itself. A reply that was lost may be asked for again with the same key within
//! ten minutes; anything else with a used token is refused and rings an alarm.

mod store;
#[cfg(test)]
mod tests;

use std::time::Duration;

use ez_protocol::{
    NodeId, UnixMillis,
    trust::{EnrolReply, EnrolRequest, JoinToken},
};
use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject as _};
use serde_json::json;
use sqlx::AnyConnection;
use subtle::ConstantTimeEq as _;

use super::{
    alarms,
    model::{NodeChange, Severity},
    nodes,
};
use crate::{
    app::App,
    db::DbError,
    entropy::{Entropy, EntropyExt as _},
    keys::{Issued, Keys, RequestedKey, pem_certificate},
};

/// The longest life of a join token.
pub const TOKEN_LIFE: Duration = Duration::from_secs(3_600);
/// So long a lost reply may be asked for again.
const REPEAT_MS: i64 = 600_000;
/// So many wrong secrets burn a token.
const MOST_FAILURES: u64 = 5;

/// Why a node is not enrolled or its certificate not renewed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnrolRefusal {
    /// No such token, or the secret is not its own.
    #[error("this join token is not valid")]
    Unknown,
    /// Its hour is over.
    #[error("this join token has expired; make a new one in the portal")]
    Expired,
    /// It was used before.
    #[error("this join token was used already; make a new one in the portal")]
    Reused,
    /// The signing request is not acceptable.
    #[error("the signing request is not acceptable: {0}")]
    BadRequest(String),
    /// The key belongs to a certificate that was issued before: a copied disk.
    #[error("this key was used before; make a new one on the node")]
    KeyKnown,
    /// The host belongs to another node.
    #[error(
        "this host belongs to node {here}, and the token is for {wanted}; nothing was changed and the token is still good. \
         Use a token of {here}, or, if this host shall become {wanted}, `ez-node-agent join --replace`"
    )]
    OtherNode {
        /// What the host says it is.
        here: String,
        /// Whose token it is.
        wanted: String,
    },
    /// The node lives on another machine.
    #[error(
        "the token is for {wanted}, which lives on {there}, and this is {here}; nothing was changed and the token is still \
         good. If {wanted} has moved to this machine, make its token with `ez-control-plane node token {wanted} --replace`"
    )]
    OtherMachine {
        /// Whose token it is.
        wanted: String,
        /// Name in Proxmox of the machine it was enrolled on.
        there: String,
        /// Name in Proxmox of this one.
        here: String,
    },
    /// The node's state does not allow it.
    #[error("this node cannot be enrolled as it is")]
    NotAllowed,
    /// It was given too many certificates lately.
    #[error("this node has been given enough certificates for a day; it is renewed again tomorrow")]
    TooMany,
}

/// Most certificates that a node is given in a day, that of an enrolment among them. A good agent asks once a week; one that
/// was taken over must not fill the database with them.
const MOST_A_DAY: u64 = 5;
/// A day.
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Makes a join token for a node; earlier unused ones of the node are void. The token is shown once. One that
/// `replaces` may move the node to another machine.
///
/// # Errors
/// [`nodes::NodeError::Unknown`] when there is no such node.
pub async fn mint(
    tx: &mut AnyConnection,
    at: UnixMillis,
    entropy: &dyn Entropy,
    keys: &Keys,
    actor: &str,
    node: NodeId,
    replaces: bool,
) -> Result<JoinToken, nodes::NodeError> {
    if nodes::by_id(tx, node).await?.is_none() {
        return Err(nodes::NodeError::Unknown(node.to_string()));
    }
    let token = JoinToken { id: entropy.bytes(), secret: entropy.bytes(), pin: keys.pin() };
    store::void_tokens(tx, at, node).await?;
    let hash = JoinToken::hash_secret(&token.secret);
    store::insert_token(tx, at, at.plus(TOKEN_LIFE), &token.id_text(), node, &hash, (actor, replaces))
        .await?;
    let detail = json!({ "token": token.id_text(), "expires_at": at.plus(TOKEN_LIFE), "replaces": replaces });
    nodes::record(tx, at, actor, "node.join_token_made", node, detail).await?;
    Ok(token)
}

/// The key of a PEM signing request.
///
/// # Errors
/// [`EnrolRefusal::BadRequest`] with what is wrong with it.
pub fn requested_key(csr_pem: &str) -> Result<RequestedKey, EnrolRefusal> {
    let der = CertificateSigningRequestDer::from_pem_slice(csr_pem.as_bytes())
        .map_err(|e| EnrolRefusal::BadRequest(e.to_string()))?;
    RequestedKey::from_csr(&der).map_err(|e| EnrolRefusal::BadRequest(e.to_string()))
}

/// Enrols a node. A refusal is a result, not an error, so that what it wrote (the burnt token, the counted
/// failure, the alarm) stays. `known_as` is what the host's identity and journal say it is.
///
/// # Errors
/// Those of the database.
pub async fn enrol(
    tx: &mut AnyConnection,
    at: UnixMillis,
    entropy: &dyn Entropy,
    keys: &Keys,
    request: &EnrolRequest,
    key: &RequestedKey,
    known_as: &[NodeId],
) -> Result<Result<EnrolReply, EnrolRefusal>, DbError> {
    let Some(token) = store::token(tx, &request.token_id).await? else {
        return Ok(Err(EnrolRefusal::Unknown));
    };
    let given = JoinToken::parse_secret(&request.secret).map(|secret| JoinToken::hash_secret(&secret));
    let right = given.is_ok_and(|hash| bool::from(hash[..].ct_eq(&token.secret_hash)));
    if !right || token.failures >= MOST_FAILURES {
        store::count_failure(tx, &token.id).await?;
        return Ok(Err(EnrolRefusal::Unknown));
    }
    let key_hash = data_encoding::HEXLOWER.encode(&key.fingerprint());
    if let Some(used_at) = token.used_at {
        return used_again(tx, at, used_at, &token, &key_hash).await;
    }
    if token.expires_at <= at {
        return Ok(Err(EnrolRefusal::Expired));
    }
    if let Some(owner) = store::owner_of_key(tx, &key_hash).await? {
        raise(tx, at, "key_known", owner, "A join was tried with a key that belongs to this node.").await?;
        return Ok(Err(EnrolRefusal::KeyKnown));
    }
    if let Some(refusal) = elsewhere(tx, request, &token, known_as).await? {
        return Ok(Err(refusal));
    }
    if !store::burn(tx, at, &token.id, &key_hash).await? {
        return Ok(Err(EnrolRefusal::Reused));
    }
    match nodes::change(tx, at, "system", token.node, NodeChange::Enrol).await {
        Ok(_) => {}
        Err(nodes::NodeError::Db(error)) => return Err(error),
        Err(_) => return Ok(Err(EnrolRefusal::NotAllowed)),
    }
    nodes::revoke_certificates(tx, token.node).await?;
    let (name, epoch) = store::start_epoch(tx, token.node, request).await?;
    let issued = match issue(keys, token.node, &name, key, at, entropy) {
        Ok(issued) => issued,
        Err(refusal) => return Ok(Err(refusal)),
    };
    store::insert_certificate(tx, at, token.node, epoch, &key_hash, "current", &issued).await?;
    store::note_serial(tx, &token.id, &issued.serial).await?;
    for kind in ["node_quarantined", "identity_copied", "node_offline", "machine_changed", "trust_behind"] {
        alarms::clear(tx, at, kind, &name).await?;
    }
    let detail = json!({ "token": token.id, "epoch": epoch, "serial": issued.serial });
    nodes::record(tx, at, &format!("node:{}", token.node), "node.certificate_issued", token.node, detail)
        .await?;
    let certificate_pem = pem_certificate(&issued.der);
    Ok(Ok(EnrolReply { certificate_pem, node: token.node, node_name: name, epoch }))
}

/// Whether host and token do not belong together. An enrolment ends what was there before: with the token of another
/// node it would lock that one out and take its place.
async fn elsewhere(
    tx: &mut AnyConnection,
    request: &EnrolRequest,
    token: &store::Token,
    known_as: &[NodeId],
) -> Result<Option<EnrolRefusal>, DbError> {
    if let Some(other) = known_as.iter().find(|known| **known != token.node) {
        let (here, wanted) = (name_of(tx, *other).await?, name_of(tx, token.node).await?);
        return Ok(Some(EnrolRefusal::OtherNode { here, wanted }));
    }
    let (fingerprint, there) = store::machine_of(tx, token.node).await?;
    // A system that was installed anew keeps its name in Proxmox; new network cards keep it as well.
    let known =
        ![&fingerprint, &there, &request.fingerprint, &request.pve_node].iter().any(|text| text.is_empty());
    if token.replaces || !known || fingerprint == request.fingerprint || there == request.pve_node {
        return Ok(None);
    }
    let here = request.pve_node.chars().filter(|c| !c.is_control()).take(100).collect();
    Ok(Some(EnrolRefusal::OtherMachine { wanted: name_of(tx, token.node).await?, there, here }))
}

/// A node as people know it.
async fn name_of(tx: &mut AnyConnection, id: NodeId) -> Result<String, DbError> {
    Ok(nodes::by_id(tx, id).await?.map_or_else(|| id.to_string(), |row| row.name))
}

/// A used token: the same key soon after gets the same answer, all else is an attack or a mistake.
async fn used_again(
    tx: &mut AnyConnection,
    at: UnixMillis,
    used_at: UnixMillis,
    token: &store::Token,
    key_hash: &str,
) -> Result<Result<EnrolReply, EnrolRefusal>, DbError> {
    if token.key_hash.as_deref() == Some(key_hash)
        && at.0 - used_at.0 <= REPEAT_MS
        && let Some(reply) = store::reply_again(tx, token).await?
    {
        return Ok(Ok(reply));
    }
    let detail = json!({ "token": token.id });
    nodes::record(tx, at, "system", "join_token.reused", token.node, detail).await?;
    let what = "A join token that was used already was presented again. If it was not you, somebody has it.";
    raise(tx, at, "token_reused", token.node, what).await?;
    Ok(Err(EnrolRefusal::Reused))
}

/// Renews a node's certificate with a new key; the present one stays good until the next is used.
///
/// # Errors
/// The database's error, or inside it the refusal.
pub async fn renew(
    app: &App,
    node: NodeId,
    serial: &str,
    csr_pem: &str,
) -> Result<Result<String, EnrolRefusal>, DbError> {
    let key = match requested_key(csr_pem) {
        Ok(key) => key,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let (at, entropy, keys) = (app.clock.now(), app.entropy.clone(), app.keys.clone());
    let serial = serial.to_owned();
    app.db
        .write(move |tx| {
            Box::pin(async move {
                if !super::sessions::admitted(tx, at, node, &serial).await? {
                    return Ok(Err(EnrolRefusal::NotAllowed));
                }
                let Some(row) = nodes::by_id(tx, node).await? else {
                    return Ok(Err(EnrolRefusal::NotAllowed));
                };
                let key_hash = data_encoding::HEXLOWER.encode(&key.fingerprint());
                if let Some(der) = store::pending_for_key(tx, node, &key_hash).await? {
                    return Ok(Ok(pem_certificate(&der)));
                }
                if store::owner_of_key(tx, &key_hash).await?.is_some() {
                    return Ok(Err(EnrolRefusal::KeyKnown));
                }
                if store::issued_since(tx, node, at.minus(DAY)).await? >= MOST_A_DAY {
                    return Ok(Err(EnrolRefusal::TooMany));
                }
                let issued = match issue(&keys, node, &row.name, &key, at, entropy.as_ref()) {
                    Ok(issued) => issued,
                    Err(refusal) => return Ok(Err(refusal)),
                };
                store::void_next(tx, node).await?;
                store::insert_certificate(tx, at, node, row.epoch, &key_hash, "next", &issued).await?;
                let detail = json!({ "serial": issued.serial, "not_after": issued.not_after });
                nodes::record(tx, at, &format!("node:{node}"), "node.certificate_renewed", node, detail)
                    .await?;
                Ok::<_, DbError>(Ok(pem_certificate(&issued.der)))
            })
        })
        .await
}

/// Forgets certificates that are of no use to anybody and were over before this.
///
/// # Errors
/// Those of the database.
pub async fn sweep(tx: &mut AnyConnection, before: UnixMillis) -> Result<(), DbError> {
    store::sweep(tx, before).await
}

fn issue(
    keys: &Keys,
    node: NodeId,
    name: &str,
    key: &RequestedKey,
    at: UnixMillis,
    entropy: &dyn Entropy,
) -> Result<Issued, EnrolRefusal> {
    keys.agent_authority()
        .issue_agent(keys.install(), node, name, key, at, entropy.bytes())
        .map_err(|e| EnrolRefusal::BadRequest(e.to_string()))
}

async fn raise(
    tx: &mut AnyConnection,
    at: UnixMillis,
    kind: &'static str,
    node: NodeId,
    detail: &str,
) -> Result<(), DbError> {
    let subject = nodes::by_id(tx, node).await?.map_or_else(|| node.to_string(), |n| n.name);
    let alarm =
        alarms::New { kind, subject: &subject, severity: Severity::Critical, node: Some(node), detail };
    alarms::raise(tx, at, alarm).await
}
