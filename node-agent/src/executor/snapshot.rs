//! Snapshots: taken, rolled back to, dropped. A snapshot says in its description which order took it, so
//! taking one twice is seen. Snapshots of the host's owner carry no such line: they are neither shown nor touched, and
//! only their names are taken.

use ez_protocol::{
    ProvisioningOrderId,
    message::{SnapshotFact, Snapshots},
    order::SnapshotName,
};
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::{
    context::Cx,
    ensure,
    fault::{Class, Trouble, of_task},
    limits::Load,
    power::{NotePower, Start},
    saga::{Act, Look, Step},
    task::{self, Seen},
};
use crate::{
    journal::StepRow,
    pve::{Snapshot, TaskExit},
};

/// First word of a snapshot's description that makes it one of ours; the order's id follows.
const MARKER: &str = "ez-snapshot:v1";

/// Takes one.
pub(super) fn take(name: &SnapshotName) -> Vec<Box<dyn Step>> {
    vec![Box::new(Take { name: name.clone() })]
}

/// Rolls back to one. The configuration goes back too, so everything that was ordered since is set again.
pub(super) fn roll_back(name: &SnapshotName) -> Vec<Box<dyn Step>> {
    let mut steps: Vec<Box<dyn Step>> = vec![Box::new(NotePower), Box::new(RollBack { name: name.clone() })];
    steps.extend(ensure::settle());
    steps.push(Box::new(Start::AsBefore));
    steps
}

/// Drops one.
pub(super) fn drop(name: &SnapshotName) -> Vec<Box<dyn Step>> {
    vec![Box::new(Drop { name: name.clone() })]
}

/// Whether an order took it. The VM is ours, so any order that did was about this server.
fn is_ours(snapshot: &Snapshot) -> bool {
    let mut words = snapshot.description.split_whitespace();
    words.next() == Some(MARKER) && words.next().is_some_and(|id| id.parse::<ProvisioningOrderId>().is_ok())
}

/// Whoever took it.
async fn find(cx: &Cx, name: &SnapshotName) -> Result<Option<Snapshot>, Trouble> {
    let all = cx.pve().snapshots(cx.vmid()).await?;
    Ok(all.into_iter().find(|snapshot| snapshot.name == name.as_str()))
}

/// One of ours; what has the name and is not counts as not there.
async fn find_ours(cx: &Cx, name: &SnapshotName) -> Result<Option<Snapshot>, Trouble> {
    Ok(find(cx, name).await?.filter(is_ours))
}

/// So many are told at most: an event has to fit into a frame, or nothing behind it would ever be told.
const MOST_SHOWN: usize = 100;

/// All of ours, for the control plane, the newest if there are too many; nothing where the host does not say.
pub(super) async fn shown(cx: &Cx) -> Option<Snapshots> {
    let mut all = cx.pve().snapshots(cx.vmid()).await.ok()?;
    all.retain(is_ours);
    all.sort_by_key(|snapshot| snapshot.taken_secs);
    all.drain(..all.len().saturating_sub(MOST_SHOWN));
    let fact = |s: Snapshot| SnapshotFact { name: s.name, taken_at_ms: s.taken_secs * 1_000 };
    Some(Snapshots { list: all.into_iter().map(fact).collect() })
}

fn unknown(name: &SnapshotName) -> Trouble {
    Trouble::fail(Class::User, format!("there is no snapshot {}", name.as_str()))
}

struct Take {
    name: SnapshotName,
}

impl Take {
    fn description(&self, cx: &Cx) -> String {
        format!("{MARKER} {}", cx.id())
    }
}

impl Step for Take {
    fn name(&self) -> &'static str {
        "snapshot"
    }

    fn load(&self, _cx: &Cx) -> Load {
        Load::Heavy
    }

    fn look<'a>(&'a self, cx: &'a Cx, row: Option<&'a StepRow>) -> BoxFuture<'a, Result<Look, Trouble>> {
        Box::pin(async move {
            let config = cx.present().await?;
            if let Seen::Running(upid) = task::own(cx, row, "qmsnapshot").await? {
                return Ok(Look::Adopt(upid));
            }
            if row.is_some() && matches!(config.lock(), Some("snapshot")) {
                let drop = format!(" and `qm delsnapshot {} {} --force`", cx.vmid(), self.name.as_str());
                return Err(task::left_locked(cx, self.name(), "snapshot", &drop));
            }
            match find(cx, &self.name).await? {
                None => Ok(Look::Todo),
                Some(there) if there.description.trim() == self.description(cx) => {
                    Ok(Look::Done(json!({ "snapshot": there.name })))
                }
                Some(there) => {
                    let text = format!("there is a snapshot {} already", there.name);
                    Err(Trouble::fail(Class::User, text))
                }
            }
        })
    }

    fn act<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, Result<Act, Trouble>> {
        Box::pin(async move {
            let called = cx.pve().take_snapshot(cx.vmid(), self.name.as_str(), self.description(cx)).await;
            called.map(Act::Task).map_err(|error| cx.refused(error))
        })
    }

    fn judge(&self, exit: &str) -> Trouble {
        if exit.contains("snapshot feature is not available") {
            return Trouble::fail(Class::User, "the storage of this server's disk cannot take snapshots");
        }
        of_task(self.name(), exit)
    }
}

struct RollBack {
    name: SnapshotName,
}

impl Step for RollBack {
    fn name(&self) -> &'static str {
        "roll_back"
    }

    fn load(&self, _cx: &Cx) -> Load {
        Load::Heavy
    }

    fn intent(&self, _cx: &Cx) -> Value {
        json!({ "snapshot": self.name.as_str() })
    }

    fn look<'a>(&'a self, cx: &'a Cx, row: Option<&'a StepRow>) -> BoxFuture<'a, Result<Look, Trouble>> {
        Box::pin(async move {
            let seen = task::own(cx, row, "qmrollback").await?;
            let config = cx.present().await?;
            // One that failed leaves the lock as well as one that was killed.
            if task::is_over(&seen) && config.lock() == Some("rollback") {
                return Err(task::left_locked(cx, self.name(), "rollback", ""));
            }
            if matches!(seen, Seen::NoIntent | Seen::Nothing) && find_ours(cx, &self.name).await?.is_none() {
                return Err(unknown(&self.name));
            }
            // Once more from the beginning: until the last step the server is not started again.
            if matches!(seen, Seen::Ended(_, TaskExit::Killed)) {
                return Ok(Look::Todo);
            }
            task::look_once_more(seen, |exit| of_task(self.name(), exit))
        })
    }

    fn act<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, Result<Act, Trouble>> {
        Box::pin(async move {
            let called = cx.pve().roll_back(cx.vmid(), self.name.as_str()).await;
            called.map(Act::Task).map_err(|error| cx.refused(error))
        })
    }

    fn judge(&self, exit: &str) -> Trouble {
        // What it left tells what is to be done: with the lock on it, nothing more than to call for root.
        Trouble::Look(format!("{}: {exit}", self.name()))
    }
}

struct Drop {
    name: SnapshotName,
}

impl Step for Drop {
    fn name(&self) -> &'static str {
        "drop_snapshot"
    }

    fn load(&self, _cx: &Cx) -> Load {
        Load::Heavy
    }

    fn look<'a>(&'a self, cx: &'a Cx, row: Option<&'a StepRow>) -> BoxFuture<'a, Result<Look, Trouble>> {
        Box::pin(async move {
            let seen = task::own(cx, row, "qmdelsnapshot").await?;
            let config = cx.present().await?;
            // As with a rollback: whatever goes wrong on the way leaves the lock.
            if task::is_over(&seen) && config.lock() == Some("snapshot-delete") {
                return Err(task::left_locked(cx, self.name(), "snapshot-delete", ""));
            }
            match find_ours(cx, &self.name).await? {
                None if row.is_some() => Ok(Look::Done(json!({ "snapshot": self.name.as_str() }))),
                None => Err(unknown(&self.name)),
                Some(_) => match seen {
                    Seen::Ended(_, exit) if exit.is_success() || exit == TaskExit::Killed => Ok(Look::Todo),
                    seen => task::look_once_more(seen, |exit| of_task(self.name(), exit)),
                },
            }
        })
    }

    fn act<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, Result<Act, Trouble>> {
        Box::pin(async move {
            let called = cx.pve().drop_snapshot(cx.vmid(), self.name.as_str()).await;
            called.map(Act::Task).map_err(|error| cx.refused(error))
        })
    }

    fn judge(&self, exit: &str) -> Trouble {
        Trouble::Look(format!("{}: {exit}", self.name()))
    }
}
