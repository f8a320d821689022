//! Fleets for tests: locations with addresses, nodes that have enrolled and reported.

use std::sync::Arc;

use ez_protocol::{
    InstanceId, NodeId, UnixMillis,
    message::{Hello, HostState, ImageState, PolicySummary, StorageState},
    trust::{EnrolReply, EnrolRequest, JoinToken},
};
use sqlx::AnyConnection;

use super::{
    add_node, apply,
    enrol::{self, EnrolRefusal},
    reports::{self, Position},
    sessions,
};
use crate::{
    app::{App, Services},
    clock::ManualClock,
    db::{Db, DbError},
    placement::Need,
};

/// When tests begin.
pub(crate) const AT: UnixMillis = UnixMillis(1_790_000_000_000);
/// The image that test nodes have.
pub(crate) const IMAGE: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
/// Another image that test nodes have.
pub(crate) const OTHER_IMAGE: &str =
    "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
/// The rescue system that test nodes have.
pub(crate) const RESCUE_IMAGE: &str =
    "sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc";
/// The cluster test nodes are in.
const CLUSTER: &str = "c1";

/// Services over a database, with a clock to move.
pub(crate) fn services(db: Db) -> (App, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(AT));
    (Services::for_tests(db, clock.clone()), clock)
}

/// Two locations; `fsn` has as many IPv4 addresses as `ipv4` says (at most 250), and IPv6.
pub(crate) async fn locations(app: &App, ipv4: u8) {
    let file: toml::Table = toml::from_str(&format!(
        r#"
        locations = [{{ code = "fsn", name = "Falkenstein", country = "DE" }}, {{ code = "hel", name = "Helsinki" }}]
        [[address_pools]]
        location = "fsn"
        bridge = "vmbr0"
        prefix = "203.0.113.0/24"
        gateway = "203.0.113.1"
        dns = ["9.9.9.9"]
        first = "203.0.113.2"
        last = "203.0.113.{}"
        [[address_pools]]
        location = "fsn"
        bridge = "vmbr0"
        prefix = "2001:db8:12::/48"
        gateway = "fe80::1"
        routed = true
        "#,
        ipv4 + 1
    ))
    .unwrap();
    let list = |key: &str| file[key].as_array().unwrap().clone();
    let (locations, pools) = (list("locations"), list("address_pools"));
    let (at, entropy) = (app.clock.now(), app.entropy.clone());
    app.db
        .write(move |tx| Box::pin(async move { apply(tx, at, entropy.as_ref(), &locations, &pools).await }))
        .await
        .unwrap();
}

/// A node with its certificate.
pub(crate) struct TestNode {
    pub(crate) id: NodeId,
    pub(crate) epoch: u64,
    pub(crate) key: rcgen::KeyPair,
    pub(crate) certificate_pem: String,
    pub(crate) serial: String,
}

/// A signing request for a key.
pub(crate) fn csr(key: &rcgen::KeyPair) -> String {
    rcgen::CertificateParams::default().serialize_request(key).unwrap().pem().unwrap()
}

pub(crate) fn new_key() -> rcgen::KeyPair {
    rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
}

/// What a host sends with its token.
pub(crate) fn request(token: &JoinToken, key: &rcgen::KeyPair) -> EnrolRequest {
    EnrolRequest {
        token_id: token.id_text(),
        secret: token.secret_text(),
        csr_pem: csr(key),
        fingerprint: "machine-a".into(),
        agent_version: "0.1.0".into(),
        pve_node: "pve1".into(),
        cluster: CLUSTER.into(),
        pve_version: "9.2.3".into(),
    }
}

/// Presents a token.
pub(crate) async fn enrol_with(app: &App, request: EnrolRequest) -> Result<EnrolReply, EnrolRefusal> {
    enrol_as(app, request, Vec::new()).await
}

/// As [`enrol_with`], by a host whose identity and journal say that it is these nodes.
pub(crate) async fn enrol_as(
    app: &App,
    request: EnrolRequest,
    known_as: Vec<NodeId>,
) -> Result<EnrolReply, EnrolRefusal> {
    let (at, entropy, keys) = (app.clock.now(), app.entropy.clone(), app.keys.clone());
    let key = enrol::requested_key(&request.csr_pem).unwrap();
    app.db
        .write(move |tx| {
            Box::pin(
                async move { enrol::enrol(tx, at, entropy.as_ref(), &keys, &request, &key, &known_as).await },
            )
        })
        .await
        .unwrap()
}

/// Adds and enrols a node.
pub(crate) async fn enrolled(app: &App, name: &str, location: &str) -> TestNode {
    let joining = add_node(app, "operator:test", name, location).await.unwrap();
    let key = new_key();
    let reply = enrol_with(app, request(&joining.token.parse().unwrap(), &key)).await.unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(reply.certificate_pem.as_bytes()).unwrap();
    let certificate = rustls::pki_types::CertificateDer::from(pem.contents);
    let identity = crate::link::Identity::of(app.keys.install(), &certificate).unwrap();
    TestNode {
        id: reply.node,
        epoch: reply.epoch,
        key,
        certificate_pem: reply.certificate_pem,
        serial: identity.serial,
    }
}

/// What an agent says about a host with VMIDs from `first` on.
pub(crate) fn hello(node: &TestNode, first: u32) -> Hello {
    Hello {
        proto_min: 1,
        proto_max: 1,
        agent_version: "0.1.0".into(),
        epoch: node.epoch,
        report_epoch: "r1".into(),
        journal_id: format!("journal-{}", node.id),
        cluster: CLUSTER.into(),
        pve_node: "pve1".into(),
        pve_version: "9.2.3".into(),
        now_ms: AT.0,
        policy: Some(PolicySummary {
            vmid_first: first,
            vmid_last: first + 999,
            bridges: vec!["vmbr0".into()],
            storages: vec!["local-lvm".into()],
            ..PolicySummary::default()
        }),
        ..Hello::default()
    }
}

/// What an agent sees of a host with room for `servers` of [`need`].
pub(crate) fn host(servers: u64) -> HostState {
    HostState {
        cpus: 64,
        memory_mib: servers * 4_096 + 4_096,
        storages: vec![StorageState {
            id: "local-lvm".into(),
            kind: "lvmthin".into(),
            total_mib: 4_000 * 1_024,
            used_mib: 1_024,
        }],
        images: [("debian-13", IMAGE), ("rocky-9", OTHER_IMAGE), ("rescue", RESCUE_IMAGE)]
            .map(|(name, digest)| ImageState { name: name.into(), digest: digest.into(), vmid: 9_000 })
            .into(),
        ..HostState::default()
    }
}

/// A server of 4 GiB in `fsn`.
pub(crate) fn need() -> Need {
    Need { location: "fsn".into(), vcpu: 1, memory_mib: 4_096, disk_gib: 20, image_digest: IMAGE.into() }
}

/// Greets and reports for a node, without a connection.
pub(crate) async fn report(app: &App, node: &TestNode, first_vmid: u32, servers: u64) {
    report_as(app, node, hello(node, first_vmid), servers).await;
}

/// The same for one that says this of itself.
pub(crate) async fn report_as(app: &App, node: &TestNode, hello: Hello, servers: u64) {
    let (at, entropy) = (app.clock.now(), app.entropy.clone());
    let (id, host) = (node.id, host(servers));
    let connection = sessions::Connection {
        process: "p1".into(),
        id: format!("c-{id}"),
        serial: node.serial.clone(),
        remote: "192.0.2.1:7".into(),
    };
    app.db
        .write(move |tx| {
            Box::pin(async move {
                sessions::beat(tx, at, "p1").await?;
                sessions::greet(tx, at, entropy.as_ref(), id, &connection, &hello, 0).await.unwrap();
                let position = Position { report_epoch: "r1", seq: 1, base: None };
                reports::take(tx, at, id, position).await?;
                reports::record_host(tx, at, id, &host).await
            })
        })
        .await
        .unwrap();
}

/// A node in `fsn` that is connected and has room for so many servers of [`need`].
pub(crate) async fn ready_node(app: &App, name: &str, first_vmid: u32, servers: u64) -> TestNode {
    let node = enrolled(app, name, "fsn").await;
    report(app, &node, first_vmid, servers).await;
    node
}

/// The n-th instance of a test.
pub(crate) fn instance(n: u8) -> InstanceId {
    InstanceId::generate(AT, [n; 10])
}

/// Reads something.
pub(crate) async fn read<T>(app: &App, f: impl AsyncFnOnce(&mut AnyConnection) -> Result<T, DbError>) -> T {
    let mut conn = app.db.read().await.unwrap();
    f(&mut conn).await.unwrap()
}
