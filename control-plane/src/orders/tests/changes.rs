//! A server that is changed stays what was bought: no change of it is an attempt, a refund or another purchase.

use ez_protocol::order::{FirewallRules, Verdict};

use super::*;
use crate::instances::{ActionState, Verb};

impl Shop {
    /// A purchase whose server runs.
    async fn fulfilled(&self, n: u8) -> Order {
        let order = self.provisioning(n).await;
        self.node_says(&order, 1, EventKind::Accepted, "").await;
        self.node_says(&order, 2, EventKind::Succeeded, "").await;
        self.work().await;
        let order = self.order(order.id).await;
        assert_eq!(order.state, OrderState::Fulfilled);
        order
    }

    /// The customer changes the firewall; gives the provisioning order.
    async fn changes(&self, order: &Order) -> ProvisioningOrderId {
        let rules = FirewallRules { inbound: Verdict::Drop, rules: Vec::new() };
        let verb = Verb::Firewall(Some(rules));
        let action = instances::act(&self.app, order.instance, verb, "user:x", None).await.unwrap();
        assert_eq!(action.state, ActionState::Running);
        action.provisioning_order.unwrap()
    }
}

#[tokio::test]
async fn a_change_that_fails_concerns_neither_the_purchase_nor_its_money() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let order = shop.fulfilled(1).await;
        let before = shop.server(&order).await;
        for round in 0..4_u64 {
            let changed = shop.changes(&order).await;
            let seq = 10 + round * 10;
            shop.node_says_of(&order, changed, seq, EventKind::Accepted, "", "").await;
            shop.node_says_of(&order, changed, seq + 1, EventKind::Undone, "configure", "retryable").await;
            shop.work().await;
            advance::advance(&shop.app, order.id).await.unwrap();
        }
        let after = shop.server(&order).await;
        assert_eq!(shop.order(order.id).await, order, "nothing happened to the purchase");
        assert_eq!(
            (after.state, after.node, after.attempts, after.provisioning_order),
            (before.state, before.node, before.attempts, before.provisioning_order),
            "nor to where its server is"
        );
        assert_eq!(shop.ledger(&order).returned, 0);
        assert!(!shop.letters().await.contains(&"order-needs-attention".to_owned()));
    })
    .await;
}

#[tokio::test]
async fn a_server_whose_changes_all_failed_is_ended_like_any_other() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let order = shop.fulfilled(1).await;
        let changed = shop.changes(&order).await;
        shop.node_says_of(&order, changed, 10, EventKind::Failed, "", "user").await;
        shop.work().await;
        instances::delete(&shop.app, order.instance, "user:x").await.unwrap();
        shop.work().await;
        shop.passes(Duration::from_secs(120)).await;
        instances::sweep(&shop.app).await.unwrap();
        let server = shop.server(&order).await;
        assert_eq!(
            server.state,
            InstanceState::Retiring,
            "it stands on its node until the node says otherwise"
        );
        assert!(shop.place_of(&order).await.is_some());
        let retire = shop.told(&order).await.into_iter().find(|told| told.verb == "retire").unwrap();
        shop.node_says_of(&order, retire.id, 20, EventKind::Succeeded, "", "").await;
        shop.work().await;
        assert_eq!(shop.server(&order).await.state, InstanceState::Retired);
    })
    .await;
}

#[tokio::test]
async fn a_change_under_way_when_the_server_is_deleted_is_superseded_without_harm() {
    db::testing::each_database(async |db| {
        let shop = Shop::open(db, 3).await;
        let order = shop.fulfilled(1).await;
        let changed = shop.changes(&order).await;
        instances::delete(&shop.app, order.instance, "user:x").await.unwrap();
        shop.work().await;
        let retire = shop.told(&order).await.into_iter().find(|told| told.verb == "retire").unwrap();
        shop.node_says_of(&order, changed, 10, EventKind::Superseded, "", "").await;
        shop.node_says_of(&order, retire.id, 11, EventKind::Succeeded, "", "").await;
        shop.work().await;
        assert_eq!(shop.server(&order).await.state, InstanceState::Retired);
        // Late and again: nothing more happens.
        shop.node_says_of(&order, changed, 12, EventKind::Succeeded, "", "").await;
        shop.work().await;
        assert_eq!(shop.server(&order).await.state, InstanceState::Retired);
        assert_eq!(shop.order(order.id).await.state, OrderState::Fulfilled);
    })
    .await;
}
