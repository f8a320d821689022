use std::time::Duration;

use crate::{
    clock::Clock as _,
    db,
    fleet::{
        alarms, nodes,
        sessions::{self, Silence},
        testing::{locations, read, ready_node, report_as, services},
    },
};

#[tokio::test]
async fn a_silent_node_is_called_offline_once_and_only_after_the_grace() {
    db::testing::each_database(async |db| {
        let (app, clock) = services(db);
        locations(&app, 10).await;
        let node = ready_node(&app, "fsn-1", 1_000, 5).await;
        let watch = async || {
            let at = clock.now();
            app.db.write(move |tx| Box::pin(async move { sessions::watch(tx, at).await })).await.unwrap()
        };
        let beat = async || {
            let at = clock.now();
            app.db
                .write(move |tx| Box::pin(async move { sessions::beat(tx, at, "p2").await }))
                .await
                .unwrap();
        };
        assert!(watch().await.is_empty());
        // The process that held it has died; another one has just begun, and calls nobody offline yet.
        clock.advance(Duration::from_secs(100));
        beat().await;
        let at = clock.now();
        app.db.write(move |tx| Box::pin(async move { sessions::drop_stale(tx, at).await })).await.unwrap();
        assert!(watch().await.is_empty());
        clock.advance(Duration::from_secs(300));
        beat().await;
        let gone = watch().await;
        assert!(matches!(&gone[..], [Silence { name, .. }] if name == "fsn-1"));
        assert!(watch().await.is_empty(), "said once");
        let open = read(&app, async |c| alarms::list(c, 9).await).await;
        assert_eq!(open[0].kind, "node_offline");

        let again = crate::fleet::testing::hello(&node, 1_000);
        let (at, entropy) = (clock.now(), app.entropy.clone());
        let connection = sessions::Connection {
            process: "p2".into(),
            id: "c2".into(),
            serial: node.serial.clone(),
            remote: "192.0.2.1:8".into(),
        };
        let ratchet =
            read(&app, async |c| Ok::<_, db::DbError>(sessions::ratchet_for_tests(c, node.id).await)).await;
        let hello = ez_protocol::message::Hello { ratchet, now_ms: at.0, ..again };
        app.db
            .write(move |tx| {
                Box::pin(async move {
                    sessions::greet(tx, at, entropy.as_ref(), node.id, &connection, &hello, 0).await
                })
            })
            .await
            .unwrap();
        assert!(watch().await.is_empty());
        let all = read(&app, async |c| alarms::list(c, 9).await).await;
        assert!(all[0].cleared_at.is_some());
    })
    .await;
}

#[tokio::test]
async fn a_clock_that_was_a_day_ahead_hides_no_silent_node_once_it_is_right() {
    db::testing::each_database(async |db| {
        let (app, clock) = services(db);
        locations(&app, 10).await;
        let node = ready_node(&app, "fsn-1", 1_000, 5).await;
        let right = clock.now();
        clock.advance(Duration::from_secs(24 * 3_600));
        let (at, id) = (clock.now(), node.id);
        app.db
            .write(move |tx| {
                Box::pin(async move {
                    sessions::beat(tx, at, "p2").await?;
                    sessions::end(tx, at, id, &format!("c-{id}")).await
                })
            })
            .await
            .unwrap();
        clock.set(right);
        let gone = async || {
            clock.advance(Duration::from_secs(301));
            let at = clock.now();
            app.db
                .write(move |tx| {
                    Box::pin(async move {
                        sessions::beat(tx, at, "p2").await?;
                        sessions::drop_stale(tx, at).await?;
                        sessions::watch(tx, at).await
                    })
                })
                .await
                .unwrap()
        };
        assert!(
            gone().await.is_empty(),
            "nobody knows when it was heard of, nor since when this process serves"
        );
        assert!(matches!(&gone().await[..], [Silence { name, .. }] if name == "fsn-1"));
    })
    .await;
}

#[tokio::test]
async fn an_ended_connection_leaves_the_time_it_was_last_seen() {
    db::testing::each_database(async |db| {
        let (app, clock) = services(db);
        locations(&app, 10).await;
        let node = ready_node(&app, "fsn-1", 1_000, 5).await;
        clock.advance(Duration::from_secs(20));
        let (at, id) = (clock.now(), node.id);
        let end = async |connection: &'static str| {
            app.db
                .write(move |tx| Box::pin(async move { sessions::end(tx, at, id, connection).await }))
                .await
                .unwrap();
            read(&app, async |c| nodes::by_id(c, id).await).await.unwrap()
        };
        assert!(end("another").await.connected_at.is_some(), "an older connection ends nothing");
        let mine: &'static str = Box::leak(format!("c-{id}").into_boxed_str());
        let row = end(mine).await;
        assert_eq!((row.connected_at, row.last_seen_at), (None, Some(at)));
    })
    .await;
}

#[tokio::test]
async fn ranges_that_overlap_ring_for_both_until_either_is_another() {
    db::testing::each_database(async |db| {
        let (app, _clock) = services(db);
        locations(&app, 10).await;
        let first = ready_node(&app, "fsn-1", 1_000, 5).await;
        let open = async || {
            let mut open = read(&app, async |c| alarms::open_subjects(c, "vmid_overlap").await).await;
            open.sort();
            open
        };
        let greets = async |node: &crate::fleet::testing::TestNode, first_vmid: u32| {
            let ratchet =
                read(&app, async |c| Ok::<_, db::DbError>(sessions::ratchet_for_tests(c, node.id).await))
                    .await;
            let hello = crate::fleet::testing::hello(node, first_vmid);
            report_as(&app, node, ez_protocol::message::Hello { ratchet, ..hello }, 5).await;
        };
        let second = ready_node(&app, "fsn-2", 1_500, 5).await;
        assert_eq!(open().await, ["fsn-2"], "1500-2499 touches 1000-1999");
        greets(&first, 1_000).await;
        assert_eq!(open().await, ["fsn-1", "fsn-2"]);
        // The second's owner gives it a range of its own: neither touches the other any more.
        greets(&second, 3_000).await;
        assert!(open().await.is_empty(), "{:?}", open().await);
    })
    .await;
}
