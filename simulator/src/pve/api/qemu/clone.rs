//! Cloning: the target exists from the first moment as a locked temporary configuration, its pool
//! membership comes last.

use std::collections::BTreeMap;

use serde_json::Value;

use super::check_lock;
use super::disk::formatting_line;
use crate::pve::access::{Access, Caller};
use crate::pve::call::{Call, Check, call};
use crate::pve::cluster::{Ctx, unable_to_find};
use crate::pve::contents::Contents;
use crate::pve::drive::{Drive, NewVolume, format_of, human, print_size};
use crate::pve::params::Params;
use crate::pve::reply::{ApiError, ApiResult};
use crate::pve::state::{CloneRecord, Options, State, Storage, Vm};
use crate::pve::task::{INTERRUPTED, Worker};
use crate::pve::vmconfig;

const CLONE: &str = "\
bwlimit? i 0..
description? s
format? s enum=raw|qcow2|vmdk
full? b
name? s fmt=dns-name
newid i 100..999999999 fmt=pve-vmid
pool? s fmt=pve-poolid
snapname? s max=40 fmt=pve-configid
storage? s fmt=pve-storage-id
target? s fmt=pve-node
";
/// The description of a configuration that is not yet one; note the blank.
pub(crate) const TEMPORARY: &str = " qmclone temporary file";

pub(super) fn calls() -> Vec<Call> {
    vec![call("POST", "/nodes/{node}/qemu/{vmid}/clone", &[CLONE], Check::Own(may_clone), clone)]
}

fn may_clone(a: &Access<'_>, caller: &Caller, p: &Params) -> Result<(), ApiError> {
    a.check(caller, &format!("/vms/{}", p.text("vmid")), "VM.Clone")?;
    let by_pool = p.get("pool").is_some_and(|pool| a.may(caller, &format!("/pool/{pool}"), "VM.Allocate"));
    if by_pool || a.may(caller, &format!("/vms/{}", p.text("newid")), "VM.Allocate") {
        return Ok(());
    }
    Err(ApiError::Forbidden(None))
}

/// One drive to copy.
struct Copy {
    option: String,
    drive: Drive,
    full: bool,
    /// The source runs, so that the drive is mirrored instead of copied; and whether its guest agent
    /// can be asked to freeze the file systems.
    running: Option<bool>,
    storage: Storage,
    /// What the snapshot holds that is cloned; none: what the disk holds.
    saved: Option<Contents>,
}

/// What the worker does.
struct Plan {
    source: u32,
    newid: u32,
    target: String,
    config: Options,
    description: String,
    copies: Vec<Copy>,
    pool: Option<String>,
    guest_agent: bool,
    bare_guest: bool,
    format: Option<String>,
    bwlimit: Option<String>,
}

fn plan(s: &State, a: &Access<'_>, ctx: &Ctx) -> Result<Plan, ApiError> {
    let p = &ctx.params;
    let newid: u32 = p.text("newid").parse().unwrap_or(0);
    let pool = p.get("pool").map(str::to_owned);
    if let Some(pool) = &pool
        && !s.pools.contains(pool)
    {
        return Err(ApiError::Forbidden(Some(format!("pool '{pool}' does not exist"))));
    }
    let target = p.get("target").unwrap_or(&ctx.node).to_owned();
    if !ctx.cluster.nodes.contains_key(&target) {
        return Err(ApiError::died(format!("no such cluster node '{target}'")));
    }
    let storage = p.get("storage");
    if let Some(id) = storage {
        let row =
            s.storages.get(id).ok_or_else(|| ApiError::died(format!("storage '{id}' does not exist")))?;
        if row.disable {
            return Err(ApiError::died(format!("storage '{id}' is disabled")));
        }
    }
    if let Some(st) = storage.and_then(|id| s.storages.get(id))
        && !st.content.iter().any(|c| c == "images")
    {
        return Err(ApiError::parameter(
            "storage",
            format!("storage '{}' does not support vm images", st.id),
        ));
    }
    let vm = s
        .vm_on(&ctx.node, ctx.vmid())
        .ok_or_else(|| ApiError::died(unable_to_find(&ctx.node, ctx.vmid())))?;
    check_lock(vm).map_err(ApiError::died)?;
    let old = match p.get("snapname") {
        None => &vm.config,
        Some(name) => {
            &vm.snapshots
                .get(name)
                .ok_or_else(|| ApiError::died(format!("snapshot '{name}' does not exist")))?
                .config
        }
    };
    let full = p.get("full").map_or(!vm.is_template(), |f| f == "1");
    if !full {
        for name in ["storage", "format"] {
            if p.contains(name) {
                return Err(ApiError::died(format!("parameter '{name}' not allowed for linked clones")));
            }
        }
    }
    let drives: Vec<(&String, Drive)> =
        old.iter().filter(|(k, _)| vmconfig::is_drive(k)).map(|(k, v)| (k, Drive::parse(v))).collect();
    let is_volume = |d: &Drive| d.file.contains(':') && (!d.is_cdrom() || d.is_cloudinit());
    let mut shared = true;
    for (_, drive) in drives.iter().filter(|(_, d)| is_volume(d)) {
        let id = storage.or(drive.storage()).unwrap_or("");
        a.check(&ctx.caller, &format!("/storage/{id}"), "Datastore.AllocateSpace")?;
        shared &= s.storages.get(drive.storage().unwrap_or("")).is_some_and(|st| st.shared);
    }
    for (_, net) in old.iter().filter(|(k, _)| vmconfig::is_net(k)) {
        vmconfig::check_bridge(a, &ctx.caller, net, ctx.cluster.major)?;
    }
    if target != ctx.node && !shared {
        return Err(ApiError::died(format!("can't clone VM to node '{target}' (VM uses local storage)")));
    }
    if s.vms.contains(newid) {
        // Proxmox finds an id of another node only when it writes the file; no recording covers that.
        return Err(ApiError::died(format!("unable to create VM {newid}: config file already exists")));
    }
    let mut copies = Vec::new();
    for (option, drive) in drives {
        if !is_volume(&drive) {
            continue;
        }
        let own = drive.storage().and_then(|id| s.storages.get(id));
        let own = own.ok_or_else(|| {
            ApiError::died(format!("storage '{}' does not exist", drive.storage().unwrap_or("")))
        })?;
        let always_full = drive.is_cloudinit() || option.starts_with("tpmstate");
        let linkable = own.can_link() && drive.file.contains("base-") && vm.is_template();
        if !full && !always_full && !linkable {
            return Err(ApiError::died(format!(
                "Linked clone feature is not supported for '{}' ({option})",
                drive.file
            )));
        }
        let to = if full { storage.and_then(|id| s.storages.get(id)).unwrap_or(own) } else { own };
        let running = vm.run.as_ref().map(|r| r.agent_device && r.agent_at.is_some());
        let full = full || always_full;
        let snapshot = p.get("snapname").and_then(|name| vm.snapshots.get(name));
        let saved = snapshot.and_then(|snapshot| snapshot.disks.get(&drive.file)).map(|d| d.holds.clone());
        copies.push(Copy { option: option.clone(), full, running, storage: to.clone(), saved, drive });
    }
    let mut config = old.clone();
    config.retain(|k, _| {
        !["template", "parent", "snaptime", "vmstate", "lock"].contains(&k.as_str())
            && vmconfig::base(k) != "unused"
    });
    let name = p.get("name").map_or_else(|| format!("Copy-of-VM-{}", vm.name()), str::to_owned);
    config.insert("name".into(), name);
    let mut description = config.get("description").cloned().unwrap_or_default();
    if let Some(given) = p.get("description") {
        description = vmconfig::as_stored("description", given);
    }
    if description.is_empty() {
        config.remove("description");
    } else {
        config.insert("description".into(), description.clone());
    }
    Ok(Plan {
        source: ctx.vmid(),
        newid,
        target,
        config,
        description,
        copies,
        pool,
        guest_agent: vm.guest_agent,
        bare_guest: vm.bare_guest,
        format: p.get("format").map(str::to_owned),
        bwlimit: p.get("bwlimit").map(str::to_owned),
    })
}

async fn clone(ctx: Ctx) -> ApiResult {
    let cluster = ctx.cluster.clone();
    let source_lock =
        cluster.lock_shared(ctx.vmid(), cluster.timing.config_lock_ms).await.map_err(ApiError::died)?;
    let plan = cluster.judge(|s, a| plan(s, a, &ctx)).await?;
    let newid = plan.newid;
    let target_lock = cluster.lock(newid, cluster.timing.clone_lock_ms).await.map_err(ApiError::died)?;
    let opened = cluster.clone();
    // The temporary configuration and the task appear together, and one of two equal calls wins.
    let upid = cluster
        .change("clone.temporary", |s| {
            if s.vms.contains(newid) {
                return Err(ApiError::died(format!(
                    "unable to create VM {newid}: config file already exists"
                )));
            }
            let config = BTreeMap::from([
                ("lock".to_owned(), "clone".to_owned()),
                ("description".to_owned(), TEMPORARY.to_owned()),
            ]);
            let at = opened.clock.now();
            let vm = Vm {
                vmid: newid,
                node: plan.target.clone(),
                config,
                created_at: at,
                guest_agent: plan.guest_agent,
                bare_guest: plan.bare_guest,
                ..Vm::default()
            };
            s.vms.insert(newid, vm);
            Ok(s.open_task(&opened, &ctx.node, "qmclone", &ctx.vmid().to_string(), &ctx.caller))
        })
        .await?;
    cluster.spawn_worker(&upid, &ctx.node, &ctx.caller, |w| async move {
        let _locks = (source_lock, target_lock);
        let target = plan.target.clone();
        match copy(&w, plan).await {
            Ok(()) => Ok(()),
            Err(text) => {
                w.cluster.change("clone.undo", |s| super::remove_vm(s, &target, newid)).await;
                Err(format!("clone failed: {text}"))
            }
        }
    });
    Ok(Value::from(upid).into())
}

async fn copy(w: &Worker, plan: Plan) -> Result<(), String> {
    let Plan {
        source,
        newid,
        target,
        mut config,
        description,
        copies,
        pool,
        guest_agent: _,
        bare_guest: _,
        format,
        bwlimit,
    } = plan;
    if w.cluster.major >= 9 {
        w.log(format!("creating a clone of VM {source} with ID {newid}")).await;
    }
    w.cluster
        .change("clone.firewall", |s| {
            if let Some(file) = s.firewalls.get(source).cloned() {
                s.firewalls.insert(newid, file);
            }
        })
        .await;
    config.insert("lock".into(), "clone".into());
    let major = w.cluster.major;
    let fresh = config.keys().filter(|k| vmconfig::is_net(k)).cloned().collect::<Vec<_>>();
    config = w
        .cluster
        .change("clone.identity", |s| {
            for net in fresh {
                let value = config.get(&net).cloned().unwrap_or_default();
                let (_, _, mac) = vmconfig::net_parts(&value, major);
                let new = s.draw_mac();
                let value = match mac {
                    Some(old) => value.replace(&old, &new),
                    None => vmconfig::net_with_mac(&value, major, &mut || s.draw_mac()),
                };
                config.insert(net, value);
            }
            if let Some(smbios) = config.get("smbios1").cloned() {
                let kept: Vec<&str> = smbios.split(',').filter(|p| !p.starts_with("uuid=")).collect();
                let mut parts = vec![format!("uuid={}", s.draw_uuid())];
                parts.extend(kept.into_iter().map(str::to_owned));
                config.insert("smbios1".into(), parts.join(","));
            }
            if config.contains_key("vmgenid") {
                config.insert("vmgenid".into(), s.draw_uuid());
            }
            config
        })
        .await;
    for item in copies {
        copy_drive(w, newid, &target, &mut config, item, format.as_deref(), bwlimit.as_deref()).await?;
    }
    let at = w.cluster.clock.now();
    let upid = w.upid.clone();
    config.remove("lock");
    // From here on the clone counts.
    w.change("clone.done", |s| {
        let vm = s.vms.get_mut(newid).ok_or("the new configuration is gone")?;
        vm.config = config;
        let record =
            CloneRecord { vmid: newid, source, node: target.clone(), description, upid: upid.clone(), at };
        s.clones.insert(format!("{at:014} {upid}"), record);
        Ok(())
    })
    .await?;
    if let Some(pool) = pool {
        w.cluster
            .change("clone.pool", |s| {
                if let Some(pool) = s.pools.get_mut(pool) {
                    pool.vms.push(newid);
                }
            })
            .await;
    }
    Ok(())
}

async fn copy_drive(
    w: &Worker,
    newid: u32,
    target: &str,
    config: &mut Options,
    item: Copy,
    format: Option<&str>,
    bwlimit: Option<&str>,
) -> Result<(), String> {
    let Copy { option, mut drive, full, running, storage, saved } = item;
    let kind = if full { "full" } else { "linked" };
    let cloudinit = drive.is_cloudinit();
    let source = drive.file.clone();
    w.log(format!("create {kind} clone of drive {option} ({source})")).await;
    let guard = w.lock_storage(target, &storage.id).await?;
    let (size, holds) = w
        .cluster
        .read(|s| s.volume(&w.node, &source).map(|v| (v.size, v.holds.clone())).unwrap_or_default())
        .await;
    let holds = (!cloudinit).then(|| saved.unwrap_or(holds));
    let same = format_of(&source).to_owned();
    let format = match format {
        _ if cloudinit => same.clone(),
        Some(f) if full => f.to_owned(),
        _ if !full && storage.path.is_some() => "qcow2".to_owned(),
        _ => same.clone(),
    };
    let at = w.cluster.clock.now();
    let parent = (!full).then(|| source.clone());
    let volid = w
        .cluster
        .change("clone.allocate", |s| {
            s.allocate(&NewVolume {
                node: target,
                storage: &storage,
                vmid: newid,
                format: &format,
                size,
                at,
                parent,
                cloudinit,
                holds,
            })
        })
        .await?;
    drop(guard);
    let (from, to) = (storage.path_of(&source), storage.path_of(&volid));
    let name = |v: &str| v.rsplit(['/', ':']).next().unwrap_or(v).to_owned();
    let tail = |v: &str| v.split_once(':').map_or(v.to_owned(), |(_, n)| n.to_owned());
    let speed = w.cluster.speed();
    if full {
        w.log(formatting_line(&to, &format, size, None)).await;
        if let Some(agent) = running.filter(|_| !cloudinit) {
            mirror(w, &option, size, agent, speed.clone_ms).await?;
        } else if !cloudinit {
            for quarter in 0..4u64 {
                let done = size / 4 * quarter;
                w.log(format!("transferred {} of {} ({}.00%)", human(done), human(size), quarter * 25)).await;
                if w.work(speed.clone_ms / 4).await.is_err() {
                    let limit = bwlimit.map(|b| format!(" -r {b}K")).unwrap_or_default();
                    return Err(format!(
                        "copy failed: command '/usr/bin/qemu-img convert -p -n{limit} -f {same} -O {format} {from} zeroinit:{to}' failed: interrupted by signal"
                    ));
                }
            }
            w.log(format!("transferred {} of {} (100.00%)", human(size), human(size))).await;
        }
    } else {
        let base = tail(&source);
        w.log(format!(
            "clone {base}: images, {}, {newid} to {} (base=../{base})",
            name(&volid),
            name(&volid)
        ))
        .await;
        w.log(formatting_line(&to, "qcow2", size, Some(&base))).await;
        w.work(speed.clone_ms / 4).await.map_err(|_| INTERRUPTED.to_owned())?;
    }
    if cloudinit {
        w.work(speed.other_ms).await?;
    }
    drive.file = volid;
    drive.remove("format");
    drive.set("size", &print_size(size));
    config.insert(option, drive.print());
    let so_far = config.clone();
    w.change("clone.config", |s| match s.vms.get_mut(newid) {
        Some(vm) => {
            vm.config = so_far;
            Ok(())
        }
        None => Err("the new configuration is gone".to_owned()),
    })
    .await
}

/// The disk of a running machine is mirrored while the guest goes on. No recording covers a guest
/// without an agent, or more than one disk.
async fn mirror(w: &Worker, option: &str, size: u64, agent: bool, ms: u64) -> Result<(), String> {
    let drive = format!("drive-{option}");
    let (pause, resume) =
        if agent { ("freeze filesystem", "unfreeze filesystem") } else { ("suspend vm", "resume vm") };
    w.log(format!("drive mirror is starting for {drive}")).await;
    w.log(format!("{drive}: transferred 0.0 B of {} (0.00%) in 0s", human(size))).await;
    if w.work(ms).await.is_err() {
        w.log(format!("{drive}: Cancelling block job")).await;
        w.log(format!("{drive}: Done.")).await;
        return Err(format!("mirroring error: {INTERRUPTED}"));
    }
    let whole = human(size);
    w.log(format!("{drive}: transferred {whole} of {whole} (100.00%) in 1s, ready")).await;
    for line in ["all 'mirror' jobs are ready", pause] {
        w.log(line).await;
    }
    for what in ["Cancelling block job", "Done."] {
        w.log(format!("{drive}: {what}")).await;
    }
    w.log(resume).await;
    Ok(())
}
