//! Before the money: sold out, too many, never paid.

use ez_protocol::order::Recipe;

use super::*;

#[tokio::test]
async fn what_is_sold_out_is_said_before_paying_and_places_come_back() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 1).await;
        let order = place(&shop.app, shop.request(1)).await.unwrap();
        let refused = place(&shop.app, shop.request(2)).await.unwrap_err();
        assert!(matches!(refused, PlaceError::NoPlace(NoPlace::SoldOut | NoPlace::AllTried)), "{refused:?}");

        // The page runs out: Stripe says so, and only then the place is free again.
        pay(&shop.app, &order).await.unwrap();
        let session = shop.session_of(&order).await;
        shop.stripe.let_expire(&session);
        shop.deliver("checkout.session.expired", &session).await;
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Expired);
        assert_eq!(shop.server(&order).await.state, InstanceState::Released);
        let second = place(&shop.app, shop.request(2)).await.unwrap();
        assert!(cancel(&shop.app, &second).await.unwrap());
        assert_eq!(shop.order(second.id).await.state, OrderState::Cancelled);
        place(&shop.app, shop.request(3)).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_account_holds_three_unpaid_orders_and_prices_are_those_seen() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 9).await;
        for _ in 0..3 {
            place(&shop.app, shop.request(1)).await.unwrap();
        }
        assert!(matches!(place(&shop.app, shop.request(1)).await, Err(PlaceError::TooManyUnpaid)));
        let changed = PlaceRequest { quoted_minor: Some(800), ..shop.request(2) };
        assert!(matches!(place(&shop.app, changed).await, Err(PlaceError::QuoteChanged(900))));
        let keyless = PlaceRequest { ssh_keys: Vec::new(), ..shop.request(2) };
        assert!(matches!(place(&shop.app, keyless).await, Err(PlaceError::NoKey)));
        let setup = crate::orders::Setup { recipes: vec![Recipe::Docker], ..Default::default() };
        let not_offered = PlaceRequest { setup, ..shop.request(2) };
        assert!(matches!(place(&shop.app, not_offered).await, Err(PlaceError::Recipe(Recipe::Docker))));
    })
    .await;
}

#[tokio::test]
async fn an_order_nobody_ever_paid_gives_its_place_back_on_time() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 2).await;
        let never_opened = place(&shop.app, shop.request(1)).await.unwrap();
        let opened = place(&shop.app, shop.request(2)).await.unwrap();
        pay(&shop.app, &opened).await.unwrap();
        shop.passes(Duration::from_secs(31 * 60)).await;
        for order in [&never_opened, &opened] {
            let again = advance::advance(&shop.app, order.id).await.unwrap();
            assert_eq!(again, Some(advance::unpaid_due(order)), "not before its time");
        }
        shop.passes(Duration::from_secs(61)).await;
        for order in [&never_opened, &opened] {
            advance::advance(&shop.app, order.id).await.unwrap();
        }
        shop.work().await;
        for order in [&never_opened, &opened] {
            assert_eq!(shop.order(order.id).await.state, OrderState::Expired);
            assert!(shop.place_of(order).await.is_none());
        }
        let refused = pay(&shop.app, &shop.order(opened.id).await).await;
        assert!(matches!(refused, Err(billing::BillingError::Over)));
    })
    .await;
}

#[tokio::test]
async fn what_came_of_a_payment_page_is_taken_over_though_the_job_that_tells_it_is_lost() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let run_out = place(&shop.app, shop.request(1)).await.unwrap();
        pay(&shop.app, &run_out).await.unwrap();
        shop.stripe.let_expire(&shop.session_of(&run_out).await);
        let (paid, _) = shop.pay_for(2).await;
        let (odd, session) = shop.pay_for(3).await;
        shop.stripe.change(&session, |session| session["currency"] = "usd".into());
        let ends = [
            (&run_out, billing::CHECKOUT_EXPIRED, CheckoutState::Expired, OrderState::Expired),
            (&paid, billing::PAYMENT_SETTLED, CheckoutState::Settled, OrderState::Paid),
            (&odd, billing::PAYMENT_SUSPICIOUS, CheckoutState::Suspicious, OrderState::NeedsOperator),
        ];
        for (order, job, came_of_it, _) in ends {
            let id = order.id;
            assert_eq!(billing::sync_checkout(&shop.app, id).await.unwrap(), came_of_it);
            let lost = shop.app.db.write::<_, db::DbError, _>(move |tx| {
                Box::pin(async move { jobs::cancel(tx, job, &id.to_string()).await })
            });
            lost.await.unwrap();
            assert_eq!(shop.order(id).await.state, OrderState::AwaitingPayment);
        }
        shop.passes(Duration::from_secs(33 * 60)).await;
        for (order, _, _, end) in ends {
            advance::advance(&shop.app, order.id).await.unwrap();
            assert_eq!(shop.order(order.id).await.state, end);
        }
        assert!(shop.place_of(&run_out).await.is_none(), "its place is free again");
        shop.work().await;
        assert_eq!(shop.order(paid.id).await.state, OrderState::Provisioning);
    })
    .await;
}

#[tokio::test]
async fn a_payment_that_takes_days_is_waited_for_and_one_that_fails_holds_nothing_any_more() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 2).await;
        let slow = async |n: u8| {
            let order = place(&shop.app, shop.request(n)).await.unwrap();
            pay(&shop.app, &order).await.unwrap();
            let session = shop.session_of(&order).await;
            let invoice = shop.stripe.pay_slowly(&session);
            shop.deliver("checkout.session.completed", &session).await;
            shop.work().await;
            (order, session, invoice)
        };
        let (arrives, paid, invoice) = slow(1).await;
        let (fails, unpaid, owed) = slow(2).await;
        shop.passes(Duration::from_secs(2 * 24 * 60 * 60)).await;
        for order in [&arrives, &fails] {
            advance::advance(&shop.app, order.id).await.unwrap();
            shop.work().await;
            assert_eq!(shop.order(order.id).await.state, OrderState::AwaitingPayment);
            assert!(shop.place_of(order).await.is_some(), "its place is kept");
        }
        shop.stripe.pay_invoice(&invoice);
        shop.stripe.change(&paid, |session| session["payment_status"] = "paid".into());
        shop.deliver("checkout.session.async_payment_succeeded", &paid).await;
        let intent = shop.stripe.intent_of(&owed);
        shop.stripe.change(&intent, |intent| intent["status"] = "requires_payment_method".into());
        shop.deliver("checkout.session.async_payment_failed", &unpaid).await;
        shop.work().await;
        assert_eq!(shop.order(arrives.id).await.state, OrderState::Provisioning);
        assert_eq!(shop.order(fails.id).await.state, OrderState::Expired);
        assert!(shop.place_of(&fails).await.is_none());
        assert_eq!(shop.ledger(&fails), Ledger::default(), "nothing will be charged");
        assert_eq!(shop.stripe.state().objects[&owed]["status"], "void", "nor can be paid");
    })
    .await;
}

#[tokio::test]
async fn an_order_whose_cancelling_was_cut_off_ends_as_cancelled() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let order = place(&shop.app, shop.request(1)).await.unwrap();
        pay(&shop.app, &order).await.unwrap();
        let session = shop.session_of(&order).await;
        // The wish is written, Stripe closes the page, the process dies before the order moves.
        let (id, actor) = (order.id, format!("user:{}", order.user));
        shop.app
            .db
            .write(move |tx| Box::pin(async move { store::want_cancel(tx, id, &actor).await }))
            .await
            .unwrap();
        shop.stripe.let_expire(&session);
        shop.deliver("checkout.session.expired", &session).await;
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Cancelled);
        let mut connection = shop.app.db.read().await.unwrap();
        let last = history(&mut connection, order.id).await.unwrap().pop().unwrap();
        assert_eq!(last.cause, "customer_cancelled");
        drop(connection);
        // Without a wish it runs out.
        let order = place(&shop.app, shop.request(1)).await.unwrap();
        pay(&shop.app, &order).await.unwrap();
        let session = shop.session_of(&order).await;
        shop.stripe.let_expire(&session);
        shop.deliver("checkout.session.expired", &session).await;
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Expired);
        // One whose page is closed at once is cancelled, whichever job looks first.
        let order = place(&shop.app, shop.request(1)).await.unwrap();
        pay(&shop.app, &order).await.unwrap();
        assert!(cancel(&shop.app, &order).await.unwrap());
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Cancelled);
    })
    .await;
}
