//! The installation's keys: what this control plane signs with and what its agents believe.
//!
//! `ez-control-plane keys init` writes them into one directory (0700, files 0600), outside the
//! database, so that neither a copy of the database nor the web tier holds a key. The trust document
//! is made from them once; its exact bytes are kept and addressed by their hash, which every join
//! token carries. `serve` refuses to start without them.
//!
//! | file | holds |
//! |---|---|
//! | `trust.json` | the trust document, byte for byte as agents see it |
//! | `agent-ca.{key,crt}.pem` | the authority that signs nodes |
//! | `link-ca.{key,crt}.pem` | the authority that signs link servers |
//! | `link.{key,crt}.pem` | this link server's own certificate, made anew when it has a week left |
//! | `link-reset.key` | lets a restarted link tell agents that the process before it is gone; made when missing |
//! | `order.key` | Ed25519, signs provisioning orders |
//! | `trust.key` | Ed25519, signs later trust documents |

mod authority;
mod files;
mod link;
mod rotate;
#[cfg(test)]
mod tests;
mod tls;

use std::{io, sync::Arc};

use ed25519_dalek::SigningKey;
use ez_protocol::{
    InstallId,
    trust::{Pin, TrustDocument, TrustError},
};

pub(crate) use authority::pem_certificate;
pub use authority::{AGENT_LIFE, Authority, Issued, RequestedKey, certificate_ends};
pub use files::{InitOptions, init, load};
pub use rotate::{Held, OVERLAP, Place, Published, Step, TrustUpdate, held, prepare, switch};

/// Why keys cannot be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A file of a key is there already; nothing was changed.
    #[error(
        "{0} is there already; nothing was changed. If files are missing beside it, restore them from your backup: \
         nodes trust these keys. Only if no node has ever joined, remove the directory and run this again"
    )]
    Exists(String),
    /// There are no keys: `keys init` has not run, or the directory is another one.
    #[error("no keys in {0}: run `ez-control-plane keys init` first")]
    Missing(String),
    /// A file could not be written or read.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// Others than the owner may read a private key.
    #[error("{path} may be read by others (mode {mode:o}); it must be 0600")]
    Exposed {
        /// Which file.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// A file is there but not what it should be.
    #[error("{what} cannot be read: {reason}")]
    Unreadable {
        /// What was being read.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// A certificate could not be made.
    #[error("a certificate cannot be made: {0}")]
    Issue(rcgen::Error),
    /// A node's signing request is not acceptable.
    #[error("the signing request is not acceptable: {0}")]
    BadRequest(String),
    /// No new key was prepared.
    #[error("no new key waits, so nothing was changed: run `ez-control-plane keys prepare` first")]
    NotPrepared,
    /// Keys and certificates do not fit each other.
    #[error("the link's TLS settings are not usable: {0}")]
    Tls(rustls::Error),
    /// The trust document is not usable.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// All keys of an installation, ready for use.
pub struct Keys {
    install: InstallId,
    order: SigningKey,
    trust: SigningKey,
    agent_ca: Authority,
    document: Vec<u8>,
    earlier: Vec<rotate::Earlier>,
    published: Published,
    pin: Pin,
    link: Arc<link::LinkIssuer>,
    link_reset: [u8; 32],
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("install", &self.install).field("pin", &self.pin).finish_non_exhaustive()
    }
}

impl Keys {
    /// Throw-away keys for tests.
    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        let entropy = crate::entropy::SeededEntropy::new(99);
        let dir = tempfile::tempdir().unwrap();
        let at = ez_protocol::UnixMillis(1_790_000_000_000);
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        init(dir.path(), &InitOptions { names: names.clone(), port: 7443 }, at, &entropy).unwrap();
        load(dir.path(), &names, &entropy).unwrap()
    }

    /// The installation they belong to.
    pub fn install(&self) -> InstallId {
        self.install
    }

    /// The key that signs provisioning orders.
    pub(crate) fn order_key(&self) -> &SigningKey {
        &self.order
    }

    /// The key that signs later trust documents.
    pub fn trust_key(&self) -> &SigningKey {
        &self.trust
    }

    /// The authority that signs nodes.
    pub fn agent_authority(&self) -> &Authority {
        &self.agent_ca
    }

    /// What the link derives its reset tokens from. It protects nothing but connections from being ended.
    pub fn link_reset(&self) -> &[u8; 32] {
        &self.link_reset
    }

    /// The exact bytes of the trust document.
    pub fn trust_document(&self) -> &[u8] {
        &self.document
    }

    /// Version number of the trust document.
    pub fn trust_version(&self) -> u64 {
        self.published.version
    }

    /// What agents are brought up to date with.
    pub fn published(&self) -> &Published {
        &self.published
    }

    /// The exact bytes of the trust document with this hash: the present one, or one of before.
    pub fn trust_document_of(&self, pin: Pin) -> Option<&[u8]> {
        let earlier =
            || self.earlier.iter().find(|(known, _)| *known == pin).map(|(_, bytes)| bytes.as_slice());
        if pin == self.pin { Some(&self.document) } else { earlier() }
    }

    /// The hash that join tokens carry.
    pub fn pin(&self) -> Pin {
        self.pin
    }

    /// The parsed trust document.
    ///
    /// # Errors
    /// [`KeysError::Trust`] cannot happen for keys that loaded.
    pub fn trust(&self) -> Result<TrustDocument, KeysError> {
        Ok(TrustDocument::from_bytes(&self.document)?)
    }
}
