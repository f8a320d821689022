//! Payment intents, charges and balance transactions: the money side of an invoice.

use serde_json::{Value, json};

use super::{
    api::Call,
    cards::{self, Card},
    events,
    fault::Fault,
    form::{CREATED, LIST, RETRIEVE},
    list,
    world::{World, int, text},
};

/// What is to be paid, by whom and for what.
pub(crate) struct Due<'a> {
    pub(crate) amount: i64,
    pub(crate) currency: &'a str,
    pub(crate) customer: &'a str,
    pub(crate) description: &'a str,
}

/// Makes a payment intent that waits for a payment method.
pub(crate) fn intent(world: &mut World, due: &Due<'_>) -> String {
    let id = world.new_id("pi_3", 23);
    let secret = world.new_id(&format!("{id}_secret_"), 25);
    let intent = json!({
        "id": id, "object": "payment_intent", "amount": due.amount, "amount_capturable": 0, "amount_details": { "tip": {} }, "amount_received": 0,
        "application": null, "application_fee_amount": null, "automatic_payment_methods": null, "canceled_at": null, "cancellation_reason": null,
        "capture_method": "automatic", "client_secret": secret, "confirmation_method": "automatic", "created": world.now,
        "currency": due.currency, "customer": due.customer, "description": due.description, "last_payment_error": null, "latest_charge": null,
        "livemode": false, "metadata": {}, "next_action": null, "on_behalf_of": null, "payment_method": null,
        "payment_method_configuration_details": null, "payment_method_options": { "card": { "request_three_d_secure": "automatic" } },
        "payment_method_types": ["card"], "processing": null, "receipt_email": null, "review": null, "setup_future_usage": "off_session",
        "shipping": null, "source": null, "statement_descriptor": null, "statement_descriptor_suffix": null,
        "status": "requires_payment_method", "transfer_data": null, "transfer_group": null,
    });
    world.put("payment_intent", intent.clone());
    events::emit(world, "payment_intent.created", &intent, None);
    id
}

/// Charges the intent to a payment method. `Ok` carries the charge's id, `Err` the failed one's.
pub(crate) fn attempt(
    world: &mut World,
    intent: &str,
    method: &str,
    declined: bool,
) -> Result<String, String> {
    let paid = !declined;
    let Some(current) = world.get("payment_intent", intent).cloned() else { return Err(String::new()) };
    let (amount, currency) = (int(&current, "amount"), text(&current, "currency").to_owned());
    let charge_id = world.new_id("ch_3", 23);
    let balance = paid.then(|| balance(world, &charge_id, amount, &currency, "charge"));
    let charge = charge(world, &charge_id, &current, method, balance.as_deref());
    world.put("charge", charge.clone());
    let error = json!({
        "charge": charge_id, "code": "card_declined", "decline_code": "generic_decline", "message": "Your card was declined.",
        "payment_method": null, "type": "card_error",
    });
    let edit = |intent: &mut Value| {
        intent["latest_charge"] = charge_id.clone().into();
        if paid {
            intent["status"] = "succeeded".into();
            intent["payment_method"] = method.into();
            intent["amount_received"] = amount.into();
            intent["last_payment_error"] = Value::Null;
        } else {
            intent["last_payment_error"] = error;
        }
    };
    let after = world.change("payment_intent", intent, None, edit);
    let (charge_event, intent_event) = if paid {
        ("charge.succeeded", "payment_intent.succeeded")
    } else {
        ("charge.failed", "payment_intent.payment_failed")
    };
    events::emit(world, charge_event, &charge, None);
    events::emit(world, intent_event, &after, None);
    if paid { Ok(charge_id) } else { Err(charge_id) }
}

fn charge(world: &World, id: &str, intent: &Value, method: &str, balance: Option<&str>) -> Value {
    let paid = balance.is_some();
    let amount = int(intent, "amount");
    let known = world.get("payment_method", method);
    let card = known
        .and_then(|method| method.get("card"))
        .cloned()
        .unwrap_or_else(|| json!({ "brand": "visa", "last4": "0002" }));
    let details = known.and_then(|method| method.get("billing_details")).cloned();
    json!({
        "id": id, "object": "charge", "amount": amount, "amount_captured": if paid { amount } else { 0 }, "amount_refunded": 0,
        "application": null, "application_fee": null, "application_fee_amount": null, "balance_transaction": balance,
        "billing_details": details.unwrap_or_else(|| cards::billing_details(None, None)),
        "calculated_statement_descriptor": "EZ SOLUTIONS", "captured": paid, "created": world.now, "currency": intent["currency"],
        "customer": intent["customer"], "description": intent["description"], "disputed": false,
        "failure_balance_transaction": null, "failure_code": if paid { Value::Null } else { "card_declined".into() },
        "failure_message": if paid { Value::Null } else { "Your card was declined.".into() }, "fraud_details": {}, "livemode": false,
        "metadata": {}, "on_behalf_of": null,
        "outcome": {
            "advice_code": if paid { Value::Null } else { "try_again_later".into() },
            "network_advice_code": null, "network_decline_code": if paid { Value::Null } else { "01".into() },
            "network_status": if paid { "approved_by_network" } else { "declined_by_network" },
            "reason": if paid { Value::Null } else { "generic_decline".into() }, "risk_level": "normal", "risk_score": 20,
            "seller_message": if paid { "Payment complete." } else { "The bank did not return any further details with this decline." },
            "type": if paid { "authorized" } else { "issuer_declined" },
        },
        "paid": paid, "payment_intent": text(intent, "id"), "payment_method": if known.is_some() { method.into() } else { Value::Null },
        "payment_method_details": { "card": card, "type": "card" }, "radar_options": {}, "receipt_email": null, "receipt_number": null,
        "receipt_url": if paid { format!("{}/receipts/{id}", world.base_url).into() } else { Value::Null },
        "refunded": false, "review": null, "shipping": null, "source": null, "source_transfer": null, "statement_descriptor": null,
        "statement_descriptor_suffix": null, "status": if paid { "succeeded" } else { "failed" }, "transfer_data": null, "transfer_group": null,
    })
}

/// Books an amount on Stripe's balance; charges carry a fee of 1.5 % + 25.
pub(crate) fn balance(world: &mut World, source: &str, amount: i64, currency: &str, kind: &str) -> String {
    let id = world.new_id("txn_3", 23);
    let fee = if kind == "charge" { amount * 15 / 1_000 + 25 } else { 0 };
    let details = if fee > 0 {
        json!([{ "amount": fee, "application": null, "currency": currency, "description": "Stripe processing fees", "type": "stripe_fee" }])
    } else {
        json!([])
    };
    let booked = json!({
        "id": id, "object": "balance_transaction", "amount": amount, "available_on": world.now + 7 * 86_400, "balance_type": "payments",
        "created": world.now, "currency": currency, "description": null, "exchange_rate": null, "fee": fee, "fee_details": details,
        "net": amount - fee, "reporting_category": kind, "source": source, "status": "pending", "type": kind,
    });
    world.put("balance_transaction", booked);
    id
}

/// Whether this method is refused now: at the first payment (on session) or at a renewal.
pub(crate) fn refuses(world: &World, method: &str, renewal: bool) -> bool {
    match cards::of_method(world, method) {
        Card::Declined => true,
        Card::FailsLater => renewal,
        Card::Good | Card::Authenticates => false,
    }
}

/// `GET /v1/{payment_intents,charges,payment_methods,balance_transactions,invoice_payments}/{id}`.
pub(crate) fn retrieve(world: &mut World, call: &Call, kind: &str, id: &str) -> Result<Value, Fault> {
    call.params.check(&[RETRIEVE, &["client_secret"]])?;
    world.need(kind, id, "id")
}

/// Filters of the lists of intents and charges.
pub(crate) const FILTER: &[&str] = &["customer", "payment_intent"];

/// `GET /v1/payment_intents` and `GET /v1/charges`.
pub(crate) fn list(world: &mut World, call: &Call, kind: &'static str) -> Result<Value, Fault> {
    let filter: &[&str] = if kind == "charge" { FILTER } else { &FILTER[..1] };
    call.params.check(&[LIST, CREATED, filter])?;
    list::page(world, call, kind, &format!("/v1/{kind}s"), |object| {
        filter.iter().all(|key| call.params.text(key).is_none_or(|wanted| text(object, key) == wanted))
    })
}
