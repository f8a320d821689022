//! `/healthz`: the process answers. `/readyz`: it can do its work.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use ez_protocol::UnixMillis;
use serde::Serialize;
use tokio::sync::Mutex;

use crate::app::App;

/// How long a look at the database counts: whoever asks, and however often, costs one look in this time.
const COUNTS: Duration = Duration::from_secs(1);
/// A database that takes longer does not answer: whoever watches over us has given up waiting by then.
const LOOK: Duration = Duration::from_secs(2);

/// What `serve` has brought up; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    link: Arc<AtomicBool>,
    seen: Arc<Mutex<Option<Seen>>>,
}

/// The database, as it was looked at last.
#[derive(Clone, Copy, Debug)]
struct Seen {
    at: UnixMillis,
    answers: bool,
    migrated: bool,
}

impl Readiness {
    /// Says whether the link listens.
    pub fn set_link_listening(&self, listening: bool) {
        self.link.store(listening, Ordering::Relaxed);
    }

    /// The database as it is now, or was a moment ago. Those who ask meanwhile wait for the same look.
    async fn database(&self, app: &App) -> Seen {
        let mut seen = self.seen.lock().await;
        let at = app.clock.now();
        // A clock that was set back must not keep an old look alive.
        if let Some(known) = *seen
            && known.at.max(at).since(known.at.min(at)) < COUNTS
        {
            return known;
        }
        let (answers, migrated) = tokio::time::timeout(LOOK, look(app)).await.unwrap_or_else(|_| {
            tracing::warn!(seconds = LOOK.as_secs(), "not ready: the database takes too long to answer");
            (false, false)
        });
        // It counts from its end: those who waited for a slow one take it over instead of looking one after the other.
        let fresh = Seen { at: app.clock.now(), answers, migrated };
        *seen = Some(fresh);
        fresh
    }
}

/// Whether the database answers and is migrated; one that does not answer is asked nothing more.
async fn look(app: &App) -> (bool, bool) {
    if answers(app).await { (true, is_migrated(app).await) } else { (false, false) }
}

async fn answers(app: &App) -> bool {
    let pinged = app.db.ping().await;
    if let Err(error) = &pinged {
        tracing::warn!(%error, "not ready: the database does not answer");
    }
    pinged.is_ok()
}

async fn is_migrated(app: &App) -> bool {
    match app.db.pending().await {
        Ok(pending) if pending.0.is_empty() => true,
        Ok(pending) => {
            tracing::warn!(pending = pending.0.len(), "not ready: migrations are pending");
            false
        }
        Err(error) => {
            tracing::warn!(%error, "not ready: the migrations cannot be read");
            false
        }
    }
}

pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// The parts of readiness, each "ok" or "unavailable". What is wrong stands in the log: anybody may ask.
#[derive(Serialize)]
struct Ready {
    database: &'static str,
    migrations: &'static str,
    link: &'static str,
}

pub(super) async fn readyz(State(app): State<App>) -> impl IntoResponse {
    let database = app.ready.database(&app).await;
    let listens = app.ready.link.load(Ordering::Relaxed);
    let word = |fine: bool| if fine { "ok" } else { "unavailable" };
    let ready =
        Ready { database: word(database.answers), migrations: word(database.migrated), link: word(listens) };
    let all = database.answers && database.migrated && listens;
    let status = if all { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(ready))
}
