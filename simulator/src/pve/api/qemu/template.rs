//! Converting a VM to a template.

use super::disk::DISK_NAME;
use super::{check_lock, load};
use crate::pve::call::{Call, Check, call};
use crate::pve::cluster::Ctx;
use crate::pve::drive::Drive;
use crate::pve::reply::{ApiError, ApiResult};
use crate::pve::state::{State, Vm};
use crate::pve::vmconfig;

pub(super) fn calls() -> Vec<Call> {
    const TEMPLATE: &str = "disk? s enum=ide0|ide1|ide2|ide3|scsi0|scsi1|scsi2|scsi3|scsi4|scsi5|scsi6|scsi7|scsi8|scsi9|scsi10|scsi11|scsi12|scsi13|scsi14|scsi15|scsi16|scsi17|scsi18|scsi19|scsi20|scsi21|scsi22|scsi23|scsi24|scsi25|scsi26|scsi27|scsi28|scsi29|scsi30|virtio0|virtio1|virtio2|virtio3|virtio4|virtio5|virtio6|virtio7|virtio8|virtio9|virtio10|virtio11|virtio12|virtio13|virtio14|virtio15|sata0|sata1|sata2|sata3|sata4|sata5|efidisk0|tpmstate0";
    debug_assert!(TEMPLATE.ends_with(DISK_NAME));
    vec![call(
        "POST",
        "/nodes/{node}/qemu/{vmid}/template",
        &[TEMPLATE],
        Check::All("/vms/{vmid}", &["VM.Allocate"]),
        template,
    )]
}

fn check(vm: &Vm) -> Result<(), String> {
    check_lock(vm)?;
    if !vm.snapshots.is_empty() {
        return Err("unable to create template, because VM contains snapshots".into());
    }
    if vm.is_template() {
        return Err("you can't convert a template to a template".into());
    }
    if vm.run.is_some() {
        return Err("you can't convert a VM to template if VM is running".into());
    }
    Ok(())
}

/// Marks the VM and renames its disks to `base-…` where the storage can.
pub(crate) fn convert(s: &mut State, node: &str, vmid: u32) {
    let disks: Vec<(String, Drive)> = s
        .vms
        .get(vmid)
        .map(|v| {
            let disks = v.config.iter().filter(|(k, v)| vmconfig::is_drive(k) && !v.contains("media=cdrom"));
            disks.map(|(k, v)| (k.clone(), Drive::parse(v))).collect()
        })
        .unwrap_or_default();
    for (option, mut drive) in disks {
        let able = drive
            .storage()
            .and_then(|id| s.storages.get(id))
            .is_some_and(crate::pve::state::Storage::can_link);
        if able && let Some(base) = s.make_base(node, &drive.file) {
            drive.file = base;
            if let Some(vm) = s.vms.get_mut(vmid) {
                vm.config.insert(option, drive.print());
            }
        }
    }
    if let Some(vm) = s.vms.get_mut(vmid) {
        vm.config.insert("template".into(), "1".into());
    }
}

async fn template(ctx: Ctx) -> ApiResult {
    let cluster = ctx.cluster.clone();
    let vmid = ctx.vmid();
    cluster.read(|s| check(load(s, &ctx)?).map_err(ApiError::died)).await?;
    let guard = cluster.lock(vmid, cluster.timing.config_lock_ms).await.map_err(ApiError::died)?;
    cluster
        .fork(&ctx, "qmtemplate", &vmid.to_string(), |w| async move {
            let _guard = guard;
            w.work_shortly().await?;
            w.cluster.change("vm.template", |s| convert(s, &w.node, vmid)).await;
            Ok(())
        })
        .await
}
