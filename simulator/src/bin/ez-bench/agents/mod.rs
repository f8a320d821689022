//! Thousands of agents that rest, what they cost the control plane, and how long they take to come back
//! when it was killed.
//!
//! They speak the real protocol from this process, each with a key, a certificate and a connection of its
//! own, over a few sockets. Their own cost is on the same cores and is not the control plane's.

mod client;
mod identity;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::bail;
use ez_simulator::wall::{SystemWall, WallClock as _};
use quinn::Endpoint;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    Options,
    demo::{Demo, until},
    machine::Machine,
    process,
    report::{Report, Row},
};
use client::{Agent, Board};
use identity::{Doors, Identity};

/// Sockets that the agents share.
const SOCKETS: usize = 16;
/// The design's reach: so many agents within so much memory and such a share of a core.
const REACH: (f64, f64, f64) = (10_000.0, 400.0 * 1_024.0, 10.0);
/// How long agents rest before and while they are watched.
const REST: Duration = Duration::from_secs(60);
/// They dial so many a second at first; afterwards it is the control plane that spreads them.
const FIRST_DIALS: u32 = 200;
const PATIENCE: Duration = Duration::from_secs(300);

/// Measures on a system of its own.
pub(crate) async fn run(options: &Options, machine: &Machine, report: &mut Report) -> anyhow::Result<()> {
    let directory = options.directory.join("agents");
    let demo = Demo::start(&directory, &["--nodes", "1", "--speed", "10"]).await?;
    let doors = Doors::of(&demo)?;
    crate::say(&format!("{} nodes join …", options.agents));
    let began = Instant::now();
    let identities = identity::join(&demo, &doors, options.agents).await?;
    let how = "node add and enrolment, one after the other but for four at once";
    report.add(Row::seen(
        "join_ms",
        began.elapsed().as_secs_f64() * 1e3 / f64::from(options.agents),
        "ms/node",
        how,
    ));

    // What enrolments left in the allocator's hands must not be counted as free for agents.
    let old = demo.kill("/pids/control_plane")?;
    let pid = demo.back("/pids/control_plane", old).await?;
    tokio::time::sleep(Duration::from_secs(15)).await;
    let empty = process::rss_kib(pid)?;

    crate::say("They connect …");
    let board = Arc::new(Board::of(identities.len()));
    let endpoints = endpoints()?;
    let mut agents = JoinSet::new();
    let all = identities.len();
    // What is there once (caches of the database among it) is filled by the first half.
    let half = all / 2;
    start(&mut agents, &endpoints, &identities, (0, half), &doors, &board)?;
    complete(&board, 0, half).await?;
    let first_half = process::rss_kib(pid)?;
    start(&mut agents, &endpoints, &identities, (half, all), &doors, &board)?;
    complete(&board, 0, all).await?;
    let connected = process::rss_kib(pid)?;
    tokio::time::sleep(REST).await;
    let (cpu, began) = (process::cpu_seconds(pid)?, Instant::now());
    tokio::time::sleep(REST).await;
    let share = (process::cpu_seconds(pid)? - cpu) / began.elapsed().as_secs_f64() * 100.0;
    let rested = process::rss_kib(pid)?;
    still_there(&board, all)?;
    rows_at_rest(all, [empty, first_half, connected, rested], share, report);
    if options.wants("reconnect_2000") {
        come_back(&demo, &board, all, machine, report).await?;
    }
    agents.shutdown().await;
    demo.stop().await
}

fn rows_at_rest(
    all: usize,
    [empty, first_half, connected, rested]: [f64; 4],
    share: f64,
    report: &mut Report,
) {
    let all = all as f64;
    let (agents, memory, core) = REACH;
    let how = format!("with {all:.0} agents at rest; {:.0} MiB with none", empty / 1_024.0);
    report.add(Row::at_most("control_plane_rss", rested / 1_024.0, "MiB", memory / 1_024.0, how));
    // Each agent beyond the first half; what it grows by at rest is shared among all.
    let each = (connected - first_half) / (all / 2.0).ceil() + (rested - connected) / all;
    let how = format!(
        "{:.0} MiB / {agents:.0}; beyond the first half, of which each took {:.1} with what is there once",
        memory / 1_024.0,
        (first_half - empty) / (all / 2.0).floor().max(1.0)
    );
    report.add(Row::at_most("idle_agents_rss_per_agent", each, "KiB", memory / agents, how));
    let projected = (rested + each * (agents - all)) / 1_024.0;
    let how = format!(
        "projected: {:.0} MiB with {all:.0} and {each:.1} KiB for each of {:.0} more",
        rested / 1_024.0,
        agents - all
    );
    report.add(Row::at_most("idle_agents_rss_at_10000", projected, "MiB", memory / 1_024.0, how));
    let how = format!("of a core for {all:.0} agents at rest; a tenth of a core for {agents:.0}");
    report.add(Row::at_most("idle_agents_cpu", share, "%", core * all / agents, how));
}

fn endpoints() -> std::io::Result<Vec<Endpoint>> {
    (0..SOCKETS).map(|_| Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0)))).collect()
}

/// Lets the agents of a range dial, one after the other.
fn start(
    agents: &mut JoinSet<()>,
    endpoints: &[Endpoint],
    identities: &[Arc<Identity>],
    (from, to): (usize, usize),
    doors: &Doors,
    board: &Arc<Board>,
) -> anyhow::Result<()> {
    for (index, identity) in identities.iter().enumerate().take(to).skip(from) {
        let agent = Agent {
            index,
            identity: identity.clone(),
            endpoint: endpoints[index % SOCKETS].clone(),
            to: doors.address,
            board: board.clone(),
        };
        let after = Duration::from_secs(1) * u32::try_from(index - from)? / FIRST_DIALS;
        agents.spawn(async move {
            tokio::time::sleep(after).await;
            agent.run().await;
        });
    }
    Ok(())
}

/// Waits until so many agents have a complete session that began after `at`.
async fn complete(board: &Board, at: i64, wanted: usize) -> anyhow::Result<()> {
    let every = Duration::from_millis(20);
    let done = until("all agents to be connected", PATIENCE, every, || async {
        (board.complete_since(at) >= wanted).then_some(())
    });
    if let Err(error) = done.await {
        bail!("{error}; {} of {wanted} are", board.complete_since(at));
    }
    Ok(())
}

fn still_there(board: &Board, wanted: usize) -> anyhow::Result<()> {
    let there = board.complete_since(0);
    if there < wanted {
        bail!("only {there} of {wanted} agents are still connected");
    }
    Ok(())
}

/// Kills the control plane and waits until every agent has said everything again to the next process.
async fn come_back(
    demo: &Demo,
    board: &Board,
    all: usize,
    machine: &Machine,
    report: &mut Report,
) -> anyhow::Result<()> {
    crate::say("The control plane is killed …");
    machine.sync_here(&demo.path(""))?;
    use std::sync::atomic::Ordering::Relaxed;
    let failed = board.failed.load(Relaxed);
    let (killed_ms, killed) = (SystemWall.now_ms(), Instant::now());
    let old = demo.kill("/pids/control_plane")?;
    let pid = demo.back("/pids/control_plane", old).await?;
    let ready = killed.elapsed().as_secs_f64();
    complete(board, killed_ms, all).await?;
    let took = killed.elapsed().as_secs_f64();
    let cpu = process::cpu_seconds(pid)?;
    // None of them may be gone again, here or in the control plane's own eyes.
    tokio::time::sleep(Duration::from_secs(5)).await;
    still_there(board, all)?;
    demo.nodes_online(all + 1).await?;
    let how = format!(
        "s from kill -9 until all {all} had a report stored by the next process, none lost; it was ready after {ready:.1} s, {} dials failed",
        board.failed.load(Relaxed) - failed
    );
    report.add(Row::at_most("reconnect_2000", took, "s", 60.0, how));
    let how = "time of the control plane on cores for one agent that comes back, its start included";
    report.add(Row::seen("reconnect_cpu_ms", cpu * 1e3 / all as f64, "ms", how));
    Ok(())
}
