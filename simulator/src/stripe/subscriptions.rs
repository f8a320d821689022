//! Subscriptions: begun by a paid checkout, renewed by the clock, ended by request, at period end or unpaid.

use serde_json::{Value, json};
use time::{Date, Month, OffsetDateTime};

use super::{
    api::Call,
    collection,
    customers::merge_metadata,
    events,
    fault::Fault,
    form::{CREATED, LIST, Params, RETRIEVE},
    invoices, list, pauses,
    world::{World, int, text},
};

/// Begins an active subscription of a customer; its first invoice is drafted by the caller.
pub(crate) fn begin(
    world: &mut World,
    customer: &str,
    method: &str,
    items: &[(Value, i64)],
    metadata: &Value,
    description: Option<&str>,
) -> Value {
    let id = world.new_id("sub_1", 23);
    let now = world.now;
    let currency = items.first().map_or("", |(price, _)| text(price, "currency"));
    let items: Vec<Value> =
        items.iter().map(|(price, quantity)| item(world, &id, price, *quantity)).collect();
    let subscription = json!({
        "id": id, "object": "subscription", "application": null, "application_fee_percent": null,
        "automatic_tax": { "disabled_reason": null, "enabled": false, "liability": null },
        "billing_cycle_anchor": now, "billing_cycle_anchor_config": null,
        "billing_mode": { "flexible": { "proration_discounts": "included" }, "type": "flexible", "updated_at": null },
        "billing_schedules": [], "billing_thresholds": null, "cancel_at": null, "cancel_at_period_end": false, "canceled_at": null,
        "cancellation_details": { "comment": null, "feedback": null, "reason": null }, "collection_method": "charge_automatically",
        "created": now, "currency": currency, "customer": customer, "days_until_due": null, "default_payment_method": method,
        "default_source": null, "default_tax_rates": [], "description": description, "discounts": [], "ended_at": null,
        "invoice_settings": { "account_tax_ids": null, "issuer": { "type": "self" } },
        "items": { "object": "list", "data": items, "has_more": false, "total_count": items.len(), "url": format!("/v1/subscription_items?subscription={id}") },
        "latest_invoice": null, "livemode": false, "metadata": metadata, "next_pending_invoice_item_invoice": null, "on_behalf_of": null,
        "pause_collection": null, "status_details": null,
        "payment_settings": { "payment_method_options": null, "payment_method_types": null, "save_default_payment_method": "off" },
        "pending_invoice_item_interval": null, "pending_setup_intent": null, "pending_update": null, "schedule": null, "start_date": now,
        "status": "active", "test_clock": null, "transfer_data": null, "trial_end": null,
        "trial_settings": { "end_behavior": { "missing_payment_method": "create_invoice" } }, "trial_start": null,
        "_sim": { "periods": 1, "previous_start": now },
    });
    world.put("subscription", subscription.clone());
    subscription
}

/// Before the end of a trial, so long.
const WILL_END: i64 = 3 * 86_400;

/// The first days cost nothing: the period is the trial, and billing is counted from its end.
pub(crate) fn begin_trial(world: &mut World, id: &str, days: i64, without_card: &str) -> Value {
    let now = world.now;
    world.change("subscription", id, None, |subscription| {
        if days == 0 {
            return;
        }
        let end = now + days * 86_400;
        subscription["status"] = "trialing".into();
        subscription["trial_start"] = now.into();
        subscription["trial_end"] = end.into();
        subscription["billing_cycle_anchor"] = end.into();
        subscription["trial_settings"]["end_behavior"]["missing_payment_method"] = without_card.into();
        subscription["_sim"]["periods"] = 0.into();
        subscription["_sim"]["trial_told"] = false.into();
        for item in subscription["items"]["data"].as_array_mut().into_iter().flatten() {
            item["current_period_end"] = end.into();
        }
    })
}

/// When the end of a trial is announced.
fn announced_at(subscription: &Value) -> Option<i64> {
    let waits = subscription.pointer("/_sim/trial_told").and_then(Value::as_bool) == Some(false);
    subscription["trial_end"].as_i64().filter(|_| waits).map(|end| end - WILL_END)
}

/// The end of a trial is near: tells so, once. `false` if it is not, or was told.
fn announce(world: &mut World, id: &str, subscription: &Value) -> bool {
    if announced_at(subscription).is_none_or(|at| at > world.now) {
        return false;
    }
    let told = world.change("subscription", id, None, |subscription| {
        subscription["_sim"]["trial_told"] = true.into();
    });
    events::emit(world, "customer.subscription.trial_will_end", &told, None);
    true
}

/// A trial is over: paid from now on, or over where nobody left a way to pay.
fn after_trial(world: &mut World, id: &str, subscription: &Value) -> bool {
    let ends = text(&subscription["trial_settings"]["end_behavior"], "missing_payment_method") == "cancel";
    if ends && subscription["default_payment_method"].is_null() {
        end(world, id, "cancellation_requested");
        return false;
    }
    world.change("subscription", id, None, |subscription| subscription["status"] = "active".into());
    true
}

fn item(world: &mut World, subscription: &str, price: &Value, quantity: i64) -> Value {
    let id = world.new_id("si_", 14);
    let now = world.now;
    let recurring = &price["recurring"];
    json!({
        "id": id, "object": "subscription_item", "billing_thresholds": null, "created": now, "current_period_end": period_end(now, price, 1),
        "current_period_start": now, "discounts": [], "metadata": {},
        "plan": {
            "id": price["id"], "object": "plan", "active": true, "amount": price["unit_amount"], "amount_decimal": price["unit_amount_decimal"],
            "billing_scheme": "per_unit", "created": price["created"], "currency": price["currency"], "interval": recurring["interval"],
            "interval_count": recurring["interval_count"], "livemode": false, "metadata": {}, "meter": null, "nickname": null,
            "product": price["product"], "tiers_mode": null, "transform_usage": null, "trial_period_days": null, "usage_type": "licensed",
        },
        "price": price, "quantity": quantity, "subscription": subscription, "tax_rates": [],
    })
}

/// When the n-th period ends that is counted from the anchor: months are clamped to their last day.
pub(crate) fn period_end(anchor: i64, price: &Value, periods: i64) -> i64 {
    let recurring = &price["recurring"];
    let count = int(recurring, "interval_count").max(1) * periods;
    match text(recurring, "interval") {
        "day" => anchor + count * 86_400,
        "week" => anchor + count * 7 * 86_400,
        "year" => add_months(anchor, count * 12),
        _ => add_months(anchor, count),
    }
}

/// `at` and so many months on; a day that is not becomes the month's last.
pub(crate) fn add_months(at: i64, months: i64) -> i64 {
    let Ok(start) = OffsetDateTime::from_unix_timestamp(at) else { return at };
    let total = i64::from(start.year()) * 12 + i64::from(u8::from(start.month())) - 1 + months;
    let Ok(year) = i32::try_from(total.div_euclid(12)) else { return at };
    let month = u8::try_from(total.rem_euclid(12) + 1)
        .ok()
        .and_then(|number| Month::try_from(number).ok())
        .unwrap_or(Month::January);
    let day = start.day().min(month.length(year));
    Date::from_calendar_date(year, month, day).map_or(at, |date| start.replace_date(date).unix_timestamp())
}

/// When the clock must look at this subscription next.
pub(crate) fn due_at(subscription: &Value) -> Option<i64> {
    if text(subscription, "status") == "paused" {
        return pauses::due_at(subscription);
    }
    if !matches!(text(subscription, "status"), "active" | "past_due" | "unpaid" | "trialing") {
        return None;
    }
    let period = subscription.pointer("/items/data/0/current_period_end").and_then(Value::as_i64)?;
    let next = subscription["cancel_at"].as_i64().map_or(period, |cancel| cancel.min(period));
    let next = announced_at(subscription).map_or(next, |at| at.min(next));
    let next = collection::resumes_at(subscription).map_or(next, |at| at.min(next));
    Some(super::plan::expires_at(subscription).map_or(next, |expires| expires.min(next)))
}

/// The clock has reached the end of the period: end the subscription if so asked, else renew it.
pub(crate) fn roll(world: &mut World, id: &str) {
    if super::plan::expire(world, id) || pauses::expire(world, id) || collection::expire(world, id) {
        return;
    }
    let Some(subscription) = world.get("subscription", id).cloned() else { return };
    if announce(world, id, &subscription) {
        return;
    }
    if subscription["cancel_at"].as_i64().is_some_and(|at| at <= world.now) {
        end(world, id, "cancellation_requested");
        super::invoice_items::last(world, &subscription);
        return;
    }
    let before = subscription;
    if text(&before, "status") == "trialing" && !after_trial(world, id, &before) {
        return;
    }
    super::schedules::turn(world, id);
    let Some(subscription) = world.get("subscription", id).cloned() else { return };
    let anchor = int(&subscription, "billing_cycle_anchor");
    let periods = int(&subscription["_sim"], "periods") + 1;
    let previous = int(&subscription["items"]["data"][0], "current_period_start");
    let renewed = world.change("subscription", id, None, |subscription| {
        subscription["_sim"]["periods"] = periods.into();
        for item in subscription["items"]["data"].as_array_mut().into_iter().flatten() {
            item["current_period_start"] = item["current_period_end"].clone();
            item["current_period_end"] = period_end(anchor, &item["price"], periods).into();
        }
        subscription["_sim"]["previous_start"] = previous.into();
    });
    let invoice = invoices::draft(world, &renewed, "subscription_cycle");
    collection::hold(world, &renewed, &invoice);
    if text(&before, "status") == "unpaid" {
        // What was given up is billed on, and nothing of it is tried to collect.
        world.change("invoice", &invoice, None, |invoice| {
            invoice["auto_advance"] = false.into();
            invoice["automatically_finalizes_at"] = Value::Null;
        });
    }
    let after = world.change("subscription", id, None, |subscription| {
        subscription["latest_invoice"] = invoice.clone().into()
    });
    events::emit(world, "customer.subscription.updated", &after, Some(events::previous(&before, &after)));
}

/// An invoice was tried: the subscription follows its latest one.
pub(crate) fn after_collection(world: &mut World, id: &str, paid: bool, last_try: bool) {
    if paid {
        recovered(world, id);
        return;
    }
    // An older one that nobody pays is an invoice's matter, once the latest is paid.
    if is_up_to_date(world, id) {
        return;
    }
    let status = world
        .get("subscription", id)
        .map(|subscription| text(subscription, "status").to_owned())
        .unwrap_or_default();
    let policy = after_retries(world);
    if matches!(status.as_str(), "canceled" | "paused") {
        // The last invoice of one that has ended, or that of a resumption: there is nothing to end.
        return;
    }
    if last_try && policy == "cancel" {
        end(world, id, "payment_failed");
    } else if last_try && policy == "unpaid" {
        world.change("subscription", id, Some("customer.subscription.updated"), |subscription| {
            subscription["status"] = "unpaid".into()
        });
    } else if status == "active" {
        world.change("subscription", id, Some("customer.subscription.updated"), |subscription| {
            subscription["status"] = "past_due".into()
        });
    }
}

/// What becomes of a subscription after the last try, as the dashboard's setting says: `cancel`, `unpaid` or `past_due`.
pub(crate) fn after_retries(world: &World) -> String {
    world.get("_meta", "meta_policy").map_or("cancel", |policy| text(policy, "after_retries")).to_owned()
}

/// Whether the latest invoice of a subscription is paid, whatever became of those before. Drafts do not count, nor what
/// nobody has to pay any more.
///
/// Source: Stripe's guide "How subscriptions work" has `past_due` as "payment on the latest finalized invoice either failed or
/// wasn't attempted".
fn is_up_to_date(world: &World, id: &str) -> bool {
    let of_it = |invoice: &&Value| {
        invoices::subscription_of(invoice) == id
            && !invoices::is_apart(invoice)
            && matches!(text(invoice, "status"), "open" | "paid")
    };
    world.all("invoice").into_iter().find(of_it).is_none_or(|latest| text(latest, "status") == "paid")
}

/// An invoice was paid: active again, if that was the latest, or the latest was paid before.
pub(crate) fn recovered(world: &mut World, id: &str) {
    let late = world
        .get("subscription", id)
        .is_some_and(|subscription| matches!(text(subscription, "status"), "past_due" | "unpaid"));
    if late && is_up_to_date(world, id) {
        world.change("subscription", id, Some("customer.subscription.updated"), |subscription| {
            subscription["status"] = "active".into()
        });
    }
}

/// Ends the subscription now.
pub(crate) fn end(world: &mut World, id: &str, reason: &str) -> Value {
    let now = world.now;
    if let Some(known) = world.get("subscription", id).cloned() {
        super::schedules::cancel(world, &known);
    }
    let ended = world.change("subscription", id, None, |subscription| {
        subscription["status"] = "canceled".into();
        subscription["ended_at"] = now.into();
        // A change that waits for its payment does not come about any more.
        subscription["pending_update"] = Value::Null;
        subscription["_sim"]["pending"] = Value::Null;
        subscription["status_details"] = Value::Null;
        subscription["_sim"]["resuming"] = Value::Null;
        if subscription["canceled_at"].is_null() {
            subscription["canceled_at"] = now.into();
        }
        if subscription["cancellation_details"]["reason"].is_null() {
            subscription["cancellation_details"]["reason"] = reason.into();
        }
    });
    events::emit(world, "customer.subscription.deleted", &ended, None);
    invoices::stop_collecting(world, id);
    ended
}

/// `GET /v1/subscriptions/{id}`.
pub(crate) fn retrieve(world: &mut World, call: &Call, id: &str) -> Result<Value, Fault> {
    call.params.check(&[RETRIEVE])?;
    world.need("subscription", id, "id")
}

/// Parameters of update.
pub(crate) const UPDATE: &[&str] = &[
    "items[].id",
    "items[].price",
    "payment_behavior=allow_incomplete|default_incomplete|error_if_incomplete|pending_if_incomplete",
    "proration_date#",
    "cancel_at",
    "cancel_at_period_end?",
    "cancellation_details.comment",
    "cancellation_details.feedback",
    "default_payment_method",
    "description",
    "expand[]",
    "metadata.*",
    "proration_behavior=always_invoice|create_prorations|none",
];

/// `POST /v1/subscriptions/{id}`.
pub(crate) fn update(world: &mut World, call: &Call, id: &str) -> Result<Value, Fault> {
    let params = &call.params;
    params.check(&[UPDATE, collection::PARAMS])?;
    let current = world.need("subscription", id, "id")?;
    if text(&current, "status") == "canceled" {
        return Err(Fault::invalid(
            "A canceled subscription can only update its cancellation_details and metadata.",
            None,
        ));
    }
    if let Some(method) = params.text("default_payment_method") {
        world.need("payment_method", method, "default_payment_method")?;
    }
    if params.has("cancel_at") && params.has("cancel_at_period_end") {
        return Err(Fault::invalid(
            "You may only specify one of these parameters: cancel_at, cancel_at_period_end.",
            None,
        ));
    }
    if !current["schedule"].is_null() && (params.has("cancel_at") || params.has("cancel_at_period_end")) {
        return Err(Fault::invalid(
            format!(
                "The subscription is managed by the subscription schedule `{}`, and updating any cancelation behavior directly is not allowed. Please update the schedule instead.",
                text(&current, "schedule")
            ),
            None,
        ));
    }
    if let Some(changed) = super::plan::change(world, params, id)? {
        return Ok(changed);
    }
    let now = world.now;
    Ok(world.change("subscription", id, Some("customer.subscription.updated"), |subscription| {
        apply(subscription, params, now)
    }))
}

fn apply(subscription: &mut Value, params: &Params, now: i64) {
    for key in ["default_payment_method", "description"] {
        if params.has(key) {
            subscription[key] = params.text(key).map_or(Value::Null, Value::from);
        }
    }
    if let Some(at_end) = params.flag("cancel_at_period_end") {
        cancel_at_period_end(subscription, at_end, now);
    } else if params.has("cancel_at") {
        set_end(subscription, params.int("cancel_at"), now);
    }
    collection::apply(subscription, params);
    details(subscription, params);
    merge_metadata(subscription, params, "metadata");
}

/// Ends the subscription with the running period, or takes that back.
pub(crate) fn cancel_at_period_end(subscription: &mut Value, at_end: bool, now: i64) {
    let end = subscription.pointer("/items/data/0/current_period_end").and_then(Value::as_i64);
    set_end(subscription, end.filter(|_| at_end), now);
    subscription["cancel_at_period_end"] = at_end.into();
}

/// What a subscription is charged to: its own card, or its customer's.
pub(crate) fn card(world: &World, subscription: &Value) -> String {
    let own = text(subscription, "default_payment_method");
    if !own.is_empty() {
        return own.to_owned();
    }
    let customer = world.get("customer", text(subscription, "customer"));
    customer.map_or("", |customer| text(&customer["invoice_settings"], "default_payment_method")).to_owned()
}

/// Has a subscription end at a time, or no longer.
pub(crate) fn set_end(subscription: &mut Value, at: Option<i64>, now: i64) {
    subscription["cancel_at_period_end"] = false.into();
    subscription["cancel_at"] = at.map_or(Value::Null, Value::from);
    subscription["canceled_at"] = at.map_or(Value::Null, |_| now.into());
    subscription["cancellation_details"]["reason"] =
        at.map_or(Value::Null, |_| "cancellation_requested".into());
}

fn details(subscription: &mut Value, params: &Params) {
    for key in ["comment", "feedback"] {
        if let Some(said) = params.text(&format!("cancellation_details.{key}")) {
            subscription["cancellation_details"][key] = said.into();
        }
    }
}

/// Parameters of cancel.
pub(crate) const CANCEL: &[&str] = &[
    "cancellation_details.comment",
    "cancellation_details.feedback",
    "expand[]",
    "invoice_now?",
    "prorate?",
];

/// `DELETE /v1/subscriptions/{id}`: ends it at once.
pub(crate) fn cancel(world: &mut World, call: &Call, id: &str) -> Result<Value, Fault> {
    call.params.check(&[CANCEL])?;
    let current = world.need("subscription", id, "id")?;
    if text(&current, "status") == "canceled" {
        // Stripe answers a second cancellation as if the subscription were unknown.
        return Err(Fault::no_such("subscription", id, "id"));
    }
    world.change("subscription", id, None, |subscription| details(subscription, &call.params));
    Ok(end(world, id, "cancellation_requested"))
}

/// Filters of list.
pub(crate) const FILTER: &[&str] = &[
    "collection_method=charge_automatically|send_invoice",
    "customer",
    "price",
    "status=active|all|canceled|ended|incomplete|incomplete_expired|past_due|paused|trialing|unpaid",
];

/// `GET /v1/subscriptions`: without a status, those that have not been cancelled.
pub(crate) fn list(world: &mut World, call: &Call) -> Result<Value, Fault> {
    let params = &call.params;
    params.check(&[LIST, CREATED, FILTER])?;
    list::page(world, call, "subscription", "/v1/subscriptions", |subscription| {
        let status = text(subscription, "status");
        let ended = matches!(status, "canceled" | "incomplete_expired");
        let wanted = match params.text("status") {
            None => !ended,
            Some("all") => true,
            Some("ended") => ended,
            Some(word) => word == status,
        };
        wanted
            && params.text("customer").is_none_or(|customer| text(subscription, "customer") == customer)
            && params.text("price").is_none_or(|price| {
                subscription.pointer("/items/data/0/price/id").and_then(Value::as_str) == Some(price)
            })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::period_end;

    fn at(text: &str) -> i64 {
        time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339)
            .unwrap()
            .unix_timestamp()
    }

    #[test]
    fn months_are_clamped_but_come_back_to_the_anchor_day() {
        let monthly = json!({ "recurring": { "interval": "month", "interval_count": 1 } });
        let anchor = at("2026-01-31T10:00:00Z");
        assert_eq!(period_end(anchor, &monthly, 1), at("2026-02-28T10:00:00Z"));
        assert_eq!(period_end(anchor, &monthly, 2), at("2026-03-31T10:00:00Z"));
        let yearly = json!({ "recurring": { "interval": "year", "interval_count": 1 } });
        assert_eq!(period_end(at("2024-02-29T00:00:00Z"), &yearly, 1), at("2025-02-28T00:00:00Z"));
    }
}
