//! The part of the judgement that needs the journal's facts.

use std::{cmp::Ordering, time::Duration};

use ez_protocol::{
    UnixMillis,
    message::EventKind,
    order::{CLOCK_TOLERANCE, Op, ProvisioningOrder},
    refusal::{Refusal, RefusalCode},
};

use super::{Node, Read, audience, epoch, is_first, window};
use crate::{
    journal::{Admission, Facts, Known, Loss, NewOrder, Phase, RefusalNote, Verb},
    policy::{self, UsedInstance},
    report::EventDraft,
};

/// The outbox holds at most this many events; beyond, nothing new is begun.
const OUTBOX_CAP: u64 = 100_000;

/// How long a refusal is remembered past the order's own end.
const REMEMBER: Duration = Duration::from_secs(24 * 3600);

/// Beyond so many bytes the journal takes no new order: a host with hundreds of servers needs a tenth of it, and whoever
/// has the signing key must not fill the host's disk with signed orders.
const JOURNAL_CAP: u64 = 4 * 1024 * 1024 * 1024;
/// What may come in beyond it ends servers, which makes room in the end.
const ENDING_CAP: u64 = JOURNAL_CAP + JOURNAL_CAP / 4;

/// Why an order does not come in as a new one.
enum Stop {
    Refuse(Refusal),
    Known(Known),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refuse(refusal)
    }
}

/// The host's own bounds, as a pure function over the order and what the journal knows.
pub type Bounds<'a> =
    &'a (dyn Fn(&ProvisioningOrder, &Facts, UnixMillis) -> Result<(), Refusal> + Send + Sync);

/// The verdict over an order that was read.
pub fn judge(read: &Read, node: &Node, bounds: Bounds<'_>, facts: &Facts) -> Admission {
    let order = &read.order;
    match checks(read, node, bounds, facts) {
        Ok(new) => {
            let (id, instance) = (order.order_id, order.instance.uuid);
            let event = EventDraft::new(EventKind::Accepted, id, instance, order.generation, node.now);
            Admission::Accept(Box::new(new), event)
        }
        Err(Stop::Known(known)) => Admission::Duplicate(known),
        Err(Stop::Refuse(refusal)) => Admission::Refuse(RefusalNote {
            order_id: Some(order.order_id),
            seq: Some(order.seq),
            payload_hash: Some(read.payload_hash),
            keep_until: remembered_until(order, node),
            refusal,
        }),
    }
}

/// Until when a refusal holds for certain. An order names its own end, so that only as far as a good one's may lie; by a clock
/// that may be wrong nobody knows how far that is.
fn remembered_until(order: &ProvisioningOrder, node: &Node) -> UnixMillis {
    if node.clock_suspect {
        return order.exp.plus(REMEMBER);
    }
    let longest = node.now.plus(order.op.longest_life(false)).plus(CLOCK_TOLERANCE);
    order.exp.min(longest).plus(REMEMBER)
}

fn checks(read: &Read, node: &Node, bounds: Bounds<'_>, facts: &Facts) -> Result<NewOrder, Stop> {
    let order = &read.order;
    audience(order, node)?;
    known(read, facts)?;
    epoch(order, node)?;
    let first = matches!(order.op, Op::Ensure(_)) && is_first(order, facts);
    window(order, node, first)?;
    sequence(read, facts)?;
    identity(read, facts)?;
    generation(read, facts)?;
    stage(read, facts)?;
    room(order, node, facts)?;
    bounds(order, facts, node.now)?;
    Ok(new_order(read, first, facts))
}

/// An order that was delivered before: the same bytes get the same answer, whatever the time.
fn known(read: &Read, facts: &Facts) -> Result<(), Stop> {
    if let Some(known) = &facts.known {
        if known.payload_hash == read.payload_hash {
            return Err(Stop::Known(known.clone()));
        }
        let detail = "this order id came before with another content";
        return Err(Refusal::new(RefusalCode::Conflict, detail).into());
    }
    match &facts.refused_before {
        Some(refusal) => Err(refusal.clone().into()),
        None => Ok(()),
    }
}

fn sequence(read: &Read, facts: &Facts) -> Result<(), Stop> {
    let seq = read.order.seq;
    if let Some(owner) = facts.seq_owner {
        let detail = format!("sequence {seq} belongs to order {owner}");
        return Err(Refusal::new(RefusalCode::Conflict, detail).into());
    }
    if seq <= facts.floor_seq {
        let detail = format!("sequence {seq} is at or below the floor {}", facts.floor_seq);
        return Err(Refusal::new(RefusalCode::Stale, detail).into());
    }
    Ok(())
}

/// One instance has one VMID, one VMID has one instance, for as long as anything of it is here.
fn identity(read: &Read, facts: &Facts) -> Result<(), Stop> {
    let wanted = read.order.instance;
    for row in &facts.resources {
        if row.instance == wanted.uuid && row.vmid != wanted.vmid {
            let detail = format!("this instance has VMID {} here, the order says {}", row.vmid, wanted.vmid);
            return Err(Refusal::new(RefusalCode::Conflict, detail).into());
        }
        if row.vmid == wanted.vmid && row.instance != wanted.uuid {
            let detail = format!("VMID {} belongs to instance {}", row.vmid, row.instance);
            return Err(Refusal::new(RefusalCode::Conflict, detail).into());
        }
    }
    Ok(())
}

/// The fencing rule: lower is stale, equal is a duplicate or a conflict, higher comes in.
fn generation(read: &Read, facts: &Facts) -> Result<(), Stop> {
    let order = &read.order;
    let current = facts.resources.iter().find(|row| row.instance == order.instance.uuid);
    let conflict = |detail: String| Err(Refusal::new(RefusalCode::Conflict, detail).into());
    if let Op::Action(_) = order.op {
        let Some(row) = current else {
            return conflict("there is no such instance on this node".to_owned());
        };
        return match order.generation.cmp(&row.generation) {
            Ordering::Equal => Ok(()),
            Ordering::Less => Err(stale(order.generation, row.generation)),
            Ordering::Greater => conflict(format!(
                "the action was issued against generation {}, this node knows {}",
                order.generation, row.generation
            )),
        };
    }
    let gone = facts.departed.map_or(0, |row| row.generation);
    let highest = current.map_or(gone, |row| row.generation.max(gone));
    match (order.generation.cmp(&highest), &facts.at_generation) {
        (Ordering::Greater, _) => Ok(()),
        (Ordering::Less, _) => Err(stale(order.generation, highest)),
        (Ordering::Equal, Some(same)) if same.spec_hash.as_deref() == Some(&order.op.spec_hash()[..]) => {
            Err(Stop::Known(same.clone()))
        }
        (Ordering::Equal, _) => {
            conflict(format!("generation {} is known here with another content", order.generation))
        }
    }
}

fn stale(given: u64, known: u64) -> Stop {
    let detail = format!("generation {given} is older than {known}, which is known here");
    Refusal::new(RefusalCode::Stale, detail).into()
}

/// What has to be in the books, or must not be, for the op to make sense.
fn stage(read: &Read, facts: &Facts) -> Result<(), Stop> {
    let order = &read.order;
    let here = facts.resources.iter().find(|row| row.instance == order.instance.uuid);
    let wrong = |detail: &str| Err(Refusal::new(RefusalCode::Conflict, detail).into());
    match (&order.op, here.map(|row| row.phase)) {
        // What is in the books already is looked at and stays there: the journal outlived a new enrolment.
        (Op::Adopt(_), Some(Phase::Reserved | Phase::Creating)) => wrong("this instance is being built here"),
        (Op::Retire(_) | Op::Purge(_), None) => wrong("there is no such instance on this node"),
        _ => Ok(()),
    }
}

fn room(order: &ProvisioningOrder, node: &Node, facts: &Facts) -> Result<(), Stop> {
    if node.disk_low {
        let detail = "less than 64 MiB are free where the journal lives";
        return Err(Refusal::new(RefusalCode::NoSpace, detail).into());
    }
    if facts.outbox_len >= OUTBOX_CAP {
        let detail = format!("{} events wait for the control plane", facts.outbox_len);
        return Err(Refusal::new(RefusalCode::NoSpace, detail).into());
    }
    let cap = if matches!(order.op, Op::Retire(_) | Op::Purge(_)) { ENDING_CAP } else { JOURNAL_CAP };
    if facts.journal_bytes >= cap {
        let detail = format!(
            "the journal holds {} MiB: more orders than any host needs were sent, and it takes no more until they are over and \
             acknowledged, or 30 days past",
            facts.journal_bytes / (1024 * 1024)
        );
        return Err(Refusal::new(RefusalCode::NoSpace, detail).into());
    }
    Ok(())
}

fn new_order(read: &Read, first: bool, facts: &Facts) -> NewOrder {
    let order = &read.order;
    let known = facts.resources.iter().any(|row| row.instance == order.instance.uuid);
    let spec_json = match &order.op {
        Op::Ensure(spec) => serde_json::to_string(spec).ok(),
        _ => None,
    };
    NewOrder {
        order_id: order.order_id,
        seq: order.seq,
        envelope: read.envelope.clone(),
        payload: read.payload.clone(),
        payload_hash: read.payload_hash,
        instance: order.instance.uuid,
        vmid: order.instance.vmid,
        generation: order.generation,
        verb: read.verb(),
        spec_hash: order.op.spec_hash(),
        spec_json,
        marker: read.marker().to_string(),
        expires_at: order.exp,
        reserves: first || (read.verb() == Verb::Adopt && !known),
        loss: loss(order, facts),
    }
}

/// What the order takes away for good if it is carried out.
fn loss(order: &ProvisioningOrder, facts: &Facts) -> Loss {
    match &order.op {
        Op::Action(action) => policy::loss_of(action),
        Op::Ensure(spec) => {
            let known = facts.resources.iter().find(|row| row.instance == order.instance.uuid);
            let loses = known.is_some_and(|row| UsedInstance::from(row).loses_disk_to(spec));
            if loses { Loss::Disk } else { Loss::Nothing }
        }
        // A purge has a budget of its own.
        Op::Retire(_) | Op::Purge(_) | Op::Adopt(_) => Loss::Nothing,
    }
}
