//! The link against a control plane of a few lines, over real QUIC on the loopback.

mod falls;
mod renewals;

use std::{
    path::Path,
    sync::{Arc, RwLock},
    time::Duration,
};

use ez_protocol::{
    envelope::{Envelope, PayloadType},
    frame::{CloseCode, Decoder, Frame, FrameType, StreamKind},
    message::{
        AnswerKind, CertIssued, CertRenew, Challenge, ChallengeAnswer, Event, EventAck, EventKind, Hello,
        MetricsAck, MetricsBatch, OrderAnswer, Ping, Ready, StateSnapshot, TrustTaken, Welcome,
    },
    order::{Action, Empty, InstanceSpec, Op, ProvisioningOrder, Service, SnapshotName},
    trust::TrustDocument,
};
use prost::Message as _;
use quinn::{Connection, Endpoint, RecvStream, SendStream, VarInt};
use rcgen::PublicKeyData as _;
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::{
    agent::{Agent, ClockOffset, StatusBoard, Works},
    cli::StatusFile,
    clock::{Clock, ManualClock},
    config::Config,
    entropy::SeededEntropy,
    executor::{Actors, testkit},
    identity::{files, renew},
    journal::OrderState,
    metrics::Metrics,
    testing::{NOW, ensure, order, order_key, pki::Pki, sign, trust_key},
};

/// No wait of a story is longer.
const PATIENCE: Duration = Duration::from_secs(20);

struct Story {
    pki: Pki,
    server: Endpoint,
    agent: Arc<Agent>,
    stop: CancellationToken,
    link: tokio::task::JoinHandle<()>,
    host: testkit::Host,
}

async fn story() -> Story {
    story_with(|_, _| {}).await
}

/// The same; `set` is given the configuration and where the control plane really listens, and if it names another
/// address, that of the trust document leads nowhere.
async fn story_with(set: impl FnOnce(&mut Config, &str)) -> Story {
    story_by(Arc::new(ManualClock::at(NOW)), set).await
}

/// The same with a clock of its own.
async fn story_by(clock: Arc<dyn Clock>, set: impl FnOnce(&mut Config, &str)) -> Story {
    let pki = Pki::new();
    let server = pki.endpoint();
    let host = testkit::Host::new().await;
    let dir = host.books.dir.path().to_owned();
    let text = format!("pve_node = \"pve1\"\nstate_dir = {dir:?}\n");
    let mut config = crate::config::parse(Path::new("agent.toml"), &text, &|_| None).unwrap();
    let listens = server.local_addr().unwrap().to_string();
    set(&mut config, &listens);
    let identity = pki.join(&config, if config.link_address.is_some() { "127.0.0.1:1" } else { &listens });
    let engine = Arc::clone(&host.engine);
    let works = Works { journal: host.books.journal.clone(), actors: Actors::new(Arc::clone(&engine)) };
    let agent = Arc::new(Agent {
        identity: RwLock::new(Arc::new(identity)),
        status: StatusBoard::new(config.status_file(), StatusFile::default()),
        config,
        clock,
        entropy: Arc::new(SeededEntropy::new(5)),
        policy: engine.rules.policy.clone(),
        pve: Arc::clone(&engine.pve),
        works: Some(works),
        metrics: Some(Arc::new(Metrics::open(&dir, &SeededEntropy::new(6)).unwrap())),
        space: engine.space.clone(),
        offset: ClockOffset::default(),
        renewed: Default::default(),
        contact: Arc::default(),
        boot_id: "boot-1".to_owned(),
        report_epoch: "0011223344556677".to_owned(),
        pve_version: "9.2.11".to_owned().into(),
        cluster: "ab".repeat(32),
        fingerprint: "cd".repeat(32),
        told: Arc::clone(&engine.told),
        changed: Arc::clone(&engine.changed),
        host_changed: Arc::default(),
        other_certificate: Arc::default(),
        build: Arc::default(),
        consoles: crate::console::Seats::default(),
    });
    let stop = CancellationToken::new();
    let link = tokio::spawn(super::run(Arc::clone(&agent), stop.clone()));
    Story { pki, server, agent, stop, link, host }
}

/// One side of a stream, as the control plane sees it.
struct Talk {
    send: Option<SendStream>,
    recv: RecvStream,
    decoder: Decoder,
    kind: StreamKind,
}

impl Talk {
    async fn incoming(send: Option<SendStream>, mut recv: RecvStream) -> Self {
        let mut kind = [0];
        timeout(PATIENCE, recv.read_exact(&mut kind)).await.unwrap().unwrap();
        let kind = StreamKind::from_byte(kind[0]).unwrap();
        Self { send, recv, decoder: Decoder::new(kind), kind }
    }

    async fn next(&mut self) -> Frame {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return frame;
            }
            let chunk =
                timeout(PATIENCE, self.recv.read_chunk(64 * 1024, true)).await.unwrap().unwrap().unwrap();
            self.decoder.push(&chunk.bytes);
        }
    }

    /// The next frame of this type; others are passed over.
    async fn until(&mut self, kind: FrameType) -> Vec<u8> {
        loop {
            let frame = self.next().await;
            if frame.kind() == Some(kind) {
                return frame.body;
            }
        }
    }

    async fn say(&mut self, frame: Frame) {
        let bytes = frame.encode(self.kind).unwrap();
        self.send.as_mut().unwrap().write_all(&bytes).await.unwrap();
    }
}

/// A welcomed agent.
struct Welcomed {
    connection: Connection,
    control: Talk,
    hello: Hello,
}

async fn welcome(story: &Story, ratchet: u8, acked_event_seq: u64) -> Welcomed {
    let incoming = timeout(PATIENCE, story.server.accept()).await.unwrap().unwrap();
    let connection = incoming.await.unwrap();
    let (send, recv) = timeout(PATIENCE, connection.accept_bi()).await.unwrap().unwrap();
    let mut control = Talk::incoming(Some(send), recv).await;
    assert_eq!(control.kind, StreamKind::Control);
    let hello_bytes = control.until(FrameType::Hello).await;
    let welcome = Welcome {
        proto: 1,
        now_ms: NOW.0,
        epoch: 3,
        ratchet: vec![ratchet; 16],
        reconnect_spread_ms: 1,
        acked_event_seq,
        trust_version: 1,
        node_name: "fsn-1".to_owned(),
        quarantined: false,
    }
    .encode_to_vec();
    control.say(Frame::raw(FrameType::Welcome, welcome.clone())).await;
    let ready = Ready::decode(control.until(FrameType::Ready).await.as_slice()).unwrap();
    let both = Sha256::new().chain_update(&hello_bytes).chain_update(&welcome).finalize();
    let mut binding = vec![0; 32];
    connection.export_keying_material(&mut binding, b"ez-hello-v1", &both).unwrap();
    assert_eq!(ready.binding, binding, "both saw the same greeting");
    Welcomed { connection, control, hello: Hello::decode(hello_bytes.as_slice()).unwrap() }
}

/// Delivers an envelope and reads the answer.
async fn deliver(connection: &Connection, envelope: Vec<u8>) -> OrderAnswer {
    let (mut send, recv) = connection.open_bi().await.unwrap();
    send.write_all(&[StreamKind::Order.byte()]).await.unwrap();
    let frame = Frame::raw(FrameType::Envelope, envelope).encode(StreamKind::Order).unwrap();
    send.write_all(&frame).await.unwrap();
    send.finish().unwrap();
    let mut talk =
        Talk { send: None, recv, decoder: Decoder::new(StreamKind::Order), kind: StreamKind::Order };
    OrderAnswer::decode(talk.until(FrameType::OrderAnswer).await.as_slice()).unwrap()
}

async fn events_stream(connection: &Connection) -> Talk {
    let (send, recv) = timeout(PATIENCE, connection.accept_bi()).await.unwrap().unwrap();
    let talk = Talk::incoming(Some(send), recv).await;
    assert_eq!(talk.kind, StreamKind::Events);
    talk
}

async fn next_event(events: &mut Talk) -> Event {
    Event::decode(events.until(FrameType::Event).await.as_slice()).unwrap()
}

#[tokio::test]
async fn an_order_goes_in_its_events_come_out_and_stay_until_they_are_acknowledged() {
    let story = story().await;
    let mut first = welcome(&story, 1, 0).await;
    assert_eq!((first.hello.epoch, first.hello.high_water_seq), (3, 0));
    assert!(first.hello.ratchet.is_empty());
    assert_eq!(first.hello.policy.as_ref().unwrap().vmid_first, 1_000);
    let answer = deliver(&first.connection, sign(&ensure(1, 1))).await;
    assert_eq!(answer.kind(), AnswerKind::Accepted, "{answer:?}");
    let again = deliver(&first.connection, sign(&ensure(1, 1))).await;
    assert_eq!(again.kind(), AnswerKind::Duplicate);
    let mut tampered = sign(&ensure(2, 2));
    let last = tampered.len() - 1;
    tampered[last] ^= 1;
    assert_eq!(deliver(&first.connection, tampered).await.code, "BAD_SIGNATURE");

    let mut events = events_stream(&first.connection).await;
    let mut seqs = Vec::new();
    let end = loop {
        let event = next_event(&mut events).await;
        seqs.push(event.event_seq);
        if event.kind() == EventKind::Accepted {
            // Before that nothing is started.
            let ack = EventAck { event_seq: event.event_seq };
            first.control.say(Frame::new(FrameType::EventAck, &ack)).await;
        }
        if event.kind().is_final() {
            break event;
        }
    };
    assert_eq!(end.kind(), EventKind::Succeeded);
    assert_eq!(seqs, (1..=end.event_seq).collect::<Vec<_>>());

    let ack = EventAck { event_seq: end.event_seq - 1 };
    first.control.say(Frame::new(FrameType::EventAck, &ack)).await;
    let journal = story.agent.works.as_ref().unwrap().journal.clone();
    timeout(PATIENCE, async {
        while journal.outbox_len().await.unwrap() > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    first.connection.close(VarInt::from_u32(CloseCode::Drain.code()), b"restart");

    // A new connection: the ratchet of the last Welcome, and what was not acknowledged.
    let second = welcome(&story, 2, end.event_seq - 1).await;
    assert_eq!(second.hello.ratchet, vec![1; 16]);
    assert_eq!((second.hello.high_water_seq, second.hello.last_event_seq), (1, end.event_seq));
    let mut events = events_stream(&second.connection).await;
    assert_eq!(next_event(&mut events).await.event_seq, end.event_seq);
    story.stop.cancel();
    story.link.await.unwrap();
}

#[tokio::test]
async fn a_node_whose_disk_is_full_is_welcomed_with_its_reserve_given_up_and_says_that_it_is_full() {
    let story = story().await;
    let reserve = story.host.books.dir.path().join("reserve");
    std::fs::write(&reserve, b"z").unwrap();
    story.agent.space.fill();
    story.host.books.journal.fuse.full_while(&reserve);
    let node = welcome(&story, 1, 0).await;
    assert!(!reserve.exists());
    let answer = deliver(&node.connection, sign(&ensure(1, 1))).await;
    assert_eq!((answer.kind(), answer.code.as_str()), (AnswerKind::Refused, "NO_SPACE"), "{answer:?}");
    story.stop.cancel();
    story.link.await.unwrap();
}

#[tokio::test]
async fn before_proxmox_has_answered_orders_are_taken_and_wait() {
    let story = story().await;
    let works = story.agent.works.clone().unwrap();
    works.actors.hold();
    let mut node = welcome(&story, 1, 0).await;
    let first = ensure(1, 1);
    assert_eq!(deliver(&node.connection, sign(&first)).await.kind(), AnswerKind::Accepted);
    let mut events = events_stream(&node.connection).await;
    let accepted = next_event(&mut events).await;
    assert_eq!(accepted.kind(), EventKind::Accepted);
    let ack = EventAck { event_seq: accepted.event_seq };
    node.control.say(Frame::new(FrameType::EventAck, &ack)).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(story.host.row(&first).await.state, OrderState::Accepted);
    assert_eq!(story.host.pve.changes(), [""; 0], "nothing was done to the host");

    assert_eq!(works.actors.resume().await.unwrap(), 1);
    while !next_event(&mut events).await.kind().is_final() {}
    assert_eq!(story.host.row(&first).await.state, OrderState::Succeeded);
    story.stop.cancel();
    story.link.await.unwrap();
}

/// A server's life, one order after the other.
fn life() -> Vec<ProvisioningOrder> {
    let like = |generation: u64, change: &dyn Fn(&mut InstanceSpec)| {
        let mut order = ensure(generation, generation);
        if let Op::Ensure(spec) = &mut order.op {
            change(spec);
        }
        order.op
    };
    let name = || "clean".parse::<SnapshotName>().unwrap();
    let backup = order(4, 1, Op::Action(Action::BackupCreate { keep: 2 })).order_id;
    let ops = [
        (1, like(1, &|_| {})),
        (1, Op::Action(Action::SnapshotCreate { name: name() })),
        (1, Op::Action(Action::SnapshotRollback { name: name() })),
        (1, Op::Action(Action::BackupCreate { keep: 2 })),
        (1, Op::Action(Action::BackupRestore { backup })),
        (1, Op::Action(Action::Reboot {})),
        (2, like(2, &|spec| spec.build = 1)),
        (3, like(3, &|spec| (spec.build, spec.service) = (1, Service::Suspended))),
        (4, like(4, &|spec| spec.build = 1)),
        (5, Op::Adopt(Empty {})),
        (6, Op::Retire(Empty {})),
    ];
    (1..).zip(ops).map(|(seq, (generation, op))| order(seq, generation, op)).collect()
}

/// The whole way: a hundred streams with the same bytes for each order, while it is at work.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_order_of_a_life_comes_a_hundred_times_over_the_wire_and_is_carried_out_once() {
    let alone = testkit::Host::new().await;
    for order in life() {
        let end = alone.carry_out(&order).await;
        assert_eq!(end.state, OrderState::Succeeded, "{:?}: {:?}", order.op, end.result);
    }
    let story = story().await;
    let mut first = welcome(&story, 1, 0).await;
    let mut events = None;
    for order in life() {
        let deliveries = (0..100).map(|_| deliver(&first.connection, sign(&order)));
        let told = async {
            if events.is_none() {
                events = Some(events_stream(&first.connection).await);
            }
            loop {
                let event = next_event(events.as_mut().unwrap()).await;
                let ack = EventAck { event_seq: event.event_seq };
                first.control.say(Frame::new(FrameType::EventAck, &ack)).await;
                assert_eq!(
                    event.order_id,
                    order.order_id.to_string(),
                    "nothing more is said of what is over"
                );
                if event.kind().is_final() {
                    break event;
                }
            }
        };
        let (answers, end) = tokio::join!(futures::future::join_all(deliveries), told);
        assert_eq!(end.kind(), EventKind::Succeeded, "{:?}: {}", order.op, end.detail);
        let accepted = answers.iter().filter(|answer| answer.kind() == AnswerKind::Accepted).count();
        let known = answers.iter().filter(|answer| answer.kind() == AnswerKind::Duplicate).count();
        assert_eq!((accepted, known), (1, 99), "{:?}", order.op);
    }
    let host = &story.host;
    assert_eq!(host.pve.changes(), alone.pve.changes(), "what was done is what one delivery of each does");
    story.stop.cancel();
    story.link.await.unwrap();
}

#[tokio::test]
async fn states_are_reported_at_connect() {
    let story = story().await;
    let welcomed = welcome(&story, 1, 0).await;
    let recv = timeout(PATIENCE, welcomed.connection.accept_uni()).await.unwrap().unwrap();
    let mut state = Talk::incoming(None, recv).await;
    assert_eq!(state.kind, StreamKind::State);
    let snapshot = StateSnapshot::decode(state.until(FrameType::StateSnapshot).await.as_slice()).unwrap();
    assert_eq!((snapshot.seq, snapshot.report_epoch.as_str()), (1, "0011223344556677"));
    let host = snapshot.host.unwrap();
    assert_eq!((host.cpus, host.memory_mib, host.images[0].name.as_str()), (16, 65_536, "debian-13"));
    assert_eq!(host.storages[0].id, "local-lvm");
    story.stop.cancel();
}

/// The next batch of samples; states are passed over.
async fn next_batch(connection: &Connection) -> MetricsBatch {
    loop {
        let recv = timeout(PATIENCE, connection.accept_uni()).await.unwrap().unwrap();
        let mut talk = Talk::incoming(None, recv).await;
        if talk.kind == StreamKind::Metrics {
            return MetricsBatch::from_bytes(&talk.until(FrameType::Metrics).await).unwrap();
        }
    }
}

#[tokio::test]
async fn samples_are_told_until_they_are_acknowledged() {
    let story = story().await;
    let kept = Arc::clone(story.agent.metrics.as_ref().unwrap());
    let sampler = crate::metrics::run(Arc::clone(&story.agent), kept, story.stop.clone());
    let sampler = tokio::spawn(sampler);
    let first = welcome(&story, 1, 0).await;
    let batch = next_batch(&first.connection).await;
    assert_eq!((batch.host.len(), batch.host[0].cpu_permille), (1, 100));
    // It was not acknowledged: the next connection hears of it again.
    first.connection.close(VarInt::from_u32(CloseCode::Drain.code()), b"restart");
    let mut second = welcome(&story, 2, 0).await;
    let again = next_batch(&second.connection).await;
    assert_eq!((&again.host, &again.series), (&batch.host, &batch.series));
    let ack = MetricsAck { batch: again.batch, pause_ms: 0 };
    second.control.say(Frame::new(FrameType::MetricsAck, &ack)).await;
    let kept = story.agent.metrics.as_ref().unwrap();
    timeout(PATIENCE, kept.acks().wait_for(|seen| *seen == ack)).await.unwrap().unwrap();
    assert_eq!(kept.next(NOW, false), None, "nothing is left to tell");
    story.stop.cancel();
    sampler.await.unwrap();
}

#[tokio::test]
async fn a_due_certificate_is_renewed_with_a_new_key_and_used_before_the_old_one_goes() {
    let story = story().await;
    // The certificates of the story began long ago, so theirs is due at once.
    let mut first = welcome(&story, 1, 0).await;
    let wish = CertRenew::decode(first.control.until(FrameType::CertRenew).await.as_slice()).unwrap();
    let csr = rcgen::CertificateSigningRequestParams::from_pem(&wish.csr_pem).unwrap();
    let certificate_pem = story.pki.agent_pem(&csr.public_key);
    let before = story.agent.identity().pair.chain.clone();
    let issued = CertIssued { certificate_pem, refused: String::new() };
    first.control.say(Frame::new(FrameType::CertIssued, &issued)).await;
    let mut second = welcome(&story, 2, 0).await;
    assert!(second.connection.close_reason().is_none());
    timeout(PATIENCE, first.connection.closed()).await.unwrap();
    assert_ne!(story.agent.identity().pair.chain, before);
    assert!(!story.agent.config.identity_dir().join("next-cert.pem").exists());

    // The new one seems to be due at once as well, and is left alone for now.
    never_asks(&mut second).await;
    story.stop.cancel();
}

#[tokio::test]
async fn a_renewal_that_came_to_nothing_is_asked_for_again_before_an_hour_is_over() {
    let story = story().await;
    let mut first = welcome(&story, 1, 0).await;
    first.control.until(FrameType::CertRenew).await;
    let issued = CertIssued { certificate_pem: String::new(), refused: "not now".to_owned() };
    first.control.say(Frame::new(FrameType::CertIssued, &issued)).await;
    // Once this is answered the refusal has been read.
    first.control.say(Frame::new(FrameType::Ping, &Ping { nonce: 9, now_ms: NOW.0 })).await;
    first.control.until(FrameType::Pong).await;
    let rest = story.agent.renewed.rest(tokio::time::Instant::now());
    assert!(!rest.is_zero() && rest <= Duration::from_secs(120), "{rest:?}");
    assert!(!story.agent.config.identity_dir().join("asked-key.pem").exists(), "it may be the key");
    story.stop.cancel();
}

#[tokio::test]
async fn a_renewal_whose_answer_was_lost_keeps_its_key_for_the_next_try() {
    let story = story().await;
    let mut first = welcome(&story, 1, 0).await;
    let wish = CertRenew::decode(first.control.until(FrameType::CertRenew).await.as_slice()).unwrap();
    first.connection.close(VarInt::from_u32(0), b"gone");
    let mut second = welcome(&story, 2, 0).await;
    never_asks(&mut second).await;
    let kept = renew::prepare(&story.agent.config.identity_dir()).unwrap();
    let key = |pem: &str| rcgen::CertificateSigningRequestParams::from_pem(pem).unwrap().public_key;
    assert_eq!(key(&kept.csr_pem).subject_public_key_info(), key(&wish.csr_pem).subject_public_key_info());
    story.stop.cancel();
}

#[tokio::test]
async fn a_certificate_that_waits_for_its_first_use_is_tried_again_and_no_other_is_asked_for() {
    // One that this control plane does not take.
    let story = story_with(|config, _| {
        let dir = config.identity_dir();
        files::private_dir(&dir).unwrap();
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        std::fs::write(dir.join("next-key.pem"), key.serialize_pem()).unwrap();
        std::fs::write(dir.join("next-cert.pem"), Pki::new().agent_pem(&key)).unwrap();
    })
    .await;
    let refused = async || {
        let incoming = timeout(PATIENCE, story.server.accept()).await.unwrap().unwrap();
        assert!(incoming.await.is_err());
    };
    refused().await;
    let second = welcome(&story, 1, 0).await;
    refused().await;
    timeout(PATIENCE, second.connection.closed()).await.unwrap();
    let mut fourth = welcome(&story, 2, 0).await;
    never_asks(&mut fourth).await;
    let dir = story.agent.config.identity_dir();
    assert!(dir.join("next-cert.pem").exists() && !dir.join("asked-key.pem").exists());
    story.stop.cancel();
}

/// The first look whether a certificate is due is over, and none was asked for.
async fn never_asks(node: &mut Welcomed) {
    node.control.until(FrameType::Ping).await;
    node.control.say(Frame::new(FrameType::Ping, &Ping { nonce: 9, now_ms: NOW.0 })).await;
    loop {
        match node.control.next().await.kind() {
            Some(FrameType::Pong) => break,
            other => assert_ne!(other, Some(FrameType::CertRenew)),
        }
    }
}

#[tokio::test]
async fn an_unknown_stream_is_refused_and_the_connection_lives() {
    let story = story().await;
    let welcomed = welcome(&story, 1, 0).await;
    let (mut send, mut recv) = welcomed.connection.open_bi().await.unwrap();
    send.write_all(&[0x55]).await.unwrap();
    let refused = timeout(PATIENCE, recv.read(&mut [0; 1])).await.unwrap();
    let unknown = VarInt::from_u32(CloseCode::UnknownStream.code());
    assert_eq!(refused, Err(quinn::ReadError::Reset(unknown)));
    assert_eq!(deliver(&welcomed.connection, sign(&ensure(1, 1))).await.kind(), AnswerKind::Accepted);
    story.stop.cancel();
}

#[tokio::test]
async fn a_server_of_another_authority_gets_nothing() {
    let story = story().await;
    // Another installation took over the address.
    let imposter = Pki::new().endpoint();
    let answers = imposter.clone();
    tokio::spawn(async move {
        while let Some(incoming) = answers.accept().await {
            let _ = incoming.await;
        }
    });
    let mut trust = story.agent.identity().trust.clone();
    trust.link = vec![imposter.local_addr().unwrap().to_string()];
    let dialled = super::endpoint::dial(&trust.link[0], &trust, &story.agent.identity().pair)
        .await
        .map(|_| ())
        .unwrap_err();
    assert!(dialled.to_string().contains("certificate"), "{dialled}");
    story.stop.cancel();
}

#[tokio::test]
async fn a_trust_document_is_believed_in_its_turn_and_only_from_a_key_that_may_sign_it() {
    let story = story().await;
    let mut welcomed = welcome(&story, 1, 0).await;
    let next = TrustDocument { version: 2, ..story.agent.identity().trust.clone() };
    let skipping = TrustDocument { version: 3, ..next.clone() };
    let signed = |key: &ed25519_dalek::SigningKey, document: &TrustDocument| {
        let envelope = Envelope::sign(key, PayloadType::Trust, document.to_bytes().unwrap());
        Frame::raw(FrameType::TrustUpdate, envelope.encode())
    };
    let stranger = ed25519_dalek::SigningKey::from_bytes(&[99; 32]);
    for refused in [signed(&order_key(), &next), signed(&stranger, &next), signed(&trust_key(), &skipping)] {
        welcomed.control.say(refused).await;
    }
    // The last of these is known by then, and said again.
    for document in [&next, &skipping, &next] {
        welcomed.control.say(signed(&trust_key(), document)).await;
    }
    for version in [2, 3, 3] {
        let taken = welcomed.control.until(FrameType::TrustTaken).await;
        assert_eq!(TrustTaken::decode(taken.as_slice()).unwrap().version, version);
    }
    let stored = std::fs::read(story.agent.config.trust_file()).unwrap();
    assert_eq!(TrustDocument::from_bytes(&stored).unwrap(), skipping, "durable before it is said");
    assert_eq!(story.agent.identity().trust, skipping);
    story.stop.cancel();
}

#[tokio::test]
async fn a_challenge_is_answered_with_what_the_journal_holds_now_and_frames_of_later_versions_are_skipped() {
    let story = story().await;
    let mut welcomed = welcome(&story, 7, 0).await;
    welcomed.control.say(Frame { code: 0x8fff, body: vec![1, 2, 3] }).await;
    let nonce = vec![9; 16];
    welcomed.control.say(Frame::new(FrameType::Challenge, &Challenge { nonce: nonce.clone() })).await;
    let answer = welcomed.control.until(FrameType::ChallengeAnswer).await;
    let answer = ChallengeAnswer::decode(answer.as_slice()).unwrap();
    assert_eq!(
        answer,
        ChallengeAnswer {
            nonce,
            fingerprint: "cd".repeat(32),
            ratchet: vec![7; 16],
            report_epoch: "0011223344556677".to_owned(),
        }
    );
    story.stop.cancel();
}

#[tokio::test]
async fn another_link_address_is_dialled_and_the_server_there_checked_all_the_same() {
    // Nobody listens where the trust document says.
    let story = story_with(|config, listens| {
        config.link_address = Some(listens.to_owned());
    })
    .await;
    let welcomed = welcome(&story, 1, 0).await;
    assert!(welcomed.connection.close_reason().is_none());
    story.stop.cancel();
}
