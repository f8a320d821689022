//! What is sold and how it is bought: by the quarter and the year, with a set-up fee, a trial and a promotion code.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    browser::{Browser, Tab},
    purchase::{PATIENCE, order_is, server_is},
    support::{Api, Database, Demo, SSH_KEY, until},
};

/// A plan beside those of the demo: first two weeks free, with a set-up fee, taken by dollars as well.
const TRIAL_PLAN: &str = r#"
[[plans]]
code = "t"
name = "T"
vcpu = 1
memory_mib = 2048
disk_gib = 20
traffic_gib = 1024

[[plans.prices]]
interval = "quarter"
currency = "eur"
amount_minor = 1500
setup_minor = 500
trial_days = 14

[[plans.prices]]
interval = "month"
currency = "usd"
amount_minor = 700

[[coupons]]
code = "half"
name = "Half a set-up"
percent_off = 50
duration = "once"

[[coupons.codes]]
code = "HALF"
"#;

async fn log_in(demo: &Demo, tab: &Tab) {
    let state = demo.state();
    tab.go(&format!("{}/login", demo.portal())).await;
    tab.fill("Mail address", state["customer"]["email"].as_str().unwrap()).await;
    tab.fill("Password", state["customer"]["password"].as_str().unwrap()).await;
    tab.click("Log in").await;
    tab.sees("Servers").await;
}

/// What `billing sync` says, as JSON.
async fn sync(demo: &Demo, more: &[&str]) -> Value {
    let arguments = [&["billing", "sync", "--json"], more].concat();
    let output = demo.control_plane(&arguments).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn apply(demo: &Demo, text: &str) {
    let file = demo.path("more.toml");
    std::fs::write(&file, text).unwrap();
    let output = demo.control_plane(&["apply", file.to_str().unwrap()]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

async fn buys_annual_with_a_promotion_code(database: Database, width: u32, dark: bool) {
    let story = "annual with a promotion code";
    let Some(browser) = Browser::start(story).await else { return };
    let Some(demo) = Demo::start(story, database, 1).await else { return };
    let tab = browser.open(&demo.portal(), width, 900, dark).await;
    let name = |page: &str| format!("shop-{width}-{page}");
    tab.sees("per quarter").await;
    tab.picture(&name("landing")).await;
    tab.is_clean().await;
    log_in(&demo, &tab).await;
    tab.go(&format!("{}/servers/new", demo.portal())).await;
    tab.fill("Public key", SSH_KEY).await;
    tab.click("Billing interval").await;
    tab.click("Quarterly").await;
    tab.sees("Pay 26.00").await;
    tab.click("Yearly").await;
    tab.sees("Pay 90.00").await;
    tab.sees("Then 90.00\u{a0}€ per year").await;
    tab.picture(&name("create")).await;
    tab.is_clean().await;
    tab.click("and create").await;
    tab.sees("Pay by card").await;
    // A slip of the pen first: nothing is taken off, and the page says so.
    tab.fill("Promotion code", "WELCOME99").await;
    tab.click("Apply").await;
    tab.sees("This code is invalid").await;
    tab.fill("Promotion code", "welcome20").await;
    tab.click("Apply").await;
    tab.sees("72.00").await;
    tab.picture(&name("checkout")).await;
    tab.is_clean().await;
    tab.click("Pay").await;
    tab.sees("Your server is ready").await;
    tab.sees("Promotion code").await;
    tab.sees("72.00\u{a0}€").await;
    tab.picture(&name("order")).await;
    tab.is_clean().await;
    tab.go(&format!("{}/billing", demo.portal())).await;
    tab.sees("90.00\u{a0}€").await;
    tab.sees("per year").await;
    tab.sees("72.00\u{a0}€").await;
    tab.picture(&name("billing")).await;
    tab.is_clean().await;
    // What Stripe has is what the catalogue says, and the code is good once per account.
    assert_eq!(sync(&demo, &["--dry-run"]).await["steps"], json!([]));
    demo.check().await;
    browser.stop().await;
    demo.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn buys_annual_with_a_promotion_code_on_sqlite() {
    buys_annual_with_a_promotion_code(Database::Sqlite, 1280, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn buys_annual_with_a_promotion_code_on_postgres_on_the_narrowest_phone() {
    buys_annual_with_a_promotion_code(Database::Postgres, 320, true).await;
}

async fn order(api: &Api, name: &str, plan: &str, interval: &str, currency: &str) -> (u16, Value) {
    let order = json!({
        "location": "fsn", "image": "debian-13", "plan": plan, "interval": interval, "currency": currency,
        "hostname": name, "ssh_keys": [SSH_KEY], "accept_terms": true,
    });
    api.post("/orders", order).await
}

/// A trial with a card and a set-up fee, half of it by a code; then a second server, which is no trial, and one in
/// another currency, which is refused before anybody pays.
async fn a_trial_begins_with_a_card_and_is_given_once(database: Database) {
    let Some(demo) = Demo::start("a trial", database, 1).await else { return };
    let (api, stripe) = (demo.api("customer"), demo.stripe());
    apply(&demo, TRIAL_PLAN).await;
    let (status, first) = order(&api, "web-1", "t", "quarter", "eur").await;
    assert_eq!(status, 201, "{first}");
    assert_eq!((&first["due_today_minor"], &first["trial_days"]), (&json!(500), &json!(14)), "{first}");
    stripe.pay_with(first["checkout_url"].as_str().unwrap(), json!({ "code": "HALF" })).await;
    let first = order_is(&api, first["id"].as_str().unwrap(), "fulfilled").await;
    assert_eq!(first["paid_minor"], 250, "{first}");
    let server = server_is(&api, first["server_id"].as_str().unwrap(), "running").await;
    demo.check().await;

    let (status, second) = order(&api, "web-2", "t", "quarter", "eur").await;
    assert_eq!((status, &second["due_today_minor"]), (201, &json!(2000)), "one trial per account: {second}");
    let (status, refused) = order(&api, "web-3", "t", "month", "usd").await;
    assert_eq!(status, 422, "{refused}");
    assert!(refused.to_string().contains("currency_bound"), "{refused}");

    // The trial is over: the card pays the first quarter, and the server runs on.
    stripe.post("/clock/advance", json!({ "seconds": 15 * 86_400 })).await;
    let account = demo.state()["customer"]["email"].as_str().unwrap().to_owned();
    until("the letter about the first charge of the trial", Duration::from_secs(120), || async {
        let letters = demo.letters(&account).await;
        letters.iter().any(|letter| letter["text"].to_string().contains("15.00")).then_some(())
    })
    .await;
    server_is(&api, server["id"].as_str().unwrap(), "running").await;
    until("the books to say so", PATIENCE, || async {
        let rows = demo.rows("SELECT order_id, status FROM billing_subscriptions").await;
        rows.iter().all(|(_, status)| status == "active").then_some(())
    })
    .await;
    demo.check().await;
    demo.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_begins_with_a_card_and_is_given_once_on_sqlite() {
    a_trial_begins_with_a_card_and_is_given_once(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_begins_with_a_card_and_is_given_once_on_postgres() {
    a_trial_begins_with_a_card_and_is_given_once(Database::Postgres).await;
}

/// A price changes in the file: shown first, then done; whoever bought before keeps the old price.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_price_is_shown_first_and_sold_servers_keep_theirs() {
    let Some(demo) = Demo::start("a new price", Database::Sqlite, 1).await else { return };
    let api = demo.api("customer");
    let (status, bought) = order(&api, "web-1", "s", "month", "eur").await;
    assert_eq!(status, 201, "{bought}");
    demo.stripe().pay(bought["checkout_url"].as_str().unwrap()).await;
    order_is(&api, bought["id"].as_str().unwrap(), "fulfilled").await;
    let file = std::fs::read_to_string(demo.path("catalog.toml")).unwrap();
    apply(&demo, &file.replacen("amount_minor = 900", "amount_minor = 1000", 1)).await;
    let plans = api.get("/plans").await;
    let prices = plans["data"][0]["prices"].as_array().unwrap().clone();
    assert!(prices.iter().any(|price| price["amount_minor"] == 1000), "{prices:?}");
    assert!(!prices.iter().any(|price| price["amount_minor"] == 900), "{prices:?}");
    let kept = demo.rows("SELECT order_id, CAST(amount_minor AS TEXT) FROM billing_subscriptions").await;
    assert_eq!(kept[0].1, "900", "sold servers keep their price");
    assert_eq!(sync(&demo, &[]).await["steps"], json!([]), "apply has done it all");
    demo.check().await;
    demo.stop().await;
}
