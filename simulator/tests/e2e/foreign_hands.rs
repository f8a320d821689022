//! Somebody with root on a host does to a server of ours what nobody ordered, and what is wished comes about all the same.

use std::sync::Arc;

use serde_json::json;

use crate::{
    caring::Care,
    purchase::{PATIENCE, buy, server_is},
    support::{Database, Demo, until},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_server_that_root_starts_on_its_host_is_switched_off_again() {
    let Some(care) = Care::begin("a suspended server started by hand").await else { return };
    let command = ["server", "suspend", care.server.as_str(), "--reason", "Invoice 117 is unpaid."];
    let told = care.demo.control_plane(&command).await;
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    server_is(&care.api, &care.server, "stopped").await;
    care.settled().await;
    care.demo.host(care.node).start_vm(care.vmid).await;
    until("the server to be switched off once more", PATIENCE, || async {
        let actions = care.api.get(&care.path("/actions")).await;
        let suspends =
            |action: &&serde_json::Value| action["kind"] == "suspend" && action["status"] == "success";
        (actions["data"].as_array()?.iter().filter(suspends).count() == 2).then_some(())
    })
    .await;
    let server = server_is(&care.api, &care.server, "stopped").await;
    assert_eq!(server["suspended"]["reason"], "Invoice 117 is unpaid.");
    assert_eq!(care.proxmox("/status/current").await["status"], "stopped");
    assert_eq!(care.refused(json!({"action": "start"})).await, "suspended");
    let noted = "SELECT subject_id, actor FROM audit WHERE action = 'instance.suspended_runs'";
    assert_eq!(care.demo.rows(noted).await, [(care.server.clone(), "system".to_owned())]);
    let told = care.demo.control_plane(&["server", "resume", &care.server]).await;
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    server_is(&care.api, &care.server, "running").await;
    care.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_its_hosts_owner_protects_is_told_and_goes_once_it_may() {
    let story = "a protected VM";
    let Some((demo, clock)) = Demo::start_with_clock(story, Database::Sqlite, 1, &[]).await else { return };
    demo.allow_many_creates(0).await;
    let (_, server) = buy(&demo, "web-1", "fsn").await;
    let care = Care::known(Arc::new(demo), 0, server["id"].as_str().unwrap()).await;
    assert_eq!(care.api.delete(&care.path("")).await, 202);
    server_is(&care.api, &care.server, "retired").await;
    care.demo.host(0).set_vm(care.vmid, "protection", "1").await;
    clock.pass(72);
    care.demo.nodes_online().await;
    let failed = async || {
        let purges = "SELECT id, state FROM provisioning_orders WHERE verb = 'purge' AND state = 'failed'";
        care.demo.rows(purges).await.len()
    };
    until("the purge to fail", PATIENCE, || async { (failed().await > 0).then_some(()) }).await;
    clock.pass(2);
    care.demo.nodes_online().await;
    let told = until("somebody to be told", PATIENCE, || async {
        let open = "SELECT kind, detail FROM alarms WHERE kind = 'ending_late' AND cleared_at IS NULL";
        care.demo.rows(open).await.pop()
    })
    .await;
    let command = format!("qm set {} --protection 0", care.vmid);
    assert!(told.1.contains(&command), "{told:?}");
    assert!(failed().await <= 3, "its host is left alone meanwhile");
    care.demo.host(0).set_vm(care.vmid, "protection", "0").await;
    clock.pass(6);
    care.demo.nodes_online().await;
    server_is(&care.api, &care.server, "purged").await;
    let open = "SELECT kind, detail FROM alarms WHERE kind = 'ending_late' AND cleared_at IS NULL";
    assert!(care.demo.rows(open).await.is_empty(), "it is over");
    until("the invariants to hold", PATIENCE, || async {
        care.demo.run_check().await.status.success().then_some(())
    })
    .await;
    Arc::into_inner(care.demo).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_starts_while_its_proxmox_is_silent_says_so_and_goes_on_once_it_speaks() {
    let Some(care) = Care::begin("a silent Proxmox").await else { return };
    care.demo.host(care.node).control("/restart", json!({ "down_ms": 600_000 })).await;
    care.demo.kill(&format!("/pids/agents/{}", care.node)).await;
    let open = async || {
        let open = "SELECT kind, detail FROM alarms WHERE kind = 'pve_silent' AND cleared_at IS NULL";
        care.demo.rows(open).await.pop()
    };
    let told = until("the node to say why nothing is done there", PATIENCE, || async { open().await }).await;
    assert!(told.1.contains("Proxmox"), "{told:?}");
    care.demo.host(care.node).control("/restart", json!({ "down_ms": 1 })).await;
    care.demo.nodes_online().await;
    until("the alarm to be over", PATIENCE, || async { open().await.is_none().then_some(()) }).await;
    care.act(json!({"action": "reboot"})).await;
    care.end().await;
}
