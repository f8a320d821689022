//! The transport against a TLS server in this process that answers recorded texts.

use std::{collections::VecDeque, sync::Mutex};

use proxmox_api::nodes::NodesClient;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    pve::{ConfigChange, ConfigRead, FirewallSetup, Hypervisor as _, ProxmoxHypervisor, TaskState},
    setup::{AdminApi as _, TokenAdmin, Verb},
};

const TOKEN: &str = "ez-agent@pve!node-pve1=00000000-0000-0000-0000-000000000000";

/// What the server does with one request.
enum Reply {
    /// Status, reason phrase and body.
    Answer(u16, &'static str, String),
    /// Reads the request and closes the connection.
    HangUp,
    /// Announces more than it sends.
    BreakOff,
}

struct Server {
    address: PveAddress,
    /// Head and body of every request.
    seen: Arc<Mutex<Vec<(String, String)>>>,
    connections: Arc<Mutex<u32>>,
}

/// Answers in order; the listener goes on for as long as the test runs.
async fn serve(replies: Vec<Reply>) -> Server {
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(vec!["pve1".to_owned()]).unwrap().self_signed(&key).unwrap();
    let fingerprint = Fingerprint::of_der(cert.der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![cert.der().clone()],
            rustls_pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let connections = Arc::new(Mutex::new(0));
    let (log, count) = (Arc::clone(&seen), Arc::clone(&connections));
    tokio::spawn(async move {
        let mut replies = VecDeque::from(replies);
        while !replies.is_empty() {
            let Ok((tcp, _)) = listener.accept().await else { return };
            *count.lock().unwrap() += 1;
            // A client that does not like the certificate goes away here.
            let Ok(mut tls) = acceptor.accept(tcp).await else { continue };
            while let Some(request) = read_request(&mut tls).await {
                log.lock().unwrap().push(request);
                match replies.pop_front() {
                    Some(Reply::Answer(status, reason, body)) => {
                        let close = if status >= 400 { "Connection: close\r\n" } else { "" };
                        let head = format!(
                            "HTTP/1.1 {status} {reason}\r\nContent-Length: {}\r\n{close}\r\n",
                            body.len()
                        );
                        tls.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
                        tls.flush().await.unwrap();
                        if status >= 400 || replies.is_empty() {
                            break;
                        }
                    }
                    Some(Reply::BreakOff) => {
                        tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"data\":")
                            .await
                            .unwrap();
                        tls.flush().await.unwrap();
                        break;
                    }
                    Some(Reply::HangUp) | None => break,
                }
            }
            let _ = tls.shutdown().await;
        }
    });
    Server { address: PveAddress { url, fingerprint, token: TOKEN.to_owned() }, seen, connections }
}

async fn read_request(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        let mut chunk = [0; 4096];
        let n = stream.read(&mut chunk).await.ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&chunk[..n]);
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
    let length =
        head.lines().find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = bytes[head_end..].to_vec();
    body.resize(length.unwrap_or(0).max(body.len()), 0);
    let missing = head_end + body.len() - bytes.len();
    let from = body.len() - missing;
    stream.read_exact(&mut body[from..]).await.ok()?;
    Some((head, String::from_utf8(body).unwrap()))
}

fn ok(data: Value) -> Reply {
    Reply::Answer(200, "OK", json!({"data": data}).to_string())
}

fn failed(status: u16, text: &'static str) -> Reply {
    Reply::Answer(status, text, json!({"data": null, "message": format!("{text}\n")}).to_string())
}

fn hypervisor(server: &Server) -> ProxmoxHypervisor {
    ProxmoxHypervisor::new(&server.address, "pve1").unwrap()
}

#[tokio::test]
async fn success_without_data_is_success_and_parameters_arrive() {
    let server = serve(vec![ok(Value::Null), ok(json!({"version": "9.2.11", "release": "9.2"}))]).await;
    let pve = hypervisor(&server);
    let change = ConfigChange {
        set: [("tags".to_owned(), "a;b".to_owned()), ("name".to_owned(), "web".to_owned())].into(),
        delete: ["net1".to_owned()].into(),
        digest: Some("a".repeat(40)),
    };
    assert_eq!(pve.set_config(101, change).await, Ok(()));
    assert_eq!(pve.version().await.map(|v| v.text), Ok("9.2.11".to_owned()));
    let seen = server.seen.lock().unwrap();
    let (head, body) = &seen[0];
    assert!(head.starts_with("PUT /api2/json/nodes/pve1/qemu/101/config HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("authorization: PVEAPIToken={TOKEN}\r\n")), "{head}");
    assert!(
        head.contains(&format!("content-length: {}\r\n", body.len())) && !head.contains("chunked"),
        "{head}"
    );
    let mut pairs: Vec<&str> = body.split('&').collect();
    pairs.sort_unstable();
    let digest = format!("digest={}", "a".repeat(40));
    assert_eq!(pairs, ["delete=net1", digest.as_str(), "name=web", "tags=a%3Bb"]);
    assert!(seen[1].0.starts_with("GET /api2/json/version HTTP/1.1\r\n") && seen[1].1.is_empty());
    assert_eq!(*server.connections.lock().unwrap(), 1, "a good connection is used again");
}

#[tokio::test]
async fn a_refusal_keeps_its_texts_and_ends_the_connection() {
    let errors = json!({"data": null, "message": "Parameter verification failed.\n",
                        "errors": {"delete": "unknown option 'nosuch'\n"}});
    let server = serve(vec![
        Reply::Answer(400, "Parameter verification failed.", errors.to_string()),
        Reply::Answer(500, "VM is locked (clone)", String::new()),
        failed(403, "Permission check failed (/vms/101, VM.Audit)"),
        failed(500, "Configuration file 'nodes/pve1/qemu-server/101.conf' does not exist"),
        Reply::Answer(401, "Authentication failed!", String::new()),
        Reply::Answer(501, "Method 'GET /nope' not implemented", "not json".to_owned()),
    ])
    .await;
    let pve = hypervisor(&server);
    let refused = pve.set_config(101, ConfigChange::default()).await.unwrap_err();
    assert_eq!(refused.text(), "Parameter verification failed. [delete: unknown option 'nosuch']");
    assert!(pve.set_config(101, ConfigChange::default()).await.unwrap_err().is_locked());
    assert_eq!(pve.guest_config(101).await, Ok(ConfigRead::Forbidden));
    assert_eq!(pve.guest_config(101).await, Ok(ConfigRead::Absent));
    let unauthorized = pve.version().await.unwrap_err();
    assert!(
        matches!(&unauthorized, PveError::Unauthorized { message, .. } if message == "Authentication failed!")
    );
    let unknown = pve.version().await.unwrap_err();
    assert_eq!(
        (unknown.status(), unknown.text()),
        (Some(501), "Method 'GET /nope' not implemented".to_owned())
    );
    assert_eq!(*server.connections.lock().unwrap(), 6);
}

/// The host's owner puts a rule of their own on top while ours are taken away.
#[tokio::test]
async fn a_rule_is_taken_away_only_from_the_list_in_which_it_was_seen() {
    let ours = |pos: u32, digest: &str| json!({"pos": pos, "type": "in", "action": "DROP", "enable": 1, "comment": "ez:1", "digest": digest});
    let owners = |digest: &str| json!({"pos": 0, "type": "in", "action": "ACCEPT", "enable": 1, "comment": "mine", "digest": digest});
    let server = serve(vec![
        ok(json!([{"name": "ipfilter-net0"}])),
        ok(json!([])),
        ok(json!([ours(0, "a")])),
        ok(json!([ours(0, "a")])),
        failed(500, "detected modified configuration - file changed by other user? Try again."),
        ok(json!([owners("b"), ours(1, "b")])),
        ok(Value::Null),
        ok(json!([owners("c")])),
        ok(Value::Null),
    ])
    .await;
    let setup =
        FirewallSetup { addresses: std::collections::BTreeSet::new(), inbound: "ACCEPT", rules: Vec::new() };
    assert_eq!(hypervisor(&server).set_firewall(101, setup).await, Ok(()));
    let seen = server.seen.lock().unwrap();
    let deletes: Vec<&str> = seen
        .iter()
        .filter_map(|(head, _)| head.strip_prefix("DELETE /api2/json/nodes/pve1/qemu/101/firewall/rules/"))
        .filter_map(|rest| rest.split(' ').next())
        .collect();
    assert_eq!(deletes, ["0?digest=a", "1?digest=b"]);
}

#[tokio::test]
async fn a_lost_answer_is_an_unknown_outcome_and_is_not_repeated() {
    let server = serve(vec![
        Reply::HangUp,
        Reply::BreakOff,
        Reply::Answer(596, "Broken pipe", String::new()),
        Reply::Answer(200, "OK", "<html>".to_owned()),
        ok(json!({"unexpected": true})),
    ])
    .await;
    let pve = hypervisor(&server);
    for expected in 1..=5 {
        let error = pve.start(101).await.unwrap_err();
        assert!(error.is_outcome_unknown(), "{error}");
        assert_eq!(server.seen.lock().unwrap().len(), expected, "sent once: {error}");
    }
}

#[tokio::test]
async fn only_the_pinned_certificate_is_spoken_to() {
    let server = serve(vec![ok(json!({"version": "9.2"}))]).await;
    let other = PveAddress { fingerprint: Fingerprint::of_der(b"another"), ..server.address.clone() };
    let error = ProxmoxHypervisor::new(&other, "pve1").unwrap().version().await.unwrap_err();
    assert!(
        matches!(&error, PveError::Unreachable { reason, .. } if reason.contains("pinned is")),
        "{error}"
    );
    assert!(server.seen.lock().unwrap().is_empty(), "no token reached the wrong host");
    assert!(hypervisor(&server).version().await.is_ok());
}

#[tokio::test]
async fn a_token_that_setup_has_made_anew_is_taken_up() {
    let (dir, version) =
        (tempfile::tempdir().unwrap(), || ok(json!({"version": "9.2.11", "release": "9.2"})));
    let file = dir.path().join("pve-token");
    let unknown = || failed(401, "authentication failure");
    let server = serve(vec![unknown(), unknown(), version()]).await;
    let pve = hypervisor(&server).rereading(&file);
    std::fs::write(&file, TOKEN).unwrap();
    let error = pve.version().await.unwrap_err();
    assert!(matches!(error, PveError::Unauthorized { .. }), "the same token is not tried twice: {error}");
    let fresh = TOKEN.replace("00000000-", "11111111-");
    std::fs::write(&file, format!("{fresh}\n")).unwrap();
    pve.version().await.unwrap();
    {
        let seen = server.seen.lock().unwrap();
        assert_eq!(seen.len(), 3);
        assert!(seen[1].0.contains(TOKEN) && seen[2].0.contains(&fresh));
    }
    // Whoever builds images lives as long as the agent.
    let server = serve(vec![unknown(), version()]).await;
    let admin = TokenAdmin::new(&server.address).unwrap().rereading(&file);
    admin.call(Verb::Get, "/version", &[]).await.unwrap();
}

#[tokio::test]
async fn nobody_there_means_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    drop(listener);
    let address = PveAddress { url, fingerprint: Fingerprint::of_der(b"x"), token: TOKEN.to_owned() };
    let error = ProxmoxHypervisor::new(&address, "pve1").unwrap().start(101).await.unwrap_err();
    assert!(matches!(error, PveError::Unreachable { .. }) && error.had_no_effect(), "{error}");
}

#[tokio::test]
async fn tasks_are_read_with_their_handle_escaped() {
    let upid: crate::pve::Upid =
        "UPID:pve1:00000976:00031F8C:6B03C9AA:qmclone:9000:root@pam!agent:".parse().unwrap();
    let server = serve(vec![
        ok(json!({"upid": upid.as_str(), "status": "running", "pid": 2422})),
        ok(json!({"status": "stopped", "exitstatus": "clone failed: no space"})),
        Reply::Answer(
            400,
            "Parameter verification failed.",
            json!({"errors": {"upid": "no such task"}}).to_string(),
        ),
        Reply::Answer(200, "OK", json!({"data": [{"n": 1, "t": "no content"}], "total": 1}).to_string()),
    ])
    .await;
    let pve = hypervisor(&server);
    assert_eq!(pve.task_status(&upid).await, Ok(TaskState::Running));
    assert!(matches!(pve.task_status(&upid).await, Ok(TaskState::Ended(exit)) if !exit.is_success()));
    assert_eq!(pve.task_status(&upid).await, Ok(TaskState::Unknown));
    assert_eq!(pve.task_log(&upid, 1).await, Ok(Vec::new()));
    let path = server.seen.lock().unwrap()[0].0.clone();
    assert!(path.contains(
        "/tasks/UPID%3Apve1%3A00000976%3A00031F8C%3A6B03C9AA%3Aqmclone%3A9000%3Aroot%40pam%21agent%3A/status"
    ));
}

#[tokio::test]
async fn futures_of_the_typed_client_can_move_between_threads() {
    fn moves<T: Send>(value: T) -> T {
        value
    }
    let server = serve(vec![ok(json!("UPID:pve1:00000976:00031F8C:6B03C9AA:qmstop:101:a@pve!b:"))]).await;
    let http = PveHttp::new(&server.address).unwrap();
    let guest = NodesClient::new(http).node("pve1").qemu().vmid(101.try_into().unwrap());
    let answer = moves(async move { guest.status().stop().post(Default::default()).await }).await;
    assert!(answer.unwrap().starts_with("UPID:pve1:"));
}

#[test]
fn addresses_and_tokens_are_checked_and_secrets_not_shown() {
    let good = PveAddress {
        url: "https://127.0.0.1:8006".into(),
        fingerprint: Fingerprint::of_der(b"x"),
        token: TOKEN.to_owned(),
    };
    assert!(PveHttp::new(&good).is_ok());
    assert!(!format!("{good:?} {:?}", PveHttp::new(&good)).contains("00000000-"));
    for url in ["http://127.0.0.1:8006", "https://h/path", "h:8006", ""] {
        assert!(PveHttp::new(&PveAddress { url: url.into(), ..good.clone() }).is_err(), "{url}");
    }
    for token in ["", "secret", "user@pve=x", "user@pve!t", "user@pve!t=", "user@pve!t=a\nb", "user!t=x"] {
        assert!(PveHttp::new(&PveAddress { token: token.into(), ..good.clone() }).is_err(), "{token:?}");
    }
}
