//! `/v1/customers`.

use serde_json::{Map, Value, json};

use super::{
    api::Call,
    events,
    fault::Fault,
    form::{CREATED, LIST, Params, RETRIEVE},
    list, subscriptions,
    world::{World, flag, text},
};

/// Parameters of create.
pub(crate) const CREATE: &[&str] = &[
    "address.*",
    "balance#",
    "business_name",
    "description",
    "email",
    "expand[]",
    "individual_name",
    "invoice_settings.default_payment_method",
    "metadata.*",
    "name",
    "phone",
    "preferred_locales[]",
    "tax_exempt=none|exempt|reverse",
];
/// Parameters of update.
pub(crate) const UPDATE: &[&str] = CREATE;
/// Filters of list.
pub(crate) const FILTER: &[&str] = &["email"];

/// `POST /v1/customers`.
pub(crate) fn create(world: &mut World, call: &Call) -> Result<Value, Fault> {
    call.params.check(&[CREATE])?;
    let customer = build(world, &call.params);
    events::emit(world, "customer.created", &customer, None);
    Ok(customer)
}

/// Makes a customer from `email`, `name` and what else was given.
pub(crate) fn build(world: &mut World, params: &Params) -> Value {
    let id = world.new_id("cus_", 14);
    let mut customer = json!({
        "id": id, "object": "customer", "address": null, "balance": 0, "created": world.now, "currency": null,
        "default_source": null, "delinquent": false, "description": null, "discount": null, "email": null,
        "invoice_prefix": id[4..12].to_uppercase(),
        "invoice_settings": { "custom_fields": null, "default_payment_method": null, "footer": null, "rendering_options": null },
        "livemode": false, "metadata": {}, "name": null, "next_invoice_sequence": 1, "phone": null,
        "preferred_locales": [], "shipping": null, "tax_exempt": "none", "test_clock": null,
    });
    apply(&mut customer, params);
    world.put("customer", customer.clone());
    customer
}

fn apply(customer: &mut Value, params: &Params) {
    for key in ["business_name", "description", "email", "individual_name", "name", "phone", "tax_exempt"] {
        if params.has(key) {
            customer[key] = params.text(key).map_or(Value::Null, Value::from);
        }
    }
    if let Some(balance) = params.int("balance") {
        customer["balance"] = balance.into();
    }
    if let Some(address) = params.at("address").and_then(Value::as_object) {
        let mut whole = json!({ "city": null, "country": null, "line1": null, "line2": null, "postal_code": null, "state": null });
        for (key, value) in address {
            whole[key.as_str()] = value.clone();
        }
        customer["address"] = whole;
    }
    if let Some(method) = params.text("invoice_settings.default_payment_method") {
        customer["invoice_settings"]["default_payment_method"] = method.into();
    }
    if params.has("preferred_locales") {
        customer["preferred_locales"] = params.texts("preferred_locales").into();
    }
    merge_metadata(customer, params, "metadata");
}

/// Merges `metadata` as Stripe does: given keys replace, an empty value removes, an empty map clears.
pub(crate) fn merge_metadata(object: &mut Value, params: &Params, path: &str) {
    let Some(given) = params.at(path) else { return };
    let mut merged: Map<String, Value> =
        object.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    match given {
        Value::Object(map) => {
            for (key, value) in map {
                if value.as_str().is_some_and(str::is_empty) {
                    merged.remove(key);
                } else {
                    merged.insert(key.clone(), value.clone());
                }
            }
        }
        Value::Array(items) => {
            merged.extend(items.iter().enumerate().map(|(index, item)| (index.to_string(), item.clone())))
        }
        _ => merged.clear(),
    }
    object["metadata"] = Value::Object(merged);
}

/// `DELETE /v1/customers/{id}`: for good, and what it pays for ends at once.
pub(crate) fn delete(world: &mut World, call: &Call, id: &str) -> Result<Value, Fault> {
    call.params.check(&[])?;
    erase(world, id)
}

/// Deletes a customer: its subscriptions end with their events, its cards are nobody's, and what is left says only that it
/// was deleted.
///
/// # Errors
/// No such customer, or one that is deleted already.
pub(crate) fn erase(world: &mut World, id: &str) -> Result<Value, Fault> {
    let customer = living(world, id)?;
    let of_it = |world: &World, kind: &str, wanted: fn(&Value) -> bool| -> Vec<String> {
        let all =
            world.all(kind).into_iter().filter(|object| text(object, "customer") == id && wanted(object));
        all.map(|object| text(object, "id").to_owned()).collect()
    };
    for subscription in
        of_it(world, "subscription", |one| !matches!(text(one, "status"), "canceled" | "incomplete_expired"))
    {
        subscriptions::end(world, &subscription, "cancellation_requested");
    }
    for method in of_it(world, "payment_method", |_| true) {
        world.change("payment_method", &method, Some("payment_method.detached"), |method| {
            method["customer"] = Value::Null;
        });
    }
    events::emit(world, "customer.deleted", &customer, None);
    let gone = json!({ "id": id, "object": "customer", "deleted": true });
    world.put("customer", gone.clone());
    Ok(gone)
}

/// The customer, if it was not deleted.
fn living(world: &World, id: &str) -> Result<Value, Fault> {
    let known = world.need("customer", id, "id")?;
    if flag(&known, "deleted") { Err(Fault::no_such("customer", id, "id")) } else { Ok(known) }
}

/// `GET /v1/customers/{id}`.
pub(crate) fn retrieve(world: &mut World, call: &Call, id: &str) -> Result<Value, Fault> {
    call.params.check(&[RETRIEVE])?;
    world.need("customer", id, "id")
}

/// `POST /v1/customers/{id}`.
pub(crate) fn update(world: &mut World, call: &Call, id: &str) -> Result<Value, Fault> {
    call.params.check(&[UPDATE])?;
    living(world, id)?;
    Ok(world.change("customer", id, Some("customer.updated"), |customer| apply(customer, &call.params)))
}

/// `GET /v1/customers`.
pub(crate) fn list(world: &mut World, call: &Call) -> Result<Value, Fault> {
    call.params.check(&[LIST, CREATED, FILTER])?;
    let email = call.params.text("email");
    list::page(world, call, "customer", "/v1/customers", |customer| {
        !flag(customer, "deleted") && email.is_none_or(|email| text(customer, "email") == email)
    })
}
