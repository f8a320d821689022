//! Paying: webhooks in every order, lost answers, wrong and late money.

use super::*;

#[tokio::test]
async fn from_the_order_to_a_running_server() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let (order, session) = shop.pay_for(1).await;
        assert_eq!(order.state, OrderState::AwaitingPayment);
        assert!(shop.place_of(&order).await.unwrap().reserved_until.is_some());

        // The same webhook again, and the sibling events of the same payment.
        let body = shop.stripe.event("checkout.session.completed", &session);
        assert_eq!(shop.deliver_body(&body).await, Intake::Stored);
        assert_eq!(shop.deliver_body(&body).await, Intake::Known);
        assert_eq!(shop.deliver("checkout.session.completed", &session).await, Intake::Stored);
        shop.work().await;

        let paid = shop.order(order.id).await;
        assert_eq!(paid.state, OrderState::Provisioning);
        assert!(paid.paid_at.is_some());
        let server = shop.server(&order).await;
        assert_eq!((server.state, server.node), (InstanceState::Provisioning, Some(shop.node.id)));
        assert!(shop.place_of(&order).await.unwrap().reserved_until.is_none(), "paid: the place is fixed");

        shop.node_says(&order, 1, EventKind::Accepted, "").await;
        shop.node_says(&order, 2, EventKind::StepStarted, "clone").await;
        shop.node_says(&order, 3, EventKind::StepDone, "clone").await;
        shop.node_says(&order, 4, EventKind::Succeeded, "").await;
        shop.work().await;

        let done = shop.order(order.id).await;
        assert_eq!(done.state, OrderState::Fulfilled);
        let server = shop.server(&order).await;
        assert_eq!(server.state, InstanceState::Running);
        assert_eq!(server.observed_state.as_deref(), Some("running"));
        assert_eq!(server.host_keys, ["SHA256:abc (ED25519)"]);
        let letters = shop.letters().await;
        assert_eq!(letters.iter().filter(|l| *l == "payment-confirmation").count(), 1, "{letters:?}");
        assert_eq!(letters.iter().filter(|l| *l == "server-ready").count(), 1, "{letters:?}");
        let mut connection = shop.app.db.read().await.unwrap();
        let states: Vec<OrderState> =
            history(&mut connection, order.id).await.unwrap().iter().map(|step| step.to).collect();
        assert_eq!(
            states,
            [OrderState::AwaitingPayment, OrderState::Paid, OrderState::Provisioning, OrderState::Fulfilled]
        );
        let invoices = billing::invoices(&mut connection, order.account).await.unwrap();
        assert_eq!((invoices.len(), invoices[0].total_minor, invoices[0].status.as_str()), (1, 900, "paid"));
        assert_eq!(dispatch::history_of(&mut connection, order.instance).await.unwrap().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_lost_webhook_is_found_by_the_poll_and_by_the_page() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let (order, session) = shop.pay_for(1).await;
        shop.stripe.event("checkout.session.completed", &session);
        let found = billing::poll_events(&shop.app).await.unwrap();
        assert_eq!(found, 1);
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Provisioning);
        assert_eq!(billing::poll_events(&shop.app).await.unwrap(), 0, "the overlap finds nothing new");

        let (order, _) = shop.pay_for(2).await;
        look_at_payment(&shop.app, &order).await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Provisioning);
    })
    .await;
}

#[tokio::test]
async fn an_order_looked_at_again_and_again_asks_stripe_once_in_a_while() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let order = place(&shop.app, shop.request(1)).await.unwrap();
        pay(&shop.app, &order).await.unwrap();
        let session = shop.session_of(&order).await;
        let asked = || shop.stripe.count("GET", &format!("/checkout/sessions/{session}"));
        look_at_payment(&shop.app, &order).await;
        assert_eq!(asked(), 1, "a page that was just opened may be paid already");
        shop.clock.advance(Duration::from_secs(60));
        for _ in 0..5 {
            look_at_payment(&shop.app, &order).await;
        }
        assert_eq!(asked(), 2);
        shop.stripe.pay(&session);
        shop.clock.advance(Duration::from_secs(5));
        look_at_payment(&shop.app, &order).await;
        assert_eq!(asked(), 3);
        assert_eq!(shop.order(order.id).await.state, OrderState::Provisioning);
    })
    .await;
}

#[tokio::test]
async fn a_forged_webhook_leaves_no_row_and_a_crash_after_the_call_makes_no_second_page() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let forged = billing::intake(&shop.app, br#"{"id":"evt_x"}"#, Some("t=1,v1=00")).await.unwrap();
        assert_eq!(forged, Intake::Forged);

        let order = place(&shop.app, shop.request(1)).await.unwrap();
        // The customer is made; then the answer to the page's call is lost, again and again.
        shop.stripe.state().failures.extend([(200, false), (500, true), (500, false), (500, false)]);
        shop.stripe.state().failures.remove(0);
        let url = loop {
            match pay(&shop.app, &order).await {
                Ok(url) => break url,
                Err(error) => assert!(error.is_passing(), "{error:?}"),
            }
        };
        assert_eq!(pay(&shop.app, &order).await.unwrap(), url, "the same page again");
        let pages =
            shop.stripe.state().objects.values().filter(|o| o["object"] == "checkout.session").count();
        assert_eq!(pages, 1);
    })
    .await;
}

#[tokio::test]
async fn twenty_deliveries_at_once_pay_once() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let (order, session) = shop.pay_for(1).await;
        let body = shop.stripe.event("checkout.session.completed", &session);
        let answers = futures::future::join_all((0..20).map(|_| shop.deliver_body(&body))).await;
        assert_eq!(answers.iter().filter(|answer| **answer == Intake::Stored).count(), 1);
        assert_eq!(answers.iter().filter(|answer| **answer == Intake::Known).count(), 19);
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Provisioning);
        let mut connection = shop.app.db.read().await.unwrap();
        assert_eq!(dispatch::history_of(&mut connection, order.instance).await.unwrap().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn the_wrong_money_waits_for_a_person_and_goes_back_after_a_day() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let (order, session) = shop.pay_for(1).await;
        {
            let mut state = shop.stripe.state();
            state.objects.get_mut(&session).unwrap()["amount_total"] = serde_json::json!(1);
        }
        shop.deliver("checkout.session.completed", &session).await;
        shop.work().await;
        let odd = shop.order(order.id).await;
        assert_eq!(
            (odd.state, odd.reason.as_deref()),
            (OrderState::NeedsOperator, Some(reason::PAYMENT_MISMATCH))
        );
        assert!(shop.letters().await.contains(&"order-needs-attention".to_owned()));

        shop.passes(Duration::from_secs(24 * 3_600 + 1)).await;
        advance::advance(&shop.app, order.id).await.unwrap();
        advance::advance(&shop.app, order.id).await.unwrap();
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Refunded);
        assert_eq!(shop.stripe.count("POST", "/refunds"), 1);
        assert_eq!(shop.server(&order).await.state, InstanceState::Released);
        assert!(shop.place_of(&order).await.is_none());
    })
    .await;
}

#[tokio::test]
async fn money_that_comes_after_the_end_is_never_lost() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let order = place(&shop.app, shop.request(1)).await.unwrap();
        pay(&shop.app, &order).await.unwrap();
        let session = shop.session_of(&order).await;
        shop.stripe.let_expire(&session);
        shop.deliver("checkout.session.expired", &session).await;
        shop.work().await;
        // Against all expectation the page was paid after all.
        shop.passes(Duration::from_secs(5)).await;
        shop.stripe.pay(&session);
        shop.deliver("checkout.session.completed", &session).await;
        shop.work().await;
        let late = shop.order(order.id).await;
        assert_eq!(
            (late.state, late.reason.as_deref()),
            (OrderState::NeedsOperator, Some(reason::PAID_TOO_LATE))
        );

        // A person tries: there is room, so it is built.
        retry(&shop.app, order.id, "operator:test").await.unwrap();
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Provisioning);
    })
    .await;
}

#[tokio::test]
async fn a_subscription_stays_as_it_was_read_last_when_its_page_is_done_after_it() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let (order, session) = shop.pay_for(1).await;
        let subscription = shop.stripe.subscription_of(&session);
        let began = shop.app.clock.now();
        shop.stripe.change(&subscription, |subscription| {
            subscription["cancel_at"] = began.plus(Duration::from_secs(20 * 86_400)).as_secs().into();
        });
        shop.clock.advance(Duration::from_secs(5));
        shop.deliver("customer.subscription.updated", &subscription).await;
        shop.work().await;
        // What the reading of the page saw, which began before that.
        shop.stripe.change(&subscription, |subscription| subscription["cancel_at"] = serde_json::Value::Null);
        shop.clock.set(began);
        shop.deliver("checkout.session.completed", &session).await;
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Provisioning);
        let mut connection = shop.app.db.read().await.unwrap();
        let overview = billing::overview(&mut connection, order.account).await.unwrap();
        assert!(overview.paying[0].cancel_at.is_some(), "it is to end");
    })
    .await;
}
