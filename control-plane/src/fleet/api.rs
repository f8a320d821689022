//! The JSON of this slice: locations for everyone with a token, and enrolment for new nodes.
//!
//! Enrolment is a listener of its own: TLS 1.3 with the link's certificate, on the link's port over TCP.
//! Its visitor has no certificate and no account yet, only a join token; so it serves two paths, small
//! bodies and few attempts, and nothing of the portal.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{ConnectInfo, DefaultBodyLimit, Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use ez_protocol::{
    NodeId, UnixMillis,
    trust::{EnrolRequest, Pin},
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use serde::Serialize;
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::Service as _;
use utoipa::{OpenApi, ToSchema};

use super::enrol::{self, EnrolRefusal};
use crate::{
    api::{Page, Problem},
    app::App,
    db::DbError,
    shares::{Shares, network},
    web::Attempts,
};

/// Largest body of a request.
const LARGEST: usize = 64 * 1024;
/// How long a visitor may take for TLS, and for everything.
const HANDSHAKE: Duration = Duration::from_secs(10);
const VISIT: Duration = Duration::from_secs(30);
/// Visitors at once, and of these from one network while half of all are taken: whoever only sits there keeps nobody else
/// out, and a rack of hosts behind one address is let in.
const VISITORS: usize = 256;
const VISITORS_EACH: usize = 16;

/// The routes; mounted below `/api/v1` with bearer authentication around them.
pub(crate) fn routes() -> Router<App> {
    Router::new().route("/locations", get(locations))
}

/// This slice's part of the OpenAPI document.
pub(crate) fn docs() -> utoipa::openapi::OpenApi {
    #[derive(OpenApi)]
    #[openapi(paths(locations), components(schemas(LocationBody)))]
    struct Docs;
    Docs::openapi()
}

/// A place where servers can be bought.
#[derive(Debug, Serialize, ToSchema)]
struct LocationBody {
    /// Pass it as `location` when ordering.
    code: String,
    name: String,
    /// ISO country code.
    country: String,
}

/// Lists the locations, sorted by name.
#[utoipa::path(get, path = "/api/v1/locations", tag = "locations",
    responses((status = 200, body = Page<LocationBody>), (status = 401, body = Problem)))]
async fn locations(State(app): State<App>) -> Result<Json<Page<LocationBody>>, Problem> {
    let mut connection = app.db.read().await?;
    let all = super::locations(&mut connection).await?.into_iter();
    let data = all.map(|place| LocationBody { code: place.code, name: place.name, country: place.country });
    Ok(Json(Page::whole(data.collect())))
}

/// The enrolment listener.
pub struct Enrolment {
    app: App,
    listener: TcpListener,
    tls: TlsAcceptor,
}

impl std::fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enrolment").field("listener", &self.listener).finish_non_exhaustive()
    }
}

/// What the two handlers share.
#[derive(Clone)]
struct Door {
    app: App,
    attempts: Arc<Attempts>,
}

impl Enrolment {
    /// Serves on a bound listener with these TLS settings.
    pub fn new(app: &App, listener: TcpListener, tls: rustls::ServerConfig) -> Self {
        Self { app: app.clone(), listener, tls: TlsAcceptor::from(Arc::new(tls)) }
    }

    /// Serves until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let Self { app, listener, tls } = self;
        let door = Door { attempts: Arc::new(Attempts::of(&app)), app };
        let routes = Router::new()
            .route("/trust/{pin}", get(trust))
            .route("/enrol", post(enrol_node))
            .layer(DefaultBodyLimit::max(LARGEST))
            .with_state(door);
        let mut service = routes.into_make_service_with_connect_info::<SocketAddr>();
        let visitors = Shares::new(VISITORS, VISITORS_EACH).lending_half();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, remote)) = accepted else {
                // Out of descriptors: wait for some to come free.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let Some(share) = visitors.take(network(remote.ip())) else { continue };
            let Ok(routes) = service.call(remote).await;
            let tls = tls.clone();
            tokio::spawn(async move {
                let _over = timeout(VISIT, visit(tls, stream, routes)).await;
                drop(share);
            });
        }
    }
}

async fn visit<S>(tls: TlsAcceptor, stream: TcpStream, routes: S)
where
    S: tower::Service<
            axum::http::Request<hyper::body::Incoming>,
            Response = Response,
            Error = std::convert::Infallible,
            Future: Send,
        > + Clone
        + Send
        + 'static,
{
    let Ok(Ok(stream)) = timeout(HANDSHAKE, tls.accept(stream)).await else { return };
    let served = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes))
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "an enrolment visit broke off");
    }
}

/// The exact bytes of the trust document, by their hash, or of one before it: a token that was made then is good. Public: it
/// holds no secret.
async fn trust(State(door): State<Door>, Path(pin): Path<String>) -> Response {
    let document = pin.parse::<Pin>().ok().and_then(|pin| door.app.keys.trust_document_of(pin));
    match document {
        Some(bytes) => ([(header::CONTENT_TYPE, "application/json")], bytes.to_vec()).into_response(),
        None => problem(
            StatusCode::NOT_FOUND,
            "unknown_trust_document",
            "There is no trust document with this hash.",
        ),
    }
}

/// What a host says beside its request, which agents of every version send alike.
#[derive(Debug, serde::Deserialize)]
struct Said {
    /// The nodes that its identity and its journal name, separated by commas.
    #[serde(default)]
    known_as: String,
}

async fn enrol_node(
    State(door): State<Door>,
    ConnectInfo(remote): ConnectInfo<SocketAddr>,
    Query(said): Query<Said>,
    body: axum::body::Bytes,
) -> Response {
    let at = door.app.clock.now();
    if !door.attempts.admit(remote.ip(), at) {
        return problem(StatusCode::TOO_MANY_REQUESTS, "rate_limited", "Too many attempts; wait a while.");
    }
    match attempt(&door.app, at, &body, &said.known_as).await {
        Ok(Ok(reply)) => Json(reply).into_response(),
        Ok(Err(refusal)) => {
            tracing::warn!(%remote, %refusal, "an enrolment was refused");
            door.attempts.failed(remote.ip(), at);
            let (status, code) = match refusal {
                EnrolRefusal::Unknown => (StatusCode::UNAUTHORIZED, "token_invalid"),
                EnrolRefusal::Expired => (StatusCode::GONE, "token_expired"),
                EnrolRefusal::Reused => (StatusCode::CONFLICT, "token_used"),
                EnrolRefusal::BadRequest(_) => (StatusCode::BAD_REQUEST, "bad_request"),
                EnrolRefusal::KeyKnown => (StatusCode::CONFLICT, "key_known"),
                EnrolRefusal::OtherNode { .. } => (StatusCode::PRECONDITION_FAILED, "other_node"),
                EnrolRefusal::OtherMachine { .. } => (StatusCode::PRECONDITION_FAILED, "other_machine"),
                EnrolRefusal::NotAllowed => (StatusCode::FORBIDDEN, "not_allowed"),
                EnrolRefusal::TooMany => (StatusCode::TOO_MANY_REQUESTS, "too_many"),
            };
            problem(status, code, &refusal.to_string())
        }
        Err(error) => {
            tracing::error!(%error, "an enrolment failed");
            problem(
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "Try again in a moment; the token is still good.",
            )
        }
    }
}

async fn attempt(
    app: &App,
    at: UnixMillis,
    body: &[u8],
    known_as: &str,
) -> Result<Result<ez_protocol::trust::EnrolReply, EnrolRefusal>, DbError> {
    let request: EnrolRequest = match serde_json::from_slice(body) {
        Ok(request) => request,
        Err(error) => return Ok(Err(EnrolRefusal::BadRequest(error.to_string()))),
    };
    let key = match enrol::requested_key(&request.csr_pem) {
        Ok(key) => key,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let known_as: Vec<NodeId> =
        known_as.split(',').take(4).filter_map(|text| text.trim().parse().ok()).collect();
    let (entropy, keys) = (app.entropy.clone(), app.keys.clone());
    let outcome = app
        .db
        .write(move |tx| {
            Box::pin(
                async move { enrol::enrol(tx, at, entropy.as_ref(), &keys, &request, &key, &known_as).await },
            )
        })
        .await?;
    if let Ok(reply) = &outcome {
        // Its earlier certificates are void; a connection made with one ends now.
        app.links.revoke(reply.node);
        tracing::info!(node.id = %reply.node, node.name = %reply.node_name, epoch = reply.epoch, "node enrolled");
    }
    Ok(outcome)
}

fn problem(status: StatusCode, code: &str, detail: &str) -> Response {
    let body = json!({
        "type": "about:blank", "title": status.canonical_reason(), "status": status.as_u16(),
        "code": code, "detail": detail,
    });
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}
