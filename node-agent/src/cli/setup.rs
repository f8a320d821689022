//! `setup` and `leave`.

use std::{
    io::{self, IsTerminal as _},
    path::Path,
    process::ExitCode,
};

use super::{message, print};
use crate::{
    config::DEFAULT_PATH,
    setup::{self, LeaveArgs, SetupArgs, Talk},
};

/// Speaks on standard output; asks only where a person sits.
struct Terminal;

impl Talk for Terminal {
    fn say(&mut self, line: String) {
        print(&line);
    }

    fn confirm(&mut self) -> bool {
        if !io::stdin().is_terminal() {
            return true;
        }
        message("Go on? [y/N]");
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
    }
}

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

pub(super) async fn setup(args: &SetupArgs, config: Option<&Path>) -> anyhow::Result<ExitCode> {
    setup::setup(args, config.unwrap_or(Path::new(DEFAULT_PATH)), &env, &mut Terminal).await?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn leave(args: &LeaveArgs, config: Option<&Path>) -> anyhow::Result<ExitCode> {
    setup::leave(args, config.unwrap_or(Path::new(DEFAULT_PATH)), &env, &mut Terminal).await?;
    Ok(ExitCode::SUCCESS)
}
