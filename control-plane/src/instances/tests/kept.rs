//! Snapshots, backups and passwords: limits, lists, and what the node is told.

use ez_protocol::{
    message::{BackupFact, Backups, SnapshotFact, Snapshots},
    order::{Action, PowerVerb, SnapshotName},
};

use super::*;

fn name(text: &str) -> SnapshotName {
    text.parse().unwrap()
}

/// The node tells these snapshots.
pub(super) fn with_snapshots(names: &[&str]) -> Facts {
    let fact = |name: &&str| SnapshotFact { name: (*name).to_owned(), taken_at_ms: AT.0 };
    Facts { snapshots: Some(Snapshots { list: names.iter().map(fact).collect() }), ..seen("running") }
}

fn with_backups(orders: &[ProvisioningOrderId]) -> Facts {
    let fact = |order: &ProvisioningOrderId| BackupFact {
        order_id: order.to_string(),
        made_at_ms: AT.0,
        bytes: 1 << 30,
    };
    Facts { backups: Some(Backups { list: orders.iter().map(fact).collect() }), ..seen("running") }
}

impl Farm {
    async fn snapshot_names(&self, id: InstanceId) -> Vec<String> {
        let mut connection = self.app.db.read().await.unwrap();
        snapshots(&mut connection, id).await.unwrap().into_iter().map(|s| s.name).collect()
    }

    async fn op(&self, id: InstanceId) -> Action {
        match self.told(id).await.op {
            Op::Action(action) => action,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn snapshots_are_those_the_node_tells_and_as_many_as_were_sold() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let id = farm.server().await.id;
        let refused = farm.press(id, Verb::SnapshotRollback(name("clean"))).await.unwrap_err();
        assert!(matches!(refused, ActError::NoSuch("snapshot")), "{refused:?}");
        let first = farm.press(id, Verb::SnapshotCreate(name("clean"))).await.unwrap();
        assert_eq!(farm.op(id).await, Action::SnapshotCreate { name: name("clean") });
        assert_eq!((first.kind.as_str(), first.about.as_deref()), ("snapshot_create", Some("clean")));
        farm.node_says(order_of(&first), EventKind::Succeeded, with_snapshots(&["clean", "Not-Ours"])).await;
        assert_eq!(farm.snapshot_names(id).await, ["clean"], "what the owner made by hand is not offered");
        let taken = farm.press(id, Verb::SnapshotCreate(name("clean"))).await.unwrap_err();
        assert!(matches!(taken, ActError::Taken), "{taken:?}");
        farm.done(id, Verb::SnapshotCreate(name("second")), with_snapshots(&["clean", "second"])).await;
        let full = farm.press(id, Verb::SnapshotCreate(name("third"))).await.unwrap_err();
        assert!(matches!(full, ActError::TooManySnapshots(2)), "{full:?}");
        farm.done(id, Verb::SnapshotRollback(name("clean")), with_snapshots(&["clean", "second"])).await;
        // One that failed tells the list as well.
        let gone = farm.press(id, Verb::SnapshotDelete(name("second"))).await.unwrap();
        farm.node_says(order_of(&gone), EventKind::Failed, with_snapshots(&["clean"])).await;
        assert_eq!(farm.snapshot_names(id).await, ["clean"]);
    })
    .await;
}

#[tokio::test]
async fn a_late_list_never_takes_the_place_of_a_newer_one() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let id = farm.server().await.id;
        let first = farm.press(id, Verb::SnapshotCreate(name("clean"))).await.unwrap();
        farm.leaves(order_of(&first)).await;
        farm.passes(Duration::from_secs(8 * 60)).await;
        farm.done(id, Verb::SnapshotCreate(name("second")), with_snapshots(&["clean", "second"])).await;
        farm.node_says(order_of(&first), EventKind::Succeeded, with_snapshots(&["clean"])).await;
        assert_eq!(farm.snapshot_names(id).await, ["clean", "second"]);
    })
    .await;
}

#[tokio::test]
async fn a_backup_is_known_by_its_order_and_only_where_backups_were_sold() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let id = farm.server().await.id;
        let made = farm.press(id, Verb::BackupCreate).await.unwrap();
        assert_eq!(farm.op(id).await, Action::BackupCreate { keep: 3 }, "as many as the plan has are kept");
        let backup = order_of(&made);
        farm.node_says(backup, EventKind::Succeeded, with_backups(&[backup])).await;
        let stranger = ProvisioningOrderId::generate(AT, [7; 10]);
        let refused = farm.press(id, Verb::BackupRestore(stranger)).await.unwrap_err();
        assert!(matches!(refused, ActError::NoSuch("backup")), "{refused:?}");
        farm.press(id, Verb::BackupRestore(backup)).await.unwrap();
        assert_eq!(farm.op(id).await, Action::BackupRestore { backup });
        let restore = farm.told(id).await.order_id;
        farm.node_says(restore, EventKind::Succeeded, with_snapshots(&[])).await;
        farm.done(id, Verb::BackupDelete(backup), with_backups(&[])).await;
        let mut connection = farm.app.db.read().await.unwrap();
        assert!(backups(&mut connection, id).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_restore_that_lost_the_disk_says_so_and_another_one_brings_it_back() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db).await;
        let id = farm.server().await.id;
        let made = farm.press(id, Verb::BackupCreate).await.unwrap();
        let backup = order_of(&made);
        farm.node_says(backup, EventKind::Succeeded, with_backups(&[backup])).await;
        let without = || Facts { disk_missing: true, ..seen("stopped") };
        let lost = farm.press(id, Verb::BackupRestore(backup)).await.unwrap();
        farm.node_says(order_of(&lost), EventKind::Undone, without()).await;
        assert!(farm.wishes(id).await.disk_lost, "it is not shown as healthy");
        for verb in [Verb::Power(PowerVerb::Start), Verb::BackupCreate] {
            let refused = farm.press(id, verb).await.unwrap_err();
            assert!(matches!(refused, ActError::NeedsRebuild), "{refused:?}");
        }
        farm.done(id, Verb::BackupRestore(backup), with_snapshots(&[])).await;
        assert!(!farm.wishes(id).await.disk_lost);
        farm.done(id, Verb::Power(PowerVerb::Reboot), seen("running")).await;
    })
    .await;
}

#[tokio::test]
async fn a_new_password_is_in_its_one_answer_and_nowhere_else() {
    db::testing::each_database(async |db| {
        let farm = Farm::open(db.clone()).await;
        let id = farm.server().await.id;
        let (action, password) = reset_password(&farm.app, id, CUSTOMER, None).await.unwrap();
        let Action::SetPassword { hash } = farm.op(id).await else { panic!("another action") };
        assert!(hash.as_str().starts_with("$6$"), "{}", hash.as_str());
        let facts = Facts { password: "next_boot".into(), ..seen("running") };
        farm.node_says(order_of(&action), EventKind::Succeeded, facts).await;
        let record = farm.record(order_of(&action)).await;
        assert_eq!(record.facts.unwrap().password.as_deref(), Some("next_boot"));
        let mut connection = db.read().await.unwrap();
        for table in ["instance_actions", "provisioning_orders", "provisioning_events", "audit", "jobs"] {
            let found = crate::db::testing::mentions(&mut connection, table, password.expose()).await;
            assert!(!found, "the password stands in {table}");
        }
    })
    .await;
}
