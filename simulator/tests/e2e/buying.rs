//! Buying, using and giving back a server through the API, on both databases.

use std::time::Duration;

use serde_json::json;

use crate::{
    purchase::{self, PATIENCE, buy, order_is, place, server_is},
    support::{Database, Demo, until},
};

async fn a_purchase_ends_in_one_running_server(database: Database) {
    let Some(demo) = Demo::start("a purchase", database, 2).await else { return };
    let (order, server) = buy(&demo, "web-1", "fsn").await;
    assert!(server["observed_at"].is_i64(), "{server}");
    assert!(server["ipv4"].is_string(), "{server}");
    let steps = order["steps"].as_array().map_or(0, Vec::len);
    assert!(steps >= 6, "at least six named steps: {order}");
    demo.check().await;
    demo.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purchase_ends_in_one_running_server_on_sqlite() {
    a_purchase_ends_in_one_running_server(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purchase_ends_in_one_running_server_on_postgres() {
    a_purchase_ends_in_one_running_server(Database::Postgres).await;
}

/// The same paid webhook twenty times at once, and every other event again: one server.
async fn repeated_webhooks_build_one_server(database: Database) {
    let Some(demo) = Demo::start("repeated webhooks", database, 1).await else { return };
    let api = demo.api("customer");
    let stripe = demo.stripe();
    stripe.post("/webhooks/pause", json!({})).await;
    let order = place(&api, "web-1", "fsn").await;
    stripe.pay(order["checkout_url"].as_str().unwrap()).await;
    let events = stripe.get("/events").await;
    let events = events.as_array().or_else(|| events["data"].as_array()).unwrap().clone();
    let completed = events.iter().find(|e| e["type"] == "checkout.session.completed").unwrap();
    let path = format!("/events/{}/redeliver", completed["id"].as_str().unwrap());
    let answer = stripe.post(&path, json!({"times": 20, "parallel": true})).await;
    let good = answer["statuses"].as_array().unwrap().iter().filter(|s| **s == 200).count();
    assert_eq!(good, 20, "{answer}");
    stripe.post("/webhooks/resume", json!({})).await;
    let order = order_is(&api, order["id"].as_str().unwrap(), "fulfilled").await;
    server_is(&api, order["server_id"].as_str().unwrap(), "running").await;
    demo.check().await;
    demo.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_webhooks_build_one_server_on_sqlite() {
    repeated_webhooks_build_one_server(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_webhooks_build_one_server_on_postgres() {
    repeated_webhooks_build_one_server(Database::Postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_obeys_power_actions_and_is_given_back() {
    let Some(demo) = Demo::start("power", Database::Sqlite, 1).await else { return };
    let api = demo.api("customer");
    let (_, server) = buy(&demo, "web-1", "fsn").await;
    let id = server["id"].as_str().unwrap().to_owned();
    for (action, state) in
        [("stop", "stopped"), ("start", "running"), ("reboot", "running"), ("shutdown", "stopped")]
    {
        let (status, body) = api.post(&format!("/servers/{id}/actions"), json!({"action": action})).await;
        assert_eq!(status, 202, "{action}: {body}");
        let path = format!("/servers/{id}/actions/{}", body["id"].as_str().unwrap());
        let done = until(&format!("{action} to end"), PATIENCE, || async {
            let (_, action) = api.try_get(&path).await;
            ["success", "error"].contains(&action["status"].as_str()?).then_some(action)
        })
        .await;
        assert_eq!(done["status"], "success", "{done}");
        server_is(&api, &id, state).await;
    }
    let request = api.client.delete(format!("{}/servers/{id}", api.base)).bearer_auth(&api.token);
    let status = request.send().await.unwrap().status().as_u16();
    assert_eq!(status, 202);
    until("the server to be retired", PATIENCE, || async {
        let (_, body) = api.try_get(&format!("/servers/{id}")).await;
        (body["state"] == "retired").then_some(())
    })
    .await;
    demo.check().await;
    demo.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_checkout_gives_its_place_back() {
    let Some(demo) = Demo::start("abandoned checkout", Database::Sqlite, 1).await else { return };
    let api = demo.api("customer");
    let order = place(&api, "web-1", "fsn").await;
    demo.stripe().post("/clock/advance", json!({"seconds": 32 * 60})).await;
    order_is(&api, order["id"].as_str().unwrap(), "expired").await;
    demo.check().await;
    demo.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_orders_are_refused_with_a_code_and_leave_nothing_behind() {
    let Some(demo) = Demo::start("bad orders", Database::Sqlite, 1).await else { return };
    let api = demo.api("customer");
    let good = json!({
        "location": "fsn", "image": "debian-13", "plan": "s", "interval": "month",
        "hostname": "web-1", "ssh_keys": [crate::support::SSH_KEY], "accept_terms": true,
    });
    for (field, value) in [
        ("plan", json!("nope")),
        ("image", json!("nope")),
        ("location", json!("nope")),
        ("hostname", json!("bad_name!")),
        ("hostname", json!("web1\nruncmd:")),
        ("ssh_keys", json!([])),
        ("ssh_keys", json!(["ssh-ed25519 AAAA"])),
        ("ssh_keys", json!([format!("{}\nssh-rsa x", crate::support::SSH_KEY)])),
        ("ssh_keys", json!([format!("command=\"x\" {}", crate::support::SSH_KEY)])),
        ("price", json!(1)),
    ] {
        let mut wrong = good.clone();
        wrong[field] = value.clone();
        let (status, body) = api.post("/orders", wrong).await;
        assert!((400..=422).contains(&status), "{field} = {value}: {status} {body}");
        assert!(body["code"].is_string(), "{field} = {value}: {body}");
    }
    let orders = api.get("/orders").await;
    let count = orders["data"].as_array().or_else(|| orders.as_array()).map_or(0, Vec::len);
    assert_eq!(count, 0, "{orders}");
    let nobody = purchase_with_token(&demo, "ezt_nobody").await;
    assert_eq!(nobody, 401);
    demo.check().await;
    demo.stop().await;
}

async fn purchase_with_token(demo: &Demo, token: &str) -> u16 {
    let mut api = demo.api("customer");
    api.token = token.to_owned();
    api.post("/orders", json!({})).await.0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_with_a_bad_signature_leaves_no_row() {
    let Some(demo) = Demo::start("bad signature", Database::Sqlite, 1).await else { return };
    let before = demo.inbox_rows().await;
    let client = reqwest::Client::new();
    let answer = client
        .post(format!("{}/webhooks/stripe", demo.portal()))
        .header("stripe-signature", "t=1,v1=00")
        .body(r#"{"id":"evt_forged","object":"event"}"#)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 400);
    assert_eq!(demo.inbox_rows().await, before);
    demo.check().await;
    demo.stop().await;
}

/// Paid, and the webhook lost for good: the customer's return to the page or the poll finds it.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_webhook_is_found_when_the_customer_comes_back() {
    let Some(demo) = Demo::start("lost webhook", Database::Sqlite, 1).await else { return };
    let api = demo.api("customer");
    demo.stripe().post("/webhooks/pause", json!({})).await;
    let order = place(&api, "web-1", "fsn").await;
    demo.stripe().pay(order["checkout_url"].as_str().unwrap()).await;
    let id = order["id"].as_str().unwrap();
    // Reading the order asks Stripe, as the page the customer is sent back to does.
    purchase::order_is(&api, id, "fulfilled").await;
    demo.stripe().post("/webhooks/resume", json!({})).await;
    until("the webhooks to arrive late", Duration::from_secs(60), || async {
        let waiting = demo.stripe().get("/webhooks").await;
        waiting["undelivered"].as_array()?.is_empty().then_some(())
    })
    .await;
    demo.check().await;
    demo.stop().await;
}
