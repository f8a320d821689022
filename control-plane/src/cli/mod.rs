//! The command line: what an operator types, and the mapping to the slices' verbs.
//!
//! One file per noun. Commands print to standard output what another program may read, and explain themselves
//! on standard error; a failure is a non-zero exit. Settings come from the environment (`.env.example`).

mod audit;
mod catalog;
mod check;
mod doctor;
mod keys;
mod nodes;
mod orders;
mod serve;
mod storage;
mod users;

use std::{io::Write, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::{
    app::{App, Services},
    config::{Config, Vars},
    db::Db,
};

/// Sells virtual servers and tells node agents to build them.
#[derive(Debug, Parser)]
#[command(name = "ez-control-plane", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Who acts, in the audit log, when a command does.
const ACTOR: &str = "operator:cli";

#[derive(Debug, Subcommand)]
enum Command {
    /// Answers customers, agents and Stripe until stopped. Refuses while migrations are pending.
    Serve,
    /// Brings the database up to date.
    Migrate,
    /// Reads the configuration and says everything that is wrong with it.
    CheckConfig,
    /// Looks at the world around the configuration: database, keys, Stripe, mail, nodes; says what to mend.
    Doctor(doctor::DoctorCommand),
    /// Applies a catalogue: locations, address pools, images, plans and prices, which Stripe learns of.
    /// The same file again changes nothing.
    Apply {
        /// The catalogue, TOML.
        file: PathBuf,
    },
    /// Makes users.
    #[command(subcommand)]
    User(users::UserCommand),
    /// Makes API tokens.
    #[command(subcommand)]
    Token(users::TokenCommand),
    /// Makes the installation's keys.
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Adds and changes nodes.
    #[command(subcommand)]
    Node(nodes::NodeCommand),
    /// Shows purchases and takes an operator's ways out of them.
    #[command(subcommand)]
    Order(orders::OrderCommand),
    /// Checks the audit log.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Copies the database into a file while everything runs (SQLite; for PostgreSQL use pg_dump).
    Backup {
        /// The file to write; must not exist.
        file: PathBuf,
    },
}

/// Runs a command.
///
/// # Errors
/// What the command could not do, with its causes.
pub async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::CheckConfig => check::check_config(&Vars::from_environment()),
        Command::Doctor(command) => doctor::doctor(&Vars::from_environment(), command).await,
        Command::Serve => serve::serve(config()?).await,
        Command::Migrate => storage::migrate(config()?).await,
        Command::Apply { file } => catalog::apply(open().await?, &file).await,
        Command::Order(command) => orders::order(open().await?, command).await,
        Command::User(command) => users::user(open().await?, command).await,
        Command::Token(command) => users::token(open().await?, command).await,
        Command::Keys(command) => keys::keys(&config()?, &command),
        Command::Node(command) => nodes::node(open().await?, command).await,
        Command::Audit(command) => audit::audit(config()?, command).await,
        Command::Backup { file } => storage::backup(config()?, &file).await,
    }
}

/// The configuration, or all its problems.
fn config() -> anyhow::Result<Config> {
    Ok(Config::read(&Vars::from_environment())?)
}

/// The services, for commands that act on them.
async fn open() -> anyhow::Result<App> {
    Ok(Services::open(config()?).await?)
}

/// The database alone, for commands that need no keys.
async fn open_database(config: &Config) -> anyhow::Result<Db> {
    Db::open(config.storage.database_url.expose()).await.context("cannot open the database")
}

/// Writes a line to standard output.
fn say(line: impl std::fmt::Display) -> anyhow::Result<()> {
    writeln!(std::io::stdout().lock(), "{line}").context("cannot write to standard output")
}
