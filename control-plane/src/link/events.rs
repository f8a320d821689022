//! Events: stored first, then acknowledged, up to a number.

use std::sync::Arc;

use ez_protocol::{
    frame::{Frame, FrameType},
    message::{Event, EventAck},
};

use super::{
    again::insist,
    connection::Peer,
    stream::{Reader, StreamError, parse},
};
use crate::{db::DbError, dispatch, fleet::reports};

/// Reads events for as long as the connection lives.
pub(super) async fn run(peer: &Arc<Peer>, reader: &mut Reader) -> Result<(), StreamError> {
    while let Some((kind, body)) = reader.next(None).await? {
        if kind != FrameType::Event {
            return Err(StreamError::Unexpected(kind));
        }
        let event: Event = parse(&body)?;
        let event_seq = event.event_seq;
        store(peer, &event).await?;
        // After the commit: what is acknowledged here may be forgotten there.
        if peer.control.send(Frame::new(FrameType::EventAck, &EventAck { event_seq })).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Stores an event with what it means. Storing one again changes nothing, so an unknown outcome is tried again.
async fn store(peer: &Peer, event: &Event) -> Result<(), DbError> {
    let (db, node, at) = (&peer.shared.app.db, peer.identity.node, peer.shared.app.clock.now());
    insist(node, "an event", || {
        let (journal, told) = (peer.journal.clone(), event.clone());
        db.write(move |tx| {
            Box::pin(async move {
                dispatch::record(tx, at, node, &journal, &told).await?;
                reports::events_stored(tx, node, &journal, told.event_seq).await?;
                Ok::<_, DbError>(())
            })
        })
    })
    .await
}
