//! `/v1/promotion_codes`: what customers type at the checkout, and the discounts that come of it.

use serde_json::{Value, json};

use super::{
    api::Call,
    customers::merge_metadata,
    events,
    fault::Fault,
    form::{CREATED, LIST, RETRIEVE},
    list,
    subscriptions::add_months,
    world::{World, flag, int, text},
};

/// Parameters of create.
pub(crate) const CREATE: &[&str] = &[
    "active?",
    "code",
    "customer",
    "expand[]",
    "expires_at#",
    "max_redemptions#",
    "metadata.*",
    "promotion.coupon",
    "promotion.type=coupon",
    "restrictions.first_time_transaction?",
    "restrictions.minimum_amount#",
    "restrictions.minimum_amount_currency",
];
/// Parameters of update.
pub(crate) const UPDATE: &[&str] = &["active?", "expand[]", "metadata.*"];
/// Filters of list.
pub(crate) const FILTER: &[&str] = &["active?", "code", "coupon", "customer"];

fn coupon_of(code: &Value) -> &str {
    code.pointer("/promotion/coupon").and_then(Value::as_str).unwrap_or_default()
}

fn taken(world: &World, code: &str, own: &str) -> Option<String> {
    let same = |other: &&Value| {
        flag(other, "active") && text(other, "id") != own && text(other, "code").eq_ignore_ascii_case(code)
    };
    world.all("promotion_code").into_iter().find(same).map(|other| text(other, "id").to_owned())
}

fn refuse_taken(holder: &str) -> Fault {
    let message = format!("An active promotion code with this code already exists (`{holder}`).");
    Fault::coded("resource_already_exists", message, Some("code"))
}

/// `POST /v1/promotion_codes`.
pub(crate) fn create(world: &mut World, call: &Call) -> Result<Value, Fault> {
    let params = &call.params;
    params.check(&[CREATE])?;
    let coupon = params.text("promotion.coupon").ok_or_else(|| Fault::missing("promotion[coupon]"))?;
    world.need("coupon", coupon, "promotion[coupon]")?;
    let code = match params.text("code") {
        Some(code) => code.to_owned(),
        None => world.new_id("", 8).to_uppercase(),
    };
    let active = params.flag("active").unwrap_or(true);
    if let Some(holder) = taken(world, &code, "").filter(|_| active) {
        return Err(refuse_taken(&holder));
    }
    if params.int("expires_at").is_some_and(|at| at <= world.now) {
        return Err(Fault::invalid("`expires_at` must be in the future.", Some("expires_at")));
    }
    let id = world.new_id("promo_1", 23);
    let mut promotion = json!({
        "id": id, "object": "promotion_code", "active": active, "code": code, "created": world.now,
        "customer": params.text("customer"), "customer_account": null, "expires_at": params.int("expires_at"),
        "livemode": false, "max_redemptions": params.int("max_redemptions"), "metadata": {},
        "promotion": { "coupon": coupon, "type": "coupon" },
        "restrictions": {
            "first_time_transaction": params.flag("restrictions.first_time_transaction").unwrap_or(false),
            "minimum_amount": params.int("restrictions.minimum_amount"),
            "minimum_amount_currency": params.text("restrictions.minimum_amount_currency"),
        },
        "times_redeemed": 0,
    });
    merge_metadata(&mut promotion, params, "metadata");
    world.put("promotion_code", promotion.clone());
    events::emit(world, "promotion_code.created", &promotion, None);
    Ok(promotion)
}

/// `GET /v1/promotion_codes/{id}`.
pub(crate) fn retrieve(world: &mut World, call: &Call, id: &str) -> Result<Value, Fault> {
    call.params.check(&[RETRIEVE])?;
    world.need("promotion_code", id, "id")
}

/// `POST /v1/promotion_codes/{id}`.
pub(crate) fn update(world: &mut World, call: &Call, id: &str) -> Result<Value, Fault> {
    let params = &call.params;
    params.check(&[UPDATE])?;
    let known = world.need("promotion_code", id, "id")?;
    if params.flag("active") == Some(true) {
        if let Some(holder) = taken(world, text(&known, "code"), id) {
            return Err(refuse_taken(&holder));
        }
        if over(world, &known) {
            return Err(Fault::invalid(
                "This promotion code has expired, is used up or its coupon is gone; it cannot be activated.",
                Some("active"),
            ));
        }
    }
    Ok(world.change("promotion_code", id, Some("promotion_code.updated"), |promotion| {
        if let Some(active) = params.flag("active") {
            promotion["active"] = active.into();
        }
        merge_metadata(promotion, params, "metadata");
    }))
}

/// `GET /v1/promotion_codes`.
pub(crate) fn list(world: &mut World, call: &Call) -> Result<Value, Fault> {
    let params = &call.params;
    params.check(&[LIST, CREATED, FILTER])?;
    let (active, code) = (params.flag("active"), params.text("code"));
    list::page(world, call, "promotion_code", "/v1/promotion_codes", |promotion| {
        active.is_none_or(|wanted| flag(promotion, "active") == wanted)
            && code.is_none_or(|wanted| text(promotion, "code").eq_ignore_ascii_case(wanted))
            && params.text("coupon").is_none_or(|wanted| coupon_of(promotion) == wanted)
            && params.text("customer").is_none_or(|wanted| text(promotion, "customer") == wanted)
    })
}

/// Whether nobody can use a code any more, although nobody ended it.
fn over(world: &World, promotion: &Value) -> bool {
    let coupon = world.get("coupon", coupon_of(promotion));
    let full = |object: &Value| {
        object["max_redemptions"].as_i64().is_some_and(|most| int(object, "times_redeemed") >= most)
    };
    let past = |at: &Value| at.as_i64().is_some_and(|at| at <= world.now);
    full(promotion)
        || past(&promotion["expires_at"])
        || coupon.is_none_or(|coupon| full(coupon) || past(&coupon["redeem_by"]))
}

/// What a code that was typed on a session's page gives: its coupon and itself.
///
/// # Errors
/// Why not, in the page's words.
pub(crate) fn redeem(world: &World, session: &Value, code: &str) -> Result<(Value, Value), &'static str> {
    let unknown = "This code is invalid.";
    let same = |promotion: &&Value| {
        flag(promotion, "active") && text(promotion, "code").eq_ignore_ascii_case(code.trim())
    };
    let promotion = world.all("promotion_code").into_iter().find(same).ok_or(unknown)?;
    if over(world, promotion) {
        return Err("This code has expired.");
    }
    let customer = text(session, "customer");
    let bought = world
        .all("charge")
        .into_iter()
        .any(|charge| !customer.is_empty() && text(charge, "customer") == customer && flag(charge, "paid"));
    if flag(&promotion["restrictions"], "first_time_transaction") && bought {
        return Err("This code is for a first purchase only.");
    }
    if promotion["customer"].as_str().is_some_and(|wanted| wanted != customer) {
        return Err(unknown);
    }
    let coupon = world.get("coupon", coupon_of(promotion)).ok_or(unknown)?;
    let currency = text(coupon, "currency");
    if !currency.is_empty() && currency != text(session, "currency") {
        return Err("This code is not for this currency.");
    }
    Ok((coupon.clone(), promotion.clone()))
}

/// A paid session used its code: it is counted, and the subscription has the discount for as long as it lasts.
pub(crate) fn attach(world: &mut World, session: &Value, subscription: &str) -> Option<String> {
    let coupon = session.pointer("/_sim/discount/coupon")?.clone();
    let promotion =
        session.pointer("/_sim/discount/promotion").map(|promotion| text(promotion, "id").to_owned())?;
    for (kind, id) in [("coupon", text(&coupon, "id")), ("promotion_code", promotion.as_str())] {
        world.change(kind, id, Some(format!("{kind}.updated").as_str()), |object| {
            object["times_redeemed"] = (int(object, "times_redeemed") + 1).into();
            if object["max_redemptions"].as_i64().is_some_and(|most| int(object, "times_redeemed") >= most) {
                object[if kind == "coupon" { "valid" } else { "active" }] = false.into();
            }
        });
    }
    let id = world.new_id("di_1", 23);
    let end = match text(&coupon, "duration") {
        "repeating" => Some(add_months(world.now, int(&coupon, "duration_in_months"))),
        _ => None,
    };
    let discount = json!({
        "id": id, "object": "discount", "checkout_session": session["id"], "customer": session["customer"], "end": end,
        "invoice": null, "invoice_item": null, "promotion_code": promotion,
        "source": { "coupon": coupon["id"], "type": "coupon" }, "start": world.now, "subscription": subscription,
        "subscription_item": null, "_sim": { "coupon": coupon },
    });
    world.put("discount", discount.clone());
    events::emit(world, "customer.discount.created", &discount, None);
    Some(id)
}
