//! Ending a subscription, and money back.

use super::bench::Bench;

async fn intent_of(bench: &Bench, session: &serde_json::Value) -> String {
    let found =
        bench.read(&format!("/v1/invoice_payments?invoice={}", session["invoice"].as_str().unwrap())).await;
    found["data"][0]["payment"]["payment_intent"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn cancelled_now_means_no_renewal() {
    let bench = Bench::start().await;
    let bought = bench.bought("4242").await;
    let path = format!("/v1/subscriptions/{}", bought["subscription"].as_str().unwrap());
    let (status, ended) = bench.delete(&path).await;
    assert_eq!((status, ended["status"].as_str()), (200, Some("canceled")));
    bench.inbox.wait("customer.subscription.deleted", 1).await;
    assert_eq!(bench.delete(&path).await.0, 404);
    bench.advance(90 * 86_400).await;
    assert_eq!(bench.read("/v1/invoices").await["data"].as_array().unwrap().len(), 1);
    assert_eq!(bench.read("/v1/subscriptions").await["data"].as_array().unwrap().len(), 0);
    assert_eq!(bench.read("/v1/subscriptions?status=all").await["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn cancelled_at_period_end_runs_until_then_unless_taken_back() {
    let bench = Bench::start().await;
    let bought = bench.bought("4242").await;
    let path = format!("/v1/subscriptions/{}", bought["subscription"].as_str().unwrap());
    let marked =
        bench.ok(&path, "cancel_at_period_end=true&cancellation_details[feedback]=too_expensive").await;
    assert_eq!(
        (&marked["status"], &marked["cancel_at"]),
        (&"active".into(), &marked["items"]["data"][0]["current_period_end"])
    );
    let kept = bench.ok(&path, "cancel_at_period_end=false").await;
    assert!(kept["cancel_at"].is_null() && kept["canceled_at"].is_null());
    bench.ok(&path, "cancel_at_period_end=true").await;
    bench.advance(30 * 86_400 + 1).await;
    assert_eq!(bench.read(&path).await["status"], "canceled");
    assert_eq!(bench.read("/v1/invoices").await["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_refund_gives_back_once_and_never_more_than_was_paid() {
    let bench = Bench::start().await;
    let bought = bench.bought("4242").await;
    let intent = intent_of(&bench, &bought).await;
    let part = bench.ok("/v1/refunds", &format!("payment_intent={intent}&amount=300")).await;
    assert_eq!((&part["amount"], &part["status"]), (&300.into(), &"succeeded".into()));
    let (status, refused) = bench.post("/v1/refunds", &format!("payment_intent={intent}&amount=601")).await;
    assert_eq!((status, refused["error"]["param"].as_str()), (400, Some("amount")));
    let form = format!("payment_intent={intent}&metadata[order_id]=o1");
    let (_, _, rest) = bench.post_with("/v1/refunds", &form, "refund:o1:1").await;
    let (_, headers, replay) = bench.post_with("/v1/refunds", &form, "refund:o1:1").await;
    assert_eq!((&rest["amount"], &rest), (&600.into(), &replay));
    assert_eq!(headers["idempotent-replayed"], "true");
    let (_, over) = bench.post("/v1/refunds", &form).await;
    assert_eq!(over["error"]["code"], "charge_already_refunded");
    let charge =
        bench.read(&format!("/v1/charges/{}?expand[]=refunds", part["charge"].as_str().unwrap())).await;
    assert_eq!((&charge["refunded"], &charge["amount_refunded"]), (&true.into(), &900.into()));
    assert_eq!(charge["refunds"]["data"].as_array().unwrap().len(), 2);
    bench.inbox.wait("charge.refunded", 2).await;
    let account = bench.sim("ledger", None).await["customers"][0].clone();
    assert_eq!(
        (&account["paid"], &account["refunded"], &account["due"]),
        (&900.into(), &900.into(), &0.into())
    );
}

#[tokio::test]
async fn a_dispute_takes_the_money_back_until_it_is_won() {
    let bench = Bench::start().await;
    let bought = bench.bought("4242").await;
    let intent = intent_of(&bench, &bought).await;
    let dispute = bench
        .sim("disputes", Some(serde_json::json!({ "payment_intent": intent, "reason": "fraudulent" })))
        .await;
    bench.inbox.wait("charge.dispute.created", 1).await;
    assert_eq!(bench.sim("ledger", None).await["customers"][0]["disputed"], 900);
    let path = format!("disputes/{}/close", dispute["id"].as_str().unwrap());
    bench.sim(&path, Some(serde_json::json!({ "won": true }))).await;
    bench.inbox.wait("charge.dispute.closed", 1).await;
    assert_eq!(bench.sim("ledger", None).await["customers"][0]["disputed"], 0);
}

#[tokio::test]
async fn a_deleted_customer_takes_its_subscriptions_along_and_only_its_id_is_left() {
    let bench = Bench::start().await;
    let (bought, other) = (bench.bought("4242").await, bench.bought("4242").await);
    let (customer, subscription) =
        (bought["customer"].as_str().unwrap(), bought["subscription"].as_str().unwrap());
    let path = format!("/v1/customers/{customer}");
    let gone = serde_json::json!({ "id": customer, "object": "customer", "deleted": true });
    assert_eq!(bench.delete(&path).await, (200, gone.clone()));
    assert_eq!(bench.read(&path).await, gone);
    let ended = bench.read(&format!("/v1/subscriptions/{subscription}")).await;
    assert_eq!(
        (&ended["status"], &ended["cancellation_details"]["reason"]),
        (&"canceled".into(), &"cancellation_requested".into())
    );
    let told = bench.inbox.wait("customer.deleted", 1).await[0].event();
    assert_eq!(told["data"]["object"]["email"], "jane@example.com", "as it was");
    bench.inbox.wait("customer.subscription.deleted", 1).await;
    // Nothing can be done with it any more, and it is on no list.
    for (path, form) in [
        (path.clone(), "name=Jane".to_owned()),
        (format!("{path}/balance_transactions"), "amount=-1&currency=eur".to_owned()),
        ("/v1/billing_portal/sessions".to_owned(), format!("customer={customer}")),
    ] {
        let (status, refused) = bench.post(&path, &form).await;
        assert_eq!(refused["error"]["code"], "resource_missing", "{path}: {status} {refused}");
    }
    assert_eq!(bench.delete(&path).await.0, 404);
    let left = bench.read("/v1/customers").await;
    assert_eq!(left["data"].as_array().unwrap().len(), 1);
    bench.advance(40 * 86_400).await;
    super::checker::check("stripe.jsonl", &bench, &["--need-key", "--version", super::super::API_VERSION]);

    let customer = other["customer"].as_str().unwrap();
    let done = bench.sim(&format!("customers/{customer}/delete"), Some(serde_json::json!({}))).await;
    assert_eq!(done["deleted"], true, "in the dashboard as well");
}
