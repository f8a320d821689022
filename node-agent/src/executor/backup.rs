//! Backups: made, restored, removed, and the oldest ones given up. A backup says in its notes which order
//! made it; by that id it is known here and at the control plane, never by its file name. Backups of the
//! host's owner carry no such note and are never touched.

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use ez_protocol::{
    ProvisioningOrderId,
    message::{BackupFact, Backups},
    order::MAX_BACKUPS,
};
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::{
    configure,
    context::Cx,
    ensure,
    fault::{self, Class, Trouble, of_task},
    limits::Load,
    power::{NOTE_POWER, NotePower, Start, Stop},
    room,
    saga::{Act, Look, Step},
    task::{self, Seen},
};
use crate::{
    journal::StepRow,
    pve::{Backup, ConfigChange, ConfigRead, GuestConfig, TaskExit, Vmid, WaitError, wait_task},
};

/// First word of a backup's notes that makes it one of ours.
const MARKER: &str = "ez-backup:v1";
/// How long a guest may take to shut down before its disk is replaced: what is on it is given up anyway.
const RESTORE_GRACE_SECS: u32 = 30;

/// Makes one and gives up the oldest beyond `keep`.
pub(super) fn create(keep: u32) -> Vec<Box<dyn Step>> {
    vec![Box::new(Make), Box::new(Prune { keep })]
}

/// Restores one. The configuration comes from the backup too, so everything that was ordered since is set
/// again.
pub(super) fn restore(backup: ProvisioningOrderId) -> Vec<Box<dyn Step>> {
    let mut steps: Vec<Box<dyn Step>> = vec![
        Box::new(Find { backup }),
        Box::new(NotePower),
        Box::new(Stop { grace_secs: RESTORE_GRACE_SECS }),
        Box::new(Restore { backup }),
    ];
    steps.extend(ensure::settle());
    steps.push(Box::new(Start::AsBefore));
    steps
}

/// Removes one.
pub(super) fn delete(backup: ProvisioningOrderId) -> Vec<Box<dyn Step>> {
    vec![Box::new(Delete { backup })]
}

/// The storage for backups.
fn storage(cx: &Cx) -> Result<&str, Trouble> {
    let none =
        || Trouble::fail(Class::Policy, "this host has no storage for backups (policy: backups.storage)");
    cx.engine().rules.policy.backup_storage.as_deref().ok_or_else(none)
}

fn notes(cx: &Cx) -> String {
    format!("{MARKER} {} {} {}", cx.order().install, cx.order().instance.uuid, cx.id())
}

/// Which order made a backup, if it is one of this instance.
fn made_by(cx: &Cx, backup: &Backup) -> Option<ProvisioningOrderId> {
    let mut words = backup.notes.split_whitespace();
    let ours = words.next()? == MARKER
        && words.next()? == cx.order().install.to_string()
        && words.next()? == cx.order().instance.uuid.to_string();
    words.next()?.parse().ok().filter(|_| ours)
}

/// Our backups of this server with the orders that made them, newest first.
async fn ours(cx: &Cx) -> Result<Vec<(ProvisioningOrderId, Backup)>, Trouble> {
    let all = cx.pve().backups(storage(cx)?, cx.vmid()).await?;
    let mut ours: Vec<_> = all.into_iter().filter_map(|b| Some((made_by(cx, &b)?, b))).collect();
    ours.sort_by_key(|(id, backup)| Reverse((backup.made_secs, *id)));
    Ok(ours)
}

async fn find(cx: &Cx, id: ProvisioningOrderId) -> Result<Option<Backup>, Trouble> {
    Ok(ours(cx).await?.into_iter().find(|(made_by, _)| *made_by == id).map(|(_, backup)| backup))
}

/// All of ours, for the control plane, as far as it keeps any: an event has to fit into a frame, or nothing behind it
/// would ever be told. Nothing where the host does not say.
pub(super) async fn shown(cx: &Cx) -> Option<Backups> {
    let fact = |(id, backup): (ProvisioningOrderId, Backup)| BackupFact {
        order_id: id.to_string(),
        made_at_ms: backup.made_secs * 1_000,
        bytes: backup.size,
    };
    let most = usize::try_from(MAX_BACKUPS).unwrap_or(usize::MAX);
    Some(Backups { list: ours(cx).await.ok()?.into_iter().take(most).map(fact).collect() })
}

fn unknown(id: ProvisioningOrderId) -> Trouble {
    Trouble::fail(Class::User, format!("backup {id} is not on this host (any more)"))
}

struct Make;

impl Step for Make {
    fn name(&self) -> &'static str {
        "backup"
    }

    fn load(&self, _cx: &Cx) -> Load {
        // Proxmox makes one backup per host at a time.
        Load::Backup
    }

    fn patience(&self, cx: &Cx) -> Duration {
        cx.pace().disk_copy
    }

    fn look<'a>(&'a self, cx: &'a Cx, row: Option<&'a StepRow>) -> BoxFuture<'a, Result<Look, Trouble>> {
        Box::pin(async move {
            let config = cx.present().await?;
            storage(cx)?;
            let seen = task::own(cx, row, "vzdump").await?;
            if let Seen::Running(upid) = seen {
                return Ok(Look::Adopt(upid));
            }
            if let Some(backup) = find(cx, cx.id()).await? {
                return Ok(Look::Done(json!({ "backup": cx.id(), "bytes": backup.size })));
            }
            let over = matches!(seen, Seen::Nothing | Seen::Ended(..));
            if over && config.lock() == Some("backup") {
                return Err(task::left_locked(cx, self.name(), "backup", ""));
            }
            Ok(Look::Todo)
        })
    }

    fn act<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, Result<Act, Trouble>> {
        Box::pin(async move {
            let called = cx.pve().back_up(cx.vmid(), storage(cx)?, notes(cx)).await;
            called.map(Act::Task).map_err(|error| cx.refused(error))
        })
    }

    fn judge(&self, exit: &str) -> Trouble {
        if exit.contains("vzdump.lock") {
            return Trouble::Look(format!("{}: another backup runs on this host", self.name()));
        }
        if exit.contains("Permission check failed") {
            return Trouble::fail(Class::Policy, format!("{}: {exit}", self.name()));
        }
        of_task(self.name(), exit)
    }
}

/// Removes the oldest of our backups until `keep` are left.
pub(super) struct Prune {
    /// How many may be left; 0 for a server that goes.
    pub(super) keep: u32,
}

/// So many backups a new one takes the place of: their number may fall, by one with each. An order that says "keep one" does
/// not throw all the others away; whoever wants that has to delete them, which the host's policy counts.
const MOST_PRUNED: usize = 2;

impl Prune {
    async fn surplus(&self, cx: &Cx) -> Result<Vec<Backup>, Trouble> {
        let keep = usize::try_from(self.keep).unwrap_or(usize::MAX);
        let most = if self.keep == 0 { usize::MAX } else { MOST_PRUNED };
        // The oldest come last.
        let surplus = ours(cx).await?.into_iter().skip(keep).map(|(_, backup)| backup);
        Ok(surplus.rev().take(most).collect())
    }
}

/// Removes a backup and waits for it.
async fn remove(cx: &Cx, backup: &Backup) -> Result<(), Trouble> {
    let Some(upid) = cx.pve().delete_volume(&backup.volume).await.map_err(|e| cx.refused(e))? else {
        return Ok(());
    };
    match wait_task(cx.pve(), &upid, cx.pace().task, &mut |_| {}).await {
        Ok(exit) => match exit.error() {
            None => Ok(()),
            Some(error) => Err(of_task("remove_backup", error)),
        },
        Err(error @ (WaitError::Lost(_) | WaitError::NoAnswer { .. })) => {
            Err(Trouble::Look(error.to_string()))
        }
        Err(error @ WaitError::StillRunning { .. }) => Err(task::still_running(cx, &upid, &error)),
    }
}

impl Step for Prune {
    fn name(&self) -> &'static str {
        "prune_backups"
    }

    fn look<'a>(&'a self, cx: &'a Cx, _row: Option<&'a StepRow>) -> BoxFuture<'a, Result<Look, Trouble>> {
        Box::pin(async move {
            if cx.engine().rules.policy.backup_storage.is_none() {
                return Ok(Look::Done(json!({ "storage": null })));
            }
            Ok(if self.surplus(cx).await?.is_empty() {
                Look::Done(json!({ "keep": self.keep }))
            } else {
                Look::Todo
            })
        })
    }

    fn act<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, Result<Act, Trouble>> {
        Box::pin(async move {
            let surplus = self.surplus(cx).await?;
            for backup in &surplus {
                remove(cx, backup).await?;
            }
            Ok(Act::Done(json!({ "keep": self.keep, "removed": surplus.len() })))
        })
    }
}

struct Restore {
    backup: ProvisioningOrderId,
}

impl Step for Restore {
    fn name(&self) -> &'static str {
        "restore"
    }

    fn load(&self, _cx: &Cx) -> Load {
        Load::Restore
    }

    fn patience(&self, cx: &Cx) -> Duration {
        cx.pace().disk_copy
    }

    fn intent(&self, _cx: &Cx) -> Value {
        json!({ "backup": self.backup })
    }

    fn look<'a>(&'a self, cx: &'a Cx, row: Option<&'a StepRow>) -> BoxFuture<'a, Result<Look, Trouble>> {
        Box::pin(async move {
            let seen = task::own(cx, row, "qmrestore").await?;
            if let Seen::Running(upid) = seen {
                return Ok(Look::Adopt(upid));
            }
            // This order has seen its marker when it stopped it; one that root resumed knows no more of its own
            // restore than that.
            let config = ours_or_bare(cx, true).await?;
            if row.is_some() && config.lock() == Some("create") {
                return Err(task::left_locked(cx, self.name(), "create", ""));
            }
            if let Seen::Ended(_, TaskExit::Failed(exit)) = &seen
                && let Some(volume) = in_the_way(cx.vmid(), &disk_storage(cx, &config), exit)
            {
                // Whoever comes next, root or another order, has to see whose it is.
                if is_bare(&config) {
                    write_marker(cx).await?;
                }
                return Err(blocked(cx, &volume));
            }
            match seen {
                // The server has not been started since: restoring once more comes to the same.
                Seen::Ended(_, TaskExit::Killed) => Ok(Look::Todo),
                seen => task::look_once_more(seen, |exit| of_task(self.name(), exit)),
            }
        })
    }

    fn act<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, Result<Act, Trouble>> {
        Box::pin(async move {
            let backup = find(cx, self.backup).await?.ok_or_else(|| unknown(self.backup))?;
            let config = ours_or_bare(cx, true).await?;
            let storage = disk_storage(cx, &config);
            let called = cx.pve().restore(cx.vmid(), &backup.volume, &storage).await;
            called.map(Act::Task).map_err(|error| cx.refused(error))
        })
    }

    fn judge(&self, exit: &str) -> Trouble {
        if exit.contains("-cloudinit") && exit.contains("already exists") {
            // What exactly is in the way, and that nothing more can be done about it, the look says.
            return Trouble::Look(format!("{}: {exit}", self.name()));
        }
        of_task(self.name(), exit)
    }
}

/// Where disks go to: to where the server's own is.
fn disk_storage(cx: &Cx, config: &GuestConfig) -> String {
    let own = config.boot_disk().and_then(|disk| Some(config.get(&disk)?.split(':').next()?.to_owned()));
    own.unwrap_or_else(|| cx.engine().rules.storage.clone())
}

/// What stands in the way of a restore by the text that it ended with. One whose worker was killed half way leaves its
/// new cloud-init volume, whose name is fixed, so that every restore after it fails and leaves the server without a disk
/// (qemu-server, `restore_vma_archive`). Storages on files say the volume's path, others its name on them.
fn in_the_way(vmid: Vmid, storage: &str, exit: &str) -> Option<String> {
    let fixed = format!("vm-{vmid}-cloudinit");
    if !exit.contains("already exists") {
        return None;
    }
    let words = exit.split(|c: char| c.is_whitespace() || matches!(c, '\'' | '"' | ':' | ','));
    let path = words.into_iter().find(|word| {
        word.rsplit('/').next().and_then(|name| name.split('.').next()) == Some(fixed.as_str())
    })?;
    let name = path.rsplit('/').next()?;
    Some(match path.contains(&format!("/images/{vmid}/")) {
        true => format!("{storage}:{vmid}/{name}"),
        false => format!("{storage}:{name}"),
    })
}

/// Neither seeing such a volume nor removing it is in our rights: both take more than `Datastore.AllocateSpace` on the
/// whole storage, and with it the agent could remove anybody's.
fn blocked(cx: &Cx, volume: &str) -> Trouble {
    let what = format!(
        "restore: an earlier restore of VM {} was killed half way and left its cloud-init volume {volume}, which no \
         configuration names and which stands in the way of the next one; only root can remove it",
        cx.vmid()
    );
    fault::stuck(cx.id(), what, format_args!("`pvesm free {volume}`"))
}

/// The configuration of our VM. A restore begins by clearing it, marker included, down to `memory: 128`
/// (qemu-server, `restore_vma_archive`); `cleared` says that ours may have been.
async fn ours_or_bare(cx: &Cx, cleared: bool) -> Result<GuestConfig, Trouble> {
    if cleared
        && let ConfigRead::Present(config) = cx.pve().guest_config(cx.vmid()).await?
        && is_bare(&config)
    {
        return Ok(config);
    }
    cx.present().await
}

fn is_bare(config: &GuestConfig) -> bool {
    config.values.keys().all(|key| matches!(key.as_str(), "memory" | "lock"))
}

async fn write_marker(cx: &Cx) -> Result<(), Trouble> {
    let set = BTreeMap::from([("description".to_owned(), cx.marker().to_string())]);
    configure::send(cx, ConfigChange { set, ..ConfigChange::default() }).await
}

/// Writes the marker into a VM that a failed restore of ours has cleared: without it nobody could tell whose
/// it is, and the next restore would keep its hands off.
pub(super) struct Remark;

impl Step for Remark {
    fn name(&self) -> &'static str {
        "remark"
    }

    fn look<'a>(&'a self, cx: &'a Cx, _row: Option<&'a StepRow>) -> BoxFuture<'a, Result<Look, Trouble>> {
        Box::pin(async move {
            let cleared = matches!(
                cx.pve().guest_config(cx.vmid()).await?, ConfigRead::Present(config) if is_bare(&config)
            );
            Ok(if cleared { Look::Todo } else { Look::Done(json!({})) })
        })
    }

    fn act<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, Result<Act, Trouble>> {
        Box::pin(async move {
            write_marker(cx).await?;
            Ok(Act::Done(json!({})))
        })
    }
}

/// Whether a restore of this order has touched the VM, of which nothing is known but that it is not whole any more. One
/// that Proxmox refused, or whose backup was gone, left no task; the journal knows only of the last one that was called.
pub(super) async fn restore_began(cx: &Cx, config: &GuestConfig) -> Result<bool, Trouble> {
    if config.boot_disk().is_none() || config.lock().is_some() {
        return Ok(true);
    }
    let steps = cx.journal().steps(cx.id()).await?;
    let Some(noted) = steps.iter().find(|row| row.name == NOTE_POWER) else { return Ok(true) };
    for (upid, _) in cx.pve().find_tasks("qmrestore", cx.vmid(), noted.at.as_secs()).await? {
        if !cx.journal().is_task_of_another(&upid, cx.id()).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// How much room a backup takes when it is unpacked, by what can be known before: about twice its size, and never more
/// than the server's disk. What the old disk takes up is not counted as free, as it goes only when all is lost.
fn unpacked(cx: &Cx, backup: &Backup) -> u64 {
    let disk = cx.applied().map_or(u64::MAX, |spec| u64::from(spec.disk_gib) << 30);
    backup.size.saturating_mul(2).min(disk)
}

/// Looks whether a backup can be restored, and has room, before the server is stopped for it.
struct Find {
    backup: ProvisioningOrderId,
}

impl Step for Find {
    fn name(&self) -> &'static str {
        "find_backup"
    }

    fn load(&self, _cx: &Cx) -> Load {
        Load::None
    }

    fn look<'a>(&'a self, cx: &'a Cx, _row: Option<&'a StepRow>) -> BoxFuture<'a, Result<Look, Trouble>> {
        Box::pin(async move {
            let found = find(cx, self.backup).await?.ok_or_else(|| unknown(self.backup))?;
            let config = cx.own_config().await?.unwrap_or_default();
            let needed = unpacked(cx, &found);
            room::look(cx, &disk_storage(cx, &config), needed, "restoring the backup").await?;
            Ok(Look::Done(json!({ "volume": found.volume })))
        })
    }

    fn act<'a>(&'a self, _cx: &'a Cx) -> BoxFuture<'a, Result<Act, Trouble>> {
        // Looking is all there is to do.
        Box::pin(async { Ok(Act::Done(json!({}))) })
    }
}

/// Looks, before a server is destroyed, whether its backups can be listed: without the server nobody would
/// know of backups that were not removed, and a purge that is half done is no purge.
pub(super) struct FindAll;

impl Step for FindAll {
    fn name(&self) -> &'static str {
        "find_backups"
    }

    fn load(&self, _cx: &Cx) -> Load {
        Load::None
    }

    fn look<'a>(&'a self, cx: &'a Cx, _row: Option<&'a StepRow>) -> BoxFuture<'a, Result<Look, Trouble>> {
        Box::pin(async move {
            let Some(storage) = cx.engine().rules.policy.backup_storage.as_deref() else {
                return Ok(Look::Done(json!({ "storage": null })));
            };
            match ours(cx).await {
                Ok(all) => Ok(Look::Done(json!({ "storage": storage, "backups": all.len() }))),
                Err(Trouble::Fail(class, why)) => Err(Trouble::fail(
                    class,
                    format!(
                        "the backups of VM {} on storage {storage} cannot be listed, and without them nothing is \
                         destroyed: {why}. Bring the storage back; if its backups shall stay where they are, take \
                         `backups.storage` out of the policy",
                        cx.vmid()
                    ),
                )),
                Err(trouble) => Err(trouble),
            }
        })
    }

    fn act<'a>(&'a self, _cx: &'a Cx) -> BoxFuture<'a, Result<Act, Trouble>> {
        // Looking is all there is to do.
        Box::pin(async { Ok(Act::Done(json!({}))) })
    }
}

struct Delete {
    backup: ProvisioningOrderId,
}

impl Step for Delete {
    fn name(&self) -> &'static str {
        "remove_backup"
    }

    fn look<'a>(&'a self, cx: &'a Cx, row: Option<&'a StepRow>) -> BoxFuture<'a, Result<Look, Trouble>> {
        Box::pin(async move {
            match find(cx, self.backup).await? {
                Some(_) => Ok(Look::Todo),
                None if row.is_some() => Ok(Look::Done(json!({ "backup": self.backup }))),
                None => Err(unknown(self.backup)),
            }
        })
    }

    fn act<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, Result<Act, Trouble>> {
        Box::pin(async move {
            if let Some(backup) = find(cx, self.backup).await? {
                remove(cx, &backup).await?;
            }
            Ok(Act::Done(json!({ "backup": self.backup })))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_way_of_a_restore_is_named_as_root_frees_it() {
        // The texts are those of pve-storage for LVM, directories, ZFS and Ceph.
        for (exit, volume) in [
            (
                "lvcreate 'pve/vm-101-cloudinit' error:   Logical Volume \"vm-101-cloudinit\" already exists in volume \
                 group \"pve\"",
                "store:vm-101-cloudinit",
            ),
            (
                "disk image '/var/lib/vz/images/101/vm-101-cloudinit.qcow2' already exists",
                "store:101/vm-101-cloudinit.qcow2",
            ),
            (
                "zfs error: cannot create 'rpool/data/vm-101-cloudinit': dataset already exists",
                "store:vm-101-cloudinit",
            ),
            (
                "rbd create 'vm-101-cloudinit' error: rbd image vm-101-cloudinit already exists",
                "store:vm-101-cloudinit",
            ),
        ] {
            assert_eq!(in_the_way(101, "store", exit).as_deref(), Some(volume), "{exit}");
        }
        for other in [
            "disk image '/var/lib/vz/images/102/vm-102-cloudinit.qcow2' already exists",
            "disk image '/var/lib/vz/images/101/vm-101-disk-0.qcow2' already exists",
            "volume 'store:vm-101-cloudinit' does not exist",
            "no space left on device",
        ] {
            assert_eq!(in_the_way(101, "store", other), None, "{other}");
        }
    }
}
