//! Starting a VM: pending changes, the cloud-init drive, the machine.

use std::sync::Arc;
use std::time::Duration;

use super::list::agent_configured;
use super::{check_lock, only_root};
use crate::pve::cloudinit;
use crate::pve::cluster::{Cluster, Ctx, no_config};
use crate::pve::drive::Drive;
use crate::pve::reply::ApiResult;
use crate::pve::state::{Run, State, Vm};
use crate::pve::task::Worker;
use crate::pve::vmconfig;

/// Parameters of `status/start`.
pub(super) const START: &str = "\
force-cpu? s
machine? s fmt=@machine
migratedfrom? s fmt=pve-node
migration_network? s fmt=CIDR
migration_type? s enum=secure|insecure
nets-host-mtu? s since9
skiplock? b
stateuri? s max=128
targetstorage? s fmt=storage-pair-list
timeout? i 0..
with-conntrack-state? b since9
";

pub(super) async fn start(ctx: Ctx) -> ApiResult {
    only_root(
        &ctx,
        &[
            "skiplock",
            "stateuri",
            "migratedfrom",
            "migration_type",
            "migration_network",
            "targetstorage",
            "force-cpu",
        ],
    )?;
    let cluster = ctx.cluster.clone();
    let vmid = ctx.vmid();
    cluster.fork(&ctx, "qmstart", &vmid.to_string(), |w| work(w, vmid)).await
}

/// Opens a start task in the name of a worker's caller.
pub(super) async fn start_later(w: &Worker, vmid: u32) {
    let cluster = w.cluster.clone();
    let upid = cluster
        .change("task.open", |s| s.open_task(&w.cluster, &w.node, "qmstart", &vmid.to_string(), &w.caller))
        .await;
    cluster.spawn_worker(&upid, &w.node, &w.caller, |w| work(w, vmid));
}

async fn work(w: Worker, vmid: u32) -> Result<(), String> {
    let _guard = w.lock(vmid).await?;
    let node = w.node.clone();
    let state = w.cluster.read(|s| {
        let vm = s.vm_on(&node, vmid).ok_or_else(|| no_config(&node, vmid))?;
        if vm.is_template() {
            return Err("you can't start a vm if it's a template".to_owned());
        }
        check_lock(vm)?;
        if vm.run.is_some() {
            return Err(format!("VM {vmid} already running"));
        }
        Ok(())
    });
    state.await?;
    boot(&Boot::of(&w), vmid).await
}

/// Builds the cloud-init drive of a VM from its configuration and writes it down.
pub(crate) async fn write_drive(cluster: &Cluster, node: &str, vmid: u32) -> Result<bool, String> {
    let major = cluster.major;
    let found = cluster
        .read(|s| {
            let vm = s.vm_on(node, vmid).ok_or_else(|| no_config(node, vmid))?;
            let has_drive =
                vm.config.iter().any(|(k, v)| vmconfig::is_drive(k) && Drive::parse(v).is_cloudinit());
            if !has_drive {
                return Ok(None);
            }
            Ok::<_, String>(Some((vm.config.clone(), cloudinit::snippets(s, node, &vm.config, major)?)))
        })
        .await?;
    let Some((config, snippets)) = found else { return Ok(false) };
    let drive = cloudinit::build(&config, vmid, major, &snippets).await?;
    cluster
        .change("cloudinit.drive", |s| {
            if let Some(vm) = s.vms.get_mut(vmid) {
                vm.drive = Some(drive);
            }
        })
        .await;
    Ok(true)
}

/// Where a machine is started, and whose log tells of it.
pub(super) struct Boot<'a> {
    cluster: &'a Arc<Cluster>,
    node: &'a str,
    worker: Option<&'a Worker>,
}

impl<'a> Boot<'a> {
    pub(super) fn of(worker: &'a Worker) -> Self {
        Boot { cluster: &worker.cluster, node: &worker.node, worker: Some(worker) }
    }

    pub(super) fn quiet(cluster: &'a Arc<Cluster>, node: &'a str) -> Self {
        Boot { cluster, node, worker: None }
    }

    async fn log(&self, line: String) {
        if let Some(w) = self.worker {
            w.log(line).await;
        }
    }

    async fn work(&self, ms: u64) -> Result<(), String> {
        match self.worker {
            Some(w) => w.work(ms).await,
            None => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                Ok(())
            }
        }
    }
}

/// Starts the machine; the caller holds the file lock and has checked that it may.
pub(super) async fn boot(w: &Boot<'_>, vmid: u32) -> Result<(), String> {
    w.cluster
        .change("vm.pending", |s| {
            if let Some(vm) = s.vms.get_mut(vmid).filter(|v| !v.pending.is_empty()) {
                let freed = vmconfig::apply_pending(vm);
                freed.iter().for_each(|volid| s.free(w.node, volid));
            }
        })
        .await;
    if write_drive(w.cluster, w.node, vmid).await? {
        w.log("generating cloud-init ISO".into()).await;
    }
    let missing = w.cluster.read(|s| missing_medium(s, w.node, vmid)).await;
    if let Some(volid) = missing {
        return Err(format!("volume '{volid}' does not exist"));
    }
    let bridges = w.cluster.nodes.get(w.node).map(|n| n.config.bridges.clone()).unwrap_or_default();
    let config = w.cluster.read(|s| s.vms.get(vmid).map(|v| v.config.clone()).unwrap_or_default()).await;
    let major = w.cluster.major;
    for (net, value) in config.iter().filter(|(k, _)| vmconfig::is_net(k)) {
        let (bridge, ..) = vmconfig::net_parts(value, major);
        if let Some(bridge) = bridge.filter(|b| !bridges.contains(b)) {
            w.log(format!("bridge '{bridge}' does not exist")).await;
            let index = net.trim_start_matches("net");
            w.log(format!(
                "qemu-system-x86_64: -netdev type=tap,id={net},ifname=tap{vmid}i{index},script=/usr/libexec/qemu-server/pve-bridge,downscript=/usr/libexec/qemu-server/pve-bridgedown: network script /usr/libexec/qemu-server/pve-bridge failed with status 512"
            ))
            .await;
            return Err("start failed: QEMU exited with code 1".into());
        }
    }
    w.work(w.cluster.speed().start_ms).await?;
    let (now, after) = (w.cluster.clock.now(), w.cluster.agent_after());
    w.cluster.change("vm.run", |s| power_on(s, vmid, now, after)).await;
    Ok(())
}

/// The machine runs, from the first drive of its boot order.
pub(crate) fn power_on(s: &mut State, vmid: u32, now: i64, agent_after: u64) {
    let pid = u32::try_from(1000 + s.count("pid", 3) % 4_000_000).unwrap_or(1000);
    let booted_from = s.vms.get(vmid).and_then(|vm| s.boots_from(vm));
    if let Some(vm) = s.vms.get_mut(vmid) {
        vm.run = Some(Run { booted_from, ..machine(vm, pid, now, agent_after) });
    }
}

/// A disk or medium of the configuration that is not there.
fn missing_medium(s: &State, node: &str, vmid: u32) -> Option<String> {
    let drives = s.vms.get(vmid)?.config.iter().filter(|(k, _)| vmconfig::is_drive(k));
    let mut files = drives.map(|(_, v)| Drive::parse(v).file).filter(|f| f.contains(':'));
    files.find(|file| s.volume(node, file).is_none())
}

/// A machine that has just been switched on.
fn machine(vm: &Vm, pid: u32, now: i64, agent_after: u64) -> Run {
    let agent_device = agent_configured(vm);
    // The image has the agent, or first boot installs it.
    let mentions = |text: &str| text.contains("qemu-guest-agent");
    let installs =
        vm.drive.as_ref().is_some_and(|d| mentions(&d.user) || d.vendor.as_deref().is_some_and(mentions));
    let answers = agent_device && (vm.guest_agent || installs);
    Run {
        pid,
        since: now,
        paused: false,
        agent_device,
        agent_at: answers.then(|| now + i64::try_from(agent_after).unwrap_or(0)),
        prelaunch: false,
        booted_from: None,
    }
}

/// Waits as long as a silent guest agent is waited for.
pub(crate) async fn wait_for_agent(cluster: &Cluster) {
    tokio::time::sleep(Duration::from_millis(cluster.timing.agent_ms)).await;
}
