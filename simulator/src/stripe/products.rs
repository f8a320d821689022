//! `/v1/products`.

use serde_json::{Value, json};

use super::{
    api::Call,
    customers::merge_metadata,
    events,
    fault::Fault,
    form::{CREATED, LIST, Params, RETRIEVE},
    list,
    world::{World, flag, text},
};

/// Parameters of create.
pub(crate) const CREATE: &[&str] = &[
    "active?",
    "description",
    "expand[]",
    "id",
    "images[]",
    "metadata.*",
    "name!",
    "shippable?",
    "statement_descriptor",
    "tax_code",
    "unit_label",
    "url",
];
/// Parameters of update.
pub(crate) const UPDATE: &[&str] = &[
    "active?",
    "default_price",
    "description",
    "expand[]",
    "images[]",
    "metadata.*",
    "name",
    "shippable?",
    "statement_descriptor",
    "tax_code",
    "unit_label",
    "url",
];
/// Filters of list.
pub(crate) const FILTER: &[&str] = &["active?", "ids[]", "shippable?", "url"];

/// `POST /v1/products`.
pub(crate) fn create(world: &mut World, call: &Call) -> Result<Value, Fault> {
    call.params.check(&[CREATE])?;
    let id = match call.params.text("id") {
        Some(id) if world.any(id).is_some() => {
            return Err(Fault::coded(
                "resource_already_exists",
                format!("Product already exists: '{id}'"),
                Some("id"),
            ));
        }
        Some(id) => id.to_owned(),
        None => world.new_id("prod_", 14),
    };
    let product = build(world, &id, &call.params);
    events::emit(world, "product.created", &product, None);
    Ok(product)
}

/// Makes a product of this id from the parameters.
pub(crate) fn build(world: &mut World, id: &str, params: &Params) -> Value {
    let mut product = json!({
        "id": id, "object": "product", "active": true, "created": world.now, "default_price": null, "description": null,
        "images": [], "livemode": false, "marketing_features": [], "metadata": {}, "name": "", "package_dimensions": null,
        "shippable": null, "statement_descriptor": null, "tax_code": null, "type": "service", "unit_label": null,
        "updated": world.now, "url": null,
    });
    apply(&mut product, params, world.now);
    world.put("product", product.clone());
    product
}

fn apply(product: &mut Value, params: &Params, now: i64) {
    for key in
        ["default_price", "description", "name", "statement_descriptor", "tax_code", "unit_label", "url"]
    {
        if params.has(key) {
            product[key] = params.text(key).map_or(Value::Null, Value::from);
        }
    }
    for key in ["active", "shippable"] {
        if let Some(on) = params.flag(key) {
            product[key] = on.into();
        }
    }
    if params.has("images") {
        product["images"] = params.texts("images").into();
    }
    merge_metadata(product, params, "metadata");
    product["updated"] = now.into();
}

/// `GET /v1/products/{id}`.
pub(crate) fn retrieve(world: &mut World, call: &Call, id: &str) -> Result<Value, Fault> {
    call.params.check(&[RETRIEVE])?;
    world.need("product", id, "id")
}

/// `POST /v1/products/{id}`.
pub(crate) fn update(world: &mut World, call: &Call, id: &str) -> Result<Value, Fault> {
    call.params.check(&[UPDATE])?;
    world.need("product", id, "id")?;
    let now = world.now;
    Ok(world.change("product", id, Some("product.updated"), |product| apply(product, &call.params, now)))
}

/// `GET /v1/products`.
pub(crate) fn list(world: &mut World, call: &Call) -> Result<Value, Fault> {
    call.params.check(&[LIST, CREATED, FILTER])?;
    let (active, ids, url) = (call.params.flag("active"), call.params.texts("ids"), call.params.text("url"));
    list::page(world, call, "product", "/v1/products", |product| {
        active.is_none_or(|wanted| flag(product, "active") == wanted)
            && (ids.is_empty() || ids.contains(&text(product, "id")))
            && url.is_none_or(|wanted| text(product, "url") == wanted)
    })
}
