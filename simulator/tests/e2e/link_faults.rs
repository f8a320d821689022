//! The network under the link goes wrong while a server is bought. Whatever it does, the purchase ends in one
//! running server once it is well again, VMs of others are untouched, and the invariants hold.
//!
//! Every agent dials a proxy of the simulator's own; what a story asserts of a fault it reads from the proxy's
//! counters, so that a fault that never struck fails the story.

use std::path::Path;

use ez_simulator::scenario::{self, At, Scenario, Targets};
use serde_json::{Value, json};

use crate::{
    purchase::{PATIENCE, order_is, place, server_is},
    scenarios::{OTHERS, foreign},
    support::{Api, Database, Demo, until},
};

/// The scenarios that are told here.
pub const SCENARIOS: [&str; 8] = [
    "link-address-change",
    "link-delay",
    "link-duplicate",
    "link-loss",
    "link-partition",
    "link-partition-down",
    "link-partition-up",
    "link-reorder",
];

/// A demo whose agents dial a network that can go wrong, and what the story began with.
struct Story {
    demo: Demo,
    api: Api,
    targets: Targets,
    others: Value,
}

impl Story {
    async fn begin(name: &str, nodes: u16) -> Option<Self> {
        let demo = Demo::start_with(name, Database::Sqlite, nodes, &["--link-proxy"]).await?;
        let vm = json!({ "vmid": OTHERS.parse::<u32>().unwrap(), "name": "theirs", "running": true });
        demo.host(0).control("/foreign-vm", vm).await;
        let others = foreign(&demo).await;
        let ready = std::fs::read_to_string(demo.path("sim/ready.json")).unwrap();
        let targets = Targets::of(&demo.state(), &serde_json::from_str(&ready).unwrap());
        assert_eq!(targets.link.len(), usize::from(nodes));
        let api = demo.api("customer");
        Some(Self { demo, api, targets, others })
    }

    /// Somebody orders and pays while a scenario's faults hold; gives the order.
    async fn paid_under(&self, scenario: &str) -> Value {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("scenarios/{scenario}.toml"));
        let scenario = Scenario::read(&file).unwrap_or_else(|error| panic!("{error}"));
        scenario::apply(&scenario, &self.targets).await.unwrap();
        let order = place(&self.api, "web-1", "fsn").await;
        scenario::apply_at(&scenario, &self.targets, At::OrderPaid).await.unwrap();
        self.demo.stripe().pay(order["checkout_url"].as_str().unwrap()).await;
        order
    }

    /// How many datagrams the faults have struck.
    async fn hits(&self) -> u64 {
        scenario::hits(&self.targets).await.unwrap()
    }

    /// The network is well; the purchase ends in one server. Says so only if the faults have struck.
    async fn heals(self, order: &Value) {
        let hits = self.hits().await;
        assert!(hits > 0, "the fault never struck");
        println!("struck {hits} times");
        scenario::clear(&self.targets).await.unwrap();
        self.ends_well(order).await;
    }

    async fn ends_well(self, order: &Value) {
        order_is(&self.api, order["id"].as_str().unwrap(), "fulfilled").await;
        server_is(&self.api, order["server_id"].as_str().unwrap(), "running").await;
        let mut built = 0;
        for node in 0..self.targets.link.len() {
            built += self.running_on(node).await.len();
        }
        assert_eq!(built, 1, "one server was paid for");
        assert_eq!(foreign(&self.demo).await, self.others, "VMs of others were touched");
        self.demo.check().await;
        self.demo.stop().await;
    }

    /// VMIDs of our servers that run on a host.
    async fn running_on(&self, node: usize) -> Vec<u64> {
        running_on(&self.demo, node).await
    }

    /// The connection that holds the session of each node, as the control plane has it.
    async fn sessions(&self) -> Vec<(String, String)> {
        self.demo.rows("SELECT node_id, connection FROM node_sessions ORDER BY node_id").await
    }

    /// What the first node has accepted: what it was told to do and how far it is.
    async fn journalled(&self) -> Vec<(String, String)> {
        self.demo.journal_rows(0, "SELECT verb, state FROM orders").await
    }

    async fn state_of(&self, order: &Value) -> String {
        let order = self.api.get(&format!("/orders/{}", order["id"].as_str().unwrap())).await;
        order["state"].as_str().unwrap().to_owned()
    }
}

/// VMIDs of servers with our marker that run on a host.
pub async fn running_on(demo: &Demo, node: usize) -> Vec<u64> {
    let vms = demo.host(node).get("/vms").await;
    let ours = |vm: &&Value| vm["marker"].is_string();
    let all = vms["vms"].as_array().cloned().unwrap_or_default();
    all.iter()
        .filter(ours)
        .filter(|vm| vm["status"] == "running")
        .filter_map(|vm| vm["vmid"].as_u64())
        .collect()
}

/// The fault holds from before the order until the server runs.
async fn bought_under(scenario: &str) {
    let Some(story) = Story::begin(scenario, 2).await else { return };
    let order = story.paid_under(scenario).await;
    order_is(&story.api, order["id"].as_str().unwrap(), "fulfilled").await;
    server_is(&story.api, order["server_id"].as_str().unwrap(), "running").await;
    story.heals(&order).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_network_costs_time_alone() {
    bought_under("link-delay").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lossy_network_drops_is_sent_again() {
    bought_under("link-loss").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_out_of_order_change_no_order() {
    bought_under("link-reorder").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_that_come_three_times_count_once() {
    bought_under("link-duplicate").await;
}

/// QUIC's connection is no address: the same session holds, and nobody says Hello again.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lives_on_when_the_agents_address_changes() {
    let Some(story) = Story::begin("link-address-change", 2).await else { return };
    let before = story.sessions().await;
    assert_eq!(before.len(), 2);
    let order = story.paid_under("link-address-change").await;
    order_is(&story.api, order["id"].as_str().unwrap(), "fulfilled").await;
    assert_eq!(story.sessions().await, before, "the sessions from before");
    story.heals(&order).await;
}

/// Paid while the node cannot be reached: nothing is built, and nothing lost.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_waits_for_a_node_that_cannot_be_reached() {
    let Some(story) = Story::begin("link-partition", 1).await else { return };
    let order = story.paid_under("link-partition").await;
    until("the control plane to let go of the silent connection", PATIENCE, || async {
        story.sessions().await.is_empty().then_some(())
    })
    .await;
    assert_eq!(story.running_on(0).await, Vec::<u64>::new());
    assert_eq!(story.state_of(&order).await, "provisioning");
    story.heals(&order).await;
}

/// The node gets the order and its answer is lost: it is told again, answers "I have it", and there is one
/// machine.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_answer_was_lost_is_told_again_and_built_once() {
    let Some(story) = Story::begin("link-partition-up", 1).await else { return };
    let order = story.paid_under("link-partition-up").await;
    until("the node to have accepted the order", PATIENCE, || async {
        (!story.journalled().await.is_empty()).then_some(())
    })
    .await;
    until("the control plane to let go of the silent connection", PATIENCE, || async {
        story.sessions().await.is_empty().then_some(())
    })
    .await;
    assert_eq!(story.state_of(&order).await, "provisioning");
    assert_eq!(story.journalled().await.len(), 1, "one order, however often it was told");
    assert_eq!(story.running_on(0).await, Vec::<u64>::new(), "nothing is started that nobody knows of");
    story.heals(&order).await;
}

/// The control plane hears the node, the node hears nothing: it dials again and again until it is welcomed.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hears_nothing_dials_until_it_is_welcomed() {
    let Some(story) = Story::begin("link-partition-down", 1).await else { return };
    let before = story.sessions().await;
    let order = story.paid_under("link-partition-down").await;
    until("the agent to give the connection up", PATIENCE, || async {
        let status = std::fs::read(story.demo.path("nodes/fsn-1/state/status.json")).ok()?;
        let status: Value = serde_json::from_slice(&status).ok()?;
        (status["link"] != "connected").then_some(())
    })
    .await;
    assert!(story.journalled().await.is_empty());
    assert_eq!(story.state_of(&order).await, "provisioning");
    let hits = story.hits().await;
    assert!(hits > 0, "the fault never struck");
    scenario::clear(&story.targets).await.unwrap();
    until("a new session", PATIENCE, || async {
        let now = story.sessions().await;
        (now.len() == 1 && now != before).then_some(())
    })
    .await;
    story.ends_well(&order).await;
}
