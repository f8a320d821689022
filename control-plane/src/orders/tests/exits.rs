//! The operator's ways out, and what must not come of them.

use super::*;
use crate::fleet::testing::read;

#[tokio::test]
async fn a_retry_on_a_silent_node_never_lets_another_one_build_while_the_first_may_have_built() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        ready_node(&shop.app, "fsn-2", 5_000, 3).await;
        let order = shop.silent(1).await;
        let first = shop.server(&order).await;

        // The second order never reaches the node and is over; it says nothing about the first.
        retry(&shop.app, order.id, "operator:test").await.unwrap();
        shop.work().await;
        let second = shop.server(&order).await;
        assert_eq!((second.state, second.node), (InstanceState::Provisioning, first.node), "the same place");
        assert_ne!(second.provisioning_order, first.provisioning_order);
        shop.passes(Duration::from_secs(25 * 3_600)).await;
        for _ in 0..3 {
            advance::advance(&shop.app, order.id).await.unwrap();
        }
        let told = shop.told(&order).await;
        assert!(told.iter().all(|record| Some(record.node) == first.node), "{told:?}");
        let server = shop.server(&order).await;
        let kept = matches!(server.state, InstanceState::NeedsOperator | InstanceState::Retiring);
        assert!(kept && shop.place_of(&order).await.is_some(), "it may stand there: {}", server.state);
    })
    .await;
}

#[tokio::test]
async fn a_server_that_may_stand_on_a_cordoned_or_revoked_node_is_not_moved_by_a_retry() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        ready_node(&shop.app, "fsn-2", 5_000, 3).await;
        let order = shop.silent(1).await;
        let first = shop.server(&order).await;
        let names = ["fsn-1", "fsn-2"];
        let here = names[usize::from(first.node != Some(shop.node.id))];

        shop.change_node(here, fleet::NodeChange::Cordon).await;
        retry(&shop.app, order.id, "operator:test").await.unwrap();
        shop.work().await;
        assert_eq!(shop.server(&order).await.node, first.node);

        shop.change_node(here, fleet::NodeChange::Revoke).await;
        shop.passes(Duration::from_secs(25 * 60)).await;
        for _ in 0..3 {
            advance::advance(&shop.app, order.id).await.unwrap();
        }
        assert_eq!(shop.order(order.id).await.state, OrderState::NeedsOperator);
        retry(&shop.app, order.id, "operator:test").await.unwrap();
        shop.work().await;
        shop.passes(Duration::from_secs(16 * 60)).await;
        advance::advance(&shop.app, order.id).await.unwrap();
        let waits = shop.order(order.id).await;
        assert_eq!(
            (waits.state, waits.reason.as_deref()),
            (OrderState::NeedsOperator, Some(reason::NODE_SILENT))
        );
        assert_eq!(shop.server(&order).await.node, first.node);

        // Only the operator's word that nothing stands there lets another node build.
        let refused = re_place(&shop.app, order.id, "operator:test", false).await.unwrap_err();
        assert!(matches!(refused, ExitError::HeldByNode(_)), "{refused:?}");
        re_place(&shop.app, order.id, "operator:test", true).await.unwrap();
        shop.work().await;
        let moved = shop.server(&order).await;
        assert_eq!(moved.state, InstanceState::Provisioning);
        assert_ne!(moved.node, first.node);
    })
    .await;
}

/// An agent starts a new server within ten minutes of our last word, and it may not have heard that it is revoked.
#[tokio::test]
async fn a_node_that_was_revoked_a_moment_ago_may_still_start_what_it_was_building() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        ready_node(&shop.app, "fsn-2", 5_000, 3).await;
        // Silent about this order for a quarter of an hour, and connected all the time.
        let order = shop.silent(1).await;
        let first = shop.server(&order).await;
        let here = if first.node == Some(shop.node.id) { "fsn-1" } else { "fsn-2" };
        shop.change_node(here, fleet::NodeChange::Revoke).await;
        let revoked_at = shop.app.clock.now();
        for minutes in [0, 14] {
            shop.passes(Duration::from_secs(minutes * 60)).await;
            for exit in [
                re_place(&shop.app, order.id, "operator:test", true).await,
                abandon(&shop.app, order.id, "operator:test", true).await,
            ] {
                let refused = exit.unwrap_err();
                let until = revoked_at.plus(Duration::from_secs(15 * 60));
                assert!(matches!(refused, ExitError::RevokedLately(at) if at == until), "{refused:?}");
            }
        }
        shop.passes(Duration::from_secs(60)).await;
        re_place(&shop.app, order.id, "operator:test", true).await.unwrap();
        shop.work().await;
        assert_ne!(shop.server(&order).await.node, first.node);
    })
    .await;
}

#[tokio::test]
async fn an_earlier_order_that_built_the_server_counts_after_a_retry() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let order = shop.silent(1).await;
        let first = shop.server(&order).await.provisioning_order.unwrap();
        retry(&shop.app, order.id, "operator:test").await.unwrap();
        shop.work().await;
        shop.node_says_of(&order, first, 2, EventKind::Succeeded, "", "").await;
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Fulfilled);
        assert_eq!(shop.server(&order).await.state, InstanceState::Running);
    })
    .await;
}

#[tokio::test]
async fn an_order_that_comes_back_to_life_elsewhere_rings_until_it_is_undone() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        ready_node(&shop.app, "fsn-2", 5_000, 3).await;
        let order = shop.provisioning(1).await;
        let first = shop.server(&order).await.provisioning_order.unwrap();
        let at = shop.app.clock.now();
        let left =
            shop.app.db.write(move |tx| Box::pin(async move { dispatch::leaving(tx, at, first, 0).await }));
        left.await.unwrap();
        shop.passes(Duration::from_secs(10 * 60 + 310)).await;
        advance::advance(&shop.app, order.id).await.unwrap();
        assert_ne!(shop.server(&order).await.provisioning_order, Some(first), "it was given up");

        shop.node_says_of(&order, first, 1, EventKind::Accepted, "", "").await;
        shop.work().await;
        let open = shop.alarms().await;
        assert!(open.iter().any(|(kind, _)| kind == "order_revived"), "{open:?}");
        shop.node_says_of(&order, first, 2, EventKind::Undone, "", "retryable").await;
        shop.work().await;
        let open = shop.alarms().await;
        assert!(!open.iter().any(|(kind, _)| kind == "order_revived"), "{open:?}");
    })
    .await;
}

#[tokio::test]
async fn an_operators_try_that_fails_goes_back_to_the_operator() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let order = shop.provisioning(1).await;
        for attempt in 1..=3_u64 {
            shop.node_fails(&order, attempt * 10, EventKind::Undone, "clone", "retryable").await;
            shop.work().await;
        }
        assert_eq!(shop.order(order.id).await.state, OrderState::NeedsOperator);
        for attempt in 4..=6_u64 {
            retry(&shop.app, order.id, "operator:test").await.unwrap();
            shop.work().await;
            assert_eq!(shop.order(order.id).await.state, OrderState::Provisioning);
            shop.node_fails(&order, attempt * 10, EventKind::Undone, "clone", "retryable").await;
            shop.work().await;
            let back = shop.order(order.id).await;
            assert_eq!(
                (back.state, back.reason.as_deref()),
                (OrderState::NeedsOperator, Some(reason::BUILD_FAILED))
            );
        }
        assert_eq!(shop.told(&order).await.len(), 6, "one try each");
    })
    .await;
}

#[tokio::test]
async fn a_refunded_server_on_a_node_that_takes_no_orders_ends_as_soon_as_it_does() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let order = shop.silent(1).await;
        shop.change_node("fsn-1", fleet::NodeChange::Quarantine).await;
        refund(&shop.app, order.id, "operator:test").await.unwrap();
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Refunded, "the money does not wait");
        assert_eq!(shop.server(&order).await.state, InstanceState::Retiring);
        instances::sweep(&shop.app).await.unwrap();
        assert_eq!(shop.told(&order).await.len(), 1, "nothing can be told yet");

        shop.change_node("fsn-1", fleet::NodeChange::Enrol).await;
        instances::sweep(&shop.app).await.unwrap();
        let told = shop.told(&order).await;
        assert_eq!(told.iter().map(|r| r.verb.as_str()).collect::<Vec<_>>(), ["ensure", "retire"]);
        shop.node_says(&order, 2, EventKind::Succeeded, "").await;
        shop.work().await;
        assert_eq!(shop.server(&order).await.state, InstanceState::Retired);
    })
    .await;
}

#[tokio::test]
async fn a_refunded_server_that_never_came_about_gives_its_place_back() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 1).await;
        let order = shop.silent(1).await;
        let first = shop.server(&order).await.provisioning_order.unwrap();
        refund(&shop.app, order.id, "operator:test").await.unwrap();
        shop.work().await;
        assert_eq!(shop.server(&order).await.state, InstanceState::Retiring);
        // The node had undone it all along, so there is nothing to retire there.
        shop.node_says_of(&order, first, 2, EventKind::Undone, "", "retryable").await;
        shop.node_refuses(&order, "CONFLICT").await;
        shop.work().await;
        shop.passes(Duration::from_secs(61)).await;
        instances::sweep(&shop.app).await.unwrap();
        assert_eq!(shop.server(&order).await.state, InstanceState::Released);
        assert!(shop.place_of(&order).await.is_none());
        place(&shop.app, shop.request(2)).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_refunded_server_that_was_moved_before_and_never_came_about_gives_its_place_back() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        ready_node(&shop.app, "fsn-2", 5_000, 3).await;
        let order = shop.silent(1).await;
        let first = shop.server(&order).await;
        let here = if first.node == Some(shop.node.id) { "fsn-1" } else { "fsn-2" };
        shop.change_node(here, fleet::NodeChange::Revoke).await;
        shop.passes(Duration::from_secs(15 * 60)).await;
        re_place(&shop.app, order.id, "operator:test", true).await.unwrap();
        shop.work().await;
        shop.node_says(&order, 1, EventKind::Accepted, "").await;
        shop.work().await;
        shop.clock.advance(Duration::from_secs(16 * 60));
        advance::advance(&shop.app, order.id).await.unwrap();
        refund(&shop.app, order.id, "operator:test").await.unwrap();
        shop.work().await;

        let told = shop.told(&order).await;
        let second =
            told.iter().filter(|record| record.verb == "ensure").max_by_key(|record| record.generation);
        shop.node_says_of(&order, second.unwrap().id, 2, EventKind::Failed, "", "retryable").await;
        shop.node_refuses(&order, "CONFLICT").await;
        shop.work().await;
        shop.clock.advance(Duration::from_secs(61));
        instances::sweep(&shop.app).await.unwrap();
        assert_eq!(shop.server(&order).await.state, InstanceState::Released);
    })
    .await;
}

#[tokio::test]
async fn after_a_refund_was_begun_only_a_refund_follows() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let order = shop.silent(1).await;
        shop.stripe.state().refunds_end = Some("failed");
        refund(&shop.app, order.id, "operator:test").await.unwrap();
        shop.work().await;
        let failed = shop.order(order.id).await;
        assert_eq!(
            (failed.state, failed.reason.as_deref()),
            (OrderState::NeedsOperator, Some(reason::REFUND_FAILED))
        );
        // Its subscription has ended: a server would never be paid for again.
        for refused in [
            retry(&shop.app, order.id, "operator:test").await,
            re_place(&shop.app, order.id, "operator:test", false).await,
            abandon(&shop.app, order.id, "operator:test", false).await,
        ] {
            assert!(matches!(refused, Err(ExitError::RefundBegan)), "{refused:?}");
        }
        shop.stripe.state().refunds_end = None;
        refund(&shop.app, order.id, "operator:test").await.unwrap();
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Refunded);
        assert_eq!(shop.ledger(&order), Ledger { paid: 900, returned: 900, running: 0 });
    })
    .await;
}

#[tokio::test]
async fn no_node_is_revoked_for_an_order_that_can_only_be_refunded() {
    let (db, _directory) = db::testing::sqlite().await;
    let shop = Shop::open(db, 3).await;
    let order = shop.silent(1).await;
    shop.stripe.state().refunds_end = Some("failed");
    refund(&shop.app, order.id, "operator:test").await.unwrap();
    shop.work().await;
    let (failed, server) = (shop.order(order.id).await, shop.server(&order).await);
    assert_eq!(failed.reason.as_deref(), Some(reason::REFUND_FAILED));
    let at = shop.app.clock.now();
    let builds = read(&shop.app, async |c| dispatch::builds_at(c, at, server.id, server.node).await).await;
    assert!(!builds.is_fenced(), "the node holds the order");

    let operator =
        browser::Browser::log_in(&shop.app, "op@example.com", Some(crate::accounts::StaffRole::Operator))
            .await;
    let page = format!("/operator/orders/{}", order.id);
    assert!(operator.get(&page).await.body.contains("a refund was begun"));
    assert_eq!(operator.post(&format!("{page}/re_place")).await.status, 303);
    let node = read(&shop.app, async |c| fleet::node(c, shop.node.id).await).await.unwrap();
    assert_eq!(node.state, fleet::NodeState::Active, "its other servers were cut off for nothing");
    assert_eq!(shop.order(order.id).await, failed);
}

#[tokio::test]
async fn a_refund_that_arrives_while_a_person_looks_ends_subscription_and_server_as_any_other() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let order = shop.silent(1).await;
        shop.stripe.state().refunds_end = Some("failed");
        refund(&shop.app, order.id, "operator:test").await.unwrap();
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::NeedsOperator);
        // Stripe found a way after all.
        let refund = {
            let mut state = shop.stripe.state();
            let made = state.objects.values_mut().find(|o| o["object"] == "refund").unwrap();
            made["status"] = serde_json::json!("succeeded");
            made["id"].as_str().unwrap().to_owned()
        };
        shop.deliver("refund.updated", &refund).await;
        shop.work().await;
        assert_eq!(shop.order(order.id).await.state, OrderState::Refunded);
        assert_eq!(shop.server(&order).await.state, InstanceState::Retiring);
        assert_eq!(shop.ledger(&order), Ledger { paid: 900, returned: 900, running: 0 });
    })
    .await;
}

#[tokio::test]
async fn money_that_does_not_match_has_its_ways_out_on_the_operators_page() {
    let (db, _directory) = db::testing::sqlite().await;
    let shop = Shop::open(db, 3).await;
    let (order, session) = shop.pay_for(1).await;
    shop.stripe.state().objects.get_mut(&session).unwrap()["amount_total"] = serde_json::json!(1);
    shop.deliver("checkout.session.completed", &session).await;
    shop.work().await;
    assert_eq!(shop.order(order.id).await.state, OrderState::NeedsOperator);
    let operator =
        browser::Browser::log_in(&shop.app, "op@example.com", Some(crate::accounts::StaffRole::Operator))
            .await;
    let page = operator.get(&format!("/operator/orders/{}", order.id)).await;
    let button = page.body.split("/refund").nth(1).unwrap().split("</form>").next().unwrap();
    assert!(!button.contains("disabled"), "{button}");
    let taken = operator.post(&format!("/operator/orders/{}/refund", order.id)).await;
    assert_eq!(taken.status, 303);
    shop.work().await;
    assert_eq!(shop.order(order.id).await.state, OrderState::Refunded);
}
