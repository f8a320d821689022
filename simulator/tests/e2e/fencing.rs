//! A node that fell silent in the middle of a build and is given up: the server is built elsewhere, and whatever
//! the first node does when it comes back, there are never two (I1).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    link_faults::running_on,
    purchase::{PATIENCE, order_is, place, server_is},
    support::{Api, Database, Demo, until},
};

/// Looks all the time how many of our servers run on all hosts.
struct Watch {
    over: Arc<AtomicBool>,
    most: Arc<AtomicUsize>,
    looks: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Watch {
    fn begin(demo: &Arc<Demo>, hosts: usize) -> Self {
        let (over, most, looks) =
            (Arc::default(), Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let task = {
            let (demo, over, most, looks) =
                (demo.clone(), Arc::<AtomicBool>::clone(&over), most.clone(), looks.clone());
            tokio::spawn(async move {
                while !over.load(Ordering::SeqCst) {
                    let mut running = 0;
                    for host in 0..hosts {
                        running += running_on(&demo, host).await.len();
                    }
                    most.fetch_max(running, Ordering::SeqCst);
                    looks.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
        };
        Self { over, most, looks, task }
    }

    /// The most that ran at once, and how often it was looked.
    async fn end(self) -> (usize, usize) {
        self.over.store(true, Ordering::SeqCst);
        self.task.await.unwrap();
        (self.most.load(Ordering::SeqCst), self.looks.load(Ordering::SeqCst))
    }
}

async fn speed(demo: &Demo, host: usize, clone_ms: u32) {
    demo.host(host).control("/speed", json!({"clone_ms": clone_ms, "start_ms": 50, "other_ms": 10})).await;
}

/// The host on which a clone is at work.
async fn cloning_host(demo: &Demo, hosts: usize) -> usize {
    until("a clone to be at work", PATIENCE, || async {
        for host in 0..hosts {
            let tasks = demo.host(host).get("/tasks").await;
            let at_work = |task: &Value| task["type"] == "qmclone" && task["running"] == true;
            if tasks["tasks"].as_array()?.iter().any(at_work) {
                return Some(host);
            }
        }
        None
    })
    .await
}

/// The control plane has heard nothing of the build for twenty minutes: its own notes of the past are moved back,
/// and the order is looked at.
async fn twenty_minutes_pass(demo: &Demo) {
    for sql in [
        "UPDATE provisioning_orders SET issued_at = issued_at - 1200000, expires_at = expires_at - 1200000, \
         accepted_at = accepted_at - 1200000, queued_at = queued_at - 1200000",
        "UPDATE provisioning_events SET at = at - 1200000, recorded_at = recorded_at - 1200000",
        "UPDATE nodes SET last_seen_at = last_seen_at - 1200000, revoked_at = revoked_at - 1200000",
        "UPDATE jobs SET run_at = 0 WHERE kind = 'orders.advance'",
    ] {
        demo.execute(sql).await;
    }
}

async fn operator(demo: &Demo, arguments: &[&str]) -> Result<String, String> {
    let output = demo.control_plane(arguments).await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// Buys a server and freezes its node in the middle of the clone, after the control plane has heard of it; gives
/// the order and the frozen host.
async fn frozen_in_mid_clone(demo: &Demo, api: &Api) -> (Value, usize) {
    for host in 0..2 {
        speed(demo, host, 20_000).await;
    }
    let order = place(api, "web-1", "fsn").await;
    let id = order["id"].as_str().unwrap().to_owned();
    demo.stripe().pay(order["checkout_url"].as_str().unwrap()).await;
    let first = cloning_host(demo, 2).await;
    until("the control plane to know of the clone", PATIENCE, || async {
        let (_, order) = api.try_get(&format!("/orders/{id}")).await;
        let begun = |step: &Value| step["name"] == "clone" && step["status"] != "waiting";
        order["steps"].as_array()?.iter().any(begun).then_some(())
    })
    .await;
    demo.signal(&format!("/pids/agents/{first}"), Signal::STOP);
    (order, first)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_frozen_and_given_up_takes_back_what_it_was_building() {
    let Some(demo) = Demo::start("a frozen node", Database::Sqlite, 2).await else { return };
    let demo = Arc::new(demo);
    let api = demo.api("customer");
    let watch = Watch::begin(&demo, 2);
    let (order, first) = frozen_in_mid_clone(&demo, &api).await;
    let id = order["id"].as_str().unwrap();
    let name = demo.state()["nodes"][first]["name"].as_str().unwrap().to_owned();
    twenty_minutes_pass(&demo).await;
    order_is(&api, id, "needs_operator").await;

    // Whoever does not revoke the node first is refused, and so is whoever has just done it: it may not know yet.
    let held = operator(&demo, &["order", "re-place", id]).await.unwrap_err();
    assert!(held.contains("holds the order"), "{held}");
    operator(&demo, &["node", "revoke", &name]).await.unwrap();
    until("the session to end", PATIENCE, || async {
        let held = demo.rows("SELECT node_id, connection FROM node_sessions").await;
        (held.len() == 1).then_some(())
    })
    .await;
    let early = operator(&demo, &["order", "re-place", "--node-revoked", id]).await.unwrap_err();
    assert!(early.contains("may not have heard of it"), "{early}");
    twenty_minutes_pass(&demo).await;
    for host in 0..2 {
        speed(&demo, host, 100).await;
    }
    operator(&demo, &["order", "re-place", "--node-revoked", id]).await.unwrap();
    order_is(&api, id, "fulfilled").await;
    server_is(&api, order["server_id"].as_str().unwrap(), "running").await;
    assert_eq!(running_on(&demo, 1 - first).await.len(), 1, "built on the other node");

    // The first one wakes up in the middle of what it did.
    demo.signal(&format!("/pids/agents/{first}"), Signal::CONT);
    until("the first node to have taken its server back", PATIENCE, || async {
        let vms = demo.host(first).get("/vms").await;
        let ours = |vm: &Value| vm["marker"].is_string() || vm["lock"] == "clone";
        (!vms["vms"].as_array()?.iter().any(ours)).then_some(())
    })
    .await;
    let ended = until("its order to have ended there", PATIENCE, || async {
        let states = demo.journal_rows(first, "SELECT verb, state FROM orders").await;
        states
            .iter()
            .all(|(_, state)| !["accepted", "running", "undoing"].contains(&state.as_str()))
            .then_some(states)
    })
    .await;
    assert_eq!(ended, [("ensure".to_owned(), "undone".to_owned())]);
    let (most, looks) = watch.end().await;
    assert_eq!(most, 1, "seen at once in {looks} looks");
    println!("looked {looks} times");
    demo.check().await;
    Arc::into_inner(demo).unwrap().stop().await;
}
