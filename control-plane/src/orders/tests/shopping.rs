//! What is bought, in breadth: set-up fees, trials, currencies, codes and taxes, each to the cent.

use serde_json::{Value, json};

use super::*;
use crate::{billing::CheckoutState, orders::model::OrderState};

/// A plan with everything a price can have.
fn more(plan: &str) -> String {
    format!(
        r#"
        [[plans]]
        code = "{plan}"
        name = "T"
        vcpu = 1
        memory_mib = 1024
        disk_gib = 10
        traffic_gib = 1000
        [[plans.prices]]
        interval = "quarter"
        currency = "eur"
        amount_minor = 2600
        setup_minor = 500
        trial_days = 14
        [[plans.prices]]
        interval = "month"
        currency = "usd"
        amount_minor = 1000
        [[coupons]]
        code = "c"
        name = "C"
        percent_off = 20
        [[coupons.codes]]
        code = "CODE20"
        "#
    )
}

impl Shop {
    async fn with_more(db: Db) -> Self {
        let shop = Self::open(db, 4).await;
        catalog::apply_file(&shop.app, &more("t"), "operator:test").await.unwrap();
        shop
    }

    /// Places an order for what the catalogue of these stories has, and opens its page.
    async fn choose(
        &self,
        n: u8,
        interval: Interval,
        currency: Option<&str>,
    ) -> Result<(Order, String), PlaceError> {
        let request = PlaceRequest {
            plan: "t".into(),
            interval,
            currency: currency.map(str::to_owned),
            quoted_minor: None,
            ..self.request(n)
        };
        let order = place(&self.app, request).await?;
        pay(&self.app, &order).await.unwrap();
        let mut connection = self.app.db.read().await.unwrap();
        let checkout = billing::checkout_of(&mut connection, order.id).await.unwrap().unwrap();
        Ok((order, checkout.session_id.unwrap()))
    }

    /// Changes what Stripe says of a page before it is paid.
    fn spoil(&self, session: &str, edit: impl FnOnce(&mut Value)) {
        self.stripe.change(session, edit);
    }

    /// Pays, and takes over what Stripe says.
    async fn settle(&self, order: &Order, session: &str) -> billing::Checkout {
        self.stripe.pay(session);
        billing::sync_checkout(&self.app, order.id).await.unwrap();
        let mut connection = self.app.db.read().await.unwrap();
        billing::checkout_of(&mut connection, order.id).await.unwrap().unwrap()
    }

    /// The id of the promotion code at Stripe.
    fn code(&self) -> String {
        let state = self.stripe.state();
        let code = state.objects.values().find(|object| object["code"] == "CODE20").unwrap();
        code["id"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn a_trial_with_a_set_up_fee_asks_for_the_fee_and_a_card() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_more(db).await;
        let (order, session) = shop.choose(1, Interval::Quarter, None).await.unwrap();
        assert_eq!((order.due_today(), order.amount_minor, order.trial_days), (500, 2600, 14));
        let paid = shop.settle(&order, &session).await;
        assert_eq!((paid.state, paid.paid_minor), (CheckoutState::Settled, Some(500)));
        let mut connection = shop.app.db.read().await.unwrap();
        let standing = billing::standing_of(&mut connection, order.id).await.unwrap().unwrap();
        assert_eq!(standing.stand, billing::Stand::Run, "a trial is served");
        assert_eq!(standing.next.map(|(step, _)| step), Some(billing::Step::Charge));
        drop(connection);
        // The second server of the account is none: the whole first quarter and the fee are due.
        let (second, session) = shop.choose(1, Interval::Quarter, None).await.unwrap();
        assert_eq!((second.due_today(), second.trial_days), (3100, 0));
        let paid = shop.settle(&second, &session).await;
        assert_eq!((paid.state, paid.paid_minor), (CheckoutState::Settled, Some(3100)));
    })
    .await;
}

#[tokio::test]
async fn a_trial_that_came_to_nothing_is_still_to_be_had() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_more(db).await;
        let (first, _) = shop.choose(1, Interval::Quarter, None).await.unwrap();
        let (held, _) = shop.choose(1, Interval::Quarter, None).await.unwrap();
        assert_eq!((first.trial_days, held.trial_days), (14, 0), "an unpaid order holds it");
        assert!(cancel(&shop.app, &first).await.unwrap());
        let (again, _) = shop.choose(1, Interval::Quarter, None).await.unwrap();
        assert_eq!(again.trial_days, 14);
    })
    .await;
}

#[tokio::test]
async fn nothing_due_is_settled_as_nothing_and_given_back_as_nothing() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_more(db).await;
        let free = more("t").replace("setup_minor = 500", "");
        catalog::apply_file(&shop.app, &free, "operator:test").await.unwrap();
        let (order, session) = shop.choose(1, Interval::Quarter, None).await.unwrap();
        assert_eq!(order.due_today(), 0);
        let paid = shop.settle(&order, &session).await;
        assert_eq!((paid.state, paid.paid_minor), (CheckoutState::Settled, Some(0)));
        let refund = billing::refund_full(&shop.app, order.id).await.unwrap();
        assert_eq!(refund, billing::RefundState::Succeeded, "there is nothing to wait for");
        assert_eq!(shop.stripe.count("POST", "/refunds"), 0);
        assert_eq!(shop.stripe.state().ledger(&order.id.to_string()), Ledger::default());
    })
    .await;
}

#[tokio::test]
async fn the_fee_of_a_trial_goes_back_whatever_was_billed_after_it() {
    for renewal_is in ["draft", "open"] {
        db::testing::each_database(async |db| {
            let shop = Shop::with_more(db).await;
            let (order, session) = shop.choose(1, Interval::Quarter, None).await.unwrap();
            shop.settle(&order, &session).await;
            let subscription = shop.stripe.subscription_of(&session);
            // The first quarter after the trial has used credit, and nobody has paid the rest.
            let renewal = shop.stripe.renew(&subscription, shop.app.clock.now(), false);
            shop.stripe.change(&renewal, |invoice| {
                invoice["status"] = json!(renewal_is);
                invoice["starting_balance"] = json!(-300);
                invoice["ending_balance"] = json!(0);
            });
            shop.deliver("invoice.updated", &renewal).await;
            shop.deliver("customer.subscription.updated", &subscription).await;
            shop.work().await;
            let refund = billing::refund_full(&shop.app, order.id).await.unwrap();
            assert_eq!(refund, billing::RefundState::Succeeded, "{renewal_is}");
            assert_eq!(shop.ledger(&order), Ledger { paid: 500, returned: 500, running: 0 }, "{renewal_is}");
            let mut connection = shop.app.db.read().await.unwrap();
            let overview = billing::overview(&mut connection, order.account).await.unwrap();
            assert_eq!(overview.credit, None, "{renewal_is}: that invoice gives its credit back itself");
        })
        .await;
    }
}

#[tokio::test]
async fn an_account_stays_with_its_currency_and_is_told_before_it_pays() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_more(db).await;
        let (order, _) = shop.choose(1, Interval::Month, Some("usd")).await.unwrap();
        assert_eq!((order.currency.as_str(), order.amount_minor), ("usd", 1000));
        // Not yet paid: two pages in two currencies could not both be.
        let refused = shop.choose(1, Interval::Quarter, Some("eur")).await.unwrap_err();
        assert!(matches!(refused, PlaceError::OtherCurrency(bound) if bound == "USD"));
        // Without a wish it is its own currency, where there is such a price.
        let refused = shop.choose(1, Interval::Quarter, None).await.unwrap_err();
        assert!(matches!(refused, PlaceError::Quote(catalog::QuoteError::NoPrice)), "{refused}");
        assert_eq!(shop.choose(1, Interval::Month, None).await.unwrap().0.currency, "usd");
        assert_eq!(shop.choose(2, Interval::Quarter, None).await.unwrap().0.currency, "eur", "somebody else");
        // Unpaid and over: nothing binds any more.
        for n in 0..2 {
            let mut connection = shop.app.db.read().await.unwrap();
            let mine = list(&mut connection, shop.request(1).account).await.unwrap();
            drop(connection);
            assert!(cancel(&shop.app, &mine[n]).await.unwrap());
        }
        assert_eq!(shop.choose(1, Interval::Quarter, Some("eur")).await.unwrap().0.currency, "eur");
    })
    .await;
}

#[tokio::test]
async fn what_was_quoted_is_what_is_charged_now_and_later() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_more(db).await;
        let request = |quoted, then| PlaceRequest {
            plan: "t".into(),
            interval: Interval::Quarter,
            quoted_minor: Some(quoted),
            quoted_then: Some(then),
            ..shop.request(1)
        };
        // The trial asks for the same now whatever it costs later: both are compared.
        for (quoted, then) in [(500, 2500), (3100, 2600), (0, 2600)] {
            let refused = place(&shop.app, request(quoted, then)).await.unwrap_err();
            assert!(matches!(refused, PlaceError::QuoteChanged(500)), "{refused}");
        }
        place(&shop.app, request(500, 2600)).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_code_of_ours_takes_off_what_stripe_says_and_any_other_discount_is_looked_at() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_more(db).await;
        let asked = shop.choose(1, Interval::Month, Some("usd")).await.unwrap();
        let discounted = |session: &mut Value, code: Value| {
            session["total_details"]["amount_discount"] = json!(200);
            session["amount_total"] = json!(800);
            session["discounts"] = json!([{"coupon": "c", "promotion_code": code}]);
        };
        let code = shop.code();
        shop.spoil(&asked.1, |session| discounted(session, json!(code)));
        let paid = shop.settle(&asked.0, &asked.1).await;
        assert_eq!(
            (paid.state, paid.discount_minor, paid.paid_minor),
            (CheckoutState::Settled, 200, Some(800))
        );
        shop.work().await;
        assert_eq!(shop.order(asked.0.id).await.paid_minor, Some(800));
        for foreign in [json!("promo_of_somebody"), Value::Null] {
            let asked = shop.choose(2, Interval::Month, Some("usd")).await.unwrap();
            shop.spoil(&asked.1, |session| discounted(session, foreign.clone()));
            let paid = shop.settle(&asked.0, &asked.1).await;
            assert_eq!(
                (paid.state, paid.problem),
                (CheckoutState::Suspicious, Some(billing::Problem::Discount))
            );
            shop.work().await;
            assert_eq!(shop.order(asked.0.id).await.state, OrderState::NeedsOperator);
        }
    })
    .await;
}

#[tokio::test]
async fn taxes_nobody_asked_for_are_looked_at() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_more(db).await;
        let (order, session) = shop.choose(1, Interval::Month, Some("usd")).await.unwrap();
        shop.spoil(&session, |session| {
            session["total_details"]["amount_tax"] = json!(190);
            session["amount_total"] = json!(1190);
        });
        let paid = shop.settle(&order, &session).await;
        assert_eq!((paid.state, paid.problem), (CheckoutState::Suspicious, Some(billing::Problem::Amount)));
    })
    .await;
}

#[tokio::test]
async fn nobody_is_thanked_for_a_payment_of_nothing() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_more(db).await;
        let free = more("t").replace("setup_minor = 500", "");
        catalog::apply_file(&shop.app, &free, "operator:test").await.unwrap();
        let (order, session) = shop.choose(1, Interval::Quarter, None).await.unwrap();
        shop.settle(&order, &session).await;
        shop.work().await;
        let mut connection = shop.app.db.read().await.unwrap();
        let told = crate::notify::newest(&mut connection, "payment-confirmation").await.unwrap();
        assert_eq!(told["amount"], "");
    })
    .await;
}
