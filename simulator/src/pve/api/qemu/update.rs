//! Changing a VM's configuration: `PUT` at once, `POST` as a task.

use std::collections::BTreeMap;

use super::{check_lock, load, only_root};
use crate::pve::call::{Call, Check, call};
use crate::pve::cluster::Ctx;
use crate::pve::drive::Drive;
use crate::pve::reply::{ApiError, ApiResult, null};
use crate::pve::state::{Options, State, Vm};
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
                } else {
                    vmconfig::check_option(a, &ctx.caller, &vm_path, option, "")?;
                }
            }
            for (option, value) in &set {
                vmconfig::check_option(a, &ctx.caller, &vm_path, option, value)?;
                if vmconfig::is_drive(option) {
                    super::disk::check_drive(s, a, ctx, &vm_path, value)?;
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
        let lines =
            ctx.cluster.change("vm.config", |s| apply(s, &ctx, &change)).await.map_err(ApiError::died)?;
        drop((guard, lines));
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
            let lines = w.change("vm.config", |s| apply(s, &inner, &change)).await?;
            for line in lines {
                w.log(line).await;
            }
            drop(guard);
            Ok(())
        })
        .await
}

/// Writes the change; gives lines for a task's log.
fn apply(s: &mut State, ctx: &Ctx, change: &Change) -> Result<Vec<String>, String> {
    let vmid = ctx.vmid();
    let mut set = change.set.clone();
    let mut lines = Vec::new();
    let major = ctx.cluster.major;
    for (option, value) in &mut set {
        if vmconfig::is_net(option) {
            *value = vmconfig::net_with_mac(value, major, &mut || s.draw_mac());
        }
        if vmconfig::is_drive(option) {
            *value = super::disk::attach(s, ctx, vmid, option, value, &mut lines)?;
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
    let Some(vm) = s.vms.get_mut(vmid) else { return Err(crate::pve::cluster::no_config(&ctx.node, vmid)) };
    let running = vm.run.is_some();
    for option in &change.revert {
        vm.pending.remove(option);
    }
    let mut freed = Vec::new();
    for option in &change.delete {
        if vmconfig::base(option) == "unused" || (vmconfig::is_drive(option) && change.force) {
            if let Some(old) = vm.config.remove(option) {
                freed.push(Drive::parse(&old).file);
            }
        } else if vmconfig::is_drive(option) {
            detach(vm, option, &mut freed);
        } else if running && !vmconfig::applies_at_once(option) {
            if vm.config.contains_key(option) {
                vm.pending.insert(option.clone(), None);
            } else {
                vm.pending.remove(option);
            }
        } else {
            vm.config.remove(option);
            vm.pending.remove(option);
        }
    }
    for (option, value) in set {
        if vmconfig::is_drive(&option) {
            let other =
                vm.config.get(&option).is_some_and(|old| Drive::parse(old).file != Drive::parse(&value).file);
            if other {
                detach(vm, &option, &mut freed);
            }
        }
        if running && !vmconfig::applies_at_once(&option) {
            if vm.config.get(&option) == Some(&value) {
                vm.pending.remove(&option);
            } else {
                vm.pending.insert(option, Some(value));
            }
        } else {
            vm.pending.remove(&option);
            vm.config.insert(option, value);
        }
    }
    let node = ctx.node.clone();
    for volid in freed {
        s.free(&node, &volid);
    }
    Ok(lines)
}

/// Takes a drive out: its volume becomes `unusedN`; CD drives just go, the cloud-init volume is freed.
fn detach(vm: &mut Vm, option: &str, freed: &mut Vec<String>) {
    let Some(old) = vm.config.remove(option) else { return };
    let drive = Drive::parse(&old);
    if drive.is_cloudinit() {
        freed.push(drive.file);
    } else if !drive.is_cdrom() {
        let taken: BTreeMap<&String, &String> =
            vm.config.iter().filter(|(k, _)| vmconfig::base(k) == "unused").collect();
        let free = (0..256).map(|i| format!("unused{i}")).find(|k| !taken.contains_key(k));
        if let Some(slot) = free {
            vm.config.insert(slot, drive.file);
        }
    }
}
