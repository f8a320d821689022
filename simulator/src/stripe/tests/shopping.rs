//! What a purchase can be made of: codes, set-up fees, trials, quarters, currencies and taxes.

use serde_json::{Value, json};

use super::{
    bench::{Bench, START},
    checker::check,
};

impl Bench {
    /// A price of a product; `more` is the rest of the form. Its id.
    async fn price_of(&self, product: &str, amount: i64, currency: &str, more: &str) -> String {
        let form = format!("product={product}&currency={currency}&unit_amount={amount}{more}");
        self.ok("/v1/prices", &form).await["id"].as_str().unwrap().to_owned()
    }

    /// A session for these prices; the answer's status with it.
    async fn ask(&self, prices: &[&str], customer: &str, more: &str) -> (u16, Value) {
        let lines: String = prices
            .iter()
            .enumerate()
            .map(|(at, price)| format!("&line_items[{at}][price]={price}&line_items[{at}][quantity]=1"))
            .collect();
        let form = format!(
            "mode=subscription&success_url=http://127.0.0.1:1/o&customer={customer}&expires_at={}{lines}{more}",
            START + 1_860
        );
        self.post("/v1/checkout/sessions", &form).await
    }

    async fn completes(&self, session: &Value, typed: Value) -> Value {
        let id = session["id"].as_str().unwrap();
        let done = self.sim(&format!("sessions/{id}/complete"), Some(typed)).await;
        assert_eq!(done["result"], "paid");
        self.read(&format!("/v1/checkout/sessions/{id}")).await
    }

    async fn product(&self, name: &str) -> String {
        self.ok("/v1/products", &format!("name={name}")).await["id"].as_str().unwrap().to_owned()
    }

    async fn shopper(&self) -> String {
        self.ok("/v1/customers", "email=jane@example.com").await["id"].as_str().unwrap().to_owned()
    }

    /// The invoices of a subscription, newest first.
    async fn bills(&self, subscription: &str) -> Vec<Value> {
        let list = self.read(&format!("/v1/invoices?subscription={subscription}")).await;
        list["data"].as_array().unwrap().clone()
    }
}

fn sums(session: &Value) -> (i64, i64, i64, i64) {
    let sum = |pointer: &str| session.pointer(pointer).and_then(Value::as_i64).unwrap();
    (
        sum("/amount_subtotal"),
        sum("/total_details/amount_discount"),
        sum("/total_details/amount_tax"),
        sum("/amount_total"),
    )
}

const QUARTER: &str = "&recurring[interval]=month&recurring[interval_count]=3";
const MONTH: &str = "&recurring[interval]=month";

#[tokio::test]
async fn a_quarter_with_a_set_up_fee_and_a_code_is_billed_and_renewed() {
    let bench = Bench::start().await;
    let (plan, setup, customer) =
        (bench.product("S").await, bench.product("Set-up").await, bench.shopper().await);
    let (price, fee) =
        (bench.price_of(&plan, 2_600, "eur", QUARTER).await, bench.price_of(&setup, 500, "eur", "").await);
    bench
        .ok(
            "/v1/coupons",
            &format!("id=c&name=Hello&percent_off=50&duration=once&applies_to[products][]={plan}"),
        )
        .await;
    let code = bench
        .ok(
            "/v1/promotion_codes",
            "code=HELLO&promotion[type]=coupon&promotion[coupon]=c&restrictions[first_time_transaction]=true&max_redemptions=2",
        )
        .await;
    let (status, session) = bench.ask(&[&price, &fee], &customer, "&allow_promotion_codes=true").await;
    assert_eq!((status, sums(&session)), (200, (3_100, 0, 0, 3_100)));
    // The code on the page: wrong, right, taken back, right again.
    let id = session["id"].as_str().unwrap();
    let typed = async |code: &str| {
        let url = bench.url(&format!("/c/pay/{id}/change"));
        let answer = bench.client.post(url).form(&[("code", code)]).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (status, page) = typed("NOPE").await;
    assert!(status == 200 && page.contains("This code is invalid."), "{page}");
    for (code, total) in [("hello", "18.00"), ("", "31.00"), ("HELLO", "18.00")] {
        let (status, page) = typed(code).await;
        assert!(status == 200 && page.contains(&format!("Pay {total}")), "{page}");
    }
    let paid = bench.completes(&session, json!({})).await;
    assert_eq!(sums(&paid), (3_100, 1_300, 0, 1_800), "the fee is another product's");
    assert_eq!(paid["discounts"], json!([{ "coupon": "c", "promotion_code": code["id"] }]));
    let subscription = paid["subscription"].as_str().unwrap();
    let first = bench.bills(subscription).await.remove(0);
    assert_eq!((&first["total"], &first["amount_paid"]), (&json!(1_800), &json!(1_800)));
    assert_eq!(first["total_discount_amounts"][0]["amount"], 1_300);
    // Three months on: the whole price, no fee, no discount.
    bench.advance(93 * 86_400).await;
    let bills = bench.bills(subscription).await;
    assert_eq!((bills.len(), &bills[0]["total"]), (2, &json!(2_600)));
    // Who has paid before is not a first purchase.
    let (_, again) = bench.ask(&[&price], &customer, "&allow_promotion_codes=true").await;
    let id = again["id"].as_str().unwrap();
    let answer =
        bench.client.post(bench.url(&format!("/c/pay/{id}/change"))).form(&[("code", "HELLO")]).send().await;
    assert!(answer.unwrap().text().await.unwrap().contains("first purchase only"));
    let used = bench.read("/v1/promotion_codes?code=hello").await;
    assert_eq!(used["data"][0]["times_redeemed"], 1);
    for path in ["coupons", "promotion_codes", "invoices", "events?limit=100", "subscriptions?status=all"] {
        bench.read(&format!("/v1/{path}")).await;
    }
    check("stripe.jsonl", &bench, &["--need-key"]);
    check("stripe-deliveries.jsonl", &bench, &[]);
}

#[tokio::test]
async fn unused_time_is_credited_as_it_was_paid() {
    for (duration, off) in [("once", 0), ("forever", 50)] {
        let bench = Bench::start().await;
        let (plan, customer) = (bench.product("S").await, bench.shopper().await);
        let small = bench.price_of(&plan, 1_000, "eur", MONTH).await;
        let large = bench.price_of(&plan, 2_000, "eur", MONTH).await;
        bench.ok("/v1/coupons", &format!("id=c&name=Hello&percent_off=50&duration={duration}")).await;
        bench.ok("/v1/promotion_codes", "code=HELLO&promotion[type]=coupon&promotion[coupon]=c").await;
        let (_, session) = bench.ask(&[&small], &customer, "&allow_promotion_codes=true").await;
        let page = bench.url(&format!("/c/pay/{}/change", session["id"].as_str().unwrap()));
        bench.client.post(page).form(&[("code", "HELLO")]).send().await.unwrap();
        let paid = bench.completes(&session, json!({})).await;
        assert_eq!(sums(&paid).3, 500);
        let path = format!("/v1/subscriptions/{}", paid["subscription"].as_str().unwrap());
        bench.advance(15 * 86_400).await;
        let item = bench.read(&path).await["items"]["data"][0].clone();
        let change = |price: &str| {
            format!(
                "items[0][id]={}&items[0][price]={price}&proration_behavior=always_invoice",
                item["id"].as_str().unwrap()
            )
        };
        let changed = bench.ok(&path, &change(&large)).await;
        let billed = async |of: &Value| {
            bench.read(&format!("/v1/invoices/{}", of["latest_invoice"].as_str().unwrap())).await
        };
        let bill = billed(&changed).await;
        let line = |bill: &Value, n: usize| bill["lines"]["data"][n]["amount"].as_i64().unwrap();
        let (unused, remaining) = (line(&bill, 0), line(&bill, 1));
        // Half of the price was paid for a month, of which about half is left.
        assert!((-remaining / 4 - 1..=-remaining / 4 + 1).contains(&unused), "{unused} {remaining}");
        let due = unused + remaining - (remaining * off + 50) / 100;
        assert_eq!(bill["total"], due, "{duration}");
        // Back at once: what was just paid is what comes back, to the cent of rounding.
        let back = billed(&bench.ok(&path, &change(&small)).await).await;
        assert!((line(&back, 0) + due - unused).abs() <= 1, "{duration}: {back}");
        check("stripe.jsonl", &bench, &["--need-key"]);
    }
}

#[tokio::test]
async fn a_schedules_phase_takes_off_what_it_names_itself() {
    for (named, total) in [(true, 250), (false, 500)] {
        let bench = Bench::start().await;
        let (plan, customer) = (bench.product("S").await, bench.shopper().await);
        let large = bench.price_of(&plan, 1_000, "eur", MONTH).await;
        let small = bench.price_of(&plan, 500, "eur", MONTH).await;
        bench.ok("/v1/coupons", "id=c&name=Hello&percent_off=50&duration=forever").await;
        bench.ok("/v1/promotion_codes", "code=HELLO&promotion[type]=coupon&promotion[coupon]=c").await;
        let (_, session) = bench.ask(&[&large], &customer, "&allow_promotion_codes=true").await;
        let page = bench.url(&format!("/c/pay/{}/change", session["id"].as_str().unwrap()));
        bench.client.post(page).form(&[("code", "HELLO")]).send().await.unwrap();
        let paid = bench.completes(&session, json!({})).await;
        let id = paid["subscription"].as_str().unwrap();
        let path = format!("/v1/subscriptions/{id}");
        let subscription = bench.read(&path).await;
        let item = &subscription["items"]["data"][0];
        let discount = subscription["discounts"][0].as_str().unwrap();
        let made = bench.ok("/v1/subscription_schedules", &format!("from_subscription={id}")).await;
        assert_eq!(made["phases"][0]["discounts"][0]["discount"], discount, "it begins as it is");
        let mut phases = super::plans::phases(item, &small, "month");
        if named {
            for phase in 0..2 {
                phases.push_str(&format!("&phases[{phase}][discounts][0][discount]={discount}"));
            }
        }
        let schedule = format!("/v1/subscription_schedules/{}", made["id"].as_str().unwrap());
        bench.ok(&schedule, &phases).await;
        let foreseen = bench.ok("/v1/invoices/create_preview", &format!("subscription={id}")).await;
        assert_eq!(foreseen["total"], total);
        bench.advance(item["current_period_end"].as_i64().unwrap() - START + 2 * 3_600).await;
        assert_eq!(bench.bills(id).await[0]["total"], total, "named: {named}");
        check("stripe.jsonl", &bench, &["--need-key"]);
    }
}

#[tokio::test]
async fn a_schedule_taxes_and_charges_as_its_phases_say() {
    for (named, tax) in [(true, 95), (false, 0)] {
        let bench = Bench::start().await;
        let (plan, customer) = (bench.product("S").await, bench.shopper().await);
        let added = format!("{MONTH}&tax_behavior=exclusive");
        let large = bench.price_of(&plan, 1_000, "eur", &added).await;
        let small = bench.price_of(&plan, 500, "eur", &added).await;
        let taxed = "&automatic_tax[enabled]=true&customer_update[address]=auto";
        let (_, session) = bench.ask(&[&large], &customer, taxed).await;
        let paid = bench.completes(&session, json!({ "country": "DE" })).await;
        let id = paid["subscription"].as_str().unwrap();
        let path = format!("/v1/subscriptions/{id}");
        let subscription = bench.read(&path).await;
        let (item, card) = (&subscription["items"]["data"][0], &subscription["default_payment_method"]);
        let made = bench.ok("/v1/subscription_schedules", &format!("from_subscription={id}")).await;
        let begins = &made["phases"][0];
        assert_eq!(
            (&begins["automatic_tax"]["enabled"], &begins["default_payment_method"]),
            (&json!(true), card)
        );
        let mut phases = super::plans::phases(item, &small, "month");
        if named {
            for phase in 0..2 {
                phases.push_str(&format!(
                    "&phases[{phase}][automatic_tax][enabled]=true&phases[{phase}][default_payment_method]={}",
                    card.as_str().unwrap()
                ));
            }
        }
        let schedule = format!("/v1/subscription_schedules/{}", made["id"].as_str().unwrap());
        bench.ok(&schedule, &phases).await;
        let foreseen = bench.ok("/v1/invoices/create_preview", &format!("subscription={id}")).await;
        assert_eq!(foreseen["total"], 500 + tax);
        bench.advance(item["current_period_end"].as_i64().unwrap() - START + 2 * 3_600).await;
        assert_eq!(bench.bills(id).await[0]["total"], 500 + tax, "named: {named}");
        let after = bench.read(&path).await;
        assert_eq!(after["automatic_tax"]["enabled"], named);
        assert_eq!(after["default_payment_method"], if named { card.clone() } else { json!(null) });
        check("stripe.jsonl", &bench, &["--need-key"]);
    }
}

#[tokio::test]
async fn a_trial_is_free_is_announced_and_then_paid() {
    let bench = Bench::start().await;
    let (plan, customer) = (bench.product("S").await, bench.shopper().await);
    let price = bench.price_of(&plan, 900, "eur", MONTH).await;
    let trial = "&subscription_data[trial_period_days]=14&payment_method_collection=always\
                 &subscription_data[trial_settings][end_behavior][missing_payment_method]=cancel";
    let (_, session) = bench.ask(&[&price], &customer, trial).await;
    let page = bench.client.get(session["url"].as_str().unwrap()).send().await.unwrap().text().await.unwrap();
    assert!(page.contains("14 days free") && page.contains("Start the trial"), "{page}");
    let paid = bench.completes(&session, json!({})).await;
    assert_eq!((sums(&paid), &paid["payment_status"]), ((0, 0, 0, 0), &json!("no_payment_required")));
    let path = format!("/v1/subscriptions/{}", paid["subscription"].as_str().unwrap());
    let begun = bench.read(&path).await;
    assert_eq!(begun["status"], "trialing");
    assert_eq!(begun["items"]["data"][0]["current_period_end"], begun["trial_end"]);
    let bills = bench.bills(begun["id"].as_str().unwrap()).await;
    assert_eq!((bills.len(), &bills[0]["status"], &bills[0]["total"]), (1, &json!("paid"), &json!(0)));
    bench.advance(12 * 86_400).await;
    bench.inbox.wait("customer.subscription.trial_will_end", 1).await;
    bench.advance(3 * 86_400).await;
    let after = bench.read(&path).await;
    assert_eq!(
        (&after["status"], &after["items"]["data"][0]["current_period_start"]),
        (&json!("active"), &begun["trial_end"])
    );
    let bills = bench.bills(begun["id"].as_str().unwrap()).await;
    assert_eq!(
        (bills.len(), &bills[0]["amount_paid"], &bills[0]["billing_reason"]),
        (2, &json!(900), &json!("subscription_cycle"))
    );
    assert_eq!(bench.inbox.of_type("customer.subscription.trial_will_end").len(), 1, "told once");
    check("stripe.jsonl", &bench, &["--need-key"]);
    check("stripe-deliveries.jsonl", &bench, &[]);
}

#[tokio::test]
async fn a_customer_keeps_to_one_currency_and_an_archived_price_is_not_sold() {
    let bench = Bench::start().await;
    let (plan, customer) = (bench.product("S").await, bench.shopper().await);
    let euros = bench.price_of(&plan, 900, "eur", MONTH).await;
    let dollars = bench.price_of(&plan, 1_000, "usd", MONTH).await;
    let (_, before) = bench.ask(&[&dollars], &customer, "").await;
    let (_, session) = bench.ask(&[&euros], &customer, "").await;
    bench.completes(&session, json!({})).await;
    let (status, refused) = bench.ask(&[&dollars], &customer, "").await;
    assert_eq!(status, 400);
    assert!(refused["error"]["message"].as_str().unwrap().contains("combine currencies"), "{refused}");
    // Not on the page that was open before either.
    let id = before["id"].as_str().unwrap();
    let answer = bench.client.post(bench.url(&format!("/c/pay/{id}"))).form(&[("card", "4242")]).send().await;
    assert!(answer.unwrap().text().await.unwrap().contains("combine currencies"));
    bench.ok(&format!("/v1/prices/{euros}"), "active=false").await;
    let (status, _) = bench.ask(&[&euros], &customer, "").await;
    assert_eq!(status, 400, "nobody new");
    bench.advance(32 * 86_400).await;
    let subscription = bench.read("/v1/subscriptions").await["data"][0].clone();
    assert_eq!(subscription["status"], "active", "who has it keeps it");
}

#[tokio::test]
async fn taxes_are_added_or_inside_and_a_foreign_tax_id_takes_them_away() {
    let bench = Bench::start().await;
    let plan = bench.product("S").await;
    let added = bench.price_of(&plan, 1_000, "eur", &format!("{MONTH}&tax_behavior=exclusive")).await;
    let inside = bench.price_of(&plan, 1_000, "eur", &format!("{MONTH}&tax_behavior=inclusive")).await;
    let taxed = "&automatic_tax[enabled]=true&tax_id_collection[enabled]=true&customer_update[address]=auto\
                 &customer_update[name]=auto";
    for (price, typed, expected) in [
        (&added, json!({ "country": "DE" }), (1_000, 0, 190, 1_190)),
        (&added, json!({ "country": "US" }), (1_000, 0, 0, 1_000)),
        (&added, json!({ "country": "AT", "tax_id": "ATU12345678" }), (1_000, 0, 0, 1_000)),
        (&inside, json!({ "country": "DE" }), (1_000, 0, 160, 1_000)),
    ] {
        let customer = bench.shopper().await;
        let (status, session) = bench.ask(&[price], &customer, taxed).await;
        assert_eq!(status, 200, "{session}");
        let paid = bench.completes(&session, typed.clone()).await;
        assert_eq!(sums(&paid), expected, "{typed}");
        let bill = bench.bills(paid["subscription"].as_str().unwrap()).await.remove(0);
        assert_eq!(bill["amount_paid"].as_i64(), Some(expected.3), "{typed}");
        assert_eq!(bill["total_taxes"][0]["amount"].as_i64(), Some(expected.2), "{typed}");
        let known = bench.read(&format!("/v1/customers/{customer}")).await;
        assert_eq!(known["address"]["country"], typed["country"]);
    }
    let customer = bench.shopper().await;
    let (status, _) = bench.ask(&[&added], &customer, "&automatic_tax[enabled]=true").await;
    assert_eq!(status, 400, "nobody would know where the buyer sits");
    check("stripe.jsonl", &bench, &["--need-key"]);
}
