//! What every story about servers begins with: somebody buys one through the API.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Api, Demo, SSH_KEY, until};

/// How long anything may take on a busy machine, the longest way round included: an ending that did not work out is
/// tried again after a minute and a half.
pub const PATIENCE: Duration = Duration::from_secs(200);

/// Places an order for the smallest plan.
pub async fn place(api: &Api, name: &str, location: &str) -> Value {
    let order = json!({
        "location": location, "image": "debian-13", "plan": "s", "interval": "month",
        "hostname": name, "ssh_keys": [SSH_KEY], "accept_terms": true,
    });
    let (status, body) = api.post("/orders", order).await;
    assert_eq!(status, 201, "{body}");
    body
}

/// Waits until the order is in a state.
pub async fn order_is(api: &Api, order: &str, wanted: &str) -> Value {
    let path = format!("/orders/{order}");
    until(&format!("order {order} to be {wanted}"), PATIENCE, || async {
        let (status, body) = api.try_get(&path).await;
        (status == 200 && body["state"] == wanted).then_some(body)
    })
    .await
}

/// Waits until the server is in a state.
pub async fn server_is(api: &Api, server: &str, wanted: &str) -> Value {
    let path = format!("/servers/{server}");
    until(&format!("server {server} to be {wanted}"), PATIENCE, || async {
        let (status, body) = api.try_get(&path).await;
        (status == 200 && body["state"] == wanted).then_some(body)
    })
    .await
}

/// Buys a server and waits until it runs; gives the order and the server.
pub async fn buy(demo: &Demo, name: &str, location: &str) -> (Value, Value) {
    let api = demo.api("customer");
    let order = place(&api, name, location).await;
    demo.stripe().pay(order["checkout_url"].as_str().unwrap()).await;
    let order = order_is(&api, order["id"].as_str().unwrap(), "fulfilled").await;
    let server = server_is(&api, order["server_id"].as_str().unwrap(), "running").await;
    (order, server)
}
