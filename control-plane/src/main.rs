//! The control plane's program: parses the command line and reports failures.

use std::{io::Write, process::ExitCode};

use clap::Parser;
use ez_control_plane::cli::{self, Cli};

fn main() -> ExitCode {
    let cli = Cli::parse();
    // The only crypto provider; a second install would mean a bug at start-up, not at run time.
    let _only_once = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    runtime.block_on(cli::run(cli)).unwrap_or_else(|error| fail(&error))
}

/// Says what failed and why, on standard error.
fn fail(error: &anyhow::Error) -> ExitCode {
    let _nobody_listens = writeln!(std::io::stderr().lock(), "ez-control-plane: {error:#}");
    ExitCode::FAILURE
}
