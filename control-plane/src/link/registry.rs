//! The connections of this process, by node.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU32},
};

use ez_protocol::{NodeId, frame::CloseCode};
use quinn::VarInt;
use tokio::sync::Notify;

use super::challenge::Asker;

/// The agents connected to this process; cheap to clone.
#[derive(Clone, Default)]
pub struct Registry(Arc<Mutex<HashMap<NodeId, Live>>>);

/// A connection that was greeted.
#[derive(Clone)]
pub(super) struct Live {
    /// Its random name, as in the session row.
    pub(super) id: String,
    pub(super) connection: quinn::Connection,
    /// How many consoles are open on it.
    pub(super) consoles: Arc<AtomicU32>,
    /// Rung when an order waits.
    pub(super) orders: Arc<Notify>,
    /// The way to ask who it is.
    pub(super) challenge: Asker,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("connected", &self.connected()).finish()
    }
}

impl Registry {
    /// How many agents are connected to this process.
    pub fn connected(&self) -> usize {
        self.all().len()
    }

    /// The nodes that are connected to this process.
    pub(super) fn nodes(&self) -> Vec<NodeId> {
        self.all().keys().copied().collect()
    }

    /// Closes a node's connection at once, if this process holds it: its certificate or row was revoked.
    pub fn revoke(&self, node: NodeId) {
        self.close(node, CloseCode::Revoked, b"revoked");
    }

    /// Closes a node's connection so that it dials again, if this process holds it.
    pub fn reauthenticate(&self, node: NodeId) {
        self.close(node, CloseCode::Reauth, b"connect again");
    }

    fn close(&self, node: NodeId, code: CloseCode, reason: &[u8]) {
        if let Some(live) = self.all().remove(&node) {
            live.connection.close(VarInt::from_u32(code.code()), reason);
        }
    }

    /// The connection of a node, if this process holds it, and the count of its consoles.
    pub(super) fn connection(&self, node: NodeId) -> Option<(quinn::Connection, Arc<AtomicU32>)> {
        self.all().get(&node).map(|live| (live.connection.clone(), live.consoles.clone()))
    }

    /// Rings for the nodes that have orders waiting.
    pub(super) fn ring(&self, nodes: &[NodeId]) {
        let all = self.all();
        for live in nodes.iter().filter_map(|node| all.get(node)) {
            live.orders.notify_one();
        }
    }

    /// Enters a connection; gives the one whose place it takes, which is still open.
    pub(super) fn enter(&self, node: NodeId, live: Live) -> Option<Live> {
        self.all().insert(node, live)
    }

    /// Removes a connection, unless a newer one took its place.
    pub(super) fn leave(&self, node: NodeId, id: &str) {
        let mut all = self.all();
        if all.get(&node).is_some_and(|live| live.id == id) {
            all.remove(&node);
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<NodeId, Live>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
