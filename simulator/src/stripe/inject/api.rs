//! What can go wrong with calls.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    inject::{CallPattern, is_zero, once},
    stripe::fault::Fault,
};

/// What a rule about calls does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ApiKind {
    /// An error instead of the effect; the idempotency key stays unused.
    StatusBefore,
    /// The effect is written; the answer is an error.
    StatusAfter,
    /// The effect is written; the connection is closed without a byte.
    DropAnswer,
    /// The effect is written at once; the answer comes late, and until then its key is in use.
    Slow,
}

impl ApiKind {
    /// Its word in the request log.
    pub(crate) fn word(self) -> &'static str {
        match self {
            ApiKind::StatusBefore => "status_before",
            ApiKind::StatusAfter => "status_after",
            ApiKind::DropAnswer => "drop_answer",
            ApiKind::Slow => "slow",
        }
    }
}

/// Body of `POST /_sim/faults/api`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApiRule {
    pub(crate) call: CallPattern,
    pub(crate) fault: ApiKind,
    /// 429 or 500 to 504; 500 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<u16>,
    /// Code of a 429: `rate_limit` (if absent) or `lock_timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<String>,
    /// How long the answer, or its absence, is held back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) delay_ms: Option<u64>,
    /// How often.
    #[serde(default = "once")]
    pub(crate) times: u32,
    /// How many matching calls pass before.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) skip: u32,
}

impl ApiRule {
    /// Checks that the parts of the rule belong together.
    ///
    /// # Errors
    /// What is missing or has no meaning, in words.
    pub(crate) fn check(&self) -> Result<(), String> {
        let word = self.fault.word();
        let must = |holds: bool, text: &str| if holds { Ok(()) } else { Err(format!("{word}: {text}")) };
        let with_status = matches!(self.fault, ApiKind::StatusBefore | ApiKind::StatusAfter);
        let status = self.status.unwrap_or(500);
        must(self.times > 0, "`times` must be at least 1")?;
        must(with_status || self.status.is_none(), "`status` goes with status_before and status_after")?;
        must(status == 429 || (500..=504).contains(&status), "`status` must be 429 or 500 to 504")?;
        must(self.fault != ApiKind::StatusAfter || status != 429, "a 429 comes before any work")?;
        must(self.code.is_none() || status == 429, "`code` goes with status 429")?;
        let known = |code: &str| matches!(code, "rate_limit" | "lock_timeout");
        must(self.code.as_deref().is_none_or(known), "`code` must be rate_limit or lock_timeout")?;
        must(self.fault != ApiKind::Slow || self.delay_ms.is_some(), "`delay_ms` is missing")
    }

    /// How long the answer is held back.
    pub(crate) fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms.unwrap_or(0))
    }

    /// The refusal in Stripe's words.
    pub(crate) fn refusal(&self) -> Fault {
        match (self.status.unwrap_or(500), self.code.as_deref()) {
            (429, Some("lock_timeout")) => Fault::lock_timeout(),
            (429, _) => Fault::rate_limit(),
            (status, _) => Fault::server(status),
        }
    }

    /// Whether the error becomes the stored result of the idempotency key. Stripe stores what the call
    /// came to once execution began, "including 500 errors" (its API reference, "Idempotent requests").
    /// A 502 to 504 is taken here for the edge's word before a call that went well: the key replays
    /// success. No recording covers that.
    pub(crate) fn is_stored(&self) -> bool {
        self.status.unwrap_or(500) == 500
    }
}
