//! Dialling: the QUIC settings of the link and the search for an address that answers.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ez_protocol::frame::ALPN;
use quinn::{ClientConfig, Endpoint, IdleTimeout, TransportConfig, VarInt, crypto::rustls::QuicClientConfig};
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;

use crate::identity::{Pair, tls};
use ez_protocol::trust::TrustDocument;

/// How long one address may take to answer.
const DIAL: Duration = Duration::from_secs(10);

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("{0:?} is not host:port")]
    BadAddress(String),
    #[error("{host} cannot be resolved: {source}")]
    Resolve {
        host: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{0} has no address")]
    NoAddress(String),
    #[error("a UDP socket: {0}")]
    Socket(#[source] std::io::Error),
    #[error("TLS: {0}")]
    Tls(String),
    #[error("{peer} did not answer within {} s: is UDP open on the way?", DIAL.as_secs())]
    Silent { peer: SocketAddr },
    #[error("{peer}: {source}")]
    Refused {
        peer: SocketAddr,
        #[source]
        source: quinn::ConnectionError,
    },
}

/// A connection and the endpoint that carries it.
pub(super) struct Dialled {
    pub(super) connection: quinn::Connection,
    pub(super) endpoint: Endpoint,
}

/// Bytes that wait unread here on one stream, and on all of them, at most.
pub(super) const STREAM_WINDOW: u32 = 256 * 1024;
pub(super) const WINDOW: u32 = 1024 * 1024;
/// Streams that the control plane may have open: 32 consoles, and orders beside them.
const STREAMS: u32 = 64;

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .keep_alive_interval(Some(Duration::from_secs(10)))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(30_000))))
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(4))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(1024 * 1024)
        .datagram_receive_buffer_size(None)
        .initial_mtu(1200);
    transport
}

fn client_config(trust: &TrustDocument, pair: &Pair) -> Result<ClientConfig, DialError> {
    let text = |error: &dyn std::fmt::Display| DialError::Tls(error.to_string());
    let link_ca: Vec<_> =
        trust.link_ca_der().map_err(|e| text(&e))?.into_iter().map(CertificateDer::from).collect();
    let pair = pair.duplicate();
    let tls = tls::mutual(&link_ca, pair.chain, pair.key, ALPN).map_err(|e| text(&e))?;
    let quic = QuicClientConfig::try_from(tls).map_err(|e| text(&e))?;
    let mut config = ClientConfig::new(Arc::new(quic));
    config.transport_config(Arc::new(transport()));
    Ok(config)
}

/// Host and port of `host:port` or `[v6]:port`.
pub(crate) fn split(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (!host.is_empty()).then_some((host, port.parse().ok()?))
}

/// Dials one link address; every resolved address is tried in turn.
pub(super) async fn dial(address: &str, trust: &TrustDocument, pair: &Pair) -> Result<Dialled, DialError> {
    let (host, port) = split(address).ok_or_else(|| DialError::BadAddress(address.to_owned()))?;
    let config = client_config(trust, pair)?;
    let found: Vec<SocketAddr> = tokio::net::lookup_host((host, port))
        .await
        .map_err(|source| DialError::Resolve { host: host.to_owned(), source })?
        .collect();
    let mut last = DialError::NoAddress(address.to_owned());
    for peer in found {
        match dial_one(peer, host, config.clone()).await {
            Ok(dialled) => return Ok(dialled),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn dial_one(peer: SocketAddr, host: &str, config: ClientConfig) -> Result<Dialled, DialError> {
    let any =
        if peer.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let endpoint = Endpoint::client(SocketAddr::new(any, 0)).map_err(DialError::Socket)?;
    let connecting =
        endpoint.connect_with(config, peer, host).map_err(|error| DialError::Tls(error.to_string()))?;
    match timeout(DIAL, connecting).await {
        Err(_) => Err(DialError::Silent { peer }),
        Ok(Err(source)) => Err(DialError::Refused { peer, source }),
        Ok(Ok(connection)) => Ok(Dialled { connection, endpoint }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_split_into_host_and_port() {
        assert_eq!(split("cp.example.net:7443"), Some(("cp.example.net", 7443)));
        assert_eq!(split("[::1]:7443"), Some(("::1", 7443)));
        for wrong in ["cp.example.net", ":7443", "host:port", ""] {
            assert_eq!(split(wrong), None, "{wrong}");
        }
    }
}
