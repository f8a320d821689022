//! Building and ending: attempts, silence, fences, deletion.

use super::*;
use crate::fleet::testing::{enrolled, hello, read, report_as};

#[tokio::test]
async fn a_failed_attempt_is_followed_by_another_and_three_by_a_person() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        ready_node(&shop.app, "fsn-2", 5_000, 3).await;
        let (order, session) = shop.pay_for(1).await;
        shop.deliver("checkout.session.completed", &session).await;
        shop.work().await;
        let first = shop.server(&order).await;
        for attempt in 1..=3_u64 {
            assert_eq!(shop.order(order.id).await.state, OrderState::Provisioning, "attempt {attempt}");
            shop.node_says(&order, attempt * 10, EventKind::Accepted, "").await;
            shop.node_fails(&order, attempt * 10 + 1, EventKind::Undone, "clone", "retryable").await;
            shop.work().await;
            if attempt == 1 {
                assert_ne!(shop.server(&order).await.node, first.node, "the next attempt is made elsewhere");
            }
        }
        let stopped = shop.order(order.id).await;
        assert_eq!(
            (stopped.state, stopped.reason.as_deref()),
            (OrderState::NeedsOperator, Some(reason::BUILD_FAILED))
        );
        refund(&shop.app, order.id, "operator:test").await.unwrap();
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Refunded);
        let letters = shop.letters().await;
        assert!(letters.contains(&"order-refunded".to_owned()), "{letters:?}");
    })
    .await;
}

#[tokio::test]
async fn a_silent_node_keeps_everything_reserved_until_a_person_decides() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let (order, session) = shop.pay_for(1).await;
        shop.deliver("checkout.session.completed", &session).await;
        shop.work().await;
        shop.node_says(&order, 1, EventKind::Accepted, "").await;
        shop.work().await;
        shop.passes(Duration::from_secs(16 * 60)).await;
        advance::advance(&shop.app, order.id).await.unwrap();
        let silent = shop.order(order.id).await;
        assert_eq!(
            (silent.state, silent.reason.as_deref()),
            (OrderState::NeedsOperator, Some(reason::NODE_SILENT))
        );
        assert!(shop.place_of(&order).await.is_some(), "VMID and addresses stay reserved");

        // Another node is not tried while the first may have built it.
        let refused = re_place(&shop.app, order.id, "operator:test", false).await.unwrap_err();
        assert!(matches!(refused, ExitError::HeldByNode(node) if node == shop.node.id), "{refused:?}");
        // It was only slow: the late success counts.
        shop.node_says(&order, 2, EventKind::Succeeded, "").await;
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Fulfilled);
        assert_eq!(shop.server(&order).await.state, InstanceState::Running);
    })
    .await;
}

#[tokio::test]
async fn paid_without_a_place_is_tried_for_a_quarter_of_an_hour() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let (order, session) = shop.pay_for(1).await;
        let (at, node) = (shop.app.clock.now(), shop.node.id);
        shop.app
            .db
            .write(move |tx| {
                Box::pin(async move {
                    fleet::nodes::change(tx, at, "operator:test", node, fleet::NodeChange::Revoke).await
                })
            })
            .await
            .unwrap();
        shop.deliver("checkout.session.completed", &session).await;
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Paid);
        shop.passes(Duration::from_secs(14 * 60)).await;
        advance::advance(&shop.app, order.id).await.unwrap();
        assert_eq!(shop.order(order.id).await.state, OrderState::Paid);
        shop.passes(Duration::from_secs(2 * 60)).await;
        advance::advance(&shop.app, order.id).await.unwrap();
        let stopped = shop.order(order.id).await;
        assert_eq!(
            (stopped.state, stopped.reason.as_deref()),
            (OrderState::NeedsOperator, Some(reason::NO_CAPACITY))
        );
        assert_eq!(shop.letters().await.iter().filter(|l| *l == "order-needs-attention").count(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_promised_place_is_given_back_only_for_one_that_was_got() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let other = place(&shop.app, shop.request(2)).await.unwrap();
        let (order, session) = shop.pay_for(1).await;
        let promised = shop.place_of(&order).await.unwrap();
        // The other node seems to have room; the only number of its range is the first customer's.
        let second = enrolled(&shop.app, "fsn-2", "fsn").await;
        let taken = shop.place_of(&other).await.unwrap().vmid;
        let mut said = hello(&second, taken);
        said.policy.as_mut().unwrap().vmid_last = taken;
        report_as(&shop.app, &second, said, 3).await;
        shop.change_node("fsn-1", fleet::NodeChange::Cordon).await;

        shop.deliver("checkout.session.completed", &session).await;
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Provisioning);
        assert_eq!(shop.server(&order).await.node, Some(shop.node.id));
        let kept = shop.place_of(&order).await.unwrap();
        assert_eq!((kept.node, kept.vmid, kept.mac), (promised.node, promised.vmid, promised.mac));
        assert_eq!(kept.ipv4.address, promised.ipv4.address);
        let (first, second) = read(&shop.app, async |connection| {
            let second = fleet::placed_on(&mut *connection, second.id).await?;
            Ok((fleet::placed_on(connection, shop.node.id).await?.len(), second.len()))
        })
        .await;
        assert_eq!((first, second), (2, 0));
    })
    .await;
}

#[tokio::test]
async fn an_order_the_node_never_took_is_tried_elsewhere_only_once_it_is_fenced() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        ready_node(&shop.app, "fsn-2", 5_000, 3).await;
        let (order, session) = shop.pay_for(1).await;
        shop.deliver("checkout.session.completed", &session).await;
        shop.work().await;
        let first = shop.server(&order).await;
        // Its bytes left, and the node has not been heard of since.
        let (at, provisioning) = (shop.app.clock.now(), first.provisioning_order.unwrap());
        shop.app
            .db
            .write(move |tx| Box::pin(async move { dispatch::leaving(tx, at, provisioning, 0).await }))
            .await
            .unwrap();
        shop.passes(Duration::from_secs(10 * 60 + 290)).await;
        advance::advance(&shop.app, order.id).await.unwrap();
        assert_eq!(
            shop.server(&order).await.provisioning_order,
            Some(provisioning),
            "it may still act on it"
        );
        shop.passes(Duration::from_secs(20)).await;
        advance::advance(&shop.app, order.id).await.unwrap();
        let second = shop.server(&order).await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Provisioning);
        assert_ne!(second.provisioning_order, Some(provisioning));
        assert_ne!(second.node, first.node);
    })
    .await;
}

#[tokio::test]
async fn a_deleted_server_stops_costing_keeps_its_disk_and_then_goes() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 1).await;
        let (order, session) = shop.pay_for(1).await;
        shop.deliver("checkout.session.completed", &session).await;
        shop.work().await;
        shop.node_says(&order, 1, EventKind::Succeeded, "").await;
        shop.work().await;

        let ending = instances::delete(&shop.app, order.instance, "user:test").await.unwrap();
        assert_eq!(ending.state, InstanceState::Retiring);
        instances::delete(&shop.app, order.instance, "user:test").await.unwrap();
        let cancelled = shop.stripe.state().objects.values().filter(|o| o["status"] == "canceled").count();
        assert_eq!(cancelled, 1);
        shop.node_says(&order, 2, EventKind::Succeeded, "").await;
        shop.work().await;
        let retired = shop.server(&order).await;
        assert_eq!(retired.state, InstanceState::Retired);
        assert_eq!(retired.purge_at, Some(shop.app.clock.now().plus(Duration::from_secs(72 * 3_600))));
        assert!(shop.place_of(&order).await.is_some(), "the disk still takes its place");

        shop.passes(Duration::from_secs(72 * 3_600)).await;
        instances::sweep(&shop.app).await.unwrap();
        assert_eq!(shop.server(&order).await.state, InstanceState::Purging);
        shop.node_says(&order, 3, EventKind::Succeeded, "").await;
        shop.work().await;
        let purged = shop.server(&order).await;
        assert_eq!((purged.state, purged.observed_state.as_deref()), (InstanceState::Purged, Some("absent")));
        assert!(shop.place_of(&order).await.is_none());
        assert_eq!(shop.order(order.id).await.state, OrderState::Fulfilled);
    })
    .await;
}

#[tokio::test]
async fn a_node_that_is_away_is_neither_sold_nor_waited_for() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let (order, session) = shop.pay_for(1).await;
        shop.deliver("checkout.session.completed", &session).await;
        shop.work().await;
        let first = shop.server(&order).await;
        assert_eq!(first.state, InstanceState::Provisioning);

        // Nothing is heard any more: nobody is sold a place there …
        shop.clock.advance(Duration::from_secs(120));
        let refused = place(&shop.app, shop.request(2)).await.unwrap_err();
        assert!(matches!(refused, PlaceError::NoPlace(NoPlace::NoneAccepting)), "{refused:?}");
        // … and what never left is taken back long before its time is over, and waits for a node.
        advance::advance(&shop.app, order.id).await.unwrap();
        assert_eq!(shop.order(order.id).await.state, OrderState::Paid);
        assert_eq!(shop.told(&order).await[0].state, dispatch::State::Cancelled);
        let second = ready_node(&shop.app, "fsn-2", 5_000, 3).await;
        shop.clock.advance(Duration::from_secs(16));
        advance::advance(&shop.app, order.id).await.unwrap();
        assert_eq!(shop.server(&order).await.node, Some(second.id));
    })
    .await;
}

#[tokio::test]
async fn a_busy_node_costs_time_and_no_attempt() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let order = shop.provisioning(1).await;
        for _ in 0..5 {
            shop.node_refuses_for(&order, "POLICY", "limits.creates_per_minute").await;
            shop.work().await;
            shop.passes(Duration::from_secs(16)).await;
            advance::advance(&shop.app, order.id).await.unwrap();
            assert_eq!(shop.order(order.id).await.state, OrderState::Provisioning);
        }
        assert!(shop.alarms().await.is_empty(), "an ordinary refusal wakes nobody");
        // Not for ever: after a quarter of an hour a person is asked.
        shop.node_refuses_for(&order, "POLICY", "limits.creates_per_minute").await;
        shop.passes(Duration::from_secs(16 * 60)).await;
        shop.work().await;
        advance::advance(&shop.app, order.id).await.unwrap();
        let order = shop.order(order.id).await;
        assert_eq!(
            (order.state, order.reason.as_deref()),
            (OrderState::NeedsOperator, Some(reason::NO_CAPACITY))
        );
    })
    .await;
}
