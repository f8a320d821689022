//! Telemetry: logs, request ids, health, metrics.
//!
//! A log line's message is for humans, its dotted fields are for queries (`http.route`, `job.kind`). A failure
//! is logged once, where it is handled. Never logged: secrets, tokens, cookies, query strings (links sent
//! by mail carry their secret there), mail addresses, bodies. Metrics are `ez_<area>_<name>_<unit>` with
//! bounded labels: a route's pattern, never its path.

mod health;
mod logs;
mod metrics;
mod request;

pub use health::Readiness;
pub use logs::init;
pub use metrics::{install as install_metrics, keep as keep_metrics};
pub use request::request_id;
pub(crate) use request::trace;

use axum::{Router, routing::get};

use crate::app::App;

/// `/healthz`, `/readyz`, `/metrics`.
pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(metrics::page))
}
