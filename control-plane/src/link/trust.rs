//! Brings agents up to the trust document that holds, before they get orders that only it lets them believe.

use std::{sync::Arc, time::Duration};

use ez_protocol::{
    frame::{Frame, FrameType},
    message::TrustTaken,
};
use tokio::time::timeout;

use super::{connection::Peer, stream::StreamError};
use crate::{
    db::DbError,
    fleet::{Severity, alarms, sessions},
};

/// The trust document as agents are brought up to it.
#[derive(Clone, Debug)]
pub struct Trust {
    /// The version that holds.
    pub version: u64,
    /// The first version that trusts the key which signs orders now: an agent before it refuses them.
    pub needed: u64,
    /// The versions after the first in their order, each as the encoded envelope that agents check.
    pub updates: Vec<(u64, Vec<u8>)>,
}

/// An agent stores a document and says so within seconds; after so long somebody is told.
const PATIENCE: Duration = Duration::from_secs(60);
/// The alarm about one that does not.
const BEHIND: &str = "trust_behind";

/// Sends the versions that the agent does not have, each after the one that it follows, and waits until it believes the key
/// that signs orders now: before that it would refuse them.
pub(super) async fn bring_up_to_date(peer: &Arc<Peer>) -> Result<(), StreamError> {
    let trust = &peer.shared.trust;
    let mut believes = peer.believes.subscribe();
    let has = *believes.borrow_and_update();
    for (_, envelope) in trust.updates.iter().filter(|(version, _)| *version > has) {
        let frame = Frame::raw(FrameType::TrustUpdate, envelope.clone());
        peer.control.send(frame).await.map_err(|_| StreamError::Broken)?;
    }
    let mut enough = async || believes.wait_for(|version| *version >= trust.needed).await.is_ok();
    if timeout(PATIENCE, enough()).await.is_err() {
        if let Err(error) = ring(peer).await {
            tracing::warn!(node.id = %peer.identity.node, %error, "an alarm was not written");
        }
        enough().await;
    }
    Ok(())
}

/// An agent believes a version; durable before orders rely on it.
pub(super) async fn taken(peer: &Peer, said: &TrustTaken) -> Result<(), DbError> {
    let (at, node, version) = (peer.shared.app.clock.now(), peer.identity.node, said.version);
    peer.shared
        .app
        .db
        .write(move |tx| {
            Box::pin(async move {
                let name = sessions::believes(tx, node, version).await?;
                alarms::clear(tx, at, BEHIND, &name).await
            })
        })
        .await?;
    tracing::info!(node.id = %node, version, "an agent believes the trust document");
    peer.believes.send_replace(version);
    Ok(())
}

async fn ring(peer: &Arc<Peer>) -> Result<(), DbError> {
    let (at, node) = (peer.shared.app.clock.now(), peer.identity.node);
    let needed = peer.shared.trust.needed;
    tracing::error!(node.id = %node, needed, "an agent does not take the trust document; it gets no orders");
    peer.shared
        .app
        .db
        .write(move |tx| {
            Box::pin(async move {
                let Some(row) = crate::fleet::node(tx, node).await? else { return Ok(()) };
                let detail = format!(
                    "Its agent does not believe version {needed} of the trust document, whose key signs orders, so it gets \
                     none. Update the agent there, or enrol the node again with a new join token."
                );
                let severity = Severity::Critical;
                let alarm = alarms::New {
                    kind: BEHIND,
                    subject: &row.name,
                    severity,
                    node: Some(node),
                    detail: &detail,
                };
                alarms::hold(tx, at, alarm).await.map(|_| ())
            })
        })
        .await
}
