//! What each customer has paid, got back and owes: the other side of "money equals Stripe's".

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::world::{World, flag, int, text};

#[derive(Default)]
struct Sum {
    paid: i64,
    refunded: i64,
    disputed: i64,
    due: i64,
}

/// `{"customers": [{"customer", "email", "currency", "paid", "refunded", "disputed", "due"}]}`, minor units,
/// one row per customer and currency.
pub(crate) fn of(world: &World) -> Value {
    let mut sums: BTreeMap<(String, String), Sum> = BTreeMap::new();
    let key = |object: &Value| (text(object, "customer").to_owned(), text(object, "currency").to_owned());
    for charge in world.all("charge").into_iter().filter(|charge| flag(charge, "paid")) {
        let sum = sums.entry(key(charge)).or_default();
        sum.paid += int(charge, "amount_captured");
        sum.refunded += int(charge, "amount_refunded");
    }
    for dispute in world.all("dispute").into_iter().filter(|dispute| text(dispute, "status") != "won") {
        if let Some(charge) = world.get("charge", text(dispute, "charge")) {
            sums.entry(key(charge)).or_default().disputed += int(dispute, "amount");
        }
    }
    for invoice in world.all("invoice").into_iter().filter(|invoice| text(invoice, "status") == "open") {
        sums.entry(key(invoice)).or_default().due += int(invoice, "amount_remaining");
    }
    let rows: Vec<Value> = sums
        .into_iter()
        .map(|((customer, currency), sum)| {
            let email =
                world.get("customer", &customer).map_or(Value::Null, |customer| customer["email"].clone());
            json!({
                "customer": customer, "email": email, "currency": currency,
                "paid": sum.paid, "refunded": sum.refunded, "disputed": sum.disputed, "due": sum.due,
            })
        })
        .collect();
    json!({ "customers": rows })
}
