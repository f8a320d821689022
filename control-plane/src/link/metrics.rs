//! Samples and traffic: one batch on a stream of its own, acknowledged when it is stored.

use std::sync::Arc;

use ez_protocol::{
    frame::{Frame, FrameType},
    message::{MetricsAck, MetricsBatch},
};

use super::{
    connection::Peer,
    stream::{BODY_DEADLINE, Reader, StreamError},
};
use crate::metrics;

/// An agent that brings old samples shall leave others their turn.
const PAUSE_MS: u64 = 250;

/// Reads one batch and stores it. What cannot be read is not acknowledged; what is not worth storing is, so that the
/// agent does not bring it again.
pub(super) async fn run(peer: &Arc<Peer>, reader: &mut Reader) -> Result<(), StreamError> {
    let Some((kind, body)) = reader.next(Some(BODY_DEADLINE)).await? else { return Ok(()) };
    if kind != FrameType::Metrics {
        return Err(StreamError::Unexpected(kind));
    }
    let batch = MetricsBatch::from_bytes(&body).map_err(|error| {
        tracing::warn!(node.id = %peer.identity.node, %error, "a batch of samples is not one");
        StreamError::Malformed
    })?;
    let number = batch.batch;
    let app = &peer.shared.app;
    let taken = metrics::take(&app.db, app.clock.now(), peer.identity.node, batch).await?;
    if taken.refused > 0 {
        tracing::debug!(node.id = %peer.identity.node, refused = taken.refused, "samples or totals out of reach");
    }
    let ack = MetricsAck { batch: number, pause_ms: PAUSE_MS };
    let _gone_with_the_connection = peer.control.send(Frame::new(FrameType::MetricsAck, &ack)).await;
    Ok(())
}
