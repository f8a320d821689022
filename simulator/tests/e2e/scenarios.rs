//! Each named fault of the outside world (`simulator/scenarios`) meets one purchase. While it lasts nothing is
//! lost or doubled; when it has ended, the purchase ends in one running server, its letters have come, what
//! belongs to others is untouched, and the invariants hold.

use std::{path::Path, time::Duration};

use ez_simulator::scenario::{self, At, Scenario, Targets};
use serde_json::{Value, json};

use crate::{
    purchase::{PATIENCE, order_is, place, server_is},
    support::{Database, Demo, until},
};

/// VMID of somebody else's VM on the first host.
pub const OTHERS: &str = "9999";

/// The hash of everything about somebody else's VM.
pub async fn foreign(demo: &Demo) -> Value {
    let hash = demo.host(0).get("/digest").await["foreign"][OTHERS].clone();
    assert!(hash.is_string(), "there is a VM of somebody else");
    hash
}

async fn lives_through(name: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("scenarios/{name}.toml"));
    let scenario = Scenario::read(&file).unwrap_or_else(|error| panic!("{error}"));
    let Some(demo) = Demo::start(name, Database::Sqlite, 2).await else { return };
    let vm = json!({ "vmid": OTHERS.parse::<u32>().unwrap(), "name": "theirs", "running": true });
    demo.host(0).control("/foreign-vm", vm).await;
    let others = foreign(&demo).await;
    let ready: Value =
        serde_json::from_str(&std::fs::read_to_string(demo.path("sim/ready.json")).unwrap()).unwrap();
    let targets = Targets::of(&demo.state(), &ready);
    scenario::apply(&scenario, &targets).await.unwrap();

    let api = demo.api("customer");
    // The order itself is placed at Stripe: a customer who meets a fault there tries again.
    let order = until("an order to be placed", PATIENCE, || async {
        let body = place_once(&demo).await;
        (body["id"].is_string() && body["checkout_url"].is_string()).then_some(body)
    })
    .await;
    demo.stripe().pay(order["checkout_url"].as_str().unwrap()).await;
    scenario::apply_at(&scenario, &targets, At::OrderPaid).await.unwrap();
    // What was hurt is seen from outside, without a customer's look that would ask Stripe.
    until("the fault to strike", PATIENCE, || async {
        (scenario::hits(&targets).await.unwrap() > 0).then_some(())
    })
    .await;
    let server = order["server_id"].as_str().unwrap().to_owned();
    if name == "stripe-loses" {
        // The reconciler would find it within five minutes; the customer, who comes back, finds it now.
        order_is(&api, order["id"].as_str().unwrap(), "fulfilled").await;
    }
    let lasting = matches!(name, "storage-full");
    if lasting {
        scenario::clear(&targets).await.unwrap();
    }
    server_is(&api, &server, "running").await;
    scenario::clear(&targets).await.unwrap();
    until("the letter that the server is ready", PATIENCE, || async {
        let letters = demo.letters("customer@example.com").await;
        letters.iter().any(|letter| letter["subject"] == "web-1 is ready").then_some(())
    })
    .await;
    assert_eq!(foreign(&demo).await, others, "VMs of others were touched");
    demo.check().await;
    demo.stop().await;
}

/// Places the order unless an earlier try, whose answer was lost, has.
async fn place_once(demo: &Demo) -> Value {
    let api = demo.api("customer");
    let (_, known) = api.try_get("/orders").await;
    match known["data"].as_array().and_then(|orders| orders.first()) {
        Some(order) => {
            let id = order["id"].as_str().unwrap().to_owned();
            api.try_get(&format!("/orders/{id}")).await.1
        }
        None => match tokio::time::timeout(Duration::from_secs(60), place(&api, "web-1", "fsn")).await {
            Ok(order) => order,
            Err(_) => Value::Null,
        },
    }
}

macro_rules! stories {
    ($($story:ident: $scenario:literal,)+) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $story() {
                lives_through($scenario).await;
            }
        )+

        /// A new scenario is lived through from its first day on.
        #[test]
        fn every_scenario_has_its_story() {
            let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
            let mut there: Vec<String> =
                Scenario::read_all(&directory).unwrap().into_iter().map(|scenario| scenario.name).collect();
            let mut told = vec![$($scenario.to_owned()),+];
            told.extend(crate::link_faults::SCENARIOS.map(str::to_owned));
            there.sort_unstable();
            told.sort_unstable();
            assert_eq!(there, told);
        }
    };
}

stories! {
    a_clone_task_that_fails_is_undone_and_tried_again: "clone-task-fails",
    a_clone_whose_worker_is_killed_is_cleaned_up_and_made_anew: "clone-worker-killed",
    a_clone_that_died_before_its_first_line_is_cleaned_up_and_made_anew: "clone-worker-killed-early",
    a_letter_whose_receipt_is_lost_comes_all_the_same: "mail-answer-dropped",
    no_server_waits_for_a_mail_server: "mail-down",
    a_clone_whose_answer_is_lost_is_found_not_repeated: "pve-clone-answer-dropped",
    a_restart_of_the_daemon_in_mid_clone_is_waited_for: "pve-daemon-restarts",
    a_cluster_that_loses_its_quorum_for_a_moment_is_waited_for: "pve-no-quorum",
    a_clone_that_was_made_and_refused_is_found_not_repeated: "pve-refuses-clone-after",
    a_clone_that_was_refused_is_called_again: "pve-refuses-clone-before",
    a_slow_host_costs_time_alone: "pve-slow",
    a_start_that_fails_is_undone_and_tried_again: "start-fails",
    a_clone_that_waited_in_vain_for_its_storage_is_made_again: "storage-busy",
    a_full_storage_is_waited_for: "storage-full",
    a_busy_stripe_is_asked_again_with_the_same_key: "stripe-429",
    an_error_after_the_write_makes_no_second_session: "stripe-500-after-write",
    an_answer_lost_by_stripe_makes_no_second_session: "stripe-answer-dropped",
    a_bad_signature_is_refused_and_the_event_found_elsewhere: "stripe-bad-signature",
    a_late_webhook_settles_late: "stripe-delays",
    webhooks_that_come_many_times_count_once: "stripe-duplicates",
    webhooks_that_never_come_are_found: "stripe-loses",
    webhooks_in_the_wrong_order_end_in_the_same_state: "stripe-reorders",
    a_stale_signature_is_refused_and_the_event_found_elsewhere: "stripe-stale-signature",
    a_vmid_that_a_foreign_vm_took_is_left_to_it: "vmid-taken",
}
