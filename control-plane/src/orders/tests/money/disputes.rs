//! Money that goes back: by the bank, by us, in full or in part, early or late.

use super::*;

#[tokio::test]
async fn a_dispute_switches_off_at_once_and_a_won_one_brings_back() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let invoice = shop.stripe.latest_invoice(&served.subscription);
        let dispute = shop.stripe.dispute(&invoice, shop.app.clock.now());
        shop.deliver("charge.dispute.created", &dispute).await;
        shop.work().await;
        assert_eq!(shop.stands(&served).await, (Stand::Suspend, Why::Disputed));
        assert_eq!(shop.wished(&served).await, Service::Suspended);
        assert!(shop.alarms().await.iter().any(|(kind, _)| kind == "payment_disputed"));
        let again = PlaceRequest { hostname: "web-2".parse().unwrap(), ..shop.request(1) };
        assert!(matches!(place(&shop.app, again.clone()).await, Err(PlaceError::Disputed)));
        shop.node_does(&served, 3, "stopped").await;
        for (status, stand) in [("under_review", Stand::Suspend), ("won", Stand::Run)] {
            shop.stripe.change(&dispute, |dispute| dispute["status"] = serde_json::json!(status));
            shop.deliver("charge.dispute.updated", &dispute).await;
            shop.work().await;
            assert_eq!(shop.stands(&served).await.0, stand, "{status}");
        }
        assert_eq!(shop.wished(&served).await, Service::Active);
        place(&shop.app, again).await.unwrap();
        assert!(!shop.alarms().await.iter().any(|(kind, _)| kind == "payment_disputed"));
    })
    .await;
}

#[tokio::test]
async fn an_older_reading_of_a_dispute_asks_nobody_to_answer_what_is_decided() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let invoice = shop.stripe.latest_invoice(&served.subscription);
        let began = shop.app.clock.now();
        let dispute = shop.stripe.dispute(&invoice, began);
        shop.stripe.change(&dispute, |dispute| dispute["status"] = "won".into());
        shop.clock.advance(Duration::from_secs(5));
        shop.deliver("charge.dispute.closed", &dispute).await;
        shop.work().await;
        // The reading that began before it was decided is done last.
        shop.stripe.change(&dispute, |dispute| dispute["status"] = "needs_response".into());
        shop.clock.set(began);
        shop.deliver("charge.dispute.created", &dispute).await;
        shop.work().await;
        assert!(!shop.rings_for("payment_disputed").await);
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid));
    })
    .await;
}

#[tokio::test]
async fn a_lost_dispute_ends_server_and_subscription() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let invoice = shop.stripe.latest_invoice(&served.subscription);
        let dispute = shop.stripe.dispute(&invoice, shop.app.clock.now());
        shop.deliver("charge.dispute.created", &dispute).await;
        shop.work().await;
        shop.node_does(&served, 3, "stopped").await;
        shop.stripe.change(&dispute, |dispute| dispute["status"] = serde_json::json!("lost"));
        shop.deliver("charge.dispute.closed", &dispute).await;
        shop.work().await;
        shop.lives(Duration::from_secs(60)).await;
        assert_eq!(shop.node_was_told(&served).await, "retire");
        assert_eq!(shop.ledger(&served.order).running, 0);
    })
    .await;
}

#[tokio::test]
async fn a_refund_from_stripes_dashboard_is_seen_and_only_a_full_one_ends_the_server() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let invoice = shop.stripe.latest_invoice(&served.subscription);
        let half = shop.stripe.give_back(&invoice, 450);
        for _ in 0..2 {
            shop.deliver("refund.created", &half).await;
            shop.work().await;
        }
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid));
        assert_eq!(shop.letters_of("refund-sent").await, 1);
        let rest = shop.stripe.give_back(&invoice, 450);
        shop.deliver("refund.created", &rest).await;
        shop.work().await;
        shop.lives(Duration::from_secs(60)).await;
        assert_eq!(shop.stands(&served).await.0, Stand::End);
        assert_eq!(shop.node_was_told(&served).await, "retire");
        assert_eq!(shop.ledger(&served.order).running, 0, "nothing is charged any more");
        assert_eq!(shop.order(served.order.id).await.state, OrderState::Fulfilled, "it was");
    })
    .await;
}

impl Shop {
    /// A server whose first month ends in ten minutes, and the invoice that was paid for it.
    async fn at_the_end_of_its_month(&self) -> (Served, String) {
        self.stripe.set_clock(self.app.clock.now());
        let served = self.served(1).await;
        let paid = self.stripe.latest_invoice(&served.subscription);
        self.settles(30 * DAY - 10 * MINUTE).await;
        assert_eq!(self.stands(&served).await, (Stand::Run, Why::Paid));
        (served, paid)
    }
}

#[tokio::test]
async fn a_refund_of_the_month_before_ends_nothing_though_nobody_has_told_of_the_renewal() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let (served, paid) = shop.at_the_end_of_its_month().await;
        shop.stripe.renew(&served.subscription, shop.app.clock.now(), true);
        let refund = shop.stripe.give_back(&paid, 900);
        shop.deliver("refund.created", &refund).await;
        shop.work().await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid));
        shop.settles(MINUTE).await;
        assert_eq!(shop.node_was_told(&served).await, "ensure");
        assert_eq!(shop.ledger(&served.order), Ledger { paid: 1_800, returned: 900, running: 1 });
        assert_eq!(shop.letters_of("refund-sent").await, 1, "that it went back is told all the same");
    })
    .await;
}

#[tokio::test]
async fn a_refund_of_a_month_that_a_larger_plan_was_paid_for_ends_nothing_though_nobody_has_told_of_that() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_plans(db, 6).await;
        let served = shop.renting(1).await;
        let paid = shop.stripe.latest_invoice(&served.subscription);
        shop.passes(10 * DAY).await;
        shop.stripe.set_clock(shop.app.clock.now());
        shop.stripe.upgrade_by_hand(&served.subscription, &plans::price("m", "month"));
        let refund = shop.stripe.give_back(&paid, 900);
        shop.deliver("refund.created", &refund).await;
        shop.work().await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid), "the difference is paid");
        shop.settles(MINUTE).await;
        assert_eq!(shop.ledger(&served.order).running, 1);
        // With that gone as well nothing is left that pays for the month.
        let newest = shop.stripe.latest_invoice(&served.subscription);
        let (_, paid) = shop.billed(&served);
        let rest = shop.stripe.give_back(&newest, paid);
        shop.deliver("refund.created", &rest).await;
        shop.work().await;
        assert_eq!(shop.stands(&served).await, (Stand::End, Why::Refunded));
    })
    .await;
}

#[tokio::test]
async fn what_is_renewed_before_anything_was_done_about_a_refund_goes_on() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let (served, paid) = shop.at_the_end_of_its_month().await;
        let refund = shop.stripe.give_back(&paid, 900);
        shop.deliver("refund.created", &refund).await;
        // What is about money is done, and the process stops before the server follows.
        let mut money = jobs::JobRegistry::default();
        billing::register_jobs(&mut money);
        jobs::drain(&shop.app, &money).await.unwrap();
        assert_eq!(shop.stands(&served).await, (Stand::End, Why::Refunded));
        shop.stripe.renew(&served.subscription, shop.app.clock.now(), true);
        for _ in 0..2 {
            shop.settles(MINUTE).await;
        }
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid));
        assert_eq!(shop.node_was_told(&served).await, "ensure");
        assert_eq!(shop.ledger(&served.order), Ledger { paid: 1_800, returned: 900, running: 1 });
    })
    .await;
}

#[tokio::test]
async fn a_silent_stripe_holds_up_the_end_of_what_was_refunded_and_nothing_behind_it() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let late = shop.served(1).await;
        let returned = [shop.built(2, 101).await, shop.built(3, 201).await];
        let mut money = jobs::JobRegistry::default();
        billing::register_jobs(&mut money);
        shop.renewal_fails(&late).await;
        shop.passes(2 * DAY).await;
        for served in &returned {
            let refund = shop.stripe.give_back(&shop.stripe.latest_invoice(&served.subscription), 900);
            shop.deliver("refund.created", &refund).await;
        }
        // What is about money is done; what tells the servers of it is lost.
        jobs::drain(&shop.app, &money).await.unwrap();
        shop.passes(2 * DAY).await;
        jobs::drain(&shop.app, &money).await.unwrap();
        for served in &returned {
            assert_eq!(shop.stands(served).await, (Stand::End, Why::Refunded));
        }
        assert_eq!(shop.stands(&late).await, (Stand::Suspend, Why::Unpaid));
        let lost = [&late, &returned[0], &returned[1]].map(|served| served.order.id.to_string());
        let taken = shop.app.db.write::<_, db::DbError, _>(move |tx| {
            Box::pin(async move {
                for key in &lost {
                    jobs::cancel(tx, billing::STANDING_CHANGED, key).await?;
                }
                Ok(())
            })
        });
        taken.await.unwrap();
        {
            let mut stripe = shop.stripe.state();
            stripe.calls.clear();
            stripe.failures = vec![(409, false); 100];
        }
        instances::sweep(&shop.app).await.unwrap();
        assert_eq!(shop.stripe.state().calls.len(), 0, "the sweep asks nobody");
        assert_eq!(shop.wished(&late).await, Service::Suspended);
        assert!(shop.server(&returned[0].order).await.state.is_live());

        shop.stripe.state().failures.clear();
        for _ in 0..2 {
            shop.settles(MINUTE).await;
        }
        for served in &returned {
            assert_eq!(shop.node_was_told(served).await, "retire");
        }
    })
    .await;
}

#[tokio::test]
async fn a_refund_is_booked_although_what_pays_for_its_server_cannot_be_read() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        // An answer that this version does not understand.
        shop.stripe.change(&served.subscription, |subscription| subscription["status"] = 7.into());
        let refund = shop.stripe.give_back(&shop.stripe.latest_invoice(&served.subscription), 900);
        shop.deliver("refund.created", &refund).await;
        shop.work().await;
        assert_eq!(shop.letters_of("refund-sent").await, 1);
        assert_eq!(shop.stands(&served).await, (Stand::End, Why::Refunded));
        assert_eq!(shop.given_up().await, 0);
        // Whether its server is to end is a person's to look at: asking at once says the same, and no sweep does.
        assert!(shop.rings_for("standing_unread").await);
        shop.stripe.state().calls.clear();
        instances::sweep(&shop.app).await.unwrap();
        shop.work().await;
        assert_eq!(shop.stripe.state().calls.len(), 0);
        let mut connection = shop.app.db.read().await.unwrap();
        let dead = jobs::dead_letters(&mut connection).await.unwrap();
        assert!(dead.iter().all(|job| job.kind != billing::STANDING_CHANGED), "{dead:?}");
        drop(connection);
        assert!(shop.server(&served.order).await.state.is_live());
        shop.stripe.change(&served.subscription, |subscription| subscription["status"] = "active".into());
        shop.settles(61 * MINUTE).await;
        shop.settles(MINUTE).await;
        assert_eq!(shop.node_was_told(&served).await, "retire");
        assert!(!shop.rings_for("standing_unread").await);
    })
    .await;
}

#[tokio::test]
async fn money_that_went_back_before_it_was_counted_buys_nothing() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        for (n, disputed) in [(1, true), (2, false)] {
            let (order, session) = shop.pay_for(n).await;
            let invoice = shop.stripe.latest_invoice(&shop.stripe.subscription_of(&session));
            let (kind, object) = if disputed {
                ("charge.dispute.created", shop.stripe.dispute(&invoice, shop.app.clock.now()))
            } else {
                ("refund.created", shop.stripe.give_back(&invoice, 900))
            };
            shop.deliver(kind, &object).await;
            shop.work().await;
            shop.deliver("checkout.session.completed", &session).await;
            shop.work().await;
            assert!(shop.told(&order).await.is_empty(), "{kind}: nothing is built");
            let state = shop.order(order.id).await.state;
            if disputed {
                assert_eq!(state, OrderState::NeedsOperator);
            } else {
                assert_eq!(state, OrderState::Refunded);
                assert_eq!(shop.ledger(&order), Ledger { paid: 900, returned: 900, running: 0 });
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_customer_ends_with_the_period_takes_it_back_and_ends_again() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let (app, order, me) = (&shop.app, served.order.id, customer(1));
        let wish = async |at_end| {
            billing::cancel_at_period_end(app, me.account_id, order, at_end, "customer").await.unwrap();
            shop.clock.advance(Duration::from_secs(1));
            shop.standing(&served).await.next.map(|(step, _)| step)
        };
        assert_eq!(wish(true).await, Some(billing::Step::End));
        assert_eq!(wish(false).await, Some(billing::Step::Charge));
        assert_eq!(wish(true).await, Some(billing::Step::End));
        assert_eq!(shop.letters_of("server-ends").await, 1, "the same end is told once");
        let stranger = customer(2).account_id;
        let refused = billing::cancel_at_period_end(app, stranger, order, true, "customer").await;
        assert!(matches!(refused, Err(billing::BillingError::Unknown(_))));

        shop.stripe.change(&served.subscription, |s| s["status"] = serde_json::json!("canceled"));
        shop.deliver("customer.subscription.deleted", &served.subscription).await;
        shop.work().await;
        shop.lives(Duration::from_secs(60)).await;
        assert_eq!(shop.node_was_told(&served).await, "retire");
        let over = billing::cancel_at_period_end(app, me.account_id, order, false, "customer").await;
        assert!(matches!(over, Err(billing::BillingError::Over)));
    })
    .await;
}

#[tokio::test]
async fn a_part_back_and_credit_are_given_once_for_each_reference() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let gift = |amount_minor| billing::Gift {
            instance: served.order.instance,
            invoice: None,
            amount_minor,
            reference: "ticket-7".into(),
            reason: "It was down for a day".into(),
        };
        for _ in 0..2 {
            billing::refund_part(&shop.app, &gift(300), "operator:test").await.unwrap();
            billing::credit(&shop.app, &gift(200), "operator:test").await.unwrap();
        }
        shop.work().await;
        assert_eq!(shop.ledger(&served.order), Ledger { paid: 900, returned: 300, running: 1 });
        assert_eq!(shop.letters_of("refund-sent").await, 1);
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid));
        let mut connection = shop.app.db.read().await.unwrap();
        let overview = billing::overview(&mut connection, served.order.account).await.unwrap();
        assert_eq!(overview.credit, Some((200, "eur".to_owned())));
        let other = |reference: &str, amount| billing::Gift { reference: reference.into(), ..gift(amount) };
        let unfit = [
            gift(0),
            other("no spaces", 1),
            billing::Gift { reason: "  ".into(), ..other("b", 1) },
            // The same reference for something else, and more than was paid less what went back and was credited.
            gift(199),
            other("c", 401),
        ];
        for unfit in unfit {
            let refused = billing::credit(&shop.app, &unfit, "operator:test").await;
            assert!(matches!(refused, Err(billing::BillingError::Unfit(_))), "{unfit:?}");
        }
        let refused = billing::refund_part(&shop.app, &other("d", 601), "operator:test").await;
        assert!(matches!(refused, Err(billing::BillingError::Unfit(_))));
        let money = billing::server_money(&mut connection, served.order.instance).await.unwrap().unwrap();
        assert_eq!((money.invoices[0].left_minor, money.creditable_minor, money.given.len()), (600, 400, 2));
        let given = billing::given_to(&mut connection, served.order.account).await.unwrap();
        let seen: Vec<_> = given.iter().map(|one| (one.kind, one.amount_minor, one.state)).collect();
        assert!(seen.contains(&(billing::GiftKind::Refund, 300, billing::GiftState::Done)), "{seen:?}");
        assert!(seen.contains(&(billing::GiftKind::Credit, 200, billing::GiftState::Done)), "{seen:?}");
    })
    .await;
}

#[tokio::test]
async fn a_gift_whose_process_died_is_taken_up_and_given_once() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let gift = billing::Gift {
            instance: served.order.instance,
            invoice: None,
            amount_minor: 300,
            reference: "form-1".into(),
            reason: "It was down for a day".into(),
        };
        // Stripe does it, and neither its answer nor what it lists comes through.
        shop.stripe.state().failures = [(500, true)].into_iter().chain([(500, false); 5]).collect();
        let lost = billing::credit(&shop.app, &gift, "operator:test").await;
        assert!(lost.is_err());
        shop.lives(Duration::from_secs(10 * 60)).await;
        let mut connection = shop.app.db.read().await.unwrap();
        let overview = billing::overview(&mut connection, served.order.account).await.unwrap();
        assert_eq!(overview.credit, Some((300, "eur".to_owned())), "once");
        drop(connection);
        billing::credit(&shop.app, &gift, "operator:test").await.unwrap();
        let mut connection = shop.app.db.read().await.unwrap();
        let overview = billing::overview(&mut connection, served.order.account).await.unwrap();
        assert_eq!(overview.credit, Some((300, "eur".to_owned())), "pressed again");
    })
    .await;
}

#[tokio::test]
async fn one_ticket_about_two_servers_of_a_customer_gives_credit_for_both() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 4).await;
        let (first, second) = (shop.served(1).await, shop.second_of(1).await);
        assert_eq!(first.order.account, second.order.account);
        for (served, amount_minor) in [(&first, 200), (&second, 300)] {
            let gift = billing::Gift {
                instance: served.order.instance,
                invoice: None,
                amount_minor,
                reference: "ticket-7".into(),
                reason: "Both were down for a day".into(),
            };
            for _ in 0..2 {
                billing::credit(&shop.app, &gift, "operator:test").await.unwrap();
            }
        }
        let mut connection = shop.app.db.read().await.unwrap();
        let overview = billing::overview(&mut connection, first.order.account).await.unwrap();
        assert_eq!(overview.credit, Some((500, "eur".to_owned())));
    })
    .await;
}

#[tokio::test]
async fn credit_and_refunds_together_never_give_more_than_was_paid() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let gift = |reference: &str, amount_minor| billing::Gift {
            instance: served.order.instance,
            invoice: None,
            amount_minor,
            reference: reference.into(),
            reason: "It was down for a day".into(),
        };
        billing::credit(&shop.app, &gift("a", 700), "operator:test").await.unwrap();
        let refused = billing::refund_part(&shop.app, &gift("b", 201), "operator:test").await;
        assert!(matches!(refused, Err(billing::BillingError::Unfit(_))), "{refused:?}");
        billing::refund_part(&shop.app, &gift("c", 200), "operator:test").await.unwrap();
        let refused = billing::refund_part(&shop.app, &gift("d", 1), "operator:test").await;
        assert!(matches!(refused, Err(billing::BillingError::Unfit(_))), "{refused:?}");
        let mut connection = shop.app.db.read().await.unwrap();
        let money = billing::server_money(&mut connection, served.order.instance).await.unwrap().unwrap();
        let told = money.given.iter().find(|one| one.kind == billing::GiftKind::Refund).unwrap();
        assert_eq!(told.reason, "It was down for a day", "whoever looks later knows why");
    })
    .await;
}

#[tokio::test]
async fn a_refund_that_fails_weeks_later_is_told_to_everybody() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let gift = billing::Gift {
            instance: served.order.instance,
            invoice: None,
            amount_minor: 300,
            reference: "ticket-7".into(),
            reason: "It was down for a day".into(),
        };
        billing::refund_part(&shop.app, &gift, "operator:test").await.unwrap();
        shop.work().await;
        let by_hand = shop.stripe.give_back(&shop.stripe.latest_invoice(&served.subscription), 100);
        shop.deliver("refund.created", &by_hand).await;
        shop.work().await;
        let ours = {
            let state = shop.stripe.state();
            let made = |o: &&serde_json::Value| o["metadata"]["goodwill"] == "ticket-7";
            state.objects.values().find(made).unwrap()["id"].as_str().unwrap().to_owned()
        };
        for refund in [&ours, &by_hand] {
            shop.clock.advance(Duration::from_secs(1));
            shop.stripe.change(refund, |refund| {
                refund["status"] = serde_json::json!("failed");
                refund["failure_reason"] = serde_json::json!("expired_or_canceled_card");
            });
            for _ in 0..2 {
                shop.deliver("refund.failed", refund).await;
                shop.work().await;
            }
        }
        let rung = shop.alarms().await.into_iter().filter(|(kind, _)| kind == "refund_failed").count();
        assert_eq!((rung, shop.letters_of("refund-failed").await), (2, 2), "each once");
        assert_eq!(shop.letter("refund-failed").await["amount"], crate::web::written_money(100, "eur"));
        let mut connection = shop.app.db.read().await.unwrap();
        let money = billing::server_money(&mut connection, served.order.instance).await.unwrap().unwrap();
        assert!(money.given.iter().all(|one| one.state == billing::GiftState::Refused), "{:?}", money.given);
        assert_eq!(money.given.len(), 2, "each is told once");
        assert_eq!(money.invoices[0].left_minor, 900, "all of it can be given again");
        let told = billing::given_to(&mut connection, served.order.account).await.unwrap();
        assert!(told.iter().all(|one| one.state == billing::GiftState::Refused), "{told:?}");
        assert!(shop.audited(&served.order).await.contains(&"payment.refund_failed".to_owned()));
    })
    .await;
}

#[tokio::test]
async fn the_alarm_of_a_dispute_says_what_became_of_the_server() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let id = served.order.instance;
        billing::exempt(&shop.app, id, "our own server", "operator:test").await.unwrap();
        for (exempt, says) in [(true, "runs on: it is exempt"), (false, "Its server is suspended.")] {
            if !exempt {
                billing::unexempt(&shop.app, id, "operator:test").await.unwrap();
                shop.stripe.renew(&served.subscription, shop.app.clock.now(), true);
                shop.deliver("customer.subscription.updated", &served.subscription).await;
                shop.work().await;
            }
            let invoice = shop.stripe.latest_invoice(&served.subscription);
            let dispute = shop.stripe.dispute(&invoice, shop.app.clock.now());
            shop.deliver("charge.dispute.created", &dispute).await;
            shop.work().await;
            let alarms = shop.alarms().await;
            let told =
                |(kind, detail): &(String, String)| kind == "payment_disputed" && detail.contains(says);
            assert!(alarms.iter().any(told), "{alarms:?}");
        }
    })
    .await;
}
