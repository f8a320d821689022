//! What the money says about a server is followed: off while it is not due, gone when its service is over, back when
//! it is paid.
//!
//! `billing` says only that something changed; how it stands is read here, in the transaction that acts on it. So
//! it does not matter how often or in which order that is said, and the sweep finds what was never said. What an
//! operator suspended, only an operator resumes.

use std::time::Duration;

use ez_protocol::{InstanceId, OrderId};
use serde_json::json;
use sqlx::AnyConnection;

use super::{
    act::{ActError, Desk, Label},
    change, end,
    end::{EndError, wish},
    model::{Instance, InstanceEvent, InstanceState},
    settings::{self, Settings, store as settings_store},
    store, suspend,
    suspend::SuspendError,
};
use crate::{
    app::App,
    audit,
    billing::{self, BillingError, STANDING_CHANGED, Stand, Standing, Why},
    db::DbError,
    dispatch::{IssueError, Keys},
    entropy::Entropy,
    fleet::{Severity, alarms},
    instances::InstanceError,
    jobs::{self, JobError, JobRun},
};

/// Who suspends and resumes for money's sake.
const BILLING: &str = "billing";
/// The alarm about an order that is about to end and cannot be read at Stripe.
const UNREAD: &str = "standing_unread";
/// When it is read again.
const READ_AGAIN: Duration = Duration::from_secs(60 * 60);
/// Services that ended within this time are compared with their servers.
const COMPARED_FOR: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// Why a standing was not followed.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error(transparent)]
    Suspend(#[from] SuspendError),
    #[error(transparent)]
    End(#[from] EndError),
    #[error(transparent)]
    Act(#[from] ActError),
    #[error(transparent)]
    Instance(#[from] InstanceError),
    #[error("reading what pays for the server again")]
    Billing(#[from] BillingError),
    #[error("reading or writing the server")]
    Db(#[from] DbError),
}

/// The job; the key is the order's id.
pub(super) async fn run(app: App, run: JobRun) -> Result<(), JobError> {
    let order: OrderId = run.key.parse().map_err(JobError::fail)?;
    match follow(&app, order).await {
        Ok(()) => Ok(()),
        Err(FollowError::Db(error)) => Err(error.into()),
        Err(FollowError::Billing(error))
            if !error.is_retryable() && !matches!(error, BillingError::Db(_)) =>
        {
            Ok(unread(&app, order, &error).await?)
        }
        Err(FollowError::Billing(error)) => Err(error.into()),
        // Its node is away; the sweep comes by again.
        Err(FollowError::Act(ActError::Issue(
            IssueError::NodeNotServing | IssueError::TooMany { .. } | IssueError::Paced { .. },
        ))) => Ok(()),
        Err(error) => Err(JobError::retry(error)),
    }
}

/// What Stripe says of an order that is about to end cannot be read: a person is told, and it is looked at again, but not by
/// every sweep.
async fn unread(app: &App, order: OrderId, error: &BillingError) -> Result<(), DbError> {
    tracing::error!(order.id = %order, %error, "whether a server is to end cannot be read");
    let at = app.clock.now();
    let detail = format!(
        "Its service has ended as far as is known, but what Stripe says of order {order} cannot be read: {error}. The server \
         runs on meanwhile; it is looked at again every hour."
    );
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let node = store::by_order(tx, order).await?.and_then(|instance| instance.node);
                let (severity, subject) = (Severity::Critical, order.to_string());
                let alarm = alarms::New { kind: UNREAD, subject: &subject, severity, node, detail: &detail };
                alarms::hold(tx, at, alarm).await?;
                let payload = json!({ "order_id": order });
                jobs::enqueue(tx, STANDING_CHANGED, &subject, &payload, at.plus(READ_AGAIN)).await
            })
        })
        .await
}

async fn follow(app: &App, order: OrderId) -> Result<(), FollowError> {
    let (id, ends) = {
        let mut connection = app.db.read().await?;
        let Some(instance) = store::by_order(&mut connection, order).await? else { return Ok(()) };
        (instance.id, is_to_end(&mut connection, &instance).await?)
    };
    // That cannot be taken back, and the copy may be behind: what is true at Stripe is judged once more first.
    if ends {
        billing::look_before_end(app, order).await?;
    }
    obey(app, order, id, ends).await
}

/// Does what a standing says; `looked` if what it rests on was read again, without which nothing ends but by its unpaid clock.
async fn obey(app: &App, order: OrderId, id: InstanceId, looked: bool) -> Result<(), FollowError> {
    let (at, entropy, keys) = (app.clock.now(), app.entropy.clone(), app.keys.clone());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let Some(instance) = store::get_to_change(tx, id).await? else { return Ok(()) };
                let Some(standing) = billing::standing_of(tx, order).await? else { return Ok(()) };
                if looked {
                    alarms::clear(tx, at, UNREAD, &order.to_string()).await?;
                }
                // It has come to that only now: the job that tells of it looks first.
                if !looked && is_to_end(tx, &instance).await? {
                    return Ok(());
                }
                let desk = Desk { keys: &keys, entropy: entropy.as_ref(), at, actor: BILLING };
                match standing.stand {
                    Stand::Run => serve(tx, desk, instance).await,
                    Stand::Suspend => switch_off(tx, desk, instance, standing.why).await,
                    Stand::End => end_it(tx, desk.keys, desk.entropy, at, instance, standing.why).await,
                }
            })
        })
        .await
}

/// Whether a server is about to end although nobody has asked for that and its unpaid clock has not run out.
async fn is_to_end(connection: &mut AnyConnection, instance: &Instance) -> Result<bool, DbError> {
    let standing = billing::standing_of(connection, instance.order).await?;
    Ok(standing.is_some_and(|standing| rests_on_copy(&standing))
        && instance.state.is_live()
        && store::ending_of(connection, instance.id).await?.is_none())
}

/// Whether a standing ends a server by what the copy says, and not by the unpaid clock, which has looked before each of its steps.
fn rests_on_copy(standing: &Standing) -> bool {
    standing.stand == Stand::End && standing.why != Why::Unpaid
}

/// One sentence for whoever owns it.
fn sentence(why: Why) -> &'static str {
    match why {
        Why::Disputed => "A payment for it is disputed at the bank.",
        Why::Paused => "Its subscription is paused.",
        _ => "An invoice for it is unpaid. It starts again by itself once that is paid.",
    }
}

/// It is paid: what was suspended or retired for money's sake comes back.
async fn serve(tx: &mut AnyConnection, desk: Desk<'_>, instance: Instance) -> Result<(), FollowError> {
    if store::ending_of(tx, instance.id).await?.is_some() {
        return Ok(());
    }
    let held = settings_store::suspension(tx, instance.id).await?;
    let ours = held.is_some_and(|held| held.suspended && held.by == BILLING);
    if instance.state == InstanceState::Retired {
        return bring_back(tx, desk, instance).await;
    }
    if instance.state.is_live() && ours {
        suspend::resume(tx, desk.at, instance.id, "paid", BILLING).await?;
    }
    Ok(())
}

/// A retired server whose disk is there comes back: the node takes an `ensure` for it as for any other. One that an operator
/// has suspended comes back switched off.
async fn bring_back(tx: &mut AnyConnection, desk: Desk<'_>, instance: Instance) -> Result<(), FollowError> {
    let instance = Instance { retired_at: None, purge_at: None, ..instance };
    let instance = change::take(tx, desk.at, instance, InstanceEvent::BroughtBack, BILLING).await?;
    let stays_off = is_theirs(tx, &instance).await?;
    if !stays_off {
        suspend::resume(tx, desk.at, instance.id, "paid", BILLING).await?;
    }
    let wishes = settings::wishes(tx, &instance).await?;
    let wanted = Settings { suspended: stays_off, ..wishes.applied.clone() };
    let kind = if stays_off { "suspend" } else { "resume" };
    desk.change(tx, &instance, wishes, wanted, Label { kind, about: None, ttl: None }).await?;
    Ok(())
}

/// Whether somebody else than billing holds a server suspended.
async fn is_theirs(tx: &mut AnyConnection, instance: &Instance) -> Result<bool, DbError> {
    let held = settings_store::suspension(tx, instance.id).await?;
    Ok(held.is_some_and(|held| held.suspended && held.by != BILLING))
}

async fn switch_off(
    tx: &mut AnyConnection,
    desk: Desk<'_>,
    instance: Instance,
    why: Why,
) -> Result<(), FollowError> {
    if instance.state.is_live() && !is_theirs(tx, &instance).await? {
        suspend::suspend(tx, desk.at, instance.id, sentence(why), BILLING).await?;
    }
    Ok(())
}

async fn end_it(
    tx: &mut AnyConnection,
    keys: &Keys,
    entropy: &dyn Entropy,
    at: ez_protocol::UnixMillis,
    instance: Instance,
    why: Why,
) -> Result<(), FollowError> {
    if !instance.state.is_live() {
        return Ok(());
    }
    if why != Why::Unpaid {
        // Its subscription ends with it, if it has not ended.
        return Ok(wish::wish(tx, at, &instance, "stripe").await?);
    }
    // The subscription stays until the disk goes, so that a payment can bring the server back.
    let entry = audit::Entry {
        actor: BILLING.to_owned(),
        action: "instance.end_unpaid".to_owned(),
        subject_kind: "instance".to_owned(),
        subject_id: instance.id.to_string(),
        detail: json!({ "state": instance.state }),
    };
    audit::record(tx, at, entry).await?;
    end::end(tx, keys, at, entropy, instance, BILLING).await?;
    Ok(())
}

/// Whether a server is not as its standing has it.
async fn differs(connection: &mut AnyConnection, standing: &Standing) -> Result<bool, DbError> {
    let Some(instance) = store::get(connection, standing.instance).await? else { return Ok(false) };
    let suspended = settings_store::suspension(connection, instance.id).await?.filter(|held| held.suspended);
    Ok(match standing.stand {
        Stand::Suspend => instance.state.is_live() && suspended.is_none(),
        Stand::End => instance.state.is_live() && store::ending_of(connection, instance.id).await?.is_none(),
        Stand::Run => false,
    })
}

/// Compares servers with their standings: a lost message costs time, never money. What has to ask Stripe first is the job's,
/// so that one that is silent holds up nothing here.
pub(super) async fn sweep(app: &App) -> Result<(), DbError> {
    let now = app.clock.now();
    let (mut found, mut to_ask) = (Vec::new(), Vec::new());
    {
        let mut connection = app.db.read().await?;
        for standing in billing::standings_to_follow(&mut connection, now.minus(COMPARED_FOR)).await? {
            if !differs(&mut connection, &standing).await? {
                continue;
            }
            // A job that is there keeps its time: it may wait for Stripe.
            if !rests_on_copy(&standing) {
                found.push((standing.order, standing.instance));
            } else if !jobs::is_asked(&mut connection, STANDING_CHANGED, &standing.order.to_string()).await? {
                to_ask.push(standing.order);
            }
        }
        for id in settings_store::held_back(&mut connection, BILLING).await? {
            found.extend(served(&mut connection, id).await?.map(|order| (order, id)));
        }
    }
    for (order, id) in found {
        if let Err(error) = obey(app, order, id, false).await {
            tracing::warn!(order.id = %order, %error, "a server does not follow its invoices yet; it is tried again");
        }
    }
    for order in to_ask {
        let (key, payload) = (order.to_string(), json!({ "order_id": order }));
        app.db
            .write(move |tx| {
                Box::pin(async move { jobs::enqueue(tx, STANDING_CHANGED, &key, &payload, now).await })
            })
            .await?;
    }
    Ok(())
}

/// The order of a server that is held back for money's sake although it is paid.
async fn served(connection: &mut AnyConnection, id: InstanceId) -> Result<Option<OrderId>, DbError> {
    let Some(instance) = store::get(connection, id).await? else { return Ok(None) };
    let standing = billing::standing_of(connection, instance.order).await?;
    Ok(standing.filter(|standing| standing.stand == Stand::Run).map(|standing| standing.order))
}
