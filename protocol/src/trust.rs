//! The trust document and the join token that pins it.
//!
//! One document per installation says whom agents believe: two certificate authorities and the keys
//! that verify provisioning orders. Its exact bytes are stored and addressed by their hash; the join
//! token carries that hash, so there is no trust on first use.

use std::{fmt, str::FromStr};

use data_encoding::{BASE64, HEXLOWER};
use ed25519_dalek::VerifyingKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    InstallId, UnixMillis,
    envelope::{KeyId, KeyRole, TrustedKey},
};

/// Longest trust document in bytes.
pub const MAX_TRUST_DOCUMENT: usize = 64 * 1024;

/// Whom the agents of one installation believe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustDocument {
    /// Counts up by one with each change.
    pub version: u64,
    /// The installation.
    pub install: InstallId,
    /// Authorities that sign agents' certificates: DER in base64.
    pub agent_ca: Vec<String>,
    /// Authorities that sign link servers' certificates: DER in base64.
    pub link_ca: Vec<String>,
    /// Keys that sign provisioning orders and trust documents.
    pub keys: Vec<TrustDocumentKey>,
    /// Where agents dial: `host:port`.
    pub link: Vec<String>,
    /// Lowest protocol version an agent may speak.
    pub min_proto: u32,
}

/// One verification key in the document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustDocumentKey {
    /// Key id, lower-case hexadecimal.
    pub id: String,
    /// What it may sign.
    pub role: KeyRole,
    /// The 32 key bytes, lower-case hexadecimal.
    pub public: String,
    /// Valid from.
    pub not_before: UnixMillis,
    /// Valid until.
    pub not_after: UnixMillis,
}

/// Why a trust document cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// Over 64 KiB.
    #[error("the trust document is larger than 64 KiB")]
    TooLarge,
    /// Not the JSON it should be.
    #[error("the trust document cannot be read: {0}")]
    Unreadable(String),
    /// A key is not a key, or its id is not its own.
    #[error("key {0} in the trust document is not valid")]
    BadKey(String),
    /// A certificate is not base64.
    #[error("a certificate in the trust document is not base64")]
    BadCertificate,
    /// Something that must be there is not.
    #[error("the trust document has no {0}")]
    Missing(&'static str),
}

impl TrustDocumentKey {
    /// Describes a key for the document.
    pub fn new(key: &VerifyingKey, role: KeyRole, not_before: UnixMillis, not_after: UnixMillis) -> Self {
        Self {
            id: KeyId::of(key).to_hex(),
            role,
            public: HEXLOWER.encode(key.as_bytes()),
            not_before,
            not_after,
        }
    }

    fn trusted(&self) -> Result<TrustedKey, TrustError> {
        let bad = || TrustError::BadKey(self.id.chars().take(64).collect());
        let bytes = HEXLOWER.decode(self.public.as_bytes()).map_err(|_| bad())?;
        let bytes: [u8; 32] = bytes.try_into().map_err(|_| bad())?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| bad())?;
        if KeyId::of(&key).to_hex() != self.id || key.is_weak() {
            return Err(bad());
        }
        Ok(TrustedKey { key, role: self.role, not_before: self.not_before, not_after: self.not_after })
    }
}

impl TrustDocument {
    /// The exact bytes to store and publish. Called once per version.
    ///
    /// # Errors
    /// What [`TrustDocument::from_bytes`] would refuse.
    pub fn to_bytes(&self) -> Result<Vec<u8>, TrustError> {
        let bytes = serde_json::to_vec_pretty(self).map_err(|e| TrustError::Unreadable(e.to_string()))?;
        Self::from_bytes(&bytes)?;
        Ok(bytes)
    }

    /// Reads a document whose bytes were compared with a pin or came in a verified envelope.
    ///
    /// # Errors
    /// Anything unknown, missing or malformed.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TrustError> {
        if bytes.len() > MAX_TRUST_DOCUMENT {
            return Err(TrustError::TooLarge);
        }
        let document: Self =
            serde_json::from_slice(bytes).map_err(|e| TrustError::Unreadable(e.to_string()))?;
        document.trusted_keys()?;
        document.agent_ca_der()?;
        document.link_ca_der()?;
        if document.link.is_empty() {
            return Err(TrustError::Missing("link address"));
        }
        Ok(document)
    }

    /// The verification keys.
    ///
    /// # Errors
    /// A key that is not valid, or no order key at all.
    pub fn trusted_keys(&self) -> Result<Vec<TrustedKey>, TrustError> {
        let keys = self.keys.iter().map(TrustDocumentKey::trusted).collect::<Result<Vec<_>, _>>()?;
        if !keys.iter().any(|k| k.role == KeyRole::Order) {
            return Err(TrustError::Missing("order key"));
        }
        Ok(keys)
    }

    /// DER of the authorities that sign agents.
    ///
    /// # Errors
    /// Broken base64, or none.
    pub fn agent_ca_der(&self) -> Result<Vec<Vec<u8>>, TrustError> {
        decode_all(&self.agent_ca, "agent CA")
    }

    /// DER of the authorities that sign link servers.
    ///
    /// # Errors
    /// Broken base64, or none.
    pub fn link_ca_der(&self) -> Result<Vec<Vec<u8>>, TrustError> {
        decode_all(&self.link_ca, "link CA")
    }
}

fn decode_all(items: &[String], what: &'static str) -> Result<Vec<Vec<u8>>, TrustError> {
    if items.is_empty() {
        return Err(TrustError::Missing(what));
    }
    items.iter().map(|i| BASE64.decode(i.as_bytes()).map_err(|_| TrustError::BadCertificate)).collect()
}

/// SHA-256 of the exact bytes of a trust document.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pin(pub [u8; 32]);

impl Pin {
    /// The pin of these bytes.
    pub fn of(document: &[u8]) -> Self {
        Self(Sha256::digest(document).into())
    }
}

/// RFC 4648 base32 in lower case, without padding: double-clickable, no mixed case.
fn base32() -> data_encoding::Encoding {
    let mut spec = data_encoding::Specification::new();
    spec.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    // The alphabet above is a constant with 32 distinct symbols, for which this cannot fail.
    spec.encoding().unwrap_or(data_encoding::BASE32_NOPAD)
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32().encode(&self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({self})")
    }
}

impl FromStr for Pin {
    type Err = JoinTokenError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = base32().decode(text.as_bytes()).map_err(|_| JoinTokenError)?;
        Ok(Self(bytes.try_into().map_err(|_| JoinTokenError)?))
    }
}

/// A join token `ezj1.<id>.<secret>.<pin>`: what an operator carries from the portal to a host.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// 80 random bits that name the token; may be logged.
    pub id: [u8; 10],
    /// 256 random bits; only their hash is stored.
    pub secret: [u8; 32],
    /// Which trust document the host must be shown.
    pub pin: Pin,
}

/// Text that is no join token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a join token; it has the form ezj1.<id>.<secret>.<pin>")]
pub struct JoinTokenError;

impl JoinToken {
    /// The token's name, for logs and lists.
    pub fn id_text(&self) -> String {
        base32().encode(&self.id)
    }

    /// The secret as it is sent at enrolment.
    pub fn secret_text(&self) -> String {
        base32().encode(&self.secret)
    }

    /// What is stored of a secret: the SHA-256 of its bytes.
    pub fn hash_secret(secret: &[u8; 32]) -> [u8; 32] {
        Sha256::digest(secret).into()
    }

    /// Reads a secret as [`JoinToken::secret_text`] writes it.
    ///
    /// # Errors
    /// Anything but 32 bytes in lower-case base32.
    pub fn parse_secret(text: &str) -> Result<[u8; 32], JoinTokenError> {
        let bytes = base32().decode(text.as_bytes()).map_err(|_| JoinTokenError)?;
        bytes.try_into().map_err(|_| JoinTokenError)
    }

    /// The whole line. Shown once.
    pub fn to_line(&self) -> String {
        format!("ezj1.{}.{}.{}", self.id_text(), self.secret_text(), self.pin)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({})", self.id_text())
    }
}

impl FromStr for JoinToken {
    type Err = JoinTokenError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.trim().split('.').collect();
        let ["ezj1", id, secret, pin] = parts[..] else {
            return Err(JoinTokenError);
        };
        let id = base32().decode(id.as_bytes()).map_err(|_| JoinTokenError)?;
        Ok(Self {
            id: id.try_into().map_err(|_| JoinTokenError)?,
            secret: Self::parse_secret(secret)?,
            pin: pin.parse()?,
        })
    }
}

/// What a host sends to `POST /enrol`. JSON, strict.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolRequest {
    /// The token's name.
    pub token_id: String,
    /// The token's secret.
    pub secret: String,
    /// Certificate request, PEM. Only its public key is used.
    pub csr_pem: String,
    /// SHA-256 over machine id, hardware UUID and permanent MACs, hexadecimal.
    pub fingerprint: String,
    /// Version of the agent.
    pub agent_version: String,
    /// Name of the Proxmox node.
    pub pve_node: String,
    /// SHA-256 of the cluster's root certificate, hexadecimal.
    pub cluster: String,
    /// Version of Proxmox VE.
    pub pve_version: String,
}

/// What the control plane answers. JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnrolReply {
    /// The node's certificate, PEM.
    pub certificate_pem: String,
    /// The node.
    pub node: crate::NodeId,
    /// Its name in the portal.
    pub node_name: String,
    /// Its new epoch.
    pub epoch: u64,
}

/// The identity in a certificate: `spiffe://<install>/agent/<node>`.
pub fn agent_uri(install: InstallId, node: crate::NodeId) -> String {
    format!("spiffe://{install}/agent/{node}")
}

/// Reads an identity written by [`agent_uri`]; anything else is nobody.
pub fn parse_agent_uri(uri: &str) -> Option<(InstallId, crate::NodeId)> {
    let (install, node) = uri.strip_prefix("spiffe://")?.split_once("/agent/")?;
    Some((install.parse().ok()?, node.parse().ok()?))
}

#[cfg(test)]
mod tests;
