//! The node agent's program: everything is in the library, this only starts it.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let cli = ez_node_agent::cli::Cli::parse();
    // One provider for all of TLS; a second installation cannot happen this early.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return ez_node_agent::cli::failure(&anyhow::Error::new(error)),
    };
    match runtime.block_on(ez_node_agent::cli::dispatch(cli)) {
        Ok(code) => code,
        Err(error) => ez_node_agent::cli::failure(&error),
    }
}
