//! Jobs of the fleet.

use std::time::Duration;

use crate::{
    app::App,
    db::DbError,
    fleet::sessions,
    jobs::{JobError, JobRegistry, JobRun},
};

/// Names this slice's job handlers.
pub(crate) fn register_jobs(registry: &mut JobRegistry) {
    registry.every("fleet.watch", Duration::from_secs(15), watch);
}

/// Ends sessions of dead processes, raises and clears the alarms of silent nodes, tells operators by mail.
async fn watch(app: App, run: JobRun) -> Result<(), JobError> {
    let at = run.at;
    let gone = app
        .db
        .write(move |tx| {
            Box::pin(async move {
                sessions::drop_stale(tx, at).await?;
                sessions::watch(tx, at).await
            })
        })
        .await?;
    for node in gone {
        tracing::warn!(node.name = %node.name, last_seen_at = %node.last_seen_at, "node went offline");
    }
    Ok::<_, DbError>(()).map_err(JobError::from)
}
