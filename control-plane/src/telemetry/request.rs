//! What surrounds every HTTP request: an id, a span, one line, one measurement.

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, Method},
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
        "method" => label_of(&method), "route" => route, "status" => status.to_string(),
    )
    .record(took.as_secs_f64());
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-request-id", value);
    }
    response
}

/// What a method is measured as. A caller may send any word as one, and each word would be a series for good.
fn label_of(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_callers_make_up_are_one_series() {
        assert_eq!([Method::GET, Method::DELETE].map(|method| label_of(&method)), ["GET", "DELETE"]);
        for word in ["BREW", "get", &"X".repeat(4_000)] {
            assert_eq!(label_of(&Method::from_bytes(word.as_bytes()).unwrap()), "other");
        }
    }
}
