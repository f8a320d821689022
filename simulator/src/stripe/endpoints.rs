//! `/v1/webhook_endpoints`: who is told of events. The configured one is always there.

use serde_json::{Value, json};

use super::{
    api::Call,
    customers::merge_metadata,
    fault::Fault,
    form::{LIST, RETRIEVE},
    list,
    world::{API_VERSION, World, public, text},
};

/// The id of the endpoint that stands in the configuration.
pub(crate) const CONFIGURED: &str = "we_1Configured000000000000";

/// Parameters of create.
pub(crate) const CREATE: &[&str] =
    &["api_version", "connect?", "description", "enabled_events[]!", "expand[]", "metadata.*", "url!"];

/// Puts the configured endpoint in place; its secret follows the configuration.
pub(crate) fn configure(world: &mut World, url: &str, secret: &str) {
    let mut wanted = endpoint(world.now, CONFIGURED, url, &["*"], secret);
    wanted["_sim"]["configured"] = secret.into();
    let same = world.get("webhook_endpoint", CONFIGURED).is_some_and(|known| {
        // A secret that was rolled by hand stays until the configuration names another one.
        text(known, "url") == url && text(&known["_sim"], "configured") == secret
    });
    if !same {
        world.put("webhook_endpoint", wanted);
    }
}

fn endpoint(now: i64, id: &str, url: &str, enabled: &[&str], secret: &str) -> Value {
    json!({
        "id": id, "object": "webhook_endpoint", "api_version": API_VERSION, "application": null, "created": now, "description": null,
        "enabled_events": enabled, "livemode": false, "metadata": {}, "status": "enabled", "url": url, "_sim": { "secrets": [secret] },
    })
}

/// Gives the endpoint a new secret; the old ones stay good for a while, and deliveries carry both signatures.
pub(crate) fn roll(world: &mut World, id: &str, secret: &str, old_for: i64) {
    let until = world.now + old_for;
    world.change("webhook_endpoint", id, None, |endpoint| {
        let old = endpoint["_sim"]["secrets"].as_array().cloned().unwrap_or_default();
        let rolled: Vec<Value> =
            old.into_iter().map(|secret| json!({ "secret": secret, "until": until })).collect();
        endpoint["_sim"]["secrets"] = json!([secret]);
        endpoint["_sim"]["rolled"] = rolled.into();
    });
}

/// `POST /v1/webhook_endpoints`: the only answer that shows the secret.
pub(crate) fn create(world: &mut World, call: &Call) -> Result<Value, Fault> {
    let params = &call.params;
    params.check(&[CREATE])?;
    if params.text("api_version").is_some_and(|version| version != API_VERSION) {
        return Err(Fault::invalid(
            format!("The simulator renders events in {API_VERSION} only."),
            Some("api_version"),
        ));
    }
    let url = params.text("url").unwrap_or_default();
    if !url.starts_with("http://") && !url.starts_with("https://") {
        return Err(Fault::coded(
            "url_invalid",
            "Invalid URL: An explicit scheme (such as https) must be provided.",
            Some("url"),
        ));
    }
    let id = world.new_id("we_1", 23);
    let secret = world.new_id("whsec_", 32);
    let mut made = endpoint(world.now, &id, url, &params.texts("enabled_events"), &secret);
    if let Some(description) = params.text("description") {
        made["description"] = description.into();
    }
    merge_metadata(&mut made, params, "metadata");
    world.put("webhook_endpoint", made.clone());
    let mut answer = public(&made);
    answer["secret"] = secret.into();
    Ok(answer)
}

/// `GET /v1/webhook_endpoints/{id}`.
pub(crate) fn retrieve(world: &mut World, call: &Call, id: &str) -> Result<Value, Fault> {
    call.params.check(&[RETRIEVE])?;
    world.need("webhook_endpoint", id, "id")
}

/// `GET /v1/webhook_endpoints`.
pub(crate) fn list(world: &mut World, call: &Call) -> Result<Value, Fault> {
    call.params.check(&[LIST])?;
    list::page(world, call, "webhook_endpoint", "/v1/webhook_endpoints", |_| true)
}

/// `DELETE /v1/webhook_endpoints/{id}`.
pub(crate) fn delete(world: &mut World, call: &Call, id: &str) -> Result<Value, Fault> {
    call.params.check(&[])?;
    world.need("webhook_endpoint", id, "id")?;
    world.delete(id);
    Ok(json!({ "id": id, "object": "webhook_endpoint", "deleted": true }))
}
