//! The two requests of an enrolment, over TLS on TCP: readable errors for the installer, and no
//! client certificate needed yet.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Url;

/// Nothing we ask for is larger.
const MAX_BODY: usize = 256 * 1024;

/// Nothing we ask for takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why a request did not come to an answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address names no host.
    #[error("{0} is not an address of a control plane: it must look like https://host:7443")]
    BadUrl(String),
    /// No TCP connection.
    #[error(
        "{host}:{port} cannot be reached over TCP: {source}. Is the control plane running, and is the port open?"
    )]
    Connect {
        /// Host that was dialled.
        host: String,
        /// Port that was dialled.
        port: u16,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// No TLS.
    #[error("TLS with {host}:{port} failed: {source}")]
    Tls {
        /// Host that was dialled.
        host: String,
        /// Port that was dialled.
        port: u16,
        /// What TLS said.
        #[source]
        source: std::io::Error,
    },
    /// No HTTP.
    #[error("{host}:{port} did not answer properly: {reason}")]
    Http {
        /// Host that was dialled.
        host: String,
        /// Port that was dialled.
        port: u16,
        /// What was wrong.
        reason: String,
    },
    /// No answer in time.
    #[error("{host}:{port} did not answer within {} s", PATIENCE.as_secs())]
    Timeout {
        /// Host that was dialled.
        host: String,
        /// Port that was dialled.
        port: u16,
    },
}

/// An answer, whatever its status.
#[derive(Debug)]
pub(super) struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// The body, bounded.
    pub body: Bytes,
}

/// One request on a connection of its own.
///
/// # Errors
/// If no whole answer came.
pub(super) async fn request(
    tls: Arc<rustls::ClientConfig>,
    base: &Url,
    method: Method,
    path: &str,
    json: Option<Vec<u8>>,
) -> Result<Answer, HttpError> {
    let host = base.host_str().ok_or_else(|| HttpError::BadUrl(base.to_string()))?.to_owned();
    let port = base.port_or_known_default().unwrap_or(7443);
    let work = exchange(tls, host.clone(), port, method, path, json);
    tokio::time::timeout(PATIENCE, work).await.map_err(|_| HttpError::Timeout { host, port })?
}

async fn exchange(
    tls: Arc<rustls::ClientConfig>,
    host: String,
    port: u16,
    method: Method,
    path: &str,
    json: Option<Vec<u8>>,
) -> Result<Answer, HttpError> {
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let tcp = TcpStream::connect((bare.as_str(), port)).await.map_err(|source| HttpError::Connect {
        host: host.clone(),
        port,
        source,
    })?;
    let name = ServerName::try_from(bare).map_err(|_| HttpError::BadUrl(host.clone()))?;
    let stream = TlsConnector::from(tls).connect(name, tcp).await.map_err(|source| HttpError::Tls {
        host: host.clone(),
        port,
        source,
    })?;
    let broken = |error: &dyn std::fmt::Display| HttpError::Http {
        host: host.clone(),
        port,
        reason: error.to_string(),
    };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    let driver = tokio::spawn(connection);
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, format!("{host}:{port}"))
        .header(header::ACCEPT, "application/json");
    if json.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let request =
        request.body(Full::new(Bytes::from(json.unwrap_or_default()))).map_err(|error| broken(&error))?;
    let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
    let status = response.status();
    let body =
        Limited::new(response.into_body(), MAX_BODY).collect().await.map_err(|error| broken(&error))?;
    drop(sender);
    driver.abort();
    Ok(Answer { status, body: body.to_bytes() })
}
