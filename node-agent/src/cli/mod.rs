//! The commands. Data goes to standard output, messages to standard error; `--json` wherever a
//! script may read. Exit codes: 0 ok, 1 failure, 2 wrong usage or configuration, 3 not there.

mod alone;
mod host;
mod join;
mod journal;
mod notify;
mod run;
mod setup;
mod status;

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, Subcommand};

use crate::{
    config::{self, Config},
    policy,
    setup::{LeaveArgs, SetupArgs},
};

pub use status::StatusFile;

/// Runs on a Proxmox VE host and carries out signed provisioning orders.
///
/// Dials the control plane, so no port has to be open here. Every order is verified, bounded by the
/// policy file of this host and written to a journal before anything is done.
#[derive(Debug, Parser)]
#[command(
    name = "ez-node-agent",
    version,
    after_help = "Examples:\n  ez-node-agent setup --dry-run        what setup would change on this host\n  \
                  ez-node-agent join https://cp:7443   enrol; the join token is read from standard input\n  \
                  ez-node-agent status                 is it connected, what is it doing\n  \
                  ez-node-agent journal                what it was ordered and what became of it"
)]
pub struct Cli {
    /// Configuration file [default: /etc/ez-node-agent/agent.toml].
    #[arg(long, global = true, value_name = "FILE", env = "EZ_AGENT_CONFIG")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent (what the systemd unit starts).
    Run,
    /// Enrol this host at a control plane.
    ///
    /// The join token is read from standard input, or from EZ_JOIN_TOKEN; never from the command
    /// line, where other users could see it. Joining again is safe: it begins a new epoch, and
    /// orders from before are dead.
    Join {
        /// Address of the control plane, such as https://cp.example.net:7443.
        url: String,
        /// Print what was stored as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say what the agent is doing.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show provisioning orders and what became of them.
    Journal {
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// Show refused orders instead.
        #[arg(long, conflicts_with = "order")]
        refused: bool,
        /// Show one order with its steps.
        #[arg(long, value_name = "ID")]
        order: Option<String>,
        /// How many rows at most.
        #[arg(long, default_value_t = 50, value_name = "N")]
        limit: u32,
    },
    /// Check the configuration and the policy file; say file, line and column of every problem.
    CheckConfig,
    /// Prepare this host: user, rights, token and storage in Proxmox, and the agent's own files.
    ///
    /// Says what it will change, then changes only that; run again, it changes nothing. Runs as root
    /// through pvesh, or from anywhere with an administrator's token.
    Setup(Box<SetupArgs>),
    /// Undo what setup made in Proxmox. Servers are never touched.
    Leave(LeaveArgs),
    /// Carry out the agent's requests for repair, as root (what the repair unit starts).
    ///
    /// One verb: clean up after a clone whose worker was killed, which no API token can do.
    Repair,
}

/// Runs a command.
///
/// # Errors
/// Anything that made it fail, for [`failure`].
pub async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    // These two make the configuration, or outlive it, so they read it leniently by themselves.
    match &cli.command {
        Command::Setup(args) => return setup::setup(args, cli.config.as_deref()).await,
        Command::Leave(args) => return setup::leave(args, cli.config.as_deref()).await,
        _ => {}
    }
    let config = match load(&cli) {
        Ok(config) => config,
        Err(error) => {
            message(&error.to_string());
            return Ok(ExitCode::from(2));
        }
    };
    match cli.command {
        Command::Run => run::run(config).await,
        Command::Join { url, json } => join::join(&config, &url, json).await,
        Command::Status { json } => status::status(&config, json).await,
        Command::Journal { json, refused, order, limit } => {
            journal::journal(&config, json, refused, order.as_deref(), limit).await
        }
        Command::CheckConfig => check_config(&config),
        Command::Repair => setup::repair(&config).await,
        Command::Setup(_) | Command::Leave(_) => Ok(ExitCode::SUCCESS),
    }
}

fn load(cli: &Cli) -> Result<Config, config::ConfigError> {
    config::load(cli.config.as_deref(), &|name| std::env::var(name).ok())
}

fn check_config(config: &Config) -> anyhow::Result<ExitCode> {
    let mut good = true;
    if let Err(error) = policy::load(&config.policy_file) {
        message(&error.to_string());
        good = false;
    }
    if let Err(error) = host::connect(config) {
        message(&format!("{error:#}"));
        good = false;
    }
    if !good {
        return Ok(ExitCode::from(2));
    }
    print(&format!("configuration and policy of node {} are good", config.pve_node));
    Ok(ExitCode::SUCCESS)
}

/// Says why a command failed, with every cause, and gives the exit code.
pub fn failure(error: &anyhow::Error) -> ExitCode {
    message(&format!("ez-node-agent: {error:#}"));
    ExitCode::FAILURE
}

/// A line for scripts and people, to standard output. A closed pipe is no error of ours.
fn print(line: &str) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// A line for people, to standard error.
fn message(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// A value as indented JSON, to standard output.
fn print_json(value: &serde_json::Value) {
    print(&serde_json::to_string_pretty(value).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_commands_are_consistent_and_each_says_what_it_does() {
        let command = Cli::command();
        command.clone().debug_assert();
        for sub in command.get_subcommands() {
            assert!(sub.get_about().is_some(), "{} has no help", sub.get_name());
        }
    }

    #[test]
    fn a_token_is_never_an_argument() {
        assert!(Cli::try_parse_from(["ez-node-agent", "join", "https://cp:7443", "ezj1.a.b.c"]).is_err());
        assert!(Cli::try_parse_from(["ez-node-agent", "join", "https://cp:7443"]).is_ok());
        assert!(Cli::try_parse_from(["ez-node-agent", "journal", "--refused", "--order", "x"]).is_err());
    }
}
