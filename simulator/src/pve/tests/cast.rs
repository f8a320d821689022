//! Stage directions for the replay: who has which role, and what root did between two recorded calls.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::world::World;

const EZ_AGENT: &str = "VM.Allocate VM.Audit VM.PowerMgmt VM.Console VM.Snapshot VM.Snapshot.Rollback VM.Config.Disk VM.Config.CPU VM.Config.Memory VM.Config.Network VM.Config.Options VM.Config.Cloudinit VM.Config.HWType VM.Config.CDROM VM.Backup VM.Monitor Pool.Audit";

/// The parts that are given out.
#[derive(Default)]
pub(super) struct Cast {
    /// The pool-scoped token.
    pub(super) ez: String,
    entered: bool,
    observer: bool,
    small: bool,
    roles: BTreeMap<String, String>,
    gone: BTreeSet<String>,
}

impl Cast {
    async fn acl(&self, world: &World, path: &str, role: &str, delete: bool) {
        let mut params = vec![("path", path), ("roles", role), ("users", "ez-agent@pve")];
        if delete {
            params.push(("delete", "1"));
        }
        world.put("/access/acl", &params).await.data();
    }

    async fn enter_pool_scope(&mut self, world: &World) {
        self.entered = true;
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

    /// Sets the scene of the pool-scoped token's calls.
    pub(super) async fn pool_scope(&mut self, world: &World, note: &str) {
        if !self.entered {
            self.enter_pool_scope(world).await;
        }
        if !(note.contains("final status") || note.contains(" poll ") || note.ends_with(" log")) {
            self.give(world, note).await;
        }
    }

    /// Who has what, as the note says.
    async fn give(&mut self, world: &World, note: &str) {
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
        if note.contains("clone without Pool.Audit") || note == "resources: own VM" {
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
    pub(super) async fn root_does(&self, world: &World, note: &str) {
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
            "full clone to be stopped" => {
                world.task(reqwest::Method::DELETE, "/nodes/pve1/qemu/710", &[]).await;
            }
            "full clone whose worker is killed" => {
                world.task(reqwest::Method::DELETE, "/nodes/pve1/qemu/711", &[]).await;
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
    }
}
