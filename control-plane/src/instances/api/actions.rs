//! Actions on servers: begun by POST, watched by GET.

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use ez_protocol::ActionId;
use serde::{Deserialize, Serialize};
use sqlx::AnyConnection;
use utoipa::{OpenApi, ToSchema};

use super::mine;
use crate::{
    api::{self, Caller, Input, Keyed, Named, Page, Problem},
    app::App,
    dispatch::{IssueError, QueueView},
    instances::{
        ActError, ActionRow, ActionState, AskError, Asked, Progress, Story, Wanted, act, action, actions,
        progress_of, reset_password, told,
    },
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/servers/{id}/actions", get(actions_of).post(begin))
        .route("/servers/{id}/actions/{action}", get(action_of))
}

pub(super) fn docs() -> utoipa::openapi::OpenApi {
    #[derive(OpenApi)]
    #[openapi(
        paths(actions_of, begin, action_of),
        components(schemas(ActionBody, StepBody, NewAction, ActionWord))
    )]
    struct Docs;
    Docs::openapi()
}

/// One step of an action.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StepBody {
    /// As its node names it; for a create: `clone, configure, resize, cloud_init, firewall, start, start_on_boot,
    /// await_usable`.
    name: String,
    /// `waiting`, `running`, `done`, `failed` or `skipped`.
    status: &'static str,
    /// UTC milliseconds, by the node's clock.
    started_at: Option<i64>,
    /// UTC milliseconds, by the node's clock.
    finished_at: Option<i64>,
    /// What is to be said about one that failed.
    note: Option<String>,
    /// Where it waits for its turn on its node; null when it does not.
    queue: Option<QueueView>,
}

/// The progress of one change to a server.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ActionBody {
    id: String,
    /// The word it was begun with, or `create`, `delete`, `firewall`, `rename`, `resize`, `suspend`, `resume`, `tags`,
    /// `limit_on`, `limit_off`, `filter_on`, `filter_off`, `adopt`, `renew`.
    kind: String,
    /// What it is about: a snapshot's name, an image's code, a medium, the id of a backup, a server's new name, a limit in
    /// Mbit/s.
    about: Option<String>,
    /// `running`, `success` or `error`.
    status: &'static str,
    /// The signed order behind it.
    provisioning_order_id: Option<String>,
    /// What went wrong.
    error: Option<String>,
    /// Root's new password: only in the one answer to the request that made it, and only if the action succeeds
    /// does it hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<String>,
    /// After `set_password`: `now`, or `next_boot` when the guest could not be told while it ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    takes_effect: Option<String>,
    /// UTC milliseconds.
    started_at: i64,
    /// UTC milliseconds.
    finished_at: Option<i64>,
    steps: Vec<StepBody>,
}

pub(super) async fn action_body(
    connection: &mut AnyConnection,
    action: ActionRow,
) -> Result<ActionBody, Problem> {
    let told = match action.provisioning_order {
        Some(order) => progress_of(connection, order).await?,
        None => None,
    };
    Ok(as_told(action, told))
}

/// An action whose order was read before.
pub(super) fn as_told(action: ActionRow, told: Option<Story>) -> ActionBody {
    let failed = action.state == ActionState::Failed;
    let error = told.as_ref().filter(|_| failed).map(|(record, _)| told::about(record).words.to_owned());
    let takes_effect = told.as_ref().and_then(|(record, _)| record.facts.as_ref()?.password.clone());
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
        queue: step.queue,
    });
    ActionBody {
        steps: steps.collect(),
        id: action.id.to_string(),
        kind: action.kind,
        about: action.about,
        status: match action.state {
            ActionState::Running => "running",
            ActionState::Succeeded => "success",
            ActionState::Failed => "error",
        },
        provisioning_order_id: action.provisioning_order.map(|id| id.to_string()),
        error,
        password: None,
        takes_effect,
        started_at: action.started_at.0,
        finished_at: action.finished_at.map(|at| at.0),
    }
}

/// What to do. Each word takes only the fields that it names.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewAction {
    #[schema(value_type = ActionWord)]
    action: String,
    /// For `snapshot_create`, `snapshot_rollback` and `snapshot_delete`: its name, 2 to 40 lower-case letters, digits,
    /// `-` and `_`, beginning with a letter.
    name: Option<String>,
    /// For `backup_restore` and `backup_delete`: its id.
    backup: Option<String>,
    /// For `rebuild` the code of an image on sale, the present one if left out; for `rescue_on` that of a rescue image, the
    /// first if left out.
    image: Option<String>,
    /// For `iso_attach`: the file of a medium.
    iso: Option<String>,
}

/// The actions there are.
#[derive(ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "only describes NewAction")]
enum ActionWord {
    Start,
    Shutdown,
    Reboot,
    Stop,
    Reset,
    SnapshotCreate,
    SnapshotRollback,
    SnapshotDelete,
    BackupCreate,
    BackupRestore,
    BackupDelete,
    SetPassword,
    Rebuild,
    RescueOn,
    RescueOff,
    IsoAttach,
    IsoDetach,
}

impl From<NewAction> for Wanted {
    fn from(new: NewAction) -> Self {
        let NewAction { action, name, backup, image, iso } = new;
        Self { action, name, backup, image, iso }
    }
}

fn no_such(what: &str) -> Problem {
    let field = if what == "snapshot" { "name" } else { what };
    Problem::field(field, &format!("{what}_unknown"), format!("This server has no such {what}."))
}

/// What was not understood, for a program.
fn misunderstood(error: AskError) -> Problem {
    match error {
        AskError::Field { field, code, message } => Problem::field(field, code, message),
        AskError::Db(error) => error.into(),
    }
}

/// What a refused verb is for a program.
pub(super) fn problem(error: ActError) -> Problem {
    let words = error.to_string();
    let conflict = |code| Problem::conflict(code, format!("Nothing was done: {words}."));
    match error {
        ActError::Unknown => Problem::not_found(),
        ActError::DoesNotFit { .. } => conflict("wrong_state"),
        ActError::Busy(_) => conflict("busy"),
        ActError::Suspended => conflict("suspended"),
        ActError::NeedsRebuild => conflict("needs_rebuild"),
        ActError::InRescue => conflict("in_rescue"),
        ActError::NoSuch(what) => no_such(what),
        ActError::Taken => Problem::field("name", "snapshot_name_taken", "Choose another name."),
        ActError::TooManySnapshots(_) => conflict("too_many_snapshots"),
        ActError::NotSold => conflict("backups_not_sold"),
        ActError::ImageNotReady => conflict("image_not_ready"),
        ActError::SoAlready => conflict("so_already"),
        ActError::Issue(IssueError::TooMany { .. }) => {
            let detail = "Nothing was done. This server was told too much in the last hour; go on later.";
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_actions", detail).retry_after(600)
        }
        ActError::Issue(IssueError::Paced { pace, wait }) => {
            let detail =
                format!("Nothing was done: {pace}. Try again later; the header Retry-After says when.");
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "replaced_too_often", detail)
                .retry_after(wait.as_secs().max(1))
        }
        ActError::Issue(IssueError::Payload(error)) => {
            Problem::input(format!("Nothing was done. The node would not take it: {error}."))
        }
        ActError::Issue(IssueError::Db(error)) | ActError::Db(error) => error.into(),
        ActError::Issue(error) => {
            Problem::conflict("node_unavailable", format!("Nothing was done: {error}."))
        }
        error @ ActError::Spec(_) => Problem::internal(&error),
    }
}

/// Begins an action. It is done at most once; look at the answer's `id` for its progress.
///
/// `set_password` answers with the new password, once: a repetition with the same Idempotency-Key gets the action alone.
#[utoipa::path(post, path = "/api/v1/servers/{id}/actions", tag = "servers", params(("id" = String, Path)),
    request_body = NewAction,
    responses((status = 202, body = ActionBody), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn begin(
    Caller(caller): Caller,
    State(app): State<App>,
    Keyed(claim): Keyed,
    Named(id): Named<String>,
    Input(new): Input<NewAction>,
) -> Result<Response, Problem> {
    let (id, asked) = {
        let mut connection = app.db.read().await?;
        let instance = mine(&mut connection, &caller, &id).await?;
        if let Some(begun) = claim.as_ref().and_then(api::Claim::made) {
            // An earlier request with this key began it and was cut off before it could say so.
            return again(&mut connection, begun).await;
        }
        (instance.id, Wanted::from(new).read(&mut connection, &instance).await.map_err(misunderstood)?)
    };
    let actor = caller.principal.actor();
    let (action, password) = match asked {
        Asked::Verb(verb) => (act(&app, id, verb, &actor, claim).await.map_err(problem)?, None),
        Asked::Password => {
            let (action, password) = reset_password(&app, id, &actor, claim).await.map_err(problem)?;
            (action, Some(password))
        }
    };
    let mut connection = app.db.read().await?;
    let mut body = action_body(&mut connection, action).await?;
    let Some(password) = password else { return Ok((StatusCode::ACCEPTED, Json(body)).into_response()) };
    body.password = Some(password.expose().to_owned());
    Ok(api::shown_once((StatusCode::ACCEPTED, Json(body)).into_response()))
}

async fn again(connection: &mut AnyConnection, begun: ActionId) -> Result<Response, Problem> {
    let action = action(connection, begun).await?.ok_or_else(Problem::not_found)?;
    Ok((StatusCode::ACCEPTED, Json(action_body(connection, action).await?)).into_response())
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
    Named((id, wanted)): Named<(String, String)>,
) -> Result<Json<ActionBody>, Problem> {
    let mut connection = app.db.read().await?;
    let instance = mine(&mut connection, &caller, &id).await?;
    let wanted = wanted.parse().map_err(|_| Problem::not_found())?;
    let found = action(&mut connection, wanted).await?.filter(|action| action.instance == instance.id);
    Ok(Json(action_body(&mut connection, found.ok_or_else(Problem::not_found)?).await?))
}
