//! The last step of a server's life, with the real programs: three days after its end it is removed for good,
//! whatever dies meanwhile. The days pass on a clock of the story.

use std::time::Duration;

use serde_json::json;

use crate::{
    crash_points::{AGENT, CONTROL_PLANE, Killer, LARGE_AND_FAST, NEVER, SYNC, Trap, every},
    normal::end_state,
    purchase::{buy, server_is},
    strace,
    support::{Database, Demo, until},
};

/// From the end of a server to its purge.
const RETENTION_HOURS: u32 = 72;
/// VMID of somebody else's VM.
const OTHERS: u32 = 9_999;

/// Kills a program at its n-th sync while the next server is purged; the end state, and whether it was killed.
async fn purged(demo: &Demo, order: &str, victim: &str, n: u32, due: impl Fn()) -> (serde_json::Value, bool) {
    let api = demo.api("customer");
    let server = api.get(&format!("/orders/{order}")).await["server_id"].as_str().unwrap().to_owned();
    assert_eq!(api.get(&format!("/servers/{server}")).await["state"], "retired", "not before its time");
    let pid = demo.pid(victim);
    let trap: Trap<'_> = Killer::Syscall(SYNC).set(n, pid).await;
    due();
    server_is(&api, &server, "purged").await;
    trap.remove().await;
    let struck = !demo.is_alive(pid);
    if struck {
        until("the killed program to be back", Duration::from_secs(30), || async {
            (demo.pid(victim) != pid).then_some(())
        })
        .await;
        demo.nodes_online().await;
    }
    (end_state(demo, "customer", order).await, struck)
}

async fn a_purge_survives(what: &str, victim: &str, dear: u32, most: u32) {
    if !strace::available(what) {
        return;
    }
    let Some((demo, clock)) = Demo::start_with_clock(what, Database::Sqlite, 1, &LARGE_AND_FAST).await else {
        return;
    };
    demo.allow_many_creates(0).await;
    let vm = json!({ "vmid": OTHERS, "name": "theirs", "running": true });
    demo.host(0).control("/foreign-vm", vm).await;
    let others = demo.host(0).get("/digest").await["foreign"].clone();
    let every = every(dear);
    // One server for each point, one for the undisturbed run, one that meets no kill. They end an hour apart,
    // so that each is purged in an hour of its own.
    let mut orders = Vec::new();
    for index in 0..most.div_ceil(every) + 2 {
        let (order, server) = buy(&demo, &format!("web-{index}"), "fsn").await;
        let api = demo.api("customer");
        let server = server["id"].as_str().unwrap();
        assert_eq!(api.delete(&format!("/servers/{server}")).await, 202);
        server_is(&api, server, "retired").await;
        orders.push(order["id"].as_str().unwrap().to_owned());
        clock.pass(1);
        demo.nodes_online().await;
    }
    let count = u32::try_from(orders.len()).unwrap();
    clock.pass(RETENTION_HOURS - count - 1);
    demo.nodes_online().await;
    let mut orders = orders.into_iter();
    let mut next = || orders.next().unwrap_or_else(|| panic!("{what}: there are more than {most} points"));
    let (undisturbed, struck) = purged(&demo, &next(), victim, NEVER, || clock.pass(1)).await;
    assert!(!struck);
    let mut visited = Vec::new();
    let mut n = 1;
    loop {
        let (end, struck) = purged(&demo, &next(), victim, n, || clock.pass(1)).await;
        assert_eq!(end, undisturbed, "{what}: killed at point {n}");
        // What came due in the hour that passed at once is late for a moment.
        until("the invariants to hold", Duration::from_secs(60), || async {
            demo.run_check().await.status.success().then_some(())
        })
        .await;
        if !struck {
            break;
        }
        visited.push(n);
        n += every;
    }
    assert!(!visited.is_empty(), "{what}: no point was met");
    assert_eq!(demo.host(0).get("/digest").await["foreign"], others, "VMs of others were touched");
    println!(
        "{what}: {} crash points visited (every {every}), the last at {}; each ended as the undisturbed run",
        visited.len(),
        visited.last().unwrap()
    );
    demo.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_survives_the_agent_killed_at_every_sync() {
    a_purge_survives("purge, agent at a sync", AGENT, 1, 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_survives_the_control_plane_killed_at_every_sync() {
    a_purge_survives("purge, control plane at a sync", CONTROL_PLANE, 2, 40).await;
}
