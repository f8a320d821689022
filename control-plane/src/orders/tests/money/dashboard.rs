//! What the host does in Stripe's dashboard: pauses a subscription or its collection, deletes a customer.

use serde_json::json;

use super::*;

impl Shop {
    /// Changes the subscription at Stripe, which tells of it.
    async fn changed_at_stripe(
        &self,
        served: &Served,
        kind: &str,
        edit: impl FnOnce(&mut serde_json::Value),
    ) {
        self.stripe.change(&served.subscription, edit);
        self.deliver(kind, &served.subscription).await;
        self.work().await;
    }

    /// A renewal's moment while collection is paused: its invoice is nobody's to pay.
    async fn renews_uncollected(&self, served: &Served, status: &str) -> String {
        let invoice = self.stripe.renew(&served.subscription, self.app.clock.now(), false);
        self.stripe.change(&invoice, |invoice| {
            invoice["status"] = json!(status);
            invoice["attempt_count"] = json!(0);
        });
        self.stripe.change(&served.subscription, |subscription| subscription["status"] = json!("active"));
        self.deliver("invoice.updated", &invoice).await;
        self.deliver("customer.subscription.updated", &served.subscription).await;
        self.work().await;
        invoice
    }

    /// Somebody deletes the customer: its subscriptions are cancelled, and only its id is left.
    fn deletes_customer(&self, served: &Served) -> String {
        let customer =
            self.stripe.state().objects[&served.subscription]["customer"].as_str().unwrap().to_owned();
        self.stripe.change(&customer, |customer| {
            *customer = json!({"id": customer["id"], "object": "customer", "deleted": true});
        });
        self.stripe.change(&served.subscription, |subscription| {
            subscription["status"] = json!("canceled");
            subscription["cancellation_details"] = json!({"reason": "cancellation_requested"});
        });
        customer
    }
}

/// Letters that somebody gets who owes something, or will be charged.
const ABOUT_MONEY: [&str; 5] =
    ["renewal-soon", "payment-failed", "server-suspended", "server-will-be-deleted", "server-lapses"];

#[tokio::test]
async fn a_paused_subscription_switches_off_and_says_why_until_it_goes_on() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        shop.changed_at_stripe(&served, "customer.subscription.paused", |subscription| {
            subscription["status"] = json!("paused");
            subscription["status_details"] = json!({"paused": {"subscription": {"type": "pause_requested"}}});
        })
        .await;
        assert_eq!(shop.stands(&served).await, (Stand::Suspend, Why::Paused));
        assert_eq!(shop.wished(&served).await, Service::Suspended);
        shop.node_does(&served, 3, "stopped").await;
        assert_eq!(shop.letter("server-suspended").await["why"], "paused");
        shop.settles(60 * DAY).await;
        assert_eq!(shop.server(&served.order).await.state, InstanceState::Stopped, "however long it takes");
        assert_eq!(shop.letters_of("server-will-be-deleted").await, 0);

        // It is to go on, and what that costs cannot be charged.
        let invoice = shop.stripe.renew(&served.subscription, shop.app.clock.now(), false);
        shop.stripe.change(&served.subscription, |subscription| subscription["status"] = json!("paused"));
        shop.deliver("invoice.payment_failed", &invoice).await;
        shop.work().await;
        assert_eq!(shop.stands(&served).await, (Stand::Suspend, Why::Paused));
        assert_eq!(shop.letter("payment-failed").await["until"], "", "it does not run on");

        shop.stripe.pay_invoice(&invoice);
        shop.clock.advance(Duration::from_secs(1));
        shop.changed_at_stripe(&served, "customer.subscription.resumed", |subscription| {
            subscription["status_details"] = json!(null);
        })
        .await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid));
        assert_eq!(shop.wished(&served).await, Service::Active);
        assert_eq!(shop.letters_of("server-restored").await, 1);
    })
    .await;
}

#[tokio::test]
async fn while_collection_is_paused_nobody_is_asked_for_money_nor_told_of_a_charge() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        // From here the periods are those of the shop's clock.
        shop.stripe.renew(&served.subscription, shop.app.clock.now(), true);
        shop.changed_at_stripe(&served, "customer.subscription.updated", |subscription| {
            subscription["pause_collection"] = json!({"behavior": "mark_uncollectible", "resumes_at": null});
        })
        .await;
        for status in ["uncollectible", "void", "draft"] {
            assert_eq!(shop.standing(&served).await.next, None, "no charge is to come");
            shop.settles(30 * DAY).await;
            shop.renews_uncollected(&served, status).await;
            assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid), "{status}");
            assert_eq!(shop.wished(&served).await, Service::Active);
        }
        for kind in ABOUT_MONEY {
            assert_eq!(shop.letters_of(kind).await, 0, "{kind}");
        }
        let mut connection = shop.app.db.read().await.unwrap();
        let overview = billing::overview(&mut connection, served.order.account).await.unwrap();
        assert_eq!(overview.paying[0].pay_url, None);
        drop(connection);

        shop.changed_at_stripe(&served, "customer.subscription.updated", |subscription| {
            subscription["pause_collection"] = json!(null);
        })
        .await;
        assert_eq!(shop.standing(&served).await.next.map(|(step, _)| step), Some(billing::Step::Charge));
        shop.settles(23 * DAY + MINUTE).await;
        assert_eq!(shop.letters_of("renewal-soon").await, 1);
        let report = billing::reconcile(&shop.app).await.unwrap();
        assert_eq!(report.left, 0, "{report:?}");
    })
    .await;
}

#[tokio::test]
async fn what_a_deleted_customer_has_paid_for_is_served_and_ends_with_notice_whichever_news_comes_first() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 5).await;
        for (n, customer_first) in [(1, true), (2, false)] {
            let served = shop.built(n, u64::from(n) * 100 + 1).await;
            shop.stripe.renew(&served.subscription, shop.app.clock.now(), true);
            shop.changed_at_stripe(&served, "customer.subscription.updated", |_| ()).await;
            let end = shop.standing(&served).await.next.unwrap().1;
            let told_before = shop.letters_of("server-lapses").await;
            shop.clock.advance(Duration::from_secs(1));
            let customer = shop.deletes_customer(&served);
            let mut news = [
                ("customer.deleted", customer.as_str()),
                ("customer.subscription.deleted", served.subscription.as_str()),
            ];
            if !customer_first {
                news.reverse();
            }
            for (kind, object) in news {
                shop.deliver(kind, object).await;
                shop.work().await;
            }
            assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid));
            assert_eq!(shop.standing(&served).await.next, Some((billing::Step::End, end)));
            assert!(shop.rings_for("customer_deleted").await);
            assert!(shop.audited(&served.order).await.contains(&"billing.customer_deleted".to_owned()));
            for (before, letters) in [(7 * DAY, 1), (3 * DAY, 2), (2 * DAY, 3)] {
                shop.settles(end.minus(before).since(shop.app.clock.now()) + MINUTE).await;
                assert_eq!(shop.letters_of("server-lapses").await, told_before + letters);
                assert_eq!(shop.wished(&served).await, Service::Active);
            }
            shop.settles(2 * DAY).await;
            shop.settles(MINUTE).await;
            assert_eq!(shop.node_was_told(&served).await, "retire");
            assert_eq!(shop.stands(&served).await, (Stand::End, Why::Ended));
            let report = billing::reconcile(&shop.app).await.unwrap();
            assert_eq!(report.left, 0, "{report:?}");
        }
        assert_eq!(shop.letters_of("renewal-soon").await, 0, "nothing is charged");
    })
    .await;
}

#[tokio::test]
async fn a_customer_deleted_on_the_last_day_leaves_two_days_and_one_who_had_cancelled_none() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 5).await;
        let served = shop.served(1).await;
        shop.stripe.renew(&served.subscription, shop.app.clock.now(), true);
        shop.changed_at_stripe(&served, "customer.subscription.updated", |_| ()).await;
        shop.settles(29 * DAY).await;
        shop.deletes_customer(&served);
        shop.deliver("customer.subscription.deleted", &served.subscription).await;
        let deleted = shop.app.clock.now();
        shop.work().await;
        assert_eq!(shop.standing(&served).await.next, Some((billing::Step::End, deleted.plus(2 * DAY))));
        assert_eq!(shop.letters_of("server-lapses").await, 1, "told at once");

        // Cancelled first: that was a wish, whatever became of the customer later.
        let other = shop.built(2, 201).await;
        shop.changed_at_stripe(&other, "customer.subscription.deleted", |subscription| {
            subscription["status"] = json!("canceled");
            subscription["cancellation_details"] = json!({"reason": "cancellation_requested"});
        })
        .await;
        assert_eq!(shop.stands(&other).await, (Stand::End, Why::Ended));
        shop.clock.advance(Duration::from_secs(1));
        let customer = shop.deletes_customer(&other);
        shop.deliver("customer.deleted", &customer).await;
        shop.deliver("customer.subscription.deleted", &other.subscription).await;
        shop.work().await;
        assert_eq!(shop.stands(&other).await, (Stand::End, Why::Ended), "it does not come back");
    })
    .await;
}

#[tokio::test]
async fn who_was_deleted_at_stripe_can_buy_again_as_another_customer() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 5).await;
        let served = shop.served(1).await;
        let customer = shop.deletes_customer(&served);
        shop.deliver("customer.deleted", &customer).await;
        shop.deliver("customer.subscription.deleted", &served.subscription).await;
        shop.work().await;
        let again = shop.second_of(1).await;
        let state = shop.stripe.state();
        let second = state.objects[&again.subscription]["customer"].as_str().unwrap();
        assert_ne!(second, customer);
        assert!(state.objects[second]["deleted"].is_null());
    })
    .await;
}

#[tokio::test]
async fn who_pays_what_was_asked_for_after_the_customer_was_deleted_keeps_the_server_for_it() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let invoice = shop.renewal_fails(&served).await;
        shop.clock.advance(Duration::from_secs(1));
        shop.deletes_customer(&served);
        shop.deliver("customer.subscription.deleted", &served.subscription).await;
        shop.work().await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Grace), "it is asked for");
        shop.clock.advance(Duration::from_secs(60));
        shop.stripe.pay_invoice(&invoice);
        for _ in 0..2 {
            shop.deliver("invoice.paid", &invoice).await;
            shop.work().await;
        }
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid));
        assert_eq!(shop.ledger(&served.order).returned, 0, "nothing goes back");
        assert!(!shop.rings_for("paid_after_end").await);
        assert_eq!(shop.letters_of("payment-receipt").await, 1);
    })
    .await;
}

#[tokio::test]
async fn a_customer_deleted_while_the_subscription_is_paused_brings_no_server_back() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        shop.changed_at_stripe(&served, "customer.subscription.paused", |subscription| {
            subscription["status"] = json!("paused");
        })
        .await;
        shop.node_does(&served, 3, "stopped").await;
        shop.settles(5 * DAY).await;
        let customer = shop.deletes_customer(&served);
        for (kind, object) in [
            ("customer.subscription.deleted", served.subscription.as_str()),
            ("customer.deleted", customer.as_str()),
        ] {
            shop.deliver(kind, object).await;
            shop.work().await;
        }
        assert_eq!(shop.stands(&served).await, (Stand::End, Why::Ended));
        assert_eq!(shop.letters_of("server-restored").await, 0);
    })
    .await;
}

#[tokio::test]
async fn what_was_written_off_untried_is_not_owed_although_stripe_calls_its_subscription_late() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        shop.changed_at_stripe(&served, "customer.subscription.updated", |subscription| {
            subscription["pause_collection"] = json!({"behavior": "mark_uncollectible", "resumes_at": null});
        })
        .await;
        shop.settles(DAY).await;
        shop.renews_uncollected(&served, "uncollectible").await;
        shop.clock.advance(Duration::from_secs(1));
        shop.changed_at_stripe(&served, "customer.subscription.updated", |subscription| {
            subscription["status"] = json!("past_due");
        })
        .await;
        shop.settles(20 * DAY).await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Grace), "nobody was asked for it");
        let mut connection = shop.app.db.read().await.unwrap();
        let overview = billing::overview(&mut connection, served.order.account).await.unwrap();
        assert_eq!(overview.paying[0].pay_url, None);
        let revenue = billing::revenue(&mut connection, shop.app.clock.now()).await.unwrap();
        assert!(revenue.iter().all(|one| (one.owed, one.owed_minor) == (0, 0)), "{revenue:?}");
    })
    .await;
}
