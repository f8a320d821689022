//! This host as the doctor asks it: small files and commands that only tell.

use std::{io, path::Path, process::Stdio, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use tokio::process::Command;

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(4);

/// What a command said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It is not installed, or did not come to an end.
    Nothing(String),
    /// Its output, without the last line break, and whether it called it a success.
    Text(String, bool),
}

/// The host around the agent.
pub trait System: Send + Sync {
    /// A small file.
    ///
    /// # Errors
    /// What the system says.
    fn read(&self, path: &Path) -> io::Result<String>;

    /// Runs a command that changes nothing.
    fn run<'a>(&'a self, program: &'a str, arguments: &'a [&'a str]) -> BoxFuture<'a, Said>;
}

/// The host itself.
#[derive(Debug, Default)]
pub struct HostSystem;

impl System for HostSystem {
    fn read(&self, path: &Path) -> io::Result<String> {
        std::fs::read_to_string(path)
    }

    fn run<'a>(&'a self, program: &'a str, arguments: &'a [&'a str]) -> BoxFuture<'a, Said> {
        async move {
            let mut command = Command::new(program);
            command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
            match tokio::time::timeout(PATIENCE, command.output()).await {
                Err(_) => Said::Nothing(format!("{program} did not answer")),
                Ok(Err(error)) => Said::Nothing(format!("{program}: {error}")),
                Ok(Ok(output)) => {
                    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
                    Said::Text(text, output.status.success())
                }
            }
        }
        .boxed()
    }
}
