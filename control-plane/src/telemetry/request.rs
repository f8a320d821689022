//! What surrounds every HTTP request: an id, a span, one line, one measurement.

use axum::{
    extract::{MatchedPath, Request, State},
    http::HeaderValue,
    middleware::Next,
    response::Response,
};
use data_encoding::HEXLOWER;
use tracing::Instrument;

use crate::{app::App, entropy::EntropyExt};

tokio::task_local! {
    static REQUEST_ID: String;
}

/// The id of the request that is being answered, for error pages and problem documents.
pub fn request_id() -> Option<String> {
    REQUEST_ID.try_with(Clone::clone).ok()
}

/// Middleware around everything.
pub(crate) async fn trace(State(app): State<App>, request: Request, next: Next) -> Response {
    let id = HEXLOWER.encode(&app.entropy.bytes::<8>());
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let span = tracing::info_span!("request", request.id = %id, http.method = %method, http.route = %route);
    let started = tokio::time::Instant::now();
    let answer = REQUEST_ID.scope(id.clone(), next.run(request));
    let mut response = answer.instrument(span.clone()).await;
    let (took, status) = (started.elapsed(), response.status().as_u16());
    span.in_scope(|| {
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        if status >= 500 {
            tracing::warn!(http.status = status, http.ms = ms, "answered with an error");
        } else {
            tracing::debug!(http.status = status, http.ms = ms, "answered");
        }
    });
    metrics::histogram!(
        "ez_http_request_seconds",
        "method" => method.as_str().to_owned(), "route" => route, "status" => status.to_string(),
    )
    .record(took.as_secs_f64());
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-request-id", value);
    }
    response
}
