//! `/v1/coupons`: what promotion codes take off.

use serde_json::{Value, json};

use super::{
    api::Call,
    customers::merge_metadata,
    events,
    fault::Fault,
    form::{CREATED, LIST, RETRIEVE},
    list,
    world::{World, text},
};

/// Parameters of create.
pub(crate) const CREATE: &[&str] = &[
    "amount_off#",
    "applies_to.products[]",
    "currency",
    "duration=forever|once|repeating",
    "duration_in_months#",
    "expand[]",
    "id",
    "max_redemptions#",
    "metadata.*",
    "name",
    "percent_off#",
    "redeem_by#",
];
/// Parameters of update: what it takes off is fixed for ever.
pub(crate) const UPDATE: &[&str] = &["expand[]", "metadata.*", "name"];

/// `POST /v1/coupons`.
pub(crate) fn create(world: &mut World, call: &Call) -> Result<Value, Fault> {
    let params = &call.params;
    params.check(&[CREATE])?;
    let id = match params.text("id") {
        Some(id) if world.any(id).is_some() => {
            let message = format!("Coupon already exists: {id}.");
            return Err(Fault::coded("resource_already_exists", message, Some("id")));
        }
        Some(id) => id.to_owned(),
        None => world.new_id("", 8),
    };
    let (percent, amount) = (params.int("percent_off"), params.int("amount_off"));
    match (percent, amount) {
        (Some(1..=100), None) => {}
        (None, Some(1..)) if params.has("currency") => {}
        (None, Some(_)) => return Err(Fault::missing("currency")),
        _ => {
            return Err(Fault::invalid(
                "You must pass either `percent_off` or `amount_off` when creating a coupon.",
                Some("percent_off"),
            ));
        }
    }
    let duration = params.text("duration").unwrap_or("once");
    let months = params.int("duration_in_months");
    if (duration == "repeating") != months.is_some() {
        return Err(Fault::invalid(
            "`duration_in_months` is required for `repeating` coupons and for no others.",
            Some("duration_in_months"),
        ));
    }
    let products = params.texts("applies_to.products");
    for product in &products {
        world.need("product", product, "applies_to[products]")?;
    }
    let mut coupon = json!({
        "id": id, "object": "coupon", "amount_off": amount, "created": world.now,
        "currency": params.text("currency").map(str::to_lowercase), "duration": duration, "duration_in_months": months,
        "livemode": false, "max_redemptions": params.int("max_redemptions"), "metadata": {}, "name": params.text("name"),
        "percent_off": percent, "redeem_by": params.int("redeem_by"), "times_redeemed": 0, "valid": true,
    });
    if !products.is_empty() {
        coupon["applies_to"] = json!({ "products": products });
    }
    merge_metadata(&mut coupon, params, "metadata");
    world.put("coupon", coupon.clone());
    events::emit(world, "coupon.created", &coupon, None);
    Ok(coupon)
}

/// `GET /v1/coupons/{id}`. The products it is good for are always shown; Stripe shows them when asked to.
pub(crate) fn retrieve(world: &mut World, call: &Call, id: &str) -> Result<Value, Fault> {
    call.params.check(&[RETRIEVE])?;
    world.need("coupon", id, "id")
}

/// `POST /v1/coupons/{id}`.
pub(crate) fn update(world: &mut World, call: &Call, id: &str) -> Result<Value, Fault> {
    call.params.check(&[UPDATE])?;
    world.need("coupon", id, "id")?;
    Ok(world.change("coupon", id, Some("coupon.updated"), |coupon| {
        if call.params.has("name") {
            coupon["name"] = call.params.text("name").map_or(Value::Null, Value::from);
        }
        merge_metadata(coupon, &call.params, "metadata");
    }))
}

/// `DELETE /v1/coupons/{id}`: nobody can use it any more; who did keeps it.
pub(crate) fn delete(world: &mut World, call: &Call, id: &str) -> Result<Value, Fault> {
    call.params.check(&[])?;
    let coupon = world.need("coupon", id, "id")?;
    world.delete(id);
    events::emit(world, "coupon.deleted", &coupon, None);
    Ok(json!({ "id": id, "object": "coupon", "deleted": true }))
}

/// `GET /v1/coupons`.
pub(crate) fn list(world: &mut World, call: &Call) -> Result<Value, Fault> {
    call.params.check(&[LIST, CREATED])?;
    list::page(world, call, "coupon", "/v1/coupons", |_| true)
}

/// How it reads on the page: `20 % off`, or its name.
pub(crate) fn shown(coupon: &Value) -> String {
    match text(coupon, "name") {
        "" => coupon["percent_off"].as_i64().map_or_else(String::new, |percent| format!("{percent} % off")),
        name => name.to_owned(),
    }
}
