//! Stories of what is destroyed and of what stands between: a disk that stays, a destruction that died half way, a
//! cluster that cannot be written to.

use std::time::Duration;

use ez_protocol::order::{Empty, Op, ProvisioningOrder};

use super::{kit::Host, life::changed};
use crate::{
    journal::{OrderRow, OrderState, Phase, StepState, fuse::Cut, lists},
    pve::fake::{Fault, Plan},
    testing::{VMID, ensure, instance, order},
};

const NO_QUORUM: &str = "cluster not ready - no quorum?";

/// A host with one server in service.
async fn served() -> Host {
    let host = Host::new().await;
    let row = host.carry_out(&ensure(1, 1)).await;
    assert_eq!(row.state, OrderState::Succeeded, "{:?}", row.result);
    host
}

#[tokio::test]
async fn a_rebuild_whose_old_disk_is_gone_waits_for_the_cluster_however_often_that_says_no() {
    let host = served().await;
    // More often than a step is tried.
    for _ in 0..12 {
        host.pve.fail_next("clone_template", Fault::Refused(500, NO_QUORUM.to_owned()));
    }
    // A try that fails for another reason still has all of its tries.
    host.pve.fail_next("clone_template", Fault::LostBefore);
    let rebuild = changed(2, 2, |spec| spec.build = 1);
    let row = host.carry_out(&rebuild).await;
    assert_eq!(row.state, OrderState::Succeeded, "{:?}", row.result);
    assert!(host.pve.guest(VMID).unwrap().running);
    assert_eq!(host.count("clone_template"), 1 + 12 + 1 + 1);
    let steps = host.books.journal.steps(rebuild.order_id).await.unwrap();
    let clone = steps.iter().find(|step| step.name == "clone").unwrap();
    assert!(clone.intent_json.contains("\"without_quorum\":12"), "a restart knows it: {}", clone.intent_json);
}

/// A rebuild whose destruction comes to nothing leaves the server as it found it.
#[tokio::test]
async fn a_server_whose_destruction_is_refused_runs_again_if_it_ran_before() {
    let refusals = [
        Fault::Refused(500, "something went wrong".to_owned()),
        Fault::Refused(500, "can't remove VM 1000 - protection mode enabled".to_owned()),
        Fault::TaskFails("something went wrong".to_owned()),
    ];
    for refusal in refusals {
        for ran in [true, false] {
            let host = served().await;
            host.pve.put_guest(VMID, |guest| guest.running = ran);
            let before = host.pve.guest(VMID).unwrap();
            host.pve.fail_next("destroy", refusal.clone());
            let row = host.carry_out(&changed(2, 2, |spec| spec.build = 1)).await;
            assert_eq!(row.state, OrderState::Undone, "{refusal:?} {ran}: {:?}", row.result);
            let after = host.pve.guest(VMID).unwrap();
            assert_eq!((after.running, after.disk), (ran, before.disk), "{refusal:?}");
            let row = host.carry_out(&changed(3, 3, |spec| spec.build = 1)).await;
            assert_eq!(row.state, OrderState::Succeeded, "{:?}", row.result);
        }
    }
}

/// A refusal that came too late to be one: what is destroyed is not started.
#[tokio::test]
async fn a_server_whose_destruction_went_on_after_it_was_refused_is_not_started() {
    let host = served().await;
    host.pve.fail_next("destroy", Fault::RefusedLate(500, "something went wrong".to_owned()));
    let row = host.carry_out(&changed(2, 2, |spec| spec.build = 1)).await;
    assert_eq!(row.state, OrderState::Undone, "{:?}", row.result);
    assert!(host.pve.guest(VMID).is_none());
    assert_eq!(host.count("start"), 1, "that of its first day");
    let row = host.carry_out(&changed(3, 3, |spec| spec.build = 1)).await;
    assert_eq!(row.state, OrderState::Succeeded, "{:?}", row.result);
    assert!(host.pve.guest(VMID).unwrap().running);
}

/// The same, and the disk stayed. Whether the server had been on or off, its order tells of the disk, and so do those that
/// come after it, also when Proxmox has forgotten the log.
#[tokio::test]
async fn a_disk_that_stays_after_a_refusal_that_was_none_is_told_of_until_it_is_freed() {
    for (ran, log_is_there) in [(true, true), (false, true), (false, false)] {
        let host = served().await;
        host.pve.put_guest(VMID, |guest| guest.running = ran);
        host.pve.fail_next("destroy", Fault::RefusedKeepsDisk(500, "something went wrong".to_owned()));
        let first = changed(2, 2, |spec| spec.build = 1);
        names_the_disk(&host.carry_out(&first).await);
        let steps = host.books.journal.steps(first.order_id).await.unwrap();
        let called = steps.iter().find(|step| step.name == "destroy").unwrap();
        assert!(called.upid.is_some() && called.state == StepState::Failed, "{called:?}");
        if !log_is_there {
            let gone = Fault::Refused(400, "Parameter verification failed. upid: no such task".to_owned());
            host.pve.plan(Plan::Always(Some((3, "destroy")), "task_log", gone));
        }
        let next = changed(3, 3, |spec| spec.build = 1);
        let row = host.carry_out(&next).await;
        names_the_disk(&row);
        assert!(row.result.unwrap().contains(&format!("of order {} `pvenode task log ", first.order_id)));
        assert_eq!(host.count("clone_template"), 1, "that of its first day");
        let row = freed(&host, &next).await;
        assert_eq!(row.state, OrderState::Succeeded, "{ran} {log_is_there}: {:?}", row.result);
    }
}

/// A purge that ended there would be ordered anew, find no VM, and give the number away with the disk.
#[tokio::test]
async fn a_purge_whose_destruction_went_on_after_it_was_refused_tells_of_a_disk_that_stayed() {
    let host = about_to_be_purged().await;
    host.pve.fail_next("destroy", Fault::RefusedKeepsDisk(500, "something went wrong".to_owned()));
    names_the_disk(&host.run(&purge()).await);
    let row = freed(&host, &purge()).await;
    assert_eq!(row.state, OrderState::Undone, "{:?}", row.result);
    let row = host.carry_out(&order(4, 4, Op::Purge(Empty {}))).await;
    assert_eq!(row.state, OrderState::Succeeded, "{:?}", row.result);
    assert_eq!(host.count("destroy"), 1);
    assert!(host.books.journal.resources().await.unwrap().is_empty());
}

const DISK: &str = "local-lvm:vm-1000-disk-0";

fn purge() -> ProvisioningOrder {
    order(3, 3, Op::Purge(Empty {}))
}

/// A host with one server that is retired, and whose purge has been accepted.
async fn about_to_be_purged() -> Host {
    let host = served().await;
    host.carry_out(&order(2, 2, Op::Retire(Empty {}))).await;
    host.books.accept(&purge()).await;
    host
}

/// The order stands still, and says how root frees the disk.
fn names_the_disk(row: &OrderRow) {
    assert_eq!(row.state, OrderState::Stuck, "{:?}", row.result);
    let said = row.result.as_deref().unwrap();
    assert!(said.contains(&format!("`pvesm free {DISK}`")), "{said}");
    assert!(said.contains(&format!("order resume {}", row.order_id)), "{said}");
}

/// Root frees the disk as the message said, and lets the order go on.
async fn freed(host: &Host, order: &ProvisioningOrder) -> OrderRow {
    host.pve.free(DISK);
    host.resume(order).await;
    host.run(order).await
}

#[tokio::test]
async fn a_purge_is_not_through_while_the_disk_is_there() {
    let host = about_to_be_purged().await;
    host.pve.fail_next("destroy", Fault::TaskKeepsDisk);
    names_the_disk(&host.run(&purge()).await);
    let row = host.books.journal.resource(instance(10)).await.unwrap();
    assert_eq!(row.map(|row| row.phase), Some(Phase::Retired), "its number stays taken");
    let row = freed(&host, &purge()).await;
    assert_eq!(row.state, OrderState::Succeeded, "{:?}", row.result);
    assert_eq!(host.count("destroy"), 1);
    assert!(host.books.journal.resources().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_rebuild_makes_no_new_disk_beside_one_that_should_be_gone() {
    let host = served().await;
    host.pve.fail_next("destroy", Fault::TaskKeepsDisk);
    let rebuild = changed(2, 2, |spec| spec.build = 1);
    names_the_disk(&host.carry_out(&rebuild).await);
    assert_eq!(host.count("clone_template"), 1, "that of its first day");
    let row = freed(&host, &rebuild).await;
    assert_eq!(row.state, OrderState::Succeeded, "{:?}", row.result);
    assert!(host.pve.guest(VMID).unwrap().running);
}

/// What the control plane orders by itself a day later finds no VM, and the disk is there all the same.
#[tokio::test]
async fn another_purge_does_not_end_well_while_the_disk_of_a_stuck_one_is_there() {
    let host = about_to_be_purged().await;
    host.pve.fail_next("destroy", Fault::TaskKeepsDisk);
    names_the_disk(&host.run(&purge()).await);
    for n in [4, 5] {
        names_the_disk(&host.carry_out(&order(n, n, Op::Purge(Empty {}))).await);
        let row = host.books.journal.resource(instance(10)).await.unwrap();
        assert_eq!(row.map(|row| row.phase), Some(Phase::Retired), "its number stays taken");
    }
    let row = freed(&host, &order(5, 5, Op::Purge(Empty {}))).await;
    assert_eq!(row.state, OrderState::Succeeded, "{:?}", row.result);
    assert_eq!(host.count("destroy"), 1);
    assert!(host.books.journal.resources().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_purge_does_not_ask_for_the_disk_of_one_that_was_given_up() {
    let host = about_to_be_purged().await;
    host.pve.fail_next("destroy", Fault::TaskKeepsDisk);
    names_the_disk(&host.run(&purge()).await);
    host.abandon(&purge()).await;
    let row = host.carry_out(&order(4, 4, Op::Purge(Empty {}))).await;
    assert_eq!(row.state, OrderState::Succeeded, "{:?}", row.result);
}

const OTHER_DISK: &str = "local-lvm:vm-1000-disk-1";

/// Two orders that are stuck, each by a disk of its own: root of the host had brought the server back between them.
async fn twice_stuck() -> (Host, [ProvisioningOrder; 2]) {
    let host = served().await;
    let before = host.pve.guest(VMID).unwrap();
    let first = changed(2, 2, |spec| spec.build = 1);
    host.pve.fail_next("destroy", Fault::TaskKeepsDisk);
    names_the_disk(&host.carry_out(&first).await);
    host.pve.put_guest(VMID, |guest| *guest = before);
    let second = changed(3, 3, |spec| spec.build = 2);
    host.pve.fail_next("destroy", Fault::TaskKeepsDisk);
    names_the_disk(&host.carry_out(&second).await);
    // The host in memory has one disk for each server; the second destruction left another one.
    let steps = host.books.journal.steps(second.order_id).await.unwrap();
    let task = steps.iter().find(|step| step.name == "destroy").unwrap().upid.clone().unwrap();
    let line = format!("WARN: Could not remove disk '{OTHER_DISK}', check manually: in use");
    host.pve.log_line(&task.parse().unwrap(), &line);
    (host, [first, second])
}

fn names_all(row: &OrderRow, before: &[ProvisioningOrder]) {
    names_the_disk(row);
    let said = row.result.as_deref().unwrap();
    assert!(said.contains(&format!("`pvesm free {OTHER_DISK}`")), "{said}");
    for order in before {
        assert!(said.contains(&format!("of order {} `pvenode task log ", order.order_id)), "{said}");
    }
}

#[tokio::test]
async fn the_disks_of_two_stuck_destructions_are_asked_for_at_once_and_one_resumption_settles_both() {
    let (host, before) = twice_stuck().await;
    let next = changed(4, 4, |spec| spec.build = 3);
    names_all(&host.carry_out(&next).await, &before);
    host.pve.free(OTHER_DISK);
    let row = freed(&host, &next).await;
    assert_eq!(row.state, OrderState::Succeeded, "{:?}", row.result);
    assert!(host.pve.guest(VMID).unwrap().running);
    let left = host.books.journal.unsettled_destructions(instance(10), next.order_id).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_disk_that_comes_to_light_later_is_asked_for_together_with_the_others() {
    let (host, before) = twice_stuck().await;
    let next = changed(4, 4, |spec| spec.build = 3);
    names_all(&host.carry_out(&next).await, &before);
    let steps = host.books.journal.steps(before[0].order_id).await.unwrap();
    let task = steps.iter().find(|step| step.name == "destroy").unwrap().upid.clone().unwrap();
    host.pve
        .log_line(&task.parse().unwrap(), "Could not remove disk 'local-lvm:vm-1000-disk-2', check manually");
    let row = freed(&host, &next).await;
    names_all(&row, &before);
    assert!(row.result.unwrap().contains("`pvesm free local-lvm:vm-1000-disk-2`"));
    assert_eq!(freed(&host, &next).await.state, OrderState::Succeeded);
}

#[tokio::test]
async fn giving_up_the_newest_of_stuck_destructions_gives_up_those_that_it_named() {
    let (host, before) = twice_stuck().await;
    let next = changed(4, 4, |spec| spec.build = 3);
    names_all(&host.carry_out(&next).await, &before);
    host.abandon(&next).await;
    for order in &before {
        let row = host.row(order).await;
        assert_eq!(row.state, OrderState::Stuck);
        let said = row.result.unwrap();
        assert!(said.contains(&format!("with order {}; before: ", next.order_id)), "{said}");
    }
    let waiting = lists::waiting_for_a_person(host.books.journal.readers()).await.unwrap();
    assert!(waiting.is_empty(), "nobody is asked to look at them any more");
    let row = host.carry_out(&changed(5, 5, |spec| spec.build = 4)).await;
    assert_eq!(row.state, OrderState::Succeeded, "{:?}", row.result);
}

/// Proxmox forgets its tasks after a while; what the order said of them is kept.
#[tokio::test]
async fn a_disk_is_asked_for_also_when_the_log_that_told_of_it_is_gone() {
    let host = about_to_be_purged().await;
    host.pve.fail_next("destroy", Fault::TaskKeepsDisk);
    names_the_disk(&host.run(&purge()).await);
    let gone = Fault::Refused(400, "Parameter verification failed. upid: no such task".to_owned());
    host.pve.plan(Plan::Always(Some((4, "destroy")), "task_log", gone));
    let next = order(4, 4, Op::Purge(Empty {}));
    names_the_disk(&host.carry_out(&next).await);
    assert_eq!(freed(&host, &next).await.state, OrderState::Succeeded);
}

#[tokio::test]
async fn another_rebuild_asks_for_the_disk_of_a_stuck_one_and_later_orders_do_not() {
    let host = served().await;
    host.pve.fail_next("destroy", Fault::TaskKeepsDisk);
    names_the_disk(&host.carry_out(&changed(2, 2, |spec| spec.build = 1)).await);
    let next = changed(3, 3, |spec| spec.build = 2);
    names_the_disk(&host.carry_out(&next).await);
    assert_eq!(host.count("clone_template"), 1, "that of its first day");
    assert_eq!(freed(&host, &next).await.state, OrderState::Succeeded);
    // Root has seen to the disk, whatever becomes of the VM.
    host.carry_out(&order(4, 4, Op::Retire(Empty {}))).await;
    host.pve.forget(VMID);
    let row = host.carry_out(&order(5, 5, Op::Purge(Empty {}))).await;
    assert_eq!(row.state, OrderState::Succeeded, "{:?}", row.result);
}

#[tokio::test]
async fn a_create_that_is_undone_and_leaves_its_disk_says_so() {
    let host = Host::new().await;
    host.pve.fail_next("start", Fault::TaskFails("start failed: QEMU exited with code 1".to_owned()));
    host.pve.fail_next("destroy", Fault::TaskKeepsDisk);
    names_the_disk(&host.carry_out(&ensure(1, 1)).await);
    assert!(host.books.journal.resource(instance(10)).await.unwrap().is_some(), "its number stays taken");
    let row = freed(&host, &ensure(1, 1)).await;
    assert_eq!(row.state, OrderState::Undone, "{:?}", row.result);
    assert!(host.books.journal.resources().await.unwrap().is_empty());
}

/// Between the end of the destruction and the reading of its log the agent may die, wherever it is.
#[tokio::test]
async fn a_disk_that_stays_is_told_of_whenever_the_agent_dies() {
    for cut in [Cut::BeforeCommit, Cut::AfterCommit] {
        for hasty in [false, true] {
            for n in 1.. {
                let mut host = about_to_be_purged().await;
                host.pve.fail_next("destroy", Fault::TaskKeepsDisk);
                host.books.journal.fuse.set(n, cut);
                let outcome = host.engine.run_order(purge().order_id).await;
                let crashed = host.books.journal.fuse.blown();
                assert_eq!(outcome.is_err(), crashed, "{cut:?} at write {n}: {outcome:?}");
                host.restart().await;
                if hasty {
                    host.pve.finish_tasks();
                }
                names_the_disk(&host.run(&purge()).await);
                assert_eq!(freed(&host, &purge()).await.state, OrderState::Succeeded, "{cut:?} at write {n}");
                if !crashed {
                    break;
                }
            }
        }
    }
}

/// What root was told of is not asked for again; what comes to light only after the order was resumed is.
#[tokio::test]
async fn a_log_that_could_not_be_read_is_read_once_root_has_resumed_the_order() {
    let mut host = about_to_be_purged().await;
    host.pve.fail_next("destroy", Fault::TaskKeepsDisk);
    let step = Some((4, "destroy"));
    host.pve.plan(Plan::Always(step, "task_log", Fault::Refused(500, "unable to open file".to_owned())));
    host.set_patience(Duration::from_millis(100));
    let row = host.run(&purge()).await;
    assert_eq!(row.state, OrderState::Stuck, "{:?}", row.result);
    assert!(row.result.unwrap().contains("its log cannot be read"));
    host.pve.plan_nothing();
    host.set_patience(Duration::from_secs(20));
    host.resume(&purge()).await;
    names_the_disk(&host.run(&purge()).await);
    assert_eq!(freed(&host, &purge()).await.state, OrderState::Succeeded);
}

/// The order stands still, and says what root does about the rest of the VM.
fn names_the_rest(row: &OrderRow) {
    assert_eq!(row.state, OrderState::Stuck, "{:?}", row.result);
    let said = row.result.as_deref().unwrap();
    assert!(said.contains("`qm destroy 1000 --skiplock 1 --destroy-unreferenced-disks 1"), "{said}");
    assert!(said.contains(&format!("order resume {}", row.order_id)), "{said}");
    assert!(!said.contains("--description"), "a marker cannot be written under that lock: {said}");
}

/// Root removes what is left, and lets the order go on.
async fn cleared(host: &Host, order: &ProvisioningOrder) -> OrderRow {
    host.pve.forget(VMID);
    host.resume(order).await;
    host.run(order).await
}

#[tokio::test]
async fn a_purge_that_died_half_way_goes_on_when_root_has_removed_the_rest() {
    let host = about_to_be_purged().await;
    host.pve.fail_next("destroy", Fault::TaskKilledHalf);
    let row = host.run(&purge()).await;
    names_the_rest(&row);
    assert!(row.result.unwrap().contains("--purge 1"));
    let row = cleared(&host, &purge()).await;
    assert_eq!(row.state, OrderState::Succeeded, "{:?}", row.result);
    assert_eq!(host.count("destroy"), 1, "under that lock nobody is asked again");
    assert!(host.books.journal.resources().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_rebuild_whose_destruction_died_half_way_makes_the_new_disk_when_root_has_removed_the_rest() {
    let host = served().await;
    host.pve.fail_next("destroy", Fault::TaskKilledHalf);
    let rebuild = changed(2, 2, |spec| spec.build = 1);
    names_the_rest(&host.carry_out(&rebuild).await);
    let row = cleared(&host, &rebuild).await;
    assert_eq!(row.state, OrderState::Succeeded, "{:?}", row.result);
    assert!(host.pve.guest(VMID).unwrap().running);
}

#[tokio::test]
async fn an_undo_whose_destruction_died_half_way_is_no_undo_yet() {
    let host = Host::new().await;
    host.pve.fail_next("start", Fault::TaskFails("start failed: QEMU exited with code 1".to_owned()));
    host.pve.fail_next("destroy", Fault::TaskKilledHalf);
    names_the_rest(&host.carry_out(&ensure(1, 1)).await);
    assert!(host.books.journal.resource(instance(10)).await.unwrap().is_some(), "its number stays taken");
    // The same wish once more does not take the rest for a stranger's.
    let again = host.carry_out(&ensure(2, 2)).await;
    names_the_rest(&again);
    let row = cleared(&host, &ensure(2, 2)).await;
    assert_eq!(row.state, OrderState::Undone, "{:?}", row.result);
    assert!(host.books.journal.resources().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_rebuild_leaves_the_server_in_the_jobs_of_the_hosts_owner_and_a_purge_does_not() {
    let host = served().await;
    host.pve.put_into_a_job(VMID);
    let row = host.carry_out(&changed(2, 2, |spec| spec.build = 1)).await;
    assert_eq!(row.state, OrderState::Succeeded, "{:?}", row.result);
    assert!(host.pve.is_in_a_job(VMID), "it goes on being backed up");
    host.carry_out(&order(3, 3, Op::Retire(Empty {}))).await;
    let row = host.carry_out(&order(4, 4, Op::Purge(Empty {}))).await;
    assert_eq!(row.state, OrderState::Succeeded, "{:?}", row.result);
    assert!(!host.pve.is_in_a_job(VMID), "the next server with its number is another one");
}

/// One that is replicated or highly available is destroyed only together with that, as it always was.
#[tokio::test]
async fn a_rebuild_of_a_replicated_server_goes_through() {
    for refusal in [
        "unable to remove VM 1000 - used in HA resources and purge parameter not set.",
        "There is a replication job '1000-0' for guest '1000' - Please remove that first.",
    ] {
        let host = served().await;
        host.pve.fail_next("destroy", Fault::Refused(500, refusal.to_owned()));
        let row = host.carry_out(&changed(2, 2, |spec| spec.build = 1)).await;
        assert_eq!(row.state, OrderState::Succeeded, "{:?}", row.result);
    }
}

/// Root's repair destroys with `qm`, whose end says nothing of a disk that stayed, either.
#[tokio::test]
async fn a_clone_is_not_made_again_beside_the_disk_of_one_that_the_repair_removed() {
    let mut host = Host::new().await;
    host.install_repair();
    host.pve.fail_next("clone_template", Fault::TaskKilled);
    let request = host.repair_dir.clone().unwrap().join("clean-clone-1000.json");
    let create = ensure(1, 1);
    host.books.accept(&create).await;
    let (engine, id) = (std::sync::Arc::clone(&host.engine), create.order_id);
    let work = tokio::spawn(async move { engine.run_order(id).await });
    while !request.exists() {
        tokio::task::yield_now().await;
    }
    host.pve.root_destroys(VMID);
    std::fs::remove_file(&request).unwrap();
    work.await.unwrap().unwrap();
    names_the_disk(&host.row(&create).await);
    assert_eq!(host.count("clone_template"), 1);
    let row = freed(&host, &create).await;
    assert_eq!(row.state, OrderState::Succeeded, "{:?}", row.result);
    assert_eq!(host.count("clone_template"), 2);
}

/// The same where the create is taken back, also by a token that cannot tell a free number from one of somebody else.
#[tokio::test]
async fn a_create_is_not_undone_while_the_disk_of_its_clone_is_there_that_the_repair_removed() {
    for sees_the_pool_alone in [false, true] {
        let mut host = Host::new().await;
        host.install_repair();
        if sees_the_pool_alone {
            host.pve.see_the_pool_alone();
        }
        let left_locked = "clone failed: and its cleanup, too".to_owned();
        host.pve.fail_next("clone_template", Fault::TaskFailsHalf(left_locked));
        let request = host.repair_dir.clone().unwrap().join("clean-clone-1000.json");
        let create = ensure(1, 1);
        host.books.accept(&create).await;
        let (engine, id) = (std::sync::Arc::clone(&host.engine), create.order_id);
        let work = tokio::spawn(async move { engine.run_order(id).await });
        while !request.exists() {
            tokio::task::yield_now().await;
        }
        host.pve.root_destroys(VMID);
        std::fs::remove_file(&request).unwrap();
        work.await.unwrap().unwrap();
        names_the_disk(&host.row(&create).await);
        let row = host.books.journal.resource(instance(10)).await.unwrap();
        assert!(row.is_some(), "its number stays taken");
        let row = freed(&host, &create).await;
        assert_eq!(row.state, OrderState::Undone, "{sees_the_pool_alone}: {:?}", row.result);
        assert_eq!(host.count("clone_template"), 1);
        assert!(host.books.journal.resources().await.unwrap().is_empty());
    }
}
