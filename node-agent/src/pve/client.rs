//! The transport below the `proxmox-api` crate: HTTPS with a pinned certificate and an API token.
//!
//! The crate's own client takes every `data: null` success for an error, drops the `errors` of a
//! 400, cannot send arrays, has no time-outs and by default trusts any certificate; so we bring ours.
//! What an answer means is decided here once: see [`PveError`].

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    path::Path,
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method as HttpMethod, Request, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::ext::ReasonPhrase;
use hyper_util::{
    client::legacy::{
        Client as HyperClient,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use proxmox_api::client::{Client, Method};
use rustls_pki_types::ServerName;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    PveError, encode,
    tls::{Fingerprint, pinned_config},
};

/// Proxmox refuses larger requests with 501.
const MAX_REQUEST: usize = 512 * 1024;
/// Largest answer we read; a cluster's resource list with thousands of VMs stays far below.
const MAX_ANSWER: usize = 32 << 20;
/// The server closes idle connections after five seconds; we let go before.
const IDLE: Duration = Duration::from_secs(3);
/// To connect and shake hands.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// For calls that read.
const READ_LIMIT: Duration = Duration::from_secs(30);
/// For calls that write: setting a configuration may wait for locks.
const WRITE_LIMIT: Duration = Duration::from_secs(120);

/// Where and as whom to call Proxmox VE.
#[derive(Clone)]
pub struct PveAddress {
    /// `https://host:8006`, nothing behind it.
    pub url: String,
    /// The certificate to accept.
    pub fingerprint: Fingerprint,
    /// `user@realm!tokenid=secret`.
    pub token: String,
}

impl fmt::Debug for PveAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.token.split('=').next().unwrap_or("");
        write!(f, "PveAddress({} as {id}, certificate {})", self.url, self.fingerprint)
    }
}

/// A client for one Proxmox VE host; clones share the connections.
#[derive(Clone)]
pub struct PveHttp {
    http: HyperClient<PinnedConnector, Full<Bytes>>,
    base: Arc<str>,
    authorization: Arc<RwLock<HeaderValue>>,
    token_file: Option<Arc<Path>>,
}

impl fmt::Debug for PveHttp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PveHttp({})", self.base)
    }
}

impl PveHttp {
    /// A client; connects when it is first used.
    ///
    /// # Errors
    /// [`PveError::Invalid`] if the address, the token or the fingerprint cannot be used.
    pub fn new(address: &PveAddress) -> Result<Self, PveError> {
        let invalid = |what: String| PveError::Invalid(what);
        let url = url::Url::parse(&address.url).map_err(|e| invalid(format!("{}: {e}", address.url)))?;
        if url.scheme() != "https" || url.host().is_none() || !url.path().trim_end_matches('/').is_empty() {
            return Err(invalid(format!("{}: an https address without a path is wanted", address.url)));
        }
        let authorization = Arc::new(RwLock::new(authorization(&address.token)?));
        let tls = pinned_config(address.fingerprint).map_err(|e| invalid(e.to_string()))?;
        let connector = PinnedConnector { tls: TlsConnector::from(Arc::new(tls)) };
        let http = HyperClient::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        let base = format!("{}/api2/json", address.url.trim_end_matches('/')).into();
        Ok(Self { http, base, authorization, token_file: None })
    }

    /// The same, which reads this file again when Proxmox does not know the token: `setup` may have made another one
    /// while the agent runs.
    #[must_use]
    pub fn rereading(mut self, token_file: &Path) -> Self {
        self.token_file = Some(token_file.into());
        self
    }

    fn authorization(&self) -> HeaderValue {
        self.authorization.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes up the token in the file; `false` if it is the one that was refused.
    fn reread(&self, refused: &HeaderValue) -> bool {
        let Some(file) = &self.token_file else { return false };
        let Ok(text) = std::fs::read_to_string(file) else { return false };
        let Ok(fresh) = authorization(text.trim()) else { return false };
        if fresh == *refused {
            return false;
        }
        tracing::info!(file = %file.display(), "Proxmox VE does not know the token any more; a new one was found");
        *self.authorization.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        true
    }

    /// Calls `path` (below `/api2/json`, parts already escaped) and decodes `data`.
    async fn call<R: DeserializeOwned>(
        &self,
        method: HttpMethod,
        path: String,
        body: Result<String, String>,
        query: Result<String, String>,
    ) -> Result<R, PveError> {
        let call = format!("{method} {path}");
        let invalid = |why: String| PveError::Invalid(format!("{call}: {why}"));
        let (body, query) = (body.map_err(invalid)?, query.map_err(invalid)?);
        if body.len() > MAX_REQUEST {
            return Err(invalid(format!("{} bytes are too many", body.len())));
        }
        let mark = if query.is_empty() { "" } else { "?" };
        let uri: Uri = format!("{}{path}{mark}{query}", self.base)
            .parse()
            .map_err(|e: http::uri::InvalidUri| invalid(e.to_string()))?;
        let body = Bytes::from(body);
        let authorization = self.authorization();
        let mut answer = self.ask(&call, &method, &uri, &body, authorization.clone()).await?;
        // Whoever is not known has done nothing, so it may be asked again.
        if answer.status == 401 && self.reread(&authorization) {
            answer = self.ask(&call, &method, &uri, &body, self.authorization()).await?;
        }
        decode(&call, answer)
    }

    async fn ask(
        &self,
        call: &str,
        method: &HttpMethod,
        uri: &Uri,
        body: &Bytes,
        authorization: HeaderValue,
    ) -> Result<RawAnswer, PveError> {
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .header(header::AUTHORIZATION, authorization)
            .header(header::ACCEPT, "application/json");
        if matches!(*method, HttpMethod::POST | HttpMethod::PUT) {
            request = request
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .header(header::CONTENT_LENGTH, body.len());
        }
        let request = request
            .body(Full::new(body.clone()))
            .map_err(|error| PveError::Invalid(format!("{call}: {error}")))?;
        let limit = if *method == HttpMethod::GET { READ_LIMIT } else { WRITE_LIMIT };
        match tokio::time::timeout(limit, self.exchange(call, request)).await {
            Ok(answer) => answer,
            Err(_) => {
                let (call, reason) = (call.to_owned(), format!("no answer within {limit:?}"));
                Err(PveError::OutcomeUnknown { call, reason })
            }
        }
    }

    async fn exchange(&self, call: &str, request: Request<Full<Bytes>>) -> Result<RawAnswer, PveError> {
        let response = self.http.request(request).await.map_err(|error| {
            let (call, reason) = (call.to_owned(), chain(&error));
            match error.is_connect() {
                true => PveError::Unreachable { call, reason },
                false => PveError::OutcomeUnknown { call, reason },
            }
        })?;
        let status = response.status();
        let reason = match response.extensions().get::<ReasonPhrase>() {
            Some(phrase) => String::from_utf8_lossy(phrase.as_bytes()).trim().to_owned(),
            None => status.canonical_reason().unwrap_or("").to_owned(),
        };
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| PveError::OutcomeUnknown {
            call: call.to_owned(),
            reason: format!("status {status}, but the body broke off: {error}"),
        })?;
        Ok(RawAnswer { status: status.as_u16(), reason, body: body.to_bytes() })
    }
}

/// The header that says who asks.
fn authorization(token: &str) -> Result<HeaderValue, PveError> {
    let invalid = |what: &str| PveError::Invalid(what.to_owned());
    let plain = token.bytes().all(|b| b.is_ascii_graphic());
    let whole = token.split_once('=').is_some_and(|(id, secret)| {
        !secret.is_empty()
            && id.split_once('!').is_some_and(|(user, name)| user.contains('@') && !name.is_empty())
    });
    if !plain || !whole {
        return Err(invalid("the API token is not of the form user@realm!name=secret"));
    }
    let mut value = HeaderValue::from_str(&format!("PVEAPIToken={token}"))
        .map_err(|_| invalid("the API token cannot stand in a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Status, reason phrase and body of an answer.
struct RawAnswer {
    status: u16,
    reason: String,
    body: Bytes,
}

/// Proxmox's envelope. `data` is kept as text: the crate's types decode only from text.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    errors: Option<BTreeMap<String, String>>,
}

fn decode<R: DeserializeOwned>(call: &str, answer: RawAnswer) -> Result<R, PveError> {
    let call = call.to_owned();
    let envelope = serde_json::from_slice::<Envelope<'_>>(&answer.body);
    match answer.status {
        200..=299 => {
            let envelope = match envelope {
                Ok(envelope) => envelope,
                Err(error) => return Err(PveError::Decode { call, reason: error.to_string() }),
            };
            let text = envelope.data.map_or("null", RawValue::get);
            serde_json::from_str(text).map_err(|e| PveError::Decode { call, reason: e.to_string() })
        }
        401 => Err(PveError::Unauthorized { call, message: answer.reason }),
        status @ (502..=504 | 595..=599) => {
            Err(PveError::OutcomeUnknown { call, reason: format!("{status} {}", answer.reason) })
        }
        status => {
            let (message, errors) = envelope.map(|e| (e.message, e.errors)).unwrap_or_default();
            let said = message.as_deref().map(str::trim).filter(|text| !text.is_empty());
            let message = said.unwrap_or(&answer.reason).to_owned();
            Err(PveError::Refused { call, status, message, errors: errors.unwrap_or_default() })
        }
    }
}

/// An error with everything below it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

impl Client for PveHttp {
    type Error = PveError;

    fn request_with_body_and_query<B, Q, R>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        query: Option<&Q>,
    ) -> impl Future<Output = Result<R, PveError>>
    where
        B: Serialize,
        Q: Serialize,
        R: DeserializeOwned,
    {
        let method = match method {
            Method::Get => HttpMethod::GET,
            Method::Post => HttpMethod::POST,
            Method::Put => HttpMethod::PUT,
            Method::Delete => HttpMethod::DELETE,
        };
        let empty = || Ok(String::new());
        let body = body.map_or_else(empty, encode::form);
        let query = query.map_or_else(empty, encode::form);
        self.call(method, path.to_owned(), body, query)
    }
}

/// Opens TCP and TLS to the pinned host.
#[derive(Clone)]
struct PinnedConnector {
    tls: TlsConnector,
}

/// A pinned connection, as hyper's pool wants it.
struct PinnedStream(TokioIo<TlsStream<TcpStream>>);

impl tower::Service<Uri> for PinnedConnector {
    type Response = PinnedStream;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<PinnedStream, std::io::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let tls = self.tls.clone();
        Box::pin(async move {
            let host = uri.host().unwrap_or("").trim_start_matches('[').trim_end_matches(']').to_owned();
            let port = uri.port_u16().unwrap_or(8006);
            let open = async {
                let tcp = TcpStream::connect((host.as_str(), port)).await?;
                tcp.set_nodelay(true)?;
                let name = ServerName::try_from(host.clone()).map_err(std::io::Error::other)?;
                tls.connect(name, tcp).await
            };
            let opened = tokio::time::timeout(CONNECT_LIMIT, open).await;
            let late = |_| std::io::Error::new(std::io::ErrorKind::TimedOut, "connecting took too long");
            Ok(PinnedStream(TokioIo::new(opened.map_err(late)??)))
        })
    }
}

impl Connection for PinnedStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for PinnedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<Result<(), std::io::Error>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for PinnedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
