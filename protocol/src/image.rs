//! The image order: a signed command for one node to have an image ready as a template.
//!
//! It is about the node, not about an instance, so it has a payload type of its own: neither can be
//! taken for the other. It states a wish (*this digest shall be ready here*), which is why it needs
//! neither sequence nor generation: carried out twice, or late within its time, it changes nothing.
//! Strict JSON like the provisioning order.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    InstallId, ProvisioningOrderId, UnixMillis,
    order::{Audience, Cause, ImageDigest, InvalidText, PayloadError, checked_text, is_word},
};

/// Longest payload in bytes.
pub const MAX_IMAGE_PAYLOAD: usize = 4 * 1024;
/// The longest life of an image order: a large download over a slow line.
pub const LONGEST_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// One image that one node shall have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageOrder {
    /// Key for deduplication.
    pub order_id: ProvisioningOrderId,
    /// The installation that issues it.
    pub install: InstallId,
    /// The one node that may carry it out.
    pub aud: Audience,
    /// When it was issued.
    pub iat: UnixMillis,
    /// Not before.
    pub nbf: UnixMillis,
    /// Not after.
    pub exp: UnixMillis,
    /// What it shall have.
    pub image: ImageSource,
    /// Why; logged, never decided upon.
    pub cause: Cause,
}

/// An image and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSource {
    /// Catalogue name, such as `debian-13`.
    pub name: String,
    /// Version, for people.
    pub version: String,
    /// Where the file is.
    pub url: ImageUrl,
    /// Digest of the file, which decides.
    pub digest: ImageDigest,
}

impl ImageSource {
    /// The rules that types alone do not express.
    ///
    /// # Errors
    /// [`PayloadError::OutOfRange`] with the field.
    pub fn check(&self) -> Result<(), PayloadError> {
        if !is_word(&self.name, 40) {
            return Err(PayloadError::OutOfRange("image.name"));
        }
        if is_word(&self.version, 40) { Ok(()) } else { Err(PayloadError::OutOfRange("image.version")) }
    }
}

/// An http(s) address of a disk image, at most 400 plain ASCII characters, without user, query or
/// fragment, ending in `.qcow2`, `.img` or `.raw`. What is behind it is believed for its digest only.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageUrl(String);

checked_text!(ImageUrl, "an http(s) address of a .qcow2, .img or .raw file", |text| {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~:/+".contains(&b);
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let known_end = [".qcow2", ".img", ".raw"].iter().any(|end| text.ends_with(end));
    text.len() <= 400
        && text.bytes().all(plain)
        && known_end
        && !text.contains("/..")
        && rest
            .and_then(|rest| rest.split_once('/'))
            .is_some_and(|(host, path)| !host.is_empty() && !path.is_empty())
});

impl fmt::Display for ImageUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ImageOrder {
    /// The bytes to sign. Called once, by whoever issues the order.
    ///
    /// # Errors
    /// What [`ImageOrder::from_bytes`] would refuse.
    pub fn to_bytes(&self) -> Result<Vec<u8>, PayloadError> {
        let bytes = serde_json::to_vec(self).map_err(|e| PayloadError::Unreadable(e.to_string()))?;
        Self::from_bytes(&bytes)?;
        Ok(bytes)
    }

    /// Reads verified bytes, strictly.
    ///
    /// # Errors
    /// Anything that is not exactly what this version understands.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PayloadError> {
        if bytes.len() > MAX_IMAGE_PAYLOAD {
            return Err(PayloadError::TooLarge(bytes.len()));
        }
        if bytes.first() != Some(&b'{') || bytes.last() != Some(&b'}') {
            return Err(PayloadError::NotAnObject);
        }
        let order: Self =
            serde_json::from_slice(bytes).map_err(|e| PayloadError::Unreadable(e.to_string()))?;
        if order.aud.epoch == 0 {
            return Err(PayloadError::OutOfRange("aud.epoch"));
        }
        if order.iat.0 <= 0 || order.exp <= order.nbf || order.exp <= order.iat {
            return Err(PayloadError::OutOfRange("exp"));
        }
        order.cause.check()?;
        order.image.check()?;
        Ok(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeId;

    fn order() -> ImageOrder {
        let id = |n: u128| uuid::Uuid::from_u128(0x0193_5000_0000_7000_8000_0000_0000_0000 + n);
        ImageOrder {
            order_id: ProvisioningOrderId::from_uuid(id(1)),
            install: InstallId::from_uuid(id(2)),
            aud: Audience { node: NodeId::from_uuid(id(3)), epoch: 1 },
            iat: UnixMillis(1_795_000_000_000),
            nbf: UnixMillis(1_795_000_000_000),
            exp: UnixMillis(1_795_000_600_000),
            image: ImageSource {
                name: "debian-13".into(),
                version: "20261101".into(),
                url: "https://images.example.com/debian-13.qcow2".parse().unwrap(),
                digest: format!("sha256:{}", "ab".repeat(32)).parse().unwrap(),
            },
            cause: Cause { order: None, actor: "operator:cli".into() },
        }
    }

    #[test]
    fn an_order_is_written_as_it_always_was_and_survives_its_own_bytes() {
        let bytes = order().to_bytes().unwrap();
        let golden = include_str!("../golden/image-order.json");
        assert_eq!(String::from_utf8(bytes.clone()).unwrap(), golden.trim_end());
        assert_eq!(ImageOrder::from_bytes(&bytes), Ok(order()));
    }

    #[test]
    fn what_is_not_understood_or_makes_no_sense_is_refused() {
        let text = String::from_utf8(order().to_bytes().unwrap()).unwrap();
        for (place, with) in [
            ("\"epoch\":1", "\"epoch\":0"),
            ("\"epoch\":1", "\"epoch\":1,\"force\":true"),
            ("\"version\"", "\"size\":1,\"version\""),
            ("1795000600000", "1795000000000"),
            ("debian-13\"", "../debian\""),
            ("https://", "file://"),
            (".qcow2", ".qcow2?x=1"),
            ("images.example.com/", "user@images.example.com/"),
            ("/debian-13.qcow2", "/../debian-13.qcow2"),
            ("operator:cli", "operator cli"),
        ] {
            let changed = text.replacen(place, with, 1);
            assert_ne!(changed, text, "{place}");
            assert!(ImageOrder::from_bytes(changed.as_bytes()).is_err(), "{with}");
        }
        assert!(ImageOrder::from_bytes(format!("{text} ").as_bytes()).is_err());
    }
}
