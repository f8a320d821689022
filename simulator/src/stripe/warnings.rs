//! Early fraud warnings: an issuer tells that a charge may be fraud, before any dispute.
//!
//! Made by the control API. One is actionable until its charge is disputed or refunded in full, as Stripe's reference has it;
//! no recording covers the order of the events.

use serde_json::{Value, json};

use super::{
    api::Call,
    events,
    fault::Fault,
    form::{CREATED, LIST},
    list,
    world::{World, flag, text},
};

/// The object's kind.
pub(crate) const KIND: &str = "radar.early_fraud_warning";
/// What an issuer may say, in Stripe's words.
const TYPES: [&str; 7] = [
    "card_never_received",
    "fraudulent_card_application",
    "made_with_counterfeit_card",
    "made_with_lost_card",
    "made_with_stolen_card",
    "misc",
    "unauthorized_use_of_card",
];

/// An issuer warns of a charge.
///
/// # Errors
/// No such charge, one that moved no money, or a type that Stripe does not have.
pub(crate) fn warn(world: &mut World, charge_id: &str, fraud_type: &str) -> Result<Value, Fault> {
    let charge = world.need("charge", charge_id, "charge")?;
    if !flag(&charge, "paid") {
        return Err(Fault::invalid("Only a paid charge can be warned of.", Some("charge")));
    }
    if !TYPES.contains(&fraud_type) {
        let message = format!("Invalid fraud_type: must be one of {}", TYPES.join(", "));
        return Err(Fault::invalid(message, Some("fraud_type")));
    }
    let id = world.new_id("issfr_1", 23);
    let warning = json!({
        "id": id, "object": KIND, "actionable": !flag(&charge, "disputed") && !flag(&charge, "refunded"),
        "charge": charge_id, "created": world.now, "fraud_type": fraud_type, "livemode": false,
        "payment_intent": charge["payment_intent"],
    });
    world.put(KIND, warning.clone());
    events::emit(world, "radar.early_fraud_warning.created", &warning, None);
    Ok(warning)
}

/// A charge was disputed or refunded: whoever warned of it is answered.
pub(crate) fn answer(world: &mut World, charge_id: &str) {
    let settled = world
        .get("charge", charge_id)
        .is_some_and(|charge| flag(charge, "disputed") || flag(charge, "refunded"));
    if !settled {
        return;
    }
    let open: Vec<String> = world
        .all(KIND)
        .into_iter()
        .filter(|warning| text(warning, "charge") == charge_id && flag(warning, "actionable"))
        .map(|warning| text(warning, "id").to_owned())
        .collect();
    for id in open {
        world.change(KIND, &id, Some("radar.early_fraud_warning.updated"), |warning| {
            warning["actionable"] = false.into();
        });
    }
}

/// Filters of list.
pub(crate) const FILTER: &[&str] = &["charge", "payment_intent"];

/// `GET /v1/radar/early_fraud_warnings`.
pub(crate) fn list(world: &mut World, call: &Call) -> Result<Value, Fault> {
    call.params.check(&[LIST, CREATED, FILTER])?;
    list::page(world, call, KIND, "/v1/radar/early_fraud_warnings", |warning| {
        FILTER.iter().all(|key| call.params.text(key).is_none_or(|wanted| text(warning, key) == wanted))
    })
}
