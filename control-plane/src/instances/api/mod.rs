//! `/api/v1/servers`, the actions on them, and what is kept of them.

mod actions;
mod firewall;
mod kept;

use std::net::IpAddr;

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use ez_protocol::{InstanceId, UnixMillis, input::Hostname};
use serde::{Deserialize, Serialize};
use sqlx::AnyConnection;
use utoipa::{OpenApi, ToSchema};

use self::actions::{ActionBody, action_body, as_told, problem};
use super::{
    ActError, EndError, Instance, RateMbit, Sight, Verb, Wishes, act, delete, list as list_of,
    observe::sight_from, owned, progress_of_all, settings::AllWishes, sight, store, wishes,
};
use crate::{
    accounts::ApiCaller,
    api::{Caller, Input, Named, Page, Problem},
    app::App,
    fleet,
};

/// The routes; mounted below `/api/v1` with bearer authentication around them.
pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/servers", get(servers))
        .route("/servers/{id}", get(server).patch(rename).delete(end))
        .merge(actions::routes())
        .merge(firewall::routes())
        .merge(kept::routes())
}

/// This slice's part of the OpenAPI document.
pub(crate) fn docs() -> utoipa::openapi::OpenApi {
    #[derive(OpenApi)]
    #[openapi(
        paths(servers, server, rename, end),
        components(schemas(ServerBody, ServerChange, SuspensionBody))
    )]
    struct Docs;
    Docs::openapi().merge_from(actions::docs()).merge_from(firewall::docs()).merge_from(kept::docs())
}

/// Why a server is off and stays so.
#[derive(Debug, Serialize, ToSchema)]
struct SuspensionBody {
    /// One sentence.
    reason: String,
    /// UTC milliseconds.
    since: i64,
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
    /// Set while its service is not due: it is off, and nothing but deleting it is possible.
    suspended: Option<SuspensionBody>,
    /// Its last rebuild failed after the old disk was gone: only another `rebuild` helps.
    needs_rebuild: bool,
    /// Something that was changed takes effect with the next cold start.
    restart_needed: bool,
    /// The rescue system it boots instead of its own.
    rescue: Option<String>,
    /// The medium in its CD drive.
    iso: Option<String>,
    /// An operator's limit of its network, Mbit/s each way. It stays when the plan changes.
    rate_limit_mbit: Option<u32>,
    /// Whether its host filters its packets; while an operator has turned that off its firewall rules do not hold.
    filtered: bool,
    /// How many snapshots it may have.
    max_snapshots: u32,
    /// How many backups of it are kept; 0 means that none were sold.
    max_backups: u32,
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

async fn body(
    connection: &mut AnyConnection,
    now: UnixMillis,
    instance: Instance,
) -> Result<ServerBody, Problem> {
    let action = match store::open_action(connection, instance.id).await? {
        Some(action) => Some(action_body(connection, action).await?),
        None => None,
    };
    let mut held = fleet::addresses_of(connection, &[instance.id]).await?;
    let around = Around {
        sight: sight(connection, &instance, now).await?,
        held: held.remove(&instance.id).unwrap_or_default(),
        wishes: wishes(connection, &instance).await?,
        action,
    };
    Ok(compose(instance, around))
}

/// What is read beside a server to tell of it.
struct Around {
    sight: Sight,
    held: Vec<IpAddr>,
    wishes: Wishes,
    action: Option<ActionBody>,
}

fn compose(instance: Instance, around: Around) -> ServerBody {
    let Around { sight, held, wishes, action } = around;
    let first =
        |fits: fn(&IpAddr) -> bool| held.iter().find(|address| fits(address)).map(ToString::to_string);
    let (ipv4, ipv6) = (first(IpAddr::is_ipv4), first(IpAddr::is_ipv6));
    let ssh = ipv4
        .as_ref()
        .filter(|_| instance.state.is_live())
        .map(|ipv4| format!("ssh {}@{ipv4}", instance.login_user));
    ServerBody {
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
        ipv6,
        ipv4,
        ssh,
        suspended: wishes
            .suspension()
            .map(|wish| SuspensionBody { reason: wish.reason.clone(), since: wish.at.0 }),
        needs_rebuild: wishes.disk_lost,
        restart_needed: wishes.restart_needed,
        rescue: wishes.applied.rescue.map(|image| image.code),
        iso: wishes.applied.iso.map(|iso| iso.as_str().to_owned()),
        rate_limit_mbit: wishes.applied.rate_mbit.map(RateMbit::get),
        filtered: !wishes.applied.unfiltered,
        max_snapshots: instance.max_snapshots,
        max_backups: instance.max_backups,
        host_keys: instance.host_keys,
        order_id: instance.order.to_string(),
        action,
        created_at: instance.created_at.0,
        built_at: instance.built_at.map(|at| at.0),
        usable_at: instance.usable_at.map(|at| at.0),
        purge_at: instance.purge_at.map(|at| at.0),
    }
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
    let (account, now) = (caller.principal.account_id, app.clock.now());
    // As few statements as the list allows: what is around the servers is read for all of them at once.
    let listed = list_of(&mut connection, account).await?;
    let ids: Vec<InstanceId> = listed.iter().map(|instance| instance.id).collect();
    let mut held = fleet::addresses_of(&mut connection, &ids).await?;
    let mut wishes = AllWishes::read(&mut connection, account).await?;
    let mut actions = store::open_actions(&mut connection, account).await?;
    let orders: Vec<_> = actions.values().filter_map(|action| action.provisioning_order).collect();
    let mut told = progress_of_all(&mut connection, &orders).await?;
    let hosts = listed.iter().filter_map(|instance| instance.node).collect();
    let nodes = fleet::nodes_of(&mut connection, &hosts).await?;
    let data = listed.into_iter().map(|instance| {
        let node = instance.node.and_then(|id| nodes.get(&id));
        let action = actions.remove(&instance.id).map(|action| {
            let told = action.provisioning_order.and_then(|order| told.remove(&order));
            as_told(action, told)
        });
        let around = Around {
            sight: sight_from(&instance, node, now),
            held: held.remove(&instance.id).unwrap_or_default(),
            wishes: wishes.take(&instance),
            action,
        };
        compose(instance, around)
    });
    Ok(Json(Page::whole(data.collect())))
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

/// What is to be otherwise about a server.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ServerChange {
    /// Its name; letters are lowered.
    hostname: String,
}

/// Renames a server. 200 when it is called so already, 202 when the node is being told; look at `action` for the progress,
/// and until it has succeeded `name` is the old one.
///
/// The system inside keeps its old name until its next start; then its cloud-init takes the new one over, unless the name was
/// changed inside or cloud-init was switched off there.
#[utoipa::path(patch, path = "/api/v1/servers/{id}", tag = "servers", params(("id" = String, Path)),
    request_body = ServerChange,
    responses((status = 200, body = ServerBody), (status = 202, body = ServerBody), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn rename(
    Caller(caller): Caller,
    State(app): State<App>,
    Named(id): Named<String>,
    Input(wanted): Input<ServerChange>,
) -> Result<(StatusCode, Json<ServerBody>), Problem> {
    let id = {
        let mut connection = app.db.read().await?;
        mine(&mut connection, &caller, &id).await?.id
    };
    let name = Hostname::parse(&wanted.hostname)
        .map_err(|error| Problem::field("hostname", "hostname_invalid", error.to_string()))?;
    let status = match act(&app, id, Verb::Rename(name), &caller.principal.actor(), None).await {
        Ok(_) => StatusCode::ACCEPTED,
        Err(ActError::SoAlready) => StatusCode::OK,
        Err(error) => return Err(problem(error)),
    };
    let mut connection = app.db.read().await?;
    let instance = store::get(&mut connection, id).await?.ok_or_else(Problem::not_found)?;
    Ok((status, Json(body(&mut connection, app.clock.now(), instance).await?)))
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
