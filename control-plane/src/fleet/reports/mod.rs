//! What agents see on their hosts: capacity, images, storages, warnings, and the servers themselves.
//!
//! Reports are numbered within one run of an agent. A snapshot replaces everything; a delta must build on
//! the last stored report, else a full snapshot is asked for. What is sold never changes here; what may be
//! sold does.

mod fill;
mod store;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use ez_protocol::{
    InstanceId, NodeId, UnixMillis,
    message::{HostState, InstanceState},
};
use sqlx::AnyConnection;

use super::{
    alarms,
    capacity::{Observed, PolicyBounds, sellable},
    model::{ImageView, NodePolicy, Severity, StorageView, ThinPoolView, WarningView},
    nodes, places,
};
use crate::{
    db::DbError,
    instances::{self, Seen},
};

/// The alarm about a server that a node has and that has its place elsewhere.
const STRAY: &str = "stray_server";

/// The alarm about whatever a host warns of in words that are not known here.
const HOST_WARNING: &str = "host_warning";

/// Place of a report in its agent's numbering.
#[derive(Clone, Copy, Debug)]
pub struct Position<'a> {
    /// Random per run of the agent.
    pub report_epoch: &'a str,
    /// Its own number.
    pub seq: u64,
    /// For a delta: the report it builds on.
    pub base: Option<u64>,
}

/// What to do with a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the next one: store it.
    Take,
    /// It is known already.
    Known,
    /// Something is missing before it: ask for a snapshot.
    Gap,
}

/// Takes what storing a report needs, in the order in which everybody takes it: the node's servers that are about
/// to change, then the node. Comes first.
///
/// # Errors
/// Those of the database.
pub async fn hold(tx: &mut AnyConnection, node: NodeId) -> Result<(), DbError> {
    instances::hold_unsettled(tx, node).await?;
    store::hold_capacity(tx, node).await
}

/// Decides about a report and, when it is to be taken, moves the node's position.
///
/// # Errors
/// [`DbError::NotFound`] when there is no such node.
pub async fn take(
    tx: &mut AnyConnection,
    at: UnixMillis,
    node: NodeId,
    position: Position<'_>,
) -> Result<Verdict, DbError> {
    let (epoch, seq) = store::position(tx, node).await?.ok_or(DbError::NotFound)?;
    let same_run = epoch.as_deref() == Some(position.report_epoch);
    let verdict = match position.base {
        _ if same_run && position.seq <= seq => Verdict::Known,
        None => Verdict::Take,
        Some(base) if same_run && base == seq => Verdict::Take,
        Some(_) => Verdict::Gap,
    };
    if verdict == Verdict::Take {
        store::set_position(tx, at, node, position).await?;
    }
    Ok(verdict)
}

/// Stores what an agent sees of its host.
///
/// # Errors
/// [`DbError::NotFound`] when there is no such node.
pub async fn record_host(
    tx: &mut AnyConnection,
    at: UnixMillis,
    node: NodeId,
    host: &HostState,
) -> Result<(), DbError> {
    let row = nodes::by_id(tx, node).await?.ok_or(DbError::NotFound)?;
    let storages: Vec<StorageView> = host
        .storages
        .iter()
        .take(64)
        .map(|s| StorageView {
            id: cut(&s.id, 100),
            kind: cut(&s.kind, 40),
            total_mib: s.total_mib,
            used_mib: s.used_mib,
        })
        .collect();
    let thin_pools: Vec<ThinPoolView> = host
        .thin_pools
        .iter()
        .take(64)
        .map(|p| ThinPoolView {
            name: cut(&p.name, 100),
            total_mib: p.total_mib,
            data_permille: p.data_permille.min(1_000),
            metadata_permille: p.metadata_permille.min(1_000),
        })
        .collect();
    let images: Vec<ImageView> = host
        .images
        .iter()
        .take(256)
        .map(|i| ImageView { name: cut(&i.name, 64), digest: cut(&i.digest, 80) })
        .collect();
    let warnings: Vec<WarningView> = host
        .warnings
        .iter()
        .take(32)
        .map(|w| WarningView { code: code_of(&w.code), text: cut(&w.text, 500) })
        .collect();
    let (disk_gib, disk_used) = disk(&row.policy, &storages);
    let observed = Observed { cores: u64::from(host.cpus), memory_mib: host.memory_mib, disk_gib };
    // An agent that was just started while Proxmox is silent knows no size; the host has not shrunk to nothing, and what was
    // full is no emptier.
    let unread = host.storages.is_empty() && !host.warnings.iter().any(|w| w.code == "STORAGE_MISSING");
    let facts = store::Facts {
        at,
        node,
        storages: if unread { &row.storages } else { &storages },
        thin_pools: if unread { &row.thin_pools } else { &thin_pools },
        images: &images,
        warnings: &warnings,
        foreign_vms: u64::from(host.foreign_vms),
        certificate_not_after: (host.certificate_not_after_ms > 0).then_some(host.certificate_not_after_ms),
        versions: (cut(&host.pve_version, 40), cut(&host.agent_version, 40)),
    };
    store::set_facts(tx, &facts).await?;
    if !unread {
        fill::watch(tx, at, &row, &storages, &thin_pools).await?;
    }
    if host.cpus == 0 || host.memory_mib == 0 || unread {
        return raise_warnings(tx, at, node, &row, &warnings).await;
    }
    // What others put on the host cannot be sold. Of a storage nobody says whose a part is: beyond what our servers that are
    // there, or are being built, can fill it is not ours.
    let others_gib = disk_used.saturating_sub(instances::disk_built_on(tx, node).await?);
    let ours = Observed {
        memory_mib: host.memory_mib.saturating_sub(host.foreign_memory_mib),
        disk_gib: disk_gib.saturating_sub(others_gib),
        ..observed
    };
    let capacity = store::Capacity {
        sale: sellable(ours, bounds(&row.policy)),
        servers: if row.policy.max_instances == 0 { i64::MAX } else { signed(row.policy.max_instances) },
        observed,
        memory_used_mib: host.memory_used_mib,
        disk_used_gib: disk_used,
        cpu_permille: u64::from(host.cpu_permille),
    };
    store::set_capacity(tx, at, node, &capacity).await?;
    raise_warnings(tx, at, node, &row, &warnings).await
}

/// What agents warn about (`node-agent`'s `observe::host`).
const CODES: [&str; 10] = [
    "PVE_SILENT",
    "STORAGE_MISSING",
    "NO_TEMPLATE",
    "TEMPLATES_UNREADABLE",
    "FIREWALL_INERT",
    "CIRCUIT_OPEN",
    "JOURNAL_CORRUPT",
    "CLOCK_SUSPECT",
    "NO_SPACE",
    "CERTIFICATE_ENDS",
];

/// The code of a warning. It becomes the kind of an alarm, and an agent must not raise or end the alarms that we ring about
/// it: a word that is not known (a newer agent's, or an invented one) is marked as its host's.
fn code_of(told: &str) -> String {
    if CODES.contains(&told) { told.to_owned() } else { format!("HOST_{}", cut(told, 35)) }
}

/// The alarm of a warning. All that are marked as their host's share one: a host chooses its words, and each would be a row.
fn kind_of(warning: &WarningView) -> String {
    if warning.code.starts_with("HOST_") { HOST_WARNING.to_owned() } else { warning.code.to_lowercase() }
}

/// What an alarm says of all warnings of its kind together, in characters.
const LONGEST_DETAIL: usize = 2_000;

/// Each kind of warning of an agent is an alarm for as long as the agent repeats one of them. It says what all of them say,
/// whatever order they come in: an alarm that names one of two would be restated with each.
async fn raise_warnings(
    tx: &mut AnyConnection,
    at: UnixMillis,
    node: NodeId,
    row: &nodes::NodeRow,
    warnings: &[WarningView],
) -> Result<(), DbError> {
    let mut now: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for warning in warnings {
        now.entry(kind_of(warning)).or_default().insert(&warning.text);
    }
    let before: BTreeSet<String> = row.warnings.iter().map(kind_of).collect();
    for gone in before.iter().filter(|kind| !now.contains_key(*kind)) {
        alarms::clear(tx, at, gone, &row.name).await?;
    }
    for (kind, texts) in &now {
        let texts: Vec<&str> = texts.iter().copied().collect();
        let alarm = alarms::New {
            kind,
            subject: &row.name,
            severity: Severity::Warning,
            node: Some(node),
            detail: &cut(&texts.join(" "), LONGEST_DETAIL),
        };
        alarms::hold(tx, at, alarm).await?;
    }
    Ok(())
}

/// Stores whether an agent can look at its servers now, and if not, when it last could.
///
/// # Errors
/// Those of the database.
pub async fn record_sight(
    tx: &mut AnyConnection,
    node: NodeId,
    blind_since_ms: Option<i64>,
) -> Result<(), DbError> {
    store::set_blind_since(tx, node, blind_since_ms).await
}

/// An agent told everything it has: what it no longer names is not where it should not be any more.
///
/// # Errors
/// Those of the database.
pub async fn settle_strays(
    tx: &mut AnyConnection,
    at: UnixMillis,
    node: NodeId,
    seen: &[InstanceState],
) -> Result<(), DbError> {
    for alarm in alarms::open_about(tx, STRAY, node).await? {
        let still = seen.iter().any(|state| state.instance_id == alarm.subject && state.power != "absent");
        if !still {
            alarms::clear(tx, at, STRAY, &alarm.subject).await?;
        }
    }
    Ok(())
}

/// Stores what an agent sees of servers. What it means for them is decided by `instances`; here only
/// their places matter: one that is seen where it has no place is a stray.
///
/// # Errors
/// Those of the database.
pub async fn record_instances(
    tx: &mut AnyConnection,
    at: UnixMillis,
    node: NodeId,
    seen: &[InstanceState],
    observed_at: UnixMillis,
) -> Result<(), DbError> {
    let placed: HashSet<InstanceId> = places::placed_on(tx, node).await?.into_iter().collect();
    let mut ours = Vec::with_capacity(seen.len());
    for state in seen {
        let Ok(instance) = state.instance_id.parse::<InstanceId>() else { continue };
        let gone = state.power == "absent" || state.phase == "purged";
        if placed.contains(&instance) {
            ours.push(Seen { instance, power: cut(&state.power, 20) });
        } else if gone {
            places::confirm_gone(tx, at, node, instance).await?;
            // Only whoever told of it can say that it is over.
            let subject = instance.to_string();
            if alarms::open_about(tx, STRAY, node).await?.iter().any(|alarm| alarm.subject == subject) {
                alarms::clear(tx, at, STRAY, &subject).await?;
            }
        } else if let Some(place) = places::placement_of(tx, instance).await? {
            // After a re-place the old node came back with the old VM: there must not be two (I1). Or a host speaks for
            // another node than its own; then the VM is where it belongs, and stopping it would be the harm.
            let home =
                nodes::by_id(tx, place.node).await?.map_or_else(|| place.node.to_string(), |row| row.name);
            let detail = format!(
                "This node's agent reports server {instance}, whose place is on {home}. Stop nothing yet: look with \
                 `qm list` on both hosts which of them has VM {vmid}. If both have it, stop it on this one. If the host \
                 that reports is really that of {home}, it was joined with a wrong token: join it again with one of {home}.",
                vmid = state.vmid
            );
            let alarm = alarms::New {
                kind: STRAY,
                subject: &instance.to_string(),
                severity: Severity::Critical,
                node: Some(node),
                detail: &detail,
            };
            alarms::hold(tx, at, alarm).await?;
        }
    }
    instances::observe(tx, at, observed_at, node, &ours).await
}

/// What an agent told of before and sees no more as ours: a half-made server that was taken back or removed by hand, or a VM
/// that has lost its mark. It does not run for us; that its number and addresses are free, this does not tell.
///
/// # Errors
/// Those of the database.
pub async fn record_removed(
    tx: &mut AnyConnection,
    at: UnixMillis,
    node: NodeId,
    removed: &[String],
    observed_at: UnixMillis,
) -> Result<(), DbError> {
    let gone = |id: &String| Some(Seen { instance: id.parse().ok()?, power: "absent".to_owned() });
    let gone: Vec<Seen> = removed.iter().filter_map(gone).collect();
    instances::observe(tx, at, observed_at, node, &gone).await
}

/// Notes how far a node's events are stored.
///
/// # Errors
/// Those of the database.
pub async fn events_stored(
    tx: &mut AnyConnection,
    node: NodeId,
    journal: &str,
    event_seq: u64,
) -> Result<(), DbError> {
    store::events_stored(tx, node, journal, event_seq).await
}

/// Disk for servers, and what of it is taken: the first storage the policy names is the one that is used. What is begun is taken.
fn disk(policy: &NodePolicy, storages: &[StorageView]) -> (u64, u64) {
    let used = policy.storages.iter().find_map(|name| storages.iter().find(|s| s.id == *name));
    used.map_or((0, 0), |s| (s.total_mib / 1_024, s.used_mib.div_ceil(1_024)))
}

fn bounds(policy: &NodePolicy) -> PolicyBounds {
    let bound = |n: u64| (n > 0).then_some(n);
    PolicyBounds {
        vcpu: bound(policy.max_vcpus),
        memory_mib: bound(policy.max_memory_mib),
        disk_gib: bound(policy.max_disk_gib),
    }
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn cut(text: &str, longest: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(longest).collect()
}
