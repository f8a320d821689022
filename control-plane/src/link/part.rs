//! A part of a session that panics ends the session.
//!
//! The parts of a session run beside each other, some of them as tasks of their own. A part that is gone takes none of the
//! others with it: the connection would stay, its node would be shown as online, and its orders or events would wait for
//! ever. So it is told and counted, the connection is closed, and the agent dials anew.

use std::{panic::AssertUnwindSafe, time::Duration};

use ez_protocol::{NodeId, frame::CloseCode};
use futures::FutureExt as _;
use quinn::VarInt;

use super::connection::Peer;

/// How long a part of the whole link waits before it begins anew.
const PAUSE: Duration = Duration::from_secs(1);

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

/// Runs a part that all sessions of this process need; after a panic it begins anew. Without it nodes would look dead, or
/// their orders would wait, for as long as the process lives.
pub(super) async fn steadily<F: Future<Output = ()>>(part: &'static str, run: impl Fn() -> F) {
    while AssertUnwindSafe(run()).catch_unwind().await.is_err() {
        tracing::error!(part, "a part of the link has panicked; it begins anew");
        metrics::counter!("ez_link_panics_total").increment(1);
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn what_all_sessions_need_begins_anew_after_a_panic() {
        let runs = AtomicU32::new(0);
        let run = || async {
            assert!(runs.fetch_add(1, Ordering::SeqCst) > 0, "the first one falls");
        };
        steadily("a test", run).await;
        assert_eq!(runs.into_inner(), 2);
    }
}
