//! Events: every change others may care about, as Stripe tells it, with one delivery per endpoint.

use serde_json::{Map, Value, json};

use super::{
    api::Call,
    fault::Fault,
    form::{CREATED, LIST, RETRIEVE},
    list,
    world::{API_VERSION, World, int, public, text},
};

/// How long events can be listed.
const LISTED_FOR: i64 = 30 * 86_400;

/// Writes an event about `object` and queues it for every endpoint that wants it.
pub(crate) fn emit(world: &mut World, kind: &str, object: &Value, previous: Option<Value>) -> String {
    let id = world.new_id("evt_1", 23);
    let endpoints: Vec<String> = world
        .all("webhook_endpoint")
        .into_iter()
        .filter(|endpoint| text(endpoint, "status") == "enabled" && wants(endpoint, kind))
        .map(|endpoint| text(endpoint, "id").to_owned())
        .collect();
    let mut data = json!({ "object": public(object) });
    if let Some(previous) =
        previous.filter(|previous| previous.as_object().is_some_and(|map| !map.is_empty()))
    {
        data["previous_attributes"] = previous;
    }
    let event = json!({
        "id": id, "object": "event", "api_version": API_VERSION, "created": world.now, "data": data, "livemode": false,
        "pending_webhooks": endpoints.len(),
        "request": { "id": world.asker.request_id, "idempotency_key": world.asker.idempotency_key },
        "type": kind,
    });
    world.put("event", event);
    for endpoint in endpoints {
        queue(world, &id, &endpoint);
    }
    id
}

/// Queues one delivery; it is due at once.
pub(crate) fn queue(world: &mut World, event: &str, endpoint: &str) {
    let delivery = json!({
        "id": format!("_dlv:{event}:{endpoint}"), "event": event, "endpoint": endpoint,
        "state": "pending", "attempts": 0, "next_at": world.now, "last_status": null,
    });
    world.put("_delivery", delivery);
}

fn wants(endpoint: &Value, kind: &str) -> bool {
    let listed = endpoint.get("enabled_events").and_then(Value::as_array);
    listed.is_some_and(|listed| {
        listed.iter().filter_map(Value::as_str).any(|wanted| wanted == "*" || wanted == kind)
    })
}

/// The top-level members that differ, as they were before.
pub(crate) fn previous(before: &Value, after: &Value) -> Value {
    let mut changed = Map::new();
    let (Some(old), Some(new)) = (before.as_object(), after.as_object()) else { return Value::Null };
    for key in old.keys().chain(new.keys()).filter(|key| *key != "_sim") {
        let was = old.get(key).cloned().unwrap_or(Value::Null);
        if new.get(key).unwrap_or(&Value::Null) != &was {
            changed.insert(key.clone(), was);
        }
    }
    Value::Object(changed)
}

/// `GET /v1/events/{id}`.
pub(crate) fn retrieve(world: &mut World, call: &Call, id: &str) -> Result<Value, Fault> {
    call.params.check(&[RETRIEVE])?;
    world.need("event", id, "id")
}

/// `GET /v1/events`.
pub(crate) fn list(world: &mut World, call: &Call) -> Result<Value, Fault> {
    call.params.check(&[LIST, CREATED, &["type", "types[]", "delivery_success?"]])?;
    let types = call.params.texts("types");
    let (one, delivered) = (call.params.text("type"), call.params.flag("delivery_success"));
    let since = world.now - LISTED_FOR;
    list::page(world, call, "event", "/v1/events", |event| {
        let kind = text(event, "type");
        let success = int(event, "pending_webhooks") == 0;
        int(event, "created") >= since
            && (types.is_empty() || types.iter().any(|wanted| matches_type(wanted, kind)))
            && one.is_none_or(|wanted| matches_type(wanted, kind))
            && delivered.is_none_or(|wanted| wanted == success)
    })
}

fn matches_type(wanted: &str, kind: &str) -> bool {
    match wanted.strip_suffix(".*") {
        Some(stem) => kind.starts_with(stem),
        None => wanted == kind,
    }
}
