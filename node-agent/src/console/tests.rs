//! Consoles from the grant to the end, against a host's end of a few lines over real sockets.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ez_protocol::{
    ConsoleId, UnixMillis,
    console::{ConsoleGrant, ConsoleKind, Nonce},
    envelope::{Envelope, KeyRole, PayloadType},
    order::{Audience, Cause, InstanceRef},
    refusal::RefusalCode,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::*;
use crate::{
    executor::testkit::Host,
    journal::{OrderState, fuse::Cut},
    pve::ConsoleDoor,
    testing::{NOW, VMID, ensure, install, instance, node, node_id, order_key, trusted},
};

const PATIENCE: Duration = Duration::from_secs(20);
const CHALLENGE: [u8; 16] = *b"sixteen bytes ok";

/// A host with one running server and a place where its console is to be found.
struct Scene {
    host: Host,
    door: TcpListener,
    seats: Seats,
}

impl Scene {
    async fn new() -> Self {
        let host = Host::new().await;
        assert_eq!(host.carry_out(&ensure(1, 1)).await.state, OrderState::Succeeded);
        let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = ConsoleDoor {
            port: door.local_addr().unwrap().port(),
            user: "ez-agent@pve!agent".to_owned(),
            ticket: "PVEVNC:66::signed".to_owned(),
            password: "asecret!".to_owned(),
        };
        host.pve.put_door(VMID, at);
        Self { host, door, seats: Seats::default() }
    }

    async fn open_as(&self, node: Node, policy: &Policy, envelope: &[u8]) -> Result<Opened, Refusal> {
        let desk = Desk {
            journal: &self.host.books.journal,
            pve: self.host.pve.as_ref(),
            policy,
            seats: &self.seats,
            trusted: &trusted(KeyRole::Order),
            node,
        };
        open(&desk, envelope).await
    }

    async fn open(&self, envelope: &[u8]) -> Result<Opened, Refusal> {
        self.open_as(node(), &self.host.engine.rules.policy, envelope).await
    }

    /// Opens while the host's end greets.
    async fn opened(&self, kind: ConsoleKind, nonce: u8) -> (Opened, TcpStream) {
        let envelope = sign(&grant(nonce, |grant| grant.kind = kind));
        let greet = async {
            let (stream, _) = self.door.accept().await.unwrap();
            match kind {
                ConsoleKind::Vnc => screen(stream).await,
                ConsoleKind::Serial => line(stream).await,
            }
        };
        let (opened, host) = tokio::join!(self.open(&envelope), greet);
        (opened.unwrap(), host)
    }

    async fn code(&self, envelope: &[u8]) -> RefusalCode {
        self.open(envelope).await.unwrap_err().code
    }
}

fn grant(nonce: u8, change: impl FnOnce(&mut ConsoleGrant)) -> ConsoleGrant {
    let mut grant = ConsoleGrant {
        console_id: ConsoleId::generate(NOW, [nonce; 10]),
        nonce: Nonce::of([nonce; 16]),
        install: install(),
        aud: Audience { node: node_id(), epoch: 3 },
        iat: NOW,
        exp: UnixMillis(NOW.0 + 60_000),
        instance: InstanceRef { uuid: instance(10), vmid: VMID },
        kind: ConsoleKind::Vnc,
        max_secs: 7_200,
        cause: Cause { order: None, actor: "user:ada".to_owned() },
    };
    change(&mut grant);
    grant
}

fn sign(grant: &ConsoleGrant) -> Vec<u8> {
    Envelope::sign(&order_key(), PayloadType::ConsoleGrant, grant.to_bytes().unwrap()).encode()
}

/// The host's end of a screen: RFB 3.8 with a password.
async fn screen(mut stream: TcpStream) -> TcpStream {
    stream.write_all(b"RFB 003.008\n").await.unwrap();
    let mut version = [0; 12];
    stream.read_exact(&mut version).await.unwrap();
    assert_eq!(&version, b"RFB 003.008\n");
    stream.write_all(&[1, 2]).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), 2);
    stream.write_all(&CHALLENGE).await.unwrap();
    let mut answer = [0; 16];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, des::answer(CHALLENGE, b"asecret!"));
    stream.write_all(&[0; 4]).await.unwrap();
    stream
}

/// The host's end of a serial line.
async fn line(mut stream: TcpStream) -> TcpStream {
    let mut first = Vec::new();
    while first.last() != Some(&b'\n') {
        first.push(stream.read_u8().await.unwrap());
    }
    assert_eq!(first, b"ez-agent@pve!agent:PVEVNC:66::signed\n");
    stream.write_all(b"OK").await.unwrap();
    stream
}

/// The other side of a screen: greeted without a password.
async fn greeted(far: &mut DuplexStream) {
    let mut version = [0; 12];
    far.read_exact(&mut version).await.unwrap();
    assert_eq!(&version, b"RFB 003.008\n");
    far.write_all(&version).await.unwrap();
    let mut types = [0; 2];
    far.read_exact(&mut types).await.unwrap();
    assert_eq!(types, [1, 1], "None and nothing else");
    far.write_all(&[1]).await.unwrap();
    assert_eq!(far.read_u32().await.unwrap(), 0);
}

/// A console that runs.
struct Running {
    far: DuplexStream,
    host: TcpStream,
    now_ms: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<Ending>,
}

impl Running {
    async fn ending(self) -> Ending {
        timeout(PATIENCE, self.task).await.unwrap().unwrap()
    }
}

async fn running(scene: &Scene, kind: ConsoleKind, nonce: u8) -> Running {
    let (opened, host) = scene.opened(kind, nonce).await;
    let (mut far, near) = tokio::io::duplex(64 * 1024);
    let (pve, now_ms) = (Arc::clone(&scene.host.pve), Arc::new(AtomicU64::new(0)));
    let clock = Arc::clone(&now_ms);
    let task = tokio::spawn(async move {
        let elapsed = move || Duration::from_millis(clock.load(Ordering::SeqCst));
        // How fast a console may be has its own property.
        let limits = Limits { rate: 1 << 30, ..Limits::default() };
        let timer = Timer::with(elapsed, Duration::from_millis(2));
        run(pve.as_ref(), opened, tokio::io::split(near), &limits, &timer).await
    });
    if kind == ConsoleKind::Vnc {
        timeout(PATIENCE, greeted(&mut far)).await.unwrap();
    }
    Running { far, host, now_ms, task }
}

#[tokio::test]
async fn a_screen_is_opened_with_the_password_that_stays_here_and_relayed_both_ways() {
    let scene = Scene::new().await;
    let mut console = running(&scene, ConsoleKind::Vnc, 1).await;
    console.far.write_all(&[1]).await.unwrap();
    assert_eq!(console.host.read_u8().await.unwrap(), 1, "what the other side says after the greeting");
    console.host.write_all(b"a picture").await.unwrap();
    let mut seen = [0; 9];
    console.far.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen, b"a picture");
    assert_eq!(scene.host.pve.consoles_asked(), [(VMID, ConsoleKind::Vnc)]);
    drop(console.far);
    assert_eq!(timeout(PATIENCE, console.task).await.unwrap().unwrap(), Ending::Left);
    assert_eq!(console.host.read(&mut seen).await.unwrap(), 0, "the host's end is let go");
    assert_eq!(scene.seats.taken(), 0);
}

#[tokio::test]
async fn a_serial_line_is_opened_with_the_ticket_that_stays_here() {
    let scene = Scene::new().await;
    let mut console = running(&scene, ConsoleKind::Serial, 1).await;
    console.far.write_all(b"0:3:ls\n").await.unwrap();
    let mut typed = [0; 7];
    console.host.read_exact(&mut typed).await.unwrap();
    assert_eq!(&typed, b"0:3:ls\n", "as it was written");
    console.host.write_all(b"bin etc\r\n").await.unwrap();
    let mut seen = [0; 9];
    console.far.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen, b"bin etc\r\n");
    drop(console.host);
    let ending = timeout(PATIENCE, console.task).await.unwrap().unwrap();
    assert_eq!(ending, Ending::Gone, "the worker was killed, the server runs");
}

#[tokio::test]
async fn a_grant_opens_one_console_whatever_crashes() {
    let mut scene = Scene::new().await;
    let envelope = sign(&grant(1, |_| {}));
    // The agent dies after the nonce was burnt and before anything was opened.
    scene.host.books.journal.fuse.set(1, Cut::AfterCommit);
    assert_eq!(scene.code(&envelope).await, RefusalCode::Unavailable);
    scene.host.restart().await;
    assert_eq!(scene.code(&envelope).await, RefusalCode::Used);
    assert!(scene.host.pve.consoles_asked().is_empty(), "nothing was asked of the host");
    let (opened, _host) = scene.opened(ConsoleKind::Vnc, 2).await;
    assert_eq!(scene.code(&sign(opened.grant())).await, RefusalCode::Used, "while it is open");
    drop(opened);
    assert_eq!(scene.code(&sign(&grant(2, |_| {}))).await, RefusalCode::Used, "and after");
    assert_eq!(scene.seats.taken(), 0, "a refusal gives its seat back");
}

#[tokio::test]
async fn what_is_not_a_good_grant_for_this_node_now_is_refused_by_its_type() {
    use RefusalCode as C;
    let scene = Scene::new().await;
    let foreign = crate::testing::instance(99);
    type Change = Box<dyn FnOnce(&mut ConsoleGrant)>;
    let cases: [(C, Change); 9] = [
        (C::WrongAudience, Box::new(|g| g.aud.node = ez_protocol::NodeId::generate(NOW, [9; 10]))),
        (C::WrongAudience, Box::new(|g| g.install = ez_protocol::InstallId::generate(NOW, [9; 10]))),
        (C::WrongEpoch, Box::new(|g| g.aud.epoch = 2)),
        (C::BadWindow, Box::new(|g| g.exp = UnixMillis(NOW.0 + 60_001))),
        (C::Expired, Box::new(|g| (g.iat, g.exp) = (UnixMillis(NOW.0 - 60_000), UnixMillis(NOW.0 - 1)))),
        (
            C::NotYet,
            Box::new(|g| (g.iat, g.exp) = (UnixMillis(NOW.0 + 300_001), UnixMillis(NOW.0 + 310_000))),
        ),
        (C::UnknownInstance, Box::new(move |g| g.instance.uuid = foreign)),
        (C::UnknownInstance, Box::new(|g| g.instance.vmid = VMID + 1)),
        (C::Policy, Box::new(|g| g.instance.vmid = 5_000)),
    ];
    for (nonce, (code, change)) in (10_u8..).zip(cases) {
        let refusal = scene.open(&sign(&grant(nonce, change))).await.unwrap_err();
        assert_eq!(refusal.code, code, "{refusal}");
    }
    let mut bent = sign(&grant(30, |_| {}));
    let last = bent.len() - 1;
    bent[last] ^= 1;
    assert_eq!(scene.code(&bent).await, C::BadSignature);
    assert_eq!(scene.code(&crate::testing::sign(&ensure(2, 2))).await, C::BadPayload, "an order is no grant");
    let suspect = Node { clock_suspect: true, ..node() };
    let policy = &scene.host.engine.rules.policy;
    let refusal = scene.open_as(suspect, policy, &sign(&grant(31, |_| {}))).await.unwrap_err();
    assert_eq!(refusal.code, C::ClockSkew);
    let closed = Policy { consoles: false, ..policy.clone() };
    let refusal = scene.open_as(node(), &closed, &sign(&grant(32, |_| {}))).await.unwrap_err();
    assert_eq!((refusal.code, refusal.rule.as_deref()), (C::Policy, Some("console.allow")));
    assert!(scene.host.pve.consoles_asked().is_empty(), "nothing was asked of the host for any of them");
}

#[tokio::test]
async fn a_server_that_is_off_or_not_ours_has_no_console() {
    let scene = Scene::new().await;
    scene.host.pve.put_guest(VMID, |guest| guest.running = false);
    assert_eq!(scene.code(&sign(&grant(1, |_| {}))).await, RefusalCode::NotRunning);
    scene.host.pve.put_guest(VMID, |guest| {
        guest.running = true;
        guest.config.insert("description".to_owned(), "somebody else's".to_owned());
    });
    assert_eq!(scene.code(&sign(&grant(2, |_| {}))).await, RefusalCode::UnknownInstance);
    assert!(scene.host.pve.consoles_asked().is_empty());
}

#[tokio::test]
async fn a_host_that_does_not_let_us_in_is_said_so_and_the_password_is_not() {
    let scene = Scene::new().await;
    let refuses = async {
        let (mut stream, _) = scene.door.accept().await.unwrap();
        stream.write_all(b"RFB 003.008\n").await.unwrap();
        stream.read_exact(&mut [0; 12]).await.unwrap();
        stream.write_all(&[1, 2]).await.unwrap();
        stream.read_u8().await.unwrap();
        stream.write_all(&CHALLENGE).await.unwrap();
        stream.read_exact(&mut [0; 16]).await.unwrap();
        stream.write_all(&[0, 0, 0, 1, 0, 0, 0, 3]).await.unwrap();
        stream.write_all(b"no!").await.unwrap();
    };
    let envelope = sign(&grant(1, |_| {}));
    let (opened, ()) = tokio::join!(scene.open(&envelope), refuses);
    let refusal = opened.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Unavailable);
    assert!(refusal.detail.contains("no!") && !refusal.detail.contains("asecret"), "{refusal}");
    assert_eq!(scene.seats.taken(), 0);
}

#[tokio::test]
async fn there_are_four_seats_for_a_server_and_thirty_two_for_the_host() {
    let scene = Scene::new().await;
    let mut open = Vec::new();
    for nonce in 1..=4 {
        open.push(scene.opened(ConsoleKind::Vnc, nonce).await);
    }
    assert_eq!(scene.code(&sign(&grant(5, |_| {}))).await, RefusalCode::TooMany);
    open.pop();
    // Refused before its nonce was burnt, it is good once there is room.
    open.push(scene.opened(ConsoleKind::Vnc, 5).await);
    let others: Vec<_> =
        (0..28_u8).map(|n| scene.seats.take(crate::testing::instance(100 + n)).unwrap()).collect();
    assert_eq!(scene.seats.taken(), 32);
    assert_eq!(scene.seats.take(crate::testing::instance(200)).unwrap_err().code, RefusalCode::TooMany);
    drop((others, open));
    assert_eq!(scene.seats.taken(), 0);
}

#[tokio::test]
async fn a_console_nobody_touches_ends_and_one_that_is_used_does_not() {
    let scene = Scene::new().await;
    let mut console = running(&scene, ConsoleKind::Vnc, 1).await;
    console.far.write_all(&[1]).await.unwrap();
    console.host.read_u8().await.unwrap();
    let minute = 60_000;
    for round in 1..=3_u64 {
        console.now_ms.store(round * 14 * minute, Ordering::SeqCst);
        // A key.
        console.far.write_all(&[4, 1, 0, 0, 0, 0, 0, 97]).await.unwrap();
        console.host.read_exact(&mut [0; 8]).await.unwrap();
        assert!(!console.task.is_finished());
    }
    // Pictures are still asked for, but nobody is there.
    console.now_ms.store((3 * 14 + 14) * minute, Ordering::SeqCst);
    console.far.write_all(&[3, 1, 0, 0, 0, 0, 1, 0, 1, 0]).await.unwrap();
    console.host.read_exact(&mut [0; 10]).await.unwrap();
    console.now_ms.store((3 * 14 + 15) * minute, Ordering::SeqCst);
    assert_eq!(console.ending().await, Ending::Idle);
}

#[tokio::test]
async fn a_console_ends_with_the_time_it_was_granted() {
    let scene = Scene::new().await;
    let mut console = running(&scene, ConsoleKind::Serial, 1).await;
    for at in [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110_u64] {
        console.now_ms.store(at * 60_000, Ordering::SeqCst);
        console.far.write_all(b"0:1:x").await.unwrap();
        console.host.read_exact(&mut [0; 5]).await.unwrap();
    }
    assert!(!console.task.is_finished());
    console.now_ms.store(120 * 60_000, Ordering::SeqCst);
    assert_eq!(console.ending().await, Ending::Over);
}

#[tokio::test]
async fn a_console_of_a_server_that_is_stopped_says_so() {
    let scene = Scene::new().await;
    let console = running(&scene, ConsoleKind::Vnc, 1).await;
    scene.host.pve.put_guest(VMID, |guest| guest.running = false);
    drop(console.host);
    assert_eq!(timeout(PATIENCE, console.task).await.unwrap().unwrap(), Ending::Stopped);
}

#[tokio::test]
async fn the_slower_side_sets_the_pace() {
    let scene = Scene::new().await;
    let mut console = running(&scene, ConsoleKind::Serial, 1).await;
    // Nobody reads on the other side: what the host can hand over is bounded by what waits on the way.
    let piece = vec![b'x'; 256 * 1024];
    let mut given = 0_usize;
    while let Ok(wrote) = timeout(Duration::from_millis(200), console.host.write(&piece)).await {
        given += wrote.unwrap();
        assert!(given < 64 << 20, "everything was taken though nobody reads");
    }
    // Once it is read, all of it comes.
    let mut buffer = vec![0; 64 * 1024];
    let mut seen = 0;
    console.now_ms.store(14 * 60_000, Ordering::SeqCst);
    while seen < given {
        seen += timeout(PATIENCE, console.far.read(&mut buffer)).await.unwrap().unwrap();
    }
    assert_eq!(seen, given);
}

#[tokio::test]
async fn a_host_remembers_so_many_used_grants_and_opens_nothing_beyond() {
    let scene = Scene::new().await;
    let burnt = scene.host.books.journal.write(|conn| {
        Box::pin(async move {
            sqlx::query(
                "WITH RECURSIVE many(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM many WHERE n < 20000) \
                 INSERT INTO console_grants (nonce, console_id, instance_uuid, kind, actor, used_at, keep_until) \
                 SELECT 'burnt ' || n, 'c', 'i', 'vnc', 'a', $1, $2 FROM many",
            )
            .bind(NOW.0)
            .bind(NOW.0 + 60_000)
            .execute(conn)
            .await?;
            Ok(())
        })
    });
    burnt.await.unwrap();
    assert_eq!(scene.code(&sign(&grant(1, |_| {}))).await, RefusalCode::TooMany);
    // Once they are old enough those are forgotten, and there is room again.
    let later = Node { now: UnixMillis(NOW.0 + 60_001), ..node() };
    let policy = &scene.host.engine.rules.policy;
    let young = grant(2, |grant| (grant.iat, grant.exp) = (later.now, UnixMillis(later.now.0 + 60_000)));
    let envelope = sign(&young);
    let (opened, _host) = tokio::join!(scene.open_as(later, policy, &envelope), async {
        let (stream, _) = scene.door.accept().await.unwrap();
        screen(stream).await
    });
    assert!(opened.is_ok());
}
