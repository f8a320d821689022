//! Telemetry: logs, health, metrics.

use axum::Router;

use crate::app::App;

/// `/healthz`, `/readyz`, `/metrics`.
pub(crate) fn routes() -> Router<App> {
    Router::new()
}
