//! Who this node is: its key, made here and never leaving, its certificate and the trust document.
//!
//! | file in the state directory | holds |
//! |---|---|
//! | `identity/key.pem`, `identity/cert.pem` | the pair in use, 0600 |
//! | `identity/next-key.pem`, `identity/next-cert.pem` | the next pair until its first use (make before break) |
//! | `identity/asked-key.pem` | the key whose certificate has been asked for, until it is stored |
//! | `identity/node.json` | installation, node, name, epoch |
//! | `identity/join-<token id>.pem` | the key with which a token was used, until its join is done |
//! | `joined-trust.json`, `identity/joined-…` | the files of a join until all are there |
//! | `trust.json` | the trust document, exact bytes |
//!
//! [`join`] makes them; [`renew`] replaces the pair at half of its life.

mod enrol;
pub mod files;
mod fingerprint;
mod http;
pub mod renew;
#[cfg(test)]
mod tests;
pub mod tls;

use std::{io, path::Path};

use ez_protocol::{
    InstallId, NodeId, UnixMillis,
    trust::{TrustDocument, TrustError},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::config::Config;

pub use enrol::{JoinError, Joined, PveFacts, join};
pub use fingerprint::fingerprint;

/// What `join` learned about this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeFile {
    /// The installation.
    pub install: InstallId,
    /// This node.
    pub node: NodeId,
    /// Its name in the portal.
    pub name: String,
    /// Its epoch: counts enrolments.
    pub epoch: u64,
    /// When it was enrolled.
    pub joined_at: UnixMillis,
}

/// A key and its certificate.
#[derive(Debug)]
pub struct Pair {
    /// The certificate and whatever chain came with it.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key.
    pub key: PrivateKeyDer<'static>,
    /// Begin of the certificate.
    pub not_before: UnixMillis,
    /// End of the certificate.
    pub not_after: UnixMillis,
}

impl Pair {
    /// A second handle on the same pair.
    pub fn duplicate(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
            not_before: self.not_before,
            not_after: self.not_after,
        }
    }
}

/// Everything needed to speak for this node.
#[derive(Debug)]
pub struct Identity {
    /// What `join` learned.
    pub node: NodeFile,
    /// The pair in use.
    pub pair: Pair,
    /// Whom it believes.
    pub trust: TrustDocument,
}

/// Why there is no usable identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// `join` was never run here.
    #[error(
        "this node has not joined yet: run `ez-node-agent join https://<control plane>:7443` with a join token"
    )]
    NotJoined,
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} is damaged ({reason}): join again with a new token")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The trust document cannot be used.
    #[error("the trust document: {0}")]
    Trust(#[from] TrustError),
}

impl IdentityError {
    fn file(path: &Path, source: io::Error) -> Self {
        Self::File { path: path.display().to_string(), source }
    }

    fn damaged(path: &Path, reason: impl ToString) -> Self {
        Self::Damaged { path: path.display().to_string(), reason: reason.to_string() }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    std::fs::read(path).map_err(|source| IdentityError::file(path, source))
}

/// Loads everything, finishing a join or a change of pair that was cut short.
///
/// # Errors
/// If the node has not joined, or a file is damaged.
pub fn load(config: &Config) -> Result<Identity, IdentityError> {
    enrol::finish(config)?;
    if config.identity_dir().join("node.json").exists() {
        renew::finish_promotion(&config.identity_dir())?;
    }
    look(config)
}

/// As [`load`], and changes nothing: for commands beside a running agent.
///
/// # Errors
/// As [`load`].
pub fn look(config: &Config) -> Result<Identity, IdentityError> {
    let dir = config.identity_dir();
    let node_path = dir.join("node.json");
    // What may not be looked at is not absent.
    if !node_path.try_exists().map_err(|source| IdentityError::file(&node_path, source))? {
        return Err(IdentityError::NotJoined);
    }
    let node: NodeFile = serde_json::from_slice(&read(&node_path)?)
        .map_err(|error| IdentityError::damaged(&node_path, error))?;
    let trust = TrustDocument::from_bytes(&read(&config.trust_file())?)?;
    let pair = load_pair(&dir.join("key.pem"), &dir.join("cert.pem"))?;
    Ok(Identity { node, pair, trust })
}

/// Loads a pair and checks that key and certificate go together.
fn load_pair(key_path: &Path, cert_path: &Path) -> Result<Pair, IdentityError> {
    let key_pem = read(key_path)?;
    let cert_pem = read(cert_path)?;
    let key = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|e| IdentityError::damaged(key_path, e))?;
    let chain = CertificateDer::pem_slice_iter(&cert_pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| IdentityError::damaged(cert_path, e))?;
    let Some(leaf) = chain.first() else {
        return Err(IdentityError::damaged(cert_path, "no certificate in it"));
    };
    let facts = CertFacts::of(leaf).map_err(|reason| IdentityError::damaged(cert_path, reason))?;
    let own = std::str::from_utf8(&key_pem)
        .ok()
        .and_then(|pem| rcgen::KeyPair::from_pem(pem).ok())
        .map(|pair| spki(&pair))
        .ok_or_else(|| IdentityError::damaged(key_path, "not a key this agent made"))?;
    if own != facts.spki {
        return Err(IdentityError::damaged(cert_path, "the certificate belongs to another key"));
    }
    Ok(Pair { chain, key, not_before: facts.not_before, not_after: facts.not_after })
}

/// Public key of a pair as it stands in a certificate.
fn spki(pair: &rcgen::KeyPair) -> Vec<u8> {
    use rcgen::PublicKeyData as _;
    pair.subject_public_key_info()
}

/// The parts of a certificate this agent looks at.
struct CertFacts {
    spki: Vec<u8>,
    uris: Vec<String>,
    not_before: UnixMillis,
    not_after: UnixMillis,
}

impl CertFacts {
    fn of(der: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, cert) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        let names = cert.subject_alternative_name().map_err(|error| error.to_string())?;
        let uris = names
            .map(|san| san.value.general_names.as_slice())
            .unwrap_or_default()
            .iter()
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some((*uri).to_owned()),
                _ => None,
            })
            .collect();
        Ok(Self {
            spki: cert.public_key().raw.to_vec(),
            uris,
            not_before: UnixMillis::from_secs(cert.validity().not_before.timestamp()),
            not_after: UnixMillis::from_secs(cert.validity().not_after.timestamp()),
        })
    }
}
