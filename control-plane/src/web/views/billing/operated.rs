//! What operators see: what is not simply paid, disputes, Stripe's events and where the copy differs.

use ez_protocol::UnixMillis;
use serde::Serialize;

use crate::web::{
    templates::Page,
    views::{Money, SAMPLE_NOW},
};

/// A server that is not simply paid.
#[derive(Debug, Clone, Serialize)]
pub struct Queued {
    /// What it is.
    pub server: String,
    /// Its page for operators.
    pub href: String,
    /// As of [`super::Subscription`].
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
    /// Where a warning of fraud is marked as checked.
    pub check: Option<String>,
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
            disputes: vec![
                Dispute {
                    id: "du_1".to_owned(),
                    server: "web-3".to_owned(),
                    href: href.clone(),
                    status: "needs_response".to_owned(),
                    tone: "bad",
                    reason: "fraudulent".to_owned(),
                    amount: Money::new(900, "eur"),
                    answer_by: Some(SAMPLE_NOW),
                    check: None,
                },
                Dispute {
                    id: "issfr_1".to_owned(),
                    server: "web-4".to_owned(),
                    href,
                    status: "early_warning".to_owned(),
                    tone: "bad",
                    reason: "misc".to_owned(),
                    amount: Money::new(900, "eur"),
                    answer_by: None,
                    check: Some("/operator/billing/warnings/issfr_1/checked".to_owned()),
                },
            ],
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
