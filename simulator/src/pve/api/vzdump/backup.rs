//! The backup of one VM.
//!
//! The VM carries `lock: backup` meanwhile, the archive is in the content list only when it is whole. A
//! stopped VM is started paused for it (`prelaunch`), so that it counts as running until the end. A killed
//! worker leaves the lock, and the emulator as it was.

use std::collections::BTreeMap;

use serde_json::Value;
use time::OffsetDateTime;
use time::macros::format_description;

use super::Job;
use super::prune::prune;
use crate::pve::api::qemu::list::agent_configured;
use crate::pve::api::qemu::start::{power_on, wait_for_agent, write_drive};
use crate::pve::contents::{Archive, SavedDisk};
use crate::pve::drive::{Drive, human};
use crate::pve::state::{Options, Run, State, Vm, Volume};
use crate::pve::task::{INTERRUPTED, Worker};
use crate::pve::vmconfig;

/// How many protected backups of a VM somebody may have who does not administer the storage.
const MOST_PROTECTED: usize = 5;

/// A moment as log lines show it.
fn stamp(at: i64) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    OffsetDateTime::from_unix_timestamp(at).ok().and_then(|t| t.format(&format).ok()).unwrap_or_default()
}

/// The name of an archive.
fn archive_name(vmid: u32, at: i64, format: &str) -> String {
    let moment = stamp(at).replace('-', "_").replace(' ', "-").replace(':', "_");
    format!("vzdump-qemu-{vmid}-{moment}.{format}")
}

/// `00:01:05`
fn duration(seconds: i64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// A file's size as vzdump shows it.
fn file_size(bytes: u64) -> String {
    match (bytes >> 10, bytes >> 20) {
        (kib, _) if kib < 1024 => format!("{kib}KB"),
        (_, mib) if mib < 1024 => format!("{mib}MB"),
        (_, mib) => format!("{}.{:02}GB", mib / 1024, mib % 1024 * 100 / 1024),
    }
}

impl State {
    /// The backups of a VM on a node's storage.
    pub(super) fn backups<'s>(
        &'s self,
        node: &'s str,
        storage: &'s str,
        vmid: u32,
    ) -> impl Iterator<Item = &'s Volume> {
        let mine = move |v: &&Volume| v.content == "backup" && v.vmid == Some(vmid);
        self.volumes.values().filter(move |v| v.node == node && v.storage == storage).filter(mine)
    }
}

/// Backs one VM up; the log tells how it went. The error is the text with which it failed, or
/// [`INTERRUPTED`].
pub(super) async fn back_up(w: &Worker, job: &Job, vmid: u32) -> Result<(), String> {
    let began = w.cluster.clock.seconds();
    let done = attempt(w, job, vmid, began).await;
    let now = w.cluster.clock.seconds();
    match &done {
        Ok(()) => {
            let took = duration(now - began);
            w.log(format!("INFO: Finished Backup of VM {vmid} ({took})")).await;
            w.log(format!("INFO: Backup finished at {}", stamp(now))).await;
        }
        Err(text) => {
            let text = if text == INTERRUPTED { "interrupted by signal" } else { text };
            w.log(format!("ERROR: Backup of VM {vmid} failed - {text}")).await;
            w.log(format!("INFO: Failed at {}", stamp(now))).await;
        }
    }
    done
}

/// Refuses to protect one backup more than somebody may who does not administer the storage.
pub(crate) fn check_protection(s: &State, node: &str, storage: &str, volid: &str) -> Result<(), String> {
    let Some(vmid) = crate::pve::volume_access::owner(volid) else { return Ok(()) };
    let protected = |v: &&Volume| v.archive.as_ref().is_some_and(|a| a.protected);
    let already = s.volume(node, volid).filter(protected).is_some();
    let count = s.backups(node, storage, vmid).filter(protected).count();
    if already || count < MOST_PROTECTED {
        return Ok(());
    }
    Err(format!(
        "The number of protected backups per guest is limited to {MOST_PROTECTED} on storage '{storage}'"
    ))
}

/// Refuses a backup that would be one too many.
fn check_limits(s: &State, w: &Worker, job: &Job, vmid: u32, administers: bool) -> Result<(), String> {
    if job.protected {
        return if administers {
            Ok(())
        } else {
            check_protection(s, &w.node, &job.storage, &next(job, vmid))
        };
    }
    let unprotected = |v: &&Volume| v.archive.as_ref().is_some_and(|a| !a.protected);
    let count = s.backups(&w.node, &job.storage, vmid).filter(unprotected).count();
    match job.keep.as_ref().and_then(super::prune::Keep::limit) {
        Some(limit) if !job.remove && u64::try_from(count).unwrap_or(u64::MAX) >= limit => Err(format!(
            "There is a max backup limit of {limit} enforced by the target storage or the vzdump parameters. Either increase the limit or delete old backups."
        )),
        _ => Ok(()),
    }
}

/// The volume id of a backup that is not there yet.
fn next(job: &Job, vmid: u32) -> String {
    format!("{}:backup/{}", job.storage, archive_name(vmid, 0, job.format))
}

async fn attempt(w: &Worker, job: &Job, vmid: u32, at: i64) -> Result<(), String> {
    let found = w.cluster.read(|s| s.vm_on(&w.node, vmid).map(|vm| vm.run.is_some())).await;
    let running = found.ok_or_else(|| format!("unable to find VM '{vmid}'"))?;
    let storage = format!("/storage/{}", job.storage);
    w.cluster
        .judge(|s, a| {
            let administers = a.may(&w.caller, &storage, "Datastore.Allocate");
            check_limits(s, w, job, vmid, administers)
        })
        .await?;
    w.log(format!("INFO: Starting Backup of VM {vmid} (qemu)")).await;
    w.log(format!("INFO: Backup started at {}", stamp(at))).await;
    w.log(format!("INFO: status = {}", if running { "running" } else { "stopped" })).await;
    let guard = w.lock(vmid).await?;
    w.change("vzdump.lock", |s| {
        let vm = s.vms.get_mut(vmid).ok_or_else(|| format!("unable to find VM '{vmid}'"))?;
        if let Some(lock) = vm.lock() {
            return Err(format!("VM is locked ({lock})"));
        }
        vm.config.insert("lock".into(), "backup".into());
        Ok(())
    })
    .await?;
    drop(guard);
    let done = dump(w, job, vmid, at, running).await;
    let (now, after) = (w.cluster.clock.now(), w.cluster.agent_after());
    w.cluster
        .change("vzdump.unlock", |s| {
            if let Some(vm) = s.vms.get_mut(vmid) {
                if vm.lock() == Some("backup") {
                    vm.config.remove("lock");
                }
                match vm.run.as_ref().is_some_and(|run| run.prelaunch) {
                    true if running => power_on(s, vmid, now, after),
                    true => vm.run = None,
                    false => {}
                }
            }
        })
        .await;
    done
}

/// What goes into the archive, as it is when the backup begins.
struct Picked {
    archive: Archive,
    /// Drive, volume and size of the disks in it.
    disks: Vec<(String, String, u64)>,
    /// What the log says before.
    lines: Vec<String>,
    /// What it says of parts that stay out.
    left_out: Vec<String>,
}

fn pick(s: &State, vm: &Vm) -> Picked {
    let mut lines: Vec<String> =
        vm.config.get("name").map(|name| format!("INFO: VM Name: {name}")).into_iter().collect();
    let mut disks = Vec::new();
    let mut saved: BTreeMap<String, SavedDisk> = BTreeMap::new();
    for (option, drive) in vm.disks() {
        if drive.get("backup") == Some("0") {
            lines.push(format!("INFO: exclude disk '{option}' '{}' (backup=no)", drive.file));
            continue;
        }
        let Some(disk) = s.saved_disk(&vm.node, &drive.file) else { continue };
        let size = drive.get("size").map(|size| format!(" {size}")).unwrap_or_default();
        lines.push(format!("INFO: include disk '{option}' '{}'{size}", drive.file));
        disks.push((option.clone(), drive.file, disk.size));
        saved.insert(option, disk);
    }
    let mut left_out = Vec::new();
    let unused = |k: &String| vmconfig::base(k) == "unused";
    for (_, value) in vm.config.iter().filter(|(k, _)| unused(k)) {
        let file = Drive::parse(value).file;
        left_out.push(format!("INFO: skip unused drive '{file}' (not included into backup)"));
    }
    if !vm.snapshots.is_empty() {
        left_out.push("INFO: snapshots found (not included into backup)".into());
    }
    if !vm.pending.is_empty() {
        left_out.push("INFO: pending configuration changes found (not included into backup)".into());
    }
    let kept = |k: &String| !unused(k) && k != "lock" && k != "parent";
    let config: Options =
        vm.config.iter().filter(|(k, _)| kept(k)).map(|(k, v)| (k.clone(), v.clone())).collect();
    let archive = Archive {
        config,
        firewall: s.firewalls.get(vm.vmid).cloned(),
        disks: saved,
        guest_agent: vm.guest_agent,
        bare_guest: vm.bare_guest,
        ..Archive::default()
    };
    Picked { archive, disks, lines, left_out }
}

async fn dump(w: &Worker, job: &Job, vmid: u32, at: i64, running: bool) -> Result<(), String> {
    let picked = w.cluster.read(|s| s.vms.get(vmid).map(|vm| pick(s, vm))).await;
    let Picked { archive, disks, lines, left_out } = picked.ok_or("the configuration is gone")?;
    let mode = if running { job.mode.as_str() } else { "stop" };
    let mut head = vec![format!("INFO: backup mode: {mode}")];
    head.extend(job.bwlimit.as_ref().map(|limit| format!("INFO: bandwidth limit: {limit} KiB/s")));
    head.push(format!("INFO: ionice priority: {}", job.ionice));
    // Only a snapshot is prepared before its mode is known to work.
    let both = if mode == "snapshot" { [lines, head] } else { [head, lines] };
    for line in both.into_iter().flatten() {
        w.log(line).await;
    }
    before(w, vmid, mode, running).await;
    for line in left_out {
        w.log(line).await;
    }
    // Two backups in one second would have one name; a host would overwrite the first.
    let (name, made_at) = w
        .cluster
        .read(|s| {
            let taken = |at: i64| {
                let volid = format!("{}:backup/{}", job.storage, archive_name(vmid, at, job.format));
                s.volume(&w.node, &volid).is_some()
            };
            let at = (at..).find(|at| !taken(*at)).unwrap_or(at);
            (archive_name(vmid, at, job.format), at)
        })
        .await;
    let volid = format!("{}:backup/{name}", job.storage);
    let path = w.cluster.read(|s| s.storages.get(&job.storage).map(|st| st.path_of(&volid))).await;
    w.log(format!("INFO: creating vzdump archive '{}'", path.unwrap_or_default())).await;
    let done = write(w, job, vmid, mode, running, &disks).await;
    after(w, vmid, mode, running).await;
    done?;
    let total: u64 = disks.iter().map(|(_, _, size)| size).sum();
    // Thin disks, compressed.
    let size = total / 20 + 4096;
    w.log(format!("INFO: archive file size: {}", file_size(size))).await;
    let notes = job.notes.as_deref().map(|template| {
        let guest = archive.config.get("name").cloned().unwrap_or_else(|| format!("VM {vmid}"));
        notes(template, &w.cluster.name, &guest, &w.node, vmid)
    });
    if notes.is_some() {
        w.log("INFO: adding notes to backup").await;
    }
    if job.protected {
        w.log("INFO: marking backup as protected").await;
    }
    let volume = Volume {
        node: w.node.clone(),
        volid: volid.clone(),
        storage: job.storage.clone(),
        vmid: Some(vmid),
        content: "backup".into(),
        format: job.format.into(),
        size,
        ctime: made_at,
        archive: Some(Archive { notes, protected: job.protected, ..archive }),
        ..Volume::default()
    };
    w.cluster
        .change("vzdump.archive", |s| s.volumes.insert(State::volume_key(&w.node, &volid), volume))
        .await;
    retain(w, job, vmid).await;
    Ok(())
}

/// Removes what the retention does not keep.
async fn retain(w: &Worker, job: &Job, vmid: u32) {
    let Some(keep) = job.keep.as_ref().filter(|keep| job.remove && !keep.keeps_all()) else { return };
    w.log(format!("INFO: prune older backups with retention: {}", keep.print())).await;
    let gone = w.cluster.change("vzdump.prune", |s| prune(s, &w.node, &job.storage, vmid, keep)).await;
    for volid in &gone {
        w.log(format!("INFO: removing backup '{volid}'")).await;
    }
    let extra = if gone.is_empty() { "" } else { " not covered by keep-retention policy" };
    w.log(format!("INFO: pruned {} backup(s){extra}", gone.len())).await;
}

/// Notes from their template.
fn notes(template: &str, cluster: &str, guest: &str, node: &str, vmid: u32) -> String {
    let plain = template.replace("\\\\", "\0").replace("\\n", "\n").replace('\0', "\\");
    let vmid = vmid.to_string();
    let known = [("cluster", cluster), ("guestname", guest), ("node", node), ("vmid", &vmid)];
    known.iter().fold(plain, |text, (name, value)| text.replace(&format!("{{{{{name}}}}}"), value))
}

/// Brings the guest into the state the mode wants.
async fn before(w: &Worker, vmid: u32, mode: &str, running: bool) {
    match (mode, running) {
        ("stop", true) => {
            w.log("INFO: stopping virtual guest").await;
            w.cluster
                .change("vzdump.stop", |s| {
                    if let Some(vm) = s.vms.get_mut(vmid) {
                        vm.run = None;
                    }
                })
                .await;
        }
        ("suspend", _) => {
            w.log("INFO: suspending guest").await;
            set_paused(w, vmid, true).await;
        }
        _ => {}
    }
}

/// Lets the guest go on, or its emulator end.
async fn after(w: &Worker, vmid: u32, mode: &str, running: bool) {
    if !running {
        w.log("INFO: stopping kvm after backup task").await;
    } else if mode == "suspend" {
        w.log("INFO: resuming guest").await;
        set_paused(w, vmid, false).await;
    }
}

async fn set_paused(w: &Worker, vmid: u32, paused: bool) {
    w.cluster
        .change("vzdump.pause", |s| {
            if let Some(run) = s.vms.get_mut(vmid).and_then(|vm| vm.run.as_mut()) {
                run.paused = paused;
            }
        })
        .await;
}

/// Starts the emulator of a stopped VM, without letting the guest run.
async fn prelaunch(w: &Worker, vmid: u32) -> Result<(), String> {
    if write_drive(&w.cluster, &w.node, vmid).await? {
        w.log("generating cloud-init ISO").await;
    }
    let since = w.cluster.clock.now();
    w.cluster
        .change("vzdump.prelaunch", |s| {
            let pid = u32::try_from(1000 + s.count("pid", 3) % 4_000_000).unwrap_or(1000);
            if let Some(vm) = s.vms.get_mut(vmid) {
                let run = Run {
                    pid,
                    since,
                    paused: true,
                    agent_device: false,
                    agent_at: None,
                    prelaunch: true,
                    booted_from: None,
                };
                vm.run.get_or_insert(run);
            }
        })
        .await;
    Ok(())
}

/// Freezes and thaws the guest's file systems, if its agent answers.
async fn freeze(w: &Worker, vmid: u32) {
    let now = w.cluster.clock.now();
    let agent = w.cluster.read(|s| {
        let vm = s.vms.get(vmid).filter(|vm| agent_configured(vm))?;
        let run = vm.run.as_ref().filter(|run| !run.paused)?;
        Some(run.agent_device && run.agent_at.is_some_and(|at| at <= now))
    });
    match agent.await {
        Some(true) => {
            w.log("INFO: issuing guest-agent 'fs-freeze' command").await;
            w.log("INFO: issuing guest-agent 'fs-thaw' command").await;
        }
        Some(false) => {
            wait_for_agent(&w.cluster).await;
            w.log("INFO: skipping guest-agent 'fs-freeze', agent configured but not running?").await;
        }
        None => {}
    }
}

/// Writes the archive, in four pieces of work.
async fn write(
    w: &Worker,
    job: &Job,
    vmid: u32,
    mode: &str,
    running: bool,
    disks: &[(String, String, u64)],
) -> Result<(), String> {
    if mode == "stop" {
        w.log("INFO: starting kvm to execute backup task").await;
        prelaunch(w, vmid).await?;
    } else if mode == "snapshot" {
        freeze(w, vmid).await;
    }
    if w.cluster.major >= 9 {
        w.log("INFO: starting backup via QMP command").await;
    }
    let id = w.cluster.change("vzdump.id", State::draw_uuid).await;
    w.log(format!("INFO: started backup task '{id}'")).await;
    if running && mode == "stop" {
        w.log("INFO: resuming VM again after 1 seconds").await;
        let (now, after) = (w.cluster.clock.now(), w.cluster.agent_after());
        w.cluster.change("vzdump.resume", |s| power_on(s, vmid, now, after)).await;
    } else if mode == "snapshot" {
        w.log("INFO: resuming VM again").await;
    }
    let total: u64 = disks.iter().map(|(_, _, size)| size).sum();
    let whole = human(total);
    let full = |s: &State| s.does_not_fit(&w.node, &job.storage);
    for quarter in 0..=4u64 {
        let done = human(total / 4 * quarter);
        let speed = "read: 350.0 MiB/s, write: 120.0 MiB/s";
        w.log(format!("INFO: {:3}% ({done} of {whole}) in {quarter}s, {speed}", quarter * 25)).await;
        if quarter < 4 {
            let worked = w.work(w.cluster.speed().clone_ms / 4).await;
            let no_room = w.cluster.read(full).await;
            let failed = if no_room {
                Some("job failed with err -28 - No space left on device".to_owned())
            } else {
                worked.err()
            };
            if let Some(text) = failed {
                let said = if text == INTERRUPTED { "interrupted by signal" } else { &text };
                w.log(format!("ERROR: {said}")).await;
                w.log("INFO: aborting backup job").await;
                return Err(text);
            }
        }
    }
    w.log(format!("INFO: backup is sparse: {} (90%) total zero data", human(total / 10 * 9))).await;
    w.log(format!("INFO: transferred {whole} in 4 seconds ({}/s)", human(total / 4))).await;
    Ok(())
}

/// A backup as the content list shows it, beside what every volume has.
pub(crate) fn describe(archive: &Archive, row: &mut Value) {
    row["subtype"] = "qemu".into();
    if let Some(line) = archive.notes.as_deref().and_then(|notes| notes.lines().next()) {
        row["notes"] = line.into();
    }
    if archive.protected {
        row["protected"] = 1.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_named_by_vm_and_moment() {
        let at = 1_795_415_359; // recorded: 2026-11-23 06:29:19
        assert_eq!(archive_name(710, at, "vma"), "vzdump-qemu-710-2026_11_23-06_29_19.vma");
        assert_eq!(stamp(at), "2026-11-23 06:29:19");
        assert_eq!((duration(3_725), file_size(300 << 20)), ("01:02:05".into(), "300MB".into()));
        assert_eq!((file_size(5 << 10), file_size(5 << 28)), ("5KB".into(), "1.25GB".into()));
    }

    #[test]
    fn notes_are_filled_in() {
        let made =
            notes("{{guestname}} ({{vmid}})\\nby \\\\ {{node}} of {{cluster}}", "one", "vps", "pve1", 101);
        assert_eq!(made, "vps (101)\nby \\ pve1 of one");
    }
}
