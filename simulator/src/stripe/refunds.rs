//! `/v1/refunds`: money back, never more than was paid.

use serde_json::{Value, json};

use super::{
    api::Call,
    customers::merge_metadata,
    events,
    fault::Fault,
    form::{CREATED, LIST, RETRIEVE},
    list, payments, warnings,
    world::{World, int, text},
};

/// Parameters of create.
pub(crate) const CREATE: &[&str] = &[
    "amount#",
    "charge",
    "expand[]",
    "metadata.*",
    "payment_intent",
    "reason=duplicate|fraudulent|requested_by_customer",
];
/// Filters of list.
pub(crate) const FILTER: &[&str] = &["charge", "payment_intent"];

/// `POST /v1/refunds`.
pub(crate) fn create(world: &mut World, call: &Call) -> Result<Value, Fault> {
    let params = &call.params;
    params.check(&[CREATE])?;
    let charge_id = match (params.text("charge"), params.text("payment_intent")) {
        (Some(charge), _) => charge.to_owned(),
        (None, Some(intent)) => {
            text(&world.need("payment_intent", intent, "payment_intent")?, "latest_charge").to_owned()
        }
        (None, None) => {
            return Err(Fault::invalid(
                "One of the following params should be provided for this request: payment_intent or charge.",
                None,
            ));
        }
    };
    let charge = world.need("charge", &charge_id, "charge")?;
    if super::disputes::holds(world, &charge_id) {
        let message = format!("Charge {charge_id} has been charged back; cannot issue a refund.");
        return Err(Fault::coded("charge_disputed", message, None));
    }
    let left = int(&charge, "amount_captured") - int(&charge, "amount_refunded");
    if left == 0 && int(&charge, "amount_captured") > 0 {
        return Err(Fault::coded(
            "charge_already_refunded",
            format!("Charge {charge_id} has already been refunded."),
            None,
        ));
    }
    let amount = params.int("amount").unwrap_or(left);
    if amount < 1 || amount > left {
        let message =
            format!("Refund amount ({amount}) is greater than unrefunded amount on charge ({left})");
        return Err(Fault::invalid(message, Some("amount")));
    }
    let id = world.new_id("re_3", 23);
    let currency = text(&charge, "currency").to_owned();
    let balance = payments::balance(world, &id, -amount, &currency, "refund");
    let mut refund = json!({
        "id": id, "object": "refund", "amount": amount, "balance_transaction": balance, "charge": charge_id, "created": world.now, "currency": currency,
        "destination_details": { "card": { "reference_status": "pending", "reference_type": "acquirer_reference_number", "type": "refund" }, "type": "card" },
        "metadata": {}, "payment_intent": charge["payment_intent"], "payment_method": charge["payment_method"], "reason": params.text("reason"),
        "receipt_number": null, "source_transfer_reversal": null, "status": "succeeded", "transfer_reversal": null,
    });
    merge_metadata(&mut refund, params, "metadata");
    world.put("refund", refund.clone());
    events::emit(world, "refund.created", &refund, None);
    world.change("charge", &charge_id, Some("charge.refunded"), |charge| {
        let refunded = int(charge, "amount_refunded") + amount;
        charge["amount_refunded"] = refunded.into();
        charge["refunded"] = (refunded == int(charge, "amount_captured")).into();
    });
    warnings::answer(world, &charge_id);
    Ok(refund)
}

/// The bank sends a refund back, maybe weeks later: the money is on Stripe's balance again.
///
/// # Errors
/// No such refund, or one that has failed already.
pub(crate) fn fail(world: &mut World, id: &str) -> Result<Value, Fault> {
    let refund = world.need("refund", id, "id")?;
    if text(&refund, "status") != "succeeded" {
        return Err(Fault::invalid("Only a refund that succeeded can fail later.", Some("id")));
    }
    let (amount, currency) = (int(&refund, "amount"), text(&refund, "currency").to_owned());
    let booked = payments::balance(world, id, amount, &currency, "refund_failure");
    let failed = world.change("refund", id, Some("refund.failed"), |refund| {
        refund["status"] = "failed".into();
        refund["failure_reason"] = "expired_or_canceled_card".into();
        refund["failure_balance_transaction"] = booked.into();
    });
    world.change("charge", text(&refund, "charge"), Some("charge.updated"), |charge| {
        charge["amount_refunded"] = (int(charge, "amount_refunded") - amount).into();
        charge["refunded"] = false.into();
    });
    Ok(failed)
}

/// `GET /v1/refunds/{id}`.
pub(crate) fn retrieve(world: &mut World, call: &Call, id: &str) -> Result<Value, Fault> {
    call.params.check(&[RETRIEVE])?;
    world.need("refund", id, "id")
}

/// `GET /v1/refunds`.
pub(crate) fn list(world: &mut World, call: &Call) -> Result<Value, Fault> {
    call.params.check(&[LIST, CREATED, FILTER])?;
    list::page(world, call, "refund", "/v1/refunds", |refund| {
        FILTER.iter().all(|key| call.params.text(key).is_none_or(|wanted| text(refund, key) == wanted))
    })
}
