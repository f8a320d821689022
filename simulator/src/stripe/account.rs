//! The account behind the key, and sessions of the customer portal.

use serde_json::{Value, json};

use super::{api::Call, fault::Fault, form::RETRIEVE, world::World};

/// `GET /v1/account`.
pub(crate) fn retrieve(world: &mut World, call: &Call) -> Result<Value, Fault> {
    call.params.check(&[RETRIEVE])?;
    Ok(json!({
        "id": "acct_1Simulated00000000", "object": "account", "business_profile": { "name": "EZ Solutions (simulated)", "support_email": null, "url": null },
        "business_type": null, "capabilities": { "card_payments": "active" }, "charges_enabled": true, "country": "DE", "created": world.now.min(1_700_000_000),
        "default_currency": "eur", "details_submitted": true, "email": null, "external_accounts": null, "metadata": {}, "payouts_enabled": true,
        "settings": { "dashboard": { "display_name": "EZ Solutions (simulated)", "timezone": "Etc/UTC" } }, "type": "standard",
    }))
}

/// Parameters of a portal session.
pub(crate) const PORTAL: &[&str] = &["configuration", "customer!", "expand[]", "locale", "return_url"];

/// `POST /v1/billing_portal/sessions`.
pub(crate) fn portal(world: &mut World, call: &Call) -> Result<Value, Fault> {
    let params = &call.params;
    params.check(&[PORTAL])?;
    let customer = params.text("customer").unwrap_or_default();
    world.need("customer", customer, "customer")?;
    let id = world.new_id("bps_1", 23);
    let session = json!({
        "id": id, "object": "billing_portal.session", "configuration": "bpc_1Simulated0000000000000", "created": world.now, "customer": customer,
        "flow": null, "livemode": false, "locale": params.text("locale"), "on_behalf_of": null, "return_url": params.text("return_url"),
        "url": format!("{}/p/session/{id}", world.base_url),
    });
    world.put("billing_portal.session", session.clone());
    Ok(session)
}
