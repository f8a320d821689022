//! The page with the letters, and the JSON list.
//!
//! A letter's HTML is a stranger's: it is shown in a sandboxed frame from a path of its own, whose policy
//! allows neither scripts nor anything from elsewhere. Links open in the whole window.

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::{HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use serde::Deserialize;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    inject::{Injector, MailFaults},
    store::{Store, Stored},
};
use crate::html::{document, escape};

const POLICY: &str = "default-src 'none'; style-src 'self'; frame-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'";
const FRAME_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'; base-uri 'none'; \
    sandbox allow-popups allow-top-navigation-by-user-activation";

/// The routes.
pub(crate) fn router(store: Store, faults: Injector) -> Router {
    let control = Router::new().route("/faults", get(armed).post(arm).delete(disarm)).with_state(faults);
    Router::new()
        .route("/", get(index))
        .route("/letters/{id}", get(letter))
        .route("/letters/{id}/html", get(frame))
        .route("/messages.json", get(messages))
        .route("/messages", get(messages).delete(clear))
        .route("/messages/{id}", get(message))
        .route("/assets/simulator.css", get(css))
        .with_state(store)
        .merge(control)
}

#[derive(Debug, Deserialize)]
struct Filter {
    /// Only letters to this address.
    to: Option<String>,
    limit: Option<i64>,
}

fn failed(error: &sqlx::Error) -> Response {
    tracing::error!(%error, "the letters could not be read");
    (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({ "error": "the letters could not be read" })))
        .into_response()
}

async fn messages(State(store): State<Store>, Query(filter): Query<Filter>) -> Response {
    let limit = filter.limit.unwrap_or(200).clamp(1, 1_000);
    match store.list(filter.to.as_deref(), limit).await {
        Ok(letters) => Json(letters).into_response(),
        Err(error) => failed(&error),
    }
}

async fn message(State(store): State<Store>, Path(id): Path<i64>) -> Response {
    match store.get(id).await {
        Ok(Some(letter)) => Json(letter).into_response(),
        Ok(None) => (StatusCode::NOT_FOUND, Json(json!({ "error": "no such letter" }))).into_response(),
        Err(error) => failed(&error),
    }
}

async fn clear(State(store): State<Store>) -> Response {
    match store.clear().await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => failed(&error),
    }
}

async fn armed(State(faults): State<Injector>) -> Json<Value> {
    Json(faults.list())
}

async fn arm(State(faults): State<Injector>, Json(wanted): Json<MailFaults>) -> Response {
    match faults.arm(&wanted) {
        Ok(()) => Json(wanted).into_response(),
        Err(reason) => (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({ "error": reason }))).into_response(),
    }
}

async fn disarm(State(faults): State<Injector>) -> StatusCode {
    faults.clear();
    StatusCode::NO_CONTENT
}

async fn css() -> Response {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], crate::stripe::CSS).into_response()
}

fn show(status: StatusCode, title: &str, body: &str) -> Response {
    let notice = "Letters stop here; none is delivered to anyone.";
    let mut response = (status, Html(document("mail", title, notice, body))).into_response();
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn at(ms: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(ms.div_euclid(1_000)).ok();
    time.and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
        .replace('T', " ")
        .replace('Z', " UTC")
}

async fn index(State(store): State<Store>, Query(filter): Query<Filter>) -> Response {
    let letters = match store.list(filter.to.as_deref(), 200).await {
        Ok(letters) => letters,
        Err(error) => return failed(&error),
    };
    if letters.is_empty() {
        let body = "<main class=\"narrow\"><h1>No letters yet</h1><p>What the portal sends will be listed here, newest first.</p></main>";
        return show(StatusCode::OK, "Letters", body);
    }
    let rows: String = letters
        .iter()
        .map(|letter| {
            let subject = if letter.subject.is_empty() { "(no subject)" } else { &letter.subject };
            format!(
                "<tr><td><a href=\"/letters/{}\">{}</a></td><td>{}</td><td><time>{}</time></td></tr>",
                letter.id,
                escape(subject),
                escape(&letter.to.join(", ")),
                at(letter.received_at)
            )
        })
        .collect();
    let body = format!(
        "<main><h1>Letters</h1><table><thead><tr><th scope=\"col\">Subject</th><th scope=\"col\">To</th><th scope=\"col\">Received</th></tr></thead><tbody>{rows}</tbody></table></main>"
    );
    show(StatusCode::OK, "Letters", &body)
}

async fn letter(State(store): State<Store>, Path(id): Path<i64>) -> Response {
    match store.get(id).await {
        Ok(Some(letter)) => show(StatusCode::OK, &letter.subject, &whole(&letter)),
        Ok(None) => show(
            StatusCode::NOT_FOUND,
            "No such letter",
            "<main class=\"narrow\"><h1>No such letter</h1><p><a href=\"/\">All letters</a></p></main>",
        ),
        Err(error) => failed(&error),
    }
}

fn whole(letter: &Stored) -> String {
    let html = letter.html.as_ref().map(|_| {
        format!(
            "<section><h2>As HTML</h2><iframe class=\"letter\" title=\"The letter as HTML\" sandbox=\"allow-popups allow-top-navigation-by-user-activation\" src=\"/letters/{}/html\"></iframe></section>",
            letter.id
        )
    });
    let text = letter.text.as_ref().map(|text| {
        format!("<section><h2>As text</h2><pre class=\"letter\">{}</pre></section>", linked(text))
    });
    format!(
        "<main><p><a href=\"/\">All letters</a></p><h1>{}</h1><p>From {} to {}, <time>{}</time></p>{}{}</main>",
        escape(&letter.subject),
        escape(&letter.from),
        escape(&letter.to.join(", ")),
        at(letter.received_at),
        text.unwrap_or_default(),
        html.unwrap_or_default()
    )
}

/// The text, safe, with its web addresses as links.
fn linked(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = ["http://", "https://"].iter().filter_map(|scheme| rest.find(scheme)).min() {
        let end = rest[start..]
            .find(|letter: char| letter.is_whitespace() || "<>\"')".contains(letter))
            .map_or(rest.len(), |index| start + index);
        let url = rest[start..end].trim_end_matches(['.', ',', ';', ':', '!', '?']);
        out.push_str(&escape(&rest[..start]));
        out.push_str(&format!("<a href=\"{0}\" rel=\"noreferrer\">{0}</a>", escape(url)));
        rest = &rest[start + url.len()..];
    }
    out.push_str(&escape(rest));
    out
}

async fn frame(State(store): State<Store>, Path(id): Path<i64>) -> Response {
    match store.get(id).await {
        Ok(Some(Stored { html: Some(html), .. })) => {
            // Links of the letter leave the frame instead of opening inside it.
            let mut response = Html(format!("<base target=\"_top\">{html}")).into_response();
            response
                .headers_mut()
                .insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(FRAME_POLICY));
            response
        }
        Ok(_) => StatusCode::NOT_FOUND.into_response(),
        Err(error) => failed(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::linked;

    #[test]
    fn addresses_become_links_and_markup_stays_text() {
        let shown = linked("Open http://127.0.0.1:1/verify?a=1&b=2. <script>");
        let url = "http://127.0.0.1:1/verify?a=1&amp;b=2";
        assert_eq!(shown, format!("Open <a href=\"{url}\" rel=\"noreferrer\">{url}</a>. &lt;script&gt;"));
    }
}
