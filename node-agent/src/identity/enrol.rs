//! `join`: from a token to an identity.
//!
//! 1. fetch the trust document and compare its hash with the pin in the token; the secret has not
//!    been sent yet, so a man in the middle learns nothing
//! 2. connect anew, now believing only the link CA of that document
//! 3. send the secret and a certificate request with a key made here. The key is kept until the join is done: should the
//!    answer be lost, the control plane gives it again to the same key, and takes another for a thief's
//! 4. check the reply: the certificate chains to the pinned agent CA, holds *our* key and names the
//!    node it says
//! 5. write the files beside those of an earlier identity, `joined-node.json` last: until it is there the host is who it
//!    was, and from then on the rest is renaming, which the next start finishes

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use ez_protocol::{
    NodeId, UnixMillis,
    trust::{EnrolReply, EnrolRequest, JoinToken, Pin, TrustDocument, TrustError, agent_uri},
};
use hyper::{Method, StatusCode};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, UnixTime, pem::PemObject},
    server::WebPkiClientVerifier,
};
use url::Url;

use super::{
    CertFacts, IdentityError, NodeFile, files,
    http::{self, Answer, HttpError},
    spki,
    tls::{self, TlsError},
};
use crate::config::Config;

/// Begin of the names of files that hold the key with which a token was used.
const KEY_OF_TOKEN: &str = "join-";

/// What is told about this host at enrolment.
#[derive(Debug, Clone)]
pub struct PveFacts {
    /// Version of Proxmox VE, or empty if it could not be asked.
    pub version: String,
    /// SHA-256 of the cluster's CA certificate, hexadecimal.
    pub cluster: String,
    /// The nodes that an earlier identity and the journal here name; none for a host that is new, or shall become
    /// another node.
    pub known_as: Vec<NodeId>,
}

/// What a successful join says.
#[derive(Debug, Clone)]
pub struct Joined {
    /// The node as it is now known.
    pub node: NodeFile,
    /// Where it will dial.
    pub link: Vec<String>,
    /// End of its certificate.
    pub not_after: UnixMillis,
}

/// Why a join did not work; each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The control plane could not be asked.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The server does not have the trust document the token pins.
    #[error(
        "the control plane at {0} does not have the trust document this token names: token and address are of different installations, or the token is from before a change of keys. Make a new token there"
    )]
    UnknownPin(Url),
    /// What came is not what the token pins.
    #[error(
        "the trust document from {0} is not the one the token names: somebody may be in between, nothing was sent. Check the address"
    )]
    WrongPin(Url),
    /// The pinned document cannot be used.
    #[error("the trust document: {0}")]
    Trust(#[from] TrustError),
    /// The control plane refused.
    #[error("the control plane refused ({status}): {reason}{}", advice(*status))]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its own words.
        reason: String,
    },
    /// The reply does not pass the checks.
    #[error("the control plane's reply is not acceptable: {0}. Nothing was stored")]
    BadReply(String),
    /// The host is another node than the token's.
    #[error(
        "this host is node {here} by its identity or its journal, and the token was for {wanted}; nothing was stored. Make \
         a token for the node that this host is, or, if it shall become {wanted}, join with --replace"
    )]
    OtherNode {
        /// What it is.
        here: NodeId,
        /// Whose token it was.
        wanted: String,
    },
    /// The key could not be made.
    #[error("a key could not be made: {0}")]
    Key(#[from] rcgen::Error),
    /// A file could not be written.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

fn advice(status: u16) -> &'static str {
    match status {
        401 | 403 | 404 | 410 => {
            ". Make a new token (`node add` or \"Add node\" in the portal) and use it within an hour"
        }
        409 => ". A token works once: make a new one. If nobody used this one, look at the audit log",
        429 => ". Wait a minute and try again",
        _ => "",
    }
}

/// Enrols this node.
///
/// # Errors
/// [`JoinError`] with what to do; a failed join leaves an earlier identity as it was.
pub async fn join(
    config: &Config,
    base: &Url,
    token: &JoinToken,
    host: &PveFacts,
    now: UnixMillis,
) -> Result<Joined, JoinError> {
    let (document, bytes) = fetch_trust(base, token.pin).await?;
    let link_ca: Vec<_> = document.link_ca_der()?.into_iter().map(CertificateDer::from).collect();
    let key = key_of(config, token)?;
    let csr_pem = super::renew::csr(&key)?;
    let request = EnrolRequest {
        token_id: token.id_text(),
        secret: token.secret_text(),
        csr_pem,
        fingerprint: super::fingerprint(&config.host_root),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        pve_node: config.pve_node.clone(),
        cluster: host.cluster.clone(),
        pve_version: host.version.clone(),
    };
    let body = serde_json::to_vec(&request).map_err(|error| JoinError::BadReply(error.to_string()))?;
    let answer =
        http::request(Arc::new(tls::pinned(&link_ca)?), base, Method::POST, &enrol_path(host), Some(body))
            .await?;
    if !answer.status.is_success() {
        return Err(refused(&answer));
    }
    let reply: EnrolReply =
        serde_json::from_slice(&answer.body).map_err(|error| JoinError::BadReply(error.to_string()))?;
    let not_after = check_reply(&document, &reply, &key, now)?;
    // A control plane of today refuses that before the token is used; an older one does not know the question.
    if let Some(here) = host.known_as.iter().find(|known| **known != reply.node) {
        return Err(JoinError::OtherNode { here: *here, wanted: reply.node_name });
    }
    let node = NodeFile {
        install: document.install,
        node: reply.node,
        name: reply.node_name.clone(),
        epoch: reply.epoch,
        joined_at: now,
    };
    store(config, &bytes, &key, &reply, &node)?;
    Ok(Joined { node, link: document.link, not_after })
}

/// The key with which this token is used: made once, and on the disk before anybody hears of it.
fn key_of(config: &Config, token: &JoinToken) -> Result<rcgen::KeyPair, JoinError> {
    let dir = config.identity_dir();
    files::private_dir(&dir).map_err(|source| IdentityError::file(&dir, source))?;
    let path = dir.join(format!("{KEY_OF_TOKEN}{}.pem", token.id_text()));
    let kept = std::fs::read_to_string(&path).ok().and_then(|pem| rcgen::KeyPair::from_pem(&pem).ok());
    if let Some(key) = kept {
        return Ok(key);
    }
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    files::write_whole(&path, key.serialize_pem().as_bytes(), 0o600)
        .map_err(|source| IdentityError::file(&path, source))?;
    Ok(key)
}

/// Forgets the keys of tokens: the one of this join has its place, and those of failed ones are of no use any more.
fn forget_keys(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(KEY_OF_TOKEN) {
            let _stays_private = std::fs::remove_file(entry.path());
        }
    }
}

/// Beside the strict body, so that control planes of every version take it.
fn enrol_path(host: &PveFacts) -> String {
    let known: Vec<String> = host.known_as.iter().map(ToString::to_string).collect();
    if known.is_empty() { "/enrol".to_owned() } else { format!("/enrol?known_as={}", known.join(",")) }
}

async fn fetch_trust(base: &Url, pin: Pin) -> Result<(TrustDocument, Vec<u8>), JoinError> {
    let tls = Arc::new(tls::unpinned()?);
    let answer = http::request(tls, base, Method::GET, &format!("/trust/{pin}"), None).await?;
    if answer.status == StatusCode::NOT_FOUND {
        return Err(JoinError::UnknownPin(base.clone()));
    }
    if !answer.status.is_success() {
        return Err(refused(&answer));
    }
    if Pin::of(&answer.body) != pin {
        return Err(JoinError::WrongPin(base.clone()));
    }
    Ok((TrustDocument::from_bytes(&answer.body)?, answer.body.to_vec()))
}

/// The words of a refusal: `detail` or `title` of a problem document, else the body's beginning.
fn refused(answer: &Answer) -> JoinError {
    let problem: Option<serde_json::Value> = serde_json::from_slice(&answer.body).ok();
    let word = |key: &str| problem.as_ref()?.get(key)?.as_str().map(str::to_owned);
    let plain = || String::from_utf8_lossy(&answer.body).chars().take(200).collect::<String>();
    let reason = word("detail").or_else(|| word("title")).unwrap_or_else(plain);
    JoinError::Refused { status: answer.status.as_u16(), reason }
}

/// Everything that must be true of the certificate before it is believed; answers its end.
fn check_reply(
    document: &TrustDocument,
    reply: &EnrolReply,
    key: &rcgen::KeyPair,
    now: UnixMillis,
) -> Result<UnixMillis, JoinError> {
    let uri = agent_uri(document.install, reply.node);
    check_certificate(document, &reply.certificate_pem, &spki(key), &uri, now).map_err(JoinError::BadReply)
}

/// Chains to the pinned agent CA, holds our key, names us and nobody else, is valid now.
pub(super) fn check_certificate(
    document: &TrustDocument,
    pem: &str,
    spki: &[u8],
    uri: &str,
    now: UnixMillis,
) -> Result<UnixMillis, String> {
    let leaf = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| format!("no certificate: {e}"))?;
    let mut roots = RootCertStore::empty();
    for ca in document.agent_ca_der().map_err(|error| error.to_string())? {
        roots.add(CertificateDer::from(ca)).map_err(|error| format!("agent CA: {error}"))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| error.to_string())?;
    let seconds = u64::try_from(now.as_secs()).unwrap_or(0);
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    verifier
        .verify_client_cert(&leaf, &[], at)
        .map_err(|error| format!("the certificate does not chain to the pinned authority: {error}"))?;
    let facts = CertFacts::of(&leaf)?;
    if facts.spki != spki {
        return Err("the certificate is for another key".to_owned());
    }
    if facts.uris != [uri] {
        return Err(format!("the certificate names {:?}, expected {uri}", facts.uris));
    }
    Ok(facts.not_after)
}

fn store(
    config: &Config,
    trust: &[u8],
    key: &rcgen::KeyPair,
    reply: &EnrolReply,
    node: &NodeFile,
) -> Result<(), JoinError> {
    // One that was cut short would otherwise be finished with the files of this one.
    finish(config)?;
    let json = serde_json::to_vec_pretty(node).map_err(|error| JoinError::BadReply(error.to_string()))?;
    let key = key.serialize_pem();
    let contents: [&[u8]; 4] = [trust, key.as_bytes(), reply.certificate_pem.as_bytes(), &json];
    for (path, bytes) in places(config).iter().map(|place| joined(place)).zip(contents) {
        files::write_whole(&path, bytes, 0o600).map_err(|source| IdentityError::file(&path, source))?;
    }
    finish(config)?;
    Ok(())
}

/// Where the files of an identity are; `node.json` is the last that is written and the last that is put in place.
fn places(config: &Config) -> [PathBuf; 4] {
    let dir = config.identity_dir();
    [config.trust_file(), dir.join("key.pem"), dir.join("cert.pem"), dir.join("node.json")]
}

/// Where a file waits until all of its join are there.
fn joined(place: &Path) -> PathBuf {
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    place.with_file_name(format!("joined-{name}"))
}

/// Puts the files of a join in their places once all are there; at the next start where it was cut short in the middle.
///
/// # Errors
/// If a file cannot be moved; it can be done again.
pub(super) fn finish(config: &Config) -> Result<(), IdentityError> {
    let places = places(config);
    let Some(last) = places.last().map(|place| joined(place)) else { return Ok(()) };
    if !last.try_exists().map_err(|source| IdentityError::file(&last, source))? {
        return Ok(());
    }
    // A pair that waits for its first use, and a key that was asked with, belong to the identity before this one.
    for stale in ["next-key.pem", "next-cert.pem", super::renew::ASKED] {
        let _ = std::fs::remove_file(config.identity_dir().join(stale));
    }
    for place in &places {
        match files::rename_durably(&joined(place), place) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(|source| IdentityError::file(place, source))?,
        }
    }
    forget_keys(&config.identity_dir());
    Ok(())
}
