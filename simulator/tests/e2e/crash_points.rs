//! Every crash point of a purchase, on both sides and both databases: the process is killed at its first
//! write, its second, and so on until a purchase goes through without meeting the kill. Each time the
//! purchase must end as the undisturbed one did, and the invariant checker must be content.
//!
//! All points take a while: `make crash` visits them, the ordinary test run every `EZ_CRASH_EVERY`-th.

mod flows;

use std::time::Duration;

use serde_json::{Value, json};

use self::flows::Flow;
pub use self::flows::Later;
use crate::{
    commits::{CommitProxy, Side},
    normal::{differences, end_state},
    purchase::{PATIENCE, order_is, place, server_is},
    strace::{self, Tracer},
    support::{Database, Demo, not_run, until},
};

/// A point no purchase reaches; strace counts in 16 bits.
pub const NEVER: u32 = 65_535;

/// How SQLite makes a commit durable, by its build; files of their own are synced the same way.
pub const SYNC: &str = "fsync,fdatasync";

/// Every how many points one is visited; all of them with `EZ_CRASH_EVERY=1`. `dear` makes the ordinary run
/// skip more where there are many points or each takes long.
pub fn every(dear: u32) -> u32 {
    match std::env::var("EZ_CRASH_EVERY").ok().and_then(|text| text.parse().ok()) {
        Some(every) => every,
        None => 9 * dear,
    }
}

/// How many systems visit points beside each other; most of the time each waits for something.
fn shards() -> u32 {
    std::env::var("EZ_CRASH_SHARDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Whom it kills, by its place in the demo's summary.
pub const AGENT: &str = "/pids/agents/0";
pub const CONTROL_PLANE: &str = "/pids/control_plane";

/// What kills.
pub enum Killer<'a> {
    /// The n-th call of this kind by one thread.
    Syscall(&'static str),
    /// The n-th commit on the wire.
    Commit(&'a CommitProxy, Side),
}

/// A kill that waits for its moment.
pub enum Trap<'a> {
    Tracer(Box<Tracer>),
    Proxy(&'a CommitProxy),
}

impl Killer<'_> {
    pub async fn set(&self, n: u32, victim: i64) -> Trap<'_> {
        match self {
            Self::Syscall(name) => Trap::Tracer(Box::new(
                Tracer::attach(victim, name, &format!("signal=SIGKILL:when={n}")).await,
            )),
            Self::Commit(proxy, side) => {
                proxy.arm(n, *side, victim);
                Trap::Proxy(proxy)
            }
        }
    }
}

impl Trap<'_> {
    pub async fn remove(self) {
        match self {
            Self::Tracer(tracer) => tracer.detach().await,
            Self::Proxy(proxy) => drop(proxy.disarm()),
        }
    }
}

/// A kill, its victim and its moment.
pub struct Kill<'a> {
    killer: &'a Killer<'a>,
    n: u32,
    victim: i64,
    trap: Option<Trap<'a>>,
}

impl Kill<'_> {
    pub async fn set(&mut self) {
        self.trap = Some(self.killer.set(self.n, self.victim).await);
    }
}

/// Goes through the flow with the kill set at `n`; how it ended, and whether the process was killed.
async fn disturbed(demo: &Demo, flow: Flow, victim: &str, killer: &Killer<'_>, n: u32) -> (Value, bool) {
    let pid = demo.pid(victim);
    let mut kill = Kill { killer, n, victim: pid, trap: None };
    let name = format!("web-{n}");
    let order = match flow {
        Flow::Buy => flows::buy(demo, &name, Some(&mut kill)).await,
        Flow::Later(later) => {
            let order = flows::buy(demo, &name, None).await;
            let server = demo.api("customer").get(&format!("/orders/{order}")).await["server_id"].clone();
            let server = server.as_str().unwrap();
            let wish = later.prepare(demo, server).await;
            kill.set().await;
            later.carry_out(demo, server, wish).await;
            order
        }
    };
    if let Some(trap) = kill.trap {
        trap.remove().await;
    }
    let struck = !demo.is_alive(pid);
    if struck {
        until("the killed program to be back", Duration::from_secs(30), || async {
            (demo.pid(victim) != pid).then_some(())
        })
        .await;
        demo.nodes_online().await;
    }
    (end_state(demo, "customer", &order).await, struck)
}

/// One of several systems that share the points among them.
#[derive(Clone, Copy)]
struct Share {
    first: u32,
    step: u32,
}

/// Visits every `step`-th point until a purchase meets none; the points at which the process was killed.
async fn visit(
    demo: &Demo,
    what: &str,
    (flow, victim): (Flow, &str),
    killer: &Killer<'_>,
    share: Share,
) -> Vec<u32> {
    let (undisturbed, struck) = disturbed(demo, flow, victim, killer, NEVER).await;
    assert!(!struck);
    let mut visited = Vec::new();
    let mut n = share.first;
    loop {
        let (end, struck) = disturbed(demo, flow, victim, killer, n).await;
        let wrong = differences(&end, &undisturbed);
        assert!(wrong.is_empty(), "{what}: killed at point {n}: {wrong:#?}");
        demo.check().await;
        if !struck {
            return visited;
        }
        visited.push(n);
        n += share.step;
    }
}

/// Runs `visit` on as many systems as there are shards, and says how many points there were.
async fn visit_all(what: &str, dear: u32, on_system: impl AsyncFn(u32, Share) -> Vec<u32>) {
    let (every, shards) = (every(dear), shards());
    let shares = (0..shards).map(|i| on_system(i, Share { first: 1 + i * every, step: shards * every }));
    let visited: Vec<u32> = futures::future::join_all(shares).await.into_iter().flatten().collect();
    let last = visited.iter().max().unwrap_or_else(|| panic!("{what}: no point was met"));
    println!(
        "{what}: {} crash points visited (every {every}), the last at {last}; each ended as the undisturbed run",
        visited.len()
    );
}

pub const LARGE_AND_FAST: [&str; 4] = ["--host-memory", "1024", "--speed", "100"];

async fn killed_at_a_call(what: &str, target: (Flow, &str), call: &'static str, dear: u32) {
    if !strace::available(what) {
        return;
    }
    visit_all(what, dear, async |shard, share| {
        let story = format!("{what} {shard}");
        let demo = Demo::start_with(&story, Database::Sqlite, 1, &LARGE_AND_FAST).await.unwrap();
        demo.allow_many_creates(0).await;
        let visited = visit(&demo, what, target, &Killer::Syscall(call), share).await;
        demo.stop().await;
        visited
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purchase_survives_the_agent_killed_at_every_sync() {
    killed_at_a_call("agent, at a sync", (Flow::Buy, AGENT), SYNC, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purchase_survives_the_agent_killed_at_every_write() {
    killed_at_a_call("agent, at a write", (Flow::Buy, AGENT), "pwrite64", 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purchase_survives_the_control_plane_killed_at_every_sync() {
    killed_at_a_call("control plane on SQLite, at a sync", (Flow::Buy, CONTROL_PLANE), SYNC, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_button_survives_the_agent_killed_at_every_sync() {
    killed_at_a_call("reboot, agent at a sync", (Flow::Later(Later::Reboot), AGENT), SYNC, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_survives_the_agent_killed_at_every_sync() {
    killed_at_a_call("rebuild, agent at a sync", (Flow::Later(Later::Rebuild), AGENT), SYNC, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_survives_the_agent_killed_at_every_sync() {
    killed_at_a_call("rollback, agent at a sync", (Flow::Later(Later::RollBack), AGENT), SYNC, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_survives_the_agent_killed_at_every_sync() {
    killed_at_a_call("restore, agent at a sync", (Flow::Later(Later::Restore), AGENT), SYNC, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rescue_survives_the_agent_killed_at_every_sync() {
    killed_at_a_call("rescue, agent at a sync", (Flow::Later(Later::RescueOn), AGENT), SYNC, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ending_survives_the_agent_killed_at_every_sync() {
    killed_at_a_call("delete, agent at a sync", (Flow::Later(Later::Delete), AGENT), SYNC, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ending_survives_the_control_plane_killed_at_every_sync() {
    killed_at_a_call(
        "delete, control plane on SQLite at a sync",
        (Flow::Later(Later::Delete), CONTROL_PLANE),
        SYNC,
        1,
    )
    .await;
}

/// Whether a verb is among those to be visited: with `EZ_CRASH_LATER=Delete,Restore` these alone, since all points of all verbs
/// take hours.
fn wanted(later: Later) -> bool {
    std::env::var("EZ_CRASH_LATER")
        .map_or(true, |names| names.split(',').any(|name| name == format!("{later:?}")))
}

/// All that is done to a server after it was built, each verb with a server of its own for each point.
#[tokio::test(flavor = "multi_thread")]
async fn a_servers_later_life_survives_the_agent_killed_at_every_write() {
    let what = "later life, agent at a write";
    if !strace::available(what) {
        return;
    }
    let (every, shards) = (every(40), shards());
    let on_system = async |shard: u32| {
        let story = format!("{what} {shard}");
        let fresh = async || {
            let demo = Demo::start_with(&story, Database::Sqlite, 1, &LARGE_AND_FAST).await.unwrap();
            demo.allow_many_creates(0).await;
            demo
        };
        let mut demo = fresh().await;
        let mut visited = Vec::new();
        for (index, later) in (0..).zip(Later::ALL) {
            if !wanted(later) {
                visited.push(Vec::new());
                continue;
            }
            if every == 1 && index > 0 {
                // A location has not enough addresses for the servers of all points.
                std::mem::replace(&mut demo, fresh().await).stop().await;
            }
            // Where few are visited, each verb is met somewhere else.
            let first = if every == 1 { 1 + shard } else { 1 + index * 5 % 40 };
            let share = Share { first, step: shards * every };
            let of = format!("{later:?}, agent at a write");
            let points =
                visit(&demo, &of, (Flow::Later(later), AGENT), &Killer::Syscall("pwrite64"), share).await;
            println!("{of}: share {shard} visited {} crash points", points.len());
            visited.push(points);
        }
        demo.stop().await;
        visited
    };
    let all = futures::future::join_all((0..shards).map(on_system)).await;
    for (index, later) in Later::ALL.iter().enumerate() {
        let points = all.iter().map(|visited| visited[index].len()).sum::<usize>();
        println!(
            "{later:?}, agent at a write: {points} crash points visited; each ended as the undisturbed run"
        );
        assert!(points > 0 || !wanted(*later), "{later:?}: no point was met");
    }
}

async fn killed_at_a_commit(side: Side) {
    let what = format!("control plane on PostgreSQL, {side:?} a commit");
    if std::env::var_os("TEST_POSTGRES_URL").is_none() {
        return not_run(&what, "TEST_POSTGRES_URL is not set");
    }
    visit_all(&what, 5, async |shard, share| {
        let story = format!("commit {side:?} {shard}");
        let (demo, proxy) = Demo::start_behind_proxy(&story, 1, &LARGE_AND_FAST).await.unwrap();
        demo.allow_many_creates(0).await;
        let killer = Killer::Commit(&proxy, side);
        let visited = visit(&demo, &what, (Flow::Buy, CONTROL_PLANE), &killer, share).await;
        demo.stop().await;
        visited
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purchase_survives_the_control_plane_killed_before_every_commit_on_postgres() {
    killed_at_a_commit(Side::Before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purchase_survives_the_control_plane_killed_after_every_commit_on_postgres() {
    killed_at_a_commit(Side::After).await;
}

/// From the n-th write on the disk is full, for a while; then there is room again.
async fn full_disk(story: &str, victim: &str) {
    if !strace::available(story) {
        return;
    }
    let demo = Demo::start_with(story, Database::Sqlite, 1, &LARGE_AND_FAST).await.unwrap();
    demo.allow_many_creates(0).await;
    let (api, stripe) = (demo.api("customer"), demo.stripe());
    let (mut visited, mut refused) = (0, 0);
    for n in (1..60).step_by(usize::try_from(every(2)).unwrap()) {
        stripe.post("/webhooks/pause", json!({})).await;
        let order = place(&api, &format!("web-{n}"), "fsn").await;
        let id = order["id"].as_str().unwrap().to_owned();
        stripe.pay(order["checkout_url"].as_str().unwrap()).await;
        let injection = format!("error=ENOSPC:when={n}+");
        let tracer = Tracer::attach(demo.pid(victim), "pwrite64", &injection).await;
        stripe.post("/webhooks/resume", json!({})).await;
        until("the disk to refuse a write", PATIENCE, || async { (tracer.injected() > 0).then_some(()) })
            .await;
        // And it stays full for as long as a purchase takes: tries that follow at once are refused, too.
        tokio::time::sleep(Duration::from_secs(3)).await;
        refused += tracer.injected();
        tracer.detach().await;
        let order = order_is(&api, &id, "fulfilled").await;
        server_is(&api, order["server_id"].as_str().unwrap(), "running").await;
        demo.check().await;
        visited += 1;
    }
    println!(
        "{story}: {visited} points visited, {refused} writes refused; each purchase ended in one running server"
    );
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
