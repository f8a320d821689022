//! A hosted payment page.

use std::collections::HashMap;

use serde::Deserialize;

use super::{id_of, map_or_null};

/// A hosted payment page.
#[derive(Debug, Clone, Deserialize)]
pub struct CheckoutSession {
    /// `cs_…`
    pub id: String,
    /// Where to send the customer; absent once it is over.
    pub url: Option<String>,
    /// `open`, `complete` or `expired`.
    pub status: Option<String>,
    /// `paid`, `unpaid` or `no_payment_required`.
    pub payment_status: Option<String>,
    /// What the lines cost before discounts and taxes, in minor units.
    pub amount_subtotal: Option<i64>,
    /// What the customer pays, in minor units.
    pub amount_total: Option<i64>,
    total_details: Option<TotalDetails>,
    #[serde(default)]
    discounts: Option<Vec<SessionDiscount>>,
    /// Lower-case ISO code.
    pub currency: Option<String>,
    /// `cus_…`
    #[serde(default, deserialize_with = "id_of")]
    pub customer: Option<String>,
    /// `sub_…`, once complete.
    #[serde(default, deserialize_with = "id_of")]
    pub subscription: Option<String>,
    /// `in_…`, once complete.
    #[serde(default, deserialize_with = "id_of")]
    pub invoice: Option<String>,
    /// Our order id.
    pub client_reference_id: Option<String>,
    /// Whether real money moves.
    pub livemode: Option<bool>,
    /// Our words.
    #[serde(default, deserialize_with = "map_or_null")]
    pub metadata: HashMap<String, String>,
    /// Unix seconds.
    pub expires_at: Option<i64>,
}

#[derive(Debug, Clone, Deserialize)]
struct TotalDetails {
    amount_discount: Option<i64>,
    amount_tax: Option<i64>,
}

#[derive(Debug, Clone, Deserialize)]
struct SessionDiscount {
    #[serde(default, deserialize_with = "id_of")]
    promotion_code: Option<String>,
}

impl CheckoutSession {
    /// What was taken off and what of it is taxes, in minor units.
    pub fn discount_and_tax(&self) -> Option<(i64, i64)> {
        let details = self.total_details.as_ref()?;
        Some((details.amount_discount?, details.amount_tax?))
    }

    /// The promotion code of each discount; `None` where a discount names none.
    pub fn promotion_codes(&self) -> Vec<Option<&str>> {
        let discounts = self.discounts.as_deref().unwrap_or_default();
        discounts.iter().map(|discount| discount.promotion_code.as_deref()).collect()
    }
}
