//! Finding one's own task again after an answer was lost, or after a crash between call and answer.

use ez_protocol::UnixMillis;

use super::{
    context::Cx,
    fault::{self, Trouble},
    saga::Look,
};
use crate::{
    journal::StepRow,
    pve::{TaskExit, TaskState, Upid, WaitError},
};

/// What is known of the task of a step that may have been called.
pub(super) enum Seen {
    /// Nothing was intended yet.
    NoIntent,
    /// Nothing of it is at work, and none of it is known to have ended well: it has no effect.
    Nothing,
    /// It is at work.
    Running(Upid),
    /// It ended, and how. One that the journal does not name counts only if it went well.
    Ended(Upid, TaskExit),
}

/// Looks for the task of a step: the one in the journal, else one that an unanswered call began. Proxmox
/// shows a token its own tasks, so one that is not in its list was never begun.
pub(super) async fn own(cx: &Cx, row: Option<&StepRow>, kind: &'static str) -> Result<Seen, Trouble> {
    let Some(row) = row.filter(|row| row.attempt > 0) else { return Ok(Seen::NoIntent) };
    if let Some(upid) = row.upid.as_deref().and_then(|text| text.parse::<Upid>().ok()) {
        match cx.pve().task_status(&upid).await? {
            TaskState::Running => return Ok(Seen::Running(upid)),
            TaskState::Ended(exit) => return Ok(Seen::Ended(upid, exit)),
            TaskState::Unknown => {}
        }
    }
    let since = seconds(row.at);
    for (upid, state) in cx.pve().find_tasks(kind, cx.vmid(), since).await? {
        // The same second may hold the end of an earlier order.
        if cx.journal().is_task_of_another(&upid, cx.id()).await? {
            continue;
        }
        match state {
            TaskState::Running => return Ok(Seen::Running(upid)),
            TaskState::Ended(exit) if exit.is_success() => return Ok(Seen::Ended(upid, exit)),
            TaskState::Ended(_) | TaskState::Unknown => {}
        }
    }
    Ok(Seen::Nothing)
}

/// Task handles carry whole seconds of the same clock that wrote the intent.
fn seconds(at: UnixMillis) -> i64 {
    at.as_secs()
}

/// What a look comes to when the task alone tells whether the step is done.
pub(super) fn look(seen: Seen, judge: impl FnOnce(&str) -> Trouble) -> Result<Look, Trouble> {
    match seen {
        Seen::NoIntent | Seen::Nothing => Ok(Look::Todo),
        Seen::Running(upid) => Ok(Look::Adopt(upid)),
        Seen::Ended(upid, exit) => match exit.error() {
            None => Ok(Look::Done(serde_json::json!({ "upid": upid.as_str() }))),
            Some(error) => Err(judge(error)),
        },
    }
}

/// The same where the judgement may be "look again": a task that ended so had no effect, and is called once
/// more, as often as the step is tried. What such a task would have left is looked at before.
pub(super) fn look_once_more(seen: Seen, judge: impl FnOnce(&str) -> Trouble) -> Result<Look, Trouble> {
    match look(seen, judge) {
        Err(Trouble::Look(_)) => Ok(Look::Todo),
        other => other,
    }
}

/// Whether the task was called and nothing of it is at work any more.
pub(super) fn is_over(seen: &Seen) -> bool {
    matches!(seen, Seen::Nothing | Seen::Ended(..))
}

/// A worker that failed or died left its lock, which no token can take away.
pub(super) fn left_locked(cx: &Cx, what: &str, lock: &str, then: &str) -> Trouble {
    let vmid = cx.vmid();
    let what = format!(
        "{what}: its worker came to no good end and left VM {vmid} locked ({lock}), which only root can undo"
    );
    fault::stuck(cx.id(), what, format_args!("`qm unlock {vmid}`{then}"))
}

/// A task that does not end.
pub(super) fn still_running(cx: &Cx, upid: &Upid, error: &WaitError) -> Trouble {
    let (node, upid) = (upid.node(), upid.as_str());
    let way_out = format!(
        "see what it does with `pvenode task log {upid}`, and wait for it or end it with `pvesh delete \
         /nodes/{node}/tasks/{upid}`"
    );
    fault::stuck(cx.id(), error, way_out)
}
