//! The greeting: what an agent claims about itself, compared with what we know.

use std::time::Duration;

use ez_protocol::{NodeId, UnixMillis, message};
use serde_json::json;
use sqlx::AnyConnection;

use super::store;
use crate::{
    db::DbError,
    entropy::{Entropy, EntropyExt as _},
    fleet::{
        ENROLLED_AGAIN, alarms,
        model::{NodeChange, NodePolicy, NodeState, PurgeLimits, ReplaceLimits, Severity},
        nodes,
    },
    jobs,
};

/// How long the certificate before the current one still counts.
const OLD_CERTIFICATE: Duration = Duration::from_secs(24 * 3_600);
/// Clocks may differ by this much.
const CLOCK_TOLERANCE_MS: i64 = 300_000;

/// A connection whose TLS handshake is done.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The process of the control plane that holds it.
    pub process: String,
    /// Its own random name.
    pub id: String,
    /// Serial number of the certificate it came with.
    pub serial: String,
    /// Where it comes from.
    pub remote: String,
}

/// What the Welcome says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The node's name.
    pub name: String,
    /// Its epoch.
    pub epoch: u64,
    /// The value it must present next time.
    pub ratchet: Vec<u8>,
    /// Every event up to here is stored.
    pub acked_event_seq: u64,
    /// Reports are taken, orders are not sent.
    pub quarantined: bool,
}

/// Why an agent is not greeted.
#[derive(Debug, thiserror::Error)]
pub enum GreetingRefusal {
    /// Its node or certificate is not allowed in.
    #[error("the node or its certificate is revoked")]
    Revoked,
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Checks an agent's Hello, stores what it says about its host and gives the connection the session.
///
/// `accepted_seq` is the highest order the node has said to have accepted in this epoch.
///
/// # Errors
/// [`GreetingRefusal::Revoked`] for one that may not be connected at all.
pub async fn greet(
    tx: &mut AnyConnection,
    at: UnixMillis,
    entropy: &dyn Entropy,
    node: NodeId,
    connection: &Connection,
    hello: &message::Hello,
    accepted_seq: u64,
) -> Result<Greeting, GreetingRefusal> {
    let admitted = super::admitted(tx, at, node, &connection.serial).await?;
    let Some(history) = store::history(tx, node).await?.filter(|_| admitted) else {
        return Err(GreetingRefusal::Revoked);
    };
    let mut state = history.state;
    if let Some(contradiction) = contradiction(&history, hello, accepted_seq)
        && state != NodeState::Quarantined
    {
        let detail = format!("{contradiction} It gets no orders until it is enrolled again.");
        raise(tx, at, "node_quarantined", &history.name, Severity::Critical, node, &detail).await?;
        match nodes::change(tx, at, "system", node, NodeChange::Quarantine).await {
            Ok((_, after)) => state = after,
            Err(nodes::NodeError::Db(error)) => return Err(error.into()),
            Err(_) => return Err(GreetingRefusal::Revoked),
        }
    }
    store::promote(tx, node, &connection.serial, at.plus(OLD_CERTIFICATE)).await?;
    let policy = policy(hello);
    let vmids = hello.policy.as_ref().map_or((0, -1), |p| (i64::from(p.vmid_first), i64::from(p.vmid_last)));
    // After a change of the range the counter starts inside the new one; conflicts are skipped when numbers are taken.
    let inside = (vmids.0..=vmids.1 + 1).contains(&history.vmid_next);
    let ratchet: [u8; 16] = entropy.bytes();
    let presented = (!hello.ratchet.is_empty()).then(|| hello.ratchet.clone());
    let quarantined = state == NodeState::Quarantined;
    store::store_greeting(
        tx,
        &store::Greeted {
            node,
            at,
            agent_version: &short(&hello.agent_version),
            pve_version: &short(&hello.pve_version),
            pve_node: &short(&hello.pve_node),
            cluster: &history.cluster.clone().unwrap_or_else(|| hello.cluster.clone()),
            // What a first greeting that cannot be right names is not the node's: the next enrolment compares with the one
            // before, and so finds out what was forgotten.
            journal: history.journal.clone().or_else(|| (!quarantined).then(|| hello.journal_id.clone())),
            policy: &policy,
            vmids,
            vmid_next: if inside { history.vmid_next } else { vmids.0 },
            // In quarantine the values stay, so that the contradiction stays visible.
            ratchet: if quarantined {
                (
                    history.ratchet.clone().unwrap_or_else(|| ratchet.to_vec()),
                    history.ratchet_previous.clone(),
                )
            } else {
                (ratchet.to_vec(), presented)
            },
            trust_version: hello.trust_version.unwrap_or(1),
        },
    )
    .await?;
    warn_about(tx, at, node, &history.name, hello, vmids).await?;
    warn_about_machine(tx, at, node, &history, hello).await?;
    if history.journal.is_none() && history.epoch > 1 && !quarantined {
        // The first greeting since it was enrolled again: what it knew of its servers may be gone.
        let forgot = history.previous_journal.as_ref().is_some_and(|before| *before != hello.journal_id);
        jobs::enqueue(tx, ENROLLED_AGAIN, &node.to_string(), &json!({ "forgot": forgot }), at).await?;
    }
    store::take_session(tx, at, node, connection).await?;
    Ok(Greeting {
        name: history.name,
        epoch: history.epoch,
        ratchet: ratchet.to_vec(),
        acked_event_seq: if history.journal.as_ref().is_none_or(|j| *j == hello.journal_id) {
            history.acked_event_seq
        } else {
            0
        },
        quarantined,
    })
}

/// What in an agent's history cannot be, given what it acknowledged before.
fn contradiction(
    history: &store::History,
    hello: &message::Hello,
    accepted_seq: u64,
) -> Option<&'static str> {
    if hello.epoch != history.epoch {
        return Some("It speaks for another enrolment of this node.");
    }
    if history.cluster.as_ref().is_some_and(|cluster| *cluster != hello.cluster) {
        return Some("It runs in another Proxmox cluster than it was enrolled in.");
    }
    if let Some(journal) = &history.journal {
        if *journal != hello.journal_id {
            return Some("Its journal is another one than before.");
        }
        if hello.last_event_seq < history.acked_event_seq || hello.high_water_seq < accepted_seq {
            return Some("Its journal is older than what it had acknowledged: its disk was rolled back.");
        }
    }
    let known = |value: &Option<Vec<u8>>| value.as_ref().is_some_and(|v| *v == hello.ratchet);
    // An agent whose very first Welcome was lost has nothing to present, until it has presented something once.
    let has_none_yet = hello.ratchet.is_empty() && history.ratchet_previous.is_none();
    if history.ratchet.is_some()
        && !known(&history.ratchet)
        && !known(&history.ratchet_previous)
        && !has_none_yet
    {
        return Some("It presented a greeting of long ago: its disk was copied.");
    }
    None
}

async fn warn_about(
    tx: &mut AnyConnection,
    at: UnixMillis,
    node: NodeId,
    name: &str,
    hello: &message::Hello,
    vmids: (i64, i64),
) -> Result<(), DbError> {
    let others = store::overlapping(tx, node, &hello.cluster, vmids).await?;
    if others.is_empty() || vmids.1 < vmids.0 {
        alarms::clear(tx, at, "vmid_overlap", name).await?;
        settle_overlaps(tx, at).await?;
    } else {
        let detail = format!(
            "Its VMID range {}–{} touches that of {}. Give each node of a cluster its own range in policy.toml.",
            vmids.0,
            vmids.1,
            others.join(", ")
        );
        raise(tx, at, "vmid_overlap", name, Severity::Warning, node, &detail).await?;
    }
    if (hello.now_ms - at.0).abs() > CLOCK_TOLERANCE_MS {
        let detail = "Its clock differs from ours by more than five minutes; it refuses new orders until that is repaired.";
        raise(tx, at, "clock_skew", name, Severity::Critical, node, detail).await
    } else {
        alarms::clear(tx, at, "clock_skew", name).await
    }
}

/// A node's range may have been all that others touched.
async fn settle_overlaps(tx: &mut AnyConnection, at: UnixMillis) -> Result<(), DbError> {
    for name in alarms::open_subjects(tx, "vmid_overlap").await? {
        let Ok(row) = nodes::find(tx, &name).await else { continue };
        let range = (row.vmid_first, row.vmid_last);
        if store::overlapping(tx, row.id, row.cluster.as_deref().unwrap_or_default(), range).await?.is_empty()
        {
            alarms::clear(tx, at, "vmid_overlap", &name).await?;
        }
    }
    Ok(())
}

/// Another machine than at the enrolment: new hardware, or a disk that was copied. Whoever comes alone cannot be told
/// from the right one, so a person is asked; two at once are told apart in `link/challenge.rs`.
async fn warn_about_machine(
    tx: &mut AnyConnection,
    at: UnixMillis,
    node: NodeId,
    history: &store::History,
    hello: &message::Hello,
) -> Result<(), DbError> {
    let kind = "machine_changed";
    let enrolled = history.fingerprint.as_deref().unwrap_or_default();
    if enrolled.is_empty() || hello.fingerprint.is_empty() || enrolled == hello.fingerprint {
        return alarms::clear(tx, at, kind, &history.name).await;
    }
    let detail = "Its machine is another one than when it was enrolled: machine id, mainboard or network cards. If you \
                  changed them, enrol it again with a new token and this ends. If not, somebody may have copied its disk: \
                  revoke the node and look at the host.";
    raise(tx, at, kind, &history.name, Severity::Warning, node, detail).await
}

async fn raise(
    tx: &mut AnyConnection,
    at: UnixMillis,
    kind: &'static str,
    subject: &str,
    severity: Severity,
    node: NodeId,
    detail: &str,
) -> Result<(), DbError> {
    alarms::raise(tx, at, alarms::New { kind, subject, severity, node: Some(node), detail }).await
}

fn policy(hello: &message::Hello) -> NodePolicy {
    let Some(p) = &hello.policy else { return NodePolicy::default() };
    let words = |list: &[String]| list.iter().take(256).map(|w| short(w)).collect::<Vec<_>>();
    NodePolicy {
        pool: short(&p.pool),
        bridges: words(&p.bridges),
        storages: words(&p.storages),
        prefixes: words(&p.prefixes),
        vlans: words(&p.vlans),
        max_instances: u64::from(p.max_instances),
        max_vcpus: u64::from(p.max_vcpus),
        max_memory_mib: p.max_memory_mib,
        max_disk_gib: p.max_disk_gib,
        purges: PurgeLimits {
            per_10_minutes: p.purges_per_10_minutes.map(u64::from),
            percent_per_day: p.purge_percent_per_day.map(u64::from),
            floor_per_day: p.purge_floor_per_day.map(u64::from),
        },
        replaces: ReplaceLimits {
            per_hour: p.replaces_per_hour.map(u64::from),
            per_server_per_hour: p.replaces_per_server_per_hour.map(u64::from),
            percent_per_day: p.replace_percent_per_day.map(u64::from),
            floor_per_day: p.replace_floor_per_day.map(u64::from),
        },
    }
}

/// What an agent says is a claim: words are cut before they are stored.
fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}
