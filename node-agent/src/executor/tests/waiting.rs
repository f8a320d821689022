//! What waits: for a Proxmox that is silent, for its turn on the host. Waiting costs no order the time that it has, and
//! whoever has waited too long is told so.

use std::{sync::Arc, time::Duration};

use ez_protocol::{
    UnixMillis,
    message::EventKind,
    order::{Action, Op, ProvisioningOrder, Service},
};
use tokio::time::Instant;

use super::{
    kit::Host,
    queue::{clones, create, until},
};
use crate::{
    executor::{Actors, Load, Pace},
    journal::OrderState,
    pve::fake::Fault,
    testing::{NOW, VMID, ensure, order},
};

/// An agent that was started beside a silent Proxmox takes orders and begins none.
#[tokio::test]
async fn what_waits_for_a_silent_proxmox_ends_in_its_time_without_a_call() {
    let host = Host::new().await;
    let actors = Actors::new(Arc::clone(&host.engine));
    actors.hold();
    let (over, begun, mut in_time) = (create(1), create(3), create(2));
    let later = |at: UnixMillis| at.plus(Duration::from_secs(300));
    (in_time.iat, in_time.nbf, in_time.exp) = (later(in_time.iat), later(in_time.nbf), later(in_time.exp));
    for order in [&over, &in_time, &begun] {
        host.books.accept(order).await;
        actors.enqueue(order.instance.uuid, order.order_id, Some(order.seq));
    }
    // This one was at work before the agent was started anew: what has begun is not over.
    host.books.journal.begin_order(begun.order_id, OrderState::Running, NOW, None).await.unwrap();
    actors.end_overdue().await;
    assert_eq!(host.row(&over).await.state, OrderState::Accepted, "it has time yet");

    host.clock.set(over.exp.plus(Duration::from_millis(1)));
    for _ in 0..2 {
        actors.end_overdue().await;
    }
    let row = host.row(&over).await;
    assert_eq!(row.state, OrderState::Failed);
    assert!(row.result.unwrap().contains("its time was over before it could begin"));
    let id = over.order_id.to_string();
    let told = host.events().await.into_iter().filter(|event| event.order_id == id);
    assert_eq!(told.filter(|event| event.kind == i32::from(EventKind::Failed)).count(), 1, "told once");
    let place = host.books.journal.resource(over.instance.uuid).await.unwrap();
    assert!(place.is_none(), "its number is free for another");
    assert_eq!(host.row(&in_time).await.state, OrderState::Accepted);
    assert_eq!(host.row(&begun).await.state, OrderState::Running);
    assert!(host.pve.trace().is_empty(), "Proxmox was not asked: {:?}", host.pve.trace());

    // Proxmox answers.
    actors.resume().await.unwrap();
    until("the others to be built", async || !actors.is_busy()).await;
    for order in [&in_time, &begun] {
        let row = host.row(order).await;
        assert_eq!(row.state, OrderState::Succeeded, "{:?}", row.result);
    }
    assert_eq!(clones(&host), ["clone_template 1002", "clone_template 1003"]);
    assert_eq!(host.row(&over).await.state, OrderState::Failed);
}

fn backup(seq: u64) -> ProvisioningOrder {
    order(seq, 1, Op::Action(Action::BackupCreate { keep: 2 }))
}

/// A host with one server, whose tasks, copies of disks and orders may take so long.
async fn with_pace(task: Duration, disk_copy: Duration, overall: Duration) -> Host {
    let mut host = Host::new().await;
    let row = host.carry_out(&ensure(1, 1)).await;
    assert_eq!(row.state, OrderState::Succeeded, "{:?}", row.result);
    let engine = Arc::get_mut(&mut host.engine).unwrap();
    engine.pace = Pace { task, disk_copy, overall, ..engine.pace };
    host
}

/// Begins an accepted order and waits until one of its steps asks this of Proxmox.
async fn begun(
    host: &Host,
    order: &ProvisioningOrder,
    step: (i64, &'static str),
    verb: &'static str,
) -> tokio::task::JoinHandle<Result<(), String>> {
    let (engine, id) = (Arc::clone(&host.engine), order.order_id);
    let work = tokio::spawn(async move { engine.run_order(id).await });
    until("the step to look", async || {
        host.pve.trace().iter().any(|call| call.step == Some(step) && call.verb == verb)
    })
    .await;
    work
}

#[tokio::test]
async fn a_backup_that_has_waited_for_its_turn_has_all_its_time_left() {
    let (most, minute) = (Duration::from_secs(5), Duration::from_secs(60));
    let host = with_pace(minute, most, Duration::ZERO).await;
    let backup = backup(2);
    host.books.accept(&backup).await;
    // Another server's backup is being made, for longer than a step or an order may take.
    let other = host.engine.limits.enter(&Load::Backup).await;
    let work = begun(&host, &backup, (1, "backup"), "backups").await;
    let since = Instant::now();
    until("longer than it may take", async || since.elapsed() > most).await;
    assert_eq!(host.count("back_up"), 0, "Proxmox makes one at a time");
    // And the first call comes to nothing, so that it is asked how long that goes on already.
    host.pve.fail_next("back_up", Fault::LostBefore);
    drop(other);
    work.await.unwrap().unwrap();
    let row = host.row(&backup).await;
    assert_eq!(row.state, OrderState::Succeeded, "{:?}", row.result);
    assert_eq!(host.count("back_up"), 2);
}

#[tokio::test]
async fn a_backup_may_take_longer_than_any_other_task() {
    let (moment, minute) = (Duration::from_millis(1), Duration::from_secs(60));
    let host = with_pace(moment, minute, minute).await;
    host.pve.set_polls(3);
    let row = host.carry_out(&backup(2)).await;
    assert_eq!(row.state, OrderState::Succeeded, "{:?}", row.result);
    let snapshot = order(3, 1, Op::Action(Action::SnapshotCreate { name: "before".parse().unwrap() }));
    let row = host.carry_out(&snapshot).await;
    assert_eq!(row.state, OrderState::Stuck, "{:?}", row.result);
    assert!(row.result.unwrap().contains("still runs after"));
}

/// Carries an order out, held up by nothing.
async fn carried_out(host: &Host, order: &ProvisioningOrder) {
    let end = tokio::time::timeout(Duration::from_secs(60), host.carry_out(order)).await;
    let row = end.unwrap_or_else(|_| panic!("something holds {} up", order.op.verb()));
    assert_eq!(row.state, OrderState::Succeeded, "{:?}", row.result);
}

#[tokio::test]
async fn a_vm_whose_marker_goes_while_its_start_waits_for_its_turn_is_not_started() {
    let minute = Duration::from_secs(60);
    let host = with_pace(minute, minute, minute).await;
    let mut off = ensure(2, 2);
    if let Op::Ensure(spec) = &mut off.op {
        spec.service = Service::Suspended;
    }
    carried_out(&host, &off).await;
    let starts = host.count("start");
    // Another server was started just now. The gap is as long as the steps before this start may take on a busy machine.
    let gap = Duration::from_secs(15);
    host.engine.limits.start_turn(gap).await;
    let since = Instant::now();
    let on = ensure(3, 3);
    host.books.accept(&on).await;
    let work = begun(&host, &on, (5, "start"), "guest_status").await;
    host.pve.put_guest(VMID, |guest| {
        guest.config.insert("description".to_owned(), "the operator's own".to_owned());
    });
    assert!(since.elapsed() < gap, "this machine is too busy to tell");
    work.await.unwrap().unwrap();
    let row = host.row(&on).await;
    assert_eq!(row.state, OrderState::Stuck, "{:?}", row.result);
    assert!(row.result.unwrap().contains("hands off"));
    assert_eq!(host.count("start"), starts);
}

#[tokio::test]
async fn restores_have_room_of_their_own() {
    let minute = Duration::from_secs(60);
    let host = with_pace(minute, minute, minute).await;
    let first = backup(2);
    carried_out(&host, &first).await;
    let restore = |seq, generation| {
        order(seq, generation, Op::Action(Action::BackupRestore { backup: first.order_id }))
    };
    let limits = &host.engine.limits;

    // All the heavy work and the backups of others do not hold a restore up …
    let heavy = [limits.enter(&Load::Heavy).await, limits.enter(&Load::Heavy).await];
    let others = (heavy, limits.enter(&Load::Backup).await);
    carried_out(&host, &restore(3, 1)).await;
    drop(others);

    // … and two restores, which may take a day, hold up nothing but a third one.
    let others = [limits.enter(&Load::Restore).await, limits.enter(&Load::Restore).await];
    carried_out(&host, &backup(4)).await;
    let mut larger = ensure(5, 2);
    if let Op::Ensure(spec) = &mut larger.op {
        spec.disk_gib += 10;
    }
    carried_out(&host, &larger).await;
    let third = restore(6, 2);
    host.books.accept(&third).await;
    let called = host.count("restore");
    let work = begun(&host, &third, (4, "restore"), "guest_config").await;
    assert_eq!(host.count("restore"), called, "it waits");
    drop(others);
    work.await.unwrap().unwrap();
    let row = host.row(&third).await;
    assert_eq!(row.state, OrderState::Succeeded, "{:?}", row.result);
    assert_eq!(host.count("restore"), called + 1);
}
