//! What happens when a customer presses "Pay" on the hosted page.

use serde_json::Value;

use super::{
    cards::{self, Card},
    customers, events,
    fault::Fault,
    form::Params,
    invoices,
    payments::{self, Due},
    sessions::customer_details,
    subscriptions,
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
    let customer = customer(world, &session, entry);
    let known = world.get("customer", &customer).cloned().unwrap_or_default();
    let email = known["email"].as_str().map(str::to_owned).or_else(|| entry.email.clone());
    let name = entry.name.clone().or_else(|| known["name"].as_str().map(str::to_owned));
    let method = cards::attach(world, entry.card, &customer, name.as_deref(), email.as_deref());
    let (subscription, invoice) = subscribe(world, &session, &customer, &method);
    let paid = world.change("checkout.session", id, None, |session| {
        session["status"] = "complete".into();
        session["payment_status"] =
            if int(session, "amount_total") > 0 { "paid".into() } else { "no_payment_required".into() };
        session["customer"] = customer.clone().into();
        session["subscription"] = subscription.clone().into();
        session["invoice"] = invoice.clone().into();
        session["customer_details"] = customer_details(email.as_deref(), name.as_deref());
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
    let items: Vec<(Value, i64)> = hidden["line_items"]["data"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|item| (item["price"].clone(), int(item, "quantity")))
        .collect();
    let description = hidden["subscription_description"].as_str();
    let subscription =
        subscriptions::begin(world, customer, method, &items, &hidden["subscription_metadata"], description);
    let id = text(&subscription, "id").to_owned();
    let invoice = invoices::draft(world, &subscription, "subscription_create");
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
