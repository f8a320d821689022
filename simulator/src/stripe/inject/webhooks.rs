//! What can go wrong with webhooks.

use serde::{Deserialize, Serialize};

use crate::inject::{is_zero, once};

/// How long a batch that does not fill is held at most.
const HOLD_MS: u64 = 5_000;

/// Body of `POST /_sim/faults/webhooks`; each member that is given becomes a rule of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WebhookFaults {
    /// Each of `times` events comes so many times more, all at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) duplicate: Option<u32>,
    /// So many events are held and then sent one after the other, the newest first; `times` such batches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reorder: Option<u32>,
    /// How long a batch that does not fill is held, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hold_ms: Option<u64>,
    /// Each of `times` events comes so much later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) delay_ms: Option<u64>,
    /// So many events are never delivered; only the events list shows them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lose: Option<u32>,
    /// So many events come with a wrong signature at their first attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bad_signature: Option<u32>,
    /// So many events come at their first attempt with a good signature of an hour ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stale_signature: Option<u32>,
    /// Only events of this type.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<String>,
    /// How often, for `duplicate`, `delay_ms` and `reorder`.
    #[serde(default = "once")]
    pub(crate) times: u32,
    /// How many matching events pass before.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) skip: u32,
}

impl WebhookFaults {
    /// The rules, each with how often it strikes.
    ///
    /// # Errors
    /// Nothing is asked for, or a count is zero.
    pub(crate) fn rules(&self) -> Result<Vec<(WebhookRule, u32)>, String> {
        let counts = [self.duplicate, self.reorder, self.lose, self.bad_signature, self.stale_signature];
        if self.times == 0 || counts.contains(&Some(0)) {
            return Err("a count must be at least 1; DELETE /_sim/faults takes rules back".into());
        }
        if self.hold_ms.is_some() && self.reorder.is_none() {
            return Err("`hold_ms` goes with `reorder`".into());
        }
        let batch = |of: u32| Trick::Reorder { of, hold_ms: self.hold_ms.unwrap_or(HOLD_MS) };
        let times = self.times;
        let rules: Vec<_> = [
            self.duplicate.map(|copies| (Trick::Duplicate { copies }, times)),
            self.reorder.map(|of| (batch(of), of.saturating_mul(times))),
            self.delay_ms.map(|ms| (Trick::Delay { ms }, times)),
            self.lose.map(|n| (Trick::Lose, n)),
            self.bad_signature.map(|n| (Trick::BadSignature, n)),
            self.stale_signature.map(|n| (Trick::StaleSignature, n)),
        ]
        .into_iter()
        .flatten()
        .map(|(trick, times)| (WebhookRule { trick, kind: self.kind.clone() }, times))
        .collect();
        if rules.is_empty() {
            return Err(
                "name one of duplicate, reorder, delay_ms, lose, bad_signature, stale_signature".into()
            );
        }
        Ok(rules)
    }
}

/// What is done to a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "fault")]
pub(crate) enum Trick {
    Duplicate { copies: u32 },
    Reorder { of: u32, hold_ms: u64 },
    Delay { ms: u64 },
    Lose,
    BadSignature,
    StaleSignature,
}

impl Trick {
    /// Its word in the log of deliveries.
    pub(super) fn word(self) -> &'static str {
        match self {
            Trick::Duplicate { .. } => "duplicate",
            Trick::Reorder { .. } => "reorder",
            Trick::Delay { .. } => "delay",
            Trick::Lose => "lose",
            Trick::BadSignature => "bad_signature",
            Trick::StaleSignature => "stale_signature",
        }
    }
}

/// A rule about deliveries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct WebhookRule {
    #[serde(flatten)]
    pub(super) trick: Trick,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub(super) kind: Option<String>,
}
