//! Carries accepted orders out, one actor per instance.
//!
//! Orders of one instance run one after the other in the order of their sequence; different
//! instances run beside each other within the host's [`limits`]. An order is a saga of steps
//! ([`saga`]): look, journal the intent, act, journal the task, wait, journal the result. After a
//! crash the same code runs again over the same journal and *looks first*.
//!
//! How an order ends:
//!
//! | end | means |
//! |---|---|
//! | `succeeded` | done as ordered, with facts |
//! | `failed` | not done; nothing it made is there |
//! | `undone` | not done; what it had made is gone again, and what it had stopped runs, if it was not destroyed |
//! | `stuck` | needs an operator; the facts are in the detail |
//! | `superseded` | a later generation came before it began |

mod action;
mod actors;
mod adopt;
mod backup;
mod clone;
mod configure;
mod context;
mod destroy;
mod disk;
mod ensure;
mod fault;
mod firewall;
mod firstboot;
mod limits;
mod password;
mod power;
mod press;
mod purge;
mod queue;
mod repair;
mod rescue;
mod retire;
mod room;
mod saga;
mod snapshot;
mod task;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::kit as testkit;
mod undo;

use std::{path::PathBuf, sync::Arc};

use ez_protocol::{
    ProvisioningOrderId,
    message::{EventKind, Facts},
};
use serde_json::json;
use tokio::sync::Notify;

use crate::{
    clock::Clock,
    contact::Contact,
    journal::{BookEntry, Journal, OrderRow, OrderState, Phase, Space, StepRow, Verb},
    policy::Policy,
    pve::{CloneMode, Hypervisor, TaskState, Upid},
};

pub use actors::Actors;
pub use firstboot::{FirstBoot, FirstBootError};
pub use limits::{Limits, Load, Pace};
pub use queue::CloneWish;

use context::Cx;
use fault::Trouble;

/// What the host's configuration and policy say about carrying orders out.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The whole policy, for the last look at every change.
    pub policy: Policy,
    /// Pool of our VMs.
    pub pool: String,
    /// Storage for full clones.
    pub storage: String,
    /// Full or linked.
    pub clone_mode: CloneMode,
    /// Name of the snippet storage.
    pub snippet_storage: String,
    /// Where the root-owned repair looks for requests, if it is installed.
    pub repair_dir: Option<PathBuf>,
}

/// Everything the executor works with.
pub struct Engine {
    /// The journal.
    pub journal: Journal,
    /// The host.
    pub pve: Arc<dyn Hypervisor>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// First-boot files.
    pub first_boot: Arc<dyn FirstBoot>,
    /// Bounds and names of this host.
    pub rules: Rules,
    /// Semaphores.
    pub limits: Limits,
    /// Intervals and time-outs.
    pub pace: Pace,
    /// When the control plane was last heard.
    pub contact: Arc<Contact>,
    /// The kernel's boot id.
    pub boot_id: String,
    /// The journal's disk.
    pub space: Space,
    /// Rung when there is a new event in the outbox.
    pub told: Arc<Notify>,
    /// Rung when an order has ended: states are worth a look.
    pub changed: Arc<Notify>,
}

/// The task of a step that a restart finds at work.
async fn running_task(cx: &Cx, row: Option<&StepRow>) -> Result<Option<Upid>, Trouble> {
    let Some(upid) = row.and_then(|row| row.upid.as_deref()?.parse::<Upid>().ok()) else { return Ok(None) };
    Ok(match cx.pve().task_status(&upid).await? {
        TaskState::Running => Some(upid),
        TaskState::Ended(_) | TaskState::Unknown => None,
    })
}

/// Lets later clones go on when an order has ended or was dropped.
struct Settled<'a>(&'a Limits, u64);

impl Drop for Settled<'_> {
    fn drop(&mut self) {
        self.0.clones.settled(self.1);
    }
}

/// How an order came to its end.
struct End {
    state: OrderState,
    kind: EventKind,
    class: &'static str,
    detail: String,
    facts: Option<Facts>,
    books: BookEntry,
}

impl Engine {
    /// Runs one order to its end, or until the journal fails. What happens then is what happens
    /// after a crash: the next start goes on.
    ///
    /// # Errors
    /// Only if the journal cannot be read or written.
    async fn run_order(self: &Arc<Self>, id: ProvisioningOrderId) -> Result<(), String> {
        let Some(row) = self.journal.order(id).await.map_err(|error| error.to_string())? else {
            return Ok(());
        };
        // However it ends, by a defect too: later clones of other servers do not wait for it.
        let _settled = Settled(&self.limits, row.seq);
        self.run_row(&row).await
    }

    /// Ends an order that met the same defect of ours again and again, so that what waits behind it goes on.
    ///
    /// # Errors
    /// Only if the journal cannot be read or written.
    async fn give_up(&self, id: ProvisioningOrderId) -> Result<(), String> {
        let row = self.journal.order(id).await.map_err(|error| error.to_string())?;
        let Some(row) = row.filter(|row| !row.state.is_terminal()) else { return Ok(()) };
        let what = "the order met a defect of this agent, again and again; its log says which";
        let end = self.stuck(&row, Trouble::Fail(fault::Class::Bug, what.to_owned()));
        self.finish(&row, end).await.map_err(|error| error.to_string())
    }

    async fn run_row(self: &Arc<Self>, row: &OrderRow) -> Result<(), String> {
        if row.state.is_terminal() {
            return Ok(());
        }
        let end = match self.work(row).await {
            Ok(end) => end,
            Err(Trouble::Journal(error)) => return Err(error),
            Err(trouble) => self.stuck(row, trouble),
        };
        self.finish(row, end).await.map_err(|error| error.to_string())
    }

    async fn work(self: &Arc<Self>, row: &OrderRow) -> Result<End, Trouble> {
        if row.state == OrderState::Accepted
            && let Some(end) = self.pointless(row).await?
        {
            return Ok(end);
        }
        if self.space.is_low() {
            let _gone_already = self.space.release_reserve();
        }
        let resource = self.journal.resource(row.instance).await?;
        let mut cx = Cx::new(Arc::clone(self), row, resource)?;
        if row.state == OrderState::Undoing {
            let steps = self.journal.steps(row.order_id).await?;
            let kind = undo::kind(&cx, row.verb, &steps).unwrap_or(undo::Kind::Power);
            return self.undo(&mut cx, row, kind, failure_of(&steps)).await;
        }
        self.journal.begin_order(row.order_id, OrderState::Running, self.clock.now(), None).await?;
        let (instance, generation) = (row.instance, row.generation);
        let outcome = match row.verb {
            Verb::Ensure => ensure::run(&cx).await,
            Verb::Action => action::run(&cx).await.map(|()| json!({})),
            Verb::Retire => retire::run(&cx).await.map(|()| json!({})),
            Verb::Purge => purge::run(&cx).await.map(|()| json!({})),
            Verb::Adopt => adopt::run(&cx).await,
        };
        match outcome {
            Ok(facts) => {
                let applied = cx.spec().ok().and_then(|spec| serde_json::to_string(spec).ok());
                let books = match row.verb {
                    Verb::Ensure => BookEntry::Carried { instance, generation, applied },
                    Verb::Adopt => {
                        BookEntry::Adopted { instance, generation, networks: facts["networks"].to_string() }
                    }
                    Verb::Action => BookEntry::Nothing,
                    Verb::Retire => BookEntry::Retired { instance, generation },
                    Verb::Purge => BookEntry::Gone { instance, generation },
                };
                let confirmed = facts["confirmed"].as_bool().unwrap_or(false);
                Ok(End {
                    state: OrderState::Succeeded,
                    kind: EventKind::Succeeded,
                    class: "",
                    detail: String::new(),
                    facts: Some(cx.facts(confirmed).await),
                    books,
                })
            }
            Err(Trouble::Fail(class, detail)) => {
                let steps = self.journal.steps(row.order_id).await?;
                if let Some(kind) = undo::kind(&cx, row.verb, &steps) {
                    return self.undo(&mut cx, row, kind, (class.as_str(), detail)).await;
                }
                let books = match row.verb {
                    Verb::Adopt if ensure::creates(&cx) => BookEntry::Gone { instance, generation },
                    Verb::Ensure if ensure::creates(&cx) => BookEntry::Gone { instance, generation },
                    _ => BookEntry::Nothing,
                };
                let facts = Some(cx.facts(false).await);
                let (state, kind) = (OrderState::Failed, EventKind::Failed);
                Ok(End { state, kind, class: class.as_str(), detail, facts, books })
            }
            Err(trouble) => Err(trouble),
        }
    }

    /// An order that need not, or may not, begin any more.
    async fn pointless(&self, row: &OrderRow) -> Result<Option<End>, Trouble> {
        let desired = row.verb != Verb::Action;
        let newer = self.journal.newer_generation(row.instance, row.generation).await?;
        if let Some(newer) = newer.filter(|_| desired) {
            return Ok(Some(End {
                state: OrderState::Superseded,
                kind: EventKind::Superseded,
                class: "",
                detail: format!("generation {newer} came before it began"),
                facts: None,
                books: BookEntry::Nothing,
            }));
        }
        if self.clock.now() <= row.expires_at {
            return Ok(None);
        }
        let never_made =
            self.journal.resource(row.instance).await?.is_some_and(|r| r.phase == Phase::Reserved);
        let gone = BookEntry::Gone { instance: row.instance, generation: row.generation };
        Ok(Some(End {
            state: OrderState::Failed,
            kind: EventKind::Failed,
            class: "retryable",
            detail: "its time was over before it could begin".to_owned(),
            facts: None,
            books: if never_made && row.verb == Verb::Ensure { gone } else { BookEntry::Nothing },
        }))
    }

    /// Ends what was accepted and never begun, and whose time is over. That takes no call of Proxmox.
    ///
    /// # Errors
    /// If the journal cannot be read or written.
    async fn end_overdue(&self) -> Result<(), String> {
        let open = self.journal.open_orders().await.map_err(|error| error.to_string())?;
        let now = self.clock.now();
        for row in open.iter().filter(|row| row.state == OrderState::Accepted && row.expires_at < now) {
            match self.pointless(row).await {
                Ok(Some(end)) => self.finish(row, end).await.map_err(|error| error.to_string())?,
                Ok(None) => {}
                Err(trouble) => return Err(format!("{trouble:?}")),
            }
        }
        Ok(())
    }

    /// Takes back what a failed order did.
    async fn undo(
        self: &Arc<Self>,
        cx: &mut Cx,
        row: &OrderRow,
        kind: undo::Kind,
        (class, detail): (&'static str, String),
    ) -> Result<End, Trouble> {
        let books = match kind {
            undo::Kind::Made => BookEntry::Gone { instance: row.instance, generation: row.generation },
            undo::Kind::MadeAnew
            | undo::Kind::Rescue
            | undo::Kind::Restore
            | undo::Kind::Rebuild
            | undo::Kind::Power => BookEntry::Nothing,
        };
        if row.state != OrderState::Undoing {
            let event = cx.event(EventKind::Undoing).class(class).detail(detail.clone());
            let now = self.clock.now();
            self.journal.begin_order(row.order_id, OrderState::Undoing, now, Some(event)).await?;
            self.told.notify_one();
        }
        cx.set_undoing();
        match undo::run(cx, kind).await {
            Ok(()) => Ok(End {
                state: OrderState::Undone,
                kind: EventKind::Undone,
                class,
                detail,
                facts: Some(cx.facts(false).await),
                books,
            }),
            Err(Trouble::Journal(error)) => Err(Trouble::Journal(error)),
            Err(trouble) => {
                let text = trouble.to_string();
                Err(Trouble::Stuck(fault::stuck_by(cx.id(), format!("{detail}; undoing it: {text}"))))
            }
        }
    }

    fn stuck(&self, row: &OrderRow, trouble: Trouble) -> End {
        let detail = match trouble {
            Trouble::Fail(class, detail) => format!("{class}: {detail}"),
            other => other.to_string(),
        };
        let detail = fault::stuck_by(row.order_id, detail).as_str().to_owned();
        tracing::error!(order = %row.order_id, instance = %row.instance, vmid = row.vmid, detail, "stuck");
        End {
            state: OrderState::Stuck,
            kind: EventKind::Stuck,
            class: "bug",
            detail,
            facts: None,
            books: BookEntry::Nothing,
        }
    }

    /// F5.
    async fn finish(&self, row: &OrderRow, end: End) -> Result<(), crate::journal::JournalError> {
        let now = self.clock.now();
        let mut event =
            crate::report::EventDraft::new(end.kind, row.order_id, row.instance, row.generation, now)
                .class(end.class)
                .detail(end.detail.clone());
        let result = json!({
            "class": end.class, "detail": end.detail,
            "facts": end.facts.as_ref().map(|f| json!({
                "vmid": f.vmid, "power": f.power, "addresses": f.addresses, "confirmed": f.confirmed,
            })),
        });
        if let Some(facts) = end.facts {
            event = event.facts(facts);
        }
        tracing::info!(order = %row.order_id, verb = %row.verb, vmid = row.vmid, state = %end.state, "order ended");
        self.journal.finish_order(row.order_id, end.state, now, result.to_string(), event, end.books).await?;
        self.told.notify_one();
        self.changed.notify_one();
        Ok(())
    }
}

/// Class and text of the failure that a restart finds in the journal.
fn failure_of(steps: &[StepRow]) -> (&'static str, String) {
    let failed = steps.iter().find(|step| step.k > 0 && step.state == crate::journal::StepState::Failed);
    let result: serde_json::Value = failed
        .and_then(|step| step.result_json.as_deref())
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let class = fault::Class::parse(result["class"].as_str().unwrap_or_default()).as_str();
    (class, result["error"].as_str().unwrap_or("failed before a restart").to_owned())
}
