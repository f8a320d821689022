//! News that comes often, never, or broken.

use super::*;

#[tokio::test]
async fn fifty_identical_webhooks_at_once_buy_one_server() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let (order, session) = shop.pay_for(1).await;
        let body = shop.stripe.event("checkout.session.completed", &session);
        let all = futures::future::join_all((0..50).map(|_| shop.deliver_body(&body))).await;
        assert_eq!(all.iter().filter(|answer| **answer == Intake::Stored).count(), 1);
        assert_eq!(all.iter().filter(|answer| **answer == Intake::Known).count(), 49);
        shop.work().await;
        assert_eq!(shop.told(&order).await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn after_73_hours_of_being_down_the_missed_payment_is_found_and_delivered() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let (order, session) = shop.pay_for(1).await;
        // Stripe tried for three days and gave up; the event is in its list only.
        shop.stripe.event("checkout.session.completed", &session);
        shop.lives(Duration::from_secs(73 * 60 * 60)).await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Provisioning);
        assert_eq!(shop.told(&order).await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_taken_over_is_parked_rings_and_is_replayed() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let (order, session) = shop.pay_for(1).await;
        let good = shop.stripe.state().objects[&session].clone();
        shop.stripe.change(&session, |session| session["amount_total"] = serde_json::json!("much"));
        let body = shop.stripe.event("checkout.session.completed", &session);
        shop.deliver_body(&body).await;
        shop.work().await;
        let parked = async || {
            let mut connection = shop.app.db.read().await.unwrap();
            let events = billing::inbox(&mut connection, 10).await.unwrap();
            events.into_iter().find(|event| event.state == billing::EventState::Parked)
        };
        let event = parked().await.unwrap();
        assert!(event.error.is_some() && event.replayable);
        let rings = async || shop.alarms().await.iter().any(|(kind, _)| kind == "payment_news_parked");
        assert!(rings().await);
        shop.lives(Duration::from_secs(16 * 60)).await;
        assert_eq!(parked().await.unwrap().attempts, 2, "tried again by itself");

        shop.stripe.state().objects.insert(session.clone(), good);
        billing::replay(&shop.app, &event.id, "operator:test").await.unwrap();
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Provisioning);
        assert!(parked().await.is_none());
        shop.lives(Duration::from_secs(60 * 60)).await;
        assert!(!rings().await);
        let unknown = billing::replay(&shop.app, "evt_none", "operator:test").await;
        assert!(matches!(unknown, Err(billing::ReplayError::Unknown)));
    })
    .await;
}

#[tokio::test]
async fn a_comparison_with_stripe_finds_mends_and_ends_nothing() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let served = shop.served(1).await;
        // The first comparison reads what no event has told, such as the invoice.
        billing::reconcile(&shop.app).await.unwrap();
        let calm = billing::reconcile(&shop.app).await.unwrap();
        assert_eq!((calm.differences.len(), calm.left), (0, 0), "{calm:?}");
        assert!(calm.compared >= 2);
        // An event that is lost: only the comparison can see it.
        let invoice = shop.stripe.renew(&served.subscription, shop.app.clock.now(), false);
        shop.clock.advance(Duration::from_secs(1));
        let report = billing::reconcile(&shop.app).await.unwrap();
        assert!(report.differences.iter().any(|one| one.object == invoice && one.what == "missing"));
        assert_eq!(report.left, 0, "{report:?}");
        assert_eq!(shop.stands(&served).await, (Stand::Run, Why::Grace));
        // A subscription that Stripe has no word of: shown, and nothing else.
        shop.stripe.state().objects.remove(&served.subscription);
        let report = billing::reconcile(&shop.app).await.unwrap();
        assert!(report.differences.iter().any(|one| one.what == "gone"));
        shop.work().await;
        assert_eq!(shop.server(&served.order).await.state, InstanceState::Running);
    })
    .await;
}
