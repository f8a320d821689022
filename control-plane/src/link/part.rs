//! A part of a session that panics ends the session.
//!
//! The parts of a session run beside each other, some of them as tasks of their own. A part that is gone takes none of the
//! others with it: the connection would stay, its node would be shown as online, and its orders or events would wait for
//! ever. So it is told and counted, the connection is closed, and the agent dials anew.

use std::panic::AssertUnwindSafe;

use ez_protocol::{NodeId, frame::CloseCode};
use futures::FutureExt as _;
use quinn::VarInt;

use super::connection::Peer;

/// A part has panicked; it was told when this was made.
#[derive(Debug, thiserror::Error)]
#[error("a part of the session has panicked: {0}")]
pub(super) struct Panicked(&'static str);

impl Panicked {
    /// How a connection is closed for it: as for anything else that could not be done here just now.
    pub(super) const CODE: CloseCode = CloseCode::Timeout;

    /// Tells and counts it.
    pub(super) fn told(node: NodeId, part: &'static str) -> Self {
        tracing::error!(node.id = %node, part, "a part of an agent's session has panicked; the agent dials anew");
        metrics::counter!("ez_link_panics_total").increment(1);
        Self(part)
    }
}

/// Runs a part; its panic is an error here. Wraps the future instead of holding it beside itself: a session at rest keeps
/// little room.
pub(super) fn caught<F: Future>(
    node: NodeId,
    part: &'static str,
    work: F,
) -> impl Future<Output = Result<F::Output, Panicked>> {
    AssertUnwindSafe(work).catch_unwind().map(move |went| went.map_err(|_| Panicked::told(node, part)))
}

/// Runs a part as a task of its own; the connection does not outlive its panic.
pub(super) fn spawn(peer: &Peer, part: &'static str, work: impl Future<Output = ()> + Send + 'static) {
    let connection = peer.connection.clone();
    tokio::spawn(caught(peer.identity.node, part, work).map(move |went| {
        if let Err(panicked) = went {
            connection.close(VarInt::from_u32(Panicked::CODE.code()), panicked.to_string().as_bytes());
        }
    }));
}
