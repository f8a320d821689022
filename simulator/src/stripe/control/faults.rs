//! `/_sim/faults`: makes webhooks and calls go wrong; see [`crate::stripe::inject`].

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use serde_json::{Value, json};

use super::{Answer, Operator, Refusal};
use crate::stripe::inject::{ApiRule, WebhookFaults};

pub(super) fn routes() -> Router<Operator> {
    Router::new()
        .route("/_sim/faults", get(list).delete(clear))
        .route("/_sim/faults/webhooks", post(webhooks))
        .route("/_sim/faults/api", post(api))
}

fn senseless(reason: String) -> Refusal {
    Refusal(StatusCode::UNPROCESSABLE_ENTITY, reason)
}

async fn list(State(operator): State<Operator>) -> Json<Value> {
    Json(operator.injector.list())
}

async fn webhooks(State(operator): State<Operator>, Json(wanted): Json<WebhookFaults>) -> Answer {
    let ids = operator.injector.arm_webhooks(&wanted).map_err(senseless)?;
    Ok(Json(json!({ "ids": ids })))
}

async fn api(State(operator): State<Operator>, Json(rule): Json<ApiRule>) -> Answer {
    Ok(Json(json!({ "id": operator.injector.arm_api(rule).map_err(senseless)? })))
}

async fn clear(State(operator): State<Operator>) -> StatusCode {
    operator.injector.clear();
    operator.engine.wake.notify_one();
    StatusCode::NO_CONTENT
}
