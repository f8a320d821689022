//! `ez-demo`: the whole system on one machine, from the same binaries that run in production.
//!
//! Starts the simulators (Proxmox VE, Stripe, mail), the control plane and one agent for each
//! simulated host as child processes, seeds everything through the public commands, prints where
//! to look, restarts what dies, and stops everything on Ctrl-C. A second start with the same state
//! directory goes on where the first one stopped.

mod child;
mod layout;
mod network;
mod node;
mod portal;
mod repair;
mod seed;
mod state;

use std::{io::Write as _, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use clap::Parser;

use crate::{child::Supervisor, layout::Layout, repair::RepairUnit, state::StateFile};

/// Runs the whole system on this machine: portal, simulated Stripe and mail, simulated Proxmox VE
/// hosts with a real agent each.
#[derive(Debug, Parser)]
#[command(name = "ez-demo", version, args_override_self = true)]
struct Arguments {
    /// How many simulated Proxmox VE hosts; only the first start with a state directory decides.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=50))]
    nodes: u16,
    /// Database of the control plane: sqlite:FILE or postgres://… [default: SQLite in the state directory]
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// Where everything is kept; delete it to start over.
    #[arg(long, value_name = "DIR", default_value = "target/demo")]
    state_dir: PathBuf,
    /// Speed of the simulated hosts: 1 takes the times a real one takes, 10 is ten times faster.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    speed: u32,
    /// Memory of each simulated host; cores and disk grow with it.
    #[arg(long, value_name = "GIB", default_value_t = 64, value_parser = clap::value_parser!(u32).range(16..=4096))]
    host_memory: u32,
    /// Take any free ports instead of 8080, 8081, 8082 and 7443: for several demos at once.
    #[arg(long)]
    any_port: bool,
    /// Hosts without root's repair unit: a clone whose worker was killed ends on an operator's desk.
    #[arg(long)]
    no_repair: bool,
    /// Put a network between the agents and the control plane that goes wrong on request.
    #[arg(long)]
    link_proxy: bool,
    /// Do not print the summary, only errors.
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::new(error)),
    };
    match runtime.block_on(run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    say(&format!("ez-demo: {error:#}"));
    ExitCode::FAILURE
}

/// Writes one line for people; a closed terminal is not an error.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    std::fs::create_dir_all(&arguments.state_dir)
        .with_context(|| format!("cannot make {}", arguments.state_dir.display()))?;
    let state_dir = arguments.state_dir.canonicalize()?;
    let lock = std::fs::File::create(state_dir.join("lock"))?;
    if lock.try_lock().is_err() {
        bail!("another ez-demo runs with {}; stop it first (Ctrl-C)", state_dir.display());
    }
    // A summary of an earlier run would name processes that are gone.
    StateFile::remove(&state_dir)?;
    child::stop_leftovers(&state_dir).await?;
    let database = arguments.database_url.as_deref();
    let layout = Layout::load_or_plan(&state_dir, arguments.nodes, database, arguments.any_port)?;
    let supervisor = Arc::new(Supervisor::new(&state_dir)?);

    let outcome = tokio::select! {
        outcome = start(&layout, &supervisor, &arguments) => outcome,
        () = interrupted() => Ok(()),
    };
    if outcome.is_ok() && !arguments.quiet {
        say("\nStopping …");
    }
    supervisor.stop_all(Duration::from_secs(15)).await;
    StateFile::remove(&state_dir)?;
    outcome
}

/// Starts and seeds everything, then keeps it alive until the future is dropped.
async fn start(layout: &Layout, supervisor: &Arc<Supervisor>, arguments: &Arguments) -> anyhow::Result<()> {
    let progress = |line: &str| {
        if !arguments.quiet {
            say(line);
        }
    };
    progress("Starting the simulated Proxmox VE hosts, Stripe and mail …");
    let ready = seed::simulator(layout, supervisor, arguments.speed, arguments.host_memory).await?;
    progress("Starting the control plane …");
    let people = seed::control_plane(layout, supervisor).await?;
    let network = if arguments.link_proxy { Some(network::start(layout, supervisor).await?) } else { None };
    let mut nodes = Vec::new();
    // Dropped with this future, and with them the units.
    let mut repairs = tokio::task::JoinSet::new();
    for plan in &layout.nodes {
        progress(&format!("Installing the agent on {} …", plan.name));
        let host = ready.host(&plan.name)?;
        let node = node::install(layout, supervisor, plan, host, network.as_ref()).await?;
        if !arguments.no_repair {
            repairs.spawn(RepairUnit::install(&node, &layout.node_dir(&plan.name))?.run());
        }
        nodes.push(node);
    }
    progress("Waiting until every node is ready to sell …");
    portal::nodes_online(layout, supervisor, &nodes).await?;
    let state = StateFile::new(layout, &people, &nodes, network);
    state.write(&supervisor.pids())?;
    if !arguments.quiet {
        say(&state.summary());
    }
    // From here on the file is written again whenever a restarted child has another process id.
    let mut changes = supervisor.changes();
    loop {
        changes.changed().await.context("the supervisor is gone")?;
        state.write(&supervisor.pids())?;
    }
}

/// Resolves on Ctrl-C or SIGTERM.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        let _ = tokio::signal::ctrl_c().await;
        return;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
