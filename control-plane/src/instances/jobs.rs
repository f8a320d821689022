//! Jobs of instances.

use std::time::Duration;

use ez_protocol::{InstanceId, ProvisioningOrderId};

use super::{InstanceState, adopt, end, end::EndError, observe, resize, settle, standing, store, suspend};
use crate::{
    app::App,
    billing::{self, STANDING_CHANGED},
    db::DbError,
    dispatch::{IssueError, OBSERVE_JOB},
    fleet,
    instances::InstanceError,
    jobs::{JobError, JobRegistry, JobRun},
};

/// How often endings are looked at.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
const SWEEP: &str = "instances.sweep";

/// Names this slice's job handlers.
pub(crate) fn register_jobs(registry: &mut JobRegistry) {
    registry.on(OBSERVE_JOB, run_observe);
    registry.on(end::wish::CARRY_OUT, end::wish::run);
    registry.on(STANDING_CHANGED, standing::run);
    registry.on(fleet::ENROLLED_AGAIN, adopt::run_node);
    registry.on(adopt::ADOPT, adopt::run);
    registry.on(adopt::ADOPTED, adopt::run_adopted);
    registry.on(settle::SETTLE, settle::run);
    registry.every(SWEEP, SWEEP_EVERY, run_sweep);
}

async fn run_observe(app: App, run: JobRun) -> Result<(), JobError> {
    let id: ProvisioningOrderId = run.key.parse().map_err(JobError::fail)?;
    let at = app.clock.now();
    match app.db.write(move |tx| Box::pin(async move { observe::provisioning(tx, at, id).await })).await {
        Ok(()) => Ok(()),
        // Somebody changed the instance in between: look again.
        Err(InstanceError::Db(error @ DbError::NotFound)) => Err(JobError::retry(error)),
        Err(InstanceError::Db(error)) => Err(error.into()),
        // A late report about something that has moved on.
        Err(InstanceError::Refused(refused)) => {
            tracing::warn!(provisioning_order.id = %id, %refused, "a report came too late to matter");
            Ok(())
        }
    }
}

async fn run_sweep(app: App, _run: JobRun) -> Result<(), JobError> {
    sweep(&app).await.map_err(JobError::from)
}

/// Purges what is due, repeats endings and suspensions that did not work out, and ends what nobody pays for any
/// more.
pub(crate) async fn sweep(app: &App) -> Result<(), DbError> {
    standing::sweep(app).await?;
    suspend::sweep(app).await?;
    resize::sweep(app).await?;
    let now = app.clock.now();
    let (due, ending) = {
        let mut connection = app.db.read().await?;
        (store::due_for_purge(&mut connection, now).await?, store::ending(&mut connection).await?)
    };
    for id in due {
        // One that was retired unpaid has its subscription still, so that a payment could bring it back. Not any more.
        if !ends_for_good(app, id).await? {
            continue;
        }
        let (entropy, keys) = (app.entropy.clone(), app.keys.clone());
        let purged = app
            .db
            .write(move |tx| {
                Box::pin(async move {
                    let instance = store::get_to_change(tx, id).await?.ok_or(EndError::Unknown)?;
                    if instance.state != InstanceState::Retired {
                        return Ok(());
                    }
                    end::purge(tx, &keys, now, entropy.as_ref(), instance, "system").await.map(|_| ())
                })
            })
            .await;
        report(&purged);
    }
    for instance in ending {
        let again = end::again::again(app, instance).await;
        report(&again);
    }
    Ok(())
}

/// Makes sure that nothing is charged any more for a server whose disk is to go; `false` if that is not certain now.
async fn ends_for_good(app: &App, id: InstanceId) -> Result<bool, DbError> {
    let (order, wished) = {
        let mut connection = app.db.read().await?;
        let order = store::get(&mut connection, id).await?.map(|instance| instance.order);
        (order, store::ending_of(&mut connection, id).await?.is_some())
    };
    let Some(order) = order else { return Ok(false) };
    let over = if wished {
        billing::cancel_now(app, order).await.map(|()| true)
    } else {
        // Nobody wished it; who has paid at the last moment keeps it.
        billing::give_up(app, order).await
    };
    match over {
        Ok(over) => Ok(over),
        Err(error) => {
            tracing::warn!(order.id = %order, %error, "a subscription could not be ended; its server's disk waits");
            Ok(false)
        }
    }
}

/// One server that cannot be ended must not keep the others from it.
fn report(result: &Result<(), EndError>) {
    if let Err(EndError::Issue(error @ IssueError::TooMany { .. })) = result {
        tracing::info!(%error, "a server waits for its turn to be ended");
    } else if let Err(error) = result {
        tracing::warn!(error = %error, "a server could not be ended; it will be tried again");
    }
}
