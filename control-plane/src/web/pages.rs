//! Pages that belong to no slice: assets and the choice of colours.

use std::time::Duration;

use axum::{
    Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{StatusCode, header};

use crate::{
    app::App,
    web::{
        context::{Ctx, safe_path},
        cookies::THEME,
        error::{Error, Result},
        forms::Submission,
    },
};

/// Routes that belong to no slice.
pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/assets/{revision}/{*name}", get(asset))
        .route("/favicon.ico", get(async || StatusCode::NO_CONTENT))
        .route("/theme", post(theme))
}

/// A style sheet or script. Cached for ever under the current revision; an older one (a page opened
/// before an update) gets today's file, uncached.
async fn asset(State(app): State<App>, Path((revision, name)): Path<(String, String)>) -> Response {
    let assets = app.templates.assets();
    let Some(asset) = assets.file(&name) else {
        return Error::NotFound.into_response();
    };
    let caching = match assets.is_current(&revision) {
        true => "public, max-age=31536000, immutable",
        false => "no-cache",
    };
    let headers = [(header::CONTENT_TYPE, asset.content_type), (header::CACHE_CONTROL, caching)];
    (headers, asset.body.clone()).into_response()
}

/// Remembers the colours and goes back.
async fn theme(ctx: Ctx, form: Submission) -> Result {
    let choice = match form.text("theme") {
        choice @ ("light" | "dark") => choice,
        _ => "auto",
    };
    let back = ctx.redirect(safe_path(form.text("back"), "/"))?;
    Ok(ctx.with(back, THEME, choice, Duration::from_secs(365 * 86_400)))
}
