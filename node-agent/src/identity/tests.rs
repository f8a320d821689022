//! Joining against a control plane of a few lines: what is believed, what is refused, what is stored.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use ez_protocol::trust::{EnrolReply, EnrolRequest, JoinToken, Pin};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{KeyPair, PublicKeyData as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use url::Url;

use super::*;
use crate::testing::{NOW, node_id, pki::Pki};

/// How the control plane of a story misbehaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Honest,
    OtherDocument,
    OtherKey,
    OtherAuthority,
    OtherNode,
    TokenUsed,
}

struct Story {
    dir: tempfile::TempDir,
    config: Config,
    url: Url,
    token: JoinToken,
}

fn config(dir: &Path) -> Config {
    let text = format!("pve_node = \"pve1\"\nstate_dir = {:?}\n", dir.join("state"));
    crate::config::parse(Path::new("agent.toml"), &text, &|_| None).unwrap()
}

/// A control plane that serves any number of requests in the given manner.
async fn story(manner: Manner) -> Story {
    let pki = Arc::new(Pki::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let document = pki.trust(&address.to_string()).to_bytes().unwrap();
    let pin = Pin::of(&document);
    let acceptor = TlsAcceptor::from(Arc::new(pki.enrolment_tls()));
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let (acceptor, pki, document) = (acceptor.clone(), Arc::clone(&pki), document.clone());
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(tcp).await else { return };
                let service =
                    service_fn(move |request| answer(request, Arc::clone(&pki), document.clone(), manner));
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(tls), service)
                    .await;
            });
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let url = Url::parse(&format!("https://{address}")).unwrap();
    Story { dir, config, url, token: JoinToken { id: [1; 10], secret: [2; 32], pin } }
}

async fn answer(
    request: Request<Incoming>,
    pki: Arc<Pki>,
    document: Vec<u8>,
    manner: Manner,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    if request.method() == hyper::Method::GET {
        let other = pki.trust("elsewhere.example:7443").to_bytes().unwrap();
        let body = if manner == Manner::OtherDocument { other } else { document };
        return Ok(Response::new(Full::from(body)));
    }
    if manner == Manner::TokenUsed {
        let problem = br#"{"title":"Conflict","detail":"this token was used before"}"#;
        return Ok(Response::builder().status(409).body(Full::from(&problem[..])).unwrap());
    }
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let wish: EnrolRequest = serde_json::from_slice(&body).unwrap();
    let csr = rcgen::CertificateSigningRequestParams::from_pem(&wish.csr_pem).unwrap();
    let stranger = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let certificate_pem = match manner {
        Manner::OtherKey => pki.agent_pem(&stranger),
        Manner::OtherAuthority => Pki::new().agent_pem(&csr.public_key),
        _ => pki.agent_pem(&csr.public_key),
    };
    let node = match manner {
        Manner::OtherNode => NodeId::generate(NOW, [9; 10]),
        _ => node_id(),
    };
    let reply = EnrolReply { certificate_pem, node, node_name: "fsn-1".to_owned(), epoch: 3 };
    Ok(Response::new(Full::from(serde_json::to_vec(&reply).unwrap())))
}

async fn try_join(story: &Story) -> Result<Joined, JoinError> {
    try_join_as(story, Vec::new()).await
}

async fn try_join_as(story: &Story, known_as: Vec<NodeId>) -> Result<Joined, JoinError> {
    let host = PveFacts { version: "9.2.11".to_owned(), cluster: "ab".repeat(32), known_as };
    join(&story.config, &story.url, &story.token, &host, NOW).await
}

#[tokio::test]
async fn an_honest_join_stores_everything_whole_and_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let story = story(Manner::Honest).await;
    let joined = try_join(&story).await.unwrap();
    assert_eq!((joined.node.node, joined.node.epoch, joined.node.name.as_str()), (node_id(), 3, "fsn-1"));
    let identity = load(&story.config).unwrap();
    assert_eq!(identity.node, joined.node);
    let key = story.config.identity_dir().join("key.pem");
    assert_eq!(std::fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);

    // Joining again is a new key and nothing of the old pair, nor of what was to follow it.
    let dir = story.config.identity_dir();
    let before = std::fs::read(dir.join("key.pem")).unwrap();
    renew::prepare(&dir).unwrap();
    std::fs::write(dir.join("next-key.pem"), &before).unwrap();
    try_join(&story).await.unwrap();
    assert_ne!(std::fs::read(dir.join("key.pem")).unwrap(), before);
    assert!(!dir.join("asked-key.pem").exists() && !dir.join("next-key.pem").exists());
    assert!(load(&story.config).is_ok());
}

/// The control plane gives a lost answer again to the same key, and takes another key for a thief's.
#[tokio::test]
async fn a_token_is_used_with_one_key_until_the_join_is_done() {
    use std::os::unix::fs::PermissionsExt as _;
    let (lost, honest) = (story(Manner::TokenUsed).await, story(Manner::Honest).await);
    let kept = || {
        let dir = lost.config.identity_dir();
        let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        files
            .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("join-"))
            .collect::<Vec<_>>()
    };
    try_join(&lost).await.unwrap_err();
    let first = kept();
    assert_eq!(first.len(), 1);
    assert_eq!(std::fs::metadata(&first[0]).unwrap().permissions().mode() & 0o777, 0o600);
    let key = std::fs::read(&first[0]).unwrap();
    try_join(&lost).await.unwrap_err();
    assert_eq!(kept(), first);
    assert_eq!(std::fs::read(&first[0]).unwrap(), key);

    let host = PveFacts { version: String::new(), cluster: String::new(), known_as: Vec::new() };
    assert_eq!(lost.token.id, honest.token.id);
    join(&lost.config, &honest.url, &honest.token, &host, NOW).await.unwrap();
    assert_eq!(std::fs::read(lost.config.identity_dir().join("key.pem")).unwrap(), key);
    assert_eq!(kept(), [""; 0].map(std::path::PathBuf::from), "its place is key.pem now");
}

#[tokio::test]
async fn a_join_that_fails_while_it_writes_leaves_the_host_who_it_was() {
    let story = story(Manner::Honest).await;
    try_join(&story).await.unwrap();
    let dir = story.config.identity_dir();
    let files = || {
        let name = |name: &str| std::fs::read(dir.join(name)).unwrap();
        (
            name("key.pem"),
            name("cert.pem"),
            name("node.json"),
            std::fs::read(story.config.trust_file()).unwrap(),
        )
    };
    let before = files();
    // Nothing can be written there, as on a full disk.
    std::fs::create_dir_all(dir.join("joined-cert.pem/x")).unwrap();
    try_join(&story).await.unwrap_err();
    assert_eq!(files(), before);
    assert!(load(&story.config).is_ok());
    std::fs::remove_dir_all(dir.join("joined-cert.pem")).unwrap();
    try_join(&story).await.unwrap();
    let after = files();
    assert_ne!(after.0, before.0);

    // Cut between the renames: the old certificate is still there beside the new key.
    for (name, bytes) in
        [("cert.pem", &before.1), ("joined-cert.pem", &after.1), ("joined-node.json", &after.2)]
    {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
    load(&story.config).unwrap();
    assert_eq!(files(), after);
    assert!(!dir.join("joined-node.json").exists());
}

#[tokio::test]
async fn nothing_is_stored_and_the_reason_is_said_if_anything_is_not_as_pinned() {
    let cases = [
        (Manner::OtherDocument, "not the one the token names"),
        (Manner::OtherKey, "for another key"),
        (Manner::OtherAuthority, "does not chain"),
        (Manner::OtherNode, "the certificate names"),
        (Manner::TokenUsed, "this token was used before. A token works once"),
    ];
    for (manner, words) in cases {
        let story = story(manner).await;
        let error = try_join(&story).await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert!(matches!(load(&story.config), Err(IdentityError::NotJoined)));
        assert!(!story.config.trust_file().exists());
        drop(story.dir);
    }
}

#[tokio::test]
async fn a_host_that_is_another_node_stores_nothing_of_this_one() {
    let story = story(Manner::Honest).await;
    let error = try_join_as(&story, vec![NodeId::generate(NOW, [9; 10])]).await.unwrap_err().to_string();
    assert!(error.contains("join with --replace"), "{error}");
    assert!(matches!(load(&story.config), Err(IdentityError::NotJoined)));
    try_join_as(&story, vec![node_id()]).await.unwrap();
}

#[tokio::test]
async fn an_address_where_nobody_listens_is_named() {
    let mut story = story(Manner::Honest).await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    story.url = Url::parse(&format!("https://{free}")).unwrap();
    let error = try_join(&story).await.unwrap_err().to_string();
    assert!(error.contains("cannot be reached over TCP"), "{error}");
}

#[tokio::test]
async fn a_change_of_pair_cut_in_the_middle_is_finished_at_the_next_start() {
    let story = story(Manner::Honest).await;
    try_join(&story).await.unwrap();
    let identity = load(&story.config).unwrap();
    let dir = story.config.identity_dir();
    let pending = renew::prepare(&dir).unwrap();
    // The authority of the story is gone with its task; the same checks are made on the next pair.
    let wrong = renew::stage(&dir, &identity, &pending, "no certificate", NOW);
    assert!(matches!(wrong, Err(IdentityError::Damaged { .. })));
    assert!(renew::staged(&dir).is_none());
    // The next try asks with the same key: for it the control plane gives the same certificate.
    let key = |pending: &renew::Pending| {
        let csr = rcgen::CertificateSigningRequestParams::from_pem(&pending.csr_pem).unwrap();
        csr.public_key.subject_public_key_info()
    };
    let again = renew::prepare(&dir).unwrap();
    assert_eq!(key(&again), key(&pending));
    let mode = std::fs::metadata(dir.join("asked-key.pem")).unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);
    renew::forget_asked(&dir);
    assert_ne!(key(&renew::prepare(&dir).unwrap()), key(&pending), "one that was refused is not kept");
    renew::forget_asked(&dir);
    assert!(!dir.join("asked-key.pem").exists());

    let next = (std::fs::read(dir.join("key.pem")).unwrap(), std::fs::read(dir.join("cert.pem")).unwrap());
    try_join(&story).await.unwrap();
    // Cut between the two renames: the key is the next one already, the certificate still waits.
    std::fs::write(dir.join("key.pem"), &next.0).unwrap();
    std::fs::write(dir.join("next-cert.pem"), &next.1).unwrap();
    assert!(load(&story.config).is_ok());
    assert_eq!(std::fs::read(dir.join("cert.pem")).unwrap(), next.1);
    assert!(!dir.join("next-cert.pem").exists());
}

/// Where a rename failed the agent goes on, and the next certificate comes before the next start.
#[test]
fn a_change_of_pair_that_stopped_in_the_middle_is_finished_before_the_next_one_is_stored() {
    let (pki, home) = (Pki::new(), tempfile::tempdir().unwrap());
    let config = config(home.path());
    let identity = pki.join(&config, "127.0.0.1:1");
    let dir = config.identity_dir();
    let stage = || {
        let pending = renew::prepare(&dir).unwrap();
        let csr = rcgen::CertificateSigningRequestParams::from_pem(&pending.csr_pem).unwrap();
        renew::stage(&dir, &identity, &pending, &pki.agent_pem(&csr.public_key), NOW).unwrap()
    };
    let file = |name: &str| std::fs::read(dir.join(name)).unwrap();
    stage();
    let first = (file("next-key.pem"), file("next-cert.pem"));
    std::fs::rename(dir.join("next-key.pem"), dir.join("key.pem")).unwrap();
    let second = stage();
    assert_eq!((file("key.pem"), file("cert.pem")), first);
    assert!(load(&config).is_ok());
    assert_eq!(renew::staged(&dir).unwrap().chain, second.chain);
}

#[test]
fn a_renewal_rests_longer_after_each_try_in_vain_and_gives_up_what_it_kept_at_last() {
    let renewals = renew::Renewals::default();
    let mut now = tokio::time::Instant::now();
    assert!(renewals.is_over(now));
    let (mut rests, mut given_up) = (Vec::new(), Vec::new());
    for n in 1..=10 {
        if renewals.tried(now) {
            given_up.push(n);
        }
        let rest = renewals.rest(now);
        rests.push(rest.as_secs() / 60);
        assert!(!renewals.is_over(now));
        now += rest;
        assert!(renewals.is_over(now));
    }
    assert_eq!(rests, [2, 4, 8, 16, 32, 64, 128, 256, 360, 360]);
    assert_eq!(given_up, [8]);
    renewals.note(now);
    assert_eq!(renewals.rest(now).as_secs(), 3_600);
    renewals.welcomed();
    assert!(!renewals.tried(now));
    assert_eq!(renewals.rest(now).as_secs(), 120);
}
