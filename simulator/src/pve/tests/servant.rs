//! One server in the pool, and a token that may do with it what the node agent may.

use reqwest::Method;
use serde_json::{Value, json};

use super::world::World;

pub(super) const Q: &str = "/nodes/pve1/qemu/101";
pub(super) const CONFIG: &str = "/nodes/pve1/qemu/101/config";
pub(super) const MARKER: &str = "ez:v1 inst 101 order 1";
pub(super) const VZDUMP: &str = "/nodes/pve1/vzdump";

/// What the node agent's role gives on its pool, but for VM.Backup and VM.Monitor.
const ROLE: &str = "VM.Allocate VM.Audit VM.PowerMgmt VM.Console VM.Snapshot VM.Config.Disk VM.Config.CPU VM.Config.Memory VM.Config.Network VM.Config.Options VM.Config.Cloudinit VM.Config.CDROM";

impl World {
    /// A full clone of the template in the pool `ez`: VM 101.
    pub(super) async fn server(&self) {
        self.post("/pools", &[("poolid", "ez")]).await.data();
        let clone =
            [("newid", "101"), ("full", "1"), ("pool", "ez"), ("name", "vps"), ("description", MARKER)];
        assert_eq!(self.task(Method::POST, "/nodes/pve1/qemu/9000/clone", &clone).await, "OK");
        self.put(CONFIG, &[("net0", "virtio=BC:24:11:AA:BB:CC,bridge=vmbr0,firewall=1")]).await.data();
        self.put(&format!("{Q}/firewall/options"), &[("enable", "1"), ("ipfilter", "1")]).await.data();
    }

    /// From here on calls are made with a token like the node agent's, with more rights on the pool.
    pub(super) async fn as_agent(&mut self, more: &str) {
        self.as_token(super::world::ROOT);
        let role = format!("{ROLE} {more}");
        for (id, privs) in [
            ("EzAgent", role.trim()),
            ("EzStore", "Datastore.AllocateSpace"),
            ("EzNet", "SDN.Use"),
            ("EzImages", "VM.Clone VM.Audit"),
        ] {
            self.post("/access/roles", &[("roleid", id), ("privs", privs)]).await.data();
        }
        self.post("/access/users", &[("userid", "ez@pve")]).await.data();
        for (path, role) in [
            ("/pool/ez", "EzAgent"),
            ("/pool/ez-templates", "EzImages"),
            ("/storage/local", "EzStore"),
            ("/storage/local-lvm", "EzStore"),
            ("/sdn/zones/localnetwork/vmbr0", "EzNet"),
        ] {
            let acl = [("path", path), ("roles", role), ("users", "ez@pve")];
            self.put("/access/acl", &acl).await.data();
        }
        let made = self.post("/access/users/ez@pve/token/agent", &[("privsep", "0")]).await;
        let secret = made.data()["value"].as_str().unwrap().to_owned();
        self.as_token(&format!("ez@pve!agent={secret}"));
    }

    pub(super) async fn config(&self) -> Value {
        self.get(CONFIG).await.data().clone()
    }

    /// VM 101 as the control API shows it.
    pub(super) async fn picture(&self) -> Value {
        self.control("/vms/101").await
    }

    /// Writes to the disk that VM 101 boots from.
    pub(super) async fn write(&self, text: &str) {
        let written = self.control_post("/vms/101/write", json!({"text": text})).await;
        assert!(written["volid"].is_string(), "{written}");
    }

    /// What was written to the disk that VM 101 boots from.
    pub(super) async fn written(&self) -> Value {
        self.picture().await["boots"]["holds"]["writes"].clone()
    }

    pub(super) async fn start(&self) {
        assert_eq!(self.task(Method::POST, &format!("{Q}/status/start"), &[]).await, "OK");
    }

    pub(super) async fn stop(&self) {
        assert_eq!(self.task(Method::POST, &format!("{Q}/status/stop"), &[]).await, "OK");
    }

    /// Backs VM 101 up; gives the UPID.
    pub(super) async fn back_up(&self, more: &[(&str, &str)]) -> String {
        let params = [&[("vmid", "101"), ("storage", "local"), ("compress", "zstd")], more].concat();
        self.post(VZDUMP, &params).await.data().as_str().unwrap().to_owned()
    }

    /// The backups of VM 101, oldest first.
    pub(super) async fn backups(&self) -> Vec<Value> {
        let listed = self.get("/nodes/pve1/storage/local/content?content=backup&vmid=101").await;
        listed.data().as_array().unwrap().clone()
    }

    /// The volume id of the newest backup of VM 101.
    pub(super) async fn newest_backup(&self) -> String {
        self.backups().await.last().unwrap()["volid"].as_str().unwrap().to_owned()
    }

    /// Waits until a task's log has a line with `text`.
    pub(super) async fn until_logged(&self, upid: &str, text: &str) {
        let patience = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
        while !self.log(upid).await.iter().any(|line| line.contains(text)) {
            assert!(tokio::time::Instant::now() < patience, "{text:?}: {:?}", self.log(upid).await);
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }

    /// Arms a rule on the first node.
    pub(super) async fn arm(&self, rule: Value) {
        let armed = self.control_post("/faults", rule).await;
        assert!(armed["id"].is_u64(), "{armed}");
    }
}
