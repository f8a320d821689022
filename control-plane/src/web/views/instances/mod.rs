//! The customer's servers: the list, one server, and what can be done with it.

mod care;

use ez_protocol::UnixMillis;
use serde::Serialize;

use crate::web::{
    forms::FormState,
    templates::Page,
    views::{
        Money, SAMPLE_NOW, Step, StepState,
        metrics::{Overage, TrafficUse},
        orders::sample_steps,
    },
};

pub use care::{
    Backup, Backups, Firewall, Medium, Operated, Password, Rebuild, Rescue, Rule, Snapshot, Snapshots,
};

/// The observed state, never the wished one.
#[derive(Debug, Clone, Serialize)]
pub struct State {
    /// `requested`, `building`, `running`, `stopped`, `unknown`, `suspended`, `retiring`, `retired`,
    /// `purged`, `failed`, `needs_operator`.
    pub code: &'static str,
    /// Its colour: `good`, `wait`, `bad`, `idle`.
    pub tone: &'static str,
    /// When the node last saw it so.
    pub observed_at: Option<UnixMillis>,
}

/// The size of a server.
#[derive(Debug, Clone, Serialize)]
pub struct PlanSize {
    /// `Plan S`
    pub name: String,
    /// Virtual CPUs.
    pub vcpu: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Disk in GiB.
    pub disk_gib: u64,
}

/// A button of the server's page.
#[derive(Debug, Clone, Serialize)]
pub struct Action {
    /// `start`, `shutdown`, `reboot`, `stop`, `reset`; sent as `action` to `<href>/actions`.
    pub code: &'static str,
    /// Whether it makes sense in the observed state.
    pub enabled: bool,
    /// Whether it asks first.
    pub asks: bool,
}

/// What is being done to the server right now.
#[derive(Debug, Clone, Serialize)]
pub struct Running {
    /// `create` or the code of an action: text `instances-running-<code>`.
    pub code: String,
    /// Its steps.
    pub steps: Vec<Step>,
}

/// A sentence about the server: text `instances-notice-<code>`.
#[derive(Debug, Clone, Serialize)]
pub struct Notice {
    /// `info`, `wait`, `bad`, `good`.
    pub tone: &'static str,
    /// `retired` (with the time of the purge), `node-away`, `started-not-confirmed`, `action-failed`,
    /// `action-refused`, `suspended` (with the reason), `needs-rebuild`, `in-rescue`, `restart-needed`,
    /// `needs-operator`.
    pub code: &'static str,
    /// A time the sentence ends with.
    pub at: Option<UnixMillis>,
    /// What somebody wrote about it.
    pub detail: Option<String>,
}

/// What all pages of one server begin with.
#[derive(Debug, Clone, Serialize)]
pub struct Head {
    /// Address of the server's first page, without a slash at its end.
    pub href: String,
    /// The hostname.
    pub name: String,
    /// What the node saw.
    pub state: State,
    /// Sentences above everything.
    pub notices: Vec<Notice>,
    /// The change under way.
    pub running: Option<Running>,
    /// Whether the pages beside the first one are there: it is built, and not ended.
    pub live: bool,
    /// Why nothing can be begun now: text `instances-locked-<code>`.
    pub locked: Option<&'static str>,
}

/// What it costs.
#[derive(Debug, Clone, Serialize)]
pub struct Price {
    /// Per interval.
    pub amount: Money,
    /// `month` or `year`.
    pub interval: String,
}

/// What the money says about a server, and what comes next.
#[derive(Debug, Clone, Serialize)]
pub struct Due {
    /// Text `billing-why-<state>`.
    pub state: &'static str,
    /// Colour of the state.
    pub tone: &'static str,
    /// Whether all is well: nothing but the next date is worth a line then.
    pub well: bool,
    /// Text `billing-next-<next>`, and its date.
    pub next: Option<(&'static str, UnixMillis)>,
}

/// A change of the plan that is under way.
#[derive(Debug, Clone, Serialize)]
pub struct PlanChange {
    /// Its page.
    pub href: String,
    /// `wanted`, `awaiting_payment`, `scheduled` or `applied`: text `replan-short-<state>`.
    pub state: &'static str,
    /// Name of the plan that comes.
    pub plan: String,
    /// How often is paid then, if that changes: text `orders-new-per-<interval>`.
    pub interval: Option<String>,
    /// When it comes, or until when it can be paid.
    pub at: Option<UnixMillis>,
}

/// One line of the activity list.
#[derive(Debug, Clone, Serialize)]
pub struct Activity {
    /// When.
    pub at: UnixMillis,
    /// Who: a mail address, or `EZ Solutions`.
    pub actor: String,
    /// Text `instances-event-<code>`; unknown codes get a general sentence.
    pub code: String,
    /// What it was about, such as a snapshot's name; may be empty.
    pub about: String,
}

/// `GET /servers/{id}`. Event stream at `<href>/changes`, buttons post to `<href>/actions`, deletion
/// to `<href>/delete` with the server's name as `confirm`.
#[derive(Debug, Clone, Serialize)]
pub struct Show {
    /// What all pages of it begin with.
    pub server: Head,
    /// Power buttons in their order.
    pub actions: Vec<Action>,
    /// `ssh root@203.0.113.24`, once there is an address.
    pub ssh: Option<String>,
    /// Without prefix length.
    pub ipv4: Option<String>,
    /// Without prefix length.
    pub ipv6: Option<String>,
    /// `SHA256:… (ED25519)`
    pub fingerprints: Vec<String>,
    /// What was bought.
    pub plan: PlanSize,
    /// Name of the image.
    pub image: String,
    /// Name of the location.
    pub location: String,
    /// When it was ordered.
    pub created_at: UnixMillis,
    /// This month's traffic.
    pub traffic: TrafficUse,
    /// None when nobody pays for it.
    pub price: Option<Price>,
    /// What the money says about it; none while nobody pays for it.
    pub due: Option<Due>,
    /// Newest first, at most ten.
    pub activity: Vec<Activity>,
    /// Whether the danger zone is shown.
    pub can_delete: bool,
    /// The change of its plan that is under way.
    pub plan_change: Option<PlanChange>,
    /// Messages of the forms for its name and its deletion.
    pub form: FormState,
}

/// One server of the list.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The server's page, or the order's while it is unpaid.
    pub href: String,
    /// The hostname.
    pub name: String,
    /// What the node saw.
    pub state: State,
    /// Without prefix length; none before placement.
    pub ipv4: Option<String>,
    /// Without prefix length; none before placement.
    pub ipv6: Option<String>,
    /// `Plan S`
    pub plan: String,
    /// Name of the location.
    pub location: String,
    /// Name of the image.
    pub image: String,
}

/// `GET /servers?q=`. The filter understands words and `state:` / `location:` / `plan:`.
#[derive(Debug, Clone, Serialize)]
pub struct List {
    /// The filter as typed.
    pub query: String,
    /// What matches.
    pub servers: Vec<Row>,
    /// How many there are without the filter.
    pub total: u32,
    /// Orders that wait for payment: (address, name of the server).
    pub unpaid: Vec<(String, String)>,
    /// Address of the newer page.
    pub newer: Option<String>,
    /// Address of the older page.
    pub older: Option<String>,
}

/// The head of a sample.
pub(crate) fn sample_head(code: &'static str, tone: &'static str) -> Head {
    Head {
        href: "/servers/01890a5d-ac96-774b-bcce-b302099a8057".to_owned(),
        name: "web-1".to_owned(),
        state: State { code, tone, observed_at: Some(UnixMillis(SAMPLE_NOW.0 - 4_000)) },
        notices: Vec::new(),
        running: None,
        live: true,
        locked: None,
    }
}

impl Page for Show {
    const TEMPLATE: &'static str = "pages/instances/show.html";

    fn samples() -> Vec<(&'static str, Self)> {
        let action = |code, enabled, asks| Action { code, enabled, asks };
        let event = |code: &str, ago: i64| Activity {
            at: UnixMillis(SAMPLE_NOW.0 - ago),
            actor: "jane@acme.example".to_owned(),
            code: code.to_owned(),
            about: "before-upgrade".to_owned(),
        };
        let running = Self {
            server: sample_head("running", "good"),
            actions: vec![
                action("start", false, false),
                action("shutdown", true, true),
                action("reboot", true, true),
                action("stop", true, true),
                action("reset", true, true),
            ],
            ssh: Some("ssh root@203.0.113.24".to_owned()),
            ipv4: Some("203.0.113.24".to_owned()),
            ipv6: Some("2001:db8:12::1".to_owned()),
            fingerprints: vec!["SHA256:9x2pJbV1c0mT5rQwE8yN4kLzA7sD3fGhU6iOoPqRtYw (ED25519)".to_owned()],
            plan: PlanSize { name: "Plan S".to_owned(), vcpu: 2, memory_mib: 4096, disk_gib: 40 },
            image: "Debian 13".to_owned(),
            location: "Falkenstein".to_owned(),
            created_at: UnixMillis(SAMPLE_NOW.0 - 86_400_000),
            traffic: TrafficUse {
                month: "2026-11".to_owned(),
                bytes_in: 150 << 30,
                bytes_out: 64 << 30,
                counted: 214 << 30,
                included: Some(2 << 40),
                overage: Some(Overage::sample(0, 0)),
            },
            price: Some(Price { amount: Money::new(900, "eur"), interval: "month".to_owned() }),
            due: Some(Due {
                state: "paid",
                tone: "good",
                well: true,
                next: Some(("charge", UnixMillis(SAMPLE_NOW.0 + 29 * 86_400_000))),
            }),
            activity: vec![
                event("reboot", 3_600_000),
                event("snapshot_create", 7_200_000),
                event("created", 86_000_000),
                event("x-unknown", 86_400_000),
            ],
            can_delete: true,
            plan_change: None,
            form: FormState::default(),
        };
        let mut refused = running.clone();
        refused.form.refuse("confirm", "confirm-name");
        refused.form.refuse("hostname", "hostname-invalid");
        let building = Self {
            server: Head {
                state: State { code: "building", tone: "wait", observed_at: None },
                running: Some(Running { code: "create".to_owned(), steps: sample_steps(6, StepState::Now) }),
                live: false,
                ..running.server.clone()
            },
            actions: Vec::new(),
            fingerprints: Vec::new(),
            activity: Vec::new(),
            can_delete: false,
            ..running.clone()
        };
        let notice = |tone, code, at| Notice { tone, code, at, detail: None };
        let rebooting = Self {
            server: Head {
                running: Some(Running {
                    code: "reboot".to_owned(),
                    steps: vec![Step::now("reboot", SAMPLE_NOW)],
                }),
                notices: vec![notice("wait", "node-away", Some(SAMPLE_NOW))],
                locked: Some("busy"),
                ..sample_head("unknown", "wait")
            },
            plan_change: Some(PlanChange {
                href: "/servers/1/plan/2".to_owned(),
                state: "scheduled",
                plan: "Plan XS".to_owned(),
                interval: None,
                at: Some(SAMPLE_NOW),
            }),
            ..running.clone()
        };
        let retired = Self {
            server: Head {
                notices: vec![notice("info", "retired", Some(UnixMillis(SAMPLE_NOW.0 + 72 * 3_600_000)))],
                live: false,
                ..sample_head("retired", "idle")
            },
            actions: Vec::new(),
            ssh: None,
            due: None,
            price: None,
            traffic: TrafficUse { included: None, overage: None, ..running.traffic.clone() },
            can_delete: false,
            ..running.clone()
        };
        let suspended = Self {
            server: Head {
                notices: vec![
                    Notice {
                        tone: "bad",
                        code: "suspended",
                        at: Some(SAMPLE_NOW),
                        detail: Some("Invoice 2026-117 is unpaid.".to_owned()),
                    },
                    notice("wait", "restart-needed", None),
                ],
                locked: Some("suspended"),
                ..sample_head("suspended", "idle")
            },
            ..running.clone()
        };
        vec![
            ("running", running),
            ("delete-refused", refused),
            ("building", building),
            ("rebooting", rebooting),
            ("retired", retired),
            ("suspended", suspended),
        ]
    }
}

impl Page for List {
    const TEMPLATE: &'static str = "pages/instances/list.html";

    fn samples() -> Vec<(&'static str, Self)> {
        let row = |name: &str, last: u8, code, tone, ago: Option<i64>| Row {
            href: format!("/servers/{name}"),
            name: name.to_owned(),
            state: State { code, tone, observed_at: ago.map(|ago| UnixMillis(SAMPLE_NOW.0 - ago)) },
            ipv4: ago.map(|_| format!("203.0.113.{last}")),
            ipv6: ago.map(|_| format!("2001:db8:12:{last}::1")),
            plan: "Plan S".to_owned(),
            location: "Falkenstein".to_owned(),
            image: "Debian 13".to_owned(),
        };
        let several = Self {
            query: String::new(),
            servers: vec![
                row("web-1", 24, "running", "good", Some(4_000)),
                row("web-2", 25, "stopped", "idle", Some(6_000)),
                row("database-primary-eu-1", 31, "building", "wait", None),
                row("old-mail", 9, "unknown", "wait", Some(190_000)),
                row("broken", 10, "needs_operator", "bad", Some(600_000)),
            ],
            total: 5,
            unpaid: vec![("/orders/x".to_owned(), "staging-1".to_owned())],
            newer: None,
            older: Some("/servers?page=2".to_owned()),
        };
        let none = Self {
            query: String::new(),
            servers: Vec::new(),
            total: 0,
            unpaid: Vec::new(),
            newer: None,
            older: None,
        };
        let filtered = Self { query: "state:failed".to_owned(), total: 5, ..none.clone() };
        vec![("several", several), ("none", none), ("nothing-matches", filtered)]
    }
}
