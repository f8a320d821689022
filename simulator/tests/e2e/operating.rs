//! An operator at a screen: nodes are cordoned, and purchases whose build got stuck leave by each of the
//! four exits. The builds get stuck for real: Proxmox's worker is killed in mid-clone on hosts without
//! root's repair unit.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    browser::{Browser, Tab},
    purchase::{PATIENCE, order_is, place},
    support::{Api, Database, Demo, until},
};

/// Buys a server whose clone is killed half way; gives the order once it waits for an operator.
pub async fn stuck(demo: &Demo, api: &Api, name: &str) -> Value {
    demo.host(0).control("/speed", json!({"clone_ms": 60_000, "start_ms": 50, "other_ms": 10})).await;
    let order = place(api, name, "fsn").await;
    let id = order["id"].as_str().unwrap().to_owned();
    demo.stripe().pay(order["checkout_url"].as_str().unwrap()).await;
    until("a clone to be under way", PATIENCE, || async {
        let killed = demo.host(0).control("/tasks/kill", json!({})).await;
        (!killed["killed"].as_array()?.is_empty()).then_some(())
    })
    .await;
    demo.host(0).control("/speed", json!({"clone_ms": 100, "start_ms": 50, "other_ms": 10})).await;
    order_is(api, &id, "needs_operator").await
}

/// Removes what a killed worker left, as root on the host would.
pub async fn clean_up(demo: &Demo) {
    let host = demo.host(0);
    for vm in host.get("/vms").await["vms"].as_array().cloned().unwrap_or_default() {
        if vm["config"]["lock"] == "clone" || vm["lock"] == "clone" {
            host.control(&format!("/vms/{}/unlock-destroy", vm["vmid"]), json!({})).await;
        }
    }
}

async fn open_order(demo: &Demo, tab: &Tab, order: &Value) {
    tab.go(&format!("{}/operator/orders/{}", demo.portal(), order["id"].as_str().unwrap())).await;
    tab.sees("Ways out").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_cordons_retries_re_places_abandons_and_refunds() {
    let story = "operating in a browser";
    let Some(browser) = Browser::start(story).await else { return };
    let Some(demo) = Demo::start_with(story, Database::Sqlite, 2, &["--no-repair"]).await else { return };
    let api = demo.api("customer");
    let state = demo.state();
    let tab = browser.open(&format!("{}/login", demo.portal()), 1280, 900, false).await;
    tab.fill("Mail address", state["operator"]["email"].as_str().unwrap()).await;
    tab.fill("Password", state["operator"]["password"].as_str().unwrap()).await;
    tab.click("Log in").await;
    tab.leaves("/login").await;
    tab.go(&format!("{}/operator/fleet", demo.portal())).await;
    tab.sees("2 nodes up").await;
    tab.picture("fleet").await;
    tab.is_clean().await;

    tab.click("fsn-2").await;
    tab.sees("Certificates").await;
    tab.picture("node").await;
    tab.is_clean().await;
    tab.confirm("Cordon").await;
    tab.sees("Cordoned").await;
    tab.click("Allow new servers").await;
    tab.sees("Online").await;

    let retried = stuck(&demo, &api, "retried").await;
    open_order(&demo, &tab, &retried).await;
    tab.picture("provisioning-order").await;
    // What a node says about a stuck order names the order it found.
    tab.is_sound().await;
    clean_up(&demo).await;
    tab.confirm("Retry").await;
    order_is(&api, retried["id"].as_str().unwrap(), "fulfilled").await;

    let refunded = stuck(&demo, &api, "refunded").await;
    open_order(&demo, &tab, &refunded).await;
    clean_up(&demo).await;
    tab.confirm("Refund").await;
    order_is(&api, refunded["id"].as_str().unwrap(), "refunded").await;

    // The silent node is revoked by the same click, and the other one builds the server.
    let moved = stuck(&demo, &api, "moved").await;
    tab.go(&format!("{}/operator/fleet", demo.portal())).await;
    tab.sees("Needs a person").await;
    tab.picture("fleet-attention").await;
    open_order(&demo, &tab, &moved).await;
    tab.confirm("Re-place").await;
    order_is(&api, moved["id"].as_str().unwrap(), "fulfilled").await;
    clean_up(&demo).await;

    // A purchase is abandoned only when its node can no longer act on it.
    let abandoned = stuck(&demo, &api, "abandoned").await;
    open_order(&demo, &tab, &abandoned).await;
    tab.sees("Revoke the node first").await;
    clean_up(&demo).await;
    tab.go(&format!("{}/operator/nodes/fsn-2", demo.portal())).await;
    tab.click("Revoke this node").await;
    tab.fill("Type fsn-2 to confirm", "fsn-2").await;
    tab.click("Revoke the node").await;
    tab.sees("Revoked").await;
    open_order(&demo, &tab, &abandoned).await;
    tab.confirm("Abandon").await;
    open_order(&demo, &tab, &abandoned).await;
    tab.confirm("Refund").await;
    order_is(&api, abandoned["id"].as_str().unwrap(), "refunded").await;

    tab.go(&format!("{}/operator/nodes/new", demo.portal())).await;
    tab.fill("Name of the node", "fsn-9").await;
    tab.click("Make the join command").await;
    tab.sees("ez-node-agent join").await;
    tab.picture("add-node").await;
    for page in ["orders", "alarms", "fleet"] {
        tab.go(&format!("{}/operator/{page}", demo.portal())).await;
        tab.picture(&format!("operator-{page}")).await;
        tab.is_clean().await;
    }
    demo.check().await;
    browser.stop().await;
    demo.stop().await;
}

/// A location without room says so before anybody pays.
#[tokio::test(flavor = "multi_thread")]
async fn a_sold_out_location_says_so_before_payment() {
    let story = "a sold-out location";
    let Some(demo) = Demo::start(story, Database::Sqlite, 1).await else { return };
    let api = demo.api("customer");
    let cordoned = demo.control_plane(&["node", "cordon", "fsn-1"]).await;
    assert!(cordoned.status.success(), "{}", String::from_utf8_lossy(&cordoned.stderr));
    let order = json!({
        "location": "fsn", "image": "debian-13", "plan": "s", "interval": "month",
        "hostname": "web-1", "ssh_keys": [crate::support::SSH_KEY], "accept_terms": true,
    });
    let (status, body) = api.post("/orders", order).await;
    assert_eq!((status, body["code"].as_str()), (409, Some("sold_out")), "{body}");
    if let Some(browser) = Browser::start(story).await {
        let tab = browser.open(&demo.portal(), 1280, 900, false).await;
        tab.sees("Falkenstein sold out").await;
        tab.is_clean().await;
        browser.stop().await;
    }
    let waiting = tokio::time::timeout(Duration::from_secs(10), demo.violations()).await;
    assert_eq!(waiting.unwrap(), Vec::<Value>::new());
    demo.stop().await;
}
