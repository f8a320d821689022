//! `/v1/prices`: what a product costs, found again by its lookup key.

use serde_json::{Value, json};

use super::{
    api::Call,
    customers::merge_metadata,
    events,
    fault::Fault,
    form::{CREATED, LIST, Params, RETRIEVE},
    list, products,
    world::{World, flag, text},
};

/// Parameters of create.
pub(crate) const CREATE: &[&str] = &[
    "active?",
    "billing_scheme=per_unit",
    "currency!",
    "expand[]",
    "lookup_key",
    "metadata.*",
    "nickname",
    "product",
    "product_data.name",
    "product_data.id",
    "product_data.metadata.*",
    "product_data.active?",
    "product_data.statement_descriptor",
    "product_data.tax_code",
    "product_data.unit_label",
    "recurring.interval=day|week|month|year",
    "recurring.interval_count#",
    "recurring.usage_type=licensed",
    "tax_behavior=exclusive|inclusive|unspecified",
    "transfer_lookup_key?",
    "unit_amount#",
    "unit_amount_decimal",
];
/// Parameters of update: money and interval are fixed for ever.
pub(crate) const UPDATE: &[&str] = &[
    "active?",
    "expand[]",
    "lookup_key",
    "metadata.*",
    "nickname",
    "tax_behavior=exclusive|inclusive|unspecified",
    "transfer_lookup_key?",
];
/// Filters of list.
pub(crate) const FILTER: &[&str] = &[
    "active?",
    "currency",
    "lookup_keys[]",
    "product",
    "recurring.interval=day|week|month|year",
    "recurring.usage_type=licensed|metered",
    "type=one_time|recurring",
];

/// `POST /v1/prices`.
pub(crate) fn create(world: &mut World, call: &Call) -> Result<Value, Fault> {
    let params = &call.params;
    params.check(&[CREATE])?;
    let amount = params
        .int("unit_amount")
        .or_else(|| params.int("unit_amount_decimal"))
        .ok_or_else(|| Fault::missing("unit_amount"))?;
    if amount < 0 {
        return Err(Fault::coded(
            "parameter_invalid_integer",
            "This value must be greater than or equal to 0.",
            Some("unit_amount"),
        ));
    }
    let product = product_of(world, params)?;
    take_lookup_key(world, params, "")?;
    let id = world.new_id("price_1", 23);
    let recurring = params.at("recurring").map(|_| {
        json!({
            "interval": params.text("recurring.interval"), "interval_count": params.int("recurring.interval_count").unwrap_or(1),
            "meter": null, "trial_period_days": null, "usage_type": "licensed",
        })
    });
    if recurring.as_ref().is_some_and(|recurring| recurring["interval"].is_null()) {
        return Err(Fault::missing("recurring[interval]"));
    }
    let mut price = json!({
        "id": id, "object": "price", "active": true, "billing_scheme": "per_unit", "created": world.now,
        "currency": params.text("currency").unwrap_or_default().to_lowercase(), "custom_unit_amount": null, "livemode": false, "lookup_key": null,
        "metadata": {}, "nickname": null, "product": product, "recurring": recurring, "tax_behavior": "unspecified",
        "tiers_mode": null, "transform_quantity": null, "type": if recurring.is_some() { "recurring" } else { "one_time" },
        "unit_amount": amount, "unit_amount_decimal": amount.to_string(),
    });
    apply(&mut price, params);
    world.put("price", price.clone());
    events::emit(world, "price.created", &price, None);
    Ok(price)
}

fn product_of(world: &mut World, params: &Params) -> Result<String, Fault> {
    if let Some(id) = params.text("product") {
        world.need("product", id, "product")?;
        return Ok(id.to_owned());
    }
    let Some(Value::Object(data)) = params.at("product_data") else { return Err(Fault::missing("product")) };
    let id = params.text("product_data.id").map_or_else(|| world.new_id("prod_", 14), str::to_owned);
    let product = products::build(world, &id, &Params(data.clone()));
    events::emit(world, "product.created", &product, None);
    Ok(id)
}

/// Frees the wanted lookup key: refused if another active price holds it, unless it is to be transferred.
fn take_lookup_key(world: &mut World, params: &Params, own: &str) -> Result<(), Fault> {
    let Some(key) = params.text("lookup_key") else { return Ok(()) };
    let holder = world
        .all("price")
        .into_iter()
        .find(|price| text(price, "lookup_key") == key && text(price, "id") != own)
        .map(|price| text(price, "id").to_owned());
    let Some(holder) = holder else { return Ok(()) };
    if params.flag("transfer_lookup_key") != Some(true) {
        let message = format!("A price (`{holder}`) already uses that lookup key.");
        return Err(Fault::coded("resource_already_exists", message, Some("lookup_key")));
    }
    world.change("price", &holder, Some("price.updated"), |price| price["lookup_key"] = Value::Null);
    Ok(())
}

fn apply(price: &mut Value, params: &Params) {
    for key in ["lookup_key", "nickname", "tax_behavior"] {
        if params.has(key) {
            price[key] = params.text(key).map_or(Value::Null, Value::from);
        }
    }
    if let Some(on) = params.flag("active") {
        price["active"] = on.into();
    }
    merge_metadata(price, params, "metadata");
}

/// `GET /v1/prices/{id}`.
pub(crate) fn retrieve(world: &mut World, call: &Call, id: &str) -> Result<Value, Fault> {
    call.params.check(&[RETRIEVE])?;
    world.need("price", id, "id")
}

/// `POST /v1/prices/{id}`.
pub(crate) fn update(world: &mut World, call: &Call, id: &str) -> Result<Value, Fault> {
    call.params.check(&[UPDATE])?;
    world.need("price", id, "id")?;
    take_lookup_key(world, &call.params, id)?;
    Ok(world.change("price", id, Some("price.updated"), |price| apply(price, &call.params)))
}

/// `GET /v1/prices`.
pub(crate) fn list(world: &mut World, call: &Call) -> Result<Value, Fault> {
    let params = &call.params;
    params.check(&[LIST, CREATED, FILTER])?;
    let (active, keys) = (params.flag("active"), params.texts("lookup_keys"));
    let interval = params.text("recurring.interval");
    list::page(world, call, "price", "/v1/prices", |price| {
        active.is_none_or(|wanted| flag(price, "active") == wanted)
            && (keys.is_empty() || keys.contains(&text(price, "lookup_key")))
            && ["currency", "product", "type"]
                .iter()
                .all(|key| params.text(key).is_none_or(|wanted| text(price, key) == wanted))
            && interval.is_none_or(|wanted| {
                price.pointer("/recurring/interval").and_then(Value::as_str) == Some(wanted)
            })
    })
}
