//! What one agent says and hears on the link: greeting, a first snapshot, then time, host states and
//! keep-alives, as the real one does while nothing happens. After a lost connection it comes back as the
//! real one does.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};
use ez_protocol::{
    frame::{Frame, FrameType, HEADER, Header, PROTO_MAX, PROTO_MIN, StreamKind},
    message::{
        Hello, HostState, ImageState, Ping, PolicySummary, Ready, StateDelta, StateSnapshot, StorageState,
        Welcome,
    },
};
use ez_simulator::wall::{SystemWall, WallClock as _};
use prost::Message as _;
use quinn::{
    ClientConfig, Connection, Endpoint, IdleTimeout, RecvStream, SendStream, TransportConfig, VarInt,
    crypto::rustls::QuicClientConfig,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};

use super::identity::Identity;

/// How often an agent asks for the time and looks at its host.
const BEAT: Duration = Duration::from_secs(60);
/// One look in so many finds that a gauge of the host has moved far enough to be told.
const NEWS: u32 = 5;
/// How often it tells everything.
const FULL: Duration = Duration::from_secs(600);
/// First and longest pause between two attempts.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// How long dialling and greeting may take.
const PATIENCE: Duration = Duration::from_secs(25);

/// What all agents write down.
#[derive(Default)]
pub(super) struct Board {
    /// Per agent: since when its present session is complete (its first report was acknowledged), in milliseconds
    /// since 1970; 0 while it has none.
    since: Vec<AtomicI64>,
    /// Attempts that ended without a session.
    pub(super) failed: AtomicUsize,
    /// Sessions that ended.
    pub(super) lost: AtomicUsize,
}

impl Board {
    pub(super) fn of(count: usize) -> Self {
        Self { since: (0..count).map(|_| AtomicI64::new(0)).collect(), ..Self::default() }
    }

    /// How many have a session that began after `at`, in milliseconds since 1970.
    pub(super) fn complete_since(&self, at: i64) -> usize {
        self.since.iter().filter(|since| since.load(Relaxed) > at).count()
    }
}

/// One agent.
pub(super) struct Agent {
    pub(super) index: usize,
    pub(super) identity: Arc<Identity>,
    pub(super) endpoint: Endpoint,
    pub(super) to: SocketAddr,
    pub(super) board: Arc<Board>,
}

/// What outlives a connection.
struct Memory {
    ratchet: Vec<u8>,
    report_seq: u64,
    spread: Duration,
    failed: u32,
    random: StdRng,
}

impl Memory {
    /// Ticks that began at some time in the past: real agents were started at different times.
    fn somewhen(&mut self, every: Duration) -> Interval {
        let first = Instant::now() + every.mul_f64(self.random.random_range(0.0..1.0));
        let mut ticks = interval_at(first, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    }
}

impl Agent {
    /// Stays connected until the task is ended.
    pub(super) async fn run(self) {
        let mut memory = Memory {
            ratchet: Vec::new(),
            report_seq: 0,
            spread: PAUSES.0,
            failed: 0,
            random: StdRng::seed_from_u64(self.index as u64),
        };
        let Ok(config) = self.config() else { return };
        loop {
            match timeout(PATIENCE, self.greet(config.clone(), &mut memory)).await {
                Ok(Ok((connection, control))) => {
                    memory.failed = 0;
                    let _how_it_ended = self.session(&connection, control, &mut memory).await;
                    self.board.since[self.index].store(0, Relaxed);
                    self.board.lost.fetch_add(1, Relaxed);
                    connection.close(VarInt::from_u32(1), b"done");
                }
                _ => drop(self.board.failed.fetch_add(1, Relaxed)),
            }
            memory.failed += 1;
            let limit = match memory.failed {
                0 | 1 => memory.spread.max(PAUSES.0),
                n => PAUSES.0.saturating_mul(1 << n.min(6)).min(PAUSES.1),
            };
            let pause = memory.random.random_range(0..=u64::try_from(limit.as_millis()).unwrap_or(15_000));
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    fn config(&self) -> anyhow::Result<ClientConfig> {
        let mut transport = TransportConfig::default();
        transport
            .keep_alive_interval(Some(Duration::from_secs(10)))
            .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(30_000))))
            .max_concurrent_bidi_streams(VarInt::from_u32(32))
            .max_concurrent_uni_streams(VarInt::from_u32(4))
            .stream_receive_window(VarInt::from_u32(256 * 1024))
            .receive_window(VarInt::from_u32(1024 * 1024))
            .send_window(1024 * 1024)
            .datagram_receive_buffer_size(None)
            .initial_mtu(1200);
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(self.identity.tls.clone())?));
        config.transport_config(Arc::new(transport));
        Ok(config)
    }

    /// Dials and greets; the control stream.
    async fn greet(
        &self,
        config: ClientConfig,
        memory: &mut Memory,
    ) -> anyhow::Result<(Connection, (SendStream, RecvStream))> {
        let connection = self.endpoint.connect_with(config, self.to, "localhost")?.await?;
        let (mut send, mut recv) = connection.open_bi().await?;
        let hello = self.hello(memory).encode_to_vec();
        let mut first = vec![StreamKind::Control.byte()];
        first.extend(Frame::raw(FrameType::Hello, hello.clone()).encode(StreamKind::Control)?);
        send.write_all(&first).await?;
        let (code, answer) = frame(&mut recv, StreamKind::Control).await?;
        if code != FrameType::Welcome.code() {
            bail!("greeted with {code}");
        }
        let welcome = Welcome::decode(answer.as_slice())?;
        if welcome.quarantined {
            bail!("quarantined");
        }
        memory.ratchet = welcome.ratchet;
        memory.spread = Duration::from_millis(welcome.reconnect_spread_ms.min(600_000));
        let both = Sha256::new_with_prefix(&hello).chain_update(&answer).finalize();
        let mut binding = vec![0; 32];
        let exported = connection.export_keying_material(&mut binding, b"ez-hello-v1", &both);
        exported.map_err(|_| anyhow::anyhow!("the greeting cannot be bound"))?;
        write(&mut send, StreamKind::Control, FrameType::Ready, &Ready { binding }).await?;
        Ok((connection, (send, recv)))
    }

    /// Everything after the greeting, until the connection ends.
    async fn session(
        &self,
        connection: &Connection,
        (mut send, recv): (SendStream, RecvStream),
        memory: &mut Memory,
    ) -> anyhow::Result<()> {
        let (mut events, _answers_come_on_control) = connection.open_bi().await?;
        events.set_priority(StreamKind::Events.priority())?;
        events.write_all(&[StreamKind::Events.byte()]).await?;
        self.everything(connection, memory).await?;
        let (mut beat, mut full) = (memory.somewhen(BEAT), memory.somewhen(FULL));
        // Reading must not be cut off in the middle of a frame, so it has a task of its own.
        let mut listening = tokio::spawn(listen(recv, self.board.clone(), self.index));
        let ended = loop {
            tokio::select! {
                ended = &mut listening => break ended.context("reading")?,
                _ = beat.tick() => self.beat(connection, &mut send, memory).await?,
                _ = full.tick() => self.everything(connection, memory).await?,
            }
        };
        drop(events);
        ended
    }

    /// A full report.
    async fn everything(&self, connection: &Connection, memory: &mut Memory) -> anyhow::Result<()> {
        memory.report_seq += 1;
        let snapshot = StateSnapshot {
            report_epoch: self.name(),
            seq: memory.report_seq,
            observed_at_ms: SystemWall.now_ms(),
            instances: Vec::new(),
            host: Some(host()),
            blind_since_ms: None,
        };
        report(connection, FrameType::StateSnapshot, &snapshot).await
    }

    /// Asks for the time and, where a gauge has moved far enough, tells about the host.
    async fn beat(
        &self,
        connection: &Connection,
        send: &mut SendStream,
        memory: &mut Memory,
    ) -> anyhow::Result<()> {
        let now_ms = SystemWall.now_ms();
        write(send, StreamKind::Control, FrameType::Ping, &Ping { nonce: memory.report_seq, now_ms }).await?;
        if !memory.random.random_ratio(1, NEWS) {
            return Ok(());
        }
        memory.report_seq += 1;
        let delta = StateDelta {
            report_epoch: self.name(),
            base_seq: memory.report_seq - 1,
            seq: memory.report_seq,
            observed_at_ms: now_ms,
            changed: Vec::new(),
            removed: Vec::new(),
            host: Some(host()),
            blind_since_ms: None,
        };
        report(connection, FrameType::StateDelta, &delta).await
    }

    fn name(&self) -> String {
        format!("bench-{}", self.index)
    }

    fn hello(&self, memory: &Memory) -> Hello {
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
        Hello {
            proto_min: PROTO_MIN,
            proto_max: PROTO_MAX,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            epoch: self.identity.epoch,
            boot_id: "00000000-0000-4000-8000-000000000000".to_owned(),
            report_epoch: self.name(),
            journal_id: self.identity.node.to_string(),
            high_water_seq: 0,
            last_event_seq: 0,
            ratchet: memory.ratchet.clone(),
            fingerprint: self.identity.cluster.clone(),
            pve_version: "9.2.3".to_owned(),
            pve_node: self.name(),
            cluster: self.identity.cluster.clone(),
            policy: Some(PolicySummary {
                vmid_first: 20_000,
                vmid_last: 20_999,
                pool: "ez".to_owned(),
                bridges: words(&["vmbr0"]),
                storages: words(&["local-lvm"]),
                prefixes: Vec::new(),
                max_instances: 1_000,
                max_memory_mib: 57_344,
                max_disk_gib: 900,
                max_vcpus: 64,
                vlans: Vec::new(),
                ..PolicySummary::default()
            }),
            now_ms: SystemWall.now_ms(),
            trust_version: Some(1),
        }
    }
}

/// Reads the control stream until the control plane goes away; the first report that was taken completes the session.
async fn listen(mut recv: RecvStream, board: Arc<Board>, index: usize) -> anyhow::Result<()> {
    loop {
        let (code, _) = frame(&mut recv, StreamKind::Control).await?;
        match FrameType::from_code(code) {
            Some(FrameType::StateAck) => {
                let _only_the_first =
                    board.since[index].compare_exchange(0, SystemWall.now_ms(), Relaxed, Relaxed);
            }
            Some(FrameType::Drain) => return Ok(()),
            Some(FrameType::Resync) => bail!("asked for everything again"),
            _ => {}
        }
    }
}

/// A host at rest.
fn host() -> HostState {
    HostState {
        cpus: 16,
        memory_mib: 65_536,
        memory_used_mib: 4_096,
        cpu_permille: 12,
        storages: vec![StorageState {
            id: "local-lvm".to_owned(),
            kind: "lvmthin".to_owned(),
            total_mib: 1_024_000,
            used_mib: 20_480,
        }],
        images: vec![ImageState {
            name: "debian-13".to_owned(),
            digest: format!("sha256:{}", "13".repeat(32)),
            vmid: 8_000,
        }],
        pve_version: "9.2.3".to_owned(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        certificate_not_after_ms: SystemWall.now_ms() + 14 * 86_400_000,
        clock_offset_ms: 0,
        warnings: Vec::new(),
        foreign_vms: 0,
        foreign_memory_mib: 0,
        image_builds: Vec::new(),
        thin_pools: Vec::new(),
    }
}

async fn write(
    stream: &mut SendStream,
    on: StreamKind,
    kind: FrameType,
    message: &impl prost::Message,
) -> anyhow::Result<()> {
    Ok(stream.write_all(&Frame::new(kind, message).encode(on)?).await?)
}

/// The next frame; its type's number and its body.
async fn frame(stream: &mut RecvStream, on: StreamKind) -> anyhow::Result<(u16, Vec<u8>)> {
    let mut header = [0; HEADER];
    stream.read_exact(&mut header).await?;
    let header = Header::parse(header, on)?;
    let mut body = vec![0; header.len];
    stream.read_exact(&mut body).await?;
    Ok((header.code, body))
}

/// One report on a stream of its own.
async fn report(
    connection: &Connection,
    kind: FrameType,
    message: &impl prost::Message,
) -> anyhow::Result<()> {
    let mut stream = connection.open_uni().await?;
    stream.set_priority(StreamKind::State.priority())?;
    stream.write_all(&[StreamKind::State.byte()]).await?;
    write(&mut stream, StreamKind::State, kind, message).await?;
    stream.finish()?;
    Ok(())
}
