//! The refund of a purchase that came to nothing: sent until it is there, whatever Stripe answers, and told again when it
//! does not arrive.

use serde_json::{Value, json};

use super::*;
use crate::billing::RefundState;

impl Shop {
    /// A person gives the money of an order back.
    async fn refunds(&self, order: &Order) {
        refund(&self.app, order.id, "operator:test").await.unwrap();
        self.work().await;
    }

    /// The refunds that Stripe has made and not failed.
    fn refunds_that_stand(&self) -> Vec<Value> {
        let state = self.stripe.state();
        let stands = |o: &&Value| o["object"] == "refund" && o["status"] != "failed";
        state.objects.values().filter(stands).cloned().collect()
    }

    /// The bank sends a refund back.
    async fn bank_returns(&self, refund: &str) {
        self.stripe.change(refund, |refund| {
            refund["status"] = json!("failed");
            refund["failure_reason"] = json!("expired_or_canceled_card");
        });
        for _ in 0..2 {
            self.deliver("refund.failed", refund).await;
            self.work().await;
        }
    }

    async fn refund_of(&self, order: &Order) -> Option<RefundState> {
        let mut connection = self.app.db.read().await.unwrap();
        billing::refund_state(&mut connection, order.id).await.unwrap()
    }

    /// What the order's page says became of the money.
    async fn money_on_page(&self, order: &Order) -> &'static str {
        let order = self.order(order.id).await;
        let mut connection = self.app.db.read().await.unwrap();
        show::page(&mut connection, &order).await.unwrap().problem.unwrap().money
    }

    /// Somebody gives a part back in Stripe's dashboard.
    async fn gives_by_hand(&self, order: &Order, amount_minor: i64) {
        let subscription = self.stripe.subscription_of(&self.session_of(order).await);
        let by_hand = self.stripe.give_back(&self.stripe.latest_invoice(&subscription), amount_minor);
        self.deliver("refund.created", &by_hand).await;
        self.work().await;
    }
}

#[tokio::test]
async fn a_purchases_refund_that_fails_days_later_rings_and_is_told_to_its_customer() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let order = shop.silent(1).await;
        shop.refunds(&order).await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Refunded);
        assert_eq!((shop.letters_of("order-refunded").await, shop.letters_of("refund-failed").await), (1, 0));
        assert_eq!(shop.money_on_page(&order).await, "refunded");

        shop.passes(5 * DAY).await;
        let made = shop.refunds_that_stand()[0]["id"].as_str().unwrap().to_owned();
        shop.bank_returns(&made).await;
        let rung = shop.alarms().await.into_iter().filter(|(kind, _)| kind == "refund_failed").count();
        assert_eq!((rung, shop.letters_of("refund-failed").await), (1, 1), "each once");
        assert_eq!(shop.letter("refund-failed").await["amount"], crate::web::written_money(900, "eur"));
        assert!(shop.audited(&order).await.contains(&"payment.refund_failed".to_owned()));
        assert_eq!(shop.order(order.id).await.state, OrderState::Refunded, "it stays ended");
        assert_eq!(shop.refund_of(&order).await, Some(RefundState::Failed));
        assert_eq!(shop.money_on_page(&order).await, "not-returned");
        let mut connection = shop.app.db.read().await.unwrap();
        let money = billing::server_money(&mut connection, order.instance).await.unwrap().unwrap();
        assert_eq!(money.creditable_minor, 900, "it can be given as credit");
    })
    .await;
}

#[tokio::test]
async fn news_of_an_attempt_that_failed_before_does_not_undo_the_one_that_worked() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let order = shop.silent(1).await;
        shop.stripe.state().refunds_end = Some("failed");
        shop.refunds(&order).await;
        let failed = {
            let state = shop.stripe.state();
            let made = state.objects.values().find(|o| o["object"] == "refund").unwrap();
            made["id"].as_str().unwrap().to_owned()
        };
        shop.stripe.state().refunds_end = None;
        shop.refunds(&order).await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Refunded);
        shop.passes(DAY).await;
        shop.bank_returns(&failed).await;
        assert_eq!(shop.refund_of(&order).await, Some(RefundState::Succeeded));
        assert!(!shop.rings_for("refund_failed").await);
        assert_eq!(
            (shop.letters_of("refund-failed").await, shop.money_on_page(&order).await),
            (0, "refunded")
        );
    })
    .await;
}

#[tokio::test]
async fn a_refund_that_was_refused_once_is_sent_anew_when_a_person_asks_again() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let order = shop.silent(1).await;
        shop.stripe.state().ends.push(("/refunds", 402));
        shop.refunds(&order).await;
        let refused = shop.order(order.id).await;
        assert_eq!(
            (refused.state, refused.reason.as_deref()),
            (OrderState::NeedsOperator, Some(reason::REFUND_FAILED))
        );
        assert_eq!(shop.refund_of(&order).await, Some(RefundState::Failed));
        shop.passes(MINUTE).await;
        shop.refunds(&order).await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Refunded);
        assert_eq!(shop.ledger(&order), Ledger { paid: 900, returned: 900, running: 0 });
        assert_eq!(shop.refunds_that_stand().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_refund_whose_key_keeps_a_failure_goes_on_under_the_next_one() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let order = shop.silent(1).await;
        shop.stripe.state().ends.push(("/refunds", 500));
        shop.refunds(&order).await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Refunding, "it is on its way");
        shop.passes(2 * MINUTE).await;
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Refunded);
        assert_eq!(shop.ledger(&order), Ledger { paid: 900, returned: 900, running: 0 });
        assert_eq!(shop.refunds_that_stand().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_part_that_somebody_gave_back_is_not_taken_for_the_whole() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let order = shop.silent(1).await;
        shop.gives_by_hand(&order, 300).await;
        // What our call did is not known, so the refunds are looked through: there is one, and it is not ours.
        shop.stripe.state().ends.push(("/refunds", 500));
        shop.refunds(&order).await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Refunding);
        shop.passes(2 * MINUTE).await;
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Refunded);
        assert_eq!(shop.ledger(&order), Ledger { paid: 900, returned: 900, running: 0 });
    })
    .await;
}

#[tokio::test]
async fn all_of_it_given_back_by_hand_in_parts_is_the_whole() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let order = shop.silent(1).await;
        let subscription = shop.stripe.subscription_of(&shop.session_of(&order).await);
        for part in [300, 600] {
            shop.stripe.give_back(&shop.stripe.latest_invoice(&subscription), part);
        }
        shop.refunds(&order).await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Refunded);
        assert_eq!(shop.ledger(&order), Ledger { paid: 900, returned: 900, running: 0 });
        assert_eq!(shop.refunds_that_stand().len(), 2, "none was made");
    })
    .await;
}

#[tokio::test]
async fn a_customer_whose_first_call_came_to_nothing_can_buy_all_the_same() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        for (n, status) in [(1, 402), (2, 500)] {
            let order = place(&shop.app, shop.request(n)).await.unwrap();
            shop.stripe.state().ends.push(("/customers", status));
            assert!(pay(&shop.app, &order).await.is_err(), "{status}");
            pay(&shop.app, &order).await.unwrap();
            let made = shop.stripe.state().objects.values().filter(|o| o["object"] == "customer").count();
            assert_eq!(made, usize::from(n), "{status}: one for each");
        }
    })
    .await;
}

#[tokio::test]
async fn a_gift_is_given_once_whatever_its_first_call_ended_with() {
    for status in [500, 401] {
        db::testing::each_database(async |db| {
            let shop = Shop::open(db, 3).await;
            let served = shop.served(1).await;
            let gift = billing::Gift {
                instance: served.order.instance,
                invoice: None,
                amount_minor: 200,
                reference: "ticket-7".into(),
                reason: "It was down for a day".into(),
            };
            // Whoever presses the button meets it, and so does the job that takes it up.
            let tries = if status == 401 { 2 } else { 1 };
            for path in ["/refunds", "/balance_transactions"] {
                shop.stripe.state().ends.extend([(path, status); 2].into_iter().take(tries));
            }
            assert!(billing::refund_part(&shop.app, &gift, "operator:test").await.is_err());
            assert!(billing::credit(&shop.app, &gift, "operator:test").await.is_err());
            for _ in 0..3 {
                shop.lives(3 * MINUTE).await;
            }
            assert_eq!(
                shop.ledger(&served.order),
                Ledger { paid: 900, returned: 200, running: 1 },
                "{status}"
            );
            let mut connection = shop.app.db.read().await.unwrap();
            let overview = billing::overview(&mut connection, served.order.account).await.unwrap();
            assert_eq!(overview.credit, Some((200, "eur".to_owned())), "{status}");
            let given = billing::given_to(&mut connection, served.order.account).await.unwrap();
            assert!(given.iter().all(|one| one.state == billing::GiftState::Done), "{given:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn credit_that_paid_for_a_purchase_comes_back_with_its_refund() {
    for (credit, money) in [(300, 600), (900, 0)] {
        db::testing::each_database(async |db| {
            let shop = Shop::open(db, 3).await;
            let (order, session) = shop.pay_for(1).await;
            let invoice = shop.stripe.latest_invoice(&shop.stripe.subscription_of(&session));
            let payment = format!("inpay_{}", shop.stripe.intent_of(&invoice));
            shop.stripe.change(&invoice, |invoice| {
                invoice["starting_balance"] = json!(-credit);
                invoice["ending_balance"] = json!(0);
                invoice["amount_paid"] = json!(money);
            });
            if money == 0 {
                shop.stripe.state().objects.remove(&payment);
            }
            shop.deliver("checkout.session.completed", &session).await;
            shop.work().await;
            shop.node_says(&order, 1, EventKind::Accepted, "").await;
            shop.work().await;
            shop.passes(16 * MINUTE).await;
            advance::advance(&shop.app, order.id).await.unwrap();
            // The first refund fails: the credit is given once all the same.
            shop.stripe.state().refunds_end = Some("failed");
            shop.refunds(&order).await;
            shop.stripe.state().refunds_end = None;
            if money > 0 {
                assert_eq!(shop.order(order.id).await.state, OrderState::NeedsOperator);
                shop.refunds(&order).await;
            }
            assert_eq!(shop.order(order.id).await.state, OrderState::Refunded);
            assert_eq!(shop.ledger(&order), Ledger { paid: money, returned: money, running: 0 });
            let mut connection = shop.app.db.read().await.unwrap();
            let overview = billing::overview(&mut connection, order.account).await.unwrap();
            assert_eq!(overview.credit, Some((credit, "eur".to_owned())), "once");
            let letter = shop.letter("order-refunded").await;
            let words =
                |minor| if minor > 0 { crate::web::written_money(minor, "eur") } else { String::new() };
            assert_eq!((&letter["amount"], &letter["credit"]), (&json!(words(money)), &json!(words(credit))));
        })
        .await;
    }
}
