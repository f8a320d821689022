//! What a customer does about money after the purchase, at a screen: cancels and changes their mind, misses a payment,
//! loses the server for a while, pays, and has it back. Months pass on a clock of the story.

use serde_json::json;
use tokio::time::Instant;

use crate::{
    browser::{Browser, Tab},
    browsing::log_in,
    purchase::{PATIENCE, buy, order_is, place, server_is},
    replanning::stripe,
    support::{Database, Demo, until},
};

/// The demo's customer, at the billing page.
async fn at_billing(demo: &Demo, tab: &Tab) {
    let state = demo.state();
    let customer = &state["customer"];
    log_in(demo, tab, customer["email"].as_str().unwrap(), customer["password"].as_str().unwrap()).await;
    tab.go(&format!("{}/billing", demo.portal())).await;
}

/// Waits for a letter to the demo's customer whose subject contains this, and gives its text.
async fn letter(demo: &Demo, subject: &str) -> String {
    let state = demo.state();
    let email = state["customer"]["email"].as_str().unwrap();
    until(&format!("the letter \"{subject}\""), PATIENCE, || async {
        let letters = demo.letters(email).await;
        let found =
            letters.iter().find(|letter| letter["subject"].as_str().is_some_and(|s| s.contains(subject)));
        Some(found?["text"].as_str()?.to_owned())
    })
    .await
}

/// Looks at the billing page until it says this.
async fn billing_says(demo: &Demo, tab: &Tab, wanted: &str) {
    until(&format!("the billing page to say \"{wanted}\""), PATIENCE, || async {
        tab.go(&format!("{}/billing", demo.portal())).await;
        tab.text().await.contains(wanted).then_some(())
    })
    .await;
}

/// What came due in the weeks that passed at once is late for a moment, on a busy machine for a longer one.
pub async fn everything_holds(demo: &Demo) {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if demo.run_check().await.status.success() {
            return;
        }
    }
    demo.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_cancels_and_changes_their_mind() {
    let story = "cancel and undo";
    let Some(browser) = Browser::start(story).await else { return };
    let Some(demo) = Demo::start(story, Database::Sqlite, 1).await else { return };
    let (_, server) = buy(&demo, "web-1", "fsn").await;
    let tab = browser.open(&demo.portal(), 1280, 900, false).await;
    at_billing(&demo, &tab).await;
    tab.sees("Charged on").await;
    tab.is_clean().await;
    tab.confirm("Cancel").await;
    tab.sees("Ends on").await;
    tab.picture("billing-cancelled").await;
    tab.is_clean().await;
    server_is(&demo.api("customer"), server["id"].as_str().unwrap(), "running").await;
    tab.click("Keep it").await;
    tab.sees("Charged on").await;
    tab.is_clean().await;
    everything_holds(&demo).await;
    browser.stop().await;
    demo.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_renewal_costs_the_server_its_power_until_it_is_paid() {
    let story = "a failed renewal";
    let Some(browser) = Browser::start(story).await else { return };
    let Some((demo, clock)) = Demo::start_with_clock(story, Database::Sqlite, 1, &[]).await else { return };
    let api = demo.api("customer");
    let order = place(&api, "web-1", "fsn").await;
    // This card pays now and is declined ever after.
    let (status, paid) = demo.stripe().try_pay(order["checkout_url"].as_str().unwrap(), "0341").await;
    assert!(status == 200 && paid["result"] == "paid", "{status} {paid}");
    let order = order_is(&api, order["id"].as_str().unwrap(), "fulfilled").await;
    let server = order["server_id"].as_str().unwrap();
    server_is(&api, server, "running").await;

    // A month and some hours: the renewal is drafted, an hour later charged, and declined.
    clock.live(&demo, 31 * 24).await;
    clock.pass(2);
    demo.nodes_online().await;
    let text = letter(&demo, "did not work").await;
    assert!(text.contains("http"), "where to pay: {text}");
    let tab = browser.open(&demo.portal(), 1280, 900, false).await;
    at_billing(&demo, &tab).await;
    billing_says(&demo, &tab, "Payment failed").await;
    tab.sees("Switched off if unpaid on").await;
    tab.picture("billing-failed").await;
    tab.is_clean().await;
    server_is(&api, server, "running").await;

    clock.pass(3 * 24 + 1);
    demo.nodes_online().await;
    server_is(&api, server, "stopped").await;
    letter(&demo, "switched off").await;
    at_billing(&demo, &tab).await;
    billing_says(&demo, &tab, "Unpaid").await;
    tab.picture("billing-unpaid").await;
    tab.is_clean().await;

    // The page of the invoice at Stripe, where the first card offered is one that works.
    tab.click("Pay now").await;
    tab.sees("Invoice").await;
    tab.click("Pay").await;
    tab.sees("State: paid").await;
    server_is(&api, server, "running").await;
    billing_says(&demo, &tab, "Charged on").await;
    tab.picture("billing-paid-again").await;
    tab.is_clean().await;
    letter(&demo, "back").await;
    everything_holds(&demo).await;
    browser.stop().await;
    demo.stop().await;
}

/// Stripe is told to leave what it cannot collect past due, as our guide asks for; the end is our clock's. The server is
/// switched off, announced, ended and removed, each once and in its time, and nothing is owed or charged any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_nobody_pays_for_ends_by_our_clock() {
    let Some((demo, clock)) = Demo::start_with_clock("never paid", Database::Sqlite, 1, &[]).await else {
        return;
    };
    demo.stripe().post("/policy", json!({ "after_retries": "past_due" })).await;
    let api = demo.api("customer");
    let order = place(&api, "web-1", "fsn").await;
    let (status, paid) = demo.stripe().try_pay(order["checkout_url"].as_str().unwrap(), "0341").await;
    assert!(status == 200 && paid["result"] == "paid", "{status} {paid}");
    let order = order_is(&api, order["id"].as_str().unwrap(), "fulfilled").await;
    let server = order["server_id"].as_str().unwrap();
    server_is(&api, server, "running").await;
    let subscription = async || stripe(&demo, "subscriptions?status=all").await["data"][0].clone();

    // The month is over, the charge is declined; three days of grace, and the server is off.
    clock.live(&demo, 31 * 24).await;
    clock.pass(2);
    demo.nodes_online().await;
    letter(&demo, "did not work").await;
    everything_holds(&demo).await;
    clock.pass(3 * 24 + 1);
    demo.nodes_online().await;
    server_is(&api, server, "stopped").await;
    letter(&demo, "switched off").await;
    everything_holds(&demo).await;

    // Stripe has given up trying, and the subscription is past due. Two days before the end it is announced.
    clock.live(&demo, 11 * 24).await;
    letter(&demo, "will be deleted on").await;
    server_is(&api, server, "stopped").await;
    assert_eq!(subscription().await["status"], "past_due");
    everything_holds(&demo).await;

    // The end. Whoever pays in the next three days has it back, so the subscription stands as long; then nothing is left.
    clock.pass(49);
    demo.nodes_online().await;
    server_is(&api, server, "retired").await;
    assert_eq!(subscription().await["status"], "past_due");
    everything_holds(&demo).await;
    clock.pass(73);
    demo.nodes_online().await;
    server_is(&api, server, "purged").await;
    assert_eq!(subscription().await["status"], "canceled");
    let open = stripe(&demo, "invoices?status=open").await;
    assert_eq!(open["data"], json!([]), "nothing is owed for a server that is gone");
    let state = demo.state();
    let letters = demo.letters(state["customer"]["email"].as_str().unwrap()).await;
    for subject in ["did not work", "switched off", "will be deleted on"] {
        let told = letters.iter().filter(|one| one["subject"].as_str().is_some_and(|s| s.contains(subject)));
        assert_eq!(told.count(), 1, "{subject}");
    }
    everything_holds(&demo).await;
    demo.stop().await;
}
