//! `migrate` and `backup`.

use std::{path::Path, process::ExitCode};

use anyhow::Context;

use super::{open_database, say};
use crate::config::Config;

pub(super) async fn migrate(config: Config) -> anyhow::Result<ExitCode> {
    let db = open_database(&config).await?;
    let pending = db.pending().await.context("cannot see what is pending")?;
    db.migrate().await.context("cannot migrate")?;
    for migration in &pending.0 {
        say(format_args!("applied {migration}"))?;
    }
    say("the database is up to date")?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn backup(config: Config, file: &Path) -> anyhow::Result<ExitCode> {
    let db = open_database(&config).await?;
    db.backup_to(file).await.context("cannot copy the database")?;
    say(format_args!("wrote {}; keep a copy of {} too", file.display(), config.storage.keys_dir.display()))?;
    Ok(ExitCode::SUCCESS)
}
