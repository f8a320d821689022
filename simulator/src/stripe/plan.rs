//! Another price for a running subscription: proration to the second, paid at once or not applied.
//!
//! A change within the same interval keeps the period and bills the difference for what is left of it. A change to
//! another interval begins a new period now. Negative sums become credit, as Stripe has it. With
//! `payment_behavior=pending_if_incomplete` a change that cannot be paid stands in `pending_update` until its invoice
//! is paid or a day has passed; no recording covers the order of its events.

use serde_json::{Value, json};

use super::{
    api::Call,
    balance, collection, events,
    fault::Fault,
    form::Params,
    invoices,
    subscriptions::period_end,
    totals,
    world::{World, int, text},
};

/// How long a change waits for its payment.
const PENDING_FOR: i64 = 23 * 3_600;

/// Parameters of the preview.
pub(crate) const PREVIEW: &[&str] = &[
    "expand[]",
    "subscription!",
    "subscription_details.items[].id",
    "subscription_details.items[].price",
    "subscription_details.proration_behavior=always_invoice|create_prorations|none",
    "subscription_details.proration_date#",
];

/// What shall be: the new price, and how it is billed.
struct Wanted {
    price: Value,
    prorate: bool,
    at: i64,
}

fn wanted(
    world: &World,
    params: &Params,
    prefix: &str,
    subscription: &Value,
) -> Result<Option<Wanted>, Fault> {
    let Some(price) = params.text(&format!("{prefix}items.0.price")) else { return Ok(None) };
    let item = text(&subscription["items"]["data"][0], "id");
    match params.text(&format!("{prefix}items.0.id")) {
        Some(id) if id == item => {}
        Some(id) => return Err(Fault::no_such("subscription_item", id, "items[0][id]")),
        // Stripe would add a second item. Nothing of ours does that.
        None => {
            return Err(Fault::invalid(
                "This simulation changes items, it does not add any.",
                Some("items[0][id]"),
            ));
        }
    }
    let price = world.need("price", price, "items[0][price]")?;
    let item = &subscription["items"]["data"][0];
    let at = params.int(&format!("{prefix}proration_date")).unwrap_or(world.now);
    if at < int(item, "current_period_start") || at > int(item, "current_period_end") {
        return Err(Fault::invalid(
            "Cannot specify a proration date outside of the current period.",
            Some("proration_date"),
        ));
    }
    let prorate = params.text(&format!("{prefix}proration_behavior")) != Some("none");
    Ok(Some(Wanted { price, prorate, at }))
}

/// How often a price is charged.
pub(crate) fn interval(price: &Value) -> (String, i64) {
    (text(&price["recurring"], "interval").to_owned(), int(&price["recurring"], "interval_count").max(1))
}

/// The part of an amount that `left` of `whole` seconds cost, rounded half up.
pub(crate) fn part(amount: i64, left: i64, whole: i64) -> i64 {
    if whole <= 0 { 0 } else { (2 * amount * left + whole).div_euclid(2 * whole) }
}

/// Puts another price on an item.
pub(crate) fn set_price(item: &mut Value, price: &Value) {
    item["price"] = price.clone();
    for (key, value) in [
        ("id", &price["id"]),
        ("amount", &price["unit_amount"]),
        ("amount_decimal", &price["unit_amount_decimal"]),
        ("interval", &price["recurring"]["interval"]),
        ("interval_count", &price["recurring"]["interval_count"]),
        ("product", &price["product"]),
    ] {
        item["plan"][key] = value.clone();
    }
}

/// The subscription as it is afterwards, and the lines that bill the change.
fn outcome(world: &mut World, invoice: &str, subscription: &Value, wanted: &Wanted) -> (Value, Vec<Value>) {
    let item = subscription["items"]["data"][0].clone();
    let (start, end) = (int(&item, "current_period_start"), int(&item, "current_period_end"));
    let same = interval(&item["price"]) == interval(&wanted.price);
    let mut after = subscription.clone();
    {
        let changed = &mut after["items"]["data"][0];
        set_price(changed, &wanted.price);
        if !same {
            changed["current_period_start"] = wanted.at.into();
            changed["current_period_end"] = period_end(wanted.at, &wanted.price, 1).into();
        }
    }
    if !same {
        after["billing_cycle_anchor"] = wanted.at.into();
        after["_sim"]["periods"] = 1.into();
        after["_sim"]["previous_start"] = wanted.at.into();
    }
    let mut lines = Vec::new();
    if wanted.prorate {
        let (left, whole) = (end - wanted.at, end - start);
        let unused = part(int(&item["price"], "unit_amount"), left, whole);
        // What a coupon had taken off was not paid.
        let unused = totals::after_discount(unused, &subscription["_sim"]["taken_off"]);
        lines.push(proration(world, invoice, subscription, &item, (wanted.at, end), -unused));
        let changed = after["items"]["data"][0].clone();
        if same {
            let rest = part(int(&wanted.price, "unit_amount"), left, whole);
            lines.push(proration(world, invoice, &after, &changed, (wanted.at, end), rest));
        } else {
            lines.push(invoices::line(world, invoice, &after, &changed));
        }
    } else if !same {
        let changed = after["items"]["data"][0].clone();
        lines.push(invoices::line(world, invoice, &after, &changed));
    }
    (after, lines)
}

/// The line of an invoice for a part of a period: credit for what is not used, or the price of the rest.
pub(crate) fn proration(
    world: &mut World,
    invoice: &str,
    subscription: &Value,
    item: &Value,
    period: (i64, i64),
    amount: i64,
) -> Value {
    let mut line = invoices::line(world, invoice, subscription, item);
    let what = if amount < 0 { "Unused time" } else { "Remaining time" };
    line["description"] = format!("{what} on {}", text(&line, "description")).into();
    line["amount"] = amount.into();
    line["subtotal"] = amount.into();
    line["period"] = json!({ "start": period.0, "end": period.1 });
    line["parent"]["subscription_item_details"]["proration"] = true.into();
    line
}

/// `POST /v1/invoices/create_preview`: what a change would be billed; nothing happens.
pub(crate) fn preview(world: &mut World, call: &Call) -> Result<Value, Fault> {
    let params = &call.params;
    params.check(&[PREVIEW])?;
    let subscription =
        world.need("subscription", params.text("subscription").unwrap_or_default(), "subscription")?;
    let id = world.new_id("upcoming_in_1", 23);
    let mut foreseen = match wanted(world, params, "subscription_details.", &subscription)? {
        Some(wanted) => {
            let (after, lines) = outcome(world, &id, &subscription, &wanted);
            invoices::build(world, &id, &after, "subscription_update", lines)
        }
        // Nothing is to change: what the next period is billed.
        None => invoices::next(world, &id, &subscription),
    };
    // Credit will be used up, and what is too small to be charged, or below zero, will be on the balance.
    let (before, left, due) = balance::foresee(world, &foreseen);
    foreseen["starting_balance"] = before.into();
    foreseen["ending_balance"] = left.into();
    foreseen["amount_due"] = due.into();
    foreseen["amount_remaining"] = due.into();
    Ok(foreseen)
}

/// Changes the price, if the call names one; `None` if it does not.
pub(crate) fn change(world: &mut World, params: &Params, id: &str) -> Result<Option<Value>, Fault> {
    let subscription = world.need("subscription", id, "id")?;
    let Some(wanted) = wanted(world, params, "", &subscription)? else { return Ok(None) };
    let invoice = world.new_id("in_1", 23);
    let (mut after, lines) = outcome(world, &invoice, &subscription, &wanted);
    if lines.is_empty() {
        apply(world, &subscription, after.clone(), "customer.subscription.updated");
        return Ok(Some(after));
    }
    let billed = invoices::build(world, &invoice, &after, "subscription_update", lines);
    world.put("invoice", billed.clone());
    events::emit(world, "invoice.created", &billed, None);
    after["_sim"]["taken_off"] = totals::taken_off(&billed, text(&wanted.price, "id"));
    if collection::hold(world, &subscription, &invoice) {
        after["latest_invoice"] = invoice.into();
        apply(world, &subscription, after.clone(), "customer.subscription.updated");
        return Ok(Some(after));
    }
    invoices::finalize(world, &invoice);
    let method = text(&subscription, "default_payment_method").to_owned();
    after["latest_invoice"] = invoice.clone().into();
    let paid = invoices::collect(world, &invoice, &method, true);
    if paid || params.text("payment_behavior") != Some("pending_if_incomplete") {
        apply(world, &subscription, after.clone(), "customer.subscription.updated");
        return Ok(Some(after));
    }
    let items = after["items"]["data"].clone();
    let expires = world.now + PENDING_FOR;
    Ok(Some(world.change("subscription", id, Some("customer.subscription.updated"), |subscription| {
        subscription["latest_invoice"] = invoice.clone().into();
        subscription["_sim"]["pending"] = json!({ "invoice": invoice, "after": after });
        subscription["pending_update"] = json!({
            "billing_cycle_anchor": null, "expires_at": expires, "subscription_items": items, "trial_end": null,
            "trial_from_plan": null,
        });
    })))
}

fn apply(world: &mut World, before: &Value, after: Value, event: &str) {
    world.put("subscription", after.clone());
    events::emit(world, event, &after, Some(events::previous(before, &after)));
}

/// The invoice of a change that waited is paid: the change holds.
pub(crate) fn invoice_paid(world: &mut World, subscription: &str, invoice: &str) {
    let Some(known) = world.get("subscription", subscription).cloned() else { return };
    if known["_sim"]["pending"]["invoice"] != invoice {
        return;
    }
    let wanted = &known["_sim"]["pending"]["after"];
    let mut after = known.clone();
    for key in ["items", "billing_cycle_anchor"] {
        after[key] = wanted[key].clone();
    }
    for key in ["periods", "previous_start", "taken_off"] {
        after["_sim"][key] = wanted["_sim"][key].clone();
    }
    after["_sim"]["pending"] = Value::Null;
    after["pending_update"] = Value::Null;
    apply(world, &known, after.clone(), "customer.subscription.updated");
    events::emit(world, "customer.subscription.pending_update_applied", &after, None);
}

/// When a change that waits for its payment is given up.
pub(crate) fn expires_at(subscription: &Value) -> Option<i64> {
    subscription["pending_update"]["expires_at"].as_i64()
}

/// Nobody paid for the change: it is given up and its invoice is void. `false` if none has waited too long.
pub(crate) fn expire(world: &mut World, id: &str) -> bool {
    let Some(known) = world.get("subscription", id).cloned() else { return false };
    if expires_at(&known).is_none_or(|at| at > world.now) {
        return false;
    }
    let invoice = text(&known["_sim"]["pending"], "invoice").to_owned();
    invoices::void(world, &invoice);
    let after = world.change("subscription", id, None, |subscription| {
        subscription["pending_update"] = Value::Null;
        subscription["_sim"]["pending"] = Value::Null;
    });
    events::emit(world, "customer.subscription.pending_update_expired", &after, None);
    events::emit(world, "customer.subscription.updated", &after, Some(events::previous(&known, &after)));
    true
}

#[cfg(test)]
mod tests {
    use super::part;

    #[test]
    fn a_part_is_rounded_to_the_nearest_cent() {
        assert_eq!(part(900, 15, 30), 450);
        assert_eq!(part(900, 1, 3), 300);
        assert_eq!(part(100, 1, 3), 33);
        assert_eq!(part(100, 2, 3), 67);
        assert_eq!(part(1, 1, 2), 1);
        assert_eq!(part(900, 0, 30), 0);
    }
}
