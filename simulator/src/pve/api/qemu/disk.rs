//! Disks: attaching and allocating, resize, unlink.

use super::{check_lock, import, only_root};
use crate::pve::access::Access;
use crate::pve::call::{Call, Check, call};
use crate::pve::cluster::{Ctx, no_config};
use crate::pve::drive::{Drive, NewVolume, format_of, owner_of, parse_size, print_size};
use crate::pve::reply::{ApiError, ApiResult};
use crate::pve::state::State;
use crate::pve::volume_access;

const DISK: Check = Check::All("/vms/{vmid}", &["VM.Config.Disk"]);
/// Names of all disks.
pub(super) const DISK_NAME: &str = "ide0|ide1|ide2|ide3|scsi0|scsi1|scsi2|scsi3|scsi4|scsi5|scsi6|scsi7|scsi8|scsi9|scsi10|scsi11|scsi12|scsi13|scsi14|scsi15|scsi16|scsi17|scsi18|scsi19|scsi20|scsi21|scsi22|scsi23|scsi24|scsi25|scsi26|scsi27|scsi28|scsi29|scsi30|virtio0|virtio1|virtio2|virtio3|virtio4|virtio5|virtio6|virtio7|virtio8|virtio9|virtio10|virtio11|virtio12|virtio13|virtio14|virtio15|sata0|sata1|sata2|sata3|sata4|sata5|efidisk0|tpmstate0";
const RESIZE: &str = "\
digest? s max=40
disk s enum=ide0|ide1|ide2|ide3|scsi0|scsi1|scsi2|scsi3|scsi4|scsi5|scsi6|scsi7|scsi8|scsi9|scsi10|scsi11|scsi12|scsi13|scsi14|scsi15|scsi16|scsi17|scsi18|scsi19|scsi20|scsi21|scsi22|scsi23|scsi24|scsi25|scsi26|scsi27|scsi28|scsi29|scsi30|virtio0|virtio1|virtio2|virtio3|virtio4|virtio5|virtio6|virtio7|virtio8|virtio9|virtio10|virtio11|virtio12|virtio13|virtio14|virtio15|sata0|sata1|sata2|sata3|sata4|sata5|efidisk0|tpmstate0
size s re=resize
skiplock? b
";

pub(super) fn calls() -> Vec<Call> {
    vec![
        call("PUT", "/nodes/{node}/qemu/{vmid}/resize", &[RESIZE], DISK, resize),
        call(
            "PUT",
            "/nodes/{node}/qemu/{vmid}/unlink",
            &["force? b\nidlist s fmt=pve-configid-list"],
            DISK,
            super::update::unlink,
        ),
    ]
}

/// A wish for a new volume: `storage:<GiB>`.
fn wanted_size(drive: &Drive) -> Option<f64> {
    let (_, rest) = drive.file.split_once(':')?;
    let number = rest.parse::<f64>().ok()?;
    (number >= 0.0).then_some(number)
}

/// Rights and existence of what a drive option names, before anything is done.
pub(super) fn check_drive(
    s: &State,
    a: &Access<'_>,
    ctx: &Ctx,
    vm_path: &str,
    option: &str,
    value: &str,
) -> Result<(), ApiError> {
    let drive = Drive::parse(value);
    if volume_access::kind(&drive.file) == "iso" && !drive.is_cdrom() {
        return Err(ApiError::parameter(option, "explicit 'media=cdrom' is required for iso images"));
    }
    if drive.is_cdrom() && !drive.is_cloudinit() {
        a.check(&ctx.caller, vm_path, "VM.Config.CDROM")?;
        return match drive.file.as_str() {
            "none" => Ok(()),
            "cdrom" => a.check(&ctx.caller, "/", "Sys.Console"),
            volid => {
                volume_access::check(a, &ctx.caller, Some(ctx.vmid()), volid)?;
                if !matches!(volume_access::kind(volid), "iso" | "images") {
                    return Err(ApiError::parameter(option, "content type needs to be 'images' or 'iso'"));
                }
                match s.volume(&ctx.node, volid) {
                    Some(_) => Ok(()),
                    None => Err(ApiError::died(format!("volume '{volid}' does not exist"))),
                }
            }
        };
    }
    a.check(&ctx.caller, vm_path, "VM.Config.Disk")?;
    if drive.file.starts_with('/') {
        return Err(ApiError::died(
            "Only root can pass arbitrary filesystem paths. at /usr/share/perl5/PVE/Storage.pm line 581.",
        ));
    }
    import::check(a, ctx, option, &drive)?;
    let Some(storage) = drive.storage() else {
        return Err(ApiError::died(format!("unable to parse volume ID '{}'", drive.file)));
    };
    let Some(row) = s.storages.get(storage) else {
        return Err(ApiError::died(format!("storage '{storage}' does not exist")));
    };
    if wanted_size(&drive).is_some() || drive.file.ends_with(":cloudinit") {
        a.check(&ctx.caller, &format!("/storage/{storage}"), "Datastore.AllocateSpace")?;
        if row.disable {
            return Err(ApiError::died(format!("storage '{storage}' is disabled")));
        }
        if !row.content.iter().any(|c| c == "images") {
            return Err(ApiError::parameter(
                "storage",
                format!("storage '{storage}' does not support vm images"),
            ));
        }
        return Ok(());
    }
    if let Some(owner) = owner_of(&drive.file).filter(|o| *o != ctx.vmid()) {
        a.check(&ctx.caller, &format!("/vms/{owner}"), "VM.Config.Disk")?;
    }
    match s.volume(&ctx.node, &drive.file) {
        Some(_) => Ok(()),
        None => {
            let name = drive.file.split_once(':').map_or("", |(_, n)| n);
            if name.contains('/') || name.contains("-disk-") {
                Err(ApiError::died(format!("volume '{}' does not exist", drive.file)))
            } else {
                Err(ApiError::died(format!("unable to parse directory volume name '{name}'")))
            }
        }
    }
}

fn formatting(path: &str, format: &str, size: u64) -> String {
    if format == "qcow2" {
        format!(
            "Formatting '{path}', fmt=qcow2 cluster_size=65536 extended_l2=off preallocation=metadata compression_type=zlib size={size} lazy_refcounts=off refcount_bits=16"
        )
    } else {
        format!("Formatting '{path}', fmt={format} size={size} preallocation=off")
    }
}

/// Gives the drive as it is written: allocates what is wished for. `lines` go to a task's log.
pub(super) fn attach(
    s: &mut State,
    ctx: &Ctx,
    vmid: u32,
    option: &str,
    value: &str,
    lines: &mut Vec<String>,
) -> Result<String, String> {
    let mut drive = Drive::parse(value);
    if drive.is_cdrom() && !drive.is_cloudinit() {
        return Ok(drive.print());
    }
    let Some(storage) = drive.storage().and_then(|id| s.storages.get(id)).cloned() else {
        return Ok(drive.print());
    };
    let cloudinit = drive.file.ends_with(":cloudinit");
    let size = match wanted_size(&drive) {
        Some(gib) if !cloudinit => parse_size(&format!("{gib}G")).unwrap_or(0),
        _ if cloudinit => 4 << 20,
        _ => {
            if let Some(volume) = s.volume(&ctx.node, &drive.file) {
                let size = print_size(volume.size);
                drive.set("size", &size);
            }
            return Ok(drive.print());
        }
    };
    let default = if cloudinit && storage.path.is_some() { "qcow2" } else { storage.default_format() };
    let mut format = drive.get("format").unwrap_or(default).to_owned();
    let mut size = size;
    let mut holds = None;
    // Only at the creation of a VM, which is one effect; a change of a configuration brings its imports
    // before this.
    if let Some(source) = drive.get("import-from").map(str::to_owned) {
        let volume = import::source(s, &ctx.node, &source)
            .map_err(|text| format!("unable to create VM {vmid} - {text}"))?;
        holds = Some(volume.holds);
        size = volume.size;
        if drive.get("format").is_none() && storage.is_file() {
            format.clone_from(&volume.format);
        }
        lines.push(format!("create full clone of drive ({source})"));
        drive.remove("import-from");
    }
    let at = ctx.cluster.clock.now();
    let new = NewVolume {
        node: &ctx.node,
        storage: &storage,
        vmid,
        format: &format,
        size,
        at,
        parent: None,
        cloudinit,
        holds,
    };
    drive.file = s.allocate(&new)?;
    drive.remove("format");
    lines.push(formatting(&storage.path_of(&drive.file), &format, size));
    if cloudinit {
        drive.set("media", "cdrom");
    } else {
        drive.set("size", &print_size(size));
    }
    lines.push(format!("{option}: successfully created disk '{}'", drive.print()));
    Ok(drive.print())
}

/// The log line of a new volume.
pub(super) fn formatting_line(path: &str, format: &str, size: u64, base: Option<&str>) -> String {
    match base {
        Some(base) => format!(
            "Formatting '{path}', fmt=qcow2 cluster_size=65536 extended_l2=off compression_type=zlib size={size} backing_file=../{base} backing_fmt=qcow2 lazy_refcounts=off refcount_bits=16"
        ),
        None => formatting(path, format, size),
    }
}

async fn resize(ctx: Ctx) -> ApiResult {
    only_root(&ctx, &["skiplock"])?;
    let cluster = ctx.cluster.clone();
    let (vmid, node) = (ctx.vmid(), ctx.node.clone());
    let disk = ctx.params.text("disk").to_owned();
    let size = ctx.params.text("size").to_owned();
    let digest = ctx.params.get("digest").map(str::to_owned);
    cluster
        .fork(&ctx, "resize", &vmid.to_string(), |w| async move {
            let _guard = w.lock(vmid).await?;
            let look = w.cluster.read(|s| {
                let vm = s.vm_on(&node, vmid).ok_or_else(|| no_config(&node, vmid))?;
                if digest.is_some_and(|d| d != crate::pve::vmconfig::digest(vm)) {
                    return Err("checksum mismatch (file change by other user?)".to_owned());
                }
                check_lock(vm)?;
                let drive = Drive::parse(
                    vm.config.get(&disk).ok_or_else(|| format!("disk '{disk}' does not exist"))?,
                );
                if drive.is_cdrom() {
                    return Err("you can't resize a cdrom".into());
                }
                let volume = s
                    .volume(&node, &drive.file)
                    .ok_or_else(|| format!("volume '{}' does not exist", drive.file))?;
                if drive.file.contains("/base-") && !drive.file.contains("/vm-") {
                    return Err(format!("failed to resize image '{}': Operation not permitted", drive.file));
                }
                let wanted = match size.strip_prefix('+') {
                    Some(more) => volume.size + parse_size(more).unwrap_or(0),
                    None => parse_size(&size).unwrap_or(0),
                };
                match wanted.cmp(&volume.size) {
                    std::cmp::Ordering::Less => Err("shrinking disks is not supported".into()),
                    std::cmp::Ordering::Equal => Ok(None),
                    std::cmp::Ordering::Greater => Ok(Some((drive, wanted, vm.run.is_some()))),
                }
            });
            let Some((mut drive, wanted, running)) = look.await? else { return Ok(()) };
            let storage = drive.storage().unwrap_or("").to_owned();
            w.cluster
                .judge(|_, a| a.check(&w.caller, &format!("/storage/{storage}"), "Datastore.AllocateSpace"))
                .await
                .map_err(|e| format!("403 {}", e.text()))?;
            w.cluster.read(|s| s.room_to_grow(&node, &drive.file)).await?;
            w.work_shortly().await?;
            let key = State::volume_key(&node, &drive.file);
            w.cluster
                .change("disk.resize", |s| {
                    if let Some(volume) = s.volumes.get_mut(&key) {
                        volume.size = wanted;
                    }
                    drive.set("size", &print_size(wanted));
                    if let Some(vm) = s.vms.get_mut(vmid) {
                        vm.config.insert(disk, drive.print());
                    }
                })
                .await;
            if format_of(&drive.file) == "qcow2" && !running {
                w.log("Image resized.").await;
            }
            Ok(())
        })
        .await
}
