//! Several servers that are built at once wait for each other's clone in the order in which they were asked for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use ez_protocol::{
    message::EventKind,
    order::{InstanceRef, ProvisioningOrder},
};

use super::kit::Host;
use crate::{
    executor::Actors,
    journal::{OrderState, lists},
    pve::fake::{Fault, Plan},
    testing::{VMID, ensure, instance},
};

/// The create of the n-th server, counted from 1.
pub(super) fn create(n: u8) -> ProvisioningOrder {
    let mut order = ensure(u64::from(n), 1);
    order.instance = InstanceRef { uuid: instance(n), vmid: VMID + u32::from(n) };
    order
}

pub(super) async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let waits = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waits)
        .await
        .unwrap_or_else(|_| panic!("waiting for {what}"));
}

pub(super) fn clones(host: &Host) -> Vec<String> {
    host.pve.changes().into_iter().filter(|call| call.starts_with("clone_template")).collect()
}

fn in_order(n: u32) -> Vec<String> {
    (1..=n).map(|n| format!("clone_template {}", VMID + n)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_restart_in_the_middle_goes_on_with_the_same_queue() {
    for round in 0..5 {
        let mut host = Host::new().await;
        host.pve.set_polls(3);
        for n in 1..=6 {
            host.books.accept(&create(n)).await;
        }
        let actors = Actors::new(Arc::clone(&host.engine));
        actors.resume().await.unwrap();
        until("the second clone", async || clones(&host).len() >= 2).await;
        actors.abandon();
        host.restart().await;
        let actors = Actors::new(Arc::clone(&host.engine));
        actors.resume().await.unwrap();
        until("all to be built", async || !actors.is_busy()).await;
        assert_eq!(clones(&host), in_order(6), "round {round}");
        for n in 1..=6 {
            let row = host.row(&create(n)).await;
            assert_eq!(row.state, OrderState::Succeeded, "{n}: {:?}", row.result);
            let place = lists::place(host.books.journal.readers(), row.order_id).await.unwrap();
            assert_eq!(place, None, "its turn has come");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_waits_is_told_its_place_and_a_time_once_there_is_experience() {
    let host = Host::new().await;
    host.pve.set_polls(3);
    let actors = Actors::new(Arc::clone(&host.engine));
    for n in 1..=5 {
        let order = create(n);
        host.books.accept(&order).await;
        actors.enqueue(order.instance.uuid, order.order_id, Some(order.seq));
    }
    until("all to be built", async || !actors.is_busy()).await;
    assert_eq!(clones(&host), in_order(5));
    let last = create(5).order_id.to_string();
    let told = host.events().await.into_iter().filter(|event| event.order_id == last);
    let mut places = Vec::new();
    for event in told {
        if let Some(place) = event.queue {
            assert_eq!((event.kind, event.step.as_str()), (EventKind::StepProgress.into(), "clone"));
            places.push(place);
        }
    }
    let positions: Vec<u32> = places.iter().map(|place| place.position).collect();
    assert!(positions.is_sorted_by(|a, b| a > b), "it only moves up: {positions:?}");
    assert_eq!(positions.last(), Some(&1), "{positions:?}");
    assert!(
        places.last().unwrap().estimate_secs.is_some(),
        "the first ones have told how long it takes: {places:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_clone_that_fails_lets_the_next_one_go() {
    let host = Host::new().await;
    host.pve.set_polls(3);
    host.pve.fail_next("clone_template", Fault::TaskFails("no space left on device".to_owned()));
    let actors = Actors::new(Arc::clone(&host.engine));
    for n in 1..=3 {
        let order = create(n);
        host.books.accept(&order).await;
        actors.enqueue(order.instance.uuid, order.order_id, Some(order.seq));
    }
    until("all to end", async || !actors.is_busy()).await;
    assert_eq!(host.row(&create(1)).await.state, OrderState::Undone);
    for n in [2, 3] {
        assert_eq!(host.row(&create(n)).await.state, OrderState::Succeeded);
    }
}

/// A defect of ours that an order meets once is as if the agent had died there; one that it meets again and again ends
/// it. Nothing else waits for it, neither its server's later orders nor another server's clone.
#[tokio::test]
async fn a_defect_that_an_order_meets_keeps_nothing_else_waiting() {
    let plain = Host::new().await;
    plain.carry_out(&create(1)).await;
    let of_clone = |call: &&crate::pve::fake::Call| call.step == Some((1, "clone"));
    let look = *plain.pve.trace().iter().find(of_clone).unwrap();
    for (defects, end) in [(1, OrderState::Succeeded), (3, OrderState::Stuck)] {
        let host = Host::new().await;
        let met = AtomicU32::new(0);
        let strike = move || assert!(met.fetch_add(1, Ordering::SeqCst) >= defects, "a defect");
        host.pve.plan(Plan::StrikeStep(look.step, look.verb, Arc::new(strike)));
        let actors = Actors::new(Arc::clone(&host.engine));
        host.books.accept(&create(1)).await;
        actors.resume().await.unwrap();
        until("it to end", async || !actors.is_busy()).await;
        let row = host.row(&create(1)).await;
        assert_eq!(row.state, end, "{:?}", row.result);
        host.books.accept(&create(2)).await;
        actors.resume().await.unwrap();
        until("the next to end", async || !actors.is_busy()).await;
        let row = host.row(&create(2)).await;
        assert_eq!(row.state, OrderState::Succeeded, "{:?}", row.result);
    }
}
