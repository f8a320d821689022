//! Which call is which: method and path to the resource's function.

use serde_json::Value;

use super::{
    account, api::Call, balance, coupons, customers, disputes, endpoints, events, fault::Fault,
    invoice_items, invoices, payments, plan, prices, products, promotions, refunds, schedules, sessions,
    subscriptions, world::World,
};

/// Carries out a call.
///
/// # Errors
/// Whatever the resource refuses; 404 for a path nobody knows.
pub(crate) fn dispatch(world: &mut World, call: &Call) -> Result<Value, Fault> {
    let path = call.path.strip_prefix("/v1/").unwrap_or_default();
    let parts: Vec<&str> = path.split('/').collect();
    match (call.method.as_str(), parts.as_slice()) {
        ("GET", ["account"]) => account::retrieve(world, call),
        ("POST", ["billing_portal", "sessions"]) => account::portal(world, call),
        ("GET", ["charges"]) => payments::list(world, call, "charge"),
        ("GET", ["charges", id]) => payments::retrieve(world, call, "charge", id),
        ("POST", ["checkout", "sessions"]) => sessions::create(world, call),
        ("GET", ["checkout", "sessions"]) => sessions::list(world, call),
        ("GET", ["checkout", "sessions", id]) => sessions::retrieve(world, call, id),
        ("POST", ["checkout", "sessions", id, "expire"]) => sessions::expire(world, call, id),
        ("GET", ["checkout", "sessions", id, "line_items"]) => sessions::line_items(world, call, id),
        ("POST", ["coupons"]) => coupons::create(world, call),
        ("GET", ["coupons"]) => coupons::list(world, call),
        ("GET", ["coupons", id]) => coupons::retrieve(world, call, id),
        ("POST", ["coupons", id]) => coupons::update(world, call, id),
        ("DELETE", ["coupons", id]) => coupons::delete(world, call, id),
        ("POST", ["customers"]) => customers::create(world, call),
        ("GET", ["customers"]) => customers::list(world, call),
        ("GET", ["customers", id]) => customers::retrieve(world, call, id),
        ("POST", ["customers", id]) => customers::update(world, call, id),
        ("GET", ["customers", id, "balance_transactions"]) => balance::list(world, call, id),
        ("POST", ["customers", id, "balance_transactions"]) => balance::create(world, call, id),
        ("GET", ["disputes"]) => disputes::list(world, call),
        ("GET", ["disputes", id]) => payments::retrieve(world, call, "dispute", id),
        ("GET", ["events"]) => events::list(world, call),
        ("GET", ["events", id]) => events::retrieve(world, call, id),
        ("GET", ["invoice_payments"]) => invoices::list_payments(world, call),
        ("GET", ["invoice_payments", id]) => payments::retrieve(world, call, "invoice_payment", id),
        ("POST", ["invoiceitems"]) => invoice_items::create(world, call),
        ("GET", ["invoiceitems"]) => invoice_items::list(world, call),
        ("GET", ["invoiceitems", id]) => invoice_items::retrieve(world, call, id),
        ("DELETE", ["invoiceitems", id]) => invoice_items::delete(world, call, id),
        ("GET", ["invoices"]) => invoices::list(world, call),
        ("POST", ["invoices"]) => invoice_items::invoice(world, call),
        ("POST", ["invoices", "create_preview"]) => plan::preview(world, call),
        ("GET", ["invoices", id]) => invoices::retrieve(world, call, id),
        ("GET", ["invoices", id, "lines"]) => invoices::lines(world, call, id),
        ("POST", ["invoices", id, "void"]) => invoices::void_by_call(world, call, id),
        ("POST", ["invoices", id, "pay"]) => invoices::pay(world, call, id),
        ("GET", ["payment_intents"]) => payments::list(world, call, "payment_intent"),
        ("GET", ["payment_intents", id]) => payments::retrieve(world, call, "payment_intent", id),
        ("GET", ["payment_methods", id]) => payments::retrieve(world, call, "payment_method", id),
        ("POST", ["prices"]) => prices::create(world, call),
        ("GET", ["prices"]) => prices::list(world, call),
        ("GET", ["prices", id]) => prices::retrieve(world, call, id),
        ("POST", ["prices", id]) => prices::update(world, call, id),
        ("POST", ["products"]) => products::create(world, call),
        ("GET", ["products"]) => products::list(world, call),
        ("GET", ["products", id]) => products::retrieve(world, call, id),
        ("POST", ["products", id]) => products::update(world, call, id),
        ("POST", ["promotion_codes"]) => promotions::create(world, call),
        ("GET", ["promotion_codes"]) => promotions::list(world, call),
        ("GET", ["promotion_codes", id]) => promotions::retrieve(world, call, id),
        ("POST", ["promotion_codes", id]) => promotions::update(world, call, id),
        ("POST", ["refunds"]) => refunds::create(world, call),
        ("GET", ["refunds"]) => refunds::list(world, call),
        ("GET", ["refunds", id]) => refunds::retrieve(world, call, id),
        ("POST", ["subscription_schedules"]) => schedules::create(world, call),
        ("GET", ["subscription_schedules"]) => schedules::list(world, call),
        ("GET", ["subscription_schedules", id]) => schedules::retrieve(world, call, id),
        ("POST", ["subscription_schedules", id]) => schedules::update(world, call, id),
        ("POST", ["subscription_schedules", id, "release"]) => schedules::release(world, call, id),
        ("GET", ["subscriptions"]) => subscriptions::list(world, call),
        ("GET", ["subscriptions", id]) => subscriptions::retrieve(world, call, id),
        ("POST", ["subscriptions", id]) => subscriptions::update(world, call, id),
        ("DELETE", ["subscriptions", id]) => subscriptions::cancel(world, call, id),
        ("POST", ["webhook_endpoints"]) => endpoints::create(world, call),
        ("GET", ["webhook_endpoints"]) => endpoints::list(world, call),
        ("GET", ["webhook_endpoints", id]) => endpoints::retrieve(world, call, id),
        ("DELETE", ["webhook_endpoints", id]) => endpoints::delete(world, call, id),
        _ => Err(Fault::no_route(&call.method, &call.path)),
    }
}
