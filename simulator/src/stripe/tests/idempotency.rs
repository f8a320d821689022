//! One key, one effect.

use super::bench::Bench;

#[tokio::test]
async fn the_same_key_answers_again_without_doing_again() {
    let bench = Bench::start().await;
    let (_, _, first) = bench.post_with("/v1/customers", "email=a@example.com&name=A", "customer:1").await;
    let (status, headers, second) =
        bench.post_with("/v1/customers", "name=A&email=a@example.com", "customer:1").await;
    assert_eq!((status, &first), (200, &second));
    assert_eq!(headers["idempotent-replayed"], "true");
    assert_eq!(bench.read("/v1/customers").await["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn other_parameters_under_the_same_key_are_refused() {
    let bench = Bench::start().await;
    bench.post_with("/v1/customers", "email=a@example.com", "customer:1").await;
    let (status, _, refused) = bench.post_with("/v1/customers", "email=b@example.com", "customer:1").await;
    assert_eq!((status, refused["error"]["type"].as_str()), (400, Some("idempotency_error")));
}

#[tokio::test]
async fn a_refused_request_does_not_use_up_its_key() {
    let bench = Bench::start().await;
    let (status, ..) = bench.post_with("/v1/customers", "colour=red", "customer:1").await;
    assert_eq!(status, 400);
    let (status, ..) = bench.post_with("/v1/customers", "email=a@example.com", "customer:1").await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_second_request_during_the_first_is_told_so() {
    let bench = Bench::start().await;
    let held = bench.running.as_ref().unwrap().engine.hold().await;
    let first = bench.post_with("/v1/customers", "email=a@example.com", "customer:1");
    let second = bench.post_with("/v1/customers", "email=a@example.com", "customer:1");
    let (quick, slow) = match futures::future::select(Box::pin(first), Box::pin(second)).await {
        futures::future::Either::Left((quick, slow)) | futures::future::Either::Right((quick, slow)) => {
            (quick, slow)
        }
    };
    assert_eq!((quick.0, quick.2["error"]["code"].as_str()), (409, Some("idempotency_key_in_use")));
    drop(held);
    assert_eq!(slow.await.0, 200);
}

#[tokio::test]
async fn keys_are_forgotten_after_a_day_of_its_clock() {
    let bench = Bench::start().await;
    bench.post_with("/v1/customers", "email=a@example.com", "customer:1").await;
    bench.advance(24 * 3_600 + 1).await;
    let (status, headers, _) = bench.post_with("/v1/customers", "email=b@example.com", "customer:1").await;
    assert_eq!(status, 200);
    assert!(headers.get("idempotent-replayed").is_none());
}
