//! Snapshots, backups and rescue disks of the fake.

use super::*;

/// A task about what is kept of a VM, or about a disk more.
#[derive(Clone, Debug)]
pub(super) enum Keep {
    Take(Vmid, String, String),
    RollBack(Vmid, String),
    Drop(Vmid, String),
    BackUp(Vmid, String, String),
    Restore(Vmid, String),
    Delete(Vmid, String),
    Import(Vmid, &'static str, String),
}

impl Keep {
    /// The VM whose lock the worker holds.
    pub(super) fn vmid(&self) -> Vmid {
        match self {
            Self::Take(vmid, ..)
            | Self::RollBack(vmid, _)
            | Self::Drop(vmid, _)
            | Self::BackUp(vmid, ..)
            | Self::Restore(vmid, _)
            | Self::Delete(vmid, _)
            | Self::Import(vmid, ..) => *vmid,
        }
    }

    /// The lock in the configuration that a killed worker leaves.
    fn lock(&self) -> Option<&'static str> {
        Some(match self {
            Self::Take(..) => "snapshot",
            Self::RollBack(..) => "rollback",
            Self::Drop(..) => "snapshot-delete",
            Self::BackUp(..) => "backup",
            Self::Restore(..) => "create",
            Self::Delete(..) | Self::Import(..) => return None,
        })
    }
}

/// What a restore makes of a configuration before anything else.
fn bare() -> BTreeMap<String, String> {
    BTreeMap::from([("memory".to_owned(), "128".to_owned())])
}

/// A cloud-init drive has a fixed name.
fn cloudinit_of(vmid: Vmid) -> String {
    format!("local-lvm:vm-{vmid}-cloudinit")
}

impl FakeHypervisor {
    pub(super) fn keep(
        &self,
        verb: &'static str,
        kind: &'static str,
        vmid: Vmid,
        keep: Keep,
    ) -> Result<Upid, PveError> {
        self.state().begin(verb, vmid, |state| {
            state.permitted(verb, vmid)?;
            state.unlocked(verb, vmid)?;
            Ok((kind, vmid, Effect::Keep(keep)))
        })
    }
}

impl FakeHypervisor {
    /// A backup that somebody else made.
    pub(crate) fn add_backup(&self, vmid: Vmid, notes: &str) {
        self.add_backups_of(vmid, 0, notes);
    }

    /// The same, where it makes several.
    pub(crate) fn add_backups_of(&self, vmid: Vmid, n: u32, notes: &str) {
        let kept = FakeKept { text: notes.to_owned(), ..FakeKept::default() };
        self.state().backups.insert(format!("backup:backup/by-hand-{vmid}-{n}.vma.zst"), (vmid, kept));
    }

    /// Root on the host destroys a VM, whose disk is in use by something else.
    pub(crate) fn root_destroys(&self, vmid: Vmid) {
        let mut state = self.state();
        let number = state.tasks.len() + 1;
        let start = state.start_secs + i64::try_from(number).unwrap_or(0);
        let upid = format!("UPID:fake:{number:08X}:00000001:{start:08X}:qmdestroy:{vmid}:root@pam:");
        let effect = Effect::Destroy(vmid, true);
        let task = FakeTask {
            upid: upid.parse().unwrap(),
            effect,
            fault: Some(Fault::TaskKeepsDisk),
            polls: 1,
            exit: None,
            log: Vec::new(),
        };
        state.tasks.push(task);
        state.finish(number - 1);
    }

    /// Root on the host frees a volume.
    pub(crate) fn free(&self, volume: &str) {
        self.state().left_over.remove(volume);
    }

    /// Volumes that no configuration names.
    pub(crate) fn left_over(&self) -> Vec<String> {
        self.state().left_over.iter().cloned().collect()
    }

    /// From now on the agent's token sees what is in its pool, and nothing else.
    pub(crate) fn see_the_pool_alone(&self) {
        self.state().pool_alone = true;
    }

    /// From now on the datacenter's rules forbid every tag.
    pub(crate) fn forbid_tags(&self) {
        self.state().no_tags = true;
    }

    /// The host's owner names a VM in a backup job.
    pub(crate) fn put_into_a_job(&self, vmid: Vmid) {
        self.state().in_jobs.insert(vmid);
    }

    /// Whether a backup job of the host's owner names it.
    pub(crate) fn is_in_a_job(&self, vmid: Vmid) -> bool {
        self.state().in_jobs.contains(&vmid)
    }

    /// Root on the host takes a lock away.
    pub(crate) fn unlock(&self, vmid: Vmid) {
        self.put_guest(vmid, |guest| _ = guest.config.remove("lock"));
    }

    /// The notes of all backups.
    pub(crate) fn backup_notes(&self) -> Vec<String> {
        self.state().backups.values().map(|(_, kept)| kept.text.clone()).collect()
    }
}

impl State {
    pub(super) fn tasks_of(&mut self, kind: &str, vmid: Vmid, since_secs: i64) -> Vec<(Upid, TaskState)> {
        let wanted = |upid: &Upid| {
            upid.kind() == kind && upid.subject() == vmid.to_string() && upid.started_secs() >= since_secs
        };
        let state = |task: &FakeTask| task.exit.clone().map_or(TaskState::Running, TaskState::Ended);
        self.tasks.iter().rev().filter(|t| wanted(&t.upid)).map(|t| (t.upid.clone(), state(t))).collect()
    }

    pub(super) fn list_snapshots(&mut self, vmid: Vmid) -> Result<Vec<Snapshot>, PveError> {
        let guest = self.present("snapshots", vmid)?;
        let shown = |(name, kept): (&String, &FakeKept)| Snapshot {
            name: name.clone(),
            description: kept.text.clone(),
            taken_secs: kept.at_secs,
        };
        Ok(guest.snapshots.iter().map(shown).collect())
    }

    /// A backup is seen and removed only by whoever may back up the VM that it is of; what may not be seen is left out
    /// without a word.
    pub(super) fn may_back_up(&self, owner: Vmid) -> bool {
        self.guests.get(&owner).is_some_and(|guest| guest.pool.as_deref() == Some("ez"))
    }

    pub(super) fn list_backups(&self, vmid: Vmid) -> Vec<Backup> {
        let of = self.backups.iter().filter(|(_, (owner, _))| *owner == vmid && self.may_back_up(*owner));
        let shown = |(volume, (vmid, kept)): (&String, &(Vmid, FakeKept))| Backup {
            volume: volume.clone(),
            vmid: *vmid,
            notes: kept.text.clone(),
            size: 1 << 30,
            made_secs: kept.at_secs,
        };
        of.map(shown).collect()
    }

    /// What a worker leaves that was killed half way: a restore has cleared the VM and made its new volumes.
    pub(super) fn half_done(&mut self, keep: &Keep) {
        if let Keep::Restore(vmid, _) = keep {
            self.failed(keep);
            self.left_over.insert(cloudinit_of(*vmid));
        } else {
            self.left_behind(keep);
        }
    }

    /// What a failed worker leaves: a restore has cleared the VM; a rollback has stopped it and keeps its lock, as
    /// does the removal of a snapshot.
    pub(super) fn failed(&mut self, keep: &Keep) {
        let Some(guest) = self.guests.get_mut(&keep.vmid()) else { return };
        match keep {
            Keep::Restore(..) => {
                guest.config = bare();
                "half of a backup".clone_into(&mut guest.disk);
            }
            Keep::RollBack(..) | Keep::Drop(..) => self.left_behind(keep),
            _ => {}
        }
    }

    /// What a killed worker leaves.
    pub(super) fn left_behind(&mut self, keep: &Keep) {
        if let (Some(lock), Some(guest)) = (keep.lock(), self.guests.get_mut(&keep.vmid())) {
            guest.config.insert("lock".into(), lock.into());
            guest.running &= !matches!(keep, Keep::RollBack(..));
        }
    }

    pub(super) fn apply_keep(&mut self, keep: &Keep) -> Result<(), String> {
        let gone = |e: PveError| e.text();
        let now = self.start_secs + i64::try_from(self.tasks.len()).unwrap_or(0);
        let vmid = keep.vmid();
        match keep {
            Keep::Take(_, name, text) => {
                let guest = self.unlocked("snapshot", vmid).map_err(gone)?;
                if guest.snapshots.contains_key(name) {
                    return Err(format!("snapshot name '{name}' already used"));
                }
                let (config, disk) = (guest.config.clone(), guest.disk.clone());
                let kept = FakeKept { text: text.clone(), config, disk, at_secs: now };
                guest.snapshots.insert(name.clone(), kept);
            }
            Keep::RollBack(_, name) => {
                let guest = self.unlocked("rollback", vmid).map_err(gone)?;
                let Some(kept) = guest.snapshots.get(name).cloned() else {
                    return Err(format!("snapshot '{name}' does not exist"));
                };
                (guest.config, guest.disk, guest.running) = (kept.config, kept.disk, false);
            }
            Keep::Drop(_, name) => {
                let guest = self.unlocked("delsnapshot", vmid).map_err(gone)?;
                if guest.snapshots.remove(name).is_none() {
                    return Err(format!("snapshot '{name}' does not exist"));
                }
            }
            Keep::BackUp(_, storage, notes) => {
                let guest = self.unlocked("backup", vmid).map_err(gone)?;
                let (config, disk) = (guest.config.clone(), guest.disk.clone());
                let kept = FakeKept { text: notes.clone(), config, disk, at_secs: now };
                let number = self.backups.len() + 1;
                let volume = format!("{storage}:backup/vzdump-qemu-{vmid}-{number}.vma.zst");
                self.backups.insert(volume, (vmid, kept));
            }
            Keep::Restore(_, volume) => {
                let Some((_, kept)) = self.backups.get(volume).cloned() else {
                    return Err(format!("volume '{volume}' does not exist"));
                };
                let left = self.left_over.contains(&cloudinit_of(vmid));
                let guest = self.unlocked("restore", vmid).map_err(gone)?;
                if guest.running {
                    return Err(format!("unable to restore VM {vmid} - VM is running"));
                }
                if left {
                    guest.config = bare();
                    let name = format!("vm-{vmid}-cloudinit");
                    return Err(format!(
                        "lvcreate 'vg/{name}' error:   Logical Volume \"{name}\" already exists in volume group \"vg\""
                    ));
                }
                (guest.config, guest.disk) = (kept.config, kept.disk);
                guest.snapshots.clear();
            }
            Keep::Delete(_, volume) => {
                if self.backups.remove(volume).is_none() {
                    return Ok(());
                }
            }
            Keep::Import(_, drive, volume) => {
                let guest = self.unlocked("import", vmid).map_err(gone)?;
                let disk = format!("local-lvm:vm-{vmid}-disk-9,size=3G");
                if guest.config.insert((*drive).to_owned(), disk).is_some() {
                    return Err(format!("{drive} is there already, {volume} was not imported"));
                }
            }
        }
        let what = match keep {
            Keep::Take(..) => "snapshot",
            Keep::RollBack(..) => "roll back",
            Keep::Drop(..) => "drop snapshot",
            Keep::BackUp(..) => "backup",
            Keep::Restore(..) => "restore",
            Keep::Delete(..) => "remove backup",
            Keep::Import(..) => "import",
        };
        self.happened(what, vmid);
        Ok(())
    }
}
