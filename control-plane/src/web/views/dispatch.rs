//! Provisioning orders as operators see them: states, events, and the ways out.

use ez_protocol::UnixMillis;
use serde::Serialize;

use crate::web::{
    templates::Page,
    views::{Money, SAMPLE_NOW},
};

/// One provisioning order.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// `/operator/orders/{id}`
    pub href: String,
    /// Name of the server.
    pub server: String,
    /// `ensure`, `start`, `shutdown`, `reboot`, `stop`, `reset`, `retire`, `purge`; text
    /// `dispatch-verb-<verb>`.
    pub verb: String,
    /// Name of the node.
    pub node: String,
    /// `signed`, `queued`, `accepted`, `running`, `succeeded`, `failed`, `undone`, `stuck`, `refused`,
    /// `expired`, `superseded`; text `dispatch-state-<state>`.
    pub state: &'static str,
    /// Its colour.
    pub tone: &'static str,
    /// When it was signed.
    pub issued_at: UnixMillis,
    /// When it ended.
    pub ended_at: Option<UnixMillis>,
}

/// A purchase that waits for a person.
#[derive(Debug, Clone, Serialize)]
pub struct Waiting {
    /// Its latest provisioning order's page, or that of the purchase.
    pub href: String,
    /// Name of the server.
    pub server: String,
    /// Mail address of the customer.
    pub customer: String,
    /// What was paid.
    pub amount: Money,
    /// Text `orders-problem-<reason>`.
    pub reason: String,
    /// Since when.
    pub since: UnixMillis,
}

/// `GET /operator/orders?state=&before=`; event stream at `/operator/orders/changes`.
#[derive(Debug, Clone, Serialize)]
pub struct List {
    /// `all`, `open` or `trouble`.
    pub filter: &'static str,
    /// Purchases that need an operator, oldest first.
    pub waiting: Vec<Waiting>,
    /// Newest first, one page.
    pub orders: Vec<Row>,
    /// Address of the newer page.
    pub newer: Option<String>,
    /// Address of the older page.
    pub older: Option<String>,
}

/// What the node said, in order.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// When the node says it happened.
    pub at: UnixMillis,
    /// Text `dispatch-event-<code>`; unknown codes get a general word.
    pub code: String,
    /// Step, reason, UPID, as the node wrote it.
    pub detail: String,
    /// Colour of its mark: `good`, `wait`, `bad`, `idle`.
    pub tone: &'static str,
}

/// A way out for the purchase behind it.
#[derive(Debug, Clone, Serialize)]
pub struct Exit {
    /// `retry`, `re_place`, `abandon`, `refund`; posts to `<href>/<code>`.
    pub code: &'static str,
    /// Whether it can be taken now.
    pub enabled: bool,
    /// Why not: text `dispatch-exit-no-<why>` (`held`, `done`, `unpaid`, `refund`, `other`).
    pub why_not: Option<&'static str>,
}

/// A fact, ready to print: text `dispatch-fact-<code>`.
#[derive(Debug, Clone, Serialize)]
pub struct Fact {
    /// `vmid`, `generation`, `seq`, `epoch`, `expires`, `reference`, `cause`.
    pub code: &'static str,
    /// Its value.
    pub value: String,
}

/// `GET /operator/orders/{id}`; event stream at `<href>/changes`.
#[derive(Debug, Clone, Serialize)]
pub struct Show {
    /// The order.
    pub order: Row,
    /// Where the exits of the purchase are posted: `<exits_at>/<code>`. None when there is no purchase.
    pub exits_at: Option<String>,
    /// The page of the node.
    pub node_href: String,
    /// Mail address of the customer.
    pub customer: Option<String>,
    /// State of the purchase: text `orders-state-<state>`.
    pub purchase: Option<&'static str>,
    /// Numbers for people who read journals.
    pub facts: Vec<Fact>,
    /// Oldest first.
    pub events: Vec<Event>,
    /// Ways out, always the same four in the same order.
    pub exits: Vec<Exit>,
    /// Earlier and later orders for the same server, newest first, without this one.
    pub others: Vec<Row>,
}

fn row(server: &str, verb: &str, state: &'static str, tone: &'static str) -> Row {
    Row {
        href: format!("/operator/orders/{server}-{state}"),
        server: server.to_owned(),
        verb: verb.to_owned(),
        node: "fsn-3".to_owned(),
        state,
        tone,
        issued_at: UnixMillis(SAMPLE_NOW.0 - 14_000),
        ended_at: (tone == "good").then_some(SAMPLE_NOW),
    }
}

impl Page for List {
    const TEMPLATE: &'static str = "pages/dispatch/list.html";

    fn samples() -> Vec<(&'static str, Self)> {
        let full = Self {
            filter: "all",
            waiting: vec![Waiting {
                href: "/operator/orders/x".to_owned(),
                server: "web-1".to_owned(),
                customer: "jane@acme.example".to_owned(),
                amount: Money::new(900, "eur"),
                reason: "node-silent".to_owned(),
                since: UnixMillis(SAMPLE_NOW.0 - 600_000),
            }],
            orders: vec![
                row("web-1", "ensure", "stuck", "bad"),
                row("web-2", "ensure", "running", "wait"),
                row("web-3", "reboot", "succeeded", "good"),
                row("db-1", "purge", "refused", "bad"),
                row("db-2", "retire", "superseded", "idle"),
            ],
            newer: None,
            older: Some("/operator/orders?before=x".to_owned()),
        };
        let none =
            Self { filter: "trouble", waiting: Vec::new(), orders: Vec::new(), newer: None, older: None };
        vec![("full", full), ("none", none)]
    }
}

impl Page for Show {
    const TEMPLATE: &'static str = "pages/dispatch/show.html";

    fn samples() -> Vec<(&'static str, Self)> {
        let event = |ago: i64, code: &str, detail: &str, tone| Event {
            at: UnixMillis(SAMPLE_NOW.0 - ago),
            code: code.to_owned(),
            detail: detail.to_owned(),
            tone,
        };
        let exit = |code, why_not: Option<&'static str>| Exit { code, enabled: why_not.is_none(), why_not };
        let fact = |code, value: &str| Fact { code, value: value.to_owned() };
        let stuck = Self {
            order: row("web-1", "ensure", "stuck", "bad"),
            exits_at: Some("/operator/purchases/x".to_owned()),
            node_href: "/operator/nodes/fsn-3".to_owned(),
            customer: Some("jane@acme.example".to_owned()),
            purchase: Some("needs_operator"),
            facts: vec![
                fact("vmid", "10003"),
                fact("generation", "1"),
                fact("seq", "41"),
                fact("epoch", "3"),
                fact("expires", "20:59:30 UTC"),
                fact("reference", "q7f3-m2kd"),
                fact("cause", "purchase"),
            ],
            events: vec![
                event(13_000, "accepted", "", "good"),
                event(12_800, "step_started", "clone", "idle"),
                event(9_700, "step_done", "clone · UPID:fsn-3:0003A1:…", "good"),
                event(9_000, "x_unknown", "configure: 500 got no worker", "bad"),
            ],
            exits: vec![
                exit("retry", None),
                exit("re_place", Some("held")),
                exit("abandon", None),
                exit("refund", Some("other")),
            ],
            others: vec![row("web-1", "ensure", "undone", "idle")],
        };
        let action = Self {
            order: row("web-3", "reboot", "succeeded", "good"),
            exits_at: None,
            customer: None,
            purchase: None,
            events: Vec::new(),
            exits: Vec::new(),
            others: Vec::new(),
            ..stuck.clone()
        };
        vec![("stuck", stuck), ("action", action)]
    }
}
