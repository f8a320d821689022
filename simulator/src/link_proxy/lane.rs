//! A node's lane: its sockets, and the task that carries out what the network decides.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    fault::{LinkFault, Way},
    network::{Network, Parcel},
    tcp,
};

/// Largest datagram.
const DATAGRAM: usize = 65_536;
/// Datagrams from the control plane that wait for the lane; more are left to the kernel, which drops them.
const QUEUE: usize = 1_024;
/// A flow that nobody has used for so long is forgotten; QUIC's idle time-out is 30 s.
const FORGET_AFTER: Duration = Duration::from_secs(120);
/// How often that is looked at.
const TIDY: Duration = Duration::from_secs(30);
/// After a socket's error, which on UDP is an echo of an earlier datagram.
const BREATHER: Duration = Duration::from_millis(10);
/// How often another port is tried when one is free for TCP alone.
const PORTS: u32 = 20;

/// The two sockets of a lane, on one port.
pub(super) struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    pub(super) async fn bind(listen: SocketAddr) -> io::Result<Self> {
        let mut tries = 0;
        loop {
            let tcp = TcpListener::bind(listen).await?;
            match UdpSocket::bind(tcp.local_addr()?).await {
                Ok(udp) => return Ok(Self { udp, tcp }),
                Err(error) if listen.port() != 0 || tries == PORTS => return Err(error),
                Err(_) => tries += 1,
            }
        }
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }
}

struct Inner {
    listen: SocketAddr,
    upstream: SocketAddr,
    network: Mutex<Network>,
    /// Counts changes of faults, so that whoever waits looks again.
    changes: watch::Sender<u64>,
    flows: watch::Sender<usize>,
    /// Faults by their number that want other addresses now.
    wishes: mpsc::UnboundedSender<u64>,
    wished: Mutex<Option<mpsc::UnboundedReceiver<u64>>>,
}

/// A node's lane; cheap to clone.
#[derive(Clone)]
pub(super) struct Lane(Arc<Inner>);

impl Lane {
    pub(super) fn new(listen: SocketAddr, upstream: SocketAddr) -> Self {
        let (wishes, wished) = mpsc::unbounded_channel();
        Self(Arc::new(Inner {
            listen,
            upstream,
            network: Mutex::default(),
            changes: watch::Sender::new(0),
            flows: watch::Sender::new(0),
            wishes,
            wished: Mutex::new(Some(wished)),
        }))
    }

    /// Serves until `stop`.
    pub(super) fn serve(&self, sockets: Sockets, tasks: &mut JoinSet<()>, stop: &CancellationToken) {
        let wished = self.0.wished.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(wished) = wished {
            tasks.spawn(self.clone().datagrams(sockets.udp, wished, stop.clone()));
        }
        tasks.spawn(tcp::accept(self.clone(), sockets.tcp, stop.clone()));
    }

    pub(super) fn upstream(&self) -> SocketAddr {
        self.0.upstream
    }

    pub(super) fn network(&self) -> MutexGuard<'_, Network> {
        self.0.network.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says when faults change.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    fn changed(&self) {
        self.0.changes.send_modify(|count| *count += 1);
    }

    /// Makes something go wrong; gives its number.
    pub(super) fn arm(&self, fault: LinkFault) -> u64 {
        let id = self.network().arm(fault);
        self.changed();
        if let LinkFault::AddressChange { times, every_ms } = fault {
            let wishes = self.0.wishes.clone();
            tokio::spawn(async move {
                for _ in 0..times {
                    if wishes.send(id).is_err() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(u64::from(every_ms))).await;
                }
            });
        }
        id
    }

    /// Ends one fault; whether there was one of this number.
    pub(super) fn disarm(&self, id: u64) -> bool {
        let known = self.network().disarm(id);
        self.changed();
        known
    }

    /// Ends every fault.
    pub(super) fn clear(&self) {
        self.network().clear();
        self.changed();
    }

    /// What the control API shows.
    pub(super) fn show(&self, name: &str) -> Value {
        let network = self.network();
        json!({
            "name": name,
            "listen": self.0.listen,
            "upstream": self.0.upstream,
            "flows": *self.0.flows.borrow(),
            "passed": { "up": network.passed(Way::Up), "down": network.passed(Way::Down) },
            "rules": network.list(),
        })
    }

    /// Passes datagrams on until `stop`.
    async fn datagrams(
        self,
        socket: UdpSocket,
        mut wished: mpsc::UnboundedReceiver<u64>,
        stop: CancellationToken,
    ) {
        let (answers, mut answered) = mpsc::channel(QUEUE);
        let mut flows = Flows { upstream: self.0.upstream, open: HashMap::new(), answers };
        let mut buffer = vec![0; DATAGRAM];
        let mut changes = self.changes();
        let mut tidy = tokio::time::interval(TIDY);
        tidy.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let next = self.network().next_due();
            tokio::select! {
                () = stop.cancelled() => return,
                got = socket.recv_from(&mut buffer) => match got {
                    Ok((length, client)) => {
                        let bytes = Bytes::copy_from_slice(&buffer[..length]);
                        flows.heard(client);
                        self.network().arrive(Instant::now(), Way::Up, Parcel { client, bytes });
                    }
                    Err(_) => tokio::time::sleep(BREATHER).await,
                },
                Some(parcel) = answered.recv() => {
                    self.network().arrive(Instant::now(), Way::Down, parcel);
                }
                () = reached(next) => {}
                _ = changes.changed() => {}
                Some(id) = wished.recv() => {
                    if self.network().rebound(id, flows.open.len()) {
                        flows.rebind().await;
                    }
                }
                _ = tidy.tick() => flows.forget(),
            }
            self.carry_out(&socket, &mut flows).await;
            self.0.flows.send_replace(flows.open.len());
        }
    }

    async fn carry_out(&self, socket: &UdpSocket, flows: &mut Flows) {
        for way in Way::BOTH {
            let due = self.network().due(Instant::now(), way);
            for parcel in due {
                match way {
                    Way::Up => flows.send(&parcel).await,
                    // A datagram that cannot be sent is lost, as on any network.
                    Way::Down => drop(socket.send_to(&parcel.bytes, parcel.client).await),
                }
            }
        }
    }
}

/// Resolves at a time, or never.
async fn reached(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// The flows of a lane: for each address of the agent a socket towards the control plane.
struct Flows {
    upstream: SocketAddr,
    open: HashMap<SocketAddr, Flow>,
    answers: mpsc::Sender<Parcel>,
}

struct Flow {
    socket: Arc<UdpSocket>,
    _reader: AbortOnDropHandle<()>,
    heard: Instant,
}

impl Flows {
    fn heard(&mut self, client: SocketAddr) {
        if let Some(flow) = self.open.get_mut(&client) {
            flow.heard = Instant::now();
        }
    }

    async fn send(&mut self, parcel: &Parcel) {
        if !self.open.contains_key(&parcel.client) {
            match self.flow(parcel.client).await {
                Ok(flow) => drop(self.open.insert(parcel.client, flow)),
                Err(error) => return tracing::warn!(%error, "no socket for another flow"),
            }
        }
        if let Some(flow) = self.open.get(&parcel.client) {
            let _lost_then = flow.socket.send(&parcel.bytes).await;
        }
    }

    async fn flow(&self, client: SocketAddr) -> io::Result<Flow> {
        let any = match self.upstream.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let socket = Arc::new(UdpSocket::bind((any, 0)).await?);
        socket.connect(self.upstream).await?;
        let (reading, answers) = (socket.clone(), self.answers.clone());
        let reader = tokio::spawn(async move {
            let mut buffer = vec![0; DATAGRAM];
            loop {
                match reading.recv(&mut buffer).await {
                    Ok(length) => {
                        let bytes = Bytes::copy_from_slice(&buffer[..length]);
                        if answers.send(Parcel { client, bytes }).await.is_err() {
                            return;
                        }
                    }
                    Err(_) => tokio::time::sleep(BREATHER).await,
                }
            }
        });
        Ok(Flow { socket, _reader: AbortOnDropHandle::new(reader), heard: Instant::now() })
    }

    /// Gives every flow another address; what was on its way to the old one is lost.
    async fn rebind(&mut self) {
        let clients: Vec<SocketAddr> = self.open.keys().copied().collect();
        for client in clients {
            match self.flow(client).await {
                Ok(flow) => drop(self.open.insert(client, flow)),
                Err(error) => tracing::warn!(%error, "a flow keeps its address"),
            }
        }
    }

    fn forget(&mut self) {
        self.open.retain(|_, flow| flow.heard.elapsed() < FORGET_AFTER);
    }
}
