//! [`Hypervisor`] over Proxmox VE's HTTP API.
//!
//! Requests that change something are built with the `proxmox-api` crate's typed parameters, so that
//! names and ranges are checked at compile time or before sending. Answers are read leniently (see
//! `raw`), because the crate's output types refuse whole lists over one unknown value.

mod console;
mod firewall;
mod guest;
mod host;
mod keep;
mod loads;
mod tasks;

use ez_protocol::console::ConsoleKind;
use futures::FutureExt as _;
use proxmox_api::{
    client::Client as _,
    nodes::{
        NodesClient,
        node::{NodeClient, qemu::vmid::VmidClient},
    },
    types::VmId,
};
use serde::de::DeserializeOwned;

use super::{
    Answer, Backup, CloneRequest, CloneSearch, ClusterNode, ConfigChange, ConfigRead, ConsoleDoor,
    FirewallSetup, FirewallState, GuestAddress, GuestStatus, GuestSummary, Hypervisor, ImageTemplate, Loads,
    LogLine, NodeStatus, Permissions, PveError, Snapshot, Storage, TaskState, ThinPool, Upid, Version, Vmid,
    client::{PveAddress, PveHttp},
    is_config_id, is_node_name,
};

/// One node of a Proxmox VE cluster, called over HTTPS.
#[derive(Clone, Debug)]
pub struct ProxmoxHypervisor {
    http: PveHttp,
    node: String,
}

impl ProxmoxHypervisor {
    /// A client for `node`; connects when it is first used.
    ///
    /// # Errors
    /// [`PveError::Invalid`] if the node's name, the address or the token cannot be used.
    pub fn new(address: &PveAddress, node: &str) -> Result<Self, PveError> {
        if !is_node_name(node) {
            return Err(PveError::Invalid(format!("not a node name: {node:?}")));
        }
        Ok(Self { http: PveHttp::new(address)?, node: node.to_owned() })
    }

    /// The same, which reads its token from this file again when Proxmox does not know it any more.
    #[must_use]
    pub fn rereading(self, token_file: &std::path::Path) -> Self {
        Self { http: self.http.rereading(token_file), ..self }
    }

    /// Name of the node.
    pub fn node_name(&self) -> &str {
        &self.node
    }

    fn node(&self) -> NodeClient<PveHttp> {
        NodesClient::new(self.http.clone()).node(&self.node)
    }

    fn guest(&self, vmid: Vmid) -> Result<VmidClient<PveHttp>, PveError> {
        Ok(self.node().qemu().vmid(vm_id(vmid)?))
    }

    async fn read<R: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<R, PveError> {
        let query: serde_json::Map<_, _> =
            query.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
        self.http.get(path, &query).await
    }

    fn node_path(&self, rest: &str) -> String {
        format!("/nodes/{}{rest}", self.node)
    }

    fn guest_path(&self, vmid: Vmid, rest: &str) -> Result<String, PveError> {
        vm_id(vmid)?;
        Ok(format!("/nodes/{}/qemu/{vmid}{rest}", self.node))
    }
}

/// The crate's VMID; refuses what Proxmox would refuse.
fn vm_id(vmid: Vmid) -> Result<VmId, PveError> {
    VmId::try_from(i128::from(vmid)).map_err(|e| PveError::Invalid(format!("VMID {vmid}: {e:?}")))
}

/// Refuses a pool or storage name that could change the path.
fn config_id(name: &str) -> Result<&str, PveError> {
    if is_config_id(name) {
        Ok(name)
    } else {
        Err(PveError::Invalid(format!("not a configuration id: {name:?}")))
    }
}

/// Reads the task handle of an answer.
fn upid(text: &str) -> Result<Upid, PveError> {
    text.parse().map_err(|e: PveError| PveError::Decode { call: "task handle".into(), reason: e.to_string() })
}

impl Hypervisor for ProxmoxHypervisor {
    fn version(&self) -> Answer<'_, Version> {
        self.read_version().boxed()
    }
    fn node_status(&self) -> Answer<'_, NodeStatus> {
        self.read_node_status().boxed()
    }
    fn nodes(&self) -> Answer<'_, Vec<ClusterNode>> {
        self.read_nodes().boxed()
    }
    fn list_guests(&self) -> Answer<'_, Vec<GuestSummary>> {
        self.read_guests().boxed()
    }
    fn loads(&self) -> Answer<'_, Loads> {
        self.read_loads().boxed()
    }
    fn thin_pools(&self) -> Answer<'_, Vec<ThinPool>> {
        self.read_thin_pools().boxed()
    }
    fn guest_config(&self, vmid: Vmid) -> Answer<'_, ConfigRead> {
        self.read_config(vmid).boxed()
    }
    fn guest_status(&self, vmid: Vmid) -> Answer<'_, GuestStatus> {
        self.read_status(vmid).boxed()
    }
    fn vmid_taken(&self, vmid: Vmid) -> Answer<'_, bool> {
        self.read_vmid_taken(vmid).boxed()
    }
    fn clone_template(&self, request: CloneRequest) -> Answer<'_, Upid> {
        self.post_clone(request).boxed()
    }
    fn set_config(&self, vmid: Vmid, change: ConfigChange) -> Answer<'_, ()> {
        self.put_config(vmid, change).boxed()
    }
    fn resize(&self, vmid: Vmid, disk: &str, gib: u32) -> Answer<'_, Option<Upid>> {
        self.put_resize(vmid, disk.to_owned(), gib).boxed()
    }
    fn regenerate_cloudinit(&self, vmid: Vmid) -> Answer<'_, ()> {
        async move { self.guest(vmid)?.cloudinit().put().await }.boxed()
    }
    fn set_firewall(&self, vmid: Vmid, setup: FirewallSetup) -> Answer<'_, ()> {
        self.put_firewall(vmid, setup).boxed()
    }
    fn start(&self, vmid: Vmid) -> Answer<'_, Upid> {
        self.post_start(vmid).boxed()
    }
    fn stop(&self, vmid: Vmid) -> Answer<'_, Upid> {
        self.post_stop(vmid).boxed()
    }
    fn shutdown(&self, vmid: Vmid, timeout_secs: u32, force: bool) -> Answer<'_, Upid> {
        self.post_shutdown(vmid, timeout_secs, force).boxed()
    }
    fn reboot(&self, vmid: Vmid, timeout_secs: u32) -> Answer<'_, Upid> {
        self.post_reboot(vmid, timeout_secs).boxed()
    }
    fn reset(&self, vmid: Vmid) -> Answer<'_, Upid> {
        self.post_reset(vmid).boxed()
    }
    fn destroy(&self, vmid: Vmid, purge: bool) -> Answer<'_, Upid> {
        self.delete_guest(vmid, purge).boxed()
    }
    fn task_status(&self, upid: &Upid) -> Answer<'_, TaskState> {
        self.read_task(upid.clone()).boxed()
    }
    fn task_log(&self, upid: &Upid, from: u64) -> Answer<'_, Vec<LogLine>> {
        self.read_task_log(upid.clone(), from).boxed()
    }
    fn find_clone_task(&self, template: Vmid, since_secs: i64, newid: Vmid) -> Answer<'_, CloneSearch> {
        self.search_clone(template, since_secs, newid).boxed()
    }
    fn stop_task(&self, upid: &Upid) -> Answer<'_, ()> {
        self.delete_task(upid.clone()).boxed()
    }
    fn storages(&self) -> Answer<'_, Vec<Storage>> {
        self.read_storages().boxed()
    }
    fn bridges(&self) -> Answer<'_, Vec<String>> {
        self.read_bridges().boxed()
    }
    fn templates(&self) -> Answer<'_, Vec<ImageTemplate>> {
        self.read_templates().boxed()
    }
    fn pool_members(&self, pool: &str) -> Answer<'_, Vec<Vmid>> {
        self.read_pool(pool.to_owned()).boxed()
    }
    fn permissions(&self) -> Answer<'_, Permissions> {
        self.read_permissions().boxed()
    }
    fn datacenter_firewall(&self) -> Answer<'_, FirewallState> {
        self.read_datacenter_firewall().boxed()
    }
    fn agent_ping(&self, vmid: Vmid) -> Answer<'_, bool> {
        self.post_ping(vmid).boxed()
    }
    fn agent_addresses(&self, vmid: Vmid) -> Answer<'_, Vec<GuestAddress>> {
        self.read_agent_addresses(vmid).boxed()
    }
    fn find_tasks(
        &self,
        kind: &'static str,
        vmid: Vmid,
        since_secs: i64,
    ) -> Answer<'_, Vec<(Upid, TaskState)>> {
        self.read_tasks_of(kind, vmid, since_secs).boxed()
    }
    fn snapshots(&self, vmid: Vmid) -> Answer<'_, Vec<Snapshot>> {
        self.read_snapshots(vmid).boxed()
    }
    fn take_snapshot(&self, vmid: Vmid, name: &str, description: String) -> Answer<'_, Upid> {
        self.post_snapshot(vmid, name.to_owned(), description).boxed()
    }
    fn roll_back(&self, vmid: Vmid, name: &str) -> Answer<'_, Upid> {
        self.post_rollback(vmid, name.to_owned()).boxed()
    }
    fn drop_snapshot(&self, vmid: Vmid, name: &str) -> Answer<'_, Upid> {
        self.delete_snapshot_of(vmid, name.to_owned()).boxed()
    }
    fn backups(&self, storage: &str, vmid: Vmid) -> Answer<'_, Vec<Backup>> {
        self.read_backups(storage.to_owned(), vmid).boxed()
    }
    fn back_up(&self, vmid: Vmid, storage: &str, notes: String) -> Answer<'_, Upid> {
        self.post_backup(vmid, storage.to_owned(), notes).boxed()
    }
    fn restore(&self, vmid: Vmid, volume: &str, storage: &str) -> Answer<'_, Upid> {
        self.post_restore(vmid, volume.to_owned(), storage.to_owned()).boxed()
    }
    fn delete_volume(&self, volume: &str) -> Answer<'_, Option<Upid>> {
        self.delete_content(volume.to_owned()).boxed()
    }
    fn import_disk(&self, vmid: Vmid, drive: &'static str, storage: &str, volume: &str) -> Answer<'_, Upid> {
        self.post_import(vmid, drive, storage.to_owned(), volume.to_owned()).boxed()
    }
    fn remove_disk(&self, vmid: Vmid, drive: &'static str) -> Answer<'_, ()> {
        self.put_unlink(vmid, drive).boxed()
    }
    fn set_password(&self, vmid: Vmid, user: &'static str, hash: String) -> Answer<'_, bool> {
        self.post_password(vmid, user, hash).boxed()
    }
    fn open_console(&self, vmid: Vmid, kind: ConsoleKind) -> Answer<'_, ConsoleDoor> {
        self.post_console(vmid, kind).boxed()
    }
    fn pending(&self, vmid: Vmid) -> Answer<'_, Vec<String>> {
        self.read_pending(vmid).boxed()
    }
}
