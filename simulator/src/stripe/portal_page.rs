//! The customer portal and the pages behind an invoice's links: short, readable, enough to click through.

use axum::{
    Form, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use serde::Deserialize;
use serde_json::Value;

use crate::html::{escape, money};

use super::{
    api::Face,
    cards::{self, Card},
    invoices,
    page::{answer, document, message},
    subscriptions,
    world::{Asker, World, flag, int, public, text},
};

/// Routes of the portal and of invoices.
pub(crate) fn router() -> Router<Face> {
    Router::new()
        .route("/p/session/{id}", get(show).post(act))
        .route("/i/{id}", get(invoice).post(pay_invoice))
        .route("/i/{id}/pdf", get(invoice))
        .route("/receipts/{id}", get(receipt))
}

/// A customer with what hangs on it.
struct View {
    session: Value,
    customer: Value,
    subscriptions: Vec<Value>,
    invoices: Vec<Value>,
}

fn view(world: &World, id: &str) -> Option<View> {
    let session = world.get("billing_portal.session", id)?.clone();
    let customer = world.get("customer", text(&session, "customer"))?.clone();
    let of = |kind: &str| -> Vec<Value> {
        world
            .all(kind)
            .into_iter()
            .filter(|object| text(object, "customer") == text(&customer, "id"))
            .map(public)
            .collect()
    };
    let (subscriptions, invoices) = (of("subscription"), of("invoice"));
    Some(View { session, customer, subscriptions, invoices })
}

async fn show(State(face): State<Face>, Path(id): Path<String>) -> Response {
    match face.engine.run(Asker::default(), move |world| view(world, &id)).await {
        Ok(Some(view)) => answer(StatusCode::OK, render(&view)),
        _ => answer(
            StatusCode::NOT_FOUND,
            message("No such page", "This link to the customer portal is not known.", None),
        ),
    }
}

fn render(view: &View) -> String {
    let action = format!("/p/session/{}", escape(text(&view.session, "id")));
    let rows: String =
        view.subscriptions.iter().map(|subscription| subscription_row(subscription, &action)).collect();
    let invoices: String = view
        .invoices
        .iter()
        .map(|invoice| {
            let number = invoice["number"].as_str().unwrap_or("draft");
            let link = invoice["hosted_invoice_url"].as_str().map_or_else(
                || escape(number),
                |url| format!("<a href=\"{}\">{}</a>", escape(url), escape(number)),
            );
            format!(
                "<tr><td>{link}</td><td>{}</td><td>{}</td></tr>",
                money(int(invoice, "total"), text(invoice, "currency")),
                escape(text(invoice, "status"))
            )
        })
        .collect();
    let options: String = Card::ALL
        .iter()
        .map(|(_, number, does)| {
            format!("<option value=\"{}\">{number} – {does}</option>", number.replace(' ', ""))
        })
        .collect();
    let back = view.session["return_url"]
        .as_str()
        .map(|url| format!("<p><a href=\"{}\">Back to the shop</a></p>", escape(url)))
        .unwrap_or_default();
    let body = format!(
        r#"<main class="narrow"><h1>Billing of {email}</h1>{back}
<h2>Subscriptions</h2>{rows}
<h2>Card</h2><form method="post" action="{action}"><label for="card">New card</label><select id="card" name="card">{options}</select>
<button type="submit" name="act" value="card">Change the card</button></form>
<h2>Invoices</h2><table><thead><tr><th scope="col">Number</th><th scope="col">Amount</th><th scope="col">State</th></tr></thead><tbody>{invoices}</tbody></table>
</main>"#,
        email = escape(view.customer["email"].as_str().unwrap_or("a customer")),
    );
    document("Billing", &body)
}

fn subscription_row(subscription: &Value, action: &str) -> String {
    let id = escape(text(subscription, "id"));
    let status = text(subscription, "status");
    let buttons = match (status, flag(subscription, "cancel_at_period_end")) {
        ("canceled", _) => String::new(),
        (_, true) => "<button type=\"submit\" name=\"act\" value=\"undo\">Do not cancel</button>".to_owned(),
        _ => "<button type=\"submit\" class=\"quiet\" name=\"act\" value=\"end\">Cancel at the end of the period</button><button type=\"submit\" class=\"quiet\" name=\"act\" value=\"now\">Cancel now</button>".to_owned(),
    };
    format!(
        "<form method=\"post\" action=\"{action}\"><p>{id}: <strong>{}</strong></p><input type=\"hidden\" name=\"subscription\" value=\"{id}\">{buttons}</form>",
        escape(status)
    )
}

#[derive(Debug, Deserialize)]
struct Act {
    act: String,
    #[serde(default)]
    subscription: String,
    #[serde(default)]
    card: String,
}

async fn act(State(face): State<Face>, Path(id): Path<String>, Form(form): Form<Act>) -> Response {
    let wanted = id.clone();
    let done = face.engine.run(Asker::default(), move |world| carry_out(world, &wanted, &form)).await;
    match done {
        Ok(Some(())) => Redirect::to(&format!("/p/session/{id}")).into_response(),
        _ => answer(
            StatusCode::BAD_REQUEST,
            message("Nothing was changed", "The portal does not know what to change.", None),
        ),
    }
}

fn carry_out(world: &mut World, session: &str, form: &Act) -> Option<()> {
    let session = world.get("billing_portal.session", session)?.clone();
    let customer = text(&session, "customer").to_owned();
    if form.act == "card" {
        let method = cards::attach(world, Card::parse(&form.card)?, &customer, None, None);
        world.change("customer", &customer, Some("customer.updated"), |customer| {
            customer["invoice_settings"]["default_payment_method"] = method.clone().into()
        });
        let mine: Vec<String> = live(world, &customer);
        for id in mine {
            world.change("subscription", &id, Some("customer.subscription.updated"), |subscription| {
                subscription["default_payment_method"] = method.clone().into()
            });
        }
        return Some(());
    }
    let subscription = live(world, &customer).into_iter().find(|id| *id == form.subscription)?;
    if form.act == "now" {
        subscriptions::end(world, &subscription, "cancellation_requested");
        return Some(());
    }
    let at_end = form.act == "end";
    let now = world.now;
    world.change("subscription", &subscription, Some("customer.subscription.updated"), |subscription| {
        subscriptions::cancel_at_period_end(subscription, at_end, now)
    });
    Some(())
}

fn live(world: &World, customer: &str) -> Vec<String> {
    let mine = |subscription: &&Value| {
        text(subscription, "customer") == customer && text(subscription, "status") != "canceled"
    };
    world
        .all("subscription")
        .into_iter()
        .filter(mine)
        .map(|subscription| text(subscription, "id").to_owned())
        .collect()
}

async fn invoice(State(face): State<Face>, Path(id): Path<String>) -> Response {
    let found = face.engine.run(Asker::default(), move |world| world.get("invoice", &id).cloned()).await;
    let Ok(Some(invoice)) = found else {
        return answer(
            StatusCode::NOT_FOUND,
            message("No such invoice", "This link names no invoice.", None),
        );
    };
    let lines: String = invoice["lines"]["data"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|line| {
            format!(
                "<tr><td>{}</td><td>{}</td></tr>",
                escape(text(line, "description")),
                money(int(line, "amount"), text(line, "currency"))
            )
        })
        .collect();
    let form =
        if text(&invoice, "status") == "open" { pay_form(text(&invoice, "id")) } else { String::new() };
    let body = format!(
        "<main class=\"narrow\"><h1>Invoice {}</h1><p>State: <strong>{}</strong></p><table><thead><tr><th scope=\"col\">What</th><th scope=\"col\">Amount</th></tr></thead><tbody>{lines}</tbody></table><p class=\"due\"><span>Total</span> <strong>{}</strong></p>{form}</main>",
        escape(invoice["number"].as_str().unwrap_or("(draft)")),
        escape(text(&invoice, "status")),
        money(int(&invoice, "total"), text(&invoice, "currency"))
    );
    answer(StatusCode::OK, document("Invoice", &body))
}

/// Cards to pay an open invoice with.
fn pay_form(id: &str) -> String {
    let options: String = Card::ALL
        .iter()
        .map(|(_, number, does)| {
            format!("<option value=\"{}\">{number} – {does}</option>", number.replace(' ', ""))
        })
        .collect();
    format!(
        "<form method=\"post\" action=\"/i/{}\"><label for=\"card\">Card</label><select id=\"card\" name=\"card\">{options}</select><button type=\"submit\">Pay</button></form>",
        escape(id)
    )
}

#[derive(Debug, Deserialize)]
struct Pay {
    card: String,
}

async fn pay_invoice(State(face): State<Face>, Path(id): Path<String>, Form(form): Form<Pay>) -> Response {
    let wanted = id.clone();
    let work = move |world: &mut World| match Card::parse(&form.card) {
        Some(card) => invoices::pay_on_its_page(world, &wanted, card).ok(),
        None => None,
    };
    match face.engine.run(Asker::default(), work).await {
        Ok(Some(true)) => Redirect::to(&format!("/i/{id}")).into_response(),
        Ok(Some(false)) => answer(
            StatusCode::PAYMENT_REQUIRED,
            message("Declined", "The card was declined; the invoice is still open.", None),
        ),
        _ => answer(StatusCode::BAD_REQUEST, message("Nothing was paid", "This invoice is not open.", None)),
    }
}

async fn receipt(State(face): State<Face>, Path(id): Path<String>) -> Response {
    match face.engine.run(Asker::default(), move |world| world.get("charge", &id).cloned()).await {
        Ok(Some(charge)) => {
            let paid = money(int(&charge, "amount"), text(&charge, "currency"));
            let back = money(int(&charge, "amount_refunded"), text(&charge, "currency"));
            answer(
                StatusCode::OK,
                message("Receipt", &format!("Paid {paid}, of which {back} were refunded."), None),
            )
        }
        _ => answer(StatusCode::NOT_FOUND, message("No such receipt", "This link names no payment.", None)),
    }
}
