//! Paid twice: the second payment is told, written down and given back; the order keeps the first.

use super::*;

const PAID_TWICE: &str = "paid_twice";

impl Shop {
    async fn rings(&self) -> bool {
        self.alarms().await.iter().any(|(kind, _)| kind == PAID_TWICE)
    }
}

#[tokio::test]
async fn a_second_payment_of_the_same_order_goes_back_by_itself() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let (order, session) = shop.pay_for(1).await;
        shop.deliver("checkout.session.completed", &session).await;
        shop.work().await;
        let second = shop.stripe.second_page(&session);
        shop.stripe.pay(&second);
        assert_eq!(shop.ledger(&order), Ledger { paid: 1_800, returned: 0, running: 2 });

        // Told three times, in any order with its subscription and invoice: once in effect.
        let (subscription, invoice) = {
            let state = shop.stripe.state();
            let word = |key: &str| state.objects[&second][key].as_str().unwrap().to_owned();
            (word("subscription"), word("invoice"))
        };
        shop.deliver("customer.subscription.created", &subscription).await;
        shop.deliver("invoice.paid", &invoice).await;
        let body = shop.stripe.event("checkout.session.completed", &second);
        for _ in 0..2 {
            shop.deliver_body(&body).await;
            shop.deliver("checkout.session.completed", &second).await;
        }
        shop.work().await;
        assert_eq!(shop.ledger(&order), Ledger { paid: 1_800, returned: 900, running: 1 });
        assert_eq!(shop.stripe.count("POST", "/refunds"), 1);
        assert!(!shop.rings().await, "given back: nothing left to do");
        let audited = shop.audited(&order).await;
        for action in ["payment.surplus_found", "payment.surplus_returned"] {
            assert_eq!(audited.iter().filter(|row| *row == action).count(), 1, "{audited:?}");
        }
        shop.node_says(&order, 1, EventKind::Succeeded, "").await;
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Fulfilled, "the order is none the wiser");
        let mut connection = shop.app.db.read().await.unwrap();
        assert_eq!(billing::refund_state(&mut connection, order.id).await.unwrap(), None);
        drop(connection);
        // Nor does it keep a comparison from coming out even.
        let first = billing::reconcile(&shop.app).await.unwrap();
        assert_eq!((first.left, &first.failed[..]), (0, &[][..]), "{first:?}");
        assert_eq!(billing::reconcile(&shop.app).await.unwrap().differences, vec![]);
    })
    .await;
}

#[tokio::test]
async fn the_subscription_of_the_second_page_may_be_announced_before_the_first_is_settled() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let (order, session) = shop.pay_for(1).await;
        let second = shop.stripe.second_page(&session);
        shop.stripe.pay(&second);
        let subscription = shop.stripe.state().objects[&second]["subscription"].as_str().unwrap().to_owned();
        shop.deliver("customer.subscription.created", &subscription).await;
        shop.work().await;
        shop.deliver("checkout.session.completed", &session).await;
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Provisioning, "paid by the first page");
        shop.deliver("checkout.session.completed", &second).await;
        shop.work().await;
        assert_eq!(shop.ledger(&order), Ledger { paid: 1_800, returned: 900, running: 1 });
    })
    .await;
}

#[tokio::test]
async fn a_second_payment_that_cannot_go_back_yet_rings_and_is_tried_every_day() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let (order, session) = shop.pay_for(1).await;
        shop.deliver("checkout.session.completed", &session).await;
        shop.work().await;
        let second = shop.stripe.second_page(&session);
        shop.stripe.pay(&second);
        shop.stripe.state().refunds_end = Some("failed");
        shop.deliver("checkout.session.completed", &second).await;
        shop.work().await;
        assert!(shop.rings().await);
        assert_eq!(shop.ledger(&order), Ledger { paid: 1_800, returned: 0, running: 1 });

        shop.stripe.state().refunds_end = Some("pending");
        shop.passes(Duration::from_secs(24 * 3_600)).await;
        shop.work().await;
        assert!(shop.rings().await, "on its way is not there");
        {
            let mut state = shop.stripe.state();
            let waits =
                state.objects.values_mut().find(|o| o["object"] == "refund" && o["status"] == "pending");
            waits.unwrap()["status"] = serde_json::json!("succeeded");
        }
        shop.passes(Duration::from_secs(5 * 60)).await;
        shop.work().await;
        assert!(!shop.rings().await);
        assert_eq!(shop.ledger(&order), Ledger { paid: 1_800, returned: 900, running: 1 });
        assert_eq!(shop.stripe.count("POST", "/refunds"), 2);
    })
    .await;
}

/// A key of ours that is wrong for a minute, a refusal, and a failure that Stripe keeps under the call's key.
#[tokio::test]
async fn a_second_payment_goes_back_whatever_the_first_call_ended_with() {
    for (status, again) in [(401, 5 * 60), (402, 24 * 3_600), (500, 60)] {
        db::testing::each_database(async |db| {
            let shop = Shop::open(db, 3).await;
            let (order, session) = shop.pay_for(1).await;
            shop.deliver("checkout.session.completed", &session).await;
            shop.work().await;
            let second = shop.stripe.second_page(&session);
            shop.stripe.pay(&second);
            shop.stripe.state().ends.push(("/refunds", status));
            shop.deliver("checkout.session.completed", &second).await;
            shop.work().await;
            assert!(shop.rings().await, "{status}");
            assert_eq!(shop.ledger(&order), Ledger { paid: 1_800, returned: 0, running: 1 }, "{status}");
            shop.passes(Duration::from_secs(again)).await;
            shop.work().await;
            assert_eq!(shop.ledger(&order), Ledger { paid: 1_800, returned: 900, running: 1 }, "{status}");
            assert!(!shop.rings().await, "{status}: given back");
        })
        .await;
    }
}

/// Whoever pays twice may ask the bank instead of us.
#[tokio::test]
async fn a_second_payment_that_is_disputed_waits_for_the_bank_and_costs_no_server() {
    for (told_before, decided, returned) in [(true, "lost", 0), (false, "lost", 0), (false, "won", 900)] {
        db::testing::each_database(async |db| {
            let shop = Shop::open(db, 3).await;
            let (order, session) = shop.pay_for(1).await;
            shop.deliver("checkout.session.completed", &session).await;
            shop.work().await;
            shop.node_says(&order, 1, EventKind::Accepted, "").await;
            shop.node_says(&order, 2, EventKind::Succeeded, "").await;
            shop.work().await;
            let second = shop.stripe.second_page(&session);
            shop.stripe.pay(&second);
            let invoice = shop.stripe.latest_invoice(&shop.stripe.subscription_of(&second));
            let dispute = shop.stripe.dispute(&invoice, shop.app.clock.now());
            if told_before {
                shop.deliver("charge.dispute.created", &dispute).await;
                shop.work().await;
            }
            shop.deliver("checkout.session.completed", &second).await;
            shop.work().await;
            for _ in 0..3 {
                shop.passes(Duration::from_secs(24 * 3_600)).await;
                shop.work().await;
            }
            let asked = usize::from(!told_before);
            assert_eq!(
                shop.stripe.count("POST", "/refunds"),
                asked,
                "what the bank has is not asked for again"
            );
            let stands = async || {
                let mut connection = shop.app.db.read().await.unwrap();
                billing::standing_of(&mut connection, order.id).await.unwrap().unwrap().stand
            };
            assert_eq!(stands().await, billing::Stand::Run, "what is served is paid");
            shop.stripe.change(&dispute, |dispute| dispute["status"] = serde_json::json!(decided));
            shop.deliver("charge.dispute.closed", &dispute).await;
            shop.work().await;
            assert_eq!(shop.ledger(&order), Ledger { paid: 1_800, returned, running: 1 }, "{decided}");
            assert!(!shop.rings().await, "{decided}: nothing left to do");
            assert_eq!(stands().await, billing::Stand::Run, "{decided}");
            let audited = shop.audited(&order).await;
            let times = |action: &str| audited.iter().filter(|row| *row == action).count();
            assert_eq!(times("payment.surplus_returned"), 1, "{audited:?}");
            assert_eq!(times("payment.surplus_not_returned"), 0, "{audited:?}");
        })
        .await;
    }
}

/// The refusal tells of the dispute before any news does.
#[tokio::test]
async fn a_refund_that_is_refused_for_a_dispute_waits_for_the_bank() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let order = place(&shop.app, shop.request(1)).await.unwrap();
        pay(&shop.app, &order).await.unwrap();
        let session = shop.session_of(&order).await;
        shop.stripe.let_expire(&session);
        shop.deliver("checkout.session.expired", &session).await;
        shop.work().await;
        let ended = shop.order(order.id).await;
        again::again(&shop.app, &ended, &customer(1)).await.unwrap().unwrap();
        shop.stripe.pay(&session);
        let invoice = shop.stripe.latest_invoice(&shop.stripe.subscription_of(&session));
        let dispute = shop.stripe.dispute(&invoice, shop.app.clock.now());
        shop.passes(Duration::from_secs(5)).await;
        shop.deliver("checkout.session.completed", &session).await;
        shop.work().await;
        for _ in 0..5 {
            shop.passes(Duration::from_secs(60)).await;
            shop.work().await;
        }
        assert_eq!(shop.order(order.id).await.state, OrderState::Refunding, "nobody is asked for it");
        assert_eq!(shop.stripe.count("POST", "/refunds"), 1);
        shop.stripe.change(&dispute, |dispute| dispute["status"] = serde_json::json!("lost"));
        shop.deliver("charge.dispute.closed", &dispute).await;
        shop.work().await;
        shop.passes(Duration::from_secs(60)).await;
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Refunded);
        assert_eq!(shop.ledger(&order), Ledger { paid: 900, returned: 0, running: 0 });
        assert!(!shop.rings().await);
    })
    .await;
}

#[tokio::test]
async fn a_second_payment_whose_invoice_is_not_paid_is_not_told_as_given_back() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let (order, session) = shop.pay_for(1).await;
        shop.deliver("checkout.session.completed", &session).await;
        shop.work().await;
        let second = shop.stripe.second_page(&session);
        shop.stripe.pay(&second);
        let invoice = shop.stripe.latest_invoice(&shop.stripe.subscription_of(&second));
        let payment = format!("inpay_{}", shop.stripe.intent_of(&invoice));
        shop.stripe.change(&payment, |payment| payment["status"] = "open".into());
        shop.stripe.change(&invoice, |invoice| {
            invoice["status"] = "void".into();
            invoice["amount_paid"] = 0.into();
        });
        shop.deliver("checkout.session.completed", &second).await;
        shop.work().await;
        assert!(shop.rings().await, "a person looks at it");
        assert!(!shop.audited(&order).await.contains(&"payment.surplus_returned".to_owned()));
    })
    .await;
}

#[tokio::test]
async fn a_late_payment_goes_back_at_once_when_the_same_was_ordered_again() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let order = place(&shop.app, shop.request(1)).await.unwrap();
        pay(&shop.app, &order).await.unwrap();
        let session = shop.session_of(&order).await;
        shop.stripe.let_expire(&session);
        shop.deliver("checkout.session.expired", &session).await;
        shop.work().await;
        let ended = shop.order(order.id).await;
        let newer = again::again(&shop.app, &ended, &customer(1)).await.unwrap().unwrap();
        pay(&shop.app, &newer).await.unwrap();

        shop.stripe.pay(&session);
        shop.passes(Duration::from_secs(5)).await;
        shop.stripe.state().refunds_end = Some("pending");
        shop.deliver("checkout.session.completed", &session).await;
        shop.work().await;
        let late = shop.order(order.id).await;
        assert_eq!((late.state, late.reason.as_deref()), (OrderState::Refunding, Some(reason::PAID_TWICE)));
        assert!(shop.rings().await);
        assert!(shop.audited(&order).await.contains(&"order.payment_surplus".to_owned()));
        let refund = {
            let mut state = shop.stripe.state();
            let made = state.objects.values_mut().find(|o| o["object"] == "refund").unwrap();
            made["status"] = serde_json::json!("succeeded");
            made["id"].as_str().unwrap().to_owned()
        };
        shop.deliver("refund.updated", &refund).await;
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Refunded);
        assert!(!shop.rings().await);
        assert_eq!(shop.ledger(&order), Ledger { paid: 900, returned: 900, running: 0 });

        // The newer one goes its way.
        let session = shop.session_of(&newer).await;
        shop.stripe.pay(&session);
        shop.deliver("checkout.session.completed", &session).await;
        shop.work().await;
        assert_eq!(shop.order(newer.id).await.state, OrderState::Provisioning);
        assert_eq!(shop.ledger(&newer), Ledger { paid: 900, returned: 0, running: 1 });
    })
    .await;
}
