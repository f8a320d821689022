//! People at a screen: a newcomer signs up and buys a server with the mouse, with the keyboard alone,
//! and on the narrowest phone.

use std::time::Duration;

use crate::{
    browser::{Browser, Tab},
    support::{Database, Demo, SSH_KEY, until},
};

const PASSWORD: &str = "a sentence is a fine password";

/// Signs up and follows the link in the mail; ends logged in.
async fn sign_up(demo: &Demo, tab: &Tab, email: &str) {
    tab.go(&format!("{}/signup", demo.portal())).await;
    tab.is_clean().await;
    tab.fill("Mail address", email).await;
    tab.fill("Password", PASSWORD).await;
    tab.picture("signup").await;
    tab.click("Create the account").await;
    tab.sees("Look into your mail").await;
    let link = until("the letter with the link", Duration::from_secs(30), || async {
        let letter = demo.letters(email).await.into_iter().next()?;
        let text = letter["text"].as_str()?.to_owned();
        let start = text.find("http")?;
        Some(text[start..].split_whitespace().next()?.to_owned())
    })
    .await;
    tab.go(&link).await;
    tab.sees("Confirm your mail address").await;
    tab.fill("Password", PASSWORD).await;
    tab.is_clean().await;
    tab.click("Confirm the address").await;
    tab.leaves("verify").await;
    if tab.url().await.contains("/login") {
        log_in(demo, tab, email, PASSWORD).await;
    }
}

pub async fn log_in(demo: &Demo, tab: &Tab, email: &str, password: &str) {
    tab.go(&format!("{}/login", demo.portal())).await;
    tab.fill("Mail address", email).await;
    tab.fill("Password", password).await;
    tab.click("Log in").await;
    tab.sees("Servers").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_buys_a_server_in_six_clicks() {
    let story = "buying in a browser";
    let Some(browser) = Browser::start(story).await else { return };
    let Some(demo) = Demo::start(story, Database::Sqlite, 2).await else { return };
    let tab = browser.open(&demo.portal(), 1280, 900, false).await;
    tab.picture("landing").await;
    tab.is_clean().await;
    sign_up(&demo, &tab, "mouse@example.com").await;
    tab.go(&format!("{}/servers", demo.portal())).await;
    tab.sees("No servers yet").await;
    tab.picture("servers-empty").await;
    tab.clicks();
    tab.click("Create a server").await;
    tab.sees("Summary").await;
    tab.fill("Public key", SSH_KEY).await;
    tab.picture("create").await;
    tab.is_clean().await;
    tab.click("and create").await;
    tab.sees("Pay by card").await;
    tab.picture("checkout").await;
    tab.click("Pay").await;
    tab.sees("Your server is ready").await;
    let clicks = tab.clicks();
    assert!(clicks <= 6, "{clicks} clicks");
    tab.sees("ssh root@").await;
    tab.picture("order").await;
    tab.is_clean().await;
    tab.go(&tab.url().await).await;
    tab.sees("ssh root@").await;
    tab.click("Open the server").await;
    tab.sees("Running").await;
    tab.picture("server").await;
    tab.is_clean().await;
    tab.go(&format!("{}/servers", demo.portal())).await;
    tab.picture("servers").await;
    tab.is_clean().await;
    tab.go(&format!("{}/invoices", demo.portal())).await;
    tab.picture("invoices").await;
    tab.is_clean().await;
    let dark = browser.open(&format!("{}/servers", demo.portal()), 1280, 900, true).await;
    dark.picture("servers-dark").await;
    dark.is_clean().await;
    demo.check().await;
    browser.stop().await;
    demo.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_narrowest_phone_is_wide_enough() {
    let story = "buying at 320 px";
    let Some(browser) = Browser::start(story).await else { return };
    let Some(demo) = Demo::start(story, Database::Sqlite, 1).await else { return };
    let tab = browser.open(&demo.portal(), 320, 640, true).await;
    tab.picture("narrow-landing").await;
    tab.is_clean().await;
    sign_up(&demo, &tab, "phone@example.com").await;
    tab.go(&format!("{}/servers/new", demo.portal())).await;
    tab.fill("Public key", SSH_KEY).await;
    tab.picture("narrow-create").await;
    tab.is_clean().await;
    tab.click("and create").await;
    tab.sees("Pay by card").await;
    tab.is_clean().await;
    tab.click("Pay").await;
    tab.sees("Your server is ready").await;
    tab.picture("narrow-order").await;
    tab.is_clean().await;
    tab.click("Open the server").await;
    tab.sees("Running").await;
    tab.picture("narrow-server").await;
    tab.is_clean().await;
    for page in ["/servers", "/invoices", "/account"] {
        tab.go(&format!("{}{page}", demo.portal())).await;
        tab.picture(&format!("narrow{}", page.replace('/', "-"))).await;
        tab.is_clean().await;
    }
    demo.check().await;
    browser.stop().await;
    demo.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keyboard_alone_suffices() {
    let story = "buying with the keyboard";
    let Some(browser) = Browser::start(story).await else { return };
    let Some(demo) = Demo::start(story, Database::Sqlite, 1).await else { return };
    let state = demo.state();
    let tab = browser.open(&format!("{}/login", demo.portal()), 1280, 900, false).await;
    tab.tab_to("Mail address").await;
    tab.type_text(state["customer"]["email"].as_str().unwrap()).await;
    tab.tab_to("Password").await;
    tab.type_text(state["customer"]["password"].as_str().unwrap()).await;
    tab.press("Enter").await;
    tab.sees("No servers yet").await;
    tab.tab_to("Create a server").await;
    tab.press("Enter").await;
    tab.sees("Summary").await;
    tab.tab_to("Public key").await;
    tab.type_text(SSH_KEY).await;
    tab.tab_to("and create").await;
    tab.press("Enter").await;
    tab.sees("Pay by card").await;
    tab.tab_to("Pay").await;
    tab.press("Enter").await;
    tab.sees("Your server is ready").await;
    tab.tab_to("Open the server").await;
    tab.press("Enter").await;
    tab.sees("Running").await;
    tab.is_clean().await;
    demo.check().await;
    browser.stop().await;
    demo.stop().await;
}

/// A form that is refused comes back filled, with the message at its field.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_form_comes_back_filled() {
    let story = "refused forms";
    let Some(browser) = Browser::start(story).await else { return };
    let Some(demo) = Demo::start(story, Database::Sqlite, 1).await else { return };
    let state = demo.state();
    let tab = browser.open(&demo.portal(), 1280, 900, false).await;
    let customer = &state["customer"];
    log_in(&demo, &tab, customer["email"].as_str().unwrap(), customer["password"].as_str().unwrap()).await;
    tab.go(&format!("{}/servers/new", demo.portal())).await;
    tab.fill("Public key", "ssh-ed25519 AAAA").await;
    tab.fill("Name", "web.-1").await;
    tab.click("and create").await;
    tab.picture("refused").await;
    tab.sees("Was it cut off while copying").await;
    let kept: String = tab.script("document.querySelector('[name=hostname]').value").await;
    assert_eq!(kept, "web.-1");
    let key: String = tab.script("document.querySelector('[name=new_key]').value").await;
    assert_eq!(key, "ssh-ed25519 AAAA");
    let described: bool = tab
        .script(
            "[...document.querySelectorAll('[aria-invalid=true]')].every(f => \
             (f.getAttribute('aria-describedby') || '').split(' ').some(id => document.getElementById(id)))",
        )
        .await;
    assert!(described, "each refused field names its message");
    demo.check().await;
    browser.stop().await;
    demo.stop().await;
}
