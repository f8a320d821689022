//! Changing a VM's configuration: `PUT` at once, `POST` as a task.

use super::import::{Importing, is_wanted};
use super::{check_lock, load, only_root};
use crate::pve::access::Access;
use crate::pve::boot;
use crate::pve::call::{Call, Check, call};
use crate::pve::cluster::Ctx;
use crate::pve::drive::Drive;
use crate::pve::reply::{ApiError, ApiResult, null};
use crate::pve::state::{Options, State, Vm};
use crate::pve::task::Worker;
use crate::pve::vmconfig;

const ANY: Check = Check::Any(
    "/vms/{vmid}",
    &[
        "VM.Config.Disk",
        "VM.Config.CDROM",
        "VM.Config.CPU",
        "VM.Config.Memory",
        "VM.Config.Network",
        "VM.Config.HWType",
        "VM.Config.Options",
        "VM.Config.Cloudinit",
    ],
);
const OWN: &str = "force? b req=delete\ndelete? s fmt=pve-configid-list\ndigest? s max=40\nrevert? s fmt=pve-configid-list\nskiplock? b";
const POST_ONLY: &str = "background_delay? i 1..30\nimport-working-storage? s fmt=pve-storage-id";
const NOT_OPTIONS: &[&str] = &[
    "node",
    "vmid",
    "delete",
    "digest",
    "revert",
    "skiplock",
    "force",
    "background_delay",
    "import-working-storage",
    "idlist",
];

pub(super) fn calls() -> Vec<Call> {
    const PATH: &str = "/nodes/{node}/qemu/{vmid}/config";
    vec![
        call("PUT", PATH, &[vmconfig::OPTIONS, OWN], ANY, |ctx| update(ctx, false)),
        call("POST", PATH, &[vmconfig::OPTIONS, OWN, POST_ONLY], ANY, |ctx| update(ctx, true)),
    ]
}

/// A checked change, ready to be applied.
struct Change {
    set: Options,
    delete: Vec<String>,
    revert: Vec<String>,
    digest: Option<String>,
    force: bool,
}

/// Everything that is refused before the VM is looked at.
async fn judge(ctx: &Ctx) -> Result<Change, ApiError> {
    only_root(ctx, &["skiplock"])?;
    let mut set = vmconfig::given_options(&ctx.params, NOT_OPTIONS);
    let delete = ctx.params.list("delete");
    let revert = ctx.params.list("revert");
    if set.is_empty() && delete.is_empty() && revert.is_empty() {
        return Err(ApiError::died("no options specified"));
    }
    let table = crate::pve::schema::Spec::parse(&[vmconfig::OPTIONS], ctx.cluster.major);
    for option in &delete {
        if set.contains_key(option) {
            return Err(ApiError::parameter(
                "delete",
                format!("you can't use '-{option}' and -delete {option}' at the same time"),
            ));
        }
        if table.find(option).is_none() {
            return Err(ApiError::parameter("delete", format!("unknown option '{option}'")));
        }
    }
    for option in &revert {
        if table.find(option).is_none() {
            return Err(ApiError::parameter("revert", format!("unknown option '{option}'")));
        }
    }
    if let Some(script) = set.get("hookscript") {
        return Err(ApiError::parameter("hookscript", format!("script '{script}' does not exist\n")));
    }
    if let Some(password) = set.get_mut("cipassword") {
        *password = hash_password(password);
    }
    let vm_path = ctx.vm_path();
    ctx.cluster
        .judge(|s, a| {
            for option in delete.iter().chain(&revert) {
                if vmconfig::is_drive(option) {
                    let cdrom = s.vms.get(ctx.vmid()).and_then(|v| v.config.get(option)).is_some_and(|d| {
                        let d = Drive::parse(d);
                        d.is_cdrom() && !d.is_cloudinit()
                    });
                    a.check(&ctx.caller, &vm_path, if cdrom { "VM.Config.CDROM" } else { "VM.Config.Disk" })?;
                    removal(s, a, ctx, option, ctx.params.flag("force") && !cdrom)?;
                } else {
                    removal(s, a, ctx, option, vmconfig::base(option) == "unused")?;
                    vmconfig::check_option(a, &ctx.caller, &vm_path, option, "")?;
                }
            }
            for (option, value) in &set {
                vmconfig::check_option(a, &ctx.caller, &vm_path, option, value)?;
                if vmconfig::is_drive(option) {
                    super::disk::check_drive(s, a, ctx, &vm_path, option, value)?;
                }
                if vmconfig::is_net(option) {
                    vmconfig::check_bridge(a, &ctx.caller, value, ctx.cluster.major)?;
                }
            }
            Ok(())
        })
        .await?;
    Ok(Change {
        set,
        delete,
        revert,
        digest: ctx.params.get("digest").map(str::to_owned),
        force: ctx.params.flag("force"),
    })
}

/// A disk that is removed for good wants the right to allocate on its storage.
fn removal(s: &State, a: &Access<'_>, ctx: &Ctx, option: &str, removed: bool) -> Result<(), ApiError> {
    let file = s.vms.get(ctx.vmid()).and_then(|vm| vm.config.get(option)).map(|v| Drive::parse(v).file);
    match file.as_deref().and_then(|f| f.split_once(':')).filter(|_| removed) {
        Some((storage, _)) => a.check(&ctx.caller, &format!("/storage/{storage}"), "Datastore.AllocateSpace"),
        None => Ok(()),
    }
}

/// A password as `cipassword` keeps it: hashes stay, plain text is hashed.
pub(super) fn hash_password(password: &str) -> String {
    let parts: Vec<&str> = password.split('$').collect();
    let hashed = parts.len() >= 4 && parts[0].is_empty() && matches!(parts[1], "1" | "5" | "6" | "2a" | "2y");
    if hashed {
        return password.to_owned();
    }
    // Not a real crypt(3): nobody logs into a simulated machine.
    let digest = crate::pve::state::sha256_hex(password.as_bytes());
    format!("$5${}${}", &digest[..8], &digest[..43])
}

/// `PUT …/unlink`: a change that deletes.
pub(super) async fn unlink(mut ctx: Ctx) -> ApiResult {
    let ids = ctx.params.list("idlist").join(",");
    ctx.params.set("delete", &ids);
    update(ctx, false).await
}

async fn update(ctx: Ctx, as_task: bool) -> ApiResult {
    let change = judge(&ctx).await?;
    let vmid = ctx.vmid();
    ctx.cluster.read(|s| load(s, &ctx).map(|_| ())).await?;
    let guard = ctx.cluster.lock(vmid, ctx.cluster.timing.config_lock_ms).await.map_err(ApiError::died)?;
    ctx.cluster
        .read(|s| {
            let vm = load(s, &ctx)?;
            if change.digest.as_ref().is_some_and(|d| *d != vmconfig::digest(vm)) {
                return Err(ApiError::died("checksum mismatch (file change by other user?)"));
            }
            check_lock(vm).map_err(ApiError::died)?;
            let number =
                |k: &str| change.set.get(k).or_else(|| vm.config.get(k)).and_then(|v| v.parse::<u64>().ok());
            let memory = change.set.get("memory").map_or_else(
                || vmconfig::memory_mib(&vm.config),
                |m| m.trim_start_matches("current=").parse().unwrap_or(512),
            );
            if change.set.contains_key("balloon") && number("balloon").is_some_and(|b| b > memory) {
                return Err(ApiError::died("balloon value too large (must be smaller than assigned memory)"));
            }
            Ok(())
        })
        .await?;
    if !as_task {
        let (done, _lines) = carry_out(&ctx, None, change).await;
        drop(guard);
        done?;
        return null();
    }
    let cluster = ctx.cluster.clone();
    let inner = ctx.clone();
    cluster
        .fork(&ctx, "qmconfig", &vmid.to_string(), |w| async move {
            let mut words: Vec<String> = change.set.iter().map(|(k, v)| format!("-{k} {v}")).collect();
            if !change.delete.is_empty() {
                words.push(format!("-delete {}", change.delete.join(",")));
            }
            w.log(format!("update VM {vmid}: {}", words.join(" "))).await;
            w.work_shortly().await?;
            let (done, lines) = carry_out(&inner, Some(&w), change).await;
            for line in lines {
                w.log(line).await;
            }
            drop(guard);
            done.map_err(|error| match &error {
                ApiError::Parameters(errors) => {
                    let each = errors.iter().map(|(k, v)| format!("{k}: {v}"));
                    std::iter::once(error.text()).chain(each).collect::<Vec<_>>().join("\n")
                }
                _ => error.text(),
            })
        })
        .await
}

/// Brings what is to be imported, then writes the change.
async fn carry_out(
    ctx: &Ctx,
    worker: Option<&Worker>,
    mut change: Change,
) -> (Result<(), ApiError>, Vec<String>) {
    let at = Importing { cluster: &ctx.cluster, node: &ctx.node, vmid: ctx.vmid(), worker };
    let mut brought = Vec::new();
    let mut failed = None;
    for (option, value) in change.set.iter_mut().filter(|(k, v)| vmconfig::is_drive(k) && is_wanted(v)) {
        match at.bring(option, value).await {
            Ok(made) => {
                brought.push(Drive::parse(&made).file);
                *value = made;
            }
            Err(text) => {
                failed = Some(ApiError::died(text));
                break;
            }
        }
    }
    let mut lines = Vec::new();
    let done = ctx
        .cluster
        .change("vm.config", |s| {
            let done = failed.map_or_else(|| apply(s, ctx, &change, &mut lines), Err);
            if done.is_err() {
                brought.iter().for_each(|volid| s.free(&ctx.node, volid));
            }
            done
        })
        .await;
    (done, lines)
}

/// What of the deletions is refused; nothing has been changed yet.
fn check_deletions(vm: &Vm, change: &Change) -> Result<(), ApiError> {
    for option in &change.delete {
        let Some(value) = vm.config.get(option).or_else(|| vm.pending.get(option).and_then(Option::as_ref))
        else {
            continue;
        };
        let file = Drive::parse(value).file;
        let unused = vmconfig::base(option) == "unused";
        let protected = |what: String| {
            let refusal = format!("can't remove {what} - protection mode enabled");
            if vm.flag("protection") { Err(ApiError::died(refusal)) } else { Ok(()) }
        };
        let in_use = format!("unable to delete '{file}' - volume is still in use (snapshot?)");
        if unused {
            protected(format!("unused disk '{file}'"))?;
            if is_in_use(vm, option, &file) {
                return Err(ApiError::died(in_use));
            }
        } else if vmconfig::is_drive(option) {
            protected(format!("drive '{option}'"))?;
            if change.force && is_in_use(vm, option, &file) {
                return Err(ApiError::parameter(
                    option,
                    format!("unable to apply pending change {option} : {in_use}\n"),
                ));
            }
        }
    }
    Ok(())
}

/// Whether another drive or a snapshot names the volume.
fn is_in_use(vm: &Vm, but: &str, file: &str) -> bool {
    let names = |config: &Options, but: Option<&str>| {
        let drives = config.iter().filter(|(k, _)| vmconfig::is_drive(k) && Some(k.as_str()) != but);
        let mut drives = drives.map(|(_, v)| Drive::parse(v)).filter(|d| !d.is_cdrom());
        drives.any(|d| d.file == file)
    };
    names(&vm.config, Some(but)) || vm.snapshots.values().any(|snapshot| names(&snapshot.config, None))
}

/// Writes the change; `lines` go to a task's log.
fn apply(s: &mut State, ctx: &Ctx, change: &Change, lines: &mut Vec<String>) -> Result<(), ApiError> {
    let vmid = ctx.vmid();
    let mut set = change.set.clone();
    let major = ctx.cluster.major;
    let gone = || ApiError::died(crate::pve::cluster::no_config(&ctx.node, vmid));
    check_deletions(s.vms.get(vmid).ok_or_else(gone)?, change)?;
    for (option, value) in &mut set {
        if vmconfig::is_net(option) {
            *value = vmconfig::net_with_mac(value, major, &mut || s.draw_mac());
        }
        if vmconfig::is_drive(option) {
            *value = super::disk::attach(s, ctx, vmid, option, value, lines).map_err(ApiError::died)?;
        }
        if option == "tags" {
            let mut tags: Vec<String> =
                crate::pve::schema::split_list(value).map(str::to_lowercase).collect();
            tags.sort();
            tags.dedup();
            *value = tags.join(";");
        }
        if option == "smbios1" && !value.contains("uuid=") {
            *value = format!("{value},uuid={}", s.draw_uuid());
        }
    }
    let Some(vm) = s.vms.get_mut(vmid) else { return Err(gone()) };
    let mut freed = Vec::new();
    for option in &change.revert {
        vm.pending.remove(option);
    }
    if let Some(order) = new_order(vm, &set, &change.delete) {
        set.insert("boot".into(), order);
    }
    for option in &change.delete {
        delete(vm, option, change.force, &mut freed);
    }
    for (option, value) in set {
        put(vm, option, value, &mut freed);
    }
    for volid in freed {
        s.free(&ctx.node, &volid);
    }
    Ok(())
}

/// The boot order follows the drives: a deleted one leaves it, a new CD drive joins it at the end. None if
/// it stays, if there is none, or if the caller says what it is to be.
fn new_order(vm: &Vm, set: &Options, deleted: &[String]) -> Option<String> {
    if set.contains_key("boot") || deleted.iter().any(|d| d == "boot") {
        return None;
    }
    let before = boot::order(&vm.config)?;
    let mut order: Vec<String> = before.iter().filter(|d| !deleted.contains(d)).cloned().collect();
    for (option, value) in set.iter().filter(|(k, _)| vmconfig::is_drive(k)) {
        let drive = Drive::parse(value);
        if drive.is_cdrom() && !drive.is_cloudinit() && !order.contains(option) {
            order.push(option.clone());
        }
    }
    (order != before).then(|| if order.is_empty() { " ".into() } else { boot::print(&order) })
}

/// Whether a running machine takes the change of an option at once. IDE and SATA drives cannot be plugged
/// in or out; the medium of a CD drive that is there can be changed.
fn at_once(vm: &Vm, option: &str, new: Option<&str>) -> bool {
    if !matches!(vmconfig::base(option), "ide" | "sata") {
        return vmconfig::applies_at_once(option);
    }
    let is_cd = |value: &str| Drive::parse(value).is_cdrom();
    match (vm.config.get(option), new) {
        (Some(old), Some(new)) => is_cd(old) && is_cd(new),
        _ => false,
    }
}

fn delete(vm: &mut Vm, option: &str, force: bool, freed: &mut Vec<String>) {
    let drive = vmconfig::is_drive(option);
    if vm.run.is_some() && !at_once(vm, option, None) {
        if let Some(Some(value)) = vm.pending.remove(option).filter(|_| drive) {
            vmconfig::detach(vm, &value, freed);
        }
        if vm.config.contains_key(option) {
            vm.pending.insert(option.to_owned(), None);
        }
        return;
    }
    if let Some(Some(value)) = vm.pending.remove(option).filter(|_| drive) {
        vmconfig::detach(vm, &value, freed);
    }
    let Some(old) = vm.config.remove(option) else { return };
    let old_drive = Drive::parse(&old);
    if vmconfig::base(option) == "unused" || (drive && force && !old_drive.is_cdrom()) {
        freed.push(old_drive.file);
    } else if drive {
        vmconfig::detach(vm, &old, freed);
    }
}

fn put(vm: &mut Vm, option: String, value: String, freed: &mut Vec<String>) {
    let drive = vmconfig::is_drive(&option);
    if vm.run.is_some() && !at_once(vm, &option, Some(&value)) {
        let replaced = vm.pending.remove(&option);
        if let Some(Some(old)) = replaced.filter(|_| drive)
            && Drive::parse(&old).file != Drive::parse(&value).file
        {
            vmconfig::detach(vm, &old, freed);
        }
        if vm.config.get(&option) != Some(&value) {
            vm.pending.insert(option, Some(value));
        }
        return;
    }
    vm.pending.remove(&option);
    let old = vm.config.insert(option, value.clone());
    if let Some(old) = old.filter(|old| drive && Drive::parse(old).file != Drive::parse(&value).file) {
        vmconfig::detach(vm, &old, freed);
    }
}
