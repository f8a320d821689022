//! `/api/v1/servers/{id}/snapshots` and `…/backups`: what the node keeps.

use axum::{Json, Router, extract::State, routing::get};
use serde::Serialize;
use utoipa::{OpenApi, ToSchema};

use super::mine;
use crate::{
    api::{Caller, Named, Page, Problem},
    app::App,
    instances,
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/servers/{id}/snapshots", get(snapshots))
        .route("/servers/{id}/backups", get(backups))
}

pub(super) fn docs() -> utoipa::openapi::OpenApi {
    #[derive(OpenApi)]
    #[openapi(paths(snapshots, backups), components(schemas(SnapshotBody, BackupBody)))]
    struct Docs;
    Docs::openapi()
}

/// A snapshot: the disk as it was, on the same storage. It is lost with the disk.
#[derive(Debug, Serialize, ToSchema)]
struct SnapshotBody {
    name: String,
    /// UTC milliseconds, by the node's clock.
    taken_at: i64,
}

/// A backup: a copy of the whole server on another storage.
#[derive(Debug, Serialize, ToSchema)]
struct BackupBody {
    id: String,
    /// When it was begun, UTC milliseconds, by the node's clock.
    made_at: i64,
    bytes: u64,
}

/// Lists a server's snapshots, oldest first, as its node told them after the last action about them.
#[utoipa::path(get, path = "/api/v1/servers/{id}/snapshots", tag = "servers", params(("id" = String, Path)),
    responses((status = 200, body = Page<SnapshotBody>), (status = 404, body = Problem)))]
async fn snapshots(
    Caller(caller): Caller,
    State(app): State<App>,
    Named(id): Named<String>,
) -> Result<Json<Page<SnapshotBody>>, Problem> {
    let mut connection = app.db.read().await?;
    let id = mine(&mut connection, &caller, &id).await?.id;
    let all = instances::snapshots(&mut connection, id).await?.into_iter();
    Ok(Json(Page::whole(all.map(|s| SnapshotBody { name: s.name, taken_at: s.taken_at.0 }).collect())))
}

/// Lists a server's backups, newest first, as its node told them after the last action about them.
#[utoipa::path(get, path = "/api/v1/servers/{id}/backups", tag = "servers", params(("id" = String, Path)),
    responses((status = 200, body = Page<BackupBody>), (status = 404, body = Problem)))]
async fn backups(
    Caller(caller): Caller,
    State(app): State<App>,
    Named(id): Named<String>,
) -> Result<Json<Page<BackupBody>>, Problem> {
    let mut connection = app.db.read().await?;
    let id = mine(&mut connection, &caller, &id).await?.id;
    let all = instances::backups(&mut connection, id).await?.into_iter();
    let body = all.map(|b| BackupBody { id: b.order.to_string(), made_at: b.made_at.0, bytes: b.bytes });
    Ok(Json(Page::whole(body.collect())))
}
