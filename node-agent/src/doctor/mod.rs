//! `doctor`: looks at everything the agent needs on this host and says of each thing whether it is as it should be, what
//! was found, and in one line what to do about it. It changes nothing and asks nothing of the agent but its files, so it
//! works beside a running agent as well as where none ever ran.
//!
//! Groups run beside each other, each with its own limit of time, so that a dead name server does not hide a full disk.
//! A check whose ground is missing (no configuration, no answer from Proxmox) is not passed over: it says that it could not
//! be made.

mod files;
mod host;
mod journal;
mod link;
mod pve;
mod system;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use serde::Serialize;

use crate::{
    cli::StatusFile,
    clock::Clock,
    config::{Config, ConfigError},
    identity::{Identity, IdentityError},
    policy::Policy,
    pve::Hypervisor,
};

pub use system::{HostSystem, Said, System};

/// What one group may take; what is not done by then was not made.
const LIMIT: Duration = Duration::from_secs(8);

/// How a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, or cannot be seen; somebody should look.
    Warn,
    /// Something does not work.
    Fail,
}

impl Level {
    /// As it is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }
}

/// What was found about one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Stable name, for scripts.
    pub name: &'static str,
    /// How it is.
    pub level: Level,
    /// What was found, one line.
    pub found: String,
    /// What to do, one line; empty if nothing.
    pub fix: String,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, level: Level::Ok, found: found.into(), fix: String::new() }
    }

    fn warn(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, level: Level::Warn, found: found.into(), fix: fix.into() }
    }

    fn fail(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, level: Level::Fail, found: found.into(), fix: fix.into() }
    }

    /// It could not be looked at, because of another check.
    fn unseen(name: &'static str, because: &str, other: &str) -> Self {
        Self::warn(name, format!("not looked at: {because}"), format!("see the check `{other}`"))
    }
}

/// What the doctor looks at.
pub struct Patient {
    /// Where the configuration stands.
    pub config_file: PathBuf,
    /// The configuration, or what is wrong with it.
    pub config: Result<Config, ConfigError>,
    /// The policy, or what is wrong with it; none without a configuration.
    pub policy: Option<Result<Policy, ConfigError>>,
    /// Who this node is, or why it is nobody; none without a configuration.
    pub identity: Option<Result<Identity, IdentityError>>,
    /// What the agent wrote about itself last.
    pub status: Option<StatusFile>,
    /// Whether the agent that wrote it is at work.
    pub runs: bool,
    /// The user the agent runs as, to whom its files belong; none where the package made no such user, or nobody but root
    /// could tell.
    pub agents_user: Option<u32>,
    /// Proxmox VE, or why no client could be made.
    pub pve: Result<Arc<dyn Hypervisor>, String>,
    /// This host.
    pub system: Arc<dyn System>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// A group of checks: the names it answers for, in its order, and the looking.
struct Group<'a> {
    names: &'static [&'static str],
    look: BoxFuture<'a, Vec<Check>>,
}

/// Names of all checks, in their order.
pub fn names() -> Vec<&'static str> {
    [files::NAMES, link::NAMES, pve::NAMES, journal::NAMES, host::NAMES].concat()
}

/// Makes all checks; takes ten seconds at most.
pub async fn examine(patient: &Patient) -> Vec<Check> {
    let groups = [
        Group { names: files::NAMES, look: Box::pin(async { files::look(patient) }) },
        Group { names: link::NAMES, look: Box::pin(link::look(patient)) },
        Group { names: pve::NAMES, look: Box::pin(pve::look(patient)) },
        Group { names: journal::NAMES, look: Box::pin(journal::look(patient)) },
        Group { names: host::NAMES, look: Box::pin(host::look(patient)) },
    ];
    let within = groups.into_iter().map(|group| async move {
        match tokio::time::timeout(LIMIT, group.look).await {
            Ok(checks) => checks,
            Err(_) => {
                let late = |name: &&'static str| {
                    let found = format!("no answer within {} s", LIMIT.as_secs());
                    Check::fail(
                        name,
                        found,
                        "look whether disk and network of this host answer, then try again",
                    )
                };
                group.names.iter().map(late).collect()
            }
        }
    });
    futures::future::join_all(within).await.concat()
}

/// The worst level found.
pub fn worst(checks: &[Check]) -> Level {
    checks.iter().map(|check| check.level).max().unwrap_or(Level::Ok)
}

/// Seconds as people say them.
pub(crate) fn span(of: Duration) -> String {
    let secs = of.as_secs();
    match secs {
        0..=119 => format!("{secs} s"),
        120..=7_199 => format!("{} min", secs / 60),
        7_200..=172_799 => format!("{} h", secs / 3_600),
        _ => format!("{} days", secs / 86_400),
    }
}
