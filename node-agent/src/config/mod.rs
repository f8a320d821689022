//! Configuration: `/etc/ez-node-agent/agent.toml`, every key also as `EZ_AGENT_<KEY>`.
//!
//! `agent.toml` belongs to the host's owner and no program changes it. What `setup` finds out about a host it writes to
//! `setup.toml` beside it, which counts where `agent.toml` is silent.
//!
//! Reading never stops at the first problem: `check-config` lists all of them, each with file, line
//! and column, and says what would be right.

mod read;
pub(crate) mod suggest;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use url::Url;

pub use read::{KEYS, Key, load, parse};

/// Where the configuration stands unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/ez-node-agent/agent.toml";

/// Where setup writes what it found, for a configuration file.
pub fn setup_file(config: &Path) -> PathBuf {
    config.with_file_name("setup.toml")
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people.
    #[default]
    Text,
}

/// Everything the agent has to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Proxmox VE's API, e.g. `https://127.0.0.1:8006`.
    pub pve_url: Url,
    /// SHA-256 of its certificate, upper-case hex with colons. Without it the certificate must chain
    /// to `cluster_ca_file`.
    pub pve_fingerprint: Option<String>,
    /// File with `user@realm!tokenid=secret`.
    pub pve_token_file: PathBuf,
    /// Name of this node in its cluster.
    pub pve_node: String,
    /// Journal, identity, trust document, status.
    pub state_dir: PathBuf,
    /// What even a valid signature may not do here.
    pub policy_file: PathBuf,
    /// Directory of the snippet storage.
    pub snippet_dir: PathBuf,
    /// Name of the snippet storage in Proxmox VE.
    pub snippet_storage: String,
    /// The cluster's CA; its SHA-256 is the identity of the cluster.
    pub cluster_ca_file: PathBuf,
    /// `host:port` to dial instead of the link addresses of the trust document. Whom it reaches there is checked
    /// all the same.
    pub link_address: Option<String>,
    /// Where this machine's own `/etc` and `/sys` are, from which it is told from a copy of its disk.
    pub host_root: PathBuf,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Log filter, e.g. `info` or `ez_node_agent=debug,info`.
    pub log: String,
}

impl Config {
    /// The journal's file.
    pub fn journal_file(&self) -> PathBuf {
        self.state_dir.join("journal.sqlite")
    }

    /// Directory of key, certificate and node file.
    pub fn identity_dir(&self) -> PathBuf {
        self.state_dir.join("identity")
    }

    /// The trust document in use, exact bytes.
    pub fn trust_file(&self) -> PathBuf {
        self.state_dir.join("trust.json")
    }

    /// What the process that runs from the state directory holds locked.
    pub fn lock_file(&self) -> PathBuf {
        self.state_dir.join("run.lock")
    }

    /// What `status` reads.
    pub fn status_file(&self) -> PathBuf {
        self.state_dir.join("status.json")
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A position in the file, from 1.
    File {
        /// The file.
        path: PathBuf,
        /// Line.
        line: usize,
        /// Column, in characters.
        column: usize,
    },
    /// The file as a whole (missing key, unreadable).
    Whole(PathBuf),
    /// An environment variable.
    Env(String),
}

impl Place {
    /// The place of a byte of a file's text; none is the file as a whole.
    pub(crate) fn at(file: &Path, text: &str, byte: Option<usize>) -> Self {
        let Some(before) = byte.and_then(|byte| text.get(..byte)) else {
            return Self::Whole(file.to_owned());
        };
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        Self::File { path: file.to_owned(), line, column }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::Whole(path) => write!(f, "{}", path.display()),
            Self::Env(name) => write!(f, "environment variable {name}"),
        }
    }
}

/// One thing that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// The key, if it is about one.
    pub key: Option<String>,
    /// What is wrong and what would be right.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, "{}: {key}: {}", self.place, self.reason),
            None => write!(f, "{}: {}", self.place, self.reason),
        }
    }
}

/// Everything that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(pub Vec<Problem>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(Problem::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for ConfigError {}
