//! Each program is killed once in the middle of a create; the purchase ends as if nothing had been.

use serde_json::json;

use crate::{
    purchase::{PATIENCE, order_is, place, server_is},
    support::{Database, Demo, until},
};

/// Buys a server and kills a program as soon as the node has accepted the order.
async fn killed_in_the_middle_of_a_create(story: &str, database: Database, victim: &str) {
    let Some(demo) = Demo::start(story, database, 1).await else { return };
    let api = demo.api("customer");
    let order = place(&api, "web-1", "fsn").await;
    let id = order["id"].as_str().unwrap().to_owned();
    demo.stripe().pay(order["checkout_url"].as_str().unwrap()).await;
    until("the first step on the node to begin", PATIENCE, || async {
        let (_, order) = api.try_get(&format!("/orders/{id}")).await;
        let steps = order["steps"].as_array()?.clone();
        let begun = |name: &str| {
            let of_name = steps.iter().find(|s| s["name"] == name);
            of_name.is_some_and(|s| s["status"] != "waiting")
        };
        begun("clone").then_some(())
    })
    .await;
    demo.kill(victim).await;
    let order = order_is(&api, &id, "fulfilled").await;
    server_is(&api, order["server_id"].as_str().unwrap(), "running").await;
    demo.check().await;
    demo.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_is_killed_in_the_middle_of_a_create() {
    killed_in_the_middle_of_a_create("kill the agent", Database::Sqlite, "/pids/agents/0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_plane_is_killed_in_the_middle_of_a_create_on_sqlite() {
    killed_in_the_middle_of_a_create("kill the control plane", Database::Sqlite, "/pids/control_plane").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_plane_is_killed_in_the_middle_of_a_create_on_postgres() {
    killed_in_the_middle_of_a_create("kill the control plane", Database::Postgres, "/pids/control_plane")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn proxmox_and_stripe_are_killed_in_the_middle_of_a_create() {
    killed_in_the_middle_of_a_create("kill the simulator", Database::Sqlite, "/pids/simulator").await;
}

/// Hosts keep working while the control plane is away: what was accepted is carried out, and the
/// result waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_goes_on_where_the_first_one_stopped() {
    let Some(mut demo) = Demo::start("second start", Database::Sqlite, 1).await else { return };
    let api = demo.api("customer");
    let order = place(&api, "web-1", "fsn").await;
    demo.stripe().pay(order["checkout_url"].as_str().unwrap()).await;
    let before = demo.state();
    demo.restart().await;
    assert_eq!(demo.state()["portal_url"], before["portal_url"]);
    assert_eq!(demo.state()["nodes"][0]["id"], before["nodes"][0]["id"]);
    order_is(&api, order["id"].as_str().unwrap(), "fulfilled").await;
    let (status, _) = api.post("/servers/nope/actions", json!({"action": "start"})).await;
    assert_eq!(status, 404);
    demo.check().await;
    demo.stop().await;
}
