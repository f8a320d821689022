//! Typed refusals: why an agent did not accept a provisioning order.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $code:literal),+ $(,)?) => {
        /// The stable code of a refusal.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum RefusalCode {
            $($(#[$doc])* #[serde(rename = $code)] $name,)+
        }

        impl RefusalCode {
            /// Every code there is.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The code as it travels and is shown.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code),+ }
            }
        }
    };
}

refusals! {
    /// No trusted key signed these bytes.
    BadSignature = "BAD_SIGNATURE",
    /// A trusted key signed, but its role may not sign this type.
    WrongRole = "WRONG_ROLE",
    /// The signed bytes are no provisioning order this agent understands completely.
    BadPayload = "BAD_PAYLOAD",
    /// For another node or another installation.
    WrongAudience = "WRONG_AUDIENCE",
    /// From before this node's latest enrolment, or after it.
    WrongEpoch = "WRONG_EPOCH",
    /// Its time is over.
    Expired = "EXPIRED",
    /// Its time has not come.
    NotYet = "NOT_YET",
    /// It claims to live longer than such an order may.
    BadWindow = "BAD_WINDOW",
    /// An older sequence or generation than already seen.
    Stale = "STALE",
    /// The same sequence, generation or VMID with another content.
    Conflict = "CONFLICT",
    /// The host's own policy forbids it; the detail names the rule.
    Policy = "POLICY",
    /// A kind of order this agent does not carry out.
    Unsupported = "UNSUPPORTED",
    /// The journal's disk is nearly full.
    NoSpace = "NO_SPACE",
    /// The host's clock and the control plane's differ by more than 300 s.
    ClockSkew = "CLOCK_SKEW",
    /// The VMID belongs to a VM that is not ours.
    VmidTaken = "VMID_TAKEN",
    /// The destroy budget is used up; only root on the node opens it again.
    CircuitOpen = "CIRCUIT_OPEN",
    /// A console grant that was used before.
    Used = "USED",
    /// No such server on this node.
    UnknownInstance = "UNKNOWN_INSTANCE",
    /// The server is not running.
    NotRunning = "NOT_RUNNING",
    /// As many consoles as there may be are open.
    TooMany = "TOO_MANY",
    /// The host did not open the console.
    Unavailable = "UNAVAILABLE",
    /// The journal is damaged; this node only reports.
    JournalCorrupt = "JOURNAL_CORRUPT",
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no refusal code of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown refusal code {0:?}")]
pub struct UnknownRefusal(pub String);

impl FromStr for RefusalCode {
    type Err = UnknownRefusal;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.iter().copied().find(|c| c.as_str() == text);
        found.ok_or_else(|| UnknownRefusal(text.chars().take(64).collect()))
    }
}

/// A refusal with its explanation for people. `rule` is set for [`RefusalCode::Policy`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}{}: {detail}", rule.as_ref().map(|r| format!("({r})")).unwrap_or_default())]
pub struct Refusal {
    /// Stable code.
    pub code: RefusalCode,
    /// Name of the policy rule, where one refused.
    pub rule: Option<String>,
    /// One sentence: what was expected, what was found.
    pub detail: String,
}

impl Refusal {
    /// A refusal without a policy rule.
    pub fn new(code: RefusalCode, detail: impl Into<String>) -> Self {
        Self { code, rule: None, detail: detail.into() }
    }

    /// A refusal by a rule of the host's policy file.
    pub fn policy(rule: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { code: RefusalCode::Policy, rule: Some(rule.into()), detail: detail.into() }
    }
}
