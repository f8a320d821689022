//! Disputes: made by the control API, read by the integration.

use serde_json::{Value, json};

use super::{
    api::Call,
    events,
    fault::Fault,
    form::{CREATED, LIST},
    list, payments, warnings,
    world::{World, int, text},
};

/// A cardholder disputes a charge: the money is taken back at once.
///
/// # Errors
/// No such charge, or one already disputed or unpaid.
pub(crate) fn open(world: &mut World, charge_id: &str, reason: &str) -> Result<Value, Fault> {
    let charge = world.need("charge", charge_id, "charge")?;
    if !super::world::flag(&charge, "paid") || super::world::flag(&charge, "disputed") {
        return Err(Fault::invalid("Only a paid charge without a dispute can be disputed.", Some("charge")));
    }
    let id = world.new_id("du_1", 23);
    let (amount, currency) = (int(&charge, "amount"), text(&charge, "currency").to_owned());
    let booked = payments::balance(world, &id, -amount, &currency, "adjustment");
    let transaction = world.get("balance_transaction", &booked).cloned().unwrap_or_default();
    let dispute = json!({
        "id": id, "object": "dispute", "amount": amount, "balance_transactions": [transaction], "charge": charge_id, "created": world.now,
        "currency": currency, "enhanced_eligibility_types": [], "evidence": { "enhanced_evidence": {} },
        "evidence_details": {
            "due_by": world.now + 7 * 86_400, "enhanced_eligibility": {}, "has_evidence": false, "past_due": false, "submission_count": 0,
        },
        "is_charge_refundable": false, "livemode": false, "metadata": {}, "payment_intent": charge["payment_intent"],
        "reason": reason, "status": "needs_response",
    });
    world.put("dispute", dispute.clone());
    events::emit(world, "charge.dispute.created", &dispute, None);
    world.change("charge", charge_id, Some("charge.updated"), |charge| charge["disputed"] = true.into());
    warnings::answer(world, charge_id);
    events::emit(world, "charge.dispute.funds_withdrawn", &dispute, None);
    Ok(dispute)
}

/// The bank decides: `won` or `lost`.
///
/// # Errors
/// No such dispute.
pub(crate) fn close(world: &mut World, id: &str, won: bool) -> Result<Value, Fault> {
    world.need("dispute", id, "id")?;
    let status = if won { "won" } else { "lost" };
    Ok(world
        .change("dispute", id, Some("charge.dispute.closed"), |dispute| dispute["status"] = status.into()))
}

/// Whether a charge is the bank's to decide about, or was decided against us: nothing of it can be refunded.
pub(crate) fn holds(world: &World, charge: &str) -> bool {
    let of_it = |dispute: &&Value| text(dispute, "charge") == charge;
    world.all("dispute").into_iter().filter(of_it).any(|dispute| text(dispute, "status") != "won")
}

/// Filters of list.
pub(crate) const FILTER: &[&str] = &["charge", "payment_intent"];

/// `GET /v1/disputes`.
pub(crate) fn list(world: &mut World, call: &Call) -> Result<Value, Fault> {
    call.params.check(&[LIST, CREATED, FILTER])?;
    list::page(world, call, "dispute", "/v1/disputes", |dispute| {
        FILTER.iter().all(|key| call.params.text(key).is_none_or(|wanted| text(dispute, key) == wanted))
    })
}
