//! Another plan for a server: choosing it, what it costs, and how it stands.

use ez_protocol::UnixMillis;
use serde::Serialize;

use crate::web::{
    templates::Page,
    views::{
        Money, SAMPLE_NOW,
        instances::{Head, PlanSize, sample_head},
    },
};

/// One price of a plan.
#[derive(Debug, Clone, Serialize)]
pub struct Cell {
    /// Sent as `price`.
    pub price: String,
    /// `month`, `quarter`, `year`.
    pub interval: String,
    /// Per interval.
    pub amount: Money,
    /// `current`, `now`, `period_end`, or why not: `same`, `currency`, `disk`, `grows`, `room`. Text `replan-verdict-<code>`.
    pub verdict: &'static str,
    /// Whether it can be chosen.
    pub open: bool,
}

/// A plan.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Its size.
    pub size: PlanSize,
    /// Traffic per month in GiB.
    pub traffic_gib: u64,
    /// Whether the server has it.
    pub current: bool,
    /// One per interval.
    pub cells: Vec<Cell>,
}

/// A change of the past, or the one under way.
#[derive(Debug, Clone, Serialize)]
pub struct Past {
    /// Its page.
    pub href: String,
    /// Name of the plan.
    pub plan: String,
    /// Text `replan-state-<state>`.
    pub state: &'static str,
    /// Its colour.
    pub tone: &'static str,
    /// When it changed last.
    pub at: UnixMillis,
}

/// `GET /servers/{id}/plan`. The form posts `price` to itself.
#[derive(Debug, Clone, Serialize)]
pub struct Choose {
    /// The server.
    pub server: Head,
    /// What it has.
    pub plan: PlanSize,
    /// What is on sale.
    pub rows: Vec<Row>,
    /// Why nothing can be chosen now: text `replan-blocked-<code>`.
    pub blocked: Option<&'static str>,
    /// The change under way.
    pub open: Option<Past>,
    /// Newest first.
    pub past: Vec<Past>,
}

/// One line of what a change costs.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// In the words of the invoice.
    pub what: String,
    /// Its amount.
    pub amount: Money,
    /// From when.
    pub from: Option<UnixMillis>,
    /// Until when.
    pub until: Option<UnixMillis>,
}

/// What a change costs.
#[derive(Debug, Clone, Serialize)]
pub struct Cost {
    /// Line by line.
    pub lines: Vec<Line>,
    /// What is taken off.
    pub discount: Option<Money>,
    /// What is added.
    pub tax: Option<Money>,
    /// Credit that is used up.
    pub credit: Option<Money>,
    /// What becomes credit.
    pub becomes_credit: Option<Money>,
    /// What is too small to be charged now and comes with the next invoice.
    pub put_off: Option<Money>,
    /// What was put off before and is charged along.
    pub from_before: Option<Money>,
    /// What is charged now.
    pub due: Money,
    /// What the next period costs.
    pub next: Money,
    /// When that is charged.
    pub next_at: Option<UnixMillis>,
}

/// `GET /servers/{id}/plan/{change}`. Event stream at `<address>/changes`; forms post to `…/confirm` and `…/back`.
#[derive(Debug, Clone, Serialize)]
pub struct Show {
    /// The server.
    pub server: Head,
    /// Address of this page.
    pub href: String,
    /// Name of the plan before.
    pub from: String,
    /// The plan afterwards.
    pub to: PlanSize,
    /// `month`, `quarter`, `year`.
    pub interval: String,
    /// `now`, `period_end` or `outside`.
    pub way: &'static str,
    /// Text `replan-state-<state>`.
    pub state: &'static str,
    /// Its colour.
    pub tone: &'static str,
    /// What it costs, where that was asked for.
    pub cost: Option<Cost>,
    /// With the end of which period.
    pub due_at: Option<UnixMillis>,
    /// Until when it can be paid.
    pub expires_at: Option<UnixMillis>,
    /// Where.
    pub pay: Option<String>,
    /// Whether its preview can be confirmed still.
    pub confirmable: bool,
    /// Whether it can be taken back.
    pub can_go_back: bool,
    /// Whether something is going to happen by itself.
    pub waits: bool,
    /// Whether we restart the server for it.
    pub restarts: bool,
    /// Whether it gets more memory or CPUs, which take its customer's restart.
    pub grows: bool,
    /// Whether its disk grows.
    pub disk_grows: bool,
}

fn size(name: &str, vcpu: u32, memory_mib: u64, disk_gib: u64) -> PlanSize {
    PlanSize { name: name.to_owned(), vcpu, memory_mib, disk_gib }
}

impl Page for Choose {
    const TEMPLATE: &'static str = "pages/replan/choose.html";

    fn samples() -> Vec<(&'static str, Self)> {
        let cell = |interval: &str, minor, verdict, open| Cell {
            price: format!("x:{interval}:eur:v1"),
            interval: interval.to_owned(),
            amount: Money::new(minor, "eur"),
            verdict,
            open,
        };
        let past = |state, tone| Past {
            href: "/servers/1/plan/2".to_owned(),
            plan: "Plan M".to_owned(),
            state,
            tone,
            at: SAMPLE_NOW,
        };
        let row = |size: PlanSize, current, cells| Row { size, traffic_gib: 2_000, current, cells };
        let free = Self {
            server: sample_head("running", "good"),
            plan: size("Plan S", 2, 4_096, 40),
            rows: vec![
                row(
                    size("Plan XS", 1, 2_048, 20),
                    false,
                    vec![cell("month", 500, "disk", false), cell("year", 5_000, "currency", false)],
                ),
                row(
                    size("Plan S", 2, 4_096, 40),
                    true,
                    vec![cell("month", 900, "current", false), cell("year", 9_000, "now", true)],
                ),
                row(
                    size("Plan M", 4, 8_192, 80),
                    false,
                    vec![cell("month", 1_900, "now", true), cell("year", 19_000, "grows", false)],
                ),
                row(
                    size("Plan L", 8, 16_384, 160),
                    false,
                    vec![cell("month", 3_900, "room", false), cell("year", 800, "period_end", true)],
                ),
            ],
            blocked: None,
            open: None,
            past: vec![past("done", "good"), past("expired", "bad")],
        };
        let open = Self { open: Some(past("scheduled", "wait")), blocked: Some("busy"), ..free.clone() };
        let blocked = |code| Self { blocked: Some(code), past: Vec::new(), ..free.clone() };
        vec![
            ("open", open),
            ("not-paid", blocked("not-paid")),
            ("ending", blocked("ending")),
            ("disputed", blocked("disputed")),
            ("suspended", blocked("suspended")),
            ("needs-rebuild", blocked("needs-rebuild")),
            ("other", blocked("other")),
            ("free", free),
        ]
    }
}

impl Page for Show {
    const TEMPLATE: &'static str = "pages/replan/show.html";

    fn samples() -> Vec<(&'static str, Self)> {
        let day = 86_400_000;
        let line = |what: &str, minor| Line {
            what: what.to_owned(),
            amount: Money::new(minor, "eur"),
            from: Some(SAMPLE_NOW),
            until: Some(UnixMillis(SAMPLE_NOW.0 + 20 * day)),
        };
        let previewed = Self {
            server: sample_head("running", "good"),
            href: "/servers/1/plan/2".to_owned(),
            from: "Plan S".to_owned(),
            to: size("Plan M", 4, 8_192, 80),
            interval: "month".to_owned(),
            way: "now",
            state: "previewed",
            tone: "idle",
            cost: Some(Cost {
                lines: vec![
                    line("Unused time on 1 × Plan S", -600),
                    line("Remaining time on 1 × Plan M", 1_267),
                ],
                discount: Some(Money::new(100, "eur")),
                tax: Some(Money::new(108, "eur")),
                credit: Some(Money::new(200, "eur")),
                becomes_credit: None,
                put_off: None,
                from_before: None,
                due: Money::new(475, "eur"),
                next: Money::new(1_900, "eur"),
                next_at: Some(UnixMillis(SAMPLE_NOW.0 + 20 * day)),
            }),
            due_at: None,
            expires_at: None,
            pay: None,
            confirmable: true,
            can_go_back: false,
            waits: false,
            restarts: false,
            grows: true,
            disk_grows: true,
        };
        let stale = Self { confirmable: false, ..previewed.clone() };
        let credit = Self {
            cost: previewed.cost.clone().map(|cost| Cost {
                discount: None,
                tax: None,
                credit: None,
                becomes_credit: Some(Money::new(300, "eur")),
                due: Money::new(0, "eur"),
                ..cost
            }),
            restarts: true,
            grows: false,
            disk_grows: false,
            ..previewed.clone()
        };
        let small = Self {
            cost: previewed.cost.clone().map(|cost| Cost {
                lines: vec![line("Unused time on 1 × Plan S", -18), line("Remaining time on 1 × Plan M", 38)],
                discount: None,
                tax: None,
                credit: None,
                put_off: Some(Money::new(20, "eur")),
                due: Money::new(0, "eur"),
                ..cost
            }),
            ..previewed.clone()
        };
        let along = Self {
            cost: previewed.cost.clone().map(|cost| Cost {
                from_before: Some(Money::new(20, "eur")),
                due: Money::new(495, "eur"),
                ..cost
            }),
            ..previewed.clone()
        };
        let wanted =
            Self { state: "wanted", tone: "wait", confirmable: false, waits: true, ..previewed.clone() };
        let waiting = Self {
            state: "awaiting_payment",
            tone: "wait",
            expires_at: Some(UnixMillis(SAMPLE_NOW.0 + day)),
            pay: Some("https://invoice.stripe.example/i/1".to_owned()),
            ..wanted.clone()
        };
        let booking = Self {
            way: "period_end",
            due_at: Some(UnixMillis(SAMPLE_NOW.0 + 20 * day)),
            cost: previewed.cost.clone().map(|cost| Cost { lines: Vec::new(), ..cost }),
            restarts: true,
            grows: false,
            ..previewed.clone()
        };
        let scheduled = Self {
            state: "scheduled",
            tone: "wait",
            confirmable: false,
            can_go_back: true,
            ..booking.clone()
        };
        let ended = |state, tone| Self { state, tone, confirmable: false, ..previewed.clone() };
        vec![
            ("credit", credit),
            ("small", small),
            ("along", along),
            ("stale", stale),
            ("wanted", wanted.clone()),
            ("awaiting-payment", waiting),
            ("booking", booking),
            ("scheduled", scheduled),
            ("applied", Self { state: "applied", ..wanted }),
            ("done", ended("done", "good")),
            ("expired", ended("expired", "bad")),
            ("taken-back", ended("taken_back", "idle")),
            ("refused", ended("refused", "bad")),
            ("dropped", ended("dropped", "idle")),
            ("outside", Self { way: "outside", cost: None, ..ended("done", "good") }),
            ("previewed", previewed),
        ]
    }
}
