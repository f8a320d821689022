//! Nodes and locations: what an operator did with them and what their agents say.

mod store;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use ez_protocol::{NodeId, UnixMillis};
use serde_json::json;
use sqlx::AnyConnection;

use super::model::{
    ImageView, Location, NodeChange, NodePolicy, NodeRefusal, NodeState, Presence, StorageView, ThinPoolView,
    WarningView, presence,
};
use crate::{
    audit,
    db::{self, DbError},
    entropy::{Entropy, EntropyExt as _},
    placement::Room,
};

/// A node with everything that is known about it.
#[derive(Clone, Debug)]
pub struct NodeRow {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Code of its location.
    pub location: String,
    /// What it may do.
    pub state: NodeState,
    /// How often it was enrolled.
    pub epoch: u64,
    /// Identity of its Proxmox cluster.
    pub cluster: Option<String>,
    /// Its name in Proxmox.
    pub pve_node: Option<String>,
    /// Version of Proxmox VE.
    pub pve_version: Option<String>,
    /// Version of its agent.
    pub agent_version: Option<String>,
    /// First VMID of its range.
    pub vmid_first: i64,
    /// Last VMID of its range.
    pub vmid_last: i64,
    /// Next VMID never used.
    pub vmid_next: i64,
    /// What its policy file allows.
    pub policy: NodePolicy,
    /// Images it has templates for.
    pub images: Vec<ImageView>,
    /// Its storages.
    pub storages: Vec<StorageView>,
    /// Its LVM thin pools.
    pub thin_pools: Vec<ThinPoolView>,
    /// What its agent warns about.
    pub warnings: Vec<WarningView>,
    /// VMs on it that are not ours.
    pub foreign_vms: u64,
    /// End of its certificate.
    pub certificate_not_after: Option<UnixMillis>,
    /// When its last state report came.
    pub reported_at: Option<UnixMillis>,
    /// When it was last heard of; while it is connected this is the sign of life of the process that holds it.
    pub last_seen_at: Option<UnixMillis>,
    /// Where its agent cannot look at its servers: when it last could, 0 for never.
    pub blind_since: Option<UnixMillis>,
    /// The version of the trust document that its agent believes.
    pub trust_version: u64,
    /// When it was revoked, if it is.
    pub revoked_at: Option<UnixMillis>,
    /// Since when it is connected.
    pub connected_at: Option<UnixMillis>,
    /// From where it is connected.
    pub remote: Option<String>,
    /// Virtual CPUs.
    pub vcpu: Room,
    /// Memory, MiB.
    pub memory_mib: Room,
    /// Disk, GiB.
    pub disk_gib: Room,
    /// Servers placed, and how many the policy allows.
    pub servers: Room,
    /// Memory of the host: total and in use, MiB.
    pub memory_seen: (u64, u64),
    /// Disk for servers: total and in use, GiB.
    pub disk_seen: (u64, u64),
    /// Cores of the host.
    pub cores_seen: u64,
    /// How busy its cores are, per mille.
    pub cpu_permille: u64,
    /// When an operator added it.
    pub created_at: UnixMillis,
}

impl NodeRow {
    /// Until when its agent may have heard something of this installation; `None` while it still may.
    pub fn heard_until(&self) -> Option<UnixMillis> {
        let revoked_at = self.revoked_at?;
        Some(self.last_seen_at.map_or(revoked_at, |seen| seen.min(revoked_at)))
    }

    /// How recently it was heard of.
    pub fn presence(&self, now: UnixMillis) -> Presence {
        presence(self.last_seen_at, now)
    }
}

/// Why an operator's wish about a node was not done.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// There is no such node.
    #[error("there is no node {0}")]
    Unknown(String),
    /// There is no such location.
    #[error("there is no location {0}; add it with `apply` first")]
    UnknownLocation(String),
    /// The name is taken.
    #[error("a node named {0} exists already")]
    NameTaken(String),
    /// The name is no name.
    #[error("a node's name is 1 to 63 lower-case letters, digits and hyphens, and begins with a letter")]
    BadName,
    /// Its state does not allow it.
    #[error(transparent)]
    Refused(#[from] NodeRefusal),
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// All nodes, or those of one location, sorted by location and name.
///
/// # Errors
/// Those of the database.
pub async fn list(conn: &mut AnyConnection, location: Option<&str>) -> Result<Vec<NodeRow>, DbError> {
    store::list(conn, location).await
}

/// One node by its id.
///
/// # Errors
/// Those of the database.
pub async fn by_id(conn: &mut AnyConnection, node: NodeId) -> Result<Option<NodeRow>, DbError> {
    store::by_id(conn, node).await
}

/// Those of some nodes that there are: a statement for each [`crate::db::MANY`] of them.
///
/// # Errors
/// Those of the database.
pub async fn by_ids(
    conn: &mut AnyConnection,
    ids: &BTreeSet<NodeId>,
) -> Result<BTreeMap<NodeId, NodeRow>, DbError> {
    let ids: Vec<NodeId> = ids.iter().copied().collect();
    let mut all = BTreeMap::new();
    for some in ids.chunks(crate::db::MANY) {
        all.extend(store::by_ids(conn, some).await?.into_iter().map(|node| (node.id, node)));
    }
    Ok(all)
}

/// One node by its name or id, as people write it.
///
/// # Errors
/// [`NodeError::Unknown`].
pub async fn find(conn: &mut AnyConnection, name: &str) -> Result<NodeRow, NodeError> {
    if let Ok(id) = name.parse::<NodeId>()
        && let Some(node) = store::by_id(conn, id).await?
    {
        return Ok(node);
    }
    store::by_name(conn, name).await?.ok_or_else(|| NodeError::Unknown(name.to_owned()))
}

/// A certificate that was issued to a node.
#[derive(Clone, Debug)]
pub struct CertificateRow {
    /// Serial number.
    pub serial: String,
    /// `next`, `current`, `superseded` or `revoked`.
    pub state: String,
    /// Its end.
    pub not_after: UnixMillis,
    /// Until when it is let in; earlier than its end once it was replaced.
    pub valid_until: UnixMillis,
}

/// A node's certificates, newest first, at most 20.
///
/// # Errors
/// Those of the database.
pub async fn certificates(conn: &mut AnyConnection, node: NodeId) -> Result<Vec<CertificateRow>, DbError> {
    store::certificates(conn, node).await
}

/// All locations, sorted by name.
///
/// # Errors
/// Those of the database.
pub async fn locations(conn: &mut AnyConnection) -> Result<Vec<Location>, DbError> {
    store::locations(conn).await
}

/// Adds a location or changes its name. `true` when something changed.
///
/// # Errors
/// Those of the database.
pub async fn put_location(
    tx: &mut AnyConnection,
    at: UnixMillis,
    location: &Location,
) -> Result<bool, DbError> {
    store::put_location(tx, at, location).await
}

/// Adds a node that has yet to enrol.
///
/// # Errors
/// [`NodeError::BadName`], [`NodeError::NameTaken`] or [`NodeError::UnknownLocation`].
pub async fn add(
    tx: &mut AnyConnection,
    at: UnixMillis,
    entropy: &dyn Entropy,
    actor: &str,
    name: &str,
    location: &str,
) -> Result<NodeId, NodeError> {
    if !is_name(name) {
        return Err(NodeError::BadName);
    }
    if !store::location_exists(tx, location).await? {
        return Err(NodeError::UnknownLocation(location.to_owned()));
    }
    let id = NodeId::generate(at, entropy.bytes());
    if !store::insert(tx, at, id, actor, name, location).await? {
        return Err(NodeError::NameTaken(name.to_owned()));
    }
    record(tx, at, actor, "node.added", id, json!({ "name": name, "location": location })).await?;
    Ok(id)
}

/// Makes a node this transaction's to change. Before all other locks, and for one node alone.
///
/// # Errors
/// Those of the database.
pub async fn hold(tx: &mut AnyConnection, node: NodeId) -> Result<(), DbError> {
    db::lock(tx, "node", node).await
}

/// Changes what a node may do and says what it was before.
///
/// # Errors
/// [`NodeError::Refused`] where the state does not allow it.
pub async fn change(
    tx: &mut AnyConnection,
    at: UnixMillis,
    actor: &str,
    node: NodeId,
    change: NodeChange,
) -> Result<(NodeState, NodeState), NodeError> {
    hold(tx, node).await?;
    let known = store::state(tx, node).await?.ok_or_else(|| NodeError::Unknown(node.to_string()))?;
    let (before, was_cordoned) = known;
    let after = match before.after(change)? {
        // Nobody has taken back that nothing new shall come here.
        NodeState::Active if change == NodeChange::Enrol && was_cordoned => NodeState::Cordoned,
        after => after,
    };
    if before == after {
        return Ok((before, after));
    }
    let revoked_at = (after == NodeState::Revoked).then_some(at);
    let was_cordoned = !after.takes_orders() && (was_cordoned || before == NodeState::Cordoned);
    store::set_state(tx, node, before, (after, was_cordoned), revoked_at).await?;
    if change == NodeChange::Revoke {
        store::revoke_certificates(tx, node).await?;
    }
    let action = match change {
        NodeChange::Enrol => "node.enrolled",
        NodeChange::Cordon => "node.cordoned",
        NodeChange::Uncordon => "node.uncordoned",
        NodeChange::Quarantine => "node.quarantined",
        NodeChange::Revoke => "node.revoked",
    };
    record(tx, at, actor, action, node, json!({ "before": before, "after": after })).await?;
    Ok((before, after))
}

/// All certificates of a node are void from now on.
pub(super) async fn revoke_certificates(tx: &mut AnyConnection, node: NodeId) -> Result<(), DbError> {
    store::revoke_certificates(tx, node).await
}

pub(super) async fn record(
    tx: &mut AnyConnection,
    at: UnixMillis,
    actor: &str,
    action: &'static str,
    node: NodeId,
    detail: serde_json::Value,
) -> Result<(), DbError> {
    let entry = audit::Entry {
        actor: actor.to_owned(),
        action: action.to_owned(),
        subject_kind: "node".to_owned(),
        subject_id: node.to_string(),
        detail,
    };
    audit::record(tx, at, entry).await
}

fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(plain)
        && name.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
        && !name.ends_with('-')
}
