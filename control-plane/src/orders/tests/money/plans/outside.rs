//! A price that somebody puts in Stripe's dashboard.

use super::*;

#[tokio::test]
async fn a_price_put_by_hand_is_followed_when_it_is_paid() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_plans(db, 6).await;
        let served = shop.renting(1).await;
        shop.stripe.put_price(&served.subscription, &price("m", "month"));
        shop.stripe.change(&served.subscription, |subscription| subscription["status"] = "past_due".into());
        let before = shop.times_told(&served).await;
        shop.hears(&served).await;
        assert_eq!(shop.times_told(&served).await, before, "not before it is paid");
        shop.stripe.change(&served.subscription, |subscription| subscription["status"] = "active".into());
        // The webhook is lost: the comparison finds it.
        assert_eq!(billing::reconcile(&shop.app).await.unwrap().left, 0);
        shop.work().await;
        let spec = shop.spec(&served).await;
        assert_eq!((spec.vcpus, spec.memory_mib), (2, 8_192));
        shop.node_follows(&served, 10, false).await;
        assert_eq!((shop.has(&served).await.1, shop.holds(&served).await), (size("m"), size("m")));
        let mut connection = shop.app.db.read().await.unwrap();
        let changes = billing::changes_of(&mut connection, served.order.id).await.unwrap();
        assert_eq!(changes.len(), 1);
        assert_eq!((changes[0].way, changes[0].state), (Way::Outside, ChangeState::Done));
        drop(connection);
        shop.hears(&served).await;
        let mut connection = shop.app.db.read().await.unwrap();
        assert_eq!(billing::changes_of(&mut connection, served.order.id).await.unwrap().len(), 1, "once");
        drop(connection);
        shop.sold_is_held().await;
    })
    .await;
}

#[tokio::test]
async fn a_price_that_was_accepted_with_the_purchase_is_no_change_of_its_plan() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_plans(db, 6).await;
        let (order, session) = shop.pay_for(1).await;
        shop.stripe.put_price(&shop.stripe.subscription_of(&session), &price("m", "month"));
        shop.deliver("checkout.session.completed", &session).await;
        shop.work().await;
        let odd = shop.order(order.id).await;
        assert_eq!(odd.reason.as_deref(), Some(reason::PAYMENT_MISMATCH));
        retry(&shop.app, order.id, "operator:test").await.unwrap();
        shop.work().await;
        let served = shop.moves_in(1, order, &session).await;
        let changes = async || {
            let mut connection = shop.app.db.read().await.unwrap();
            billing::changes_of(&mut connection, served.order.id).await.unwrap().len()
        };
        assert_eq!((changes().await, shop.holds(&served).await), (0, size("s")), "it stays as it was built");
        shop.stripe.put_price(&served.subscription, &price("l", "month"));
        shop.hears(&served).await;
        shop.node_follows(&served, 1_000, false).await;
        assert_eq!((changes().await, shop.has(&served).await.1), (1, size("l")), "one that comes later is");
        shop.sold_is_held().await;
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_followed_is_an_operators_business() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_plans(db, 2).await;
        let served = shop.renting(1).await;
        let before = shop.times_told(&served).await;
        let alarm = async |kind: &str| shop.alarms().await.into_iter().find(|alarm| alarm.0 == kind);
        shop.stripe.put_price(&served.subscription, &price("xs", "month"));
        shop.hears(&served).await;
        let (_, detail) = alarm("plan_not_followed").await.unwrap();
        assert!(detail.contains("cannot shrink"), "{detail}");
        assert_eq!((shop.times_told(&served).await, shop.holds(&served).await), (before, size("s")));
        shop.stripe.put_price(&served.subscription, &price("l", "month"));
        shop.hears(&served).await;
        assert_eq!(
            (shop.times_told(&served).await, shop.holds(&served).await),
            (before, size("s")),
            "no room"
        );
        // A price that is none of ours.
        shop.stripe.change(&served.subscription, |subscription| {
            subscription["items"]["data"][0]["price"]["id"] = "price_theirs".into();
        });
        shop.hears(&served).await;
        assert!(alarm("price_unknown").await.is_some());
        // Everything as it was: the alarms end, and nothing was done to the server.
        shop.stripe.put_price(&served.subscription, &price("s", "month"));
        shop.hears(&served).await;
        shop.lives(2 * MINUTE).await;
        assert!(alarm("price_unknown").await.is_none());
        assert!(alarm("plan_not_followed").await.is_none());
        assert_eq!(shop.times_told(&served).await, before);
        shop.sold_is_held().await;
    })
    .await;
}

/// The alarm about a subscription that is charged for something else than its one server.
const NOT_ONE: &str = "subscription_not_one_server";

#[tokio::test]
async fn a_subscription_of_quantity_two_rings_and_is_no_plan_of_its_server() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_plans(db, 6).await;
        let served = shop.renting(1).await;
        let before = shop.times_told(&served).await;
        let counts = |quantity: i64| {
            shop.stripe.change(&served.subscription, |subscription| {
                subscription["items"]["data"][0]["quantity"] = quantity.into();
            });
        };
        counts(2);
        shop.stripe.put_price(&served.subscription, &price("m", "month"));
        shop.hears(&served).await;
        assert!(shop.rings_for(NOT_ONE).await);
        assert_eq!((shop.times_told(&served).await, shop.holds(&served).await), (before, size("s")));
        let mut connection = shop.app.db.read().await.unwrap();
        let overview = billing::overview(&mut connection, served.order.account).await.unwrap();
        assert_eq!(overview.paying[0].charge, Some((3_800, "eur".to_owned())), "what is charged is shown");
        drop(connection);
        let refused = shop.previews(&served, &price("l", "month")).await;
        assert!(
            matches!(refused, Err(ReplanError::Change(billing::ChangeError::NotOneServer))),
            "{refused:?}"
        );
        counts(1);
        shop.stripe.put_price(&served.subscription, &price("s", "month"));
        shop.hears(&served).await;
        assert!(!shop.rings_for(NOT_ONE).await);
        assert_eq!(shop.times_told(&served).await, before, "and nothing was done to the server");
        shop.previews(&served, &price("l", "month")).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_second_item_on_a_subscription_resizes_nothing() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_plans(db, 6).await;
        let served = shop.renting(1).await;
        let before = shop.times_told(&served).await;
        let large = {
            let (state, key) = (shop.stripe.state(), price("l", "month"));
            let is_it = |o: &&serde_json::Value| o["object"] == "price" && o["lookup_key"] == key;
            state.objects.values().find(is_it).unwrap().clone()
        };
        shop.stripe.change(&served.subscription, |subscription| {
            let items = subscription["items"]["data"].as_array_mut().unwrap();
            let mut second = items[0].clone();
            second["id"] = "si_2".into();
            second["price"] = large;
            items.insert(0, second);
        });
        shop.hears(&served).await;
        assert!(shop.rings_for(NOT_ONE).await);
        assert_eq!((shop.times_told(&served).await, shop.holds(&served).await), (before, size("s")));
        // It ends with the service, too, if nobody puts it right.
        shop.stripe.change(&served.subscription, |subscription| {
            subscription["status"] = "canceled".into();
            subscription["cancellation_details"] = serde_json::json!({"reason": "cancellation_requested"});
        });
        shop.hears(&served).await;
        assert!(!shop.rings_for(NOT_ONE).await);
    })
    .await;
}

#[tokio::test]
async fn a_price_that_is_none_of_ours_rings_no_longer_than_its_subscription_lasts() {
    db::testing::each_database(async |db| {
        let shop = Shop::with_plans(db, 2).await;
        let served = shop.renting(1).await;
        shop.stripe.change(&served.subscription, |subscription| {
            subscription["items"]["data"][0]["price"]["id"] = "price_theirs".into();
        });
        shop.hears(&served).await;
        assert!(shop.rings_for("price_unknown").await);
        shop.stripe.change(&served.subscription, |subscription| {
            subscription["status"] = "canceled".into();
            subscription["cancellation_details"] = serde_json::json!({"reason": "cancellation_requested"});
        });
        shop.hears(&served).await;
        assert!(!shop.rings_for("price_unknown").await);
    })
    .await;
}
