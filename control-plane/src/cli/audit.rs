//! `audit verify`.

use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;

use super::{open_database, say};
use crate::{audit, config::Storage};

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Recomputes the chain; fails if it does not hold.
    Verify {
        /// Print one JSON object instead of text.
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn audit(storage: &Storage, command: AuditCommand) -> anyhow::Result<ExitCode> {
    let AuditCommand::Verify { json } = command;
    let db = open_database(storage).await?;
    let verdict = audit::verify(&db).await.context("cannot read the audit log")?;
    if json {
        say(serde_json::to_string(&verdict)?)?;
    } else {
        for breach in &verdict.breaches {
            say(format_args!("row {}: {}", breach.seq, breach.what))?;
        }
        say(format_args!("{} rows in the chain, {} not sealed yet", verdict.sealed, verdict.unsealed))?;
        say(format_args!("head {}", verdict.head))?;
    }
    Ok(if verdict.breaches.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
