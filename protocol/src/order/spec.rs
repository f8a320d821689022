//! The full wished state of one instance.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{
    FirewallRules,
    first_boot::{self, Locale, OsFamily, Recipe, TimeZone},
};
use crate::input::{Hostname, MAX_SSH_KEYS, SshPublicKey};

/// Most addresses one instance has.
const MAX_ADDRESSES: usize = 16;
/// Most DNS servers one instance is told.
const MAX_DNS: usize = 4;
/// Most tags beside our own.
const MAX_TAGS: usize = 8;
/// Longest user-data in bytes.
const MAX_USER_DATA: usize = 32 * 1024;

/// Why a specification is refused although each of its fields reads well.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A size of zero or beyond what one guest can have.
    #[error("{0} is out of range")]
    Size(&'static str),
    /// No key and no password: nobody could log in.
    #[error("neither an SSH key nor a password hash")]
    NoAccess,
    /// Too many of something.
    #[error("too many {0}")]
    TooMany(&'static str),
    /// An address that no guest may have, or one given twice.
    #[error("address {0} is not usable")]
    Address(IpNet),
    /// A gateway of another family than its address.
    #[error("gateway {0} does not fit its address")]
    Gateway(IpAddr),
    /// Firewall rules for a card that the host does not filter.
    #[error("firewall rules need the host's filter on the card")]
    Unfiltered,
    /// Something that must be a plain word is not.
    #[error("{0} is not a plain name")]
    Name(&'static str),
    /// Recipes that do not go together, or not with the image.
    #[error("{0}")]
    Recipes(&'static str),
}

/// Whether the customer's service is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Service {
    /// Paid for.
    Active,
    /// Unpaid or disputed: stopped, and the customer cannot start it. Reversible.
    Suspended,
}

/// One instance as it shall be. Sizes are those sold; an agent's policy may refuse them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceSpec {
    /// Name inside the guest and in Proxmox.
    pub hostname: Hostname,
    /// Whether it may run.
    pub service: Service,
    /// Virtual CPUs, 1–128.
    pub vcpus: u32,
    /// Memory in MiB, 128–4,194,304.
    pub memory_mib: u32,
    /// Size of the first disk in GiB, 1–65,536. Disks only grow.
    pub disk_gib: u32,
    /// What it was or shall be made from.
    pub image: ImageRef,
    /// Its one network card.
    pub network: NetworkSpec,
    /// Keys that may log in as root; at most 20.
    pub ssh_keys: Vec<SshPublicKey>,
    /// Crypt hash of root's password, if it has one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub password_hash: Option<PasswordHash>,
    /// The customer's own cloud-init part, merged as a part of its own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub user_data: Option<UserData>,
    /// Counts how often the disk was made anew from `image`. A higher number than the one that was
    /// carried out last is a rebuild: everything on the disk is lost. The image changes only so.
    #[serde(skip_serializing_if = "is_first_build", default)]
    pub build: u32,
    /// Boot from this rescue image, with the server's own disk beside it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rescue: Option<ImageRef>,
    /// The medium in its CD drive.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub iso: Option<IsoName>,
    /// Tags for the eyes of the host's owner, beside our own; at most 8.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub tags: Vec<Tag>,
    /// What is set up at the first boot; needs the image's family.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub recipes: Vec<Recipe>,
    /// Language of messages and sorting; the installation's default if there is none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub locale: Option<Locale>,
    /// Time zone; the installation's default if there is none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub timezone: Option<TimeZone>,
}

/// Orders from before rebuilds existed do not name a build.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_first_build(build: &u32) -> bool {
    *build == 0
}

/// An image by name, for people, and by digest, which decides.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRef {
    /// Catalogue name, such as `debian-13`.
    pub name: String,
    /// Digest of the image the template was made from.
    pub digest: ImageDigest,
    /// Which distribution it is, where a recipe needs to know.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub family: Option<OsFamily>,
}

/// The network card `net0`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// Bridge on the host.
    pub bridge: String,
    /// VLAN tag 1–4094, if the bridge carries several.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub vlan: Option<u16>,
    /// Hardware address; never left to chance.
    pub mac: MacAddress,
    /// Addresses with their prefix lengths and gateways.
    pub addresses: Vec<AddressAssignment>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// Rate limit in Mbit/s; none means unlimited.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rate_mbit: Option<u32>,
    /// Whether the host filters this card (anti-spoofing included).
    pub firewall: bool,
    /// The customer's own rules; none lets everything in and out.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rules: Option<FirewallRules>,
}

/// One address of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressAssignment {
    /// Address with prefix length, such as `203.0.113.24/24`.
    pub cidr: IpNet,
    /// Default gateway, for at most one address of each family.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gateway: Option<IpAddr>,
}

impl InstanceSpec {
    /// The rules that types alone do not express.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn check(&self) -> Result<(), SpecError> {
        let sizes = [
            ("vcpus", self.vcpus, 1, 128),
            ("memory_mib", self.memory_mib, 128, 4 << 20),
            ("disk_gib", self.disk_gib, 1, 65_536),
        ];
        for (name, value, least, most) in sizes {
            if !(least..=most).contains(&value) {
                return Err(SpecError::Size(name));
            }
        }
        if self.ssh_keys.is_empty() && self.password_hash.is_none() {
            return Err(SpecError::NoAccess);
        }
        if self.ssh_keys.len() > MAX_SSH_KEYS {
            return Err(SpecError::TooMany("SSH keys"));
        }
        if !is_word(&self.image.name, 64) {
            return Err(SpecError::Name("image.name"));
        }
        if self.rescue.as_ref().is_some_and(|image| !is_word(&image.name, 64)) {
            return Err(SpecError::Name("rescue.name"));
        }
        if self.tags.len() > MAX_TAGS {
            return Err(SpecError::TooMany("tags"));
        }
        first_boot::check(self.image.family, &self.recipes)?;
        self.network.check()
    }
}

impl NetworkSpec {
    fn check(&self) -> Result<(), SpecError> {
        if !is_word(&self.bridge, 15) {
            return Err(SpecError::Name("network.bridge"));
        }
        if self.vlan.is_some_and(|tag| !(1..=4094).contains(&tag)) {
            return Err(SpecError::Size("network.vlan"));
        }
        if self.rate_mbit.is_some_and(|rate| !(1..=100_000).contains(&rate)) {
            return Err(SpecError::Size("network.rate_mbit"));
        }
        if self.addresses.len() > MAX_ADDRESSES {
            return Err(SpecError::TooMany("addresses"));
        }
        if self.dns.len() > MAX_DNS {
            return Err(SpecError::TooMany("DNS servers"));
        }
        if let Some(rules) = &self.rules {
            // Rules without the filter would be a promise that nobody keeps.
            if !self.firewall {
                return Err(SpecError::Unfiltered);
            }
            rules.check()?;
        }
        let mut gateways = [0; 2];
        for (index, address) in self.addresses.iter().enumerate() {
            let ip = address.cidr.addr();
            let twice = self.addresses[..index].iter().any(|other| other.cidr.addr() == ip);
            if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || twice {
                return Err(SpecError::Address(address.cidr));
            }
            if let Some(gateway) = address.gateway {
                let count = &mut gateways[usize::from(gateway.is_ipv6())];
                *count += 1;
                if gateway.is_ipv6() != ip.is_ipv6() || gateway == ip || *count > 1 {
                    return Err(SpecError::Gateway(gateway));
                }
            }
        }
        Ok(())
    }
}

/// Letters, digits, `-`, `_` and `.`, beginning with a letter or digit.
pub(crate) fn is_word(text: &str, longest: usize) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    text.len() <= longest
        && text.bytes().all(plain)
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
}

/// Makes a text newtype whose only door is a check, for serde as well.
macro_rules! checked_text {
    ($name:ident, $what:literal, $check:expr) => {
        impl $name {
            /// Checks the text.
            ///
            /// # Errors
            /// The text itself, if it does not fit.
            pub fn parse(text: &str) -> Result<Self, InvalidText> {
                let check: fn(&str) -> bool = $check;
                if check(text) { Ok(Self(text.to_owned())) } else { Err(InvalidText($what)) }
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidText;
            fn from_str(text: &str) -> Result<Self, InvalidText> {
                Self::parse(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text).map_err(de::Error::custom)
            }
        }
    };
}

pub(crate) use checked_text;

/// Text that is not what its name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not {0}")]
pub struct InvalidText(pub(crate) &'static str);

/// `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageDigest(String);

checked_text!(ImageDigest, "a digest of the form sha256:<64 hexadecimal digits>", |text| {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.strip_prefix("sha256:").is_some_and(|h| h.len() == 64 && h.bytes().all(hex))
});

impl fmt::Display for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A unicast hardware address in upper-case form, such as `BC:24:11:00:00:01`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(String);

checked_text!(MacAddress, "a unicast MAC address in upper case", |text| {
    let groups: Vec<&str> = text.split(':').collect();
    let hex = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
    let first = groups.first().and_then(|g| u8::from_str_radix(g, 16).ok());
    groups.len() == 6
        && groups.iter().all(|g| g.len() == 2 && g.bytes().all(hex))
        && first.is_some_and(|b| b & 1 == 0)
});

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A yescrypt or SHA-512 crypt hash. Plain passwords never travel.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PasswordHash(String);

checked_text!(PasswordHash, "a yescrypt ($y$) or SHA-512 ($6$) crypt hash", |text| {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'$' | b'.' | b'/' | b'=' | b',');
    (text.starts_with("$y$") || text.starts_with("$6$"))
        && (20..=256).contains(&text.len())
        && text.bytes().all(plain)
});

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

/// The customer's own cloud-init part: UTF-8, no NUL, at most 32 KiB. May hold their secrets, so
/// it is never printed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct UserData(String);

checked_text!(UserData, "user-data of at most 32 KiB without NUL characters", |text| {
    !text.is_empty() && text.len() <= MAX_USER_DATA && !text.contains('\0')
});

impl fmt::Debug for UserData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserData({} bytes)", self.0.len())
    }
}

/// File name of a medium on the host's ISO storage, such as `debian-13.1.0-amd64-netinst.iso`; no path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IsoName(String);

checked_text!(IsoName, "the plain file name of an .iso medium", |text| {
    is_word(text, 120) && text.len() > 4 && text.ends_with(".iso") && !text.contains("..")
});

/// A tag as Proxmox takes them, lower case. Those that begin with `ez` are ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

checked_text!(
    Tag,
    "a tag of at most 40 lower-case letters, digits, -, + and ., not beginning with ez",
    |text| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.');
        (1..=40).contains(&text.len())
            && text.bytes().all(plain)
            && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
            && !text.starts_with("ez")
    }
);
