//! Faults of a node: calls that fail before or after their effect, tasks that fail or are killed, a daemon
//! that is away. Rules belong to the node whose control API got them: calls count that its listener takes,
//! tasks that run on it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::reply::{self, ApiError};
use super::task::KILLED;
use crate::inject::{Away, CallPattern, Rules, is_zero, once};

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// An error instead of the effect.
    RefuseBefore,
    /// The same with the words of a cluster that lost its quorum.
    NoQuorum,
    /// The effect happens; the answer is an error.
    RefuseAfter,
    /// The effect happens; the connection is closed without a byte.
    DropAnswer,
    /// The connection is closed before the effect.
    DropRequest,
    /// The effect happens at once; the answer comes late.
    Slow,
    /// The effect happens, and the daemon restarts instead of answering.
    Restart,
    /// Just before a clone is carried out, a foreign VM takes the VMID it names.
    VmidTaken,
    /// The task fails in the middle of its work and cleans up as it would.
    Fail,
    /// The task's worker is killed in the middle of its work; what it did stays, with its lock.
    Kill,
    /// The task's worker is killed before it has logged a line, and before it does anything.
    KillEarly,
    /// The task ends with a warning, which is a success.
    Warnings,
    /// The task waits in vain for the lock of the storage on which it would allocate.
    StorageBusy,
    /// A VM is destroyed, and its disks cannot be removed: a success, and a line of the log says so.
    DestroyKeepsDisk,
}

impl Kind {
    /// The word in the request log.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Kind::RefuseBefore => "refuse_before",
            Kind::NoQuorum => "no_quorum",
            Kind::RefuseAfter => "refuse_after",
            Kind::DropAnswer => "drop_answer",
            Kind::DropRequest => "drop_request",
            Kind::Slow => "slow",
            Kind::Restart => "restart",
            Kind::VmidTaken => "vmid_taken",
            Kind::Fail => "task_fail",
            Kind::Kill => "task_kill",
            Kind::KillEarly => "task_kill_early",
            Kind::Warnings => "task_warnings",
            Kind::StorageBusy => "task_storage_busy",
            Kind::DestroyKeepsDisk => "destroy_keeps_disk",
        }
    }

    /// Whether the call never comes to its effect.
    pub(super) fn comes_before(self) -> bool {
        matches!(self, Kind::RefuseBefore | Kind::NoQuorum | Kind::DropRequest)
    }

    /// Whether the answer is an error of our making.
    pub(super) fn refuses(self) -> bool {
        matches!(self, Kind::RefuseBefore | Kind::RefuseAfter | Kind::NoQuorum)
    }

    fn is_about_tasks(self) -> bool {
        matches!(
            self,
            Kind::Fail
                | Kind::Kill
                | Kind::KillEarly
                | Kind::Warnings
                | Kind::StorageBusy
                | Kind::DestroyKeepsDisk
        )
    }
}

/// One rule, as `POST /faults` takes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    /// Which calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) call: Option<CallPattern>,
    /// Which tasks, by their type: `qmclone`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) task: Option<String>,
    pub(crate) fault: Kind,
    /// Status of a refusal; 500 before the effect and 596 after it, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<u16>,
    /// Reason phrase of a refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// How long the answer, or its absence, is held back; or how long a storage's lock is waited for in vain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) delay_ms: Option<u64>,
    /// How long the daemon is away when it restarts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) down_ms: Option<u64>,
    /// Exit status of a task that fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) exit: Option<String>,
    /// How many pieces of its work a task does before it fails or is killed: a clone's are one for the
    /// cloud-init drive and four for each disk.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) pieces: u32,
    /// How often.
    #[serde(default = "once")]
    pub(crate) times: u32,
    /// How many matching calls or tasks pass before.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) skip: u32,
}

impl Rule {
    /// Checks that the parts of the rule belong together.
    ///
    /// # Errors
    /// What is missing or has no meaning, in words.
    pub(crate) fn check(&self) -> Result<(), String> {
        let word = self.fault.word();
        let must = |holds: bool, text: &str| if holds { Ok(()) } else { Err(format!("{word}: {text}")) };
        let refuses = matches!(self.fault, Kind::RefuseBefore | Kind::RefuseAfter);
        let is_about_tasks = self.fault.is_about_tasks();
        must(self.times > 0, "`times` must be at least 1")?;
        must(
            is_about_tasks == self.task.is_some(),
            "`task` goes with fail, kill, kill_early, warnings, storage_busy and destroy_keeps_disk, and they need it",
        )?;
        must(
            self.fault != Kind::DestroyKeepsDisk || self.task.as_deref() == Some("qmdestroy"),
            "`task` must be qmdestroy",
        )?;
        match self.fault {
            Kind::VmidTaken => {}
            _ => must(
                is_about_tasks != self.call.is_some(),
                "`call` goes with faults of calls, and they need it",
            )?,
        }
        must(
            refuses || (self.status.is_none() && self.reason.is_none()),
            "`status` and `reason` go with refusals",
        )?;
        must(self.status.is_none_or(|s| (400..600).contains(&s)), "`status` must lie between 400 and 599")?;
        must(self.fault != Kind::Slow || self.delay_ms.is_some(), "`delay_ms` is missing")?;
        let has_no_delay = is_about_tasks || self.fault == Kind::VmidTaken;
        must(
            self.delay_ms.is_none() || !has_no_delay || self.fault == Kind::StorageBusy,
            "`delay_ms` goes with answers and storage_busy",
        )?;
        must(
            (self.fault == Kind::Restart) == self.down_ms.is_some(),
            "`down_ms` goes with restart, and it needs it",
        )?;
        must((self.fault == Kind::Fail) == self.exit.is_some(), "`exit` goes with fail, and fail needs it")?;
        let good = |exit: &str| exit == "OK" || exit.is_empty() || exit.starts_with("WARNINGS:");
        must(!self.exit.as_deref().is_some_and(good), "`exit` must say what went wrong")?;
        must(
            self.pieces == 0 || matches!(self.fault, Kind::Fail | Kind::Kill),
            "`pieces` goes with fail and kill",
        )
    }

    /// The error a refused call gets. 500 is the daemon's own and has a body; other statuses are the
    /// proxy's, without one (596 is recorded so; other statuses follow it, which no recording covers).
    pub(crate) fn refusal(&self, extjs: bool) -> reply::Response {
        let after = self.fault == Kind::RefuseAfter;
        let status = self.status.unwrap_or(if after { 596 } else { 500 });
        let default = match status {
            // pve-cluster, `check_cfs_quorum`.
            500 if self.fault == Kind::NoQuorum => "cluster not ready - no quorum?",
            500 => "unable to fork worker - Cannot allocate memory",
            595 => "Connection refused",
            596 => "Broken pipe",
            _ => "Service unavailable",
        };
        let reason = self.reason.as_deref().unwrap_or(default);
        match status {
            500 => reply::render(Err(ApiError::died(reason)), extjs),
            _ => reply::transport(status, reason, false),
        }
    }
}

/// Where a clone is called; the pattern of `vmid_taken` if none is given.
fn is_clone(method: &str, path: &str) -> bool {
    method == "POST" && path.ends_with("/clone")
}

/// What is armed on one node.
#[derive(Debug, Default)]
pub(crate) struct NodeFaults {
    pub(crate) rules: Rules<Rule>,
    pub(crate) away: Arc<Away>,
    /// The tasks that met a fault and which, for the request log.
    struck: Mutex<BTreeMap<String, Kind>>,
}

impl NodeFaults {
    /// The fault a call meets.
    pub(crate) fn call(&self, method: &str, path: &str) -> Option<Rule> {
        let strike = self.rules.meet(|rule| match (&rule.call, rule.fault) {
            (Some(call), _) => call.fits(method, path),
            (None, Kind::VmidTaken) => is_clone(method, path),
            (None, _) => false,
        });
        strike.map(|strike| strike.rule)
    }

    /// The fault a new task meets.
    pub(crate) fn task(&self, upid: &str) -> Option<Arc<TaskFault>> {
        let kind = upid.split(':').nth(5).unwrap_or_default();
        let rule = self.rules.meet(|rule| rule.task.as_deref() == Some(kind))?.rule;
        self.struck.lock().unwrap_or_else(PoisonError::into_inner).insert(upid.to_owned(), rule.fault);
        Some(Arc::new(TaskFault { left: AtomicU32::new(rule.pieces), struck: AtomicBool::new(false), rule }))
    }

    /// The fault that a task met which a call answered with.
    pub(crate) fn of_task(&self, upid: &str) -> Option<Kind> {
        self.struck.lock().unwrap_or_else(PoisonError::into_inner).get(upid).copied()
    }

    /// Takes every rule back; who was away is there again.
    pub(crate) fn clear(&self) {
        self.rules.clear();
        self.away.clear();
    }
}

/// A fault that a task carries.
#[derive(Debug)]
pub(crate) struct TaskFault {
    rule: Rule,
    left: AtomicU32,
    struck: AtomicBool,
}

impl TaskFault {
    /// Whether this piece of work is the one in which it happens, and what happens.
    pub(crate) fn strikes(&self) -> Option<Kind> {
        if matches!(
            self.rule.fault,
            Kind::Warnings | Kind::KillEarly | Kind::StorageBusy | Kind::DestroyKeepsDisk
        ) {
            return None;
        }
        let passes = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        let first = passes.is_err() && !self.struck.swap(true, Ordering::SeqCst);
        first.then_some(self.rule.fault)
    }

    /// Whether the worker is killed before its first line.
    pub(crate) fn kills_early(&self) -> bool {
        self.rule.fault == Kind::KillEarly
    }

    /// How long the task waits in vain for a storage's lock, if it does: so long as Proxmox does where the rule does not say.
    pub(crate) fn waits_in_vain(&self, as_proxmox_ms: u64) -> Option<u64> {
        (self.rule.fault == Kind::StorageBusy).then(|| self.rule.delay_ms.unwrap_or(as_proxmox_ms))
    }

    /// Whether a destruction leaves the disks where they are.
    pub(crate) fn keeps_disk(&self) -> bool {
        self.rule.fault == Kind::DestroyKeepsDisk
    }

    /// The text a failing task fails with.
    pub(crate) fn exit(&self) -> String {
        self.rule.exit.clone().unwrap_or_default()
    }

    /// How the task ends, given how its work ended. A task whose work has fewer pieces than the rule
    /// waits for fails or is killed at its very end.
    pub(crate) fn end(&self, done: Result<(), String>) -> Result<(), String> {
        let struck = self.struck.load(Ordering::SeqCst);
        match (self.rule.fault, done) {
            (Kind::Fail, Err(_)) if struck => Err(self.exit()),
            (Kind::Fail, Ok(())) => Err(self.exit()),
            (Kind::Kill, Ok(())) => Err(KILLED.to_owned()),
            (Kind::Warnings, Ok(())) => Err("WARNINGS: 1".to_owned()),
            (_, done) => done,
        }
    }

    /// What the log says before the end.
    pub(crate) fn warning(&self) -> Option<&'static str> {
        (self.rule.fault == Kind::Warnings).then_some("WARN: something that does no harm")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(rule: serde_json::Value) -> Result<(), String> {
        serde_json::from_value::<Rule>(rule).map_err(|e| e.to_string())?.check()
    }

    #[test]
    fn a_rule_that_makes_no_sense_is_refused_with_a_reason() {
        let clone = json!({"method": "POST", "path": "/clone"});
        for (rule, reason) in [
            (json!({"fault": "refuse_before"}), "`call` goes with"),
            (json!({"fault": "no_quorum", "call": clone, "reason": "x"}), "go with refusals"),
            (json!({"fault": "fail", "task": "qmclone"}), "`exit` goes with"),
            (json!({"fault": "fail", "task": "qmclone", "exit": "OK"}), "`exit` must say"),
            (json!({"fault": "kill", "call": clone}), "`task` goes with"),
            (json!({"fault": "storage_busy", "task": "qmclone", "pieces": 1}), "`pieces` goes with"),
            (json!({"fault": "destroy_keeps_disk", "task": "qmclone"}), "must be qmdestroy"),
            (json!({"fault": "slow", "call": clone}), "`delay_ms` is missing"),
            (json!({"fault": "slow", "call": clone, "delay_ms": 1, "status": 500}), "go with refusals"),
            (json!({"fault": "refuse_after", "call": clone, "status": 200}), "between 400 and 599"),
            (json!({"fault": "drop_answer", "call": clone, "times": 0}), "at least 1"),
            (json!({"fault": "drop_answer", "call": clone, "pieces": 1}), "`pieces` goes with"),
            (json!({"fault": "vmid_taken", "delay_ms": 5}), "goes with answers"),
            (json!({"fault": "restart", "call": clone}), "`down_ms` goes with"),
            (json!({"fault": "explode"}), "unknown variant `explode`"),
            (json!({"fault": "vmid_taken", "often": 5}), "unknown field `often`"),
        ] {
            let refused = check(rule.clone()).unwrap_err();
            assert!(refused.contains(reason), "{rule}: {refused}");
        }
        for rule in [
            json!({"fault": "vmid_taken"}),
            json!({"fault": "warnings", "task": "qmstart", "times": 3, "skip": 1}),
            json!({"fault": "kill", "task": "qmclone", "pieces": 2}),
            json!({"fault": "storage_busy", "task": "qmclone", "delay_ms": 50}),
            json!({"fault": "refuse_after", "call": clone, "status": 595, "reason": "x", "delay_ms": 1}),
        ] {
            assert_eq!(check(rule.clone()), Ok(()), "{rule}");
        }
    }
}
