//! At once: billed to the second, and the server grows when that is paid.

use super::*;
use crate::{
    billing::{CheckoutState, Problem},
    entropy::{EntropyExt as _, SeededEntropy},
};

#[tokio::test]
async fn an_upgrade_costs_what_was_shown_and_the_server_grows_when_it_is_paid() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_plans(db, 6).await;
        let served = shop.renting(1).await;
        shop.passes(10 * DAY).await;
        let before = shop.times_told(&served).await;
        let change = shop.previews(&served, &price("m", "month")).await.unwrap();
        let quote = change.quote.clone().unwrap();
        // 20 of 30 days are left: two thirds of 9.00 back, two thirds of 19.00 to pay.
        assert_eq!((quote.total_minor, quote.due_minor, quote.lines.len()), (1_267 - 600, 667, 2));
        assert_eq!((quote.next_minor, quote.next_at), (1_900, shop.app.clock.now().plus(20 * DAY).into()));
        assert_eq!(shop.holds(&served).await, size("s"), "a preview promises nothing");
        assert_eq!(shop.times_told(&served).await, before);

        shop.passes(5 * MINUTE).await;
        let applied = shop.confirms(&change).await.unwrap();
        assert_eq!(applied.state, ChangeState::Applied);
        assert_eq!(shop.billed(&served), (quote.total_minor, quote.due_minor));
        shop.work().await;
        assert_eq!(shop.times_told(&served).await, before + 1);
        let spec = shop.spec(&served).await;
        assert_eq!((spec.vcpus, spec.memory_mib, spec.disk_gib), (2, 8_192, 20));
        assert_eq!(shop.has(&served).await, ("s".to_owned(), size("s")), "not before its node says so");
        shop.node_follows(&served, 10, true).await;
        assert_eq!(shop.has(&served).await, ("m".to_owned(), size("m")));
        assert_eq!(shop.change(&change).await.state, ChangeState::Done);
        assert_eq!(shop.times_told(&served).await, before + 1, "it is restarted when its customer wants");
        assert_eq!(shop.holds(&served).await, size("m"));
        assert_eq!(shop.letters_of("plan-changed").await, 1);
        let audited = shop.audited(&served.order).await;
        for step in ["plan_change.wanted", "plan_change.applied", "plan_change.done"] {
            assert_eq!(audited.iter().filter(|action| *action == step).count(), 1, "{step}: {audited:?}");
        }
        shop.sold_is_held().await;
        // Told again and again: nothing more happens.
        shop.hears(&served).await;
        shop.lives(5 * MINUTE).await;
        assert_eq!(shop.times_told(&served).await, before + 1);
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid));
        assert_eq!(billing::reconcile(&shop.app).await.unwrap().left, 0);
    })
    .await;
}

#[tokio::test]
async fn who_paid_otherwise_and_was_taken_all_the_same_has_what_a_change_charges() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_plans(db, 6).await;
        let (order, session) = shop.pay_for(1).await;
        shop.stripe.change(&session, |session| session["amount_total"] = 1.into());
        shop.deliver("checkout.session.completed", &session).await;
        shop.work().await;
        let payment = async || {
            let mut connection = shop.app.db.read().await.unwrap();
            let known = billing::checkout_of(&mut connection, order.id).await.unwrap().unwrap();
            (known.state, known.problem)
        };
        assert_eq!(payment().await, (CheckoutState::Suspicious, Some(Problem::Amount)));
        retry(&shop.app, order.id, "operator:test").await.unwrap();
        assert_eq!(
            payment().await,
            (CheckoutState::Settled, Some(Problem::Amount)),
            "what was wrong is kept"
        );
        shop.work().await;
        let served = shop.moves_in(1, order.clone(), &session).await;
        let change = shop.previews(&served, &price("m", "month")).await.unwrap();
        assert_eq!(shop.confirms(&change).await.unwrap().state, ChangeState::Applied);
        shop.work().await;
        shop.node_follows(&served, 1_000, false).await;
        assert_eq!(shop.has(&served).await, ("m".to_owned(), size("m")));
        assert_eq!(shop.change(&change).await.state, ChangeState::Done);
    })
    .await;
}

#[tokio::test]
async fn what_is_shown_is_what_is_billed_between_any_two_plans_at_any_moment() {
    let (db, _directory) = db::testing::sqlite().await;
    let shop = Shop::with_plans(db, 60).await;
    let served = shop.renting(1).await;
    let prices: Vec<String> =
        ["s", "m"].iter().flat_map(|plan| ["month", "year"].map(|interval| price(plan, interval))).collect();
    let dice = SeededEntropy::new(7);
    let below = |n: u64| u64::from(u32::from_le_bytes(dice.bytes())) % n;
    let mut seq = 1_000;
    let mut billed = 0;
    for round in 0..60 {
        // Some plan, in some second of a period; with or without credit.
        shop.stripe.put_price(&served.subscription, &prices[usize::try_from(below(4)).unwrap()]);
        shop.stripe.period_begins(&served.subscription, shop.app.clock.now());
        shop.hears(&served).await;
        while shop.told(&served.order).await.iter().any(|record| !record.state.is_final()) {
            seq += 1;
            shop.node_follows(&served, seq, false).await;
        }
        shop.passes(Duration::from_secs(below(29 * 86_400))).await;
        if below(4) == 0 {
            let customer =
                shop.stripe.state().objects[&served.subscription]["customer"].as_str().unwrap().to_owned();
            shop.stripe.change(&customer, |customer| {
                customer["balance"] = serde_json::json!(-i64::try_from(below(2_000)).unwrap());
            });
        }
        let wanted = &prices[usize::try_from(below(4)).unwrap()];
        let change = match shop.previews(&served, wanted).await {
            Ok(change) if change.way == Way::Now => change,
            Ok(_) | Err(ReplanError::Refused(_)) => continue,
            Err(error) => panic!("round {round}: {error}"),
        };
        let quote = change.quote.clone().unwrap();
        let lines: i64 = quote.lines.iter().map(|line| line.amount_minor).sum();
        assert_eq!(lines + quote.tax_minor - quote.discount_minor, quote.total_minor);
        // What is too small to be charged is owed with the next invoice.
        let owed = shop.balance_of(&served) + quote.total_minor;
        assert_eq!(quote.due_minor, if owed < 50 { 0 } else { owed }, "round {round}: {wanted}");
        shop.passes(Duration::from_secs(below(800))).await;
        assert_eq!(shop.confirms(&change).await.unwrap().state, ChangeState::Applied, "round {round}");
        assert_eq!(shop.billed(&served), (quote.total_minor, quote.due_minor), "round {round}: {wanted}");
        billed += 1;
        shop.work().await;
        while shop.told(&served.order).await.iter().any(|record| !record.state.is_final()) {
            seq += 1;
            shop.node_follows(&served, seq, false).await;
        }
        assert_eq!(shop.change(&change).await.state, ChangeState::Done, "round {round}");
        let mut connection = shop.app.db.read().await.unwrap();
        let next = shop.standing(&served).await.next.unwrap();
        assert_eq!(Some(next.1), quote.next_at, "round {round}: the next charge");
        assert_eq!(billing::price_of(&mut connection, served.order.id).await.unwrap().as_ref(), Some(wanted));
        drop(connection);
        shop.sold_is_held().await;
    }
    assert!(billed > 10, "only {billed} changes were billed");
}

#[tokio::test]
async fn a_change_whose_card_is_declined_waits_for_its_invoice_and_keeps_its_room() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_plans(db, 6).await;
        let served = shop.renting(1).await;
        let before = shop.times_told(&served).await;
        shop.stripe.card_fails(true);
        let change = shop.previews(&served, &price("l", "month")).await.unwrap();
        let waiting = shop.confirms(&change).await.unwrap();
        assert_eq!(waiting.state, ChangeState::AwaitingPayment);
        assert_eq!(waiting.expires_at, Some(shop.app.clock.now().plus(Duration::from_secs(23 * 3_600))));
        {
            let mut connection = shop.app.db.read().await.unwrap();
            let pay = billing::pay_url(&mut connection, &waiting).await.unwrap().unwrap();
            assert!(pay.starts_with("https://invoice.example/"), "{pay}");
        }
        let invoice = shop.stripe.latest_invoice(&served.subscription);
        shop.deliver("invoice.payment_failed", &invoice).await;
        shop.hears(&served).await;
        shop.lives(2 * 60 * MINUTE).await;
        assert_eq!(shop.times_told(&served).await, before, "nothing before it is paid");
        assert_eq!(shop.holds(&served).await, size("l"), "its room is kept");
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid), "and the server is not in danger");
        assert_eq!(
            (shop.letters_of("plan-change-waits").await, shop.letters_of("payment-failed").await),
            (1, 0)
        );
        shop.sold_is_held().await;

        shop.stripe.card_fails(false);
        shop.stripe.pay_invoice(&invoice);
        // Only the invoice is told of.
        shop.deliver("invoice.paid", &invoice).await;
        shop.work().await;
        assert_eq!(shop.change(&change).await.state, ChangeState::Applied);
        shop.node_follows(&served, 10, false).await;
        assert_eq!(shop.has(&served).await, ("l".to_owned(), size("l")));
        assert_eq!(shop.change(&change).await.state, ChangeState::Done);
        assert_eq!(shop.letters_of("plan-change-off").await, 0);
        shop.sold_is_held().await;
    })
    .await;
}

#[tokio::test]
async fn a_change_that_nobody_pays_leaves_everything_as_it_was() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_plans(db, 6).await;
        let served = shop.renting(1).await;
        let before = shop.times_told(&served).await;
        shop.stripe.card_fails(true);
        let change = shop.previews(&served, &price("m", "month")).await.unwrap();
        shop.confirms(&change).await.unwrap();
        assert_eq!(shop.holds(&served).await, size("m"));
        shop.passes(24 * 60 * MINUTE).await;
        shop.stripe.change_runs_out(&served.subscription);
        // The news is lost; our own clock looks.
        shop.lives(10 * MINUTE).await;
        let off = shop.change(&change).await;
        assert_eq!((off.state, off.reason.as_deref()), (ChangeState::Expired, Some("not_paid")));
        assert_eq!((shop.holds(&served).await, shop.times_told(&served).await), (size("s"), before));
        assert_eq!(shop.has(&served).await, ("s".to_owned(), size("s")));
        assert_eq!(shop.letters_of("plan-change-off").await, 1);
        shop.sold_is_held().await;
        // And it can be tried again.
        shop.stripe.card_fails(false);
        let again = shop.previews(&served, &price("m", "month")).await.unwrap();
        assert_eq!(shop.confirms(&again).await.unwrap().state, ChangeState::Applied);
    })
    .await;
}

#[tokio::test]
async fn who_finds_no_room_hears_it_before_paying() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_plans(db, 3).await;
        let (one, two) = (shop.renting(1).await, shop.renting(2).await);
        // Room for one more small server: both see that they fit, one of them does.
        let first = shop.previews(&one, &price("m", "month")).await.unwrap();
        let second = shop.previews(&two, &price("m", "month")).await.unwrap();
        assert_eq!(shop.confirms(&first).await.unwrap().state, ChangeState::Applied);
        let paths = |shop: &Shop| shop.stripe.count("POST", &format!("/subscriptions/{}", two.subscription));
        assert!(matches!(shop.confirms(&second).await, Err(ReplanError::NoRoom)));
        assert_eq!(paths(&shop), 0, "Stripe was not asked");
        assert_eq!(shop.change(&second).await.state, ChangeState::Previewed);
        assert!(matches!(shop.previews(&two, &price("l", "month")).await, Err(ReplanError::NoRoom)));
        assert_eq!(shop.holds(&two).await, size("s"));
        shop.sold_is_held().await;
        // The same plan for a year takes no room.
        let yearly = shop.previews(&two, &price("s", "year")).await.unwrap();
        assert_eq!(shop.confirms(&yearly).await.unwrap().state, ChangeState::Applied);
        shop.work().await;
        assert_eq!(shop.change(&yearly).await.state, ChangeState::Done, "nothing to be resized");
    })
    .await;
}

#[tokio::test]
async fn pressed_twice_is_once_and_another_change_meanwhile_is_refused() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_plans(db, 9).await;
        let served = shop.renting(1).await;
        let change = shop.previews(&served, &price("m", "month")).await.unwrap();
        let other = shop.previews(&served, &price("l", "month")).await.unwrap();
        let (a, b, c) = tokio::join!(shop.confirms(&change), shop.confirms(&change), shop.confirms(&other));
        let came = [&a, &b, &c].iter().filter(|result| result.is_ok()).count();
        assert!((1..=2).contains(&came), "{a:?} {b:?} {c:?}");
        let states = (shop.change(&change).await.state, shop.change(&other).await.state);
        assert!(
            [(ChangeState::Applied, ChangeState::Previewed), (ChangeState::Previewed, ChangeState::Applied)]
                .contains(&states),
            "{states:?}"
        );
        let posts = shop.stripe.count("POST", &format!("/subscriptions/{}", served.subscription));
        let keys = shop.stripe.state().calls.clone();
        let keys: std::collections::BTreeSet<_> = keys
            .iter()
            .filter(|call| call.key.as_ref().is_some_and(|key| key.starts_with("plan-change:")))
            .map(|call| call.key.clone())
            .collect();
        assert!(posts >= 1 && keys.len() == 1, "{keys:?}");
        shop.sold_is_held().await;
        let refused = if states.0 == ChangeState::Applied { &other } else { &change };
        assert!(matches!(shop.confirms(refused).await, Err(ReplanError::Change(billing::ChangeError::Busy))));
    })
    .await;
}

#[tokio::test]
async fn a_preview_is_good_for_a_quarter_of_an_hour_and_for_what_it_was_computed_from() {
    let (db, _directory) = db::testing::sqlite().await;
    let shop = Shop::with_plans(db, 9).await;
    let served = shop.renting(1).await;
    let old = shop.previews(&served, &price("m", "month")).await.unwrap();
    shop.passes(16 * MINUTE).await;
    assert!(matches!(shop.confirms(&old).await, Err(ReplanError::Change(billing::ChangeError::Stale))));
    assert_eq!(shop.holds(&served).await, size("s"), "what was taken is given back with the refusal");
    let moved = shop.previews(&served, &price("m", "month")).await.unwrap();
    shop.stripe.put_price(&served.subscription, &price("s", "year"));
    shop.hears(&served).await;
    assert!(matches!(shop.confirms(&moved).await, Err(ReplanError::Change(billing::ChangeError::Stale))));
    let stranger = customer(9);
    let foreign = replan::confirm(&shop.app, stranger.account_id, moved.id, "user:y", None).await;
    assert!(matches!(foreign, Err(ReplanError::Unknown)));
}

#[tokio::test]
async fn a_change_too_small_to_be_charged_holds_at_once_and_is_owed_with_the_next_invoice() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_plans(db, 6).await;
        let served = shop.renting(1).await;
        let first = shop.stripe.latest_invoice(&served.subscription);
        // Fourteen hours and twenty-four minutes of thirty days are left: 0.38 to pay, 0.18 back.
        shop.passes(29 * DAY + 576 * MINUTE).await;
        let change = shop.previews(&served, &price("m", "month")).await.unwrap();
        let quote = change.quote.clone().unwrap();
        assert_eq!((quote.total_minor, quote.credit_minor, quote.due_minor), (20, 0, 0));
        assert_eq!(shop.confirms(&change).await.unwrap().state, ChangeState::Applied);
        assert_eq!((shop.billed(&served), shop.balance_of(&served)), ((20, 0), 20));
        let invoice = shop.stripe.latest_invoice(&served.subscription);
        shop.deliver("invoice.paid", &invoice).await;
        shop.work().await;
        shop.node_follows(&served, 1_000, false).await;
        assert_eq!(shop.has(&served).await, ("m".to_owned(), size("m")));
        assert_eq!(shop.change(&change).await.state, ChangeState::Done);
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid));
        assert_eq!(shop.letters_of("payment-receipt").await, 0, "nothing was paid yet");
        assert_eq!(billing::reconcile(&shop.app).await.unwrap().left, 0);
        // It is no credit that would keep the server when all that was paid goes back.
        let refund = shop.stripe.give_back(&first, 900);
        shop.deliver("refund.created", &refund).await;
        shop.work().await;
        assert_eq!(shop.stands(&served).await, (Stand::End, Why::Refunded));
    })
    .await;
}

#[tokio::test]
async fn what_would_cost_more_than_was_confirmed_is_not_made() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_plans(db, 6).await;
        let served = shop.renting(1).await;
        let customer =
            shop.stripe.state().objects[&served.subscription]["customer"].as_str().unwrap().to_owned();
        let credit = |minor: i64| {
            shop.stripe.change(&customer, |customer| customer["balance"] = serde_json::json!(-minor));
        };
        credit(500);
        let change = shop.previews(&served, &price("m", "month")).await.unwrap();
        assert_eq!(change.quote.as_ref().unwrap().credit_minor, 500);
        // Another invoice takes the credit between the look and the press.
        credit(0);
        let calls = shop.stripe.count("POST", &format!("/subscriptions/{}", served.subscription));
        let refused = shop.confirms(&change).await.unwrap();
        assert_eq!(refused.state, ChangeState::Refused);
        assert_eq!(
            shop.stripe.count("POST", &format!("/subscriptions/{}", served.subscription)),
            calls,
            "nothing was changed, nothing charged"
        );
        shop.work().await;
        assert_eq!(shop.letters_of("plan-change-off").await, 1);
        assert_eq!(shop.holds(&served).await, size("s"));
        let again = shop.previews(&served, &price("m", "month")).await.unwrap();
        assert_eq!(shop.confirms(&again).await.unwrap().state, ChangeState::Applied, "the new sum is good");
    })
    .await;
}

#[tokio::test]
async fn all_of_a_running_year_back_ends_it_also_where_a_change_began_it() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_plans(db, 6).await;
        shop.stripe.set_clock(shop.app.clock.now());
        let served = shop.renting(1).await;
        shop.passes(5 * DAY).await;
        let change = shop.previews(&served, &price("s", "year")).await.unwrap();
        assert_eq!(shop.confirms(&change).await.unwrap().state, ChangeState::Applied);
        shop.work().await;
        let invoice = shop.stripe.latest_invoice(&served.subscription);
        shop.deliver("invoice.paid", &invoice).await;
        shop.work().await;
        let paid = shop.stripe.state().objects[&invoice]["amount_paid"].as_i64().unwrap();
        let part = shop.stripe.give_back(&invoice, paid - 1);
        shop.deliver("refund.created", &part).await;
        shop.work().await;
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Paid), "a part is a part");
        let rest = shop.stripe.give_back(&invoice, 1);
        shop.deliver("refund.created", &rest).await;
        shop.work().await;
        assert_eq!(shop.stands(&served).await.0, Stand::End);
    })
    .await;
}
