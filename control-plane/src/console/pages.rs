//! The console's page, the ticket its script asks for, and the WebSocket.

mod relay;

use axum::{
    Json, Router,
    extract::{Path, State, WebSocketUpgrade},
    response::{IntoResponse as _, Response},
    routing::get,
};
use ez_protocol::{InstanceId, console::ConsoleKind};
use http::{HeaderMap, header};
use serde_json::json;

use super::{Holder, Refusal};
use crate::{
    accounts::{self, AccountsError},
    app::App,
    db::DbError,
    instances,
    web::{self, Ctx, Customer, Error, Submission, views},
};

/// Largest message a browser may send: a pasted text.
const LARGEST: usize = 64 * 1024;

/// The routes; the web defaults (session, CSRF, limits) are applied around them. `/console/{ticket}` works without
/// a session, because an API token's ticket has none; a browser's ticket is good only with its own.
pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/servers/{id}/console", get(show).post(ask))
        .route("/servers/{id}/console/changes", get(changes))
        .route("/console/{ticket}", get(connect))
}

async fn mine(app: &App, me: &accounts::Principal, id: &str) -> Result<instances::Instance, Error> {
    let id: InstanceId = id.parse().map_err(|_| Error::NotFound)?;
    let mut connection = app.db.read().await?;
    instances::owned(&mut connection, me.account_id, id).await?.ok_or(Error::NotFound)
}

async fn show(
    ctx: Ctx,
    Customer(me): Customer,
    State(app): State<App>,
    Path(id): Path<String>,
) -> web::Result {
    let instance = mine(&app, &me, &id).await?;
    if !instance.state.is_live() {
        return ctx.redirect(&format!("/servers/{}", instance.id));
    }
    let mut connection = app.db.read().await?;
    let refused = match super::may_open(&mut connection, &instance).await {
        Ok(()) => None,
        Err(Refusal::Db(error)) => return Err(error.into()),
        Err(refusal) => Some(refusal.code()),
    };
    let server = instances::page_head(&mut connection, &instance, ctx.now()).await?;
    ctx.page(&views::console::Show { server, refused })
}

/// The head of the page changes with the server.
async fn changes(Customer(me): Customer, State(app): State<App>, Path(id): Path<String>) -> web::Result {
    let id = mine(&app, &me, &id).await?.id;
    web::live(me.account_id, move || {
        let app = app.clone();
        async move {
            let mut connection = app.db.read().await?;
            instances::mark(&mut connection, id, app.clock.now()).await
        }
    })
}

/// A ticket for this browser, or the word for why there is none: text `console-end-<word>`.
async fn ask(
    ctx: Ctx,
    Customer(me): Customer,
    State(app): State<App>,
    Path(id): Path<String>,
    sent: Submission,
) -> web::Result {
    let instance = mine(&app, &me, &id).await?.id;
    let kind: ConsoleKind = sent.text("kind").parse().map_err(|_| Error::NotFound)?;
    let Some(session) = session_of(&ctx, &app).await? else { return Err(Error::NotFound) };
    match super::ticket(&app, instance, &me, Holder::Session(session), kind).await {
        Ok(ticket) => Ok(Json(json!({
            "socket": format!("/console/{}", ticket.secret), "expires_at": ticket.expires_at,
        }))
        .into_response()),
        Err(Refusal::Db(error)) => Err(error.into()),
        Err(refusal) => Ok(Json(json!({ "refused": refusal.code() })).into_response()),
    }
}

/// The session of this request.
async fn session_of(ctx: &Ctx, app: &App) -> Result<Option<ez_protocol::SessionId>, Error> {
    let Some(token) = ctx.session_token() else { return Ok(None) };
    match accounts::session(app, token).await {
        Ok(session) => Ok(session.map(|session| session.id)),
        Err(AccountsError::Db(error)) => Err(error.into()),
        Err(other) => Err(other.into()),
    }
}

/// Whether a WebSocket may come from where it says. Browsers always say; a program need not.
fn is_ours(headers: &HeaderMap, origin: &str, from_browser: bool) -> bool {
    match headers.get(header::ORIGIN) {
        Some(sent) => sent.as_bytes() == origin.as_bytes(),
        None => !from_browser,
    }
}

/// Redeems a ticket and becomes a WebSocket. A ticket that is not good looks like a page that is not there.
async fn connect(
    ctx: Ctx,
    State(app): State<App>,
    Path(secret): Path<String>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Result<Response, Error> {
    let session = session_of(&ctx, &app).await?;
    let origin = app.config.http.public_url.origin().ascii_serialization();
    if !is_ours(&headers, &origin, session.is_some()) {
        return Err(Error::Forbidden);
    }
    let console = super::redeem(&app, &secret, session).await?.ok_or(DbError::NotFound)?;
    let upgrade = upgrade.max_message_size(LARGEST).max_frame_size(LARGEST).protocols(["binary"]);
    Ok(upgrade.on_upgrade(move |socket| relay::run(app, console, socket)))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_browser_comes_from_our_own_pages_or_not_at_all() {
        let with = |origin: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            }
            headers
        };
        let ours = "https://servers.example";
        assert!(is_ours(&with(Some(ours)), ours, true));
        assert!(!is_ours(&with(Some("https://evil.example")), ours, true));
        assert!(!is_ours(&with(Some("https://evil.example")), ours, false));
        assert!(!is_ours(&with(Some("null")), ours, true));
        assert!(!is_ours(&with(None), ours, true), "a browser always says where it comes from");
        assert!(is_ours(&with(None), ours, false), "a program need not");
    }
}
