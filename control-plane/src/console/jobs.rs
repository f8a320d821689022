//! Consoles whose process died, and tickets nobody used.

use std::time::Duration;

use super::{End, SILENT, close, store};
use crate::jobs::{JobError, JobRegistry};

/// How long the rows of ended consoles are kept; the audit stays.
const KEEP: Duration = Duration::from_secs(30 * 24 * 3_600);

/// Names this slice's job handlers.
pub(crate) fn register_jobs(registry: &mut JobRegistry) {
    registry.every("console.sweep", Duration::from_secs(60), |app, run| async move {
        app.db
            .write(move |tx| {
                Box::pin(async move {
                    for (console, up, down) in store::silent(tx, run.at.minus(SILENT * 2)).await? {
                        close(tx, run.at, &console, End::Lost, (up, down)).await?;
                    }
                    store::sweep(tx, run.at, run.at.minus(KEEP)).await
                })
            })
            .await
            .map_err(JobError::from)
    });
}
