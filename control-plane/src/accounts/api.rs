//! `/api/v1/ssh_keys`: the keys an account keeps for its servers.

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    routing::{delete, get},
};
use serde::{Deserialize, Serialize};
use utoipa::{OpenApi, ToSchema};

use super::{AccountsError, SshKey, add_ssh_key, remove_ssh_key, ssh_key, ssh_keys};
use crate::{
    api::{Caller, Input, Named, Page, Problem},
    app::App,
    entropy::EntropyExt,
};

/// The routes; mounted below `/api/v1` with bearer authentication around them.
pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/ssh_keys", get(list).post(create))
        .route("/ssh_keys/{id}", get(show).merge(delete(remove)))
}

/// This slice's part of the OpenAPI document.
pub(crate) fn docs() -> utoipa::openapi::OpenApi {
    #[derive(OpenApi)]
    #[openapi(paths(list, create, show, remove), components(schemas(SshKeyBody, NewSshKey)))]
    struct Docs;
    Docs::openapi()
}

/// A key as the API shows it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SshKeyBody {
    id: String,
    name: String,
    public_key: String,
    fingerprint: String,
    /// UTC milliseconds since 1970.
    created_at: i64,
}

impl From<SshKey> for SshKeyBody {
    fn from(key: SshKey) -> Self {
        Self {
            id: key.id.to_string(),
            name: key.name,
            public_key: key.key.as_str().to_owned(),
            fingerprint: key.fingerprint,
            created_at: key.created_at.0,
        }
    }
}

/// A key to be added.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewSshKey {
    /// 1 to 64 characters; the key's comment if it is missing.
    #[serde(default)]
    name: String,
    /// One line as in `~/.ssh/id_ed25519.pub`.
    public_key: String,
}

impl From<AccountsError> for Problem {
    fn from(error: AccountsError) -> Self {
        match error {
            AccountsError::SshKey(why) => Self::field("public_key", "ssh_key_invalid", why.to_string()),
            AccountsError::Name => Self::field("name", "name_invalid", AccountsError::Name.to_string()),
            AccountsError::NotFound => Self::not_found(),
            AccountsError::TooMany(_) => Self::conflict("too_many", error.to_string()),
            AccountsError::Busy => Self::unavailable(),
            AccountsError::Db(error) => error.into(),
            other => Self::internal(&other),
        }
    }
}

/// Lists the account's SSH keys, oldest first.
#[utoipa::path(get, path = "/api/v1/ssh_keys", tag = "ssh_keys",
    responses((status = 200, body = Page<SshKeyBody>), (status = 401, body = Problem)))]
async fn list(Caller(caller): Caller, State(app): State<App>) -> Result<Json<Page<SshKeyBody>>, Problem> {
    let mut connection = app.db.read().await?;
    let keys = ssh_keys(&mut connection, caller.principal.account_id).await?;
    Ok(Json(Page::whole(keys.into_iter().map(SshKeyBody::from).collect())))
}

/// Adds an SSH key. The same key again answers with the one that is there.
#[utoipa::path(post, path = "/api/v1/ssh_keys", tag = "ssh_keys", request_body = NewSshKey,
    responses((status = 201, body = SshKeyBody), (status = 422, body = Problem)))]
async fn create(
    Caller(caller): Caller,
    State(app): State<App>,
    Input(new): Input<NewSshKey>,
) -> Result<(StatusCode, Json<SshKeyBody>), Problem> {
    let (at, random) = (app.clock.now(), app.entropy.bytes());
    let key = app
        .db
        .write(move |tx| {
            Box::pin(async move {
                add_ssh_key(tx, at, random, &caller.principal, &new.name, &new.public_key).await
            })
        })
        .await?;
    Ok((StatusCode::CREATED, Json(key.into())))
}

/// Shows one of the account's SSH keys.
#[utoipa::path(get, path = "/api/v1/ssh_keys/{id}", tag = "ssh_keys", params(("id" = String, Path)),
    responses((status = 200, body = SshKeyBody), (status = 404, body = Problem)))]
async fn show(
    Caller(caller): Caller,
    State(app): State<App>,
    Named(id): Named<String>,
) -> Result<Json<SshKeyBody>, Problem> {
    let id = id.parse().map_err(|_| Problem::not_found())?;
    let mut connection = app.db.read().await?;
    let key = ssh_key(&mut connection, caller.principal.account_id, id).await?;
    Ok(Json(key.into()))
}

/// Removes an SSH key; servers that have it keep it.
#[utoipa::path(delete, path = "/api/v1/ssh_keys/{id}", tag = "ssh_keys", params(("id" = String, Path)),
    responses((status = 204), (status = 404, body = Problem)))]
async fn remove(
    Caller(caller): Caller,
    State(app): State<App>,
    Named(id): Named<String>,
) -> Result<StatusCode, Problem> {
    let id = id.parse().map_err(|_| Problem::not_found())?;
    let at = app.clock.now();
    app.db
        .write(move |tx| Box::pin(async move { remove_ssh_key(tx, at, &caller.principal, id).await }))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
