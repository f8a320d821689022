//! The refund of a purchase that came to nothing: sent until it is there, whatever Stripe answers, and told again when it
//! does not arrive.

use serde_json::{Value, json};

use super::*;
use crate::billing::RefundState;

/// A sum as letters write it; nothing is no word.
fn words(minor: i64) -> Value {
    json!(if minor > 0 { crate::web::written_money(minor, "eur") } else { String::new() })
}

fn small_gift(served: &Served) -> billing::Gift {
    billing::Gift {
        instance: served.order.instance,
        invoice: None,
        amount_minor: 200,
        reference: "ticket-7".into(),
        reason: "It was down for a day".into(),
    }
}

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

    /// The one refund that Stripe has in a state.
    fn refund_that(&self, status: &str) -> String {
        let state = self.stripe.state();
        let mut made = state.objects.values().filter(|o| o["object"] == "refund" && o["status"] == status);
        let id = made.next().unwrap()["id"].as_str().unwrap().to_owned();
        assert!(made.next().is_none(), "{status}: one");
        id
    }

    /// A purchase is paid partly with credit. Gives its invoice.
    fn credit_pays(&self, session: &str, credit: i64, money: i64) -> String {
        let invoice = self.stripe.latest_invoice(&self.stripe.subscription_of(session));
        self.stripe.change(&invoice, |invoice| {
            invoice["starting_balance"] = json!(-credit);
            invoice["ending_balance"] = json!(0);
            invoice["amount_paid"] = json!(money);
        });
        invoice
    }

    /// What an account has as credit; minor units.
    async fn credit_of(&self, order: &Order) -> i64 {
        let mut connection = self.app.db.read().await.unwrap();
        let overview = billing::overview(&mut connection, order.account).await.unwrap();
        overview.credit.map_or(0, |(minor, _)| minor)
    }

    /// What the letter of a refund says of money and credit.
    async fn told_as_returned(&self) -> (Value, Value) {
        let letter = self.letter("order-refunded").await;
        (letter["amount"].clone(), letter["credit"].clone())
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
    pub(super) async fn money_on_page(&self, order: &Order) -> &'static str {
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
        let failed = shop.refund_that("failed");
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
async fn news_of_an_attempt_that_failed_before_does_not_end_one_that_is_on_its_way() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let order = shop.silent(1).await;
        shop.stripe.state().refunds_end = Some("failed");
        shop.refunds(&order).await;
        let failed = shop.refund_that("failed");
        shop.passes(MINUTE).await;
        // The next one is wanted, and its first call comes to nothing.
        shop.stripe.state().refunds_end = Some("pending");
        shop.stripe.state().ends.push(("/refunds", 500));
        shop.refunds(&order).await;
        for state in [RefundState::Wanted, RefundState::Pending] {
            shop.bank_returns(&failed).await;
            assert_eq!(
                (shop.order(order.id).await.state, shop.refund_of(&order).await),
                (OrderState::Refunding, Some(state))
            );
            shop.passes(2 * MINUTE).await;
            shop.work().await;
        }
        let made = shop.refund_that("pending");
        shop.stripe.change(&made, |refund| refund["status"] = json!("succeeded"));
        shop.deliver("refund.updated", &made).await;
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Refunded);
        assert_eq!(shop.ledger(&order), Ledger { paid: 900, returned: 900, running: 0 });
        assert_eq!(shop.letters_of("refund-failed").await, 0);
    })
    .await;
}

#[tokio::test]
async fn one_made_by_hand_that_fails_after_it_counted_as_ours_is_made_anew() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let order = shop.silent(1).await;
        let subscription = shop.stripe.subscription_of(&shop.session_of(&order).await);
        let by_hand = shop.stripe.give_back(&shop.stripe.latest_invoice(&subscription), 900);
        shop.stripe.change(&by_hand, |refund| refund["status"] = json!("pending"));
        shop.refunds(&order).await;
        assert_eq!(
            (shop.order(order.id).await.state, shop.refund_of(&order).await),
            (OrderState::Refunding, Some(RefundState::Pending))
        );
        // Its news is lost: who waits for it looks.
        shop.stripe.change(&by_hand, |refund| refund["status"] = json!("failed"));
        shop.passes(2 * MINUTE).await;
        shop.work().await;
        let asks = shop.order(order.id).await;
        assert_eq!(
            (asks.state, asks.reason.as_deref()),
            (OrderState::NeedsOperator, Some(reason::REFUND_FAILED))
        );
        shop.passes(MINUTE).await;
        shop.refunds(&order).await;
        shop.bank_returns(&by_hand).await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Refunded);
        assert_eq!(shop.ledger(&order), Ledger { paid: 900, returned: 900, running: 0 });
        assert!(!shop.rings_for("refund_failed").await, "nobody gives it once more");
    })
    .await;
}

#[tokio::test]
async fn a_key_of_ours_that_is_wrong_for_a_while_ends_no_refund() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let order = shop.silent(1).await;
        shop.stripe.state().ends.push(("/refunds", 401));
        shop.refunds(&order).await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Refunding, "nobody has to ask again");
        shop.passes(2 * MINUTE).await;
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Refunded);
        assert_eq!(shop.ledger(&order), Ledger { paid: 900, returned: 900, running: 0 });
        assert_eq!(shop.refunds_that_stand().len(), 1);
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
        assert_eq!(shop.told_as_returned().await, (words(900), words(0)), "and is told as the whole");
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
            if status == 500 {
                // It may have been made: it is looked for before another one is.
                shop.passes(MINUTE).await;
                assert!(pay(&shop.app, &order).await.is_err());
            }
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
            let gift = small_gift(&served);
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
            assert_eq!(shop.credit_of(&served.order).await, 200, "{status}");
            let mut connection = shop.app.db.read().await.unwrap();
            let given = billing::given_to(&mut connection, served.order.account).await.unwrap();
            assert!(given.iter().all(|one| one.state == billing::GiftState::Done), "{given:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn only_the_invoice_whose_money_went_back_is_shown_as_refunded() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let order = shop.silent(1).await;
        let subscription = shop.stripe.subscription_of(&shop.session_of(&order).await);
        let bought = shop.stripe.latest_invoice(&subscription);
        let renewed = shop.stripe.renew(&subscription, shop.app.clock.now(), true);
        shop.deliver("invoice.paid", &renewed).await;
        shop.work().await;
        let states = async || {
            let mut connection = shop.app.db.read().await.unwrap();
            let invoices = billing::invoices(&mut connection, order.account).await.unwrap();
            let of = |id: &str| invoices.iter().find(|known| known.id == id).unwrap().status.clone();
            (of(&bought), of(&renewed))
        };
        let both = |bought: &str, renewed: &str| (bought.to_owned(), renewed.to_owned());
        // A part is not the whole.
        let part = shop.stripe.give_back(&renewed, 899);
        shop.deliver("refund.created", &part).await;
        shop.work().await;
        assert_eq!(states().await, both("paid", "paid"));
        shop.refunds(&order).await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Refunded);
        assert_eq!(states().await, both("refunded", "paid"));
    })
    .await;
}

/// A transfer that somebody noted in Stripe's dashboard, and an invoice that two payments paid.
#[tokio::test]
async fn what_was_not_paid_with_one_payment_at_stripe_is_not_given_from_here_and_holds_no_sum() {
    for payments in [0, 2] {
        db::testing::each_database(async |db| {
            let shop = Shop::open(db, 3).await;
            let served = shop.served(1).await;
            let invoice = shop.stripe.latest_invoice(&served.subscription);
            let payment = format!("inpay_{}", shop.stripe.intent_of(&invoice));
            {
                let mut state = shop.stripe.state();
                let paid = state.objects.remove(&payment).unwrap();
                for n in 0..payments {
                    let id = format!("inpay_part_{n}");
                    let mut part = paid.clone();
                    part["id"] = json!(id);
                    part["payment"]["payment_intent"] = json!(format!("pi_part_{n}"));
                    state.objects.insert(id, part);
                }
            }
            let refused = billing::refund_part(&shop.app, &small_gift(&served), "operator:test").await;
            let said = refused.unwrap_err();
            assert!(matches!(said, billing::BillingError::ByHand(_)), "{said:?}");
            let what_to_do = if payments == 0 { "the way it came" } else { "Stripe's dashboard" };
            assert!(said.to_string().contains(what_to_do), "{said}");
            shop.lives(3 * MINUTE).await;
            let money = {
                let mut connection = shop.app.db.read().await.unwrap();
                billing::server_money(&mut connection, served.order.instance).await.unwrap().unwrap()
            };
            assert_eq!((money.invoices[0].left_minor, money.creditable_minor), (900, 900));
            assert_eq!(money.given[0].state, billing::GiftState::Refused);
            assert_eq!(shop.stripe.count("POST", "/refunds"), 0);
            // It may be credited instead.
            let credit = billing::Gift { amount_minor: 900, ..small_gift(&served) };
            billing::credit(&shop.app, &credit, "operator:test").await.unwrap();
        })
        .await;
    }
}

#[tokio::test]
async fn a_gift_that_stripe_lists_late_is_not_given_again() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        let gift = small_gift(&served);
        let keys = || {
            let state = shop.stripe.state();
            let sent = state.calls.iter().filter(|call| call.method == "POST");
            let sent = sent.filter(|call| call.path.ends_with("/balance_transactions"));
            sent.map(|call| call.key.clone()).collect::<std::collections::BTreeSet<_>>().len()
        };
        shop.stripe.state().ends.push(("/balance_transactions", 500));
        for _ in 0..2 {
            assert!(billing::credit(&shop.app, &gift, "operator:test").await.is_err());
        }
        assert_eq!(keys(), 1, "it may be there in a moment");
        shop.lives(3 * MINUTE).await;
        let order = served.order.id;
        {
            let mut state = shop.stripe.state();
            let customer = state.objects[&served.subscription]["customer"].clone();
            let listed = json!({
                "id": "cbtxn_late", "object": "customer_balance_transaction", "amount": -200, "customer": customer,
                "metadata": {"goodwill": format!("{order}:credit:ticket-7")},
            });
            state.objects.insert("cbtxn_late".into(), listed);
        }
        for _ in 0..2 {
            shop.lives(3 * MINUTE).await;
        }
        assert_eq!(keys(), 1, "it was looked for first");
        let mut connection = shop.app.db.read().await.unwrap();
        let given = billing::given_to(&mut connection, served.order.account).await.unwrap();
        assert_eq!(given.iter().map(|one| one.state).collect::<Vec<_>>(), [billing::GiftState::Done]);
    })
    .await;
}

#[tokio::test]
async fn credit_comes_back_where_somebody_gave_the_money_back_before_it_was_counted() {
    for (is_refused, credit) in [(false, 300), (true, 0)] {
        db::testing::each_database(async |db| {
            let shop = Shop::open(db, 3).await;
            let (order, session) = shop.pay_for(1).await;
            let by_hand = shop.stripe.give_back(&shop.credit_pays(&session, 300, 600), 600);
            if is_refused {
                shop.stripe.state().ends.push(("/balance_transactions", 402));
            }
            shop.deliver("refund.created", &by_hand).await;
            shop.work().await;
            shop.deliver("checkout.session.completed", &session).await;
            shop.work().await;
            assert_eq!(shop.order(order.id).await.state, OrderState::Refunded);
            assert_eq!(shop.credit_of(&order).await, credit);
            assert_eq!(shop.told_as_returned().await, (words(600), words(credit)), "what the card had paid");
            assert_eq!(shop.rings_for("credit_not_returned").await, is_refused);
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
            let invoice = shop.credit_pays(&session, credit, money);
            if money == 0 {
                let payment = format!("inpay_{}", shop.stripe.intent_of(&invoice));
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
            assert_eq!(shop.credit_of(&order).await, credit, "once");
            assert_eq!(shop.told_as_returned().await, (words(money), words(credit)));
        })
        .await;
    }
}
