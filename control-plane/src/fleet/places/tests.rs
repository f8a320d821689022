use std::{collections::BTreeSet, time::Duration};

use crate::{
    app::App,
    clock::Clock as _,
    db,
    fleet::{
        self, NodeChange, Placement, Release, ReserveError,
        testing::{
            AT, IMAGE, enrolled, hello, instance, locations, need, read, ready_node, report_as, services,
        },
    },
    placement::{Need, NoPlace, choose, room_for},
};
use ez_protocol::{InstanceId, NodeId};

async fn reserve(app: &App, node: NodeId, instance: InstanceId) -> Result<Placement, ReserveError> {
    let (at, entropy) = (app.clock.now(), app.entropy.clone());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                fleet::reserve(tx, at, entropy.as_ref(), node, instance, &need(), Some(AT)).await
            })
        })
        .await
}

async fn release(app: &App, instance: InstanceId, how: Release) -> bool {
    let at = app.clock.now();
    app.db
        .write(move |tx| Box::pin(async move { fleet::release(tx, at, instance, how).await }))
        .await
        .unwrap()
}

#[tokio::test]
async fn a_place_has_everything_and_gives_it_back() {
    db::testing::each_database(async |db| {
        let (app, _clock) = services(db);
        locations(&app, 10).await;
        let node = ready_node(&app, "fsn-1", 1_000, 3).await;
        let place = reserve(&app, node.id, instance(1)).await.unwrap();
        assert_eq!((place.vmid, place.node_name.as_str(), place.location.as_str()), (1_000, "fsn-1", "fsn"));
        assert_eq!(place.ipv4.address.to_string(), "203.0.113.2");
        assert_eq!(place.ipv6.unwrap().address.to_string(), "2001:db8:12::1");
        assert!(place.mac.as_str().starts_with("BC:24:11:"));
        assert_eq!(place.network(None).addresses.len(), 2);
        assert_eq!(place.reserved_until, Some(AT));
        assert!(matches!(reserve(&app, node.id, instance(1)).await, Err(ReserveError::Already)));

        app.db.write(|tx| Box::pin(async move { fleet::confirm(tx, instance(1)).await })).await.unwrap();
        let found = read(&app, async |c| fleet::placement_of(c, instance(1)).await).await;
        assert_eq!(found, Some(Placement { reserved_until: None, ..place }));

        assert!(release(&app, instance(1), Release::NeverUsed).await);
        assert!(!release(&app, instance(1), Release::NeverUsed).await);
        let fleet = read(&app, async |c| fleet::snapshot(c, AT, Some("fsn")).await).await;
        let view = &fleet.nodes[0];
        assert_eq!((view.vcpu.sold, view.memory_mib.sold, view.disk_gib.sold), (0, 0, 0));
        assert_eq!((view.free_ipv4, view.free_vmids), (10, 1_000));
        assert!(view.online && view.has_bridge && view.has_storage && view.images.contains(IMAGE));
    })
    .await;
}

#[tokio::test]
async fn fifty_racing_for_five_places_get_exactly_five() {
    db::testing::each_database(async |db| {
        let (app, _clock) = services(db);
        locations(&app, 200).await;
        let node = ready_node(&app, "fsn-1", 1_000, 5).await;
        let outcomes = futures::future::join_all((0..50).map(|n| reserve(&app, node.id, instance(n)))).await;
        let places: Vec<_> = outcomes.iter().filter_map(|o| o.as_ref().ok()).collect();
        assert_eq!(places.len(), 5);
        assert!(outcomes.iter().all(|o| matches!(o, Ok(_) | Err(ReserveError::NoRoom))));
        let distinct =
            |f: fn(&Placement) -> String| places.iter().map(|p| f(p)).collect::<BTreeSet<_>>().len();
        assert_eq!(distinct(|p| p.vmid.to_string()), 5);
        assert_eq!(distinct(|p| p.mac.to_string()), 5);
        assert_eq!(distinct(|p| p.ipv4.address.to_string()), 5);
        let fleet = read(&app, async |c| fleet::snapshot(c, AT, None).await).await;
        assert_eq!(choose(&fleet, &need(), &[]), Err(NoPlace::SoldOut));
        assert_eq!(room_for(&fleet, &need()), 0);
    })
    .await;
}

#[tokio::test]
async fn fifty_racing_for_five_addresses_get_exactly_five() {
    db::testing::each_database(async |db| {
        let (app, _clock) = services(db);
        locations(&app, 5).await;
        let nodes =
            [ready_node(&app, "fsn-1", 1_000, 100).await, ready_node(&app, "fsn-2", 2_000, 100).await];
        let attempts = (0..50).map(|n| reserve(&app, nodes[usize::from(n % 2)].id, instance(n)));
        let outcomes = futures::future::join_all(attempts).await;
        let given: BTreeSet<_> =
            outcomes.iter().filter_map(|o| o.as_ref().ok().map(|p| p.ipv4.address)).collect();
        assert_eq!((given.len(), outcomes.iter().filter(|o| o.is_ok()).count()), (5, 5));
        assert!(outcomes.iter().all(|o| matches!(o, Ok(_) | Err(ReserveError::NoAddress))));
        // What a refused reservation had taken is back.
        let fleet = read(&app, async |c| fleet::snapshot(c, AT, None).await).await;
        assert_eq!(fleet.nodes.iter().map(|n| n.vcpu.sold).sum::<u64>(), 5);
        for location in ["fsn", "hel"] {
            assert_eq!(room_for(&fleet, &Need { location: location.into(), ..need() }), 0);
        }
    })
    .await;
}

#[tokio::test]
async fn a_snapshot_counts_the_numbers_that_are_free_again_for_each_node() {
    db::testing::each_database(async |db| {
        let (app, clock) = services(db);
        locations(&app, 10).await;
        let mut nodes = Vec::new();
        for (name, number) in [("fsn-1", 1_000), ("fsn-2", 2_000)] {
            let node = enrolled(&app, name, "fsn").await;
            let mut said = hello(&node, number);
            said.policy.as_mut().unwrap().vmid_last = number;
            report_as(&app, &node, said, 5).await;
            nodes.push(node.id);
        }
        for (at, node) in (1..).zip(&nodes) {
            reserve(&app, *node, instance(at)).await.unwrap();
        }
        release(&app, instance(1), Release::Gone).await;
        let now = clock.now();
        let rested = now.plus(Duration::from_secs(24 * 3_600));
        for (at, location, free) in
            [(now, None, [0_u64, 0]), (rested, None, [1, 0]), (rested, Some("fsn"), [1, 0])]
        {
            let fleet = read(&app, async |c| fleet::snapshot(c, at, location).await).await;
            assert_eq!(fleet.nodes.iter().map(|node| node.free_vmids).collect::<Vec<_>>(), free);
        }
        let elsewhere = read(&app, async |c| fleet::snapshot(c, rested, Some("hel")).await).await;
        assert!(elsewhere.nodes.is_empty());
    })
    .await;
}

#[tokio::test]
async fn used_addresses_rest_a_day_after_the_vm_is_gone() {
    db::testing::each_database(async |db| {
        let (app, clock) = services(db);
        locations(&app, 1).await;
        let node = ready_node(&app, "fsn-1", 1_000, 10).await;
        let first = reserve(&app, node.id, instance(1)).await.unwrap();
        release(&app, instance(1), Release::Gone).await;
        assert!(matches!(reserve(&app, node.id, instance(2)).await, Err(ReserveError::NoAddress)));
        clock.advance(Duration::from_secs(24 * 3_600));
        let second = reserve(&app, node.id, instance(2)).await.unwrap();
        assert_eq!(second.ipv4.address, first.ipv4.address);
        assert_ne!(second.mac, first.mac);

        // Nobody knows whether this one is gone: it rests until somebody does.
        release(&app, instance(2), Release::Unknown).await;
        clock.advance(Duration::from_secs(90 * 86_400));
        assert!(matches!(reserve(&app, node.id, instance(3)).await, Err(ReserveError::NoAddress)));
        let elsewhere = ready_node(&app, "fsn-2", 3_000, 10).await;
        let at = clock.now();
        let gone_from = async |node: NodeId| {
            app.db
                .write(move |tx| {
                    Box::pin(async move { fleet::confirm_gone(tx, at, node, instance(2)).await })
                })
                .await
                .unwrap();
        };
        gone_from(elsewhere.id).await;
        clock.advance(Duration::from_secs(24 * 3_600));
        let refused = reserve(&app, node.id, instance(3)).await;
        assert!(matches!(refused, Err(ReserveError::NoAddress)), "another node cannot know");
        gone_from(node.id).await;
        assert_eq!(reserve(&app, node.id, instance(3)).await.unwrap().ipv4.address, first.ipv4.address);
    })
    .await;
}

#[tokio::test]
async fn a_narrower_range_gives_nothing_out_beyond_its_end_and_the_rest_is_sold_as_before() {
    db::testing::each_database(async |db| {
        let (app, _clock) = services(db);
        locations(&app, 20).await;
        let node = ready_node(&app, "fsn-1", 1_000, 30).await;
        for n in 0..20 {
            reserve(&app, node.id, instance(n)).await.unwrap();
        }
        let free = async || {
            let fleet = read(&app, async |c| fleet::snapshot(c, AT, None).await).await;
            fleet.nodes[0].free_ipv4
        };
        // The upper half of the addresses goes back to whom they came from.
        locations(&app, 10).await;
        assert_eq!(free().await, 0);
        let outside = read(&app, async |c| fleet::placement_of(c, instance(19)).await).await.unwrap();
        assert_eq!(outside.ipv4.address.to_string(), "203.0.113.21");
        release(&app, instance(19), Release::NeverUsed).await;
        assert_eq!(free().await, 0);
        assert!(matches!(reserve(&app, node.id, instance(20)).await, Err(ReserveError::NoAddress)));
        release(&app, instance(3), Release::NeverUsed).await;
        assert_eq!(free().await, 1);
        let again = reserve(&app, node.id, instance(20)).await.unwrap();
        assert_eq!(again.ipv4.address.to_string(), "203.0.113.5");
    })
    .await;
}

#[tokio::test]
async fn a_foreign_vmid_is_never_given_out_again() {
    let (db, _dir) = db::testing::sqlite().await;
    let (app, _clock) = services(db);
    locations(&app, 10).await;
    let node = ready_node(&app, "fsn-1", 1_000, 10).await;
    let first = reserve(&app, node.id, instance(1)).await.unwrap();
    app.db.write(|tx| Box::pin(async move { fleet::vmid_is_foreign(tx, instance(1)).await })).await.unwrap();
    release(&app, instance(1), Release::NeverUsed).await;
    for n in 2..6 {
        assert_ne!(reserve(&app, node.id, instance(n)).await.unwrap().vmid, first.vmid);
    }
}

#[tokio::test]
async fn a_cordoned_node_takes_nothing_new() {
    let (db, _dir) = db::testing::sqlite().await;
    let (app, _clock) = services(db);
    locations(&app, 10).await;
    let node = ready_node(&app, "fsn-1", 1_000, 10).await;
    fleet::change_node(&app, "operator:test", "fsn-1", NodeChange::Cordon).await.unwrap();
    assert!(matches!(reserve(&app, node.id, instance(1)).await, Err(ReserveError::NoRoom)));
    let fleet = read(&app, async |c| fleet::snapshot(c, AT, None).await).await;
    assert_eq!(choose(&fleet, &need(), &[]), Err(NoPlace::NoneAccepting));
    fleet::change_node(&app, "operator:test", "fsn-1", NodeChange::Uncordon).await.unwrap();
    assert!(reserve(&app, node.id, instance(1)).await.is_ok());
}
