//! `/healthz`: the process answers. `/readyz`: it can do its work.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use serde::Serialize;

use crate::app::App;

/// What `serve` has brought up; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    link: Arc<AtomicBool>,
}

impl Readiness {
    /// Says whether the link listens.
    pub fn set_link_listening(&self, listening: bool) {
        self.link.store(listening, Ordering::Relaxed);
    }
}

pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// The parts of readiness, each with "ok" or what is wrong.
#[derive(Serialize)]
struct Ready {
    database: String,
    migrations: String,
    link: String,
}

pub(super) async fn readyz(State(app): State<App>) -> impl IntoResponse {
    let ok = || "ok".to_owned();
    let database = app.db.ping().await.map_or_else(|error| error.to_string(), |()| ok());
    let migrations = match app.db.pending().await {
        Ok(pending) if pending.0.is_empty() => ok(),
        Ok(pending) => format!("{} pending", pending.0.len()),
        Err(error) => error.to_string(),
    };
    let link = if app.ready.link.load(Ordering::Relaxed) { ok() } else { "not listening".to_owned() };
    let ready = Ready { database, migrations, link };
    let all = [&ready.database, &ready.migrations, &ready.link].iter().all(|part| *part == "ok");
    let status = if all { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(ready))
}
