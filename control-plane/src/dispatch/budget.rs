//! What a node's owner lets be destroyed in a time, kept from our side: an order beyond it would only be refused, and one
//! too many opens the node's circuit, which only root of the host closes. Whoever asks is told when to come again, before
//! anything was told to the node.

use std::collections::BTreeMap;

use ez_protocol::{
    InstanceId, UnixMillis,
    order::{Action, Op},
};
use sqlx::AnyConnection;

use super::{
    model::{Intent, IssueError, Pace},
    store,
};
use crate::{
    db::DbError,
    fleet::{NodeRow, ReplaceLimits},
};

/// The weight of a whole disk; a snapshot or backup weighs one.
const DISK: u64 = 4;
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// What an order takes away for good, in quarters of a disk, as its node will count it.
pub(super) async fn takes_away(tx: &mut AnyConnection, intent: &Intent) -> Result<u64, DbError> {
    Ok(match &intent.op {
        Op::Action(Action::BackupRestore { .. } | Action::SnapshotRollback { .. }) => DISK,
        Op::Action(Action::BackupDelete { .. } | Action::SnapshotDelete { .. }) => 1,
        // Another build of the disk than the one that the node has.
        Op::Ensure(spec) if spec.build > 0 => {
            let before = store::build_at_node(tx, intent.instance, intent.placement.node).await?;
            if before.is_some_and(|before| spec.build > before) { DISK } else { 0 }
        }
        _ => 0,
    })
}

/// Whether the node's budget has room for it now.
pub(super) async fn check(
    tx: &mut AnyConnection,
    at: UnixMillis,
    intent: &Intent,
    node: &NodeRow,
    weight: u64,
) -> Result<(), IssueError> {
    if weight == 0 {
        return Ok(());
    }
    let taken = store::taken_away_since(tx, UnixMillis(at.0 - DAY_MS), node.id).await?;
    let servers = store::servers_of(tx, node.id).await?;
    match verdict(&node.policy.replaces, servers, &taken, at, intent.instance, weight) {
        None => Ok(()),
        Some((pace, again)) => Err(IssueError::Paced { pace, wait: again.since(at) }),
    }
}

/// What stands against it, and when that will be over.
fn verdict(
    limits: &ReplaceLimits,
    servers: u64,
    taken: &[store::Taken],
    at: UnixMillis,
    instance: InstanceId,
    weight: u64,
) -> Option<(Pace, UnixMillis)> {
    let after = |taken: &store::Taken, window: i64| UnixMillis(taken.at.0.saturating_add(window)).max(at);
    if weight >= DISK {
        let disks = taken.iter().filter(|t| t.weight >= DISK && t.at.0 > at.0 - HOUR_MS);
        let own: Vec<_> = disks.clone().filter(|t| t.instance == instance).collect();
        let all: Vec<_> = disks.collect();
        for (pace, found, most) in [
            (Pace::ServerHour, &own, limits.per_server_per_hour()),
            (Pace::NodeHour, &all, limits.per_hour()),
        ] {
            if found.len() as u64 >= most {
                let oldest = found.first().map_or(UnixMillis(at.0 + HOUR_MS), |t| after(t, HOUR_MS));
                return Some((pace, oldest));
            }
        }
    }
    let budget = limits.in_a_day(servers)?;
    let mut lost: BTreeMap<InstanceId, u64> = BTreeMap::new();
    for taken in taken {
        *lost.entry(taken.instance).or_default() += taken.weight;
    }
    *lost.entry(instance).or_default() += weight;
    let sum: u64 = lost.values().map(|lost| (*lost).min(DISK)).sum();
    if sum <= budget.saturating_mul(DISK) {
        return None;
    }
    let again = taken.first().map_or(UnixMillis(at.0 + DAY_MS), |t| after(t, DAY_MS));
    Some((Pace::NodeDay, again))
}
