//! The commands. Data goes to standard output, messages to standard error; `--json` wherever a
//! script may read. Exit codes: 0 ok, 1 failure, 2 wrong usage or configuration, 3 not there, 5 it may not be now,
//! 6 asked and not answered yet; of `doctor` also 10 warnings, 11 errors.

mod alone;
mod check;
mod doctor;
mod generate;
mod host;
mod image;
mod join;
mod journal;
mod notify;
mod order;
#[cfg(test)]
mod reference;
mod requests;
mod run;
mod service_user;
mod setup;
mod status;

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

use crate::{
    config,
    journal::requests::RequestVerb,
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
                  ez-node-agent doctor                 is everything as it should be, and if not, what to do\n  \
                  ez-node-agent status                 is it connected, what is it doing\n  \
                  ez-node-agent journal --refused      which orders were refused, and by which rule"
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
        /// This host was another node and shall become the token's: what its journal knows of that one is over.
        #[arg(long)]
        replace: bool,
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
        #[arg(long, conflicts_with_all = ["order", "requests"])]
        refused: bool,
        /// Show what root of this host asked of the agent instead: who, when, what, why.
        #[arg(long, conflicts_with = "order")]
        requests: bool,
        /// Show one order with its steps.
        #[arg(long, value_name = "ID")]
        order: Option<String>,
        /// How many rows at most.
        #[arg(long, default_value_t = 50, value_name = "N")]
        limit: u32,
    },
    /// Look at one provisioning order, or decide about one that is stuck.
    #[command(subcommand)]
    Order(OrderCommand),
    /// Let orders that destroy something through again after the destroy budget was exceeded.
    ///
    /// Once an order was refused with CIRCUIT_OPEN every purge, rebuild, rollback, restore and deletion is refused until
    /// this was said. Find out first who wanted so much gone: `ez-node-agent journal --refused`. What is destroyed is
    /// counted anew from now on, all budgets of the policy's [destroy] alike.
    Unlock {
        /// Why; kept with the request.
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Build and list the images of this node.
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Check the configuration and the policy file; say file, line and column of every problem.
    ///
    /// Exit code 2 if there is one. `doctor` looks further: at this host, at Proxmox and at the control plane.
    CheckConfig {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Look at everything the agent needs and say what is wrong and what to do about it.
    ///
    /// Changes nothing and takes ten seconds at most. Run it as root: some things nobody else may see. Exit code 0 if all
    /// is well, 10 with warnings, 11 with errors.
    Doctor {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
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
    /// Accept the certificate that this host's Proxmox shows by now, as root (what the unit does before each start).
    #[command(hide = true)]
    Pin,
    /// Write manual pages, shell completions or the reference from the definition of these commands.
    #[command(hide = true)]
    Generate {
        /// What to write.
        what: generate::What,
        /// Where.
        dir: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum OrderCommand {
    /// Show an order with its steps, and what was asked about it.
    Show {
        /// Id of the provisioning order.
        id: String,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Let a stuck order go on where it stuck. It looks first at what is there.
    ///
    /// Not for an order that a later one has overtaken, or that was abandoned.
    Resume(DecideArgs),
    /// Give an order up for good. Its VM, or what there is of it, is left exactly as it is.
    ///
    /// A stuck order will not go on, one that has not begun ends as failed. One that is at work can be given up while the
    /// agent is stopped. Earlier stuck orders of its server whose disks it waited for are given up with it. The control plane
    /// is told either way.
    Abandon(DecideArgs),
}

/// Arguments of a decision about an order.
#[derive(Debug, clap::Args)]
struct DecideArgs {
    /// Id of the provisioning order.
    id: String,
    /// Why; kept with the request and told to the control plane.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// Runs a command.
///
/// # Errors
/// Anything that made it fail, for [`failure`].
pub async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    // These make the configuration, judge it or do without it.
    let file = cli.config.as_deref();
    match &cli.command {
        Command::Setup(args) => return setup::setup(args, file).await,
        Command::Leave(args) => return setup::leave(args, file).await,
        Command::Pin => return Ok(setup::pin(file)),
        Command::CheckConfig { json } => return Ok(check::check_config(file, *json)),
        Command::Doctor { json } => return doctor::doctor(file, *json).await,
        Command::Generate { what, dir } => return generate::generate(*what, dir),
        _ => {}
    }
    let config = match config::load(file, &env) {
        Ok(config) => config,
        Err(error) => {
            let by_setup = config::setup_file(file.unwrap_or(Path::new(config::DEFAULT_PATH)));
            if by_setup.exists() {
                message(&error.to_string());
            } else {
                message("this host is not set up yet: run `ez-node-agent setup` first, as root");
                message(&format!("until then the configuration is not whole: {error}"));
            }
            return Ok(ExitCode::from(2));
        }
    };
    match cli.command {
        Command::Run => run::run(config).await,
        Command::Join { url, replace, json } => join::join(&config, &url, replace, json).await,
        Command::Status { json } => status::status(&config, json).await,
        Command::Journal { json, refused, requests, order, limit } => {
            let what = match (refused, requests, order) {
                (true, _, _) => journal::Show::Refused,
                (_, true, _) => journal::Show::Requests,
                (_, _, Some(id)) => journal::Show::Order(id),
                _ => journal::Show::Orders,
            };
            journal::journal(&config, json, what, limit).await
        }
        Command::Order(OrderCommand::Show { id, json }) => {
            journal::journal(&config, json, journal::Show::Order(id), 1).await
        }
        Command::Order(OrderCommand::Resume(args)) => order::decide(&config, RequestVerb::Resume, args).await,
        Command::Order(OrderCommand::Abandon(args)) => {
            order::decide(&config, RequestVerb::Abandon, args).await
        }
        Command::Unlock { reason, json } => order::unlock(&config, reason, json).await,
        Command::Image(command) => image::image(&config, command).await,
        Command::Repair => setup::repair(&config).await,
        Command::Setup(_)
        | Command::Leave(_)
        | Command::Pin
        | Command::CheckConfig { .. }
        | Command::Doctor { .. }
        | Command::Generate { .. } => Ok(ExitCode::SUCCESS),
    }
}

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Says why a command failed, with every cause, and gives the exit code.
pub fn failure(error: &anyhow::Error) -> ExitCode {
    message(&format!("ez-node-agent: {}", said_once(error)));
    ExitCode::FAILURE
}

/// An error and its causes on one line. Many of our errors name their cause themselves; nobody need read it twice.
fn said_once(error: &anyhow::Error) -> String {
    let mut said = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !said.contains(&cause) {
            said = format!("{said}: {cause}");
        }
    }
    said
}

/// Whether a file of the agent is there. What may not be looked at is not absent.
///
/// # Errors
/// If the system does not say.
fn is_there(path: &Path) -> anyhow::Result<bool> {
    path.try_exists().map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::PermissionDenied => ": run this as root",
            _ => "",
        };
        anyhow::anyhow!("{} cannot be looked at ({error}){advice}", path.display())
    })
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
    use crate::{image, pve::PveError};

    #[test]
    fn the_commands_are_consistent_and_each_says_what_it_does() {
        let command = Cli::command();
        command.clone().debug_assert();
        let mut all: Vec<&clap::Command> = command.get_subcommands().collect();
        while let Some(sub) = all.pop() {
            assert!(sub.get_about().is_some(), "{} has no help", sub.get_name());
            for argument in sub.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "{} {} has no help",
                    sub.get_name(),
                    argument.get_id()
                );
            }
            all.extend(sub.get_subcommands());
        }
    }

    #[test]
    fn a_cause_that_an_error_names_itself_is_said_once() {
        let refused = PveError::Refused {
            call: "POST /nodes/pve1/storage/local/download-url".to_owned(),
            status: 500,
            message: "storage 'local' is not configured for content-type 'import'".to_owned(),
            errors: std::collections::BTreeMap::new(),
        };
        let failed = image::BuildError::Pve { doing: "starting the download", reason: refused };
        let said = said_once(&anyhow::Error::new(failed).context("building debian-13"));
        assert_eq!(said.matches("is not configured for content-type").count(), 1, "{said}");
        assert!(said.starts_with("building debian-13: starting the download: POST "), "{said}");
    }

    #[test]
    fn a_token_is_never_an_argument() {
        assert!(Cli::try_parse_from(["ez-node-agent", "join", "https://cp:7443", "ezj1.a.b.c"]).is_err());
        assert!(Cli::try_parse_from(["ez-node-agent", "join", "https://cp:7443"]).is_ok());
        assert!(Cli::try_parse_from(["ez-node-agent", "journal", "--refused", "--order", "x"]).is_err());
    }
}
