//! Jobs of the fleet.

use std::time::Duration;

use crate::{
    app::App,
    db::DbError,
    fleet::{NodeOffline, alarms, enrol, sessions},
    jobs::{JobError, JobRegistry, JobRun},
    notify,
};

/// How long an alarm that ended, and a certificate that is over, are kept; the audit stays.
const KEEP: Duration = Duration::from_secs(30 * 24 * 3_600);

/// Names this slice's job handlers.
pub(crate) fn register_jobs(registry: &mut JobRegistry) {
    registry.every("fleet.watch", Duration::from_secs(15), watch);
    registry.every("fleet.sweep", Duration::from_secs(60 * 60), sweep);
}

/// Forgets ended alarms, and certificates that are over.
async fn sweep(app: App, run: JobRun) -> Result<(), JobError> {
    let before = run.at.minus(KEEP);
    app.db
        .write(move |tx| {
            Box::pin(async move {
                alarms::sweep(tx, before).await?;
                enrol::sweep(tx, before).await
            })
        })
        .await
        .map_err(JobError::from)
}

/// Ends sessions of dead processes, raises and clears the alarms of silent nodes, tells operators by mail.
async fn watch(app: App, run: JobRun) -> Result<(), JobError> {
    let (at, config) = (run.at, app.config.clone());
    let gone = app
        .db
        .write(move |tx| {
            Box::pin(async move {
                sessions::drop_stale(tx, at).await?;
                let gone = sessions::watch(tx, at).await?;
                for node in &gone {
                    let link = config.http.page(&format!("/operator/nodes/{}", node.name));
                    let letter = NodeOffline { node: node.name.clone(), link };
                    notify::send_to_operators(tx, at, &config, &letter).await?;
                }
                Ok::<_, DbError>(gone)
            })
        })
        .await?;
    for node in gone {
        tracing::warn!(node.name = %node.name, last_seen_at = %node.last_seen_at, "node went offline");
    }
    Ok(())
}
