//! What happens when a customer presses "Pay" on the hosted page.

use serde_json::{Value, json};

use super::{
    cards::{self, Card},
    customers, events,
    fault::Fault,
    form::Params,
    invoices,
    payments::{self, Due},
    promotions,
    sessions::{self, customer_details},
    subscriptions, totals,
    world::{World, int, text},
};

/// What the customer typed.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) card: Card,
    pub(crate) email: Option<String>,
    pub(crate) name: Option<String>,
    /// Whether the 3-D Secure step is behind us.
    pub(crate) authenticated: bool,
    /// Where the buyer sits, if it was said; two letters.
    pub(crate) country: Option<String>,
    /// Their tax id, where the page asks for it.
    pub(crate) tax_id: Option<String>,
    /// A promotion code, where the page has a field for it.
    pub(crate) code: Option<String>,
}

/// Puts what was typed beside the card into an open session and works out what it costs then.
///
/// # Errors
/// No such session, one that is over, or a code that is not good; the message says why.
pub(crate) fn adjust(world: &mut World, id: &str, entry: &Entry) -> Result<Value, Fault> {
    let session = world.need("checkout.session", id, "id")?;
    if text(&session, "status") != "open" {
        return Err(Fault::invalid(format!("This Checkout Session is {}.", text(&session, "status")), None));
    }
    let discount = match entry.code.as_deref().map(str::trim) {
        None => session["_sim"]["discount"].clone(),
        Some("") => Value::Null,
        Some(_) if session["allow_promotion_codes"] != true => {
            return Err(Fault::invalid("This checkout takes no promotion codes.", None));
        }
        Some(code) => {
            let (coupon, promotion) =
                promotions::redeem(world, &session, code).map_err(|why| Fault::invalid(why, None))?;
            json!({ "coupon": coupon, "promotion": promotion })
        }
    };
    let asks = session.pointer("/tax_id_collection/enabled").and_then(Value::as_bool) == Some(true);
    let known = |code: &&String| totals::COUNTRIES.iter().any(|(known, ..)| known == code);
    Ok(world.change("checkout.session", id, None, |session| {
        session["_sim"]["discount"] = discount;
        if let Some(country) = entry.country.as_ref().filter(known) {
            session["_sim"]["country"] = country.clone().into();
        }
        if let Some(tax_id) = entry.tax_id.as_ref().filter(|_| asks) {
            session["_sim"]["tax_id"] = tax_id.trim().into();
        }
        sessions::reckon(session);
    }))
}

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Paid; the browser goes to this URL.
    Paid(String),
    /// The card was declined; the session stays open.
    Declined,
    /// The card asks for a 3-D Secure step.
    Authenticate,
}

/// Pays an open session.
///
/// # Errors
/// No such session, or one that is complete or expired.
pub(crate) fn pay(world: &mut World, id: &str, entry: &Entry) -> Result<Outcome, Fault> {
    let session = world.need("checkout.session", id, "id")?;
    if text(&session, "status") != "open" {
        return Err(Fault::invalid(format!("This Checkout Session is {}.", text(&session, "status")), None));
    }
    if entry.card == Card::Authenticates && !entry.authenticated {
        return Ok(Outcome::Authenticate);
    }
    if entry.card == Card::Declined {
        decline(world, &session);
        return Ok(Outcome::Declined);
    }
    let session = adjust(world, id, entry)?;
    let customer = customer(world, &session, entry);
    world.need("customer", &customer, "customer")?;
    let kept =
        world.get("customer", &customer).map(|known| text(known, "currency").to_owned()).unwrap_or_default();
    if !kept.is_empty() && kept != text(&session, "currency") {
        let said = format!("You cannot combine currencies on a single customer. This one pays in {kept}.");
        return Err(Fault::invalid(said, None));
    }
    let known = world.get("customer", &customer).cloned().unwrap_or_default();
    let email = known["email"].as_str().map(str::to_owned).or_else(|| entry.email.clone());
    let name = entry.name.clone().or_else(|| known["name"].as_str().map(str::to_owned));
    let method = cards::attach(world, entry.card, &customer, name.as_deref(), email.as_deref());
    let (subscription, invoice) = subscribe(world, &session, &customer, &method);
    let taxed = session.pointer("/automatic_tax/enabled").and_then(Value::as_bool) == Some(true);
    let tax_id = text(&session["_sim"], "tax_id").to_owned();
    let address = json!({
        "city": null, "country": session["_sim"]["country"], "line1": null, "line2": null, "postal_code": null, "state": null,
    });
    if taxed {
        let address = address.clone();
        world.change("customer", &customer, Some("customer.updated"), |customer| {
            customer["address"] = address
        });
    }
    let paid = world.change("checkout.session", id, None, |session| {
        session["status"] = "complete".into();
        session["payment_status"] =
            if int(session, "amount_total") > 0 { "paid".into() } else { "no_payment_required".into() };
        session["customer"] = customer.clone().into();
        session["subscription"] = subscription.clone().into();
        session["invoice"] = invoice.clone().into();
        session["customer_details"] = customer_details(email.as_deref(), name.as_deref());
        if taxed {
            session["customer_details"]["address"] = address.clone();
        }
        if !tax_id.is_empty() {
            session["customer_details"]["tax_ids"] = json!([{ "type": "eu_vat", "value": tax_id }]);
        }
        session["url"] = Value::Null;
    });
    events::emit(world, "checkout.session.completed", &paid, None);
    Ok(Outcome::Paid(text(&paid, "success_url").replace("{CHECKOUT_SESSION_ID}", id)))
}

fn customer(world: &mut World, session: &Value, entry: &Entry) -> String {
    let existing = text(session, "customer");
    if !existing.is_empty() {
        return existing.to_owned();
    }
    let mut params = Params::default();
    let email = session["customer_email"].as_str().map(str::to_owned).or_else(|| entry.email.clone());
    for (key, value) in [("email", email), ("name", entry.name.clone())] {
        if let Some(value) = value {
            params.0.insert(key.into(), value.into());
        }
    }
    let customer = customers::build(world, &params);
    events::emit(world, "customer.created", &customer, None);
    text(&customer, "id").to_owned()
}

/// Begins the subscription and collects its first invoice; both ids.
fn subscribe(world: &mut World, session: &Value, customer: &str, method: &str) -> (String, String) {
    let hidden = &session["_sim"];
    let all = || hidden["line_items"]["data"].as_array().into_iter().flatten();
    let of = |item: &Value| (item["price"].clone(), int(item, "quantity"));
    let items: Vec<(Value, i64)> =
        all().filter(|item| !item["price"]["recurring"].is_null()).map(of).collect();
    let once: Vec<(Value, i64)> = all().filter(|item| item["price"]["recurring"].is_null()).map(of).collect();
    let description = hidden["subscription_description"].as_str();
    let subscription =
        subscriptions::begin(world, customer, method, &items, &hidden["subscription_metadata"], description);
    let id = text(&subscription, "id").to_owned();
    let discount = promotions::attach(world, session, &id);
    let automatic = session.pointer("/automatic_tax/enabled").cloned().unwrap_or_default();
    let buyer = json!({ "country": hidden["country"], "tax_id": hidden["tax_id"] });
    world.change("subscription", &id, None, |subscription| {
        subscription["automatic_tax"]["enabled"] = automatic;
        subscription["_sim"]["buyer"] = buyer;
        subscription["_sim"]["discount"] = discount.clone().map_or(Value::Null, Value::from);
        subscription["discounts"] = discount.map_or_else(|| json!([]), |id| json!([id]));
    });
    let subscription =
        subscriptions::begin_trial(world, &id, int(hidden, "trial_days"), text(hidden, "without_card"));
    let invoice = invoices::first(world, &subscription, &once);
    let begun = world.change("subscription", &id, None, |subscription| {
        subscription["latest_invoice"] = invoice.clone().into()
    });
    events::emit(world, "customer.subscription.created", &begun, None);
    invoices::finalize(world, &invoice);
    invoices::collect(world, &invoice, method, false);
    let currency = subscription["currency"].clone();
    world.change("customer", customer, Some("customer.updated"), |customer| customer["currency"] = currency);
    (id, invoice)
}

/// Records a declined attempt: an intent and a failed charge that belong to no invoice yet.
fn decline(world: &mut World, session: &Value) {
    let due = Due {
        amount: int(session, "amount_total"),
        currency: text(session, "currency"),
        customer: text(session, "customer"),
        description: "Subscription creation",
    };
    let intent = payments::intent(world, &due);
    if due.customer.is_empty() {
        world.change("payment_intent", &intent, None, |intent| intent["customer"] = Value::Null);
    }
    // The result is known to be a decline; the charge's id stands in the intent.
    let _declined = payments::attempt(world, &intent, "", true);
}
