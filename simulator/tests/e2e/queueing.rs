//! Several purchases of one host at the same moment: their disks are cloned one after the other in the order of their
//! sequence, whoever waits sees where and for how long, and an agent that dies in the middle changes nothing about it.

use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    purchase::{PATIENCE, order_is, place, server_is},
    support::{Database, Demo, program, until},
};

/// How many are bought.
const PURCHASES: usize = 6;
/// How long Proxmox takes for a clone, milliseconds.
const CLONE_MS: u64 = 2_500;

/// What the API says of the clone of an order.
async fn clone_of(demo: &Demo, order: &str) -> Value {
    let order = demo.api("customer").get(&format!("/orders/{order}")).await;
    let mut steps = order["steps"].as_array().unwrap().iter();
    steps.find(|step| step["name"] == "clone").cloned().unwrap_or_default()
}

/// The sequences of the purchases, in the order in which their clones began.
async fn clones_begun(demo: &Demo) -> Vec<u64> {
    let rows = demo
        .rows(
            "SELECT CAST(p.seq AS TEXT), e.kind FROM provisioning_events e \
             JOIN provisioning_orders p ON p.id = e.provisioning_order_id \
             WHERE e.kind = 'step_started' AND e.step = 'clone' ORDER BY e.recorded_at, e.event_seq",
        )
        .await;
    rows.iter().map(|(seq, _)| seq.parse().unwrap()).collect()
}

/// What `ez-node-agent order show` says of the order's place.
async fn place_on_the_host(demo: &Demo, provisioning_order: &str) -> Value {
    let output = Command::new(program("ez-node-agent"))
        .args(["order", "show", provisioning_order, "--json", "--config"])
        .arg(demo.path("nodes/fsn-1/agent.toml"))
        .output()
        .await
        .unwrap();
    let said: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    said["queue"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn purchases_of_one_host_queue_for_their_clones_and_see_where_they_are() {
    let Some(demo) = Demo::start("a queue of clones", Database::Sqlite, 1).await else { return };
    demo.allow_many_creates(0).await;
    demo.host(0).control("/speed", json!({"clone_ms": CLONE_MS, "start_ms": 10, "other_ms": 1})).await;
    let (api, stripe) = (demo.api("customer"), demo.stripe());
    let mut orders = Vec::new();
    for n in 0..PURCHASES {
        let order = place(&api, &format!("web-{n}"), "fsn").await;
        stripe.pay(order["checkout_url"].as_str().unwrap()).await;
        let id = order["id"].as_str().unwrap().to_owned();
        // An account has few unpaid orders at a time.
        until("the payment to be noticed", PATIENCE, || async {
            let (status, order) = api.try_get(&format!("/orders/{id}")).await;
            (status == 200 && order["state"] != "awaiting_payment").then_some(())
        })
        .await;
        orders.push(id);
    }

    // Somebody waits behind others, and is told for how long as soon as one clone has shown it.
    let (waiting, told) = until("a place in the queue with an estimate", PATIENCE, || async {
        for order in &orders {
            let step = clone_of(&demo, order).await;
            if step["queue"]["estimate_secs"].is_u64() && step["queue"]["position"].as_u64() >= Some(2) {
                return Some((order.clone(), step));
            }
        }
        None
    })
    .await;
    assert_eq!(told["status"], "running", "the step that waits is the present one: {told}");
    let estimate = told["queue"]["estimate_secs"].as_u64().unwrap();
    let behind = told["queue"]["position"].as_u64().unwrap();
    assert!(estimate <= (behind + 1) * CLONE_MS.div_ceil(1_000) * 4, "{told}");
    let server = api.get(&format!("/orders/{waiting}")).await["server_id"].as_str().unwrap().to_owned();
    let actions = api.get(&format!("/servers/{server}/actions")).await;
    let provisioning = actions["data"][0]["provisioning_order_id"].as_str().unwrap().to_owned();
    let here = place_on_the_host(&demo, &provisioning).await;
    // It may have moved up in between.
    assert!(here.is_null() || here["position"].as_u64() <= Some(behind), "{here} {told}");

    // The agent dies; the next one goes on with the same queue.
    demo.kill("/pids/agents/0").await;
    for order in &orders {
        let order = order_is(&api, order, "fulfilled").await;
        server_is(&api, order["server_id"].as_str().unwrap(), "running").await;
        let step = clone_of(&demo, order["id"].as_str().unwrap()).await;
        assert!(step["queue"].is_null(), "nothing waits any more: {step}");
    }
    let begun = clones_begun(&demo).await;
    assert_eq!(begun.len(), PURCHASES, "each was begun once: {begun:?}");
    assert!(begun.is_sorted(), "in the order of their sequence: {begun:?}");
    demo.check().await;
    demo.stop().await;
}
