//! Whole lives of servers, from the purchase to the purge with every verb between, on each Proxmox VE we know; and
//! whether everything that was asked of it is something that it offers.

use std::{sync::Arc, time::Duration};

use serde_json::json;

use crate::{
    caring::Care,
    judging,
    purchase::server_is,
    support::{Database, Demo, until},
};

/// Where two of three hosts stand, and the third: each place another Proxmox VE.
const PLACES: [(&str, usize); 2] = [("fsn", 0), ("hel", 2)];
/// From the end of a server to its purge.
const RETENTION_HOURS: u32 = 73;

/// Everything a customer can ask for, in an order in which it can be asked.
async fn live(care: &Care) {
    for verb in ["reboot", "reset", "stop", "start", "shutdown", "start"] {
        care.act(json!({ "action": verb })).await;
    }
    for name in ["clean", "later"] {
        care.act(json!({"action": "snapshot_create", "name": name})).await;
    }
    care.act(json!({"action": "snapshot_delete", "name": "later"})).await;
    care.act(json!({"action": "snapshot_rollback", "name": "clean"})).await;
    server_is(&care.api, &care.server, "running").await;
    let rules = json!({"inbound": "drop", "rules": [
        {"direction": "in", "verdict": "accept", "protocol": "tcp", "ports": "22", "peers": ["198.51.100.0/24"]},
        {"direction": "in", "verdict": "accept", "protocol": "icmp"},
    ]});
    let (status, put) = care.api.put(&care.path("/firewall"), rules).await;
    assert_eq!(status, 202, "{put}");
    care.ends(&put["action"]).await;
    care.act(json!({"action": "set_password"})).await;
    care.act(json!({"action": "rescue_on"})).await;
    care.act(json!({"action": "rescue_off"})).await;
    let isos = care.api.get("/isos").await;
    care.act(json!({"action": "iso_attach", "iso": isos["data"][0]["file"]})).await;
    care.act(json!({"action": "iso_detach"})).await;
    let kept = care.act(json!({"action": "backup_create"})).await;
    let kept = &kept["provisioning_order_id"];
    care.act(json!({"action": "backup_restore", "backup": kept})).await;
    care.act(json!({"action": "backup_delete", "backup": kept})).await;
    care.act(json!({"action": "backup_create"})).await;
    care.act(json!({"action": "rebuild", "image": "ubuntu-24.04"})).await;
    server_is(&care.api, &care.server, "running").await;
}

/// What only the operator can ask for.
async fn operate(care: &Care) {
    let server = care.server.as_str();
    for command in [
        &["server", "tag", server, "gold"][..],
        &["server", "suspend", server, "--reason", "Invoice 117 is unpaid."],
        &["server", "resume", server],
    ] {
        let told = care.demo.control_plane(command).await;
        assert!(told.status.success(), "{command:?}: {}", String::from_utf8_lossy(&told.stderr));
        care.settled().await;
    }
    server_is(&care.api, server, "running").await;
}

/// The archives of the server that the host's owner sees, on whatever storage.
async fn archives(care: &Care) -> Vec<String> {
    let host = care.demo.host(care.node);
    let name = format!("vzdump-qemu-{}-", care.vmid);
    let mut found = Vec::new();
    for storage in host.read("/storage").await.as_array().unwrap() {
        let storage = storage["storage"].as_str().unwrap();
        let rows = host.read(&format!("/storage/{storage}/content?content=backup")).await;
        let volumes = rows.as_array().unwrap().iter().filter_map(|row| row["volid"].as_str());
        found.extend(volumes.filter(|volume| volume.contains(&name)).map(str::to_owned));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verb_of_a_servers_life_asks_only_what_each_proxmox_offers() {
    let story = "whole lives";
    let Some((demo, clock)) = Demo::start_with_clock(story, Database::Sqlite, 3, &[]).await else { return };
    let demo = Arc::new(demo);
    let life = async |place: &str, node: usize| {
        let care = Care::of(Arc::clone(&demo), node, &format!("web-{place}"), place).await;
        live(&care).await;
        operate(&care).await;
        assert_eq!(care.api.delete(&care.path("")).await, 202);
        server_is(&care.api, &care.server, "retired").await;
        assert!(!archives(&care).await.is_empty(), "a retired server keeps its backup");
        care
    };
    let lives = futures::future::join_all(PLACES.map(|(place, node)| life(place, node))).await;
    clock.pass(RETENTION_HOURS);
    demo.nodes_online().await;
    for care in &lives {
        server_is(&care.api, &care.server, "purged").await;
        assert!(care.vm().await.is_null(), "nothing of it is left");
        assert_eq!(archives(care).await, Vec::<String>::new(), "nor of its backups");
    }
    let judged = judging::proxmox(&demo, story).await;
    assert!(judged.is_none_or(|logs| logs == PLACES.len()), "{judged:?}");
    until("the invariants to hold", Duration::from_secs(60), || async {
        demo.run_check().await.status.success().then_some(())
    })
    .await;
    drop(lives);
    Arc::into_inner(demo).unwrap().stop().await;
}
