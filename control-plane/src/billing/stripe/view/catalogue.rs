//! What is on sale: products, prices, discounts and the codes that give them.

use std::collections::HashMap;

use serde::Deserialize;

use super::{id_of, map_or_null};

/// A price of the catalogue.
#[derive(Debug, Clone, Deserialize)]
pub struct PriceView {
    /// `price_…`
    pub id: String,
    /// Minor units.
    pub unit_amount: Option<i64>,
    /// Lower-case ISO code.
    pub currency: Option<String>,
    /// `<plan>:<interval>:<currency>:v1`
    pub lookup_key: Option<String>,
    /// `prod_…`, or the id we gave it.
    #[serde(default, deserialize_with = "id_of")]
    pub product: Option<String>,
    /// Whether it can be bought.
    pub active: Option<bool>,
    /// `inclusive`, `exclusive` or `unspecified`.
    pub tax_behavior: Option<String>,
    recurring: Option<Recurring>,
}

/// A product of the catalogue.
#[derive(Debug, Clone, Deserialize)]
pub struct ProductView {
    /// What customers read.
    pub name: Option<String>,
    /// Whether it can be bought.
    pub active: Option<bool>,
}

/// A discount that promotion codes give.
#[derive(Debug, Clone, Deserialize)]
pub struct CouponView {
    /// What customers read.
    pub name: Option<String>,
    /// A whole number wherever it is ours.
    pub percent_off: Option<serde_json::Number>,
    /// Minor units.
    pub amount_off: Option<i64>,
    /// Of the amount.
    pub currency: Option<String>,
    /// `once`, `repeating` or `forever`.
    pub duration: Option<String>,
    /// Where it is repeating.
    pub duration_in_months: Option<u32>,
    applies_to: Option<AppliesTo>,
}

#[derive(Debug, Clone, Deserialize)]
struct AppliesTo {
    #[serde(default)]
    products: Vec<String>,
}

impl CouponView {
    /// The products it is good for; empty for all.
    pub fn products(&self) -> &[String] {
        self.applies_to.as_ref().map_or(&[], |to| &to.products)
    }
}

/// What customers type at the payment page.
#[derive(Debug, Clone, Deserialize)]
pub struct PromotionCodeView {
    /// `promo_…`
    pub id: String,
    /// Whether it is taken.
    #[serde(default)]
    pub active: bool,
    /// How often it may be used.
    pub max_redemptions: Option<i64>,
    /// How often it was.
    #[serde(default)]
    pub times_redeemed: i64,
    /// Unix seconds.
    pub expires_at: Option<i64>,
    #[serde(default, deserialize_with = "map_or_null")]
    metadata: HashMap<String, String>,
    restrictions: Option<Restrictions>,
    promotion: Option<Promotion>,
}

#[derive(Debug, Clone, Deserialize)]
struct Restrictions {
    first_time_transaction: Option<bool>,
}

#[derive(Debug, Clone, Deserialize)]
struct Promotion {
    #[serde(default, deserialize_with = "id_of")]
    coupon: Option<String>,
}

impl PromotionCodeView {
    /// The coupon behind it.
    pub fn coupon(&self) -> Option<&str> {
        self.promotion.as_ref()?.coupon.as_deref()
    }

    /// Whether only a first purchase may use it.
    pub fn first_purchase(&self) -> bool {
        self.restrictions.as_ref().and_then(|only| only.first_time_transaction) == Some(true)
    }

    /// Whether we made it.
    pub fn is_managed(&self) -> bool {
        self.metadata.get("managed_by").is_some_and(|by| by == "ez")
    }

    /// Whether nothing but its use or its time has ended it, as of this time in unix seconds.
    pub fn is_used_up(&self, now: i64) -> bool {
        self.max_redemptions.is_some_and(|most| self.times_redeemed >= most)
            || self.expires_at.is_some_and(|end| end <= now)
    }
}

#[derive(Debug, Clone, Deserialize)]
struct Recurring {
    interval: Option<String>,
    interval_count: Option<i64>,
}

impl PriceView {
    /// How many months a period has; `None` for what is paid once, or by days.
    pub fn months(&self) -> Option<i64> {
        let every = self.recurring.as_ref()?;
        let count = every.interval_count.unwrap_or(1);
        match every.interval.as_deref()? {
            "month" => Some(count),
            "year" => Some(count.saturating_mul(12)),
            _ => None,
        }
    }
}
