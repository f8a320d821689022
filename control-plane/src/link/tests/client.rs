//! A small agent: enough of one to be let in, or not.

use std::{net::SocketAddr, sync::Arc};

use ez_protocol::{
    frame::{ALPN, Frame, FrameType, HEADER, Header, StreamKind},
    message::{Hello, OrderAnswer, Ready, Welcome},
};
use prost::Message as _;
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream, crypto::rustls::QuicClientConfig};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use crate::{
    agents,
    app::App,
    fleet::testing::{TestNode, hello},
};

/// Both doors, served until dropped.
pub(super) struct Served {
    pub(super) address: SocketAddr,
    stop: CancellationToken,
}

impl Served {
    pub(super) async fn start(app: &App) -> Self {
        let doors = agents::bind(app).await.unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], doors.address().port()));
        let stop = CancellationToken::new();
        tokio::spawn(doors.run(stop.clone()));
        Self { address, stop }
    }

    pub(super) fn stop(&self) {
        self.stop.cancel();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(super) type Pair = (CertificateDer<'static>, PrivateKeyDer<'static>);

pub(super) fn pair(node: &TestNode) -> Pair {
    let certificate = CertificateDer::from_pem_slice(node.certificate_pem.as_bytes()).unwrap();
    (certificate, PrivateKeyDer::from_pem_slice(node.key.serialize_pem().as_bytes()).unwrap())
}

/// Dials; `alpn` and `pair` are what a stranger gets wrong.
pub(super) async fn dial(
    app: &App,
    to: SocketAddr,
    pair: Option<Pair>,
    alpn: &[u8],
) -> Result<Connection, String> {
    let mut roots = RootCertStore::empty();
    for der in app.keys.trust().unwrap().link_ca_der().unwrap() {
        roots.add(der.into()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_details(provider, app_clock(app))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut tls = match pair {
        Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![alpn.to_vec()];
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let connecting = endpoint.connect_with(config, to, "localhost").map_err(|e| e.to_string())?;
    connecting.await.map_err(|e| e.to_string())
}

#[derive(Debug)]
struct Fixed(rustls::pki_types::UnixTime);

impl rustls::time_provider::TimeProvider for Fixed {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        Some(self.0)
    }
}

pub(super) fn app_clock(app: &App) -> Arc<dyn rustls::time_provider::TimeProvider> {
    let secs = u64::try_from(app.clock.now().as_secs()).unwrap();
    Arc::new(Fixed(rustls::pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(secs))))
}

/// Says Hello and gets as far as the server's Welcome, which is not taken in yet.
pub(super) async fn say_hello(
    app: &App,
    to: SocketAddr,
    node: &TestNode,
    hello: &[u8],
) -> Option<(Connection, (SendStream, RecvStream), Vec<u8>)> {
    let connection = dial(app, to, Some(pair(node)), ALPN).await.ok()?;
    let (mut send, mut recv) = connection.open_bi().await.ok()?;
    send.write_all(&[StreamKind::Control.byte()]).await.ok()?;
    let frame = Frame::raw(FrameType::Hello, hello.to_vec()).encode(StreamKind::Control).unwrap();
    send.write_all(&frame).await.ok()?;
    let (FrameType::Welcome, answer) = next(&mut recv, StreamKind::Control).await? else { panic!() };
    Some((connection, (send, recv), answer))
}

/// A connection that was greeted.
pub(super) struct Agent {
    pub(super) connection: Connection,
    pub(super) welcome: Welcome,
    pub(super) control: (SendStream, RecvStream),
}

pub(super) async fn write(stream: &mut SendStream, kind: StreamKind, frame: Frame) {
    stream.write_all(&frame.encode(kind).unwrap()).await.unwrap();
}

/// The next frame, or nothing when the stream or the connection ended.
pub(super) async fn next(stream: &mut RecvStream, kind: StreamKind) -> Option<(FrameType, Vec<u8>)> {
    let mut header = [0; HEADER];
    stream.read_exact(&mut header).await.ok()?;
    let header = Header::parse(header, kind).unwrap();
    let mut body = vec![0; header.len];
    stream.read_exact(&mut body).await.ok()?;
    Some((FrameType::from_code(header.code).unwrap(), body))
}

impl Agent {
    pub(super) async fn connect(app: &App, to: SocketAddr, node: &TestNode) -> Self {
        Self::greet(app, to, node, hello(node, 1_000)).await.unwrap()
    }

    /// Says Hello; nothing comes back when the server does not want it.
    pub(super) async fn greet(app: &App, to: SocketAddr, node: &TestNode, hello: Hello) -> Option<Self> {
        let said = hello.encode_to_vec();
        let (connection, (mut send, recv), answer) = say_hello(app, to, node, &said).await?;
        let both = Sha256::new_with_prefix(&said).chain_update(&answer).finalize();
        let mut binding = vec![0; 32];
        connection.export_keying_material(&mut binding, b"ez-hello-v1", &both).unwrap();
        write(&mut send, StreamKind::Control, Frame::new(FrameType::Ready, &Ready { binding })).await;
        let welcome = Welcome::decode(answer.as_slice()).unwrap();
        Some(Self { connection, welcome, control: (send, recv) })
    }

    /// Takes one delivery and answers it.
    pub(super) async fn take_order(&self, answer: OrderAnswer) -> Vec<u8> {
        let (mut send, mut recv) = self.connection.accept_bi().await.unwrap();
        let mut kind = [0; 1];
        recv.read_exact(&mut kind).await.unwrap();
        assert_eq!(kind[0], StreamKind::Order.byte());
        let (FrameType::Envelope, envelope) = next(&mut recv, StreamKind::Order).await.unwrap() else {
            panic!()
        };
        write(&mut send, StreamKind::Order, Frame::new(FrameType::OrderAnswer, &answer)).await;
        send.finish().unwrap();
        envelope
    }

    /// The next frame of the control stream.
    pub(super) async fn told(&mut self) -> (FrameType, Vec<u8>) {
        next(&mut self.control.1, StreamKind::Control).await.unwrap()
    }
}
