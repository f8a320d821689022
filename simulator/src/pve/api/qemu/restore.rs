//! `POST …/qemu` with `archive`: a VM from a backup, over the one that is there with `force`.
//!
//! No recording shows a restore; order of checks, texts and what a failed one leaves follow
//! `PVE::API2::Qemu` and `PVE::QemuServer` (8.4.21 to 9.2):
//!
//! - while data comes in, the configuration is the one line `memory: 128`, without lock, description and
//!   snapshots; the old disks of the drives in the archive are gone, others become unused;
//! - whatever fails after that leaves it so, and removes the new volumes;
//! - a killed worker leaves the new volumes as well.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::pve::access::Access;
use crate::pve::cluster::Ctx;
use crate::pve::contents::{Archive, Contents};
use crate::pve::drive::{Drive, NewVolume, format_of};
use crate::pve::reply::{ApiError, ApiResult};
use crate::pve::state::{Options, State, Storage, Vm};
use crate::pve::task::{INTERRUPTED, Worker};
use crate::pve::{vmconfig, volume_access};

/// What the worker does.
struct Plan {
    vmid: u32,
    volid: String,
    archive: Archive,
    /// Of the archive's file.
    path: String,
    storage: Option<String>,
    unique: bool,
    pool: Option<String>,
    start: bool,
    /// Options given beside the archive, which win.
    options: Options,
}

/// One volume to make.
struct NewDisk {
    option: String,
    storage: Storage,
    format: String,
    size: u64,
    /// None is a cloud-init drive, which is made anew.
    holds: Option<Contents>,
}

fn plan(s: &State, a: &Access<'_>, ctx: &Ctx, options: &Options) -> Result<Plan, ApiError> {
    let p = &ctx.params;
    let vmid = ctx.vmid();
    let vm_path = ctx.vm_path();
    let pool = p.get("pool").map(str::to_owned);
    if let Some(pool) = pool.as_ref().filter(|pool| !s.pools.contains(pool)) {
        return Err(ApiError::Forbidden(Some(format!("pool '{pool}' does not exist"))));
    }
    if let Some(storage) = p.get("storage") {
        a.check(&ctx.caller, &format!("/storage/{storage}"), "Datastore.AllocateSpace")?;
    }
    let by_pool = pool.as_ref().is_some_and(|p| a.may(&ctx.caller, &format!("/pool/{p}"), "VM.Allocate"));
    let over = p.flag("force") && s.vm_on(&ctx.node, vmid).is_some();
    let may = a.may(&ctx.caller, &vm_path, "VM.Allocate")
        || by_pool
        || (over && a.may(&ctx.caller, &vm_path, "VM.Backup"));
    if !may {
        return Err(ApiError::Forbidden(None));
    }
    if let Some(option) = options.keys().find(|k| vmconfig::is_drive(k)) {
        return Err(ApiError::parameter(option, "option conflicts with option 'archive'"));
    }
    let volid = p.text("archive").to_owned();
    let Some((storage, _)) = volid.split_once(':') else {
        return Err(ApiError::died("Only root can pass arbitrary filesystem paths."));
    };
    let Some(st) = s.storages.get(storage) else {
        return Err(ApiError::died(format!("storage '{storage}' does not exist")));
    };
    if volume_access::kind(&volid) != "backup" {
        return Err(ApiError::died(format!(
            "unable to use volume {volid} - content type needs to be 'backup'"
        )));
    }
    volume_access::check(a, &ctx.caller, Some(vmid), &volid)?;
    let archive = s.volume(&ctx.node, &volid).and_then(|v| v.archive.clone());
    let archive = archive.ok_or_else(|| ApiError::died(format!("volume '{volid}' does not exist")))?;
    let rights_path = match &pool {
        Some(pool) if by_pool => format!("/pool/{pool}"),
        _ => vm_path,
    };
    for (option, value) in options {
        vmconfig::check_option(a, &ctx.caller, &rights_path, option, value)?;
        if vmconfig::is_net(option) {
            vmconfig::check_bridge(a, &ctx.caller, value, ctx.cluster.major)?;
        }
    }
    Ok(Plan {
        vmid,
        path: st.path_of(&volid),
        volid,
        archive,
        storage: p.get("storage").map(str::to_owned),
        unique: p.flag("unique"),
        pool,
        start: p.flag("start"),
        options: options.clone(),
    })
}

pub(super) async fn restore(ctx: Ctx, options: Options) -> ApiResult {
    let cluster = ctx.cluster.clone();
    let plan = cluster.judge(|s, a| plan(s, a, &ctx, &options)).await?;
    let vmid = plan.vmid;
    let refused = |text: String| ApiError::died(format!("unable to restore VM {vmid} - {text}"));
    let guard = cluster.lock(vmid, cluster.timing.config_lock_ms / 2).await.map_err(refused)?;
    let force = ctx.params.flag("force");
    let opened = cluster.clone();
    let upid = cluster
        .change("restore.lock", |s| {
            match s.vms.get(vmid) {
                Some(other) if !force || other.node != ctx.node => {
                    return Err(refused(format!("VM {vmid} already exists on node '{}'", other.node)));
                }
                Some(vm) => super::check_lock(vm).map_err(refused)?,
                None => {
                    let at = opened.clock.now();
                    let vm = Vm { vmid, node: ctx.node.clone(), created_at: at, ..Vm::default() };
                    s.vms.insert(vmid, vm);
                }
            }
            if let Some(vm) = s.vms.get_mut(vmid) {
                vm.config.insert("lock".into(), "create".into());
            }
            Ok(s.open_task(&opened, &ctx.node, "qmrestore", &vmid.to_string(), &ctx.caller))
        })
        .await?;
    cluster.spawn_worker(&upid, &ctx.node, &ctx.caller, |w| async move {
        let _guard = guard;
        let done = work(&w, &plan).await;
        match &done {
            Err(_) => clean_up(&w, vmid).await,
            Ok(()) if plan.start => {
                w.log("Execute autostart").await;
                super::start::start_later(&w, vmid).await;
            }
            Ok(()) => {}
        }
        done
    });
    Ok(Value::from(upid).into())
}

/// A failed restore lets go of its lock, if that is still there, and of nothing else.
async fn clean_up(w: &Worker, vmid: u32) {
    let unlocked = w
        .cluster
        .change("restore.unlock", |s| {
            let vm = s.vms.get_mut(vmid).filter(|vm| vm.lock() == Some("create"));
            vm.and_then(|vm| vm.config.remove("lock")).is_some()
        })
        .await;
    if !unlocked {
        w.log("no lock found trying to remove 'create'  lock").await;
    }
    w.log(format!(
        "error before or during data restore, some or all disks were not completely restored. VM {vmid} state is NOT cleaned up."
    ))
    .await;
}

/// What is refused in the worker, before anything is touched.
fn check(s: &State, a: &Access<'_>, w: &Worker, plan: &Plan) -> Result<(), String> {
    let vmid = plan.vmid;
    let vm = s.vms.get(vmid).ok_or("the configuration is gone")?;
    if vm.flag("protection") {
        return Err(format!("unable to restore VM {vmid} - - protection mode enabled"));
    }
    if vm.run.is_some() {
        return Err(format!("unable to restore VM {vmid} - vm is running"));
    }
    let nets = plan.archive.config.iter().filter(|(k, _)| !plan.options.contains_key(*k));
    for (_, net) in nets.filter(|(k, _)| vmconfig::is_net(k)) {
        vmconfig::check_bridge(a, &w.caller, net, w.cluster.major).map_err(refusal)?;
    }
    Ok(())
}

/// A refusal as it ends a task.
fn refusal(error: ApiError) -> String {
    match error {
        ApiError::Forbidden(_) => format!("403 {}", error.text()),
        other => other.text(),
    }
}

/// The volumes to make: where, and whether the caller may.
fn new_disks(s: &State, a: &Access<'_>, w: &Worker, plan: &Plan) -> Result<Vec<NewDisk>, String> {
    let mut out = Vec::new();
    let mut want = |option: &str, own: &str, format: &str, size: u64, holds: Option<Contents>| {
        let id = plan.storage.as_deref().unwrap_or(own);
        let st = s.storages.get(id).ok_or_else(|| format!("storage '{id}' does not exist"))?;
        if !st.content.iter().any(|c| c == "images") {
            return Err(format!("Content type 'images' is not available on storage '{id}'"));
        }
        a.check(&w.caller, &format!("/storage/{id}"), "Datastore.AllocateSpace").map_err(refusal)?;
        let format = if st.is_file() { format } else { "raw" };
        let storage = st.clone();
        out.push(NewDisk { option: option.into(), storage, format: format.into(), size, holds });
        Ok(())
    };
    for (option, value) in plan.archive.config.iter().filter(|(k, _)| vmconfig::is_drive(k)) {
        let drive = Drive::parse(value);
        if drive.is_cloudinit() {
            want(option, drive.storage().unwrap_or(""), format_of(&drive.file), 4 << 20, None)?;
        } else if let Some(disk) = plan.archive.disks.get(option) {
            want(option, &disk.storage, &disk.format, disk.size, Some(disk.holds.clone()))?;
        }
    }
    Ok(out)
}

async fn work(w: &Worker, plan: &Plan) -> Result<(), String> {
    let vmid = plan.vmid;
    w.cluster.judge(|s, a| check(s, a, w, plan)).await?;
    let pid = w.upid.split(':').nth(2).and_then(|p| u32::from_str_radix(p, 16).ok()).unwrap_or(0);
    let unpack = match plan.volid.rsplit('.').next() {
        Some("zst") => format!("zstd -q -d -c {} | ", plan.path),
        Some("gz") => format!("zcat {} | ", plan.path),
        Some("lzo") => format!("lzop -d -c {} | ", plan.path),
        _ => String::new(),
    };
    let from = if unpack.is_empty() { plan.path.as_str() } else { "-" };
    let to = format!("/var/tmp/vzdumptmp{pid}");
    w.log(format!("restore vma archive: {unpack}vma extract -v -r {to}.fifo {from} {to}")).await;
    w.work_shortly().await?;
    if let Some(file) = plan.archive.firewall.clone() {
        w.cluster.change("restore.firewall", |s| s.firewalls.insert(vmid, file)).await;
    }
    let disks = w.cluster.judge(|s, a| new_disks(s, a, w, plan)).await?;
    let mut header = vec!["CFG: size: 480 name: qemu-server.conf".to_owned()];
    header.extend(plan.archive.firewall.is_some().then(|| "FW: size: 210 name: qemu-server.fw".to_owned()));
    let data = || disks.iter().filter(|d| d.holds.is_some());
    for (n, disk) in data().enumerate() {
        header.push(format!("DEV: dev_id={} size: {} devname: drive-{}", n + 1, disk.size, disk.option));
    }
    for line in header {
        w.log(line).await;
    }
    w.cluster.change("restore.clear", |s| clear(s, &w.node, vmid, &disks)).await;
    let mut made: BTreeMap<String, String> = BTreeMap::new();
    let total = data().map(|d| d.size).sum();
    let written = write(w, vmid, &disks, total, &mut made).await;
    if let Err(text) = written {
        for volid in made.values() {
            w.cluster.change("restore.undo", |s| s.free(&w.node, volid)).await;
            w.log(format!("temporary volume '{volid}' successfully removed")).await;
        }
        return Err(if text == INTERRUPTED { "interrupted by signal".into() } else { text });
    }
    w.cluster.change("restore.config", |s| settle(s, w, plan, &disks, &made)).await;
    w.log("rescan volumes...").await;
    Ok(())
}

/// What is there makes way: only `memory: 128` stays, and the disks that the archive does not have.
fn clear(s: &mut State, node: &str, vmid: u32, disks: &[NewDisk]) {
    let old = s.vms.get(vmid).map(|vm| vm.config.clone()).unwrap_or_default();
    for disk in disks {
        if let Some(value) = old.get(&disk.option) {
            let drive = Drive::parse(value);
            if !drive.is_cdrom() || drive.is_cloudinit() {
                s.free(node, &drive.file);
            }
        }
    }
    if let Some(vm) = s.vms.get_mut(vmid) {
        vm.config = Options::from([("memory".to_owned(), "128".to_owned())]);
        vm.pending.clear();
        vm.snapshots.clear();
        vm.drive = None;
    }
}

/// A cloud-init drive has a fixed name: one that a killed restore left, and that no configuration names,
/// is in the way of the next restore.
fn not_in_the_way(s: &State, new: &NewVolume<'_>) -> Result<(), String> {
    let name = format!("vm-{}-cloudinit", new.vmid);
    let mut here = s.volumes.values().filter(|v| v.node == new.node && v.storage == new.storage.id);
    match here.find(|v| v.volid.contains(&name)).filter(|_| new.cloudinit) {
        None => Ok(()),
        Some(old) if new.storage.is_file() => {
            Err(format!("disk image '{}' already exists", new.storage.path_of(&old.volid)))
        }
        Some(_) => Err(format!(
            "lvcreate '{0}/{name}' error:   Logical Volume \"{name}\" already exists in volume group \"{0}\"",
            new.storage.id
        )),
    }
}

/// Makes the volumes and fills them, in four pieces of work.
async fn write(
    w: &Worker,
    vmid: u32,
    disks: &[NewDisk],
    total: u64,
    made: &mut BTreeMap<String, String>,
) -> Result<(), String> {
    for disk in disks {
        let lock = w.lock_storage(&w.node, &disk.storage.id).await?;
        let new = NewVolume {
            node: &w.node,
            storage: &disk.storage,
            vmid,
            format: &disk.format,
            size: disk.size,
            at: w.cluster.clock.now(),
            parent: None,
            cloudinit: disk.holds.is_none(),
            holds: None,
        };
        let volid = w
            .change("restore.allocate", |s| {
                not_in_the_way(s, &new)?;
                s.allocate(&new)
            })
            .await?;
        drop(lock);
        w.log(format!("new volume ID is '{volid}'")).await;
        made.insert(disk.option.clone(), volid);
    }
    for disk in disks.iter().filter(|d| d.holds.is_some()) {
        let path = disk.storage.path_of(made.get(&disk.option).map_or("", String::as_str));
        w.log(format!("map 'drive-{}' to '{path}' (write zeros = 0)", disk.option)).await;
    }
    for quarter in 1..=4u64 {
        w.work(w.cluster.speed().clone_ms / 4).await?;
        let read = total / 4 * quarter;
        w.log(format!("progress {}% (read {read} bytes, duration {quarter} sec)", quarter * 25)).await;
    }
    w.log(format!("total bytes read {total}, sparse bytes {} (90%)", total / 10 * 9)).await;
    Ok(())
}

/// The archive's configuration becomes the VM's, on its new volumes.
fn settle(s: &mut State, w: &Worker, plan: &Plan, disks: &[NewDisk], made: &BTreeMap<String, String>) {
    let vmid = plan.vmid;
    let major = w.cluster.major;
    for disk in disks {
        let key = made.get(&disk.option).map(|volid| State::volume_key(&w.node, volid));
        if let (Some(volume), Some(holds)) = (key.and_then(|k| s.volumes.get_mut(k)), &disk.holds) {
            volume.holds = holds.clone();
        }
    }
    let mut config = plan.archive.config.clone();
    let mut left_out = Vec::new();
    for (option, value) in plan.archive.config.iter().filter(|(k, _)| vmconfig::is_drive(k)) {
        let mut drive = Drive::parse(value);
        if drive.get("backup") == Some("0") && !drive.is_cdrom() {
            // The line is commented out, and comments are the description.
            left_out.push(format!("{option}: {value}"));
            config.remove(option);
        } else if let Some(volid) = made.get(option) {
            drive.file.clone_from(volid);
            drive.remove("format");
            config.insert(option.clone(), drive.print());
        }
    }
    if !left_out.is_empty() {
        let description = config.entry("description".into()).or_default();
        left_out.iter().for_each(|line| *description = format!("{description}\n{line}").trim_start().into());
    }
    if config.contains_key("vmgenid") {
        config.insert("vmgenid".into(), s.draw_uuid());
    }
    if plan.unique {
        for (net, value) in plan.archive.config.iter().filter(|(k, _)| vmconfig::is_net(k)) {
            let (_, _, mac) = vmconfig::net_parts(value, major);
            let new = s.draw_mac();
            config.insert(net.clone(), mac.map_or(value.clone(), |old| value.replace(&old, &new)));
        }
        config.insert("smbios1".into(), format!("uuid={}", s.draw_uuid()));
    }
    for (option, value) in &plan.options {
        let value = match option.as_str() {
            net if vmconfig::is_net(net) => vmconfig::net_with_mac(value, major, &mut || s.draw_mac()),
            "cipassword" => super::update::hash_password(value),
            _ => value.clone(),
        };
        config.insert(option.clone(), value);
    }
    // The rescan finds the VM's other volumes.
    let own =
        s.volumes.values().filter(|v| v.node == w.node && v.vmid == Some(vmid) && v.content == "images");
    let cloudinit = |volid: &str| Drive::parse(volid).is_cloudinit();
    let own: Vec<String> = own.map(|v| v.volid.clone()).filter(|v| !cloudinit(v)).collect();
    own.iter().for_each(|volid| vmconfig::add_unused(&mut config, volid));
    if let Some(vm) = s.vms.get_mut(vmid) {
        vm.config = config;
        vm.guest_agent = plan.archive.guest_agent;
        vm.bare_guest = plan.archive.bare_guest;
    }
    if let Some(pool) = plan.pool.as_ref().and_then(|pool| s.pools.get_mut(pool))
        && !pool.vms.contains(&vmid)
    {
        pool.vms.push(vmid);
    }
}
