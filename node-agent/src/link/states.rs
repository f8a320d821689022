//! STATE streams: everything at connect, changes as they are seen, everything again now and then.

use std::{sync::Arc, time::Duration};

use ez_protocol::{
    frame::{FrameType, StreamKind},
    message::{HostState, StateDelta, StateSnapshot},
};
use tokio::{
    sync::{Mutex, Notify},
    time::Instant,
};

use super::stream::{Sender, StreamError};
use crate::{
    agent::Agent,
    observe::{Observer, is_news},
};

/// Changes that come together are told together.
const DEBOUNCE: Duration = Duration::from_millis(500);
/// Without a sign of change the servers are looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// The host is looked at this often; what changed is told.
const HOST_EVERY: Duration = Duration::from_secs(60);
/// Everything is sent this often, ± 20 %.
const FULL_EVERY: Duration = Duration::from_secs(600);

/// The observer and the number of the last report; both outlive a connection.
pub(super) struct Reports {
    inner: Mutex<Inner>,
    /// Rung when the control plane asks for everything.
    pub(super) resync: Notify,
}

struct Inner {
    observer: Observer,
    seq: u64,
    /// The host as it was told last.
    host: HostState,
    /// Whether it was told that the servers cannot be looked at.
    blind: bool,
}

impl Reports {
    pub(super) fn new(agent: &Agent) -> Self {
        Self {
            inner: Mutex::new(Inner {
                observer: Observer::new(agent),
                seq: 0,
                host: HostState::default(),
                blind: false,
            }),
            resync: Notify::new(),
        }
    }
}

/// Reports for as long as the connection lives.
pub(super) async fn run(
    agent: Arc<Agent>,
    reports: Arc<Reports>,
    connection: quinn::Connection,
) -> Result<(), StreamError> {
    let mut inner = reports.inner.lock().await;
    loop {
        snapshot(&agent, &mut inner, &connection).await?;
        // 80 % to 120 % of the interval.
        let permille = 800 + u32::try_from(agent.entropy.up_to(400)).unwrap_or(200);
        let full_at = Instant::now() + FULL_EVERY * permille / 1_000;
        let mut host_at = Instant::now() + HOST_EVERY;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(full_at) => break,
                () = reports.resync.notified() => break,
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = agent.changed.notified() => {
                    tokio::time::sleep(DEBOUNCE).await;
                    inner.observer.tell_again();
                }
                () = agent.host_changed.notified() => {
                    tokio::time::sleep(DEBOUNCE).await;
                    host_at = Instant::now();
                }
            }
            let host = if Instant::now() >= host_at {
                host_at = Instant::now() + HOST_EVERY;
                let host = inner.observer.look_at_host(&agent).await;
                is_news(&inner.host, &host).then_some(host)
            } else {
                None
            };
            delta(&agent, &mut inner, host, &connection).await?;
        }
    }
}

async fn snapshot(
    agent: &Agent,
    inner: &mut Inner,
    connection: &quinn::Connection,
) -> Result<(), StreamError> {
    // From before the look: what it saw may be older than what an order reported meanwhile.
    let observed_at = agent.clock.now();
    let host = inner.observer.look_at_host(agent).await;
    inner.observer.look(agent, true).await;
    inner.host.clone_from(&host);
    inner.seq += 1;
    let blind = inner.observer.blind_since_ms();
    inner.blind = blind.is_some();
    let message = StateSnapshot {
        report_epoch: agent.report_epoch.clone(),
        seq: inner.seq,
        // What is told again because nothing else can be seen is as old as it is.
        observed_at_ms: blind.unwrap_or(observed_at.0),
        instances: inner.observer.all(),
        host: Some(host),
        blind_since_ms: blind,
    };
    send(connection, FrameType::StateSnapshot, &message).await
}

async fn delta(
    agent: &Agent,
    inner: &mut Inner,
    host: Option<HostState>,
    connection: &quinn::Connection,
) -> Result<(), StreamError> {
    let observed_at = agent.clock.now();
    let changes = inner.observer.look(agent, false).await;
    let blind = inner.observer.blind_since_ms();
    if changes.is_empty() && host.is_none() && blind.is_some() == inner.blind {
        return Ok(());
    }
    inner.blind = blind.is_some();
    if let Some(host) = &host {
        inner.host.clone_from(host);
    }
    let base_seq = inner.seq;
    inner.seq += 1;
    let message = StateDelta {
        report_epoch: agent.report_epoch.clone(),
        base_seq,
        seq: inner.seq,
        observed_at_ms: observed_at.0,
        changed: changes.changed,
        removed: changes.removed,
        host,
        blind_since_ms: blind,
    };
    send(connection, FrameType::StateDelta, &message).await
}

/// One report on a stream of its own.
async fn send(
    connection: &quinn::Connection,
    kind: FrameType,
    message: &impl prost::Message,
) -> Result<(), StreamError> {
    let mut sender = Sender::open(StreamKind::State, connection.open_uni().await?).await?;
    sender.send(kind, message).await?;
    sender.finish();
    Ok(())
}
