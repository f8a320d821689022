//! STATE streams: everything at connect, changes as they are seen, everything again now and then.

use std::{sync::Arc, time::Duration};

use ez_protocol::{
    frame::{FrameType, StreamKind},
    message::{HostState, InstanceState, StateDelta, StateSnapshot},
};
use prost::Message;
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

/// What a list's item takes beside itself, in bytes: its tag and its length.
const FIELD: usize = 8;

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
    let first = StateSnapshot {
        report_epoch: agent.report_epoch.clone(),
        seq: inner.seq,
        // What is told again because nothing else can be seen is as old as it is.
        observed_at_ms: blind.unwrap_or(observed_at.0),
        instances: Vec::new(),
        host: Some(host),
        blind_since_ms: blind,
    };
    let next = StateSnapshot { host: None, ..first.clone() };
    let with = |part: &StateSnapshot, instances| StateSnapshot { instances, ..part.clone() };
    send(connection, FrameType::StateSnapshot, &frames(inner.observer.all(), &first, &next, with)).await
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
    let first = StateDelta {
        report_epoch: agent.report_epoch.clone(),
        base_seq,
        seq: inner.seq,
        observed_at_ms: observed_at.0,
        changed: Vec::new(),
        removed: changes.removed,
        host,
        blind_since_ms: blind,
    };
    let next = StateDelta { removed: Vec::new(), host: None, ..first.clone() };
    let with = |part: &StateDelta, changed| StateDelta { changed, ..part.clone() };
    send(connection, FrameType::StateDelta, &frames(changes.changed, &first, &next, with)).await
}

/// The frames of one report: servers that do not fit into the first follow in others of the same number.
fn frames<M: Message>(
    servers: Vec<InstanceState>,
    first: &M,
    next: &M,
    with: impl Fn(&M, Vec<InstanceState>) -> M,
) -> Vec<M> {
    let cap = StreamKind::State.frame_cap();
    let (mut frames, mut part, mut size, mut head) = (Vec::new(), Vec::new(), first.encoded_len(), first);
    for server in servers {
        let more = server.encoded_len() + FIELD;
        if size + more > cap {
            frames.push(with(head, std::mem::take(&mut part)));
            (head, size) = (next, next.encoded_len());
        }
        size += more;
        part.push(server);
    }
    frames.push(with(head, part));
    frames
}

/// One report on a stream of its own.
async fn send(
    connection: &quinn::Connection,
    kind: FrameType,
    frames: &[impl Message],
) -> Result<(), StreamError> {
    let mut sender = Sender::open(StreamKind::State, connection.open_uni().await?).await?;
    for frame in frames {
        sender.send(kind, frame).await?;
    }
    sender.finish();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_many_servers_comes_in_frames_that_fit() {
        let server = |n: usize| InstanceState {
            instance_id: format!("0192d3c0-0000-7000-8000-{n:012}"),
            vmid: 1_000,
            power: "running".into(),
            phase: "present".into(),
            drift: if n.is_multiple_of(3) { vec!["net0: another bridge".repeat(20)] } else { Vec::new() },
            ..InstanceState::default()
        };
        let first = StateSnapshot { seq: 7, host: Some(HostState::default()), ..StateSnapshot::default() };
        let next = StateSnapshot { host: None, ..first.clone() };
        let with = |part: &StateSnapshot, instances| StateSnapshot { instances, ..part.clone() };
        for count in [0, 1, 100, 3_000] {
            let servers: Vec<_> = (0..count).map(server).collect();
            let frames = frames(servers.clone(), &first, &next, with);
            assert!(frames.iter().all(|frame| frame.encoded_len() <= StreamKind::State.frame_cap()));
            assert!(frames.iter().all(|frame| frame.seq == 7));
            assert_eq!(frames.iter().filter(|frame| frame.host.is_some()).count(), 1, "the first one");
            assert_eq!(frames.len() > 1, count == 3_000);
            let told: Vec<_> = frames.into_iter().flat_map(|frame| frame.instances).collect();
            assert_eq!(told, servers);
        }
    }
}
