//! With the end of what is paid: booked at Stripe, taken back until then, followed when the period turns.

use super::*;

impl Shop {
    /// A medium server, in the first second of a month that is paid.
    pub(super) async fn renting_medium(&self, n: u8) -> Served {
        let served = self.renting(n).await;
        let change = self.previews(&served, &price("m", "month")).await.unwrap();
        self.confirms(&change).await.unwrap();
        self.work().await;
        self.node_follows(&served, 10, false).await;
        assert_eq!(self.change(&change).await.state, ChangeState::Done);
        served
    }

    async fn books(&self, served: &Served, price: &str) -> Change {
        let change = self.previews(served, price).await.unwrap();
        assert_eq!(change.way, Way::PeriodEnd);
        assert_eq!(change.quote.as_ref().unwrap().due_minor, 0, "nothing is charged for it");
        let booked = self.confirms(&change).await.unwrap();
        assert_eq!(booked.state, ChangeState::Scheduled);
        booked
    }

    /// Stripe was told at a time that a customer leaves.
    async fn was_told_of_an_end(&self, served: &Served, at: UnixMillis) {
        let subscription = served.subscription.clone();
        let written = self.app.db.write(move |tx| {
            Box::pin(async move {
                sqlx::query(
                    "INSERT INTO stripe_outbox (key, purpose, subject_id, params_hash, request, state, created_at)
                     VALUES ('period-end:1', 'period-end', $1, '', '', 'done', $2)",
                )
                .bind(subscription)
                .bind(at.0)
                .execute(tx)
                .await?;
                Ok::<_, db::DbError>(())
            })
        });
        written.await.unwrap();
    }

    /// The period is over; Stripe renews, and tells of it.
    async fn turns(&self, served: &Served, paid: bool) -> String {
        let end = self.standing(served).await.next.unwrap().1;
        self.passes(end.since(self.app.clock.now()) + MINUTE).await;
        let invoice = self.stripe.renew(&served.subscription, self.app.clock.now(), paid);
        self.deliver("invoice.paid", &invoice).await;
        self.hears(served).await;
        invoice
    }
}

#[tokio::test]
async fn a_downgrade_comes_with_the_end_of_what_is_paid_and_gives_its_room_back_after_the_restart() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_plans(db, 6).await;
        let served = shop.renting_medium(1).await;
        let booked = shop.books(&served, &price("s", "month")).await;
        let before = shop.times_told(&served).await;
        assert!(booked.schedule.is_some() && booked.due_at.is_some());
        assert_eq!(shop.letters_of("plan-change-booked").await, 1);
        shop.lives(DAY).await;
        assert_eq!((shop.times_told(&served).await, shop.holds(&served).await), (before, size("m")));

        shop.turns(&served, true).await;
        assert_eq!(shop.billed(&served), (900, 900), "nothing is prorated");
        assert_eq!(shop.change(&booked).await.state, ChangeState::Applied);
        assert!(shop.change(&booked).await.released, "the schedule is in nobody's way");
        let spec = shop.spec(&served).await;
        assert_eq!((spec.vcpus, spec.memory_mib), (1, 4_096));
        shop.node_follows(&served, 20, true).await;
        assert_eq!(shop.has(&served).await, ("s".to_owned(), size("s")));
        assert_eq!(shop.node_was_told(&served).await, "reboot", "it runs with what it no longer pays for");
        assert_eq!(shop.holds(&served).await, size("m"), "and is not sold again while it does");
        shop.node_follows(&served, 21, false).await;
        assert_eq!(shop.holds(&served).await, size("s"));
        assert_eq!(shop.change(&booked).await.state, ChangeState::Done);
        shop.sold_is_held().await;
        shop.lives(10 * MINUTE).await;
        assert_eq!(shop.node_was_told(&served).await, "reboot", "once");
        assert_eq!(billing::reconcile(&shop.app).await.unwrap().left, 0);
    })
    .await;
}

#[tokio::test]
async fn a_smaller_plan_keeps_what_a_code_takes_off() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_plans(db, 6).await;
        let served = shop.renting_medium(1).await;
        let codes = || {
            let state = shop.stripe.state();
            let discounts = state.objects[&served.subscription]["discounts"].as_array().unwrap();
            discounts.iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        shop.stripe.change(&served.subscription, |subscription| {
            subscription["discounts"] = serde_json::json!([{"id": "di_half", "object": "discount"}]);
        });
        shop.passes(MINUTE).await;
        shop.books(&served, &price("s", "month")).await;
        assert_eq!(codes(), ["di_half"], "in the month that is paid");
        shop.turns(&served, true).await;
        assert_eq!(codes(), ["di_half"], "and in those that come");
    })
    .await;
}

#[tokio::test]
async fn a_smaller_plan_is_taxed_as_before_and_charged_to_the_same_card() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_plans(db, 6).await;
        let served = shop.renting_medium(1).await;
        let terms = serde_json::json!({
            "automatic_tax": {"enabled": true}, "default_tax_rates": [{"id": "txr_vat"}],
            "default_payment_method": "pm_own",
        });
        shop.stripe.change(&served.subscription, |subscription| {
            for (key, value) in terms.as_object().unwrap() {
                subscription[key] = value.clone();
            }
        });
        let as_before = || {
            let state = shop.stripe.state();
            let now = &state.objects[&served.subscription];
            terms.as_object().unwrap().iter().all(|(key, value)| now[key] == *value)
        };
        shop.passes(MINUTE).await;
        shop.books(&served, &price("s", "month")).await;
        assert!(as_before(), "in the month that is paid");
        shop.turns(&served, true).await;
        assert!(as_before(), "and in those that come");
    })
    .await;
}

#[tokio::test]
async fn who_names_another_card_is_charged_by_it_after_a_booked_change_too() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_plans(db, 6).await;
        let served = shop.renting_medium(1).await;
        let names = |card: &str| {
            shop.stripe.change(&served.subscription, |subscription| {
                subscription["default_payment_method"] = card.into();
            });
        };
        names("pm_expires");
        shop.passes(MINUTE).await;
        let booked = shop.books(&served, &price("s", "month")).await;
        names("pm_new");
        shop.deliver("customer.subscription.updated", &served.subscription).await;
        shop.work().await;
        assert_eq!(shop.change(&booked).await.state, ChangeState::Scheduled);
        shop.turns(&served, true).await;
        let card = shop.stripe.state().objects[&served.subscription]["default_payment_method"].clone();
        assert_eq!(card, "pm_new");
        assert_eq!(shop.change(&booked).await.state, ChangeState::Applied, "and it has come");
    })
    .await;
}

/// Somebody has changed them in Stripe's dashboard, which rings; another card is no reason to undo that.
#[tokio::test]
async fn the_phases_of_a_booked_change_keep_their_quantities_when_its_card_is_another_one() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_plans(db, 6).await;
        let served = shop.renting_medium(1).await;
        let booked = shop.books(&served, &price("s", "month")).await;
        let schedule = booked.schedule.clone().unwrap();
        let charged = || {
            let phases = shop.stripe.state().objects[&schedule]["phases"].clone();
            [0_usize, 1].map(|at| phases[at]["items"][0]["quantity"].as_i64().unwrap())
        };
        assert_eq!(charged(), [1, 1]);
        shop.stripe.change(&schedule, |schedule| {
            for (at, quantity) in [2, 3].into_iter().enumerate() {
                schedule["phases"][at]["items"][0]["quantity"] = quantity.into();
            }
        });
        shop.passes(MINUTE).await;
        shop.stripe.change(&served.subscription, |subscription| {
            subscription["default_payment_method"] = "pm_new".into();
        });
        shop.hears(&served).await;
        let card = shop.stripe.state().objects[&schedule]["phases"][1]["default_payment_method"].clone();
        assert_eq!((card.as_str(), charged()), (Some("pm_new"), [2, 3]));
    })
    .await;
}

#[tokio::test]
async fn a_booked_change_asks_stripe_for_nothing_while_its_card_stays() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_plans(db, 6).await;
        let served = shop.renting_medium(1).await;
        let booked = shop.books(&served, &price("s", "month")).await;
        let schedule = format!("/subscription_schedules/{}", booked.schedule.as_ref().unwrap());
        let subscription = format!("/subscriptions/{}", served.subscription);
        let asked = || (shop.stripe.count("GET", &schedule), shop.stripe.count("GET", &subscription));
        let before = asked();
        for _ in 0..3 {
            shop.passes(MINUTE).await;
            shop.hears(&served).await;
        }
        assert_eq!(asked(), (before.0, before.1 + 3), "the news itself is read, and no more");
        assert_eq!(shop.stripe.count("POST", &schedule), 1);
        // It looks once its card is another one, and tells that once.
        let names = |card: serde_json::Value| {
            shop.stripe.change(&served.subscription, |subscription| {
                subscription["default_payment_method"] = card;
            });
        };
        for card in [serde_json::json!("pm_new"), serde_json::Value::Null] {
            let told = shop.stripe.count("POST", &schedule);
            names(card);
            for _ in 0..3 {
                shop.passes(MINUTE).await;
                shop.hears(&served).await;
            }
            assert_eq!(shop.stripe.count("POST", &schedule), told + 1);
        }
        assert_eq!(shop.change(&booked).await.state, ChangeState::Scheduled);
    })
    .await;
}

#[tokio::test]
async fn a_booked_change_is_taken_back_until_it_comes() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_plans(db, 6).await;
        let served = shop.renting_medium(1).await;
        let booked = shop.books(&served, &price("s", "month")).await;
        assert!(matches!(
            shop.previews(&served, &price("s", "year")).await,
            Err(ReplanError::Change(billing::ChangeError::Busy))
        ));
        let back = replan::take_back(&shop.app, booked.account, booked.id, "user:x").await.unwrap();
        assert_eq!(back.state, ChangeState::TakenBack);
        let again = replan::take_back(&shop.app, booked.account, booked.id, "user:x").await.unwrap();
        assert_eq!(again.state, ChangeState::TakenBack, "twice is once");
        shop.turns(&served, true).await;
        assert_eq!(shop.billed(&served), (1_900, 1_900));
        assert_eq!(shop.has(&served).await, ("m".to_owned(), size("m")));
        // Too late: it has come.
        let booked = shop.books(&served, &price("s", "month")).await;
        shop.turns(&served, true).await;
        let late = replan::take_back(&shop.app, booked.account, booked.id, "user:x").await;
        assert!(matches!(late, Err(ReplanError::Billing(billing::BillingError::Over))), "{late:?}");
        assert_eq!(shop.change(&booked).await.state, ChangeState::Applied);
    })
    .await;
}

#[tokio::test]
async fn a_booked_change_whose_renewal_is_unpaid_holds_when_it_is_paid() {
    let (db, _directory) = db::testing::sqlite().await;
    let shop = Shop::with_plans(db, 6).await;
    let served = shop.renting_medium(1).await;
    let booked = shop.books(&served, &price("s", "month")).await;
    let before = shop.times_told(&served).await;
    let invoice = shop.turns(&served, false).await;
    assert_eq!(shop.change(&booked).await.state, ChangeState::Scheduled);
    assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Grace));
    assert_eq!(shop.times_told(&served).await, before);
    shop.stripe.pay_invoice(&invoice);
    shop.deliver("invoice.paid", &invoice).await;
    shop.work().await;
    assert_eq!(shop.change(&booked).await.state, ChangeState::Applied);
    shop.node_follows(&served, 30, false).await;
    assert_eq!(shop.holds(&served).await, size("s"));
    assert_eq!(shop.change(&booked).await.state, ChangeState::Done);
}

#[tokio::test]
async fn a_disk_does_not_shrink_and_what_comes_later_does_not_grow() {
    let (db, _directory) = db::testing::sqlite().await;
    let shop = Shop::with_plans(db, 6).await;
    let served = shop.renting(1).await;
    let refused = shop.previews(&served, &price("xs", "month")).await.unwrap_err();
    assert!(
        matches!(refused, ReplanError::Refused(replan::Refusal::DiskShrinks { has: 20, wanted: 10 })),
        "{refused}"
    );
    assert!(refused.to_string().contains("order a smaller server"), "what to do: {refused}");
    let yearly = shop.previews(&served, &price("s", "year")).await.unwrap();
    shop.confirms(&yearly).await.unwrap();
    shop.work().await;
    assert_eq!(shop.change(&yearly).await.state, ChangeState::Done);
    let grows = shop.previews(&served, &price("m", "month")).await;
    assert!(matches!(grows, Err(ReplanError::Refused(replan::Refusal::GrowsLater))), "{grows:?}");
    // A year that is paid is followed by months; its own server stays as it is.
    let monthly = shop.books(&served, &price("s", "month")).await;
    let before = shop.times_told(&served).await;
    shop.turns(&served, true).await;
    assert_eq!(shop.change(&monthly).await.state, ChangeState::Done);
    assert_eq!((shop.billed(&served), shop.times_told(&served).await), ((900, 900), before));
}

#[tokio::test]
async fn who_leaves_right_after_confirming_a_smaller_plan_has_left() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_plans(db, 6).await;
        let served = shop.renting_medium(1).await;
        let (order, me) = (served.order.id, served.order.account);
        let leaves = async || billing::cancel_at_period_end(&shop.app, me, order, true, "user:x").await;
        let change = shop.previews(&served, &price("s", "month")).await.unwrap();
        let (at, wished) = (shop.app.clock.now(), change.clone());
        // The confirmation is written, and Stripe knows nothing of it yet.
        let written = shop.app.db.write(move |tx| {
            Box::pin(async move {
                billing::hold_order(tx, order).await.unwrap();
                billing::confirm(tx, at, wished, "user:x").await
            })
        });
        written.await.unwrap();
        leaves().await.unwrap();
        shop.lives(20 * MINUTE).await;
        assert_eq!(shop.change(&change).await.state, ChangeState::TakenBack);
        let standing = shop.standing(&served).await;
        assert_eq!(standing.next.map(|(step, _)| step), Some(billing::Step::End));
        assert!(shop.stripe.state().objects[&served.subscription]["schedule"].is_null());

        // And both in the same moment.
        billing::cancel_at_period_end(&shop.app, me, order, false, "user:x").await.unwrap();
        shop.hears(&served).await;
        let other = shop.previews(&served, &price("s", "month")).await.unwrap();
        let (_, left) = tokio::join!(shop.confirms(&other), leaves());
        let left = if left.is_err() { leaves().await } else { left };
        left.unwrap();
        shop.lives(20 * MINUTE).await;
        let ends = shop.stripe.state().objects[&served.subscription]["cancel_at_period_end"] == true;
        assert!(ends, "{:?}", shop.change(&other).await);
    })
    .await;
}

/// Stripe was told of the end before it was told of the change, whose phases undo it.
#[tokio::test]
async fn an_end_that_reached_stripe_before_a_smaller_plan_holds() {
    for ours in [true, false] {
        db::testing::each_database(async |db| {
            let shop = Shop::with_plans(db, 6).await;
            let served = shop.renting_medium(1).await;
            let change = shop.previews(&served, &price("s", "month")).await.unwrap();
            let (at, wished, order) = (shop.app.clock.now(), change.clone(), served.order.id);
            if ours {
                shop.was_told_of_an_end(&served, at).await;
            }
            let written = shop.app.db.write(move |tx| {
                Box::pin(async move {
                    billing::hold_order(tx, order).await.unwrap();
                    billing::confirm(tx, at, wished, "user:x").await
                })
            });
            written.await.unwrap();
            shop.stripe.change(&served.subscription, |subscription| {
                subscription["cancel_at_period_end"] = true.into();
                subscription["cancel_at"] = subscription["items"]["data"][0]["current_period_end"].clone();
            });
            shop.lives(20 * MINUTE).await;
            let state = if ours { ChangeState::TakenBack } else { ChangeState::Refused };
            assert_eq!(shop.change(&change).await.state, state);
            let state = shop.stripe.state();
            let now = &state.objects[&served.subscription];
            assert!(now["cancel_at_period_end"] == true && now["schedule"].is_null(), "ours: {ours}: {now}");
        })
        .await;
    }
}

/// The phases of a smaller plan have undone an end that was wished in the same moment, and the process died before it looked
/// for that, or when it had taken the plan back for it.
#[tokio::test]
async fn an_end_that_a_smaller_plan_has_undone_is_brought_about_by_whoever_comes_next() {
    for is_back in [false, true] {
        db::testing::each_database(async |db| {
            let shop = Shop::with_plans(db, 6).await;
            let served = shop.renting_medium(1).await;
            let booked = shop.books(&served, &price("s", "month")).await;
            shop.was_told_of_an_end(&served, shop.app.clock.now()).await;
            if is_back {
                shop.passes(Duration::from_secs(1)).await;
                replan::take_back(&shop.app, booked.account, booked.id, "user:x").await.unwrap();
            }
            let ends = || shop.stripe.state().objects[&served.subscription]["cancel_at_period_end"] == true;
            assert!(!ends());
            shop.lives(MINUTE).await;
            assert!(ends() && shop.stripe.state().objects[&served.subscription]["schedule"].is_null());
            assert_eq!(shop.change(&booked).await.state, ChangeState::TakenBack);
            let standing = shop.standing(&served).await;
            assert_eq!(standing.next.map(|(step, _)| step), Some(billing::Step::End));
            // Once: who stays after all, stays.
            let (order, me) = (served.order.id, served.order.account);
            shop.passes(Duration::from_secs(1)).await;
            billing::cancel_at_period_end(&shop.app, me, order, false, "user:x").await.unwrap();
            shop.hears(&served).await;
            shop.lives(20 * MINUTE).await;
            assert!(!ends());
        })
        .await;
    }
}

#[tokio::test]
async fn a_schedule_made_in_the_dashboard_keeps_nobody_and_what_stripe_refuses_is_not_over() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_plans(db, 6).await;
        let served = shop.renting(1).await;
        let (order, me) = (served.order.id, served.order.account);
        let wish = async |at_end| billing::cancel_at_period_end(&shop.app, me, order, at_end, "user:x").await;
        let ends = || shop.stripe.state().objects[&served.subscription]["cancel_at_period_end"] == true;
        shop.stripe.schedule_by_hand(&served.subscription);
        wish(true).await.unwrap();
        assert!(
            ends() && shop.audited(&served.order).await.contains(&"billing.schedule_released".to_owned())
        );
        // Pressed in one millisecond, each counts.
        wish(false).await.unwrap();
        assert!(!ends());

        shop.clock.advance(Duration::from_secs(1));
        shop.stripe.state().failures = vec![(400, false)];
        let refused = wish(true).await.unwrap_err();
        assert!(matches!(refused, billing::BillingError::Stripe(_)), "it runs: {refused}");
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid));
    })
    .await;
}

#[tokio::test]
async fn who_cancels_in_the_moment_a_booked_change_comes_about_has_cancelled() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_plans(db, 6).await;
        let served = shop.renting_medium(1).await;
        let booked = shop.books(&served, &price("s", "month")).await;
        let end = shop.standing(&served).await.next.unwrap().1;
        shop.passes(end.since(shop.app.clock.now()) + MINUTE).await;
        shop.stripe.set_clock(shop.app.clock.now());
        shop.stripe.renew(&served.subscription, shop.app.clock.now(), true);
        // What a reading has seen is being written down, while the wish to leave has found it booked still.
        let (at, order, id) = (shop.app.clock.now(), served.order.id, booked.id.to_string());
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let (go, may_go) = tokio::sync::oneshot::channel();
        let reading = shop.app.db.write(move |tx| {
            Box::pin(async move {
                db::lock(tx, "checkout", order).await?;
                begun.send(()).unwrap();
                may_go.await.unwrap();
                sqlx::query(
                    "UPDATE billing_changes SET state = 'applied', applied_no = 2, applied_at = $2
                     WHERE id = $1 AND state = 'scheduled'",
                )
                .bind(id)
                .bind(at.0)
                .execute(tx)
                .await?;
                Ok::<_, db::DbError>(())
            })
        });
        let leaving = async {
            has_begun.await.unwrap();
            let account = served.order.account;
            let cancels = billing::cancel_at_period_end(&shop.app, account, order, true, "user:x");
            let asked = || shop.app.db.counters().asked.load(std::sync::atomic::Ordering::Relaxed);
            let before = asked();
            let lets_go = async {
                // Its first write is to take back what it has found booked, and waits for the one above.
                while asked() == before {
                    tokio::task::yield_now().await;
                }
                go.send(()).unwrap();
            };
            tokio::join!(cancels, lets_go).0
        };
        let (written, left) = tokio::join!(reading, leaving);
        written.unwrap();
        left.unwrap();
        assert_eq!(shop.stripe.state().objects[&served.subscription]["cancel_at_period_end"], true);
        assert_eq!(shop.change(&booked).await.state, ChangeState::Applied, "and what came about holds");
    })
    .await;
}
