//! `/api/v1/ssh_keys`.

use axum::Router;

use crate::app::App;

/// The routes; mounted below `/api/v1` with bearer authentication around them.
pub(crate) fn routes() -> Router<App> {
    Router::new()
}
