//! Two years of one customer, through the real processes on a clock of the story: a server by the month and one by the year,
//! cards that fail, lost and doubled webhooks, a dispute, a refund, credit, other plans. After each month the invariant
//! checker runs, and what a person who can count would have charged is what Stripe took and what the control plane's books say.
//!
//! The first server is bought on the 31st of January of the year before a leap year: every renewal falls on the last day of
//! its month, and the clocks of Europe change four times on the way.

use std::{sync::Arc, time::Duration};

use ez_protocol::UnixMillis;
use serde_json::{Value, json};
use time::{Date, Month, OffsetDateTime};

use crate::{
    caring::Care,
    clock::Clock,
    paying::everything_holds,
    purchase::{PATIENCE, order_is, place, server_is},
    replanning::{change, change_is, newest_invoice, stripe},
    support::{Database, Demo, SSH_KEY, until},
};

const HOUR: i64 = 3_600_000;
/// How long after a renewal's moment the story looks: drafted at once, charged an hour later.
const MARGIN: i64 = 6 * HOUR;
/// A card that pays, and one that is declined whenever it is charged later on.
const GOOD: &str = "4242424242424242";
const DECLINED: &str = "4000000000000341";

/// The n-th month after a moment, clamped to the month's last day, at the same second of UTC.
fn months_after(anchor: UnixMillis, n: i32) -> UnixMillis {
    let start = OffsetDateTime::from_unix_timestamp(anchor.as_secs()).unwrap();
    let total = start.year() * 12 + i32::from(u8::from(start.month())) - 1 + n;
    let month = Month::try_from(u8::try_from(total.rem_euclid(12) + 1).unwrap()).unwrap();
    let year = total.div_euclid(12);
    let date = Date::from_calendar_date(year, month, start.day().min(month.length(year))).unwrap();
    UnixMillis::from_secs(start.replace_date(date).unix_timestamp())
}

/// The next 31st of January whose following February has 29 days.
fn a_last_of_january(now: UnixMillis) -> UnixMillis {
    let today = OffsetDateTime::from_unix_timestamp(now.as_secs()).unwrap();
    let mut year = today.year();
    loop {
        let day = Date::from_calendar_date(year, Month::January, 31).unwrap();
        if Month::February.length(year + 1) == 29 && day > today.date() {
            return UnixMillis::from_secs(day.with_hms(1, 30, 0).unwrap().assume_utc().unix_timestamp());
        }
        year += 1;
    }
}

struct Life {
    care: Care,
    clock: Clock,
    /// The subscription of the server that is bought first.
    subscription: String,
    customer: String,
    /// When it began, by Stripe's word.
    anchor: UnixMillis,
    /// What all charges so far come to, by the story's own sum.
    paid: i64,
}

impl Life {
    fn demo(&self) -> &Demo {
        &self.care.demo
    }

    async fn until_time(&self, at: UnixMillis) {
        let minutes = u32::try_from((at.0 - self.clock.now().0) / 60_000 + 1).unwrap();
        if minutes > 5 * 24 * 60 {
            self.clock.live(self.demo(), minutes.div_ceil(60)).await;
        } else {
            self.clock.pass_minutes(minutes);
            self.demo().nodes_online().await;
        }
    }

    /// What the customer does at Stripe's portal.
    async fn at_stripes_portal(&self, form: &[(&str, &str)]) {
        let made = stripe_post(self.demo(), "billing_portal/sessions", &[("customer", &self.customer)]).await;
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let done = client.post(made["url"].as_str().unwrap()).form(form).send().await.unwrap();
        assert_eq!(done.status(), 303, "{form:?}");
    }

    async fn card(&self, number: &str) {
        self.at_stripes_portal(&[("act", "card"), ("card", number)]).await;
    }

    /// The newest invoice of the first server.
    async fn invoice(&self) -> Value {
        let path = format!("invoices?limit=1&subscription={}", self.subscription);
        stripe(self.demo(), &path).await["data"][0].clone()
    }

    /// The customer pays the newest invoice on its own page.
    async fn pays_by_hand(&self) {
        let invoice = self.invoice().await;
        assert_eq!(invoice["status"], "open", "{invoice}");
        let path = format!("/invoices/{}/pay", invoice["id"].as_str().unwrap());
        self.demo().stripe().post(&path, json!({ "card": GOOD })).await;
    }

    async fn runs(&self) {
        server_is(&self.care.api, &self.care.server, "running").await;
    }

    async fn is_off(&self) {
        server_is(&self.care.api, &self.care.server, "stopped").await;
    }

    /// Three sums that are one: the story's, Stripe's, and that of the control plane's books.
    async fn books_agree(&self, month: i32) {
        let sum = "SELECT CAST(COALESCE(SUM(paid_minor), 0) AS TEXT), '' FROM billing_invoices WHERE status = 'paid'";
        until(&format!("{} to be paid in month {month}", self.paid), PATIENCE, || async {
            let all = stripe(self.demo(), "invoices?limit=100&status=paid").await;
            let all = all["data"].as_array()?;
            let taken: i64 = all.iter().filter_map(|invoice| invoice["amount_paid"].as_i64()).sum();
            let books = self.demo().rows(sum).await;
            assert!(taken <= self.paid, "month {month}: {} are due, Stripe took {taken}", self.paid);
            (taken == self.paid && books[0].0 == taken.to_string()).then_some(())
        })
        .await;
        everything_holds(self.demo()).await;
        let ledger = self.demo().control_plane(&["billing", "reconcile", "--json"]).await;
        assert!(ledger.status.success(), "month {month}: {}", String::from_utf8_lossy(&ledger.stdout));
        everything_holds(self.demo()).await;
    }

    /// Another plan, confirmed and carried out; what it cost joins the sum.
    async fn replans(&mut self, wanted: Value) {
        let (path, asked, _) = change(&self.care, wanted).await;
        change_is(&self.care.api, &path, "done").await;
        let due = asked["cost"]["due_minor"].as_i64().unwrap();
        assert_eq!(newest_invoice(self.demo()).await["amount_paid"], due, "{asked}");
        self.paid += due;
        self.care.settled().await;
    }

    async fn told(&self, arguments: &[&str]) {
        let output = self.demo().control_plane(arguments).await;
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    async fn letters(&self, subject: &str) -> usize {
        let state = self.demo().state();
        let letters = self.demo().letters(state["customer"]["email"].as_str().unwrap()).await;
        letters
            .iter()
            .filter(|letter| letter["subject"].as_str().is_some_and(|s| s.contains(subject)))
            .count()
    }
}

/// What Stripe itself answers to somebody who changes something.
pub async fn stripe_post(demo: &Demo, path: &str, form: &[(&str, &str)]) -> Value {
    let state = demo.state();
    let (url, key) =
        (state["stripe"]["url"].as_str().unwrap(), state["stripe"]["secret_key"].as_str().unwrap());
    let request = reqwest::Client::new().post(format!("{}/v1/{path}", url.trim_end_matches('/')));
    request.bearer_auth(key).form(form).send().await.unwrap().json().await.unwrap()
}

/// The subscription that an order began.
async fn subscription_of(demo: &Demo, order: &Value) -> Value {
    let all = stripe(demo, "subscriptions?limit=100&status=all").await;
    let all = all["data"].as_array().unwrap();
    all.iter().find(|one| one["metadata"]["order_id"] == order["id"]).cloned().unwrap()
}

/// A second server, by the year; gives its server and its subscription.
async fn buys_for_a_year(life: &Life) -> (String, String) {
    let order = json!({
        "location": "fsn", "image": "debian-13", "plan": "s", "interval": "year",
        "hostname": "web-2", "ssh_keys": [SSH_KEY], "accept_terms": true,
    });
    let (status, order) = life.care.api.post("/orders", order).await;
    assert_eq!(status, 201, "{order}");
    life.demo().stripe().pay(order["checkout_url"].as_str().unwrap()).await;
    let order = order_is(&life.care.api, order["id"].as_str().unwrap(), "fulfilled").await;
    let server = order["server_id"].as_str().unwrap();
    server_is(&life.care.api, server, "running").await;
    let subscription = subscription_of(life.demo(), &order).await;
    (server.to_owned(), subscription["id"].as_str().unwrap().to_owned())
}

async fn two_years(database: Database) {
    let Some((demo, clock)) = Demo::start_with_clock("two years", database, 1, &[]).await else { return };
    let begin = a_last_of_january(clock.now());
    clock.live(&demo, u32::try_from((begin.0 - clock.now().0) / HOUR).unwrap()).await;
    let api = demo.api("customer");
    let order = place(&api, "web-1", "fsn").await;
    demo.stripe().pay(order["checkout_url"].as_str().unwrap()).await;
    let order = order_is(&api, order["id"].as_str().unwrap(), "fulfilled").await;
    let subscription = subscription_of(&demo, &order).await;
    let care = Care::known(Arc::new(demo), 0, order["server_id"].as_str().unwrap()).await;
    let mut life = Life {
        care,
        clock,
        subscription: subscription["id"].as_str().unwrap().to_owned(),
        customer: subscription["customer"].as_str().unwrap().to_owned(),
        anchor: UnixMillis::from_secs(subscription["billing_cycle_anchor"].as_i64().unwrap()),
        paid: 900,
    };
    life.runs().await;
    life.books_agree(0).await;
    let mut second = None;
    // What a renewal of the first server takes; nothing once it has a year.
    let mut rent = 900;
    for month in 1..=24 {
        match month {
            2 => drop(life.demo().stripe().post("/faults/webhooks", json!({ "lose": 50 })).await),
            3 | 6 => life.card(DECLINED).await,
            10 => drop(
                life.demo().stripe().post("/faults/webhooks", json!({ "duplicate": 20, "times": 50 })).await,
            ),
            _ => {}
        }
        life.until_time(UnixMillis(months_after(life.anchor, month).0 + MARGIN)).await;
        life.paid += rent;
        match month {
            2 | 10 => {
                // By the list of events, which is looked at every five minutes.
                life.clock.pass_minutes(6);
                let faults = life.demo().stripe();
                until("what was not delivered to be found", PATIENCE, || async {
                    let found = life
                        .demo()
                        .rows("SELECT CAST(count(*) AS TEXT), '' FROM billing_invoices WHERE status = 'paid'")
                        .await;
                    (found[0].0
                        == stripe(life.demo(), "invoices?limit=100&status=paid").await["data"]
                            .as_array()?
                            .len()
                            .to_string())
                    .then_some(())
                })
                .await;
                faults.clear_faults().await;
                if month == 10 {
                    // Credit of last month has paid a part.
                    life.paid -= 250;
                }
            }
            3 => {
                // Within the days of grace the card is replaced, and Stripe's next try succeeds.
                life.runs().await;
                life.card(GOOD).await;
                let later = life.clock.now().plus(Duration::from_secs(40 * 3_600));
                life.until_time(later).await;
            }
            4 => {
                life.told(&["billing", "refund", &life.care.server, "--amount", "100", "--reference", "t-4"])
                    .await
            }
            6 => {
                let later = life.clock.now().plus(Duration::from_secs(4 * 86_400));
                life.until_time(later).await;
                life.is_off().await;
                life.pays_by_hand().await;
                life.card(GOOD).await;
            }
            8 => {
                second = Some(buys_for_a_year(&life).await);
                life.paid += 9_000;
            }
            9 => {
                life.told(&["billing", "credit", &life.care.server, "--amount", "250", "--reference", "t-9"])
                    .await
            }
            11 => {
                life.replans(json!({ "plan": "m" })).await;
                rent = 1_800;
            }
            14 => {
                let invoice = life.invoice().await;
                let path = format!("invoice_payments?invoice={}", invoice["id"].as_str().unwrap());
                let payment =
                    stripe(life.demo(), &path).await["data"][0]["payment"]["payment_intent"].clone();
                let dispute =
                    life.demo().stripe().post("/disputes", json!({ "payment_intent": payment })).await;
                life.is_off().await;
                let path = format!("/disputes/{}/close", dispute["id"].as_str().unwrap());
                life.demo().stripe().post(&path, json!({ "won": true })).await;
            }
            16 => {
                life.replans(json!({ "interval": "year" })).await;
                rent = 0;
            }
            // The second server's year is over a few hours after the twentieth month of the first.
            21 => life.paid += 9_000,
            22 => {
                let (_, subscription) = second.clone().unwrap();
                life.at_stripes_portal(&[("act", "end"), ("subscription", &subscription)]).await;
            }
            23 => {
                let (server, subscription) = second.take().unwrap();
                life.at_stripes_portal(&[("act", "now"), ("subscription", &subscription)]).await;
                server_is(&life.care.api, &server, "retired").await;
            }
            _ => {}
        }
        life.runs().await;
        let ends = stripe(life.demo(), &format!("subscriptions/{}", life.subscription)).await;
        let ends = ends["items"]["data"][0]["current_period_end"].as_i64().unwrap();
        if rent > 0 {
            assert_eq!(ends, months_after(life.anchor, month + 1).as_secs(), "month {month}");
        }
        life.books_agree(month).await;
    }
    assert_eq!(life.letters("did not work").await, 2, "both failed renewals were told, once each");
    assert_eq!(life.letters("switched off").await, 2, "for what was unpaid, and for the dispute");
    Arc::into_inner(life.care.demo).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_years_of_a_customer_on_sqlite() {
    two_years(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_years_of_a_customer_on_postgres() {
    two_years(Database::Postgres).await;
}
