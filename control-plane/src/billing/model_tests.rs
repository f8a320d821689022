//! Which payments count: the right money, and each difference by its name; any mixture of what makes a price.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn checkout() -> Checkout {
    let uuid = uuid::Uuid::from_u128(1);
    Checkout {
        expected: Expectation {
            order: OrderId::from_uuid(uuid),
            instance: InstanceId::from_uuid(uuid),
            account: AccountId::from_uuid(uuid),
            email: "jane@example.com".into(),
            description: "Server".into(),
            price_id: "s:month:eur:v1".into(),
            stripe_price_id: "price_1".into(),
            currency: "eur".into(),
            amount_minor: 900,
            setup_minor: 0,
            stripe_setup_price_id: None,
            trial_days: 0,
            tax: Tax::Off,
        },
        discount_minor: 0,
        tax_minor: 0,
        paid_minor: None,
        attempt: 1,
        state: CheckoutState::Open,
        session_id: Some("cs_1".into()),
        url: None,
        expires_at: None,
        customer_id: Some("cus_1".into()),
        subscription_id: None,
        settled_at: None,
        problem: None,
    }
}

fn judged(spoil: impl Fn(&mut Value, &mut Value)) -> Result<(), Problem> {
    let mut session = json!({"id": "cs_1", "amount_subtotal": 900, "amount_total": 900,
        "total_details": {"amount_discount": 0, "amount_tax": 0}, "discounts": [], "currency": "eur", "customer": "cus_1", "livemode": false});
    let mut subscription =
        json!({"id": "sub_1", "customer": "cus_1", "items": {"data": [{"price": {"id": "price_1"}}]}});
    spoil(&mut session, &mut subscription);
    let session = serde_json::from_value(session).unwrap();
    let subscription: Option<SubscriptionView> = serde_json::from_value(subscription).unwrap();
    judge(&checkout(), &session, subscription.as_ref(), false, |code| code == "promo_ours")
}

#[test]
fn the_right_money_passes_and_each_difference_has_a_name() {
    assert_eq!(judged(|_, _| {}), Ok(()));
    assert_eq!(judged(|s, _| s["amount_total"] = json!(899)), Err(Problem::Amount));
    assert_eq!(judged(|s, _| s["amount_total"] = Value::Null), Err(Problem::Amount));
    assert_eq!(judged(|s, _| s["amount_subtotal"] = json!(899)), Err(Problem::Amount));
    assert_eq!(judged(|s, _| s["total_details"] = Value::Null), Err(Problem::Amount));
    assert_eq!(judged(|s, _| s["currency"] = json!("usd")), Err(Problem::Currency));
    assert_eq!(judged(|s, _| s["customer"] = json!("cus_2")), Err(Problem::Customer));
    assert_eq!(judged(|s, _| s["customer"] = Value::Null), Err(Problem::Customer));
    assert_eq!(judged(|s, _| s["livemode"] = json!(true)), Err(Problem::Livemode));
    assert_eq!(judged(|s, _| s["livemode"] = Value::Null), Err(Problem::Livemode));
    assert_eq!(judged(|_, u| *u = Value::Null), Err(Problem::NoSubscription));
    assert_eq!(judged(|_, u| u["customer"] = json!("cus_2")), Err(Problem::Customer));
    assert_eq!(judged(|_, u| u["items"]["data"][0]["price"]["id"] = json!("price_2")), Err(Problem::Price));
    assert_eq!(judged(|_, u| u["items"]["data"] = json!([])), Err(Problem::Price));
    assert_eq!(judged(|_, u| u["items"]["data"][0]["quantity"] = json!(2)), Err(Problem::Price));
    assert_eq!(judged(|_, u| u["items"]["data"][0]["quantity"] = json!(1)), Ok(()));
}

/// A price, and what Stripe made of it.
#[derive(Debug, Clone)]
struct Purchase {
    expected: Expectation,
    /// What was taken off, and by which promotion code.
    discount: i64,
    code: Option<&'static str>,
    tax: i64,
}

impl Purchase {
    fn total(&self) -> i64 {
        let added = if self.expected.tax == Tax::Exclusive { self.tax } else { 0 };
        self.expected.due_today() - self.discount + added
    }

    fn session(&self) -> Value {
        let discounts: Vec<Value> =
            self.code.iter().map(|code| json!({"coupon": "c", "promotion_code": code})).collect();
        json!({
            "id": "cs_1", "amount_subtotal": self.expected.due_today(), "amount_total": self.total(), "currency": "eur",
            "customer": "cus_1", "livemode": false, "discounts": discounts,
            "total_details": {"amount_discount": self.discount, "amount_tax": self.tax, "amount_shipping": 0},
        })
    }

    fn judged(&self, session: Value) -> Result<(), Problem> {
        let known = Checkout { expected: self.expected.clone(), ..checkout() };
        let subscription =
            json!({"id": "sub_1", "customer": "cus_1", "items": {"data": [{"price": {"id": "price_1"}}]}});
        let subscription: SubscriptionView = serde_json::from_value(subscription).unwrap();
        let session = serde_json::from_value(session).unwrap();
        judge(&known, &session, Some(&subscription), false, |code| code == "promo_ours")
    }
}

/// Any price with or without a set-up fee, a trial, a promotion code and taxes.
fn any_purchase() -> impl Strategy<Value = Purchase> {
    let mode = prop::sample::select(Tax::ALL);
    (1..100_000_i64, 0..10_000_i64, 0..60_u32, 0..=100_i64, 0..30_i64, mode).prop_map(
        |(amount_minor, setup_minor, trial_days, percent, rate, tax)| {
            let known = checkout().expected;
            let expected = Expectation { amount_minor, setup_minor, trial_days, tax, ..known };
            let discount = expected.due_today() * percent / 100;
            let taxed = if tax == Tax::Off { 0 } else { (expected.due_today() - discount) * rate / 100 };
            let code = (discount > 0).then_some("promo_ours");
            Purchase { expected, discount, code, tax: taxed }
        },
    )
}

proptest! {
    /// Paid counts if and only if it is what was sold, less the promotion code, with the taxes.
    #[test]
    fn any_mixture_settles_when_it_matches_and_only_then(purchase in any_purchase(), off in 1..5_000_i64, less: bool) {
        prop_assert_eq!(purchase.judged(purchase.session()), Ok(()));
        let off = if less { -off } else { off };
        // Another sum, whichever of the figures carries the difference.
        for field in ["amount_total", "amount_subtotal"] {
            let mut other = purchase.session();
            other[field] = json!(other[field].as_i64().unwrap() + off);
            prop_assert_eq!(purchase.judged(other), Err(Problem::Amount));
        }
        for field in ["amount_discount", "amount_tax"] {
            let mut other = purchase.session();
            let figure = &mut other["total_details"][field];
            *figure = json!(figure.as_i64().unwrap() + off);
            // Taxes that are in the price change nothing of what was paid, as long as they are taxes.
            let harmless = field == "amount_tax" && purchase.expected.tax == Tax::Inclusive && purchase.tax + off >= 0;
            prop_assert_eq!(purchase.judged(other).is_ok(), harmless);
        }
    }

    /// A discount counts by its code alone: no code, a foreign one, or a foreign one beside ours is not taken.
    #[test]
    fn a_discount_without_our_code_is_not_the_right_money(purchase in any_purchase()) {
        prop_assume!(purchase.discount > 0);
        for codes in [json!([]), json!([{"coupon": "c", "promotion_code": null}]),
            json!([{"promotion_code": "promo_theirs"}]),
            json!([{"promotion_code": "promo_ours"}, {"promotion_code": "promo_theirs"}])]
        {
            let mut other = purchase.session();
            other["discounts"] = codes;
            prop_assert_eq!(purchase.judged(other), Err(Problem::Discount));
        }
    }
}
