//! A service that is over asks for no money, and keeps none that comes all the same.

use super::*;

const LATE: &str = "paid_after_end";

impl Shop {
    pub(super) async fn rings_for(&self, kind: &str) -> bool {
        self.alarms().await.iter().any(|(rung, _)| rung == kind)
    }

    pub(super) async fn pay_link(&self, served: &Served) -> Option<String> {
        let mut connection = self.app.db.read().await.unwrap();
        let overview = billing::overview(&mut connection, served.order.account).await.unwrap();
        overview.paying.into_iter().find(|paying| paying.order == served.order.id).unwrap().pay_url
    }

    pub(super) fn status_of(&self, invoice: &str) -> String {
        self.stripe.state().objects[invoice]["status"].as_str().unwrap().to_owned()
    }

    async fn deleted(&self, served: &Served) {
        instances::delete(&self.app, served.order.instance, "customer").await.unwrap();
        self.work().await;
    }

    async fn paid_late(&self, invoice: &str) {
        self.clock.advance(Duration::from_secs(60));
        self.stripe.pay_invoice(invoice);
        for _ in 0..2 {
            self.deliver("invoice.paid", invoice).await;
            self.work().await;
        }
    }
}

#[tokio::test]
async fn who_deletes_an_unpaid_server_owes_nothing_for_it() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let invoice = shop.renewal_fails(&served).await;
        assert!(shop.pay_link(&served).await.is_some());
        // The first call ends unknown: it is asked once more, and it is void once.
        shop.stripe.state().failures = vec![(200, false), (500, true)];
        shop.deleted(&served).await;
        assert_eq!(shop.status_of(&invoice), "void");
        assert_eq!(shop.pay_link(&served).await, None);
        assert_eq!(shop.ledger(&served.order), Ledger { paid: 900, returned: 0, running: 0 });
        shop.node_does(&served, 3, "stopped").await;
        shop.lives(4 * DAY).await;
        let voids = format!("/invoices/{invoice}/void");
        assert_eq!(shop.stripe.count("POST", &voids), 1);
    })
    .await;
}

#[tokio::test]
async fn what_is_paid_for_a_deleted_server_goes_back_by_itself() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let invoice = shop.renewal_fails(&served).await;
        shop.stripe.state().voids_are_refused = true;
        shop.deleted(&served).await;
        assert_eq!((shop.status_of(&invoice).as_str(), shop.pay_link(&served).await), ("open", None));
        shop.stripe.state().refunds_end = Some("failed");
        shop.paid_late(&invoice).await;
        assert!(shop.rings_for(LATE).await, "it could not be given back");
        assert_eq!(shop.letters_of("payment-receipt").await, 0, "nothing was bought");

        shop.stripe.state().refunds_end = None;
        shop.lives(DAY + Duration::from_secs(60)).await;
        assert_eq!(shop.ledger(&served.order), Ledger { paid: 1_800, returned: 900, running: 0 });
        assert!(!shop.rings_for(LATE).await);
        assert_eq!(shop.letters_of("refund-sent").await, 1);
        assert_eq!(shop.stands(&served).await, (Stand::End, Why::Ended));
        let audited = shop.audited(&served.order).await;
        for action in ["payment.surplus_found", "payment.surplus_returned"] {
            assert_eq!(audited.iter().filter(|row| *row == action).count(), 1, "{audited:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_paid_outside_stripe_for_a_deleted_server_is_a_persons_to_give_back() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let invoice = shop.renewal_fails(&served).await;
        shop.stripe.state().voids_are_refused = true;
        shop.deleted(&served).await;
        shop.clock.advance(Duration::from_secs(60));
        // A transfer, of which somebody tells Stripe in its dashboard.
        let at = shop.app.clock.now().as_secs();
        shop.stripe.change(&invoice, |invoice| {
            invoice["status"] = serde_json::json!("paid");
            invoice["status_transitions"]["paid_at"] = serde_json::json!(at);
            invoice["amount_paid"] = invoice["total"].clone();
            invoice["amount_remaining"] = serde_json::json!(0);
        });
        shop.deliver("invoice.paid", &invoice).await;
        shop.work().await;
        let told = async || shop.alarms().await.into_iter().find(|(kind, _)| kind == LATE).unwrap().1;
        let first = told().await;
        assert!(first.contains("outside Stripe"), "{first}");
        shop.lives(2 * DAY).await;
        assert_eq!(told().await, first, "until a person has closed it");
        assert_eq!(shop.stripe.count("POST", "/refunds"), 0);
    })
    .await;
}

#[tokio::test]
async fn what_is_paid_for_a_deleted_server_goes_back_although_its_invoice_was_read_meanwhile() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let invoice = shop.renewal_fails(&served).await;
        shop.stripe.state().voids_are_refused = true;
        shop.deleted(&served).await;
        shop.clock.advance(Duration::from_secs(60));
        let paid = shop.app.clock.now();
        shop.stripe.pay_invoice(&invoice);
        // The job of the subscription reads later, and is done first.
        shop.clock.advance(Duration::from_secs(5));
        shop.deliver("customer.subscription.updated", &served.subscription).await;
        shop.work().await;
        assert_eq!(shop.ledger(&served.order).returned, 0);
        shop.clock.set(paid);
        shop.deliver("invoice.paid", &invoice).await;
        shop.work().await;
        assert_eq!(shop.ledger(&served.order), Ledger { paid: 1_800, returned: 900, running: 0 });
        let audited = shop.audited(&served.order).await;
        assert_eq!(audited.iter().filter(|row| *row == "payment.surplus_found").count(), 1, "{audited:?}");
        assert_eq!(shop.letters_of("payment-receipt").await, 0, "nothing was bought");
    })
    .await;
}

#[tokio::test]
async fn what_was_retired_unpaid_can_be_paid_until_its_disk_goes_and_not_after() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let invoice = shop.renewal_fails(&served).await;
        // Stripe gives up on it long before we do.
        shop.stripe.change(&served.subscription, |subscription| {
            subscription["status"] = serde_json::json!("canceled");
            subscription["cancellation_details"] = serde_json::json!({"reason": "payment_failed"});
        });
        shop.deliver("customer.subscription.deleted", &served.subscription).await;
        shop.work().await;
        shop.lives(4 * DAY).await;
        shop.node_does(&served, 3, "stopped").await;
        shop.lives(11 * DAY).await;
        shop.lives(2 * DAY).await;
        shop.node_does(&served, 4, "stopped").await;
        assert_eq!(shop.server(&served.order).await.state, InstanceState::Retired);
        assert!(shop.pay_link(&served).await.is_some(), "a payment brings it back");
        shop.lives(3 * DAY + Duration::from_secs(60)).await;
        assert_eq!(shop.node_was_told(&served).await, "purge");
        assert_eq!((shop.status_of(&invoice).as_str(), shop.pay_link(&served).await), ("void", None));
        assert_eq!(shop.stands(&served).await, (Stand::End, Why::Ended));
    })
    .await;
}

#[tokio::test]
async fn who_pays_just_before_the_disk_goes_has_the_server_although_nobody_told_us() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let invoice = shop.renewal_fails(&served).await;
        shop.lives(4 * DAY).await;
        shop.node_does(&served, 3, "stopped").await;
        shop.lives(11 * DAY).await;
        shop.lives(2 * DAY).await;
        shop.node_does(&served, 4, "stopped").await;
        shop.stripe.pay_invoice(&invoice);
        shop.lives(3 * DAY + Duration::from_secs(60)).await;
        assert_eq!(shop.node_was_told(&served).await, "ensure", "it comes back");
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid));
        assert_eq!(shop.ledger(&served.order), Ledger { paid: 1_800, returned: 0, running: 1 });
    })
    .await;
}

#[tokio::test]
async fn who_pays_when_stripe_has_given_up_is_told_how_long_that_lasts_and_warned_before() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let invoice = shop.renewal_fails(&served).await;
        shop.lives(4 * DAY).await;
        shop.node_does(&served, 3, "stopped").await;
        shop.lives(10 * DAY).await;
        shop.stripe.change(&served.subscription, |subscription| {
            subscription["status"] = serde_json::json!("canceled");
            subscription["cancellation_details"] = serde_json::json!({"reason": "payment_failed"});
        });
        for _ in 0..2 {
            shop.deliver("customer.subscription.deleted", &served.subscription).await;
            shop.work().await;
        }
        assert!(shop.rings_for("stripe_cancels_unpaid").await, "a setting of the dashboard is wrong");
        shop.lives(DAY).await;
        shop.stripe.pay_invoice(&invoice);
        shop.deliver("invoice.paid", &invoice).await;
        shop.work().await;
        shop.node_does(&served, 4, "running").await;
        let (step, end) = shop.standing(&served).await.next.unwrap();
        assert_eq!(step, billing::Step::End);
        let back = shop.letter("server-restored").await;
        assert_eq!(back["until"], crate::web::written_date(end), "{back}");
        // Nothing of the wrong setting is said twice.
        assert_eq!(shop.letters_of("server-lapses").await, 0);
        for (before, letters) in [(7 * DAY, 1), (3 * DAY, 2), (2 * DAY, 3)] {
            shop.lives(end.minus(before).since(shop.app.clock.now()) + Duration::from_secs(60)).await;
            assert_eq!(shop.letters_of("server-lapses").await, letters);
        }
        assert_eq!(shop.letters_of("renewal-soon").await, 0, "nothing is charged");
        shop.lives(3 * DAY).await;
        shop.lives(Duration::from_secs(60)).await;
        assert_eq!(shop.node_was_told(&served).await, "retire");
        assert_eq!(shop.letters_of("server-lapses").await, 3);
    })
    .await;
}
