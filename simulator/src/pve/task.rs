//! Tasks: UPIDs, workers that take time, their logs and how they end.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{OwnedMutexGuard, OwnedRwLockWriteGuard};
use tokio_util::sync::CancellationToken;

use super::access::Caller;
use super::cluster::{Cluster, Ctx, Running};
use super::inject::{Kind, TaskFault};
use super::reply::{ApiError, ApiResult};
use super::state::{State, Task};

/// How a task ends that was interrupted.
pub(crate) const INTERRUPTED: &str = "received interrupt";
/// How a task ends whose worker was killed.
pub(crate) const KILLED: &str = "unexpected status";
/// The same, if the worker had not written a line yet (recorded).
const KILLED_EARLY: &str = "unable to read tail (got 0 bytes)";

/// A worker's view of its own task.
#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) upid: String,
    pub(crate) node: String,
    pub(crate) caller: Caller,
    interrupt: CancellationToken,
    fault: Option<Arc<TaskFault>>,
}

fn warns(done: &Result<(), String>) -> bool {
    done.as_ref().is_err_and(|text| text.starts_with("WARNINGS: "))
}

impl State {
    /// Writes a new running task; the worker is started with [`Cluster::spawn_worker`] afterwards.
    pub(crate) fn open_task(
        &mut self,
        cluster: &Cluster,
        node: &str,
        kind: &str,
        id: &str,
        caller: &Caller,
    ) -> String {
        let now = cluster.clock.now();
        let pid = u32::try_from(1000 + self.count("pid", 3) % 4_000_000).unwrap_or(1000);
        let pstart = u64::try_from((now - cluster.boot).max(0)).unwrap_or(0) / 10;
        let starttime = now / 1000;
        let user = caller.id();
        let upid = format!("UPID:{node}:{pid:08X}:{pstart:08X}:{starttime:08X}:{kind}:{id}:{user}:");
        self.tasks.insert(
            &upid,
            Task {
                upid: upid.clone(),
                node: node.into(),
                pid,
                pstart,
                starttime,
                kind: kind.into(),
                id: id.into(),
                user,
                log: Vec::new(),
                exit: None,
                endtime: None,
                began_ms: now,
                ended_ms: None,
            },
        );
        upid
    }

    fn end_task(&mut self, upid: &str, exit: &str, at_ms: i64) {
        if let Some(task) = self.tasks.get_mut(upid).filter(|t| t.exit.is_none()) {
            if exit == "OK" {
                task.log.push("TASK OK".into());
            } else if exit.starts_with("WARNINGS: ") {
                task.log.push(format!("TASK {exit}"));
            } else if exit != KILLED {
                task.log.push(format!("TASK ERROR: {exit}"));
            }
            let exit = if exit == KILLED && task.log.is_empty() { KILLED_EARLY } else { exit };
            task.exit = Some(exit.replace('\n', " "));
            task.endtime = Some(at_ms.div_euclid(1_000));
            task.ended_ms = Some(at_ms);
        }
    }

    /// After a restart of the simulator: whoever was at work is dead.
    pub(crate) fn bury_workers(&mut self, at_ms: i64) {
        let open: Vec<String> =
            self.tasks.values().filter(|t| t.exit.is_none()).map(|t| t.upid.clone()).collect();
        for upid in open {
            self.end_task(&upid, KILLED, at_ms);
        }
    }
}

impl Cluster {
    /// Runs `body` as the worker of an open task.
    pub(crate) fn spawn_worker<F>(
        self: &Arc<Self>,
        upid: &str,
        node: &str,
        caller: &Caller,
        body: impl FnOnce(Worker) -> F,
    ) where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let interrupt = CancellationToken::new();
        let fault = self.faults(node).and_then(|faults| faults.task(upid));
        let worker = Worker {
            cluster: self.clone(),
            upid: upid.to_owned(),
            node: node.to_owned(),
            caller: caller.clone(),
            interrupt: interrupt.clone(),
            fault: fault.clone(),
        };
        let work = body(worker.clone());
        let (go, ready) = tokio::sync::oneshot::channel::<()>();
        let handle = tokio::spawn(async move {
            let _started = ready.await;
            if fault.as_ref().is_some_and(|fault| fault.kills_early()) {
                worker.die().await;
            }
            let done = work.await;
            let done = fault.as_ref().map_or(done.clone(), |fault| fault.end(done));
            if let Some(line) = fault.as_ref().and_then(|fault| fault.warning()).filter(|_| warns(&done)) {
                worker.log(line).await;
            }
            let exit = match done {
                Ok(()) => "OK".to_owned(),
                Err(text) => text,
            };
            let at_ms = worker.cluster.clock.now();
            worker.cluster.change("task.end", |s| s.end_task(&worker.upid, &exit, at_ms)).await;
            worker.cluster.worker_gone(&worker.upid);
        });
        self.worker_started(upid, Running { abort: handle.abort_handle(), interrupt });
        let _worker_waits = go.send(());
    }

    /// Opens a task and runs it.
    pub(crate) async fn fork<F>(
        self: &Arc<Self>,
        ctx: &Ctx,
        kind: &str,
        id: &str,
        body: impl FnOnce(Worker) -> F,
    ) -> ApiResult
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let upid = self.change("task.open", |s| s.open_task(self, &ctx.node, kind, id, &ctx.caller)).await;
        self.spawn_worker(&upid, &ctx.node, &ctx.caller, body);
        Ok(Value::from(upid).into())
    }

    /// Kills a worker as SIGKILL would: its effects so far stay, its locks are free.
    pub(crate) async fn kill(&self, upid: &str) -> bool {
        let Some(running) = self.worker_gone(upid) else { return false };
        running.abort.abort();
        let at_ms = self.clock.now();
        self.change("task.killed", |s| s.end_task(upid, KILLED, at_ms)).await;
        true
    }
}

impl Worker {
    /// Writes a line to the task's log.
    pub(crate) async fn log(&self, line: impl Into<String>) {
        let line = line.into();
        self.cluster
            .change("task.log", |s| {
                if let Some(task) = s.tasks.get_mut(&self.upid) {
                    task.log.push(line);
                }
            })
            .await;
    }

    /// Works for `ms`; an interrupt ends it early. The one place where a task's injected fault strikes.
    pub(crate) async fn work(&self, ms: u64) -> Result<(), String> {
        let strikes = self.fault.as_ref().and_then(|fault| Some((fault, fault.strikes()?)));
        let ms = if strikes.is_some() { ms / 2 } else { ms };
        tokio::select! {
            biased;
            () = self.interrupt.cancelled() => return Err(INTERRUPTED.into()),
            () = tokio::time::sleep(Duration::from_millis(ms)) => {}
        }
        match strikes {
            None => Ok(()),
            Some((_, Kind::Kill)) => {
                self.die().await;
                Ok(())
            }
            Some((fault, _)) => Err(fault.exit()),
        }
    }

    /// Whether anything is to go wrong with it.
    pub(crate) fn meets_a_fault(&self) -> bool {
        self.fault.is_some()
    }

    /// Whether this destruction is one that leaves the disks where they are.
    pub(crate) fn keeps_disk(&self) -> bool {
        self.fault.as_ref().is_some_and(|fault| fault.keeps_disk())
    }

    /// Waits for something; an interrupt ends the waiting.
    pub(crate) async fn unless_interrupted<T>(
        &self,
        something: impl Future<Output = T>,
    ) -> Result<T, String> {
        tokio::select! {
            biased;
            () = self.interrupt.cancelled() => Err(INTERRUPTED.into()),
            done = something => Ok(done),
        }
    }

    /// Is killed; never resolves.
    async fn die(&self) {
        let (cluster, upid) = (self.cluster.clone(), self.upid.clone());
        // From outside, as the kernel would; nothing of this worker runs on.
        tokio::spawn(async move { cluster.kill(&upid).await });
        std::future::pending().await
    }

    /// Works as long as a task of no special kind does.
    pub(crate) async fn work_shortly(&self) -> Result<(), String> {
        self.work(self.cluster.speed().other_ms).await
    }

    /// Takes the VM's file lock; the log tells when it had to wait.
    pub(crate) async fn lock(&self, vmid: u32) -> Result<OwnedRwLockWriteGuard<()>, String> {
        if let Some(guard) = self.cluster.try_lock(vmid) {
            return Ok(guard);
        }
        self.log("trying to acquire lock...").await;
        tokio::select! {
            biased;
            () = self.interrupt.cancelled() => Err(INTERRUPTED.into()),
            got = self.cluster.lock(vmid, self.cluster.timing.config_lock_ms) => {
                let guard = got?;
                self.log(" OK").await;
                Ok(guard)
            }
        }
    }

    /// Takes the lock under which volumes of a storage are allocated; the log tells when it had to wait.
    pub(crate) async fn lock_storage(
        &self,
        node: &str,
        storage: &str,
    ) -> Result<OwnedMutexGuard<()>, String> {
        let patience = self.cluster.timing.storage_lock_ms;
        let in_vain = self.fault.as_ref().and_then(|fault| fault.waits_in_vain(patience));
        if in_vain.is_none()
            && let Ok(guard) = self.cluster.storage_lock(node, storage).try_lock_owned()
        {
            return Ok(guard);
        }
        self.log("trying to acquire lock...").await;
        if let Some(ms) = in_vain {
            // Somebody else has it for longer than anybody waits.
            tokio::time::sleep(Duration::from_millis(ms)).await;
            return Err(self.cluster.storage_is_busy(storage).await);
        }
        let guard = self.cluster.lock_storage(node, storage).await?;
        self.log(" OK").await;
        Ok(guard)
    }

    pub(crate) async fn change<T>(
        &self,
        effect: &'static str,
        change: impl FnOnce(&mut State) -> Result<T, String>,
    ) -> Result<T, String> {
        self.cluster.change(effect, change).await
    }
}

/// Checks the form of a UPID and finds its task on the node.
pub(crate) fn find<'s>(state: &'s State, node: &str, upid: &str) -> Result<&'s Task, ApiError> {
    let parts: Vec<&str> = upid.split(':').collect();
    let hex = |s: &str, len: std::ops::RangeInclusive<usize>| {
        len.contains(&s.len()) && s.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let well_formed = parts.len() == 9
        && parts[0] == "UPID"
        && !parts[1].is_empty()
        && hex(parts[2], 8..=8)
        && hex(parts[3], 8..=9)
        && hex(parts[4], 8..=8)
        && !parts[5].is_empty()
        && !parts[7].is_empty()
        && parts[8].is_empty();
    if !well_formed {
        return Err(ApiError::parameter("upid", "unable to parse worker upid"));
    }
    state
        .tasks
        .get(upid)
        .filter(|t| t.node == node)
        .ok_or_else(|| ApiError::parameter("upid", "no such task"))
}

/// A task as `…/status` shows it.
pub(crate) fn status(task: &Task) -> Value {
    let mut out = json!({
        "upid": task.upid, "node": task.node, "pid": task.pid, "pstart": task.pstart,
        "starttime": task.starttime, "type": task.kind, "id": task.id,
        "status": if task.exit.is_some() { "stopped" } else { "running" },
    });
    let (user, token) = task.user.split_once('!').map_or((task.user.as_str(), None), |(u, t)| (u, Some(t)));
    out["user"] = user.into();
    if let Some(token) = token {
        out["tokenid"] = token.into();
    }
    if let Some(exit) = &task.exit {
        out["exitstatus"] = exit.as_str().into();
    }
    out
}
