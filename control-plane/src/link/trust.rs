//! Brings agents up to the trust document that holds, before they get orders that only it lets them believe.

use std::{sync::Arc, time::Duration};

use ez_protocol::{
    UnixMillis,
    frame::{Frame, FrameType},
    message::TrustTaken,
};
use sqlx::AnyConnection;

use super::{connection::Peer, part, stream::StreamError};
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
/// that signs orders now: before that it would refuse them. One that does not come to the version that holds rings.
pub(super) async fn bring_up_to_date(peer: &Arc<Peer>) -> Result<(), StreamError> {
    let trust = &peer.shared.trust;
    let mut believes = peer.believes.subscribe();
    let has = *believes.borrow_and_update();
    if has != trust.version {
        part::spawn(peer, "watching over its trust", watch_over(peer.clone()));
    }
    if has > trust.version {
        // What we sign may not be believed any more; this process has to be started with the present keys.
        peer.connection.closed().await;
        return Err(StreamError::Broken);
    }
    for (_, envelope) in trust.updates.iter().filter(|(version, _)| *version > has) {
        let frame = Frame::raw(FrameType::TrustUpdate, envelope.clone());
        peer.control.send(frame).await.map_err(|_| StreamError::Broken)?;
    }
    let _gone_with_the_connection = believes.wait_for(|version| *version >= trust.needed).await;
    Ok(())
}

/// Tells somebody if an agent does not come to believe the version that holds.
async fn watch_over(peer: Arc<Peer>) {
    let mut believes = peer.believes.subscribe();
    let wanted = peer.shared.trust.version;
    tokio::select! {
        _ = peer.connection.closed() => {}
        _ = async { believes.wait_for(|version| *version == wanted).await.is_ok() } => {}
        () = tokio::time::sleep(PATIENCE) => {
            let has = *peer.believes.borrow();
            if let Err(error) = ring(&peer, has).await {
                tracing::warn!(node.id = %peer.identity.node, %error, "an alarm was not written");
            }
        }
    }
}

/// An agent that is greeted believes enough: nothing rings for it any more.
pub(super) async fn greeted(
    tx: &mut AnyConnection,
    at: UnixMillis,
    name: &str,
    believes: u64,
    version: u64,
) -> Result<(), DbError> {
    if believes == version { alarms::clear(tx, at, BEHIND, name).await } else { Ok(()) }
}

/// An agent believes a version; durable before orders rely on it.
pub(super) async fn taken(peer: &Peer, said: &TrustTaken) -> Result<(), DbError> {
    let (at, node, version) = (peer.shared.app.clock.now(), peer.identity.node, said.version);
    let holds = peer.shared.trust.version;
    peer.shared
        .app
        .db
        .write(move |tx| {
            Box::pin(async move {
                let name = sessions::believes(tx, node, version).await?;
                greeted(tx, at, &name, version, holds).await
            })
        })
        .await?;
    tracing::info!(node.id = %node, version, "an agent believes the trust document");
    peer.believes.send_replace(version);
    Ok(())
}

async fn ring(peer: &Arc<Peer>, has: u64) -> Result<(), DbError> {
    let (at, node) = (peer.shared.app.clock.now(), peer.identity.node);
    let (version, needed) = (peer.shared.trust.version, peer.shared.trust.needed);
    tracing::error!(node.id = %node, has, version, needed, "an agent does not believe the trust document that holds");
    let what = if has > version {
        format!(
            "Its agent believes version {has} of the trust document and this control plane has version {version}: KEYS_DIR is an \
             old copy, or a process was not started again since the keys were exchanged. It gets no orders until that is mended."
        )
    } else {
        let orders = if has < needed { "It gets no orders until it does. " } else { "" };
        format!(
            "Its agent believes version {has} of the trust document and does not take version {version}. {orders}Look into its \
             journal there for why (a full disk, an old agent), or enrol the node again with a new join token."
        )
    };
    peer.shared
        .app
        .db
        .write(move |tx| {
            Box::pin(async move {
                let Some(row) = crate::fleet::node(tx, node).await? else { return Ok(()) };
                let severity = Severity::Critical;
                let alarm = alarms::New {
                    kind: BEHIND,
                    subject: &row.name,
                    severity,
                    node: Some(node),
                    detail: &what,
                };
                alarms::hold(tx, at, alarm).await.map(|_| ())
            })
        })
        .await
}
