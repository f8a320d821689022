//! What the host does in Stripe's dashboard: pauses what a customer pays, deletes a customer, finalizes a draft. And what only
//! others do: a card's issuer warns of a charge, Stripe Tax knows no taxes.

use axum::{
    Json, Router,
    extract::{Path, State},
    routing::post,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Answer, Operator};
use crate::stripe::{
    api::Call,
    customers,
    fault::Fault,
    form::Params,
    invoices, pauses, subscriptions, warnings,
    world::{Asker, World, public, text},
};

pub(super) fn routes() -> Router<Operator> {
    Router::new()
        .route("/_sim/subscriptions/{id}/pause", post(pause))
        .route("/_sim/subscriptions/{id}/resume", post(resume))
        .route("/_sim/subscriptions/{id}/pause_collection", post(pause_collection))
        .route("/_sim/customers/{id}/delete", post(delete_customer))
        .route("/_sim/invoices/{id}/fail_finalization", post(fail_finalization))
        .route("/_sim/invoices/{id}/finalize", post(finalize))
        .route("/_sim/early_fraud_warnings", post(warn))
}

/// A call of the API that the dashboard makes.
fn call(path: String, params: Map<String, Value>) -> Call {
    let params = params.into_iter().map(|(key, value)| (key, as_form(value))).collect();
    Call { method: "POST".into(), path, params: Params(params) }
}

/// What JSON says, as a form says it: every leaf is a text, and nothing is an empty one.
fn as_form(value: Value) -> Value {
    match value {
        Value::Object(map) => map.into_iter().map(|(key, value)| (key, as_form(value))).collect(),
        Value::Array(items) => items.into_iter().map(as_form).collect(),
        Value::String(text) => text.into(),
        Value::Null => "".into(),
        other => other.to_string().into(),
    }
}

async fn act<F>(operator: Operator, work: F) -> Answer
where
    F: FnOnce(&mut World) -> Result<Value, Fault> + Send + 'static,
{
    let done = operator.engine.attempt(Asker::default(), work).await??;
    operator.engine.wake.notify_one();
    Ok(Json(public(&done)))
}

/// The parameters of the API's own call, as JSON.
async fn pause(
    State(operator): State<Operator>,
    Path(id): Path<String>,
    Json(wanted): Json<Map<String, Value>>,
) -> Answer {
    let call = call(format!("/v1/subscriptions/{id}/pause"), wanted);
    act(operator, move |world| pauses::pause(world, &call, &id)).await
}

/// The same. Whoever presses the button wants to be paid: that is tried at once unless asked otherwise.
async fn resume(
    State(operator): State<Operator>,
    Path(id): Path<String>,
    Json(mut wanted): Json<Map<String, Value>>,
) -> Answer {
    wanted.entry("payment_behavior").or_insert_with(|| "resume_on_payment_success".into());
    let call = call(format!("/v1/subscriptions/{id}/resume"), wanted);
    act(operator, move |world| pauses::resume(world, &call, &id)).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Collection {
    /// `void`, `keep_as_draft` or `mark_uncollectible`; nothing takes the pause back.
    behavior: Option<String>,
    /// When it ends by itself, in seconds since 1970.
    resumes_at: Option<i64>,
}

async fn pause_collection(
    State(operator): State<Operator>,
    Path(id): Path<String>,
    Json(wanted): Json<Collection>,
) -> Answer {
    let mut pause = Map::new();
    if let Some(at) = wanted.resumes_at {
        pause.insert("resumes_at".into(), at.into());
    }
    let pause = match wanted.behavior {
        Some(behaviour) => {
            pause.insert("behavior".into(), behaviour.into());
            Value::Object(pause)
        }
        None => Value::Null,
    };
    let call = call(format!("/v1/subscriptions/{id}"), Map::from_iter([("pause_collection".into(), pause)]));
    act(operator, move |world| subscriptions::update(world, &call, &id)).await
}

async fn delete_customer(State(operator): State<Operator>, Path(id): Path<String>) -> Answer {
    act(operator, move |world| customers::erase(world, &id)).await
}

/// What Stripe Tax does with a draft whose customer has no address to work taxes out for.
async fn fail_finalization(State(operator): State<Operator>, Path(id): Path<String>) -> Answer {
    act(operator, move |world| invoices::fail_finalization(world, &id)).await
}

async fn finalize(State(operator): State<Operator>, Path(id): Path<String>) -> Answer {
    act(operator, move |world| invoices::finalize_now(world, &id)).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Warning {
    charge: Option<String>,
    payment_intent: Option<String>,
    /// What the issuer says; `misc` if absent.
    fraud_type: Option<String>,
}

async fn warn(State(operator): State<Operator>, Json(wanted): Json<Warning>) -> Answer {
    act(operator, move |world| {
        let of_intent = wanted
            .payment_intent
            .as_deref()
            .and_then(|id| world.get("payment_intent", id))
            .map(|intent| text(intent, "latest_charge").to_owned());
        let charge = wanted.charge.or(of_intent).ok_or_else(|| Fault::missing("charge"))?;
        warnings::warn(world, &charge, wanted.fraud_type.as_deref().unwrap_or("misc"))
    })
    .await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_becomes_what_a_form_would_say() {
        let said =
            json!({ "pause_collection": { "behavior": "void", "resumes_at": 7 }, "gone": null, "on": true });
        let Value::Object(said) = said else { panic!("an object") };
        let call = call("/v1/x".into(), said);
        assert_eq!(call.params.int("pause_collection.resumes_at"), Some(7));
        assert_eq!(call.params.flag("on"), Some(true));
        assert!(call.params.has("gone") && call.params.text("gone").is_none());
    }
}
