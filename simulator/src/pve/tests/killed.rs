//! The simulator dies in the middle of its work and comes back.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use super::world::{World, config};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn a_kill_in_mid_clone_leaves_what_a_killed_worker_leaves() {
    let directory = tempfile::tempdir().unwrap();
    let mut slow = config("9.2");
    slow.task_speed.clone_ms = 600_000;
    let first = runtime();
    let upid = first.block_on(async {
        let w = World::at(directory.path(), &slow).await;
        w.post("/pools", &[("poolid", "ez")]).await.data();
        let clone = [
            ("newid", "101"),
            ("full", "1"),
            ("pool", "ez"),
            ("name", "vps"),
            ("description", "ez:v1 a b c 1"),
        ];
        let upid = w.post("/nodes/pve1/qemu/9000/clone", &clone).await.data().as_str().unwrap().to_owned();
        // Until the main disk's copy runs: the cloud-init drive is done, the real configuration written.
        for _ in 0..1000 {
            let vm = w.control("/vms/101").await;
            if vm["volumes"].as_array().is_some_and(|v| v.len() == 2) {
                return upid;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("the clone does not get going");
    });
    // Every worker, listener and connection is gone at once, as with SIGKILL.
    first.shutdown_background();

    runtime().block_on(async {
        let w = World::at(directory.path(), &config("9.2")).await;
        assert_eq!(w.ended(&upid).await, "unexpected status");
        let log = w.log(&upid).await;
        assert!(log.iter().all(|l| !l.starts_with("TASK ")), "{log:?}");
        let half = w.get("/nodes/pve1/qemu/101/config").await.data().clone();
        assert_eq!(half["lock"], "clone");
        let pool = w.get("/pools?poolid=ez").await.data().clone();
        assert_eq!(pool[0]["members"], json!([]), "membership comes last");
        let again = w.post("/nodes/pve1/qemu/9000/clone", &[("newid", "101"), ("full", "1")]).await;
        assert_eq!(again.message(), "unable to create VM 101: config file already exists");
        assert_eq!(
            w.task(Method::POST, "/nodes/pve1/qemu/101/status/start", &[]).await,
            "VM is locked (clone)"
        );
        assert_eq!(w.task(Method::DELETE, "/nodes/pve1/qemu/101", &[]).await, "VM is locked (clone)");
        assert_eq!(w.control("/vms").await["clones"], json!([]), "it never counted as a clone");
        w.control_post("/vms/101/unlock-destroy", json!({})).await;
        assert_eq!(w.get("/nodes/pve1/storage/local-lvm/content?vmid=101").await.data(), &json!([]));
        assert_eq!(
            w.task(Method::POST, "/nodes/pve1/qemu/9000/clone", &[("newid", "101"), ("full", "1")]).await,
            "OK"
        );
        assert_eq!(w.control("/vms").await["clones"].as_array().unwrap().len(), 1);
    });
}

#[test]
fn what_was_answered_survives_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let first = runtime();
    let (secret, before, mac) = first.block_on(async {
        let w = World::at(directory.path(), &config("9.2")).await;
        w.post("/pools", &[("poolid", "ez")]).await.data();
        super::purchase::buy(&w, 101).await;
        w.post("/access/users", &[("userid", "a@pve")]).await.data();
        let token = w.post("/access/users/a@pve/token/node", &[("privsep", "0")]).await;
        w.put("/access/acl", &[("path", "/"), ("roles", "PVEAuditor"), ("users", "a@pve")]).await.data();
        w.control_post("/foreign-vm", json!({"vmid": 555, "running": true})).await;
        let mac = w.control("/vms/555").await["macs"][0].clone();
        (token.data()["value"].as_str().unwrap().to_owned(), w.control("/digest").await, mac)
    });
    first.shutdown_background();
    runtime().block_on(async {
        let mut w = World::at(directory.path(), &config("9.2")).await;
        assert_eq!(w.control("/digest").await, before);
        w.control_post("/foreign-vm", json!({"vmid": 556})).await;
        assert_ne!(w.control("/vms/556").await["macs"][0], mac, "randomness goes on where it was");
        w.as_token(&format!("a@pve!node={secret}"));
        let current = w.get("/nodes/pve1/qemu/101/status/current").await.data().clone();
        assert_eq!((current["status"].as_str(), current["pid"].is_u64()), (Some("running"), true));
        let refused = w.post("/nodes/pve1/qemu/101/status/stop", &[]).await;
        assert_eq!(refused.message(), "Permission check failed (/vms/101, VM.PowerMgmt)");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_and_an_interrupted_one_leave_different_things() {
    let mut slow = config("8.4");
    slow.task_speed.clone_ms = 600_000;
    let w = World::with(slow).await;
    for (vmid, kill) in [("101", true), ("102", false)] {
        let upid = w.post("/nodes/pve1/qemu/9000/clone", &[("newid", vmid), ("full", "1")]).await;
        let upid = upid.data().as_str().unwrap().to_owned();
        let target = format!("/nodes/pve1/qemu/{vmid}/config");
        assert_eq!(w.get(&target).await.data()["lock"], "clone");
        let busy = w.task(Method::POST, &format!("/nodes/pve1/qemu/{vmid}/status/start"), &[]).await;
        assert_eq!(busy, format!("can't lock file '/var/lock/qemu-server/lock-{vmid}.conf' - got timeout"));
        if kill {
            w.control_post("/tasks/kill", json!({ "upid": upid })).await;
            assert_eq!(w.ended(&upid).await, "unexpected status");
            assert_eq!(w.get(&target).await.data()["lock"], "clone");
        } else {
            assert!(w.delete(&format!("/nodes/pve1/tasks/{upid}")).await.data().is_null());
            let exit = w.ended(&upid).await;
            assert!(
                exit.starts_with("clone failed: copy failed: ") && exit.ends_with("interrupted by signal"),
                "{exit}"
            );
            assert_eq!(w.get(&target).await.status, 500);
        }
    }
}
