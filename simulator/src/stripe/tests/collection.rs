//! Collection that is paused: invoices go on being made, and nobody has to pay them.

use serde_json::{Value, json};

use super::{super::API_VERSION, bench::Bench, checker::check};

const DAY: i64 = 86_400;

/// A subscription whose collection is paused over its first renewal; the bench, its path and the invoice of that time.
async fn over_a_renewal(behaviour: &str) -> (Bench, String, Value) {
    let bench = Bench::start().await;
    let bought = bench.bought("4242").await;
    let id = bought["subscription"].as_str().unwrap();
    let pause = Some(json!({ "behavior": behaviour }));
    let paused = bench.sim(&format!("subscriptions/{id}/pause_collection"), pause).await;
    assert_eq!(
        (&paused["status"], &paused["pause_collection"]["behavior"]),
        (&"active".into(), &behaviour.into())
    );
    bench.advance(30 * DAY + 2 * 3_600).await;
    let invoice = bench.read("/v1/invoices").await["data"][0].clone();
    assert_eq!(invoice["billing_reason"], "subscription_cycle");
    (bench, format!("/v1/subscriptions/{id}"), invoice)
}

#[tokio::test]
async fn what_is_made_meanwhile_is_void_a_draft_or_uncollectible_as_was_chosen() {
    for (behaviour, status) in
        [("void", "void"), ("keep_as_draft", "draft"), ("mark_uncollectible", "uncollectible")]
    {
        let (bench, path, made) = over_a_renewal(behaviour).await;
        assert_eq!(
            (&made["status"], &made["attempt_count"], &made["auto_advance"]),
            (&status.into(), &0.into(), &false.into()),
            "{behaviour}"
        );
        assert_eq!(bench.read(&path).await["status"], "active", "the status says nothing about it");
        // Taken back: the next one is collected, that one never.
        let id = path.rsplit('/').next().unwrap();
        let back = Some(json!({ "behavior": null }));
        assert!(
            bench.sim(&format!("subscriptions/{id}/pause_collection"), back).await["pause_collection"]
                .is_null()
        );
        bench.advance(31 * DAY + 3_600).await;
        let paid: Vec<i64> = bench.read("/v1/invoices?status=paid").await["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|invoice| invoice["total"].as_i64().unwrap())
            .collect();
        assert_eq!(paid, [900, 900], "{behaviour}");
        let then = bench.read(&format!("/v1/invoices/{}", made["id"].as_str().unwrap())).await;
        assert_eq!(then["status"], status);
        check("stripe.jsonl", &bench, &["--need-key", "--version", API_VERSION]);
    }
}

#[tokio::test]
async fn a_void_invoice_takes_no_credit_and_a_pause_with_a_date_ends_by_itself() {
    let bench = Bench::start().await;
    let bought = bench.bought("4242").await;
    let customer = bought["customer"].as_str().unwrap();
    bench.ok(&format!("/v1/customers/{customer}/balance_transactions"), "amount=-500&currency=eur").await;
    let path = format!("/v1/subscriptions/{}", bought["subscription"].as_str().unwrap());
    let until = super::bench::START + 40 * DAY;
    bench.ok(&path, &format!("pause_collection[behavior]=void&pause_collection[resumes_at]={until}")).await;
    bench.advance(31 * DAY).await;
    assert_eq!(bench.read("/v1/invoices").await["data"][0]["status"], "void");
    assert_eq!(bench.read(&format!("/v1/customers/{customer}")).await["balance"], -500);
    bench.advance(10 * DAY).await;
    assert!(bench.read(&path).await["pause_collection"].is_null());
    bench.advance(21 * DAY).await;
    let newest = bench.read("/v1/invoices").await["data"][0].clone();
    assert_eq!((&newest["status"], &newest["amount_due"]), (&"paid".into(), &400.into()));
    let (status, _) = bench.post(&path, "pause_collection[behavior]=forget").await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn what_was_owed_before_is_collected_as_ever() {
    let bench = Bench::start().await;
    let bought = bench.bought("0341").await;
    let path = format!("/v1/subscriptions/{}", bought["subscription"].as_str().unwrap());
    bench.advance(30 * DAY + 3_700).await;
    assert_eq!(bench.read(&path).await["status"], "past_due");
    bench.ok(&path, "pause_collection[behavior]=keep_as_draft").await;
    bench.advance(2 * DAY).await;
    let open = bench.read("/v1/invoices?status=open").await["data"][0].clone();
    assert_eq!(open["attempt_count"], 3);
}
