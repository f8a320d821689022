//! `pause_collection`: invoices are made as ever and nobody has to pay them for now. The subscription's status stays.
//!
//! What is made meanwhile is void, a draft for good, or uncollectible, as the host chose; what was made before is collected
//! as ever. Source: Stripe's guide "Pause payment collection". No recording covers the order of events.

use serde_json::{Value, json};

use super::{
    events,
    form::Params,
    invoices,
    world::{World, text},
};

/// The members of a subscription's update that are about it.
pub(crate) const PARAMS: &[&str] = &[
    "pause_collection",
    "pause_collection.behavior=keep_as_draft|mark_uncollectible|void",
    "pause_collection.resumes_at#",
];

/// Takes over what an update says about it; an empty value takes the pause back.
pub(crate) fn apply(subscription: &mut Value, params: &Params) {
    if !params.has("pause_collection") {
        return;
    }
    subscription["pause_collection"] = match params.text("pause_collection.behavior") {
        Some(behaviour) => {
            json!({ "behavior": behaviour, "resumes_at": params.int("pause_collection.resumes_at") })
        }
        None => Value::Null,
    };
}

/// A fresh invoice of a subscription: held back as its host chose. `false` if it is collected as ever.
pub(crate) fn hold(world: &mut World, subscription: &Value, invoice: &str) -> bool {
    match text(&subscription["pause_collection"], "behavior") {
        "void" => {
            invoices::finalize(world, invoice);
            invoices::void(world, invoice);
        }
        "mark_uncollectible" => {
            invoices::finalize(world, invoice);
            invoices::mark_uncollectible(world, invoice);
        }
        "keep_as_draft" => {
            world.change("invoice", invoice, Some("invoice.updated"), |invoice| {
                invoice["auto_advance"] = false.into();
                invoice["automatically_finalizes_at"] = Value::Null;
            });
        }
        _ => return false,
    }
    true
}

/// When collection goes on by itself.
pub(crate) fn resumes_at(subscription: &Value) -> Option<i64> {
    subscription["pause_collection"]["resumes_at"].as_i64()
}

/// The pause is over by its own date. `false` if none is.
pub(crate) fn expire(world: &mut World, id: &str) -> bool {
    let over = |known: &Value| resumes_at(known).is_some_and(|at| at <= world.now);
    if !world.get("subscription", id).is_some_and(over) {
        return false;
    }
    let before = world.get("subscription", id).cloned().unwrap_or_default();
    let after = world.change("subscription", id, None, |subscription| {
        subscription["pause_collection"] = Value::Null;
    });
    events::emit(world, "customer.subscription.updated", &after, Some(events::previous(&before, &after)));
    true
}
