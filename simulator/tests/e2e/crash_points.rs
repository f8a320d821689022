//! Every crash point of a purchase, on both sides and both databases: the process is killed at its first
//! write, its second, and so on until a purchase goes through without meeting the kill. Each time the
//! purchase must end as the undisturbed one did, and the invariant checker must be content.
//!
//! All points take a while: `make crash` visits them, the ordinary test run every `EZ_CRASH_EVERY`-th.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    commits::{CommitProxy, Side},
    normal::end_state,
    purchase::{order_is, place, server_is},
    strace::{self, Tracer},
    support::{Database, Demo, until},
};

/// A point no purchase reaches; strace counts in 16 bits.
const NEVER: u32 = 65_535;

/// How SQLite makes a commit durable, by its build; files of their own are synced the same way.
const SYNC: &str = "fsync,fdatasync";

/// Every how many points one is visited.
fn every() -> u32 {
    std::env::var("EZ_CRASH_EVERY").ok().and_then(|text| text.parse().ok()).unwrap_or(9)
}

/// What kills.
enum Killer<'a> {
    /// The n-th call of this kind by one thread.
    Syscall(&'static str),
    /// The n-th commit on the wire.
    Commit(&'a CommitProxy, Side),
}

/// A kill that waits for its moment.
enum Trap<'a> {
    Tracer(Tracer),
    Proxy(&'a CommitProxy),
}

impl Killer<'_> {
    async fn set(&self, n: u32, victim: i64) -> Trap<'_> {
        match self {
            Self::Syscall(name) => {
                Trap::Tracer(Tracer::attach(victim, name, &format!("signal=SIGKILL:when={n}")).await)
            }
            Self::Commit(proxy, side) => {
                proxy.arm(n, *side, victim);
                Trap::Proxy(proxy)
            }
        }
    }
}

impl Trap<'_> {
    async fn remove(self) {
        match self {
            Self::Tracer(tracer) => tracer.detach().await,
            Self::Proxy(proxy) => drop(proxy.disarm()),
        }
    }
}

/// Buys a server with the kill set at `n` just before the webhook comes; the order's end, and whether
/// the process was killed.
async fn purchase(demo: &Demo, victim: &str, killer: &Killer<'_>, n: u32) -> (Value, bool) {
    let (api, stripe) = (demo.api("customer"), demo.stripe());
    stripe.post("/webhooks/pause", json!({})).await;
    let order = place(&api, &format!("web-{n}"), "fsn").await;
    let id = order["id"].as_str().unwrap().to_owned();
    stripe.pay(order["checkout_url"].as_str().unwrap()).await;
    let pid = demo.pid(victim);
    let trap = killer.set(n, pid).await;
    stripe.post("/webhooks/resume", json!({})).await;
    let order = order_is(&api, &id, "fulfilled").await;
    server_is(&api, order["server_id"].as_str().unwrap(), "running").await;
    trap.remove().await;
    let struck = !demo.is_alive(pid);
    if struck {
        until("the killed program to be back", Duration::from_secs(30), || async {
            (demo.pid(victim) != pid).then_some(())
        })
        .await;
        demo.nodes_online().await;
    }
    (end_state(demo, "customer", &id).await, struck)
}

/// Visits the points one after the other until a purchase meets none; says how many there are.
async fn visit(demo: &Demo, what: &str, victim: &str, killer: Killer<'_>) {
    demo.allow_many_creates(0).await;
    let (undisturbed, struck) = purchase(demo, victim, &killer, NEVER).await;
    assert!(!struck);
    let (mut n, mut visited) = (1, 0);
    loop {
        let (end, struck) = purchase(demo, victim, &killer, n).await;
        assert_eq!(end, undisturbed, "{what}: killed at point {n}");
        demo.check().await;
        if !struck {
            break;
        }
        visited += 1;
        n += every();
    }
    assert!(visited > 0, "{what}: no point was met");
    println!(
        "{what}: {visited} crash points visited, the last at {}; each ended as the undisturbed purchase",
        n - every()
    );
}

async fn demo(story: &str) -> Option<Demo> {
    let more = ["--host-memory", "1024", "--speed", "100"];
    Demo::start_with(story, Database::Sqlite, 1, &more).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purchase_survives_the_agent_killed_at_every_sync() {
    let story = "agent killed at a sync";
    if !strace::available(story) {
        return;
    }
    let Some(demo) = demo(story).await else { return };
    visit(&demo, "agent, at a sync", "/pids/agents/0", Killer::Syscall(SYNC)).await;
    demo.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purchase_survives_the_agent_killed_at_every_write() {
    let story = "agent killed at a write";
    if !strace::available(story) {
        return;
    }
    let Some(demo) = demo(story).await else { return };
    visit(&demo, "agent, at a write", "/pids/agents/0", Killer::Syscall("pwrite64")).await;
    demo.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purchase_survives_the_control_plane_killed_at_every_sync() {
    let story = "control plane killed at a sync";
    if !strace::available(story) {
        return;
    }
    let Some(demo) = demo(story).await else { return };
    visit(&demo, "control plane on SQLite, at a sync", "/pids/control_plane", Killer::Syscall(SYNC)).await;
    demo.stop().await;
}

async fn killed_at_a_commit(story: &str, side: Side) {
    let more = ["--host-memory", "1024", "--speed", "100"];
    let Some((demo, proxy)) = Demo::start_behind_proxy(story, 1, &more).await else { return };
    let what = format!("control plane on PostgreSQL, {side:?} a commit");
    visit(&demo, &what, "/pids/control_plane", Killer::Commit(&proxy, side)).await;
    demo.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purchase_survives_the_control_plane_killed_before_every_commit_on_postgres() {
    killed_at_a_commit("control plane killed before a commit", Side::Before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purchase_survives_the_control_plane_killed_after_every_commit_on_postgres() {
    killed_at_a_commit("control plane killed after a commit", Side::After).await;
}

/// From the n-th write on the disk is full, for a while; then there is room again.
async fn full_disk(story: &str, victim: &str) {
    if !strace::available(story) {
        return;
    }
    let Some(demo) = demo(story).await else { return };
    demo.allow_many_creates(0).await;
    let (api, stripe) = (demo.api("customer"), demo.stripe());
    let mut visited = 0;
    for n in (1..40).step_by(usize::try_from(every()).unwrap()) {
        stripe.post("/webhooks/pause", json!({})).await;
        let order = place(&api, &format!("web-{n}"), "fsn").await;
        let id = order["id"].as_str().unwrap().to_owned();
        stripe.pay(order["checkout_url"].as_str().unwrap()).await;
        let injection = format!("error=ENOSPC:when={n}+");
        let tracer = Tracer::attach(demo.pid(victim), "pwrite64", &injection).await;
        stripe.post("/webhooks/resume", json!({})).await;
        // Full for as long as a purchase takes.
        tokio::time::sleep(Duration::from_secs(3)).await;
        tracer.detach().await;
        let order = order_is(&api, &id, "fulfilled").await;
        server_is(&api, order["server_id"].as_str().unwrap(), "running").await;
        demo.check().await;
        visited += 1;
    }
    println!("{story}: {visited} points visited; each purchase ended in one running server");
    demo.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purchase_survives_a_full_disk_of_the_agent() {
    full_disk("full disk of the agent", "/pids/agents/0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purchase_survives_a_full_disk_of_the_control_plane() {
    full_disk("full disk of the control plane", "/pids/control_plane").await;
}
