//! Pages that belong to no slice, and the defaults around all pages.

use axum::Router;

use crate::app::App;

/// Pages that belong to no slice (landing, assets, errors).
pub(crate) fn routes() -> Router<App> {
    Router::new()
}

/// Puts the defaults around all pages: session, CSRF, rate limit, headers, time-out.
pub(crate) fn protect(pages: Router<App>, _app: &App) -> Router<App> {
    pages
}
