//! The letters about a plan change.

use serde::Serialize;

use crate::notify::Letter;

/// The server has its new plan.
#[derive(Clone, Debug, Serialize)]
pub struct PlanChanged {
    /// Description of the server.
    pub server: String,
    /// Name of the plan.
    pub plan: String,
    /// What a period costs, with its currency; may be empty.
    pub price: String,
    /// Whether it takes a restart to use all of it.
    pub restart: bool,
    /// The server's page.
    pub link: String,
}

impl Letter for PlanChanged {
    const TEMPLATE: &'static str = "plan-changed";
    fn sample() -> Self {
        Self {
            server: "web-1, Plan M (fsn)".into(),
            plan: "Plan M".into(),
            price: "19.00 €".into(),
            restart: true,
            link: "https://servers.example/servers/1".into(),
        }
    }
}

/// A change waits for its payment.
#[derive(Clone, Debug, Serialize)]
pub struct PlanChangeWaits {
    /// Description of the server.
    pub server: String,
    /// Name of the plan.
    pub plan: String,
    /// What is to be paid, with its currency.
    pub amount: String,
    /// Until when.
    pub until: String,
    /// Where to pay.
    pub link: String,
}

impl Letter for PlanChangeWaits {
    const TEMPLATE: &'static str = "plan-change-waits";
    fn sample() -> Self {
        Self {
            server: "web-1, Plan S (fsn)".into(),
            plan: "Plan M".into(),
            amount: "4.12 €".into(),
            until: "24 Nov 2026".into(),
            link: "https://invoice.example/i/1".into(),
        }
    }
}

/// A change did not come about.
#[derive(Clone, Debug, Serialize)]
pub struct PlanChangeOff {
    /// Description of the server.
    pub server: String,
    /// Name of the plan that it would have had.
    pub plan: String,
    /// `not_paid`, or another stable word.
    pub why: String,
    /// Where to try again.
    pub link: String,
}

impl Letter for PlanChangeOff {
    const TEMPLATE: &'static str = "plan-change-off";
    fn sample() -> Self {
        Self {
            server: "web-1, Plan S (fsn)".into(),
            plan: "Plan M".into(),
            why: "not_paid".into(),
            link: "https://servers.example/servers/1/plan".into(),
        }
    }
}

/// A change is booked for the end of the period.
#[derive(Clone, Debug, Serialize)]
pub struct PlanChangeBooked {
    /// Description of the server.
    pub server: String,
    /// Name of the plan.
    pub plan: String,
    /// When.
    pub on: String,
    /// Where to take it back.
    pub link: String,
}

impl Letter for PlanChangeBooked {
    const TEMPLATE: &'static str = "plan-change-booked";
    fn sample() -> Self {
        Self {
            server: "web-1, Plan M (fsn)".into(),
            plan: "Plan S".into(),
            on: "23 Dec 2026".into(),
            link: "https://servers.example/servers/1/plan/1".into(),
        }
    }
}
