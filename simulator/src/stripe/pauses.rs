//! `/v1/subscriptions/{id}/pause` and `/resume`: a subscription that stands still. It makes no invoices and enters no
//! period until it is resumed; `pause_collection`, which leaves the status alone, is [`super::collection`].
//!
//! Pausing gives credit for the time that was paid and is not used, with the next invoice unless asked otherwise. Resuming
//! begins a new period and bills it, or goes back into the old rhythm and bills the rest of the period. An invoice of a
//! resumption is open at once; until it is paid the subscription stays paused, and it is void if nobody tries within 23
//! hours. Source: Stripe's reference and guide of 2026-09-30.endive. No recording covers the order of events, which
//! subscriptions besides active ones can be paused, or what becomes of credit on an invoice that is void.

use serde_json::{Value, json};

use super::{
    api::Call,
    events,
    fault::Fault,
    form::Params,
    invoice_items, invoices, plan,
    subscriptions::period_end,
    totals,
    world::{World, flag, int, text},
};

/// Parameters of pause.
pub(crate) const PAUSE: &[&str] = &[
    "bill_for.outstanding_usage_through.type=none|now",
    "bill_for.unused_time_from.type=item_current_period_start|none|now",
    "expand[]",
    "invoicing_behavior=invoice|pending_invoice_item",
    "type=subscription",
];
/// Parameters of resume.
pub(crate) const RESUME: &[&str] = &[
    "billing_cycle_anchor.type=now|unchanged",
    "expand[]",
    "payment_behavior=resume_on_payment_attempt|resume_on_payment_success",
    "proration_behavior=always_invoice|create_prorations|none",
    "proration_date#",
];

/// How long the invoice of a resumption waits for somebody to try to pay it.
const RESUMPTION_WAITS: i64 = 23 * 3_600;

/// `POST /v1/subscriptions/{id}/pause`.
pub(crate) fn pause(world: &mut World, call: &Call, id: &str) -> Result<Value, Fault> {
    let params = &call.params;
    params.check(&[PAUSE])?;
    let current = world.need("subscription", id, "id")?;
    can_pause(&current)?;
    let credited = credit(world, params, &current);
    let now = world.now;
    let before = world.get("subscription", id).cloned().unwrap_or_default();
    let paused = world.change("subscription", id, None, |subscription| {
        subscription["status"] = "paused".into();
        subscription["status_details"] = json!({
            "paused": { "subscription": { "type": "pause_requested" }, "transitioned_at": now, "type": "subscription" },
        });
        subscription["_sim"]["credited"] = credited.into();
    });
    events::emit(world, "customer.subscription.paused", &paused, None);
    events::emit(world, "customer.subscription.updated", &paused, Some(events::previous(&before, &paused)));
    Ok(paused)
}

fn can_pause(subscription: &Value) -> Result<(), Fault> {
    let status = text(subscription, "status");
    let hindered = if status != "active" {
        format!("You can only pause an active subscription; this one is {status}.")
    } else if !subscription["schedule"].is_null() {
        "You cannot pause a subscription that has a subscription schedule attached.".to_owned()
    } else if !subscription["pause_collection"].is_null() {
        "You cannot pause a subscription whose payment collection is paused.".to_owned()
    } else if !subscription["pending_update"].is_null() {
        "You cannot pause a subscription with a pending update.".to_owned()
    } else {
        return Ok(());
    };
    Err(Fault::invalid(hindered, None))
}

/// Gives back what of the running period is not used; tells whether it was asked to.
fn credit(world: &mut World, params: &Params, subscription: &Value) -> bool {
    let item = subscription["items"]["data"][0].clone();
    let (start, end) = (int(&item, "current_period_start"), int(&item, "current_period_end"));
    let from = match params.text("bill_for.unused_time_from.type").unwrap_or("now") {
        "none" => return false,
        "item_current_period_start" => start,
        _ => world.now,
    };
    // What a coupon had taken off was not paid.
    let unused = plan::part(whole(&item), end - from, end - start);
    let unused = totals::after_discount(unused, &subscription["_sim"]["taken_off"]);
    if unused == 0 {
        return true;
    }
    if params.text("invoicing_behavior") == Some("invoice") {
        let invoice = world.new_id("in_1", 23);
        let line = plan::proration(world, &invoice, subscription, &item, (from, end), -unused);
        bill(world, subscription, &invoice, vec![line]);
        invoices::collect(world, &invoice, "", true);
    } else {
        invoice_items::prorate(world, subscription, &item, (from, end), -unused);
    }
    true
}

/// What an item costs a period.
fn whole(item: &Value) -> i64 {
    int(&item["price"], "unit_amount") * int(item, "quantity").max(1)
}

/// Makes an invoice of these lines and of what waits, and opens it at once.
fn bill(world: &mut World, after: &Value, invoice: &str, mut lines: Vec<Value>) {
    let subscription = text(after, "id").to_owned();
    lines.extend(invoice_items::take(world, invoice, &subscription));
    let built = invoices::build(world, invoice, after, "subscription_update", lines);
    world.put("invoice", built.clone());
    events::emit(world, "invoice.created", &built, None);
    invoices::finalize(world, invoice);
    world.change("subscription", &subscription, Some("customer.subscription.updated"), |subscription| {
        subscription["latest_invoice"] = invoice.into();
    });
}

/// `POST /v1/subscriptions/{id}/resume`.
pub(crate) fn resume(world: &mut World, call: &Call, id: &str) -> Result<Value, Fault> {
    let params = &call.params;
    params.check(&[RESUME])?;
    let current = world.need("subscription", id, "id")?;
    if text(&current, "status") != "paused" {
        return Err(Fault::invalid("You can only resume a subscription that is paused.", None));
    }
    if !current["_sim"]["resuming"].is_null() {
        return Err(Fault::invalid(
            "The invoice of an earlier resumption is open: pay or void it first.",
            None,
        ));
    }
    let at = params.int("proration_date").unwrap_or(world.now);
    let invoice = world.new_id("in_1", 23);
    let (after, lines) = match params.text("billing_cycle_anchor.type").unwrap_or("now") {
        "unchanged" => old_rhythm(world, params, &current, &invoice, at),
        _ => new_period(world, &current, &invoice),
    };
    let Some(lines) = lines else {
        return Ok(go_on(world, id, &after, "active"));
    };
    bill(world, &after, &invoice, lines);
    let success = params.text("payment_behavior") == Some("resume_on_payment_success");
    let voids_at = world.now + RESUMPTION_WAITS;
    world.change("subscription", id, None, |subscription| {
        subscription["_sim"]["resuming"] =
            json!({ "invoice": invoice, "after": after, "success": success, "voids_at": voids_at });
    });
    let due = world.get("invoice", &invoice).map_or(0, |invoice| int(invoice, "amount_due"));
    if success || due == 0 {
        let method = text(&current, "default_payment_method").to_owned();
        invoices::collect(world, &invoice, &method, true);
    }
    world.need("subscription", id, "id")
}

/// As it is when billing is counted from now on, and the lines of the first period.
fn new_period(world: &mut World, current: &Value, invoice: &str) -> (Value, Option<Vec<Value>>) {
    let now = world.now;
    let mut after = current.clone();
    after["billing_cycle_anchor"] = now.into();
    after["_sim"]["periods"] = 1.into();
    after["_sim"]["previous_start"] = now.into();
    for item in after["items"]["data"].as_array_mut().into_iter().flatten() {
        item["current_period_start"] = now.into();
        item["current_period_end"] = period_end(now, &item["price"], 1).into();
    }
    let item = after["items"]["data"][0].clone();
    let line = invoices::line(world, invoice, &after, &item);
    (after, Some(vec![line]))
}

/// As it is in the period of the old anchor that surrounds this moment, and the line of what is left of it, if that is
/// billed now.
fn old_rhythm(
    world: &mut World,
    params: &Params,
    current: &Value,
    invoice: &str,
    at: i64,
) -> (Value, Option<Vec<Value>>) {
    let now = world.now;
    let anchor = int(current, "billing_cycle_anchor");
    let mut after = current.clone();
    let paid_until = int(&current["items"]["data"][0], "current_period_end");
    let mut periods = int(&current["_sim"], "periods").max(1);
    let price = current["items"]["data"][0]["price"].clone();
    while period_end(anchor, &price, periods) <= now {
        periods += 1;
    }
    let end = period_end(anchor, &price, periods);
    if end != paid_until {
        after["_sim"]["periods"] = periods.into();
        after["_sim"]["previous_start"] = current["items"]["data"][0]["current_period_start"].clone();
        for item in after["items"]["data"].as_array_mut().into_iter().flatten() {
            item["current_period_start"] = period_end(anchor, &price, periods - 1).into();
            item["current_period_end"] = end.into();
        }
    }
    let item = after["items"]["data"][0].clone();
    // What was paid and not given back is not charged again.
    let from = if flag(&current["_sim"], "credited") { at } else { at.max(paid_until) };
    let rest = plan::part(whole(&item), (end - from).max(0), end - int(&item, "current_period_start"));
    let behaviour = params.text("proration_behavior").unwrap_or("create_prorations");
    match (behaviour, rest) {
        ("none", _) | (_, 0) => (after, None),
        ("always_invoice", _) => {
            let line = plan::proration(world, invoice, &after, &item, (from, end), rest);
            (after, Some(vec![line]))
        }
        _ => {
            invoice_items::prorate(world, &after, &item, (from, end), rest);
            (after, None)
        }
    }
}

/// The subscription is no longer paused.
fn go_on(world: &mut World, id: &str, wanted: &Value, status: &str) -> Value {
    let before = world.get("subscription", id).cloned().unwrap_or_default();
    let after = world.change("subscription", id, None, |subscription| {
        for key in ["items", "billing_cycle_anchor"] {
            subscription[key] = wanted[key].clone();
        }
        for key in ["periods", "previous_start"] {
            subscription["_sim"][key] = wanted["_sim"][key].clone();
        }
        subscription["_sim"]["resuming"] = Value::Null;
        subscription["status"] = status.into();
        subscription["status_details"] = Value::Null;
    });
    events::emit(world, "customer.subscription.resumed", &after, None);
    events::emit(world, "customer.subscription.updated", &after, Some(events::previous(&before, &after)));
    after
}

/// The resumption that waits for this invoice, if one does.
fn waiting(world: &World, subscription: &str, invoice: &str) -> Option<Value> {
    let resuming = &world.get("subscription", subscription)?["_sim"]["resuming"];
    (text(resuming, "invoice") == invoice).then(|| resuming.clone())
}

/// An invoice is paid, or nobody has to pay it: what waited for it goes on.
pub(crate) fn invoice_paid(world: &mut World, subscription: &str, invoice: &str) {
    if let Some(resuming) = waiting(world, subscription, invoice) {
        go_on(world, subscription, &resuming["after"], "active");
    }
}

/// Whether a resumption waits for a try to collect this invoice, however it ends: nobody tries again by itself.
pub(crate) fn is_tried_once(world: &World, subscription: &str, invoice: &str) -> bool {
    waiting(world, subscription, invoice).is_some_and(|resuming| !flag(&resuming, "success"))
}

/// A try to collect an invoice failed: where the try is what counts, the subscription goes on and owes it.
pub(crate) fn attempt_failed(world: &mut World, subscription: &str, invoice: &str) {
    let Some(resuming) = waiting(world, subscription, invoice) else { return };
    if !flag(&resuming, "success") {
        go_on(world, subscription, &resuming["after"], "past_due");
    }
}

/// An invoice is void: what waited for it stays paused.
pub(crate) fn invoice_voided(world: &mut World, subscription: &str, invoice: &str) {
    if waiting(world, subscription, invoice).is_some() {
        world.change("subscription", subscription, None, |subscription| {
            subscription["_sim"]["resuming"] = Value::Null;
        });
    }
}

/// When the clock must look at a paused subscription next.
pub(crate) fn due_at(subscription: &Value) -> Option<i64> {
    let voids_at = subscription["_sim"]["resuming"]["voids_at"].as_i64();
    [voids_at, subscription["cancel_at"].as_i64()].into_iter().flatten().min()
}

/// Nobody tried to pay for the resumption: it is given up. `false` if none has waited too long.
pub(crate) fn expire(world: &mut World, id: &str) -> bool {
    let Some(known) = world.get("subscription", id).cloned() else { return false };
    let resuming = &known["_sim"]["resuming"];
    if resuming["voids_at"].as_i64().is_none_or(|at| at > world.now) {
        return false;
    }
    let invoice = text(resuming, "invoice").to_owned();
    let tried = world.get("invoice", &invoice).is_some_and(|invoice| int(invoice, "attempt_count") > 0);
    if tried {
        world.change("subscription", id, None, |subscription| {
            subscription["_sim"]["resuming"]["voids_at"] = Value::Null;
        });
    } else {
        invoices::void(world, &invoice);
    }
    true
}
