//! Limits around every endpoint: how often one asks, and how long one answer may take.

use std::{any::Any, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    http::StatusCode,
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use tower_http::catch_panic::CatchPanicLayer;

use super::Problem;
use crate::{
    app::App,
    web::{self, Ask, Limits},
};

struct Guard {
    app: App,
    limits: Limits,
    patience: Duration,
}

/// Puts rate limit, time-out and the catcher of panics around endpoints.
pub(super) fn guard(endpoints: Router<App>, app: &App, patience: Duration) -> Router<App> {
    let guard = Guard { app: app.clone(), limits: Limits::of(app), patience };
    endpoints.layer(CatchPanicLayer::custom(panicked)).layer(from_fn_with_state(Arc::new(guard), pass))
}

async fn pass(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let caller = web::caller_of(&request, &guard.app.config.http.trusted_proxies);
    if let Err(wait) = guard.limits.take(Ask::Endpoint, caller, guard.app.clock.now()) {
        let detail =
            "Nothing was done. Too many requests from your address; go on after the seconds in Retry-After.";
        return Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail)
            .retry_after(wait)
            .into_response();
    }
    match tokio::time::timeout(guard.patience, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail = "The request took too long and was given up. Look before repeating a change, or repeat it with \
                          the same Idempotency-Key.";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "timed_out", detail).into_response()
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the layer's contract")]
fn panicked(what: Box<dyn Any + Send>) -> Response {
    let what = what
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| what.downcast_ref::<&str>().copied())
        .unwrap_or("no text");
    Problem::internal(&std::io::Error::other(format!("an endpoint panicked: {what}"))).into_response()
}
