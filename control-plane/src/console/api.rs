//! `POST /api/v1/servers/{id}/console`.

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::post,
};
use ez_protocol::{InstanceId, console::ConsoleKind};
use serde::{Deserialize, Serialize};
use utoipa::{OpenApi, ToSchema};

use super::{Holder, Refusal};
use crate::{
    api::{self, Caller, Input, Named, Problem},
    app::App,
    db::DbError,
};

/// The routes; mounted below `/api/v1` with bearer authentication around them.
pub(crate) fn routes() -> Router<App> {
    Router::new().route("/servers/{id}/console", post(open))
}

/// This slice's part of the OpenAPI document.
pub(crate) fn docs() -> utoipa::openapi::OpenApi {
    #[derive(OpenApi)]
    #[openapi(paths(open), components(schemas(NewConsole, ConsoleBody)))]
    struct Docs;
    Docs::openapi()
}

/// Which console.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewConsole {
    /// `vnc`: the screen; `serial`: the first serial line.
    kind: String,
}

/// Where the console is, once.
#[derive(Debug, Serialize, ToSchema)]
struct ConsoleBody {
    /// The console's id, as the audit names it.
    id: String,
    /// Address of the WebSocket; it opens one console, once. Binary messages are the console's bytes (RFB 3.8 with
    /// security type None, or for a serial line the guest's output, and towards it `0:<length>:<bytes>`,
    /// `1:<columns>:<rows>:` and `2`); text messages are JSON: `viewers`, and at the end `ended`.
    url: String,
    /// Until when it has to be opened, UTC milliseconds.
    expires_at: i64,
}

/// Gives the address of a console, good for one WebSocket within a minute.
///
/// The console ends after 15 minutes without a key or click and after two hours, when the server stops, and when this
/// token is revoked.
#[utoipa::path(post, path = "/api/v1/servers/{id}/console", tag = "servers", params(("id" = String, Path)),
    request_body = NewConsole,
    responses((status = 201, body = ConsoleBody), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "`server_suspended`, `server_not_running`, `server_not_in_service` or `node_away`."),
        (status = 422, body = Problem)))]
async fn open(
    Caller(caller): Caller,
    State(app): State<App>,
    Named(id): Named<String>,
    Input(wanted): Input<NewConsole>,
) -> Result<Response, Problem> {
    let id: InstanceId = id.parse().map_err(|_| Problem::not_found())?;
    let kind: ConsoleKind =
        wanted.kind.parse().map_err(|error: ez_protocol::console::UnknownConsoleKind| {
            Problem::field("kind", "kind_unknown", error.to_string())
        })?;
    let given = super::ticket(&app, id, &caller.principal, Holder::Token(caller.token_id), kind).await;
    let ticket = given.map_err(|refusal| {
        let code = match &refusal {
            Refusal::Db(_) => "internal",
            Refusal::Ended => "server_not_in_service",
            Refusal::Suspended => "server_suspended",
            Refusal::NotRunning => "server_not_running",
            Refusal::NodeAway => "node_away",
        };
        match refusal {
            Refusal::Db(DbError::NotFound) => Problem::not_found(),
            Refusal::Db(error) => error.into(),
            other => Problem::conflict(code, format!("Nothing was opened: {other}.")),
        }
    })?;
    let page = app.config.http.page(&format!("/console/{}", ticket.secret));
    let body = ConsoleBody {
        id: ticket.id.to_string(),
        // https becomes wss, http (on the loopback) ws.
        url: page.replacen("http", "ws", 1),
        expires_at: ticket.expires_at.0,
    };
    Ok(api::shown_once((StatusCode::CREATED, Json(body)).into_response()))
}
