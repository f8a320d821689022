//! The control API.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::{delete, get},
};
use serde_json::{Value, json};

use super::{fault::LinkFault, lane::Lane};

type Lanes = Arc<BTreeMap<String, Lane>>;

pub(super) fn router(lanes: BTreeMap<String, Lane>) -> Router {
    Router::new()
        .route("/nodes", get(all))
        .route("/nodes/{name}", get(one))
        .route("/nodes/{name}/faults", get(list).post(arm).delete(clear))
        .route("/nodes/{name}/faults/{id}", delete(disarm))
        .with_state(Arc::new(lanes))
}

fn bad(status: StatusCode, reason: impl Into<String>) -> Response {
    (status, Json(json!({ "error": reason.into() }))).into_response()
}

fn unknown(name: &str) -> Response {
    bad(StatusCode::NOT_FOUND, format!("no node {name}"))
}

async fn all(State(lanes): State<Lanes>) -> Json<Value> {
    let nodes: Vec<Value> = lanes.iter().map(|(name, lane)| lane.show(name)).collect();
    Json(json!({ "nodes": nodes }))
}

async fn one(State(lanes): State<Lanes>, Path(name): Path<String>) -> Response {
    match lanes.get(&name) {
        Some(lane) => Json(lane.show(&name)).into_response(),
        None => unknown(&name),
    }
}

async fn list(State(lanes): State<Lanes>, Path(name): Path<String>) -> Response {
    match lanes.get(&name) {
        Some(lane) => Json(json!({ "rules": lane.network().list() })).into_response(),
        None => unknown(&name),
    }
}

async fn arm(State(lanes): State<Lanes>, Path(name): Path<String>, Json(fault): Json<LinkFault>) -> Response {
    let Some(lane) = lanes.get(&name) else { return unknown(&name) };
    if let Err(reason) = fault.check() {
        return bad(StatusCode::UNPROCESSABLE_ENTITY, reason);
    }
    Json(json!({ "id": lane.arm(fault) })).into_response()
}

async fn clear(State(lanes): State<Lanes>, Path(name): Path<String>) -> Response {
    let Some(lane) = lanes.get(&name) else { return unknown(&name) };
    lane.clear();
    StatusCode::NO_CONTENT.into_response()
}

async fn disarm(State(lanes): State<Lanes>, Path((name, id)): Path<(String, u64)>) -> Response {
    let Some(lane) = lanes.get(&name) else { return unknown(&name) };
    if lane.disarm(id) {
        StatusCode::NO_CONTENT.into_response()
    } else {
        bad(StatusCode::NOT_FOUND, "no such fault")
    }
}
