//! What a server meets after it was made, told one by one.

use ez_protocol::{
    frame::StreamKind,
    message::Facts,
    order::{Action, IsoName, Op, PasswordHash, ProvisioningOrder, Service, SnapshotName},
};

use super::kit::Host;
use crate::{
    journal::{OrderState, fuse::Cut},
    pve::fake::{FakeKept, Fault},
    testing::{VMID, ensure, instance, order},
};

/// The server once more, with this changed.
pub(super) fn changed(
    seq: u64,
    generation: u64,
    change: impl FnOnce(&mut ez_protocol::order::InstanceSpec),
) -> ProvisioningOrder {
    let mut order = ensure(seq, generation);
    if let Op::Ensure(spec) = &mut order.op {
        change(spec);
    }
    order
}

fn act(seq: u64, generation: u64, action: Action) -> ProvisioningOrder {
    order(seq, generation, Op::Action(action))
}

fn name(text: &str) -> SnapshotName {
    SnapshotName::parse(text).unwrap()
}

/// A host with one server in service.
async fn served() -> Host {
    let host = Host::new().await;
    done(&host, &ensure(1, 1)).await;
    host
}

async fn done(host: &Host, order: &ProvisioningOrder) {
    let row = host.carry_out(order).await;
    assert_eq!(row.state, OrderState::Succeeded, "{:?}", row.result);
}

/// What the end of the newest order said.
async fn facts(host: &Host) -> Facts {
    host.events().await.into_iter().rev().find_map(|event| event.facts).unwrap()
}

fn disk(host: &Host) -> String {
    host.pve.guest(VMID).unwrap().disk
}

fn written(host: &Host, text: &str) {
    host.pve.put_guest(VMID, |guest| guest.disk = text.to_owned());
}

fn option(host: &Host, key: &str) -> String {
    host.pve.guest(VMID).unwrap().config.get(key).cloned().unwrap_or_default()
}

#[tokio::test]
async fn a_rollback_brings_the_disk_back_and_not_the_size_that_was_paid_for_since() {
    let host = served().await;
    written(&host, "monday");
    done(&host, &act(2, 1, Action::SnapshotCreate { name: name("monday") })).await;
    assert_eq!(facts(&host).await.snapshots.unwrap().list[0].name, "monday");
    written(&host, "tuesday");
    done(&host, &changed(3, 2, |spec| (spec.vcpus, spec.disk_gib) = (4, 40))).await;
    done(&host, &act(4, 2, Action::SnapshotRollback { name: name("monday") })).await;
    assert_eq!(disk(&host), "monday");
    assert_eq!(option(&host, "cores"), "4");
    assert!(option(&host, "scsi0").ends_with("size=40G"), "{}", option(&host, "scsi0"));
    assert!(option(&host, "cicustom").contains("ez-1000-1-"), "what it says is still true");
    assert!(host.pve.guest(VMID).unwrap().running, "it ran before");
    done(&host, &act(5, 2, Action::SnapshotDelete { name: name("monday") })).await;
    assert!(facts(&host).await.snapshots.unwrap().list.is_empty());
}

#[tokio::test]
async fn a_snapshot_of_the_same_name_is_never_replaced() {
    let host = served().await;
    done(&host, &act(2, 1, Action::SnapshotCreate { name: name("one") })).await;
    let second = host.carry_out(&act(3, 1, Action::SnapshotCreate { name: name("one") })).await;
    assert_eq!(second.state, OrderState::Failed);
    assert!(second.result.unwrap().contains("there is a snapshot one already"));
    let missing = host.carry_out(&act(4, 1, Action::SnapshotRollback { name: name("two") })).await;
    assert!(missing.result.unwrap().contains("there is no snapshot two"));
    assert!(host.pve.guest(VMID).unwrap().running, "nothing was stopped for it");
}

#[tokio::test]
async fn a_snapshot_of_the_hosts_owner_is_neither_shown_nor_touched() {
    let host = served().await;
    host.pve.put_guest(VMID, |guest| {
        let kept = FakeKept { text: "before the upgrade of the host".to_owned(), ..FakeKept::default() };
        guest.snapshots.insert("theirs".to_owned(), kept);
    });
    done(&host, &act(2, 1, Action::SnapshotCreate { name: name("mine") })).await;
    let shown: Vec<String> =
        facts(&host).await.snapshots.unwrap().list.into_iter().map(|fact| fact.name).collect();
    assert_eq!(shown, ["mine"]);
    for (seq, action) in [
        (3, Action::SnapshotRollback { name: name("theirs") }),
        (4, Action::SnapshotDelete { name: name("theirs") }),
    ] {
        let refused = host.carry_out(&act(seq, 1, action)).await;
        assert!(refused.result.unwrap().contains("there is no snapshot theirs"));
    }
    let taken = host.carry_out(&act(5, 1, Action::SnapshotCreate { name: name("theirs") })).await;
    assert!(taken.result.unwrap().contains("there is a snapshot theirs already"));
    let guest = host.pve.guest(VMID).unwrap();
    assert!(guest.running && guest.snapshots.contains_key("theirs"));
    assert_eq!(host.count("roll_back") + host.count("drop_snapshot"), 0);
}

/// One that does not fit is never sent, and none of those behind it.
#[tokio::test]
async fn an_event_fits_into_its_frame_however_many_snapshots_and_backups_there_are() {
    let host = served().await;
    let (order, id) = (ensure(1, 1), ensure(1, 1).order_id);
    let notes = format!("ez-backup:v1 {} {} {id}", order.install, order.instance.uuid);
    let kept = |text: String| FakeKept { text, ..FakeKept::default() };
    host.pve.put_guest(VMID, |guest| {
        let many = (0..500).map(|n| (format!("{n:0>40}"), kept(format!("ez-snapshot:v1 {id}"))));
        guest.snapshots.extend(many);
    });
    (0..500).for_each(|n| host.pve.add_backups_of(VMID, n, &notes));
    done(&host, &act(2, 1, Action::SnapshotCreate { name: name("newest") })).await;
    let told = facts(&host).await.snapshots.unwrap().list;
    assert_eq!(told.last().unwrap().name, "newest");
    let backup = act(3, 1, Action::BackupCreate { keep: 100 });
    done(&host, &backup).await;
    let told = facts(&host).await.backups.unwrap().list;
    assert_eq!(told.first().unwrap().order_id, backup.order_id.to_string());
    let all = host.books.journal.outbox_after(0, 10_000).await.unwrap();
    let cap = StreamKind::Events.frame_cap();
    assert!(all.iter().all(|event| event.body.len() <= cap));
}

#[tokio::test]
async fn what_the_hosts_owner_gave_a_server_in_service_stays() {
    let host = served().await;
    host.pve.put_guest(VMID, |guest| {
        guest.config.insert("net1".to_owned(), "virtio=BC:24:11:00:00:02,bridge=vmbr1".to_owned());
        guest.config.insert("protection".to_owned(), "1".to_owned());
    });
    done(&host, &changed(2, 2, |spec| spec.vcpus = 4)).await;
    assert_eq!((option(&host, "cores").as_str(), option(&host, "protection").as_str()), ("4", "1"));
    assert!(option(&host, "net1").contains("vmbr1"));
    // What is protected is not destroyed, says so, and goes on serving.
    let rebuild = host.carry_out(&changed(3, 3, |spec| spec.build = 1)).await;
    assert!(rebuild.result.unwrap().contains("qm set 1000 --protection 0"));
    assert_eq!(host.count("destroy"), 0);
    assert!(host.pve.guest(VMID).unwrap().running, "it ran before");
    // What a template brings along is another matter.
    host.pve.put_guest(9_000, |template| {
        template.config.insert("net1".to_owned(), "virtio=BC:24:11:00:00:03,bridge=vmbr1".to_owned());
    });
    host.pve.put_guest(VMID, |guest| _ = guest.config.remove("protection"));
    done(&host, &changed(4, 4, |spec| (spec.build, spec.vcpus) = (2, 4))).await;
    assert_eq!(option(&host, "net1"), "");
}

#[tokio::test]
async fn a_rebuild_makes_the_disk_anew_and_keeps_number_card_and_addresses() {
    let host = served().await;
    written(&host, "mine");
    let before = (option(&host, "net0"), option(&host, "ipconfig0"));
    done(&host, &changed(2, 2, |spec| spec.build = 1)).await;
    assert_eq!(disk(&host), "fresh from 9000");
    assert_eq!((option(&host, "net0"), option(&host, "ipconfig0")), before);
    assert!(host.pve.guest(VMID).unwrap().running);
    // The same build once more is no rebuild.
    written(&host, "mine again");
    done(&host, &changed(3, 3, |spec| (spec.build, spec.vcpus) = (1, 4))).await;
    assert_eq!(disk(&host), "mine again");
    // And the image changes no other way.
    let digest = format!("sha256:{}", "2".repeat(64));
    let other = changed(4, 4, |spec| (spec.build, spec.image.digest) = (1, digest.parse().unwrap()));
    let refused = host.carry_out(&other).await;
    assert!(refused.result.unwrap().contains("only with a rebuild"));
    assert_eq!(disk(&host), "mine again");
}

#[tokio::test]
async fn a_rebuild_whose_image_is_not_here_touches_nothing() {
    let host = served().await;
    written(&host, "mine");
    let digest = format!("sha256:{}", "9".repeat(64));
    let missing = changed(2, 2, |spec| (spec.build, spec.image.digest) = (1, digest.parse().unwrap()));
    let row = host.carry_out(&missing).await;
    assert_eq!(row.state, OrderState::Failed);
    assert_eq!(disk(&host), "mine");
    assert!(host.pve.guest(VMID).unwrap().running);
}

#[tokio::test]
async fn a_rebuild_that_fails_half_way_is_ordered_again_and_succeeds() {
    let host = served().await;
    host.pve.fail_next("clone_template", Fault::TaskFails("no space left on device".to_owned()));
    let row = host.carry_out(&changed(2, 2, |spec| spec.build = 1)).await;
    assert_eq!(row.state, OrderState::Undone, "{:?}", row.result);
    assert!(host.pve.guest(VMID).is_none(), "nothing half-made is left");
    let books = host.books.journal.resource(instance(10)).await.unwrap();
    assert!(books.is_some(), "its place is kept");
    done(&host, &changed(3, 3, |spec| spec.build = 1)).await;
    assert_eq!(disk(&host), "fresh from 9000");
}

#[tokio::test]
async fn a_rescue_system_boots_beside_the_own_disk_and_goes_without_a_trace() {
    let host = served().await;
    written(&host, "mine");
    let boot = option(&host, "boot");
    done(&host, &changed(2, 2, |spec| spec.rescue = Some(spec.image.clone()))).await;
    assert_eq!(option(&host, "boot"), "order=scsi30;scsi0");
    assert!(host.pve.guest(VMID).unwrap().running);
    done(&host, &ensure(3, 3)).await;
    assert_eq!((option(&host, "boot"), option(&host, "scsi30")), (boot, String::new()));
    assert_eq!(disk(&host), "mine");
    assert!(host.pve.guest(VMID).unwrap().running);
}

#[tokio::test]
async fn a_rescue_system_that_does_not_come_about_leaves_the_server_as_it_was() {
    let host = served().await;
    host.pve.fail_next("import_disk", Fault::TaskFails("no space left on device".to_owned()));
    let row = host.carry_out(&changed(2, 2, |spec| spec.rescue = Some(spec.image.clone()))).await;
    assert_eq!(row.state, OrderState::Undone, "{:?}", row.result);
    assert!(host.pve.guest(VMID).unwrap().running, "it is started again");
    assert_eq!(option(&host, "scsi30"), "");
}

#[tokio::test]
async fn a_medium_is_inserted_and_taken_out() {
    let host = served().await;
    done(&host, &changed(2, 2, |spec| spec.iso = IsoName::parse("grml.iso").ok())).await;
    assert_eq!(option(&host, "sata5"), "local:iso/grml.iso,media=cdrom");
    assert_eq!(option(&host, "boot"), "order=sata5;scsi0");
    done(&host, &ensure(3, 3)).await;
    assert_eq!((option(&host, "sata5"), option(&host, "boot")), (String::new(), "order=scsi0".to_owned()));
}

#[tokio::test]
async fn backups_are_kept_up_to_their_number_and_restored_by_the_order_that_made_them() {
    let host = served().await;
    let mut made = Vec::new();
    for (seq, day) in [(2, "monday"), (3, "tuesday"), (4, "wednesday")] {
        written(&host, day);
        let backup = act(seq, 1, Action::BackupCreate { keep: 2 });
        made.push(backup.order_id);
        done(&host, &backup).await;
    }
    let listed: Vec<String> =
        facts(&host).await.backups.unwrap().list.into_iter().map(|b| b.order_id).collect();
    assert_eq!(listed, [made[2].to_string(), made[1].to_string()]);
    let gone = host.carry_out(&act(5, 1, Action::BackupRestore { backup: made[0] })).await;
    assert_eq!(gone.state, OrderState::Failed);
    assert!(host.pve.guest(VMID).unwrap().running, "nothing was stopped for a backup that is not there");
    done(&host, &act(6, 1, Action::BackupRestore { backup: made[1] })).await;
    assert_eq!(disk(&host), "tuesday");
    assert!(host.pve.guest(VMID).unwrap().running);
}

#[tokio::test]
async fn a_server_whose_restore_failed_is_not_started() {
    let host = served().await;
    let backup = act(2, 1, Action::BackupCreate { keep: 2 });
    done(&host, &backup).await;
    host.pve.fail_next("restore", Fault::TaskFails("error before or during data restore".to_owned()));
    let row = host.carry_out(&act(3, 1, Action::BackupRestore { backup: backup.order_id })).await;
    assert_eq!(row.state, OrderState::Undone, "{:?}", row.result);
    assert!(!host.pve.guest(VMID).unwrap().running, "who knows what is on its disk");
    assert!(option(&host, "description").starts_with("ez:v1 "), "it is still known whose it is");
    done(&host, &act(4, 1, Action::BackupRestore { backup: backup.order_id })).await;
}

#[tokio::test]
async fn what_has_no_room_is_not_begun_and_the_server_runs_on() {
    let host = served().await;
    written(&host, "mine");
    let backup = act(2, 1, Action::BackupCreate { keep: 2 });
    done(&host, &backup).await;
    host.pve.leave_free(1 << 30);
    for order in
        [act(3, 1, Action::BackupRestore { backup: backup.order_id }), changed(4, 2, |spec| spec.build = 1)]
    {
        let row = host.carry_out(&order).await;
        assert_eq!(row.state, OrderState::Failed, "{:?}", row.result);
        let said = row.result.unwrap();
        assert!(said.contains("NO_SPACE") && said.contains("capacity"), "{said}");
        assert_eq!(disk(&host), "mine");
        assert!(host.pve.guest(VMID).unwrap().running, "it was not even stopped");
    }
    assert_eq!(host.count("restore") + host.count("destroy") + host.count("shutdown"), 0);
    assert!(!facts(&host).await.disk_missing);
    host.pve.leave_free(100 << 30);
    done(&host, &act(5, 2, Action::BackupRestore { backup: backup.order_id })).await;
}

#[tokio::test]
async fn a_server_without_a_disk_says_so_and_is_not_started() {
    let host = served().await;
    written(&host, "mine");
    let backup = act(2, 1, Action::BackupCreate { keep: 2 });
    done(&host, &backup).await;
    let restore = |seq| act(seq, 1, Action::BackupRestore { backup: backup.order_id });
    host.pve.fail_next("restore", Fault::TaskFails("lvcreate failed: no space left on device".to_owned()));
    host.carry_out(&restore(3)).await;
    assert!(facts(&host).await.disk_missing, "nobody takes it for a server");
    let starts = host.count("start");
    let row = host.carry_out(&act(4, 1, Action::Start {})).await;
    assert_eq!(row.state, OrderState::Failed, "{:?}", row.result);
    assert!(row.result.unwrap().contains("has no disk to boot from"));
    assert_eq!(host.count("start"), starts);
    done(&host, &restore(5)).await;
    assert!(!facts(&host).await.disk_missing);
    done(&host, &act(6, 1, Action::Start {})).await;
    assert_eq!(disk(&host), "mine");
}

#[tokio::test]
async fn a_restore_that_was_refused_before_it_began_leaves_the_server_running() {
    let host = served().await;
    written(&host, "mine");
    let backup = act(2, 1, Action::BackupCreate { keep: 2 });
    done(&host, &backup).await;
    let restore = |seq| act(seq, 1, Action::BackupRestore { backup: backup.order_id });
    let bad = || Fault::Refused(400, "Parameter verification failed.".to_owned());
    host.pve.fail_next("restore", bad());
    let row = host.carry_out(&restore(3)).await;
    assert_eq!(row.state, OrderState::Undone, "{:?}", row.result);
    assert!(host.pve.guest(VMID).unwrap().running, "nothing was done to it");
    assert_eq!(disk(&host), "mine");
    // One that was off stays so.
    done(&host, &act(4, 1, Action::Stop {})).await;
    host.pve.fail_next("restore", bad());
    host.carry_out(&restore(5)).await;
    assert!(!host.pve.guest(VMID).unwrap().running);
    done(&host, &act(6, 1, Action::Start {})).await;
}

#[tokio::test]
async fn a_rollback_that_fails_calls_for_root_at_once_and_goes_on_when_root_has_helped() {
    let host = served().await;
    written(&host, "monday");
    done(&host, &act(2, 1, Action::SnapshotCreate { name: name("monday") })).await;
    written(&host, "tuesday");
    host.pve.fail_next("roll_back", Fault::TaskFails("can't open volume: input/output error".to_owned()));
    let order = act(3, 1, Action::SnapshotRollback { name: name("monday") });
    let row = host.carry_out(&order).await;
    assert_eq!(row.state, OrderState::Stuck, "{:?}", row.result);
    let said = row.result.unwrap();
    assert!(said.contains("locked (rollback)") && said.contains("`qm unlock 1000`"), "{said}");
    assert!(said.contains(&format!("order resume {}", order.order_id)), "{said}");
    assert_eq!(host.count("start"), 1, "nobody tried to start it: {:?}", host.pve.changes());
    host.pve.unlock(VMID);
    host.resume(&order).await;
    let row = host.run(&order).await;
    assert_eq!(row.state, OrderState::Succeeded, "{:?}", row.result);
    assert_eq!(disk(&host), "monday");
    assert!(host.pve.guest(VMID).unwrap().running, "it ran before");
}

#[tokio::test]
async fn a_rollback_that_failed_before_it_touched_anything_leaves_the_server_running() {
    let host = served().await;
    done(&host, &act(2, 1, Action::SnapshotCreate { name: name("monday") })).await;
    host.pve.fail_next("roll_back", Fault::TaskFailsHalf("snapshot feature is not available".to_owned()));
    let row = host.carry_out(&act(3, 1, Action::SnapshotRollback { name: name("monday") })).await;
    assert_eq!(row.state, OrderState::Undone, "{:?}", row.result);
    assert!(row.result.unwrap().contains("snapshot feature is not available"));
    assert!(host.pve.guest(VMID).unwrap().running);
}

#[tokio::test]
async fn a_snapshot_whose_removal_fails_calls_for_root_too() {
    let host = served().await;
    done(&host, &act(2, 1, Action::SnapshotCreate { name: name("monday") })).await;
    host.pve.fail_next("drop_snapshot", Fault::TaskFails("lvremove failed".to_owned()));
    let order = act(3, 1, Action::SnapshotDelete { name: name("monday") });
    let row = host.carry_out(&order).await;
    assert_eq!(row.state, OrderState::Stuck, "{:?}", row.result);
    assert!(row.result.unwrap().contains("`qm unlock 1000`"));
    host.pve.unlock(VMID);
    host.resume(&order).await;
    assert_eq!(host.run(&order).await.state, OrderState::Succeeded);
    assert!(facts(&host).await.snapshots.unwrap().list.is_empty());
}

#[tokio::test]
async fn a_restore_that_was_killed_half_way_names_the_volume_that_root_has_to_free() {
    let host = served().await;
    written(&host, "monday");
    let backup = act(2, 1, Action::BackupCreate { keep: 2 });
    done(&host, &backup).await;
    host.pve.fail_next("restore", Fault::TaskKilledHalf);
    let order = act(3, 1, Action::BackupRestore { backup: backup.order_id });
    let row = host.carry_out(&order).await;
    assert_eq!(row.state, OrderState::Stuck, "{:?}", row.result);
    let said = row.result.unwrap();
    assert!(said.contains("`pvesm free local-lvm:vm-1000-cloudinit`"), "{said}");
    assert!(said.contains(&format!("`ez-node-agent order resume {}`", order.order_id)), "{said}");
    assert_eq!(host.count("restore"), 2, "and not as often as one may try");
    assert!(option(&host, "description").starts_with("ez:v1 "), "it is still known whose it is");
    host.pve.free("local-lvm:vm-1000-cloudinit");
    host.resume(&order).await;
    let row = host.run(&order).await;
    assert_eq!(row.state, OrderState::Succeeded, "{:?}", row.result);
    assert_eq!(disk(&host), "monday");
    assert!(host.pve.guest(VMID).unwrap().running);
}

#[tokio::test]
async fn a_purge_whose_backups_cannot_be_reached_destroys_nothing() {
    let host = served().await;
    done(&host, &act(2, 1, Action::BackupCreate { keep: 2 })).await;
    done(&host, &order(3, 2, Op::Retire(Default::default()))).await;
    host.pve.fail_next("backups", Fault::Refused(500, "storage 'backup' is not online".to_owned()));
    let row = host.carry_out(&order(4, 3, Op::Purge(Default::default()))).await;
    assert_eq!(row.state, OrderState::Failed, "{:?}", row.result);
    let said = row.result.unwrap();
    assert!(said.contains("storage backup cannot be listed") && said.contains("is not online"), "{said}");
    assert!(host.pve.guest(VMID).is_some(), "the server is as it was");
    assert_eq!(host.count("destroy"), 0);
    done(&host, &order(5, 4, Op::Purge(Default::default()))).await;
    assert!(host.pve.guest(VMID).is_none());
    assert!(host.pve.backup_notes().is_empty());
}

#[tokio::test]
async fn a_purge_takes_our_backups_along_and_leaves_those_of_the_hosts_owner() {
    let host = served().await;
    done(&host, &act(2, 1, Action::BackupCreate { keep: 2 })).await;
    host.pve.add_backup(VMID, "nightly job of the owner");
    done(&host, &order(3, 2, Op::Retire(Default::default()))).await;
    done(&host, &order(4, 3, Op::Purge(Default::default()))).await;
    assert_eq!(host.pve.backup_notes(), ["nightly job of the owner"]);
}

#[tokio::test]
async fn a_server_that_may_not_be_destroyed_keeps_its_backups() {
    let host = served().await;
    done(&host, &act(2, 1, Action::BackupCreate { keep: 2 })).await;
    done(&host, &order(3, 2, Op::Retire(Default::default()))).await;
    let set = |key: &str, value: &str| {
        host.pve.put_guest(VMID, |guest| _ = guest.config.insert(key.to_owned(), value.to_owned()));
    };
    set("protection", "1");
    let row = host.carry_out(&order(4, 3, Op::Purge(Default::default()))).await;
    assert_eq!(row.state, OrderState::Failed, "{:?}", row.result);
    set("protection", "0");
    host.pve.put_guest(VMID, |guest| guest.running = true);
    let row = host.carry_out(&order(5, 4, Op::Purge(Default::default()))).await;
    assert_eq!(row.state, OrderState::Failed, "{:?}", row.result);
    assert_eq!((host.pve.backup_notes().len(), host.count("delete_volume")), (1, 0));
    // Somebody is at work on it: that ends, and so does it.
    host.pve.put_guest(VMID, |guest| guest.running = false);
    set("lock", "backup");
    let purge = order(6, 5, Op::Purge(Default::default()));
    let ends = async {
        let seen = host.pve.trace().len();
        let has_looked = || host.pve.trace()[seen..].iter().any(|call| call.step == Some((2, "may_destroy")));
        while !has_looked() {
            tokio::task::yield_now().await;
        }
        assert_eq!((host.pve.backup_notes().len(), host.count("delete_volume")), (1, 0));
        host.pve.unlock(VMID);
    };
    let ((), ()) = tokio::join!(done(&host, &purge), ends);
    assert!(host.pve.guest(VMID).is_none() && host.pve.backup_notes().is_empty());
}

#[tokio::test]
async fn the_servers_own_system_never_boots_with_the_files_of_a_rescue_system() {
    let host = served().await;
    let rescue = |seq, generation| changed(seq, generation, |spec| spec.rescue = Some(spec.image.clone()));
    let says = || host.files.0.lock().unwrap()[&VMID].1.clone();
    done(&host, &rescue(2, 2)).await;
    assert!(says().contains("rescue: true"), "{}", says());
    done(&host, &changed(3, 3, |_| {})).await;
    assert!(says().contains("rescue: false"), "{}", says());
    // One that does not come about leaves none either.
    host.pve.fail_next("start", Fault::TaskFails("start failed: QEMU exited with code 1".to_owned()));
    let row = host.carry_out(&rescue(4, 4)).await;
    assert_eq!(row.state, OrderState::Undone, "{:?}", row.result);
    assert!(says().contains("rescue: false"), "{}", says());
    assert!(host.pve.guest(VMID).unwrap().running);
}

#[tokio::test]
async fn a_password_is_set_at_once_where_the_guest_answers_and_else_waits_for_its_boot() {
    let host = served().await;
    let hash = |n: char| PasswordHash::parse(&format!("$6$saltsaltsalt$hashhashhash{n}")).unwrap();
    let asleep = act(2, 1, Action::SetPassword { hash: hash('a') });
    done(&host, &asleep).await;
    assert_eq!(facts(&host).await.password, "next_boot");
    let waits = host.books.journal.reset_of(instance(10)).await.unwrap().unwrap();
    assert_eq!((waits.order, waits.hash), (asleep.order_id, hash('a')));
    host.pve.put_guest(VMID, |guest| guest.agent_answers = true);
    done(&host, &act(3, 1, Action::SetPassword { hash: hash('b') })).await;
    assert_eq!(facts(&host).await.password, "now");
    assert_eq!(host.pve.guest(VMID).unwrap().passwords["root"], hash('b').as_str());
    let waits = host.books.journal.reset_of(instance(10)).await.unwrap();
    assert_eq!(waits, None, "neither comes back with the next boot");
    let says = host.files.0.lock().unwrap()[&VMID].1.clone();
    assert!(says.ends_with("None"), "{says}");
}

#[tokio::test]
async fn a_password_that_was_set_at_once_waits_for_no_boot_whatever_crashes() {
    let hash = |n: char| PasswordHash::parse(&format!("$6$saltsaltsalt$hashhashhash{n}")).unwrap();
    for (n, cut) in (1..).flat_map(|n| [(n, Cut::BeforeCommit), (n, Cut::AfterCommit)]) {
        let mut host = served().await;
        done(&host, &act(2, 1, Action::SetPassword { hash: hash('a') })).await;
        host.pve.put_guest(VMID, |guest| guest.agent_answers = true);
        let order = act(3, 1, Action::SetPassword { hash: hash('b') });
        host.books.accept(&order).await;
        host.books.journal.fuse.set(n, cut);
        let outcome = host.engine.run_order(order.order_id).await;
        let crashed = host.books.journal.fuse.blown();
        assert_eq!(outcome.is_err(), crashed, "write {n}: {outcome:?}");
        host.restart().await;
        let row = host.run(&order).await;
        assert_eq!(row.state, OrderState::Succeeded, "{cut:?} at write {n}: {:?}", row.result);
        assert_eq!(host.pve.guest(VMID).unwrap().passwords["root"], hash('b').as_str());
        assert_eq!(host.books.journal.reset_of(instance(10)).await.unwrap(), None, "{cut:?} at write {n}");
        let says = host.files.0.lock().unwrap()[&VMID].1.clone();
        assert!(says.ends_with("None"), "{cut:?} at write {n}: {says}");
        if !crashed {
            break;
        }
    }
}

#[tokio::test]
async fn a_password_set_in_a_rescue_system_waits_for_the_servers_own() {
    let host = served().await;
    done(&host, &changed(2, 2, |spec| spec.rescue = Some(spec.image.clone()))).await;
    host.pve.put_guest(VMID, |guest| guest.agent_answers = true);
    let hash = PasswordHash::parse("$6$saltsaltsalt$hashhashhash").unwrap();
    done(&host, &act(3, 2, Action::SetPassword { hash: hash.clone() })).await;
    assert_eq!(facts(&host).await.password, "now");
    let waits = host.books.journal.reset_of(instance(10)).await.unwrap();
    assert_eq!(waits.map(|waits| waits.hash), Some(hash));
}

#[tokio::test]
async fn a_suspended_server_stays_off_whatever_is_ordered() {
    let host = served().await;
    done(&host, &act(2, 1, Action::SnapshotCreate { name: name("one") })).await;
    done(&host, &changed(3, 2, |spec| spec.service = Service::Suspended)).await;
    for (seq, action) in [(4, Action::Start {}), (5, Action::Reset {})] {
        let row = host.carry_out(&act(seq, 2, action)).await;
        assert_eq!(row.state, OrderState::Failed);
    }
    done(&host, &act(6, 2, Action::SnapshotRollback { name: name("one") })).await;
    assert!(!host.pve.guest(VMID).unwrap().running);
    done(&host, &changed(7, 3, |spec| (spec.service, spec.build) = (Service::Suspended, 1))).await;
    assert!(!host.pve.guest(VMID).unwrap().running);
    done(&host, &changed(8, 4, |spec| spec.build = 1)).await;
    assert!(host.pve.guest(VMID).unwrap().running, "paid again");
}

#[tokio::test]
async fn a_suspended_server_that_somebody_started_is_stopped_though_nothing_else_is_ordered() {
    let host = served().await;
    let suspended = |seq, generation| changed(seq, generation, |spec| spec.service = Service::Suspended);
    done(&host, &suspended(2, 2)).await;
    assert!(!host.pve.guest(VMID).unwrap().running);
    // `qm start` by root, and a bootable default beside it.
    host.pve.put_guest(VMID, |guest| {
        guest.running = true;
        guest.config.insert("onboot".to_owned(), "1".to_owned());
    });
    done(&host, &suspended(3, 3)).await;
    assert!(!host.pve.guest(VMID).unwrap().running, "what it did last time is no reason to believe it");
    assert_eq!((option(&host, "onboot").as_str(), facts(&host).await.power.as_str()), ("0", "stopped"));
}

#[tokio::test]
async fn a_name_a_limit_and_the_hosts_filter_change_while_it_runs_and_are_taken_back() {
    let host = served().await;
    let files = option(&host, "cicustom");
    let named = |spec: &mut ez_protocol::order::InstanceSpec| spec.hostname = "shop-1".parse().unwrap();
    done(&host, &changed(2, 2, named)).await;
    assert_eq!(option(&host, "name"), "shop-1");
    assert_ne!(option(&host, "cicustom"), files, "its next start reads the new name");
    let limited = changed(3, 3, |spec| {
        named(spec);
        (spec.network.rate_mbit, spec.network.firewall) = (Some(100), false);
    });
    done(&host, &limited).await;
    let card = option(&host, "net0");
    assert!(card.contains("rate=12.5") && !card.contains("firewall=1"), "{card}");
    done(&host, &changed(4, 4, named)).await;
    let card = option(&host, "net0");
    assert!(card.contains("firewall=1") && !card.contains("rate="), "{card}");
    assert!(host.pve.guest(VMID).unwrap().firewall.is_some());
    assert_eq!((host.count("stop") + host.count("shutdown"), host.count("start")), (0, 1));
}
