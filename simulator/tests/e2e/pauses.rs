//! What the host does in Stripe's dashboard, and what a card's issuer does: a subscription is paused and goes on, collection is
//! paused over renewals, a charge is said to be fraud, a customer is deleted. Months pass on a clock of the story.

use serde_json::{Value, json};

use crate::{
    clock::Clock,
    paying::everything_holds,
    purchase::{PATIENCE, buy, place, server_is},
    replanning::{newest_invoice, stripe},
    support::{Api, Database, Demo, until},
    years::stripe_post,
};

const DAY: u32 = 24;

struct Story {
    demo: Demo,
    clock: Clock,
    api: Api,
    server: String,
    subscription: String,
    customer: String,
}

impl Story {
    /// Somebody has bought a server, and it runs.
    async fn begin(what: &str) -> Option<Self> {
        let (demo, clock) = Demo::start_with_clock(what, Database::Sqlite, 1, &[]).await?;
        let (_, server) = buy(&demo, "web-1", "fsn").await;
        let paid_by = stripe(&demo, "subscriptions?limit=1").await["data"][0].clone();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let api = demo.api("customer");
        let (subscription, customer) = (text(&paid_by["id"]), text(&paid_by["customer"]));
        Some(Self { api, server: text(&server["id"]), subscription, customer, demo, clock })
    }

    /// A button of the dashboard about the subscription.
    async fn presses(&self, button: &str, how: Value) -> Value {
        self.demo.stripe().post(&format!("/subscriptions/{}/{button}", self.subscription), how).await
    }

    async fn is(&self, state: &str) -> Value {
        server_is(&self.api, &self.server, state).await
    }

    async fn subscription(&self) -> Value {
        stripe(&self.demo, &format!("subscriptions/{}", self.subscription)).await
    }

    /// When what is paid ends, in hours from now.
    async fn hours_left(&self) -> u32 {
        let ends = self.subscription().await["items"]["data"][0]["current_period_end"].as_i64().unwrap();
        u32::try_from((ends - self.clock.now().as_secs()) / 3_600).unwrap()
    }

    /// The next renewal comes and goes: drafted at once, final an hour later.
    async fn lives_through_a_renewal(&self) {
        self.clock.live(&self.demo, self.hours_left().await + 1).await;
        self.clock.pass(2);
        self.demo.nodes_online().await;
    }

    /// What Stripe has taken in all, once our books say the same.
    async fn taken(&self) -> i64 {
        let sum = "SELECT CAST(COALESCE(SUM(paid_minor), 0) AS TEXT), '' FROM billing_invoices WHERE status = 'paid'";
        until("both books to say the same", PATIENCE, || async {
            let all = stripe(&self.demo, "invoices?limit=100&status=paid").await;
            let taken: i64 =
                all["data"].as_array()?.iter().filter_map(|one| one["amount_paid"].as_i64()).sum();
            (self.demo.rows(sum).await[0].0 == taken.to_string()).then_some(taken)
        })
        .await
    }

    async fn letters(&self, subject: &str) -> Vec<String> {
        let state = self.demo.state();
        let letters = self.demo.letters(state["customer"]["email"].as_str().unwrap()).await;
        let about = |letter: &&Value| letter["subject"].as_str().is_some_and(|s| s.contains(subject));
        letters.iter().filter(about).map(|letter| letter["text"].as_str().unwrap().to_owned()).collect()
    }

    async fn letter(&self, subject: &str) -> String {
        until(&format!("the letter \"{subject}\""), PATIENCE, || async {
            self.letters(subject).await.into_iter().next()
        })
        .await
    }

    async fn rings(&self, kind: &str) -> bool {
        let open = self.demo.rows("SELECT kind, detail FROM alarms WHERE cleared_at IS NULL").await;
        open.iter().any(|(rung, _)| rung == kind)
    }

    async fn alarm(&self, kind: &str, wanted: bool) {
        until(&format!("the alarm {kind} to ring or not"), PATIENCE, || async {
            (self.rings(kind).await == wanted).then_some(())
        })
        .await;
    }

    /// What is behind is mended, and then our copy and Stripe differ in nothing; the invariants hold.
    async fn ends_well(self) {
        for last in [false, true] {
            let told = self.demo.control_plane(&["billing", "reconcile", "--json"]).await;
            let report: Value = serde_json::from_slice(&told.stdout).unwrap();
            assert!(told.status.success() && report["left"] == 0, "{report}");
            assert!(!last || report["differences"] == json!([]), "{report}");
        }
        everything_holds(&self.demo).await;
        self.demo.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_paused_in_the_dashboard_costs_the_power_and_nothing_else_until_it_goes_on() {
    let Some(story) = Story::begin("a paused subscription").await else { return };
    story.clock.live(&story.demo, 10 * DAY).await;
    story.presses("pause", json!({})).await;
    let server = story.is("stopped").await;
    assert!(server["suspended"]["reason"].as_str().unwrap().contains("paused"), "{server}");
    assert!(story.letter("switched off").await.contains("paused"));
    everything_holds(&story.demo).await;

    story.clock.live(&story.demo, 35 * DAY).await;
    assert_eq!(
        (story.taken().await, stripe(&story.demo, "invoices").await["data"].as_array().unwrap().len()),
        (900, 1)
    );
    story.is("stopped").await;
    assert_eq!(story.letters("will be deleted").await.len(), 0, "it stands still as long as its host wants");

    story.presses("resume", json!({})).await;
    story.is("running").await;
    story.letter("is back").await;
    let resumed = newest_invoice(&story.demo).await;
    let paid = resumed["amount_paid"].as_i64().unwrap();
    assert!(
        resumed["status"] == "paid" && paid > 0 && paid < 900,
        "a month less what was not used: {resumed}"
    );
    assert_eq!(story.taken().await, 900 + paid);
    story.lives_through_a_renewal().await;
    until("the renewal to be paid", PATIENCE, || async {
        (story.taken().await == 1_800 + paid).then_some(())
    })
    .await;
    story.is("running").await;
    assert_eq!(story.letters("did not work").await.len(), 0);
    story.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_collection_is_paused_runs_and_its_owner_hears_of_no_debt() {
    let Some(story) = Story::begin("paused collection").await else { return };
    for (behaviour, becomes) in
        [("void", "void"), ("mark_uncollectible", "uncollectible"), ("keep_as_draft", "draft")]
    {
        story.presses("pause_collection", json!({ "behavior": behaviour })).await;
        story.lives_through_a_renewal().await;
        let made = newest_invoice(&story.demo).await;
        assert_eq!(
            (&made["status"], &made["billing_reason"]),
            (&becomes.into(), &"subscription_cycle".into())
        );
        until("the books to have it", PATIENCE, || async {
            let all = story.demo.rows("SELECT stripe_id, status FROM billing_invoices").await;
            all.iter().any(|(id, status)| made["id"] == id.as_str() && status == becomes).then_some(())
        })
        .await;
        // Long enough for anybody who thinks it is owed, or that the next one will be charged.
        story.clock.live(&story.demo, 25 * DAY).await;
        story.is("running").await;
        assert_eq!(story.taken().await, 900, "{behaviour}");
        everything_holds(&story.demo).await;
    }
    for subject in ["did not work", "switched off", "will be deleted", "renews soon"] {
        assert_eq!(story.letters(subject).await.len(), 0, "{subject}");
    }
    story.presses("pause_collection", json!({ "behavior": null })).await;
    story.lives_through_a_renewal().await;
    until("the renewal to be paid", PATIENCE, || async { (story.taken().await == 1_800).then_some(()) })
        .await;
    story.is("running").await;
    story.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_charge_that_its_issuer_calls_fraud_switches_off_at_once_and_ends_with_the_refund() {
    let Some(story) = Story::begin("an early fraud warning").await else { return };
    let invoice = newest_invoice(&story.demo).await;
    let path = format!("invoice_payments?invoice={}", invoice["id"].as_str().unwrap());
    let intent = stripe(&story.demo, &path).await["data"][0]["payment"]["payment_intent"].clone();
    let warned = json!({ "payment_intent": intent, "fraud_type": "made_with_stolen_card" });
    let warning = story.demo.stripe().post("/early_fraud_warnings", warned).await;
    story.is("stopped").await;
    assert!(story.letter("switched off").await.contains("bank"));
    story.alarm("fraud_warning", true).await;
    let order = json!({
        "location": "fsn", "image": "debian-13", "plan": "s", "interval": "month", "hostname": "web-2",
        "ssh_keys": [crate::support::SSH_KEY], "accept_terms": true,
    });
    let (status, refused) = story.api.post("/orders", order).await;
    assert_eq!((status, &refused["code"]), (409, &"payment_disputed".into()));

    // Somebody gives the money back before the bank takes it.
    let refund = [("payment_intent", intent.as_str().unwrap())];
    assert_eq!(stripe_post(&story.demo, "refunds", &refund).await["status"], "succeeded");
    story.is("retired").await;
    story.alarm("fraud_warning", false).await;
    let path = format!("radar/early_fraud_warnings/{}", warning["id"].as_str().unwrap());
    assert_eq!(stripe(&story.demo, &path).await["actionable"], false);
    story.letter("on its way back").await;
    story.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_deleted_in_the_dashboard_is_served_what_is_paid_warned_and_can_come_again() {
    let Some(story) = Story::begin("a deleted customer").await else { return };
    story.demo.stripe().post(&format!("/customers/{}/delete", story.customer), json!({})).await;
    story.alarm("customer_deleted", true).await;
    assert_eq!(story.subscription().await["status"], "canceled");
    until("the books to have it", PATIENCE, || async {
        let all = story.demo.rows("SELECT status, '' FROM billing_subscriptions").await;
        (all[0].0 == "canceled").then_some(())
    })
    .await;
    everything_holds(&story.demo).await;
    story.is("running").await;

    // A day and a half before the end its owner has been told.
    story.clock.live(&story.demo, story.hours_left().await - 36).await;
    assert!(story.letter("is not renewed").await.contains("order a new one"));
    story.is("running").await;
    story.clock.pass(40);
    story.demo.nodes_online().await;
    story.is("retired").await;
    let causes =
        "SELECT action, entry FROM audit WHERE action IN ('billing.customer_deleted', 'billing.end')";
    assert_eq!(story.demo.rows(causes).await.len(), 2, "why it ended is written down");
    assert_eq!((story.taken().await, story.letters("did not work").await.len()), (900, 0));

    let order = place(&story.api, "web-2", "fsn").await;
    story.demo.stripe().pay(order["checkout_url"].as_str().unwrap()).await;
    let second = stripe(&story.demo, "subscriptions?limit=1").await["data"][0].clone();
    assert_ne!(second["customer"], story.customer.as_str());
    crate::purchase::order_is(&story.api, order["id"].as_str().unwrap(), "fulfilled").await;
    story.ends_well().await;
}
