//! Endings that do not work out: how often they are tried again, and who hears of it.

use super::*;

const PROTECTED: &str = "the owner of this host protects VM 1000 (protection: 1), so it is not destroyed; `qm set 1000 --protection 0` lets it go";

impl Farm {
    /// A server whose service ends; the order that its node is told.
    async fn ends(&self, id: InstanceId) -> ProvisioningOrderId {
        let (at, entropy, keys) = (self.app.clock.now(), self.app.entropy.clone(), self.app.keys.clone());
        let instance = self.look(id).await;
        let retiring = self.app.db.write::<_, EndError, _>(move |tx| {
            Box::pin(async move { end(tx, &keys, at, entropy.as_ref(), instance, "customer").await })
        });
        retiring.await.unwrap().provisioning_order.unwrap()
    }

    /// Its node fails an order and says why.
    async fn fails(&self, order: ProvisioningOrderId, why: &str) {
        let (record, at) = (self.record(order).await, self.app.clock.now());
        let event = Event {
            event_seq: self.seq.fetch_add(1, Ordering::Relaxed) + 1,
            order_id: order.to_string(),
            instance_id: record.instance.to_string(),
            at_ms: at.0,
            kind: EventKind::Failed.into(),
            detail: why.to_owned(),
            facts: Some(seen("stopped")),
            generation: record.generation,
            ..Event::default()
        };
        let node = record.node;
        self.app
            .db
            .write::<_, db::DbError, _>(move |tx| {
                Box::pin(async move { dispatch::record(tx, at, node, "j1", &event).await })
            })
            .await
            .unwrap();
        self.work().await;
    }

    /// What the alarms about endings say.
    async fn late_endings(&self) -> Vec<String> {
        let mut connection = self.app.db.read().await.unwrap();
        let all = fleet::alarms::list(&mut connection, 100).await.unwrap();
        let open = all.into_iter().filter(|alarm| alarm.cleared_at.is_none() && alarm.kind == "ending_late");
        open.map(|alarm| alarm.detail).collect()
    }
}

#[tokio::test]
async fn a_retire_that_fails_rings_is_ordered_ever_more_slowly_and_works_out() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let id = farm.server().await.id;
        let mut order = farm.ends(id).await;
        for minutes in [1; 4] {
            farm.fails(order, "the storage does not answer").await;
            farm.passes(Duration::from_secs(60 * minutes - 1)).await;
            assert_eq!(farm.newest(id).await.id, order, "not before {minutes} min");
            assert!(farm.late_endings().await.is_empty());
            // Endings are looked at twice a minute.
            farm.passes(Duration::from_secs(31)).await;
            let next = farm.newest(id).await.id;
            assert_ne!(next, order, "after {minutes} min");
            order = next;
        }
        farm.fails(order, "the storage does not answer").await;
        farm.passes(Duration::from_secs(31)).await;
        let told = farm.late_endings().await;
        assert!(told.len() == 1 && told[0].contains("the storage does not answer"), "{told:?}");
        assert!(told[0].contains("5 times") && !told[0].contains("qm set"), "{told:?}");
        farm.passes(Duration::from_secs(60)).await;
        let mut order = farm.newest(id).await.id;
        for minutes in [2, 4, 8] {
            farm.fails(order, "the storage does not answer").await;
            farm.passes(Duration::from_secs(60 * minutes - 1)).await;
            assert_eq!(farm.newest(id).await.id, order, "not before {minutes} min");
            farm.passes(Duration::from_secs(31)).await;
            let next = farm.newest(id).await.id;
            assert_ne!(next, order, "after {minutes} min");
            order = next;
        }
        assert_eq!(farm.late_endings().await.len(), 1, "it rings all the time");
        farm.node_says(order, EventKind::Succeeded, seen("stopped")).await;
        assert_eq!(
            (farm.look(id).await.state, farm.late_endings().await),
            (InstanceState::Retired, Vec::new())
        );
    })
    .await;
}

#[tokio::test]
async fn a_protected_servers_purge_leaves_its_host_alone_and_says_what_lets_it_go() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let id = farm.server().await.id;
        let retired = farm.ends(id).await;
        farm.node_says(retired, EventKind::Succeeded, seen("stopped")).await;
        farm.passes(Duration::from_secs(72 * 3_600)).await;
        let mut purges = 0;
        // Half a day, in which its host is told as often as its owner lets it be told of purges, and not more.
        for minutes in [1; 20].into_iter().chain([10; 70]) {
            let newest = farm.newest(id).await;
            if newest.verb == "purge" && newest.state == dispatch::State::Signed {
                purges += 1;
                farm.fails(newest.id, PROTECTED).await;
            }
            farm.passes(Duration::from_secs(60 * minutes)).await;
        }
        assert!((2..=9).contains(&purges), "{purges}");
        let told = farm.late_endings().await;
        assert!(told.len() == 1 && told[0].contains("qm set 1000 --protection 0"), "{told:?}");
        assert_eq!(farm.look(id).await.state, InstanceState::Purging);
        // Its owner has let it go.
        while farm.newest(id).await.state != dispatch::State::Signed {
            farm.passes(Duration::from_secs(3_600)).await;
        }
        let order = farm.newest(id).await.id;
        farm.node_says(order, EventKind::Succeeded, seen("absent")).await;
        assert_eq!(
            (farm.look(id).await.state, farm.late_endings().await),
            (InstanceState::Purged, Vec::new())
        );
    })
    .await;
}
