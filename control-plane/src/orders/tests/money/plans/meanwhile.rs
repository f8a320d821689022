//! Crashes, lost answers, and what else happens to a server whose plan is being changed.

use super::*;

#[tokio::test]
async fn whatever_happens_to_the_call_it_is_one_change_with_one_invoice() {
    // Answers lost after the effect, refused before it, and a Stripe that fails until the job comes by.
    let lost: [&[(u16, bool)]; 5] = [
        &[(500, true)],
        &[(500, true), (500, false), (500, false)],
        &[(503, false), (503, false), (503, false)],
        &[(429, false), (500, true)],
        &[(500, false), (500, false), (500, false), (500, false), (500, false), (500, false)],
    ];
    for (way, failures) in lost.into_iter().enumerate() {
        let (db, _directory) = db::testing::sqlite().await;
        let shop = Shop::with_plans(db, 6).await;
        let served = shop.renting(1).await;
        let change = shop.previews(&served, &price("m", "month")).await.unwrap();
        shop.stripe.state().failures = failures.to_vec();
        shop.confirms(&change).await.unwrap();
        shop.lives(MINUTE).await;
        shop.lives(20 * MINUTE).await;
        assert_eq!(shop.change(&change).await.state, ChangeState::Applied, "way {way}");
        let updates = {
            let state = shop.stripe.state();
            let made = |object: &&serde_json::Value| object["billing_reason"] == "subscription_update";
            state.objects.values().filter(made).count()
        };
        assert_eq!(updates, 1, "way {way}");
        shop.node_follows(&served, 10, false).await;
        assert_eq!(shop.change(&change).await.state, ChangeState::Done, "way {way}");
        shop.sold_is_held().await;
    }
}

#[tokio::test]
async fn a_key_of_ours_that_is_wrong_for_a_while_ends_no_change() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_plans(db, 6).await;
        let served = shop.renting_medium(1).await;
        let change = shop.previews(&served, &price("s", "month")).await.unwrap();
        shop.stripe.state().locked_out = true;
        assert_eq!(shop.confirms(&change).await.unwrap().state, ChangeState::Wanted);
        shop.lives(MINUTE).await;
        assert_eq!(shop.given_up().await, 0);
        shop.stripe.state().locked_out = false;
        shop.lives(MINUTE).await;
        assert_eq!(shop.change(&change).await.state, ChangeState::Scheduled);
    })
    .await;
}

#[tokio::test]
async fn a_schedule_that_was_left_half_done_is_finished() {
    for failures in [
        &[(500, true)][..],
        &[(500, true), (500, false), (500, false)],
        &[(503, false), (503, false), (503, false)],
    ] {
        for at in 0..4 {
            let (db, _directory) = db::testing::sqlite().await;
            let shop = Shop::with_plans(db, 6).await;
            let served = shop.renting_medium(1).await;
            let change = shop.previews(&served, &price("s", "month")).await.unwrap();
            // The calls before it work out.
            let mut answers = vec![(200, true); at];
            answers.extend_from_slice(failures);
            shop.stripe.state().failures = answers;
            shop.confirms(&change).await.unwrap();
            shop.lives(MINUTE).await;
            shop.lives(20 * MINUTE).await;
            let booked = shop.change(&change).await;
            assert_eq!(booked.state, ChangeState::Scheduled, "{failures:?} at {at}");
            let schedules = shop.stripe.state();
            let mut schedules =
                schedules.objects.values().filter(|object| object["object"] == "subscription_schedule");
            let schedule = schedules.next().unwrap();
            assert!(schedules.next().is_none(), "one schedule: {failures:?} at {at}");
            assert_eq!(Some(schedule["id"].as_str().unwrap()), booked.schedule.as_deref());
            assert!(schedule["x_next"].is_string(), "with its phases");
        }
    }
}

#[tokio::test]
async fn a_process_that_dies_after_the_wish_leaves_it_to_the_job() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_plans(db, 6).await;
        let served = shop.renting(1).await;
        let change = shop.previews(&served, &price("m", "month")).await.unwrap();
        let order = served.order.id;
        let at = shop.app.clock.now();
        let wished = change.clone();
        // Everything that the confirmation writes, and not a step further.
        shop.app
            .db
            .write(move |tx| {
                Box::pin(async move {
                    billing::hold_order(tx, order).await.unwrap();
                    fleet::hold(tx, wished.instance, size("m")).await.unwrap();
                    billing::confirm(tx, at, wished, "user:x").await
                })
            })
            .await
            .unwrap();
        assert_eq!(shop.change(&change).await.state, ChangeState::Wanted);
        shop.lives(MINUTE).await;
        assert_eq!(shop.change(&change).await.state, ChangeState::Applied);
        shop.node_follows(&served, 10, false).await;
        assert_eq!(shop.has(&served).await.1, size("m"));
    })
    .await;
}

#[tokio::test]
async fn what_stripe_refuses_changes_nothing_and_is_told() {
    let (db, _directory) = db::testing::sqlite().await;
    let shop = Shop::with_plans(db, 6).await;
    let served = shop.renting(1).await;
    let change = shop.previews(&served, &price("m", "month")).await.unwrap();
    shop.stripe.state().failures = vec![(400, false)];
    let refused = shop.confirms(&change).await.unwrap();
    assert_eq!(refused.state, ChangeState::Refused);
    shop.work().await;
    assert_eq!((shop.holds(&served).await, shop.letters_of("plan-change-off").await), (size("s"), 1));
    shop.sold_is_held().await;
}

#[tokio::test]
async fn cancelling_with_the_period_takes_a_booked_change_back_first() {
    let (db, _directory) = db::testing::sqlite().await;
    let shop = Shop::with_plans(db, 6).await;
    let served = shop.renting_medium(1).await;
    let change = shop.previews(&served, &price("s", "month")).await.unwrap();
    shop.confirms(&change).await.unwrap();
    let account = served.order.account;
    billing::cancel_at_period_end(&shop.app, account, served.order.id, true, "user:x").await.unwrap();
    assert_eq!(shop.change(&change).await.state, ChangeState::TakenBack);
    let standing = shop.standing(&served).await;
    assert_eq!(standing.next.unwrap().0, billing::Step::End);
    assert!(matches!(
        shop.previews(&served, &price("l", "month")).await,
        Err(ReplanError::Change(billing::ChangeError::Ending))
    ));
    shop.passes(MINUTE).await;
    billing::cancel_at_period_end(&shop.app, account, served.order.id, false, "user:x").await.unwrap();
    assert!(shop.previews(&served, &price("l", "month")).await.is_ok());
}

#[tokio::test]
async fn a_server_that_is_deleted_takes_its_open_change_with_it() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_plans(db, 6).await;
        let served = shop.renting(1).await;
        shop.stripe.card_fails(true);
        let change = shop.previews(&served, &price("m", "month")).await.unwrap();
        shop.confirms(&change).await.unwrap();
        let invoice = shop.stripe.latest_invoice(&served.subscription);
        instances::delete(&shop.app, served.order.instance, "user:x").await.unwrap();
        shop.work().await;
        assert_eq!(shop.change(&change).await.state, ChangeState::Dropped);
        assert_eq!(shop.stripe.state().objects[&invoice]["status"], "void", "nobody pays for it any more");
        for (seq, hours) in [(10, 0), (11, 80)] {
            shop.passes(Duration::from_secs(hours * 3_600)).await;
            instances::sweep(&shop.app).await.unwrap();
            shop.work().await;
            shop.node_follows(&served, seq, false).await;
        }
        shop.lives(2 * MINUTE).await;
        assert_eq!(shop.server(&served.order).await.state, InstanceState::Purged);
        shop.sold_is_held().await;
        let mut connection = shop.app.db.read().await.unwrap();
        assert!(billing::orders_to_follow(&mut connection).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_disputed_server_is_resized_while_it_is_off_and_takes_no_new_change() {
    let (db, _directory) = db::testing::sqlite().await;
    let shop = Shop::with_plans(db, 6).await;
    let served = shop.renting(1).await;
    let first = shop.stripe.latest_invoice(&served.subscription);
    shop.stripe.card_fails(true);
    let change = shop.previews(&served, &price("m", "month")).await.unwrap();
    shop.confirms(&change).await.unwrap();
    let dispute = shop.stripe.dispute(&first, shop.app.clock.now());
    shop.deliver("charge.dispute.created", &dispute).await;
    shop.work().await;
    shop.node_does(&served, 10, "stopped").await;
    let invoice = shop.stripe.latest_invoice(&served.subscription);
    shop.stripe.pay_invoice(&invoice);
    shop.deliver("invoice.paid", &invoice).await;
    shop.work().await;
    assert_eq!(shop.change(&change).await.state, ChangeState::Applied);
    let spec = shop.spec(&served).await;
    assert_eq!((spec.service, spec.memory_mib), (Service::Suspended, 8_192));
    shop.node_does(&served, 11, "stopped").await;
    assert_eq!(shop.change(&change).await.state, ChangeState::Done);
    let refused = shop.previews(&served, &price("l", "month")).await;
    assert!(matches!(refused, Err(ReplanError::Suspended)), "{refused:?}");
    assert_eq!(shop.stands(&served).await, (Stand::Suspend, Why::Disputed));
}

#[tokio::test]
async fn who_gets_the_difference_back_keeps_the_server() {
    let (db, _directory) = db::testing::sqlite().await;
    let shop = Shop::with_plans(db, 6).await;
    let served = shop.renting(1).await;
    let first = shop.stripe.latest_invoice(&served.subscription);
    let change = shop.previews(&served, &price("m", "month")).await.unwrap();
    shop.confirms(&change).await.unwrap();
    let second = shop.stripe.latest_invoice(&served.subscription);
    shop.deliver("invoice.paid", &second).await;
    shop.work().await;
    let (_, paid) = shop.billed(&served);
    let refund = shop.stripe.give_back(&second, paid);
    shop.deliver("refund.created", &refund).await;
    shop.work().await;
    assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid));
    let refund = shop.stripe.give_back(&first, 900);
    shop.deliver("refund.created", &refund).await;
    shop.work().await;
    assert_eq!(shop.stands(&served).await, (Stand::End, Why::Refunded));
}

impl Shop {
    /// A medium plan is taken at once, and what it cost is given back in Stripe's dashboard.
    async fn grows_for_nothing(&self, served: &Served) {
        let change = self.previews(served, &price("m", "month")).await.unwrap();
        self.confirms(&change).await.unwrap();
        let invoice = self.stripe.latest_invoice(&served.subscription);
        self.deliver("invoice.paid", &invoice).await;
        self.work().await;
        let (_, paid) = self.billed(served);
        assert!(paid > 0);
        self.goes_back(&invoice, paid).await;
    }

    async fn goes_back(&self, invoice: &str, amount: i64) {
        let refund = self.stripe.give_back(invoice, amount);
        self.deliver("refund.created", &refund).await;
        self.work().await;
    }
}

#[tokio::test]
async fn a_period_that_was_paid_otherwise_does_not_end_with_a_small_invoice_that_went_back() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_plans(db, 9).await;
        shop.stripe.set_clock(shop.app.clock.now());
        let (by_credit, by_code, in_trial) =
            (shop.renting(1).await, shop.renting(2).await, shop.renting(3).await);
        let fee = shop.stripe.latest_invoice(&in_trial.subscription);
        let free = shop.stripe.latest_invoice(&by_code.subscription);
        shop.passes(MINUTE).await;

        shop.stripe.change(&free, |invoice| {
            invoice["total"] = 0.into();
            invoice["amount_paid"] = 0.into();
        });
        shop.deliver("invoice.paid", &free).await;
        shop.work().await;
        shop.grows_for_nothing(&by_code).await;
        assert_eq!(shop.stands(&by_code).await, (Stand::Run, Why::Paid), "its first month is free");

        shop.stripe.change(&in_trial.subscription, |subscription| subscription["status"] = "trialing".into());
        shop.hears(&in_trial).await;
        shop.goes_back(&fee, 900).await;
        assert_eq!(shop.stands(&in_trial).await, (Stand::Run, Why::Paid), "its set-up fee was waived");

        shop.passes(2 * MINUTE).await;
        let renewal = shop.stripe.renew(&by_credit.subscription, shop.app.clock.now(), true);
        shop.stripe.change(&renewal, |invoice| invoice["amount_paid"] = 0.into());
        shop.deliver("invoice.paid", &renewal).await;
        shop.hears(&by_credit).await;
        shop.grows_for_nothing(&by_credit).await;
        assert_eq!(shop.stands(&by_credit).await, (Stand::Run, Why::Paid), "credit has paid for its month");
    })
    .await;
}

#[tokio::test]
async fn a_size_that_its_node_refuses_is_tried_again_and_rings() {
    let (db, _directory) = db::testing::sqlite().await;
    let shop = Shop::with_plans(db, 6).await;
    let served = shop.renting(1).await;
    let change = shop.previews(&served, &price("m", "month")).await.unwrap();
    shop.confirms(&change).await.unwrap();
    shop.work().await;
    let told = shop.told(&served.order).await.into_iter().max_by_key(|record| record.seq).unwrap();
    shop.node_says_of(&served.order, told.id, 10, EventKind::Failed, "resize", "user").await;
    shop.work().await;
    assert!(shop.alarms().await.iter().any(|alarm| alarm.0 == "resize_late"));
    assert_eq!((shop.has(&served).await.1, shop.holds(&served).await), (size("s"), size("m")));
    // Its node has room again.
    shop.lives(3 * MINUTE).await;
    shop.node_follows(&served, 20, false).await;
    assert_eq!(shop.has(&served).await.1, size("m"));
    assert!(!shop.alarms().await.iter().any(|alarm| alarm.0 == "resize_late"));
    assert_eq!(shop.change(&change).await.state, ChangeState::Done);
}
