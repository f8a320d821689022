//! Buying on the hosted page.

use serde_json::Value;

use super::bench::Bench;

async fn press(bench: &Bench, path: &str, form: &[(&str, &str)]) -> (u16, Option<String>, String) {
    let answer = bench.client.post(bench.url(path)).form(form).send().await.unwrap();
    let location = answer.headers().get("location").map(|value| value.to_str().unwrap().to_owned());
    (answer.status().as_u16(), location, answer.text().await.unwrap())
}

#[tokio::test]
async fn a_good_card_pays_and_everything_hangs_together() {
    let bench = Bench::start().await;
    let session = bench.session().await;
    let id = session["id"].as_str().unwrap();
    let page = bench.client.get(session["url"].as_str().unwrap()).send().await.unwrap();
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(
        policy.contains("default-src 'none'") && policy.contains("form-action 'self' http://127.0.0.1:1"),
        "{policy}"
    );
    let html = page.text().await.unwrap();
    for wanted in ["Server S", "9.00\u{a0}€", "jane@example.com", "Simulation.", "4242 4242 4242 4242"] {
        assert!(html.contains(wanted), "{wanted} is missing");
    }

    let (status, location, _) =
        press(&bench, &format!("/c/pay/{id}"), &[("card", "4242 4242 4242 4242"), ("choice", "typed")]).await;
    assert_eq!((status, location.unwrap()), (303, format!("http://127.0.0.1:1/orders/o1?s={id}")));

    let path = format!(
        "/v1/checkout/sessions/{id}?expand[]=subscription&expand[]=invoice.payments&expand[]=line_items&expand[]=customer"
    );
    let paid = bench.read(&path).await;
    assert_eq!((&paid["status"], &paid["payment_status"]), (&"complete".into(), &"paid".into()));
    assert_eq!(paid["customer"]["email"], "jane@example.com");
    assert_eq!(paid["line_items"]["data"][0]["amount_total"], 900);
    assert_eq!(
        (&paid["subscription"]["status"], &paid["subscription"]["metadata"]["order_id"]),
        (&"active".into(), &"o1".into())
    );
    assert_eq!((&paid["invoice"]["status"], &paid["invoice"]["amount_paid"]), (&"paid".into(), &900.into()));
    let intent = paid["invoice"]["payments"]["data"][0]["payment"]["payment_intent"].as_str().unwrap();
    let intent =
        bench.read(&format!("/v1/payment_intents/{intent}?expand[]=latest_charge.balance_transaction")).await;
    assert_eq!((&intent["status"], &intent["latest_charge"]["paid"]), (&"succeeded".into(), &true.into()));
    assert_eq!(intent["latest_charge"]["balance_transaction"]["amount"], 900);
    let found = bench
        .read(&format!(
            "/v1/invoice_payments?payment[type]=payment_intent&payment[payment_intent]={}",
            intent["id"].as_str().unwrap()
        ))
        .await;
    assert_eq!(found["data"][0]["invoice"], paid["invoice"]["id"]);

    for kind in
        ["customer.created", "customer.subscription.created", "invoice.paid", "checkout.session.completed"]
    {
        bench.inbox.wait(kind, 1).await;
    }
    let again =
        bench.client.get(bench.url(&format!("/c/pay/{id}"))).send().await.unwrap().text().await.unwrap();
    assert!(again.contains("Already paid"));
}

#[tokio::test]
async fn a_declined_card_leaves_the_session_open_for_another() {
    let bench = Bench::start().await;
    let session = bench.session().await;
    let path = format!("/c/pay/{}", session["id"].as_str().unwrap());
    let (status, _, html) = press(&bench, &path, &[("card", ""), ("choice", "4000000000000002")]).await;
    assert_eq!(status, 402);
    assert!(html.contains("Your card was declined"));
    let open = bench.read(&format!("/v1/checkout/sessions/{}", session["id"].as_str().unwrap())).await;
    assert_eq!(
        (&open["status"], &open["payment_status"], &open["subscription"]),
        (&"open".into(), &"unpaid".into(), &Value::Null)
    );
    bench.inbox.wait("charge.failed", 1).await;
    let (status, ..) = press(&bench, &path, &[("card", "4242424242424242")]).await;
    assert_eq!(status, 303);
}

#[tokio::test]
async fn three_d_secure_can_be_confirmed_or_refused() {
    let bench = Bench::start().await;
    let session = bench.session().await;
    let path = format!("/c/pay/{}", session["id"].as_str().unwrap());
    let (status, _, html) = press(&bench, &path, &[("choice", "4000002500003155")]).await;
    assert_eq!(status, 200);
    assert!(html.contains("Confirm with your bank"));
    let step = format!("{path}/authenticate");
    let (status, _, html) = press(&bench, &step, &[("choice", "fail")]).await;
    assert!(status == 402 && html.contains("could not confirm"));
    let (status, ..) = press(&bench, &step, &[("choice", "complete")]).await;
    assert_eq!(status, 303);
}

#[tokio::test]
async fn a_card_that_is_no_test_card_is_not_taken() {
    let bench = Bench::start().await;
    let session = bench.session().await;
    let path = format!("/c/pay/{}", session["id"].as_str().unwrap());
    let (status, _, html) = press(&bench, &path, &[("card", "4111 1111 1111 1111")]).await;
    assert!(status == 422 && html.contains("never type a real card here"));
}

#[tokio::test]
async fn an_expired_session_says_so_and_takes_no_money() {
    let bench = Bench::start().await;
    let session = bench.session().await;
    let id = session["id"].as_str().unwrap();
    let expired = bench.ok(&format!("/v1/checkout/sessions/{id}/expire"), "").await;
    assert_eq!((&expired["status"], &expired["url"]), (&"expired".into(), &Value::Null));
    bench.inbox.wait("checkout.session.expired", 1).await;
    let (_, _, html) = press(&bench, &format!("/c/pay/{id}"), &[("card", "4242424242424242")]).await;
    assert!(html.contains("This checkout has expired"));
    let (status, refused) = bench.post(&format!("/v1/checkout/sessions/{id}/expire"), "").await;
    assert!(
        status == 400
            && refused["error"]["message"]
                .as_str()
                .unwrap()
                .starts_with("Only Checkout Sessions with a status in")
    );
}

#[tokio::test]
async fn refusals_speak_as_stripe_does() {
    let bench = Bench::start().await;
    let price = bench.price().await;
    let base = format!("mode=subscription&line_items[0][price]={price}&success_url=http://127.0.0.1:1/");
    let refused = |form: String, path: &'static str| {
        let bench = &bench;
        async move {
            let (status, body) = bench.post(path, &form).await;
            (
                status,
                body["error"]["code"].as_str().unwrap_or("-").to_owned(),
                body["error"]["param"].as_str().unwrap_or("-").to_owned(),
            )
        }
    };
    let sessions = "/v1/checkout/sessions";
    assert_eq!(
        refused(format!("{base}&colour=red"), sessions).await,
        (400, "parameter_unknown".into(), "colour".into())
    );
    assert_eq!(refused("success_url=http://x/".into(), sessions).await.1, "parameter_missing");
    assert_eq!(
        refused(format!("{base}&customer=cus_none"), sessions).await,
        (400, "resource_missing".into(), "customer".into())
    );
    assert_eq!(refused(format!("{base}&expires_at=5"), sessions).await.2, "expires_at");
    let (status, body) = bench.get("/v1/customers/cus_none").await;
    assert_eq!((status, body["error"]["message"].as_str()), (404, Some("No such customer: 'cus_none'")));
    assert_eq!(bench.get("/v1/nothing").await.0, 404);
    let bare = bench.client.get(bench.url("/v1/account")).send().await.unwrap();
    assert_eq!(bare.status(), 401);
    let live = bench
        .client
        .get(bench.url("/v1/account"))
        .basic_auth("sk_live_x", None::<&str>)
        .send()
        .await
        .unwrap();
    assert!(live.text().await.unwrap().contains("only secret test keys"));
    let basic = bench
        .client
        .get(bench.url("/v1/account"))
        .basic_auth("sk_test_bench", Some(""))
        .send()
        .await
        .unwrap();
    assert_eq!(basic.headers()["stripe-version"], super::super::API_VERSION);
    assert!(basic.headers()["request-id"].to_str().unwrap().starts_with("req_"));
}
