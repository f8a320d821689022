//! Issuing: every check before a signature, and all of it in one transaction.

use ez_protocol::{
    ProvisioningOrderId, UnixMillis,
    envelope::{Envelope, PayloadType},
    order::{Audience, Cause, InstanceRef, InstanceSpec, Op, ProvisioningOrder},
};
use serde_json::json;
use sqlx::AnyConnection;

use super::{
    Keys, budget,
    model::{Intent, IssueError},
    store,
};
use crate::{
    audit,
    db::{self, Topic},
    entropy::{Entropy, EntropyExt as _},
    fleet::{self, NodeRow, Placement},
};

/// Purges that one node and the whole fleet may be told in an hour.
const PURGES_PER_HOUR: (u64, u64) = (20, 200);
/// Orders about one instance in an hour.
const PER_INSTANCE_PER_HOUR: u64 = 60;
/// The window of both.
const HOUR_MS: i64 = 3_600_000;
/// The windows of a node's destroy budget.
const TEN_MINUTES_MS: i64 = 600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// Checks, numbers, signs and stores a provisioning order; the same cause again answers with the order
/// that was issued first.
///
/// # Errors
/// [`IssueError`] names the check that failed; nothing was stored.
pub async fn issue(
    tx: &mut AnyConnection,
    keys: &Keys,
    at: UnixMillis,
    entropy: &dyn Entropy,
    intent: Intent,
) -> Result<ProvisioningOrderId, IssueError> {
    let verb = intent.op.verb();
    if let Some(earlier) = store::by_cause(tx, intent.instance, verb, &intent.cause_key).await? {
        return Ok(earlier);
    }
    let place = fleet::placement_of(tx, intent.instance).await?.ok_or(IssueError::WrongPlace)?;
    if place.node != intent.placement.node || place.vmid != intent.placement.vmid {
        return Err(IssueError::WrongPlace);
    }
    let node = fleet::node(tx, place.node).await?.ok_or(IssueError::NodeNotServing)?;
    if !node.state.takes_orders() || node.epoch == 0 {
        return Err(IssueError::NodeNotServing);
    }
    check_rates(tx, at, &intent, &node).await?;
    let takes_away = budget::takes_away(tx, &intent).await?;
    budget::check(tx, at, &intent, &node, takes_away).await?;
    let known = store::generation_of(tx, intent.instance).await?;
    let first = !store::was_built(tx, intent.instance).await?;
    match &intent.op {
        Op::Ensure(spec) => check_spec(spec, &place, first)?,
        Op::Action(_) | Op::Retire(_) if known.is_none() => return Err(IssueError::NothingBuilt),
        Op::Purge(_) if !store::was_retired(tx, intent.instance).await? => {
            return Err(IssueError::NotRetired);
        }
        _ => {}
    }
    let generation = match known {
        // An order that the node never took has raised our count and not the node's.
        Some(current) if !intent.op.bumps_generation() => {
            store::generation_at_node(tx, intent.instance, place.node).await?.unwrap_or(current)
        }
        known => known.unwrap_or(0) + 1,
    };
    let life = intent.op.longest_life(first);
    let life = intent.ttl.map_or(life, |wish| wish.min(life));
    let order = ProvisioningOrder {
        order_id: ProvisioningOrderId::generate(at, entropy.bytes()),
        install: keys.install(),
        aud: Audience { node: place.node, epoch: node.epoch },
        seq: store::next_seq(tx, place.node).await?,
        iat: at,
        nbf: at,
        exp: at.plus(life),
        instance: InstanceRef { uuid: intent.instance, vmid: place.vmid },
        generation,
        op: intent.op,
        cause: Cause { order: intent.order, actor: intent.actor },
    };
    let bytes = order.to_bytes()?;
    let envelope = Envelope::sign(keys.order_key(), PayloadType::Order, bytes).encode();
    if order.op.bumps_generation() {
        store::set_generation(tx, order.instance, generation).await?;
    }
    store::insert(tx, at, &order, envelope, takes_away).await?;
    store::insert_cause(tx, intent.instance, order.op.verb(), &intent.cause_key, order.order_id).await?;
    audit::record(tx, at, entry(&order)).await?;
    db::wake_after_commit(Topic::Dispatch);
    Ok(order.order_id)
}

/// The specification must be for the place it goes to: the caller chooses neither card nor address. Nobody has wished yet
/// that the filter of a server be off that is built for the first time.
fn check_spec(spec: &InstanceSpec, place: &Placement, first: bool) -> Result<(), IssueError> {
    let own = place.network(spec.network.rate_mbit);
    if spec.network.bridge != own.bridge || spec.network.vlan != own.vlan {
        return Err(IssueError::WrongSpec("bridge and VLAN"));
    }
    if spec.network.mac != own.mac {
        return Err(IssueError::WrongSpec("MAC address"));
    }
    if spec.network.addresses != own.addresses {
        return Err(IssueError::WrongSpec("addresses"));
    }
    if first && !spec.network.firewall {
        return Err(IssueError::WrongSpec("the host's filter must be on"));
    }
    Ok(())
}

async fn check_rates(
    tx: &mut AnyConnection,
    at: UnixMillis,
    intent: &Intent,
    node: &NodeRow,
) -> Result<(), IssueError> {
    let since = UnixMillis(at.0 - HOUR_MS);
    if store::count_since(tx, since, None, Some(intent.instance), None).await? >= PER_INSTANCE_PER_HOUR {
        return Err(IssueError::TooMany { what: "orders about one server", limit: PER_INSTANCE_PER_HOUR });
    }
    if matches!(intent.op, Op::Purge(_)) {
        let (per_node, in_all) = PURGES_PER_HOUR;
        if store::count_since(tx, since, Some(node.id), None, Some("purge")).await? >= per_node {
            return Err(IssueError::TooMany { what: "purges on one node", limit: per_node });
        }
        if store::count_since(tx, since, None, None, Some("purge")).await? >= in_all {
            return Err(IssueError::TooMany { what: "purges", limit: in_all });
        }
        keep_circuit(tx, at, node).await?;
    }
    Ok(())
}

/// A node opens its destroy circuit at one purge too many, and then only root of the host can close it: what comes
/// due at the same time waits for its turn. A node counts what it accepts, when it does; so what is on its way counts
/// as well, however long ago it was issued.
async fn keep_circuit(tx: &mut AnyConnection, at: UnixMillis, node: &NodeRow) -> Result<(), IssueError> {
    let limits = node.policy.purges;
    let servers = store::servers_of(tx, node.id).await?;
    for (what, window_ms, limit) in [
        ("purges on one node in ten minutes", TEN_MINUTES_MS, limits.in_ten_minutes()),
        ("purges on one node in a day", DAY_MS, limits.in_a_day(servers)),
    ] {
        if store::purges_taken_since(tx, UnixMillis(at.0 - window_ms), node.id).await? >= limit {
            return Err(IssueError::TooMany { what, limit });
        }
    }
    Ok(())
}

fn entry(order: &ProvisioningOrder) -> audit::Entry {
    audit::Entry {
        actor: order.cause.actor.clone(),
        action: "provisioning_order.issued".to_owned(),
        subject_kind: "provisioning_order".to_owned(),
        subject_id: order.order_id.to_string(),
        detail: json!({
            "node": order.aud.node,
            "epoch": order.aud.epoch,
            "seq": order.seq,
            "instance": order.instance.uuid,
            "vmid": order.instance.vmid,
            "generation": order.generation,
            "verb": order.op.verb(),
            "order": order.cause.order,
        }),
    }
}
