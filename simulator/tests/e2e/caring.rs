//! Looking after a server through the API, end to end: each verb, with the real agent and what Proxmox says afterwards.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{
    browser::Browser,
    judging,
    purchase::{PATIENCE, buy, server_is},
    support::{Api, Database, Demo, until},
};

/// A server that is looked after, and the demo it is in.
pub struct Care {
    pub demo: Arc<Demo>,
    pub api: Api,
    pub server: String,
    pub node: usize,
    pub vmid: i64,
}

impl Care {
    /// A demo of one node with a server on it.
    pub async fn begin(story: &str) -> Option<Self> {
        let demo = Demo::start(story, Database::Sqlite, 1).await?;
        Some(Self::of(Arc::new(demo), 0, "web-1", "fsn").await)
    }

    /// Buys a server at a place, where only this node stands.
    pub async fn of(demo: Arc<Demo>, node: usize, name: &str, location: &str) -> Self {
        let (_, server) = buy(&demo, name, location).await;
        Self::known(demo, node, server["id"].as_str().unwrap()).await
    }

    /// A server that is there.
    pub async fn known(demo: Arc<Demo>, node: usize, server: &str) -> Self {
        let server = server.to_owned();
        let api = demo.api("customer");
        let mut care = Self { demo, api, server, node, vmid: 0 };
        care.settled().await;
        care.vmid = care.vm().await["vmid"].as_i64().unwrap();
        care
    }

    pub fn path(&self, rest: &str) -> String {
        format!("/servers/{}{rest}", self.server)
    }

    /// The server, once nothing is under way.
    pub async fn settled(&self) -> Value {
        until("the server's action to end", PATIENCE, || async {
            let (status, server) = self.api.try_get(&self.path("")).await;
            (status == 200 && server["action"].is_null()).then_some(server)
        })
        .await
    }

    /// The VM that carries the server's marker, as the simulator tells it.
    pub async fn vm(&self) -> Value {
        let all = self.demo.host(self.node).get("/vms").await;
        let mine = |vm: &&Value| vm["description"].as_str().is_some_and(|d| d.contains(&self.server));
        all["vms"].as_array().unwrap().iter().find(mine).cloned().unwrap_or_default()
    }

    /// What Proxmox itself answers about the VM.
    pub async fn proxmox(&self, what: &str) -> Value {
        self.demo.host(self.node).read(&format!("/qemu/{}{what}", self.vmid)).await
    }

    /// Begins an action and waits for its end.
    pub async fn act(&self, body: Value) -> Value {
        let (status, begun) = self.api.post(&self.path("/actions"), body.clone()).await;
        assert_eq!(status, 202, "{body}: {begun}");
        self.ends(&begun).await
    }

    pub async fn ends(&self, begun: &Value) -> Value {
        let path = self.path(&format!("/actions/{}", begun["id"].as_str().unwrap()));
        let ended = until(&format!("{} to end", begun["kind"]), PATIENCE, || async {
            let (status, action) = self.api.try_get(&path).await;
            (status == 200 && action["status"] != "running").then_some(action)
        })
        .await;
        assert_eq!(ended["status"], "success", "{ended}");
        assert!(!ended["steps"].as_array().unwrap().is_empty(), "the node's own steps are told: {ended}");
        ended
    }

    /// An action that is refused; gives the code.
    pub async fn refused(&self, body: Value) -> String {
        let (status, answer) = self.api.post(&self.path("/actions"), body.clone()).await;
        assert!((400..500).contains(&status), "{body}: {status} {answer}");
        answer["code"].as_str().unwrap().to_owned()
    }

    pub async fn end(self) {
        self.settled().await;
        judging::proxmox(&self.demo, "looking after a server").await;
        self.demo.check().await;
        Arc::into_inner(self.demo).unwrap().stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_taken_rolled_back_to_and_deleted() {
    let Some(care) = Care::begin("snapshots").await else { return };
    let names = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().filter_map(|s| s["name"].as_str()).map(str::to_owned).collect()
    };
    care.act(json!({"action": "snapshot_create", "name": "clean"})).await;
    let list = care.api.get(&care.path("/snapshots")).await;
    assert_eq!(names(&list["data"]), ["clean"]);
    assert!(names(&care.proxmox("/snapshot").await).contains(&"clean".to_owned()));
    let rules = json!({"inbound": "drop", "rules": []});
    let (status, put) = care.api.put(&care.path("/firewall"), rules.clone()).await;
    assert_eq!(status, 202, "{put}");
    care.ends(&put["action"]).await;
    let rolled = care.act(json!({"action": "snapshot_rollback", "name": "clean"})).await;
    assert!(rolled["steps"].as_array().unwrap().iter().any(|step| step["name"] == "roll_back"), "{rolled}");
    server_is(&care.api, &care.server, "running").await;
    // The disk went back; what was wished since did not.
    let shown = care.api.get(&care.path("/firewall")).await;
    assert_eq!(shown["inbound"], "drop");
    assert_eq!(care.proxmox("/firewall/options").await["policy_in"], "DROP");
    care.act(json!({"action": "snapshot_delete", "name": "clean"})).await;
    assert!(names(&care.api.get(&care.path("/snapshots")).await["data"]).is_empty());
    assert!(!names(&care.proxmox("/snapshot").await).contains(&"clean".to_owned()));
    care.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn firewall_rules_reach_the_host_in_their_order_and_go_away() {
    let Some(care) = Care::begin("firewall rules").await else { return };
    let rules = json!({"inbound": "drop", "rules": [
        {"direction": "in", "verdict": "accept", "protocol": "tcp", "ports": "22", "peers": ["198.51.100.0/24"]},
        {"direction": "in", "verdict": "accept", "protocol": "tcp", "ports": "8000-8100"},
    ]});
    let (status, put) = care.api.put(&care.path("/firewall"), rules.clone()).await;
    assert_eq!(status, 202, "{put}");
    care.ends(&put["action"]).await;
    let shown = care.api.get(&care.path("/firewall")).await;
    assert_eq!((&shown["inbound"], &shown["rules"]), (&rules["inbound"], &rules["rules"]));
    let there = care.proxmox("/firewall/rules").await;
    let mut there = there.as_array().unwrap().clone();
    there.sort_by_key(|rule| rule["pos"].as_i64());
    let ports: Vec<_> = there.iter().map(|rule| rule["dport"].as_str().unwrap_or_default()).collect();
    assert_eq!(ports, ["22", "8000:8100"], "{there:?}");
    assert_eq!(care.proxmox("/firewall/options").await["policy_in"], "DROP");
    let (status, _) = care.api.put(&care.path("/firewall"), rules).await;
    assert_eq!(status, 200, "the same again does nothing");
    let (status, put) =
        care.api.put(&care.path("/firewall"), json!({"inbound": "accept", "rules": []})).await;
    assert_eq!(status, 202, "{put}");
    care.ends(&put["action"]).await;
    assert_eq!(care.proxmox("/firewall/rules").await, json!([]));
    assert_eq!(care.proxmox("/firewall/options").await["policy_in"], "ACCEPT");
    care.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_gives_another_system_under_the_same_number_address_and_card() {
    let Some(care) = Care::begin("a rebuild").await else { return };
    let (before, vm) = (care.settled().await, care.vm().await);
    care.act(json!({"action": "snapshot_create", "name": "clean"})).await;
    let rebuilt = care.act(json!({"action": "rebuild", "image": "debian-12"})).await;
    let steps: Vec<_> =
        rebuilt["steps"].as_array().unwrap().iter().map(|step| step["name"].clone()).collect();
    assert!(steps.contains(&json!("destroy")) && steps.contains(&json!("clone")), "{steps:?}");
    let after = server_is(&care.api, &care.server, "running").await;
    assert_eq!(after["image"], "debian-12");
    for same in ["ipv4", "ipv6", "name", "order_id"] {
        assert_eq!(after[same], before[same], "{same}");
    }
    let anew = care.vm().await;
    assert_eq!((&anew["vmid"], &anew["macs"], &anew["ips"]), (&vm["vmid"], &vm["macs"], &vm["ips"]));
    assert_ne!(anew["description"], vm["description"], "the marker names the order that made it");
    assert_eq!(care.api.get(&care.path("/snapshots")).await["data"], json!([]), "they were of the old disk");
    assert_eq!(
        care.refused(json!({"action": "rebuild", "image": "rescue-debian-13"})).await,
        "invalid_input"
    );
    care.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_password_is_shown_once_and_set_by_its_hash_at_once_or_at_the_next_boot() {
    let Some(care) = Care::begin("a new password").await else { return };
    let path = care.path("/actions");
    let wish = || json!({"action": "set_password"});
    let (status, begun) = care.api.post_with_key(&path, wish(), "reset-1").await;
    assert_eq!(status, 202, "{begun}");
    let password = begun["password"].as_str().unwrap().to_owned();
    let (status, again) = care.api.post_with_key(&path, wish(), "reset-1").await;
    assert_eq!((status, &again["id"], again.get("password")), (202, &begun["id"], None), "shown once");
    let ended = care.ends(&begun).await;
    assert_eq!(ended["takes_effect"], "now", "the guest answered, and the host's owner lets us in");
    assert!(ended.get("password").is_none());
    let told = async || care.vm().await["cloudinit"].to_string();
    let vm = told().await;
    assert!(!vm.contains("$6$"), "the next boot does not set it over what was chosen since: {vm}");
    care.act(json!({"action": "stop"})).await;
    server_is(&care.api, &care.server, "stopped").await;
    let off = care.act(wish()).await;
    assert_eq!(off["takes_effect"], "next_boot", "a guest that is off is told when it boots");
    let vm = told().await;
    assert!(vm.contains("$6$"), "the hash waits for the next boot: {vm}");
    assert!(!vm.contains(&password), "the password itself is nowhere");
    care.act(json!({"action": "start"})).await;
    server_is(&care.api, &care.server, "running").await;
    care.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_server_stays_off_until_it_is_resumed() {
    let Some(care) = Care::begin("suspension").await else { return };
    let command = ["server", "suspend", care.server.as_str(), "--reason", "Invoice 117 is unpaid."];
    for _ in 0..2 {
        let told = care.demo.control_plane(&command).await;
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    }
    let server = server_is(&care.api, &care.server, "stopped").await;
    assert_eq!(server["suspended"]["reason"], "Invoice 117 is unpaid.");
    care.settled().await;
    assert_eq!(care.vm().await["config"]["onboot"], "0", "nor does a restart of the host start it");
    for verb in ["start", "snapshot_create", "set_password"] {
        let mut wish = json!({ "action": verb });
        if verb == "snapshot_create" {
            wish["name"] = json!("clean");
        }
        assert_eq!(care.refused(wish).await, "suspended", "{verb}");
    }
    let told = care.demo.control_plane(&["server", "resume", &care.server]).await;
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let server = server_is(&care.api, &care.server, "running").await;
    assert!(server["suspended"].is_null(), "{server}");
    care.settled().await;
    care.act(json!({"action": "reboot"})).await;
    care.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_reach_the_host_for_its_owner() {
    let Some(care) = Care::begin("tags").await else { return };
    let told = care.demo.control_plane(&["server", "tag", &care.server, "gold", "web"]).await;
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    care.settled().await;
    let tags = care.proxmox("/config").await["tags"].as_str().unwrap_or_default().to_owned();
    assert!(tags.split([';', ',']).any(|tag| tag == "gold"), "{tags}");
    let refused = care.demo.control_plane(&["server", "tag", &care.server, "ez-mine"]).await;
    assert!(!refused.status.success(), "tags that begin with ez are ours");
    care.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_made_restored_from_and_deleted_and_the_oldest_goes() {
    let Some(care) = Care::begin("backups").await else { return };
    let most = care.settled().await["max_backups"].as_u64().unwrap();
    let mut made = Vec::new();
    for _ in 0..=most {
        let action = care.act(json!({"action": "backup_create"})).await;
        made.push(action["provisioning_order_id"].as_str().unwrap().to_owned());
    }
    let ids = |list: &Value| -> Vec<String> {
        list["data"].as_array().unwrap().iter().filter_map(|b| b["id"].as_str()).map(str::to_owned).collect()
    };
    let newest: Vec<String> = made.iter().skip(1).rev().cloned().collect();
    assert_eq!(
        ids(&care.api.get(&care.path("/backups")).await),
        newest,
        "known by their orders, newest first"
    );
    let gone = json!({"action": "backup_restore", "backup": made[0]});
    assert_eq!(care.refused(gone).await, "invalid_input", "the oldest went when there was one too many");
    care.act(json!({"action": "snapshot_create", "name": "clean"})).await;
    let before = care.vm().await;
    care.act(json!({"action": "backup_restore", "backup": made[1]})).await;
    server_is(&care.api, &care.server, "running").await;
    let after = care.vm().await;
    assert_eq!(
        (&after["vmid"], &after["macs"], &after["ips"]),
        (&before["vmid"], &before["macs"], &before["ips"])
    );
    assert_eq!(care.api.get(&care.path("/snapshots")).await["data"], json!([]), "they were of the old disk");
    care.act(json!({"action": "backup_delete", "backup": made[1]})).await;
    assert!(!ids(&care.api.get(&care.path("/backups")).await).contains(&made[1]));
    care.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rescue_system_boots_beside_the_own_disk_and_leaves_no_trace() {
    let Some(care) = Care::begin("rescue").await else { return };
    let before = care.proxmox("/config").await;
    let begun = care.act(json!({"action": "rescue_on"})).await;
    assert!(begun["steps"].as_array().unwrap().iter().any(|step| step["name"] == "attach_rescue"), "{begun}");
    let server = server_is(&care.api, &care.server, "running").await;
    assert_eq!(server["rescue"], "rescue-debian-13");
    let during = care.proxmox("/config").await;
    assert_eq!(during["scsi0"], before["scsi0"], "its own disk is there beside it");
    assert_ne!(during["boot"], before["boot"]);
    let snapshot = json!({"action": "snapshot_create", "name": "clean"});
    assert_eq!(care.refused(snapshot).await, "in_rescue");
    care.act(json!({"action": "rescue_off"})).await;
    let server = server_is(&care.api, &care.server, "running").await;
    assert!(server["rescue"].is_null());
    let after = care.proxmox("/config").await;
    for same in ["scsi0", "boot", "scsi30"] {
        assert_eq!(after[same], before[same], "{same}");
    }
    assert_eq!(care.refused(json!({"action": "rescue_off"})).await, "so_already");
    care.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_medium_is_put_in_and_taken_out() {
    let Some(care) = Care::begin("media").await else { return };
    let isos = care.api.get("/isos").await;
    let iso = isos["data"][0]["file"].as_str().unwrap();
    care.act(json!({"action": "iso_attach", "iso": iso})).await;
    assert_eq!(care.settled().await["iso"], iso);
    let config = care.proxmox("/config").await.to_string();
    assert!(config.contains(&format!("local:iso/{iso}")), "{config}");
    care.act(json!({"action": "iso_detach"})).await;
    assert!(care.settled().await["iso"].is_null());
    assert!(!care.proxmox("/config").await.to_string().contains(iso));
    care.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_looks_after_a_server_at_a_screen() {
    let story = "looking after a server in a browser";
    let Some(browser) = Browser::start(story).await else { return };
    let Some(care) = Care::begin(story).await else { return };
    let (portal, state) = (care.demo.portal(), care.demo.state());
    let tab = browser.open(&format!("{portal}/login"), 1280, 900, false).await;
    tab.fill("Mail address", state["customer"]["email"].as_str().unwrap()).await;
    tab.fill("Password", state["customer"]["password"].as_str().unwrap()).await;
    tab.click("Log in").await;
    tab.leaves("/login").await;
    let page = format!("{portal}/servers/{}", care.server);
    tab.go(&format!("{page}/snapshots")).await;
    tab.sees("No snapshots yet").await;
    tab.fill("Name", "before-upgrade").await;
    tab.click("Take the snapshot").await;
    tab.sees("Roll back").await;
    care.settled().await;
    tab.go(&format!("{page}/snapshots")).await;
    tab.click("Roll back").await;
    tab.sees("nothing brings it back").await;
    tab.picture("snapshots").await;
    tab.is_clean().await;
    tab.go(&format!("{page}/firewall")).await;
    tab.click("Let SSH in").await;
    tab.sees("not saved yet").await;
    tab.picture("firewall").await;
    tab.is_clean().await;
    tab.click("Save the rules").await;
    tab.sees("Firewall").await;
    until("the change to be told", PATIENCE, || async {
        let action = care.api.get(&care.path("/actions")).await;
        (action["data"][0]["kind"] == "firewall").then_some(())
    })
    .await;
    care.settled().await;
    let rules = care.api.get(&care.path("/firewall")).await;
    assert_eq!(rules["rules"][0]["ports"], "22", "{rules}");
    tab.go(&format!("{page}/password")).await;
    tab.click("Make a new password").await;
    tab.sees("shown only now").await;
    tab.picture("password").await;
    care.settled().await;
    tab.go(&format!("{page}/password")).await;
    tab.sees("We make a new").await;
    tab.is_clean().await;
    let narrow = browser.open(&page, 320, 640, true).await;
    for name in ["", "/graphs", "/snapshots", "/backups", "/firewall", "/rescue", "/rebuild", "/password"] {
        narrow.go(&format!("{page}{name}")).await;
        narrow.sees("Rescue & ISO").await;
        narrow.picture(&format!("narrow{}", name.replace('/', "-"))).await;
        narrow.is_clean().await;
    }
    browser.stop().await;
    care.end().await;
}
