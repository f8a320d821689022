//! A subscription that stands still, and goes on: in the dashboard and through the API.

use serde_json::{Value, json};

use super::{
    super::API_VERSION,
    bench::{Bench, START},
    checker::check,
};

const DAY: i64 = 86_400;
/// Of November, in which the stories begin.
const MONTH: i64 = 30 * DAY;

struct Paused {
    bench: Bench,
    path: String,
}

impl Paused {
    /// Bought, and paused after ten of thirty days: two thirds of 9.00 are left.
    async fn after_ten_days(how: &str) -> Self {
        let bench = Bench::start().await;
        let bought = bench.bought("4242").await;
        let path = format!("/v1/subscriptions/{}", bought["subscription"].as_str().unwrap());
        bench.advance(10 * DAY).await;
        let paused = bench.ok(&format!("{path}/pause"), how).await;
        assert_eq!(paused["status"], "paused");
        Self { bench, path }
    }

    async fn now(&self) -> Value {
        self.bench.read(&self.path).await
    }

    async fn resume(&self, how: &str) -> Value {
        self.bench.ok(&format!("{}/resume", self.path), how).await
    }

    async fn newest_invoice(&self) -> Value {
        self.bench.read("/v1/invoices").await["data"][0].clone()
    }

    async fn invoices(&self) -> usize {
        self.bench.read("/v1/invoices").await["data"].as_array().unwrap().len()
    }

    fn judged(&self) {
        check("stripe.jsonl", &self.bench, &["--need-key", "--version", API_VERSION]);
    }
}

#[tokio::test]
async fn a_paused_subscription_makes_no_invoice_and_goes_on_with_a_new_period_less_what_was_not_used() {
    let story = Paused::after_ten_days("").await;
    let paused = story.now().await;
    assert_eq!(
        paused["status_details"]["paused"],
        json!({ "subscription": { "type": "pause_requested" }, "transitioned_at": START + 10 * DAY, "type": "subscription" })
    );
    let waiting = story.bench.read("/v1/invoiceitems?pending=true").await;
    assert_eq!(
        (&waiting["data"][0]["amount"], &waiting["data"][0]["proration"]),
        (&(-600).into(), &true.into())
    );
    story.bench.advance(3 * MONTH).await;
    assert_eq!(story.invoices().await, 1, "nothing is billed while it stands still");
    assert_eq!(story.now().await["items"], paused["items"], "nor does it enter a period");

    let at = START + 10 * DAY + 3 * MONTH;
    let resumed = story.resume("payment_behavior=resume_on_payment_success").await;
    assert_eq!((&resumed["status"], &resumed["status_details"]), (&"active".into(), &Value::Null));
    assert_eq!(
        (&resumed["billing_cycle_anchor"], &resumed["items"]["data"][0]["current_period_start"]),
        (&at.into(), &at.into())
    );
    let invoice = story.newest_invoice().await;
    assert_eq!(
        (&invoice["status"], &invoice["total"], &invoice["id"]),
        (&"paid".into(), &300.into(), &resumed["latest_invoice"])
    );
    for kind in ["customer.subscription.paused", "customer.subscription.resumed"] {
        assert_eq!(story.bench.inbox.wait(kind, 1).await.len(), 1);
    }
    // And from then on as ever.
    story.bench.advance(32 * DAY).await;
    assert_eq!((story.invoices().await, story.newest_invoice().await["total"].as_i64()), (3, Some(900)));
    story.judged();
}

#[tokio::test]
async fn by_default_a_resumption_waits_for_a_try_to_pay_and_is_void_after_23_hours() {
    let story = Paused::after_ten_days("bill_for[unused_time_from][type]=none").await;
    let waits = story.resume("").await;
    assert_eq!(waits["status"], "paused", "nobody has tried to pay");
    let first = story.newest_invoice().await;
    assert_eq!(
        (&first["status"], &first["total"], &first["attempt_count"]),
        (&"open".into(), &900.into(), &0.into())
    );
    let (status, again) = story.bench.post(&format!("{}/resume", story.path), "").await;
    assert_eq!(status, 400, "{again}");
    story.bench.advance(23 * 3_600).await;
    assert_eq!(story.newest_invoice().await["status"], "void");
    assert_eq!(story.now().await["status"], "paused");

    story.resume("").await;
    let second = story.newest_invoice().await;
    assert_ne!(second["id"], first["id"]);
    story.bench.ok(&format!("/v1/invoices/{}/pay", second["id"].as_str().unwrap()), "").await;
    assert_eq!(story.now().await["status"], "active");
    story.judged();
}

#[tokio::test]
async fn a_try_that_fails_leaves_it_paused_or_past_due_as_was_asked() {
    let bench = Bench::start().await;
    let bought = bench.bought("0341").await;
    let path = format!("/v1/subscriptions/{}", bought["subscription"].as_str().unwrap());
    bench.ok(&format!("{path}/pause"), "bill_for[unused_time_from][type]=none").await;
    let resumed = bench.ok(&format!("{path}/resume"), "payment_behavior=resume_on_payment_success").await;
    assert_eq!(resumed["status"], "paused");
    let open = bench.read("/v1/invoices?status=open").await["data"][0].clone();
    assert!(open["next_payment_attempt"].is_i64(), "Stripe tries again");
    bench.advance(3 * DAY).await;
    assert_eq!(bench.read(&path).await["status"], "paused");
    bench.ok(&format!("/v1/invoices/{}/void", open["id"].as_str().unwrap()), "").await;

    bench.ok(&format!("{path}/resume"), "").await;
    let open = bench.read("/v1/invoices?status=open").await["data"][0].clone();
    let (status, _) = bench.post(&format!("/v1/invoices/{}/pay", open["id"].as_str().unwrap()), "").await;
    assert_eq!(status, 402);
    assert_eq!(bench.read(&path).await["status"], "past_due");
    let open = bench.read(&format!("/v1/invoices/{}", open["id"].as_str().unwrap())).await;
    assert_eq!((&open["attempt_count"], &open["next_payment_attempt"]), (&1.into(), &Value::Null));
    check("stripe.jsonl", &bench, &["--need-key", "--version", API_VERSION]);
}

#[tokio::test]
async fn the_old_rhythm_is_taken_up_again_and_only_what_is_left_of_its_period_is_charged() {
    // Back after five days: fifteen of thirty are left, and what was paid for the twenty went into credit.
    let story = Paused::after_ten_days("").await;
    story.bench.advance(5 * DAY).await;
    let resumed = story.resume("billing_cycle_anchor[type]=unchanged").await;
    assert_eq!((&resumed["status"], &resumed["billing_cycle_anchor"]), (&"active".into(), &START.into()));
    assert_eq!(story.invoices().await, 1, "it comes with the next invoice");
    story.bench.advance(15 * DAY + 3_700).await;
    assert_eq!(story.newest_invoice().await["total"], 900 - 600 + 450);

    // Over a renewal, billed at once: ten of the thirty-one days of the second month are left.
    let story = Paused::after_ten_days("invoicing_behavior=invoice").await;
    let given = story.newest_invoice().await;
    assert_eq!((&given["total"], &given["status"]), (&(-600).into(), &"paid".into()));
    story.bench.advance(41 * DAY).await;
    let how = "billing_cycle_anchor[type]=unchanged&proration_behavior=always_invoice&payment_behavior=resume_on_payment_success";
    let resumed = story.resume(how).await;
    let period = &resumed["items"]["data"][0];
    assert_eq!(
        (&period["current_period_start"], &period["current_period_end"]),
        (&(START + MONTH).into(), &(START + MONTH + 31 * DAY).into())
    );
    let rest = story.newest_invoice().await;
    assert_eq!((&rest["total"], &rest["amount_paid"]), (&290.into(), &0.into()), "credit pays it");
    story.judged();

    // What was paid and not given back is not charged again.
    let story = Paused::after_ten_days("bill_for[unused_time_from][type]=none").await;
    story.resume("billing_cycle_anchor[type]=unchanged&proration_behavior=always_invoice").await;
    assert_eq!((story.invoices().await, &story.now().await["status"]), (1, &"active".into()));
}

#[tokio::test]
async fn what_cannot_be_paused_or_resumed_is_refused_and_the_dashboard_can_do_both() {
    let bench = Bench::start().await;
    let bought = bench.bought("4242").await;
    let id = bought["subscription"].as_str().unwrap().to_owned();
    let path = format!("/v1/subscriptions/{id}");
    assert_eq!(bench.post(&format!("{path}/resume"), "").await.0, 400, "it is not paused");
    assert_eq!(bench.post(&format!("{path}/pause"), "type=collection").await.0, 400);
    bench.ok(&path, "pause_collection[behavior]=void").await;
    assert_eq!(bench.post(&format!("{path}/pause"), "").await.0, 400, "its collection is paused");
    bench.ok(&path, "pause_collection=").await;

    let how = json!({ "bill_for": { "unused_time_from": { "type": "none" } } });
    assert_eq!(bench.sim(&format!("subscriptions/{id}/pause"), Some(how)).await["status"], "paused");
    assert_eq!(bench.post(&format!("{path}/pause"), "").await.0, 400, "it is paused already");
    let resumed = bench.sim(&format!("subscriptions/{id}/resume"), Some(json!({}))).await;
    assert_eq!(resumed["status"], "active", "whoever presses the button is paid at once");
    assert_eq!(bench.sim("ledger", None).await["customers"][0]["paid"], 1_800);
}

#[tokio::test]
async fn one_that_was_to_end_ends_while_it_is_paused() {
    let bench = Bench::start().await;
    let bought = bench.bought("4242").await;
    let path = format!("/v1/subscriptions/{}", bought["subscription"].as_str().unwrap());
    bench.ok(&path, "cancel_at_period_end=true").await;
    bench.ok(&format!("{path}/pause"), "bill_for[unused_time_from][type]=none").await;
    bench.advance(MONTH + 60).await;
    assert_eq!(bench.read(&path).await["status"], "canceled");
    bench.inbox.wait("customer.subscription.deleted", 1).await;
}
