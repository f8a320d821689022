//! One server's subscription.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use super::{PriceView, Rows, id_of, map_or_null};
use crate::billing::stripe::Kept;

/// One server's subscription.
#[derive(Debug, Clone, Deserialize)]
pub struct SubscriptionView {
    /// `sub_…`
    pub id: String,
    /// Stripe's word for its state; may be one we do not know.
    pub status: Option<String>,
    /// `cus_…`
    #[serde(default, deserialize_with = "id_of")]
    pub customer: Option<String>,
    /// `in_…`
    #[serde(default, deserialize_with = "id_of")]
    pub latest_invoice: Option<String>,
    /// Whether real money moves.
    pub livemode: Option<bool>,
    /// Unix seconds.
    pub cancel_at: Option<i64>,
    /// Unix seconds.
    pub canceled_at: Option<i64>,
    /// What is charged at the next renewal; `pm_…`. None: the customer's default.
    #[serde(default, deserialize_with = "id_of")]
    pub default_payment_method: Option<String>,
    /// Our words.
    #[serde(default, deserialize_with = "map_or_null")]
    pub metadata: HashMap<String, String>,
    /// `sub_sched_…`, while one says what becomes of it.
    #[serde(default, deserialize_with = "id_of")]
    pub schedule: Option<String>,
    pending_update: Option<PendingUpdate>,
    pause_collection: Option<Value>,
    #[serde(default)]
    discounts: Option<Vec<Value>>,
    #[serde(default)]
    default_tax_rates: Option<Vec<Value>>,
    automatic_tax: Option<AutomaticTax>,
    cancellation_details: Option<Reason>,
    status_details: Option<StatusDetails>,
    #[serde(default)]
    items: Rows<SubscriptionItem>,
}

#[derive(Debug, Clone, Deserialize)]
struct Reason {
    reason: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct AutomaticTax {
    enabled: Option<bool>,
}

#[derive(Debug, Clone, Deserialize)]
struct StatusDetails {
    paused: Option<PausedDetails>,
}

#[derive(Debug, Clone, Deserialize)]
struct PausedDetails {
    subscription: Option<PausedBy>,
}

#[derive(Debug, Clone, Deserialize)]
struct PausedBy {
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct SubscriptionItem {
    id: Option<String>,
    price: Option<PriceView>,
    quantity: Option<i64>,
    current_period_start: Option<i64>,
    current_period_end: Option<i64>,
}

#[derive(Debug, Clone, Deserialize)]
struct PendingUpdate {
    expires_at: Option<i64>,
    #[serde(default)]
    subscription_items: Option<Vec<SubscriptionItem>>,
}

/// Of each row its id, whether it is given as an id or as an object.
fn ids(rows: Option<&[Value]>) -> Vec<String> {
    let id = |row: &Value| row.as_str().or_else(|| row.get("id")?.as_str()).map(str::to_owned);
    rows.unwrap_or_default().iter().filter_map(id).collect()
}

impl SubscriptionView {
    /// The change that waits for its payment: its price, and until when (unix seconds).
    pub fn pending(&self) -> Option<(&str, Option<i64>)> {
        let update = self.pending_update.as_ref()?;
        let item = update.subscription_items.as_ref().and_then(|items| items.first());
        let price = item.and_then(|item| item.price.as_ref()).map_or("", |price| price.id.as_str());
        Some((price, update.expires_at))
    }

    /// The price of its one item.
    pub fn price_id(&self) -> Option<&str> {
        self.items.data.first()?.price.as_ref().map(|price| price.id.as_str())
    }

    /// The id of its one item.
    pub fn item_id(&self) -> Option<&str> {
        self.items.data.first()?.id.as_deref()
    }

    /// How many items it has; ours have one, unless somebody has added another in Stripe's dashboard.
    pub fn item_count(&self) -> usize {
        self.items.data.len()
    }

    /// How often its one item is charged; ours once, unless somebody has changed that in Stripe's dashboard.
    pub fn quantity(&self) -> i64 {
        self.items.data.first().and_then(|item| item.quantity).unwrap_or(1)
    }

    /// Whether it is for one server, as ours are sold: its price is then that of the server's plan.
    pub fn is_one_server(&self) -> bool {
        self.item_count() == 1 && self.quantity() == 1
    }

    /// What it is charged with besides its price.
    pub(crate) fn kept(&self) -> Kept {
        Kept {
            discounts: ids(self.discounts.as_deref()),
            automatic_tax: self.automatic_tax.as_ref().and_then(|tax| tax.enabled),
            tax_rates: ids(self.default_tax_rates.as_deref()),
            payment_method: self.default_payment_method.clone(),
        }
    }

    /// Why it is paused, in Stripe's word, if it says so.
    pub fn pause_reason(&self) -> Option<&str> {
        self.status_details.as_ref()?.paused.as_ref()?.subscription.as_ref()?.kind.as_deref()
    }

    /// Whether Stripe has cancelled it by itself, for a charge that failed or is disputed: nobody wished that.
    pub fn is_given_up(&self) -> bool {
        matches!(self.end_reason(), Some("payment_failed" | "payment_disputed"))
    }

    /// Why it was cancelled: `cancellation_requested`, `payment_failed`, `payment_disputed`,
    /// `canceled_by_retention_policy` …
    pub fn end_reason(&self) -> Option<&str> {
        self.cancellation_details.as_ref()?.reason.as_deref()
    }

    /// Whether invoices are not collected for now; the status says nothing about that.
    pub fn collection_paused(&self) -> bool {
        self.pause_collection.as_ref().is_some_and(|pause| !pause.is_null())
    }

    /// What its one item costs per period: minor units, currency, and how many months the period has.
    pub fn charge(&self) -> Option<(i64, String, i64)> {
        let price = self.items.data.first()?.price.as_ref()?;
        let minor = price.unit_amount?.saturating_mul(self.quantity());
        Some((minor, price.currency.clone()?, price.months().unwrap_or(1)))
    }

    /// Begin and end of the current period in unix seconds (they live on the item).
    pub fn period(&self) -> (Option<i64>, Option<i64>) {
        self.items.data.first().map_or((None, None), |i| (i.current_period_start, i.current_period_end))
    }
}
