//! Reads a running system into a [`World`]: through the database, the journals' files and the public
//! APIs of Proxmox VE and Stripe. Nothing is changed.

mod database;
mod journal;
mod logs;
mod proxmox;
mod stripe;

use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::World;

/// What the first row of the audit log is chained to.
pub(super) const CHAIN_GENESIS: &str = "ez-audit:v1";

/// The hash of an audit row: over the hash before it, its place and its exact bytes.
///
/// Written here a second time on purpose: the checker must not believe the code it checks.
pub(super) fn chain_hash(previous: &str, seq: i64, entry: &str) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(format!("{previous}\n{seq}\n{entry}")))
}

/// SHA-256 in hexadecimal form.
fn hex_hash(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(bytes))
}

/// A part of the system that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The demo does not run, or its summary is not readable.
    #[error("cannot read {path}: {reason}; is the demo running?")]
    State {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The control plane's database or a journal.
    #[error("cannot read {what}: {source}")]
    Database {
        /// Which.
        what: String,
        /// Why.
        source: sqlx::Error,
    },
    /// Proxmox or Stripe.
    #[error("cannot ask {url}: {reason}")]
    Http {
        /// What was asked.
        url: String,
        /// Why there is no answer.
        reason: String,
    },
}

impl LoadError {
    fn database(what: impl Into<String>) -> impl FnOnce(sqlx::Error) -> Self {
        let what = what.into();
        move |source| Self::Database { what, source }
    }

    fn http(url: &str) -> impl Fn(reqwest::Error) -> Self {
        let url = url.to_owned();
        move |error| Self::Http { url: url.clone(), reason: error.to_string() }
    }
}

/// The part of `state.json` that the checker uses.
#[derive(Debug, Deserialize)]
struct State {
    database_url: String,
    operator: Person,
    customer: Person,
    stripe: StripeAccess,
    nodes: Vec<NodeAccess>,
}

#[derive(Debug, Deserialize)]
struct Person {
    password: String,
    api_token: String,
}

#[derive(Debug, Deserialize)]
struct StripeAccess {
    url: String,
    secret_key: String,
    webhook_secret: String,
}

#[derive(Debug, Deserialize)]
struct NodeAccess {
    id: String,
    name: String,
    pve_url: String,
    pve_token_id: String,
    pve_token_secret: String,
    journal: PathBuf,
}

/// Reads everything.
pub(super) async fn world(state_dir: &Path, now: i64, grace_ms: i64) -> Result<World, LoadError> {
    let path = state_dir.join("state.json");
    let broken = |reason: String| LoadError::State { path: path.clone(), reason };
    let text = std::fs::read_to_string(&path).map_err(|e| broken(e.to_string()))?;
    let state: State = serde_json::from_str(&text).map_err(|e| broken(e.to_string()))?;
    let mut world = World { now, grace_ms, ..World::default() };
    // The books are read last: what the world outside shows was caused by what stands in them.
    stripe::read(&state.stripe, &mut world).await?;
    for node in &state.nodes {
        world.hosts.push(proxmox::read(state_dir, node).await?);
        if let Some(journal) = journal::read(node).await? {
            world.journals.push(journal);
        }
    }
    database::read(&state.database_url, &mut world).await?;
    world.leaks = logs::leaks(state_dir, &state)?;
    Ok(world)
}
