//! What pages show: plain data, one struct per template, no logic.
//!
//! A view is the template's other half. It stands here and not in the slice, so that a page, its
//! context, its samples and its texts can be designed and tested without the rest of the program;
//! the slice's `pages.rs` fills it. [`all`] lists every page, and a test refuses a template that is
//! not in it.

use ez_protocol::UnixMillis;
use minijinja::{Value, value::Serde};
use serde::Serialize;

use crate::{dispatch::QueueView, web::templates::Page};

pub mod accounts;
pub mod billing;
pub mod console;
pub mod dispatch;
pub mod errors;
pub mod fleet;
pub mod home;
pub mod instances;
pub mod metrics;
pub mod orders;
pub mod replan;

/// The time at which the samples are looked at: 2026-11-23T20:49:30Z.
pub const SAMPLE_NOW: UnixMillis = UnixMillis(1_795_466_970_000);

/// An amount of money.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Money {
    /// Minor units (cents).
    pub minor: i64,
    /// ISO currency in lower case.
    pub currency: String,
}

impl Money {
    /// An amount in a currency.
    pub fn new(minor: i64, currency: impl Into<String>) -> Self {
        Self { minor, currency: currency.into() }
    }
}

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// It happened.
    Done,
    /// It is happening.
    Now,
    /// Its turn comes later.
    Waiting,
    /// It did not work.
    Failed,
    /// It will not happen.
    Skipped,
}

/// One step of a timeline: text `step-<code>`, and `step-<code>-todo` before it is done.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// For a create: `paid, placed, signed, accepted, clone, configure, resize, cloud_init, firewall,
    /// start, start_on_boot, await_usable`; for an action its own code.
    pub code: String,
    /// How far it is.
    pub state: StepState,
    /// When it was finished.
    pub at: Option<UnixMillis>,
    /// How long it took, in milliseconds; shown instead of the time.
    pub took_ms: Option<i64>,
    /// A sentence below the step: where, why.
    pub note: Option<String>,
    /// Where it waits for its turn on its node.
    pub queue: Option<QueueView>,
}

impl Step {
    /// The step that is happening since `at`.
    pub fn now(code: impl Into<String>, at: UnixMillis) -> Self {
        Self {
            code: code.into(),
            state: StepState::Now,
            at: Some(at),
            took_ms: None,
            note: None,
            queue: None,
        }
    }
}

/// One page of the registry.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Path of the template.
    pub template: &'static str,
    /// Its samples with their names.
    pub samples: fn() -> Vec<(&'static str, Value)>,
}

fn entry<P: Page>() -> Entry {
    Entry {
        template: P::TEMPLATE,
        samples: || P::samples().into_iter().map(|(name, page)| (name, Value::from(Serde(page)))).collect(),
    }
}

/// Every page there is.
pub fn all() -> Vec<Entry> {
    vec![
        entry::<accounts::Account>(),
        entry::<accounts::Forgot>(),
        entry::<accounts::LogIn>(),
        entry::<accounts::MailSent>(),
        entry::<accounts::Reset>(),
        entry::<accounts::SignUp>(),
        entry::<accounts::Verify>(),
        entry::<billing::Invoices>(),
        entry::<console::Show>(),
        entry::<billing::Operated>(),
        entry::<billing::RevenuePage>(),
        entry::<billing::ServerMoney>(),
        entry::<dispatch::List>(),
        entry::<dispatch::Show>(),
        entry::<errors::Failure>(),
        entry::<fleet::AddNode>(),
        entry::<fleet::Alarms>(),
        entry::<fleet::Node>(),
        entry::<fleet::Overview>(),
        entry::<home::Landing>(),
        entry::<home::Terms>(),
        entry::<instances::Backups>(),
        entry::<instances::Firewall>(),
        entry::<instances::List>(),
        entry::<instances::Operated>(),
        entry::<instances::Password>(),
        entry::<instances::Rebuild>(),
        entry::<instances::Rescue>(),
        entry::<instances::Show>(),
        entry::<instances::Snapshots>(),
        entry::<metrics::Graphs>(),
        entry::<orders::New>(),
        entry::<orders::Show>(),
        entry::<replan::Choose>(),
        entry::<replan::Show>(),
    ]
}
