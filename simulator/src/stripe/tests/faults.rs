//! Each injected fault does what it says and nothing else.

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::bench::{Bench, KEY, Received, SECRET, START};

/// When a webhook says that it was signed, and whether it was with the secret.
fn signed(received: &Received) -> (i64, bool) {
    let part = |name: &str| received.header.split(',').find_map(|part| part.strip_prefix(name)).unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(format!("{}.{}", part("t="), received.body).as_bytes());
    let right = data_encoding::HEXLOWER.encode(&mac.finalize().into_bytes());
    (part("t=").parse().unwrap(), part("v1=") == right)
}

impl Bench {
    async fn webhook_faults(&self, wanted: Value) {
        let armed = self.sim("faults/webhooks", Some(wanted)).await;
        assert!(!armed["ids"].as_array().unwrap().is_empty());
    }

    async fn api_fault(&self, rule: Value) {
        assert!(self.sim("faults/api", Some(rule)).await["id"].is_u64());
    }

    async fn customer(&self, name: &str) -> Value {
        self.ok("/v1/customers", &format!("email={name}@example.com")).await
    }

    /// Addresses of the customers whose making was told, in the order it was.
    async fn told(&self, count: usize) -> Vec<String> {
        let all = self.inbox.wait("customer.created", count).await;
        let email = |one: &Received| one.event()["data"]["object"]["email"].as_str().unwrap().to_owned();
        all.iter().map(|one| email(one)[..1].to_owned()).collect()
    }

    async fn customers(&self) -> usize {
        self.read("/v1/customers").await["data"].as_array().unwrap().len()
    }

    /// The faults in a log, in order.
    fn logged(&self, file: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.logs().join(file)).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter_map(|line| line["fault"].as_str().map(str::to_owned)).collect()
    }

    /// The bytes that come back for a POST under a key, until the connection ends.
    async fn raw_post(&self, path: &str, form: &str, key: &str) -> Vec<u8> {
        let address = self.running.as_ref().unwrap().api;
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {KEY}\r\nidempotency-key: {key}\r\n\
             content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{form}",
            form.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        answer
    }
}

#[tokio::test]
async fn duplicates_are_the_same_event_with_good_signatures() {
    let bench = Bench::start().await;
    bench.webhook_faults(json!({"duplicate": 2, "type": "customer.created"})).await;
    bench.customer("a").await;
    bench.customer("b").await;
    let all = bench.inbox.wait("customer.created", 4).await;
    let of = |name: &str| {
        let same = all.iter().filter(|one| one.body.contains(&format!("{name}@example.com")));
        same.map(|one| (one.event()["id"].to_string(), signed(one).1)).collect::<Vec<_>>()
    };
    let (a, b) = (of("a"), of("b"));
    assert_eq!((a.len(), b.len()), (3, 1), "one event, twice more");
    assert!(a.iter().all(|one| *one == a[0] && one.1));
    assert_eq!(bench.logged("stripe-deliveries.jsonl"), ["duplicate"; 3]);
}

#[tokio::test]
async fn reordered_events_come_newest_first_when_enough_are_held() {
    let bench = Bench::start().await;
    bench
        .webhook_faults(json!({"reorder": 3, "hold_ms": 600_000, "type": "customer.created", "skip": 1}))
        .await;
    for name in ["a", "b", "c"] {
        bench.customer(name).await;
    }
    assert_eq!(bench.told(1).await, ["a"], "the first was let pass");
    bench.customer("d").await;
    bench.customer("e").await;
    let mut told = bench.told(5).await;
    // Only what comes after the batch may come at any time.
    told.retain(|name| name != "e");
    assert_eq!(told, ["a", "d", "c", "b"]);
}

#[tokio::test]
async fn what_is_held_is_sent_when_the_faults_are_taken_back() {
    let bench = Bench::start().await;
    bench.webhook_faults(json!({"reorder": 9, "hold_ms": 600_000, "type": "customer.created"})).await;
    bench.customer("a").await;
    while bench.sim("faults", None).await["held"] != 1 {
        tokio::task::yield_now().await;
    }
    assert!(bench.inbox.of_type("customer.created").is_empty());
    let url = format!("http://{}/_sim/faults", bench.running.as_ref().unwrap().control);
    assert_eq!(bench.client.delete(url).send().await.unwrap().status(), 204);
    assert_eq!(bench.told(1).await, ["a"]);
    assert_eq!(bench.sim("faults", None).await, json!({"webhooks": [], "api": [], "held": 0}));
}

#[tokio::test]
async fn a_delayed_event_comes_after_a_younger_one() {
    let bench = Bench::start().await;
    bench.webhook_faults(json!({"delay_ms": 1500, "type": "customer.created"})).await;
    bench.customer("a").await;
    bench.customer("b").await;
    assert_eq!(bench.told(2).await, ["b", "a"]);
}

#[tokio::test]
async fn a_lost_event_stands_in_the_list_only_even_after_a_restart() {
    let mut bench = Bench::start().await;
    bench.webhook_faults(json!({"lose": 1, "type": "customer.created"})).await;
    bench.customer("a").await;
    bench.customer("b").await;
    assert_eq!(bench.told(1).await, ["b"]);
    // What was not yet noted as delivered would come again.
    while bench.sim("webhooks", None).await["undelivered"].as_array().unwrap().len() != 1 {
        tokio::task::yield_now().await;
    }
    bench.running.take().unwrap().stop().await;
    bench.boot().await;
    bench.advance(4 * 86_400).await;
    bench.customer("c").await;
    assert_eq!(bench.told(2).await, ["b", "c"]);
    let lost = bench.read("/v1/events?delivery_success=false&type=customer.created").await;
    assert_eq!(lost["data"].as_array().unwrap().len(), 1);
    assert_eq!(lost["data"][0]["data"]["object"]["email"], "a@example.com");
}

#[tokio::test]
async fn a_spoiled_signature_is_followed_by_a_good_one() {
    let bench = Bench::start().await;
    bench.webhook_faults(json!({"bad_signature": 1, "type": "customer.created"})).await;
    bench.webhook_faults(json!({"stale_signature": 1, "type": "customer.created", "skip": 1})).await;
    bench.customer("a").await;
    let bad = bench.inbox.wait("customer.created", 1).await.remove(0);
    assert_eq!(signed(&bad), (START, false));
    bench.customer("b").await;
    let stale = bench.inbox.wait("customer.created", 2).await.remove(1);
    assert_eq!(signed(&stale), (START - 3_600, true), "good, but of an hour ago");
    // A receiver that refuses gets the event again, and then as it should be.
    bench.webhook_faults(json!({"bad_signature": 1, "type": "customer.created"})).await;
    *bench.inbox.refuse.lock().unwrap() = 1;
    bench.customer("c").await;
    while bench.sim("webhooks", None).await["undelivered"][0]["attempts"] != 1 {
        tokio::task::yield_now().await;
    }
    bench.advance(10).await;
    let good = bench.inbox.wait("customer.created", 3).await.remove(2);
    assert_eq!(signed(&good), (START, true));
    super::checker::check("stripe-deliveries.jsonl", &bench, &[]);
    assert_eq!(
        bench.logged("stripe-deliveries.jsonl"),
        ["bad_signature", "stale_signature", "bad_signature"]
    );
}

#[tokio::test]
async fn a_busy_stripe_did_nothing_and_the_key_is_still_good() {
    let bench = Bench::start().await;
    for code in ["rate_limit", "lock_timeout"] {
        let call = json!({"method": "POST", "path": "/v1/customers$"});
        bench.api_fault(json!({"call": call, "fault": "status_before", "status": 429, "code": code})).await;
    }
    let ask = async || bench.post_with("/v1/customers", "email=a@example.com", "customer:1").await;
    for (code, advice) in [("rate_limit", None), ("lock_timeout", Some("true"))] {
        let (status, headers, body) = ask().await;
        assert_eq!((status, body["error"]["code"].as_str()), (429, Some(code)));
        assert_eq!(headers.get("stripe-should-retry").map(|value| value.to_str().unwrap()), advice);
    }
    assert_eq!(bench.customers().await, 0);
    let (status, headers, _) = ask().await;
    assert_eq!((status, headers.get("idempotent-replayed").is_none()), (200, true));
    assert_eq!(bench.customers().await, 1);
}

#[tokio::test]
async fn a_500_after_the_write_is_what_the_key_replays() {
    let bench = Bench::start().await;
    let call = json!({"method": "POST", "path": "/v1/customers$"});
    bench.api_fault(json!({"call": call, "fault": "status_after"})).await;
    let ask = async |key: &str| bench.post_with("/v1/customers", "email=a@example.com", key).await;
    let (status, headers, first) = ask("customer:1").await;
    assert_eq!((status, first["error"]["type"].as_str()), (500, Some("api_error")));
    assert_eq!(headers["stripe-should-retry"], "false");
    assert_eq!(bench.customers().await, 1, "the write happened");
    let (status, headers, again) = ask("customer:1").await;
    assert_eq!((status, &again), (500, &first));
    assert_eq!(headers["idempotent-replayed"], "true");
    assert_eq!(ask("customer:2").await.0, 200);
    assert_eq!(bench.customers().await, 2, "another key is another customer");
    bench.inbox.wait("customer.created", 2).await;
}

#[tokio::test]
async fn a_503_after_the_write_comes_from_the_edge_and_the_key_replays_success() {
    let bench = Bench::start().await;
    bench.api_fault(json!({"call": {"path": "/v1/customers"}, "fault": "status_after", "status": 503})).await;
    let ask = async || bench.post_with("/v1/customers", "email=a@example.com", "customer:1").await;
    assert_eq!(ask().await.0, 503);
    let (status, headers, _) = ask().await;
    assert_eq!((status, headers["idempotent-replayed"].to_str().unwrap()), (200, "true"));
    assert_eq!(bench.customers().await, 1);
}

#[tokio::test]
async fn a_refused_call_stays_refused_when_its_answer_would_be_spoiled() {
    let bench = Bench::start().await;
    bench.api_fault(json!({"call": {"path": "/v1/customers"}, "fault": "status_after"})).await;
    let (status, body) = bench.post("/v1/customers", "colour=red").await;
    assert_eq!((status, body["error"]["code"].as_str()), (400, Some("parameter_unknown")));
}

#[tokio::test]
async fn a_dropped_answer_is_not_one_byte_and_the_key_replays_it() {
    let bench = Bench::start().await;
    bench.api_fault(json!({"call": {"path": "/v1/customers"}, "fault": "drop_answer"})).await;
    assert!(bench.raw_post("/v1/customers", "email=a@example.com", "customer:1").await.is_empty());
    assert_eq!(bench.customers().await, 1);
    let again = bench.raw_post("/v1/customers", "email=a@example.com", "customer:1").await;
    let again = String::from_utf8(again).unwrap();
    assert!(again.starts_with("HTTP/1.1 200 ") && again.contains("idempotent-replayed: true"), "{again}");
    assert_eq!(bench.customers().await, 1);
    assert_eq!(bench.logged("stripe.jsonl"), ["drop_answer"]);
    super::checker::check("stripe.jsonl", &bench, &["--need-key"]);
}

#[tokio::test]
async fn the_key_of_a_slow_call_is_in_use_until_its_answer() {
    let bench = Bench::start().await;
    let call = json!({"method": "POST", "path": "/v1/customers$"});
    bench.api_fault(json!({"call": call, "fault": "slow", "delay_ms": 3000})).await;
    let ask = || bench.post_with("/v1/customers", "email=a@example.com", "customer:1");
    let slow = ask();
    tokio::pin!(slow);
    let made = async {
        while bench.customers().await == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        early = &mut slow => panic!("{early:?}"),
        () = made => {}
    }
    let (status, _, body) = ask().await;
    assert_eq!((status, body["error"]["code"].as_str()), (409, Some("idempotency_key_in_use")));
    assert_eq!(slow.await.0, 200);
    assert_eq!(ask().await.1["idempotent-replayed"], "true");
}

#[tokio::test]
async fn a_fault_that_makes_no_sense_is_refused_with_a_reason() {
    let bench = Bench::start().await;
    let url = |what: &str| format!("http://{}/_sim/faults/{what}", bench.running.as_ref().unwrap().control);
    let rule = json!({"call": {"path": "/v1"}, "fault": "status_after", "status": 429});
    for (what, body, reason) in
        [("webhooks", json!({}), "name one of"), ("api", rule, "a 429 comes before any work")]
    {
        let answer = bench.client.post(url(what)).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 422);
        let said: Value = answer.json().await.unwrap();
        assert!(said["error"].as_str().unwrap().contains(reason), "{said}");
    }
}
