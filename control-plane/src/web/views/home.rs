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
    /// Per month.
    pub price: Money,
    /// One per location.
    pub places: Vec<Place>,
}

/// `GET /`
#[derive(Debug, Clone, Serialize)]
pub struct Landing {
    /// Cheapest first.
    pub plans: Vec<PlanRow>,
    /// Names of the images on offer.
    pub images: Vec<String>,
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
        let row = |code: &str, size: u32, cents, hel| PlanRow {
            code: code.to_owned(),
            name: format!("Plan {}", code.to_uppercase()),
            vcpu: size,
            memory_mib: u64::from(size) * 2048,
            disk_gib: u64::from(size) * 20,
            traffic_gib: 20 * 1024,
            price: Money::new(cents, "eur"),
            places: vec![
                Place { name: "Falkenstein".to_owned(), left: "free" },
                Place { name: "Helsinki".to_owned(), left: hel },
            ],
        };
        let full = Self {
            plans: vec![row("s", 2, 900, "free"), row("m", 4, 1_700, "few"), row("l", 8, 3_300, "none")],
            images: ["Debian 13", "Debian 12", "Ubuntu 24.04", "Rocky Linux 9"].map(str::to_owned).to_vec(),
        };
        vec![("full", full), ("nothing-yet", Self { plans: Vec::new(), images: Vec::new() })]
    }
}

impl Page for Terms {
    const TEMPLATE: &'static str = "pages/home/terms.html";
    fn samples() -> Vec<(&'static str, Self)> {
        vec![("current", Self { version: "2026-11" })]
    }
}
