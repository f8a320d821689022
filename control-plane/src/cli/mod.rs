//! The command line: what an operator types, and the mapping to the slices' verbs.
//!
//! One file per noun. Commands print to standard output what another program may read, and explain themselves
//! on standard error; a failure is a non-zero exit. Settings come from the environment (`.env.example`).

mod audit;
mod billing;
mod catalog;
mod check;
mod doctor;
mod images;
mod keys;
mod nodes;
mod orders;
mod serve;
mod servers;
mod storage;
mod users;

use std::{io::Write, path::PathBuf, process::ExitCode};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};

use crate::{
    app::{App, Services},
    config::{Config, Link, Storage, Vars},
    db::{Db, sqlite_path},
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
    /// Makes, shows and exchanges the installation's keys.
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Adds and changes nodes.
    #[command(subcommand)]
    Node(nodes::NodeCommand),
    /// Shows purchases and takes an operator's ways out of them.
    #[command(subcommand)]
    Order(orders::OrderCommand),
    /// Suspends, resumes, renames, tags and limits servers.
    #[command(subcommand)]
    Server(servers::ServerCommand),
    /// Has images built on nodes, and lists them.
    #[command(subcommand)]
    Image(images::ImageCommand),
    /// Compares with Stripe, replays its events, exempts servers from suspension.
    #[command(subcommand)]
    Billing(billing::BillingCommand),
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
        Command::Migrate => storage::migrate(&storage()?).await,
        Command::Apply { file } => catalog::apply(open().await?, &file).await,
        Command::Order(command) => orders::order(open().await?, command).await,
        Command::User(command) => users::user(open().await?, command).await,
        Command::Token(command) => users::token(open().await?, command).await,
        Command::Keys(command) => keys::keys(&storage()?, &link()?, command).await,
        Command::Node(command) => nodes::node(open().await?, command).await,
        Command::Server(command) => servers::server(open().await?, command).await,
        Command::Image(command) => images::image(open().await?, command).await,
        Command::Billing(command) => billing::billing(open().await?, command).await,
        Command::Audit(command) => audit::audit(&storage()?, command).await,
        Command::Backup { file } => storage::backup(&storage()?, &file).await,
    }
}

/// The configuration, or all its problems.
fn config() -> anyhow::Result<Config> {
    Ok(Config::read(&Vars::from_environment())?)
}

/// What concerns database and key files: whoever makes a backup need not know Stripe's keys.
fn storage() -> anyhow::Result<Storage> {
    Ok(Config::read_storage(&Vars::from_environment())?)
}

/// What concerns the link.
fn link() -> anyhow::Result<Link> {
    Ok(Config::read_link(&Vars::from_environment())?)
}

/// The services, for commands that act on them.
async fn open() -> anyhow::Result<App> {
    let config = config()?;
    must_be_there(&config.storage)?;
    let app = Services::open(config).await?;
    must_be_migrated(&app.db).await?;
    Ok(app)
}

/// The database alone, for commands that need no keys.
async fn open_database(storage: &Storage) -> anyhow::Result<Db> {
    must_be_there(storage)?;
    let db = make_database(storage).await?;
    must_be_migrated(&db).await?;
    Ok(db)
}

/// The same, and makes an SQLite file that is not there.
async fn make_database(storage: &Storage) -> anyhow::Result<Db> {
    Db::open(storage.database_url.expose()).await.context("cannot open the database")
}

/// Refuses to make an empty database out of a wrong path.
fn must_be_there(storage: &Storage) -> anyhow::Result<()> {
    match sqlite_path(storage.database_url.expose()) {
        Some(path) if !path.exists() => bail!(
            "there is no database at {}; nothing was done. Check DATABASE_URL, or make one: ez-control-plane migrate",
            path.display()
        ),
        _ => Ok(()),
    }
}

async fn must_be_migrated(db: &Db) -> anyhow::Result<()> {
    let pending = db.pending().await.context("cannot see which migrations are pending")?.0.len();
    if pending > 0 {
        bail!("{pending} migrations are pending; nothing was done. Run: ez-control-plane migrate");
    }
    Ok(())
}

/// Writes a line to standard output.
fn say(line: impl std::fmt::Display) -> anyhow::Result<()> {
    writeln!(std::io::stdout().lock(), "{line}").context("cannot write to standard output")
}
