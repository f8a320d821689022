//! `/v1/customers/{id}/balance_transactions`: credit, which the next invoices use up, and what is too small to be charged, which
//! comes with the next one.

use serde_json::{Value, json};

use super::{
    api::Call,
    customers::merge_metadata,
    fault::Fault,
    form::LIST,
    list,
    world::{World, flag, int, text},
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

/// The smallest amount that is charged, in minor units of a currency; fifty of those that are not named. After the table of
/// minimum charges in Stripe's guide to currencies.
fn smallest_charge(currency: &str) -> i64 {
    match currency {
        "gbp" => 30,
        "bgn" => 100,
        "aed" | "myr" | "pln" | "ron" => 200,
        "dkk" => 250,
        "nok" | "sek" => 300,
        "hkd" => 400,
        "mxn" | "thb" => 1_000,
        "czk" => 1_500,
        "huf" => 17_500,
        _ => 50,
    }
}

/// What finalizing an invoice would do: balance before, balance after, what is left to pay.
///
/// The balance is counted in: credit is used up, and what is owed from before is charged along. What is too small to be
/// charged stays on the balance and comes with the next invoice, as does what is below zero.
pub(crate) fn foresee(world: &World, invoice: &Value) -> (i64, i64, i64) {
    let total = int(invoice, "total");
    match world.get("customer", text(invoice, "customer")).filter(|known| !flag(known, "deleted")) {
        Some(known) => settle(int(known, "balance"), total, smallest_charge(text(invoice, "currency"))),
        // With a customer goes the balance.
        None => (0, 0, total.max(0)),
    }
}

fn settle(before: i64, total: i64, smallest: i64) -> (i64, i64, i64) {
    let owed = before + total;
    if owed >= smallest { (before, 0, owed) } else { (before, owed, 0) }
}

/// Does so for an invoice that is being finalized: balance before, balance after, what is left to pay.
pub(crate) fn apply(world: &mut World, invoice: &Value) -> (i64, i64, i64) {
    let customer = text(invoice, "customer").to_owned();
    let (before, after, due) = foresee(world, invoice);
    let (currency, id) = (text(invoice, "currency").to_owned(), text(invoice, "id").to_owned());
    // What the balance does for the invoice, and what the invoice leaves on the balance, are two entries.
    let applied = if due > 0 { -before } else { (-before).clamp(0, int(invoice, "total").max(0)) };
    let left = after - before - applied;
    for (amount, kind) in [(applied, "applied_to_invoice"), (left, "invoice_too_small")] {
        if amount != 0 {
            book(world, &customer, amount, &currency, kind, Some(&id));
        }
    }
    (before, after, due)
}

/// Takes back what an invoice did to the balance, because it was voided.
///
/// Source: Stripe's changes of 2019-12-03, "Customer balances are now returned when voiding invoices".
pub(crate) fn unapply(world: &mut World, invoice: &str) {
    let of_it = |booked: &&Value| {
        text(booked, "invoice") == invoice
            && matches!(text(booked, "type"), "applied_to_invoice" | "invoice_too_small")
    };
    let done: Vec<Value> =
        world.all("customer_balance_transaction").into_iter().filter(of_it).cloned().collect();
    let sum: i64 = done.iter().map(|booked| int(booked, "amount")).sum();
    if let Some(booked) = done.first().filter(|_| sum != 0) {
        let (customer, currency) = (text(booked, "customer"), text(booked, "currency"));
        book(world, customer, -sum, currency, "unapplied_from_invoice", Some(invoice));
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

#[cfg(test)]
mod tests {
    use super::{settle, smallest_charge};

    #[test]
    fn what_is_too_small_to_be_charged_is_put_off_and_charged_with_the_next() {
        let cases = [
            // (balance, total) -> (balance afterwards, to pay)
            ((0, 20), (20, 0)),
            ((20, 900), (0, 920)),
            ((20, 29), (49, 0)),
            ((20, 30), (0, 50)),
            ((0, 0), (0, 0)),
            ((-300, 900), (0, 600)),
            ((-300, 200), (-100, 0)),
            // Credit pays nearly all of it.
            ((-880, 900), (20, 0)),
            ((0, -600), (-600, 0)),
            ((20, -600), (-580, 0)),
        ];
        for ((before, total), (after, due)) in cases {
            assert_eq!(
                settle(before, total, smallest_charge("eur")),
                (before, after, due),
                "{before} {total}"
            );
        }
        assert_eq!(settle(0, 30, smallest_charge("gbp")), (0, 0, 30));
    }
}
