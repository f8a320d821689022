//! DSSE envelopes: exact bytes, their type, and Ed25519 signatures over both.
//!
//! The signature covers the pre-authentication encoding `DSSEv1 <len> <type> <len> <body>`. The key
//! id inside an envelope is a hint that nobody trusts. The bytes verified are the bytes handed out:
//! a parser never sees anything else.

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};

use crate::{UnixMillis, order::MAX_PAYLOAD};

/// Label hashed with a public key to make its id, so that the same bytes under another algorithm
/// have another id.
const KEY_LABEL: &[u8] = b"ez-ed25519-v1";
/// Most signatures one envelope carries.
const MAX_SIGNATURES: usize = 4;
/// Longest encoded envelope in bytes: the payload and room for types and signatures.
pub const MAX_ENVELOPE: usize = MAX_PAYLOAD + 2 * 1024;

/// What the payload is, and so who may sign it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PayloadType {
    /// A provisioning order.
    Order,
    /// The next version of the trust document.
    Trust,
    /// An image order.
    Image,
    /// Leave to open one console.
    ConsoleGrant,
}

impl PayloadType {
    /// The media type that is signed.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Order => "application/vnd.ez.order.v1+json",
            Self::Trust => "application/vnd.ez.trust.v1+json",
            Self::Image => "application/vnd.ez.image.v1+json",
            Self::ConsoleGrant => "application/vnd.ez.console-grant.v1+json",
        }
    }

    /// The role a key needs to sign this.
    pub const fn role(self) -> KeyRole {
        match self {
            // Whoever may have servers built from a digest may have that digest made ready: a host
            // bounds both by its policy file, images by their source as well.
            // A console changes less than the orders that this role may give anyway.
            Self::Order | Self::Image | Self::ConsoleGrant => KeyRole::Order,
            Self::Trust => KeyRole::Trust,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Order, Self::Trust, Self::Image, Self::ConsoleGrant].into_iter().find(|t| t.as_str() == text)
    }
}

/// What a key may sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyRole {
    /// Provisioning orders.
    Order,
    /// Trust documents.
    Trust,
}

/// The id of a verification key: SHA-256 over a label and the 32 key bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId(pub [u8; 32]);

impl KeyId {
    /// The id of this key.
    pub fn of(key: &VerifyingKey) -> Self {
        Self(Sha256::new_with_prefix(KEY_LABEL).chain_update(key.as_bytes()).finalize().into())
    }

    /// Lower-case hexadecimal form.
    pub fn to_hex(self) -> String {
        data_encoding::HEXLOWER.encode(&self.0)
    }
}

impl std::fmt::Debug for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyId({})", self.to_hex())
    }
}

/// A verification key, what it may sign and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrustedKey {
    /// The key.
    pub key: VerifyingKey,
    /// What it may sign.
    pub role: KeyRole,
    /// Valid from.
    pub not_before: UnixMillis,
    /// Valid until.
    pub not_after: UnixMillis,
}

/// Signed bytes on their way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    payload_type: String,
    payload: Vec<u8>,
    signatures: Vec<(KeyId, [u8; 64])>,
}

/// Bytes whose signature a trusted key of the right role made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The exact signed bytes.
    pub payload: Vec<u8>,
    /// The key that signed.
    pub key: KeyId,
}

/// Why an envelope is not good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The bytes are no envelope of version 1.
    #[error("not an envelope: {0}")]
    Malformed(&'static str),
    /// The type is not the one expected here.
    #[error("the envelope holds {0:?}")]
    WrongType(String),
    /// No trusted, valid key made any of the signatures.
    #[error("no trusted key signed this")]
    BadSignature,
    /// A trusted key signed, but may not sign this type.
    #[error("the signing key has another role")]
    WrongRole,
}

/// The bytes a signature covers.
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}

impl Envelope {
    /// Signs exact bytes.
    pub fn sign(key: &SigningKey, payload_type: PayloadType, payload: Vec<u8>) -> Self {
        let signature = key.sign(&pae(payload_type.as_str(), &payload)).to_bytes();
        let key_id = KeyId::of(&key.verifying_key());
        Self {
            payload_type: payload_type.as_str().to_owned(),
            payload,
            signatures: vec![(key_id, signature)],
        }
    }

    /// The signatures with the key ids they claim.
    pub fn signatures(&self) -> &[(KeyId, [u8; 64])] {
        &self.signatures
    }

    /// The type it says to have; true only once [`Envelope::verify`] has said so for that type.
    pub fn claimed_type(&self) -> Option<PayloadType> {
        PayloadType::parse(&self.payload_type)
    }

    /// Checks the signatures and hands out the signed bytes.
    ///
    /// # Errors
    /// [`EnvelopeError::WrongType`], [`EnvelopeError::WrongRole`] or [`EnvelopeError::BadSignature`].
    pub fn verify(
        &self,
        expected: PayloadType,
        trusted: &[TrustedKey],
        now: UnixMillis,
    ) -> Result<Verified, EnvelopeError> {
        let covered = pae(&self.payload_type, &self.payload);
        let mut another_role = false;
        for (_hint, signature) in &self.signatures {
            let signature = Signature::from_bytes(signature);
            for candidate in trusted {
                let in_time = candidate.not_before <= now && now <= candidate.not_after;
                if !in_time || candidate.key.verify_strict(&covered, &signature).is_err() {
                    continue;
                }
                let Some(actual) = PayloadType::parse(&self.payload_type) else {
                    return Err(EnvelopeError::WrongType(self.payload_type.clone()));
                };
                if candidate.role != actual.role() {
                    another_role = true;
                    continue;
                }
                if actual != expected {
                    return Err(EnvelopeError::WrongType(self.payload_type.clone()));
                }
                return Ok(Verified { payload: self.payload.clone(), key: KeyId::of(&candidate.key) });
            }
        }
        Err(if another_role { EnvelopeError::WrongRole } else { EnvelopeError::BadSignature })
    }

    /// The envelope as it travels and is stored.
    pub fn encode(&self) -> Vec<u8> {
        use prost::Message as _;
        let signatures = self.signatures.iter();
        WireEnvelope {
            version: 1,
            payload_type: self.payload_type.clone(),
            payload: self.payload.clone(),
            signatures: signatures
                .map(|(id, s)| WireSignature { key_id: id.0.to_vec(), signature: s.to_vec() })
                .collect(),
        }
        .encode_to_vec()
    }

    /// Reads an envelope; nothing inside it is trusted yet.
    ///
    /// # Errors
    /// [`EnvelopeError::Malformed`] with what is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        use prost::Message as _;
        if bytes.len() > MAX_ENVELOPE {
            return Err(EnvelopeError::Malformed("too large"));
        }
        let wire = WireEnvelope::decode(bytes).map_err(|_| EnvelopeError::Malformed("not readable"))?;
        if wire.version != 1 {
            return Err(EnvelopeError::Malformed("unknown version"));
        }
        if wire.payload.len() > MAX_PAYLOAD {
            return Err(EnvelopeError::Malformed("payload too large"));
        }
        if wire.signatures.is_empty() || wire.signatures.len() > MAX_SIGNATURES {
            return Err(EnvelopeError::Malformed("one to four signatures are needed"));
        }
        let mut signatures = Vec::with_capacity(wire.signatures.len());
        for item in wire.signatures {
            let key_id = item.key_id.try_into().map_err(|_| EnvelopeError::Malformed("key id length"))?;
            let signature = item.signature.try_into();
            let signature = signature.map_err(|_| EnvelopeError::Malformed("signature length"))?;
            signatures.push((KeyId(key_id), signature));
        }
        Ok(Self { payload_type: wire.payload_type, payload: wire.payload, signatures })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireEnvelope {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(string, tag = "2")]
    payload_type: String,
    #[prost(bytes = "vec", tag = "3")]
    payload: Vec<u8>,
    #[prost(message, repeated, tag = "4")]
    signatures: Vec<WireSignature>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireSignature {
    #[prost(bytes = "vec", tag = "1")]
    key_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    signature: Vec<u8>,
}

#[cfg(test)]
mod tests;
