//! `scsi1=STORE:0,import-from=SOURCE`: a new disk that is a copy of another one.
//!
//! The source is a disk of a VM (with VM.Clone on it) or a file of the content type `import`. What is
//! refused, in which words, and what is left by a copy that failed follows `PVE::API2::Qemu` (8.4.21 to
//! 9.2), where no recording shows it.

use std::sync::Arc;
use std::time::Duration;

use super::disk::formatting_line;
use crate::pve::access::Access;
use crate::pve::cluster::{Cluster, Ctx};
use crate::pve::drive::{Drive, NewVolume, human, print_size};
use crate::pve::reply::ApiError;
use crate::pve::state::{State, Volume};
use crate::pve::task::{INTERRUPTED, Worker};
use crate::pve::volume_access;

/// Whether a drive option wants an import.
pub(crate) fn is_wanted(value: &str) -> bool {
    Drive::parse(value).get("import-from").is_some()
}

/// What is refused before anything is done: form, kind of the source, rights on it. Rights on the target
/// are those of any new disk.
pub(crate) fn check(a: &Access<'_>, ctx: &Ctx, option: &str, drive: &Drive) -> Result<(), ApiError> {
    let Some(source) = drive.get("import-from") else { return Ok(()) };
    let size = drive.file.split_once(':').and_then(|(_, size)| size.parse::<f64>().ok());
    if size != Some(0.0) {
        return Err(ApiError::parameter(
            option,
            "'import-from' requires special syntax - use <storage ID>:0,import-from=<source>",
        ));
    }
    if source.starts_with('/') {
        return Err(ApiError::died(
            "Only root can pass arbitrary filesystem paths. at /usr/share/perl5/PVE/Storage.pm line 581.",
        ));
    }
    let kind = volume_access::kind(source);
    if kind != "images" && kind != "import" {
        return Err(ApiError::parameter(
            option,
            format!("{source} has wrong type '{kind}' - needs to be 'images' or 'import'"),
        ));
    }
    match volume_access::owner(source) {
        // It may be in use by its VM, and is copied as a clone would.
        Some(owner) => a.check(&ctx.caller, &format!("/vms/{owner}"), "VM.Clone"),
        None => volume_access::check(a, &ctx.caller, Some(ctx.vmid()), source),
    }
}

/// The volume to import, or why there is none.
pub(crate) fn source(s: &State, node: &str, volid: &str) -> Result<Volume, String> {
    s.volume(node, volid).cloned().ok_or_else(|| {
        let storage = volid.split(':').next().and_then(|id| s.storages.get(id));
        match (volume_access::kind(volid), storage) {
            ("import", Some(storage)) => format!("failed to stat '{}'", storage.path_of(volid)),
            _ => format!("cannot import from '{volid}' - could not get size of {volid}"),
        }
    })
}

/// For whom is imported.
pub(crate) struct Importing<'a> {
    pub(crate) cluster: &'a Arc<Cluster>,
    pub(crate) node: &'a str,
    pub(crate) vmid: u32,
    /// The task that does it, whose log tells of it; none: a call that waits.
    pub(crate) worker: Option<&'a Worker>,
}

impl Importing<'_> {
    /// Copies the source of a drive option and gives the option with its new volume in place. It takes as
    /// long as a clone, in four pieces of work. A copy that fails is removed, a killed one stays as a
    /// volume that no configuration names.
    ///
    /// # Errors
    /// The text the call or its task fails with.
    pub(crate) async fn bring(&self, option: &str, value: &str) -> Result<String, String> {
        let mut drive = Drive::parse(value);
        let Some(from) = drive.get("import-from").map(str::to_owned) else { return Ok(value.to_owned()) };
        let id = drive.storage().unwrap_or("").to_owned();
        let (source, storage, name) = self
            .cluster
            .read(|s| {
                let source = source(s, self.node, &from)?;
                let storage = s.storages.get(&id).cloned();
                let storage = storage.ok_or_else(|| format!("storage '{id}' does not exist"))?;
                let vm = source.vmid.and_then(|owner| s.vms.get(owner));
                let drives = vm.map(|vm| vm.disks()).unwrap_or_default();
                let name = drives.into_iter().find(|(_, d)| d.file == from).map(|(k, _)| format!("{k} "));
                Ok::<_, String>((source, storage, name.unwrap_or_default()))
            })
            .await?;
        self.log(format!("create full clone of drive {name}({from})")).await;
        let given = drive.get("format").map(str::to_owned);
        let same = if storage.is_file() { source.format.clone() } else { "raw".to_owned() };
        let format = given.unwrap_or(same);
        let lock = match self.worker {
            Some(worker) => worker.lock_storage(self.node, &storage.id).await,
            None => self.cluster.lock_storage(self.node, &storage.id).await,
        };
        let lock = lock.map_err(|text| format!("cannot import from '{from}' - {text}"))?;
        let volid = self
            .cluster
            .change("import.allocate", |s| {
                s.allocate(&NewVolume {
                    node: self.node,
                    storage: &storage,
                    vmid: self.vmid,
                    format: &format,
                    size: source.size,
                    at: self.cluster.clock.now(),
                    parent: None,
                    cloudinit: false,
                    holds: None,
                })
            })
            .await
            .map_err(|text| format!("cannot import from '{from}' - {text}"))?;
        drop(lock);
        self.log(formatting_line(&storage.path_of(&volid), &format, source.size, None)).await;
        if let Err(text) = self.copy(source.size).await {
            self.cluster.change("import.undo", |s| s.free(self.node, &volid)).await;
            let text = if text == INTERRUPTED {
                "copy failed: command '/usr/bin/qemu-img convert' failed: interrupted by signal".to_owned()
            } else {
                text
            };
            return Err(format!("cannot import from '{from}' - {text}"));
        }
        let key = State::volume_key(self.node, &volid);
        self.cluster
            .change("import.done", |s| {
                if let Some(volume) = s.volumes.get_mut(&key) {
                    volume.holds = source.holds;
                }
            })
            .await;
        drive.file = volid;
        drive.remove("import-from");
        drive.remove("format");
        drive.set("size", &print_size(source.size));
        self.log(format!("{option}: successfully created disk '{}'", drive.print())).await;
        Ok(drive.print())
    }

    async fn copy(&self, size: u64) -> Result<(), String> {
        let piece = self.cluster.speed().clone_ms / 4;
        for quarter in 0..4u64 {
            let done = size / 4 * quarter;
            self.log(format!("transferred {} of {} ({}.00%)", human(done), human(size), quarter * 25)).await;
            match self.worker {
                Some(worker) => worker.work(piece).await?,
                None => tokio::time::sleep(Duration::from_millis(piece)).await,
            }
        }
        self.log(format!("transferred {0} of {0} (100.00%)", human(size))).await;
        Ok(())
    }

    async fn log(&self, line: String) {
        if let Some(worker) = self.worker {
            worker.log(line).await;
        }
    }
}
