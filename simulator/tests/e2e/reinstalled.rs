//! A host whose agent begins anew: its disk was lost, or its certificate ran out while it was off. It is enrolled again,
//! and its servers go on as if nothing had been.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    crash_points::{AGENT, LARGE_AND_FAST},
    purchase::{PATIENCE, buy, server_is},
    support::{Api, Database, Demo, until},
};

/// What an agent's books say of its servers.
const BOOKS: &str = "SELECT uuid, phase FROM resources ORDER BY uuid";

/// Enrols the node's host again, with a new token of an operator, and starts its agent on what that left.
async fn enrol_again(demo: &Demo) {
    let token = demo.control_plane(&["node", "token", "fsn-1", "--json"]).await;
    let token: Value = serde_json::from_slice(&token.stdout).unwrap();
    let joined = demo.join(0, token["token"].as_str().unwrap()).await;
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    demo.kill(AGENT).await;
    demo.nodes_online().await;
}

/// Waits until nothing is under way.
async fn settled(api: &Api, server: &str) -> Value {
    until("the server's action to end", PATIENCE, || async {
        let (status, server) = api.try_get(&format!("/servers/{server}")).await;
        (status == 200 && server["action"].is_null()).then_some(server)
    })
    .await
}

/// Waits until the newest action of a kind has worked.
async fn succeeds(api: &Api, server: &str, kind: &str) {
    let ended = until(&format!("the action {kind}"), PATIENCE, || async {
        let (status, list) = api.try_get(&format!("/servers/{server}/actions")).await;
        let all = list["data"].as_array().filter(|_| status == 200)?;
        all.iter().find(|action| action["kind"] == kind && action["status"] != "running").cloned()
    })
    .await;
    assert_eq!(ended["status"], "success", "{ended}");
}

/// Presses a button and waits until it has worked.
async fn press(api: &Api, server: &str, body: Value) {
    let (status, begun) = api.post(&format!("/servers/{server}/actions"), body.clone()).await;
    assert_eq!(status, 202, "{body}: {begun}");
    let path = format!("/servers/{server}/actions/{}", begun["id"].as_str().unwrap());
    let ended = until("the action to end", PATIENCE, || async {
        let (status, action) = api.try_get(&path).await;
        (status == 200 && action["status"] != "running").then_some(action)
    })
    .await;
    assert_eq!(ended["status"], "success", "{ended}");
}

/// The VMs as Proxmox shows them, but for the files of their first boot, which are written anew.
async fn vms(demo: &Demo) -> Vec<(Value, Value, Value)> {
    let all = demo.host(0).get("/vms").await;
    let of = |vm: &Value| {
        let mut config = vm["config"].clone();
        if let Some(config) = config.as_object_mut() {
            config.remove("cicustom");
            config.remove("digest");
        }
        (vm["vmid"].clone(), config, vm["power"].clone())
    };
    all["vms"].as_array().unwrap().iter().map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_was_installed_again_takes_its_servers_over_and_touches_no_other_vm() {
    let demo = Demo::start_with("installed again", Database::Sqlite, 1, &LARGE_AND_FAST).await.unwrap();
    demo.allow_many_creates(0).await;
    let api = demo.api("customer");
    let foreign = json!({ "vmid": 9_999, "name": "theirs", "running": true });
    demo.host(0).control("/foreign-vm", foreign).await;
    let mut servers = Vec::new();
    for name in ["web-1", "web-2", "web-3"] {
        let (_, server) = buy(&demo, name, "fsn").await;
        servers.push(server["id"].as_str().unwrap().to_owned());
        settled(&api, servers.last().unwrap()).await;
    }
    let [on, off, ended_one] = &servers[..] else { unreachable!() };
    press(&api, off, json!({"action": "stop"})).await;
    server_is(&api, off, "stopped").await;
    assert_eq!(api.delete(&format!("/servers/{ended_one}")).await, 202);
    server_is(&api, ended_one, "retired").await;
    let before = vms(&demo).await;
    // A backup is at work when the machine's own disk dies, and with it what the agent knew.
    demo.host(0).control("/speed", json!({"clone_ms": 10, "start_ms": 10, "other_ms": 2_000})).await;
    let (status, begun) =
        api.post(&format!("/servers/{on}/actions"), json!({"action": "backup_create"})).await;
    assert_eq!(status, 202, "{begun}");
    let path = format!("/servers/{on}/actions/{}", begun["id"].as_str().unwrap());
    until("the backup to be at work", PATIENCE, || async {
        let (_, action) = api.try_get(&path).await;
        let at_work = |step: &Value| step["status"] == "running";
        action["steps"].as_array()?.iter().any(at_work).then_some(())
    })
    .await;
    demo.signal(AGENT, Signal::STOP);
    std::fs::remove_dir_all(demo.path("nodes/fsn-1/state")).unwrap();
    // Which `setup` makes on a real host.
    std::fs::create_dir_all(demo.path("nodes/fsn-1/state/ci/snippets")).unwrap();
    enrol_again(&demo).await;
    demo.host(0).control("/speed", json!({"clone_ms": 10, "start_ms": 10, "other_ms": 10})).await;

    for server in [on, off] {
        succeeds(&api, server, "adopt").await;
        succeeds(&api, server, "renew").await;
        settled(&api, server).await;
    }
    let backup = api.get(&path).await;
    assert_eq!(backup["status"], "error", "nobody knows how far it came, and it says so: {backup}");
    until("the agent to know all three", PATIENCE, || async {
        let books = demo.journal_rows(0, BOOKS).await;
        let phase = |id: &String| books.iter().find(|(uuid, _)| uuid == id).map(|(_, phase)| phase.as_str());
        (phase(on) == Some("present") && phase(off) == Some("present") && phase(ended_one) == Some("retired"))
            .then_some(())
    })
    .await;
    assert_eq!(vms(&demo).await, before, "taking over changes nothing on the host");
    server_is(&api, on, "running").await;
    server_is(&api, off, "stopped").await;

    // From then on everything is as it was.
    press(&api, on, json!({"action": "reboot"})).await;
    press(&api, off, json!({"action": "start"})).await;
    press(&api, on, json!({"action": "rebuild", "image": "debian-12"})).await;
    press(&api, on, json!({"action": "backup_create"})).await;
    assert_eq!(api.delete(&format!("/servers/{off}")).await, 202);
    server_is(&api, off, "retired").await;
    demo.check().await;
    demo.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_certificate_ran_out_while_it_was_off_joins_again_and_goes_on() {
    let Some((demo, clock)) =
        Demo::start_with_clock("certificate ran out", Database::Sqlite, 1, &LARGE_AND_FAST).await
    else {
        return;
    };
    let api = demo.api("customer");
    let (_, server) = buy(&demo, "web-1", "fsn").await;
    let server = server["id"].as_str().unwrap().to_owned();
    settled(&api, &server).await;
    let before = vms(&demo).await;
    demo.signal(AGENT, Signal::STOP);
    // Certificates live fourteen days.
    clock.pass(15 * 24);
    demo.kill(AGENT).await;
    let state = demo.path("nodes/fsn-1/state/status.json");
    until("the agent to say that it has to join again", PATIENCE, || async {
        let text = std::fs::read_to_string(&state).ok()?;
        let status: Value = serde_json::from_str(&text).ok()?;
        let link = status["link"].as_str()?;
        (link.contains("expired") && link.contains("join")).then_some(())
    })
    .await;
    enrol_again(&demo).await;
    succeeds(&api, &server, "adopt").await;
    succeeds(&api, &server, "renew").await;
    settled(&api, &server).await;
    assert_eq!(vms(&demo).await, before, "nothing on the host has changed");
    press(&api, &server, json!({"action": "reboot"})).await;
    until("the invariants to hold", Duration::from_secs(90), || async {
        demo.run_check().await.status.success().then_some(())
    })
    .await;
    demo.stop().await;
}
