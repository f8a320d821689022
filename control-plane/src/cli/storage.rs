//! `migrate` and `backup`.

use std::{path::Path, process::ExitCode};

use anyhow::Context;

use super::{make_database, must_be_there, say};
use crate::config::Storage;

pub(super) async fn migrate(storage: &Storage) -> anyhow::Result<ExitCode> {
    let db = make_database(storage).await?;
    let pending = db.pending().await.context("cannot see what is pending")?;
    db.migrate().await.context("cannot migrate")?;
    for migration in &pending.0 {
        say(format_args!("applied {migration}"))?;
    }
    say("the database is up to date")?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn backup(storage: &Storage, file: &Path) -> anyhow::Result<ExitCode> {
    must_be_there(storage)?;
    let db = make_database(storage).await?;
    db.backup_to(file).await.context("cannot copy the database")?;
    say(format_args!("wrote {}; keep a copy of {} too", file.display(), storage.keys_dir.display()))?;
    Ok(ExitCode::SUCCESS)
}
