//! One cluster at work: its state, its locks, its running workers.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{OwnedMutexGuard, OwnedRwLockReadGuard, OwnedRwLockWriteGuard};
use tokio_util::sync::CancellationToken;

use super::access::{Access, Caller};
use super::clock::Clock;
use super::config::{NodeConfig, PveConfig, TaskSpeed, Timing};
use super::inject::NodeFaults;
use super::state::State;
use super::store::Disk;

/// A worker that runs.
pub(crate) struct Running {
    pub(crate) abort: tokio::task::AbortHandle,
    pub(crate) interrupt: CancellationToken,
}

struct Inner {
    state: State,
    disk: Disk,
}

/// What belongs to one node while the simulator runs.
#[derive(Clone, Debug)]
pub(crate) struct NodeFacts {
    pub(crate) config: NodeConfig,
    pub(crate) fingerprint: String,
    pub(crate) faults: Arc<NodeFaults>,
}

/// One simulated cluster.
pub(crate) struct Cluster {
    pub(crate) name: String,
    /// `8.4.21`
    pub(crate) version: String,
    pub(crate) major: u32,
    pub(crate) directory: PathBuf,
    pub(crate) clock: Clock,
    pub(crate) timing: Timing,
    pub(crate) nodes: BTreeMap<String, NodeFacts>,
    pub(crate) request_log: PathBuf,
    /// Unix milliseconds of the (simulated) machine's boot.
    pub(crate) boot: i64,
    speed: RwLock<TaskSpeed>,
    agent_after: RwLock<u64>,
    inner: tokio::sync::Mutex<Inner>,
    locks: Mutex<HashMap<u32, Arc<tokio::sync::RwLock<()>>>>,
    storage_locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    workers: Mutex<HashMap<String, Running>>,
    log_lock: Mutex<()>,
    pub(crate) lagging: tokio::sync::Mutex<Option<(i64, serde_json::Value)>>,
    pub(crate) stop: CancellationToken,
}

/// What a cluster is made of.
pub(crate) struct Parts {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) directory: PathBuf,
    pub(crate) request_log: PathBuf,
    pub(crate) nodes: BTreeMap<String, NodeFacts>,
    pub(crate) clock: Clock,
    pub(crate) state: State,
    pub(crate) disk: Disk,
    pub(crate) boot: i64,
}

fn held<T>(lock: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cluster {
    pub(crate) fn new(parts: Parts, config: &PveConfig) -> Cluster {
        let major = parts.version.split('.').next().and_then(|m| m.parse().ok()).unwrap_or(9);
        Cluster {
            name: parts.name,
            version: parts.version,
            major,
            directory: parts.directory,
            clock: parts.clock,
            timing: config.timing,
            nodes: parts.nodes,
            request_log: parts.request_log,
            boot: parts.boot,
            speed: RwLock::new(config.task_speed),
            agent_after: RwLock::new(config.guest_agent_after_ms),
            inner: tokio::sync::Mutex::new(Inner { state: parts.state, disk: parts.disk }),
            locks: Mutex::default(),
            storage_locks: Mutex::default(),
            workers: Mutex::default(),
            log_lock: Mutex::default(),
            lagging: tokio::sync::Mutex::new(None),
            stop: CancellationToken::new(),
        }
    }

    /// `8.4` of `8.4.21`.
    pub(crate) fn release(&self) -> String {
        self.version.splitn(3, '.').take(2).collect::<Vec<_>>().join(".")
    }

    pub(crate) fn speed(&self) -> TaskSpeed {
        *self.speed.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_speed(&self, speed: TaskSpeed) {
        *self.speed.write().unwrap_or_else(PoisonError::into_inner) = speed;
    }

    pub(crate) fn agent_after(&self) -> u64 {
        *self.agent_after.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_agent_after(&self, ms: u64) {
        *self.agent_after.write().unwrap_or_else(PoisonError::into_inner) = ms;
    }

    /// What is armed on a node; none on a node that is not of this cluster.
    pub(crate) fn faults(&self, node: &str) -> Option<&NodeFaults> {
        self.nodes.get(node).map(|facts| &*facts.faults)
    }

    /// Looks at the state.
    pub(crate) async fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.inner.lock().await.state)
    }

    /// Looks at the state and at what a caller may do.
    pub(crate) async fn judge<T>(&self, look: impl FnOnce(&State, &Access<'_>) -> T) -> T {
        let inner = self.inner.lock().await;
        look(&inner.state, &Access { state: &inner.state, major: self.major })
    }

    /// One effect: changes the state and writes the change to disk before anyone can see it.
    ///
    /// `effect` names it. This is the one place where faults can be injected before and after each
    /// effect; every change of a cluster passes here. A caller that returns early with an error must
    /// not have changed anything yet.
    pub(crate) async fn change<T>(&self, effect: &'static str, change: impl FnOnce(&mut State) -> T) -> T {
        let mut inner = self.inner.lock().await;
        let inner = &mut *inner;
        let out = change(&mut inner.state);
        let rows = match inner.state.pending() {
            Ok(rows) => rows,
            Err(error) => {
                tracing::error!(%error, effect, cluster = %self.name, "state cannot be encoded");
                return out;
            }
        };
        if !rows.is_empty() {
            // A worker killed while it writes leaves the rows marked: the next change writes them.
            match inner.disk.write(rows).await {
                Ok(()) => inner.state.clean(),
                Err(error) => {
                    tracing::error!(%error, effect, cluster = %self.name, "state cannot be written")
                }
            }
        }
        out
    }

    fn lock_of(&self, vmid: u32) -> Arc<tokio::sync::RwLock<()>> {
        held(&self.locks).entry(vmid).or_default().clone()
    }

    fn lock_text(vmid: u32) -> String {
        format!("can't lock file '/var/lock/qemu-server/lock-{vmid}.conf' - got timeout")
    }

    /// Takes the VM's file lock at once, if nobody has it.
    pub(crate) fn try_lock(&self, vmid: u32) -> Option<OwnedRwLockWriteGuard<()>> {
        self.lock_of(vmid).try_write_owned().ok()
    }

    /// Takes the VM's file lock, waiting up to `ms`.
    pub(crate) async fn lock(&self, vmid: u32, ms: u64) -> Result<OwnedRwLockWriteGuard<()>, String> {
        let lock = self.lock_of(vmid);
        tokio::time::timeout(Duration::from_millis(ms), lock.write_owned())
            .await
            .map_err(|_| Self::lock_text(vmid))
    }

    /// Takes the VM's file lock shared, as a clone does with its source.
    pub(crate) async fn lock_shared(&self, vmid: u32, ms: u64) -> Result<OwnedRwLockReadGuard<()>, String> {
        let lock = self.lock_of(vmid);
        tokio::time::timeout(Duration::from_millis(ms), lock.read_owned())
            .await
            .map_err(|_| Self::lock_text(vmid))
    }

    /// The lock under which volumes of a storage are allocated.
    pub(crate) fn storage_lock(&self, node: &str, storage: &str) -> Arc<tokio::sync::Mutex<()>> {
        held(&self.storage_locks).entry(format!("{node}/{storage}")).or_default().clone()
    }

    /// Takes it, waiting as long as Proxmox does.
    pub(crate) async fn lock_storage(
        &self,
        node: &str,
        storage: &str,
    ) -> Result<OwnedMutexGuard<()>, String> {
        let patience = Duration::from_millis(self.timing.storage_lock_ms);
        match tokio::time::timeout(patience, self.storage_lock(node, storage).lock_owned()).await {
            Ok(guard) => Ok(guard),
            Err(_) => Err(self.storage_is_busy(storage).await),
        }
    }

    /// What whoever has waited for it in vain is told. Source: the published code of pve-storage and pve-cluster; no
    /// recording covers it.
    pub(crate) async fn storage_is_busy(&self, storage: &str) -> String {
        let shared = self.read(|s| s.storages.get(storage).is_some_and(|known| known.shared)).await;
        if shared {
            format!("error with cfs lock 'storage-{storage}': got lock request timeout")
        } else {
            format!("can't lock file '/var/lock/pve-manager/pve-storage-{storage}' - got timeout")
        }
    }

    pub(crate) fn worker_started(&self, upid: &str, running: Running) {
        held(&self.workers).insert(upid.to_owned(), running);
    }

    pub(crate) fn worker_gone(&self, upid: &str) -> Option<Running> {
        held(&self.workers).remove(upid)
    }

    pub(crate) fn running_workers(&self) -> Vec<String> {
        held(&self.workers).keys().cloned().collect()
    }

    /// Asks a worker to stop, as SIGTERM would.
    pub(crate) fn interrupt(&self, upid: &str) -> bool {
        held(&self.workers).get(upid).map(|w| w.interrupt.cancel()).is_some()
    }

    /// Appends a line to the request log.
    pub(crate) fn log_request(&self, line: &serde_json::Value) {
        use std::io::Write;
        let _one_at_a_time = held(&self.log_lock);
        let written = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.request_log)
            .and_then(|mut f| f.write_all(format!("{line}\n").as_bytes()));
        if let Err(error) = written {
            tracing::warn!(%error, "request log");
        }
    }
}

/// What a call sees.
#[derive(Clone)]
pub(crate) struct Ctx {
    pub(crate) cluster: Arc<Cluster>,
    /// The node named in the path, or the one that was asked.
    pub(crate) node: String,
    pub(crate) caller: Caller,
    pub(crate) params: super::params::Params,
}

impl Ctx {
    /// The VMID of the path.
    pub(crate) fn vmid(&self) -> u32 {
        self.params.get("vmid").and_then(|v| v.parse().ok()).unwrap_or(0)
    }

    /// `/vms/{vmid}`
    pub(crate) fn vm_path(&self) -> String {
        format!("/vms/{}", self.vmid())
    }

    pub(crate) fn is_root_session(&self) -> bool {
        self.caller.user == "root@pam" && self.caller.token.is_none()
    }
}

/// The text for a VM that is not there.
pub(crate) fn no_config(node: &str, vmid: u32) -> String {
    format!("Configuration file 'nodes/{node}/qemu-server/{vmid}.conf' does not exist")
}

/// The text for a VM that is not there, as clone and stop say it.
pub(crate) fn unable_to_find(node: &str, vmid: u32) -> String {
    format!("unable to find configuration file for VM {vmid} on node '{node}'")
}
