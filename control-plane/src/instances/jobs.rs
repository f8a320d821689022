//! Jobs of instances.

use std::{collections::BTreeSet, time::Duration};

use ez_protocol::{InstanceId, NodeId, ProvisioningOrderId};

use super::{InstanceState, adopt, end, end::EndError, observe, resize, settle, standing, store, suspend};
use crate::{
    app::App,
    billing::{self, STANDING_CHANGED},
    db::DbError,
    dispatch::{IssueError, OBSERVE_JOB},
    fleet::{self, NodeRow},
    instances::InstanceError,
    jobs::{JobError, JobRegistry, JobRun},
};

/// How often endings are looked at.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
const SWEEP: &str = "instances.sweep";
/// Disks that go in one sweep.
const MOST_PURGES: usize = 500;

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
/// more. What has to ask Stripe comes last, so that one that is silent holds up nothing else.
pub(crate) async fn sweep(app: &App) -> Result<(), DbError> {
    standing::sweep(app).await?;
    suspend::sweep(app).await?;
    resize::sweep(app).await?;
    let ending = {
        let mut connection = app.db.read().await?;
        store::ending(&mut connection).await?
    };
    for instance in ending {
        let again = end::again::again(app, instance).await;
        report(&again);
    }
    purge_due(app).await
}

/// Purges what is due. Once Stripe turns out to be away nobody else is asked about in this run: each would wait as long.
async fn purge_due(app: &App) -> Result<(), DbError> {
    let now = app.clock.now();
    let due = {
        let mut connection = app.db.read().await?;
        let due = store::due_for_purge(&mut connection, now).await?;
        if due.is_empty() {
            return Ok(());
        }
        in_turn(due, &fleet::nodes::list(&mut connection, None).await?)
    };
    for id in due {
        // One that was retired unpaid has its subscription still, so that a payment could bring it back. Not any more.
        match ends_for_good(app, id).await? {
            Ending::Over => {}
            Ending::Unsure => continue,
            Ending::StripeIsAway => return Ok(()),
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
    Ok(())
}

/// Those first whose node takes orders: on one that was revoked for good a disk stays due for ever, and must not stand in
/// front of others. It is not left out, since its subscription is to end all the same.
fn in_turn(mut due: Vec<(InstanceId, Option<NodeId>)>, nodes: &[NodeRow]) -> Vec<InstanceId> {
    let takes: BTreeSet<NodeId> =
        nodes.iter().filter(|node| node.state.takes_orders()).map(|node| node.id).collect();
    due.sort_by_key(|(_, node)| !node.is_some_and(|node| takes.contains(&node)));
    due.into_iter().map(|(id, _)| id).take(MOST_PURGES).collect()
}

/// Whether nothing is charged any more for a server.
enum Ending {
    Over,
    /// It was paid at the last moment, or that cannot be said now.
    Unsure,
    /// Nor can it be said of any other.
    StripeIsAway,
}

/// Makes sure that nothing is charged any more for a server whose disk is to go.
async fn ends_for_good(app: &App, id: InstanceId) -> Result<Ending, DbError> {
    let (order, wished) = {
        let mut connection = app.db.read().await?;
        let order = store::get(&mut connection, id).await?.map(|instance| instance.order);
        (order, store::ending_of(&mut connection, id).await?.is_some())
    };
    let Some(order) = order else { return Ok(Ending::Unsure) };
    let over = if wished {
        billing::cancel_now(app, order).await.map(|()| true)
    } else {
        // Nobody wished it; who has paid at the last moment keeps it.
        billing::give_up(app, order).await
    };
    match over {
        Ok(true) => Ok(Ending::Over),
        Ok(false) => Ok(Ending::Unsure),
        Err(error) => {
            tracing::warn!(order.id = %order, %error, "a subscription could not be ended; its server's disk waits");
            Ok(if error.is_away() { Ending::StripeIsAway } else { Ending::Unsure })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        db,
        fleet::{
            NodeChange,
            testing::{instance, locations, read, ready_node, services},
        },
    };

    #[tokio::test]
    async fn disks_on_a_node_that_takes_no_orders_are_the_last_in_turn() {
        let (db, _directory) = db::testing::sqlite().await;
        let (app, _clock) = services(db);
        locations(&app, 10).await;
        let gone = ready_node(&app, "fsn-1", 1_000, 3).await.id;
        let there = ready_node(&app, "fsn-2", 2_000, 3).await.id;
        fleet::change_node(&app, "operator:test", "fsn-1", NodeChange::Revoke).await.unwrap();
        let nodes = read(&app, async |c| fleet::nodes::list(c, None).await).await;
        let due = vec![(instance(1), Some(gone)), (instance(2), Some(there)), (instance(3), None)];
        assert_eq!(in_turn(due, &nodes), [instance(2), instance(1), instance(3)]);
        let many = (0..MOST_PURGES).map(|_| (instance(1), Some(gone)));
        let due: Vec<_> = many.chain([(instance(2), Some(there))]).collect();
        assert_eq!(in_turn(due, &nodes)[0], instance(2));
    }
}
