//! Changes of settings: what the node is told, and what holds when it does not work out.

use ez_protocol::order::{FirewallRules, IsoName, PowerVerb, Tag, Verdict};

use super::*;

fn closed() -> FirewallRules {
    FirewallRules { inbound: Verdict::Drop, rules: Vec::new() }
}

fn image(code: &str, digest: &str, login_user: &str) -> ImageChoice {
    ImageChoice { code: code.into(), digest: digest.into(), login_user: login_user.into() }
}

fn rocky() -> ImageChoice {
    image("rocky-9", OTHER_IMAGE, "rocky")
}

fn iso() -> IsoName {
    "netinst.iso".parse().unwrap()
}

#[tokio::test]
async fn each_change_tells_the_node_the_whole_wished_state_and_holds_when_it_has_worked_out() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let id = farm.server().await.id;
        let rescue = image("rescue", RESCUE_IMAGE, "root");
        let tag: Tag = "gold".parse().unwrap();

        farm.press(id, Verb::Firewall(Some(closed()))).await.unwrap();
        let (told, spec) = (farm.told(id).await, farm.spec(id).await);
        assert_eq!(spec.network.rules, Some(closed()));
        assert_eq!((spec.build, told.generation), (0, 2), "a change is a new generation of the same build");
        assert_eq!(
            farm.wishes(id).await.applied.firewall,
            None,
            "until the node has done it the old one holds"
        );
        farm.node_says(told.order_id, EventKind::Succeeded, seen("running")).await;

        farm.done(id, Verb::IsoAttach(iso()), Facts { restart_needed: true, ..seen("running") }).await;
        assert!(farm.wishes(id).await.restart_needed);
        farm.done(id, Verb::Tags(vec![tag.clone()]), seen("running")).await;
        assert!(!farm.wishes(id).await.restart_needed, "the node says after each change what waits");
        farm.done(id, Verb::RescueOn(rescue.clone()), seen("running")).await;
        let applied = farm.wishes(id).await.applied;
        assert_eq!(
            (applied.firewall, applied.iso, applied.tags, applied.rescue.as_ref()),
            (Some(closed()), Some(iso()), vec![tag], Some(&rescue)),
            "each change keeps what the others made"
        );
        let refused = farm.press(id, Verb::SnapshotCreate("clean".parse().unwrap())).await.unwrap_err();
        assert!(matches!(refused, ActError::InRescue), "{refused:?}");
        farm.done(id, Verb::RescueOff, seen("running")).await;
        for verb in [Verb::RescueOff, Verb::IsoAttach(iso()), Verb::Firewall(Some(closed()))] {
            let same = farm.press(id, verb).await.unwrap_err();
            assert!(matches!(same, ActError::SoAlready), "{same:?}");
        }
        farm.done(id, Verb::Firewall(None), seen("running")).await;
        assert_eq!(farm.wishes(id).await.applied.firewall, None);
    })
    .await;
}

#[tokio::test]
async fn a_change_that_fails_is_taken_back_and_concerns_neither_state_nor_attempts() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let before = farm.server().await;
        for (kind, state) in [
            (EventKind::Failed, "running"),
            (EventKind::Undone, "running"),
            (EventKind::Superseded, "running"),
        ] {
            let action = farm.press(before.id, Verb::Firewall(Some(closed()))).await.unwrap();
            let busy = farm.press(before.id, Verb::IsoAttach(iso())).await.unwrap_err();
            assert!(matches!(busy, ActError::Busy(_)), "one thing at a time: {busy:?}");
            farm.node_says(order_of(&action), EventKind::Accepted, seen("")).await;
            farm.node_says(order_of(&action), kind, seen(state)).await;
            assert_eq!(farm.action(action.id).await.state, ActionState::Failed);
            let wishes = farm.wishes(before.id).await;
            assert_eq!((wishes.applied.firewall, wishes.under_way), (None, None));
        }
        let after = farm.look(before.id).await;
        assert_eq!(
            (after.state, after.attempts, after.provisioning_order),
            (InstanceState::Running, 1, before.provisioning_order)
        );
    })
    .await;
}

#[tokio::test]
async fn a_rebuild_gives_another_image_and_new_host_keys_and_takes_snapshots_with_it() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let before = farm.server().await;
        let taken = super::kept::with_snapshots(&["clean"]);
        farm.done(before.id, Verb::SnapshotCreate("clean".parse().unwrap()), taken).await;
        farm.done(before.id, Verb::IsoAttach(iso()), seen("running")).await;
        let refused = farm.press(before.id, Verb::Rebuild(image("nowhere", &"d".repeat(64), "root"))).await;
        assert!(matches!(refused, Err(ActError::ImageNotReady)), "{refused:?}");
        farm.press(before.id, Verb::Rebuild(rocky())).await.unwrap();
        let (told, spec) = (farm.told(before.id).await, farm.spec(before.id).await);
        assert_eq!((spec.build, spec.image.name.as_str(), &spec.iso), (1, "rocky-9", &None));
        let keys = vec!["SHA256:new (ED25519)".to_owned()];
        let facts = Facts { host_keys: keys.clone(), ..seen("running") };
        farm.node_says(told.order_id, EventKind::Succeeded, facts).await;
        let after = farm.look(before.id).await;
        assert_eq!(
            (after.image_code.as_str(), after.login_user.as_str(), after.host_keys, after.state),
            ("rocky-9", "rocky", keys, InstanceState::Running)
        );
        let mut connection = farm.app.db.read().await.unwrap();
        assert!(snapshots(&mut connection, before.id).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn after_a_rebuild_that_lost_the_disk_only_a_rebuild_is_possible_and_it_works() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let id = farm.server().await.id;
        let action = farm.press(id, Verb::Rebuild(rocky())).await.unwrap();
        farm.node_says(order_of(&action), EventKind::Accepted, seen("")).await;
        farm.node_says(order_of(&action), EventKind::Undone, seen("absent")).await;
        let lost = farm.wishes(id).await;
        assert!(lost.disk_lost);
        assert_eq!(lost.applied.image.code, "debian-13", "what was carried out last is what is known");
        let instance = farm.look(id).await;
        assert_eq!(
            (instance.state, instance.observed_state.as_deref()),
            (InstanceState::Stopped, Some("absent")),
            "the observed state is told as it is"
        );
        for verb in [
            Verb::Power(PowerVerb::Start),
            Verb::Firewall(Some(closed())),
            Verb::BackupCreate,
            Verb::SnapshotCreate("clean".parse().unwrap()),
        ] {
            let refused = farm.press(id, verb).await.unwrap_err();
            assert!(matches!(refused, ActError::NeedsRebuild), "{refused:?}");
        }
        farm.press(id, Verb::Rebuild(rocky())).await.unwrap();
        assert_eq!(farm.spec(id).await.build, 2, "a number of a build is used once");
        let again = farm.told(id).await.order_id;
        farm.node_says(again, EventKind::Succeeded, running()).await;
        let healed = farm.wishes(id).await;
        assert!(!healed.disk_lost);
        assert_eq!((healed.applied.build, healed.applied.image.code.as_str()), (2, "rocky-9"));
        assert_eq!(farm.look(id).await.state, InstanceState::Running);
    })
    .await;
}

#[tokio::test]
async fn what_the_node_never_took_is_given_up_and_the_next_action_goes_by_the_nodes_generation() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let id = farm.server().await.id;
        let action = farm.press(id, Verb::Firewall(Some(closed()))).await.unwrap();
        // Its bytes never left: after its time it is certain that nothing comes of it.
        farm.passes(Duration::from_secs(5 * 60)).await;
        assert_eq!(farm.action(action.id).await.state, ActionState::Failed);
        assert_eq!(farm.wishes(id).await.under_way, None);
        farm.press(id, Verb::Power(PowerVerb::Reboot)).await.unwrap();
        assert_eq!(farm.told(id).await.generation, 1, "the node has never heard of generation 2");
        let reboot = farm.told(id).await.order_id;
        farm.node_says(reboot, EventKind::Succeeded, seen("running")).await;
        farm.press(id, Verb::Firewall(Some(closed()))).await.unwrap();
        assert_eq!(farm.told(id).await.generation, 3, "and ours never goes back");
    })
    .await;
}

#[tokio::test]
async fn a_change_that_was_given_up_and_worked_out_holds_after_all_unless_a_newer_one_does() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let id = farm.server().await.id;
        let first = farm.press(id, Verb::Firewall(Some(closed()))).await.unwrap();
        farm.leaves(order_of(&first)).await;
        farm.passes(Duration::from_secs(8 * 60)).await;
        assert_eq!(
            farm.action(first.id).await.state,
            ActionState::Failed,
            "its time and the clocks' are over"
        );
        // The node had taken it and could not say so.
        farm.node_says(order_of(&first), EventKind::Accepted, seen("")).await;
        let busy = farm.press(id, Verb::IsoAttach(iso())).await.unwrap_err();
        assert!(matches!(busy, ActError::Busy(_)), "{busy:?}");
        farm.node_says(order_of(&first), EventKind::Succeeded, seen("running")).await;
        assert_eq!(farm.wishes(id).await.applied.firewall, Some(closed()));
        assert_eq!(farm.action(first.id).await.state, ActionState::Succeeded, "the node's word is the truth");

        let late = farm.press(id, Verb::Firewall(None)).await.unwrap();
        farm.leaves(order_of(&late)).await;
        farm.passes(Duration::from_secs(8 * 60)).await;
        let reject = FirewallRules { inbound: Verdict::Reject, rules: Vec::new() };
        farm.done(id, Verb::Firewall(Some(reject.clone())), seen("running")).await;
        farm.node_says(order_of(&late), EventKind::Succeeded, seen("running")).await;
        assert_eq!(farm.wishes(id).await.applied.firewall, Some(reject), "the newer one came after it");
    })
    .await;
}

#[tokio::test]
async fn a_stuck_change_waits_for_a_person_and_counts_when_it_goes_on() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let id = farm.server().await.id;
        let action = farm.press(id, Verb::Rebuild(rocky())).await.unwrap();
        farm.node_says(order_of(&action), EventKind::Accepted, seen("")).await;
        farm.node_says(order_of(&action), EventKind::Stuck, seen("")).await;
        assert_eq!(farm.action(action.id).await.state, ActionState::Failed);
        let busy = farm.press(id, Verb::Power(PowerVerb::Reboot)).await.unwrap_err();
        assert!(matches!(busy, ActError::Busy(_)), "nobody knows what stands there: {busy:?}");
        assert!(farm.alarms().await.contains(&"order_stuck".to_owned()));
        farm.node_says(order_of(&action), EventKind::Succeeded, running()).await;
        assert_eq!(farm.wishes(id).await.applied.build, 1);
        assert_eq!(farm.action(action.id).await.state, ActionState::Succeeded);
        farm.press(id, Verb::Power(PowerVerb::Reboot)).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_retire_that_is_stuck_rings_once_and_is_not_ordered_every_minute() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let id = farm.server().await.id;
        let (keys, entropy, at) = (farm.app.keys.clone(), farm.app.entropy.clone(), farm.app.clock.now());
        let seen_before = farm.look(id).await;
        let retiring = farm.app.db.write(move |tx| {
            Box::pin(async move { end(tx, &keys, at, entropy.as_ref(), seen_before, "operator:test").await })
        });
        let first = retiring.await.unwrap().provisioning_order.unwrap();
        // Its VMID holds a VM of the host's owner.
        farm.node_says(first, EventKind::Accepted, seen("")).await;
        farm.node_says(first, EventKind::Stuck, seen("")).await;
        let stuck = async || farm.alarms().await.iter().filter(|kind| *kind == "order_stuck").count();
        for _ in 0..10 {
            farm.passes(Duration::from_secs(61)).await;
            assert_eq!((farm.newest(id).await.id, stuck().await), (first, 1));
        }
        // Nobody comes: it is tried once a day, and still one alarm stands.
        farm.passes(Duration::from_secs(24 * 60 * 60)).await;
        let second = farm.newest(id).await.id;
        assert_ne!(second, first);
        farm.node_says(second, EventKind::Accepted, seen("")).await;
        farm.node_says(second, EventKind::Stuck, seen("")).await;
        farm.passes(Duration::from_secs(61)).await;
        assert_eq!((farm.newest(id).await.id, stuck().await), (second, 1));
        // A person has helped and lets it go on.
        farm.node_says(second, EventKind::Succeeded, seen("stopped")).await;
        assert_eq!((farm.look(id).await.state, stuck().await), (InstanceState::Retired, 0));
    })
    .await;
}

#[tokio::test]
async fn what_waits_for_a_restart_says_so_until_the_server_was_off() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let instance = farm.server().await;
        let waits = || Facts { restart_needed: true, ..seen("running") };
        farm.done(instance.id, Verb::IsoAttach(iso()), waits()).await;
        assert!(farm.wishes(instance.id).await.restart_needed);
        farm.done(instance.id, Verb::Power(PowerVerb::Reboot), seen("running")).await;
        assert!(!farm.wishes(instance.id).await.restart_needed);
        farm.done(instance.id, Verb::IsoDetach, waits()).await;
        farm.clock.advance(Duration::from_secs(30));
        let (at, node) = (farm.app.clock.now(), farm.node.id);
        let off = [Seen { instance: instance.id, power: "stopped".into() }];
        farm.app
            .db
            .write(move |tx| Box::pin(async move { observe(tx, at, at, node, &off).await }))
            .await
            .unwrap();
        farm.work().await;
        assert!(!farm.wishes(instance.id).await.restart_needed, "the next start is a cold one");
        assert_eq!(farm.look(instance.id).await.state, InstanceState::Stopped);
    })
    .await;
}

#[tokio::test]
async fn a_server_that_its_host_does_not_have_any_more_rings_until_it_is_back() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let instance = farm.server().await;
        let seen_as = async |power: &str| {
            farm.clock.advance(Duration::from_secs(30));
            let (at, node) = (farm.app.clock.now(), farm.node.id);
            let seen = [Seen { instance: instance.id, power: power.into() }];
            farm.app
                .db
                .write(move |tx| Box::pin(async move { observe(tx, at, at, node, &seen).await }))
                .await
                .unwrap();
            let mut connection = farm.app.db.read().await.unwrap();
            fleet::alarms::open_subjects(&mut connection, "server_missing").await.unwrap().len()
        };
        let rebuild = farm.press(instance.id, Verb::Rebuild(rocky())).await.unwrap();
        assert_eq!(seen_as("absent").await, 0, "a rebuild takes it away for a while");
        farm.node_says(order_of(&rebuild), EventKind::Succeeded, seen("running")).await;
        assert_eq!(seen_as("running").await, 0);
        assert_eq!(seen_as("absent").await, 1, "deleted by hand");
        assert_eq!(seen_as("absent").await, 1);
        assert_eq!(seen_as("stopped").await, 0, "restored by hand");
    })
    .await;
}

/// A half-made server that root removed, or a VM whose mark is gone: its agent does not tell of it any more.
#[tokio::test]
async fn what_its_agent_sees_no_more_as_ours_is_not_shown_as_it_was() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let (instance, node) = (farm.server().await, farm.node.id);
        farm.set_state(instance.id, "needs_operator").await;
        let observed = async || farm.look(instance.id).await.observed_state;
        let removed = async |node| {
            farm.clock.advance(Duration::from_secs(30));
            let at = farm.app.clock.now();
            let ids = [instance.id.to_string(), "nonsense".to_owned()];
            let told = farm.app.db.write(move |tx| {
                Box::pin(async move { fleet::reports::record_removed(tx, at, node, &ids, at).await })
            });
            told.await.unwrap();
        };
        let before = observed().await;
        removed(NodeId::generate(AT, farm.app.entropy.bytes())).await;
        assert_eq!(observed().await, before, "another node's word is none");
        removed(node).await;
        assert_eq!(observed().await.as_deref(), Some("absent"));
    })
    .await;
}

#[tokio::test]
async fn a_built_server_counts_as_built_however_many_changes_of_it_came_to_nothing() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let instance = farm.server().await;
        for _ in 0..3 {
            let action = farm.press(instance.id, Verb::Firewall(Some(closed()))).await.unwrap();
            farm.node_says(order_of(&action), EventKind::Failed, seen("running")).await;
        }
        let mut connection = farm.app.db.read().await.unwrap();
        let at = farm.app.clock.now();
        let builds = dispatch::builds_at(&mut connection, at, instance.id, instance.node).await.unwrap();
        assert_eq!(builds.held.len(), 1, "only the order that built it");
    })
    .await;
}
