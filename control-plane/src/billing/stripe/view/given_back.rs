//! Money that goes back: refunds and disputes.

use std::collections::HashMap;

use serde::Deserialize;

use super::{id_of, map_or_null};

/// Money given back.
#[derive(Debug, Clone, Deserialize)]
pub struct RefundView {
    /// `re_…`
    pub id: String,
    /// `pending`, `requires_action`, `succeeded`, `failed` or `canceled`.
    pub status: Option<String>,
    /// Minor units.
    pub amount: Option<i64>,
    /// Lower-case ISO code.
    pub currency: Option<String>,
    /// `pi_…`
    #[serde(default, deserialize_with = "id_of")]
    pub payment_intent: Option<String>,
    /// Our words.
    #[serde(default, deserialize_with = "map_or_null")]
    pub metadata: HashMap<String, String>,
}

/// A payment that the customer's bank takes back.
#[derive(Debug, Clone, Deserialize)]
pub struct DisputeView {
    /// `du_…`
    pub id: String,
    /// `needs_response`, `under_review`, `won`, `lost`, `warning_…`, `prevented` …
    pub status: Option<String>,
    /// The bank's reason.
    pub reason: Option<String>,
    /// Minor units.
    pub amount: Option<i64>,
    /// Lower-case ISO code.
    pub currency: Option<String>,
    /// `pi_…`
    #[serde(default, deserialize_with = "id_of")]
    pub payment_intent: Option<String>,
    /// Unix seconds.
    pub created: Option<i64>,
    evidence_details: Option<Evidence>,
}

/// What the state of a dispute says about the money. Stripe's words for that are read here and nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DisputeState {
    /// It was won, or nothing came of it: the money is ours.
    Over,
    /// The bank asks or warns. It has taken nothing yet, so a refund still answers it.
    Inquiry,
    /// The bank has the money and has not decided. Words we do not know count as this.
    Open,
    /// The bank has given the money to its customer.
    Lost,
}

impl DisputeState {
    /// Reads Stripe's word, or ours (`early_warning`) for a card network's warning that somebody can act on.
    pub(crate) fn of(word: &str) -> Self {
        match word {
            "won" | "warning_closed" | "prevented" => Self::Over,
            "early_warning" | "warning_needs_response" | "warning_under_review" => Self::Inquiry,
            "lost" => Self::Lost,
            _ => Self::Open,
        }
    }

    /// Whether the bank has the money, for now or for good: nothing of it can be refunded.
    pub(crate) fn takes(self) -> bool {
        matches!(self, Self::Open | Self::Lost)
    }

    /// Whether there is something left to decide.
    pub(crate) fn is_undecided(self) -> bool {
        matches!(self, Self::Inquiry | Self::Open)
    }
}

#[derive(Debug, Clone, Deserialize)]
struct Evidence {
    due_by: Option<i64>,
}

impl DisputeView {
    /// Until when it can be answered, in unix seconds.
    pub fn answer_by(&self) -> Option<i64> {
        self.evidence_details.as_ref()?.due_by
    }
}
