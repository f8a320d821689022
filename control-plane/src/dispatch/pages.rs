//! The pages of this slice.

use axum::Router;

use crate::app::App;

/// The routes; the web defaults (session, CSRF, limits) are applied around them.
pub(crate) fn routes() -> Router<App> {
    Router::new()
}
