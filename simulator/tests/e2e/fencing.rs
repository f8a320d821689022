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

/// VMs on a host that are ours, or half-made.
async fn ours_on(demo: &Demo, host: usize) -> usize {
    let vms = demo.host(host).get("/vms").await;
    let ours = |vm: &&Value| vm["marker"].is_string() || vm["lock"] == "clone";
    vms["vms"].as_array().unwrap().iter().filter(ours).count()
}

/// What became of the orders that a node has accepted, once all have ended.
async fn ended_orders(demo: &Demo, host: usize) -> Vec<(String, String)> {
    until("the first node's order to have ended there", PATIENCE, || async {
        let orders = demo.journal_rows(host, "SELECT verb, state FROM orders").await;
        let open = |state: &str| ["accepted", "running", "undoing"].contains(&state);
        (!orders.iter().any(|(_, state)| open(state))).then_some(orders)
    })
    .await
}

/// The node comes back when somebody else has built the server: nothing of its own is left, and there were never two.
async fn comes_back_to_nothing(demo: Arc<Demo>, watch: Watch, first: usize, accepted: bool) {
    until("the first node to have nothing of it", PATIENCE, || async {
        (ours_on(&demo, first).await == 0).then_some(())
    })
    .await;
    let ended = ended_orders(&demo, first).await;
    let undone = ("ensure".to_owned(), "undone".to_owned());
    assert_eq!(ended, if accepted { vec![undone] } else { Vec::new() });
    assert_eq!(running_on(&demo, 1 - first).await.len(), 1, "built on the other node");
    let (most, looks) = watch.end().await;
    assert_eq!(most, 1, "seen at once in {looks} looks");
    println!("looked {looks} times at both hosts");
    demo.check().await;
    Arc::into_inner(demo).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_frozen_and_given_up_takes_back_what_it_was_building() {
    let Some((demo, clock)) = Demo::start_with_clock("a frozen node", Database::Sqlite, 2, &[]).await else {
        return;
    };
    let demo = Arc::new(demo);
    let api = demo.api("customer");
    let watch = Watch::begin(&demo, 2);
    let (order, first) = frozen_in_mid_clone(&demo, &api).await;
    let id = order["id"].as_str().unwrap();
    let name = demo.state()["nodes"][first]["name"].as_str().unwrap().to_owned();
    clock.pass_minutes(16);
    order_is(&api, id, "needs_operator").await;

    // Whoever does not revoke the node first is refused.
    let held = operator(&demo, &["order", "re-place", id]).await.unwrap_err();
    assert!(held.contains("holds the order"), "{held}");
    operator(&demo, &["node", "revoke", &name]).await.unwrap();
    for host in 0..2 {
        speed(&demo, host, 100).await;
    }
    operator(&demo, &["order", "re-place", "--node-revoked", id]).await.unwrap();
    order_is(&api, id, "fulfilled").await;
    server_is(&api, order["server_id"].as_str().unwrap(), "running").await;

    // The first one wakes up in the middle of what it did.
    demo.signal(&format!("/pids/agents/{first}"), Signal::CONT);
    comes_back_to_nothing(demo, watch, first, true).await;
}

/// A story with a network: what goes wrong on it from the payment on, for both nodes until the order is on its way
/// to one of them, and then for that one alone. Gives the order and that node.
async fn sent_over_a_broken_network(demo: &Demo, api: &Api, fault: Value, arrives: bool) -> (Value, usize) {
    let order = place(api, "web-1", "fsn").await;
    for node in 0..2 {
        demo.network(node).post(fault.clone()).await;
    }
    demo.stripe().pay(order["checkout_url"].as_str().unwrap()).await;
    let first = until("the order to be sent", PATIENCE, || async {
        let sent = "SELECT n.name, p.state FROM provisioning_orders p JOIN nodes n ON n.id = p.node_id WHERE p.attempts > 0";
        let sent = demo.rows(sent).await;
        let (name, _) = sent.first()?;
        demo.state()["nodes"].as_array()?.iter().position(|node| node["name"] == name.as_str())
    })
    .await;
    demo.network(1 - first).clear().await;
    if arrives {
        until("the node to have accepted it", PATIENCE, || async {
            let orders = demo.journal_rows(first, "SELECT verb, state FROM orders").await;
            (!orders.is_empty()).then_some(())
        })
        .await;
    }
    until("the control plane to let go of the silent connection", PATIENCE, || async {
        let sessions = demo.rows("SELECT node_id, connection FROM node_sessions").await;
        (sessions.len() == 1).then_some(())
    })
    .await;
    (order, first)
}

/// The node accepts, and nobody gets to know: the order is over for the control plane, and so it is for the node.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_accepted_unheard_starts_nothing_and_takes_it_back_when_the_order_is_over() {
    let story = "accepted unheard";
    let Some((demo, clock)) = Demo::start_with_clock(story, Database::Sqlite, 2, &["--link-proxy"]).await
    else {
        return;
    };
    let demo = Arc::new(demo);
    let api = demo.api("customer");
    let watch = Watch::begin(&demo, 2);
    let fault = json!({ "fault": "partition", "direction": "up" });
    let (order, first) = sent_over_a_broken_network(&demo, &api, fault, true).await;
    until("everything but the start to be done there", PATIENCE, || async {
        let steps = demo.journal_rows(first, "SELECT name, state FROM steps").await;
        steps.contains(&("firewall".to_owned(), "done".to_owned())).then_some(())
    })
    .await;
    assert_eq!(running_on(&demo, first).await, Vec::<u64>::new(), "nobody knows of it");
    clock.pass_minutes(16);
    let id = order["id"].as_str().unwrap();
    order_is(&api, id, "fulfilled").await;
    server_is(&api, order["server_id"].as_str().unwrap(), "running").await;
    assert!(demo.network(first).hits().await > 0, "the fault never struck");
    demo.network(first).clear().await;
    demo.nodes_online().await;
    comes_back_to_nothing(demo, watch, first, true).await;
}

/// The order never arrives: it is over ten minutes later, and five more for the clocks.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_never_arrived_is_built_elsewhere_once_it_is_over() {
    let story = "never arrived";
    let Some((demo, clock)) = Demo::start_with_clock(story, Database::Sqlite, 2, &["--link-proxy"]).await
    else {
        return;
    };
    let demo = Arc::new(demo);
    let api = demo.api("customer");
    let watch = Watch::begin(&demo, 2);
    let (order, first) =
        sent_over_a_broken_network(&demo, &api, json!({ "fault": "partition" }), false).await;
    let id = order["id"].as_str().unwrap();
    clock.pass_minutes(13);
    demo.nodes_but_one_online().await;
    assert_eq!(api.get(&format!("/orders/{id}")).await["state"], "provisioning", "not before it is certain");
    assert_eq!(running_on(&demo, 1 - first).await, Vec::<u64>::new());
    clock.pass_minutes(3);
    order_is(&api, id, "fulfilled").await;
    server_is(&api, order["server_id"].as_str().unwrap(), "running").await;
    assert!(demo.network(first).hits().await > 0, "the fault never struck");
    demo.network(first).clear().await;
    demo.nodes_online().await;
    comes_back_to_nothing(demo, watch, first, false).await;
}
