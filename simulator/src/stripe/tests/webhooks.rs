//! Signatures, retries, repetitions, pauses.

use hmac::{Hmac, KeyInit, Mac};
use serde_json::json;
use sha2::Sha256;

use super::bench::{Bench, Received, SECRET, START};

/// An independent check of a signature header: how many of its `v1` are good for the secret.
fn good(received: &Received, secret: &str) -> usize {
    let t = received.header.split(',').find_map(|part| part.strip_prefix("t=")).unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(t.as_bytes());
    mac.update(b".");
    mac.update(received.body.as_bytes());
    let right = data_encoding::HEXLOWER.encode(&mac.finalize().into_bytes());
    received.header.split(',').filter_map(|part| part.strip_prefix("v1=")).filter(|v1| *v1 == right).count()
}

#[tokio::test]
async fn every_webhook_is_signed_with_the_secret_and_the_real_time() {
    let bench = Bench::start().await;
    bench.advance(86_400).await;
    bench.ok("/v1/customers", "email=a@example.com").await;
    let received = bench.inbox.wait("customer.created", 1).await.remove(0);
    assert_eq!(good(&received, SECRET), 1);
    assert_eq!(good(&received, "whsec_other"), 0);
    assert!(received.header.starts_with(&format!("t={START},v1=")), "{}", received.header);
    assert_eq!(received.event()["created"], START + 86_400);
}

#[tokio::test]
async fn while_a_secret_rolls_both_sign() {
    let bench = Bench::start().await;
    bench.sim("webhooks/roll", Some(json!({ "secret": "whsec_new", "old_for_seconds": 60 }))).await;
    bench.ok("/v1/customers", "email=a@example.com").await;
    let both = bench.inbox.wait("customer.created", 1).await.remove(0);
    assert_eq!((good(&both, SECRET), good(&both, "whsec_new")), (1, 1));
    bench.advance(61).await;
    bench.ok("/v1/customers", "email=b@example.com").await;
    let one = bench.inbox.wait("customer.created", 2).await.remove(1);
    assert_eq!((good(&one, SECRET), good(&one, "whsec_new")), (0, 1));
}

#[tokio::test]
async fn an_unanswered_webhook_comes_again_when_its_time_has_come() {
    let bench = Bench::start().await;
    *bench.inbox.refuse.lock().unwrap() = 2;
    let customer = bench.ok("/v1/customers", "email=a@example.com").await;
    let refused =
        || async { bench.sim("webhooks", None).await["undelivered"][0]["attempts"].as_i64().unwrap_or(-1) };
    for attempts in 1..=2 {
        while refused().await < attempts {
            tokio::task::yield_now().await;
        }
        let open = bench.read("/v1/events?delivery_success=false").await;
        assert_eq!(open["data"][0]["data"]["object"]["id"], customer["id"]);
        bench.advance(10).await;
    }
    bench.inbox.wait("customer.created", 1).await;
    while !bench.read("/v1/events?delivery_success=false").await["data"].as_array().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_event_can_be_delivered_twenty_times_at_once() {
    let bench = Bench::start().await;
    bench.ok("/v1/customers", "email=a@example.com").await;
    let id = bench.inbox.wait("customer.created", 1).await[0].event()["id"].as_str().unwrap().to_owned();
    let done =
        bench.sim(&format!("events/{id}/redeliver"), Some(json!({ "times": 20, "parallel": true }))).await;
    assert_eq!(done["statuses"].as_array().unwrap().len(), 20);
    let all = bench.inbox.wait("customer.created", 21).await;
    assert!(all.iter().all(|received| received.event()["id"] == id.as_str() && good(received, SECRET) == 1));
}

#[tokio::test]
async fn paused_webhooks_wait_and_are_seen_in_the_events_list() {
    let bench = Bench::start().await;
    bench.sim("webhooks/pause", Some(json!({}))).await;
    bench.ok("/v1/customers", "email=a@example.com").await;
    assert_eq!(
        bench.read("/v1/events?delivery_success=false&types[]=customer.created").await["data"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert!(bench.inbox.all().is_empty());
    bench.sim("webhooks/resume", Some(json!({}))).await;
    bench.inbox.wait("customer.created", 1).await;
}

#[tokio::test]
async fn a_spoiled_signature_and_an_unknown_type_can_be_sent() {
    let bench = Bench::start().await;
    bench.sim("inject/unknown_type", Some(json!({}))).await;
    let strange = bench.inbox.wait("thing.happened", 1).await.remove(0);
    assert_eq!(good(&strange, SECRET), 1);
    bench.sim("inject/bad_signature", Some(json!({}))).await;
    let spoiled = bench.inbox.wait("thing.happened", 2).await.remove(1);
    assert_eq!(good(&spoiled, SECRET), 0);
}

#[tokio::test]
async fn an_endpoint_made_by_the_api_gets_what_it_asked_for() {
    let bench = Bench::start().await;
    let url = bench.sim("webhooks", None).await;
    assert_eq!(url["paused"], false);
    let configured = bench.read("/v1/webhook_endpoints").await["data"][0].clone();
    assert!(configured.get("secret").is_none(), "a secret is shown once, at creation");
    let form = format!("url={}&enabled_events[0]=product.created", configured["url"].as_str().unwrap());
    let made = bench.ok("/v1/webhook_endpoints", &form).await;
    bench.ok("/v1/customers", "email=a@example.com").await;
    bench.ok("/v1/products", "name=P").await;
    let both = bench.inbox.wait("product.created", 2).await;
    assert_eq!(
        both.iter().map(|received| good(received, made["secret"].as_str().unwrap())).sum::<usize>(),
        1
    );
    assert_eq!(bench.inbox.wait("customer.created", 1).await.len(), 1);
}
