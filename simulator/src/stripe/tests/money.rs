//! Products, prices, lists.

use super::bench::Bench;

#[tokio::test]
async fn a_price_is_found_by_its_lookup_key_which_can_move() {
    let bench = Bench::start().await;
    let first = bench.price().await;
    let found = bench.read("/v1/prices?lookup_keys[]=s:month:eur:v1&active=true&expand[]=data.product").await;
    assert_eq!(
        (&found["data"][0]["id"], &found["data"][0]["product"]["name"]),
        (&first.as_str().into(), &"Server S".into())
    );
    let product = found["data"][0]["product"]["id"].as_str().unwrap();
    let form = format!(
        "product={product}&currency=EUR&unit_amount=1000&recurring[interval]=month&lookup_key=s:month:eur:v1"
    );
    let (status, refused) = bench.post("/v1/prices", &form).await;
    assert_eq!((status, refused["error"]["param"].as_str()), (400, Some("lookup_key")));
    let second = bench.ok("/v1/prices", &format!("{form}&transfer_lookup_key=true")).await;
    assert_eq!(second["currency"], "eur");
    let found = bench.read("/v1/prices?lookup_keys[]=s:month:eur:v1").await;
    assert_eq!(found["data"].as_array().unwrap().len(), 1);
    assert_eq!(found["data"][0]["id"], second["id"]);
    assert!(bench.read(&format!("/v1/prices/{first}")).await["lookup_key"].is_null());
}

#[tokio::test]
async fn a_disputed_charge_is_refunded_only_once_the_bank_has_decided_against_its_customer() {
    for (won, refunds) in [(true, 200), (false, 400)] {
        let bench = Bench::start().await;
        bench.bought("4242").await;
        let payment =
            bench.read("/v1/invoice_payments").await["data"][0]["payment"]["payment_intent"].clone();
        let asked = format!("payment_intent={}", payment.as_str().unwrap());
        let dispute = bench.sim("disputes", Some(serde_json::json!({ "payment_intent": payment }))).await;
        let (status, refused) = bench.post("/v1/refunds", &asked).await;
        assert_eq!((status, refused["error"]["code"].as_str()), (400, Some("charge_disputed")), "{refused}");
        let path = format!("disputes/{}/close", dispute["id"].as_str().unwrap());
        bench.sim(&path, Some(serde_json::json!({ "won": won }))).await;
        let (status, answer) = bench.post("/v1/refunds", &asked).await;
        assert_eq!(status, refunds, "{answer}");
        super::checker::check("stripe.jsonl", &bench, &["--need-key"]);
    }
}

#[tokio::test]
async fn lists_are_walked_in_both_directions_without_gap_or_repetition() {
    let bench = Bench::start().await;
    for number in 0..7 {
        bench.ok("/v1/customers", &format!("email=c{number}@example.com")).await;
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = bench.read(&format!("/v1/customers?limit=3{cursor}")).await;
        let data = page["data"].as_array().unwrap();
        seen.extend(data.iter().map(|customer| customer["email"].as_str().unwrap().to_owned()));
        cursor = format!("&starting_after={}", data.last().unwrap()["id"].as_str().unwrap());
        if page["has_more"] == false {
            break;
        }
    }
    let wanted: Vec<String> = (0..7).rev().map(|number| format!("c{number}@example.com")).collect();
    assert_eq!(seen, wanted);
    let last =
        bench.read("/v1/customers?email=c0@example.com").await["data"][0]["id"].as_str().unwrap().to_owned();
    let back = bench.read(&format!("/v1/customers?limit=2&ending_before={last}")).await;
    let emails: Vec<_> =
        back["data"].as_array().unwrap().iter().map(|customer| customer["email"].as_str().unwrap()).collect();
    assert_eq!((emails, back["has_more"].as_bool()), (vec!["c2@example.com", "c1@example.com"], Some(true)));
    assert_eq!(bench.get("/v1/customers?starting_after=cus_none").await.0, 400);
    assert_eq!(bench.get("/v1/customers?limit=101").await.0, 400);
}

#[tokio::test]
async fn events_are_filtered_by_type_and_time_and_tell_what_was_before() {
    let bench = Bench::start().await;
    let customer = bench.ok("/v1/customers", "email=a@example.com").await;
    bench.advance(100).await;
    bench.ok(&format!("/v1/customers/{}", customer["id"].as_str().unwrap()), "email=b@example.com").await;
    let start = super::bench::START;
    let late = bench.read(&format!("/v1/events?created[gte]={}", start + 1)).await;
    assert_eq!(late["data"].as_array().unwrap().len(), 1);
    assert_eq!(
        late["data"][0]["data"]["previous_attributes"],
        serde_json::json!({ "email": "a@example.com" })
    );
    assert_eq!(
        late["data"][0]["request"]["idempotency_key"].as_str().unwrap().split(':').next(),
        Some("bench")
    );
    let typed = bench.read("/v1/events?types[]=customer.created&types[]=product.created").await;
    assert_eq!(typed["data"].as_array().unwrap().len(), 1);
    bench.advance(31 * 86_400).await;
    assert_eq!(
        bench.read("/v1/events").await["data"].as_array().unwrap().len(),
        0,
        "thirty days, as at Stripe"
    );
}
