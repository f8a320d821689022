//! What must hold after every step, and once it is quiet.

use std::collections::{BTreeMap, BTreeSet};

use ez_protocol::{InstanceId, NodeId, ProvisioningOrderId};

use super::world::{Broken, World, ledger};
use crate::{
    audit,
    db::DbError,
    dispatch::{self, FenceOutcome, ProvisioningRecord, State},
    fleet::{self, NodeState, testing::read},
    instances::{self, Instance, InstanceState},
    jobs,
    orders::{self, Order, OrderState, Transition},
};

/// The control plane's books at one moment.
struct Books {
    orders: Vec<(Order, Instance, Vec<Transition>, usize)>,
    provisioning: Vec<ProvisioningRecord>,
    nodes: Vec<fleet::NodeRow>,
    placed: BTreeMap<NodeId, Vec<InstanceId>>,
    dead_jobs: Vec<jobs::DeadJob>,
    /// What the open alarms say.
    alarms: Vec<String>,
}

impl Books {
    async fn open(world: &World) -> Result<Self, DbError> {
        let mut c = world.app.db.read().await?;
        let mut books = Self {
            orders: Vec::new(),
            provisioning: dispatch::list(&mut c, &dispatch::Filter { limit: 1_000, ..Default::default() })
                .await?,
            nodes: fleet::nodes::list(&mut c, None).await?,
            placed: BTreeMap::new(),
            dead_jobs: jobs::dead_letters(&mut c).await?,
            alarms: Vec::new(),
        };
        for order in orders::newest(&mut c, None).await? {
            let instance = instances::get(&mut c, order.instance).await?.ok_or(DbError::NotFound)?;
            let history = orders::history(&mut c, order.id).await?;
            let audited = audit::history(&mut c, "order", &order.id.to_string()).await?;
            let audited = audited.iter().filter(|row| row.entry.action.starts_with("order.")).count();
            books.orders.push((order, instance, history, audited));
        }
        let alarms = fleet::alarms::list(&mut c, 500).await?.into_iter();
        books.alarms = alarms.filter(|alarm| alarm.cleared_at.is_none()).map(|alarm| alarm.detail).collect();
        for node in &books.nodes {
            books.placed.insert(node.id, fleet::placed_on(&mut c, node.id).await?);
        }
        Ok(books)
    }
}

/// What the checks remember from step to step.
#[derive(Default)]
pub(super) struct Memory {
    /// States that orders were in.
    pub(super) reached: Vec<OrderState>,
    /// Orders to build that were seen, and the highest numbers of each node and server.
    known: BTreeSet<ProvisioningOrderId>,
    sequence: BTreeMap<NodeId, u64>,
    generation: BTreeMap<InstanceId, u64>,
}

fn that(holds: bool, words: impl FnOnce() -> String) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(words()) }
}

/// What holds at every moment.
pub(super) async fn always(world: &World, memory: &mut Memory) -> Result<(), Broken> {
    let books = Books::open(world).await.map_err(|error| format!("reading the books: {error:?}"))?;
    for (order, ..) in &books.orders {
        if !memory.reached.contains(&order.state) {
            memory.reached.push(order.state);
        }
    }
    one_vm(world)?;
    unique_addresses(world)?;
    fenced_first(world, &books, memory)?;
    numbers_rise(&books, memory)?;
    sold_within_capacity(&books)?;
    written_down(&books)?;
    money_fits(world, &books)?;
    that(books.dead_jobs.is_empty(), || format!("jobs were given up: {:?}", books.dead_jobs))
}

/// I1: at most one virtual machine of a server over all nodes.
fn one_vm(world: &World) -> Result<(), Broken> {
    let mut seen: BTreeMap<InstanceId, &str> = BTreeMap::new();
    for (host, server) in world.standing() {
        if let Some(other) = seen.insert(server, &host.name) {
            return Err(format!("I1: server {server} stands on {other} and on {}", host.name));
        }
    }
    Ok(())
}

/// I4: an address or MAC is on at most one virtual machine.
fn unique_addresses(world: &World) -> Result<(), Broken> {
    let mut seen: BTreeMap<&str, InstanceId> = BTreeMap::new();
    for host in &world.hosts {
        for (server, vm) in &host.vms {
            for address in &vm.addresses {
                if let Some(other) = seen.insert(address, *server) {
                    return Err(format!("I4: {address} is on servers {other} and {server}"));
                }
            }
        }
    }
    Ok(())
}

/// I1 in the books: when an order to build went to a node, every earlier one on another node was fenced.
fn fenced_first(world: &World, books: &Books, memory: &mut Memory) -> Result<(), Broken> {
    let revoked =
        |node: NodeId| books.nodes.iter().any(|row| row.id == node && row.state == NodeState::Revoked);
    for build in books.provisioning.iter().filter(|record| record.verb == "ensure") {
        if !memory.known.insert(build.id) {
            continue;
        }
        let before = books.provisioning.iter().filter(|other| {
            other.verb == "ensure"
                && other.instance == build.instance
                && other.generation < build.generation
                && other.node != build.node
        });
        for earlier in before {
            let fenced = earlier.fence(world.now()) == FenceOutcome::Fenced || revoked(earlier.node);
            that(fenced, || {
                format!(
                    "I1: server {} is being built by order {} while order {} on another node is {}",
                    build.instance, build.id, earlier.id, earlier.state
                )
            })?;
        }
    }
    Ok(())
}

/// I9: sequence and generation only rise.
fn numbers_rise(books: &Books, memory: &mut Memory) -> Result<(), Broken> {
    let mut per_node: BTreeMap<NodeId, BTreeSet<u64>> = BTreeMap::new();
    for record in &books.provisioning {
        that(per_node.entry(record.node).or_default().insert(record.seq), || {
            format!("I9: sequence {} was given out twice", record.seq)
        })?;
        let generation = memory.generation.entry(record.instance).or_default();
        *generation = (*generation).max(record.generation);
    }
    for (node, numbers) in per_node {
        let highest = numbers.last().copied().unwrap_or(0);
        let known = memory.sequence.entry(node).or_default();
        that(highest >= *known, || "I9: a node's sequence went back".to_owned())?;
        *known = highest;
    }
    Ok(())
}

/// I10: what is sold is what is placed, and fits.
fn sold_within_capacity(books: &Books) -> Result<(), Broken> {
    for node in &books.nodes {
        let placed = &books.placed[&node.id];
        let count = u64::try_from(placed.len()).unwrap();
        that(node.servers.sold == count && node.memory_mib.sold == count * 4_096, || {
            format!("I10: {} servers are sold on {}, {count} are placed", node.servers.sold, node.name)
        })?;
        for room in [node.vcpu, node.memory_mib, node.disk_gib, node.servers] {
            that(room.sold <= room.capacity, || {
                format!("I10: {} is oversold: {} of {}", node.name, room.sold, room.capacity)
            })?;
        }
        for server in placed {
            let gone = books
                .orders
                .iter()
                .any(|(_, instance, ..)| instance.id == *server && instance.state.is_gone());
            that(!gone, || format!("a server that is gone keeps its place on {}", node.name))?;
        }
    }
    Ok(())
}

/// I7: each change of an order is in its history and in the audit log, once, without a gap.
fn written_down(books: &Books) -> Result<(), Broken> {
    for (order, _, history, audited) in &books.orders {
        that(history.len() == *audited, || {
            format!("I7: order {} has {} changes and {audited} audit rows", order.id, history.len())
        })?;
        let mut state = None;
        for step in history {
            that(step.from == state, || format!("I7: the history of order {} has a gap", order.id))?;
            state = Some(step.to);
        }
        that(state == Some(order.state), || format!("I7: order {} is not where its history ends", order.id))?;
    }
    Ok(())
}

/// I6: what the books say about money is what Stripe says.
fn money_fits(world: &World, books: &Books) -> Result<(), Broken> {
    for (order, ..) in &books.orders {
        let stripe = ledger(world, order.id);
        let words = |what: &str| {
            format!(
                "I6: order {} is {} and {what}: paid {}, returned {}",
                order.id, order.state, stripe.paid, stripe.returned
            )
        };
        that(stripe.returned <= stripe.paid, || words("too much was returned"))?;
        match order.state {
            OrderState::Paid | OrderState::Provisioning | OrderState::Fulfilled => {
                that(stripe.paid - stripe.returned >= order.amount_minor, || words("it is not paid for"))?;
            }
            // What comes later on another page is returned by itself, in a while.
            OrderState::Refunded => {
                that(stripe.returned >= order.amount_minor, || words("nothing was returned"))?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// What holds once faults have ended and every deadline before the refund's has passed: no order is in limbo (I3),
/// nothing runs unpaid (I2), nothing is lost.
pub(super) async fn at_rest(world: &World) -> Result<(), Broken> {
    let books = Books::open(world).await.map_err(|error| format!("reading the books: {error:?}"))?;
    for (order, instance, ..) in &books.orders {
        let stripe = ledger(world, order.id);
        let kept = stripe.paid - stripe.returned;
        let words = |what: &str| {
            format!(
                "order {} is {} ({:?}), its server {}, Stripe keeps {kept} and has {} subscriptions running: {what}",
                order.id, order.state, order.reason, instance.state, stripe.running
            )
        };
        // What was paid twice and cannot be given back at the moment is shouted about.
        let id = order.id.to_string();
        let shouted =
            books.alarms.iter().any(|words| words.contains(&id) && words.contains("could not be given back"));
        let once = kept == order.amount_minor || (kept > order.amount_minor && shouted);
        match order.state {
            OrderState::Fulfilled => {
                that(once, || words("I6: not exactly once the price"))?;
                let served = instance.state.is_live();
                that(stripe.running == usize::from(served), || {
                    words("I2: what is served and what is charged differ")
                })?;
                that(!served || is_there(world, instance), || words("the server does not exist"))?;
            }
            OrderState::Refunded => {
                that((kept == 0 || shouted) && stripe.running == 0, || words("I6: not all of it went back"))?;
                that(!instance.state.is_live(), || words("I2: the server lives"))?;
            }
            OrderState::Cancelled | OrderState::Expired => {
                that(kept == 0 && stripe.running == 0, || words("I3: paid and forgotten"))?;
                that(instance.state == InstanceState::Released, || words("its place is kept"))?;
            }
            OrderState::NeedsOperator => {
                that(order.refund_due_at.is_some(), || words("nothing ever happens to it"))?;
                that(once, || words("I6: not exactly once the price"))?;
            }
            OrderState::AwaitingPayment
            | OrderState::Paid
            | OrderState::Provisioning
            | OrderState::Refunding => {
                return Err(words("I3: in limbo"));
            }
        }
    }
    nothing_runs_free(world, &books)?;
    wishes_are_carried_out(world, &books).await
}

/// What is wished of a server that can be reached is so, or its order needs a person; and nothing is under way.
async fn wishes_are_carried_out(world: &World, books: &Books) -> Result<(), Broken> {
    for (_, instance, ..) in books.orders.iter().filter(|(_, instance, ..)| instance.state.is_live()) {
        let Some(host) = world.hosts.iter().find(|host| Some(host.id) == instance.node && !host.gone) else {
            continue;
        };
        let wishes = read(&world.app, async |c| instances::wishes(c, instance).await).await;
        let stuck = books
            .provisioning
            .iter()
            .any(|record| record.instance == instance.id && record.state == State::Stuck);
        let suspended = wishes.suspension().is_some();
        that(stuck || wishes.applied.suspended == suspended, || {
            format!("server {} should be suspended: {suspended}, and is not so", instance.id)
        })?;
        let runs = host.vms.get(&instance.id).is_some_and(|vm| vm.running);
        that(stuck || !(suspended && runs), || format!("suspended server {} runs", instance.id))?;
        that(stuck || wishes.nothing_under_way(), || {
            format!("a change of server {} never ends", instance.id)
        })?;
    }
    Ok(())
}

fn is_there(world: &World, instance: &Instance) -> bool {
    let host = world.hosts.iter().find(|host| Some(host.id) == instance.node);
    host.is_some_and(|host| host.vms.contains_key(&instance.id))
}

/// I2: what stands on a node that can be reached belongs to an order that may have it.
fn nothing_runs_free(world: &World, books: &Books) -> Result<(), Broken> {
    for (host, server) in world.standing().into_iter().filter(|(host, _)| !host.gone) {
        let owner = books.orders.iter().find(|(_, instance, ..)| instance.id == server);
        let Some((order, instance, ..)) = owner else { return Err(format!("I2: {server} is nobody's")) };
        let runs = host.vms[&server].running;
        let may_run = matches!(order.state, OrderState::Fulfilled | OrderState::NeedsOperator);
        that(!runs || (may_run && !matches!(instance.state, InstanceState::Retired)), || {
            format!("I2: server {server} runs, its order is {} and it is {}", order.state, instance.state)
        })?;
        that(!instance.state.is_gone(), || {
            format!("I2: server {server} is {} and stands on {}", instance.state, host.name)
        })?;
    }
    Ok(())
}

/// What holds when a day more has passed: nothing waits for a person any more, since the money went back by itself;
/// and after the retention nothing is left of what has ended.
pub(super) async fn in_the_end(world: &World) -> Result<(), Broken> {
    at_rest(world).await?;
    let books = Books::open(world).await.map_err(|error| format!("reading the books: {error:?}"))?;
    that(!books.alarms.iter().any(|words| words.contains("given back")), || {
        format!("money is still to be given back: {:?}", books.alarms)
    })?;
    for (order, instance, ..) in &books.orders {
        that(order.state != OrderState::NeedsOperator, || {
            format!("order {} waits for a person for ever ({:?})", order.id, order.reason)
        })?;
        let node_gone = world.hosts.iter().any(|host| Some(host.id) == instance.node && host.gone);
        let settled = instance.state.is_live() || instance.state.is_gone();
        that(settled || node_gone, || {
            format!("the server of order {} ({}) is {} for ever", order.id, order.state, instance.state)
        })?;
    }
    let verdict = audit_chain(world).await?;
    that(verdict, || "I7: the audit chain does not verify".to_owned())
}

async fn audit_chain(world: &World) -> Result<bool, Broken> {
    while audit::seal(&world.app.db).await.map_err(|error| format!("sealing: {error:?}"))? > 0 {}
    let verdict = audit::verify(&world.app.db).await.map_err(|error| format!("verifying: {error:?}"))?;
    Ok(verdict.breaches.is_empty() && verdict.unsealed == 0)
}
