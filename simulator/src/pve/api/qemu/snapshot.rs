//! Snapshots.

use serde_json::{Value, json};

use super::start::{Boot, boot, wait_for_agent};
use super::{check_lock, load};
use crate::pve::call::{Call, Check, call};
use crate::pve::cluster::{Ctx, no_config};
use crate::pve::drive::{Drive, format_of};
use crate::pve::reply::{ApiError, ApiResult, null};
use crate::pve::state::{Snapshot, State};
use crate::pve::vmconfig;

const LIST: &str = "/nodes/{node}/qemu/{vmid}/snapshot";
const ONE: &str = "/nodes/{node}/qemu/{vmid}/snapshot/{snapname}";

pub(super) fn calls() -> Vec<Call> {
    const SNAPSHOT: Check = Check::All("/vms/{vmid}", &["VM.Snapshot"]);
    const ROLLBACK: Check = Check::Any("/vms/{vmid}", &["VM.Snapshot", "VM.Snapshot.Rollback"]);
    const READ: Check = Check::Any("/vms/{vmid}", &["VM.Snapshot", "VM.Snapshot.Rollback", "VM.Audit"]);
    vec![
        call("GET", LIST, &[], Check::All("/vms/{vmid}", &["VM.Audit"]), list),
        call(
            "POST",
            LIST,
            &["description? s\nsnapname s max=40 fmt=pve-configid\nvmstate? b"],
            SNAPSHOT,
            take,
        ),
        call("DELETE", ONE, &["force? b"], SNAPSHOT, delete),
        call(
            "POST",
            "/nodes/{node}/qemu/{vmid}/snapshot/{snapname}/rollback",
            &["start? b"],
            ROLLBACK,
            rollback,
        ),
        call("GET", "/nodes/{node}/qemu/{vmid}/snapshot/{snapname}/config", &[], READ, config),
        call(
            "PUT",
            "/nodes/{node}/qemu/{vmid}/snapshot/{snapname}/config",
            &["description? s"],
            SNAPSHOT,
            describe,
        ),
    ]
}

async fn list(ctx: Ctx) -> ApiResult {
    ctx.cluster
        .read(|s| {
            let vm = load(s, &ctx)?;
            let mut out = Vec::new();
            for (name, snapshot) in &vm.snapshots {
                let mut row = json!({"name": name, "snaptime": snapshot.taken_at, "vmstate": u8::from(snapshot.vmstate),
                                     "description": snapshot.description.as_deref().unwrap_or("")});
                if let Some(parent) = &snapshot.parent {
                    row["parent"] = parent.as_str().into();
                }
                if let Some(state) = &snapshot.state {
                    row["snapstate"] = state.as_str().into();
                }
                out.push(row);
            }
            let mut current = json!({"name": "current", "description": "You are here!", "digest": vmconfig::digest(vm),
                                     "running": u8::from(vm.run.is_some())});
            if let Some(parent) = vm.config.get("parent") {
                current["parent"] = parent.as_str().into();
            }
            out.push(current);
            Ok(Value::Array(out).into())
        })
        .await
}

async fn take(ctx: Ctx) -> ApiResult {
    let cluster = ctx.cluster.clone();
    let vmid = ctx.vmid();
    let name = ctx.params.text("snapname").to_owned();
    if name == "current" {
        return Err(ApiError::died("unable to use snapshot name 'current' (reserved name)"));
    }
    cluster.read(|s| load(s, &ctx).map(|_| ())).await?;
    let description = ctx.params.get("description").map(str::to_owned);
    let vmstate = ctx.params.flag("vmstate");
    cluster
        .fork(&ctx, "qmsnapshot", &vmid.to_string(), |w| async move {
            let _guard = w.lock(vmid).await?;
            let node = w.node.clone();
            let now = w.cluster.clock.now();
            let (disks, silent) = w
                .cluster
                .read(|s| {
                    let vm = s.vm_on(&node, vmid).ok_or_else(|| no_config(&node, vmid))?;
                    check_lock(vm)?;
                    if vm.is_template() {
                        return Err("you can't take a snapshot if it's a template".to_owned());
                    }
                    if vm.snapshots.contains_key(&name) {
                        return Err(format!("snapshot name '{name}' already used"));
                    }
                    let disks = vm.config.iter().filter(|(k, v)| vmconfig::is_drive(k) && !v.contains("media=cdrom"));
                    let disks: Vec<(String, Drive)> = disks.map(|(k, v)| (k.clone(), Drive::parse(v))).collect();
                    let able = disks.iter().all(|(_, d)| {
                        d.storage().and_then(|id| s.storages.get(id)).is_some_and(|st| st.can_snapshot(format_of(&d.file)))
                    });
                    if !able {
                        return Err("snapshot feature is not available".into());
                    }
                    let silent = vm.run.as_ref().is_some_and(|r| r.agent_device && r.agent_at.is_none_or(|at| at > now));
                    Ok((disks, silent))
                })
                .await?;
            if silent {
                wait_for_agent(&w.cluster).await;
                w.log(format!("QEMU Guest Agent is not running - VM {vmid} qmp command 'guest-ping' failed - got timeout")).await;
            }
            for (option, drive) in &disks {
                w.log(format!("snapshotting 'drive-{option}' ({})", drive.file)).await;
            }
            w.change("snapshot.prepare", |s| prepare(s, &node, vmid, &name, description, vmstate, now)).await?;
            let worked = w.work_shortly().await;
            w.change("snapshot.take", |s| {
                let vm = s.vms.get_mut(vmid).ok_or_else(|| no_config(&node, vmid))?;
                vm.config.remove("lock");
                if worked.is_err() {
                    vm.snapshots.remove(&name);
                } else if let Some(snapshot) = vm.snapshots.get_mut(&name) {
                    snapshot.state = None;
                    vm.config.insert("parent".into(), name);
                }
                worked
            })
            .await
        })
        .await
}

/// Locks the VM and notes what the snapshot will be; a killed worker leaves it so.
fn prepare(
    s: &mut State,
    node: &str,
    vmid: u32,
    name: &str,
    description: Option<String>,
    vmstate: bool,
    now: i64,
) -> Result<(), String> {
    let disks = s.vms.get(vmid).map(|vm| s.saved_disks(vm)).unwrap_or_default();
    let vm = s.vms.get_mut(vmid).ok_or_else(|| no_config(node, vmid))?;
    let mut config = vm.config.clone();
    let parent = config.remove("parent");
    // The description is the snapshot's own, or none; unused disks are none of it.
    config.retain(|k, _| k != "description" && vmconfig::base(k) != "unused");
    let snapshot = Snapshot {
        config,
        taken_at: now / 1000,
        description,
        vmstate: vmstate && vm.run.is_some(),
        parent,
        state: Some("prepare".into()),
        disks,
    };
    vm.snapshots.insert(name.to_owned(), snapshot);
    vm.config.insert("lock".into(), "snapshot".into());
    Ok(())
}

fn unknown(name: &str) -> String {
    format!("snapshot '{name}' does not exist")
}

async fn delete(ctx: Ctx) -> ApiResult {
    let cluster = ctx.cluster.clone();
    let vmid = ctx.vmid();
    let name = ctx.params.text("snapname").to_owned();
    cluster.read(|s| load(s, &ctx).map(|_| ())).await?;
    cluster
        .fork(&ctx, "qmdelsnapshot", &vmid.to_string(), |w| async move {
            let _guard = w.lock(vmid).await?;
            w.change("snapshot.delete-begin", |s| {
                let vm = s.vms.get_mut(vmid).ok_or_else(|| no_config(&w.node, vmid))?;
                if !vm.snapshots.contains_key(&name) {
                    return Err(unknown(&name));
                }
                check_lock(vm)?;
                vm.config.insert("lock".into(), "snapshot-delete".into());
                if let Some(snapshot) = vm.snapshots.get_mut(&name) {
                    snapshot.state = Some("delete".into());
                }
                Ok(())
            })
            .await?;
            // Whatever goes wrong here leaves the lock.
            w.work_shortly().await?;
            w.change("snapshot.delete", |s| remove(s, vmid, &name)).await
        })
        .await
}

/// Takes a snapshot out of its chain; disks that only it had become unused.
fn remove(s: &mut State, vmid: u32, name: &str) -> Result<(), String> {
    let vm = s.vms.get_mut(vmid).ok_or("the VM is gone")?;
    vm.config.remove("lock");
    let gone = vm.snapshots.remove(name).ok_or_else(|| unknown(name))?;
    for child in vm.snapshots.values_mut().filter(|c| c.parent.as_deref() == Some(name)) {
        child.parent.clone_from(&gone.parent);
    }
    if vm.config.get("parent").is_some_and(|parent| parent == name) {
        match gone.parent {
            Some(parent) => vm.config.insert("parent".into(), parent),
            None => vm.config.remove("parent"),
        };
    }
    for volid in gone.disks.keys() {
        if !vm.snapshots.values().any(|other| other.disks.contains_key(volid)) {
            vmconfig::add_unused(&mut vm.config, volid);
        }
    }
    Ok(())
}

/// Stops and locks the VM for a rollback; what fails or dies after this leaves the lock.
fn begin_rollback(s: &mut State, vmid: u32, name: &str) -> Result<(), String> {
    let vm = s.vms.get_mut(vmid).ok_or("the VM is gone")?;
    if vm.is_template() {
        return Err("you can't rollback if vm is a template".into());
    }
    let snapshot = vm.snapshots.get(name).ok_or_else(|| unknown(name))?;
    if let Some(state) = &snapshot.state {
        return Err(format!("unable to rollback to incomplete snapshot (snapstate = {state})"));
    }
    check_lock(vm)?;
    vm.run = None;
    vm.config.insert("lock".into(), "rollback".into());
    Ok(())
}

fn roll_back(s: &mut State, vmid: u32, name: &str) -> Result<bool, String> {
    let vm = s.vms.get(vmid).ok_or("the VM is gone")?;
    let snapshot = vm.snapshots.get(name).ok_or_else(|| unknown(name))?.clone();
    let (node, since) = (vm.node.clone(), vm.disks());
    for (volid, saved) in snapshot.disks {
        if let Some(volume) = s.volumes.get_mut(State::volume_key(&node, &volid)) {
            volume.holds = saved.holds;
            volume.size = saved.size;
        }
    }
    if let Some(vm) = s.vms.get_mut(vmid) {
        let mut config = snapshot.config;
        let stays = |k: &String| k == "description" || vmconfig::base(k) == "unused";
        config.extend(vm.config.iter().filter(|(k, _)| stays(k)).map(|(k, v)| (k.clone(), v.clone())));
        vm.config = config;
        // Disks that came after the snapshot belong to no drive any more.
        for (_, drive) in since {
            vmconfig::add_unused(&mut vm.config, &drive.file);
        }
        vm.config.insert("parent".into(), name.to_owned());
        vm.pending.clear();
        vm.run = None;
    }
    Ok(snapshot.vmstate)
}

async fn rollback(ctx: Ctx) -> ApiResult {
    let cluster = ctx.cluster.clone();
    let vmid = ctx.vmid();
    let name = ctx.params.text("snapname").to_owned();
    let start = ctx.params.flag("start");
    cluster
        .fork(&ctx, "qmrollback", &vmid.to_string(), |w| async move {
            let _guard = w.lock(vmid).await?;
            w.change("snapshot.rollback-begin", |s| begin_rollback(s, vmid, &name)).await?;
            w.work_shortly().await?;
            let with_state = w.change("snapshot.rollback", |s| roll_back(s, vmid, &name)).await?;
            if with_state {
                return boot(&Boot::of(&w), vmid).await;
            }
            if start {
                // A start task of its own, that waits for this one to let go of the VM.
                super::start::start_later(&w, vmid).await;
            }
            Ok(())
        })
        .await
}

async fn config(ctx: Ctx) -> ApiResult {
    let name = ctx.params.text("snapname");
    ctx.cluster
        .read(|s| {
            let vm = load(s, &ctx)?;
            let snapshot = vm.snapshots.get(name).ok_or_else(|| ApiError::died(unknown(name)))?;
            // Here the password's hash is not masked (recorded).
            let mut out: serde_json::Map<String, Value> = snapshot
                .config
                .iter()
                .map(|(k, v)| {
                    (k.clone(), if k == "cipassword" { v.as_str().into() } else { vmconfig::shown(k, v) })
                })
                .collect();
            out.insert("snaptime".into(), snapshot.taken_at.into());
            if let Some(description) = &snapshot.description {
                out.insert("description".into(), description.as_str().into());
            }
            Ok(Value::Object(out).into())
        })
        .await
}

async fn describe(ctx: Ctx) -> ApiResult {
    let name = ctx.params.text("snapname").to_owned();
    let text = ctx.params.get("description").map(str::to_owned);
    ctx.cluster
        .change("snapshot.describe", |s| {
            load(s, &ctx)?;
            let found = s.vms.get_mut(ctx.vmid()).and_then(|v| v.snapshots.get_mut(&name));
            found.ok_or_else(|| ApiError::died(unknown(&name)))?.description = text;
            Ok::<_, ApiError>(())
        })
        .await?;
    null()
}
