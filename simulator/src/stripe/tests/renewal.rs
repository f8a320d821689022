//! The clock: renewals, failures, recoveries, expiries.

use super::bench::{Bench, START};

pub(super) const MONTH: i64 = 30 * 86_400;

#[tokio::test]
async fn a_month_later_the_subscription_is_renewed_and_paid() {
    let bench = Bench::start().await;
    let bought = bench.bought("4242").await;
    let path = format!("/v1/subscriptions/{}", bought["subscription"].as_str().unwrap());
    let before = bench.read(&path).await;
    assert_eq!(before["items"]["data"][0]["current_period_end"], START + MONTH);
    bench.advance(MONTH + 60).await;
    let renewed = bench.read(&format!("{path}?expand[]=latest_invoice")).await;
    assert_eq!(renewed["items"]["data"][0]["current_period_start"], START + MONTH);
    assert_eq!(renewed["items"]["data"][0]["current_period_end"], START + MONTH + 31 * 86_400);
    assert_eq!(renewed["latest_invoice"]["status"], "draft");
    assert_eq!(renewed["latest_invoice"]["billing_reason"], "subscription_cycle");
    bench.advance(3_600).await;
    let invoices = bench.read("/v1/invoices").await;
    let states: Vec<_> = invoices["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|invoice| invoice["status"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["paid", "paid"]);
    bench.inbox.wait("invoice.paid", 2).await;
}

#[tokio::test]
async fn each_reading_of_an_invoice_gives_links_of_its_own() {
    let bench = Bench::start().await;
    bench.bought("4242").await;
    let newest = async || bench.read("/v1/invoices").await["data"][0].clone();
    let (first, second) = (newest().await, newest().await);
    let again = bench.read(&format!("/v1/invoices/{}", first["id"].as_str().unwrap())).await;
    for name in ["hosted_invoice_url", "invoice_pdf"] {
        assert_ne!(first[name], second[name]);
        assert_ne!(second[name], again[name]);
        let page = bench.client.get(again[name].as_str().unwrap()).send().await.unwrap();
        assert_eq!(page.status(), 200);
    }
}

/// What waits on a subscription.
pub(super) async fn item(bench: &Bench, bought: &serde_json::Value, amount: i64) -> serde_json::Value {
    let (customer, subscription) =
        (bought["customer"].as_str().unwrap(), bought["subscription"].as_str().unwrap());
    let form = format!(
        "customer={customer}&subscription={subscription}&amount={amount}&currency=eur&metadata[traffic]=s:202611"
    );
    bench.ok("/v1/invoiceitems", &form).await
}

#[tokio::test]
async fn what_waits_is_charged_once_with_the_next_invoice() {
    let bench = Bench::start().await;
    let bought = bench.bought("4242").await;
    let item = item(&bench, &bought, 36).await;
    assert!(item["invoice"].is_null());
    bench.advance(MONTH + 3_700).await;
    let invoices = bench.read("/v1/invoices").await;
    let newest = &invoices["data"][0];
    assert_eq!((&newest["total"], &newest["amount_paid"]), (&936.into(), &936.into()));
    let line = &newest["lines"]["data"][1];
    assert_eq!(line["parent"]["invoice_item_details"]["invoice_item"], item["id"]);
    assert_eq!(line["metadata"]["traffic"], "s:202611");
    let path = format!("/v1/invoiceitems/{}", item["id"].as_str().unwrap());
    assert_eq!(bench.read(&path).await["invoice"], newest["id"]);
    assert_eq!(bench.delete(&path).await.0, 400, "it is on an invoice");
    bench.advance(31 * 86_400 + 3_700).await;
    assert_eq!(bench.read("/v1/invoices").await["data"][0]["total"], 900, "once");
    assert!(bench.read("/v1/invoiceitems?pending=true").await["data"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn what_waits_can_be_invoiced_at_once_and_the_subscription_is_otherwise_as_before() {
    let bench = Bench::start().await;
    let bought = bench.bought("4242").await;
    let (customer, subscription) =
        (bought["customer"].as_str().unwrap(), bought["subscription"].as_str().unwrap());
    let form = format!(
        "customer={customer}&subscription={subscription}&auto_advance=true&pending_invoice_items_behavior=include"
    );
    assert_eq!(bench.post("/v1/invoices", &form).await.0, 400, "nothing waits");
    item(&bench, &bought, 360).await;
    let made = bench.ok("/v1/invoices", &form).await;
    assert_eq!(
        (&made["total"], &made["status"], &made["billing_reason"]),
        (&360.into(), &"draft".into(), &"manual".into())
    );
    bench.advance(3_700).await;
    let paid = bench.read(&format!("/v1/invoices/{}", made["id"].as_str().unwrap())).await;
    assert_eq!((&paid["status"], &paid["amount_paid"]), (&"paid".into(), &360.into()));
    bench.advance(MONTH).await;
    assert_eq!(bench.read("/v1/invoices").await["data"][0]["total"], 900);
}

#[tokio::test]
async fn an_invoice_made_by_hand_that_nobody_pays_leaves_the_subscription_as_it_is() {
    let bench = Bench::start().await;
    let bought = bench.bought("0341").await;
    let (customer, subscription) =
        (bought["customer"].as_str().unwrap(), bought["subscription"].as_str().unwrap());
    item(&bench, &bought, 360).await;
    let form = format!(
        "customer={customer}&subscription={subscription}&auto_advance=true&pending_invoice_items_behavior=include"
    );
    let made = bench.ok("/v1/invoices", &form).await;
    let path = format!("/v1/invoices/{}", made["id"].as_str().unwrap());
    // Eight tries in two weeks.
    for _ in 0..20 {
        bench.advance(86_400).await;
    }
    let tried = bench.read(&path).await;
    assert_eq!((&tried["status"], &tried["attempt_count"]), (&"open".into(), &8.into()));
    let status = bench.read(&format!("/v1/subscriptions/{subscription}")).await["status"].clone();
    assert_eq!(status, "active", "Stripe gives up on the invoice, not on the subscription");
}

#[tokio::test]
async fn a_draft_that_cannot_be_made_final_waits_until_somebody_finalizes_it() {
    let bench = Bench::start().await;
    bench.bought("4242").await;
    bench.advance(MONTH + 60).await;
    let draft = bench.read("/v1/invoices?status=draft").await["data"][0]["id"].as_str().unwrap().to_owned();
    bench.sim(&format!("invoices/{draft}/fail_finalization"), Some(serde_json::json!({}))).await;
    bench.inbox.wait("invoice.finalization_failed", 1).await;
    bench.advance(10 * 86_400).await;
    let waits = bench.read(&format!("/v1/invoices/{draft}")).await;
    assert_eq!((&waits["status"], &waits["attempt_count"]), (&"draft".into(), &0.into()));
    assert_eq!(waits["last_finalization_error"]["code"], "customer_tax_location_invalid");
    bench.sim(&format!("invoices/{draft}/finalize"), Some(serde_json::json!({}))).await;
    bench.advance(60).await;
    let paid = bench.read(&format!("/v1/invoices/{draft}")).await;
    assert_eq!(
        (&paid["status"], &paid["last_finalization_error"]),
        (&"paid".into(), &serde_json::Value::Null)
    );
    super::checker::check("stripe.jsonl", &bench, &["--need-key"]);
    super::checker::check("stripe-deliveries.jsonl", &bench, &[]);
}

#[tokio::test]
async fn whoever_ends_with_the_period_pays_what_waits_with_a_last_invoice() {
    let bench = Bench::start().await;
    let bought = bench.bought("4242").await;
    item(&bench, &bought, 360).await;
    let path = format!("/v1/subscriptions/{}", bought["subscription"].as_str().unwrap());
    bench.ok(&path, "cancel_at_period_end=true").await;
    bench.advance(MONTH + 3_700).await;
    assert_eq!(bench.read(&path).await["status"], "canceled");
    let newest = bench.read("/v1/invoices").await["data"][0].clone();
    assert_eq!((&newest["total"], &newest["status"]), (&360.into(), &"paid".into()));
    let (customer, subscription) =
        (bought["customer"].as_str().unwrap(), bought["subscription"].as_str().unwrap());
    let late = format!("customer={customer}&subscription={subscription}&amount=1&currency=eur");
    assert_eq!(bench.post("/v1/invoiceitems", &late).await.0, 400);
}

#[tokio::test]
async fn a_card_that_fails_at_renewal_makes_it_past_due_and_ends_it_in_two_weeks() {
    let bench = Bench::start().await;
    let bought = bench.bought("0341").await;
    let path = format!("/v1/subscriptions/{}", bought["subscription"].as_str().unwrap());
    bench.advance(MONTH + 3_700).await;
    assert_eq!(bench.read(&path).await["status"], "past_due");
    let open = bench.read("/v1/invoices?status=open").await["data"][0].clone();
    assert_eq!((&open["attempt_count"], &open["amount_remaining"]), (&1.into(), &900.into()));
    bench.inbox.wait("invoice.payment_failed", 1).await;
    assert_eq!(bench.sim("ledger", None).await["customers"][0]["due"], 900);
    bench.advance(15 * 86_400).await;
    let ended = bench.read(&path).await;
    assert_eq!(
        (&ended["status"], &ended["cancellation_details"]["reason"]),
        (&"canceled".into(), &"payment_failed".into())
    );
    assert_eq!(bench.inbox.wait("invoice.payment_failed", 8).await.len(), 8);
    bench.inbox.wait("customer.subscription.deleted", 1).await;
}

#[tokio::test]
async fn a_new_card_in_the_portal_makes_a_late_subscription_active_again() {
    let bench = Bench::start().await;
    let bought = bench.bought("0341").await;
    bench.advance(MONTH + 3_700).await;
    let portal = bench
        .ok("/v1/billing_portal/sessions", &format!("customer={}", bought["customer"].as_str().unwrap()))
        .await;
    let page = bench.client.get(portal["url"].as_str().unwrap()).send().await.unwrap().text().await.unwrap();
    assert!(page.contains("past_due") && page.contains("Cancel now"));
    let changed = bench
        .client
        .post(portal["url"].as_str().unwrap())
        .form(&[("act", "card"), ("card", "4242424242424242")])
        .send()
        .await
        .unwrap();
    assert_eq!(changed.status(), 303);
    bench.advance(86_400).await;
    let path = format!("/v1/subscriptions/{}", bought["subscription"].as_str().unwrap());
    assert_eq!(bench.read(&path).await["status"], "active");
    assert_eq!(bench.sim("ledger", None).await["customers"][0]["paid"], 1_800);
}

#[tokio::test]
async fn the_latest_invoice_alone_says_whether_a_subscription_is_past_due() {
    let bench = Bench::start().await;
    bench.sim("policy", Some(serde_json::json!({ "after_retries": "past_due" }))).await;
    let bought = bench.bought("0341").await;
    let path = format!("/v1/subscriptions/{}", bought["subscription"].as_str().unwrap());
    // Two renewals that nobody paid.
    bench.advance(MONTH + 31 * 86_400 + 2 * 3_600).await;
    let open = bench.read("/v1/invoices?status=open").await["data"].clone();
    let id = |at: usize| open[at]["id"].as_str().unwrap().to_owned();
    assert_eq!(
        (open.as_array().unwrap().len(), bench.read(&path).await["status"].as_str()),
        (2, Some("past_due"))
    );
    let latest = bench.client.post(open[0]["hosted_invoice_url"].as_str().unwrap());
    let paid = latest.form(&[("card", "4242424242424242")]).send().await.unwrap();
    assert_eq!(paid.status(), 303);
    assert_eq!(bench.read(&path).await["status"], "active");
    assert_eq!(
        bench.read(&format!("/v1/invoices/{}", id(1))).await["status"],
        "open",
        "it is owed all the same"
    );
    bench.advance(3 * 86_400).await;
    assert_eq!(bench.read(&path).await["status"], "active");

    // The other way round: the older one changes nothing.
    let bought = bench.bought("0341").await;
    let path = format!("/v1/subscriptions/{}", bought["subscription"].as_str().unwrap());
    bench.advance(62 * 86_400 + 2 * 3_600).await;
    let list = format!("/v1/invoices?status=open&subscription={}", bought["subscription"].as_str().unwrap());
    let open = bench.read(&list).await["data"].clone();
    assert_eq!(open.as_array().unwrap().len(), 2);
    let older = bench.client.post(open[1]["hosted_invoice_url"].as_str().unwrap());
    assert_eq!(older.form(&[("card", "4242424242424242")]).send().await.unwrap().status(), 303);
    assert_eq!(bench.read(&path).await["status"], "past_due");
}

#[tokio::test]
async fn an_open_invoice_can_be_paid_at_once_and_a_decline_is_a_402() {
    let bench = Bench::start().await;
    let bought = bench.bought("0341").await;
    bench.advance(MONTH + 3_700).await;
    let open = bench.read("/v1/invoices?status=open").await["data"][0]["id"].as_str().unwrap().to_owned();
    let (status, declined) = bench.post(&format!("/v1/invoices/{open}/pay"), "").await;
    assert_eq!((status, declined["error"]["decline_code"].as_str()), (402, Some("generic_decline")));
    assert_eq!(
        bench.read(&format!("/v1/invoices/{open}")).await["attempt_count"],
        2,
        "a decline is a fact, not an undone call"
    );
    assert_eq!(
        bench.read(&format!("/v1/subscriptions/{}", bought["subscription"].as_str().unwrap())).await["status"],
        "past_due"
    );
}

#[tokio::test]
async fn a_session_expires_by_the_clock() {
    let bench = Bench::start().await;
    let session = bench.session().await;
    bench.advance(1_859).await;
    let path = format!("/v1/checkout/sessions/{}", session["id"].as_str().unwrap());
    assert_eq!(bench.read(&path).await["status"], "open");
    bench.advance(1).await;
    assert_eq!(bench.read(&path).await["status"], "expired");
    let event = bench.inbox.wait("checkout.session.expired", 1).await.remove(0).event();
    assert_eq!(
        (&event["created"], &event["data"]["object"]["client_reference_id"]),
        (&(START + 1_860).into(), &"o1".into())
    );
}

#[tokio::test]
async fn a_shop_whose_clock_did_not_move_can_still_sell() {
    let bench = Bench::start().await;
    bench.advance(40 * 86_400).await;
    let session = bench.session().await;
    assert_eq!(session["expires_at"], START + 1_860);
    let path = format!("/v1/checkout/sessions/{}", session["id"].as_str().unwrap());
    bench.wall.advance(1_859_000);
    assert_eq!(bench.read(&path).await["status"], "open");
    bench.wall.advance(2_000);
    assert_eq!(bench.read(&path).await["status"], "expired");
}

#[tokio::test]
async fn a_frozen_clock_stands_still() {
    let bench = Bench::start().await;
    bench.sim("clock/advance", Some(serde_json::json!({ "seconds": 5, "frozen": true }))).await;
    bench.wall.advance(60_000);
    let clock = bench.sim("clock", None).await;
    assert_eq!(
        (&clock["now"], &clock["frozen"], &clock["ahead_seconds"]),
        (&(START + 5).into(), &true.into(), &(-55).into())
    );
}

#[tokio::test]
async fn an_invoice_is_paid_on_its_own_page_and_the_dashboard_decides_what_the_last_try_means() {
    let bench = Bench::start().await;
    bench.sim("policy", Some(serde_json::json!({ "after_retries": "unpaid" }))).await;
    let bought = bench.bought("0341").await;
    let path = format!("/v1/subscriptions/{}", bought["subscription"].as_str().unwrap());
    bench.advance(MONTH + 16 * 86_400).await;
    assert_eq!(bench.read(&path).await["status"], "unpaid");
    bench.advance(MONTH).await;
    let drafted = bench.read("/v1/invoices").await["data"][0].clone();
    assert_eq!(
        (&drafted["status"], &drafted["auto_advance"]),
        (&"draft".into(), &false.into()),
        "not attempted"
    );
    let open = bench.read("/v1/invoices?status=open").await["data"][0].clone();
    let page = open["hosted_invoice_url"].as_str().unwrap().to_owned();
    let declined = bench.client.post(&page).form(&[("card", "0002")]).send().await.unwrap();
    assert_eq!(declined.status(), 402);
    let paid = bench.client.post(&page).form(&[("card", "4242424242424242")]).send().await.unwrap();
    assert_eq!(paid.status(), 303);
    assert_eq!(bench.read(&path).await["status"], "active");
}

#[tokio::test]
async fn an_upgrade_costs_to_the_second_what_its_preview_said_and_waits_for_its_payment() {
    let bench = Bench::start().await;
    let bought = bench.bought("4242").await;
    let id = bought["subscription"].as_str().unwrap();
    let path = format!("/v1/subscriptions/{id}");
    let known = bench.read(&path).await;
    let item = known["items"]["data"][0].clone();
    let (item_id, product) = (item["id"].as_str().unwrap(), item["price"]["product"].as_str().unwrap());
    let bigger = bench
        .ok(
            "/v1/prices",
            &format!("product={product}&currency=eur&unit_amount=1900&recurring[interval]=month"),
        )
        .await["id"]
        .as_str()
        .unwrap()
        .to_owned();
    bench.advance(10 * 86_400).await;
    let at = START + 10 * 86_400;
    let preview = bench
        .ok(
            "/v1/invoices/create_preview",
            &format!(
                "subscription={id}&subscription_details[items][0][id]={item_id}&subscription_details[items][0][price]={bigger}\
                 &subscription_details[proration_behavior]=always_invoice&subscription_details[proration_date]={at}"
            ),
        )
        .await;
    // 20 of 30 days are left: two thirds of 9.00 back, two thirds of 19.00 to pay.
    assert_eq!(preview["total"], 1_267 - 600);
    bench.advance(60).await;
    let change = format!(
        "items[0][id]={item_id}&items[0][price]={bigger}&proration_behavior=always_invoice&proration_date={at}\
         &payment_behavior=pending_if_incomplete"
    );
    let changed = bench.ok(&path, &change).await;
    assert_eq!(changed["items"]["data"][0]["price"]["id"], bigger.as_str());
    let billed = bench.read(&format!("/v1/invoices/{}", changed["latest_invoice"].as_str().unwrap())).await;
    assert_eq!((&billed["status"], &billed["total"]), (&"paid".into(), &preview["total"]));

    // A card that is declined: the old price holds until the invoice is paid, or the change is given up.
    let other = bench.bought("0341").await;
    let id = other["subscription"].as_str().unwrap();
    let path = format!("/v1/subscriptions/{id}");
    let item = bench.read(&path).await["items"]["data"][0].clone();
    let change = format!(
        "items[0][id]={}&items[0][price]={bigger}&proration_behavior=always_invoice&payment_behavior=pending_if_incomplete",
        item["id"].as_str().unwrap()
    );
    let waiting = bench.ok(&path, &change).await;
    assert_eq!(waiting["items"]["data"][0]["price"]["id"], item["price"]["id"]);
    assert!(waiting["pending_update"]["expires_at"].is_i64());
    bench.advance(24 * 3_600).await;
    assert!(bench.read(&path).await["pending_update"].is_null());
    let void = bench.read(&format!("/v1/invoices/{}", waiting["latest_invoice"].as_str().unwrap())).await;
    assert_eq!(void["status"], "void");
    super::checker::check("stripe.jsonl", &bench, &["--need-key", "--version", super::super::API_VERSION]);
}
