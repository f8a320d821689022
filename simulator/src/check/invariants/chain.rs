//! I7, I8, I9: records that must not be lost, changed or go back.

use std::collections::{BTreeMap, BTreeSet};

use super::{Violation, World, found};
use crate::check::{
    load::{CHAIN_GENESIS, chain_hash},
    world::Provisioning,
};

/// States of a provisioning order that its node must have in its journal.
const IN_JOURNAL: [&str; 6] = ["accepted", "running", "succeeded", "failed", "undone", "stuck"];

/// I7: every state an order entered has its audit row, the chain verifies from its first row, and
/// nothing stays unsealed.
pub(super) fn audit(world: &World) -> Vec<Violation> {
    let mut out = Vec::new();
    let mut previous = CHAIN_GENESIS.to_owned();
    let mut expected = 1;
    for row in world.audit.iter().filter(|r| r.seq.is_some()) {
        let seq = row.seq.unwrap_or_default();
        if seq != expected {
            out.push(found(
                "I7",
                format!("audit row {}", row.id),
                format!("place {seq} follows {}", expected - 1),
            ));
        }
        expected = seq + 1;
        let hash = row.hash.clone().unwrap_or_default();
        if chain_hash(&previous, seq, &row.entry) != hash {
            out.push(found(
                "I7",
                format!("audit row {}", row.id),
                format!("the chain breaks at place {seq}"),
            ));
        }
        previous = hash;
    }
    for row in world.audit.iter().filter(|r| r.seq.is_none() && world.settled(r.at)) {
        out.push(found("I7", format!("audit row {}", row.id), "not sealed"));
    }
    let mut audited: BTreeMap<&str, usize> = BTreeMap::new();
    // Payments, changes of plan and credit are written down under the order, too; they are no changes of its state.
    for row in world.audit.iter().filter(|r| r.subject_kind == "order" && is_of_a_state(&r.entry)) {
        *audited.entry(row.subject.as_str()).or_default() += 1;
    }
    let mut changed: BTreeMap<&str, usize> = BTreeMap::new();
    for transition in &world.transitions {
        *changed.entry(transition.order.as_str()).or_default() += 1;
    }
    for (order, changes) in changed {
        let rows = audited.get(order).copied().unwrap_or(0);
        if rows != changes {
            let detail = format!("{changes} changes of state, {rows} audit rows");
            out.push(found("I7", format!("order {order}"), detail));
        }
    }
    out
}

/// Whether an audit row tells of an order's state.
fn is_of_a_state(entry: &str) -> bool {
    let entry: serde_json::Value = serde_json::from_str(entry).unwrap_or_default();
    entry["action"].as_str().is_some_and(|action| action.starts_with("order."))
}

/// I8: what somebody was told is stored, is stored. Events acknowledged to an agent, orders an agent
/// has accepted, webhooks answered with 2xx.
pub(super) fn acknowledged_is_durable(world: &World) -> Vec<Violation> {
    let mut out = Vec::new();
    let stored: BTreeSet<(&str, i64)> = world.events.iter().map(|(j, n)| (j.as_str(), *n)).collect();
    for node in &world.nodes {
        let Some(journal) = &node.journal else { continue };
        let missing = (1..=node.acked).find(|n| !stored.contains(&(journal.as_str(), *n)));
        if let Some(number) = missing {
            let detail = format!("event {number} was acknowledged, but is not stored");
            out.push(found("I8", format!("node {}", node.id), detail));
        }
    }
    let kept = |o: &&Provisioning| IN_JOURNAL.contains(&o.state.as_str()) && !o.forgotten;
    for order in world.provisioning.iter().filter(kept) {
        let journal = world.journal_of(&order.node);
        if journal
            .is_some_and(|j| !j.orders.iter().any(|o| o.id == order.id) && !j.tombstones.contains(&order.id))
        {
            let detail = format!("it is {} here, but not in the journal of its node", order.state);
            out.push(found("I8", format!("provisioning order {}", order.id), detail));
        }
    }
    let inbox: BTreeSet<&str> = world.inbox.iter().map(String::as_str).collect();
    for event in world.delivered.iter().filter(|e| !inbox.contains(e.as_str())) {
        out.push(found("I8", format!("event {event}"), "answered with 2xx, but not in the inbox"));
    }
    out
}

/// I9: sequences of a node are unique and the journal has exactly the bytes that were issued;
/// generations never pass what was issued.
pub(super) fn never_back(world: &World) -> Vec<Violation> {
    let mut out = Vec::new();
    let mut sequences: BTreeSet<(&str, i64)> = BTreeSet::new();
    for order in &world.provisioning {
        if !sequences.insert((&order.node, order.seq)) {
            let detail = format!("sequence {} of node {} is given twice", order.seq, order.node);
            out.push(found("I9", format!("provisioning order {}", order.id), detail));
        }
    }
    let mut newest: BTreeMap<&str, i64> = BTreeMap::new();
    let mut in_order: Vec<_> = world.provisioning.iter().collect();
    in_order.sort_by_key(|o| (o.node.as_str(), o.seq));
    for order in in_order {
        let seen = newest.entry(order.instance.as_str()).or_default();
        // Another node may hold an instance later, so only a node's own sequence is ordered.
        *seen = (*seen).max(order.generation);
    }
    for (instance, generation) in &world.generations {
        if newest.get(instance.as_str()).is_some_and(|seen| seen > generation) {
            let detail = format!("the counter says {generation}, an order carries more");
            out.push(found("I9", format!("instance {instance}"), detail));
        }
    }
    for journal in &world.journals {
        for (instance, vmid, generation) in &journal.resources {
            let issued = world.generations.iter().find(|(id, _)| id == instance).map(|(_, g)| *g);
            if issued.is_some_and(|issued| *generation > issued) {
                let detail = format!("VM {vmid} is at generation {generation}, which was never issued");
                out.push(found("I9", format!("instance {instance}"), detail));
            }
        }
        for order in &journal.orders {
            let subject = format!("provisioning order {}", order.id);
            if order.seq > journal.high_seq {
                out.push(found(
                    "I9",
                    subject.clone(),
                    format!("sequence {} is above the high-water mark", order.seq),
                ));
            }
            match world.provisioning.iter().find(|o| o.id == order.id) {
                None => out.push(found("I9", subject, "accepted by an agent, but never issued")),
                Some(issued) if issued.envelope != order.envelope => {
                    out.push(found("I9", subject, "the journal has other bytes than were issued"));
                }
                Some(_) => {}
            }
        }
    }
    out
}
