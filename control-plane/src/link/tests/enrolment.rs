//! Enrolment as a host meets it: TLS over TCP, the trust document first, then the token.

use std::sync::Arc;

use ez_protocol::trust::{EnrolReply, JoinToken, Pin, TrustDocument};
use rustls::{RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::TlsConnector;

use super::client::{Served, app_clock};
use crate::{
    app::App,
    db,
    fleet::{
        self, alarms,
        testing::{locations, new_key, read, request, services},
    },
};

/// One request on a connection of its own; the answer's status and body.
async fn ask(app: &App, served: &Served, method: &str, path: &str, body: &str) -> (u16, String) {
    let tcp = TcpStream::connect(served.address).await.unwrap();
    ask_over(app, tcp, method, path, body).await
}

async fn ask_over(app: &App, tcp: TcpStream, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut roots = RootCertStore::empty();
    for der in app.keys.trust().unwrap().link_ca_der().unwrap() {
        roots.add(der.into()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_details(provider, app_clock(app))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _closed_without_notify = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn a_host_joins_by_its_token_and_a_thief_does_not() {
    let (db, _dir) = db::testing::sqlite().await;
    let (app, _clock) = services(db);
    locations(&app, 10).await;
    let served = Served::start(&app).await;
    let joining = fleet::add_node(&app, "operator:test", "fsn-1", "fsn").await.unwrap();
    let token: JoinToken = joining.token.parse().unwrap();

    let (status, document) = ask(&app, &served, "GET", &format!("/trust/{}", token.pin), "").await;
    assert_eq!((status, Pin::of(document.as_bytes())), (200, token.pin));
    assert!(TrustDocument::from_bytes(document.as_bytes()).is_ok());
    assert_eq!(ask(&app, &served, "GET", &format!("/trust/{}", Pin([0; 32])), "").await.0, 404);
    assert_eq!(ask(&app, &served, "GET", "/login", "").await.0, 404);

    let body = serde_json::to_string(&request(&token, &new_key())).unwrap();
    assert_eq!(ask(&app, &served, "POST", "/enrol", &body.replace("pve1", "p\",\"x\":\"y")).await.0, 400);
    let (status, reply) = ask(&app, &served, "POST", "/enrol", &body).await;
    assert_eq!(status, 200, "{reply}");
    let reply: EnrolReply = serde_json::from_str(&reply).unwrap();
    assert_eq!((reply.node, reply.epoch), (joining.node, 1));

    let stolen = serde_json::to_string(&request(&token, &new_key())).unwrap();
    let (status, problem) = ask(&app, &served, "POST", "/enrol", &stolen).await;
    assert_eq!(status, 409);
    assert!(problem.contains("token_used"), "{problem}");
    let open = read(&app, async |c| alarms::list(c, 9).await).await;
    assert_eq!(open[0].kind, "token_reused");
}

#[tokio::test]
async fn many_attempts_are_slowed_down() {
    let (db, _dir) = db::testing::sqlite().await;
    let (app, clock) = services(db);
    locations(&app, 10).await;
    let served = Served::start(&app).await;
    let mut last = 0;
    for _ in 0..11 {
        last = ask(&app, &served, "POST", "/enrol", "{}").await.0;
    }
    assert_eq!(last, 429);
    clock.advance(std::time::Duration::from_secs(11));
    assert_eq!(ask(&app, &served, "POST", "/enrol", "{}").await.0, 400);
}

#[tokio::test]
async fn visitors_who_only_sit_there_keep_nobody_else_out() {
    let (db, _dir) = db::testing::sqlite().await;
    let (app, _clock) = services(db);
    locations(&app, 10).await;
    let served = Served::start(&app).await;
    let mut idle = Vec::new();
    let mut sits = async |up_to: usize| {
        while idle.len() < up_to {
            idle.push(TcpStream::connect(served.address).await.unwrap());
        }
    };
    sits(40).await;
    let nothing = format!("/trust/{}", Pin([0; 32]));
    let (status, _) = ask(&app, &served, "GET", &nothing, "").await;
    assert_eq!(status, 404, "one more behind the same address, while there is room");
    // More than all the places there are.
    sits(300).await;
    // The loopback network has many addresses: this one is somebody else.
    let other = TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let tcp = other.connect(served.address).await.unwrap();
    let (status, _) = ask_over(&app, tcp, "GET", &nothing, "").await;
    assert_eq!(status, 404, "an answer");
    drop(idle);
}
