//! API: what every JSON endpoint below `/api/v1` shares.
//!
//! Bearer tokens (`Authorization: Bearer ezt_…`) on everything but the OpenAPI document: [`protect`] refuses
//! what presents none, [`Caller`] and [`Operator`] hand the rest to handlers. Errors are problem documents
//! (RFC 9457) with a stable `code` and the request's id: [`Problem`]. A POST with an `Idempotency-Key` is
//! carried out once and answered alike afterwards ([`idempotency`]). Lists are [`Page`]s.
//!
//! A slice's `api.rs` has `routes()` and `docs()`; `app.rs` mounts the one, [`openapi`] gathers the other.

mod auth;
mod guard;
mod idempotency;
mod input;
pub(crate) mod openapi;
mod page;
mod problem;
mod store;
#[cfg(test)]
mod tests;

use std::time::Duration;

use axum::{Router, extract::DefaultBodyLimit, middleware, routing::get};

pub use auth::{Caller, Operator};
pub use idempotency::{Claim, Keyed, made, shown_once};
pub use input::{Input, Named};
pub use page::Page;
pub use problem::{FieldProblem, Problem};

use crate::{
    app::App,
    jobs::{JobError, JobRegistry},
};

/// How long an endpoint may take, its body's arrival included.
const PATIENCE: Duration = Duration::from_secs(30);
/// The largest body an endpoint reads.
const MAX_BODY: usize = 64 * 1024;

/// Puts the defaults around all endpoints: rate limit, time-out, bearer token, body limit, idempotency, problems for
/// what nobody answers and for what panics.
pub(crate) fn protect(endpoints: Router<App>, app: &App) -> Router<App> {
    protect_with(endpoints, app, PATIENCE)
}

/// The same with another time-out.
fn protect_with(endpoints: Router<App>, app: &App, patience: Duration) -> Router<App> {
    let endpoints = endpoints
        .fallback(problem::no_such_endpoint)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(middleware::from_fn_with_state(app.clone(), idempotency::once))
        .layer(middleware::from_fn_with_state(app.clone(), auth::require))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .route("/openapi.json", get(openapi::document));
    guard::guard(endpoints, app, patience)
}

/// Names this slice's job handlers.
pub(crate) fn register_jobs(registry: &mut JobRegistry) {
    registry.every("api.sweep", Duration::from_secs(3_600), |app, run| async move {
        app.db
            .write(move |tx| Box::pin(async move { store::sweep(tx, run.at).await }))
            .await
            .map_err(JobError::from)
    });
}
