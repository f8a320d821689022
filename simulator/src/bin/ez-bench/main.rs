//! `ez-bench`: the figures of the design, each measured on the real binaries and against this machine.
//!
//! Starts whole systems (`ez-demo` and its children) below `target/bench`, measures, prints a table and
//! writes `target/bench/report.json`. Every figure is a count or stands beside what the machine itself
//! does in the same run. What each means stands in `docs/reference/bench.md`.

mod agents;
mod catch_up;
mod demo;
mod intake;
mod load;
mod machine;
mod pages;
mod process;
mod purchase;
mod report;
mod samples;
mod strace;

use std::{io::Write as _, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::bail;
use clap::{Parser, Subcommand};
use ez_simulator::wall::{SystemWall, WallClock as _};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::signal::unix::{SignalKind, signal};

use crate::{machine::Machine, report::Report};

/// The figures, by the part of the program that measures them together.
const PARTS: [(&str, &[&str]); 5] = [
    ("intake", &["webhook_rate", "webhook_fsyncs_per_request"]),
    (
        "purchase",
        &["webhook_to_journal_p50", "webhook_to_journal_p99", "accepted_to_started_overhead", "agent_rss"],
    ),
    ("catch_up", &["inbox_catch_up"]),
    ("pages", &["page_p99_ms", "page_rate"]),
    ("agents", &["control_plane_rss", "idle_agents_rss_per_agent", "reconnect_2000"]),
];

/// Measures the system against its own machine.
#[derive(Debug, Parser)]
#[command(name = "ez-bench", version, args_override_self = true)]
pub(crate) struct Options {
    /// Only this figure or part (intake, catch_up, purchase, pages, agents); may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Print the report as JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Servers that are bought one after the other
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(10..=800))]
    purchases: u32,
    /// Agents that are connected at once
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(10..=10_000))]
    agents: u32,
    /// How long each rate is measured, in seconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(2..=600))]
    seconds: u64,
    /// Where systems and the report are kept
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    directory: PathBuf,
    #[command(subcommand)]
    helper: Option<Helper>,
}

#[derive(Debug, Subcommand)]
enum Helper {
    /// Answers every webhook with 200 and does nothing else: what the load generator is measured against
    #[command(hide = true)]
    Answer,
}

impl Options {
    /// Whether a figure is asked for.
    pub(crate) fn wants(&self, figure: &str) -> bool {
        let part = PARTS.iter().find(|(_, figures)| figures.contains(&figure)).map_or("", |(part, _)| part);
        self.only.is_empty() || self.only.iter().any(|name| name == figure || name == part)
    }

    fn wants_part(&self, part: &str) -> bool {
        PARTS.iter().any(|(name, figures)| *name == part && figures.iter().any(|figure| self.wants(figure)))
    }

    pub(crate) fn seconds(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    fn check(&self) -> anyhow::Result<()> {
        let known = |name: &str| PARTS.iter().any(|(part, figures)| *part == name || figures.contains(&name));
        match self.only.iter().find(|name| !known(name)) {
            Some(name) => bail!("no figure or part is called {name:?}"),
            None => Ok(()),
        }
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let done = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::new)
        .and_then(|runtime| runtime.block_on(until_stopped(options)));
    match done {
        Ok(code) => code,
        Err(error) => {
            say(&format!("ez-bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Writes one line about what goes on; a closed terminal is not an error.
pub(crate) fn say(line: &str) {
    let _nobody_reads = writeln!(std::io::stderr().lock(), "{line}");
}

/// Writes a result.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _nobody_reads = writeln!(out, "{text}");
    let _nobody_reads = out.flush();
}

/// Runs until everything is measured or a signal comes; what was started ends with it.
async fn until_stopped(options: Options) -> anyhow::Result<ExitCode> {
    if matches!(options.helper, Some(Helper::Answer)) {
        intake::answer().await?;
        return Ok(ExitCode::SUCCESS);
    }
    options.check()?;
    let _first = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        done = measure(&options) => done,
        _ = terminate.recv() => bail!("stopped"),
        _ = interrupt.recv() => bail!("stopped"),
    }
}

async fn measure(options: &Options) -> anyhow::Result<ExitCode> {
    std::fs::create_dir_all(&options.directory)?;
    let now = OffsetDateTime::from_unix_timestamp(SystemWall.now_ms() / 1_000)?;
    let mut report = Report::begun(now.format(&Rfc3339)?);
    let machine = Machine::default();
    let load_before = process::load();
    if options.wants_part("intake") {
        say("Measuring webhooks …");
        intake::run(options, &machine, &mut report).await?;
    }
    if options.wants_part("catch_up") {
        say("Measuring what waits after an outage …");
        catch_up::run(options, &machine, &mut report).await?;
    }
    // Pages are asked for where the purchases have left their servers.
    if options.wants_part("purchase") || options.wants_part("pages") {
        say("Measuring purchases …");
        purchase::run(options, &machine, &mut report).await?;
    }
    if options.wants_part("agents") {
        say("Measuring agents …");
        agents::run(options, &machine, &mut report).await?;
    }
    machine.rows(&mut report, load_before);
    let path = options.directory.join("report.json");
    report.write(&path)?;
    if options.json {
        print(&serde_json::to_string_pretty(&report.json())?);
    } else {
        print(&report.table());
        say(&format!("{} figures missed the design's reach. Written to {}", report.missed(), path.display()));
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_or_its_part_can_be_asked_for() {
        let of = |arguments: &[&str]| Options::parse_from([&["ez-bench"], arguments].concat());
        assert!(of(&[]).wants("page_p99_ms") && of(&[]).wants_part("agents"));
        let one = of(&["--only", "page_rate"]);
        assert!(one.wants("page_rate") && one.wants_part("pages"));
        assert!(!one.wants("page_p99_ms") && !one.wants_part("intake"));
        assert!(of(&["--only", "agents"]).wants("reconnect_2000"));
        assert!(of(&["--only", "speed"]).check().is_err());
    }
}
