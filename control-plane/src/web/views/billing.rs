//! Invoices, mirrored from Stripe.

use ez_protocol::UnixMillis;
use serde::Serialize;

use crate::web::{
    FormState,
    templates::Page,
    views::{
        Money, SAMPLE_NOW,
        instances::PlanChange,
        metrics::{Chart, sample_chart},
    },
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
    /// Hosted page at Stripe.
    pub view: Option<String>,
    /// The PDF at Stripe.
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

/// A server that is not simply paid.
#[derive(Debug, Clone, Serialize)]
pub struct Queued {
    /// What it is.
    pub server: String,
    /// Its page for operators.
    pub href: String,
    /// As of [`Subscription`].
    pub state: String,
    /// Its colour.
    pub tone: &'static str,
    /// Since when.
    pub since: UnixMillis,
    /// What happens next.
    pub next: Option<String>,
    /// When.
    pub next_at: Option<UnixMillis>,
    /// When its disk goes, once its service has ended.
    pub purge_at: Option<UnixMillis>,
    /// Whether it is exempt.
    pub exempt: bool,
    /// Where to exempt it, or to take that back.
    pub exempt_href: String,
}

/// A payment that a bank takes back.
#[derive(Debug, Clone, Serialize)]
pub struct Dispute {
    /// Stripe's id.
    pub id: String,
    /// What it is about.
    pub server: String,
    /// Its page for operators.
    pub href: String,
    /// Stripe's word.
    pub status: String,
    /// Its colour.
    pub tone: &'static str,
    /// The bank's reason.
    pub reason: String,
    /// How much.
    pub amount: Money,
    /// Until when it can be answered.
    pub answer_by: Option<UnixMillis>,
}

/// An event of the inbox.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// Stripe's id.
    pub id: String,
    /// Stripe's type.
    pub kind: String,
    /// When it came.
    pub at: UnixMillis,
    /// `received`, `done`, `parked`, `ignored` or `failed`.
    pub state: String,
    /// Its colour.
    pub tone: &'static str,
    /// What went wrong.
    pub error: Option<String>,
    /// Where it can be replayed.
    pub replay: Option<String>,
}

/// Where the copy and Stripe do not agree.
#[derive(Debug, Clone, Serialize)]
pub struct Difference {
    /// Stripe's id.
    pub object: String,
    /// Its kind and what is wrong.
    pub what: String,
    /// When it was seen.
    pub found_at: UnixMillis,
    /// When it was mended.
    pub mended_at: Option<UnixMillis>,
}

/// What comes in, in one currency.
#[derive(Debug, Clone, Serialize)]
pub struct Revenue {
    /// A month's.
    pub monthly: Money,
    /// Subscriptions that are charged.
    pub live: i64,
    /// Churn of 30 days, as `1.5 %`.
    pub churn: String,
    /// What is owed.
    pub owed: Money,
    /// By how many invoices.
    pub owed_count: i64,
}

/// `GET /operator/billing`
#[derive(Debug, Clone, Serialize)]
pub struct Operated {
    /// By currency.
    pub revenue: Vec<Revenue>,
    /// The next step first.
    pub queue: Vec<Queued>,
    /// Open ones first.
    pub disputes: Vec<Dispute>,
    /// What failed first, then the newest.
    pub events: Vec<Event>,
    /// Open ones first.
    pub differences: Vec<Difference>,
}

impl Page for Operated {
    const TEMPLATE: &'static str = "pages/billing/operated.html";

    fn samples() -> Vec<(&'static str, Self)> {
        let href = "/operator/servers/01890a5d-ac96-774b-bcce-b302099a8057".to_owned();
        let owing = Queued {
            server: "web-1".to_owned(),
            href: href.clone(),
            state: "unpaid".to_owned(),
            tone: "bad",
            since: SAMPLE_NOW,
            next: Some("retire".to_owned()),
            next_at: Some(UnixMillis(SAMPLE_NOW.0 + 86_400_000)),
            purge_at: None,
            exempt: false,
            exempt_href: "/operator/billing/servers/1/exempt".to_owned(),
        };
        let spared = Queued {
            server: "web-2".to_owned(),
            state: "exempt".to_owned(),
            tone: "info",
            next: None,
            next_at: None,
            purge_at: None,
            exempt: true,
            ..owing.clone()
        };
        let parked = Event {
            id: "evt_1".to_owned(),
            kind: "invoice.paid".to_owned(),
            at: SAMPLE_NOW,
            state: "parked".to_owned(),
            tone: "bad",
            error: Some("Stripe's answer lacks id".to_owned()),
            replay: Some("/operator/billing/events/evt_1/replay".to_owned()),
        };
        let done = Event {
            id: "evt_2".to_owned(),
            state: "done".to_owned(),
            tone: "good",
            error: None,
            replay: None,
            ..parked.clone()
        };
        let some = Self {
            revenue: vec![Revenue {
                monthly: Money::new(123_400, "eur"),
                live: 137,
                churn: "1.5 %".to_owned(),
                owed: Money::new(1_800, "eur"),
                owed_count: 2,
            }],
            queue: vec![owing, spared],
            disputes: vec![Dispute {
                id: "du_1".to_owned(),
                server: "web-3".to_owned(),
                href,
                status: "needs_response".to_owned(),
                tone: "bad",
                reason: "fraudulent".to_owned(),
                amount: Money::new(900, "eur"),
                answer_by: Some(SAMPLE_NOW),
            }],
            events: vec![parked, done],
            differences: vec![
                Difference {
                    object: "sub_1".to_owned(),
                    what: "subscription: differs".to_owned(),
                    found_at: SAMPLE_NOW,
                    mended_at: None,
                },
                Difference {
                    object: "in_1".to_owned(),
                    what: "invoice: missing".to_owned(),
                    found_at: SAMPLE_NOW,
                    mended_at: Some(SAMPLE_NOW),
                },
            ],
        };
        let none = Self {
            revenue: Vec::new(),
            queue: Vec::new(),
            disputes: Vec::new(),
            events: Vec::new(),
            differences: Vec::new(),
        };
        vec![("some", some), ("none", none)]
    }
}

/// A month of one currency.
#[derive(Debug, Clone, Serialize)]
pub struct RevenueMonth {
    /// `2026-11`
    pub month: String,
    /// What a month brought at its end.
    pub monthly: Money,
    /// Subscriptions that were charged then.
    pub live: i64,
    /// Accounts that began to pay.
    pub new_customers: i64,
    /// Accounts that pay no more.
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

/// What went back, or was credited.
#[derive(Debug, Clone, Serialize)]
pub struct Given {
    /// When.
    pub at: UnixMillis,
    /// What it is about.
    pub server: String,
    /// `refund` or `credit`.
    pub kind: &'static str,
    /// How much.
    pub amount: Money,
    /// `wanted`, `done` or `refused`.
    pub state: &'static str,
    /// Its colour.
    pub tone: &'static str,
    /// Why; empty for customers and for what was done in Stripe's dashboard.
    pub reason: String,
}

/// What was paid with an invoice.
#[derive(Debug, Clone, Serialize)]
pub struct PaidInvoice {
    /// Stripe's id.
    pub id: String,
    /// Stripe's number.
    pub number: String,
    /// When it was made.
    pub at: UnixMillis,
    /// What was paid.
    pub paid: Money,
    /// What of it may still go back.
    pub left: Money,
}

/// `GET /operator/billing/servers/{id}`
#[derive(Debug, Clone, Serialize)]
pub struct ServerMoney {
    /// What it is.
    pub server: String,
    /// Its page for operators.
    pub href: String,
    /// Where the forms go.
    pub action: String,
    /// Newest first.
    pub invoices: Vec<PaidInvoice>,
    /// Newest first.
    pub given: Vec<Given>,
    /// How much credit may still be given.
    pub creditable: Money,
    /// What makes a press happen once; another one for each time the page is shown.
    pub key: String,
    /// The form of a refund, as it came back.
    pub refund: FormState,
    /// The form of credit, as it came back.
    pub credit: FormState,
}

impl Page for ServerMoney {
    const TEMPLATE: &'static str = "pages/billing/server.html";

    fn samples() -> Vec<(&'static str, Self)> {
        let euros = |minor| Money::new(minor, "eur");
        let given = |kind, state, tone| Given {
            at: SAMPLE_NOW,
            server: "web-1".to_owned(),
            kind,
            amount: euros(300),
            state,
            tone,
            reason: "It was down for a day".to_owned(),
        };
        let invoice = |number: &str, left| PaidInvoice {
            id: format!("in_{number}"),
            number: number.to_owned(),
            at: SAMPLE_NOW,
            paid: euros(900),
            left: euros(left),
        };
        let some = Self {
            server: "web-1".to_owned(),
            href: "/operator/servers/01890a5d-ac96-774b-bcce-b302099a8057".to_owned(),
            action: "/operator/billing/servers/01890a5d-ac96-774b-bcce-b302099a8057".to_owned(),
            invoices: vec![invoice("EZ-0002", 900), invoice("EZ-0001", 0)],
            given: vec![
                given("refund", "done", "good"),
                given("credit", "wanted", "wait"),
                given("refund", "refused", "bad"),
            ],
            creditable: euros(900),
            key: "f-0123456789".to_owned(),
            refund: FormState::default(),
            credit: FormState::default(),
        };
        let mut form = FormState::default();
        form.fill("amount", "12,5");
        form.refuse("amount", "amount-invalid");
        form.refuse("reason", "reason-needed");
        let refused = Self { refund: form, ..some.clone() };
        let none = Self { invoices: Vec::new(), given: Vec::new(), creditable: euros(0), ..some.clone() };
        vec![("some", some), ("refused", refused), ("none", none)]
    }
}
