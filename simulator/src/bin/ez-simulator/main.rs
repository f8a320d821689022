//! `ez-simulator`: Proxmox VE, Stripe and mail on one machine, for the demo and the tests.

mod scenario;

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context;
use clap::{Parser, Subcommand};
use ez_simulator::{
    check::World,
    config::Config,
    serve::Simulator,
    wall::{SystemWall, WallClock as _},
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// The outside world of EZ Solutions, simulated: it takes no live keys and moves no money.
#[derive(Debug, Parser)]
#[command(name = "ez-simulator", version, about, long_about = None)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run every service of a configuration file until Ctrl-C or SIGTERM
    ///
    /// Once all listen, <state_dir>/ready.json is written: the same configuration with the actual
    /// addresses (a port 0 in the file means "pick one"). State survives restarts and kills.
    Serve {
        /// The configuration (JSON): state_dir, pve, stripe, mail, request_log_dir
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Prove the twelve invariants on a running demo
    ///
    /// Reads the control plane's database, every agent's journal, every simulated Proxmox VE and the
    /// simulated Stripe; changes nothing. Exit code 0: nothing contradicts them. 1: something does.
    Check {
        /// The state directory of the demo
        #[arg(long, value_name = "DIR", default_value = "target/demo")]
        state_dir: PathBuf,
        /// Print the findings as JSON
        #[arg(long)]
        json: bool,
        /// What is on its way may take this long before it counts, in milliseconds: little where all should be still
        #[arg(long, value_name = "MS", default_value_t = World::GRACE_MS)]
        grace_ms: i64,
    },
    /// Make the outside world of a running demo go wrong as a scenario file says
    ///
    /// The file names faults of the simulated Proxmox VE, Stripe and mail server; simulator/scenarios
    /// has one for each named fault. Faults live in the simulator's memory: a restart ends them, too.
    Scenario {
        /// The scenario (TOML)
        #[arg(value_name = "FILE", required_unless_present = "clear")]
        file: Option<PathBuf>,
        /// Take every fault back
        #[arg(long, conflicts_with = "file")]
        clear: bool,
        /// The state directory of the demo
        #[arg(long, value_name = "DIR", default_value = "target/demo")]
        state_dir: PathBuf,
    },
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    // A second installation by a library is no fault; what counts is that there is one.
    let _installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    match arguments.command {
        Command::Serve { config } => {
            let config = Config::load(&config)?;
            runtime.block_on(serve(&config)).map(|()| ExitCode::SUCCESS)
        }
        Command::Check { state_dir, json, grace_ms } => runtime.block_on(check(&state_dir, json, grace_ms)),
        Command::Scenario { file, state_dir, .. } => runtime
            .block_on(async {
                match file {
                    Some(file) => scenario::apply(&file, &state_dir).await,
                    None => scenario::clear(&state_dir).await,
                }
            })
            .map(|()| ExitCode::SUCCESS),
    }
}

/// Runs the invariant checker and says what it found.
async fn check(state_dir: &Path, json: bool, grace_ms: i64) -> anyhow::Result<ExitCode> {
    let now = SystemWall.now_ms();
    let report = ez_simulator::check::run(state_dir, now, grace_ms).await?;
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        let looked_at: Vec<String> = report.looked_at.iter().map(|(what, n)| format!("{n} {what}")).collect();
        writeln!(out, "Looked at {}.", looked_at.join(", "))?;
        for invariant in &ez_simulator::check::ALL {
            let found: Vec<_> = report.violations.iter().filter(|v| v.invariant == invariant.name).collect();
            let word = if found.is_empty() { "holds" } else { "VIOLATED" };
            writeln!(out, "{:>4} {word:8} {}", invariant.name, invariant.says)?;
            for violation in found {
                writeln!(out, "              {}: {}", violation.subject, violation.detail)?;
            }
        }
    }
    Ok(if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn serve(config: &Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let simulator = Simulator::start(config, Arc::new(SystemWall)).await?;
    tracing::info!(ready = %config.state_dir.join("ready.json").display(), "everything listens");
    tokio::select! {
        _ = terminate.recv() => {}
        pressed = tokio::signal::ctrl_c() => pressed.context("cannot wait for Ctrl-C")?,
    }
    tracing::info!("stopping");
    simulator.stop().await;
    Ok(())
}
