//! Who may start a new server, and when (I1): the control plane has to know of it and to want it still, whoever starts it.

use std::{collections::BTreeMap, time::Duration};

use ez_protocol::order::{Op, ProvisioningOrder};

use super::kit::Host;
use crate::{
    journal::OrderState,
    testing::{Books, NOW, VMID, ensure},
};

/// After a quarter of an hour of silence an operator may have the server built elsewhere: a new server is
/// started only on a young word of the control plane (I1).
#[tokio::test]
async fn a_new_server_is_not_started_before_the_control_plane_is_heard() {
    let mut host = Host::new().await;
    host.hears_nothing();
    host.books.accept(&ensure(1, 1)).await;
    let held = async {
        while !host.steps_done().await.iter().any(|step| step == "firewall") {
            tokio::task::yield_now().await;
        }
        // Nor is it by its host, when that boots.
        assert_eq!(host.pve.guest(VMID).unwrap().config["onboot"], "0");
        for _ in 0..20 {
            assert_eq!(host.count("start"), 0, "started although nobody may want it");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        host.contact.heard(NOW);
    };
    let order = ensure(1, 1);
    let (row, ()) = tokio::join!(host.run(&order), held);
    assert_eq!((row.state, host.count("start")), (OrderState::Succeeded, 1));
}

#[tokio::test]
async fn a_revoked_node_takes_back_what_it_was_building() {
    let host = Host::new().await;
    host.contact.revoke();
    let row = host.carry_out(&ensure(1, 1)).await;
    assert_eq!((row.state, host.count("start")), (OrderState::Undone, 0), "{:?}", row.result);
    assert!(host.pve.guest(VMID).is_none());
}

/// Also where somebody else, by hand on the host say, started it meanwhile: it may be running elsewhere.
#[tokio::test]
async fn a_revoked_node_takes_back_what_runs_without_its_doing() {
    let mut host = Host::new().await;
    host.hears_nothing();
    host.books.accept(&ensure(1, 1)).await;
    let order = ensure(1, 1);
    let started = async {
        while !host.steps_done().await.iter().any(|step| step == "firewall") {
            tokio::task::yield_now().await;
        }
        host.pve.put_guest(VMID, |guest| guest.running = true);
        host.contact.revoke();
    };
    let (row, ()) = tokio::join!(host.run(&order), started);
    assert_eq!((row.state, host.count("start")), (OrderState::Undone, 0), "{:?}", row.result);
    assert!(host.pve.guest(VMID).is_none());
}

/// Whoever enrols a node anew may have had elsewhere built what it was building, and it need not have heard of it (I1).
#[tokio::test]
async fn a_node_that_was_enrolled_anew_takes_back_what_it_was_building() {
    let host = Host::new().await;
    let order = ensure(1, 1);
    host.books.accept(&order).await;
    host.books.journal.adopt_identity(order.aud.node, order.aud.epoch + 1, [1; 16]).await.unwrap();
    let row = host.run(&order).await;
    assert_eq!((row.state, host.count("start")), (OrderState::Undone, 0), "{:?}", row.result);
    assert!(host.pve.guest(VMID).is_none());
}

/// What the control plane never heard of is built elsewhere once it is over (I1): nothing is started before the
/// control plane has confirmed that this node has the order.
#[tokio::test]
async fn a_new_server_is_not_started_before_the_control_plane_knows_who_builds_it() {
    let host = Host::new().await;
    let order = ensure(1, 1);
    host.books.accept_unheard(&order).await;
    let confirmed = async {
        while !host.steps_done().await.iter().any(|step| step == "firewall") {
            tokio::task::yield_now().await;
        }
        for _ in 0..20 {
            assert_eq!(host.count("start"), 0, "started although another node may be building it");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        host.books.journal.confirm(order.order_id, order.exp).await;
    };
    let (row, ()) = tokio::join!(host.run(&order), confirmed);
    assert_eq!((row.state, host.count("start")), (OrderState::Succeeded, 1));
}

#[tokio::test]
async fn what_the_control_plane_did_not_hear_of_in_time_is_taken_back() {
    let after = |order: &ProvisioningOrder| order.exp.plus(Duration::from_millis(1));
    // Never confirmed; and confirmed when the order was over.
    for late in [false, true] {
        let host = Host::new().await;
        let order = ensure(1, 1);
        host.books.accept_unheard(&order).await;
        if late {
            host.books.journal.confirm(order.order_id, after(&order)).await;
        }
        let passes = async {
            while !host.steps_done().await.iter().any(|step| step == "firewall") {
                tokio::task::yield_now().await;
            }
            host.clock.set(after(&order));
        };
        let (row, ()) = tokio::join!(host.run(&order), passes);
        assert_eq!((row.state, host.count("start")), (OrderState::Undone, 0), "{:?}", row.result);
        assert!(host.pve.guest(VMID).is_none());
    }
}

/// A server whose building took longer than the order lives was confirmed long before.
#[tokio::test]
async fn a_confirmed_order_may_outlive_its_end() {
    let host = Host::new().await;
    let order = ensure(1, 1);
    host.books.accept(&order).await;
    let passes = async {
        while !host.steps_done().await.iter().any(|step| step == "clone") {
            tokio::task::yield_now().await;
        }
        host.clock.set(order.exp.plus(Duration::from_secs(60)));
    };
    let (row, ()) = tokio::join!(host.run(&order), passes);
    assert_eq!((row.state, host.count("start")), (OrderState::Succeeded, 1), "{:?}", row.result);
}

/// Between the first start and the word to its host that it is to start it from now on, the machine loses its power: what
/// is handed over runs all the same.
#[tokio::test]
async fn a_power_cut_right_after_the_first_start_leaves_a_server_that_runs() {
    let rebuilt = || {
        let mut rebuild = ensure(2, 2);
        if let Op::Ensure(spec) = &mut rebuild.op {
            spec.build = 1;
        }
        rebuild
    };
    for (before, order) in [(None, ensure(1, 1)), (Some(ensure(1, 1)), rebuilt())] {
        let host = Host::new().await;
        if let Some(before) = before {
            host.carry_out(&before).await;
        }
        host.books.accept(&order).await;
        let started = host.count("start") + 1;
        let cut = async {
            while host.count("start") < started || !host.pve.guest(VMID).is_some_and(|guest| guest.running) {
                tokio::task::yield_now().await;
            }
            host.pve.put_guest(VMID, |guest| guest.running = false);
        };
        let (row, ()) = tokio::join!(host.run(&order), cut);
        assert_eq!(row.state, OrderState::Succeeded, "{:?}", row.result);
        let guest = host.pve.guest(VMID).unwrap();
        assert!(guest.running && guest.config["onboot"] == "1");
    }
}

/// An order that got stuck before the first start and was resumed asks all the questions again, also of a server that was
/// started by hand meanwhile.
#[tokio::test]
async fn a_resumed_create_is_handed_over_only_if_it_still_may() {
    let (pve, books) = (Host::new().await.pve.fork(), Books::quick(None).await);
    let mut host = Host::over(pve, BTreeMap::new(), books, Duration::from_millis(200));
    host.hears_nothing();
    let order = ensure(1, 1);
    host.books.accept(&order).await;
    let row = host.run(&order).await;
    assert_eq!((row.state, host.count("start")), (OrderState::Stuck, 0), "{:?}", row.result);
    host.pve.put_guest(VMID, |guest| guest.running = true);
    host.contact.revoke();
    host.resume(&order).await;
    let row = host.run(&order).await;
    assert_eq!((row.state, host.count("start")), (OrderState::Undone, 0), "{:?}", row.result);
    assert!(host.pve.guest(VMID).is_none());
}
