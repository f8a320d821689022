//! What nodes say: state reports, and what came of provisioning orders.

use std::time::Duration;

use ez_protocol::{InstanceId, NodeId, ProvisioningOrderId, UnixMillis};
use serde_json::json;
use sqlx::AnyConnection;

use super::{
    CHANGED, adopt, build, change,
    end::{self, RETENTION},
    kept,
    model::{ActionState, Instance, InstanceEvent, InstanceState},
    settings, settle, store, suspend,
};
use crate::{
    db::DbError,
    dispatch::{self, ProvisioningRecord, State},
    fleet::{self, Presence, Release, alarms},
    instances::InstanceError,
    jobs,
};

/// The alarm about an order that was given up and came to life.
const REVIVED: &str = "order_revived";

/// The alarm about a server that its host does not have any more.
const MISSING: &str = "server_missing";

/// One server as its node saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The server.
    pub instance: InstanceId,
    /// `running`, `stopped`, `paused` or `absent`.
    pub power: String,
}

/// Takes over a node's state report; `seen_at` is when the node looked, by its own clock. A report about a server that
/// lives elsewhere, or one older than what is known, changes nothing.
///
/// # Errors
/// Those of the database.
pub async fn observe(
    tx: &mut AnyConnection,
    at: UnixMillis,
    seen_at: UnixMillis,
    node: NodeId,
    items: &[Seen],
) -> Result<(), DbError> {
    if items.is_empty() {
        return Ok(());
    }
    // One order of rows for all reports.
    let mut items: Vec<&Seen> = items.iter().collect();
    items.sort_unstable_by_key(|item| item.instance);
    for item in items {
        let Some(state) = store::put_observed(tx, item.instance, node, &item.power, seen_at, at).await?
        else {
            continue;
        };
        miss(tx, at, node, item, state).await?;
        let event = match item.power.as_str() {
            "running" | "paused" => InstanceEvent::SeenOn,
            "stopped" => InstanceEvent::SeenOff,
            _ => continue,
        };
        if state.take(event).is_ok_and(|next| next != state)
            && let Some(instance) = store::get(tx, item.instance).await?
        {
            // A customer's shutdown in the guest, or a power action: the observed state leads.
            match change::take(tx, at, instance, event, &format!("node:{node}")).await {
                Ok(instance) => settle::after(tx, at, &instance).await?,
                Err(InstanceError::Refused(_)) => {}
                Err(InstanceError::Db(error)) => return Err(error),
            }
        }
    }
    Ok(())
}

/// A server that is sold and that its host does not have any more: somebody removed it there by hand, or its storage is
/// gone. The alarm ends when the server is seen again, or is over.
async fn miss(
    tx: &mut AnyConnection,
    at: UnixMillis,
    node: NodeId,
    item: &Seen,
    state: InstanceState,
) -> Result<(), DbError> {
    let subject = item.instance.to_string();
    if item.power != "absent" || !state.is_live() {
        return alarms::clear(tx, at, MISSING, &subject).await;
    }
    // A rebuild or a restore takes it away for a while; every full report tells it again.
    if store::open_action(tx, item.instance).await?.is_some() {
        return Ok(());
    }
    let detail = format!(
        "Its host says that server {subject} is not there any more, and nobody ordered that. Look on the host what became \
         of its VM and its disk: a VM that has lost our mark in its notes, or has left our pool, is none of ours there. A backup can be restored there, or the server rebuilt or deleted."
    );
    let severity = fleet::Severity::Critical;
    let alarm = alarms::New { kind: MISSING, subject: &subject, severity, node: Some(node), detail: &detail };
    alarms::hold(tx, at, alarm).await?;
    Ok(())
}

/// What is known about a server's power state, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// When it was last known to be so.
    pub at: Option<UnixMillis>,
    /// Whether its node is there, so that a change would have been told.
    pub fresh: bool,
}

/// An agent looks at its servers this often and tells every change.
const LOOKS_EVERY: Duration = Duration::from_secs(15);

/// When a server's observed state was last known to hold. An agent reports changes, not sameness: as long as it is
/// there, looks and is silent about a server, the server is as it was at the agent's last look. One that cannot look (a
/// token that Proxmox refuses, a damaged journal) says when it last could, and its signs of life tell nothing more.
///
/// # Errors
/// Those of the query.
pub async fn sight(
    connection: &mut AnyConnection,
    instance: &Instance,
    now: UnixMillis,
) -> Result<Sight, DbError> {
    let node = match instance.node {
        Some(node) => fleet::node(connection, node).await?,
        None => None,
    };
    Ok(sight_from(instance, node.as_ref(), now))
}

/// The same for a server whose node was read before.
pub(super) fn sight_from(instance: &Instance, node: Option<&fleet::NodeRow>, now: UnixMillis) -> Sight {
    let blind_since = node.and_then(|node| node.blind_since);
    let fresh = blind_since.is_none() && node.is_some_and(|node| node.presence(now) == Presence::Online);
    // A time to come was written while our clock was wrong.
    let heard = node.and_then(|node| node.last_seen_at).map(|at| at.min(now).minus(LOOKS_EVERY));
    let at = match (instance.observed_at.map(|seen| seen.min(now)), heard, blind_since) {
        (Some(seen), _, Some(looked)) => Some(seen.max(looked)),
        (Some(seen), Some(heard), None) if fresh => Some(seen.max(heard)),
        (seen, _, _) => seen,
    };
    Sight { at, fresh: fresh && instance.observed_at.is_some() }
}

/// Takes over what came of a provisioning order. Idempotent.
pub(super) async fn provisioning(
    tx: &mut AnyConnection,
    at: UnixMillis,
    id: ProvisioningOrderId,
) -> Result<(), InstanceError> {
    let Some(instance) = dispatch::show(tx, id).await?.map(|record| record.instance) else { return Ok(()) };
    let Some(instance) = store::get_to_change(tx, instance).await? else { return Ok(()) };
    // Read only now: who held the server before may have moved the order.
    let Some(record) = dispatch::show(tx, id).await? else { return Ok(()) };
    if record.state.is_final() {
        let (state, error) = match record.state {
            State::Succeeded => (ActionState::Succeeded, None),
            _ => (ActionState::Failed, Some(failure(&record))),
        };
        store::finish_action(tx, at, id, state, error.as_deref()).await?;
    }
    kept::take_over(tx, at, &record).await?;
    let actor = format!("node:{}", record.node);
    if let Some(settings) = settings::store::change(tx, id).await? {
        return changed(tx, at, &record, &instance, settings, &actor).await;
    }
    let current = instance.provisioning_order == Some(id);
    match record.verb.as_str() {
        "ensure" => ensure(tx, at, &record, instance, current, &actor).await,
        // Only the first word counts: a repeated one must not move the purge.
        "retire"
            if current && record.state == State::Succeeded && instance.state == InstanceState::Retiring =>
        {
            end::again::over(tx, at, instance.id).await?;
            suspend::over(tx, at, instance.id).await?;
            let instance = Instance { retired_at: Some(at), purge_at: Some(at.plus(RETENTION)), ..instance };
            store::put_observed(tx, instance.id, record.node, "stopped", record.seen_at(at), at).await?;
            change::take(tx, at, instance, InstanceEvent::Retired, &actor).await.map(|_| ())
        }
        "purge"
            if current && record.state == State::Succeeded && instance.state == InstanceState::Purging =>
        {
            // Before its place is given back: only reports from where a server lives count.
            store::put_observed(tx, instance.id, record.node, "absent", record.seen_at(at), at).await?;
            alarms::clear(tx, at, MISSING, &instance.id.to_string()).await?;
            end::again::over(tx, at, instance.id).await?;
            fleet::release(tx, at, instance.id, Release::Gone).await?;
            let instance = Instance { purged_at: Some(at), ..instance };
            change::take(tx, at, instance, InstanceEvent::Purged, &actor).await.map(|_| ())
        }
        // A node that forgot that it was retired did not take this in.
        "retire"
            if current
                && record.state.is_final()
                && record.state != State::Succeeded
                && instance.state == InstanceState::Retired =>
        {
            let stuck = record.state == State::Stuck;
            let at = if stuck { at.plus(end::again::STUCK_AGAIN_AFTER) } else { at };
            Ok(adopt::tell_later(tx, at, instance.id).await?)
        }
        "retire" | "purge" => Ok(()),
        "adopt" => Ok(adopt::came_to(tx, at, &record, &instance).await?),
        verb => {
            // These start it anew, and what waited for that has taken effect.
            let starts = matches!(verb, "reboot" | "snapshot_rollback" | "backup_restore");
            if starts && record.state == State::Succeeded {
                settings::store::restarted(tx, instance.id).await?;
            }
            settings::disk_seen(tx, at, &record, &instance).await?;
            power(tx, at, &record, &instance, &actor).await?;
            ended(tx, at, &record, &instance).await
        }
    }
}

/// An order that makes a server that is there be otherwise: it concerns no purchase, and a failed one no more than
/// what it was to change.
async fn changed(
    tx: &mut AnyConnection,
    at: UnixMillis,
    record: &ProvisioningRecord,
    instance: &Instance,
    settings: settings::Settings,
    actor: &str,
) -> Result<(), InstanceError> {
    settings::came_to(tx, at, record, instance, settings).await?;
    // It may have another image and other keys since.
    let Some(instance) = store::get(tx, instance.id).await? else { return Ok(()) };
    power(tx, at, record, &instance, actor).await?;
    ended(tx, at, record, &instance).await
}

/// Whatever waited for the end of an order goes on.
async fn ended(
    tx: &mut AnyConnection,
    at: UnixMillis,
    record: &ProvisioningRecord,
    instance: &Instance,
) -> Result<(), InstanceError> {
    if record.state.is_final() {
        settle::after(tx, at, instance).await?;
    }
    Ok(())
}

/// The purchase decides what a failed attempt means; a success is written down at once.
async fn ensure(
    tx: &mut AnyConnection,
    at: UnixMillis,
    record: &ProvisioningRecord,
    instance: Instance,
    current: bool,
    actor: &str,
) -> Result<(), InstanceError> {
    let place = fleet::placement_of(tx, instance.id).await?;
    let here = place.is_some_and(|place| (place.node, place.vmid) == (record.node, record.vmid));
    let building = matches!(instance.state, InstanceState::Provisioning | InstanceState::NeedsOperator);
    if !current && !here {
        return match instance.state {
            InstanceState::Purged => Ok(()),
            _ => revived(tx, at, record, instance.id).await,
        };
    }
    let order = instance.order;
    // After a retry the order before it may turn out to have built the server: it stands where it belongs.
    if record.state == State::Succeeded && here && building {
        build::built(tx, at, instance, record.facts.as_ref(), actor).await?;
    }
    if record.state.is_final() || record.state == State::Accepted {
        jobs::enqueue(tx, CHANGED, &order.to_string(), &json!({"order_id": order}), at).await?;
    }
    Ok(())
}

/// An order that was given up came to life where the server has no place any more.
async fn revived(
    tx: &mut AnyConnection,
    at: UnixMillis,
    record: &ProvisioningRecord,
    instance: InstanceId,
) -> Result<(), InstanceError> {
    let subject = record.id.to_string();
    if !matches!(record.state, State::Accepted | State::Running | State::Succeeded | State::Stuck) {
        alarms::clear(tx, at, REVIVED, &subject).await?;
        return Ok(());
    }
    let detail = format!(
        "Its node reports {} about an order that had been given up: server {instance} may exist there and elsewhere. Stop it there by hand.",
        record.state
    );
    let severity = fleet::Severity::Critical;
    let alarm =
        alarms::New { kind: REVIVED, subject: &subject, severity, node: Some(record.node), detail: &detail };
    alarms::hold(tx, at, alarm).await?;
    Ok(())
}

/// What ended tells the power state before the next report does, however it ended.
async fn power(
    tx: &mut AnyConnection,
    at: UnixMillis,
    record: &ProvisioningRecord,
    instance: &Instance,
    actor: &str,
) -> Result<(), InstanceError> {
    let Some(facts) = record.facts.as_ref().filter(|facts| !facts.power.is_empty()) else { return Ok(()) };
    if !record.state.is_final() || instance.node != Some(record.node) {
        return Ok(());
    }
    let seen_at = record.seen_at(at);
    if store::put_observed(tx, instance.id, record.node, &facts.power, seen_at, at).await?.is_none() {
        return Ok(());
    }
    let event = match facts.power.as_str() {
        "running" | "paused" => InstanceEvent::SeenOn,
        _ => InstanceEvent::SeenOff,
    };
    if instance.state.take(event).is_ok_and(|next| next != instance.state) {
        change::take(tx, at, instance.clone(), event, actor).await?;
    }
    Ok(())
}

/// One sentence about what went wrong.
pub(super) fn failure(record: &ProvisioningRecord) -> String {
    let detail = record.detail.clone().filter(|detail| !detail.is_empty());
    match (&record.refusal, detail) {
        (Some(code), Some(detail)) => format!("{code}: {detail}"),
        (Some(code), None) => code.clone(),
        (None, Some(detail)) => detail,
        (None, None) => record.state.to_string(),
    }
}
