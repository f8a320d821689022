//! What cannot be read at Stripe: no step is taken without it, and nothing else waits for it.

use super::*;

impl Shop {
    /// What Stripe says of an invoice is not understood, or is again.
    fn garbles(&self, invoice: &str, status: impl Into<serde_json::Value>) {
        self.stripe.change(invoice, |invoice| invoice["status"] = status.into());
    }
}

#[tokio::test]
async fn the_clock_of_an_unpaid_server_waits_for_a_reading_of_its_day() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let invoice = shop.renewal_fails(&served).await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Grace));
        // Its day comes while Stripe takes no key of ours, and it is paid meanwhile.
        shop.stripe.state().locked_out = true;
        shop.lives(4 * DAY).await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Grace));
        shop.stripe.pay_invoice(&invoice);
        // Whatever else has it judged, the copy is as old as before.
        let id = served.order.instance;
        billing::exempt(&shop.app, id, "our own server", "operator:test").await.unwrap();
        billing::unexempt(&shop.app, id, "operator:test").await.unwrap();
        shop.work().await;
        let standing = shop.standing(&served).await;
        assert_eq!((standing.stand, standing.why), (Stand::Run, Why::Grace));
        assert!(
            standing
                .next
                .is_some_and(|(step, at)| step == billing::Step::Suspend && at < shop.app.clock.now())
        );
        shop.stripe.state().locked_out = false;
        shop.settles(MINUTE).await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid));
        assert_eq!((shop.letters_of("server-suspended").await, shop.given_up().await), (0, 0));
        assert_eq!(shop.wished(&served).await, Service::Active);
    })
    .await;
}

#[tokio::test]
async fn an_unpaid_invoice_that_cannot_be_read_rings_and_holds_up_its_own_clock_alone() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 4).await;
        let (served, left) = (shop.served(1).await, shop.built(2, 201).await);
        let invoice = shop.renewal_fails(&served).await;
        let theirs = shop.renewal_fails(&left).await;
        for invoice in [&invoice, &theirs] {
            shop.garbles(invoice, 7);
        }
        shop.lives(4 * DAY).await;
        for served in [&served, &left] {
            assert_eq!(shop.stands(served).await, (Stand::Run, Why::Grace));
        }
        let rung = shop.alarms().await.into_iter().filter(|(kind, _)| kind == "unpaid_unread").count();
        assert_eq!((rung, shop.given_up().await), (2, 0), "nothing is left to nobody");
        // No sweep asks again and again.
        shop.stripe.state().calls.clear();
        shop.settles(2 * MINUTE).await;
        assert_eq!(shop.stripe.count("GET", &format!("/invoices/{invoice}")), 0);

        // One is ended by the host, of which no news comes; the other one can be read again.
        shop.stripe.change(&left.subscription, |subscription| {
            subscription["status"] = "canceled".into();
            subscription["cancellation_details"] = serde_json::json!({"reason": "cancellation_requested"});
        });
        shop.garbles(&invoice, "open");
        shop.settles(61 * MINUTE).await;
        assert_eq!(shop.stands(&left).await, (Stand::End, Why::Ended));
        assert_eq!(shop.stands(&served).await, (Stand::Suspend, Why::Unpaid));
        assert!(!shop.rings_for("unpaid_unread").await);
    })
    .await;
}

/// Somebody has edited it in Stripe's dashboard. What we have sold stays ours.
#[tokio::test]
async fn whatever_the_metadata_of_a_subscription_says_its_clock_goes_on_and_its_payment_counts() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 6).await;
        let sold = [shop.served(1).await, shop.built(2, 101).await, shop.built(3, 201).await];
        let (mine, theirs) = (sold[1].order.id.to_string(), sold[0].order.id.to_string());
        let edited = [
            serde_json::json!({}),
            serde_json::json!({"order_id": mine, "install_id": "another"}),
            serde_json::json!({"order_id": theirs}),
        ];
        let mut invoices = Vec::new();
        for (served, metadata) in sold.iter().zip(edited) {
            invoices.push(shop.renewal_fails(served).await);
            shop.stripe.change(&served.subscription, |subscription| subscription["metadata"] = metadata);
        }
        shop.lives(4 * DAY).await;
        for (n, served) in sold.iter().enumerate() {
            assert_eq!(shop.stands(served).await, (Stand::Suspend, Why::Unpaid), "{n}");
        }
        assert!(!shop.rings_for("unpaid_unread").await);
        for (n, (served, invoice)) in sold.iter().zip(&invoices).enumerate() {
            shop.stripe.pay_invoice(invoice);
            shop.deliver("invoice.paid", invoice).await;
            shop.work().await;
            assert_eq!(shop.stands(served).await, (Stand::Run, Why::Paid), "{n}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_step_that_no_reading_lets_be_taken_rings_until_one_does() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let invoice = shop.renewal_fails(&served).await;
        // Stripe answers, and does not have it: nothing fails.
        let unpaid = shop.stripe.state().objects.remove(&invoice).unwrap();
        shop.lives(4 * DAY).await;
        for _ in 0..2 {
            assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Grace));
            let alarms = shop.alarms().await;
            let (_, detail) = alarms.iter().find(|(kind, _)| kind == "unpaid_unread").unwrap();
            assert!(detail.contains("cannot be taken") && detail.contains("runs on"), "{detail}");
            assert!(detail.contains(&invoice) && detail.contains(&served.subscription), "{detail}");
            shop.settles(61 * MINUTE).await;
        }
        shop.stripe.state().objects.insert(invoice, unpaid);
        shop.settles(61 * MINUTE).await;
        assert_eq!(shop.stands(&served).await, (Stand::Suspend, Why::Unpaid));
        assert!(!shop.rings_for("unpaid_unread").await);
    })
    .await;
}

#[tokio::test]
async fn a_key_that_stripe_does_not_take_is_one_alarm_for_all_whose_step_waits() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 4).await;
        let (served, left) = (shop.served(1).await, shop.built(2, 201).await);
        let sold = [&served, &left];
        for served in sold {
            shop.renewal_fails(served).await;
        }
        shop.stripe.state().locked_out = true;
        shop.stripe.state().calls.clear();
        shop.lives(4 * DAY).await;
        let alarms = shop.alarms().await;
        let told: Vec<_> = alarms.iter().filter(|(kind, _)| kind == "unpaid_unread").collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].1.contains("STRIPE_SECRET_KEY") && told[0].1.contains("none is taken"), "{told:?}");
        for served in sold {
            assert_eq!(shop.stands(served).await, (Stand::Run, Why::Grace));
            // A key that may not read invoices alone may read this one.
            assert_ne!(shop.stripe.count("GET", &format!("/subscriptions/{}", served.subscription)), 0);
        }
        shop.stripe.state().locked_out = false;
        shop.settles(MINUTE).await;
        for served in sold {
            assert_eq!(shop.stands(served).await, (Stand::Suspend, Why::Unpaid));
        }
        assert!(!shop.rings_for("unpaid_unread").await);
    })
    .await;
}

/// It ends also where no look at something unpaid ends it.
#[tokio::test]
async fn the_alarm_about_our_key_ends_when_nothing_waits_for_it() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        shop.renewal_fails(&served).await;
        shop.stripe.state().locked_out = true;
        shop.lives(4 * DAY).await;
        assert!(shop.rings_for("unpaid_unread").await);
        billing::exempt(&shop.app, served.order.instance, "our own server", "operator:test").await.unwrap();
        shop.lives(3 * MINUTE).await;
        assert!(!shop.rings_for("unpaid_unread").await);
    })
    .await;
}

#[tokio::test]
async fn the_alarm_says_that_a_step_waits_only_where_one_does() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let invoice = shop.renewal_fails(&served).await;
        shop.garbles(&invoice, 7);
        let said = async || {
            let alarms = shop.alarms().await;
            alarms.into_iter().find(|(kind, _)| kind == "unpaid_unread").map(|(_, detail)| detail)
        };
        shop.lives(4 * DAY).await;
        let detail = said().await.unwrap();
        assert!(detail.contains("runs on") && detail.contains("is not taken before it can"), "{detail}");
        // The clock of an exempt one takes no step.
        let id = served.order.instance;
        billing::exempt(&shop.app, id, "our own server", "operator:test").await.unwrap();
        shop.settles(61 * MINUTE).await;
        let detail = said().await.unwrap();
        assert!(detail.contains("runs on") && !detail.contains("is not taken before it can"), "{detail}");
    })
    .await;
}

#[tokio::test]
async fn an_invoice_is_taken_over_although_the_newest_of_its_subscription_cannot_be_read() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let now = shop.app.clock.now();
        let late = shop.stripe.renew_by_transfer(&served.subscription, now, now.plus(DAY));
        shop.stripe.change(&served.subscription, |subscription| subscription["status"] = "active".into());
        shop.deliver("invoice.finalized", &late).await;
        shop.deliver("customer.subscription.updated", &served.subscription).await;
        shop.work().await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid));
        shop.passes(2 * DAY).await;
        let newest = shop.stripe.renew(&served.subscription, shop.app.clock.now(), false);
        shop.garbles(&newest, 7);
        shop.deliver("invoice.overdue", &late).await;
        shop.work().await;
        assert_eq!(shop.letters_of("payment-failed").await, 1);
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Grace));
        assert!(!shop.rings_for("payment_news_parked").await, "its news is taken over");
    })
    .await;
}

#[tokio::test]
async fn a_subscription_is_taken_over_although_its_latest_invoice_cannot_be_read() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let invoice = shop.stripe.renew(&served.subscription, shop.app.clock.now(), false);
        shop.garbles(&invoice, 7);
        shop.deliver("customer.subscription.updated", &served.subscription).await;
        shop.work().await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Grace), "Stripe calls it late");
        assert!(shop.rings_for("payment_news_parked").await && shop.standing(&served).await.next.is_none());
        shop.garbles(&invoice, "open");
        shop.settles(16 * MINUTE).await;
        assert!(!shop.rings_for("payment_news_parked").await);
        let next = shop.standing(&served).await.next;
        assert_eq!(next.map(|(step, _)| step), Some(billing::Step::Suspend));
    })
    .await;
}

/// Without what was owed it would be over with its period, and there would be no notice.
#[tokio::test]
async fn what_stripe_has_given_up_is_not_judged_without_the_invoice_that_nobody_paid() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let invoice = shop.stripe.renew(&served.subscription, shop.app.clock.now(), false);
        shop.garbles(&invoice, 7);
        shop.stripe.change(&served.subscription, |subscription| {
            subscription["status"] = "canceled".into();
            subscription["cancellation_details"] = serde_json::json!({"reason": "payment_failed"});
        });
        shop.deliver("customer.subscription.deleted", &served.subscription).await;
        shop.work().await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid));
        assert!(shop.rings_for("payment_news_parked").await);
        shop.garbles(&invoice, "open");
        shop.settles(16 * MINUTE).await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Grace));
    })
    .await;
}
