//! The part of the control API that makes things go wrong; see [`crate::pve::inject`].

use std::time::Duration;

use axum::extract::{Path, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Control, bad};
use crate::pve::inject::Rule;

/// Body of `POST /restart`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Restart {
    /// How long the daemon is away.
    pub(crate) down_ms: u64,
}

/// Body of `POST /storages/{id}/full`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Full {
    /// Whether nothing more fits.
    pub(crate) full: bool,
}

pub(super) fn routes() -> Router<Control> {
    Router::new()
        .route("/faults", get(list).post(arm).delete(clear))
        .route("/restart", post(restart))
        .route("/storages/{id}/full", post(full))
}

async fn list(Shared(c): Shared<Control>) -> Json<Value> {
    let full = c.cluster.read(|s| s.full_storages(&c.node)).await.into_iter();
    let full: Vec<Value> = full.map(|(id, refused)| json!({ "storage": id, "refused": refused })).collect();
    let away = &c.faults.away;
    Json(json!({
        "rules": c.faults.rules.list(), "full_storages": full, "down": away.is_away(), "resets": away.resets(),
    }))
}

async fn arm(Shared(c): Shared<Control>, Json(rule): Json<Rule>) -> Response {
    if let Err(reason) = rule.check() {
        return bad(StatusCode::UNPROCESSABLE_ENTITY, reason);
    }
    let (times, skip) = (rule.times, rule.skip);
    Json(json!({ "id": c.faults.rules.arm(rule, times, skip) })).into_response()
}

/// Everything is well again: no rules, room on every storage, the daemon is there.
async fn clear(Shared(c): Shared<Control>) -> StatusCode {
    c.faults.clear();
    c.cluster.change("control.storage", |s| s.empty_storages(&c.node)).await;
    StatusCode::NO_CONTENT
}

async fn restart(Shared(c): Shared<Control>, Json(restart): Json<Restart>) -> Json<Restart> {
    c.faults.away.leave_for(Duration::from_millis(restart.down_ms));
    Json(restart)
}

async fn full(Shared(c): Shared<Control>, Path(id): Path<String>, Json(wanted): Json<Full>) -> Response {
    let known = c.cluster.change("control.storage", |s| s.set_full(&c.node, &id, wanted.full)).await;
    if !known {
        return bad(StatusCode::NOT_FOUND, format!("no storage {id}"));
    }
    Json(json!({ "storage": id, "full": wanted.full })).into_response()
}
