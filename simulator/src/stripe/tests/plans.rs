//! Plan changes: with the end of a period by a schedule, and previews that are the invoice whatever the prices and moment.

use serde_json::Value;

use super::bench::{Bench, START};

const DAY: i64 = 86_400;

async fn price(bench: &Bench, product: &str, amount: i64, interval: &str, count: i64) -> String {
    let form = format!(
        "product={product}&currency=eur&unit_amount={amount}&recurring[interval]={interval}&recurring[interval_count]={count}"
    );
    bench.ok("/v1/prices", &form).await["id"].as_str().unwrap().to_owned()
}

/// A running subscription: its path, its item, its product.
async fn running(bench: &Bench, card: &str) -> (String, Value, String) {
    let bought = bench.bought(card).await;
    let path = format!("/v1/subscriptions/{}", bought["subscription"].as_str().unwrap());
    let item = bench.read(&path).await["items"]["data"][0].clone();
    let product = item["price"]["product"].as_str().unwrap().to_owned();
    (path, item, product)
}

pub(super) fn phases(item: &Value, to: &str, interval: &str) -> String {
    format!(
        "end_behavior=release&phases[0][items][0][price]={}&phases[0][items][0][quantity]=1&phases[0][start_date]={}\
         &phases[0][end_date]={end}&phases[0][proration_behavior]=none&phases[1][items][0][price]={to}\
         &phases[1][items][0][quantity]=1&phases[1][start_date]={end}&phases[1][duration][interval]={interval}\
         &phases[1][duration][interval_count]=1&phases[1][proration_behavior]=none",
        item["price"]["id"].as_str().unwrap(),
        item["current_period_start"],
        end = item["current_period_end"],
    )
}

#[tokio::test]
async fn a_schedule_changes_the_price_with_the_period_and_lets_go() {
    let bench = Bench::start().await;
    let (path, item, product) = running(&bench, "4242").await;
    let smaller = price(&bench, &product, 500, "month", 1).await;
    let subscription = path.rsplit('/').next().unwrap();
    let made = bench.ok("/v1/subscription_schedules", &format!("from_subscription={subscription}")).await;
    let schedule = format!("/v1/subscription_schedules/{}", made["id"].as_str().unwrap());
    assert_eq!(bench.read(&path).await["schedule"], made["id"]);
    let (status, _) =
        bench.post("/v1/subscription_schedules", &format!("from_subscription={subscription}")).await;
    assert_eq!(status, 400, "one at a time");
    let booked = bench.ok(&schedule, &phases(&item, &smaller, "month")).await;
    assert_eq!(booked["phases"].as_array().unwrap().len(), 2);
    let (status, refused) = bench.post(&path, "cancel_at_period_end=true").await;
    assert_eq!(status, 400);
    assert!(refused["error"]["message"].as_str().unwrap().contains("managed by the subscription schedule"));
    let before = item["current_period_end"].as_i64().unwrap();
    bench.advance(before - START - 60).await;
    assert_eq!(bench.read(&path).await["items"]["data"][0]["price"]["id"], item["price"]["id"]);
    bench.advance(60 + 2 * 3_600).await;
    let after = bench.read(&path).await;
    let now = &after["items"]["data"][0];
    assert_eq!(
        (&now["price"]["id"], &now["current_period_start"]),
        (&smaller.as_str().into(), &before.into())
    );
    let billed = bench.read(&format!("/v1/invoices/{}", after["latest_invoice"].as_str().unwrap())).await;
    assert_eq!((&billed["status"], &billed["total"]), (&"paid".into(), &500.into()), "nothing is prorated");
    bench.ok(&format!("{schedule}/release"), "").await;
    assert!(bench.read(&path).await["schedule"].is_null());
    assert_eq!(bench.post(&format!("{schedule}/release"), "").await.0, 400, "once");
    bench.ok(&path, "cancel_at_period_end=true").await;
    bench.read("/v1/subscription_schedules").await;
    bench.read(&schedule).await;
    bench.inbox.wait("subscription_schedule.released", 1).await;
    super::checker::check("stripe.jsonl", &bench, &["--need-key", "--version", super::super::API_VERSION]);
    super::checker::check("stripe-deliveries.jsonl", &bench, &[]);
}

#[tokio::test]
async fn a_schedule_to_another_interval_begins_its_own_count_and_releases_itself() {
    let bench = Bench::start().await;
    let (path, item, product) = running(&bench, "4242").await;
    let yearly = price(&bench, &product, 9_000, "year", 1).await;
    let subscription = path.rsplit('/').next().unwrap();
    let made = bench.ok("/v1/subscription_schedules", &format!("from_subscription={subscription}")).await;
    let schedule = format!("/v1/subscription_schedules/{}", made["id"].as_str().unwrap());
    bench.ok(&schedule, &phases(&item, &yearly, "year")).await;
    bench.advance(32 * DAY).await;
    let now = bench.read(&path).await["items"]["data"][0].clone();
    let days =
        (now["current_period_end"].as_i64().unwrap() - now["current_period_start"].as_i64().unwrap()) / DAY;
    assert_eq!((&now["price"]["id"], days), (&yearly.as_str().into(), 365));
    bench.advance(366 * DAY).await;
    assert!(bench.read(&path).await["schedule"].is_null());
    assert_eq!(bench.read(&schedule).await["status"], "released");
    assert_eq!(bench.read(&path).await["items"]["data"][0]["price"]["id"], yearly.as_str());
}

#[tokio::test]
async fn a_schedule_that_releases_takes_a_cancellation_back() {
    let bench = Bench::start().await;
    let (path, item, product) = running(&bench, "4242").await;
    let smaller = price(&bench, &product, 500, "month", 1).await;
    let subscription = path.rsplit('/').next().unwrap();
    bench.ok(&path, "cancel_at_period_end=true").await;
    let made = bench.ok("/v1/subscription_schedules", &format!("from_subscription={subscription}")).await;
    assert_eq!(made["end_behavior"], "cancel", "it begins as it is");
    assert_eq!(bench.read(&path).await["cancel_at_period_end"], true);
    let schedule = format!("/v1/subscription_schedules/{}", made["id"].as_str().unwrap());
    bench.ok(&schedule, &phases(&item, &smaller, "month")).await;
    let goes_on = bench.read(&path).await;
    assert_eq!((&goes_on["cancel_at_period_end"], &goes_on["cancel_at"]), (&false.into(), &Value::Null));
    let ends = phases(&item, &smaller, "month").replace("end_behavior=release", "end_behavior=cancel");
    let booked = bench.ok(&schedule, &ends).await;
    assert_eq!(bench.read(&path).await["cancel_at"], booked["phases"][1]["end_date"], "with its last phase");
    super::checker::check("stripe.jsonl", &bench, &["--need-key"]);
}

/// Numbers without a pattern, the same each time.
fn dice(seed: &mut u64, n: i64) -> i64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    i64::try_from(*seed >> 33).unwrap() % n
}

#[tokio::test]
async fn a_preview_is_the_invoice_to_the_cent_whatever_the_prices_and_the_moment() {
    let bench = Bench::start().await;
    let mut seed = 20_261_129;
    for _ in 0..24 {
        let (path, item, product) = running(&bench, "4242").await;
        let subscription = path.rsplit('/').next().unwrap().to_owned();
        let customer = bench.read(&path).await["customer"].as_str().unwrap().to_owned();
        if dice(&mut seed, 3) == 0 {
            let credit = format!("/v1/customers/{customer}/balance_transactions");
            bench.ok(&credit, &format!("amount=-{}&currency=eur", 1 + dice(&mut seed, 2_000))).await;
        }
        let (interval, count) =
            [("month", 1), ("month", 3), ("year", 1)][usize::try_from(dice(&mut seed, 3)).unwrap()];
        let wanted = price(&bench, &product, 1 + dice(&mut seed, 30_000), interval, count).await;
        bench.advance(dice(&mut seed, 29 * DAY)).await;
        let at = bench.sim("clock", None).await["now"].as_i64().unwrap_or(0);
        let at = if at > 0 { at } else { bench.read(&path).await["created"].as_i64().unwrap() };
        let item_id = item["id"].as_str().unwrap();
        let preview = bench
            .ok(
                "/v1/invoices/create_preview",
                &format!(
                    "subscription={subscription}&subscription_details[items][0][id]={item_id}\
                     &subscription_details[items][0][price]={wanted}&subscription_details[proration_behavior]=always_invoice\
                     &subscription_details[proration_date]={at}"
                ),
            )
            .await;
        bench.advance(1 + dice(&mut seed, 900)).await;
        let change = format!(
            "items[0][id]={item_id}&items[0][price]={wanted}&proration_behavior=always_invoice&proration_date={at}\
             &payment_behavior=pending_if_incomplete"
        );
        let changed = bench.ok(&path, &change).await;
        let billed =
            bench.read(&format!("/v1/invoices/{}", changed["latest_invoice"].as_str().unwrap())).await;
        for key in ["total", "amount_due", "starting_balance", "ending_balance"] {
            assert_eq!(billed[key], preview[key], "{key} of {interval} {count}");
        }
        let sums = |invoice: &Value| -> Vec<i64> {
            invoice["lines"]["data"]
                .as_array()
                .unwrap()
                .iter()
                .map(|l| l["amount"].as_i64().unwrap())
                .collect()
        };
        assert_eq!(sums(&billed), sums(&preview));
        assert_eq!(billed["status"], "paid");
        let balance = bench.read(&format!("/v1/customers/{customer}")).await["balance"].clone();
        assert_eq!(balance, preview["ending_balance"]);
    }
}

#[tokio::test]
async fn the_next_invoice_is_foreseen_to_the_cent() {
    let bench = Bench::start().await;
    let (path, item, product) = running(&bench, "4242").await;
    let smaller = price(&bench, &product, 500, "month", 1).await;
    let subscription = path.rsplit('/').next().unwrap();
    let customer = bench.read(&path).await["customer"].as_str().unwrap().to_owned();
    let asked = format!("subscription={subscription}");
    let foreseen = async || bench.ok("/v1/invoices/create_preview", &asked).await;
    assert_eq!(foreseen().await["amount_due"], item["price"]["unit_amount"]);
    let credit = format!("/v1/customers/{customer}/balance_transactions");
    bench.ok(&credit, "amount=-47&currency=eur").await;
    let traffic = format!(
        "customer={customer}&subscription={subscription}&amount=130&currency=eur&description=Traffic"
    );
    bench.ok("/v1/invoiceitems", &traffic).await;
    let made = bench.ok("/v1/subscription_schedules", &format!("from_subscription={subscription}")).await;
    let schedule = format!("/v1/subscription_schedules/{}", made["id"].as_str().unwrap());
    bench.ok(&schedule, &phases(&item, &smaller, "month")).await;
    let (first, second) = (foreseen().await, foreseen().await);
    assert_eq!((&first["total"], &first["amount_due"]), (&630.into(), &583.into()));
    assert_eq!(second["amount_due"], first["amount_due"], "asking uses nothing up");
    bench.advance(item["current_period_end"].as_i64().unwrap() - START + 2 * 3_600).await;
    let latest = bench.read(&path).await["latest_invoice"].as_str().unwrap().to_owned();
    let billed = bench.read(&format!("/v1/invoices/{latest}")).await;
    for key in ["total", "amount_due", "starting_balance"] {
        assert_eq!(billed[key], first[key], "{key}");
    }
}
