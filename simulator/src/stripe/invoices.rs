//! Invoices of subscriptions: drafted, finalized an hour later (at once for the first), paid or not.

use serde_json::{Value, json};

use super::{
    api::Call,
    cards::{self, Card},
    events,
    fault::Fault,
    form::{CREATED, LIST, RETRIEVE},
    list, pauses,
    payments::{self, Due},
    world::{World, int, public, text},
};

/// Days between the attempts to collect a renewal after the first has failed: eight tries in two weeks.
const RETRY_DAYS: [i64; 7] = [1, 1, 2, 2, 2, 3, 3];
/// A renewal's draft stands this long before it is finalized.
pub(crate) const DRAFT_FOR: i64 = 3_600;

/// Drafts the invoice of a subscription's current period.
pub(crate) fn draft(world: &mut World, subscription: &Value, reason: &str) -> String {
    let id = world.new_id("in_1", 23);
    let mut lines: Vec<Value> = subscription["items"]["data"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|item| line(world, &id, subscription, item))
        .collect();
    lines.extend(super::invoice_items::take(world, &id, text(subscription, "id")));
    issue(world, subscription, reason, id, lines)
}

/// What the invoice of a subscription's next period would be; nothing is stored and what waits goes on waiting.
pub(crate) fn next(world: &mut World, id: &str, subscription: &Value) -> Value {
    let after = super::schedules::foreseen(world, subscription);
    let mut lines: Vec<Value> = after["items"]["data"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|item| line(world, id, &after, item))
        .collect();
    lines.extend(super::invoice_items::foreseen(world, id, text(subscription, "id")));
    build(world, id, &after, "subscription_cycle", lines)
}

/// Drafts the first invoice of a subscription: its items, free while it is a trial, and what is paid once.
pub(crate) fn first(world: &mut World, subscription: &Value, once: &[(Value, i64)]) -> String {
    let id = world.new_id("in_1", 23);
    let trial = text(subscription, "status") == "trialing";
    let mut lines: Vec<Value> = Vec::new();
    for item in subscription["items"]["data"].as_array().into_iter().flatten() {
        let mut line = line(world, &id, subscription, item);
        if trial {
            line["amount"] = 0.into();
            line["subtotal"] = 0.into();
            line["description"] = format!("Trial period for {}", text(&line, "description")).into();
        }
        lines.push(line);
    }
    for (price, quantity) in once {
        lines.push(once_line(world, &id, subscription, price, *quantity));
    }
    issue(world, subscription, "subscription_create", id, lines)
}

/// A line that is paid once.
fn once_line(world: &mut World, invoice: &str, subscription: &Value, price: &Value, quantity: i64) -> Value {
    let item = json!({ "price": price, "quantity": quantity, "current_period_start": world.now, "current_period_end": world.now });
    let mut line = line(world, invoice, subscription, &item);
    let id = world.new_id("ii_1", 23);
    let name =
        world.get("product", text(price, "product")).map_or("", |product| text(product, "name")).to_owned();
    line["description"] = name.into();
    line["subscription"] = subscription["id"].clone();
    line["parent"] = json!({
        "invoice_item_details": {
            "invoice_item": id, "proration": false, "proration_details": { "credited_items": null },
            "subscription": subscription["id"],
        },
        "subscription_item_details": null, "type": "invoice_item_details",
    });
    line
}

fn issue(world: &mut World, subscription: &Value, reason: &str, id: String, lines: Vec<Value>) -> String {
    let invoice = build(world, &id, subscription, reason, lines);
    world.put("invoice", invoice.clone());
    super::totals::use_up(world, text(subscription, "id"), &invoice);
    events::emit(world, "invoice.created", &invoice, None);
    id
}

/// An invoice with these lines, not stored.
pub(crate) fn build(
    world: &World,
    id: &str,
    subscription: &Value,
    reason: &str,
    mut lines: Vec<Value>,
) -> Value {
    let item = &subscription["items"]["data"][0];
    let (start, end) = (int(item, "current_period_start"), int(item, "current_period_end"));
    let (sum, told) = super::totals::on_invoice(world, subscription, &mut lines);
    let (subtotal, total) = (sum.subtotal, sum.total());
    let customer = world.get("customer", text(subscription, "customer")).cloned().unwrap_or_default();
    // Those of a purchase and of a change are final at once; a renewal's stands as a draft for an hour.
    let first = reason != "subscription_cycle";
    // The invoice of a renewal looks back on the period that has just ended.
    let period_start = if first { start } else { int(&subscription["_sim"], "previous_start") };
    let mut invoice = json!({
        "id": id, "object": "invoice", "account_country": "DE", "account_name": "EZ Solutions (simulated)", "account_tax_ids": null,
        "amount_due": total, "amount_overpaid": 0, "amount_paid": 0, "amount_remaining": total, "amount_shipping": 0, "application": null,
        "attempt_count": 0, "attempted": false, "auto_advance": true,
        "automatic_tax": { "disabled_reason": null, "enabled": false, "liability": null, "provider": null, "status": null },
        "automatically_finalizes_at": if first { Value::Null } else { (world.now + DRAFT_FOR).into() },
        "billing_reason": reason, "collection_method": "charge_automatically", "created": world.now, "currency": subscription["currency"],
        "custom_fields": null, "customer": subscription["customer"], "customer_address": customer["address"], "customer_email": customer["email"],
        "customer_name": customer["name"], "customer_phone": customer["phone"], "customer_shipping": null, "customer_tax_exempt": "none",
        "customer_tax_ids": [], "default_payment_method": null, "default_source": null, "default_tax_rates": [], "description": null,
        "discounts": [], "due_date": null, "effective_at": null, "ending_balance": null, "footer": null, "from_invoice": null,
        "hosted_invoice_url": null, "invoice_pdf": null, "issuer": { "type": "self" }, "last_finalization_error": null, "latest_revision": null,
        "lines": { "object": "list", "data": lines, "has_more": false, "total_count": lines.len(), "url": format!("/v1/invoices/{id}/lines") },
        "livemode": false, "metadata": {}, "next_payment_attempt": null, "number": null, "on_behalf_of": null,
        "parent": {
            "quote_details": null, "type": "subscription_details",
            "subscription_details": { "metadata": subscription["metadata"], "subscription": subscription["id"] },
        },
        "payment_settings": { "default_mandate": null, "payment_method_options": null, "payment_method_types": ["card"] },
        "period_end": start.max(period_start), "period_start": period_start, "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0, "receipt_number": null, "rendering": null, "shipping_cost": null, "shipping_details": null,
        "starting_balance": 0, "statement_descriptor": null, "status": "draft",
        "status_transitions": { "finalized_at": null, "marked_uncollectible_at": null, "paid_at": null, "voided_at": null },
        "subtotal": subtotal, "subtotal_excluding_tax": subtotal - if sum.inclusive { sum.tax } else { 0 }, "test_clock": null,
        "total": total, "total_discount_amounts": [], "total_excluding_tax": total - sum.tax, "total_pretax_credit_amounts": [], "total_taxes": [], "webhooks_delivered_at": null,
        "_sim": { "service_end": end },
    });
    if let (Value::Object(whole), Value::Object(told)) = (&mut invoice, told) {
        whole.extend(told);
    }
    invoice
}

pub(crate) fn line(world: &mut World, invoice: &str, subscription: &Value, item: &Value) -> Value {
    let id = world.new_id("il_1", 23);
    let price = &item["price"];
    let quantity = int(item, "quantity").max(1);
    let amount = int(price, "unit_amount") * quantity;
    let name = world
        .get("product", text(price, "product"))
        .map_or("Subscription", |product| text(product, "name"))
        .to_owned();
    let interval = every(price);
    let shown = format!(
        "{}.{:02} {}",
        int(price, "unit_amount") / 100,
        int(price, "unit_amount") % 100,
        text(price, "currency").to_uppercase()
    );
    json!({
        "id": id, "object": "line_item", "amount": amount, "currency": price["currency"], "description": format!("{quantity} × {name} (at {shown} / {interval})"),
        "discount_amounts": [], "discountable": true, "discounts": [], "invoice": invoice, "livemode": false, "metadata": subscription["metadata"],
        "parent": {
            "invoice_item_details": null, "type": "subscription_item_details",
            "subscription_item_details": {
                "invoice_item": null, "proration": false, "proration_details": { "credited_items": null },
                "subscription": subscription["id"], "subscription_item": item["id"],
            },
        },
        "period": { "end": item["current_period_end"], "start": item["current_period_start"] }, "pretax_credit_amounts": [],
        "pricing": {
            "price_details": { "price": price["id"], "product": price["product"] }, "type": "price_details",
            "unit_amount_decimal": price["unit_amount_decimal"],
        },
        "quantity": quantity, "subscription": subscription["id"], "subtotal": amount, "taxes": [],
    })
}

/// `month`, `3 months`, `year` …
pub(crate) fn every(price: &Value) -> String {
    let interval = price.pointer("/recurring/interval").and_then(Value::as_str).unwrap_or("month");
    match price.pointer("/recurring/interval_count").and_then(Value::as_i64) {
        Some(count) if count > 1 => format!("{count} {interval}s"),
        _ => interval.to_owned(),
    }
}

/// Gives the draft its number, opens it, and makes its payment intent.
pub(crate) fn finalize(world: &mut World, id: &str) {
    let Some(invoice) = world.get("invoice", id).cloned() else { return };
    let customer = text(&invoice, "customer").to_owned();
    let known = world.get("customer", &customer).cloned().unwrap_or_default();
    let sequence = int(&known, "next_invoice_sequence").max(1);
    let number = format!("{}-{sequence:04}", text(&known, "invoice_prefix"));
    if !known.is_null() {
        world.change("customer", &customer, None, |customer| {
            customer["next_invoice_sequence"] = (sequence + 1).into()
        });
    }
    let (now, base) = (world.now, world.base_url.clone());
    let (before, left, due) = super::balance::apply(world, &invoice);
    let opened = world.change("invoice", id, None, |invoice| {
        invoice["status"] = "open".into();
        invoice["last_finalization_error"] = Value::Null;
        invoice["number"] = number.clone().into();
        invoice["effective_at"] = now.into();
        invoice["starting_balance"] = before.into();
        invoice["ending_balance"] = left.into();
        invoice["amount_due"] = due.into();
        invoice["amount_remaining"] = due.into();
        invoice["automatically_finalizes_at"] = Value::Null;
        invoice["status_transitions"]["finalized_at"] = now.into();
        invoice["hosted_invoice_url"] = format!("{base}/i/{}", text(invoice, "id")).into();
        invoice["invoice_pdf"] = format!("{base}/i/{}/pdf", text(invoice, "id")).into();
    });
    events::emit(world, "invoice.finalized", &opened, None);
    if int(&opened, "amount_due") > 0 {
        let due = Due {
            amount: int(&opened, "amount_due"),
            currency: text(&opened, "currency"),
            customer: &customer,
            description: "Subscription invoice",
        };
        let intent = payments::intent(world, &due);
        let payment_id = world.new_id("inpay_1", 23);
        let payment = json!({
            "id": payment_id, "object": "invoice_payment", "amount_paid": null, "amount_requested": due.amount, "created": now,
            "currency": due.currency, "invoice": id, "is_default": true, "livemode": false,
            "payment": { "payment_intent": intent, "type": "payment_intent" }, "status": "open",
            "status_transitions": { "canceled_at": null, "paid_at": null },
        });
        world.put("invoice_payment", payment);
    }
}

/// A draft cannot be made final, since no taxes can be worked out for where its customer says to be. It stays a draft until
/// somebody finalizes it.
///
/// # Errors
/// No such invoice, or one that is final.
pub(crate) fn fail_finalization(world: &mut World, id: &str) -> Result<Value, Fault> {
    need_draft(world, id)?;
    Ok(world.change("invoice", id, Some("invoice.finalization_failed"), |invoice| {
        invoice["automatically_finalizes_at"] = Value::Null;
        invoice["automatic_tax"]["status"] = "requires_location_inputs".into();
        invoice["last_finalization_error"] = json!({
            "code": "customer_tax_location_invalid", "type": "invalid_request_error",
            "message": "The customer's location isn't recognized. Set a valid customer address in order to automatically calculate tax.",
        });
    }))
}

/// Somebody presses the button: the draft is final, and the clock collects it at once.
///
/// # Errors
/// No such invoice, or one that is final.
pub(crate) fn finalize_now(world: &mut World, id: &str) -> Result<Value, Fault> {
    need_draft(world, id)?;
    finalize(world, id);
    let now = world.now;
    Ok(world.change("invoice", id, None, |invoice| {
        invoice["automatic_tax"]["status"] = Value::Null;
        invoice["auto_advance"] = true.into();
        invoice["next_payment_attempt"] = now.into();
    }))
}

fn need_draft(world: &World, id: &str) -> Result<(), Fault> {
    let invoice = world.need("invoice", id, "id")?;
    if text(&invoice, "status") == "draft" {
        return Ok(());
    }
    Err(Fault::invalid(
        format!("This invoice is already finalized; it is {}.", text(&invoice, "status")),
        None,
    ))
}

/// Tries to collect an open invoice; tells whether it is paid now.
pub(crate) fn collect(world: &mut World, id: &str, method: &str, renewal: bool) -> bool {
    let Some(invoice) = world.get("invoice", id).cloned() else { return false };
    if text(&invoice, "status") != "open" {
        return text(&invoice, "status") == "paid";
    }
    let payment =
        world.all("invoice_payment").into_iter().find(|payment| text(payment, "invoice") == id).cloned();
    if let Some(payment) = payment {
        let intent = payment["payment"]["payment_intent"].as_str().unwrap_or_default().to_owned();
        let declined = payments::refuses(world, method, renewal);
        if payments::attempt(world, &intent, method, declined).is_err() {
            failed(world, id);
            return false;
        }
        let now = world.now;
        world.change("invoice_payment", text(&payment, "id"), Some("invoice_payment.paid"), |payment| {
            payment["status"] = "paid".into();
            payment["amount_paid"] = payment["amount_requested"].clone();
            payment["status_transitions"]["paid_at"] = now.into();
        });
    }
    settle(world, id);
    true
}

fn settle(world: &mut World, id: &str) {
    let now = world.now;
    let paid = world.change("invoice", id, None, |invoice| {
        let due = int(invoice, "amount_due");
        invoice["status"] = "paid".into();
        invoice["amount_paid"] = due.into();
        invoice["amount_remaining"] = 0.into();
        invoice["attempted"] = true.into();
        invoice["attempt_count"] = (int(invoice, "attempt_count") + 1).into();
        invoice["next_payment_attempt"] = Value::Null;
        invoice["auto_advance"] = false.into();
        invoice["status_transitions"]["paid_at"] = now.into();
    });
    events::emit(world, "invoice.paid", &paid, None);
    events::emit(world, "invoice.payment_succeeded", &paid, None);
    let subscription = subscription_of(&paid).to_owned();
    super::plan::invoice_paid(world, &subscription, id);
    pauses::invoice_paid(world, &subscription, id);
}

fn failed(world: &mut World, id: &str) {
    let now = world.now;
    let subscription = world.get("invoice", id).map(|invoice| subscription_of(invoice).to_owned());
    let subscription = subscription.unwrap_or_default();
    let once = pauses::is_tried_once(world, &subscription, id);
    let after = world.change("invoice", id, None, |invoice| {
        let tries = int(invoice, "attempt_count");
        let wait = usize::try_from(tries).ok().filter(|_| !once).and_then(|index| RETRY_DAYS.get(index));
        invoice["attempted"] = true.into();
        invoice["attempt_count"] = (tries + 1).into();
        invoice["next_payment_attempt"] = wait.map_or(Value::Null, |days| (now + days * 86_400).into());
    });
    events::emit(world, "invoice.payment_failed", &after, None);
    pauses::attempt_failed(world, &subscription, id);
}

/// Whether an invoice was made by hand: of such a one Stripe says that the subscription's billing cycle and its events are not
/// affected, so its status stays whether it is paid or not.
pub(crate) fn is_apart(invoice: &Value) -> bool {
    text(invoice, "billing_reason") == "manual"
}

/// Whether an invoice can still be paid or voided.
fn is_owed(invoice: &Value) -> bool {
    matches!(text(invoice, "status"), "open" | "uncollectible")
}

/// Nobody has to pay an open invoice any more.
pub(crate) fn void(world: &mut World, id: &str) {
    let now = world.now;
    if world.get("invoice", id).is_some_and(is_owed) {
        let voided = world.change("invoice", id, Some("invoice.voided"), |invoice| {
            invoice["status"] = "void".into();
            invoice["auto_advance"] = false.into();
            invoice["next_payment_attempt"] = Value::Null;
            invoice["status_transitions"]["voided_at"] = now.into();
        });
        super::balance::unapply(world, id);
        pauses::invoice_voided(world, subscription_of(&voided), id);
    }
}

/// Nobody expects an open invoice to be paid. One of nothing is paid.
pub(crate) fn mark_uncollectible(world: &mut World, id: &str) {
    let Some(invoice) = world.get("invoice", id).filter(|invoice| text(invoice, "status") == "open") else {
        return;
    };
    if int(invoice, "amount_due") == 0 {
        settle(world, id);
        return;
    }
    let now = world.now;
    let marked = world.change("invoice", id, Some("invoice.marked_uncollectible"), |invoice| {
        invoice["status"] = "uncollectible".into();
        invoice["auto_advance"] = false.into();
        invoice["next_payment_attempt"] = Value::Null;
        invoice["status_transitions"]["marked_uncollectible_at"] = now.into();
    });
    pauses::invoice_paid(world, subscription_of(&marked), id);
}

/// `POST /v1/invoices/{id}/void`.
pub(crate) fn void_by_call(world: &mut World, call: &Call, id: &str) -> Result<Value, Fault> {
    call.params.check(&[RETRIEVE])?;
    let invoice = world.need("invoice", id, "id")?;
    if !is_owed(&invoice) {
        return Err(Fault::invalid(
            format!("You can only void an open invoice; this one is {}.", text(&invoice, "status")),
            None,
        ));
    }
    void(world, id);
    world.need("invoice", id, "id")
}

/// Stops collecting what a cancelled subscription still owes.
pub(crate) fn stop_collecting(world: &mut World, subscription: &str) {
    let open: Vec<String> = world
        .all("invoice")
        .into_iter()
        .filter(|invoice| {
            subscription_of(invoice) == subscription && matches!(text(invoice, "status"), "open" | "draft")
        })
        .map(|invoice| text(invoice, "id").to_owned())
        .collect();
    for id in open {
        world.change("invoice", &id, Some("invoice.updated"), |invoice| {
            invoice["auto_advance"] = false.into();
            invoice["next_payment_attempt"] = Value::Null;
            invoice["automatically_finalizes_at"] = Value::Null;
        });
    }
}

/// The subscription an invoice belongs to.
pub(crate) fn subscription_of(invoice: &Value) -> &str {
    invoice.pointer("/parent/subscription_details/subscription").and_then(Value::as_str).unwrap_or_default()
}

/// `GET /v1/invoices/{id}`.
pub(crate) fn retrieve(world: &mut World, call: &Call, id: &str) -> Result<Value, Fault> {
    call.params.check(&[RETRIEVE])?;
    let mut invoice = world.need("invoice", id, "id")?;
    renew_links(world, &mut invoice);
    Ok(invoice)
}

/// The links to an invoice bear another token with each reading, as those of the real one do; here they all stay good.
fn renew_links(world: &mut World, shown: &mut Value) {
    for name in ["hosted_invoice_url", "invoice_pdf"] {
        if let Some(link) = shown[name].as_str() {
            world.links += 1;
            shown[name] = format!("{link}?s={}", world.links).into();
        }
    }
}

/// Filters of the list of invoices.
pub(crate) const FILTER: &[&str] = &[
    "collection_method=charge_automatically|send_invoice",
    "customer",
    "status=draft|open|paid|uncollectible|void",
    "subscription",
];

/// `GET /v1/invoices`.
pub(crate) fn list(world: &mut World, call: &Call) -> Result<Value, Fault> {
    call.params.check(&[LIST, CREATED, FILTER])?;
    let subscription = call.params.text("subscription");
    let mut page = list::page(world, call, "invoice", "/v1/invoices", |invoice| {
        ["collection_method", "customer", "status"]
            .iter()
            .all(|key| call.params.text(key).is_none_or(|wanted| text(invoice, key) == wanted))
            && subscription.is_none_or(|wanted| subscription_of(invoice) == wanted)
    })?;
    for invoice in page["data"].as_array_mut().into_iter().flatten() {
        renew_links(world, invoice);
    }
    Ok(page)
}

/// Filters of the list of invoice payments.
pub(crate) const PAYMENT_FILTER: &[&str] = &[
    "invoice",
    "payment.type=payment_intent|charge|payment_record",
    "payment.payment_intent",
    "status=open|paid|canceled",
];

/// `GET /v1/invoice_payments`.
pub(crate) fn list_payments(world: &mut World, call: &Call) -> Result<Value, Fault> {
    call.params.check(&[LIST, CREATED, PAYMENT_FILTER])?;
    let intent = call.params.text("payment.payment_intent");
    list::page(world, call, "invoice_payment", "/v1/invoice_payments", |payment| {
        ["invoice", "status"]
            .iter()
            .all(|key| call.params.text(key).is_none_or(|wanted| text(payment, key) == wanted))
            && intent.is_none_or(|wanted| {
                payment.pointer("/payment/payment_intent").and_then(Value::as_str) == Some(wanted)
            })
    })
}

/// `GET /v1/invoices/{id}/lines`.
pub(crate) fn lines(world: &mut World, call: &Call, id: &str) -> Result<Value, Fault> {
    call.params.check(&[LIST])?;
    let invoice = world.need("invoice", id, "id")?;
    let lines: Vec<&Value> = invoice["lines"]["data"].as_array().into_iter().flatten().collect();
    list::slice(&call.params, "line_item", &format!("/v1/invoices/{id}/lines"), &lines, |_| false)
}

/// `POST /v1/invoices/{id}/pay`: tries again at once, with another method if one is named.
pub(crate) fn pay(world: &mut World, call: &Call, id: &str) -> Result<Value, Fault> {
    call.params.check(&[RETRIEVE, &["payment_method", "off_session?"]])?;
    let invoice = world.need("invoice", id, "id")?;
    if text(&invoice, "status") != "open" {
        return Err(Fault::invalid(format!("Invoice is already {}", text(&invoice, "status")), None));
    }
    let subscription = world.get("subscription", subscription_of(&invoice)).map(public).unwrap_or_default();
    let method = call
        .params
        .text("payment_method")
        .unwrap_or_else(|| text(&subscription, "default_payment_method"))
        .to_owned();
    if collect(world, id, &method, true) {
        if !is_apart(&invoice) {
            super::subscriptions::recovered(world, text(&subscription, "id"));
        }
        return world.need("invoice", id, "id");
    }
    Err(Fault::card_declined("generic_decline"))
}

/// The customer pays an open invoice on its own page, with a card that is the subscription's from then on; tells
/// whether the card was good.
///
/// # Errors
/// No such invoice, or one that is not open.
pub(crate) fn pay_on_its_page(world: &mut World, id: &str, card: Card) -> Result<bool, Fault> {
    let invoice = world.need("invoice", id, "id")?;
    if text(&invoice, "status") != "open" {
        return Err(Fault::invalid(format!("Invoice is already {}", text(&invoice, "status")), None));
    }
    let method = cards::attach(world, card, text(&invoice, "customer"), None, None);
    // On session: a card that fails only later is good now.
    let paid = collect(world, id, &method, false);
    if paid {
        let subscription = subscription_of(&invoice).to_owned();
        world.change("subscription", &subscription, Some("customer.subscription.updated"), |subscription| {
            subscription["default_payment_method"] = method.into();
        });
        if !is_apart(&invoice) {
            super::subscriptions::recovered(world, &subscription);
        }
    }
    Ok(paid)
}
