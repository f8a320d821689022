//! `/api/v1/servers` and the actions on them.

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use ez_protocol::{UnixMillis, order::PowerVerb};
use serde::{Deserialize, Serialize};
use sqlx::AnyConnection;
use utoipa::{OpenApi, ToSchema};

use super::{
    ActError, ActionRow, ActionState, EndError, Instance, Progress, act, actions, delete, list as list_of,
    owned, progress_of, sight,
};
use crate::{
    accounts::ApiCaller,
    api::{self, Caller, Input, Keyed, Named, Page, Problem},
    app::App,
    fleet,
};

/// The routes; mounted below `/api/v1` with bearer authentication around them.
pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/servers", get(servers))
        .route("/servers/{id}", get(server).delete(end))
        .route("/servers/{id}/actions", get(actions_of).post(begin))
        .route("/servers/{id}/actions/{action}", get(action_of))
}

/// This slice's part of the OpenAPI document.
pub(crate) fn docs() -> utoipa::openapi::OpenApi {
    #[derive(OpenApi)]
    #[openapi(
        paths(servers, server, end, actions_of, begin, action_of),
        components(schemas(ServerBody, ActionBody, StepBody, NewAction, ActionWord))
    )]
    struct Docs;
    Docs::openapi()
}

/// One step of an action.
#[derive(Debug, Serialize, ToSchema)]
struct StepBody {
    /// For a create: `clone, configure, resize, cloud_init, firewall, start, await_usable`.
    name: String,
    /// `waiting`, `running`, `done`, `failed` or `skipped`.
    status: &'static str,
    /// UTC milliseconds, by the node's clock.
    started_at: Option<i64>,
    /// UTC milliseconds, by the node's clock.
    finished_at: Option<i64>,
    /// What the node says about it.
    note: Option<String>,
}

/// The progress of one change to a server.
#[derive(Debug, Serialize, ToSchema)]
struct ActionBody {
    id: String,
    /// `create`, `delete`, `start`, `shutdown`, `reboot`, `stop` or `reset`.
    kind: String,
    /// `running`, `success` or `error`.
    status: &'static str,
    /// The signed order behind it.
    provisioning_order_id: Option<String>,
    /// What went wrong.
    error: Option<String>,
    /// UTC milliseconds.
    started_at: i64,
    /// UTC milliseconds.
    finished_at: Option<i64>,
    steps: Vec<StepBody>,
}

/// A server.
#[derive(Debug, Serialize, ToSchema)]
struct ServerBody {
    id: String,
    name: String,
    /// `requested`, `assigned`, `provisioning`, `running`, `stopped`, `failed`, `needs_operator`, `retiring`, `retired`,
    /// `purging`, `purged` or `released`.
    state: &'static str,
    /// Power state as last seen: `running`, `stopped`, `paused` or `absent`.
    observed_state: Option<String>,
    /// When it was last known to be so, UTC milliseconds.
    observed_at: Option<i64>,
    location: String,
    plan: String,
    image: String,
    vcpu: u32,
    memory_mib: u32,
    disk_gib: u32,
    /// Without prefix length.
    ipv4: Option<String>,
    /// Without prefix length.
    ipv6: Option<String>,
    /// The line that logs in, once there is an address.
    ssh: Option<String>,
    /// Fingerprints of its host keys, where the first boot showed them.
    host_keys: Vec<String>,
    order_id: String,
    /// What is being done to it now.
    action: Option<ActionBody>,
    created_at: i64,
    /// When the node had built it.
    built_at: Option<i64>,
    /// When it was first known to be usable.
    usable_at: Option<i64>,
    /// When its disk goes, once it was deleted.
    purge_at: Option<i64>,
}

async fn action_body(connection: &mut AnyConnection, action: ActionRow) -> Result<ActionBody, Problem> {
    let told = match action.provisioning_order {
        Some(order) => progress_of(connection, order).await?,
        None => None,
    };
    let steps = told.map(|(_, steps)| steps).unwrap_or_default().into_iter().map(|step| StepBody {
        name: step.name,
        status: match step.progress {
            Progress::Waiting => "waiting",
            Progress::Now => "running",
            Progress::Done => "done",
            Progress::Failed => "failed",
            Progress::Skipped => "skipped",
        },
        started_at: step.started_at.map(|at| at.0),
        finished_at: step.ended_at.map(|at| at.0),
        note: step.note,
    });
    Ok(ActionBody {
        steps: steps.collect(),
        id: action.id.to_string(),
        kind: action.kind,
        status: match action.state {
            ActionState::Running => "running",
            ActionState::Succeeded => "success",
            ActionState::Failed => "error",
        },
        provisioning_order_id: action.provisioning_order.map(|id| id.to_string()),
        error: action.error,
        started_at: action.started_at.0,
        finished_at: action.finished_at.map(|at| at.0),
    })
}

async fn body(
    connection: &mut AnyConnection,
    now: UnixMillis,
    instance: Instance,
) -> Result<ServerBody, Problem> {
    let sight = sight(connection, &instance, now).await?;
    let place = fleet::placement_of(connection, instance.id).await?;
    let busy =
        actions(connection, instance.id, 5).await?.into_iter().find(|a| a.state == ActionState::Running);
    let action = match busy {
        Some(action) => Some(action_body(connection, action).await?),
        None => None,
    };
    let ssh = place
        .as_ref()
        .filter(|_| instance.state.is_live())
        .map(|place| format!("ssh {}@{}", instance.login_user, place.ipv4.address));
    Ok(ServerBody {
        id: instance.id.to_string(),
        name: instance.hostname,
        state: instance.state.as_str(),
        observed_state: instance.observed_state,
        observed_at: sight.at.map(|at| at.0),
        location: instance.location,
        plan: instance.plan_code,
        image: instance.image_code,
        vcpu: instance.vcpu,
        memory_mib: instance.memory_mib,
        disk_gib: instance.disk_gib,
        ipv6: place.as_ref().and_then(|place| place.ipv6).map(|ipv6| ipv6.address.to_string()),
        ipv4: place.map(|place| place.ipv4.address.to_string()),
        ssh,
        host_keys: instance.host_keys,
        order_id: instance.order.to_string(),
        action,
        created_at: instance.created_at.0,
        built_at: instance.built_at.map(|at| at.0),
        usable_at: instance.usable_at.map(|at| at.0),
        purge_at: instance.purge_at.map(|at| at.0),
    })
}

/// The server, if it is the caller's.
async fn mine(connection: &mut AnyConnection, caller: &ApiCaller, id: &str) -> Result<Instance, Problem> {
    let id = id.parse().map_err(|_| Problem::not_found())?;
    owned(connection, caller.principal.account_id, id).await?.ok_or_else(Problem::not_found)
}

/// Lists the account's servers that are not gone, newest first.
#[utoipa::path(get, path = "/api/v1/servers", tag = "servers",
    responses((status = 200, body = Page<ServerBody>), (status = 401, body = Problem)))]
async fn servers(Caller(caller): Caller, State(app): State<App>) -> Result<Json<Page<ServerBody>>, Problem> {
    let mut connection = app.db.read().await?;
    let mut data = Vec::new();
    for instance in list_of(&mut connection, caller.principal.account_id).await? {
        data.push(body(&mut connection, app.clock.now(), instance).await?);
    }
    Ok(Json(Page::whole(data)))
}

/// Shows a server: the observed state with its time, addresses, and the running action with its steps.
#[utoipa::path(get, path = "/api/v1/servers/{id}", tag = "servers", params(("id" = String, Path)),
    responses((status = 200, body = ServerBody), (status = 404, body = Problem)))]
async fn server(
    Caller(caller): Caller,
    State(app): State<App>,
    Named(id): Named<String>,
) -> Result<Json<ServerBody>, Problem> {
    let mut connection = app.db.read().await?;
    let instance = mine(&mut connection, &caller, &id).await?;
    Ok(Json(body(&mut connection, app.clock.now(), instance).await?))
}

/// Deletes a server: its subscription ends now, its disk is kept for 72 hours. Nothing is paid back.
///
/// What cannot be done at once (the node or Stripe is away) is done as soon as it can; asking again changes nothing.
#[utoipa::path(delete, path = "/api/v1/servers/{id}", tag = "servers", params(("id" = String, Path)),
    responses((status = 202, body = ServerBody), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn end(
    Caller(caller): Caller,
    State(app): State<App>,
    Named(id): Named<String>,
) -> Result<(StatusCode, Json<ServerBody>), Problem> {
    let id = {
        let mut connection = app.db.read().await?;
        mine(&mut connection, &caller, &id).await?.id
    };
    let instance = match delete(&app, id, &caller.principal.actor()).await {
        Ok(instance) => instance,
        Err(EndError::Unknown) => return Err(Problem::not_found()),
        Err(error @ EndError::DoesNotFit(_)) => {
            return Err(Problem::conflict("wrong_state", error.to_string()));
        }
        Err(EndError::Db(error)) => return Err(error.into()),
        Err(other) => return Err(Problem::internal(&other)),
    };
    let mut connection = app.db.read().await?;
    Ok((StatusCode::ACCEPTED, Json(body(&mut connection, app.clock.now(), instance).await?)))
}

/// What to do.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewAction {
    #[schema(value_type = ActionWord)]
    action: String,
}

/// The power actions there are.
#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
#[expect(dead_code, reason = "only describes NewAction")]
enum ActionWord {
    Start,
    Shutdown,
    Reboot,
    Stop,
    Reset,
}

/// Begins a power action. It is done at most once; look at the answer's `id` for its progress.
#[utoipa::path(post, path = "/api/v1/servers/{id}/actions", tag = "servers", params(("id" = String, Path)),
    request_body = NewAction,
    responses((status = 202, body = ActionBody), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn begin(
    Caller(caller): Caller,
    State(app): State<App>,
    Keyed(claim): Keyed,
    Named(id): Named<String>,
    Input(new): Input<NewAction>,
) -> Result<(StatusCode, Json<ActionBody>), Problem> {
    let verb: PowerVerb = new.action.parse().map_err(|_| {
        Problem::field("action", "action_unknown", "One of start, shutdown, reboot, stop and reset.")
    })?;
    let id = {
        let mut connection = app.db.read().await?;
        mine(&mut connection, &caller, &id).await?.id
    };
    if let Some(begun) = claim.as_ref().and_then(api::Claim::made) {
        // An earlier request with this key began it and was cut off before it could say so.
        let mut connection = app.db.read().await?;
        let action = super::action(&mut connection, begun).await?.ok_or_else(Problem::not_found)?;
        return Ok((StatusCode::ACCEPTED, Json(action_body(&mut connection, action).await?)));
    }
    let action = match act(&app, id, verb, &caller.principal.actor(), claim).await {
        Ok(action) => action,
        Err(ActError::Unknown) => return Err(Problem::not_found()),
        Err(error @ ActError::DoesNotFit { .. }) => {
            return Err(Problem::conflict("wrong_state", error.to_string()));
        }
        Err(error @ ActError::Busy(_)) => return Err(Problem::conflict("busy", error.to_string())),
        Err(ActError::Issue(error)) => return Err(Problem::conflict("node_unavailable", error.to_string())),
        Err(ActError::Db(error)) => return Err(error.into()),
    };
    let mut connection = app.db.read().await?;
    Ok((StatusCode::ACCEPTED, Json(action_body(&mut connection, action).await?)))
}

/// Lists a server's newest actions, newest first.
#[utoipa::path(get, path = "/api/v1/servers/{id}/actions", tag = "servers", params(("id" = String, Path)),
    responses((status = 200, body = Page<ActionBody>), (status = 404, body = Problem)))]
async fn actions_of(
    Caller(caller): Caller,
    State(app): State<App>,
    Named(id): Named<String>,
) -> Result<Json<Page<ActionBody>>, Problem> {
    let mut connection = app.db.read().await?;
    let instance = mine(&mut connection, &caller, &id).await?;
    let mut data = Vec::new();
    for action in actions(&mut connection, instance.id, 25).await? {
        data.push(action_body(&mut connection, action).await?);
    }
    Ok(Json(Page::whole(data)))
}

/// Shows one action with its steps.
#[utoipa::path(get, path = "/api/v1/servers/{id}/actions/{action}", tag = "servers",
    params(("id" = String, Path), ("action" = String, Path)),
    responses((status = 200, body = ActionBody), (status = 404, body = Problem)))]
async fn action_of(
    Caller(caller): Caller,
    State(app): State<App>,
    Named((id, action)): Named<(String, String)>,
) -> Result<Json<ActionBody>, Problem> {
    let mut connection = app.db.read().await?;
    let instance = mine(&mut connection, &caller, &id).await?;
    let action = action.parse().map_err(|_| Problem::not_found())?;
    let found = super::action(&mut connection, action).await?.filter(|action| action.instance == instance.id);
    Ok(Json(action_body(&mut connection, found.ok_or_else(Problem::not_found)?).await?))
}
