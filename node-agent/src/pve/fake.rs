//! A Proxmox VE host in memory, for tests of what stands above [`Hypervisor`].
//!
//! It keeps the rules that decide the executor's correctness: a VMID is taken from the moment a clone
//! is accepted, the target is locked and carries a placeholder while the clone runs, the pool comes
//! last, a killed clone leaves the lock behind, resizing only grows, starting a running VM fails in
//! the task, the tasks of one VM wait for each other, a token changes nothing outside its pool. Tasks
//! end after a number of polls, never by time; a clone goes on too while somebody looks at its target.
//! Faults are planted per verb, or for a call by its number ([`script`]).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Mutex, MutexGuard},
};

use futures::FutureExt as _;

use super::*;

/// A planted fault; each serves one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Refused with this status and message; nothing happens.
    Refused(u16, String),
    /// No connection; nothing happens.
    Unreachable,
    /// The answer is lost, and the call never took effect.
    LostBefore,
    /// The answer is lost, and the call took effect.
    LostAfter,
    /// The call is accepted, its task ends with this text and without effect (a clone cleans up).
    TaskFails(String),
    /// The same, and a clone does not clean up: its target stays locked.
    TaskFailsHalf(String),
    /// The call is accepted and its worker is killed: `unexpected status`, half-made things stay.
    TaskKilled,
    /// Refused with this status and message, and yet it took effect.
    RefusedLate(u16, String),
    /// The task ends with this text, and yet it took effect (a clone without its pool).
    TaskFailsLate(String),
    /// The worker is killed half way, when a restore has thrown the old disks away and made new ones, or a destruction has
    /// removed the disks and not the configuration.
    TaskKilledHalf,
    /// The worker is killed when it had done everything (but a clone's pool).
    TaskKilledLate,
    /// The VM is destroyed and its disk cannot be removed: a success with a warning in the log.
    TaskKeepsDisk,
    /// The same behind a refusal with this status and message.
    RefusedKeepsDisk(u16, String),
}

/// A pool whose VMs the agent's token may not read.
pub(crate) const OUT_OF_SIGHT: &str = "theirs, out of sight";

/// One VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FakeGuest {
    pub(crate) config: BTreeMap<String, String>,
    pub(crate) running: bool,
    pub(crate) pool: Option<String>,
    pub(crate) firewall: Option<FirewallSetup>,
    pub(crate) agent_answers: bool,
    /// What is on its disk, in a word.
    pub(crate) disk: String,
    pub(crate) snapshots: BTreeMap<String, FakeKept>,
    /// Whose password was set from inside, and to what.
    pub(crate) passwords: BTreeMap<String, String>,
    version: u32,
}

/// What a snapshot or a backup keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FakeKept {
    pub(crate) text: String,
    pub(crate) config: BTreeMap<String, String>,
    pub(crate) disk: String,
    pub(crate) at_secs: i64,
}

#[derive(Clone, Debug)]
enum Effect {
    Clone(CloneRequest),
    Resize(Vmid, String, u32),
    Power(Vmid, bool, Option<&'static str>),
    Destroy(Vmid, bool),
    Restart(&'static str, Vmid),
    Keep(keep::Keep),
}

impl Effect {
    /// The VM whose lock the worker holds.
    fn vmid(&self) -> Vmid {
        match self {
            Self::Clone(request) => request.newid,
            Self::Resize(vmid, ..)
            | Self::Power(vmid, ..)
            | Self::Destroy(vmid, _)
            | Self::Restart(_, vmid) => *vmid,
            Self::Keep(keep) => keep.vmid(),
        }
    }
}

#[derive(Clone, Debug)]
struct FakeTask {
    upid: Upid,
    effect: Effect,
    fault: Option<Fault>,
    polls: u32,
    exit: Option<TaskExit>,
    log: Vec<String>,
}

#[derive(Clone, Default)]
struct State {
    guests: BTreeMap<Vmid, FakeGuest>,
    tasks: Vec<FakeTask>,
    faults: BTreeMap<&'static str, VecDeque<Fault>>,
    calls: Vec<String>,
    polls: u32,
    start_secs: i64,
    hasty: bool,
    effects: Vec<String>,
    trace: Vec<Call>,
    plans: Vec<Plan>,
    /// Backups by volume, with the VM they are of.
    backups: BTreeMap<String, (Vmid, FakeKept)>,
    permissions: Permissions,
    /// What other things take of the storage.
    taken: u64,
    /// Volumes that no configuration names.
    left_over: BTreeSet<String>,
    /// The token has rights in its pool alone: of a number that is free it learns as little as of one of others.
    pool_alone: bool,
    /// The datacenter's rules give no tag to a token.
    no_tags: bool,
    /// VMs that the host's owner has named in a backup job.
    in_jobs: BTreeSet<Vmid>,
    /// Where a VM's console is to be found, and who asked for one.
    doors: BTreeMap<Vmid, ConsoleDoor>,
    consoles_asked: Vec<(Vmid, ConsoleKind)>,
}

/// See the module's text.
pub(crate) struct FakeHypervisor {
    state: Mutex<State>,
}

/// Task start times begin here, unix seconds, and rise by one per task.
pub(crate) const FAKE_START_SECS: i64 = 1_795_000_000;
/// Digest of the image of templates made by [`FakeHypervisor::with_template`].
pub(crate) const FAKE_DIGEST: &str =
    "sha256:1111111111111111111111111111111111111111111111111111111111111111";

fn refused(call: &str, status: u16, message: impl Into<String>) -> PveError {
    PveError::Refused { call: call.into(), status, message: message.into(), errors: BTreeMap::new() }
}

fn absent(call: &str, vmid: Vmid) -> PveError {
    refused(call, 500, format!("Configuration file 'nodes/fake/qemu-server/{vmid}.conf' does not exist"))
}

impl FakeHypervisor {
    /// A host with one 3 GiB template `debian-13` on storage `local-lvm`.
    pub(crate) fn with_template(vmid: Vmid) -> Self {
        let template = [
            ("name", "debian-13"),
            ("template", "1"),
            ("boot", "order=scsi0"),
            ("scsi0", "local-lvm:base-9000-disk-0,size=3G"),
            ("ide2", "local-lvm:vm-9000-cloudinit,media=cdrom"),
            ("net0", "virtio=BC:24:11:00:00:00,bridge=vmbr0"),
        ];
        let mut config: BTreeMap<_, _> =
            template.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        config.insert("description".into(), format!("{IMAGE_MARKER} debian-13 {FAKE_DIGEST}\n"));
        let guest = FakeGuest { config, pool: Some("ez-templates".into()), ..FakeGuest::default() };
        let guests = BTreeMap::from([(vmid, guest)]);
        let state = State { guests, polls: 2, start_secs: FAKE_START_SECS, ..State::default() };
        Self { state: Mutex::new(state) }
    }

    /// A full clone with a plausible marker.
    pub(crate) fn request(template: Vmid, newid: Vmid) -> CloneRequest {
        CloneRequest {
            template,
            newid,
            name: format!("server-{newid}"),
            description: "ez:v1 test".into(),
            pool: "ez".into(),
            storage: "local-lvm".into(),
            mode: CloneMode::Full,
        }
    }

    /// The same host once more.
    pub(crate) fn fork(&self) -> Self {
        Self { state: Mutex::new(self.state().clone()) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Tasks begun from now on end at their `polls`-th status call (`u32::MAX`: never).
    pub(crate) fn set_polls(&self, polls: u32) {
        self.state().polls = polls;
    }

    /// Plants a fault for the next call of `verb` (a method's name); several queue up.
    pub(crate) fn fail_next(&self, verb: &'static str, fault: Fault) {
        self.state().faults.entry(verb).or_default().push_back(fault);
    }

    /// Every call that could change something so far, as `verb vmid`.
    pub(crate) fn changes(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    /// Consoles of this VM are to be found here.
    pub(crate) fn put_door(&self, vmid: Vmid, door: ConsoleDoor) {
        self.state().doors.insert(vmid, door);
    }

    /// Which consoles were asked for so far.
    pub(crate) fn consoles_asked(&self) -> Vec<(Vmid, ConsoleKind)> {
        self.state().consoles_asked.clone()
    }

    /// A VM as it stands.
    pub(crate) fn guest(&self, vmid: Vmid) -> Option<FakeGuest> {
        self.state().guests.get(&vmid).cloned()
    }

    /// Puts a VM there, or changes one.
    pub(crate) fn put_guest(&self, vmid: Vmid, change: impl FnOnce(&mut FakeGuest)) {
        change(self.state().guests.entry(vmid).or_default());
    }

    /// The rights that the token has from now on; nothing but `permissions` looks at them.
    pub(crate) fn grant(&self, permissions: Permissions) {
        self.state().permissions = permissions;
    }

    /// Takes a VM away, as root on the host would.
    pub(crate) fn forget(&self, vmid: Vmid) {
        self.state().guests.remove(&vmid);
    }

    /// Adds a line to a task's log.
    pub(crate) fn log_line(&self, upid: &Upid, line: &str) {
        if let Some(task) = self.state().tasks.iter_mut().find(|t| t.upid == *upid) {
            task.log.push(line.to_owned());
        }
    }

    /// From now on every task is over before the next call.
    pub(crate) fn be_hasty(&self) {
        self.state().hasty = true;
    }

    /// Every change that happened so far, in order; a call that changed nothing is none.
    pub(crate) fn effects(&self) -> Vec<String> {
        self.state().effects.clone()
    }

    /// All VMs as they stand, without the counters behind their digests.
    pub(crate) fn guests(&self) -> BTreeMap<Vmid, FakeGuest> {
        let mut guests = self.state().guests.clone();
        guests.values_mut().for_each(|guest| guest.version = 0);
        guests
    }

    /// Other things take so much of the storage that this is left.
    pub(crate) fn leave_free(&self, bytes: u64) {
        self.state().taken = (900 << 30) - bytes;
    }

    /// Lets all tasks end now.
    pub(crate) fn finish_tasks(&self) {
        let mut state = self.state();
        for index in 0..state.tasks.len() {
            state.finish(index);
        }
    }
}

impl State {
    /// A call comes in: it is noted, time goes on, and a fault may be due.
    fn enter(&mut self, verb: &'static str, kind: Kind) -> Option<Fault> {
        if self.hasty {
            (0..self.tasks.len()).for_each(|index| self.finish(index));
        }
        let planned = self.due(verb, kind);
        planned.or_else(|| self.faults.get_mut(verb).and_then(VecDeque::pop_front))
    }

    /// Runs a call that takes effect at once, with the faults planted for it.
    fn now<T>(
        &mut self,
        verb: &'static str,
        vmid: Vmid,
        act: impl FnOnce(&mut Self) -> Result<T, PveError>,
    ) -> Result<T, PveError> {
        self.calls.push(format!("{verb} {vmid}"));
        let fault = self.enter(verb, Kind::Change);
        self.with(verb, fault, act)
    }

    fn with<T>(
        &mut self,
        verb: &'static str,
        fault: Option<Fault>,
        act: impl FnOnce(&mut Self) -> Result<T, PveError>,
    ) -> Result<T, PveError> {
        let lost = || PveError::OutcomeUnknown { call: verb.into(), reason: "connection reset".into() };
        match fault {
            Some(Fault::Refused(status, message)) => Err(refused(verb, status, message)),
            Some(Fault::Unreachable) => Err(unreachable_host(verb)),
            Some(Fault::LostBefore) => Err(lost()),
            Some(Fault::LostAfter) => act(self).and(Err(lost())),
            Some(Fault::RefusedLate(status, message) | Fault::RefusedKeepsDisk(status, message)) => {
                act(self).and(Err(refused(verb, status, message)))
            }
            _ => act(self),
        }
    }

    /// Runs a call that begins a task.
    fn begin(
        &mut self,
        verb: &'static str,
        vmid: Vmid,
        check: impl FnOnce(&mut Self) -> Result<(&'static str, Vmid, Effect), PveError>,
    ) -> Result<Upid, PveError> {
        self.calls.push(format!("{verb} {vmid}"));
        let fault = self.enter(verb, Kind::Task);
        self.with(verb, fault.clone(), |state| {
            let (kind, subject, effect) = check(state)?;
            let number = state.tasks.len() + 1;
            let start = state.start_secs + i64::try_from(number).unwrap_or(0);
            let text = format!(
                "UPID:fake:{number:08X}:00000001:{start:08X}:{kind}:{subject}:ez-agent@pve!node-fake:"
            );
            let upid: Upid = text.parse()?;
            let polls = state.polls;
            let task = FakeTask { upid: upid.clone(), effect, fault, polls, exit: None, log: Vec::new() };
            state.tasks.push(task);
            Ok(upid)
        })
    }

    /// A token may change what is in its pool; for everything else, missing VMs included, it has no right.
    fn permitted(&self, call: &str, vmid: Vmid) -> Result<(), PveError> {
        match self.guests.get(&vmid).and_then(|guest| guest.pool.as_deref()) {
            Some("ez") => Ok(()),
            _ => Err(refused(call, 403, format!("Permission check failed (/vms/{vmid}, VM.PowerMgmt)"))),
        }
    }

    /// Somebody looks at a VM: the clone that makes it goes on by one poll.
    fn looked_at(&mut self, vmid: Vmid) {
        let clone = |t: &FakeTask| matches!(t.effect, Effect::Clone(_)) && t.effect.vmid() == vmid;
        if let Some(index) = self.tasks.iter().position(|t| t.exit.is_none() && clone(t)) {
            self.poll(index);
        }
    }

    /// A task goes on by one poll.
    fn poll(&mut self, index: usize) {
        match self.tasks[index].polls {
            u32::MAX => {}
            0 | 1 => self.finish(index),
            _ => self.tasks[index].polls -= 1,
        }
    }

    fn present(&mut self, call: &str, vmid: Vmid) -> Result<&mut FakeGuest, PveError> {
        self.guests.get_mut(&vmid).ok_or_else(|| absent(call, vmid))
    }

    fn unlocked(&mut self, call: &str, vmid: Vmid) -> Result<&mut FakeGuest, PveError> {
        let guest = self.present(call, vmid)?;
        match guest.config.get("lock") {
            Some(lock) => Err(refused(call, 500, format!("VM is locked ({lock})"))),
            None => Ok(guest),
        }
    }

    fn finish(&mut self, index: usize) {
        let task = self.tasks[index].clone();
        if task.exit.is_some() {
            return;
        }
        // The workers of one VM wait for its lock.
        for earlier in 0..index {
            if self.tasks[earlier].effect.vmid() == task.effect.vmid() {
                self.finish(earlier);
            }
        }
        let text = |done: Result<(), String>| done.map_or_else(TaskExit::Failed, |()| TaskExit::Ok);
        let exit = match (task.fault, &task.effect) {
            (Some(Fault::TaskFails(text)), effect) => {
                if let Effect::Clone(request) = effect {
                    self.guests.remove(&request.newid);
                }
                if let Effect::Keep(keep) = effect {
                    self.failed(keep);
                }
                TaskExit::Failed(text)
            }
            (Some(Fault::TaskFailsHalf(text)), _) => TaskExit::Failed(text),
            (Some(Fault::TaskKilled), Effect::Keep(keep)) => {
                self.left_behind(keep);
                TaskExit::Killed
            }
            (Some(Fault::TaskKilledHalf), Effect::Keep(keep)) => {
                self.half_done(keep);
                TaskExit::Killed
            }
            (Some(Fault::TaskKilledHalf), Effect::Destroy(vmid, _)) => {
                if let Some(guest) = self.guests.get_mut(vmid) {
                    guest.config = BTreeMap::from([("lock".to_owned(), "destroyed".to_owned())]);
                    guest.disk.clear();
                }
                TaskExit::Killed
            }
            (Some(Fault::TaskKilled | Fault::TaskKilledHalf), _) => TaskExit::Killed,
            (Some(Fault::TaskKeepsDisk | Fault::RefusedKeepsDisk(..)), Effect::Destroy(vmid, _)) => {
                self.keep_disk(index, *vmid)
            }
            (Some(Fault::TaskFailsLate(text)), effect) => {
                let _done_all_the_same = self.apply(effect, false);
                TaskExit::Failed(text)
            }
            (Some(Fault::TaskKilledLate), effect) => {
                let _done_all_the_same = self.apply(effect, false);
                TaskExit::Killed
            }
            (_, effect) => text(self.apply(effect, true)),
        };
        self.tasks[index].exit = Some(exit);
    }

    /// Destroys a VM whose disk is in use by something else.
    fn keep_disk(&mut self, index: usize, vmid: Vmid) -> TaskExit {
        let disk = format!("local-lvm:vm-{vmid}-disk-0");
        if let Err(text) = self.apply(&Effect::Destroy(vmid, true), true) {
            return TaskExit::Failed(text);
        }
        let line =
            format!("WARN: Could not remove disk '{disk}', check manually: lvremove '{disk}' error: in use.");
        self.tasks[index].log.push(line);
        self.left_over.insert(disk);
        TaskExit::Warnings(1)
    }

    fn happened(&mut self, what: &str, vmid: Vmid) {
        self.effects.push(format!("{what} {vmid}"));
    }

    /// Does what the task does; a clone may not come as far as its pool.
    fn apply(&mut self, effect: &Effect, to_the_end: bool) -> Result<(), String> {
        let gone = |e: PveError| e.text();
        match effect {
            Effect::Keep(keep) => return self.apply_keep(keep),
            Effect::Restart(what, vmid) => {
                self.present(what, *vmid).map_err(gone)?;
                self.happened(what, *vmid);
            }
            Effect::Clone(request) => {
                let mut guest = self.guests.get(&request.template).cloned().unwrap_or_default();
                guest.config.remove("template");
                guest.config.insert("name".into(), request.name.clone());
                guest.config.insert("description".into(), request.description.clone());
                let disk = format!("local-lvm:vm-{}-disk-0,size=3G", request.newid);
                guest.config.insert("scsi0".into(), disk);
                let drive = format!("local-lvm:vm-{}-cloudinit,media=cdrom", request.newid);
                guest.config.insert("ide2".into(), drive);
                guest.config.insert("net0".into(), "virtio=BC:24:11:FF:FF:FF,bridge=vmbr0".into());
                guest.disk = format!("fresh from {}", request.template);
                guest.pool = to_the_end.then(|| request.pool.clone());
                self.guests.insert(request.newid, guest);
                self.happened("clone", request.newid);
            }
            Effect::Resize(vmid, disk, gib) => {
                let guest = self.unlocked("resize", *vmid).map_err(gone)?;
                let config = GuestConfig { values: guest.config.clone(), digest: String::new() };
                let old = config.disk_bytes(disk).ok_or(format!("disk '{disk}' does not exist"))?;
                let new = u64::from(*gib) << 30;
                if new < old {
                    return Err("shrinking disks is not supported".into());
                }
                let volume = guest.config[disk].split(',').next().unwrap_or_default().to_owned();
                guest.config.insert(disk.clone(), format!("{volume},size={gib}G"));
                if new > old {
                    self.happened("resize", *vmid);
                }
            }
            Effect::Power(vmid, on, error) => {
                let guest = self.unlocked("power", *vmid).map_err(gone)?;
                match error {
                    Some(text) if guest.running == *on => return Err(format!("VM {vmid} {text}")),
                    _ if guest.running == *on => {}
                    _ => {
                        guest.running = *on;
                        self.happened(if *on { "on" } else { "off" }, *vmid);
                    }
                }
            }
            Effect::Destroy(vmid, purge) => {
                if self.present("destroy", *vmid).map_err(gone)?.running {
                    return Err(format!("VM {vmid} is running - destroy failed"));
                }
                self.guests.remove(vmid);
                self.in_jobs.retain(|one| one != vmid || !purge);
                self.left_over.retain(|volume| !volume.contains(&format!(":vm-{vmid}-")));
                self.happened("destroy", *vmid);
            }
        }
        Ok(())
    }
}

fn unreachable_host(verb: &str) -> PveError {
    PveError::Unreachable { call: verb.into(), reason: "connection refused".into() }
}

mod keep;
mod script;
mod verbs;

pub(crate) use script::{Call, Kind, Plan, at_work};
