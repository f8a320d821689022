//! The operator's page of a server: what only operators do with it.

use axum::{
    Router,
    extract::{Path, State},
    routing::{get, post},
};
use ez_protocol::{InstanceId, order::Tag};
use http::StatusCode;

use crate::{
    app::App,
    instances::{self, ActError, Instance, RateMbit, SuspendError, Verb, act, care, resume, suspend},
    web::{self, Ctx, Error, FormState, Staff, Submission, Tone},
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/operator/servers/{id}", get(show))
        .route("/operator/servers/{id}/suspend", post(suspend_it))
        .route("/operator/servers/{id}/resume", post(resume_it))
        .route("/operator/servers/{id}/tags", post(tag_it))
        .route("/operator/servers/{id}/limit", post(limit_it))
        .route("/operator/servers/{id}/filter", post(filter_it))
}

async fn named(app: &App, id: &str) -> Result<Instance, Error> {
    let id: InstanceId = id.parse().map_err(|_| Error::NotFound)?;
    let mut connection = app.db.read().await?;
    instances::get(&mut connection, id).await?.ok_or(Error::NotFound)
}

async fn page(ctx: &Ctx, app: &App, instance: &Instance, status: StatusCode, form: FormState) -> web::Result {
    let mut connection = app.db.read().await?;
    ctx.page_with(status, &care::operated(&mut connection, instance, ctx.now(), form).await?)
}

async fn show(ctx: Ctx, _staff: Staff, State(app): State<App>, Path(id): Path<String>) -> web::Result {
    let instance = named(&app, &id).await?;
    page(&ctx, &app, &instance, StatusCode::OK, FormState::default()).await
}

async fn suspend_it(
    ctx: Ctx,
    staff: Staff,
    State(app): State<App>,
    Path(id): Path<String>,
    sent: Submission,
) -> web::Result {
    let by = format!("operator:{}", staff.operator()?.user_id);
    let instance = named(&app, &id).await?;
    let (at, reason, instance_id) = (app.clock.now(), sent.text("reason").to_owned(), instance.id);
    let done = app
        .db
        .write(move |tx| Box::pin(async move { suspend(tx, at, instance_id, &reason, &by).await }))
        .await;
    match done {
        Err(SuspendError::Reason) => {
            let mut form = sent.state();
            form.refuse("reason", "reason-needed");
            page(&ctx, &app, &instance, StatusCode::UNPROCESSABLE_ENTITY, form).await
        }
        other => told(&ctx, &instance, other.map(|_| ()), "server-to-be-suspended"),
    }
}

async fn resume_it(ctx: Ctx, staff: Staff, State(app): State<App>, Path(id): Path<String>) -> web::Result {
    let by = format!("operator:{}", staff.operator()?.user_id);
    let instance = named(&app, &id).await?;
    let (at, instance_id) = (app.clock.now(), instance.id);
    let done =
        app.db.write(move |tx| Box::pin(async move { resume(tx, at, instance_id, "", &by).await })).await;
    told(&ctx, &instance, done.map(|_| ()), "server-to-be-resumed")
}

fn told(ctx: &Ctx, instance: &Instance, done: Result<(), SuspendError>, code: &'static str) -> web::Result {
    let back = format!("/operator/servers/{}", instance.id);
    match done {
        Ok(()) => ctx.redirect_saying(&back, Tone::Good, code),
        Err(SuspendError::Unknown) => Err(Error::NotFound),
        Err(SuspendError::Db(error)) => Err(error.into()),
        Err(SuspendError::DoesNotFit(_) | SuspendError::Reason) => {
            ctx.redirect_saying(&back, Tone::Bad, "server-ended")
        }
    }
}

async fn tag_it(
    ctx: Ctx,
    staff: Staff,
    State(app): State<App>,
    Path(id): Path<String>,
    sent: Submission,
) -> web::Result {
    let by = format!("operator:{}", staff.operator()?.user_id);
    let instance = named(&app, &id).await?;
    let words = sent.text("tags").split([' ', ',']).filter(|word| !word.is_empty());
    let tags: Result<Vec<Tag>, _> = words.map(Tag::parse).collect();
    let Some(tags) = tags.ok().filter(|tags| tags.len() <= MOST_TAGS) else {
        let mut form = sent.state();
        form.refuse_with("tags", "tag-invalid", MOST_TAGS);
        return page(&ctx, &app, &instance, StatusCode::UNPROCESSABLE_ENTITY, form).await;
    };
    ask(&ctx, &app, &instance, Verb::Tags(tags), &by).await
}

/// Limits its network, or with an empty field no more.
async fn limit_it(
    ctx: Ctx,
    staff: Staff,
    State(app): State<App>,
    Path(id): Path<String>,
    sent: Submission,
) -> web::Result {
    let by = format!("operator:{}", staff.operator()?.user_id);
    let instance = named(&app, &id).await?;
    let typed = sent.text("rate").trim();
    let rate = (!typed.is_empty()).then(|| typed.parse::<RateMbit>()).transpose();
    let Ok(rate) = rate else {
        let mut form = sent.state();
        form.refuse_with("rate", "rate-invalid", RateMbit::MOST);
        return page(&ctx, &app, &instance, StatusCode::UNPROCESSABLE_ENTITY, form).await;
    };
    ask(&ctx, &app, &instance, Verb::Limit(rate), &by).await
}

async fn filter_it(
    ctx: Ctx,
    staff: Staff,
    State(app): State<App>,
    Path(id): Path<String>,
    sent: Submission,
) -> web::Result {
    let by = format!("operator:{}", staff.operator()?.user_id);
    let instance = named(&app, &id).await?;
    let on = match sent.text("on") {
        "1" => true,
        "0" => false,
        _ => return Err(Error::NotFound),
    };
    ask(&ctx, &app, &instance, Verb::Filter(on), &by).await
}

/// Back to the page, whatever became of it.
async fn ask(ctx: &Ctx, app: &App, instance: &Instance, verb: Verb, by: &str) -> web::Result {
    let back = format!("/operator/servers/{}", instance.id);
    match act(app, instance.id, verb, by, None).await {
        Ok(_) => ctx.redirect(&back),
        Err(ActError::Unknown) => Err(Error::NotFound),
        Err(ActError::Db(error)) => Err(error.into()),
        Err(error) => {
            tracing::warn!(instance.id = %instance.id, %error, "a server could not be changed for an operator");
            ctx.redirect_saying(&back, Tone::Info, "server-busy")
        }
    }
}

/// As many as an order takes.
const MOST_TAGS: usize = 8;
