//! What is wished or seen of a server and not yet true of its settings: looked at after each order about it, when it
//! was seen off, and by the sweep. A job of its own, because whoever notices it holds other locks.

use ez_protocol::{InstanceId, UnixMillis};
use serde_json::json;
use sqlx::AnyConnection;

use super::{
    act::ActError,
    model::{Instance, InstanceState},
    resize,
    settings::{self, Wishes},
    store, suspend,
};
use crate::{
    app::App,
    db::DbError,
    dispatch::IssueError,
    jobs::{self, JobError, JobRun},
};

/// The job. Key: the instance.
pub(super) const SETTLE: &str = "instances.settle";

/// Has the job look at a server. Last in a transaction: whoever else holds the server's row asks for the same job.
pub(super) async fn enqueue(tx: &mut AnyConnection, id: InstanceId, at: UnixMillis) -> Result<(), DbError> {
    jobs::enqueue(tx, SETTLE, &id.to_string(), &json!({}), at).await
}

/// Something happened to a server: the job looks at it if there is anything to see.
pub(super) async fn after(
    tx: &mut AnyConnection,
    at: UnixMillis,
    instance: &Instance,
) -> Result<(), DbError> {
    // What happened may have changed what is seen of it.
    let Some(instance) = store::get(tx, instance.id).await? else { return Ok(()) };
    let wishes = settings::wishes(tx, &instance).await?;
    let due = wishes.suspension_is_due() || suspend::runs_all_the_same(tx, at, &instance, &wishes).await?;
    if due || wishes.restart_needed || resize::is_due(tx, instance.id).await? {
        return enqueue(tx, instance.id, at).await;
    }
    suspend::in_time(tx, at, &instance, &wishes).await
}

pub(super) async fn run(app: App, run: JobRun) -> Result<(), JobError> {
    let id: InstanceId = run.key.parse().map_err(JobError::fail)?;
    match settle(&app, id).await {
        Ok(()) => Ok(()),
        Err(ActError::Db(error)) => Err(error.into()),
        // Its node is away, or it was told too much in this hour: the sweep comes by again.
        Err(
            error @ ActError::Issue(
                IssueError::NodeNotServing | IssueError::TooMany { .. } | IssueError::Paced { .. },
            ),
        ) => {
            tracing::warn!(instance.id = %id, %error, "a suspension or a new size waits for its node");
            Ok(())
        }
        Err(error) => Err(JobError::retry(error)),
    }
}

async fn settle(app: &App, id: InstanceId) -> Result<(), ActError> {
    let (at, entropy, keys) = (app.clock.now(), app.entropy.clone(), app.keys.clone());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let Some(instance) = store::get_to_change(tx, id).await? else { return Ok(()) };
                let mut wishes = settings::wishes(tx, &instance).await?;
                if wishes.restart_needed && instance.state == InstanceState::Stopped {
                    // What waited for a cold start takes effect with the next start.
                    wishes = Wishes { restart_needed: false, ..wishes };
                    settings::put(tx, at, id, &wishes).await?;
                }
                // Whether it runs at all comes before how large it is.
                if wishes.suspension_is_due() {
                    return suspend::carry_out(tx, &keys, at, entropy.as_ref(), instance, wishes).await;
                }
                if suspend::runs_all_the_same(tx, at, &instance, &wishes).await? {
                    return suspend::once_more(tx, &keys, at, entropy.as_ref(), instance, wishes).await;
                }
                resize::carry_out(tx, &keys, at, entropy.as_ref(), instance, wishes).await
            })
        })
        .await
}
