//! Events: stored first, then acknowledged, up to a number.

use std::sync::Arc;

use ez_protocol::{
    frame::{Frame, FrameType},
    message::{Event, EventAck},
};

use super::{
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
        let (app, node, journal) = (&peer.shared.app, peer.identity.node, peer.journal.clone());
        let at = app.clock.now();
        app.db
            .write(move |tx| {
                Box::pin(async move {
                    dispatch::record(tx, at, node, &journal, &event).await?;
                    reports::events_stored(tx, node, &journal, event_seq).await?;
                    Ok::<_, DbError>(())
                })
            })
            .await?;
        // After the commit: what is acknowledged here may be forgotten there.
        if peer.control.send(Frame::new(FrameType::EventAck, &EventAck { event_seq })).await.is_err() {
            break;
        }
    }
    Ok(())
}
