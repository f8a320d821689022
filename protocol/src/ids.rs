//! Typed ids: the append-only registry of everything that has an identity.
//!
//! Every id is a UUIDv7 made by the control plane (or, for [`NodeId`] and [`InstallId`], once at
//! creation). A typed id cannot be passed where another is meant, prints in canonical lower-case
//! form, and refuses to parse anything else: one identity has exactly one spelling.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

/// Text that is not a canonical lower-case hyphenated UUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a canonical {kind}: {text:?}")]
pub struct ParseIdError {
    /// Name of the id type that was wanted.
    pub kind: &'static str,
    /// What was given, cut to 64 characters.
    pub text: String,
}

/// Reads the one accepted spelling of a UUID.
fn parse_canonical(kind: &'static str, text: &str) -> Result<Uuid, ParseIdError> {
    let refuse = || ParseIdError { kind, text: text.chars().take(64).collect() };
    let uuid = Uuid::try_parse(text).map_err(|_| refuse())?;
    let mut buffer = Uuid::encode_buffer();
    if uuid.hyphenated().encode_lower(&mut buffer) != text {
        return Err(refuse());
    }
    Ok(uuid)
}

macro_rules! typed_ids {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// Wraps a UUID that was made for this kind of thing.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// Makes a UUIDv7 from a time (unix milliseconds) and ten random bytes.
            pub fn generate(at: crate::UnixMillis, random: [u8; 10]) -> Self {
                let millis = u64::try_from(at.0).unwrap_or(0);
                Self(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
            }

            /// The UUID inside.
            pub const fn as_uuid(&self) -> Uuid {
                self.0
            }

            /// The 16 bytes of the UUID.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0.hyphenated(), f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0.hyphenated())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_canonical(stringify!($name), text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    )+};
}

typed_ids! {
    /// One installation of the system: a control plane and all nodes that trust it.
    InstallId,
    /// A person who logs in.
    UserId,
    /// Who owns servers and pays.
    AccountId,
    /// The commercial purchase. Not to be confused with [`ProvisioningOrderId`].
    OrderId,
    /// A customer's server.
    InstanceId,
    /// One Proxmox VE host with an agent.
    NodeId,
    /// One signed command for one node about one instance.
    ProvisioningOrderId,
    /// A range of addresses that servers get theirs from.
    AddressPoolId,
    /// A stored SSH public key.
    SshKeyId,
    /// A bearer token of the REST API.
    ApiTokenId,
    /// A logged-in browser.
    SessionId,
    /// One row of the audit log.
    AuditId,
    /// What the REST API calls the progress of a change to a server.
    ActionId,
    /// One opening of a server's console.
    ConsoleId,
    /// One change of what an account pays for a server.
    PlanChangeId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_spelling_parses() {
        let id = "01890a5d-ac96-774b-bcce-b302099a8057";
        assert_eq!(id.parse::<NodeId>().map(|n| n.to_string()), Ok(id.to_owned()));
        for wrong in [
            "01890A5D-AC96-774B-BCCE-B302099A8057",
            "01890a5dac96774bbcceb302099a8057",
            "{01890a5d-ac96-774b-bcce-b302099a8057}",
            "01890a5d-ac96-774b-bcce-b302099a8057 ",
            "",
        ] {
            assert!(wrong.parse::<NodeId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn generated_ids_sort_by_time() {
        let early = OrderId::generate(crate::UnixMillis(1_000), [255; 10]);
        let late = OrderId::generate(crate::UnixMillis(1_001), [0; 10]);
        assert!(early < late);
    }
}
