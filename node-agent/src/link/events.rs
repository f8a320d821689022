//! The EVENTS stream: the outbox, oldest first, until the other side has acknowledged it.

use std::sync::Arc;

use ez_protocol::frame::{Frame, FrameType, StreamKind};

use super::stream::{Sender, StreamError};
use crate::{agent::Agent, journal::Journal};

/// How many events are read at once.
const BATCH: i64 = 64;

/// Sends events for as long as the connection lives. After a reconnect it begins with the oldest
/// that is not acknowledged; the control plane stores each number once.
pub(super) async fn run(
    agent: Arc<Agent>,
    journal: Journal,
    connection: quinn::Connection,
) -> Result<(), StreamError> {
    let (send, _recv) = connection.open_bi().await?;
    let mut sender = Sender::open(StreamKind::Events, send).await?;
    let mut sent = 0;
    loop {
        let told = agent.told.notified();
        match journal.outbox_after(sent, BATCH).await {
            Ok(events) if events.is_empty() => told.await,
            Ok(events) => {
                for event in events {
                    sender.send_frame(&Frame::raw(FrameType::Event, event.body)).await?;
                    sent = event.event_seq;
                }
            }
            Err(error) => {
                tracing::error!(%error, "the outbox cannot be read");
                tokio::time::sleep(std::time::Duration::from_secs(5)).await;
            }
        }
    }
}
