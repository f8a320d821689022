//! `/v1/checkout/sessions` in subscription mode.

use serde_json::{Value, json};

use super::{
    api::Call,
    customers::merge_metadata,
    events,
    fault::Fault,
    form::{CREATED, LIST, Params, RETRIEVE},
    list, totals,
    world::{World, int, text},
};

/// Parameters of create.
pub(crate) const CREATE: &[&str] = &[
    "allow_promotion_codes?",
    "automatic_tax.enabled?",
    "billing_address_collection=auto|required",
    "cancel_url",
    "client_reference_id",
    "currency",
    "customer",
    "customer_email",
    "customer_update.address=auto|never",
    "customer_update.name=auto|never",
    "expand[]",
    "expires_at#",
    "line_items[].price!",
    "line_items[].quantity#",
    "locale",
    "metadata.*",
    "mode=payment|setup|subscription!",
    "payment_method_collection=always|if_required",
    "allowed_payment_method_types[]",
    "submit_type=auto|book|donate|pay|subscribe",
    "subscription_data.metadata.*",
    "subscription_data.description",
    "subscription_data.trial_period_days#",
    "subscription_data.trial_settings.end_behavior.missing_payment_method=cancel|create_invoice|pause",
    "success_url",
    "tax_id_collection.enabled?",
    "ui_mode=elements|embedded_page|form|hosted_page",
];
const SHORTEST: i64 = 30 * 60;
const LONGEST: i64 = 24 * 3_600;

/// `POST /v1/checkout/sessions`.
pub(crate) fn create(world: &mut World, call: &Call) -> Result<Value, Fault> {
    let params = &call.params;
    params.check(&[CREATE])?;
    if params.text("mode") != Some("subscription") {
        return Err(Fault::invalid(
            "The simulator offers Checkout in `subscription` mode only.",
            Some("mode"),
        ));
    }
    let success_url = params.text("success_url").ok_or_else(|| Fault::missing("success_url"))?;
    for (key, url) in [("success_url", Some(success_url)), ("cancel_url", params.text("cancel_url"))] {
        if url.is_some_and(|url| !url.starts_with("http://") && !url.starts_with("https://")) {
            return Err(Fault::coded("url_invalid", "Not a valid URL", Some(key)));
        }
    }
    let (expires_at, fires_at) = expiry(world, params)?;
    let items = items(world, params)?;
    let customer = match (params.text("customer"), params.text("customer_email")) {
        (Some(_), Some(_)) => {
            return Err(Fault::invalid(
                "You may only specify one of these parameters: customer, customer_email.",
                None,
            ));
        }
        (Some(id), None) => Some(world.need("customer", id, "customer")?),
        _ => None,
    };
    let currency = items.first().map_or(Value::Null, |item| item["currency"].clone());
    let trial = trial_days(params)?;
    let kept = customer.as_ref().map(|customer| text(customer, "currency")).unwrap_or_default();
    if !kept.is_empty() && currency != kept {
        return Err(Fault::invalid(
            format!(
                "You cannot combine currencies on a single customer. This customer has an active subscription, \
                 subscription schedule, discount, quote, or invoice item with currency {kept}."
            ),
            None,
        ));
    }
    let taxed = params.flag("automatic_tax.enabled") == Some(true);
    let tax_ids = params.flag("tax_id_collection.enabled") == Some(true);
    let updates = |what: &str| params.text(&format!("customer_update.{what}")) == Some("auto");
    if taxed && customer.as_ref().is_some_and(|customer| customer["address"].is_null()) && !updates("address")
    {
        return Err(Fault::invalid(
            "Automatic tax calculation in Checkout requires a valid address on the Customer. Add a valid address to \
             the Customer or set either `customer_update[address]` to 'auto' or `customer_update[shipping]` to 'auto'.",
            None,
        ));
    }
    if tax_ids && customer.is_some() && !updates("name") {
        return Err(Fault::invalid(
            "Tax ID collection requires updating business name on the customer. To enable tax ID collection for an \
             existing customer, please set `customer_update[name]` to `auto`.",
            None,
        ));
    }
    let country = customer
        .as_ref()
        .and_then(|customer| customer.pointer("/address/country"))
        .and_then(Value::as_str)
        .unwrap_or("DE")
        .to_owned();
    let id = world.new_id("cs_test_", 58);
    let line_items = json!({ "object": "list", "data": items, "has_more": false, "url": format!("/v1/checkout/sessions/{id}/line_items") });
    let types = params.texts("allowed_payment_method_types");
    let email = customer.as_ref().map_or_else(
        || params.text("customer_email").map_or(Value::Null, Value::from),
        |customer| customer["email"].clone(),
    );
    let mut session = json!({
        "id": id, "object": "checkout.session", "adaptive_pricing": null, "after_expiration": null,
        "allow_promotion_codes": params.flag("allow_promotion_codes"), "amount_subtotal": 0, "amount_total": 0,
        "automatic_tax": { "enabled": taxed, "liability": null, "provider": null, "status": if taxed { "complete".into() } else { Value::Null } },
        "billing_address_collection": params.text("billing_address_collection"), "cancel_url": params.text("cancel_url"),
        "client_reference_id": params.text("client_reference_id"), "client_secret": null, "collected_information": null, "consent": null,
        "consent_collection": null, "created": world.now, "currency": currency, "currency_conversion": null, "custom_fields": [],
        "custom_text": { "after_submit": null, "shipping_address": null, "submit": null, "terms_of_service_acceptance": null },
        "customer": params.text("customer"), "customer_creation": if customer.is_some() { Value::Null } else { "always".into() },
        "customer_details": customer_details(email.as_str(), None), "customer_email": params.text("customer_email"), "discounts": [],
        "expires_at": expires_at, "invoice": null, "invoice_creation": null, "livemode": false, "locale": params.text("locale"),
        "metadata": {}, "mode": "subscription", "origin_context": null, "payment_intent": null, "payment_link": null,
        "payment_method_collection": params.text("payment_method_collection").unwrap_or("always"),
        "payment_method_configuration_details": null, "payment_method_options": { "card": { "request_three_d_secure": "automatic" } },
        "payment_method_types": if types.is_empty() { vec!["card"] } else { types }, "payment_status": "unpaid", "permissions": null,
        "phone_number_collection": { "enabled": false }, "recovered_from": null, "saved_payment_method_options": null, "setup_intent": null,
        "shipping_address_collection": null, "shipping_cost": null, "shipping_options": [], "status": "open",
        "submit_type": params.text("submit_type"), "subscription": null, "success_url": success_url,
        "tax_id_collection": if tax_ids { json!({ "enabled": true, "required": "never" }) } else { Value::Null },
        "total_details": { "amount_discount": 0, "amount_shipping": 0, "amount_tax": 0 }, "ui_mode": "hosted_page",
        "url": format!("{}/c/pay/{id}", world.base_url), "wallet_options": null,
    });
    merge_metadata(&mut session, params, "metadata");
    let mut inherited = json!({});
    merge_metadata(&mut inherited, params, "subscription_data.metadata");
    session["_sim"] = json!({
        "fires_at": fires_at, "line_items": line_items, "subscription_metadata": inherited.get("metadata").cloned().unwrap_or_else(|| json!({})),
        "subscription_description": params.text("subscription_data.description"), "trial_days": trial, "country": country,
        "tax_id": "", "discount": null,
        "without_card": params.text("subscription_data.trial_settings.end_behavior.missing_payment_method").unwrap_or("create_invoice"),
    });
    reckon(&mut session);
    world.put("checkout.session", session.clone());
    Ok(session)
}

/// The days of trial that are asked for.
fn trial_days(params: &Params) -> Result<i64, Fault> {
    let path = "subscription_data.trial_period_days";
    match params.int(path) {
        Some(days) if !(1..=730).contains(&days) => Err(Fault::invalid(
            "Trial periods are 1 to 730 days.",
            Some("subscription_data[trial_period_days]"),
        )),
        days => Ok(days.unwrap_or(0)),
    }
}

/// Works out what an open session costs: its lines, the code that was typed, taxes where the buyer sits.
pub(crate) fn reckon(session: &mut Value) {
    let automatic = session.pointer("/automatic_tax/enabled").and_then(Value::as_bool) == Some(true);
    let hidden = session["_sim"].clone();
    let rate = totals::rate(automatic, text(&hidden, "country"), text(&hidden, "tax_id"));
    let items: Vec<&Value> =
        hidden.pointer("/line_items/data").and_then(Value::as_array).into_iter().flatten().collect();
    let trial = int(&hidden, "trial_days") > 0;
    let lines: Vec<totals::Line> = items
        .iter()
        .map(|item| {
            let price = &item["price"];
            let free = trial && !price["recurring"].is_null();
            totals::Line {
                amount: if free { 0 } else { int(price, "unit_amount") * int(item, "quantity") },
                product: text(price, "product").to_owned(),
                inclusive: totals::is_inclusive(price),
            }
        })
        .collect();
    let sums = totals::of(&lines, hidden.pointer("/discount/coupon"), rate);
    if let Some(items) = session.pointer_mut("/_sim/line_items/data").and_then(Value::as_array_mut) {
        for (item, sum) in items.iter_mut().zip(&sums) {
            item["amount_subtotal"] = sum.subtotal.into();
            item["amount_discount"] = sum.discount.into();
            item["amount_tax"] = sum.tax.into();
            item["amount_total"] = sum.total().into();
        }
    }
    let all = totals::together(&sums);
    session["amount_subtotal"] = all.subtotal.into();
    session["amount_total"] = sums.iter().map(|sum| sum.total()).sum::<i64>().into();
    session["total_details"] =
        json!({ "amount_discount": all.discount, "amount_shipping": 0, "amount_tax": all.tax });
    session["discounts"] = match &hidden["discount"] {
        Value::Null => json!([]),
        used => json!([{ "coupon": used["coupon"]["id"], "promotion_code": used["promotion"]["id"] }]),
    };
}

/// `customer_details` of a session.
pub(crate) fn customer_details(email: Option<&str>, name: Option<&str>) -> Value {
    if email.is_none() && name.is_none() {
        return Value::Null;
    }
    json!({
        "address": null, "business_name": null, "email": email, "individual_name": null, "name": name, "phone": null, "tax_exempt": "none", "tax_ids": null,
    })
}

/// What the session says about its end, and when this stand-in's clock ends it. They differ only while
/// that clock runs ahead of the caller's: then the time the caller meant is counted from its own now.
fn expiry(world: &World, params: &Params) -> Result<(i64, i64), Fault> {
    let Some(asked) = params.int("expires_at") else { return Ok((world.now + LONGEST, world.now + LONGEST)) };
    let window = SHORTEST..=LONGEST;
    if window.contains(&(asked - world.now)) {
        return Ok((asked, asked));
    }
    if world.ahead != 0 && window.contains(&(asked + world.ahead - world.now)) {
        return Ok((asked, asked + world.ahead));
    }
    let limit = if asked < world.now + SHORTEST { "at least 30 minutes" } else { "less than 24 hours" };
    Err(Fault::invalid(
        format!("The `expires_at` timestamp must be {limit} from Checkout Session creation."),
        Some("expires_at"),
    ))
}

fn items(world: &mut World, params: &Params) -> Result<Vec<Value>, Fault> {
    let Some(Value::Array(given)) = params.at("line_items") else { return Err(Fault::missing("line_items")) };
    let mut items = Vec::new();
    for (index, _) in given.iter().enumerate() {
        let path = format!("line_items.{index}.price");
        let id = params
            .text(&path)
            .ok_or_else(|| Fault::missing(&format!("line_items[{index}][price]")))?
            .to_owned();
        let shown = format!("line_items[{index}][price]");
        let price = world.need("price", &id, &shown)?;
        if !super::world::flag(&price, "active") {
            return Err(Fault::coded(
                "resource_missing",
                format!("The price specified is inactive. This field only accepts active prices: '{id}'"),
                Some(&shown),
            ));
        }
        let quantity = params.int(&format!("line_items.{index}.quantity")).unwrap_or(1);
        if quantity < 1 {
            return Err(Fault::coded(
                "parameter_invalid_integer",
                "This value must be greater than or equal to 1.",
                Some(&format!("line_items[{index}][quantity]")),
            ));
        }
        let amount = int(&price, "unit_amount") * quantity;
        let name =
            world.get("product", text(&price, "product")).map(|product| text(product, "name").to_owned());
        let item = world.new_id("li_1", 23);
        items.push(json!({
            "id": item, "object": "item", "adjustable_quantity": null, "amount_discount": 0, "amount_subtotal": amount, "amount_tax": 0,
            "amount_total": amount, "currency": price["currency"], "description": name, "metadata": {}, "price": price, "quantity": quantity,
        }));
    }
    if items.iter().all(|item| item["price"]["recurring"].is_null()) {
        return Err(Fault::invalid(
            "You must provide at least one recurring price in `subscription` mode when using prices.",
            Some("line_items"),
        ));
    }
    let same_currency = items.windows(2).all(|pair| pair[0]["currency"] == pair[1]["currency"]);
    if same_currency {
        Ok(items)
    } else {
        Err(Fault::invalid("All line items must have the same currency.", Some("line_items")))
    }
}

/// When the clock ends this session.
pub(crate) fn due_at(session: &Value) -> Option<i64> {
    (text(session, "status") == "open")
        .then(|| session.pointer("/_sim/fires_at").and_then(Value::as_i64))
        .flatten()
}

/// Ends an open session unpaid.
pub(crate) fn end(world: &mut World, id: &str) -> Value {
    let expired = world.change("checkout.session", id, None, |session| {
        session["status"] = "expired".into();
        session["url"] = Value::Null;
    });
    events::emit(world, "checkout.session.expired", &expired, None);
    expired
}

/// `POST /v1/checkout/sessions/{id}/expire`.
pub(crate) fn expire(world: &mut World, call: &Call, id: &str) -> Result<Value, Fault> {
    call.params.check(&[RETRIEVE])?;
    let session = world.need("checkout.session", id, "id")?;
    if text(&session, "status") != "open" {
        let message = format!(
            "Only Checkout Sessions with a status in [\"open\"] can be expired. This Checkout Session has a status of {}.",
            text(&session, "status")
        );
        return Err(Fault::invalid(message, None));
    }
    Ok(end(world, id))
}

/// `GET /v1/checkout/sessions/{id}`.
pub(crate) fn retrieve(world: &mut World, call: &Call, id: &str) -> Result<Value, Fault> {
    call.params.check(&[RETRIEVE])?;
    world.need("checkout.session", id, "id")
}

/// Filters of list.
pub(crate) const FILTER: &[&str] =
    &["customer", "customer_details.email", "payment_intent", "status=complete|expired|open", "subscription"];

/// `GET /v1/checkout/sessions`.
pub(crate) fn list(world: &mut World, call: &Call) -> Result<Value, Fault> {
    let params = &call.params;
    params.check(&[LIST, CREATED, FILTER])?;
    list::page(world, call, "checkout.session", "/v1/checkout/sessions", |session| {
        ["customer", "payment_intent", "status", "subscription"]
            .iter()
            .all(|key| params.text(key).is_none_or(|wanted| text(session, key) == wanted))
            && params
                .text("customer_details.email")
                .is_none_or(|email| text(&session["customer_details"], "email") == email)
    })
}

/// `GET /v1/checkout/sessions/{id}/line_items`.
pub(crate) fn line_items(world: &mut World, call: &Call, id: &str) -> Result<Value, Fault> {
    call.params.check(&[LIST])?;
    let session = world.need("checkout.session", id, "id")?;
    let items: Vec<&Value> =
        session.pointer("/_sim/line_items/data").and_then(Value::as_array).into_iter().flatten().collect();
    list::slice(&call.params, "item", &format!("/v1/checkout/sessions/{id}/line_items"), &items, |_| false)
}
