//! Stage directions for the replay: what was done to the recorded machine behind the API's back.

use std::collections::BTreeMap;
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
    role: String,
}

const EZ_AGENT: &str = "VM.Allocate VM.Audit VM.PowerMgmt VM.Console VM.Snapshot VM.Snapshot.Rollback VM.Config.Disk VM.Config.CPU VM.Config.Memory VM.Config.Network VM.Config.Options VM.Config.Cloudinit VM.Config.HWType VM.Config.CDROM VM.Backup VM.Monitor Pool.Audit";

impl Stage {
    pub(super) async fn new(world: &World) -> Stage {
        let volumes = [("import/tiny.qcow2", "import", 44_040_192u64), ("iso/seed.iso", "iso", 65_536)];
        for (name, content, size) in volumes {
            world
                .control_post("/volumes", json!({"storage": "local", "name": name, "content": content, "size": size}))
                .await;
        }
        world.snippet("ci-user.yaml", "#cloud-config\nhostname: custom\n");
        Stage {
            upids: BTreeMap::new(),
            agent: String::new(),
            ez: String::new(),
            pool_scoped: false,
            observer: false,
            role: String::new(),
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
        ["/rrddata", "/monitor", "/sendkey", "/download-url", "/move_disk", "/migrate", "/spiceproxy", "/termproxy", "/vzdump",
            "/import-metadata", "/firewall/macros", "/firewall/groups", "/syslog", "/certificates", "/config/nodes", "/access/password",
            "/fsfreeze", "/firewall/log", "/sdn/", "/hosts"]
            .iter()
            .any(|p| path.contains(p))
            || path.ends_with("/nodes/pve1/firewall/options")
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
            && !path.contains("/access/acl")
            && !(method != "GET" && path.contains("/access/"))
            && !note.contains("clean up");
        let upid = line["body"]["data"].as_str().is_some_and(|d| d.contains(":agent@pve!node:"));
        let others = line["body"]["data"].as_str().is_some_and(|d| d.starts_with("UPID:") && !d.contains(":agent@pve!node:"));
        if (by_agent && !others) || upid || (path.contains("agent%40pve%21node") && number > 0) { self.agent.clone() } else { ROOT.into() }
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
                .post("/storage", &[("storage", id), ("type", "dir"), ("path", path.to_str().unwrap()), ("content", content)])
                .await
                .data();
        }
    }

    /// Who has what, as the note says.
    async fn cast(&mut self, world: &World, note: &str) {
        let observer = !(note.contains("without EzObserver") || note.contains("no EzObserver")) && note != "version" && {
            self.observer || note.contains("with EzObserver") || note == "linked clone into the pool"
        };
        if observer != self.observer {
            self.acl(world, "/vms", "EzObserver", !observer).await;
            self.observer = observer;
        }
        let missing = note.strip_prefix("EzAgent without ").and_then(|r| r.split([':', ',']).next()).unwrap_or("");
        if missing != self.role {
            let privs: Vec<&str> = EZ_AGENT.split(' ').filter(|p| *p != missing).collect();
            world.put("/access/roles/EzAgent", &[("privs", &privs.join(","))]).await.data();
            self.role = missing.to_owned();
        }
    }

    pub(super) async fn set(&mut self, world: &mut World, _number: usize, group: &str, note: &str, _line: &Value) {
        world.as_token(ROOT);
        if group == "pool-scoped" {
            if !self.pool_scoped {
                self.enter_pool_scope(world).await;
            }
            if !note.contains("final status") && !note.ends_with(" log") {
                self.cast(world, note).await;
            }
        }
        let lock = match note {
            "running VM with lock=backup" => Some((103, json!("backup"))),
            "config change on locked VM" => Some((103, json!("backup"))),
            "start with lock=clone" => Some((103, json!("clone"))),
            "resume" if group == "lifecycle" => Some((103, Value::Null)),
            _ => None,
        };
        if let Some((vmid, lock)) = lock {
            world.control_post(&format!("/vms/{vmid}/lock"), json!({ "lock": lock })).await;
        }
    }

    /// Failures of the recording machine: asked, but not judged.
    pub(super) fn is_artefact(&self, note: &str, line: &Value) -> bool {
        let exit = line["body"]["data"]["exitstatus"].as_str().unwrap_or("");
        note.contains("recording host")
            || note.contains("fails here")
            || exit.contains("zeroinit")
            || note.starts_with("start 101 KVM")
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
            let recorded = percent_encoding::percent_decode_str(&path[at..end]).decode_utf8_lossy().into_owned();
            if let Some(ours) = self.upids.get(&recorded) {
                let encoded = percent_encoding::utf8_percent_encode(ours, percent_encoding::NON_ALPHANUMERIC).to_string();
                path = format!("{}{encoded}{}", &path[..at], &path[end..]);
                if line["note"].as_str().is_some_and(|n| n.contains("final status")) {
                    for _ in 0..1000 {
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
            Some("form") => request = request.header("Content-Type", "application/x-www-form-urlencoded").body(encoded),
            Some("json") => request = request.header("Content-Type", "application/json").body(line["params"].to_string()),
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
