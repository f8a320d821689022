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
