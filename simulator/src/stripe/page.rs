//! The hosted checkout: plain HTML forms, no script, no foreign asset.

use axum::{
    Form, Router,
    extract::{Path, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Redirect, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::Value;

use crate::html::{escape, money};

use super::{
    api::Face,
    cards::Card,
    checkout::{self, Entry, Outcome},
    world::{Asker, int, public, text},
};

/// The look of all pages of the simulator.
pub(crate) const CSS: &str = include_str!("../simulator.css");

/// The pages' routes.
pub(crate) fn router() -> Router<Face> {
    Router::new()
        .route("/assets/simulator.css", get(css))
        .route("/c/pay/{id}", get(show).post(pay))
        .route("/c/pay/{id}/authenticate", get(ask).post(authenticate))
        .route("/c/pay/{id}/change", post(change))
        .merge(super::portal_page::router())
}

async fn css() -> Response {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8"), (header::CACHE_CONTROL, "max-age=300")], CSS)
        .into_response()
}

/// What the customer types.
#[derive(Debug, Default, Deserialize)]
struct Typed {
    #[serde(default)]
    email: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    card: String,
    #[serde(default)]
    choice: String,
    #[serde(default)]
    country: Option<String>,
    #[serde(default)]
    tax_id: Option<String>,
    #[serde(default)]
    code: Option<String>,
}

impl Typed {
    /// What was typed beside the card.
    fn entry(&self, card: Card, authenticated: bool) -> Entry {
        let given = |text: &str| (!text.trim().is_empty()).then(|| text.trim().to_owned());
        Entry {
            card,
            email: given(&self.email),
            name: given(&self.name),
            authenticated,
            country: self.country.clone(),
            tax_id: self.tax_id.clone(),
            code: self.code.clone(),
        }
    }
}

async fn session(face: &Face, id: &str) -> Result<Value, Response> {
    let wanted = id.to_owned();
    match face
        .engine
        .run(Asker::default(), move |world| world.get("checkout.session", &wanted).cloned())
        .await
    {
        Ok(Some(session)) => Ok(session),
        Ok(None) => Err(answer(
            StatusCode::NOT_FOUND,
            message(
                "No such checkout",
                "This address names no checkout session. Go back to the shop and begin again.",
                None,
            ),
        )),
        Err(_) => Err(not_now()),
    }
}

async fn show(State(face): State<Face>, Path(id): Path<String>) -> Response {
    match session(&face, &id).await {
        Ok(session) => render(&session, &Typed::default(), None, StatusCode::OK),
        Err(refused) => refused,
    }
}

async fn pay(State(face): State<Face>, Path(id): Path<String>, Form(typed): Form<Typed>) -> Response {
    let session = match session(&face, &id).await {
        Ok(session) => session,
        Err(refused) => return refused,
    };
    if text(&session, "status") != "open" {
        return render(&session, &typed, None, StatusCode::OK);
    }
    let number = if typed.choice.is_empty() || typed.choice == "typed" { &typed.card } else { &typed.choice };
    let Some(card) = Card::parse(number) else {
        return render(
            &session,
            &typed,
            Some("This is none of the test cards. Use one of those below; never type a real card here."),
            StatusCode::UNPROCESSABLE_ENTITY,
        );
    };
    if session["customer_details"]["email"].is_null() && !typed.email.contains('@') {
        return render(
            &session,
            &typed,
            Some("Please give an e-mail address, such as jane@example.com."),
            StatusCode::UNPROCESSABLE_ENTITY,
        );
    }
    finish(&face, &session, &id, card, typed, false).await
}

/// A promotion code, a country or a tax id: the page again, with what it costs then.
async fn change(State(face): State<Face>, Path(id): Path<String>, Form(typed): Form<Typed>) -> Response {
    let session = match session(&face, &id).await {
        Ok(session) => session,
        Err(refused) => return refused,
    };
    let entry = typed.entry(Card::Good, false);
    let adjusted =
        face.engine.attempt(Asker::default(), move |world| checkout::adjust(world, &id, &entry)).await;
    match adjusted {
        Ok(Ok(session)) => render(&session, &Typed::default(), None, StatusCode::OK),
        Ok(Err(fault)) => {
            // The page itself is well: a code that does not fit is a matter of the field.
            render(&session, &Typed::default(), Some(fault.message()), StatusCode::OK)
        }
        Err(_) => not_now(),
    }
}

fn not_now() -> Response {
    answer(
        StatusCode::SERVICE_UNAVAILABLE,
        message("Not now", "The simulator cannot store anything at the moment. Nothing was charged.", None),
    )
}

async fn finish(
    face: &Face,
    session: &Value,
    id: &str,
    card: Card,
    typed: Typed,
    authenticated: bool,
) -> Response {
    let entry = typed.entry(card, authenticated);
    let wanted = id.to_owned();
    let result =
        face.engine.attempt(Asker::default(), move |world| checkout::pay(world, &wanted, &entry)).await;
    match result {
        Ok(Ok(Outcome::Paid(url))) => leave(session, &url),
        Ok(Ok(Outcome::Declined)) => render(
            session,
            &typed,
            Some("Your card was declined. You have not been charged. Try another card."),
            StatusCode::PAYMENT_REQUIRED,
        ),
        Ok(Ok(Outcome::Authenticate)) => {
            with_policy(answer(StatusCode::OK, challenge(session, &typed)), session)
        }
        Ok(Err(fault)) => answer(
            StatusCode::CONFLICT,
            message("This checkout has ended", fault.message(), session["cancel_url"].as_str()),
        ),
        Err(_) => not_now(),
    }
}

/// 303 to the shop. Browsers apply the page's `form-action` to the redirect as well, so it is named there.
fn leave(session: &Value, url: &str) -> Response {
    with_policy(Redirect::to(url).into_response(), session)
}

async fn ask(State(face): State<Face>, Path(id): Path<String>) -> Response {
    match session(&face, &id).await {
        Ok(session) if text(&session, "status") == "open" => {
            with_policy(answer(StatusCode::OK, challenge(&session, &Typed::default())), &session)
        }
        Ok(session) => render(&session, &Typed::default(), None, StatusCode::OK),
        Err(refused) => refused,
    }
}

async fn authenticate(
    State(face): State<Face>,
    Path(id): Path<String>,
    Form(typed): Form<Typed>,
) -> Response {
    let session = match session(&face, &id).await {
        Ok(session) => session,
        Err(refused) => return refused,
    };
    if typed.choice != "complete" {
        let said = "Your bank could not confirm that it is you. You have not been charged. Try again or take another card.";
        return render(&session, &typed, Some(said), StatusCode::PAYMENT_REQUIRED);
    }
    finish(&face, &session, &id, Card::Authenticates, typed, true).await
}

fn render(session: &Value, typed: &Typed, error: Option<&str>, status: StatusCode) -> Response {
    let back = session["cancel_url"].as_str();
    let body = match text(session, "status") {
        "open" => form(session, typed, error),
        "complete" => {
            let url = text(session, "success_url").replace("{CHECKOUT_SESSION_ID}", text(session, "id"));
            message("Already paid", "This checkout is complete; you will not be charged again.", Some(&url))
        }
        _ => message(
            "This checkout has expired",
            "Nothing was charged. Go back to the shop and begin again.",
            back,
        ),
    };
    with_policy(answer(status, body), session)
}

fn form(session: &Value, typed: &Typed, error: Option<&str>) -> String {
    let items =
        session.pointer("/_sim/line_items/data").and_then(Value::as_array).cloned().unwrap_or_default();
    let total = money(int(session, "amount_total"), text(session, "currency"));
    let priced = items.iter().map(|item| &item["price"]).find(|price| !price["recurring"].is_null());
    let interval = priced.map(super::invoices::every).unwrap_or_default();
    let then = money(priced.map_or(0, |price| int(price, "unit_amount")), text(session, "currency"));
    let per = match int(&session["_sim"], "trial_days") {
        0 => format!("<span class=\"amount\">{then}</span> <span class=\"per\">per {interval}</span>"),
        days => format!(
            "<span class=\"amount\">{days} days free</span> <span class=\"per\">then {then} per {interval}</span>"
        ),
    };
    let rows: String = items.iter().map(row).chain(changes(session)).collect();
    let fields = fields(session);
    let button =
        if int(session, "amount_total") > 0 { format!("Pay {total}") } else { "Start the trial".to_owned() };
    let known = session["customer_details"]["email"].as_str();
    let email = match known {
        Some(email) => format!(
            "<div class=\"known\"><span class=\"label\">E-mail</span><span>{}</span></div>",
            escape(email)
        ),
        None => format!(
            "<label for=\"email\">E-mail</label><input id=\"email\" name=\"email\" type=\"email\" autocomplete=\"email\" required value=\"{}\">",
            escape(&typed.email)
        ),
    };
    let alert = error.map(|said| format!("<p class=\"alert\" role=\"alert\" id=\"problem\" tabindex=\"-1\"><strong>Not paid.</strong> {}</p>", escape(said))).unwrap_or_default();
    let described = if error.is_some() { " aria-describedby=\"problem\"" } else { "" };
    let number = if typed.card.is_empty() { Card::ALL[0].1 } else { &typed.card };
    let choices: String = Card::ALL
        .iter()
        .enumerate()
        .map(|(index, (_, number, does))| {
            format!(
                "<label class=\"choice\"><input type=\"radio\" name=\"choice\" value=\"{0}\"> <span><span class=\"digits\">{1}</span> <span class=\"does\">{does}</span></span></label>{2}",
                number.replace(' ', ""),
                number,
                if index == 3 { "" } else { "\n" }
            )
        })
        .collect();
    let cancel = session["cancel_url"]
        .as_str()
        .map(|url| format!("<a class=\"cancel\" href=\"{}\">Cancel and go back</a>", escape(url)))
        .unwrap_or_default();
    let id = escape(text(session, "id"));
    let body = format!(
        r#"<main class="checkout">
<section class="summary" aria-labelledby="what">
<h1 id="what">Subscribe</h1>
<p class="total">{per}</p>
<ul class="items">{rows}</ul>
<p class="due"><span>Due today</span> <strong>{total}</strong></p>
{fields}</section>
<section class="pay" aria-labelledby="how">
<h2 id="how">Pay by card</h2>
{alert}<form method="post" action="/c/pay/{id}">
{email}
<label for="card">Card number</label>
<input id="card" name="card" class="digits" inputmode="numeric" autocomplete="off" required value="{number}"{described}>
<label for="name">Name on the card <span class="optional">(optional)</span></label>
<input id="name" name="name" autocomplete="off" value="{name}">
<details{open}><summary>Other test cards</summary>
<fieldset><legend>Pay with</legend>
<label class="choice"><input type="radio" name="choice" value="typed" checked> <span>The number above</span></label>
{choices}</fieldset></details>
<button type="submit">{button}</button>
{cancel}
</form>
</section>
</main>"#,
        number = escape(number),
        name = escape(&typed.name),
        open = if error.is_some() { " open" } else { "" },
    );
    document(&button, &body)
}

/// What is taken off and added below the lines.
fn changes(session: &Value) -> Vec<String> {
    let (details, currency) = (&session["total_details"], text(session, "currency"));
    let mut rows = Vec::new();
    if let Some(coupon) = session.pointer("/_sim/discount/coupon") {
        let code =
            session.pointer("/_sim/discount/promotion").map_or("", |promotion| text(promotion, "code"));
        rows.push(format!(
            "<li><span>{} ({})</span> <span>−{}</span></li>",
            escape(&super::coupons::shown(coupon)),
            escape(code),
            money(int(details, "amount_discount"), currency)
        ));
    }
    if session.pointer("/automatic_tax/enabled").and_then(Value::as_bool) == Some(true) {
        rows.push(format!(
            "<li><span>Tax</span> <span>{}</span></li>",
            money(int(details, "amount_tax"), currency)
        ));
    }
    rows
}

/// The forms for a promotion code, and for where the buyer sits.
fn fields(session: &Value) -> String {
    let (id, hidden) = (escape(text(session, "id")), &session["_sim"]);
    let mut shown = String::new();
    if session["allow_promotion_codes"] == true {
        let code =
            session.pointer("/_sim/discount/promotion").map_or("", |promotion| text(promotion, "code"));
        let (field, button) = if code.is_empty() {
            let field = "<label for=\"code\">Promotion code</label><input id=\"code\" name=\"code\" autocomplete=\"off\" required>";
            (field.to_owned(), "Apply".to_owned())
        } else {
            (
                "<input type=\"hidden\" name=\"code\" value=\"\">".to_owned(),
                format!("Remove {}", escape(code)),
            )
        };
        shown += &format!(
            "<form method=\"post\" action=\"/c/pay/{id}/change\" class=\"change\">{field}<button type=\"submit\" class=\"quiet\">{button}</button></form>\n"
        );
    }
    let taxed = session.pointer("/automatic_tax/enabled").and_then(Value::as_bool) == Some(true);
    let asks = session.pointer("/tax_id_collection/enabled").and_then(Value::as_bool) == Some(true);
    if taxed || asks {
        let options: String = super::totals::COUNTRIES
            .iter()
            .map(|(code, name, _)| {
                let chosen = if *code == text(hidden, "country") { " selected" } else { "" };
                format!("<option value=\"{code}\"{chosen}>{name}</option>")
            })
            .collect();
        let tax_id = if asks {
            format!(
                "<label for=\"tax-id\">Tax id <span class=\"optional\">(optional)</span></label><input id=\"tax-id\" name=\"tax_id\" autocomplete=\"off\" value=\"{}\">",
                escape(text(hidden, "tax_id"))
            )
        } else {
            String::new()
        };
        shown += &format!(
            "<form method=\"post\" action=\"/c/pay/{id}/change\" class=\"change\"><label for=\"country\">Country</label><select id=\"country\" name=\"country\">{options}</select>{tax_id}<button type=\"submit\" class=\"quiet\">Update</button></form>\n"
        );
    }
    shown
}

fn row(item: &Value) -> String {
    let quantity = int(item, "quantity");
    let times = if quantity > 1 { format!(" × {quantity}") } else { String::new() };
    format!(
        "<li><span>{}{times}</span> <span>{}</span></li>",
        escape(item["description"].as_str().unwrap_or("Subscription")),
        money(int(item, "amount_subtotal"), text(item, "currency"))
    )
}

fn challenge(session: &Value, typed: &Typed) -> String {
    let total = money(int(session, "amount_total"), text(session, "currency"));
    let body = format!(
        r#"<main class="narrow">
<h1>Confirm with your bank</h1>
<p>A bank would now ask you to confirm the payment of <strong>{total}</strong> (3-D Secure). This bank is simulated.</p>
<form method="post" action="/c/pay/{id}/authenticate">
<input type="hidden" name="email" value="{email}"><input type="hidden" name="name" value="{name}">
<button type="submit" name="choice" value="complete">Confirm</button>
<button type="submit" class="quiet" name="choice" value="fail">Refuse</button>
</form>
</main>"#,
        id = escape(text(session, "id")),
        email = escape(&typed.email),
        name = escape(&typed.name),
    );
    document("Confirm with your bank", &body)
}

/// A whole page of the simulated Stripe.
pub(crate) fn document(title: &str, body: &str) -> String {
    crate::html::document(
        "Stripe",
        title,
        "This is not Stripe and no money moves. Never type a real card here.",
        body,
    )
}

/// A page that only says something.
pub(crate) fn message(title: &str, said: &str, back: Option<&str>) -> String {
    let link = back
        .map(|url| format!("<p><a class=\"button\" href=\"{}\">Go back to the shop</a></p>", escape(url)))
        .unwrap_or_default();
    document(
        title,
        &format!("<main class=\"narrow\"><h1>{}</h1><p>{}</p>{link}</main>", escape(title), escape(said)),
    )
}

/// The page with the headers every page has.
pub(crate) fn answer(status: StatusCode, page: String) -> Response {
    let mut response = (status, Html(page)).into_response();
    for (name, value) in [
        ("cache-control", "no-store"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
    ] {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    policy(&mut response, "");
    response
}

fn policy(response: &mut Response, hosts: &str) {
    let text = format!(
        "default-src 'none'; img-src data:; style-src 'self'; form-action 'self'{hosts}; frame-ancestors 'none'; base-uri 'none'"
    );
    if let Ok(value) = HeaderValue::from_str(&text) {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, value);
    }
}

fn with_policy(mut response: Response, session: &Value) -> Response {
    let shown = public(session);
    let origin = |key: &str| {
        let url = url::Url::parse(&text(&shown, key).replace(['{', '}'], "")).ok()?;
        Some(format!(" {}", url.origin().ascii_serialization()))
    };
    let hosts: String = ["success_url", "cancel_url"].into_iter().filter_map(origin).collect();
    policy(&mut response, &hosts);
    response
}
