//! Who is let in, and who gets not a byte.

use std::{net::SocketAddr, time::Duration};

use ez_protocol::frame::{ALPN, CloseCode, StreamKind};
use prost::Message as _;
use quinn::{Connection, ConnectionError};
use tokio::{net::UdpSocket, time::timeout};

use super::client::{Agent, Pair, Served, dial, pair, say_hello};
use crate::{
    app::App,
    db,
    fleet::{
        self, NodeChange,
        testing::{TestNode, enrolled, hello, locations, services},
    },
};

/// Connects, talks as an agent would, and returns why the server ended it. Any byte from the server fails.
async fn gets_nothing(app: &App, served: &Served, pair: Option<Pair>, alpn: &[u8]) -> String {
    let connection = match dial(app, served.address, pair, alpn).await {
        Ok(connection) => connection,
        Err(refused) => return refused,
    };
    if let Ok((mut send, mut recv)) = connection.open_bi().await {
        let _may_fail = send.write_all(&[StreamKind::Control.byte(), 0, 0, 0, 0, 0, 1]).await;
        let mut byte = [0; 1];
        assert!(recv.read_exact(&mut byte).await.is_err(), "application data for a stranger");
    }
    assert!(connection.accept_uni().await.is_err());
    connection.closed().await.to_string()
}

fn close_code(error: &ConnectionError) -> Option<CloseCode> {
    let ConnectionError::ApplicationClosed(close) = error else { return None };
    CloseCode::from_code(close.error_code.into_inner())
}

pub(super) async fn closed(connection: &Connection) -> Option<CloseCode> {
    close_code(&connection.closed().await)
}

/// A certificate for the same names from an authority of somebody else's.
fn forged(app: &App, node: &TestNode) -> Pair {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::default();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let mut params = rcgen::CertificateParams::default();
    let uri = ez_protocol::trust::agent_uri(app.keys.install(), node.id);
    params.subject_alt_names = vec![rcgen::SanType::URI(uri.as_str().try_into().unwrap())];
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    (certificate.der().clone(), rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap())
}

#[tokio::test]
async fn strangers_get_no_application_data() {
    let (db, _dir) = db::testing::sqlite().await;
    let (app, clock) = services(db);
    locations(&app, 10).await;
    let served = Served::start(&app).await;
    let (good, revoked, old) = (
        enrolled(&app, "fsn-1", "fsn").await,
        enrolled(&app, "fsn-2", "fsn").await,
        enrolled(&app, "fsn-3", "fsn").await,
    );
    assert_eq!(Agent::connect(&app, served.address, &good).await.welcome.node_name, "fsn-1");

    gets_nothing(&app, &served, None, ALPN).await;
    gets_nothing(&app, &served, Some(forged(&app, &good)), ALPN).await;
    gets_nothing(&app, &served, Some(pair(&good)), b"ez-agent/2").await;
    fleet::change_node(&app, "operator:test", "fsn-2", NodeChange::Revoke).await.unwrap();
    let words = gets_nothing(&app, &served, Some(pair(&revoked)), ALPN).await;
    assert!(words.contains("not let in"), "{words}");
    clock.advance(Duration::from_secs(14 * 86_400 + 1));
    gets_nothing(&app, &served, Some(pair(&old)), ALPN).await;
}

/// Begins a handshake and never says another word; it stays open on the server's side.
async fn half_a_handshake(app: &App, to: SocketAddr) -> UdpSocket {
    let deaf = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut first = [0; 2_048];
    // The client dials this socket, and only the first it says goes on to the server.
    let length = tokio::select! {
        _ = dial(app, deaf.local_addr().unwrap(), None, ALPN) => panic!("nobody answers it"),
        length = deaf.recv(&mut first) => length.unwrap(),
    };
    deaf.send_to(&first[..length], to).await.unwrap();
    deaf
}

#[tokio::test]
async fn handshakes_that_are_never_finished_keep_no_agent_waiting() {
    let (db, _dir) = db::testing::sqlite().await;
    let (app, _clock) = services(db);
    locations(&app, 10).await;
    let served = Served::start(&app).await;
    let node = enrolled(&app, "fsn-1", "fsn").await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(half_a_handshake(&app, served.address).await);
    }
    // Well before the first of them is given up.
    let agent = timeout(Duration::from_secs(7), Agent::connect(&app, served.address, &node)).await;
    assert_eq!(agent.expect("let in at once").welcome.node_name, "fsn-1");
    drop(silent);
}

#[tokio::test]
async fn one_host_has_a_few_connections_that_wait_and_keeps_no_other_out() {
    let (db, _dir) = db::testing::sqlite().await;
    let (app, _clock) = services(db);
    locations(&app, 10).await;
    let served = Served::start(&app).await;
    let (greedy, other) = (enrolled(&app, "fsn-1", "fsn").await, enrolled(&app, "fsn-2", "fsn").await);
    // Its certificate is good, and it never says Hello.
    let mut silent = Vec::new();
    for _ in 0..5 {
        silent.push(dial(&app, served.address, Some(pair(&greedy)), ALPN).await.unwrap());
    }
    let ends: Vec<_> = silent.iter().map(|connection| Box::pin(closed(connection))).collect();
    let (code, _which, others) = futures::future::select_all(ends).await;
    assert_eq!(code, Some(CloseCode::Drain), "four may wait, well before the first of them is given up");
    assert_eq!(Agent::connect(&app, served.address, &other).await.welcome.node_name, "fsn-2");
    drop(others);
    drop(silent);
    // What waited has gone, and the host itself is let in again.
    let said = hello(&greedy, 1_000);
    while Agent::greet(&app, served.address, &greedy, said.clone()).await.is_none() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_revocation_ends_a_live_connection_at_once() {
    let (db, _dir) = db::testing::sqlite().await;
    let (app, _clock) = services(db);
    locations(&app, 10).await;
    let served = Served::start(&app).await;
    let node = enrolled(&app, "fsn-1", "fsn").await;
    let agent = Agent::connect(&app, served.address, &node).await;
    wait_until(|| app.links.connected() == 1).await;
    fleet::change_node(&app, "operator:test", "fsn-1", NodeChange::Revoke).await.unwrap();
    assert_eq!(closed(&agent.connection).await, Some(CloseCode::Revoked));
    assert!(Agent::greet(&app, served.address, &node, hello(&node, 1_000)).await.is_none());
}

#[tokio::test]
async fn the_newest_connection_of_a_node_wins() {
    let (db, _dir) = db::testing::sqlite().await;
    let (app, _clock) = services(db);
    locations(&app, 10).await;
    let served = Served::start(&app).await;
    let node = enrolled(&app, "fsn-1", "fsn").await;
    let first = Agent::connect(&app, served.address, &node).await;
    wait_until(|| app.links.connected() == 1).await;
    let again = ez_protocol::message::Hello { ratchet: first.welcome.ratchet.clone(), ..hello(&node, 1_000) };
    let second = Agent::greet(&app, served.address, &node, again).await.unwrap();
    assert!(!second.welcome.quarantined);
    assert_eq!(closed(&first.connection).await, Some(CloseCode::Replaced));
    assert!(second.connection.close_reason().is_none());
}

#[tokio::test]
async fn a_copied_disk_is_quarantined() {
    let (db, _dir) = db::testing::sqlite().await;
    let (app, _clock) = services(db);
    locations(&app, 10).await;
    let served = Served::start(&app).await;
    let node = enrolled(&app, "fsn-1", "fsn").await;
    let mut ratchet = Vec::new();
    for _ in 0..3 {
        let said = ez_protocol::message::Hello { ratchet: ratchet.clone(), ..hello(&node, 1_000) };
        let agent = Agent::greet(&app, served.address, &node, said).await.unwrap();
        assert!(!agent.welcome.quarantined);
        ratchet = agent.welcome.ratchet.clone();
    }
    let stale = ez_protocol::message::Hello { ratchet: vec![1; 16], ..hello(&node, 1_000) };
    assert!(Agent::greet(&app, served.address, &node, stale).await.unwrap().welcome.quarantined);
}

#[tokio::test]
async fn an_agent_whose_first_welcome_was_lost_is_no_copy_of_itself() {
    let (db, _dir) = db::testing::sqlite().await;
    let (app, _clock) = services(db);
    locations(&app, 10).await;
    let served = Served::start(&app).await;
    let node = enrolled(&app, "fsn-1", "fsn").await;
    let first = hello(&node, 1_000);
    // The server has stored the greeting; the line goes down before the agent has.
    let lost = say_hello(&app, served.address, &node, &first.encode_to_vec()).await.unwrap();
    drop(lost);
    let agent = Agent::greet(&app, served.address, &node, first.clone()).await.unwrap();
    assert!(!agent.welcome.quarantined, "it knows what it knew, and no less");
    // It has stored that one, and says so the next time: from then on nobody comes with nothing.
    let said = ez_protocol::message::Hello { ratchet: agent.welcome.ratchet.clone(), ..first.clone() };
    assert!(!Agent::greet(&app, served.address, &node, said).await.unwrap().welcome.quarantined);
    assert!(Agent::greet(&app, served.address, &node, first).await.unwrap().welcome.quarantined);
}

#[tokio::test]
async fn a_journal_with_an_endless_name_is_not_greeted() {
    let (db, _dir) = db::testing::sqlite().await;
    let (app, _clock) = services(db);
    locations(&app, 10).await;
    let served = Served::start(&app).await;
    let node = enrolled(&app, "fsn-1", "fsn").await;
    let said = ez_protocol::message::Hello { journal_id: "j".repeat(10_000), ..hello(&node, 1_000) };
    assert!(Agent::greet(&app, served.address, &node, said).await.is_none());
    assert_eq!(Agent::connect(&app, served.address, &node).await.welcome.node_name, "fsn-1");
}

/// Waits for something that another task is about to do; the test's own time-out is the limit.
pub(super) async fn wait_until(mut done: impl FnMut() -> bool) {
    while !done() {
        tokio::task::yield_now().await;
    }
}
