//! Destroying a VM and everything that names it.

use super::{check_lock, load, only_root};
use crate::pve::call::{Call, Check, call};
use crate::pve::cluster::{Ctx, no_config};
use crate::pve::drive::Drive;
use crate::pve::reply::{ApiError, ApiResult};
use crate::pve::state::{State, Volume};
use crate::pve::task::Worker;

pub(super) fn calls() -> Vec<Call> {
    vec![call(
        "DELETE",
        "/nodes/{node}/qemu/{vmid}",
        &["destroy-unreferenced-disks? b\npurge? b\nskiplock? b"],
        Check::All("/vms/{vmid}", &["VM.Allocate"]),
        destroy,
    )]
}

/// Removes configuration, disks, firewall file, access control entries and pool membership; backups stay.
pub(crate) fn remove_vm(s: &mut State, node: &str, vmid: u32) {
    s.vms.remove(vmid);
    s.firewalls.remove(vmid);
    s.volumes.retain(|_, v| !(v.node == node && v.vmid == Some(vmid) && v.content == "images"));
    let path = format!("/vms/{vmid}");
    s.acls.retain(|_, a| a.path != path);
    let pools: Vec<String> =
        s.pools.iter().filter(|(_, p)| p.vms.contains(&vmid)).map(|(id, _)| id.clone()).collect();
    for id in pools {
        if let Some(pool) = s.pools.get_mut(id) {
            pool.vms.retain(|v| *v != vmid);
        }
    }
    s.meta.remove(format!("deaf {vmid}"));
}

/// Removes the disks but these. Until the configuration goes too, it says nothing but that (qemu-server, `destroy_vm`).
fn free_disks(s: &mut State, node: &str, vmid: u32, left: &[Volume]) {
    let stays = |volume: &Volume| left.iter().any(|one| one.volid == volume.volid);
    s.volumes.retain(|_, v| !(v.node == node && v.vmid == Some(vmid) && v.content == "images") || stays(v));
    if let Some(vm) = s.vms.get_mut(vmid) {
        vm.config = [("lock".to_owned(), "destroyed".to_owned())].into();
        vm.pending.clear();
        vm.snapshots.clear();
    }
}

/// Disks of the VM that neither its configuration nor a snapshot names.
fn unreferenced(s: &State, node: &str, vmid: u32) -> Vec<Volume> {
    let Some(vm) = s.vms.get(vmid) else { return Vec::new() };
    let configs = std::iter::once(&vm.config).chain(vm.snapshots.values().map(|snapshot| &snapshot.config));
    let named: Vec<String> = configs.flat_map(|c| c.values()).map(|v| Drive::parse(v).file).collect();
    let own = s.volumes.values().filter(|v| v.node == node && v.vmid == Some(vmid) && v.content == "images");
    own.filter(|v| !named.contains(&v.volid)).cloned().collect()
}

/// The VM's disks, which are in use by something else and stay; the log names them (qemu-server, `destroy_vm`).
async fn keep_disks(w: &Worker, vmid: u32) -> Vec<Volume> {
    let own = |v: &&Volume| v.node == w.node && v.vmid == Some(vmid) && v.content == "images";
    let kept: Vec<Volume> = w.cluster.read(|s| s.volumes.values().filter(own).cloned().collect()).await;
    let mark = if w.cluster.major >= 9 { "WARN: " } else { "" };
    for Volume { volid, .. } in &kept {
        let line = format!(
            "{mark}Could not remove disk '{volid}', check manually: lvremove '{volid}' error:   Logical volume in use."
        );
        w.log(line).await;
    }
    kept
}

async fn destroy(ctx: Ctx) -> ApiResult {
    only_root(&ctx, &["skiplock"])?;
    let cluster = ctx.cluster.clone();
    let vmid = ctx.vmid();
    let purge = ctx.params.flag("purge");
    let all = ctx.params.flag("destroy-unreferenced-disks");
    cluster
        .read(|s| {
            let vm = load(s, &ctx)?;
            if vm.flag("protection") {
                return Err(ApiError::died(format!("can't remove VM {vmid} - protection mode enabled")));
            }
            if vm.run.is_some() {
                return Err(ApiError::died(format!("VM {vmid} is running - destroy failed")));
            }
            Ok(())
        })
        .await?;
    cluster
        .fork(&ctx, "qmdestroy", &vmid.to_string(), |w| async move {
            let _guard = w.lock(vmid).await?;
            let node = w.node.clone();
            w.cluster
                .read(|s| {
                    let vm = s.vm_on(&node, vmid).ok_or_else(|| no_config(&node, vmid))?;
                    check_lock(vm)?;
                    if vm.run.is_some() {
                        return Err(format!("VM {vmid} is running - destroy failed"));
                    }
                    for volume in s.volumes.values().filter(|v| v.node == node && v.vmid == Some(vmid)) {
                        if !s.children(&node, &volume.volid).is_empty() {
                            return Err(format!(
                                "base volume '{}' is still in use by linked cloned",
                                volume.volid
                            ));
                        }
                    }
                    Ok(())
                })
                .await?;
            if purge {
                w.log(format!("purging VM {vmid} from related configurations..")).await;
            }
            w.work_shortly().await?;
            let kept = if w.keeps_disk() { keep_disks(&w, vmid).await } else { Vec::new() };
            let warned = !kept.is_empty() && w.cluster.major >= 9;
            let mut left =
                if all { Vec::new() } else { w.cluster.read(|s| unreferenced(s, &node, vmid)).await };
            left.extend(kept);
            // Nobody sees a destruction half way but whoever kills it there.
            if w.meets_a_fault() {
                w.cluster.change("vm.disks_freed", |s| free_disks(s, &node, vmid, &left)).await;
                w.work(0).await?;
            }
            w.cluster
                .change("vm.destroy", |s| {
                    remove_vm(s, &node, vmid);
                    for volume in left {
                        s.volumes.insert(State::volume_key(&node, &volume.volid), volume);
                    }
                })
                .await;
            // Proxmox VE 8 only wrote the line.
            if warned { Err("WARNINGS: 1".to_owned()) } else { Ok(()) }
        })
        .await
}
