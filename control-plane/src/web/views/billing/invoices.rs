//! What an account pays for, and its invoices.

use ez_protocol::UnixMillis;
use serde::Serialize;

use super::Given;
use crate::web::{
    templates::Page,
    views::{Money, SAMPLE_NOW, instances::PlanChange},
};

/// One invoice.
#[derive(Debug, Clone, Serialize)]
pub struct Invoice {
    /// Stripe's number, or none while it is a draft.
    pub number: Option<String>,
    /// When it was made.
    pub at: UnixMillis,
    /// Names of the servers it is for.
    pub servers: Vec<String>,
    /// The total, before credit.
    pub total: Money,
    /// What is still to be paid of it, or was paid, if credit makes that another sum.
    pub charged: Option<Money>,
    /// `paid`, `open`, `void`, `uncollectible`, `refunded`, `draft`.
    pub state: String,
    /// Its colour.
    pub tone: &'static str,
    /// Leads to its page at Stripe.
    pub view: Option<String>,
    /// Leads to its PDF at Stripe.
    pub pdf: Option<String>,
}

/// What an account pays for one server.
#[derive(Debug, Clone, Serialize)]
pub struct Subscription {
    /// What it is.
    pub server: String,
    /// The server's page.
    pub href: String,
    /// What it costs per period, where known.
    pub price: Option<Money>,
    /// How often that is charged: `month`, `quarter` or `year`.
    pub interval: &'static str,
    /// `run`, `grace`, `exempt`, `unpaid`, `paused`, `disputed`, `dispute_lost`, `refunded`, `ended`.
    pub state: String,
    /// Its colour.
    pub tone: &'static str,
    /// What happens next: `charge`, `end`, `lapse`, `suspend`, `notice` or `retire`.
    pub next: Option<String>,
    /// When.
    pub next_at: Option<UnixMillis>,
    /// When the disk goes, once its service has ended.
    pub purge_at: Option<UnixMillis>,
    /// The card that is charged.
    pub card: Option<Card>,
    /// Where what is owed can be paid.
    pub pay: Option<String>,
    /// Where its plan can be changed.
    pub plan: Option<String>,
    /// The change of its plan that is under way.
    pub change: Option<PlanChange>,
    /// Where to have it end with the paid period.
    pub cancel: Option<String>,
    /// Where to take that back.
    pub keep: Option<String>,
}

/// What is shown of a card.
#[derive(Debug, Clone, Serialize)]
pub struct Card {
    /// For example `visa`.
    pub brand: String,
    /// Its last four digits.
    pub last4: String,
    /// Until when it is good, `12/2034`.
    pub until: String,
}

/// A month's traffic of a server, where more than is included costs something.
#[derive(Debug, Clone, Serialize)]
pub struct TrafficMonth {
    /// What it is.
    pub server: String,
    /// Its graphs.
    pub href: String,
    /// `2026-11`
    pub month: String,
    /// Bytes, both directions.
    pub used: u64,
    /// Bytes that are included.
    pub included: u64,
    /// What is above costs so much, so far or at the end.
    pub cost: Money,
    /// `running`, `wanted`, `posted`, `invoiced` or `waived`.
    pub state: String,
    /// Its colour.
    pub tone: &'static str,
    /// It is put on the first invoice after that, while it is not on one.
    pub after: Option<UnixMillis>,
}

/// `GET /billing?before=`
#[derive(Debug, Clone, Serialize)]
pub struct Invoices {
    /// What is paid, live ones first.
    pub subscriptions: Vec<Subscription>,
    /// Traffic that may cost something, the running months first.
    pub traffic: Vec<TrafficMonth>,
    /// What went back or was credited, the newest first.
    pub given: Vec<Given>,
    /// Credit that the next invoice uses up.
    pub credit: Option<Money>,
    /// Newest first, one page.
    pub invoices: Vec<Invoice>,
    /// Whether there is a customer at Stripe, so that the portal button makes sense.
    pub can_manage: bool,
    /// Address of the newer page.
    pub newer: Option<String>,
    /// Address of the older page.
    pub older: Option<String>,
}

impl Page for Invoices {
    const TEMPLATE: &'static str = "pages/billing/invoices.html";

    fn samples() -> Vec<(&'static str, Self)> {
        let invoice = |number: &str, minor, state: &str, tone| Invoice {
            number: Some(number.to_owned()),
            at: UnixMillis(SAMPLE_NOW.0 - 86_400_000),
            servers: vec!["web-1".to_owned()],
            total: Money::new(minor, "eur"),
            charged: matches!(state, "open" | "paid").then(|| Money::new(minor - 300, "eur")),
            state: state.to_owned(),
            tone,
            view: Some("https://invoice.stripe.example/i/1".to_owned()),
            pdf: Some("https://invoice.stripe.example/i/1/pdf".to_owned()),
        };
        let draft = Invoice { number: None, view: None, pdf: None, ..invoice("", 900, "draft", "idle") };
        let running = Subscription {
            server: "web-1".to_owned(),
            href: "/servers/01890a5d-ac96-774b-bcce-b302099a8057".to_owned(),
            price: Some(Money::new(900, "eur")),
            interval: "month",
            state: "paid".to_owned(),
            tone: "good",
            next: Some("charge".to_owned()),
            next_at: Some(UnixMillis(SAMPLE_NOW.0 + 86_400_000)),
            purge_at: None,
            card: Some(Card {
                brand: "visa".to_owned(),
                last4: "4242".to_owned(),
                until: "12/2034".to_owned(),
            }),
            pay: None,
            plan: Some("/servers/1/plan".to_owned()),
            change: None,
            cancel: Some("/billing/orders/1/cancel".to_owned()),
            keep: None,
        };
        let ending = Subscription {
            server: "web-2".to_owned(),
            interval: "year",
            change: Some(PlanChange {
                href: "/servers/2/plan/1".to_owned(),
                state: "scheduled",
                plan: "Plan XS".to_owned(),
                interval: Some("year".to_owned()),
                at: Some(SAMPLE_NOW),
            }),
            next: Some("end".to_owned()),
            cancel: None,
            keep: Some("/billing/orders/2/keep".to_owned()),
            ..running.clone()
        };
        let owing = Subscription {
            server: "web-3".to_owned(),
            state: "unpaid".to_owned(),
            tone: "bad",
            next: Some("retire".to_owned()),
            card: None,
            pay: Some("https://invoice.stripe.example/i/3".to_owned()),
            ..running.clone()
        };
        let over = Subscription {
            server: "web-0".to_owned(),
            price: None,
            state: "ended".to_owned(),
            tone: "idle",
            next: None,
            next_at: None,
            purge_at: None,
            plan: None,
            cancel: None,
            ..running.clone()
        };
        let month = |state: &str, tone, minor, after| TrafficMonth {
            server: "web-1".to_owned(),
            href: "/servers/01890a5d-ac96-774b-bcce-b302099a8057/graphs".to_owned(),
            month: "2026-11".to_owned(),
            used: 1_234 << 30,
            included: 1_000 << 30,
            cost: Money::new(minor, "eur"),
            state: state.to_owned(),
            tone,
            after,
        };
        let traffic = vec![
            month("running", "info", 36, Some(SAMPLE_NOW)),
            month("wanted", "wait", 36, Some(SAMPLE_NOW)),
            month("posted", "wait", 36, Some(SAMPLE_NOW)),
            month("invoiced", "good", 24, None),
            month("waived", "idle", 24, None),
        ];
        let given = |kind, amount, state, tone| Given {
            at: SAMPLE_NOW,
            server: "web-1".to_owned(),
            kind,
            amount: Money::new(amount, "eur"),
            state,
            tone,
            reason: String::new(),
        };
        let some = Self {
            given: vec![
                given("refund", 450, "done", "good"),
                given("refund", 100, "wanted", "wait"),
                given("refund", 100, "refused", "bad"),
                given("credit", 450, "done", "good"),
            ],
            traffic,
            subscriptions: vec![running, ending, owing, over],
            credit: Some(Money::new(450, "eur")),
            invoices: vec![
                draft,
                invoice("EZ-0003", 900, "open", "wait"),
                invoice("EZ-0002", 1_700, "paid", "good"),
                invoice("EZ-0001", 900, "refunded", "idle"),
            ],
            can_manage: true,
            newer: None,
            older: Some("/billing?before=3".to_owned()),
        };
        let none = Self {
            subscriptions: Vec::new(),
            traffic: Vec::new(),
            given: Vec::new(),
            credit: None,
            invoices: Vec::new(),
            can_manage: false,
            newer: None,
            older: None,
        };
        vec![("some", some), ("none", none)]
    }
}
