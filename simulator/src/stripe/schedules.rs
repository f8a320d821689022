//! Subscription schedules: what a subscription becomes when its period ends.
//!
//! As far as a change of the price at the end of a period needs them: made from a running subscription, given a second
//! phase, released. Where a phase begins, the price changes without proration, and the period that begins is billed
//! like any renewal; a price of another interval begins its own count of periods. A phase takes off what its own discounts
//! say and none of its subscription's (that its customer's hold then is left out: none has any). Taxes and card are the
//! phase's too, or where it names none those of the schedule's default settings, and never its subscription's. A schedule
//! whose phases are set decides about the end as well: one that releases takes a cancellation back. No recording covers the
//! order of the events, nor what a changed interval does to the invoice's hour as a draft.

use serde_json::{Value, json};

use super::{
    api::Call,
    customers::merge_metadata,
    events,
    fault::Fault,
    form::{LIST, Params, RETRIEVE},
    list, plan,
    subscriptions::{period_end, set_end},
    world::{World, int, text},
};

const KIND: &str = "subscription_schedule";

/// Parameters of create: nothing but the copy of a running subscription.
pub(crate) const CREATE: &[&str] = &["expand[]", "from_subscription!", "metadata.*"];

/// What a phase says besides its price and time.
struct Terms {
    /// The discounts it names.
    discounts: Vec<String>,
    /// Whether Stripe works out taxes; null leaves it to the default settings.
    automatic_tax: Value,
    /// The card; null leaves it to the default settings.
    default_payment_method: Value,
    /// The taxes it names itself.
    default_tax_rates: Vec<Value>,
}

fn automatic_tax(enabled: bool) -> Value {
    json!({ "disabled_reason": null, "enabled": enabled, "liability": null })
}

fn phase(price: &Value, terms: &Terms, start: i64, end: i64, proration: &str) -> Value {
    let named = |id: &String| json!({ "coupon": null, "discount": id, "promotion_code": null });
    json!({
        "add_invoice_items": [], "application_fee_percent": null, "automatic_tax": terms.automatic_tax,
        "billing_cycle_anchor": null, "billing_thresholds": null, "collection_method": null, "currency": price["currency"],
        "default_payment_method": terms.default_payment_method, "default_tax_rates": terms.default_tax_rates, "description": null,
        "discounts": terms.discounts.iter().map(named).collect::<Vec<_>>(), "end_date": end, "invoice_settings": null,
        "items": [{
            "billing_thresholds": null, "discounts": [], "metadata": {}, "plan": price["id"], "price": price["id"], "quantity": 1,
            "tax_rates": [],
        }],
        "metadata": {}, "on_behalf_of": null, "proration_behavior": proration, "start_date": start, "transfer_data": null,
        "trial_end": null,
    })
}

/// `POST /v1/subscription_schedules`.
pub(crate) fn create(world: &mut World, call: &Call) -> Result<Value, Fault> {
    let params = &call.params;
    params.check(&[CREATE])?;
    let from = params.text("from_subscription").unwrap_or_default();
    let subscription = world.need("subscription", from, "from_subscription")?;
    if !matches!(text(&subscription, "status"), "active" | "trialing" | "past_due") {
        return Err(Fault::invalid(
            "You can only create a schedule from a subscription that is running.",
            Some("from_subscription"),
        ));
    }
    if !subscription["schedule"].is_null() {
        return Err(Fault::invalid(
            "You cannot migrate a subscription that is already attached to a schedule.",
            Some("from_subscription"),
        ));
    }
    let id = world.new_id("sub_sched_1", 23);
    let item = &subscription["items"]["data"][0];
    let (start, end) = (int(item, "current_period_start"), int(item, "current_period_end"));
    let discounts: Vec<String> = subscription["discounts"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let taxed = subscription.pointer("/automatic_tax/enabled").and_then(Value::as_bool) == Some(true);
    // It begins as the subscription is; its default settings are those of a schedule that nobody has told anything.
    let terms = Terms {
        discounts,
        automatic_tax: automatic_tax(taxed),
        default_payment_method: subscription["default_payment_method"].clone(),
        default_tax_rates: subscription["default_tax_rates"].as_array().cloned().unwrap_or_default(),
    };
    let end_behavior = if subscription["cancel_at"].is_null() { "release" } else { "cancel" };
    let mut schedule = json!({
        "id": id, "object": KIND, "application": null,
        "billing_mode": { "flexible": { "proration_discounts": "included" }, "type": "flexible", "updated_at": null },
        "canceled_at": null, "completed_at": null, "created": world.now, "current_phase": { "end_date": end, "start_date": start },
        "customer": subscription["customer"],
        "default_settings": {
            "application_fee_percent": null, "automatic_tax": automatic_tax(false),
            "billing_cycle_anchor": "automatic", "billing_thresholds": null, "collection_method": "charge_automatically",
            "default_payment_method": null, "description": null,
            "invoice_settings": { "account_tax_ids": null, "days_until_due": null, "issuer": { "type": "self" } },
            "on_behalf_of": null, "transfer_data": null,
        },
        "end_behavior": end_behavior, "livemode": false, "metadata": {},
        "phases": [phase(&item["price"], &terms, start, end, "create_prorations")],
        "released_at": null, "released_subscription": null, "status": "active", "subscription": from, "test_clock": null,
    });
    merge_metadata(&mut schedule, params, "metadata");
    world.put(KIND, schedule.clone());
    events::emit(world, "subscription_schedule.created", &schedule, None);
    world.change("subscription", from, Some("customer.subscription.updated"), |subscription| {
        subscription["schedule"] = id.into();
    });
    Ok(schedule)
}

/// Parameters of update.
pub(crate) const UPDATE: &[&str] = &[
    "end_behavior=cancel|none|release|renew",
    "expand[]",
    "metadata.*",
    "phases[].automatic_tax.enabled?",
    "phases[].default_payment_method",
    "phases[].default_tax_rates[]",
    "phases[].discounts[].discount",
    "phases[].duration.interval=day|month|week|year",
    "phases[].duration.interval_count#",
    "phases[].end_date#",
    "phases[].items[].price",
    "phases[].items[].quantity#",
    "phases[].proration_behavior=always_invoice|create_prorations|none",
    "phases[].start_date#",
    "proration_behavior=always_invoice|create_prorations|none",
];

/// `POST /v1/subscription_schedules/{id}`: other phases.
pub(crate) fn update(world: &mut World, call: &Call, id: &str) -> Result<Value, Fault> {
    let params = &call.params;
    params.check(&[UPDATE])?;
    let known = world.need(KIND, id, "id")?;
    if text(&known, "status") != "active" {
        return Err(Fault::invalid(
            format!("You cannot update a schedule that is {}.", text(&known, "status")),
            None,
        ));
    }
    let phases = phases(world, params, &known)?;
    if let (Some(running), Some(last)) = (phases.first().cloned(), phases.last()) {
        let behavior = params.text("end_behavior").unwrap_or_else(|| text(&known, "end_behavior"));
        let end = (behavior == "cancel").then(|| int(last, "end_date"));
        let (id, now) = (text(&known, "subscription"), world.now);
        let before = world.get("subscription", id).cloned().unwrap_or_default();
        let after = world.change("subscription", id, None, |subscription| {
            take_over(subscription, &running, &known["default_settings"]);
            if subscription["cancel_at"].as_i64() != end {
                set_end(subscription, end, now);
            }
        });
        if before != after {
            let previous = events::previous(&before, &after);
            events::emit(world, "customer.subscription.updated", &after, Some(previous));
        }
    }
    Ok(world.change(KIND, id, Some("subscription_schedule.updated"), |schedule| {
        if let Some(word) = params.text("end_behavior") {
            schedule["end_behavior"] = word.into();
        }
        if !phases.is_empty() {
            schedule["phases"] = phases.into();
        }
        merge_metadata(schedule, params, "metadata");
    }))
}

/// The phases that are asked for; none if nothing is.
fn phases(world: &World, params: &Params, known: &Value) -> Result<Vec<Value>, Fault> {
    let mut phases: Vec<Value> = Vec::new();
    let current = &known["phases"][0];
    for index in 0.. {
        let key = |name: &str| format!("phases.{index}.{name}");
        let Some(price) = params.text(&key("items.0.price")) else { break };
        let price = world.need("price", price, "phases[items][price]")?;
        let follows = phases.last().map(|before| int(before, "end_date"));
        let start = params.int(&key("start_date")).or(follows).unwrap_or(world.now);
        if follows.is_some_and(|end| end != start) {
            return Err(Fault::invalid("Phases must follow each other without a gap.", Some("phases")));
        }
        let first = index == 0;
        if first && (start != int(current, "start_date") || price["id"] != current["items"][0]["price"]) {
            return Err(Fault::invalid("You can not modify a phase that has begun.", Some("phases")));
        }
        let end = match (params.int(&key("end_date")), params.text(&key("duration.interval"))) {
            (Some(end), None) => end,
            (None, Some(interval)) => {
                let count = params.int(&key("duration.interval_count")).unwrap_or(1);
                let every = json!({ "recurring": { "interval": interval, "interval_count": count } });
                period_end(start, &every, 1)
            }
            _ => {
                return Err(Fault::invalid(
                    "A phase needs either an `end_date` or a `duration`.",
                    Some("phases"),
                ));
            }
        };
        if end <= start {
            return Err(Fault::invalid("A phase must end after it begins.", Some("phases")));
        }
        let proration = params.text(&key("proration_behavior")).unwrap_or("create_prorations");
        let terms = terms(world, params, index, text(known, "subscription"))?;
        phases.push(phase(&price, &terms, start, end, proration));
    }
    Ok(phases)
}

/// What a phase says besides its price and time.
fn terms(world: &World, params: &Params, phase: usize, subscription: &str) -> Result<Terms, Fault> {
    let key = |name: &str| format!("phases.{phase}.{name}");
    let method = key("default_payment_method");
    let method =
        params.text(&method).map(|id| world.need("payment_method", id, "phases[default_payment_method]"));
    Ok(Terms {
        discounts: discounts(world, params, phase, subscription)?,
        automatic_tax: params.flag(&key("automatic_tax.enabled")).map_or(Value::Null, automatic_tax),
        default_payment_method: method.transpose()?.map_or(Value::Null, |method| method["id"].clone()),
        // None is ever made here, so none can be named.
        default_tax_rates: match params.texts(&key("default_tax_rates")).first() {
            Some(rate) => return Err(Fault::no_such("tax_rate", rate, "phases[default_tax_rates]")),
            None => Vec::new(),
        },
    })
}

/// The discounts that a phase names: those its subscription has.
fn discounts(world: &World, params: &Params, phase: usize, subscription: &str) -> Result<Vec<String>, Fault> {
    let mut named = Vec::new();
    for index in 0.. {
        let key = format!("phases.{phase}.discounts.{index}.discount");
        let Some(id) = params.text(&key) else { break };
        let discount = world.need("discount", id, "phases[discounts][discount]")?;
        if text(&discount, "subscription") != subscription {
            return Err(Fault::invalid("This discount is another object's.", Some("phases")));
        }
        named.push(id.to_owned());
    }
    Ok(named)
}

/// Has a subscription take off, tax and charge what a phase says; where it is silent, what the schedule's settings say.
fn take_over(subscription: &mut Value, phase: &Value, defaults: &Value) {
    let named = phase["discounts"].as_array().into_iter().flatten().map(|one| one["discount"].clone());
    let named: Vec<Value> = named.collect();
    subscription["_sim"]["discount"] = named.first().cloned().unwrap_or_default();
    subscription["discounts"] = named.into();
    for key in ["automatic_tax", "default_payment_method"] {
        let own = &phase[key];
        subscription[key] = if own.is_null() { defaults[key].clone() } else { own.clone() };
    }
    subscription["default_tax_rates"] = phase["default_tax_rates"].clone();
}

/// `GET /v1/subscription_schedules/{id}`.
pub(crate) fn retrieve(world: &mut World, call: &Call, id: &str) -> Result<Value, Fault> {
    call.params.check(&[RETRIEVE])?;
    world.need(KIND, id, "id")
}

/// `GET /v1/subscription_schedules`.
pub(crate) fn list(world: &mut World, call: &Call) -> Result<Value, Fault> {
    call.params.check(&[LIST, &["customer"]])?;
    let customer = call.params.text("customer");
    list::page(world, call, KIND, "/v1/subscription_schedules", |schedule| {
        customer.is_none_or(|wanted| text(schedule, "customer") == wanted)
    })
}

/// `POST /v1/subscription_schedules/{id}/release`: the subscription goes on as it is.
pub(crate) fn release(world: &mut World, call: &Call, id: &str) -> Result<Value, Fault> {
    call.params.check(&[RETRIEVE, &["preserve_cancel_date?"]])?;
    let known = world.need(KIND, id, "id")?;
    if !matches!(text(&known, "status"), "active" | "not_started") {
        return Err(Fault::invalid(
            format!(
                "You cannot release a subscription schedule that is currently in the `{}` status.",
                text(&known, "status")
            ),
            None,
        ));
    }
    Ok(let_go(world, id))
}

fn let_go(world: &mut World, id: &str) -> Value {
    let now = world.now;
    let mut subscription = String::new();
    let released = world.change(KIND, id, Some("subscription_schedule.released"), |schedule| {
        subscription = text(schedule, "subscription").to_owned();
        schedule["released_subscription"] = schedule["subscription"].take();
        schedule["status"] = "released".into();
        schedule["released_at"] = now.into();
        schedule["current_phase"] = Value::Null;
    });
    world.change("subscription", &subscription, Some("customer.subscription.updated"), |subscription| {
        subscription["schedule"] = Value::Null;
    });
    released
}

/// The subscription ends: so does its schedule.
pub(crate) fn cancel(world: &mut World, subscription: &Value) {
    let now = world.now;
    let id = text(subscription, "schedule").to_owned();
    if world.get(KIND, &id).is_some_and(|schedule| text(schedule, "status") == "active") {
        world.change(KIND, &id, Some("subscription_schedule.canceled"), |schedule| {
            schedule["status"] = "canceled".into();
            schedule["canceled_at"] = now.into();
            schedule["current_phase"] = Value::Null;
        });
    }
}

/// A subscription as its next period finds it: with the price of the phase that begins then.
pub(crate) fn foreseen(world: &World, subscription: &Value) -> Value {
    let mut after = subscription.clone();
    let end = int(&subscription["items"]["data"][0], "current_period_end");
    let schedule =
        world.get(KIND, text(subscription, "schedule")).filter(|one| text(one, "status") == "active");
    let mut phases = schedule.and_then(|one| one["phases"].as_array()).into_iter().flatten();
    let next = phases.find(|phase| int(phase, "start_date") <= end && int(phase, "end_date") > end);
    if let (Some(phase), Some(schedule)) = (next, schedule) {
        take_over(&mut after, phase, &schedule["default_settings"]);
    }
    if let Some(price) = next.and_then(|phase| world.get("price", text(&phase["items"][0], "price"))) {
        after["items"]["data"][0]["price"] = price.clone();
    }
    after
}

/// The end of a period: the price of the phase that begins now takes the place of the old one; after the last phase the
/// schedule lets go.
pub(crate) fn turn(world: &mut World, subscription: &str) {
    let Some(known) = world.get("subscription", subscription).cloned() else { return };
    let id = text(&known, "schedule").to_owned();
    let Some(schedule) =
        world.get(KIND, &id).filter(|schedule| text(schedule, "status") == "active").cloned()
    else {
        return;
    };
    let now = world.now;
    let mut phases = schedule["phases"].as_array().into_iter().flatten();
    let Some(next) = phases.find(|phase| int(phase, "start_date") <= now && int(phase, "end_date") > now)
    else {
        let_go(world, &id);
        return;
    };
    let (start, end) = (int(next, "start_date"), int(next, "end_date"));
    let begun = int(&schedule["current_phase"], "start_date");
    if begun == start {
        return;
    }
    world.change(KIND, &id, Some("subscription_schedule.updated"), |schedule| {
        schedule["current_phase"] = json!({ "end_date": end, "start_date": start });
    });
    let price = text(&next["items"][0], "price").to_owned();
    let next = next.clone();
    let Some(price) = world.get("price", &price).cloned() else { return };
    world.change("subscription", subscription, None, |subscription| {
        take_over(subscription, &next, &schedule["default_settings"]);
        let item = &mut subscription["items"]["data"][0];
        let same = plan::interval(&item["price"]) == plan::interval(&price);
        plan::set_price(item, &price);
        if !same {
            subscription["billing_cycle_anchor"] = now.into();
            subscription["_sim"]["periods"] = 0.into();
        }
    });
}
