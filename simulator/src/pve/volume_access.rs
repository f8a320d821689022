//! What a volume is by its name, and who may use it.

use super::access::{Access, Caller};
use super::drive;
use super::reply::ApiError;

/// The content type that a volume id tells.
pub(crate) fn kind(volid: &str) -> &'static str {
    let name = volid.split_once(':').map_or(volid, |(_, n)| n);
    match name.split_once('/').map(|(folder, _)| folder) {
        Some("iso") => "iso",
        Some("vztmpl") => "vztmpl",
        Some("import") => "import",
        Some("backup") => "backup",
        Some("snippets") => "snippets",
        _ => "images",
    }
}

/// Whose volume it is: a disk's VM, or the one that was backed up.
pub(crate) fn owner(volid: &str) -> Option<u32> {
    match kind(volid) {
        "images" => drive::owner_of(volid),
        "backup" => volid.rsplit('/').next()?.strip_prefix("vzdump-qemu-")?.split('-').next()?.parse().ok(),
        _ => None,
    }
}

/// Refuses unless the caller may use the volume; `vmid` is the VM for which it is asked, whose own
/// volumes need nothing more. The rules are those of pve-storage, `PVE::Storage::check_volume_access`.
pub(crate) fn check(a: &Access<'_>, caller: &Caller, vmid: Option<u32>, volid: &str) -> Result<(), ApiError> {
    let storage = format!("/storage/{}", volid.split(':').next().unwrap_or(""));
    if a.may(caller, &storage, "Datastore.Allocate") {
        return Ok(());
    }
    let owner = owner(volid);
    match (kind(volid), owner) {
        ("iso" | "vztmpl" | "import", _) => {
            a.check_any(caller, &storage, &["Datastore.AllocateSpace", "Datastore.Audit"])
        }
        (_, Some(_)) if owner == vmid => Ok(()),
        ("backup", Some(owner)) => {
            a.check(caller, &storage, "Datastore.AllocateSpace")?;
            a.check(caller, &format!("/vms/{owner}"), "VM.Backup")
        }
        ("images", Some(owner)) => {
            a.check(caller, &storage, "Datastore.Audit")?;
            a.check(caller, &format!("/vms/{owner}"), "VM.Config.Disk")
        }
        _ => Err(ApiError::died(format!("missing privileges to access {volid}"))),
    }
}
