//! What the clock does by itself: sessions expire, subscriptions renew or end, invoices are finalized and
//! collected, idempotency keys are forgotten.

use serde_json::Value;

use super::{
    invoices, sessions, subscriptions,
    world::{World, flag, int, text},
};

/// How long an idempotency key is remembered.
pub(crate) const KEY_LIVES: i64 = 24 * 3_600;

/// When the clock must look at an object next, if ever.
pub(crate) fn due_at(kind: &str, value: &Value) -> Option<i64> {
    match kind {
        "checkout.session" => sessions::due_at(value),
        "subscription" => subscriptions::due_at(value),
        "invoice" if flag(value, "auto_advance") => {
            value["automatically_finalizes_at"].as_i64().or_else(|| value["next_payment_attempt"].as_i64())
        }
        "_idem" => Some(int(value, "created") + KEY_LIVES),
        _ => None,
    }
}

/// The object's time has come.
pub(crate) fn fire(world: &mut World, id: &str) {
    if world.get("checkout.session", id).is_some() {
        sessions::end(world, id);
    } else if world.get("subscription", id).is_some() {
        subscriptions::roll(world, id);
    } else if let Some(invoice) = world.get("invoice", id).cloned() {
        if text(&invoice, "status") == "draft" {
            invoices::finalize(world, id);
        }
        collect(world, id, invoices::subscription_of(&invoice));
    } else {
        world.delete(id);
    }
}

fn collect(world: &mut World, invoice: &str, subscription: &str) {
    let Some(known) = world.get("subscription", subscription).cloned() else { return };
    let method = subscriptions::card(world, &known);
    let paid = invoices::collect(world, invoice, &method, true);
    let Some(tried) = world.get("invoice", invoice) else { return };
    let last_try = tried["next_payment_attempt"].is_null();
    if !invoices::is_apart(tried) {
        subscriptions::after_collection(world, subscription, paid, last_try);
    }
}
