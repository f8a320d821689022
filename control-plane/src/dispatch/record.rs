//! Recording what nodes say. The same message again changes nothing.

use ez_protocol::{
    NodeId, ProvisioningOrderId, UnixMillis,
    message::{AnswerKind, BackupFact, Event, EventKind, OrderAnswer, SnapshotFact},
    order::SnapshotName,
    refusal::RefusalCode,
};
use serde_json::json;
use sqlx::AnyConnection;

use super::{
    OBSERVE_JOB, events, images,
    model::{BackupView, FactsView, ProvisioningRecord, SnapshotView, State, event_word, is_passing_refusal},
    store,
};
use crate::{
    audit,
    db::DbError,
    fleet::{self, alarms, alarms::New},
    jobs,
};

/// Longest text of a node that is stored.
const LONGEST: usize = 1_000;
/// Most entries of a node's list that are stored.
const MOST_KEPT: usize = 200;

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// It was new.
    New,
    /// It was known already.
    Known,
    /// It is about an order that this node never got; kept out.
    Foreign,
}

/// Stores an event and moves its order, once per journal and event number.
///
/// # Errors
/// Those of the database.
pub async fn record(
    tx: &mut AnyConnection,
    at: UnixMillis,
    node: NodeId,
    journal: &str,
    event: &Event,
) -> Result<Recorded, DbError> {
    let order = match event.order_id.parse::<ProvisioningOrderId>() {
        Ok(id) => store::to_change(tx, id).await?.filter(|order| order.node == node),
        Err(_) => None,
    };
    let Some(order) = order else {
        let detail = "It reported about an order that was never issued to it.";
        raise(tx, at, "foreign_event", node, &node.to_string(), detail).await?;
        return Ok(Recorded::Foreign);
    };
    let kind = EventKind::try_from(event.kind).unwrap_or(EventKind::Unspecified);
    // How it ends is heard however much was said before; a stuck one may go on, and has not ended.
    let ends = State::of_event(kind)
        .is_some_and(|next| next.is_final() && next != State::Stuck && order.state.to(next).is_ok());
    if !ends && events::store::is_full(tx, order.id).await? {
        return Ok(Recorded::Known);
    }
    if !events::store::insert_event(tx, at, node, journal, order.id, event).await? {
        return Ok(Recorded::Known);
    }
    let Some(next) = State::of_event(kind) else { return Ok(Recorded::New) };
    match order.state.to(next) {
        Ok(next) => {
            store::apply_event(tx, at, &order, next, event).await?;
            after(tx, at, &order, next, &text(&event.detail)).await?;
        }
        // The answer to the delivery said so already.
        Err(_) if order.state == next => {
            tracing::debug!(provisioning_order.id = %order.id, node.id = %node, event = event_word(kind), "known already");
        }
        Err(refused) => {
            // A late step of an order that has ended: kept as an event, nothing to move.
            tracing::warn!(provisioning_order.id = %order.id, node.id = %node, event = event_word(kind), %refused, "event did not fit");
        }
    }
    Ok(Recorded::New)
}

/// Stores a node's answer to a delivery.
///
/// # Errors
/// Those of the database.
pub async fn record_answer(
    tx: &mut AnyConnection,
    at: UnixMillis,
    node: NodeId,
    id: ProvisioningOrderId,
    answer: &OrderAnswer,
) -> Result<(), DbError> {
    let Some(order) = store::to_change(tx, id).await?.filter(|order| order.node == node) else {
        if images::answered(tx, at, node, id, answer).await? {
            return Ok(());
        }
        return Err(DbError::NotFound);
    };
    match AnswerKind::try_from(answer.kind) {
        Ok(AnswerKind::Accepted | AnswerKind::Duplicate)
            // Events may have overtaken the answer; then there is nothing to move.
            if order.state.to(State::Accepted).is_ok() => {
                store::accept(tx, at, &order).await?;
                after(tx, at, &order, State::Accepted, "").await?;
            }
        Ok(AnswerKind::Refused) if order.state.to(State::Refused).is_ok() => {
            let code = short(&answer.code, 40);
            let shown = if answer.rule.is_empty() {
                code.clone()
            } else {
                format!("{code}({})", short(&answer.rule, 60))
            };
            store::refuse(tx, at, &order, &shown, &text(&answer.detail)).await?;
            after(tx, at, &order, State::Refused, &text(&answer.detail)).await?;
            refused(tx, at, &order, &code, &shown).await?;
        }
        _ => {}
    }
    Ok(())
}

/// Whatever moved an order: others are told, and it is written down.
pub(super) async fn after(
    tx: &mut AnyConnection,
    at: UnixMillis,
    order: &ProvisioningRecord,
    next: State,
    detail: &str,
) -> Result<(), DbError> {
    if order.state == next {
        return Ok(());
    }
    let payload = json!({ "provisioning_order_id": order.id, "instance_id": order.instance, "state": next });
    jobs::enqueue(tx, OBSERVE_JOB, &order.id.to_string(), &payload, at).await?;
    let subject = order.id.to_string();
    if next == State::Stuck {
        let detail = format!("A server's order is stuck on its node: {detail}");
        raise(tx, at, "order_stuck", order.node, &subject, &detail).await?;
    } else if order.state == State::Stuck {
        alarms::clear(tx, at, "order_stuck", &subject).await?;
    }
    let by_us = matches!(next, State::Expired | State::Cancelled);
    let actor = if by_us { "system".to_owned() } else { format!("node:{}", order.node) };
    write_down(tx, at, &actor, order, next).await
}

/// An order that takes the place of this one is about to be issued: if this one is stuck, nobody need look at it any more.
///
/// # Errors
/// Those of the database.
pub async fn overtaken(
    tx: &mut AnyConnection,
    at: UnixMillis,
    id: ProvisioningOrderId,
) -> Result<(), DbError> {
    alarms::clear(tx, at, "order_stuck", &id.to_string()).await
}

/// The audit row of a change.
pub(super) async fn write_down(
    tx: &mut AnyConnection,
    at: UnixMillis,
    actor: &str,
    order: &ProvisioningRecord,
    next: State,
) -> Result<(), DbError> {
    let entry = audit::Entry {
        actor: actor.to_owned(),
        action: format!("provisioning_order.{next}"),
        subject_kind: "provisioning_order".to_owned(),
        subject_id: order.id.to_string(),
        detail: json!({ "before": order.state, "instance": order.instance }),
    };
    audit::record(tx, at, entry).await
}

/// Some refusals say that somebody tampers, or that a node needs a person.
async fn refused(
    tx: &mut AnyConnection,
    at: UnixMillis,
    order: &ProvisioningRecord,
    code: &str,
    shown: &str,
) -> Result<(), DbError> {
    use RefusalCode as R;
    match code.parse::<RefusalCode>() {
        Ok(R::VmidTaken) => fleet::vmid_is_foreign(tx, order.instance).await,
        // These end by themselves or are the ordinary course of superseding.
        _ if is_passing_refusal(shown) => Ok(()),
        _ => {
            let detail = format!("A node refused an order with {shown}.");
            raise(tx, at, "order_refused", order.node, &order.id.to_string(), &detail).await
        }
    }
}

async fn raise(
    tx: &mut AnyConnection,
    at: UnixMillis,
    kind: &'static str,
    node: NodeId,
    subject: &str,
    detail: &str,
) -> Result<(), DbError> {
    let severity = fleet::Severity::Critical;
    alarms::raise(tx, at, New { kind, subject, severity, node: Some(node), detail }).await
}

/// A node's words, cut to what is stored and without control characters.
pub(super) fn text(words: &str) -> String {
    short(words, LONGEST)
}

fn short(words: &str, longest: usize) -> String {
    words.chars().filter(|c| !c.is_control()).take(longest).collect()
}

/// The facts of a result, as stored.
pub(super) fn facts(event: &Event) -> Option<FactsView> {
    let facts = event.facts.as_ref()?;
    let words = |list: &[String]| list.iter().take(16).map(|w| short(w, 200)).collect();
    Some(FactsView {
        vmid: facts.vmid,
        power: short(&facts.power, 20),
        addresses: words(&facts.addresses),
        confirmed: facts.confirmed,
        host_keys: words(&facts.host_keys),
        snapshots: facts.snapshots.as_ref().map(|all| {
            // What has another name was made by the host's owner by hand: not ours to offer.
            let ours = all.list.iter().filter(|fact| SnapshotName::parse(&fact.name).is_ok());
            let view = |fact: &SnapshotFact| SnapshotView {
                name: fact.name.clone(),
                taken_at: UnixMillis(fact.taken_at_ms),
            };
            ours.take(MOST_KEPT).map(view).collect()
        }),
        backups: facts.backups.as_ref().map(|all| {
            let view = |fact: &BackupFact| {
                let (made_at, bytes) = (UnixMillis(fact.made_at_ms), fact.bytes);
                fact.order_id.parse().ok().map(|order| BackupView { order, made_at, bytes })
            };
            all.list.iter().filter_map(view).take(MOST_KEPT).collect()
        }),
        password: (!facts.password.is_empty()).then(|| short(&facts.password, 20)),
        restart_needed: facts.restart_needed,
        disk_missing: facts.disk_missing,
        told_at: (event.at_ms > 0).then_some(UnixMillis(event.at_ms)),
    })
}
