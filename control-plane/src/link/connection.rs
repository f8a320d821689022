//! One connection, from the handshake to its end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ez_protocol::{
    NodeId,
    frame::{CloseCode, Frame, FrameType, PROTO_MAX, PROTO_MIN, StreamKind},
    message::{self, Hello, Welcome},
};
use prost::Message as _;
use quinn::{Connecting, Connection, VarInt};
use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    time::timeout,
};

use super::{
    challenge::{self, Asker, Newcomer, Settling, Verdict},
    endpoint::Shared,
    events,
    identity::Identity,
    metrics, orders,
    part::{self, Panicked},
    registry::Live,
    state,
    stream::{HEADER_DEADLINE, Reader, StreamError, Writer, kind_of, parse},
    trust,
};
use crate::{
    db::DbError,
    dispatch,
    entropy::EntropyExt as _,
    fleet::{enrol, sessions},
    shares::Share,
};

/// How long TLS may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long the agent may take to store the Welcome and say so.
const READY: Duration = Duration::from_secs(20);
/// How long all of the greeting may take, however many waits it is made of.
const GREETING: Duration = Duration::from_secs(30);
/// No connection lives longer than this and up to an hour more: certificates are judged only at its start.
const LONGEST: Duration = Duration::from_secs(24 * 3_600);
/// State reports that wait.
const REPORT_QUEUE: usize = 16;
/// Batches of samples at once. An agent sends one after the other; the next may come while the last is let go.
const METRICS_AT_ONCE: usize = 4;
/// Most bytes of the names in a Hello that are compared as they are, and so never cut.
const LONGEST_NAME: usize = 128;
/// Frames that wait for the control stream.
const CONTROL_QUEUE: usize = 64;

/// What the parts of a connection share.
pub(super) struct Peer {
    pub(super) shared: Arc<Shared>,
    pub(super) connection: Connection,
    pub(super) identity: Identity,
    /// The connection's random name, as in its session row.
    pub(super) id: String,
    /// The journal the agent said it has.
    pub(super) journal: String,
    /// The way to the control stream.
    pub(super) control: mpsc::Sender<Frame>,
    /// Rung when an order waits.
    pub(super) orders: Arc<Notify>,
    /// The version of the trust document that the agent believes.
    pub(super) believes: watch::Sender<u64>,
    /// The way to ask who it is.
    pub(super) challenge: Asker,
    /// How many batches of samples may be stored at once.
    samples: Arc<Semaphore>,
}

/// Why a connection is closed by us.
#[derive(Debug, thiserror::Error)]
enum Goodbye {
    #[error("{0}")]
    Stream(#[from] StreamError),
    #[error("not let in")]
    Revoked,
    #[error("no common version")]
    Version,
    #[error("the greeting was changed on its way")]
    Binding,
    #[error("the certificate is about to end")]
    Reauth,
    #[error("going away")]
    Drain,
    #[error("another connection took over")]
    Replaced,
    #[error("two agents have this identity")]
    Copied,
    #[error(transparent)]
    Panicked(#[from] Panicked),
}

impl Goodbye {
    fn code(&self) -> CloseCode {
        match self {
            Self::Stream(fault) => fault.code(),
            Self::Revoked => CloseCode::Revoked,
            Self::Version => CloseCode::Version,
            Self::Binding => CloseCode::Protocol,
            Self::Reauth => CloseCode::Reauth,
            Self::Drain => CloseCode::Drain,
            Self::Replaced => CloseCode::Replaced,
            Self::Copied => CloseCode::Quarantined,
            Self::Panicked(_) => Panicked::CODE,
        }
    }
}

impl From<DbError> for Goodbye {
    fn from(error: DbError) -> Self {
        Self::Stream(error.into())
    }
}

/// Serves one agent until the connection ends. Until its certificate was seen it is anybody, and holds a share of the
/// handshakes; from then until it is its node's connection, one of those that its node may have.
pub(super) async fn serve(shared: Arc<Shared>, connecting: Connecting, share: Share<u128>) {
    let Ok(Ok(connection)) = timeout(HANDSHAKE, connecting).await else { return };
    let remote = connection.remote_address();
    let Some(identity) = identify(&shared, &connection) else {
        close(&connection, CloseCode::Revoked, "no identity");
        return;
    };
    let node = identity.node;
    let Some(place) = shared.waiting.take(node) else {
        close(&connection, CloseCode::Drain, "too many connections of this node at once");
        return;
    };
    drop(share);
    match converse(shared, connection.clone(), identity, place).await {
        Ok(()) => tracing::info!(node.id = %node, %remote, "agent left"),
        Err(goodbye) => {
            tracing::info!(node.id = %node, %remote, reason = %goodbye, "agent's connection closed");
            close(&connection, goodbye.code(), &goodbye.to_string());
        }
    }
}

fn close(connection: &Connection, code: CloseCode, reason: &str) {
    connection.close(VarInt::from_u32(code.code()), reason.as_bytes());
}

fn identify(shared: &Shared, connection: &Connection) -> Option<Identity> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    match Identity::of(shared.install, chain.first()?) {
        Ok(identity) => Some(identity),
        Err(error) => {
            tracing::warn!(remote = %connection.remote_address(), %error, "a certificate names nobody");
            None
        }
    }
}

/// A connection that was greeted.
struct Met {
    peer: Arc<Peer>,
    reader: Reader,
    writer: Writer,
    queue: mpsc::Receiver<Frame>,
    newcomer: Newcomer,
}

async fn converse(
    shared: Arc<Shared>,
    connection: Connection,
    identity: Identity,
    place: Share<NodeId>,
) -> Result<(), Goodbye> {
    let (app, node) = (shared.app.clone(), identity.node);
    let id = data_encoding::HEXLOWER.encode(&app.entropy.bytes::<16>());
    let has_session = AtomicBool::new(false);
    // What is done once, or seldom, is not kept room for in each of thousands of connections at rest: it is boxed.
    let meeting = timeout(GREETING, Box::pin(meet(shared, connection, identity, id.clone(), &has_session)));
    let outcome = match part::caught(node, "its greeting", meeting).await {
        Ok(Ok(Ok(met))) => stay(met, place).await,
        Ok(Ok(Err(goodbye))) => Err(goodbye),
        Ok(Err(_)) => Err(StreamError::Timeout.into()),
        Err(panicked) => Err(panicked.into()),
    };
    if !has_session.into_inner() {
        return outcome;
    }
    let at = app.clock.now();
    let ended = app.db.write(move |tx| Box::pin(async move { sessions::end(tx, at, node, &id).await }));
    if let Err(error) = ended.await {
        tracing::warn!(node.id = %node, %error, "the session's end was not written");
    }
    outcome
}

/// Hello, Welcome and Ready. `has_session` is true once there may be a session to end.
async fn meet(
    shared: Arc<Shared>,
    connection: Connection,
    identity: Identity,
    id: String,
    has_session: &AtomicBool,
) -> Result<Met, Goodbye> {
    let at = shared.app.clock.now();
    let admitted = async {
        let mut conn = shared.app.db.read().await?;
        sessions::admitted(&mut conn, at, identity.node, &identity.serial).await
    };
    if !admitted.await? {
        return Err(Goodbye::Revoked);
    }
    let accepted =
        timeout(HEADER_DEADLINE, connection.accept_bi()).await.map_err(|_| StreamError::Timeout)?;
    let (send, mut recv) = accepted.map_err(|_| StreamError::Broken)?;
    if kind_of(&mut recv).await? != Some(StreamKind::Control) {
        return Err(StreamError::Malformed.into());
    }
    let mut reader = Reader::new(StreamKind::Control, recv);
    let mut writer = Writer::answering(StreamKind::Control, send);
    let Some((FrameType::Hello, hello_bytes)) = reader.next(Some(HEADER_DEADLINE)).await? else {
        return Err(StreamError::Malformed.into());
    };
    let hello: Hello = parse(&hello_bytes)?;
    // The journal's name stands beside every event; what an honest agent says is half as long.
    if hello.journal_id.len().max(hello.cluster.len()) > LONGEST_NAME {
        return Err(StreamError::Malformed.into());
    }
    if hello.proto_min > PROTO_MAX || hello.proto_max < PROTO_MIN {
        return Err(Goodbye::Version);
    }
    has_session.store(true, Ordering::Relaxed);
    let welcome = greet(&shared, &connection, &identity, &id, hello.clone()).await?;
    let welcome_bytes = welcome.encode_to_vec();
    writer.frame(&Frame::raw(FrameType::Welcome, welcome_bytes.clone())).await?;

    let (control, queue) = mpsc::channel(CONTROL_QUEUE);
    let peer = Arc::new(Peer {
        orders: Arc::new(Notify::new()),
        believes: watch::Sender::new(hello.trust_version.unwrap_or(1)),
        connection: connection.clone(),
        journal: hello.journal_id.clone(),
        id,
        identity,
        challenge: Asker::new(control.clone()),
        samples: Arc::new(Semaphore::new(METRICS_AT_ONCE)),
        control,
        shared,
    });
    ready(&peer, &mut reader, &hello_bytes, &welcome_bytes).await?;
    let node = peer.identity.node;
    tracing::info!(node.id = %node, node.name = %welcome.node_name, agent = %hello.agent_version, "agent connected");
    let newcomer = Newcomer {
        node,
        remote: connection.remote_address().to_string(),
        fingerprint: hello.fingerprint,
        ratchet: welcome.ratchet,
        quarantined: welcome.quarantined,
    };
    Ok(Met { peer, reader, writer, queue, newcomer })
}

/// The connection is the node's, as far as is known, until it ends.
async fn stay(met: Met, place: Share<NodeId>) -> Result<(), Goodbye> {
    let Met { peer, reader, writer, queue, newcomer } = met;
    let (node, quarantined) = (newcomer.node, newcomer.quarantined);
    let live = Live {
        id: peer.id.clone(),
        connection: peer.connection.clone(),
        consoles: Arc::default(),
        orders: peer.orders.clone(),
        challenge: peer.challenge.clone(),
    };
    // A task of its own: a copy that leaves before the answer is found out all the same.
    let old = peer.shared.app.links.enter(node, live);
    let settling = old.map(|old| tokio::spawn(challenge::settle(peer.shared.app.clone(), newcomer, old)));
    // Whatever happens there, the node's place in the registry is given up.
    let outcome = part::caught(
        node,
        "its control stream",
        talk(&peer, reader, writer, queue, (settling, place), quarantined),
    )
    .await
    .unwrap_or_else(|panicked| Err(panicked.into()));
    peer.shared.app.links.leave(node, &peer.id);
    outcome
}

/// Checks and stores the Hello; what comes back goes into the Welcome.
async fn greet(
    shared: &Shared,
    connection: &Connection,
    identity: &Identity,
    id: &str,
    hello: Hello,
) -> Result<Welcome, Goodbye> {
    let (at, node, entropy) = (shared.app.clock.now(), identity.node, shared.app.entropy.clone());
    let session = sessions::Connection {
        process: shared.process.clone(),
        id: id.to_owned(),
        serial: identity.serial.clone(),
        remote: connection.remote_address().to_string(),
    };
    let (believes, version) = (hello.trust_version.unwrap_or(1), shared.trust.version);
    let greeting = shared
        .app
        .db
        .write(move |tx| {
            Box::pin(async move {
                let accepted = dispatch::accepted_seq(tx, node, hello.epoch).await?;
                // Its orders before its own row, as everybody takes them.
                dispatch::due_again(tx, at, node).await?;
                let greeting =
                    sessions::greet(tx, at, entropy.as_ref(), node, &session, &hello, accepted).await?;
                trust::greeted(tx, at, &greeting.name, believes, version).await?;
                Ok::<_, sessions::GreetingRefusal>(greeting)
            })
        })
        .await
        .map_err(|refusal| match refusal {
            sessions::GreetingRefusal::Revoked => Goodbye::Revoked,
            sessions::GreetingRefusal::Db(error) => error.into(),
        })?;
    let agents = u64::try_from(shared.app.links.connected()).unwrap_or(u64::MAX);
    Ok(Welcome {
        proto: PROTO_MAX,
        now_ms: at.0,
        epoch: greeting.epoch,
        ratchet: greeting.ratchet,
        // 150 agents a second come back after a restart without being noticed.
        reconnect_spread_ms: (agents * 1_000 / 150).max(5_000),
        acked_event_seq: greeting.acked_event_seq,
        trust_version: shared.trust.version,
        node_name: greeting.name,
        quarantined: greeting.quarantined,
    })
}

/// Waits for the word that the Welcome is stored, bound to this very handshake and greeting.
async fn ready(peer: &Peer, reader: &mut Reader, hello: &[u8], welcome: &[u8]) -> Result<(), Goodbye> {
    let Some((FrameType::Ready, body)) = reader.next(Some(READY)).await? else {
        return Err(StreamError::Malformed.into());
    };
    let said: message::Ready = parse(&body)?;
    let greeting = Sha256::new_with_prefix(hello).chain_update(welcome).finalize();
    let mut expected = [0; 32];
    peer.connection
        .export_keying_material(&mut expected, b"ez-hello-v1", &greeting)
        .map_err(|_| Goodbye::Binding)?;
    if bool::from(expected[..].ct_eq(&said.binding)) { Ok(()) } else { Err(Goodbye::Binding) }
}

/// Everything after the greeting; the first part that ends, ends the connection.
async fn talk(
    peer: &Arc<Peer>,
    reader: Reader,
    writer: Writer,
    queue: mpsc::Receiver<Frame>,
    unsettled: (Option<Settling>, Share<NodeId>),
    quarantined: bool,
) -> Result<(), Goodbye> {
    let left = Duration::from_millis(
        u64::try_from(peer.identity.not_after.0 - peer.shared.app.clock.now().0).unwrap_or(0),
    );
    let (reports, queue_of_reports) = mpsc::channel(REPORT_QUEUE);
    let [a, b] = peer.shared.app.entropy.bytes::<2>();
    let jitter = Duration::from_secs(u64::from(u16::from_be_bytes([a, b])) * 3_600 / 65_536);
    tokio::select! {
        _ = peer.connection.closed() => Ok(()),
        outcome = listen(peer, reader) => outcome,
        outcome = speak(peer, writer, queue) => outcome,
        outcome = streams(peer, reports) => outcome,
        () = keep_reports(peer, queue_of_reports) => Ok(()),
        outcome = send_orders(peer, unsettled, quarantined) => outcome,
        () = tokio::time::sleep(left.min(LONGEST + jitter)) => Err(Goodbye::Reauth),
    }
}

/// Sends orders once it is settled that this connection is the node's; until then it is one of those that wait.
async fn send_orders(
    peer: &Arc<Peer>,
    (settling, place): (Option<Settling>, Share<NodeId>),
    quarantined: bool,
) -> Result<(), Goodbye> {
    if let Some(settling) = settling
        && settling.await.map_err(|_| Panicked::told(peer.identity.node, "asking who is who"))??
            == Verdict::Copied
    {
        return Err(Goodbye::Copied);
    }
    drop(place);
    Box::pin(trust::bring_up_to_date(peer)).await?;
    match orders::run(peer, quarantined).await? {
        orders::Stop::Revoked => Err(Goodbye::Revoked),
        orders::Stop::Panicked(panicked) => Err(panicked.into()),
        orders::Stop::Replaced => {
            // In this process the successor asks this connection who it is, and closes it.
            tokio::time::sleep(challenge::PATIENCE * 2).await;
            // It lives: the successor is with another process.
            let (app, node) = (peer.shared.app.clone(), peer.identity.node);
            let remote = peer.connection.remote_address().to_string();
            match Box::pin(challenge::look_back(app, node, peer.challenge.clone(), remote)).await? {
                Verdict::Newest => Err(Goodbye::Replaced),
                Verdict::Copied => Err(Goodbye::Copied),
            }
        }
    }
}

/// Writes the control stream; the only owner of its sending end.
async fn speak(peer: &Peer, mut writer: Writer, mut queue: mpsc::Receiver<Frame>) -> Result<(), Goodbye> {
    loop {
        let frame = tokio::select! {
            frame = queue.recv() => frame,
            () = peer.shared.draining.cancelled() => {
                let reconnect_after_ms = 5_000;
                writer.send(FrameType::Drain, &message::Drain { reconnect_after_ms }).await?;
                writer.finish();
                // The peer leaves by itself when it has read this; a second is ample.
                let _either_way = timeout(Duration::from_secs(1), peer.connection.closed()).await;
                return Err(Goodbye::Drain);
            }
        };
        match frame {
            Some(frame) => writer.frame(&frame).await?,
            None => return Ok(()),
        }
    }
}

/// Reads the control stream.
async fn listen(peer: &Peer, mut reader: Reader) -> Result<(), Goodbye> {
    while let Some((kind, body)) = reader.next(None).await? {
        let answer = match kind {
            FrameType::Ping => {
                let ping: message::Ping = parse(&body)?;
                let now_ms = peer.shared.app.clock.now().0;
                Frame::new(FrameType::Pong, &message::Pong { nonce: ping.nonce, now_ms })
            }
            FrameType::CertRenew => {
                Frame::new(FrameType::CertIssued, &Box::pin(renew(peer, &parse(&body)?)).await?)
            }
            FrameType::Pong => continue,
            FrameType::TrustTaken => {
                Box::pin(trust::taken(peer, &parse(&body)?)).await?;
                continue;
            }
            FrameType::ChallengeAnswer => {
                peer.challenge.answered(parse(&body)?);
                continue;
            }
            other => return Err(StreamError::Unexpected(other).into()),
        };
        if peer.control.send(answer).await.is_err() {
            break;
        }
    }
    Ok(())
}

async fn renew(peer: &Peer, wish: &message::CertRenew) -> Result<message::CertIssued, Goodbye> {
    let (node, serial) = (peer.identity.node, &peer.identity.serial);
    let outcome = enrol::renew(&peer.shared.app, node, serial, &wish.csr_pem).await?;
    Ok(match outcome {
        Ok(certificate_pem) => message::CertIssued { certificate_pem, refused: String::new() },
        Err(refusal) => {
            tracing::warn!(node.id = %node, %refusal, "a certificate was not renewed");
            message::CertIssued { certificate_pem: String::new(), refused: refusal.to_string() }
        }
    })
}

/// Takes the streams that the agent opens. A fault costs its stream, seldom the connection.
async fn streams(peer: &Arc<Peer>, reports: mpsc::Sender<Reader>) -> Result<(), Goodbye> {
    loop {
        let (kind, recv) = tokio::select! {
            both = peer.connection.accept_bi() => {
                let Ok((_answers_go_to_control, mut recv)) = both else { return Ok(()) };
                (kind_of(&mut recv).await, recv)
            }
            one = peer.connection.accept_uni() => {
                let Ok(mut recv) = one else { return Ok(()) };
                (kind_of(&mut recv).await, recv)
            }
        };
        let peer = peer.clone();
        match kind {
            Ok(Some(StreamKind::Events)) => {
                let reader = Reader::new(StreamKind::Events, recv);
                let owner = peer.clone();
                part::spawn(&owner, "its events", async move { guard(&peer, reader, events::run).await });
            }
            Ok(Some(StreamKind::State)) => {
                // In the order they were opened: a delta builds on the report before.
                let _gone_with_the_connection = reports.send(Reader::new(StreamKind::State, recv)).await;
            }
            Ok(Some(StreamKind::Metrics)) => {
                let mut reader = Reader::new(StreamKind::Metrics, recv);
                // Samples never hold up anything else: one that sends more than it should loses the rest.
                match peer.samples.clone().try_acquire_owned() {
                    Ok(place) => {
                        let owner = peer.clone();
                        part::spawn(&owner, "its samples", async move {
                            guard(&peer, reader, metrics::run).await;
                            drop(place);
                        });
                    }
                    Err(_) => reader.stop(CloseCode::Finished),
                }
            }
            _ => Reader::new(StreamKind::Control, recv).stop(CloseCode::UnknownStream),
        }
    }
}

/// Stores state reports one after the other.
async fn keep_reports(peer: &Arc<Peer>, mut queue: mpsc::Receiver<Reader>) {
    while let Some(reader) = queue.recv().await {
        Box::pin(guard(peer, reader, state::run)).await;
    }
}

/// Runs the reader of one stream and answers its fault.
async fn guard<F>(peer: &Arc<Peer>, mut reader: Reader, run: F)
where
    F: AsyncFnOnce(&Arc<Peer>, &mut Reader) -> Result<(), StreamError>,
{
    let Err(fault) = run(peer, &mut reader).await else { return };
    if matches!(fault, StreamError::Broken) {
        return;
    }
    tracing::warn!(node.id = %peer.identity.node, %fault, "a stream of an agent was given up");
    if fault.ends_connection() {
        close(&peer.connection, fault.code(), &fault.to_string());
    } else {
        reader.stop(fault.code());
    }
}
