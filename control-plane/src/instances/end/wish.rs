//! The wish that a server ends: durable before anything is done about it.
//!
//! Ending a server is two effects in two places, the subscription at Stripe and the retire order for the node.
//! The wish is written first; then both are brought about at once if they can be, and by a job until they are.

use std::time::Duration;

use ez_protocol::{InstanceId, UnixMillis};
use serde_json::json;
use sqlx::AnyConnection;

use super::{EndError, end};
use crate::{
    app::{App, Services},
    audit, billing,
    db::DbError,
    fleet::alarms,
    instances::{
        model::{Instance, InstanceState},
        store,
    },
    jobs::{self, JobError, JobRun},
};

/// Carries a wish out. Key: the instance.
pub(in crate::instances) const CARRY_OUT: &str = "instances.end";
/// The job waits this long for whoever wrote the wish, who tries first.
const AFTER_THE_WISH: Duration = Duration::from_secs(5);
/// After so many attempts an operator is told.
const ALARM_AFTER: u32 = 6;

/// Deletes a customer's server: notes the wish, ends its subscription now, retires it, and purges it after the
/// retention. What cannot be done at once is done by a job.
///
/// # Errors
/// [`EndError::Unknown`] and [`EndError::DoesNotFit`], and the database's; with those nothing was noted.
pub async fn delete(app: &Services, id: InstanceId, actor: &str) -> Result<Instance, EndError> {
    let (at, by) = (app.clock.now(), actor.to_owned());
    let instance = app
        .db
        .write(move |tx| {
            Box::pin(async move {
                let instance = store::get_to_change(tx, id).await?.ok_or(EndError::Unknown)?;
                match instance.state {
                    InstanceState::Running | InstanceState::Stopped => {}
                    // Asked for already.
                    InstanceState::Retiring | InstanceState::Retired => return Ok(instance),
                    other => return Err(EndError::DoesNotFit(other)),
                }
                wish(tx, at, &instance, &by).await?;
                Ok(instance)
            })
        })
        .await?;
    if !instance.state.is_live() {
        return Ok(instance);
    }
    match carry_out(app, id).await {
        Ok(ended) => Ok(ended.unwrap_or(instance)),
        Err(error) => {
            tracing::warn!(instance.id = %id, %error, "a server could not be ended at once; a job goes on");
            Ok(instance)
        }
    }
}

/// Notes that a server is to end.
pub(in crate::instances) async fn wish(
    tx: &mut AnyConnection,
    at: UnixMillis,
    instance: &Instance,
    actor: &str,
) -> Result<(), DbError> {
    if store::insert_ending(tx, at, instance.id, actor).await? {
        let entry = audit::Entry {
            actor: actor.to_owned(),
            action: "instance.end_requested".to_owned(),
            subject_kind: "instance".to_owned(),
            subject_id: instance.id.to_string(),
            detail: json!({ "state": instance.state }),
        };
        audit::record(tx, at, entry).await?;
    }
    let key = instance.id.to_string();
    jobs::enqueue(tx, CARRY_OUT, &key, &json!({}), at.plus(AFTER_THE_WISH)).await
}

/// Does what a wish asks for, as far as it is not done; the server as it is then.
async fn carry_out(app: &Services, id: InstanceId) -> Result<Option<Instance>, EndError> {
    let order = {
        let mut connection = app.db.read().await?;
        let Some(instance) = store::get(&mut connection, id).await? else { return Ok(None) };
        if !instance.state.is_live() {
            return Ok(Some(instance));
        }
        instance.order
    };
    billing::cancel_now(app, order).await?;
    let (at, entropy, keys) = (app.clock.now(), app.entropy.clone(), app.keys.clone());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let Some(instance) = store::get_to_change(tx, id).await? else { return Ok(None) };
                let Some(actor) = store::ending_of(tx, id).await?.filter(|_| instance.state.is_live()) else {
                    return Ok(Some(instance));
                };
                end(tx, &keys, at, entropy.as_ref(), instance, &actor).await.map(Some)
            })
        })
        .await
}

/// The job.
pub(in crate::instances) async fn run(app: App, run: JobRun) -> Result<(), JobError> {
    let id: InstanceId = run.key.parse().map_err(JobError::fail)?;
    let Err(error) = carry_out(&app, id).await else { return Ok(()) };
    if run.attempt >= ALARM_AFTER {
        let at = app.clock.now();
        let detail =
            format!("Its service has ended and nobody pays for it, but it cannot be retired: {error}.");
        app.db
            .write(move |tx| {
                Box::pin(async move {
                    let (severity, subject) = (crate::fleet::Severity::Critical, id.to_string());
                    let node = store::get(tx, id).await?.and_then(|instance| instance.node);
                    let alarm = alarms::New {
                        kind: "server_not_ended",
                        subject: &subject,
                        severity,
                        node,
                        detail: &detail,
                    };
                    alarms::hold(tx, at, alarm).await.map(|_| ())
                })
            })
            .await?;
    }
    Err(JobError::retry(error))
}
