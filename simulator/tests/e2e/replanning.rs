//! Another plan for a server, end to end: what a page shows is what Stripe bills, to the cent, and the VM grows when that is
//! paid, not before.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{
    browser::Browser,
    caring::Care,
    judging,
    purchase::{PATIENCE, order_is, place, server_is},
    support::{Api, Database, Demo, until},
};

/// What Stripe itself answers.
pub async fn stripe(demo: &Demo, path: &str) -> Value {
    let state = demo.state();
    let (url, key) =
        (state["stripe"]["url"].as_str().unwrap(), state["stripe"]["secret_key"].as_str().unwrap());
    let url = format!("{}/v1/{path}", url.trim_end_matches('/'));
    reqwest::Client::new().get(url).bearer_auth(key).send().await.unwrap().json().await.unwrap()
}

/// The newest invoice of the only subscription.
pub async fn newest_invoice(demo: &Demo) -> Value {
    stripe(demo, "invoices?limit=1").await["data"][0].clone()
}

/// vCPUs, memory and disk of the VM as Proxmox has them.
async fn hardware(care: &Care) -> (i64, i64, String) {
    let config = care.proxmox("/config").await;
    let number = |key: &str| {
        config[key].as_i64().or_else(|| config[key].as_str().and_then(|text| text.parse().ok())).unwrap_or(0)
    };
    let disk = config["scsi0"].as_str().unwrap_or_default();
    let size = disk.split(',').find_map(|part| part.strip_prefix("size=")).unwrap_or_default().to_owned();
    (number("cores"), number("memory"), size)
}

pub async fn change_is(api: &Api, path: &str, wanted: &str) -> Value {
    until(&format!("the plan change to be {wanted}"), PATIENCE, || async {
        let (status, change) = api.try_get(path).await;
        (status == 200 && change["state"] == wanted).then_some(change)
    })
    .await
}

/// Asks what a plan costs, and confirms it; gives the change's path and how it stood at once.
pub async fn change(care: &Care, wanted: Value) -> (String, Value, Value) {
    let (status, asked) = care.api.post(&care.path("/plan_changes"), wanted.clone()).await;
    assert_eq!(status, 201, "{wanted}: {asked}");
    assert_eq!(asked["state"], "previewed");
    let path = care.path(&format!("/plan_changes/{}", asked["id"].as_str().unwrap()));
    let key = format!("confirm-{}", asked["id"].as_str().unwrap());
    let (status, confirmed) = care.api.post_with_key(&format!("{path}/confirm"), json!({}), &key).await;
    assert_eq!(status, 202, "{confirmed}");
    let (status, again) = care.api.post_with_key(&format!("{path}/confirm"), json!({}), &key).await;
    assert_eq!((status, &again["id"]), (202, &asked["id"]), "twice is once");
    (path, asked, confirmed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_upgrades_in_a_browser_and_pays_what_was_shown() {
    let story = "an upgrade in a browser";
    let Some(browser) = Browser::start(story).await else { return };
    let Some((demo, clock)) = Demo::start_with_clock(story, Database::Sqlite, 1, &[]).await else { return };
    let care = Care::of(Arc::new(demo), 0, "web-1", "fsn").await;
    assert_eq!(hardware(&care).await, (2, 4_096, "40G".to_owned()));
    // Four days of the month are used.
    clock.pass(4 * 24);
    care.demo.nodes_online().await;
    let portal = care.demo.portal();
    let customer = care.demo.state()["customer"].clone();
    let tab = browser.open(&format!("{portal}/login"), 1280, 900, false).await;
    tab.fill("Mail address", customer["email"].as_str().unwrap()).await;
    tab.fill("Password", customer["password"].as_str().unwrap()).await;
    tab.click("Log in").await;
    tab.sees("web-1").await;
    tab.go(&format!("{portal}/servers/{}", care.server)).await;
    tab.click("Change plan").await;
    tab.sees("This server has S.").await;
    tab.picture("plan-choose").await;
    tab.is_clean().await;
    tab.click("18.00\u{a0}€ per month").await;
    tab.sees("To pay now").await;
    tab.picture("plan-preview").await;
    tab.is_clean().await;
    let shown: String = tab.script("document.querySelector('dl.facts strong').textContent.trim()").await;
    let lines: Vec<String> = tab
        .script("[...document.querySelectorAll('tbody td.amount')].map(cell => cell.textContent.trim())")
        .await;
    assert_eq!(hardware(&care).await, (2, 4_096, "40G".to_owned()), "a preview changes nothing");
    tab.click("and change").await;
    tab.sees("The server has its new plan.").await;
    tab.picture("plan-done").await;
    tab.is_clean().await;
    // What Stripe billed is what the page said, line by line, to the cent.
    let invoice = newest_invoice(&care.demo).await;
    let euros = |minor: i64| {
        let sign = if minor < 0 { "\u{2212}" } else { "" };
        format!("{sign}{}.{:02}\u{a0}€", minor.abs() / 100, minor.abs() % 100)
    };
    let plain = |text: &str| text.replace('\u{a0}', " ").replace(['\u{2212}', '\u{2013}'], "-");
    assert_eq!(
        (&invoice["status"], &invoice["billing_reason"]),
        (&"paid".into(), &"subscription_update".into())
    );
    assert_eq!(plain(&shown), plain(&euros(invoice["amount_paid"].as_i64().unwrap())));
    let billed: Vec<String> = invoice["lines"]["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| plain(&euros(line["amount"].as_i64().unwrap())))
        .collect();
    assert_eq!(lines.iter().map(|line| plain(line)).collect::<Vec<_>>(), billed);
    let due = invoice["amount_paid"].as_i64().unwrap();
    assert!((600..900).contains(&due), "a part of the difference, which is 9.00: {due}");
    assert_eq!(hardware(&care).await, (4, 8_192, "80G".to_owned()));
    tab.go(&format!("{portal}/servers/{}", care.server)).await;
    tab.sees("18.00\u{a0}€").await;
    tab.picture("plan-server-after").await;
    // The same browser: the person is logged in there as well.
    let dark = browser.open(&format!("{portal}/servers"), 320, 640, true).await;
    dark.sees("web-1").await;
    for (page, name) in [("/plan", "plan-choose-narrow"), ("", "plan-server-narrow")] {
        dark.go(&format!("{portal}/servers/{}{page}", care.server)).await;
        dark.sees("web-1").await;
        dark.picture(name).await;
        dark.is_clean().await;
    }
    dark.go(&format!("{portal}/servers/{}/plan", care.server)).await;
    dark.click("36.00\u{a0}€ per month").await;
    dark.sees("To pay now").await;
    dark.picture("plan-preview-narrow").await;
    dark.is_clean().await;
    let letters = care.demo.letters(customer["email"].as_str().unwrap()).await;
    let subjects: Vec<&str> = letters.iter().filter_map(|letter| letter["subject"].as_str()).collect();
    assert!(subjects.iter().any(|subject| subject.contains("the plan is changed")), "{subjects:?}");
    care.settled().await;
    judging::proxmox(&care.demo, "an upgrade").await;
    care.demo.check().await;
    browser.stop().await;
    Arc::into_inner(care.demo).unwrap().stop().await;
}

/// A card that is declined, its invoice paid by hand; a disk that does not shrink; a year, and months again after it.
async fn plans_come_and_go(database: Database) {
    let Some(demo) = Demo::start("plans come and go", database, 1).await else { return };
    let api = demo.api("customer");
    let order = place(&api, "web-1", "fsn").await;
    let (status, paid) = demo.stripe().try_pay(order["checkout_url"].as_str().unwrap(), "0341").await;
    assert!(status == 200 && paid["result"] == "paid", "{status} {paid}");
    let order = order_is(&api, order["id"].as_str().unwrap(), "fulfilled").await;
    let server = server_is(&api, order["server_id"].as_str().unwrap(), "running").await;
    let care = Care::known(Arc::new(demo), 0, server["id"].as_str().unwrap()).await;

    let (path, asked, waiting) = change(&care, json!({"plan": "m"})).await;
    assert_eq!(waiting["state"], "awaiting_payment", "{waiting}");
    let page = waiting["pay_url"].as_str().unwrap().to_owned();
    let (status, refused) = care.api.post(&care.path("/plan_changes"), json!({"plan": "l"})).await;
    assert_eq!((status, refused["code"].as_str()), (409, Some("plan_change_open")), "{refused}");
    assert_eq!(hardware(&care).await, (2, 4_096, "40G".to_owned()), "not before it is paid");
    let paid = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let paid = paid.post(&page).form(&[("card", "4242424242424242")]).send().await.unwrap();
    assert_eq!(paid.status(), 303);
    change_is(&care.api, &path, "done").await;
    let invoice = newest_invoice(&care.demo).await;
    assert_eq!(invoice["amount_paid"], asked["cost"]["due_minor"]);
    assert_eq!(hardware(&care).await, (4, 8_192, "80G".to_owned()));
    let grown = care.settled().await;
    assert_eq!(
        (&grown["plan"], &grown["memory_mib"], &grown["max_backups"]),
        (&"m".into(), &8_192.into(), &7.into())
    );
    care.demo.check().await;

    let (status, refused) = care.api.post(&care.path("/plan_changes"), json!({"plan": "s"})).await;
    assert_eq!((status, refused["code"].as_str()), (409, Some("disk_would_shrink")), "{refused}");
    let (path, asked, _) = change(&care, json!({"interval": "year"})).await;
    change_is(&care.api, &path, "done").await;
    let invoice = newest_invoice(&care.demo).await;
    assert_eq!(invoice["amount_paid"], asked["cost"]["due_minor"]);
    let (path, asked, booked) = change(&care, json!({"interval": "month"})).await;
    assert_eq!((&asked["way"], &asked["cost"]["due_minor"]), (&"period_end".into(), &0.into()));
    assert_eq!(booked["state"], "scheduled", "{booked}");
    let (status, back) = care.api.post(&format!("{path}/cancel"), json!({})).await;
    assert_eq!((status, &back["state"]), (200, &"taken_back".into()), "{back}");
    let (path, ..) = change(&care, json!({"interval": "month"})).await;
    care.demo.stripe().post("/clock/advance", json!({"seconds": 366 * 86_400})).await;
    change_is(&care.api, &path, "done").await;
    let subscription = stripe(&care.demo, "subscriptions?limit=1").await["data"][0].clone();
    let price = &subscription["items"]["data"][0]["price"];
    assert_eq!(price["lookup_key"], "m:month:eur:v1");
    until("the schedule to be let go", PATIENCE, || async {
        let subscription = stripe(&care.demo, "subscriptions?limit=1").await["data"][0].clone();
        subscription["schedule"].is_null().then_some(())
    })
    .await;
    assert_eq!(hardware(&care).await, (4, 8_192, "80G".to_owned()));
    let listed = care.api.get(&care.path("/plan_changes")).await;
    let states: Vec<&str> =
        listed["data"].as_array().unwrap().iter().filter_map(|change| change["state"].as_str()).collect();
    assert_eq!(states, ["done", "taken_back", "done", "done"]);
    judging::proxmox(&care.demo, "plans come and go").await;
    care.demo.check().await;
    Arc::into_inner(care.demo).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_come_and_go_on_sqlite() {
    plans_come_and_go(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_come_and_go_on_postgres() {
    plans_come_and_go(Database::Postgres).await;
}
