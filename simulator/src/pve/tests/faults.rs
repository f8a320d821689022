//! Each injected fault does what it says and nothing else.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use super::world::{World, config};

const CLONE: &str = "/nodes/pve1/qemu/9000/clone";

impl World {
    /// Arms a rule on the first node.
    async fn fault(&self, rule: Value) {
        let armed = self.control_post("/faults", rule).await;
        assert!(armed["id"].is_u64(), "{armed}");
    }

    async fn clone_to(&self, vmid: &str, full: &str) -> Result<reqwest::Response, reqwest::Error> {
        let request = self.client().post(self.url(CLONE));
        let request = request.header("Authorization", format!("PVEAPIToken={}", self.token));
        request.body(format!("newid={vmid}&full={full}")).send().await
    }

    async fn there_is(&self, vmid: u32) -> bool {
        self.control(&format!("/vms/{vmid}")).await["vmid"] == vmid
    }

    /// Waits until a clone to this VMID is whole.
    async fn made(&self, vmid: u32) {
        let patience = tokio::time::Instant::now() + Duration::from_secs(30);
        loop {
            let vm = self.control(&format!("/vms/{vmid}")).await;
            if vm["vmid"] == vmid && vm["lock"].is_null() {
                return;
            }
            assert!(tokio::time::Instant::now() < patience, "{vmid} is not made: {vm}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The faults in the request log, with method and end of path.
    fn logged_faults(&self) -> Vec<(String, String, Value)> {
        let text = std::fs::read_to_string(self.directory.join("logs/pve-one.jsonl")).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines
            .filter(|line| line.get("fault").is_some())
            .map(|line| {
                let path = line["path"].as_str().unwrap();
                let end = path.rsplit('/').next().unwrap().to_owned();
                (end, line["fault"].as_str().unwrap().to_owned(), line["status"].clone())
            })
            .collect()
    }
}

fn logged(end: &str, fault: &str, status: Value) -> (String, String, Value) {
    (end.into(), fault.into(), status)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_refused_before_its_effect_did_nothing() {
    let w = World::new("9.2").await;
    let call = json!({"method": "POST", "path": "/clone$"});
    w.fault(json!({"call": call, "fault": "refuse_before", "reason": "no luck", "skip": 1})).await;
    assert_eq!(w.task(Method::POST, CLONE, &[("newid", "101"), ("full", "0")]).await, "OK", "skipped");
    let refused = w.post(CLONE, &[("newid", "102"), ("full", "0")]).await;
    assert_eq!((refused.status, refused.message()), (500, "no luck"));
    assert!(!w.there_is(102).await);
    assert_eq!(w.task(Method::POST, CLONE, &[("newid", "102"), ("full", "0")]).await, "OK", "once only");
    assert_eq!(w.logged_faults(), [logged("clone", "refuse_before", json!(500))]);
    let rules = w.control("/faults").await["rules"].clone();
    assert_eq!((&rules[0]["seen"], &rules[0]["hits"], &rules[0]["left"]), (&json!(2), &json!(1), &json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_without_quorum_does_nothing_and_says_so_in_its_own_words() {
    let w = World::new("9.2").await;
    w.fault(json!({"call": {"method": "POST", "path": "/clone$"}, "fault": "no_quorum"})).await;
    let refused = w.post(CLONE, &[("newid", "101"), ("full", "0")]).await;
    assert_eq!((refused.status, refused.message()), (500, "cluster not ready - no quorum?"));
    assert!(!w.there_is(101).await);
    assert_eq!(w.task(Method::POST, CLONE, &[("newid", "101"), ("full", "0")]).await, "OK", "once only");
    assert_eq!(w.logged_faults(), [logged("clone", "no_quorum", json!(500))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_refused_after_its_effect_did_everything() {
    let w = World::new("9.2").await;
    w.fault(json!({"call": {"path": "/clone"}, "fault": "refuse_after"})).await;
    let refused = w.post(CLONE, &[("newid", "101"), ("full", "0")]).await;
    assert_eq!((refused.status, refused.text.as_str()), (596, ""), "as it was recorded");
    w.made(101).await;
    let again = w.post(CLONE, &[("newid", "101"), ("full", "0")]).await;
    assert_eq!(again.message(), "unable to create VM 101: config file already exists");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_answer_leaves_the_effect_and_a_dropped_request_does_not() {
    let w = World::new("8.4").await;
    w.fault(json!({"call": {"path": "/clone"}, "fault": "drop_answer"})).await;
    w.fault(json!({"call": {"path": "/clone"}, "fault": "drop_request"})).await;
    let dropped = w.clone_to("101", "0").await.unwrap_err();
    assert!(dropped.is_request() && dropped.status().is_none(), "{dropped:?}");
    w.made(101).await;
    assert!(w.clone_to("102", "0").await.is_err());
    assert!(!w.there_is(102).await);
    assert_eq!(w.clone_to("102", "0").await.unwrap().status(), 200);
    let (answer, request) =
        (logged("clone", "drop_answer", json!(200)), logged("clone", "drop_request", json!(null)));
    assert_eq!(w.logged_faults(), [answer, request]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_answer_comes_long_after_the_effect() {
    let w = World::new("9.2").await;
    w.fault(json!({"call": {"path": "/clone"}, "fault": "slow", "delay_ms": 3000})).await;
    let answer = w.post(CLONE, &[("newid", "101"), ("full", "0")]);
    tokio::pin!(answer);
    tokio::select! {
        early = &mut answer => panic!("{early:?}"),
        () = w.made(101) => {}
    }
    assert!(answer.await.data().as_str().unwrap().starts_with("UPID:"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vmid_can_be_taken_by_a_foreign_vm_just_before_the_clone() {
    let w = World::new("9.2").await;
    w.fault(json!({"fault": "vmid_taken"})).await;
    let refused = w.post(CLONE, &[("newid", "101"), ("full", "0")]).await;
    assert_eq!(refused.message(), "unable to create VM 101: config file already exists");
    let vm = w.control("/vms/101").await;
    assert_eq!((&vm["foreign"], &vm["marker"]), (&json!(true), &Value::Null));
    assert!(w.control("/digest").await["foreign"]["101"].is_string());
    assert_eq!(w.logged_faults(), [logged("clone", "vmid_taken", json!(500))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_fails_cleans_up_as_it_would_and_says_what_it_is_told() {
    let w = World::new("9.2").await;
    w.fault(json!({"task": "qmclone", "fault": "fail", "exit": "clone failed: bad luck", "pieces": 2})).await;
    let upid = w.post(CLONE, &[("newid", "101"), ("full", "1")]).await.data().as_str().unwrap().to_owned();
    assert_eq!(w.ended(&upid).await, "clone failed: bad luck");
    let log = w.log(&upid).await;
    assert_eq!(log.last().unwrap(), "TASK ERROR: clone failed: bad luck");
    assert!(log.iter().any(|line| line.contains("(25.00%)")), "in the middle of the copy: {log:?}");
    assert!(!w.there_is(101).await);
    assert_eq!(w.get("/nodes/pve1/storage/local-lvm/content?vmid=101").await.data(), &json!([]));
    assert_eq!(w.task(Method::POST, CLONE, &[("newid", "101"), ("full", "1")]).await, "OK");
    w.fault(json!({"task": "qmstart", "fault": "fail", "exit": "start failed: QEMU exited with code 1"}))
        .await;
    let start = "/nodes/pve1/qemu/101/status/start";
    assert_eq!(w.task(Method::POST, start, &[]).await, "start failed: QEMU exited with code 1");
    assert_eq!(w.get("/nodes/pve1/qemu/101/status/current").await.data()["status"], "stopped");
    assert_eq!(w.task(Method::POST, start, &[]).await, "OK");
    let (clone, start) = (logged("clone", "task_fail", json!(200)), logged("start", "task_fail", json!(200)));
    assert_eq!(w.logged_faults(), [clone, start]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_leaves_its_lock_and_its_half_made_volumes() {
    let w = World::new("9.2").await;
    for (vmid, pieces, description) in [("101", 0, Some("qmclone temporary file")), ("102", 1, None)] {
        w.fault(json!({"task": "qmclone", "fault": "kill", "pieces": pieces})).await;
        let upid = w.post(CLONE, &[("newid", vmid), ("full", "1")]).await.data().as_str().unwrap().to_owned();
        assert_eq!(w.ended(&upid).await, "unexpected status");
        assert!(w.log(&upid).await.iter().all(|line| !line.starts_with("TASK ")));
        let vm = w.control(&format!("/vms/{vmid}")).await;
        assert_eq!(vm["lock"], "clone");
        assert_eq!(vm["volumes"].as_array().unwrap().len(), pieces + 1);
        let half = w.get(&format!("/nodes/pve1/qemu/{vmid}/config")).await.data()["description"].clone();
        assert_eq!(half.as_str().map(str::trim).filter(|d| d.starts_with("qmclone")), description);
        let destroy = w.task(Method::DELETE, &format!("/nodes/pve1/qemu/{vmid}"), &[]).await;
        assert_eq!(destroy, "VM is locked (clone)", "the file lock is free, the other is not");
    }
    assert_eq!(w.control("/vms").await["clones"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_in_vain_for_a_storages_lock_gives_up_and_leaves_nothing() {
    let w = World::new("9.2").await;
    let busy = "can't lock file '/var/lock/pve-manager/pve-storage-local-lvm' - got timeout";
    w.fault(json!({"task": "qmclone", "fault": "storage_busy", "delay_ms": 50})).await;
    let upid = w.post(CLONE, &[("newid", "101"), ("full", "1")]).await.data().as_str().unwrap().to_owned();
    assert_eq!(w.ended(&upid).await, format!("clone failed: {busy}"));
    let log = w.log(&upid).await;
    assert!(
        log.contains(&"trying to acquire lock...".to_owned()) && !log.contains(&" OK".to_owned()),
        "{log:?}"
    );
    assert!(!w.there_is(101).await);
    assert_eq!(w.get("/nodes/pve1/storage/local-lvm/content?vmid=101").await.data(), &json!([]));
    assert_eq!(w.task(Method::POST, CLONE, &[("newid", "101"), ("full", "1")]).await, "OK", "once only");
    w.fault(json!({"task": "qmcreate", "fault": "storage_busy", "delay_ms": 50})).await;
    let form = [("vmid", "102"), ("scsi0", "local-lvm:1")];
    let exit = w.task(Method::POST, "/nodes/pve1/qemu", &form).await;
    assert_eq!(exit, format!("unable to create VM 102 - {busy}"));
    assert!(!w.there_is(102).await);
    let struck = |end: &str| logged(end, "task_storage_busy", json!(200));
    assert_eq!(w.logged_faults(), [struck("clone"), struck("qemu")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warning_is_a_success() {
    let w = World::new("8.4").await;
    w.fault(json!({"task": "qmclone", "fault": "warnings"})).await;
    let upid = w.post(CLONE, &[("newid", "101"), ("full", "0")]).await.data().as_str().unwrap().to_owned();
    assert_eq!(w.ended(&upid).await, "WARNINGS: 1");
    let log = w.log(&upid).await;
    assert_eq!(log[log.len() - 2..], ["WARN: something that does no harm", "TASK WARNINGS: 1"]);
    w.made(101).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destruction_can_leave_the_disk_and_call_it_a_success() {
    for (version, exit) in [("9.2", "WARNINGS: 1"), ("8.4", "OK")] {
        let w = World::new(version).await;
        assert_eq!(w.task(Method::POST, CLONE, &[("newid", "101"), ("full", "1")]).await, "OK");
        w.fault(json!({"task": "qmdestroy", "fault": "destroy_keeps_disk"})).await;
        let upid = w.delete("/nodes/pve1/qemu/101").await.data().as_str().unwrap().to_owned();
        assert_eq!(w.ended(&upid).await, exit, "{version}");
        assert!(!w.there_is(101).await);
        let content = w.get("/nodes/pve1/storage/local-lvm/content?vmid=101").await.data().clone();
        let volume = content[0]["volid"].as_str().unwrap();
        let line = format!("Could not remove disk '{volume}', check manually: ");
        assert!(w.log(&upid).await.iter().any(|said| said.contains(&line)), "{version}");
        assert_eq!(w.logged_faults(), [logged("101", "destroy_keeps_disk", json!(200))]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destruction_that_is_killed_half_way_leaves_a_configuration_that_no_token_removes() {
    let w = World::new("9.2").await;
    assert_eq!(w.task(Method::POST, CLONE, &[("newid", "101"), ("full", "1")]).await, "OK");
    w.fault(json!({"task": "qmdestroy", "fault": "kill", "pieces": 1})).await;
    let destroy = "/nodes/pve1/qemu/101";
    // Its log has no line yet.
    assert_eq!(w.task(Method::DELETE, destroy, &[]).await, "unable to read tail (got 0 bytes)");
    let mut left = w.get("/nodes/pve1/qemu/101/config").await.data().clone();
    left.as_object_mut().unwrap().remove("digest");
    assert_eq!(left, json!({"lock": "destroyed"}));
    assert_eq!(w.get("/nodes/pve1/storage/local-lvm/content?vmid=101").await.data(), &json!([]));
    assert_eq!(w.task(Method::DELETE, destroy, &[]).await, "VM is locked (destroyed)");
    w.control_post("/vms/101/unlock-destroy", json!({})).await;
    assert!(!w.there_is(101).await);
}

/// What one gets who connects to the node's API.
async fn greeting(w: &World) -> std::io::Result<usize> {
    let address = w.running.clusters[0].nodes[0].api_url.trim_start_matches("https://").to_owned();
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    // TLS servers wait for the client; whoever answers at once is away.
    tokio::time::timeout(Duration::from_secs(10), stream.read(&mut [0; 1]))
        .await
        .unwrap_or(Err(std::io::ErrorKind::TimedOut.into()))
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_daemon_restarts_connections_are_reset_and_workers_go_on() {
    let mut slow = config("9.2");
    slow.task_speed.clone_ms = 400;
    let w = World::with(slow).await;
    let upid = w.post(CLONE, &[("newid", "101"), ("full", "1")]).await.data().as_str().unwrap().to_owned();
    let control = w.control_post("/restart", json!({"down_ms": 3000})).await;
    assert_eq!(control["down_ms"], 3000);
    let kind = greeting(&w).await.unwrap_err().kind();
    assert_eq!(kind, std::io::ErrorKind::ConnectionReset);
    assert!(w.clone_to("102", "0").await.is_err());
    // The worker ends although nobody can ask.
    w.made(101).await;
    assert!(w.control("/faults").await["resets"].as_u64() >= Some(2), "both were turned away");
    let patience = tokio::time::Instant::now() + Duration::from_secs(30);
    while w.control("/faults").await["down"] == true {
        assert!(tokio::time::Instant::now() < patience, "the daemon does not come back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(w.ended(&upid).await, "OK", "its UPID can be asked for again");
    assert!(!w.there_is(102).await);
    let other = w.running.clusters[0].nodes[1].control_url.clone();
    let said = World::read(w.client().get(format!("{other}/faults"))).await.body;
    assert_eq!(
        said,
        json!({"rules": [], "full_storages": [], "down": false, "resets": 0}),
        "faults are one node's"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_can_restart_right_after_an_effect() {
    let w = World::new("9.2").await;
    w.fault(json!({"call": {"path": "/clone"}, "fault": "restart", "down_ms": 60_000})).await;
    assert!(w.clone_to("101", "0").await.is_err());
    w.made(101).await;
    assert!(greeting(&w).await.is_err());
    let cleared = w.client().delete(format!("{}/faults", w.running.clusters[0].nodes[0].control_url));
    assert_eq!(cleared.send().await.unwrap().status(), 204);
    assert_eq!(w.get("/nodes/pve1/qemu/101/config").await.data()["name"], "Copy-of-VM-debian-13");
    assert_eq!(w.logged_faults(), [logged("clone", "restart", json!(200))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_more_fits_on_a_full_storage() {
    let mut several = config("9.2");
    for kind in ["lvm", "zfspool", "rbd"] {
        let storage = json!({"id": kind, "type": kind, "content": ["images"]});
        several.clusters[0].nodes[0].storages.push(serde_json::from_value(storage).unwrap());
    }
    let w = World::with(several).await;
    assert_eq!(w.task(Method::POST, CLONE, &[("newid", "101"), ("full", "1")]).await, "OK");
    for storage in ["local", "local-lvm", "lvm", "zfspool", "rbd"] {
        let full = w.control_post(&format!("/storages/{storage}/full"), json!({"full": true})).await;
        assert_eq!(full, json!({"storage": storage, "full": true}));
        let status = w.get(&format!("/nodes/pve1/storage/{storage}/status")).await.data().clone();
        assert_eq!((&status["avail"], &status["used"]), (&json!(0), &status["total"]));
    }
    let full = "Cannot create new thin volume, free space in thin pool local-lvm/data reached threshold.";
    assert_eq!(
        w.task(Method::POST, CLONE, &[("newid", "102"), ("full", "1")]).await,
        format!("clone failed: lvcreate 'local-lvm/vm-102-cloudinit' error:   {full}")
    );
    assert!(!w.there_is(102).await, "a clone that finds no room removes what it had made");
    let grown =
        w.task(Method::PUT, "/nodes/pve1/qemu/101/resize", &[("disk", "scsi0"), ("size", "20G")]).await;
    assert!(
        grown.starts_with("error resizing volume") && grown.contains("free space in thin pool"),
        "{grown}"
    );
    for (disk, storage, text) in [
        ("scsi1", "lvm:1", "not enough free space (0 < 1048576)"),
        ("scsi1", "zfspool:1", "zfs error: cannot create 'zfspool/vm-101-disk-0': out of space"),
        (
            "scsi1",
            "rbd:1",
            "rbd create 'vm-101-disk-0' error: rbd: create error: (28) No space left on device",
        ),
        ("scsi1", "local:1", "No space left on device"),
        ("ide3", "local-lvm:cloudinit", full),
    ] {
        let refused = w.put("/nodes/pve1/qemu/101/config", &[(disk, storage)]).await;
        assert_eq!(refused.status, 500, "{storage}");
        assert!(refused.message().ends_with(text), "{storage}: {}", refused.message());
    }
    let unknown = w.control_post("/storages/none/full", json!({"full": true})).await;
    assert_eq!(unknown["error"], "no storage none");
    w.control_post("/storages/local-lvm/full", json!({"full": false})).await;
    assert_eq!(w.task(Method::POST, CLONE, &[("newid", "102"), ("full", "1")]).await, "OK");
    let refused = |storage: &str| json!({"storage": storage, "refused": 1});
    assert_eq!(
        w.control("/faults").await["full_storages"],
        json!(["local", "lvm", "rbd", "zfspool"].map(refused)),
        "the others are still full"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_makes_no_sense_is_refused() {
    let w = World::new("9.2").await;
    let refused = w.control_post("/faults", json!({"fault": "fail", "task": "qmclone"})).await;
    assert_eq!(refused["error"], "task_fail: `exit` goes with fail, and fail needs it");
    assert_eq!(w.control("/faults").await["rules"], json!([]));
}

#[test]
fn faults_live_in_memory_only() {
    let directory = tempfile::tempdir().unwrap();
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let first = runtime();
    first.block_on(async {
        let w = World::at(directory.path(), &config("9.2")).await;
        w.fault(json!({"call": {"path": "/clone"}, "fault": "drop_request", "times": 100})).await;
        w.control_post("/storages/local-lvm/full", json!({"full": true})).await;
        w.control_post("/restart", json!({"down_ms": 600_000})).await;
    });
    first.shutdown_background();
    runtime().block_on(async {
        let w = World::at(directory.path(), &config("9.2")).await;
        let said = w.control("/faults").await;
        assert_eq!(said, json!({"rules": [], "full_storages": [], "down": false, "resets": 0}));
        assert_eq!(w.task(Method::POST, CLONE, &[("newid", "101"), ("full", "1")]).await, "OK");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_purchase_among_faults_passes_the_checker() {
    let w = World::new("9.2").await;
    w.post("/pools", &[("poolid", "ez")]).await.data();
    // Calls are slow, reads are cut: the purchase goes on, and every line says what it met.
    w.fault(json!({"call": {"method": "POST", "path": "/clone"}, "fault": "slow", "delay_ms": 5})).await;
    w.fault(json!({"task": "resize", "fault": "warnings", "times": 1, "skip": 5})).await;
    super::purchase::buy(&w, 101).await;
    w.fault(json!({"call": {"method": "GET", "path": "/config"}, "fault": "refuse_before", "status": 503}))
        .await;
    assert_eq!(w.get("/nodes/pve1/qemu/101/config").await.status, 503);
    let seen: Vec<String> = w.logged_faults().into_iter().map(|(_, fault, _)| fault).collect();
    assert_eq!(seen, ["slow", "refuse_before"]);
    super::logged::passes_the_checker(&w, "schema-9.json");
}
