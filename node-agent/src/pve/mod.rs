//! The host's Proxmox VE, behind one small trait.
//!
//! Everything above this module speaks [`Hypervisor`]; nothing above knows HTTP, property strings
//! or Proxmox's texts. Three rules shape the face:
//!
//! - **A success is only a promise.** Calls that start work return a [`Upid`]; even starting a VM
//!   that does not exist "succeeds". Only the ended task tells.
//! - **Missing and forbidden look alike.** Permission is checked before existence, so a pool-scoped
//!   token reads 403 for a free VMID; [`ConfigRead`] keeps the two apart and
//!   [`Hypervisor::vmid_taken`] separates free from taken for every token.
//! - **Unknown is a result.** After [`PveError::OutcomeUnknown`] the call may have happened. No verb
//!   here retries; the executor looks first.
//!
//! The real one is built from the typed requests of the `proxmox-api` crate over our own transport,
//! which pins the host's certificate. Tests use an in-memory fake.

pub mod client;
mod console;
mod encode;
mod error;
#[cfg(test)]
pub(crate) mod fake;
mod guest;
mod keep;
mod proxmox;
mod raw;
pub mod settings;
mod tls;
mod types;
mod wait;

use ez_protocol::console::ConsoleKind;
use futures::future::BoxFuture;

pub use client::PveAddress;
pub use console::ConsoleDoor;
pub use error::{PveError, text};
pub use guest::*;
pub use keep::*;
pub use proxmox::ProxmoxHypervisor;
pub use tls::{Fingerprint, ParseFingerprintError};
pub use types::*;
pub use wait::{TaskProgress, WaitError, wait_task};

/// What every verb answers with.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, PveError>>;

/// The verbs the agent needs of a Proxmox VE host. One node; every VMID is a QEMU VM.
pub trait Hypervisor: Send + Sync {
    /// Version of Proxmox VE on this node.
    fn version(&self) -> Answer<'_, Version>;
    /// The host's own load and memory.
    fn node_status(&self) -> Answer<'_, NodeStatus>;
    /// The cluster's nodes.
    fn nodes(&self) -> Answer<'_, Vec<ClusterNode>>;
    /// All VMs and templates on this node that the token may see, with power state and load.
    fn list_guests(&self) -> Answer<'_, Vec<GuestSummary>>;
    /// What the node and its running VMs use, in one call whatever their number.
    fn loads(&self) -> Answer<'_, Loads>;
    /// The node's LVM thin pools.
    fn thin_pools(&self) -> Answer<'_, Vec<ThinPool>>;
    /// One VM's configuration, pending changes merged in.
    fn guest_config(&self, vmid: Vmid) -> Answer<'_, ConfigRead>;
    /// One VM's power state, fresh.
    fn guest_status(&self, vmid: Vmid) -> Answer<'_, GuestStatus>;
    /// Whether the VMID is taken anywhere in the cluster, by anything.
    fn vmid_taken(&self, vmid: Vmid) -> Answer<'_, bool>;
    /// Starts a clone. Refused at once with `is_already_exists` when the VMID is taken.
    fn clone_template(&self, request: CloneRequest) -> Answer<'_, Upid>;
    /// Sets and removes configuration options, synchronously.
    fn set_config(&self, vmid: Vmid, change: ConfigChange) -> Answer<'_, ()>;
    /// Grows a disk to an absolute size in GiB. `None`: done at once. The size it has is a no-op,
    /// a smaller one fails in the task.
    fn resize(&self, vmid: Vmid, disk: &str, gib: u32) -> Answer<'_, Option<Upid>>;
    /// Writes the cloud-init drive anew from the present configuration and snippets.
    fn regenerate_cloudinit(&self, vmid: Vmid) -> Answer<'_, ()>;
    /// Makes the VM's firewall options and its ipset `ipfilter-net0` exactly this; repeatable.
    fn set_firewall(&self, vmid: Vmid, setup: FirewallSetup) -> Answer<'_, ()>;
    /// Starts the VM. A running VM fails in the task with `VM … already running`.
    fn start(&self, vmid: Vmid) -> Answer<'_, Upid>;
    /// Pulls the plug. A stopped VM is a success.
    fn stop(&self, vmid: Vmid) -> Answer<'_, Upid>;
    /// Asks the guest to shut down; pulls the plug after the time-out if `force`.
    fn shutdown(&self, vmid: Vmid, timeout_secs: u32, force: bool) -> Answer<'_, Upid>;
    /// Asks the guest to reboot; applies pending changes. Refused when stopped.
    fn reboot(&self, vmid: Vmid, timeout_secs: u32) -> Answer<'_, Upid>;
    /// Hard reset. Refused when stopped.
    fn reset(&self, vmid: Vmid) -> Answer<'_, Upid>;
    /// Destroys a stopped VM with all its disks; with `purge` what its host's owner has set up for it goes too: its place in
    /// backup jobs, replication, high availability. Without it one that is replicated or highly available is refused.
    fn destroy(&self, vmid: Vmid, purge: bool) -> Answer<'_, Upid>;
    /// State of a task.
    fn task_status(&self, upid: &Upid) -> Answer<'_, TaskState>;
    /// At most [`LOG_PAGE`] lines of a task's log, beginning with line number `from` (1 is the first).
    fn task_log(&self, upid: &Upid, from: u64) -> Answer<'_, Vec<LogLine>>;
    /// Looks for a clone of `template`, begun at `since_secs` (unix seconds) or later, that makes `newid`.
    fn find_clone_task(&self, template: Vmid, since_secs: i64, newid: Vmid) -> Answer<'_, CloneSearch>;
    /// Tasks of a kind about a VM, begun at `since_secs` (unix seconds) or later, newest first.
    fn find_tasks(
        &self,
        kind: &'static str,
        vmid: Vmid,
        since_secs: i64,
    ) -> Answer<'_, Vec<(Upid, TaskState)>>;
    /// Interrupts a task. Harmless for one that has ended.
    fn stop_task(&self, upid: &Upid) -> Answer<'_, ()>;
    /// The storages of this node.
    fn storages(&self) -> Answer<'_, Vec<Storage>>;
    /// Names of this node's bridges.
    fn bridges(&self) -> Answer<'_, Vec<String>>;
    /// The template VMs that carry the image marker.
    fn templates(&self) -> Answer<'_, Vec<ImageTemplate>>;
    /// The VMs in a pool.
    fn pool_members(&self, pool: &str) -> Answer<'_, Vec<Vmid>>;
    /// Own effective privileges.
    fn permissions(&self) -> Answer<'_, Permissions>;
    /// Whether the datacenter's firewall is on, if the token may know.
    fn datacenter_firewall(&self) -> Answer<'_, FirewallState>;
    /// Whether the guest agent answers; `false` while it does not (yet), or the VM is stopped.
    fn agent_ping(&self, vmid: Vmid) -> Answer<'_, bool>;
    /// Addresses the guest agent reports; loopback left out.
    fn agent_addresses(&self, vmid: Vmid) -> Answer<'_, Vec<GuestAddress>>;
    /// The VM's snapshots.
    fn snapshots(&self, vmid: Vmid) -> Answer<'_, Vec<Snapshot>>;
    /// Takes a snapshot of the disks. A name that is taken fails in the task.
    fn take_snapshot(&self, vmid: Vmid, name: &str, description: String) -> Answer<'_, Upid>;
    /// Makes disks and configuration be as in a snapshot; a running VM is stopped and stays so.
    fn roll_back(&self, vmid: Vmid, name: &str) -> Answer<'_, Upid>;
    /// Removes a snapshot.
    fn drop_snapshot(&self, vmid: Vmid, name: &str) -> Answer<'_, Upid>;
    /// Backups of a VM on a storage, those of other makers included.
    fn backups(&self, storage: &str, vmid: Vmid) -> Answer<'_, Vec<Backup>>;
    /// Copies the whole VM to a storage; the notes are written when it is whole.
    fn back_up(&self, vmid: Vmid, storage: &str, notes: String) -> Answer<'_, Upid>;
    /// Replaces a stopped VM, its configuration included, by a backup of it.
    fn restore(&self, vmid: Vmid, volume: &str, storage: &str) -> Answer<'_, Upid>;
    /// Removes a volume that belongs to no VM. One that is missing is a success.
    fn delete_volume(&self, volume: &str) -> Answer<'_, Option<Upid>>;
    /// Gives a stopped VM a new disk with the content of a template's.
    fn import_disk(&self, vmid: Vmid, drive: &'static str, storage: &str, volume: &str) -> Answer<'_, Upid>;
    /// Takes a disk from a stopped VM and removes it for good.
    fn remove_disk(&self, vmid: Vmid, drive: &'static str) -> Answer<'_, ()>;
    /// Gives a user of the guest a password by its crypt hash, through the guest agent; `false` where
    /// nobody answers.
    fn set_password(&self, vmid: Vmid, user: &'static str, hash: String) -> Answer<'_, bool>;
    /// Has a worker listen on the loopback for ten seconds, for one client of a running VM's console.
    fn open_console(&self, vmid: Vmid, kind: ConsoleKind) -> Answer<'_, ConsoleDoor>;
    /// Options whose change waits for the next cold start.
    fn pending(&self, vmid: Vmid) -> Answer<'_, Vec<String>>;
}
