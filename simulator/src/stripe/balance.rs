//! `/v1/customers/{id}/balance_transactions`: credit, which the next invoices use up.

use serde_json::{Value, json};

use super::{
    api::Call,
    customers::merge_metadata,
    fault::Fault,
    form::LIST,
    list,
    world::{World, int, text},
};

/// Parameters of create.
pub(crate) const CREATE: &[&str] = &["amount#!", "currency!", "description", "expand[]", "metadata.*"];

/// `POST /v1/customers/{id}/balance_transactions`: below zero is credit.
pub(crate) fn create(world: &mut World, call: &Call, customer: &str) -> Result<Value, Fault> {
    let params = &call.params;
    params.check(&[CREATE])?;
    let known = world.need("customer", customer, "customer")?;
    let currency = params.text("currency").unwrap_or_default().to_owned();
    if known["currency"].as_str().is_some_and(|own| own != currency) {
        return Err(Fault::invalid(
            "The currency of a customer's balance cannot be changed once it is set.",
            Some("currency"),
        ));
    }
    let amount = params.int("amount").unwrap_or(0);
    let mut booked = book(world, customer, amount, &currency, "adjustment", None);
    booked["description"] = params.text("description").map_or(Value::Null, Value::from);
    merge_metadata(&mut booked, params, "metadata");
    world.put("customer_balance_transaction", booked.clone());
    Ok(booked)
}

/// Changes a customer's balance and tells of it.
fn book(
    world: &mut World,
    customer: &str,
    amount: i64,
    currency: &str,
    kind: &str,
    invoice: Option<&str>,
) -> Value {
    let id = world.new_id("cbtxn_1", 23);
    let currency_now = currency.to_owned();
    let after = world.change("customer", customer, Some("customer.updated"), |customer| {
        customer["balance"] = (int(customer, "balance") + amount).into();
        customer["currency"] = currency_now.into();
    });
    let booked = json!({
        "id": id, "object": "customer_balance_transaction", "amount": amount, "checkout_session": null, "created": world.now,
        "credit_note": null, "currency": currency, "customer": customer, "customer_account": null, "description": null,
        "ending_balance": int(&after, "balance"), "invoice": invoice, "livemode": false, "metadata": {}, "type": kind,
    });
    world.put("customer_balance_transaction", booked.clone());
    booked
}

/// An invoice below zero becomes credit.
pub(crate) fn give(world: &mut World, customer: &str, amount: i64, currency: &str, invoice: &str) {
    book(world, customer, amount, currency, "invoice_too_small", Some(invoice));
}

/// What finalizing an invoice would do: balance before, balance after, what is left to pay.
pub(crate) fn foresee(world: &World, invoice: &Value) -> (i64, i64, i64) {
    let total = int(invoice, "total");
    let before =
        world.get("customer", text(invoice, "customer")).map_or(0, |customer| int(customer, "balance"));
    let used = (-before).clamp(0, total.max(0));
    (before, before + used + total.min(0), total.max(0) - used)
}

/// Uses credit up for an invoice that is being finalized: balance before, balance after, what is left to pay.
pub(crate) fn apply(world: &mut World, invoice: &Value) -> (i64, i64, i64) {
    let customer = text(invoice, "customer").to_owned();
    let (before, _, due) = foresee(world, invoice);
    let used = int(invoice, "total").max(0) - due;
    if used == 0 {
        return (before, before, due);
    }
    let (currency, id) = (text(invoice, "currency").to_owned(), text(invoice, "id").to_owned());
    book(world, &customer, used, &currency, "applied_to_invoice", Some(&id));
    (before, before + used, due)
}

/// Gives back the credit that an invoice had used up, because it was voided.
///
/// Source: Stripe's changes of 2019-12-03, "Customer balances are now returned when voiding invoices".
pub(crate) fn unapply(world: &mut World, invoice: &str) {
    let applied = world
        .all("customer_balance_transaction")
        .into_iter()
        .find(|booked| text(booked, "invoice") == invoice && text(booked, "type") == "applied_to_invoice")
        .cloned();
    if let Some(booked) = applied {
        let (customer, currency) = (text(&booked, "customer"), text(&booked, "currency"));
        book(world, customer, -int(&booked, "amount"), currency, "unapplied_from_invoice", Some(invoice));
    }
}

/// `GET /v1/customers/{id}/balance_transactions`.
pub(crate) fn list(world: &mut World, call: &Call, customer: &str) -> Result<Value, Fault> {
    call.params.check(&[LIST])?;
    world.need("customer", customer, "customer")?;
    let url = format!("/v1/customers/{customer}/balance_transactions");
    list::page(world, call, "customer_balance_transaction", &url, |booked| {
        text(booked, "customer") == customer
    })
}
