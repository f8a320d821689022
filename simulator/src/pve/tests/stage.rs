//! Stage directions for the replay: what runs when, as the recording tells it, and what was done to
//! the recorded machine behind the API's back.
//!
//! The replay does not depend on how fast this machine is. A task of which the recording says that it
//! was still at work when something else was asked is held by the storage's lock, or would work for
//! minutes, until the recording says that it ended; every other task is waited for before the next
//! question. Two moments have a width instead, of a second and a half: the machine that is off for a
//! reboot, and the one that a rollback is about to start.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::OwnedMutexGuard;

use super::cast::Cast;
use super::known::Why;
use super::world::{ROOT, World};
use crate::pve::cluster::Cluster;
use crate::pve::drive::Drive;
use crate::pve::state::{State, Volume};

/// Clones that were seen at work, and the question before which they are let go on.
const HELD: &[(&str, &str)] = &[
    ("full clone, then ask for its config while it runs", "nextid during clone"),
    ("slow full clone (700 MB, bwlimit)", "configure the source while the clone runs"),
    (
        "full clone into the pool, without EzObserver",
        "full clone into the pool, without EzObserver final status after 2 polls",
    ),
    ("linked clone into the pool", "linked clone into the pool final status after 2 polls"),
    ("full clone whose worker is killed", "full clone whose worker is killed log"),
    ("create with a disk in the pool", "destroy the created VM"),
    ("full clone, writes during it", "full clone, writes during it final status after 2 polls"),
];
/// Clones that were stopped in the middle.
const SLOW: &[&str] =
    &["slow full clone", "slow full clone, to be killed with SIGKILL (as in a power loss of the worker)"];
/// A shutdown that the guest does not follow.
const LONG: &str = "shutdown while the guest is still booting: a long task";
/// What was looked at before a machine had started that was to start anew.
const IN_PASSING: &[&str] =
    &["reboot, guest reacts", "right after reboot task", "rollback with start=1", "after rollback start=1"];
/// The end of a task that was killed.
const KILLED: &[&str] = &["unexpected status", "unable to read tail (got 0 bytes)"];

pub(super) struct Stage {
    cluster: Arc<Cluster>,
    cast: Cast,
    /// Our UPIDs by the recorded.
    upids: BTreeMap<String, String>,
    /// Recorded UPIDs of calls that were not asked.
    unasked: BTreeMap<String, Why>,
    held: Option<OwnedMutexGuard<()>>,
    /// Our UPIDs of tasks that the recording saw at work.
    going_on: BTreeSet<String>,
    agent: String,
    /// A token that does not live long.
    expiring: String,
    /// What process ids the guest gave, by the recorded.
    pids: BTreeMap<i64, i64>,
    /// The port of the console that is open.
    console: Option<u16>,
    time: Arc<AtomicI64>,
}

/// When a task began, in unix milliseconds, as its UPID says.
fn began(upid: &str) -> Option<i64> {
    Some(i64::from_str_radix(upid.strip_prefix("UPID:")?.split(':').nth(3)?, 16).ok()? * 1000)
}

/// When the recording began: a moment before its first task.
pub(super) fn begin(lines: &[Value]) -> i64 {
    lines.iter().find_map(|l| began(l["body"]["data"].as_str()?)).unwrap_or(0) - 60_000
}

/// The UPID in a path, decoded, and where it stands.
fn upid_in(path: &str) -> Option<(String, std::ops::Range<usize>)> {
    let at = path.find("UPID%3A")?;
    let end = path[at..].find('/').map_or(path.len(), |e| at + e);
    let decoded = percent_encoding::percent_decode_str(&path[at..end]).decode_utf8_lossy().into_owned();
    Some((decoded, at..end))
}

impl Stage {
    pub(super) fn new(world: &World, time: Arc<AtomicI64>) -> Stage {
        Stage {
            cluster: world.running.running[0].clone(),
            cast: Cast::default(),
            upids: BTreeMap::new(),
            unasked: BTreeMap::new(),
            held: None,
            going_on: BTreeSet::new(),
            agent: String::new(),
            expiring: String::new(),
            pids: BTreeMap::new(),
            console: None,
            time,
        }
    }

    /// The simulator's clock follows the recording's.
    pub(super) fn tick(&self, line: &Value) {
        let took = line["ms"].as_f64().unwrap_or(0.0).max(1.0);
        #[expect(clippy::cast_possible_truncation, reason = "milliseconds of one exchange")]
        let on = self.time.load(Ordering::Relaxed) + took as i64;
        let told = line["body"]["data"].as_str().and_then(began).unwrap_or(0);
        let waited = match line["note"].as_str().unwrap_or("") {
            "expired token" => 3000,
            "EzAgent without Pool.Audit: pool members, one VM" => 20_000,
            _ => 0,
        };
        self.time.store(on.max(told) + waited, Ordering::Relaxed);
    }

    /// A call that was not asked, nor will be what looks at its task; but what it did is there.
    pub(super) async fn not_asked(&mut self, world: &World, line: &Value, why: Why) {
        if let Some(upid) = line["body"]["data"].as_str().filter(|d| d.starts_with("UPID:")) {
            self.unasked.insert(upid.to_owned(), why);
        }
        match line["note"].as_str().unwrap_or("") {
            "upload an ISO" => file(world, "iso/seed.iso", "iso", 65_536).await,
            "upload a qcow2 for import" => file(world, "import/tiny2.qcow2", "import", 44_040_192).await,
            "move disk while running (drive-mirror shim in place)" => self.move_disk(120).await,
            _ => {}
        }
    }

    /// The first disk lies in a raw file now, the old one is kept.
    async fn move_disk(&self, vmid: u32) {
        self.cluster
            .change("stage.move", |s| {
                let vm = s.vms.get_mut(vmid).unwrap();
                let mut drive = Drive::parse(&vm.config["scsi0"]);
                let old = std::mem::replace(&mut drive.file, format!("local:{vmid}/vm-{vmid}-disk-1.raw"));
                vm.config.insert("scsi0".into(), drive.print());
                vm.config.insert("unused0".into(), old.clone());
                let moved = s.volume("pve1", &old).cloned().unwrap();
                let moved = Volume { volid: drive.file.clone(), format: "raw".into(), parent: None, ..moved };
                s.volumes.insert(State::volume_key("pve1", &drive.file), moved);
            })
            .await;
    }

    /// Why the task that an exchange looks at is not there.
    pub(super) fn follows_unasked(&self, line: &Value) -> Option<Why> {
        let (upid, _) = upid_in(line["path"].as_str()?)?;
        self.unasked.get(&upid).copied()
    }

    /// The recorded request with our UPID and our guest's process id in place of the recorded.
    pub(super) fn request(&self, line: &Value) -> Value {
        let mut asked = line.clone();
        let path = line["path"].as_str().unwrap_or("");
        if let Some((recorded, at)) = upid_in(path)
            && let Some(ours) = self.upids.get(&recorded)
        {
            let encoded = percent_encoding::utf8_percent_encode(ours, percent_encoding::NON_ALPHANUMERIC);
            asked["path"] = format!("{}{encoded}{}", &path[..at.start], &path[at.end..]).into();
        }
        if let Some(ours) = line["params"]["pid"].as_i64().and_then(|p| self.pids.get(&p)) {
            asked["params"]["pid"] = (*ours).into();
        }
        asked
    }

    /// Which token made the recorded call.
    pub(super) fn token(&self, number: usize, group: &str, line: &Value) -> String {
        let note = line["note"].as_str().unwrap_or("");
        let method = line["method"].as_str().unwrap_or("");
        let path = line["path"].as_str().unwrap_or("");
        if note == "expired token" {
            return self.expiring.clone();
        }
        if line["auth"] == "ez-token" {
            return self.cast.ez.clone();
        }
        let by_agent = group == "permissions"
            && !self.agent.is_empty()
            && (method == "GET" || !path.contains("/access/"))
            && !note.contains("clean up");
        let by_agent = by_agent || ["token of a disabled user", "revoked token"].contains(&note);
        let upid = line["body"]["data"].as_str().is_some_and(|d| d.contains(":agent@pve!node:"));
        let others = line["body"]["data"]
            .as_str()
            .is_some_and(|d| d.starts_with("UPID:") && !d.contains(":agent@pve!node:"));
        if (by_agent && !others) || upid || (path.contains("agent%40pve%21node") && number > 0) {
            self.agent.clone()
        } else {
            ROOT.into()
        }
    }

    /// Waits until a condition on the cluster holds.
    async fn until(&self, what: &str, holds: impl Fn(&Stage, &State) -> bool) {
        let patience = tokio::time::Instant::now() + Duration::from_secs(60);
        while !self.cluster.read(|s| holds(self, s)).await {
            assert!(tokio::time::Instant::now() < patience, "waiting for {what}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits for every task that the recording does not see at work, and for what a reboot starts anew.
    async fn settle(&self, note: &str) {
        let passing = IN_PASSING.iter().any(|n| note.starts_with(n));
        self.until("the tasks at work to end", |stage, s| {
            s.tasks.values().all(|t| {
                t.exit.is_some() || stage.going_on.contains(&t.upid) || (passing && t.kind == "qmstart")
            }) && (passing || !s.meta.iter().any(|(k, _)| k.starts_with("reboot ")))
        })
        .await;
    }

    /// A task that the recording did not make itself: the newest like it.
    async fn find(&mut self, recorded: &str) {
        let parts: Vec<&str> = recorded.split(':').collect();
        let [_, _, pid, _, _, kind, id, user, ..] = parts[..] else { return };
        if pid == "0000FFFF" {
            return; // made up
        }
        let like = self.cluster.read(|s| {
            let like = s.tasks.values().filter(|t| t.kind == kind && t.id == id && t.user == user);
            like.max_by_key(|t| (t.starttime, t.pid)).map(|t| t.upid.clone())
        });
        if let Some(ours) = like.await {
            self.upids.insert(recorded.to_owned(), ours);
        }
    }

    /// How fast things are, and what is held back.
    async fn pace(&mut self, world: &World, note: &str, line: &Value) {
        if HELD.iter().any(|(_, until)| *until == note) {
            self.held = None;
            self.going_on.clear();
        }
        let exit = line["body"]["data"]["exitstatus"].as_str().unwrap_or("");
        let ends = KILLED.contains(&exit) || line["method"] == "DELETE";
        if let Some((recorded, _)) = upid_in(line["path"].as_str().unwrap_or("")) {
            if !self.upids.contains_key(&recorded) {
                self.find(&recorded).await;
            }
            if let Some(ours) =
                self.upids.get(&recorded).filter(|u| ends && self.going_on.contains(*u)).cloned()
            {
                self.end(world, &ours, line["method"] != "DELETE").await;
                return;
            }
        }
        if !note.contains(" poll ") || line["body"]["data"]["status"] == "stopped" {
            self.settle(note).await;
        }
        if HELD.iter().any(|(from, _)| *from == note) {
            let lock = self.cluster.storage_lock("pve1", "local");
            self.held = Some(lock.lock_owned().await);
        }
        let clone_ms = if SLOW.contains(&note) { 240_000 } else { 8 };
        let start_ms = if note.starts_with("rollback with start=1") { 1500 } else { 2 };
        let other_ms = if note.starts_with("reboot, guest reacts") { 1500 } else { 2 };
        let speed = json!({"clone_ms": clone_ms, "start_ms": start_ms, "other_ms": other_ms});
        world.control_post("/speed", speed).await;
    }

    /// A task that goes on is about to be stopped or killed; a clone has begun to write by then.
    async fn end(&mut self, world: &World, ours: &str, kill: bool) {
        if self.held.is_none() {
            let begun = |_: &Stage, s: &State| {
                s.tasks.get(ours).is_some_and(|t| t.kind != "qmclone" || t.log.len() > 2)
            };
            self.until("the worker to have begun", begun).await;
        }
        self.going_on.remove(ours);
        if kill {
            world.control_post("/tasks/kill", json!({ "upid": ours })).await;
        }
    }

    /// The console's client comes and goes.
    async fn hang_up(&mut self) {
        if let Some(port) = self.console.take() {
            drop(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap());
        }
        self.going_on.clear();
        self.settle("").await;
    }

    /// Everything that has to be so before a question is asked.
    pub(super) async fn set(&mut self, world: &mut World, group: &str, note: &str, line: &Value) {
        world.as_token(ROOT);
        self.pace(world, note, line).await;
        if group == "pool-scoped" {
            self.cast.pool_scope(world, note).await;
            snippets(world, line);
        }
        match note {
            "linked clone" => world.snippet("ci-user.yaml", "#cloud-config\nhostname: custom\n"),
            "import content" => file(world, "import/tiny.qcow2", "import", 44_040_192).await,
            "vncproxy task after the client closed final status after 2 polls, 0.29s" => self.hang_up().await,
            _ => {}
        }
        self.cast.root_does(world, note).await;
        let lock = match note {
            "running VM with lock=backup" => Some(json!("backup")),
            "start with lock=clone" => Some(json!("clone")),
            "suspend (pause)" => Some(Value::Null),
            _ => None,
        };
        if let Some(lock) = lock {
            world.control_post("/vms/103/lock", json!({ "lock": lock })).await;
        }
    }

    /// After an exchange: new UPIDs, new tokens, and what the recorded machine did otherwise.
    pub(super) async fn after(&mut self, world: &World, line: &Value, body: &Value) {
        let note = line["note"].as_str().unwrap_or("");
        let upid = |v: &Value| v["data"].as_str().or(v["data"]["upid"].as_str()).unwrap_or("").to_owned();
        let (recorded, ours) = (upid(&line["body"]), upid(body));
        if recorded.starts_with("UPID:") && ours.starts_with("UPID:") && line["method"] != "GET" {
            if note == LONG
                || SLOW.contains(&note)
                || HELD.iter().any(|(from, _)| *from == note)
                || ours.contains(":vncproxy:")
            {
                self.going_on.insert(ours.clone());
            }
            self.upids.insert(recorded, ours);
        }
        if let (Some(recorded), Some(ours)) =
            (line["body"]["data"]["pid"].as_i64(), body["data"]["pid"].as_i64())
        {
            self.pids.insert(recorded, ours);
        }
        if let Some(port) = body["data"]["port"].as_str() {
            self.console = port.parse().ok();
        }
        if line["path"] == "/api2/json/access/users/agent@pve/token/node"
            && let Some(secret) = body["data"]["value"].as_str()
        {
            self.agent = format!("agent@pve!node={secret}");
        }
        if line["path"] == "/api2/json/access/users/agent@pve/token/exp"
            && let Some(secret) = body["data"]["value"].as_str()
        {
            self.expiring = format!("agent@pve!exp={secret}");
        }
        let created = line["method"] == "POST" && line["status"] == 200;
        let path = line["path"].as_str().unwrap_or("");
        let vmid = match path {
            p if p.ends_with("/clone") => line["params"]["newid"].as_i64(),
            p if p.ends_with("/qemu") => line["params"]["vmid"].as_i64(),
            _ => None,
        };
        if created && let Some(vmid) = vmid {
            // The blank machines never obey; those from the tiny image have an agent.
            let deaf = matches!(vmid, 101..=119);
            world.control_post(&format!("/vms/{vmid}/deaf"), json!({ "deaf": deaf })).await;
            if vmid == 9010 {
                world
                    .control_post("/guest-agent", json!({"vmid": 9010, "answers": true, "bare": true}))
                    .await;
            }
        }
    }
}

/// A file that somebody put into the storage.
async fn file(world: &World, name: &str, content: &str, size: u64) {
    let file = json!({"storage": "local", "name": name, "content": content, "size": size});
    world.control_post("/volumes", file).await;
}

/// Puts the snippets there that a configuration names.
fn snippets(world: &World, line: &Value) {
    let custom = line["params"]["cicustom"].as_str().unwrap_or("");
    let files = custom.split(',').filter_map(|p| p.split("ez-ci:snippets/").nth(1));
    for file in files.filter(|f| !f.contains("missing")) {
        let directory = world.directory.join("ez-ci/snippets");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(file), "instance-id: x\n").unwrap();
    }
}
