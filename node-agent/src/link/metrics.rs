//! METRICS streams: one batch each, acknowledged on the control stream before the next one goes.
//!
//! What is new goes at once. What is old goes slowly: at most [`RATE`] and never sooner than the control plane wishes.
//! A batch that is not acknowledged in time is told again later, and so is one that was out when a connection ended.

use std::{sync::Arc, time::Duration};

use ez_protocol::{
    frame::{FrameType, StreamKind},
    message::MetricsAck,
};
use prost::Message as _;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::stream::{Sender, StreamError};
use crate::{agent::Agent, metrics::Metrics};

/// Most bytes of old samples in a second.
const RATE: u64 = 256 * 1024;
/// An acknowledgement has to come within this time.
const PATIENCE: Duration = Duration::from_secs(30);
/// Nothing is told for so long to a control plane that did not take a batch.
const REFUSED: Duration = Duration::from_secs(60);

/// Tells samples for as long as the connection lives.
pub(super) async fn run(
    agent: Arc<Agent>,
    metrics: Arc<Metrics>,
    connection: quinn::Connection,
) -> Result<(), StreamError> {
    metrics.begin();
    let mut acks = metrics.acks();
    let mut old_from = Instant::now();
    loop {
        let paused = Instant::now() < old_from;
        let Some(outgoing) = metrics.next(agent.clock.now(), paused) else {
            tokio::select! {
                () = metrics.changed.notified() => {}
                () = tokio::time::sleep_until(old_from), if paused => {}
            }
            continue;
        };
        let bytes = u64::try_from(outgoing.encoded_len()).unwrap_or(u64::MAX);
        let sent = tell(&outgoing, &connection).await?;
        match if sent { taken(&mut acks, outgoing.batch).await } else { None } {
            Some(ack) => {
                let by_rate = Duration::from_millis(bytes.saturating_mul(1_000) / RATE);
                let wished = Duration::from_millis(ack.pause_ms.min(600_000));
                old_from = Instant::now() + by_rate.max(wished);
            }
            None => {
                metrics.give_back();
                tokio::time::sleep(REFUSED).await;
            }
        }
    }
}

/// Sends a batch on a stream of its own; false if the other side did not want it.
async fn tell(message: &impl prost::Message, connection: &quinn::Connection) -> Result<bool, StreamError> {
    let stream = connection.open_uni().await?;
    let sending = async {
        let mut sender = Sender::open(StreamKind::Metrics, stream).await?;
        sender.send(FrameType::Metrics, message).await?;
        sender.finish();
        Ok::<_, StreamError>(())
    };
    match sending.await {
        Ok(()) => Ok(true),
        // A control plane of another version takes none of these streams; the connection is as good as before.
        Err(StreamError::Write(quinn::WriteError::Stopped(_))) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The acknowledgement of a batch; `None` if it does not come.
async fn taken(acks: &mut watch::Receiver<MetricsAck>, batch: u64) -> Option<MetricsAck> {
    let wanted = acks.wait_for(|ack| ack.batch == batch);
    timeout(PATIENCE, wanted).await.ok()?.ok().map(|ack| ack.clone())
}
