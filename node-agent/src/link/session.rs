//! One connection: greeting, then everything else beside each other until something ends it.

use std::{sync::Arc, time::Duration};

use ez_protocol::{
    UnixMillis,
    frame::{CloseCode, Frame, FrameType, PROTO_MAX, PROTO_MIN, StreamKind},
    message::{Hello, Ready, Welcome},
};
use prost::Message as _;
use quinn::{Connection, RecvStream, SendStream};
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};

use super::{
    Ending, consoles, control, events, metrics, orders,
    states::{self, Reports},
    stream::{HEADER_DEADLINE, Receiver, Sender, StreamError, code},
};
use crate::agent::Agent;

/// The answer to a greeting has to come within this time.
const WELCOME: Duration = Duration::from_secs(15);
/// Label of the keying material that binds greeting and connection.
const BINDING: &[u8] = b"ez-hello-v1";

/// Why a greeting did not end in a session.
#[derive(Debug, thiserror::Error)]
pub(super) enum GreetError {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("the journal: {0}")]
    Journal(#[from] crate::journal::JournalError),
    #[error("the control plane wants protocol {0}, which this agent does not speak (any more)")]
    Version(u32),
    #[error("the greeting could not be bound to the connection")]
    Binding,
}

/// A connection that was welcomed.
pub(super) struct Session {
    connection: Connection,
    sender: Sender,
    receiver: Receiver,
    pub(super) welcome: Welcome,
}

async fn hello(agent: &Agent) -> Result<Hello, GreetError> {
    let identity = agent.identity();
    let meta = match &agent.works {
        Some(works) => Some(works.journal.meta().await?),
        None => None,
    };
    Ok(Hello {
        proto_min: PROTO_MIN,
        proto_max: PROTO_MAX,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        epoch: identity.node.epoch,
        boot_id: agent.boot_id.clone(),
        report_epoch: agent.report_epoch.clone(),
        journal_id: meta.as_ref().map(|m| m.journal_id.to_string()).unwrap_or_default(),
        high_water_seq: meta.as_ref().map_or(0, |m| m.high_seq),
        last_event_seq: meta.as_ref().map_or(0, |m| m.last_event_seq),
        ratchet: meta.and_then(|m| m.ratchet).unwrap_or_default(),
        fingerprint: agent.fingerprint.clone(),
        pve_version: agent.pve_version(),
        pve_node: agent.config.pve_node.clone(),
        cluster: agent.cluster.clone(),
        policy: Some(agent.policy.summary()),
        now_ms: agent.clock.now().0,
        trust_version: Some(identity.trust.version),
    })
}

/// Hello, Welcome, and the proof that both saw the same. Only then is the agent connected: QUIC's
/// own "connected" does not mean that the server took our certificate.
pub(super) async fn greet(agent: &Agent, connection: Connection) -> Result<Session, GreetError> {
    let (send, recv) = connection.open_bi().await.map_err(StreamError::from)?;
    let mut sender = Sender::open(StreamKind::Control, send).await?;
    let mut receiver = Receiver::new(StreamKind::Control, recv);
    let hello = hello(agent).await?.encode_to_vec();
    sender.send_frame(&Frame::raw(FrameType::Hello, hello.clone())).await?;
    let answer = receiver.expect(FrameType::Welcome, WELCOME).await?;
    let welcome = Welcome::decode(answer.as_slice()).map_err(StreamError::from)?;
    agent.offset.heard(agent.clock.now(), UnixMillis(welcome.now_ms));
    agent.contact.heard(agent.clock.now());
    accept_version(agent, &connection, welcome.proto).await?;
    if let Some(works) = &agent.works {
        let ratchet = || works.journal.welcome(welcome.ratchet.clone(), u64::from(welcome.proto));
        agent.space.or_with_reserve(ratchet).await?;
        works.journal.acknowledge(welcome.acked_event_seq, agent.clock.now()).await?;
    }
    let both = Sha256::new().chain_update(&hello).chain_update(&answer).finalize();
    let mut binding = vec![0; 32];
    connection.export_keying_material(&mut binding, BINDING, &both).map_err(|_| GreetError::Binding)?;
    sender.send(FrameType::Ready, &Ready { binding }).await?;
    Ok(Session { connection, sender, receiver, welcome })
}

/// Neither above what this agent speaks nor below what it has ever agreed to or its trust demands.
async fn accept_version(agent: &Agent, connection: &Connection, proto: u32) -> Result<(), GreetError> {
    let spoken = match &agent.works {
        Some(works) => works.journal.meta().await?.proto_floor,
        None => 0,
    };
    let floor = agent.identity().trust.min_proto.max(PROTO_MIN);
    if (floor..=PROTO_MAX).contains(&proto) && u64::from(proto) >= spoken {
        return Ok(());
    }
    connection.close(code(CloseCode::Version), b"no protocol in common");
    Err(GreetError::Version(proto))
}

/// Serves a session until it ends; says how.
pub(super) async fn serve(agent: Arc<Agent>, reports: Arc<Reports>, session: Session) -> Ending {
    let Session { connection, sender, receiver, .. } = session;
    let (ending, mut ended) = watch::channel(None);
    let (questions, asked) = mpsc::channel(16);
    let pending = control::Pending::default();
    let mut tasks: JoinSet<Result<(), StreamError>> = JoinSet::new();
    tasks.spawn(control::write(Arc::clone(&agent), sender, asked, Arc::clone(&pending), ending.clone()));
    tasks.spawn(control::read(
        Arc::clone(&agent),
        Arc::clone(&reports),
        receiver,
        questions,
        pending,
        ending,
    ));
    tasks.spawn(states::run(Arc::clone(&agent), reports, connection.clone()));
    tasks.spawn(accept(Arc::clone(&agent), connection.clone()));
    if let Some(works) = &agent.works {
        tasks.spawn(events::run(Arc::clone(&agent), works.journal.clone(), connection.clone()));
    }
    if let Some(kept) = &agent.metrics {
        tasks.spawn(metrics::run(Arc::clone(&agent), Arc::clone(kept), connection.clone()));
    }
    loop {
        let fault = tokio::select! {
            Ok(()) = ended.changed() => None,
            error = connection.closed() => return Ending::Lost(error),
            Some(done) = tasks.join_next() => match done {
                Ok(Err(error)) => Some(error),
                Ok(Ok(())) => None,
                // Nobody cancels one: it has panicked. Without it the connection would only look alive.
                Err(_) => Some(StreamError::Panicked),
            },
        };
        if let Some(ending) = ended.borrow().clone() {
            return ending;
        }
        let Some(error) = fault else { continue };
        // The reason of a connection that is over says more than that of its streams.
        if let Some(reason) = connection.close_reason() {
            return Ending::Lost(reason);
        }
        connection.close(code(error.close_code()), error.to_string().as_bytes());
        return Ending::Broken(error.to_string());
    }
}

/// Streams the control plane opens. One that panics ends alone: its halves are reset as they are dropped, by which the
/// other side learns that nothing comes of it. What it carried is delivered again, and would end session after session.
async fn accept(agent: Arc<Agent>, connection: Connection) -> Result<(), StreamError> {
    let mut streams = JoinSet::new();
    loop {
        let (send, recv) = tokio::select! {
            both = connection.accept_bi() => both?,
            Some(done) = streams.join_next() => {
                if let Err(error) = done {
                    tracing::error!(%error, "a stream of the control plane met a defect of this agent; the others go on");
                }
                continue;
            }
        };
        streams.spawn(incoming(Arc::clone(&agent), connection.clone(), send, recv));
    }
}

/// The first byte says what a stream is for.
async fn incoming(agent: Arc<Agent>, connection: Connection, mut send: SendStream, mut recv: RecvStream) {
    let mut kind = [0];
    let refusal = match timeout(HEADER_DEADLINE, recv.read_exact(&mut kind)).await {
        Ok(Ok(())) => match StreamKind::from_byte(kind[0]) {
            Some(StreamKind::Order) => return orders::serve(agent, send, recv).await,
            Some(StreamKind::Console) => return consoles::serve(agent, &connection, send, recv).await,
            _ => CloseCode::UnknownStream,
        },
        _ => CloseCode::Timeout,
    };
    let _ = recv.stop(code(refusal));
    let _ = send.reset(code(refusal));
}
