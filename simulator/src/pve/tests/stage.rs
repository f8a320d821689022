//! Stage directions for the replay: what was done to the recorded machine behind the API's back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use super::world::{ROOT, World};

/// Groups that need what is not simulated (tickets, broken bodies, backups, a machine's odds and ends).
const NOT_ASKED: &[&str] = &["auth", "backup", "misc", "transport", "console", "stats"];

pub(super) struct Stage {
    upids: BTreeMap<String, String>,
    agent: String,
    ez: String,
    pool_scoped: bool,
    observer: bool,
    small: bool,
    roles: BTreeMap<String, String>,
    gone: BTreeSet<String>,
    speed: Value,
}

const EZ_AGENT: &str = "VM.Allocate VM.Audit VM.PowerMgmt VM.Console VM.Snapshot VM.Snapshot.Rollback VM.Config.Disk VM.Config.CPU VM.Config.Memory VM.Config.Network VM.Config.Options VM.Config.Cloudinit VM.Config.HWType VM.Config.CDROM VM.Backup VM.Monitor Pool.Audit";

impl Stage {
    pub(super) async fn new(world: &World) -> Stage {
        world.snippet("ci-user.yaml", "#cloud-config\nhostname: custom\n");
        Stage {
            upids: BTreeMap::new(),
            agent: String::new(),
            ez: String::new(),
            pool_scoped: false,
            observer: false,
            small: false,
            roles: BTreeMap::new(),
            gone: BTreeSet::new(),
            speed: Value::Null,
        }
    }

    pub(super) fn skips(&self, _number: usize, group: &str, note: &str, line: &Value) -> bool {
        let path = line["path"].as_str().unwrap_or("");
        NOT_ASKED.contains(&group)
            || (note.contains(" poll ") && path.contains("/tasks/"))
            || path.contains("vncwebsocket")
            || path.contains("/upload")
            || self.later(path)
    }

    /// Calls that are not simulated.
    fn later(&self, path: &str) -> bool {
        [
            "/sendkey",
            "/download-url",
            "/move_disk",
            "/migrate",
            "/spiceproxy",
            "/termproxy",
            "/vzdump",
            "/import-metadata",
            "/syslog",
            "/config/nodes",
            "/access/password",
            "/cluster/backup",
            "/fsfreeze",
            "/firewall/log",
            "/sdn/zones/localnetwork",
            "/sdn/vnets",
            "/hosts",
        ]
        .iter()
        .any(|p| path.contains(p))
    }

    /// Which token made the recorded call.
    pub(super) fn token(&self, number: usize, group: &str, line: &Value) -> String {
        let note = line["note"].as_str().unwrap_or("");
        let method = line["method"].as_str().unwrap_or("");
        let path = line["path"].as_str().unwrap_or("");
        if line["auth"] == "ez-token" {
            return self.ez.clone();
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

    async fn acl(&self, world: &World, path: &str, role: &str, delete: bool) {
        let mut params = vec![("path", path), ("roles", role), ("users", "ez-agent@pve")];
        if delete {
            params.push(("delete", "1"));
        }
        world.put("/access/acl", &params).await.data();
    }

    async fn enter_pool_scope(&mut self, world: &World) {
        self.pool_scoped = true;
        for (role, privs) in [
            ("EzAgent", EZ_AGENT),
            ("EzObserver", "VM.Audit"),
            ("EzStore", "Datastore.AllocateSpace Datastore.Audit"),
            ("EzNet", "SDN.Use"),
            ("EzNode", "Sys.Audit"),
        ] {
            world.post("/access/roles", &[("roleid", role), ("privs", privs)]).await.data();
        }
        world.post("/access/users", &[("userid", "ez-agent@pve")]).await.data();
        for pool in ["ez", "ez-templates"] {
            world.post("/pools", &[("poolid", pool)]).await.data();
        }
        world.put("/pools", &[("poolid", "ez-templates"), ("vms", "9000,9010")]).await.data();
        for (path, role) in [
            ("/pool/ez", "EzAgent"),
            ("/pool/ez-templates", "PVETemplateUser"),
            ("/storage/local", "EzStore"),
            ("/sdn/zones/localnetwork/vmbr0", "EzNet"),
            ("/nodes/pve1", "EzNode"),
        ] {
            self.acl(world, path, role, false).await;
        }
        let made = world.post("/access/users/ez-agent@pve/token/node-pve1", &[("privsep", "0")]).await;
        self.ez = format!("ez-agent@pve!node-pve1={}", made.data()["value"].as_str().unwrap());
        for id in ["ez-ci", "ez-other"] {
            let path = world.directory.join(id);
            std::fs::create_dir_all(&path).unwrap();
            let content = if id == "ez-ci" { "snippets" } else { "images" };
            world
                .post(
                    "/storage",
                    &[
                        ("storage", id),
                        ("type", "dir"),
                        ("path", path.to_str().unwrap()),
                        ("content", content),
                    ],
                )
                .await
                .data();
        }
    }

    async fn role(&self, world: &World, role: &str, privs: &str) {
        let privs = privs.split_whitespace().collect::<Vec<_>>().join(",");
        world.put(&format!("/access/roles/{role}"), &[("privs", &privs)]).await.data();
    }

    /// Who has what, as the note says.
    async fn cast(&mut self, world: &World, note: &str) {
        let observer = !(note.contains("without EzObserver") || note.contains("no EzObserver"))
            && note != "version"
            && (self.observer
                || note.contains("with EzObserver")
                || note == "linked clone into the pool"
                || note.starts_with("EzAgent without Pool"));
        if observer != self.observer {
            self.acl(world, "/vms", "EzObserver", !observer).await;
            self.observer = observer;
        }
        if note.starts_with("minimal role set") {
            self.small = true;
        }
        let mut agent = EZ_AGENT.to_owned();
        let mut drop_from = |privilege: &str| {
            agent = agent.split(' ').filter(|p| *p != privilege).collect::<Vec<_>>().join(" ");
        };
        if self.small {
            ["VM.Config.HWType", "VM.Config.CDROM", "VM.Snapshot.Rollback"]
                .into_iter()
                .for_each(&mut drop_from);
        }
        drop_from(
            note.strip_prefix("EzAgent without ").and_then(|r| r.split([':', ',']).next()).unwrap_or(""),
        );
        if note.contains("clone without Pool.Audit") {
            drop_from("Pool.Audit");
        }
        if note.contains("with VM.Clone in EzAgent") {
            agent.push_str(" VM.Clone");
        }
        if note.contains("with Pool.Allocate")
            || note.contains("left the pool")
            || note == "pool: add a missing VM"
        {
            agent.push_str(" Pool.Allocate");
        }
        let store = match note {
            n if n.starts_with("EzStore without Datastore.AllocateSpace") => "Datastore.Audit",
            n if self.small || n.starts_with("EzStore without Datastore.Audit") => "Datastore.AllocateSpace",
            _ => "Datastore.AllocateSpace Datastore.Audit",
        };
        for (role, privs) in [("EzAgent", agent.as_str()), ("EzStore", store)] {
            if self.roles.get(role).map(String::as_str) != Some(privs) {
                self.role(world, role, privs).await;
                self.roles.insert(role.into(), privs.into());
            }
        }
        for (path, role) in [("/sdn/zones/localnetwork/vmbr0", "EzNet"), ("/nodes/pve1", "EzNode")] {
            let gone = note.starts_with(&format!("without {role}"));
            if gone != self.gone.contains(role) {
                self.acl(world, path, role, gone).await;
                if gone {
                    self.gone.insert(role.into())
                } else {
                    self.gone.remove(role)
                };
            }
        }
    }

    /// What root did between two recorded calls.
    async fn root_does(&mut self, world: &World, note: &str) {
        let pool = |vms: &'static str| [("poolid", "ez"), ("vms", vms)];
        match note {
            "EzAgent without VM.Allocate: linked clone" | "minimal role set: PUT serial0" => {
                let clone = [("newid", "710"), ("pool", "ez"), ("name", "Copy-of-VM-tmpl-tiny")];
                world.task(reqwest::Method::POST, "/nodes/pve1/qemu/9010/clone", &clone).await;
                if note.starts_with("EzAgent") {
                    world.task(reqwest::Method::POST, "/nodes/pve1/qemu/710/status/start", &[]).await;
                }
            }
            "EzAgent without Pool.Audit: pool members" => {
                world.task(reqwest::Method::POST, "/nodes/pve1/qemu/710/status/stop", &[]).await;
                world.task(reqwest::Method::DELETE, "/nodes/pve1/qemu/710", &[]).await;
            }
            "drop the rate limit (no tc police in this kernel)" => {
                world.task(reqwest::Method::POST, "/nodes/pve1/qemu/101/status/stop", &[]).await;
            }
            "destroy the created VM" | "destroy the imported VM" => {
                for _ in 0..500 {
                    let tasks = world.control("/tasks").await;
                    if tasks["tasks"].as_array().into_iter().flatten().all(|t| t["running"] == false) {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            "templates: VM.Clone only, no EzObserver: template config read" => {
                world.post("/access/roles", &[("roleid", "OnlyClone"), ("privs", "VM.Clone")]).await.data();
                self.acl(world, "/pool/ez-templates", "PVETemplateUser", true).await;
                self.acl(world, "/pool/ez-templates", "OnlyClone", false).await;
            }
            "EzAgent without Pool.Audit: pools" => {
                self.acl(world, "/pool/ez-templates", "OnlyClone", true).await;
                self.acl(world, "/pool/ez-templates", "PVETemplateUser", false).await;
            }
            "EzAgent by pool, EzObserver on /vms, another role on /vms/700" => {
                self.acl(world, "/vms/700", "EzNet", false).await
            }
            "foreign VM: EzObserver on /vms, another role on /vms/101" => {
                self.acl(world, "/vms/101", "EzNet", false).await
            }
            "NoAccess on /vms/700" => self.acl(world, "/vms/700", "NoAccess", false).await,
            "pools with a nested one" => {
                for (path, role) in [("/vms/700", "NoAccess"), ("/vms/700", "EzNet"), ("/vms/101", "EzNet")] {
                    self.acl(world, path, role, true).await;
                }
                world.post("/pools", &[("poolid", "ez/sub")]).await.data();
            }
            "pool members restored" => {
                world.put("/pools", &pool("700")).await.data();
            }
            "half-made clone after qm unlock: destroy" => {
                world.control_post("/vms/711/lock", json!({"lock": null})).await;
            }
            "half-made clone after qm unlock and joining the pool: destroy" => {
                world.put("/pools", &pool("711")).await.data();
            }
            "after qm unlock + qm destroy" => {
                world.control_post("/vms/184/unlock-destroy", json!({})).await;
            }
            "destroy a protected VM" => {
                world.put("/nodes/pve1/qemu/103/config", &[("protection", "1")]).await.data();
            }
            "shutdown while the guest is still booting: a long task" => {
                world.control_post("/vms/120/deaf", json!({"deaf": true})).await;
            }
            "stop a finished task" => {
                world.control_post("/vms/120/deaf", json!({"deaf": false})).await;
            }
            _ => {}
        }
        let slow = [
            "full clone, then ask",
            "slow full clone",
            "full clone into the pool",
            "linked clone into the pool",
            "full clone to be stopped",
            "full clone whose worker is killed",
            "full clone, writes during it",
        ];
        let speed = if slow.iter().any(|s| note.starts_with(s))
            && !note.contains("final status")
            && !note.ends_with(" log")
        {
            Some(json!({"clone_ms": 1600, "start_ms": 10, "other_ms": 150}))
        } else if note.contains("final status") {
            Some(json!({"clone_ms": 20, "start_ms": 10, "other_ms": 5}))
        } else {
            None
        };
        if let Some(speed) = speed.filter(|s| *s != self.speed) {
            world.control_post("/speed", speed.clone()).await;
            self.speed = speed;
        }
    }

    pub(super) async fn set(&mut self, world: &mut World, group: &str, note: &str, line: &Value) {
        world.as_token(ROOT);
        let polled = note.contains("final status") || note.ends_with(" log");
        if group == "pool-scoped" {
            if !self.pool_scoped {
                self.enter_pool_scope(world).await;
            }
            if !polled {
                self.cast(world, note).await;
            }
            if let Some(custom) = line["params"]["cicustom"].as_str() {
                for file in custom
                    .split(',')
                    .filter_map(|p| p.split("ez-ci:snippets/").nth(1))
                    .filter(|f| !f.contains("missing"))
                {
                    let directory = world.directory.join("ez-ci/snippets");
                    std::fs::create_dir_all(&directory).unwrap();
                    std::fs::write(directory.join(file), "instance-id: x\n").unwrap();
                }
            }
        }
        if note == "create VM from an image: import-from"
            || note == "upload an ISO"
            || note.starts_with("storage content")
        {
            for (name, content, size) in
                [("import/tiny.qcow2", "import", 44_040_192u64), ("iso/seed.iso", "iso", 65_536)]
            {
                let file = json!({"storage": "local", "name": name, "content": content, "size": size});
                world.control_post("/volumes", file).await;
            }
        }
        self.root_does(world, note).await;
        let lock = match note {
            "running VM with lock=backup" => Some(json!("backup")),
            "start with lock=clone" => Some(json!("clone")),
            "suspend (pause)" => Some(Value::Null),
            _ => None,
        };
        if let Some(lock) = lock {
            world.control_post("/vms/103/lock", json!({ "lock": lock })).await;
        }
        // A worker that had been killed.
        let exit = line["body"]["data"]["exitstatus"].as_str().unwrap_or("");
        if (exit == "unexpected status" || exit.starts_with("unable to read tail"))
            && let Some(ours) = line["body"]["data"]["upid"].as_str().and_then(|u| self.upids.get(u))
        {
            world.control_post("/tasks/kill", json!({ "upid": ours })).await;
        }
    }

    /// Failures of the recording machine: asked, but not judged.
    pub(super) fn is_artefact(&self, note: &str, line: &Value) -> bool {
        let exit = line["body"]["data"]["exitstatus"].as_str().unwrap_or("");
        note.contains("recording host")
            || note.contains("fails here")
            || exit.contains("zeroinit")
            || note.starts_with("start 101 KVM")
            || line["body"].to_string().contains("CPU model 'host'")
    }

    /// After an exchange: new UPIDs, new tokens, and what the recorded machine did otherwise.
    pub(super) async fn after(&mut self, world: &World, line: &Value, body: &Value) {
        let recorded = line["body"]["data"].as_str().unwrap_or("");
        if let (true, Some(ours)) = (recorded.starts_with("UPID:"), body["data"].as_str()) {
            self.upids.insert(recorded.to_owned(), ours.to_owned());
        }
        if line["path"] == "/api2/json/access/users/agent@pve/token/node"
            && let Some(secret) = body["data"]["value"].as_str()
        {
            self.agent = format!("agent@pve!node={secret}");
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
                world.control_post("/guest-agent", json!({"vmid": 9010, "answers": true})).await;
            }
        }
        let exit = line["body"]["data"]["exitstatus"].as_str().unwrap_or("");
        if exit.starts_with("clone failed") && exit.contains("zeroinit") {
            let vmid = exit.split("/images/").nth(2).and_then(|p| p.split('/').next()).unwrap_or("161");
            world.control_post(&format!("/vms/{vmid}/unlock-destroy"), json!({})).await;
        }
    }

    /// Asks what was asked, with our UPIDs in place of the recorded.
    pub(super) async fn ask(&self, world: &World, line: &Value) -> Option<(u16, String, Value, String)> {
        let mut path = line["path"].as_str().unwrap_or("").to_owned();
        if let Some(at) = path.find("UPID%3A") {
            let end = path[at..].find('/').map_or(path.len(), |e| at + e);
            let recorded =
                percent_encoding::percent_decode_str(&path[at..end]).decode_utf8_lossy().into_owned();
            if let Some(ours) = self.upids.get(&recorded) {
                let encoded = percent_encoding::utf8_percent_encode(ours, percent_encoding::NON_ALPHANUMERIC)
                    .to_string();
                path = format!("{}{encoded}{}", &path[..at], &path[end..]);
                if line["note"].as_str().is_some_and(|n| n.contains("final status")) {
                    for _ in 0..10_000 {
                        let (_, _, body, _) = self.send(world, line, &path).await?;
                        if body["data"]["status"] == "stopped" {
                            break;
                        }
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                }
            } else if !recorded.contains("0000FFFF") {
                return None;
            }
        }
        self.send(world, line, &path).await
    }

    async fn send(&self, world: &World, line: &Value, path: &str) -> Option<(u16, String, Value, String)> {
        let method = line["method"].as_str().unwrap_or("GET");
        let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        let params: Vec<(String, String)> =
            line["params"].as_object().into_iter().flatten().map(|(k, v)| (k.clone(), text(v))).collect();
        let encoded = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(&params).finish();
        let base = world.url("");
        let base = base.trim_end_matches("/api2/json");
        let query = line["encoding"] == "query" && !encoded.is_empty();
        let url = if query { format!("{base}{path}?{encoded}") } else { format!("{base}{path}") };
        let mut request = world.client().request(method.parse().unwrap(), url);
        request = request.header("Authorization", format!("PVEAPIToken={}", world.token));
        match line["encoding"].as_str() {
            Some("form") => {
                request = request.header("Content-Type", "application/x-www-form-urlencoded").body(encoded)
            }
            Some("json") => {
                request = request.header("Content-Type", "application/json").body(line["params"].to_string())
            }
            _ => {}
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let response: http::Response<reqwest::Body> = response.into();
        let reason = response.extensions().get::<hyper::ext::ReasonPhrase>().map_or_else(
            || response.status().canonical_reason().unwrap_or("").to_owned(),
            |r| String::from_utf8_lossy(r.as_bytes()).into_owned(),
        );
        let bytes = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Some((status, reason, serde_json::from_str(&text).unwrap_or(Value::Null), text))
    }
}
