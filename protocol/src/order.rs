//! The provisioning order: a signed command for one node about one instance.
//!
//! Strict JSON: an unknown field, a duplicate key, a number out of range or a byte too many makes
//! the whole order unreadable, so that an agent which does not understand a constraint refuses
//! instead of ignoring it. The bytes that were signed are stored and passed on verbatim; nothing is
//! ever serialised again.

mod action;
mod firewall;
mod first_boot;
mod spec;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{InstallId, InstanceId, NodeId, OrderId, ProvisioningOrderId, UnixMillis};

pub use action::{Action, MAX_BACKUPS, PowerVerb, SnapshotName};
pub use firewall::{Direction, FirewallRule, FirewallRules, MAX_PEERS, MAX_RULES, Ports, Protocol, Verdict};
pub use first_boot::{Locale, OsFamily, Recipe, TimeZone};
pub use spec::{
    AddressAssignment, ImageDigest, ImageRef, InstanceSpec, InvalidText, IsoName, MacAddress, NetworkSpec,
    PasswordHash, Service, SpecError, Tag, UserData,
};
pub(crate) use spec::{checked_text, is_word};

/// Longest payload in bytes.
pub const MAX_PAYLOAD: usize = 64 * 1024;
/// Numbers stay below 2^53, so that every JSON reader sees the same value.
const MAX_INTEGER: u64 = 1 << 53;
/// Clock difference an agent tolerates at both ends of an order's window.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(300);

/// Everything a node needs to know to act on one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProvisioningOrder {
    /// Key for deduplication.
    pub order_id: ProvisioningOrderId,
    /// The installation that issues it.
    pub install: InstallId,
    /// The one node that may carry it out.
    pub aud: Audience,
    /// Position in the node's sequence; every order of a node has its own, ever rising.
    pub seq: u64,
    /// When it was issued.
    pub iat: UnixMillis,
    /// Not before.
    pub nbf: UnixMillis,
    /// Not after.
    pub exp: UnixMillis,
    /// What it is about.
    pub instance: InstanceRef,
    /// Version of the instance's wished state. `ensure`, `retire`, `purge` and `adopt` carry a new
    /// one; an `action` names the one it was issued against.
    pub generation: u64,
    /// What to do.
    pub op: Op,
    /// Why; logged, never decided upon.
    pub cause: Cause,
}

/// The node an order is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audience {
    /// The node.
    pub node: NodeId,
    /// Its enrolment counter; must be equal.
    pub epoch: u64,
}

/// An instance and the VMID that realises it on the node's cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceRef {
    /// The customer's server.
    pub uuid: InstanceId,
    /// Proxmox's number, 100 to 999,999,999.
    pub vmid: u32,
}

/// Why an order was issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cause {
    /// The purchase, if one is behind it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub order: Option<OrderId>,
    /// Who: `customer`, `operator:<user id>`, `billing`, `system`. No personal data.
    pub actor: String,
}

impl Cause {
    pub(crate) fn check(&self) -> Result<(), PayloadError> {
        let plain = self.actor.chars().all(|c| c.is_ascii_graphic());
        if self.actor.is_empty() || self.actor.len() > 100 || !plain {
            return Err(PayloadError::OutOfRange("cause.actor"));
        }
        Ok(())
    }
}

/// What to do with the instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Op {
    /// Make the instance be like this; create it if it does not exist.
    Ensure(Box<InstanceSpec>),
    /// Do this at most once.
    Action(Action),
    /// Stop it and keep its disk.
    Retire(Empty),
    /// Remove it for good.
    Purge(Empty),
    /// Take a VM that carries our marker into the journal.
    Adopt(Empty),
}

/// An op without parameters; `{}` and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Empty {}

impl Op {
    /// The word for the kind of op: `ensure`, `action`, `retire`, `purge` or `adopt`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Ensure(_) => "ensure",
            Self::Action(_) => "action",
            Self::Retire(_) => "retire",
            Self::Purge(_) => "purge",
            Self::Adopt(_) => "adopt",
        }
    }

    /// The word people see: the action's verb for an action, else the kind.
    pub const fn verb(&self) -> &'static str {
        match self {
            Self::Action(action) => action.verb(),
            other => other.kind(),
        }
    }

    /// Whether this op stands for a new version of the wished state. Only actions do not.
    pub const fn bumps_generation(&self) -> bool {
        !matches!(self, Self::Action(_))
    }

    /// The longest life such an order may have; `first` says that the instance does not exist yet.
    ///
    /// Creating orders live ≤ 10 minutes, because another node may be tried only after their end.
    pub const fn longest_life(&self, first: bool) -> Duration {
        match self {
            Self::Ensure(_) if first => Duration::from_secs(10 * 60),
            Self::Action(_) => Duration::from_secs(15 * 60),
            _ => Duration::from_secs(24 * 60 * 60),
        }
    }

    /// A hash of what is wished, by which equal generations are compared.
    ///
    /// Both sides compute it with this function from the parsed op, so it depends on content only.
    pub fn spec_hash(&self) -> [u8; 32] {
        use sha2::Digest as _;
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        sha2::Sha256::digest(&bytes).into()
    }
}

/// Why signed bytes are no provisioning order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Over 64 KiB.
    #[error("the payload has {0} bytes, at most {MAX_PAYLOAD} are allowed")]
    TooLarge(usize),
    /// Not exactly one JSON object, without a byte before or after it.
    #[error("the payload is not exactly one JSON object")]
    NotAnObject,
    /// A field is missing, unknown, doubled or of the wrong type.
    #[error("the payload cannot be read: {0}")]
    Unreadable(String),
    /// A number that JSON readers disagree about, or that is out of its range.
    #[error("{0} is out of range")]
    OutOfRange(&'static str),
    /// The wished state contradicts itself.
    #[error("the specification is not acceptable: {0}")]
    Spec(#[from] SpecError),
}

impl ProvisioningOrder {
    /// The bytes to sign. Called once, by whoever issues the order.
    ///
    /// # Errors
    /// What [`ProvisioningOrder::from_bytes`] would refuse is refused here already.
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
        if bytes.len() > MAX_PAYLOAD {
            return Err(PayloadError::TooLarge(bytes.len()));
        }
        if bytes.first() != Some(&b'{') || bytes.last() != Some(&b'}') {
            return Err(PayloadError::NotAnObject);
        }
        let order: Self =
            serde_json::from_slice(bytes).map_err(|e| PayloadError::Unreadable(e.to_string()))?;
        order.check()?;
        Ok(order)
    }

    /// The rules that types alone do not express.
    fn check(&self) -> Result<(), PayloadError> {
        let integers = [("seq", self.seq), ("generation", self.generation), ("aud.epoch", self.aud.epoch)];
        for (name, value) in integers {
            if value == 0 || value >= MAX_INTEGER {
                return Err(PayloadError::OutOfRange(name));
            }
        }
        for (name, at) in [("iat", self.iat), ("nbf", self.nbf), ("exp", self.exp)] {
            if at.0 <= 0 || at.0.unsigned_abs() >= MAX_INTEGER {
                return Err(PayloadError::OutOfRange(name));
            }
        }
        if self.exp <= self.nbf || self.exp <= self.iat {
            return Err(PayloadError::OutOfRange("exp"));
        }
        if !(100..=999_999_999).contains(&self.instance.vmid) {
            return Err(PayloadError::OutOfRange("instance.vmid"));
        }
        self.cause.check()?;
        match &self.op {
            Op::Ensure(spec) => Ok(spec.check()?),
            Op::Action(action) => action.check(),
            Op::Retire(_) | Op::Purge(_) | Op::Adopt(_) => Ok(()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
