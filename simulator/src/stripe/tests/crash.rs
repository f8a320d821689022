//! What is answered survives a kill, and what was not yet delivered is.

use serde_json::json;

use super::bench::Bench;

/// Drops the stand-in as a kill would: no goodbye, no flush; only its lock on the database is let go.
async fn kill(bench: &mut Bench) {
    bench.running.take().unwrap().abort().await;
}

#[tokio::test]
async fn answered_means_stored_and_undelivered_webhooks_come_after_the_restart() {
    let mut bench = Bench::start().await;
    bench.sim("webhooks/pause", Some(json!({}))).await;
    let bought = bench.bought("4242").await;
    kill(&mut bench).await;
    assert!(bench.inbox.all().is_empty());
    bench.boot().await;
    let path = format!("/v1/checkout/sessions/{}", bought["id"].as_str().unwrap());
    let after = bench.read(&path).await;
    assert_eq!((&after["status"], &after["subscription"]), (&bought["status"], &bought["subscription"]));
    assert_eq!(bench.sim("webhooks", None).await["paused"], true, "a pause survives as well");
    bench.sim("webhooks/resume", Some(json!({}))).await;
    bench.inbox.wait("checkout.session.completed", 1).await;
}

#[tokio::test]
async fn clock_keys_and_identifiers_go_on_after_a_restart() {
    let mut bench = Bench::start().await;
    let (_, _, first) = bench.post_with("/v1/customers", "email=a@example.com", "customer:1").await;
    bench.advance(3_600).await;
    kill(&mut bench).await;
    bench.boot().await;
    assert_eq!(bench.sim("clock", None).await["ahead_seconds"], 3_600);
    let (_, headers, replay) = bench.post_with("/v1/customers", "email=a@example.com", "customer:1").await;
    assert_eq!((&first, headers["idempotent-replayed"].to_str().unwrap()), (&replay, "true"));
    let second = bench.ok("/v1/customers", "email=b@example.com").await;
    assert_ne!(first["id"], second["id"]);
    bench.inbox.wait("customer.created", 2).await;
}
