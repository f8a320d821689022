//! Many nodes join as each real one does: `node add`, a join token, enrolment over TLS.
//!
//! Enrolment takes ten attempts in ten seconds from one address. Real nodes have an address each; so have
//! these, on the loopback network.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use anyhow::{Context as _, bail};
use data_encoding::HEXLOWER;
use ez_protocol::{
    NodeId,
    trust::{EnrolReply, EnrolRequest, JoinToken, Pin, TrustDocument},
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, body::Bytes, header};
use hyper_util::rt::TokioIo;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;

use crate::demo::{self, Demo};

/// Commands and enrolments at once.
const AT_ONCE: usize = 4;

/// Who one agent is.
pub(super) struct Identity {
    pub(super) node: NodeId,
    pub(super) epoch: u64,
    /// Its own Proxmox cluster, so that its VMIDs are nobody else's.
    pub(super) cluster: String,
    pub(super) tls: Arc<rustls::ClientConfig>,
}

/// Where the doors are and whom to believe behind them.
#[derive(Clone)]
pub(super) struct Doors {
    pub(super) address: SocketAddr,
    roots: Arc<RootCertStore>,
    pin: Pin,
}

impl Doors {
    /// Reads them from what the demo's own node has pinned when it joined.
    pub(super) fn of(demo: &Demo) -> anyhow::Result<Self> {
        let bytes = std::fs::read(demo.path("nodes/fsn-1/state/trust.json"))?;
        let document = TrustDocument::from_bytes(&bytes)?;
        let mut roots = RootCertStore::empty();
        for authority in document.link_ca_der()? {
            roots.add(CertificateDer::from(authority))?;
        }
        let address = SocketAddr::from(([127, 0, 0, 1], demo.port("link")?));
        Ok(Self { address, roots: Arc::new(roots), pin: Pin::of(&bytes) })
    }

    fn tls(
        &self,
    ) -> anyhow::Result<rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?;
        Ok(builder.with_root_certificates(self.roots.clone()))
    }
}

/// Adds and enrols so many nodes.
pub(super) async fn join(demo: &Demo, doors: &Doors, count: u32) -> anyhow::Result<Vec<Arc<Identity>>> {
    let environment = demo.environment()?;
    stream::iter(0..count)
        .map(|index| {
            let environment = &environment;
            async move {
                let name = format!("bench-{index}");
                let arguments = ["node", "add", &name, "--location", "hel", "--json"];
                let added: Value = serde_json::from_str(&demo::run(environment, &arguments).await?)?;
                let token: JoinToken = added["token"].as_str().context("no token")?.parse()?;
                enrol(doors, index, &token).await.with_context(|| format!("enrolling {name}"))
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

async fn enrol(doors: &Doors, index: u32, token: &JoinToken) -> anyhow::Result<Arc<Identity>> {
    if token.pin != doors.pin {
        bail!("the token pins another trust document");
    }
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut parameters = rcgen::CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    let cluster = HEXLOWER.encode(&Sha256::digest(format!("cluster {index}")));
    let wish = EnrolRequest {
        token_id: token.id_text(),
        secret: token.secret_text(),
        csr_pem: parameters.serialize_request(&key)?.pem()?,
        fingerprint: HEXLOWER.encode(&Sha256::digest(format!("host {index}"))),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        pve_node: format!("bench-{index}"),
        cluster: cluster.clone(),
        pve_version: "9.2.3".to_owned(),
    };
    let reply = ask(doors, index, serde_json::to_vec(&wish)?).await?;
    let chain = vec![CertificateDer::from_pem_slice(reply.certificate_pem.as_bytes())?];
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())?;
    let mut tls = doors.tls()?.with_client_auth_cert(chain, key)?;
    tls.resumption = rustls::client::Resumption::disabled();
    tls.alpn_protocols = vec![ez_protocol::frame::ALPN.to_vec()];
    Ok(Arc::new(Identity { node: reply.node, epoch: reply.epoch, cluster, tls: Arc::new(tls) }))
}

/// One `POST /enrol` from this node's own address.
async fn ask(doors: &Doors, index: u32, body: Vec<u8>) -> anyhow::Result<EnrolReply> {
    let socket = TcpSocket::new_v4()?;
    let own = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 16, 0, 1)) + index);
    socket.bind(SocketAddr::from((own, 0)))?;
    let tcp = socket.connect(doors.address).await?;
    let mut tls = doors.tls()?.with_no_client_auth();
    tls.resumption = rustls::client::Resumption::disabled();
    let name = ServerName::try_from("localhost")?;
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = Request::post("/enrol")
        .header(header::HOST, doors.address.to_string())
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    driver.abort();
    if !status.is_success() {
        bail!("{status}: {}", String::from_utf8_lossy(&body));
    }
    Ok(serde_json::from_slice(&body)?)
}
