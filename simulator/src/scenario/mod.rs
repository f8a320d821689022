//! Scenarios: a named set of faults in the outside world, and what a system that lives through it proves.
//!
//! A scenario is a TOML file (`simulator/scenarios/*.toml`). Each of its `[[faults]]` names a target and
//! exactly one thing that goes wrong there; the bodies are those of the control APIs:
//!
//! | `target` | one of | see |
//! |---|---|---|
//! | `pve` (every host, or the one of `node = 0`) | `rule`, `restart`, `storage_full` | [`crate::pve`]'s control API |
//! | `stripe` | `webhooks`, `api` | [`crate::stripe`]'s control API |
//! | `mail` | `smtp` | [`crate::mail`]'s control API |
//! | `link` (of every node, or the one of `node = 0`) | `network` | [`crate::link_proxy`]'s control API |
//!
//! `at = "order_paid"` holds a fault back until a customer has paid; without it, it holds from the start.
//! [`apply`] posts what holds from the start, [`apply_at`] the rest, [`clear`] makes everything well again,
//! and [`hits`] tells how often rules have struck, so that a test can tell a scenario that was lived through
//! from one that never happened.

mod apply;
mod file;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

pub use apply::{Targets, apply, apply_at, clear, faults, hits, next_payment};

/// A named set of faults.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// Its name; the file's, too.
    pub name: String,
    /// What a system that lives through it proves: one sentence.
    pub proves: String,
    /// What goes wrong, in the order it is posted.
    pub faults: Vec<Planned>,
}

/// One thing that goes wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// Who is struck.
    pub target: Target,
    /// Since when.
    pub at: At,
    /// Path of the control API.
    pub path: String,
    /// What is posted there.
    pub body: Value,
}

/// Who is struck by a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// One Proxmox VE host, by its place among the nodes of the demo, or all of them.
    Pve(Option<usize>),
    /// Stripe.
    Stripe,
    /// The mail server.
    Mail,
    /// The network between the agent of one node, or of all, and the control plane.
    Link(Option<usize>),
}

/// Since when a fault holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum At {
    /// From the start.
    #[default]
    Start,
    /// Since a customer has paid.
    OrderPaid,
}

/// Why a scenario cannot be read or applied.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A scenario file is wrong.
    #[error("{path}:{line}:{column}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, in characters from 1.
        column: usize,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// The state directory does not say where the simulators listen.
    #[error("{path}: {reason}; is a demo running on this state directory?")]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A fault is for somebody who is not there.
    #[error("there is no {0} to strike")]
    NoTarget(String),
    /// A simulator does not answer.
    #[error("{url}: {reason}")]
    Unreachable {
        /// The address.
        url: String,
        /// What went wrong.
        reason: String,
    },
    /// A simulator refuses a fault.
    #[error("{url} refused with {status}: {reason}")]
    Refused {
        /// The address.
        url: String,
        /// The answer's status.
        status: u16,
        /// Its text.
        reason: String,
    },
}

impl Scenario {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or something in it is wrong; then the error tells the place.
    pub fn read(path: &Path) -> Result<Self, ScenarioError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ScenarioError::Read { path: path.to_owned(), source })?;
        file::parse(path, &text)
    }

    /// Reads every `*.toml` of a directory, by name.
    ///
    /// # Errors
    /// The first file that cannot be read or is wrong.
    pub fn read_all(directory: &Path) -> Result<Vec<Self>, ScenarioError> {
        let failed = |source| ScenarioError::Read { path: directory.to_owned(), source };
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                paths.push(path);
            }
        }
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }

    /// Whether a fault waits for a payment.
    pub fn waits_for_payment(&self) -> bool {
        self.faults.iter().any(|fault| fault.at == At::OrderPaid)
    }
}
