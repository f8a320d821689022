//! `setup` and `leave`.

use std::{path::Path, process::ExitCode};

use super::print;
use crate::{
    config::DEFAULT_PATH,
    setup::{self, LeaveArgs, SetupArgs},
};

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

pub(super) async fn setup(args: &SetupArgs, config: Option<&Path>) -> anyhow::Result<ExitCode> {
    let config = config.unwrap_or(Path::new(DEFAULT_PATH));
    setup::setup(args, config, &env, &mut |line| print(&line)).await?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn leave(args: &LeaveArgs, config: Option<&Path>) -> anyhow::Result<ExitCode> {
    let config = config.unwrap_or(Path::new(DEFAULT_PATH));
    setup::leave(args, config, &env, &mut |line| print(&line)).await?;
    Ok(ExitCode::SUCCESS)
}
