use ez_protocol::message::{HostState, InstanceState, ThinPoolState, Warning};

use super::{Position, Verdict, record_host, record_instances, settle_strays, take};
use crate::{
    clock::Clock as _,
    db,
    fleet::{
        self, Release, alarms, nodes,
        testing::{host, instance, locations, need, read, ready_node, services},
    },
    placement::{self, Need, NoPlace},
};

#[tokio::test]
async fn reports_are_taken_in_order() {
    db::testing::each_database(async |db| {
        let (app, _clock) = services(db);
        locations(&app, 10).await;
        let node = ready_node(&app, "fsn-1", 1_000, 5).await;
        let (at, id) = (app.clock.now(), node.id);
        let verdict = async |report_epoch: &'static str, seq, base| {
            let position = Position { report_epoch, seq, base };
            app.db.write(move |tx| Box::pin(async move { take(tx, at, id, position).await })).await.unwrap()
        };
        assert_eq!(verdict("r1", 1, None).await, Verdict::Known);
        assert_eq!(verdict("r1", 2, Some(1)).await, Verdict::Take);
        assert_eq!(verdict("r1", 2, Some(1)).await, Verdict::Known);
        assert_eq!(verdict("r1", 4, Some(3)).await, Verdict::Gap);
        assert_eq!(verdict("r2", 2, Some(1)).await, Verdict::Gap);
        assert_eq!(verdict("r2", 1, None).await, Verdict::Take);
    })
    .await;
}

#[tokio::test]
async fn capacity_is_what_is_left_for_us_and_warnings_ring_while_they_last() {
    db::testing::each_database(async |db| {
        let (app, _clock) = services(db);
        locations(&app, 10).await;
        let node = ready_node(&app, "fsn-1", 1_000, 5).await;
        let (at, id) = (app.clock.now(), node.id);
        let say = async |host: HostState| {
            app.db
                .write(move |tx| Box::pin(async move { record_host(tx, at, id, &host).await }))
                .await
                .unwrap();
            read(&app, async |c| nodes::by_id(c, id).await).await.unwrap()
        };
        let before = say(host(10)).await.memory_mib.capacity;
        let warning = Warning { code: "FIREWALL_INERT".into(), text: "Switch it on.".into() };
        let row = say(HostState { foreign_memory_mib: 8_192, warnings: vec![warning], ..host(10) }).await;
        assert!(row.memory_mib.capacity < before - 7_000);
        assert_eq!(row.warnings.len(), 1);
        let open = async || {
            let all = read(&app, async |c| alarms::list(c, 9).await).await;
            all.into_iter().filter(|a| a.cleared_at.is_none()).map(|a| a.kind).collect::<Vec<_>>()
        };
        assert_eq!(open().await, ["firewall_inert"]);
        say(host(10)).await;
        assert!(open().await.is_empty());
        let silent = Warning { code: "PVE_SILENT".into(), text: "Proxmox VE does not answer.".into() };
        let row = say(HostState { warnings: vec![silent], ..HostState::default() }).await;
        assert_eq!(row.memory_mib.capacity, before, "a host that cannot be read has not shrunk to nothing");
        assert_eq!(open().await, ["pve_silent"]);
    })
    .await;
}

#[tokio::test]
async fn room_on_a_storage_that_others_have_taken_is_never_sold() {
    db::testing::each_database(async |db| {
        let (app, _clock) = services(db);
        locations(&app, 10).await;
        let node = ready_node(&app, "fsn-1", 1_000, 5).await;
        let (at, id) = (app.clock.now(), node.id);
        let takes = async |used_gib: u64| {
            let mut host = host(10);
            host.storages[0].used_mib = used_gib * 1_024;
            app.db
                .write(move |tx| Box::pin(async move { record_host(tx, at, id, &host).await }))
                .await
                .unwrap();
            read(&app, async |c| nodes::by_id(c, id).await).await.unwrap().disk_gib.capacity
        };
        let fits = async |disk_gib: u64| {
            let fleet = read(&app, async |c| fleet::snapshot(c, at, None).await).await;
            placement::choose(&fleet, &Need { disk_gib, ..need() }, &[])
        };
        assert_eq!(takes(0).await, 3_800);
        assert_eq!(fits(3_800).await, Ok(id));
        assert_eq!(takes(3_000).await, 950);
        assert_eq!((fits(950).await, fits(951).await), (Ok(id), Err(NoPlace::SoldOut)));
        assert_eq!(takes(4_000).await, 0);
        assert_eq!(fits(1).await, Err(NoPlace::SoldOut));
        assert_eq!(takes(0).await, 3_800, "and it is there again once they have gone");
    })
    .await;
}

#[tokio::test]
async fn two_warnings_of_one_kind_are_one_alarm_that_says_both() {
    db::testing::each_database(async |db| {
        let (app, _clock) = services(db);
        locations(&app, 10).await;
        let node = ready_node(&app, "fsn-1", 1_000, 5).await;
        let (at, id) = (app.clock.now(), node.id);
        let rings = async |missing: Vec<&'static str>| {
            let warning = |name: &&str| Warning {
                code: "STORAGE_MISSING".into(),
                text: format!("Storage {name} is missing."),
            };
            let host = HostState { warnings: missing.iter().map(warning).collect(), ..host(10) };
            app.db
                .write(move |tx| Box::pin(async move { record_host(tx, at, id, &host).await }))
                .await
                .unwrap();
            let all = read(&app, async |c| alarms::list(c, 9).await).await;
            let open = all.into_iter().filter(|alarm| alarm.cleared_at.is_none());
            open.map(|alarm| (alarm.detail, alarm.occurrences)).collect::<Vec<_>>()
        };
        let both = [("Storage a is missing. Storage b is missing.".to_owned(), 1)];
        for missing in [["b", "a"], ["a", "b"]] {
            assert_eq!(rings(missing.to_vec()).await, both, "{missing:?}");
        }
        assert_eq!(rings(vec!["b"]).await, [("Storage b is missing.".to_owned(), 1)]);
        assert!(rings(Vec::new()).await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_host_neither_raises_nor_ends_the_alarms_about_itself() {
    db::testing::each_database(async |db| {
        let (app, _clock) = services(db);
        locations(&app, 10).await;
        let node = ready_node(&app, "fsn-1", 1_000, 5).await;
        let (at, id) = (app.clock.now(), node.id);
        app.db
            .write::<_, db::DbError, _>(move |tx| {
                Box::pin(async move {
                    let alarm = alarms::New {
                        kind: "identity_copied",
                        subject: "fsn-1",
                        severity: fleet::Severity::Critical,
                        node: Some(id),
                        detail: "Two agents.",
                    };
                    alarms::raise(tx, at, alarm).await
                })
            })
            .await
            .unwrap();
        let say = async |code: Option<&str>| {
            let told = code.map(|code| Warning { code: code.into(), text: "x".into() });
            let host = HostState { warnings: told.into_iter().collect(), ..host(10) };
            app.db
                .write(move |tx| Box::pin(async move { record_host(tx, at, id, &host).await }))
                .await
                .unwrap();
            let all = read(&app, async |c| alarms::list(c, 9).await).await;
            let open = all.into_iter().filter(|a| a.cleared_at.is_none());
            let mut kinds: Vec<_> = open.map(|a| a.kind).collect();
            kinds.sort();
            kinds
        };
        assert_eq!(say(Some("IDENTITY_COPIED")).await, ["host_warning", "identity_copied"]);
        assert_eq!(say(None).await, ["identity_copied"], "only its own word ends");
        assert_eq!(say(Some("node_offline")).await, ["host_warning", "identity_copied"]);
        // However many words it invents, they are one row; and once it has ended, it goes.
        for n in 0..5 {
            say(Some(&format!("WORD_{n}"))).await;
        }
        assert_eq!(say(None).await, ["identity_copied"]);
        let rows = async || read(&app, async |c| alarms::list(c, 99).await).await.len();
        assert_eq!(rows().await, 2);
        app.db
            .write(move |tx| {
                Box::pin(async move { alarms::sweep(tx, at.plus(std::time::Duration::from_secs(1))).await })
            })
            .await
            .unwrap();
        assert_eq!(rows().await, 1, "what is open stays");
    })
    .await;
}

#[tokio::test]
async fn a_pool_that_fills_rings_louder_and_falls_silent_when_there_is_room() {
    db::testing::each_database(async |db| {
        let (app, _clock) = services(db);
        locations(&app, 10).await;
        let node = ready_node(&app, "fsn-1", 1_000, 5).await;
        let (at, id) = (app.clock.now(), node.id);
        let rings = async |data_permille, metadata_permille| {
            let pool =
                ThinPoolState { name: "pve/data".into(), total_mib: 9, data_permille, metadata_permille };
            let host = HostState { thin_pools: vec![pool], ..host(10) };
            app.db
                .write(move |tx| Box::pin(async move { record_host(tx, at, id, &host).await }))
                .await
                .unwrap();
            let all = read(&app, async |c| alarms::list(c, 9).await).await;
            let open = all.into_iter().filter(|a| a.cleared_at.is_none());
            open.map(|a| (a.subject, a.severity.as_str())).collect::<Vec<_>>()
        };
        let metadata = || "fsn-1: metadata of thin pool pve/data".to_owned();
        assert!(rings(800, 100).await.is_empty());
        assert_eq!(rings(800, 870).await, [(metadata(), "warning")]);
        assert_eq!(rings(800, 840).await, [(metadata(), "warning")], "it does not flicker");
        assert_eq!(rings(800, 960).await, [(metadata(), "critical")]);
        let row = read(&app, async |c| nodes::by_id(c, id).await).await.unwrap();
        assert_eq!(row.thin_pools[0].metadata_permille, 960);
        assert!(rings(800, 100).await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_full_pool_goes_on_ringing_while_its_host_cannot_look() {
    let (db, _dir) = db::testing::sqlite().await;
    let (app, _clock) = services(db);
    locations(&app, 10).await;
    let node = ready_node(&app, "fsn-1", 1_000, 5).await;
    let (at, id) = (app.clock.now(), node.id);
    let rings_after = async |host: HostState| {
        app.db.write(move |tx| Box::pin(async move { record_host(tx, at, id, &host).await })).await.unwrap();
        read(&app, async |c| alarms::open_about(c, "storage_fills", id).await).await.len()
    };
    let full =
        ThinPoolState { name: "pve/data".into(), total_mib: 9, data_permille: 990, metadata_permille: 10 };
    assert_eq!(rings_after(HostState { thin_pools: vec![full], ..host(10) }).await, 1);
    // The agent was started anew, and Proxmox does not answer it.
    let silent = Warning { code: "PVE_SILENT".into(), text: "Proxmox VE does not answer.".into() };
    assert_eq!(rings_after(HostState { warnings: vec![silent], ..HostState::default() }).await, 1);
    let row = read(&app, async |c| nodes::by_id(c, id).await).await.unwrap();
    assert_eq!((row.storages.len(), row.thin_pools.len()), (1, 1), "what it saw last");
    assert_eq!(rings_after(host(10)).await, 0);
}

#[tokio::test]
async fn a_server_seen_where_it_has_no_place_is_a_stray() {
    let (db, _dir) = db::testing::sqlite().await;
    let (app, clock) = services(db);
    locations(&app, 1).await;
    let (old, new) = (ready_node(&app, "fsn-1", 1_000, 5).await, ready_node(&app, "fsn-2", 3_000, 5).await);
    let at = clock.now();
    let place = async |node: ez_protocol::NodeId| {
        let entropy = app.entropy.clone();
        app.db
            .write(move |tx| {
                Box::pin(async move {
                    fleet::release(tx, at, instance(1), Release::NeverUsed).await?;
                    fleet::reserve(tx, at, entropy.as_ref(), node, instance(1), &need(), None).await
                })
            })
            .await
            .unwrap();
    };
    place(old.id).await;
    place(new.id).await;
    let see = async |power: &str| {
        let state = InstanceState {
            instance_id: instance(1).to_string(),
            power: power.to_owned(),
            ..InstanceState::default()
        };
        let id = old.id;
        app.db
            .write(move |tx| Box::pin(async move { record_instances(tx, at, id, &[state], at).await }))
            .await
            .unwrap();
        let all = read(&app, async |c| alarms::list(c, 9).await).await;
        all.into_iter().filter(|a| a.cleared_at.is_none()).count()
    };
    assert_eq!(see("running").await, 1);
    // A third host, which may have been taken over, has never heard of it, and its word changes nothing.
    let third = ready_node(&app, "fsn-3", 5_000, 5).await.id;
    let absent =
        InstanceState { instance_id: instance(1).to_string(), power: "absent".into(), ..Default::default() };
    app.db
        .write(move |tx| Box::pin(async move { record_instances(tx, at, third, &[absent], at).await }))
        .await
        .unwrap();
    let rings = read(&app, async |c| alarms::open_about(c, "stray_server", old.id).await).await;
    assert_eq!(rings.len(), 1);
    assert_eq!(see("absent").await, 0);

    // A host that spoke for the wrong node named what is another's; the right one names everything it has.
    assert_eq!(see("running").await, 1);
    let words = read(&app, async |c| alarms::open_about(c, "stray_server", old.id).await).await;
    assert!(words[0].detail.contains("Stop nothing yet"), "{}", words[0].detail);
    let whole = async |seen: Vec<InstanceState>| {
        let id = old.id;
        app.db
            .write(move |tx| Box::pin(async move { settle_strays(tx, at, id, &seen).await }))
            .await
            .unwrap();
        read(&app, async |c| alarms::open_about(c, "stray_server", old.id).await).await.len()
    };
    let same =
        InstanceState { instance_id: instance(1).to_string(), power: "running".into(), ..Default::default() };
    assert_eq!(whole(vec![same]).await, 1);
    assert_eq!(whole(Vec::new()).await, 0);
}
