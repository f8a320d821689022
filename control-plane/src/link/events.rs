//! Events: stored first, then acknowledged, up to a number.

use std::{sync::Arc, time::Duration};

use ez_protocol::{
    frame::{Frame, FrameType},
    message::{Event, EventAck},
};

use super::{
    connection::Peer,
    stream::{Reader, StreamError, parse},
};
use crate::{db::DbError, dispatch, fleet::reports};

/// A deadlock or a database that restarts costs an attempt, not the connection.
const ATTEMPTS: u32 = 4;
/// Pause after the first attempt; it doubles.
const PAUSE: Duration = Duration::from_millis(50);

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
    let (app, node) = (&peer.shared.app, peer.identity.node);
    let at = app.clock.now();
    let mut attempt = 0;
    loop {
        let (journal, told) = (peer.journal.clone(), event.clone());
        let stored = app
            .db
            .write(move |tx| {
                Box::pin(async move {
                    dispatch::record(tx, at, node, &journal, &told).await?;
                    reports::events_stored(tx, node, &journal, told.event_seq).await?;
                    Ok::<_, DbError>(())
                })
            })
            .await;
        match stored {
            Err(error) if error.is_transient() && attempt + 1 < ATTEMPTS => {
                tracing::warn!(node.id = %node, event.seq = event.event_seq, %error, "an event was not stored; trying again");
                tokio::time::sleep(PAUSE * 2_u32.pow(attempt)).await;
                attempt += 1;
            }
            other => return other,
        }
    }
}
