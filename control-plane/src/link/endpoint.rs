//! The UDP socket and the endpoint: settings, admission, shutdown.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use ez_protocol::{InstallId, NodeId, frame::CloseCode};
use quinn::{
    Endpoint, IdleTimeout, ServerConfig, TokioRuntime, TransportConfig, VarInt,
    crypto::rustls::QuicServerConfig,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::time::MissedTickBehavior;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{connection, part, reset, trust::Trust};
use crate::{
    app::App,
    db::DbError,
    dispatch,
    entropy::EntropyExt as _,
    fleet::sessions,
    shares::{Shares, network},
};

/// Handshakes under way; beyond, addresses have to be validated first, so that nobody uses up another's room.
const HANDSHAKES: usize = 64;
/// Handshakes under way at most; a stranger's that says nothing is one for ten seconds and costs some 50 KiB. Beyond, new
/// ones are ignored and come again.
const HALF_OPEN: usize = 1_024;
/// Of these, what one network always has; it has more only while half of all lie idle. Many agents behind one address come
/// back together, but nobody keeps the others out.
const HALF_OPEN_EACH: usize = 8;
/// Connections whose certificate was seen and that are not yet their node's; beyond, new ones are ignored and come again.
const WAITING: usize = 512;
/// Of these, what one node has at most: who holds the certificate of one host keeps no other out. An agent that dials
/// again and again over a bad line has two or three.
const WAITING_EACH: usize = 4;
/// Wanted size of the socket's buffers: with the usual 208 KiB, a herd of reconnecting agents loses packets.
const BUFFER: usize = 4 * 1024 * 1024;
/// How often a process says that it lives.
const BEAT: Duration = Duration::from_secs(10);
/// How often the outbox is looked at without being asked.
const POLL: Duration = Duration::from_secs(1);
/// How often all connections' certificates are looked up. A revocation in this process closes at once, one in another
/// process (or by a command) within this time; either way no order is sent any more.
const JUDGE: Duration = Duration::from_secs(3);
/// How long a shutdown waits for connections to end.
const DRAIN: Duration = Duration::from_secs(3);

/// Why the link does not start.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The socket.
    #[error("cannot listen on udp/{listen}: {source}")]
    Socket {
        /// Where.
        listen: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The TLS settings lack what QUIC needs.
    #[error("the TLS settings do not fit QUIC")]
    Tls,
}

/// What connections share.
pub(super) struct Shared {
    pub(super) app: App,
    pub(super) install: InstallId,
    /// What agents are to believe.
    pub(super) trust: Trust,
    /// This process, as it stands in session rows.
    pub(super) process: String,
    /// Handshakes under way, by the network they come from.
    half_open: Shares<u128>,
    /// Connections that are being greeted, by the node they come from.
    pub(super) waiting: Shares<NodeId>,
    pub(super) draining: CancellationToken,
}

/// A link that listens.
pub struct Serving {
    endpoint: Endpoint,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serving").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// Listens for agents. `tls` demands their certificates; `install` and `trust` are told them; with
/// `reset_key` a process started later can tell them that this one is gone.
///
/// # Errors
/// [`LinkError`] when the socket cannot be had.
pub fn bind(
    app: &App,
    tls: rustls::ServerConfig,
    listen: SocketAddr,
    install: InstallId,
    trust: Trust,
    reset_key: &[u8; 32],
) -> Result<Serving, LinkError> {
    let crypto = QuicServerConfig::try_from(tls).map_err(|_| LinkError::Tls)?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config
        .transport_config(Arc::new(transport()))
        .max_incoming(1_024)
        .incoming_buffer_size_total(8 * 1024 * 1024)
        .migration(true);
    let failed = |source| LinkError::Socket { listen, source };
    let socket = socket(listen).map_err(failed)?;
    let runtime = Arc::new(TokioRuntime);
    let settings = reset::endpoint_config(reset_key, &app.entropy)?;
    let endpoint = Endpoint::new(settings, Some(config), socket, runtime).map_err(failed)?;
    let process = data_encoding::HEXLOWER.encode(&app.entropy.bytes::<16>());
    let shared = Shared {
        app: app.clone(),
        install,
        trust,
        process,
        half_open: Shares::new(HALF_OPEN, HALF_OPEN_EACH).lending_half(),
        waiting: Shares::new(WAITING, WAITING_EACH),
        draining: CancellationToken::new(),
    };
    Ok(Serving { endpoint, shared: Arc::new(shared) })
}

/// Bytes that wait unread here on one stream, and on all of them, at most; a console adds room for itself.
pub(super) const STREAM_WINDOW: u32 = 256 * 1024;
pub(super) const WINDOW: u32 = 1024 * 1024;

/// The limits of one connection: what a hostile agent can cost is about 2 MiB.
fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(30_000))))
        .max_concurrent_bidi_streams(VarInt::from_u32(8))
        .max_concurrent_uni_streams(VarInt::from_u32(16))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(1024 * 1024)
        .datagram_receive_buffer_size(None)
        .initial_mtu(1200);
    transport
}

/// A UDP socket with large buffers, read back: the system may give less than was asked for.
fn socket(listen: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
    let asked = socket.set_recv_buffer_size(BUFFER).and_then(|()| socket.set_send_buffer_size(BUFFER));
    let got = socket.recv_buffer_size()?;
    if asked.is_err() || got < BUFFER {
        tracing::warn!(
            got,
            wanted = BUFFER,
            "small UDP buffers: many agents reconnecting at once will be slow; raise net.core.rmem_max and wmem_max"
        );
    }
    socket.set_nonblocking(true)?;
    socket.bind(&listen.into())?;
    Ok(socket.into())
}

impl Serving {
    /// Where it listens.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Serves agents until `stop`; then tells them to come back later and lets go of their sessions.
    pub async fn run(self, stop: CancellationToken) {
        let Self { endpoint, shared } = self;
        let tasks = TaskTracker::new();
        let both = || (shared.clone(), stop.clone());
        let (with, until) = both();
        let beating =
            tasks.spawn(part::steadily("the sign of life", move || beat(with.clone(), until.clone())));
        let (with, until) = both();
        let ringing = tasks.spawn(part::steadily("the bell", move || ring(with.clone(), until.clone())));
        loop {
            let incoming = tokio::select! {
                () = stop.cancelled() => break,
                incoming = endpoint.accept() => incoming,
            };
            let Some(incoming) = incoming else { break };
            let half_open = shared.half_open.held();
            if half_open >= HANDSHAKES && incoming.may_retry() && !incoming.remote_address_validated() {
                let _it_comes_again = incoming.retry();
                continue;
            }
            // Strangers' handshakes have a bound of their own and do not count among agents.
            if shared.waiting.held() >= WAITING {
                incoming.ignore();
                continue;
            }
            let Some(share) = shared.half_open.take(network(incoming.remote_address().ip())) else {
                incoming.ignore();
                continue;
            };
            match incoming.accept() {
                Ok(connecting) => drop(tasks.spawn(connection::serve(shared.clone(), connecting, share))),
                Err(error) => tracing::debug!(%error, "a handshake did not begin"),
            }
        }
        shared.draining.cancel();
        tasks.close();
        let _in_time = tokio::time::timeout(DRAIN, tasks.wait()).await;
        endpoint.close(VarInt::from_u32(CloseCode::Drain.code()), b"going away");
        beating.abort();
        ringing.abort();
        let _in_time = tokio::time::timeout(DRAIN, endpoint.wait_idle()).await;
    }
}

/// Ticks that a late one moves on.
fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Says every ten seconds that this process, and so every node connected to it, is there.
async fn beat(shared: Arc<Shared>, stop: CancellationToken) {
    let mut tick = ticks(BEAT);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let (at, process) = (shared.app.clock.now(), shared.process.clone());
        let written = shared
            .app
            .db
            .write(move |tx| Box::pin(async move { sessions::beat(tx, at, &process).await }))
            .await;
        if let Err(error) = written {
            tracing::error!(%error, "the sign of life was not written");
            continue;
        }
        if let Err(error) = heal(&shared).await {
            tracing::warn!(%error, "the sessions could not be read");
        }
    }
}

/// Lets agents dial again whose session is gone although their connection lives: after a step of a clock this
/// process looked dead for a moment, and its sessions were ended. Without a session a node gets no orders.
async fn heal(shared: &Shared) -> Result<(), DbError> {
    let mut conn = shared.app.db.read().await?;
    let connected = shared.app.links.nodes();
    let held = sessions::held_by(&mut conn, &shared.process).await?;
    for node in connected.into_iter().filter(|node| !held.contains(node)) {
        if sessions::is_held(&mut conn, node).await? {
            // Another connection has it, with another process: this one finds out whether it is the same agent's.
            shared.app.links.ring(&[node]);
        } else {
            tracing::warn!(node.id = %node, "its session is gone: it dials again");
            shared.app.links.reauthenticate(node);
        }
    }
    Ok(())
}

/// Rings for nodes with waiting orders, and closes connections whose certificate no longer counts. However often it
/// is rung itself, both have their turn.
async fn ring(shared: Arc<Shared>, stop: CancellationToken) {
    let (mut poll, mut judge) = (ticks(POLL), ticks(JUDGE));
    loop {
        let certificates = tokio::select! {
            () = stop.cancelled() => return,
            _ = judge.tick() => true,
            _ = poll.tick() => false,
            () = shared.app.wake.dispatch.notified() => false,
        };
        if let Err(error) = look(&shared, certificates).await {
            tracing::warn!(%error, "the outbox could not be read");
        }
    }
}

async fn look(shared: &Shared, certificates: bool) -> Result<(), DbError> {
    let at = shared.app.clock.now();
    let mut conn = shared.app.db.read().await?;
    let due: Vec<NodeId> = dispatch::due_nodes(&mut conn, at).await?;
    shared.app.links.ring(&due);
    if certificates {
        for node in sessions::fallen(&mut conn, at, &shared.process).await? {
            shared.app.links.revoke(node);
        }
    }
    Ok(())
}
