//! The landing page and the terms.

use serde::Serialize;

use crate::web::{templates::Page, views::Money};

/// Whether a plan can be had at a location.
#[derive(Debug, Clone, Serialize)]
pub struct Place {
    /// Name of the location.
    pub name: String,
    /// `free`, `few` (fewer than five fit) or `none`.
    pub left: &'static str,
}

/// One row of the plan table.
#[derive(Debug, Clone, Serialize)]
pub struct PlanRow {
    /// Sent along as `plan` to the create page.
    pub code: String,
    /// `Plan S`
    pub name: String,
    /// Virtual CPUs.
    pub vcpu: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Disk in GiB.
    pub disk_gib: u64,
    /// Traffic per month in GiB.
    pub traffic_gib: u64,
    /// What it costs in the way it is shown first.
    pub price: RowPrice,
    /// And in the other ways.
    pub others: Vec<RowPrice>,
    /// One per location.
    pub places: Vec<Place>,
}

/// What a plan costs in one way to pay for it.
#[derive(Debug, Clone, Serialize)]
pub struct RowPrice {
    /// `month`, `quarter` or `year`.
    pub interval: String,
    /// Per interval.
    pub amount: Money,
    /// Paid once, with the first payment, if anything.
    pub setup: Option<Money>,
    /// Days that an account's first server costs nothing; 0 for no trial.
    pub trial_days: u32,
}

/// `GET /?currency=`
#[derive(Debug, Clone, Serialize)]
pub struct Landing {
    /// Cheapest first.
    pub plans: Vec<PlanRow>,
    /// Names of the images on offer.
    pub images: Vec<String>,
    /// Currencies that prices are in, lower-case ISO codes; more than one gives a choice.
    pub currencies: Vec<String>,
    /// The one that is shown.
    pub currency: String,
}

/// `GET /terms`
#[derive(Debug, Clone, Serialize)]
pub struct Terms {
    /// The version customers accept.
    pub version: &'static str,
}

impl Page for Landing {
    const TEMPLATE: &'static str = "pages/home/landing.html";
    fn samples() -> Vec<(&'static str, Self)> {
        let price = |interval: &str, cents, setup, trial_days| RowPrice {
            interval: interval.to_owned(),
            amount: Money::new(cents, "eur"),
            setup: (setup > 0).then(|| Money::new(setup, "eur")),
            trial_days,
        };
        let row = |code: &str, size: u32, cents, hel| PlanRow {
            code: code.to_owned(),
            name: format!("Plan {}", code.to_uppercase()),
            vcpu: size,
            memory_mib: u64::from(size) * 2048,
            disk_gib: u64::from(size) * 20,
            traffic_gib: 20 * 1024,
            price: price("month", cents, if size == 8 { 1_500 } else { 0 }, if size == 2 { 14 } else { 0 }),
            others: if size == 4 {
                Vec::new()
            } else {
                vec![price("quarter", cents * 3 - 100, 0, 0), price("year", cents * 10, 0, 0)]
            },
            places: vec![
                Place { name: "Falkenstein".to_owned(), left: "free" },
                Place { name: "Helsinki".to_owned(), left: hel },
            ],
        };
        let full = Self {
            plans: vec![row("s", 2, 900, "free"), row("m", 4, 1_700, "few"), row("l", 8, 3_300, "none")],
            images: ["Debian 13", "Debian 12", "Ubuntu 24.04", "Rocky Linux 9"].map(str::to_owned).to_vec(),
            currencies: vec!["eur".to_owned()],
            currency: "eur".to_owned(),
        };
        let two = Self { currencies: vec!["eur".to_owned(), "usd".to_owned()], ..full.clone() };
        let nothing =
            Self { plans: Vec::new(), images: Vec::new(), currencies: Vec::new(), currency: String::new() };
        vec![("full", full), ("two-currencies", two), ("nothing-yet", nothing)]
    }
}

impl Page for Terms {
    const TEMPLATE: &'static str = "pages/home/terms.html";
    fn samples() -> Vec<(&'static str, Self)> {
        vec![("current", Self { version: "2026-11" })]
    }
}
