//! `repair`: root's one verb, `clean-clone`.
//!
//! A clone whose worker was killed stays for ever: locked, half made, in no pool, out of every token's
//! reach. The agent leaves a request; a systemd path unit starts this as root. The request comes from a
//! process that may be owned by somebody else, so only the VMID in its *name* is believed, and even
//! that only within the policy's range. Everything that makes destroying right is looked at anew.

use std::{
    collections::BTreeSet,
    io,
    path::PathBuf,
    process::Stdio,
    time::{Duration, SystemTime},
};

use ez_protocol::marker::Marker;
use futures::{FutureExt as _, future::BoxFuture};
use serde_json::Value;
use tokio::process::Command;

use super::{AdminApi, SetupError, Verb};
use crate::{
    config::Config,
    policy::Policy,
    pve::{CLONE_PLACEHOLDER, Vmid, text},
};

/// A clone counts as crashed when its configuration has not changed for so long.
const CRASHED_AFTER: Duration = Duration::from_secs(20);
/// Where Proxmox keeps the configurations of this node's VMs.
const CONFIG_DIR: &str = "/etc/pve/qemu-server";

/// Root's tool for VMs: `qm`, started directly.
pub trait Qm: Send + Sync {
    /// Runs `qm` with these arguments; answers what it said.
    fn run<'a>(&'a self, arguments: &'a [&'a str]) -> BoxFuture<'a, io::Result<String>>;
}

/// The `qm` of this host.
#[derive(Debug, Default)]
pub struct HostQm;

impl Qm for HostQm {
    fn run<'a>(&'a self, arguments: &'a [&'a str]) -> BoxFuture<'a, io::Result<String>> {
        async move {
            let output = Command::new("qm").args(arguments).stdin(Stdio::null()).output().await?;
            let said = String::from_utf8_lossy(&output.stderr);
            if output.status.success() {
                return Ok(format!("{}\n{said}", String::from_utf8_lossy(&output.stdout)));
            }
            let said = said.trim().replace('\n', " ");
            Err(io::Error::other(format!("qm {}: {said}", arguments.join(" "))))
        }
        .boxed()
    }
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repaired {
    /// The rest of the clone is gone.
    Cleaned,
    /// So it is, but for disks that could not be removed, which the log of the destruction alone tells. The agent reads it,
    /// too, and its order stands still.
    Kept(Vec<String>),
    /// There is nothing to clean; the request was removed.
    Void(String),
    /// Not now: a worker may be alive, or the clone is too young. The request stays.
    NotYet(String),
    /// It must not be done. The request stays, so that the agent sees that nothing happened.
    Refused(String),
}

/// Everything the repair works with.
pub struct Repair<'a> {
    /// Proxmox as root.
    pub admin: &'a dyn AdminApi,
    /// `qm`.
    pub qm: &'a dyn Qm,
    /// The host's policy: its VMID range.
    pub policy: &'a Policy,
    /// Name of this node.
    pub node: &'a str,
    /// Where the agent leaves its requests.
    pub requests: PathBuf,
    /// Where Proxmox keeps its configurations.
    pub configs: PathBuf,
    /// The time.
    pub now: SystemTime,
}

impl<'a> Repair<'a> {
    /// The repair of a host as configured.
    pub fn of_host(
        config: &'a Config,
        policy: &'a Policy,
        admin: &'a dyn AdminApi,
        qm: &'a dyn Qm,
        now: SystemTime,
    ) -> Self {
        let requests = config.state_dir.join("repair");
        Self { admin, qm, policy, node: &config.pve_node, requests, configs: CONFIG_DIR.into(), now }
    }

    /// VMIDs that are asked for, by the names of the requests.
    ///
    /// # Errors
    /// The directory cannot be read; a missing one means that nothing is asked for.
    pub fn asked(&self) -> Result<Vec<Vmid>, SetupError> {
        let entries = match std::fs::read_dir(&self.requests) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(SetupError::file("list", &self.requests))?,
        };
        let vmid = |entry: io::Result<std::fs::DirEntry>| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            let vmid: Vmid = name.strip_prefix("clean-clone-")?.strip_suffix(".json")?.parse().ok()?;
            (request_name(vmid) == name).then_some(vmid)
        };
        let mut asked: Vec<Vmid> = entries.filter_map(vmid).collect();
        asked.sort_unstable();
        Ok(asked)
    }

    /// Cleans up after one clone, if everything says so.
    ///
    /// # Errors
    /// Proxmox or `qm` did not do what was asked; running it again goes on from there.
    pub async fn clean_clone(&self, vmid: Vmid) -> Result<Repaired, SetupError> {
        if !self.policy.vmids.contains(&vmid) {
            return Ok(Repaired::Refused(format!("VMID {vmid} is outside the policy's range")));
        }
        let path = format!("/nodes/{}/qemu/{vmid}/config", self.node);
        let config = match self.admin.call(Verb::Get, &path, &[]).await {
            Ok(config) => config,
            Err(error) if error.is_absent() => return self.void(vmid, "there is no such VM"),
            Err(error) => return Err(SetupError::pve(format!("reading VM {vmid}"))(error)),
        };
        let text = |key: &str| config.get(key).and_then(Value::as_str).unwrap_or_default();
        if text("lock") != "clone" {
            return self.void(vmid, "it is not locked by a clone");
        }
        let description = text("description");
        if description.trim() != CLONE_PLACEHOLDER && Marker::find(description).is_none() {
            return Ok(Repaired::Refused("its description is neither a clone's nor ours".to_owned()));
        }
        if config.get("template").is_some() {
            return Ok(Repaired::Refused("it is a template".to_owned()));
        }
        if let Some(why) = self.worker_alive().await? {
            return Ok(Repaired::NotYet(why));
        }
        if !self.is_old(vmid) {
            return Ok(Repaired::NotYet(format!("its configuration changed within {CRASHED_AFTER:?}")));
        }
        let id = vmid.to_string();
        let file = self.configs.join(format!("{vmid}.conf"));
        self.qm.run(&["unlock", &id]).await.map_err(SetupError::file("unlock", &file))?;
        let destroy = ["destroy", &id, "--purge", "1", "--destroy-unreferenced-disks", "1"];
        let said = self.qm.run(&destroy).await.map_err(SetupError::file("destroy", &file))?;
        self.forget(vmid)?;
        let kept: BTreeSet<String> = said.lines().filter_map(text::kept_volume).map(str::to_owned).collect();
        Ok(if kept.is_empty() { Repaired::Cleaned } else { Repaired::Kept(kept.into_iter().collect()) })
    }

    /// A running clone whose target is not known might be this one, so any running clone is a reason
    /// to wait: this repair is rare, and waiting costs nothing.
    async fn worker_alive(&self) -> Result<Option<String>, SetupError> {
        let path = format!("/nodes/{}/tasks", self.node);
        let active = [("source", "active".to_owned()), ("typefilter", "qmclone".to_owned())];
        let tasks =
            self.admin.call(Verb::Get, &path, &active).await.map_err(SetupError::pve("listing tasks"))?;
        let running = |task: &&Value| {
            let ended = task.get("status").and_then(Value::as_str).is_some_and(|s| s != "RUNNING");
            !ended && task.get("endtime").is_none()
        };
        let alive = tasks.as_array().and_then(|list| list.iter().find(running));
        Ok(alive.map(|task| format!("clone {} is at work", task.get("upid").unwrap_or(&Value::Null))))
    }

    fn is_old(&self, vmid: Vmid) -> bool {
        let file = self.configs.join(format!("{vmid}.conf"));
        let changed = std::fs::metadata(file).and_then(|meta| meta.modified());
        changed.is_ok_and(|at| self.now.duration_since(at).is_ok_and(|age| age >= CRASHED_AFTER))
    }

    fn void(&self, vmid: Vmid, why: &str) -> Result<Repaired, SetupError> {
        self.forget(vmid)?;
        Ok(Repaired::Void(why.to_owned()))
    }

    fn forget(&self, vmid: Vmid) -> Result<(), SetupError> {
        let file = self.requests.join(request_name(vmid));
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(SetupError::file("remove", &file)(error))
            }
            _ => Ok(()),
        }
    }
}

/// The agent's name for a request.
fn request_name(vmid: Vmid) -> String {
    format!("clean-clone-{vmid}.json")
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::Path, sync::Mutex};

    use serde_json::json;

    use super::*;
    use crate::{pve::PveError, setup::Parameters};

    const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

    #[derive(Default)]
    struct Host {
        configs: BTreeMap<Vmid, Value>,
        tasks: Vec<Value>,
        ran: Mutex<Vec<String>>,
        says: &'static str,
    }

    impl AdminApi for Host {
        fn call<'a>(
            &'a self,
            _verb: Verb,
            path: &'a str,
            _parameters: Parameters<'a>,
        ) -> BoxFuture<'a, Result<Value, PveError>> {
            let answer = if path.ends_with("/tasks") {
                Ok(Value::Array(self.tasks.clone()))
            } else {
                let vmid: Vmid = path.split('/').nth(4).unwrap().parse().unwrap();
                self.configs.get(&vmid).cloned().ok_or_else(|| PveError::Refused {
                    call: path.to_owned(),
                    status: 500,
                    message: format!("Configuration file 'nodes/n1/qemu-server/{vmid}.conf' does not exist"),
                    errors: BTreeMap::new(),
                })
            };
            std::future::ready(answer).boxed()
        }
        fn how(&self) -> String {
            "in memory".into()
        }
    }

    impl Qm for Host {
        fn run<'a>(&'a self, arguments: &'a [&'a str]) -> BoxFuture<'a, io::Result<String>> {
            self.ran.lock().unwrap().push(arguments.join(" "));
            std::future::ready(Ok(self.says.to_owned())).boxed()
        }
    }

    fn policy() -> Policy {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/node-agent/policy.toml");
        crate::policy::load(&path).unwrap()
    }

    /// Asks for VMID 100001 in a world, `age` after its configuration was written.
    async fn ask(host: &Host, vmid: Vmid, age: Duration) -> (Repaired, bool) {
        let dir = tempfile::tempdir().unwrap();
        let (requests, configs) = (dir.path().join("repair"), dir.path().join("conf"));
        std::fs::create_dir(&requests).unwrap();
        std::fs::create_dir(&configs).unwrap();
        std::fs::write(requests.join(request_name(vmid)), "{\"vmid\": 9000}").unwrap();
        std::fs::write(requests.join("clean-clone-../9000.json".replace('/', "_")), "").unwrap();
        let conf = configs.join(format!("{vmid}.conf"));
        std::fs::write(&conf, "").unwrap();
        let now = std::fs::metadata(&conf).unwrap().modified().unwrap() + age;
        let policy = policy();
        let repair = Repair { admin: host, qm: host, policy: &policy, node: "n1", requests, configs, now };
        assert_eq!(repair.asked().unwrap(), [vmid]);
        let result = repair.clean_clone(vmid).await.unwrap();
        (result, repair.asked().unwrap().is_empty())
    }

    fn crashed() -> Value {
        json!({"lock": "clone", "description": " qmclone temporary file", "digest": "x"})
    }

    fn with(config: Value) -> Host {
        Host { configs: [(100_001, config)].into(), ..Host::default() }
    }

    const OLD: Duration = Duration::from_secs(21);

    #[tokio::test]
    async fn the_rest_of_a_dead_clone_is_unlocked_and_destroyed() {
        let ours = json!({"lock": "clone", "description": format!("ez:v1 {ID} {ID} {ID} 1\n")});
        for config in [crashed(), ours] {
            let mut host = with(config);
            host.tasks = vec![json!({"upid": "x", "status": "OK", "endtime": 1})];
            assert_eq!(ask(&host, 100_001, OLD).await, (Repaired::Cleaned, true));
            let ran = host.ran.lock().unwrap();
            assert_eq!(*ran, ["unlock 100001", "destroy 100001 --purge 1 --destroy-unreferenced-disks 1"]);
        }
    }

    #[tokio::test]
    async fn a_disk_that_qm_could_not_remove_is_named() {
        let mut host = with(crashed());
        host.says = "WARN: Could not remove disk 'local-lvm:vm-100001-disk-0', check manually: in use\n\
                     purging VM 100001 from related configurations..\n";
        let kept = vec!["local-lvm:vm-100001-disk-0".to_owned()];
        assert_eq!(ask(&host, 100_001, OLD).await, (Repaired::Kept(kept), true));
    }

    #[tokio::test]
    async fn nothing_else_is_ever_touched() {
        let refused = |r: &Repaired| matches!(r, Repaired::Refused(_));
        let not_yet = |r: &Repaired| matches!(r, Repaired::NotYet(_));
        let void = |r: &Repaired| matches!(r, Repaired::Void(_));
        type Expect<'a> = &'a dyn Fn(&Repaired) -> bool;
        let mut busy = with(crashed());
        busy.tasks = vec![json!({"upid": "x", "status": "RUNNING"})];
        let outside = Host { configs: [(9_000, crashed())].into(), ..Host::default() };
        let foreign = json!({"lock": "clone", "description": "my own VM"});
        let mut template = crashed();
        template["template"] = 1.into();
        let cases: [(Host, Vmid, Duration, Expect<'_>, bool); 7] = [
            (outside, 9_000, OLD, &refused, false),
            (with(foreign), 100_001, OLD, &refused, false),
            (with(template), 100_001, OLD, &refused, false),
            (busy, 100_001, OLD, &not_yet, false),
            (with(crashed()), 100_001, Duration::from_secs(19), &not_yet, false),
            (with(json!({"lock": "backup", "description": ""})), 100_001, OLD, &void, true),
            (Host::default(), 100_001, OLD, &void, true),
        ];
        for (index, (host, vmid, age, expected, removed)) in cases.into_iter().enumerate() {
            let (result, gone) = ask(&host, vmid, age).await;
            assert!(expected(&result) && gone == removed, "case {index}: {result:?}");
            assert!(host.ran.lock().unwrap().is_empty(), "case {index}");
        }
    }
}
