//! What a bank has of our money: nothing of it goes back by us until it has decided, and not twice after.

use super::*;

#[tokio::test]
async fn what_stripe_cancels_for_a_dispute_waits_for_the_bank_all_the_same() {
    for won in [true, false] {
        db::testing::each_database(async |db| {
            let shop = Shop::open(db, 3).await;
            let served = shop.served(1).await;
            let invoice = shop.stripe.renew(&served.subscription, shop.app.clock.now(), true);
            shop.deliver("invoice.paid", &invoice).await;
            shop.deliver("customer.subscription.updated", &served.subscription).await;
            shop.work().await;
            let end = shop.standing(&served).await.next.unwrap().1;
            let dispute = shop.stripe.dispute(&invoice, shop.app.clock.now());
            shop.stripe.change(&served.subscription, |subscription| {
                subscription["status"] = serde_json::json!("canceled");
                subscription["cancellation_details"] = serde_json::json!({"reason": "payment_disputed"});
            });
            shop.deliver("charge.dispute.created", &dispute).await;
            shop.deliver("customer.subscription.deleted", &served.subscription).await;
            shop.work().await;
            shop.node_does(&served, 3, "stopped").await;
            shop.lives(5 * DAY).await;
            assert_eq!(shop.stands(&served).await, (Stand::Suspend, Why::Disputed));
            assert_eq!(shop.wished(&served).await, Service::Suspended, "off, and its disk stays");
            assert!(shop.rings_for("stripe_cancels_disputed").await, "a setting of the dashboard is wrong");
            let decided = if won { "won" } else { "lost" };
            shop.stripe.change(&dispute, |dispute| dispute["status"] = serde_json::json!(decided));
            shop.deliver("charge.dispute.closed", &dispute).await;
            shop.work().await;
            shop.lives(MINUTE).await;
            if won {
                let standing = shop.standing(&served).await;
                assert_eq!((standing.stand, standing.next), (Stand::Run, Some((billing::Step::End, end))));
                assert_eq!(shop.wished(&served).await, Service::Active);
                shop.node_does(&served, 4, "running").await;
                shop.lives(end.since(shop.app.clock.now()) + MINUTE).await;
                shop.lives(MINUTE).await;
            }
            assert_eq!(shop.stands(&served).await.0, Stand::End);
            assert_eq!(shop.node_was_told(&served).await, "retire");
        })
        .await;
    }
}

#[tokio::test]
async fn a_purchase_that_is_disputed_goes_back_once_by_us_or_by_the_bank() {
    for (decided, returned) in [("lost", 0), ("won", 900)] {
        db::testing::each_database(async |db| {
            let shop = Shop::open(db, 3).await;
            let (order, session) = shop.pay_for(1).await;
            let invoice = shop.stripe.latest_invoice(&shop.stripe.subscription_of(&session));
            let dispute = shop.stripe.dispute(&invoice, shop.app.clock.now());
            shop.deliver("charge.dispute.created", &dispute).await;
            shop.work().await;
            shop.deliver("checkout.session.completed", &session).await;
            shop.work().await;
            assert_eq!(shop.order(order.id).await.state, OrderState::NeedsOperator);
            // Nobody decides, so it is to be refunded; that cannot be while the bank has it.
            for _ in 0..3 {
                shop.lives(DAY + MINUTE).await;
                shop.work().await;
            }
            assert_eq!(shop.order(order.id).await.state, OrderState::Refunding);
            assert_eq!(shop.stripe.count("POST", "/refunds"), 0);
            shop.stripe.change(&dispute, |dispute| dispute["status"] = serde_json::json!(decided));
            shop.deliver("charge.dispute.closed", &dispute).await;
            shop.work().await;
            shop.lives(2 * MINUTE).await;
            assert_eq!(shop.order(order.id).await.state, OrderState::Refunded, "{decided}");
            assert_eq!(shop.ledger(&order), Ledger { paid: 900, returned, running: 0 }, "{decided}");
            let by_bank = decided == "lost";
            let letters =
                (shop.letters_of("order-returned-by-bank").await, shop.letters_of("order-refunded").await);
            assert_eq!(letters, (usize::from(by_bank), usize::from(!by_bank)), "{decided}");
            let page = shop.money_on_page(&order).await;
            assert_eq!(page, if by_bank { "by-bank" } else { "refunded" });
            if by_bank {
                let told = shop.letter("order-returned-by-bank").await;
                assert_eq!(told["amount"], crate::web::written_money(900, "eur"));
                let read = shop.app.templates.letter("order-returned-by-bank", &told).unwrap();
                for words in [&read.text, &read.html] {
                    assert!(words.contains("Nothing more comes from us"), "we have sent nothing: {words}");
                }
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_bank_that_only_asks_has_taken_nothing_and_a_refund_answers_it() {
    for asks in ["warning_needs_response", "warning_under_review"] {
        db::testing::each_database(async |db| {
            let shop = Shop::open(db, 3).await;
            let served = shop.served(1).await;
            let invoice = shop.stripe.latest_invoice(&served.subscription);
            let dispute = shop.stripe.dispute(&invoice, shop.app.clock.now());
            shop.stripe.change(&dispute, |dispute| dispute["status"] = serde_json::json!(asks));
            shop.deliver("charge.dispute.created", &dispute).await;
            shop.work().await;
            assert_eq!(shop.stands(&served).await, (Stand::Suspend, Why::Disputed), "{asks}");
            let gift = billing::Gift {
                instance: served.order.instance,
                invoice: None,
                amount_minor: 300,
                reference: "ticket-7".into(),
                reason: "It was down for a day".into(),
            };
            billing::refund_part(&shop.app, &gift, "operator:test").await.unwrap();
            assert_eq!(shop.ledger(&served.order), Ledger { paid: 900, returned: 300, running: 1 }, "{asks}");
        })
        .await;
    }
}

#[tokio::test]
async fn nothing_of_a_disputed_payment_is_given_by_hand() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let gift = |reference: &str| billing::Gift {
            instance: served.order.instance,
            invoice: None,
            amount_minor: 300,
            reference: reference.into(),
            reason: "It was down for a day".into(),
        };
        let invoice = shop.stripe.latest_invoice(&served.subscription);
        let dispute = shop.stripe.dispute(&invoice, shop.app.clock.now());
        // Stripe knows first.
        for reference in ["a", "b"] {
            let refused = billing::refund_part(&shop.app, &gift(reference), "operator:test").await;
            let said = refused.unwrap_err();
            assert!(matches!(said, billing::BillingError::Disputed), "{said:?}");
            assert!(said.to_string().contains("Answer the dispute"), "what to do: {said}");
            shop.deliver("charge.dispute.created", &dispute).await;
            shop.work().await;
        }
        assert_eq!(shop.stripe.count("POST", "/refunds"), 1, "known, it is not asked for");
        shop.stripe.change(&dispute, |dispute| dispute["status"] = serde_json::json!("won"));
        shop.deliver("charge.dispute.closed", &dispute).await;
        shop.work().await;
        billing::refund_part(&shop.app, &gift("c"), "operator:test").await.unwrap();
    })
    .await;
}
