//! The fake's verbs.

use super::{keep::Keep, *};

/// An answer that is ready at once.
fn ready<'a, T: Send + 'a>(result: Result<T, PveError>) -> Answer<'a, T> {
    std::future::ready(result).boxed()
}

impl FakeHypervisor {
    /// A call that only reads.
    fn look<T>(
        &self,
        verb: &'static str,
        read: impl FnOnce(&mut State) -> Result<T, PveError>,
    ) -> Result<T, PveError> {
        let mut state = self.state();
        match state.enter(verb, Kind::Look) {
            Some(Fault::Refused(status, message) | Fault::RefusedLate(status, message)) => {
                Err(refused(verb, status, message))
            }
            Some(Fault::Unreachable) => Err(unreachable_host(verb)),
            Some(_) => Err(PveError::OutcomeUnknown { call: verb.into(), reason: "timed out".into() }),
            None => read(&mut state),
        }
    }

    fn power(&self, verb: &'static str, kind: &'static str, vmid: Vmid, on: bool) -> Result<Upid, PveError> {
        self.state().begin(verb, vmid, |state| {
            state.permitted(verb, vmid)?;
            let error = on.then_some("already running");
            Ok((kind, vmid, Effect::Power(vmid, on, error)))
        })
    }

    fn restart(&self, verb: &'static str, kind: &'static str, vmid: Vmid) -> Result<Upid, PveError> {
        self.state().begin(verb, vmid, |state| {
            state.permitted(verb, vmid)?;
            if !state.present(verb, vmid)?.running {
                return Err(refused(verb, 500, format!("VM {vmid} not running")));
            }
            Ok((kind, vmid, Effect::Restart(verb, vmid)))
        })
    }
}

impl Hypervisor for FakeHypervisor {
    fn version(&self) -> Answer<'_, Version> {
        ready(self.look("version", |_| Version::parse("9.2.11")))
    }
    fn node_status(&self) -> Answer<'_, NodeStatus> {
        ready(self.look("node_status", |_| {
            Ok(NodeStatus {
                uptime_secs: 1000,
                cpu: 0.1,
                cpus: 16,
                memory_total: 64 << 30,
                memory_used: 4 << 30,
                kernel: "6.14.0-pve".into(),
                pve_version: "pve-manager/9.2.11/fake".into(),
            })
        }))
    }
    fn nodes(&self) -> Answer<'_, Vec<ClusterNode>> {
        let node = ClusterNode { name: "fake".into(), online: true, fingerprint: None };
        ready(self.look("nodes", |_| Ok(vec![node])))
    }
    fn list_guests(&self) -> Answer<'_, Vec<GuestSummary>> {
        ready(self.look("list_guests", |state| {
            let guest = |(vmid, guest): (&Vmid, &FakeGuest)| {
                let config = GuestConfig { values: guest.config.clone(), digest: String::new() };
                GuestSummary {
                    vmid: *vmid,
                    name: config.name().unwrap_or("").to_owned(),
                    power: if guest.running { Power::Running } else { Power::Stopped },
                    template: config.is_template(),
                    lock: config.lock().map(str::to_owned),
                    cpu: 0.0,
                    cpus: config.get("cores").and_then(|c| c.parse().ok()).unwrap_or(1),
                    memory_used: 0,
                    memory_max: config.memory_mib().unwrap_or(512) << 20,
                    disk_max: config.disk_bytes("scsi0").unwrap_or(0),
                    uptime_secs: u64::from(guest.running),
                    net_in: 0,
                    net_out: 0,
                    tags: config.tags().into_iter().collect(),
                }
            };
            Ok(state.guests.iter().map(guest).collect())
        }))
    }
    fn loads(&self) -> Answer<'_, Loads> {
        ready(self.look("loads", |state| {
            let running = state.guests.iter().filter(|(_, guest)| guest.running);
            let guests =
                running.map(|(vmid, _)| GuestLoad { vmid: *vmid, uptime_secs: 1, ..GuestLoad::default() });
            Ok(Loads { host: Some((0.1, 4 << 30)), guests: guests.collect() })
        }))
    }
    fn thin_pools(&self) -> Answer<'_, Vec<ThinPool>> {
        ready(self.look("thin_pools", |_| {
            let size = 1_000 << 30;
            Ok(vec![ThinPool {
                name: "pve/data".into(),
                size,
                used: size / 10,
                metadata_size: 1 << 30,
                metadata_used: 1 << 27,
            }])
        }))
    }
    fn guest_config(&self, vmid: Vmid) -> Answer<'_, ConfigRead> {
        ready(self.look("guest_config", |state| {
            let seen = match state.guests.get(&vmid) {
                None if state.pool_alone => ConfigRead::Forbidden,
                None => ConfigRead::Absent,
                Some(guest) if guest.pool.as_deref() == Some(OUT_OF_SIGHT) => ConfigRead::Forbidden,
                Some(guest) => {
                    let digest = format!("{:040}", guest.version);
                    ConfigRead::Present(GuestConfig { values: guest.config.clone(), digest })
                }
            };
            state.looked_at(vmid);
            Ok(seen)
        }))
    }
    fn guest_status(&self, vmid: Vmid) -> Answer<'_, GuestStatus> {
        ready(self.look("guest_status", |state| {
            let guest = state.present("guest_status", vmid)?;
            Ok(GuestStatus {
                power: if guest.running { Power::Running } else { Power::Stopped },
                qmp: String::from(if guest.running { "running" } else { "stopped" }),
                lock: guest.config.get("lock").cloned(),
                uptime_secs: u64::from(guest.running),
            })
        }))
    }
    fn vmid_taken(&self, vmid: Vmid) -> Answer<'_, bool> {
        ready(self.look("vmid_taken", |state| Ok(state.guests.contains_key(&vmid))))
    }
    fn clone_template(&self, request: CloneRequest) -> Answer<'_, Upid> {
        let (template, newid) = (request.template, request.newid);
        ready(self.state().begin("clone_template", newid, |state| {
            if !state.guests.contains_key(&template) {
                let text = format!("unable to find configuration file for VM {template} on node 'fake'");
                return Err(refused("clone", 500, text));
            }
            if state.guests.contains_key(&newid) {
                let text = format!("unable to create VM {newid}: config file already exists");
                return Err(refused("clone", 500, text));
            }
            let half_made = [("lock", "clone"), ("description", " qmclone temporary file")];
            let config = half_made.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            state.guests.insert(newid, FakeGuest { config, ..FakeGuest::default() });
            Ok(("qmclone", template, Effect::Clone(request)))
        }))
    }
    fn set_config(&self, vmid: Vmid, change: ConfigChange) -> Answer<'_, ()> {
        ready(self.state().now("set_config", vmid, |state| {
            state.permitted("set_config", vmid)?;
            if let Some(tags) = change.set.get("tags").filter(|_| state.no_tags) {
                let text = format!("Permission check failed (/, Sys.Modify for modifying tag '{tags}')");
                return Err(refused("set_config", 403, text));
            }
            let guest = state.unlocked("set_config", vmid)?;
            if change.digest.is_some_and(|d| d != format!("{:040}", guest.version)) {
                return Err(refused("set_config", 500, "checksum mismatch (file change by other user?)"));
            }
            let before = guest.config.clone();
            guest.config.extend(change.set);
            guest.config.retain(|key, _| !change.delete.contains(key));
            guest.version += 1;
            if guest.config != before {
                state.happened("config", vmid);
            }
            Ok(())
        }))
    }
    fn resize(&self, vmid: Vmid, disk: &str, gib: u32) -> Answer<'_, Option<Upid>> {
        let disk = disk.to_owned();
        let begun = self.state().begin("resize", vmid, |state| {
            state.permitted("resize", vmid)?;
            Ok(("resize", vmid, Effect::Resize(vmid, disk, gib)))
        });
        ready(begun.map(Some))
    }
    fn regenerate_cloudinit(&self, vmid: Vmid) -> Answer<'_, ()> {
        ready(self.state().now("regenerate_cloudinit", vmid, |state| {
            state.permitted("regenerate_cloudinit", vmid)?;
            state.unlocked("regenerate_cloudinit", vmid).map(|_| ())
        }))
    }
    fn set_firewall(&self, vmid: Vmid, setup: FirewallSetup) -> Answer<'_, ()> {
        ready(self.state().now("set_firewall", vmid, |state| {
            state.permitted("set_firewall", vmid)?;
            let guest = state.present("set_firewall", vmid)?;
            if guest.firewall.replace(setup.clone()) != Some(setup) {
                state.happened("firewall", vmid);
            }
            Ok(())
        }))
    }
    fn start(&self, vmid: Vmid) -> Answer<'_, Upid> {
        ready(self.power("start", "qmstart", vmid, true))
    }
    fn stop(&self, vmid: Vmid) -> Answer<'_, Upid> {
        ready(self.power("stop", "qmstop", vmid, false))
    }
    fn shutdown(&self, vmid: Vmid, _timeout_secs: u32, _force: bool) -> Answer<'_, Upid> {
        ready(self.power("shutdown", "qmshutdown", vmid, false))
    }
    fn reboot(&self, vmid: Vmid, _timeout_secs: u32) -> Answer<'_, Upid> {
        ready(self.restart("reboot", "qmreboot", vmid))
    }
    fn reset(&self, vmid: Vmid) -> Answer<'_, Upid> {
        ready(self.restart("reset", "qmreset", vmid))
    }
    fn destroy(&self, vmid: Vmid, purge: bool) -> Answer<'_, Upid> {
        ready(self.state().begin("destroy", vmid, |state| {
            state.permitted("destroy", vmid)?;
            if state.unlocked("destroy", vmid)?.running {
                return Err(refused("destroy", 500, format!("VM {vmid} is running - destroy failed")));
            }
            Ok(("qmdestroy", vmid, Effect::Destroy(vmid, purge)))
        }))
    }
    fn task_status(&self, upid: &Upid) -> Answer<'_, TaskState> {
        let upid = upid.clone();
        ready(self.look("task_status", |state| {
            let Some(index) = state.tasks.iter().position(|t| t.upid == upid) else {
                return Ok(TaskState::Unknown);
            };
            state.poll(index);
            Ok(state.tasks[index].exit.clone().map_or(TaskState::Running, TaskState::Ended))
        }))
    }
    fn task_log(&self, upid: &Upid, from: u64) -> Answer<'_, Vec<LogLine>> {
        let upid = upid.clone();
        ready(self.look("task_log", |state| {
            let log = state.tasks.iter().find(|t| t.upid == upid).map(|t| t.log.clone()).unwrap_or_default();
            let numbered = (1..).zip(log).map(|(number, text)| LogLine { number, text });
            Ok(numbered.filter(|line| line.number >= from).collect())
        }))
    }
    fn find_clone_task(&self, template: Vmid, since_secs: i64, newid: Vmid) -> Answer<'_, CloneSearch> {
        ready(self.look("find_clone_task", |state| {
            let ours = |task: &&FakeTask| {
                matches!(&task.effect, Effect::Clone(r) if r.newid == newid && r.template == template)
                    && task.upid.started_secs() >= since_secs
            };
            Ok(match state.tasks.iter().rev().find(ours) {
                None => CloneSearch::NotFound,
                Some(task) => match task.exit.clone() {
                    None => CloneSearch::Running(task.upid.clone()),
                    Some(exit) => CloneSearch::Ended(task.upid.clone(), exit),
                },
            })
        }))
    }
    fn stop_task(&self, upid: &Upid) -> Answer<'_, ()> {
        let upid = upid.clone();
        ready(self.state().now("stop_task", 0, |state| {
            if let Some(index) = state.tasks.iter().position(|t| t.upid == upid && t.exit.is_none()) {
                state.tasks[index].fault = Some(Fault::TaskFails("received interrupt".into()));
                state.finish(index);
            }
            Ok(())
        }))
    }
    fn storages(&self) -> Answer<'_, Vec<Storage>> {
        let content = BTreeSet::from(["images".to_owned()]);
        let taken = self.state().taken;
        let (total, used, available) = (1000 << 30, (100 << 30) + taken, (900 << 30) - taken);
        let storage = Storage {
            id: "local-lvm".into(),
            kind: "lvmthin".into(),
            content,
            active: true,
            shared: false,
            total,
            used,
            available,
        };
        ready(self.look("storages", |_| Ok(vec![storage])))
    }
    fn bridges(&self) -> Answer<'_, Vec<String>> {
        ready(self.look("bridges", |_| Ok(vec!["vmbr0".to_owned()])))
    }
    fn templates(&self) -> Answer<'_, Vec<ImageTemplate>> {
        ready(self.look("templates", |state| {
            let template = |(vmid, guest): (&Vmid, &FakeGuest)| {
                let config = GuestConfig { values: guest.config.clone(), digest: String::new() };
                let (image, digest) = parse_image_marker(config.description())?;
                let disk_bytes = config.disk_bytes("scsi0")?;
                let volume = config.get("scsi0")?.split(',').next()?.to_owned();
                let storage = "local-lvm".into();
                Some(ImageTemplate { vmid: *vmid, image, digest, volume, storage, disk_bytes })
            };
            Ok(state.guests.iter().filter_map(template).collect())
        }))
    }
    fn pool_members(&self, pool: &str) -> Answer<'_, Vec<Vmid>> {
        let pool = pool.to_owned();
        ready(self.look("pool_members", |state| {
            let inside = state.guests.iter().filter(|(_, g)| g.pool.as_deref() == Some(pool.as_str()));
            Ok(inside.map(|(vmid, _)| *vmid).collect())
        }))
    }
    fn permissions(&self) -> Answer<'_, Permissions> {
        ready(self.look("permissions", |state| Ok(state.permissions.clone())))
    }
    fn datacenter_firewall(&self) -> Answer<'_, FirewallState> {
        ready(self.look("datacenter_firewall", |_| Ok(FirewallState::Unknown)))
    }
    fn agent_ping(&self, vmid: Vmid) -> Answer<'_, bool> {
        ready(self.look("agent_ping", |state| {
            let guest = state.present("agent_ping", vmid)?;
            Ok(guest.running && guest.agent_answers)
        }))
    }
    fn agent_addresses(&self, vmid: Vmid) -> Answer<'_, Vec<GuestAddress>> {
        ready(
            self.look("agent_addresses", |state| state.present("agent_addresses", vmid).map(|_| Vec::new())),
        )
    }
    fn find_tasks(
        &self,
        kind: &'static str,
        vmid: Vmid,
        since_secs: i64,
    ) -> Answer<'_, Vec<(Upid, TaskState)>> {
        ready(self.look("find_tasks", |state| Ok(state.tasks_of(kind, vmid, since_secs))))
    }
    fn snapshots(&self, vmid: Vmid) -> Answer<'_, Vec<Snapshot>> {
        ready(self.look("snapshots", |state| state.list_snapshots(vmid)))
    }
    fn take_snapshot(&self, vmid: Vmid, name: &str, description: String) -> Answer<'_, Upid> {
        let keep = Keep::Take(vmid, name.to_owned(), description);
        ready(self.keep("take_snapshot", "qmsnapshot", vmid, keep))
    }
    fn roll_back(&self, vmid: Vmid, name: &str) -> Answer<'_, Upid> {
        ready(self.keep("roll_back", "qmrollback", vmid, Keep::RollBack(vmid, name.to_owned())))
    }
    fn drop_snapshot(&self, vmid: Vmid, name: &str) -> Answer<'_, Upid> {
        ready(self.keep("drop_snapshot", "qmdelsnapshot", vmid, Keep::Drop(vmid, name.to_owned())))
    }
    fn backups(&self, _storage: &str, vmid: Vmid) -> Answer<'_, Vec<Backup>> {
        ready(self.look("backups", |state| Ok(state.list_backups(vmid))))
    }
    fn back_up(&self, vmid: Vmid, storage: &str, notes: String) -> Answer<'_, Upid> {
        ready(self.keep("back_up", "vzdump", vmid, Keep::BackUp(vmid, storage.to_owned(), notes)))
    }
    fn restore(&self, vmid: Vmid, volume: &str, _storage: &str) -> Answer<'_, Upid> {
        ready(self.keep("restore", "qmrestore", vmid, Keep::Restore(vmid, volume.to_owned())))
    }
    fn delete_volume(&self, volume: &str) -> Answer<'_, Option<Upid>> {
        let volume = volume.to_owned();
        let begun = self.state().begin("delete_volume", 0, |state| {
            let vmid = state.backups.get(&volume).map_or(0, |(vmid, _)| *vmid);
            if vmid != 0 && !state.may_back_up(vmid) {
                let text = format!("Permission check failed (/vms/{vmid}, VM.Backup)");
                return Err(refused("delete_volume", 403, text));
            }
            Ok(("imgdel", vmid, Effect::Keep(Keep::Delete(vmid, volume))))
        });
        ready(begun.map(Some))
    }
    fn import_disk(&self, vmid: Vmid, drive: &'static str, _storage: &str, volume: &str) -> Answer<'_, Upid> {
        ready(self.keep("import_disk", "qmconfig", vmid, Keep::Import(vmid, drive, volume.to_owned())))
    }
    fn remove_disk(&self, vmid: Vmid, drive: &'static str) -> Answer<'_, ()> {
        ready(self.state().now("remove_disk", vmid, |state| {
            state.permitted("remove_disk", vmid)?;
            if state.unlocked("remove_disk", vmid)?.config.remove(drive).is_some() {
                state.happened("remove_disk", vmid);
            }
            Ok(())
        }))
    }
    fn set_password(&self, vmid: Vmid, user: &'static str, hash: String) -> Answer<'_, bool> {
        ready(self.state().now("set_password", vmid, |state| {
            state.permitted("set_password", vmid)?;
            let guest = state.present("set_password", vmid)?;
            if !(guest.running && guest.agent_answers) {
                return Ok(false);
            }
            if guest.passwords.insert(user.to_owned(), hash.clone()) != Some(hash) {
                state.happened("password", vmid);
            }
            Ok(true)
        }))
    }
    fn open_console(&self, vmid: Vmid, kind: ConsoleKind) -> Answer<'_, ConsoleDoor> {
        ready(self.look("open_console", |state| {
            state.permitted("open_console", vmid)?;
            if !state.present("open_console", vmid)?.running {
                return Err(refused("open_console", 500, format!("VM {vmid} not running")));
            }
            state.consoles_asked.push((vmid, kind));
            let door = state.doors.get(&vmid).cloned();
            door.ok_or_else(|| {
                refused("open_console", 500, "Timeout while waiting for port '5900' to get ready!")
            })
        }))
    }
    fn pending(&self, vmid: Vmid) -> Answer<'_, Vec<String>> {
        ready(self.look("pending", |state| state.present("pending", vmid).map(|_| Vec::new())))
    }
}
