//! `/v1/invoiceitems`: amounts that wait for a subscription's next invoice, and invoices made for what waits.

use serde_json::{Value, json};

use super::{
    api::Call,
    customers::merge_metadata,
    events,
    fault::Fault,
    form::{CREATED, LIST, RETRIEVE},
    invoices, list,
    world::{World, flag, int, public, text},
};

/// Parameters of create. Of Stripe's ways to name a price only the plain amount is known here.
pub(crate) const CREATE: &[&str] = &[
    "amount#!",
    "currency!",
    "customer!",
    "description",
    "discountable?",
    "expand[]",
    "metadata.*",
    "period.end#",
    "period.start#",
    "subscription",
];
/// Filters of list.
pub(crate) const FILTER: &[&str] = &["customer", "invoice", "pending?"];
/// Parameters of an invoice that is asked for. It is always a subscription's: nothing of ours bills a customer alone.
pub(crate) const CREATE_INVOICE: &[&str] = &[
    "auto_advance?",
    "collection_method=charge_automatically",
    "customer!",
    "description",
    "expand[]",
    "metadata.*",
    "pending_invoice_items_behavior=exclude|include",
    "subscription!",
];

/// `POST /v1/invoiceitems`.
pub(crate) fn create(world: &mut World, call: &Call) -> Result<Value, Fault> {
    let params = &call.params;
    params.check(&[CREATE])?;
    let customer = params.text("customer").unwrap_or_default().to_owned();
    let known = world.need("customer", &customer, "customer")?;
    let currency = params.text("currency").unwrap_or_default().to_owned();
    if known["currency"].as_str().is_some_and(|own| own != currency) {
        return Err(Fault::invalid("You cannot combine currencies on a single customer.", Some("currency")));
    }
    let mut parent = Value::Null;
    if let Some(id) = params.text("subscription") {
        let subscription = world.need("subscription", id, "subscription")?;
        if text(&subscription, "customer") != customer {
            return Err(Fault::no_such("subscription", id, "subscription"));
        }
        // No recording covers the words; Stripe takes none for a subscription that is over.
        if matches!(text(&subscription, "status"), "canceled" | "incomplete_expired") {
            return Err(Fault::invalid(
                "You cannot create an invoice item on a canceled subscription.",
                Some("subscription"),
            ));
        }
        parent = json!({
            "subscription_details": { "subscription": id, "subscription_item": null }, "type": "subscription_details",
        });
    }
    let id = world.new_id("ii_1", 23);
    let amount = params.int("amount").unwrap_or(0);
    let now = world.now;
    let mut item = json!({
        "id": id, "object": "invoiceitem", "amount": amount, "currency": currency, "customer": customer, "date": now,
        "description": params.text("description"), "discountable": params.flag("discountable").unwrap_or(false),
        "discounts": [], "invoice": null, "livemode": false, "metadata": {}, "net_amount": amount, "parent": parent,
        "period": {
            "end": params.int("period.end").unwrap_or(now), "start": params.int("period.start").unwrap_or(now),
        },
        "pricing": null, "proration": false, "proration_details": null, "quantity": 1, "quantity_decimal": "1",
        "tax_rates": [], "test_clock": null,
    });
    merge_metadata(&mut item, params, "metadata");
    world.put("invoiceitem", item.clone());
    events::emit(world, "invoiceitem.created", &item, None);
    Ok(item)
}

/// Puts the price of a part of a period, or the credit for it, on a subscription's next invoice.
pub(crate) fn prorate(
    world: &mut World,
    subscription: &Value,
    item: &Value,
    period: (i64, i64),
    amount: i64,
) {
    let id = world.new_id("ii_1", 23);
    let price = &item["price"];
    let name = world.get("product", text(price, "product")).map_or("", |product| text(product, "name"));
    let what = if amount < 0 { "Unused time" } else { "Remaining time" };
    let made = json!({
        "id": id, "object": "invoiceitem", "amount": amount, "currency": subscription["currency"],
        "customer": subscription["customer"], "date": world.now, "description": format!("{what} on {name}"),
        "discountable": false, "discounts": [], "invoice": null, "livemode": false, "metadata": {}, "net_amount": amount,
        "parent": {
            "subscription_details": { "subscription": subscription["id"], "subscription_item": item["id"] },
            "type": "subscription_details",
        },
        "period": { "end": period.1, "start": period.0 },
        "pricing": {
            "price_details": { "price": price["id"], "product": price["product"] }, "type": "price_details",
            "unit_amount_decimal": price["unit_amount_decimal"],
        },
        "proration": true, "proration_details": { "discount_amounts": [] }, "quantity": 1, "quantity_decimal": "1",
        "tax_rates": [], "test_clock": null,
    });
    world.put("invoiceitem", made.clone());
    events::emit(world, "invoiceitem.created", &made, None);
}

/// `GET /v1/invoiceitems/{id}`.
pub(crate) fn retrieve(world: &mut World, call: &Call, id: &str) -> Result<Value, Fault> {
    call.params.check(&[RETRIEVE])?;
    world.need("invoiceitem", id, "id")
}

/// `GET /v1/invoiceitems`.
pub(crate) fn list(world: &mut World, call: &Call) -> Result<Value, Fault> {
    let params = &call.params;
    params.check(&[LIST, CREATED, FILTER])?;
    let now = list::created_matches;
    // Of an item the time is called `date`, so the common filter does not know it.
    let found: Vec<&Value> = world
        .all("invoiceitem")
        .into_iter()
        .filter(|item| {
            now(params, "created", int(item, "date"))
                && ["customer", "invoice"]
                    .iter()
                    .all(|key| params.text(key).is_none_or(|wanted| text(item, key) == wanted))
                && params.flag("pending").is_none_or(|wanted| wanted == item["invoice"].is_null())
        })
        .collect();
    list::slice(params, "invoiceitem", "/v1/invoiceitems", &found, |id| {
        world.get("invoiceitem", id).is_some()
    })
}

/// `DELETE /v1/invoiceitems/{id}`: only one that is on no invoice, or on a draft.
pub(crate) fn delete(world: &mut World, call: &Call, id: &str) -> Result<Value, Fault> {
    call.params.check(&[])?;
    let item = world.need("invoiceitem", id, "id")?;
    if !item["invoice"].is_null() {
        return Err(Fault::invalid("Invoice items that are attached to an invoice cannot be deleted.", None));
    }
    let mut gone = public(&item);
    gone["deleted"] = true.into();
    events::emit(world, "invoiceitem.deleted", &item, None);
    world.delete(id);
    Ok(gone)
}

/// Takes what waits for a subscription onto an invoice; gives the lines.
pub(crate) fn take(world: &mut World, invoice: &str, subscription: &str) -> Vec<Value> {
    let waiting = waiting(world, subscription);
    for item in &waiting {
        world.change("invoiceitem", text(item, "id"), None, |item| item["invoice"] = invoice.into());
    }
    waiting.into_iter().map(|item| line(world, invoice, subscription, &item)).collect()
}

/// The lines that what waits would become; it goes on waiting.
pub(crate) fn foreseen(world: &mut World, invoice: &str, subscription: &str) -> Vec<Value> {
    let waiting = waiting(world, subscription);
    waiting.into_iter().map(|item| line(world, invoice, subscription, &item)).collect()
}

fn waiting(world: &World, subscription: &str) -> Vec<Value> {
    let waits = |item: &&Value| {
        item["invoice"].is_null()
            && item.pointer("/parent/subscription_details/subscription").and_then(Value::as_str)
                == Some(subscription)
    };
    let mut waiting: Vec<Value> = world.all("invoiceitem").into_iter().filter(waits).cloned().collect();
    waiting.reverse();
    waiting
}

fn line(world: &mut World, invoice: &str, subscription: &str, item: &Value) -> Value {
    let id = world.new_id("il_1", 23);
    json!({
        "id": id, "object": "line_item", "amount": item["amount"], "currency": item["currency"],
        "description": item["description"], "discount_amounts": [], "discountable": flag(item, "discountable"),
        "discounts": [], "invoice": invoice, "livemode": false, "metadata": item["metadata"],
        "parent": {
            "invoice_item_details": {
                "invoice_item": item["id"], "proration": flag(item, "proration"), "proration_details": null, "subscription": subscription,
            },
            "subscription_item_details": null, "type": "invoice_item_details",
        },
        "period": item["period"], "pretax_credit_amounts": [], "pricing": item["pricing"], "quantity": 1,
        "subscription": subscription, "subtotal": item["amount"], "taxes": [],
    })
}

/// `POST /v1/invoices`: a subscription's, for what waits. It stands as a draft for an hour, as a renewal's does.
pub(crate) fn invoice(world: &mut World, call: &Call) -> Result<Value, Fault> {
    let params = &call.params;
    params.check(&[CREATE_INVOICE])?;
    let id = params.text("subscription").unwrap_or_default();
    let subscription = world.need("subscription", id, "subscription")?;
    if text(&subscription, "customer") != params.text("customer").unwrap_or_default() {
        return Err(Fault::no_such("subscription", id, "subscription"));
    }
    let invoice = world.new_id("in_1", 23);
    let lines = match params.text("pending_invoice_items_behavior") {
        Some("include") => take(world, &invoice, id),
        _ => Vec::new(),
    };
    if lines.is_empty() {
        return Err(Fault::coded(
            "invoice_no_subscription_line_items",
            "Nothing to invoice for subscription",
            None,
        ));
    }
    let mut built = invoices::build(world, &invoice, &subscription, "manual", lines);
    merge_metadata(&mut built, params, "metadata");
    built["auto_advance"] = params.flag("auto_advance").unwrap_or(false).into();
    built["automatically_finalizes_at"] =
        if flag(&built, "auto_advance") { (world.now + invoices::DRAFT_FOR).into() } else { Value::Null };
    world.put("invoice", built.clone());
    events::emit(world, "invoice.created", &built, None);
    world.change("subscription", id, Some("customer.subscription.updated"), |subscription| {
        subscription["latest_invoice"] = invoice.into();
    });
    Ok(built)
}

/// A subscription ends with its period: what waits is billed with a last invoice.
pub(crate) fn last(world: &mut World, subscription: &Value) {
    let invoice = world.new_id("in_1", 23);
    let lines = take(world, &invoice, text(subscription, "id"));
    if lines.is_empty() {
        return;
    }
    let built = invoices::build(world, &invoice, subscription, "subscription_cycle", lines);
    world.put("invoice", built.clone());
    events::emit(world, "invoice.created", &built, None);
    world.change("subscription", text(subscription, "id"), None, |subscription| {
        subscription["latest_invoice"] = invoice.into();
    });
}
