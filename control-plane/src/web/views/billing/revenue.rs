//! Revenue by month and currency.

use serde::Serialize;

use crate::web::{
    templates::Page,
    views::{
        Money,
        metrics::{Chart, sample_chart},
    },
};

/// A month of one currency.
#[derive(Debug, Clone, Serialize)]
pub struct RevenueMonth {
    /// `2026-11`
    pub month: String,
    /// What a month brought at its end.
    pub monthly: Money,
    /// Subscriptions that were charged then.
    pub live: i64,
    /// Subscriptions that were paused, or left unpaid, and not over.
    pub paused: i64,
    /// Accounts that had no subscription before.
    pub new_customers: i64,
    /// Accounts that have none any more.
    pub lost_customers: i64,
    /// Subscriptions that ended, of a thousand.
    pub churn: i64,
    /// Charges that did not work at first.
    pub failed: i64,
    /// How much they were.
    pub failed_amount: Money,
    /// How many of them were paid later.
    pub recovered: i64,
}

/// One currency.
#[derive(Debug, Clone, Serialize)]
pub struct RevenueCurrency {
    /// Upper-case ISO code.
    pub currency: String,
    /// Of what a month brings, of customers and of failed charges.
    pub charts: Vec<Chart>,
    /// The newest first.
    pub months: Vec<RevenueMonth>,
}

/// `GET /operator/revenue`
#[derive(Debug, Clone, Serialize)]
pub struct RevenuePage {
    /// By currency; none before the first payment.
    pub currencies: Vec<RevenueCurrency>,
}

impl Page for RevenuePage {
    const TEMPLATE: &'static str = "pages/billing/revenue.html";

    fn samples() -> Vec<(&'static str, Self)> {
        let month = |month: &str, minor, new_customers| RevenueMonth {
            month: month.to_owned(),
            monthly: Money::new(minor, "eur"),
            live: 137,
            paused: 4,
            new_customers,
            lost_customers: 2,
            churn: 15,
            failed: 3,
            failed_amount: Money::new(2_700, "eur"),
            recovered: 2,
        };
        let chart = |code, unit, lines: &[&'static str]| Chart {
            currency: Some("eur".to_owned()),
            ..sample_chart(code, unit, 1_000, lines)
        };
        let euros = RevenueCurrency {
            currency: "EUR".to_owned(),
            charts: vec![
                chart("mrr", "money", &["mrr"]),
                chart("customers", "count", &["customers-new", "customers-lost"]),
                chart("failed", "count", &["failed", "recovered"]),
            ],
            months: vec![month("2026-11", 123_400, 5), month("2026-10", 120_000, 0)],
        };
        vec![("some", Self { currencies: vec![euros] }), ("none", Self { currencies: Vec::new() })]
    }
}
