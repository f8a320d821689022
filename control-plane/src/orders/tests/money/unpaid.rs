//! Our own clock: grace, suspension, notice, retirement, purge; and the way back from each.

use super::*;

impl Shop {
    /// A renewal that could not be charged, told by Stripe.
    pub(super) async fn renewal_fails(&self, served: &Served) -> String {
        let invoice = self.stripe.renew(&served.subscription, self.app.clock.now(), false);
        self.deliver("invoice.payment_failed", &invoice).await;
        self.deliver("customer.subscription.updated", &served.subscription).await;
        self.work().await;
        invoice
    }

    async fn operator_suspends(&self, served: &Served) {
        let (at, id) = (self.app.clock.now(), served.order.instance);
        let done = self.app.db.write(move |tx| {
            Box::pin(async move { instances::suspend(tx, at, id, "It sends spam.", "operator:test").await })
        });
        done.await.unwrap();
        self.work().await;
    }
}

#[tokio::test]
async fn an_unpaid_server_is_switched_off_after_the_grace_and_comes_back_with_the_payment() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid));
        let invoice = shop.renewal_fails(&served).await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Grace));
        shop.deliver("invoice.payment_failed", &invoice).await;
        shop.work().await;
        assert_eq!(shop.letters_of("payment-failed").await, 1, "told once");

        shop.lives(3 * DAY - Duration::from_secs(60)).await;
        assert_eq!(shop.wished(&served).await, Service::Active, "grace");
        shop.lives(Duration::from_secs(61)).await;
        assert_eq!(shop.stands(&served).await, (Stand::Suspend, Why::Unpaid));
        assert_eq!(shop.wished(&served).await, Service::Suspended);
        shop.node_does(&served, 3, "stopped").await;
        assert_eq!(shop.server(&served.order).await.state, InstanceState::Stopped);
        assert_eq!(shop.letters_of("server-suspended").await, 1);

        // The news of the payment alone brings it back; the subscription's own comes never.
        shop.stripe.pay_invoice(&invoice);
        shop.deliver("invoice.paid", &invoice).await;
        shop.work().await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid));
        assert_eq!(shop.wished(&served).await, Service::Active);
        shop.node_does(&served, 4, "running").await;
        assert_eq!(shop.server(&served.order).await.state, InstanceState::Running);
        assert_eq!(shop.letters_of("server-restored").await, 1);
        assert_eq!(shop.letters_of("payment-receipt").await, 1);
        // Nothing is left of the clock.
        let told = shop.told(&served.order).await.len();
        shop.lives(20 * DAY).await;
        assert_eq!(shop.told(&served.order).await.len(), told);
    })
    .await;
}

/// The job of the subscription reads later and is done first: it writes the copy of the invoice as well, and no letter.
#[tokio::test]
async fn a_charge_that_failed_is_told_although_its_invoice_was_read_meanwhile() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let began = shop.app.clock.now();
        let invoice = shop.stripe.renew(&served.subscription, began, false);
        shop.clock.advance(Duration::from_secs(5));
        shop.deliver("customer.subscription.updated", &served.subscription).await;
        shop.work().await;
        assert_eq!(shop.letters_of("payment-failed").await, 0);
        shop.clock.set(began);
        shop.deliver("invoice.payment_failed", &invoice).await;
        shop.work().await;
        assert_eq!(shop.letters_of("payment-failed").await, 1);

        shop.clock.advance(Duration::from_secs(60));
        let paid = shop.app.clock.now();
        shop.stripe.pay_invoice(&invoice);
        // What reads the invoice later writes it down, and the older reading writes the receipt.
        shop.clock.advance(Duration::from_secs(5));
        shop.stripe.change(&served.subscription, |subscription| subscription["status"] = "past_due".into());
        shop.deliver("customer.subscription.updated", &served.subscription).await;
        shop.work().await;
        assert_eq!(shop.letters_of("payment-receipt").await, 0);
        shop.clock.set(paid);
        shop.deliver("invoice.paid", &invoice).await;
        shop.work().await;
        assert_eq!(shop.letters_of("payment-receipt").await, 1);
    })
    .await;
}

#[tokio::test]
async fn a_server_that_nobody_pays_is_retired_on_day_16_and_a_payment_brings_even_that_back() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let invoice = shop.renewal_fails(&served).await;
        let fell_due = shop.app.clock.now();
        shop.lives(4 * DAY).await;
        shop.node_does(&served, 3, "stopped").await;
        shop.lives(10 * DAY + Duration::from_secs(60)).await;
        assert_eq!(shop.letters_of("server-will-be-deleted").await, 1, "48 hours before");
        let told = shop.letter("server-will-be-deleted").await;
        assert_eq!(told["since"], crate::web::written_date(fell_due), "{told}");
        assert_eq!(shop.stands(&served).await, (Stand::Suspend, Why::Unpaid));
        shop.lives(2 * DAY).await;
        assert_eq!(shop.stands(&served).await, (Stand::End, Why::Unpaid));
        assert_eq!(shop.node_was_told(&served).await, "retire");
        shop.node_does(&served, 4, "stopped").await;
        assert_eq!(shop.server(&served.order).await.state, InstanceState::Retired);
        assert_eq!(shop.ledger(&served.order).running, 1, "the subscription waits for the payment");

        shop.stripe.pay_invoice(&invoice);
        shop.deliver("invoice.paid", &invoice).await;
        shop.work().await;
        assert_eq!(shop.node_was_told(&served).await, "ensure");
        let back = shop.server(&served.order).await;
        assert_eq!((back.state, back.purge_at), (InstanceState::Stopped, None));
        shop.node_does(&served, 5, "running").await;
        assert_eq!(shop.server(&served.order).await.state, InstanceState::Running);
        shop.lives(5 * DAY).await;
        assert_eq!(shop.server(&served.order).await.state, InstanceState::Running, "nothing is purged");
    })
    .await;
}

/// Somebody set the collection to `send_invoice` in Stripe's dashboard.
#[tokio::test]
async fn what_nobody_tries_to_collect_has_the_same_clock_from_the_day_it_was_due() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let due = shop.app.clock.now().minus(3 * DAY);
        let invoice = shop.stripe.renew_by_transfer(&served.subscription, due, due);
        shop.deliver("invoice.overdue", &invoice).await;
        shop.deliver("customer.subscription.updated", &served.subscription).await;
        shop.work().await;
        assert_eq!(shop.letters_of("payment-failed").await, 1);
        let told = shop.letter("payment-failed").await;
        assert_eq!(told["until"], crate::web::written_date(due.plus(3 * DAY)), "{told}");
        assert_eq!(told["late"], true, "no charge has failed");
        assert!(shop.pay_link(&served).await.is_some());
        assert_eq!(shop.stands(&served).await, (Stand::Suspend, Why::Unpaid));
        shop.node_does(&served, 3, "stopped").await;
        shop.lives(11 * DAY + MINUTE).await;
        assert_eq!(shop.letters_of("server-will-be-deleted").await, 1, "48 hours before");
        assert_eq!(shop.letter("server-will-be-deleted").await["since"], crate::web::written_date(due));
        assert_eq!(shop.stands(&served).await, (Stand::Suspend, Why::Unpaid));
        shop.lives(2 * DAY).await;
        assert_eq!(shop.stands(&served).await, (Stand::End, Why::Unpaid));
        assert_eq!(shop.node_was_told(&served).await, "retire");
        shop.node_does(&served, 4, "stopped").await;
        shop.stripe.pay_invoice(&invoice);
        shop.deliver("invoice.paid", &invoice).await;
        shop.work().await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid));
        assert_eq!(shop.node_was_told(&served).await, "ensure");
    })
    .await;
}

#[tokio::test]
async fn an_invoice_that_is_not_due_yet_starts_no_clock() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let now = shop.app.clock.now();
        let invoice = shop.stripe.renew_by_transfer(&served.subscription, now, now.plus(14 * DAY));
        shop.stripe.change(&served.subscription, |subscription| subscription["status"] = "active".into());
        shop.deliver("invoice.finalized", &invoice).await;
        shop.deliver("customer.subscription.updated", &served.subscription).await;
        shop.work().await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid));
        assert_eq!((shop.letters_of("payment-failed").await, shop.pay_link(&served).await), (0, None));
        shop.settles(14 * DAY + MINUTE).await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid), "Stripe does not call it late");
        shop.stripe.change(&served.subscription, |subscription| subscription["status"] = "past_due".into());
        shop.deliver("invoice.overdue", &invoice).await;
        shop.work().await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Grace));
        assert_eq!(shop.letters_of("payment-failed").await, 1);
        shop.settles(3 * DAY).await;
        assert_eq!(shop.stands(&served).await, (Stand::Suspend, Why::Unpaid));
    })
    .await;
}

#[tokio::test]
async fn what_stripe_calls_unpaid_while_nothing_is_seen_to_be_owed_rings_until_that_agrees() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        for (status, rings) in [("past_due", true), ("active", false)] {
            shop.clock.advance(Duration::from_secs(1));
            shop.stripe.change(&served.subscription, |subscription| subscription["status"] = status.into());
            shop.deliver("customer.subscription.updated", &served.subscription).await;
            shop.work().await;
            assert!(!shop.rings_for("unpaid_unseen").await, "{status}: it is looked at once more first");
            assert_eq!(shop.stands(&served).await.0, Stand::Run);
            shop.settles(61 * MINUTE).await;
            assert_eq!(shop.rings_for("unpaid_unseen").await, rings, "{status}");
        }
        // Between the news of a payment and that of its subscription there is nothing to ask.
        let other = shop.built(2, 201).await;
        let invoice = shop.renewal_fails(&other).await;
        shop.settles(61 * MINUTE).await;
        shop.stripe.pay_invoice(&invoice);
        shop.deliver("invoice.paid", &invoice).await;
        shop.work().await;
        assert_eq!(shop.stands(&other).await, (Stand::Run, Why::Paid));
        let mut connection = shop.app.db.read().await.unwrap();
        let rung = fleet::alarms::list(&mut connection, 100).await.unwrap();
        let about = other.order.id.to_string();
        assert!(
            !rung.iter().any(|alarm| alarm.kind == "unpaid_unseen" && alarm.subject == about),
            "{rung:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn what_stays_unpaid_is_purged_and_never_charged_again() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        shop.renewal_fails(&served).await;
        shop.lives(4 * DAY).await;
        shop.node_does(&served, 3, "stopped").await;
        // We were down when the notice was due: it is written late, and the customer has the whole of it.
        shop.lives(20 * DAY).await;
        assert_eq!(shop.stands(&served).await, (Stand::Suspend, Why::Unpaid));
        shop.lives(2 * DAY).await;
        shop.node_does(&served, 4, "stopped").await;
        assert_eq!(shop.server(&served.order).await.state, InstanceState::Retired);
        shop.lives(3 * DAY + Duration::from_secs(60)).await;
        assert_eq!(shop.node_was_told(&served).await, "purge");
        assert_eq!(shop.ledger(&served.order).running, 0, "the subscription ended first");
        assert_eq!(shop.stands(&served).await.0, Stand::End);
    })
    .await;
}

#[tokio::test]
async fn a_stripe_that_is_away_is_asked_about_one_server_and_not_about_each_whose_disk_is_to_go() {
    let (db, _directory) = db::testing::sqlite().await;
    let shop = Shop::open(db, 3).await;
    let unpaid = [shop.built(1, 1).await, shop.built(2, 101).await];
    let mut invoices = Vec::new();
    for served in &unpaid {
        invoices.push(format!("/invoices/{}", shop.renewal_fails(served).await));
    }
    // Off, told late, and retired by their unpaid clock: a payment is looked for before their disks go.
    shop.settles(4 * DAY).await;
    for (served, seq) in unpaid.iter().zip(201..) {
        shop.node_does(served, seq, "stopped").await;
    }
    shop.settles(20 * DAY).await;
    shop.settles(2 * DAY).await;
    for (served, seq) in unpaid.iter().zip(301..) {
        shop.node_does(served, seq, "stopped").await;
        assert_eq!(shop.server(&served.order).await.state, InstanceState::Retired);
    }
    shop.passes(3 * DAY + MINUTE).await;
    {
        let mut stripe = shop.stripe.state();
        stripe.calls.clear();
        stripe.failures = vec![(409, false); 100];
    }
    instances::sweep(&shop.app).await.unwrap();
    let asked = || invoices.iter().filter(|invoice| shop.stripe.count("GET", invoice) > 0).count();
    assert_eq!(asked(), 1);
    shop.stripe.state().failures.clear();
    instances::sweep(&shop.app).await.unwrap();
    assert_eq!(asked(), 2, "both were to go");
}

#[tokio::test]
async fn stripe_giving_up_does_not_end_a_server_before_our_clock_does() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        shop.renewal_fails(&served).await;
        shop.stripe.change(&served.subscription, |subscription| {
            subscription["status"] = serde_json::json!("canceled");
            subscription["cancellation_details"] = serde_json::json!({"reason": "payment_failed"});
        });
        shop.deliver("customer.subscription.deleted", &served.subscription).await;
        shop.work().await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Grace));
        shop.lives(4 * DAY).await;
        assert_eq!(shop.stands(&served).await, (Stand::Suspend, Why::Unpaid));
    })
    .await;
}

#[tokio::test]
async fn an_exempt_server_runs_whatever_its_invoices_say_until_that_is_taken_back() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        shop.renewal_fails(&served).await;
        shop.lives(4 * DAY).await;
        assert_eq!(shop.wished(&served).await, Service::Suspended);
        let id = served.order.instance;
        assert!(billing::exempt(&shop.app, id, " ", "operator:test").await.is_err(), "why stands in the log");
        billing::exempt(&shop.app, id, "our own server", "operator:test").await.unwrap();
        shop.work().await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Exempt));
        assert_eq!(shop.wished(&served).await, Service::Active);
        shop.lives(30 * DAY).await;
        assert_eq!(shop.wished(&served).await, Service::Active);
        billing::unexempt(&shop.app, id, "operator:test").await.unwrap();
        shop.work().await;
        assert_eq!(shop.wished(&served).await, Service::Suspended, "its invoices count as of their day");
        assert_eq!(shop.letters_of("server-will-be-deleted").await, 1, "and it has its notice");
    })
    .await;
}

#[tokio::test]
async fn a_newer_month_that_is_paid_does_not_make_an_older_one_forgotten() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let older = shop.renewal_fails(&served).await;
        shop.lives(DAY).await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Grace));
        // Stripe looks at the latest invoice alone, and says that all is well.
        let newer = shop.stripe.renew(&served.subscription, shop.app.clock.now(), true);
        shop.deliver("invoice.paid", &newer).await;
        shop.deliver("customer.subscription.updated", &served.subscription).await;
        shop.work().await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Grace), "its clock goes on");
        shop.lives(3 * DAY).await;
        assert_eq!(shop.stands(&served).await, (Stand::Suspend, Why::Unpaid));
        let mut connection = shop.app.db.read().await.unwrap();
        let overview = billing::overview(&mut connection, served.order.account).await.unwrap();
        assert!(overview.paying[0].pay_url.as_ref().is_some_and(|link| link.contains(&older)), "what to pay");
        drop(connection);
        // The news of its payment is lost; that of the subscription is enough.
        shop.stripe.pay_invoice(&older);
        shop.clock.advance(Duration::from_secs(1));
        shop.deliver("customer.subscription.updated", &served.subscription).await;
        shop.work().await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid));
        assert_eq!(shop.letters_of("server-restored").await, 1);
        assert_eq!(shop.ledger(&served.order).paid, 2_700);
    })
    .await;
}

/// A direct debit, say: it was tried, its bank takes days, and Stripe leaves the subscription active meanwhile.
#[tokio::test]
async fn the_latest_renewal_starts_no_clock_while_stripe_says_that_all_is_well() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let invoice = shop.stripe.renew(&served.subscription, shop.app.clock.now(), false);
        let payment = shop.stripe.intent_of(&invoice);
        shop.stripe.change(&payment, |payment| payment["status"] = "processing".into());
        shop.stripe.change(&served.subscription, |subscription| subscription["status"] = "active".into());
        shop.deliver("invoice.updated", &invoice).await;
        shop.deliver("customer.subscription.updated", &served.subscription).await;
        shop.work().await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid));
        shop.lives(20 * DAY).await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid));
        assert_eq!(shop.wished(&served).await, Service::Active);
        // What Stripe calls late then is.
        shop.clock.advance(Duration::from_secs(1));
        shop.stripe.change(&served.subscription, |subscription| subscription["status"] = "past_due".into());
        shop.deliver("customer.subscription.updated", &served.subscription).await;
        shop.work().await;
        assert_eq!(shop.stands(&served).await.1, Why::Unpaid);
    })
    .await;
}

#[tokio::test]
async fn an_unpaid_invoice_that_stripe_does_not_have_keeps_nobody_from_reading_its_subscription() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let first = shop.stripe.latest_invoice(&served.subscription);
        let invoice = shop.renewal_fails(&served).await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Grace));
        // The host ends it in Stripe's dashboard, and no news of that comes.
        shop.stripe.state().objects.remove(&invoice);
        shop.stripe.change(&served.subscription, |subscription| {
            subscription["latest_invoice"] = serde_json::json!(first);
            subscription["status"] = serde_json::json!("canceled");
            subscription["cancellation_details"] = serde_json::json!({"reason": "cancellation_requested"});
        });
        shop.passes(4 * DAY).await;
        let mut money = jobs::JobRegistry::default();
        billing::register_jobs(&mut money);
        jobs::drain(&shop.app, &money).await.unwrap();
        assert_eq!((shop.stands(&served).await, shop.given_up().await), ((Stand::End, Why::Ended), 0));
    })
    .await;
}

#[tokio::test]
async fn what_is_exempt_and_was_given_up_by_stripe_rings_for_as_long_as_it_runs_for_nothing() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let id = served.order.instance;
        billing::exempt(&shop.app, id, "our own server", "operator:test").await.unwrap();
        shop.renewal_fails(&served).await;
        assert!(!shop.rings_for("exempt_uncharged").await, "it is charged still");
        shop.stripe.change(&served.subscription, |subscription| {
            subscription["status"] = serde_json::json!("canceled");
            subscription["cancellation_details"] = serde_json::json!({"reason": "payment_failed"});
        });
        shop.deliver("customer.subscription.deleted", &served.subscription).await;
        shop.work().await;
        assert!(shop.rings_for("exempt_uncharged").await);
        shop.settles(40 * DAY).await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Exempt));
        assert!(shop.rings_for("exempt_uncharged").await);
        billing::unexempt(&shop.app, id, "operator:test").await.unwrap();
        assert!(!shop.rings_for("exempt_uncharged").await);
    })
    .await;
}

#[tokio::test]
async fn what_an_operator_suspended_no_payment_resumes() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        shop.operator_suspends(&served).await;
        let invoice = shop.renewal_fails(&served).await;
        shop.lives(4 * DAY).await;
        shop.stripe.pay_invoice(&invoice);
        shop.deliver("invoice.paid", &invoice).await;
        shop.work().await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid));
        assert_eq!(shop.wished(&served).await, Service::Suspended);
    })
    .await;
}

#[tokio::test]
async fn what_an_operator_suspended_comes_back_from_its_retirement_switched_off() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        shop.operator_suspends(&served).await;
        shop.node_does(&served, 3, "stopped").await;
        let invoice = shop.renewal_fails(&served).await;
        shop.lives(4 * DAY).await;
        shop.lives(10 * DAY + MINUTE).await;
        shop.lives(2 * DAY).await;
        assert_eq!(shop.node_was_told(&served).await, "retire");
        shop.node_does(&served, 4, "stopped").await;
        assert_eq!(shop.server(&served.order).await.state, InstanceState::Retired);

        // Its node is away when the news of the payment comes; nobody tells it twice.
        shop.change_node("fsn-1", fleet::NodeChange::Quarantine).await;
        shop.stripe.pay_invoice(&invoice);
        shop.deliver("invoice.paid", &invoice).await;
        shop.work().await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid));
        assert_eq!(shop.server(&served.order).await.state, InstanceState::Retired);
        shop.change_node("fsn-1", fleet::NodeChange::Enrol).await;
        instances::sweep(&shop.app).await.unwrap();
        let back = shop.server(&served.order).await;
        assert_eq!((back.state, back.purge_at), (InstanceState::Stopped, None), "its disk is safe");
        assert_eq!(shop.spec(&served).await.service, Service::Suspended);
        shop.node_does(&served, 5, "stopped").await;
        shop.lives(5 * MINUTE).await;
        assert_eq!(shop.wished(&served).await, Service::Suspended, "only an operator resumes it");
        assert_eq!(shop.server(&served.order).await.state, InstanceState::Stopped);
    })
    .await;
}

#[tokio::test]
async fn what_is_exempt_is_told_of_its_charge_and_of_its_end_and_never_threatened() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        billing::exempt(&shop.app, served.order.instance, "our own server", "operator:test").await.unwrap();
        shop.stripe.renew(&served.subscription, shop.app.clock.now(), true);
        shop.deliver("customer.subscription.updated", &served.subscription).await;
        shop.work().await;
        let standing = shop.standing(&served).await;
        let (step, charge) = standing.next.unwrap();
        assert_eq!((standing.why, step), (Why::Exempt, billing::Step::Charge));
        shop.lives(23 * DAY + MINUTE).await;
        assert_eq!(shop.letters_of("renewal-soon").await, 1, "a week before");
        let (order, me) = (served.order.id, served.order.account);
        let wish = async |at_end| {
            billing::cancel_at_period_end(&shop.app, me, order, at_end, "customer").await.unwrap();
            shop.clock.advance(Duration::from_secs(1));
            shop.standing(&served).await.next
        };
        assert_eq!(wish(true).await, Some((billing::Step::End, charge)), "the day stands by Keep it");
        assert_eq!(wish(false).await, Some((billing::Step::Charge, charge)));
        shop.lives(charge.since(shop.app.clock.now()) + MINUTE).await;
        shop.renewal_fails(&served).await;
        assert_eq!(shop.letter("payment-failed").await["until"], "", "it is not switched off");
        shop.lives(4 * DAY).await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Exempt));
    })
    .await;
}

#[tokio::test]
async fn a_charge_is_announced_and_an_expired_card_is_said() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let now = shop.app.clock.now();
        shop.stripe.renew(&served.subscription, now, true);
        shop.deliver("customer.subscription.updated", &served.subscription).await;
        shop.work().await;
        shop.lives(22 * DAY).await;
        assert_eq!(shop.letters_of("renewal-soon").await, 0);
        shop.lives(DAY + Duration::from_secs(60)).await;
        assert_eq!(shop.letters_of("renewal-soon").await, 1, "a week before");
        // Meanwhile the card is one that ends this month.
        shop.stripe.state().objects.insert(
            "pm_old".into(),
            serde_json::json!({"id": "pm_old", "object": "payment_method", "type": "card", "customer": "cus_1",
                "card": {"brand": "visa", "last4": "4242", "exp_month": 9, "exp_year": 2026}}),
        );
        shop.stripe.change(&served.subscription, |s| s["default_payment_method"] = serde_json::json!("pm_old"));
        shop.lives(4 * DAY).await;
        assert_eq!(shop.letters_of("card-expiring").await, 1, "three days before");
        assert_eq!(shop.letters_of("renewal-soon").await, 1);
    })
    .await;
}

#[tokio::test]
async fn a_charge_is_announced_with_what_it_comes_to() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        shop.stripe.renew(&served.subscription, shop.app.clock.now(), true);
        // Half the price for good, and some credit.
        shop.stripe.change(&served.subscription, |subscription| subscription["x_percent_off"] = 50.into());
        let customer =
            shop.stripe.state().objects[&served.subscription]["customer"].as_str().unwrap().to_owned();
        shop.stripe.change(&customer, |customer| customer["balance"] = (-47).into());
        shop.deliver("customer.subscription.updated", &served.subscription).await;
        shop.work().await;
        shop.lives(23 * DAY + Duration::from_secs(60)).await;
        let told = shop.letter("renewal-soon").await;
        let sum = |minor| serde_json::Value::from(crate::web::written_money(minor, "eur"));
        assert_eq!((&told["amount"], &told["about"]), (&sum(403), &false.into()));
        // Who cannot be asked is not guessed at.
        shop.stripe.state().previews_are_refused = true;
        shop.lives(4 * DAY).await;
        assert_eq!(shop.letters_of("renewal-soon").await, 2);
        let told = shop.letter("renewal-soon").await;
        assert_eq!((&told["amount"], &told["about"]), (&sum(900), &true.into()));
        assert_eq!(shop.ledger(&served.order).paid, 1_800, "asking charges nothing");
    })
    .await;
}

#[tokio::test]
async fn a_charge_is_announced_when_our_key_is_right_again_and_before_the_charge_in_any_case() {
    // Stripe takes no call at all; or none about the sum, for a minute or for longer than anybody waits.
    for (sum_alone, hours, about) in [(false, 1, false), (true, 1, false), (true, 27, true)] {
        db::testing::each_database(async |db| {
            let shop = Shop::open(db, 3).await;
            let served = shop.served(1).await;
            shop.stripe.renew(&served.subscription, shop.app.clock.now(), true);
            shop.deliver("customer.subscription.updated", &served.subscription).await;
            shop.work().await;
            shop.lives(22 * DAY).await;
            if sum_alone {
                shop.stripe.state().ends = vec![("/create_preview", 401); 100];
            } else {
                shop.stripe.state().locked_out = true;
            }
            shop.lives(DAY + MINUTE).await;
            assert_eq!((shop.letters_of("renewal-soon").await, shop.given_up().await), (0, 0));
            for _ in 0..hours {
                shop.lives(60 * MINUTE).await;
            }
            assert_eq!(shop.letters_of("renewal-soon").await, usize::from(about), "{hours} hours");
            shop.stripe.state().ends.clear();
            shop.stripe.state().locked_out = false;
            shop.lives(6 * MINUTE).await;
            assert_eq!(shop.letters_of("renewal-soon").await, 1, "{hours} hours");
            assert_eq!(shop.letter("renewal-soon").await["about"], about, "{hours} hours");
        })
        .await;
    }
}
