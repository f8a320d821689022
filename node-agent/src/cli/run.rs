//! `run`: the agent itself.

use std::process::ExitCode;

use crate::config::Config;

pub(super) async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let _ = config;
    anyhow::bail!("not yet")
}
