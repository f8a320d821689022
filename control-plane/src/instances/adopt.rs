//! A node that was enrolled again: its servers go back into the books of its agent.
//!
//! A host that was installed again, or whose agent lost its journal, has the customers' VMs and an agent that may not
//! touch them: it acts only on what stands in its own books. So at the first greeting of a new epoch every server that
//! was built there is *adopted*: an order names server and VMID, and the agent takes over the VM if it carries our
//! marker. Nothing about the VM changes by it. What follows depends on the server:
//!
//! | server | once it is adopted |
//! |---|---|
//! | running, stopped | one `ensure` tells again how it shall be: size, card, rules, suspension; its power stays |
//! | retired, being purged | a `retire`, so that the node counts its time; the purge waits for it |
//! | retiring | nothing: the sweep orders the retire again when the earlier one is over |
//!
//! Orders of the epoch before are void; those that the node held are over if it forgot them. Where the journal outlived
//! the enrolment (a certificate that had expired), all of this changes nothing on the host. A server that the node does
//! not take over rings; `server adopt` tries again once a person has looked.

use std::time::Duration;

use ez_protocol::{
    InstanceId, NodeId, UnixMillis,
    order::{Empty, Op},
};
use serde_json::json;
use sqlx::AnyConnection;

use super::{
    act::{ActError, Desk, Label},
    build, change,
    change::InstanceError,
    end::{self, EndError},
    model::{Instance, InstanceEvent, InstanceState},
    settings, store,
};
use crate::{
    app::App,
    audit,
    db::DbError,
    dispatch::{self, Intent, IssueError, Keys, ProvisioningRecord, State},
    entropy::Entropy,
    fleet::{self, NodeRow, Severity, alarms},
    jobs::{self, JobError, JobRun},
};

/// The job that orders one server to be adopted. Key: the server; payload: what [`fleet::ENROLLED_AGAIN`] said.
pub(super) const ADOPT: &str = "instances.adopt";
/// The job that follows. Key: the server.
pub(super) const ADOPTED: &str = "instances.adopted";

/// What the node could not take now is ordered again after this long.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// A node purges no earlier than 24 hours after it retired; its clock may differ from ours.
const NODE_KEEPS: Duration = Duration::from_secs(25 * 60 * 60);
/// The alarm about a server that its node did not take over.
const NOT_ADOPTED: &str = "not_adopted";

/// Why a server was not ordered to be adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// There is no such server, or nothing of it stands on a node.
    #[error("there is no such server on a node")]
    Unknown,
    /// Its node has it in its books, or is being told already.
    #[error("its node has taken it over since it was enrolled, or is being told to")]
    Already,
    /// The order was not issued.
    #[error("issuing the order")]
    Issue(#[from] IssueError),
    /// The database.
    #[error("reading or writing the server")]
    Db(#[from] DbError),
}

/// All servers of a node.
pub(super) async fn run_node(app: App, run: JobRun) -> Result<(), JobError> {
    let node: NodeId = run.key.parse().map_err(JobError::fail)?;
    let at = app.clock.now();
    app.db
        .write(move |tx| {
            Box::pin(async move {
                for id in store::built_on(tx, node).await? {
                    jobs::enqueue(tx, ADOPT, &id.to_string(), &run.payload, at).await?;
                }
                Ok::<_, DbError>(())
            })
        })
        .await?;
    Ok(())
}

/// One server.
pub(super) async fn run(app: App, run: JobRun) -> Result<(), JobError> {
    let id: InstanceId = run.key.parse().map_err(JobError::fail)?;
    let forgot = run.payload["forgot"].as_bool().unwrap_or(false);
    let (at, entropy, keys) = (app.clock.now(), app.entropy.clone(), app.keys.clone());
    let done = app
        .db
        .write(move |tx| {
            Box::pin(async move {
                let Some((instance, node)) = standing_on(tx, id).await? else { return Ok(()) };
                dispatch::end_earlier(tx, at, id, (node.id, node.epoch), forgot).await?;
                match order(tx, &keys, at, entropy.as_ref(), &instance, &node).await {
                    // Quarantined or revoked: it is enrolled again first, and greets again. What it forgot is over all
                    // the same, and only this run knows of it: the next enrolment compares with the journal of this one.
                    Ok(_) | Err(AdoptError::Unknown | AdoptError::Issue(IssueError::NodeNotServing)) => {
                        Ok(())
                    }
                    Err(error) => Err(error),
                }
            })
        })
        .await;
    match done {
        Ok(()) => Ok(()),
        Err(AdoptError::Db(error)) => Err(error.into()),
        Err(error) => Err(JobError::retry(error)),
    }
}

/// Has a server adopted once more, after a person has looked at its host.
///
/// # Errors
/// [`AdoptError`].
pub async fn adopt_again(app: &App, id: InstanceId, actor: &str) -> Result<Instance, AdoptError> {
    let (at, entropy, keys, actor) =
        (app.clock.now(), app.entropy.clone(), app.keys.clone(), actor.to_owned());
    app.db
        .write(move |tx| {
            Box::pin(async move {
                let (instance, node) = standing_on(tx, id).await?.ok_or(AdoptError::Unknown)?;
                let entry = audit::Entry {
                    actor,
                    action: "instance.asked_to.adopt".to_owned(),
                    subject_kind: "instance".to_owned(),
                    subject_id: id.to_string(),
                    detail: json!({ "node": node.id }),
                };
                audit::record(tx, at, entry).await?;
                if order(tx, &keys, at, entropy.as_ref(), &instance, &node).await? {
                    Ok(instance)
                } else {
                    Err(AdoptError::Already)
                }
            })
        })
        .await
}

/// A server that stands on a node, and nobody else changes it until this transaction ends.
async fn standing_on(tx: &mut AnyConnection, id: InstanceId) -> Result<Option<(Instance, NodeRow)>, DbError> {
    let Some(instance) = store::get_to_change(tx, id).await? else { return Ok(None) };
    let stands = matches!(
        instance.state,
        InstanceState::Running
            | InstanceState::Stopped
            | InstanceState::Retiring
            | InstanceState::Retired
            | InstanceState::Purging
    );
    let Some(node) = instance.node.filter(|_| stands) else { return Ok(None) };
    Ok(fleet::node(tx, node).await?.map(|node| (instance, node)))
}

/// Issues the order, unless one of this epoch is under way or has worked out; whether it did.
async fn order(
    tx: &mut AnyConnection,
    keys: &Keys,
    at: UnixMillis,
    entropy: &dyn Entropy,
    instance: &Instance,
    node: &NodeRow,
) -> Result<bool, AdoptError> {
    let of_epoch = |order: &&ProvisioningRecord| {
        order.verb == "adopt" && order.node == node.id && order.epoch == node.epoch
    };
    let history = dispatch::history_of(tx, instance.id).await?;
    let tried: Vec<&ProvisioningRecord> = history.iter().filter(of_epoch).collect();
    if tried.iter().any(|order| !order.state.is_final() || order.state == State::Succeeded) {
        return Ok(false);
    }
    let intent = Intent {
        instance: instance.id,
        placement: fleet::placement_of(tx, instance.id).await?.ok_or(AdoptError::Unknown)?,
        op: Op::Adopt(Empty {}),
        cause_key: format!("adopt:{}:{}", node.epoch, tried.len()),
        order: Some(instance.order),
        actor: "system".to_owned(),
        ttl: None,
    };
    let id = dispatch::issue(tx, keys, at, entropy, intent).await?;
    build::note_action(tx, at, entropy, instance, "adopt", id, "system").await?;
    Ok(true)
}

/// Takes over what came of the order.
pub(super) async fn came_to(
    tx: &mut AnyConnection,
    at: UnixMillis,
    record: &ProvisioningRecord,
    instance: &Instance,
) -> Result<(), DbError> {
    if !record.state.is_final() {
        return Ok(());
    }
    let subject = instance.id.to_string();
    if record.state == State::Succeeded {
        alarms::clear(tx, at, NOT_ADOPTED, &subject).await?;
        return jobs::enqueue(tx, ADOPTED, &subject, &json!({}), at).await;
    }
    // An enrolment after this one has its own order.
    if fleet::node(tx, record.node).await?.is_none_or(|node| node.epoch > record.epoch) {
        return Ok(());
    }
    let refusal = record.refusal.as_deref().unwrap_or_default();
    let passing = dispatch::is_passing_refusal(refusal) || record.class.as_deref() == Some("retryable");
    if passing || record.state == State::Expired {
        return jobs::enqueue(tx, ADOPT, &subject, &json!({}), at.plus(AGAIN_AFTER)).await;
    }
    let why = record.detail.as_deref().filter(|detail| !detail.is_empty()).unwrap_or(refusal);
    let detail = format!(
        "Its host was set up again, and {} (VM {}) was not taken over: {why}. Nothing can be done with the server until \
         then. Look at the VM on the host, then run `ez-control-plane server adopt {}`.",
        instance.hostname, record.vmid, instance.id
    );
    let alarm = alarms::New {
        kind: NOT_ADOPTED,
        subject: &subject,
        severity: Severity::Critical,
        node: Some(record.node),
        detail: &detail,
    };
    alarms::hold(tx, at, alarm).await.map(|_| ())
}

/// Has the job that follows an adoption try again in a while.
pub(super) async fn tell_later(
    tx: &mut AnyConnection,
    at: UnixMillis,
    id: InstanceId,
) -> Result<(), DbError> {
    jobs::enqueue(tx, ADOPTED, &id.to_string(), &json!({}), at.plus(AGAIN_AFTER)).await
}

/// Tells the node what a server that it took over shall be like.
pub(super) async fn run_adopted(app: App, run: JobRun) -> Result<(), JobError> {
    let id: InstanceId = run.key.parse().map_err(JobError::fail)?;
    let (at, entropy, keys) = (app.clock.now(), app.entropy.clone(), app.keys.clone());
    let told: Result<bool, Told> = app
        .db
        .write(move |tx| {
            Box::pin(async move {
                let Some((instance, _)) = standing_on(tx, id).await? else { return Ok(true) };
                let entropy = entropy.as_ref();
                match instance.state {
                    InstanceState::Running | InstanceState::Stopped => {
                        renew(tx, &keys, at, entropy, &instance).await
                    }
                    InstanceState::Retired | InstanceState::Purging => {
                        keep_retired(tx, &keys, at, entropy, instance).await?;
                        Ok(true)
                    }
                    _ => Ok(true),
                }
            })
        })
        .await;
    match told {
        Ok(true) => Ok(()),
        Ok(false) => Err(JobError::retry("something else is being done with the server")),
        Err(Told::Db(error)) => Err(error.into()),
        Err(error) => Err(JobError::retry(error)),
    }
}

/// Why the node was not told.
#[derive(Debug, thiserror::Error)]
enum Told {
    #[error(transparent)]
    Act(#[from] ActError),
    #[error(transparent)]
    End(#[from] EndError),
    #[error(transparent)]
    Instance(#[from] InstanceError),
    #[error(transparent)]
    Db(#[from] DbError),
}

/// The settings that hold, once more; `false` while something else is under way.
async fn renew(
    tx: &mut AnyConnection,
    keys: &Keys,
    at: UnixMillis,
    entropy: &dyn Entropy,
    instance: &Instance,
) -> Result<bool, Told> {
    let wishes = settings::wishes(tx, instance).await?;
    // A server without a disk takes nothing but a rebuild.
    if wishes.disk_lost {
        return Ok(true);
    }
    if !wishes.nothing_under_way() || store::open_action(tx, instance.id).await?.is_some() {
        return Ok(false);
    }
    let desk = Desk { keys, entropy, at, actor: "system" };
    let settings = wishes.applied.clone();
    desk.change(tx, instance, wishes, settings, Label { kind: "renew", about: None, ttl: None }).await?;
    Ok(true)
}

/// The node has to know since when it keeps the disk: it purges nothing that it did not retire a day ago.
async fn keep_retired(
    tx: &mut AnyConnection,
    keys: &Keys,
    at: UnixMillis,
    entropy: &dyn Entropy,
    instance: Instance,
) -> Result<(), Told> {
    let id = end::retire_again(tx, keys, at, entropy, &instance).await?;
    end::again::over(tx, at, instance.id).await?;
    let earliest = at.plus(NODE_KEEPS);
    let purge_at = Some(instance.purge_at.map_or(earliest, |planned| planned.max(earliest)));
    let instance = Instance { purge_at, provisioning_order: Some(id), ..instance };
    change::take(tx, at, instance, InstanceEvent::Retired, "system").await?;
    Ok(())
}
