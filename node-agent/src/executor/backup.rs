//! Backups: made, restored, removed, and the oldest ones given up. A backup says in its notes which order
//! made it; by that id it is known here and at the control plane, never by its file name. Backups of the
//! host's owner carry no such note and are never touched.

use std::{cmp::Reverse, collections::BTreeMap};

use ez_protocol::{
    ProvisioningOrderId,
    message::{BackupFact, Backups},
};
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::{
    configure,
    context::Cx,
    ensure,
    fault::{Class, Trouble, of_task},
    limits::Load,
    power::{NotePower, Start, Stop},
    saga::{Act, Look, Step},
    task::{self, Seen},
};
use crate::{
    journal::StepRow,
    pve::{Backup, ConfigChange, ConfigRead, GuestConfig, TaskExit, WaitError, wait_task},
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

/// All of ours, for the control plane; nothing where the host does not say.
pub(super) async fn shown(cx: &Cx) -> Option<Backups> {
    let fact = |(id, backup): (ProvisioningOrderId, Backup)| BackupFact {
        order_id: id.to_string(),
        made_at_ms: backup.made_secs * 1_000,
        bytes: backup.size,
    };
    Some(Backups { list: ours(cx).await.ok()?.into_iter().map(fact).collect() })
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
    /// How many may be left; 0 for a server that is gone.
    pub(super) keep: u32,
}

impl Prune {
    async fn surplus(&self, cx: &Cx) -> Result<Vec<Backup>, Trouble> {
        let keep = usize::try_from(self.keep).unwrap_or(usize::MAX);
        Ok(ours(cx).await?.into_iter().skip(keep).map(|(_, backup)| backup).collect())
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
        Err(error @ WaitError::StillRunning { .. }) => Err(Trouble::Stuck(error.to_string())),
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
        Load::Heavy
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
            let config = ours_or_bare(cx, row.is_some()).await?;
            if row.is_some() && config.lock() == Some("create") {
                return Err(task::left_locked(cx, self.name(), "create", ""));
            }
            match seen {
                // The server has not been started since: restoring once more comes to the same.
                Seen::Ended(_, TaskExit::Killed) => Ok(Look::Todo),
                seen => task::look(seen, |exit| self.judge(exit)),
            }
        })
    }

    fn act<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, Result<Act, Trouble>> {
        Box::pin(async move {
            let backup = find(cx, self.backup).await?.ok_or_else(|| unknown(self.backup))?;
            let config = ours_or_bare(cx, true).await?;
            // Disks go to where the server's own is.
            let own =
                config.boot_disk().and_then(|disk| Some(config.get(&disk)?.split(':').next()?.to_owned()));
            let storage = own.unwrap_or_else(|| cx.engine().rules.storage.clone());
            let called = cx.pve().restore(cx.vmid(), &backup.volume, &storage).await;
            called.map(Act::Task).map_err(|error| cx.refused(error))
        })
    }
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
            let set = BTreeMap::from([("description".to_owned(), cx.marker().to_string())]);
            let change = ConfigChange { set, ..ConfigChange::default() };
            configure::send(cx, change).await?;
            Ok(Act::Done(json!({})))
        })
    }
}

/// Looks whether a backup can be restored, before the server is stopped for it.
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
            Ok(Look::Done(json!({ "volume": found.volume })))
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
