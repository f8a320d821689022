//! Step `destroy`: the VM and its disks go for good. The last step of a purge, the third of a rebuild, the last of undoing a
//! create.
//!
//! Proxmox calls it a success, with a warning at most, when it could remove the configuration and not a disk
//! (qemu-server, `destroy_vm`). Only the task's log says so. It is read before the step counts as done: the disk holds what
//! a customer trusted us with.

use std::collections::BTreeSet;

use ez_protocol::{UnixMillis, order::Op};
use futures::future::BoxFuture;
use serde_json::json;

use super::{
    context::Cx,
    fault::{self, Class, Trouble},
    limits::Load,
    saga::{Act, Look, Step},
    task::{self, Seen},
};
use crate::{
    journal::{Phase, StepRow},
    pve::{GuestConfig, LOG_PAGE, PveError, TaskState, Upid, text},
};

/// Name of the step.
pub(super) const STEP: &str = "destroy";

/// Destroys the VM with its disks, after checking that it is ours and does not run.
pub(super) struct Destroy {
    /// The server does not come back: what the host's owner has set up for its number goes too. One that is made anew keeps
    /// its place in their backup jobs.
    pub(super) for_good: bool,
}

/// The configuration of our VM, if nothing forbids its destruction; `None`: there is no such VM.
pub(super) async fn destroyable(cx: &Cx) -> Result<Option<GuestConfig>, Trouble> {
    let Some(config) = cx.own_config().await? else { return Ok(None) };
    if config.get("protection") == Some("1") {
        let text = format!(
            "the owner of this host protects VM {0} (protection: 1), so it is not destroyed; \
             `qm set {0} --protection 0` lets it go",
            cx.vmid()
        );
        return Err(Trouble::fail(Class::Policy, text));
    }
    if cx.runs().await? {
        let text = format!("VM {} runs: a running server is never destroyed", cx.vmid());
        return Err(Trouble::fail(Class::Policy, text));
    }
    Ok(Some(config))
}

/// Stops the order where a disk is still there: one that this destruction could not remove, or one by which an earlier order
/// got stuck. That one is not resumed any more once this one was accepted, and this one may find no VM: it would end well
/// with the disk still there. Neither seeing nor removing a disk is in our rights once its VM is gone. What root was told of
/// before the order was resumed counts as done.
///
/// All of them are named at once, what was named before among them: only the last text is kept, so of two that were named
/// in turn each would be asked for again after the other.
async fn no_disk_is_left(cx: &Cx, row: Option<&StepRow>, own: Option<&Upid>) -> Result<(), Trouble> {
    let told = row.and_then(|row| row.result_json.as_deref()).unwrap_or_default();
    let mut kept = match own {
        Some(upid) => kept_disks(cx, upid, told).await?,
        None => BTreeSet::new(),
    };
    let mut logs: Vec<String> = own.filter(|_| !kept.is_empty()).map(log_of).into_iter().collect();
    for before in cx.journal().unsettled_destructions(cx.order().instance.uuid, cx.id()).await? {
        let Ok(upid) = before.upid.parse::<Upid>() else { continue };
        let of_before = kept_disks(cx, &upid, &before.said).await?;
        if !of_before.is_empty() {
            logs.push(format!("of order {} {}", before.order_id, log_of(&upid)));
            kept.extend(of_before);
        }
    }
    let help: Vec<String> = kept.iter().map(|volume| free(volume)).collect();
    if help.iter().all(|help| told.contains(help)) {
        return Ok(());
    }
    Err(still_there(cx, &format!("destroy: VM {}", cx.vmid()), &logs, &help))
}

/// The same where root has removed the rest of a clone, its repair or a person: with `qm`, whose tasks this node's token may
/// read, and which ends as well. It is looked at before the number is used again, or given away.
pub(super) async fn no_disk_is_left_of_a_clone(
    cx: &Cx,
    row: Option<&StepRow>,
    since: UnixMillis,
) -> Result<(), Trouble> {
    let told = row.and_then(|row| row.result_json.as_deref()).unwrap_or_default();
    let own = cx.journal().steps(cx.id()).await?;
    let (mut kept, mut logs) = (BTreeSet::<String>::new(), Vec::new());
    for (upid, state) in cx.pve().find_tasks("qmdestroy", cx.vmid(), since.as_secs()).await? {
        // What the agent has destroyed itself is looked at where it did so.
        let ours = own.iter().any(|step| step.upid.as_deref() == Some(upid.as_str()));
        if ours || cx.journal().is_task_of_another(&upid, cx.id()).await? {
            continue;
        }
        if state == TaskState::Running {
            return Err(Trouble::Look("the rest of a clone is still being removed".to_owned()));
        }
        let of_this = kept_disks(cx, &upid, told).await?;
        if !of_this.is_empty() {
            logs.push(log_of(&upid));
            kept.extend(of_this);
        }
    }
    let help: Vec<String> = kept.iter().map(|volume| free(volume)).collect();
    if help.iter().all(|help| told.contains(help)) {
        return Ok(());
    }
    Err(still_there(cx, &format!("the rest of a dead clone of VM {}", cx.vmid()), &logs, &help))
}

/// What it means that a VM is gone and disks of it are not.
fn still_there(cx: &Cx, what: &str, logs: &[String], help: &[String]) -> Trouble {
    let what = format!(
        "{what} is gone, but Proxmox could not remove all of its disks ({}): what was on them may still be there; the number \
         stays taken",
        logs.join(", ")
    );
    let way_out = format!(
        "{} (one that `pvesm list` of its storage does not show any more is gone already)",
        help.join(" and ")
    );
    fault::stuck(cx.id(), what, way_out)
}

/// What it means that nothing is left of our VM but the lock of its destruction: `None`, to an undo that had nothing to
/// destroy. No token may touch what is left, and a second destruction ends at the lock.
pub(super) async fn half_done(cx: &Cx) -> Result<Option<GuestConfig>, Trouble> {
    let tried = |row: &StepRow| row.name == STEP && row.attempt > 0;
    let from_before = cx.resource().is_some_and(|row| row.phase != Phase::Reserved);
    let ours = !cx.is_undoing() || from_before || cx.journal().steps(cx.id()).await?.iter().any(tried);
    if !ours {
        return Ok(None);
    }
    let vmid = cx.vmid();
    let purge = if matches!(cx.order().op, Op::Purge(_)) { " --purge 1" } else { "" };
    let what = format!(
        "VM {vmid} is half destroyed: Proxmox has removed its disks and came no further, so its configuration says nothing \
         but `lock: destroyed`"
    );
    let way_out = format!("`qm destroy {vmid} --skiplock 1 --destroy-unreferenced-disks 1{purge}`");
    Err(fault::stuck(cx.id(), what, way_out))
}

/// What came of a destruction that its order takes for refused.
pub(super) enum CameTo {
    /// Its worker is alive: a refusal that was none.
    AtWork,
    /// The VM is there, and what it boots from.
    Nothing,
    /// There is nothing to start.
    Gone,
}

/// Looks what is left of the VM whose destruction was called and did not go through. `row` is what the journal knows of the
/// step that asks.
pub(super) async fn came_to(cx: &Cx, row: Option<&StepRow>) -> Result<CameTo, Trouble> {
    let rows = cx.journal().steps(cx.id()).await?;
    // The step's own time is that of its failure, before which its task may have begun.
    let began = rows.iter().filter(|row| row.k > 0).map(|row| row.at).min();
    let called = rows.iter().find(|row| row.k > 0 && row.name == STEP);
    let called = called.map(|row| StepRow { at: began.unwrap_or(row.at), ..row.clone() });
    let ended = match task::own(cx, called.as_ref(), "qmdestroy").await? {
        Seen::Running(upid) => match cx.pve().task_status(&upid).await? {
            TaskState::Running => return Ok(CameTo::AtWork),
            TaskState::Ended(_) => Some(upid),
            TaskState::Unknown => None,
        },
        Seen::Ended(upid, _) => Some(upid),
        Seen::NoIntent | Seen::Nothing => None,
    };
    if cx.own_config().await?.is_some_and(|config| config.boot_disk().is_some()) {
        return Ok(CameTo::Nothing);
    }
    if let Some(upid) = ended {
        if let Some(called) = called.filter(|row| row.upid.as_deref() != Some(upid.as_str())) {
            // Orders after this one look by its task for what it left. That the call failed stays.
            cx.journal().step_found(cx.id(), called.k, upid.as_str().to_owned()).await?;
        }
        no_disk_is_left(cx, row, Some(&upid)).await?;
    }
    Ok(CameTo::Gone)
}

/// What root does about a disk that stayed.
fn free(volume: &str) -> String {
    format!("{FREE}{volume}`")
}

/// How that begins.
const FREE: &str = "`pvesm free ";

/// The disks that a text of ours has named.
fn named(said: &str) -> BTreeSet<String> {
    said.split(FREE).skip(1).filter_map(|rest| Some(rest.split_once('`')?.0.to_owned())).collect()
}

/// Where root reads it.
fn log_of(upid: &Upid) -> String {
    format!("`pvenode task log {upid}`")
}

/// The disks that a destruction could not remove, by its log; where Proxmox has forgotten that, by what its order said when
/// the log was read.
async fn kept_disks(cx: &Cx, upid: &Upid, said: &str) -> Result<BTreeSet<String>, Trouble> {
    let mut kept = BTreeSet::new();
    let mut from = 1;
    loop {
        let lines = match cx.pve().task_log(upid, from).await {
            Ok(lines) => lines,
            Err(PveError::Refused { status: 400 | 403, .. }) => {
                tracing::warn!(order = %cx.id(), %upid, "the log of a destruction is not there any more");
                kept.extend(named(said));
                break;
            }
            Err(error) => return Err(Trouble::Look(format!("destroy: its log cannot be read: {error}"))),
        };
        kept.extend(lines.iter().filter_map(|line| text::kept_volume(&line.text)).map(str::to_owned));
        match lines.last() {
            Some(last) if lines.len() >= LOG_PAGE => from = last.number + 1,
            _ => break,
        }
    }
    Ok(kept)
}

impl Step for Destroy {
    fn name(&self) -> &'static str {
        STEP
    }

    fn load(&self, _cx: &Cx) -> Load {
        Load::Heavy
    }

    fn look<'a>(&'a self, cx: &'a Cx, row: Option<&'a StepRow>) -> BoxFuture<'a, Result<Look, Trouble>> {
        Box::pin(async move {
            let ended = match task::own(cx, row, "qmdestroy").await? {
                Seen::Running(upid) => return Ok(Look::Adopt(upid)),
                Seen::Ended(upid, exit) => Some((upid, exit)),
                Seen::NoIntent | Seen::Nothing => None,
            };
            if destroyable(cx).await?.is_some() {
                return Ok(Look::Todo);
            }
            let own = match ended {
                // As if we had waited for its end: what its log says is still to be read.
                Some((upid, exit)) if exit.is_success() => return Ok(Look::Adopt(upid)),
                Some((upid, _)) => Some(upid),
                None => None,
            };
            no_disk_is_left(cx, row, own.as_ref()).await?;
            Ok(Look::Done(json!({ "absent": true })))
        })
    }

    fn act<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, Result<Act, Trouble>> {
        Box::pin(async move {
            let called = match cx.pve().destroy(cx.vmid(), self.for_good).await {
                // Of these two there is no other way.
                Err(error) if error.wants_purge() && !self.for_good => {
                    cx.pve().destroy(cx.vmid(), true).await
                }
                called => called,
            };
            match called {
                Ok(upid) => Ok(Act::Task(upid)),
                Err(error) if error.is_absent() => Ok(Act::Done(json!({ "absent": true }))),
                Err(error) if error.is_protected() => Err(Trouble::fail(Class::Policy, error.to_string())),
                // Once the VM is gone its pool is no longer there to grant the right: look.
                Err(error) if error.is_forbidden() && cx.own_config().await?.is_none() => {
                    Ok(Act::Done(json!({ "absent": true })))
                }
                Err(error) => Err(cx.refused(error)),
            }
        })
    }

    fn verify<'a>(
        &'a self,
        cx: &'a Cx,
        row: Option<&'a StepRow>,
        upid: &'a Upid,
    ) -> BoxFuture<'a, Result<(), Trouble>> {
        Box::pin(no_disk_is_left(cx, row, Some(upid)))
    }
}
