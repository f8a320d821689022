//! The operator's pages of this slice: the fleet, one node, a new node, alarms.

use axum::{
    Router,
    extract::{Path, State},
    routing::{get, post},
};
use http::StatusCode;

use super::{
    Joining, NodeChange, add_node, change_node, new_token,
    nodes::{self, NodeError, NodeRow},
    show,
};
use crate::{
    app::App,
    web::{
        self, Ctx, Error, FormState, Staff, Submission, Tone,
        views::fleet::{AddNode, Joined},
    },
};

/// The routes; the web defaults (session, CSRF, limits) are applied around them.
pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/operator", get(home))
        .route("/operator/fleet", get(overview))
        .route("/operator/fleet/changes", get(changes))
        .route("/operator/nodes/new", get(new).post(add))
        .route("/operator/nodes/{node}", get(node))
        .route("/operator/nodes/{node}/cordon", post(cordon))
        .route("/operator/nodes/{node}/uncordon", post(uncordon))
        .route("/operator/nodes/{node}/revoke", post(revoke))
        .route("/operator/nodes/{node}/token", post(token))
        .route("/operator/alarms", get(alarms))
        .route("/operator/alarms/close", post(close_alarm))
}

async fn home(ctx: Ctx, _staff: Staff) -> web::Result {
    ctx.redirect("/operator/fleet")
}

async fn overview(ctx: Ctx, _staff: Staff, State(app): State<App>) -> web::Result {
    let mut conn = app.db.read().await?;
    let page = show::overview(&mut conn, ctx.now()).await?;
    ctx.page(&page)
}

async fn changes(staff: Staff, State(app): State<App>) -> web::Result {
    web::live(staff.0.account_id, move || {
        let app = app.clone();
        async move {
            let mut conn = app.db.read().await?;
            show::mark(&mut conn, app.clock.now()).await
        }
    })
}

async fn alarms(ctx: Ctx, _staff: Staff, State(app): State<App>) -> web::Result {
    let mut conn = app.db.read().await?;
    let page = show::all_alarms(&mut conn).await?;
    ctx.page(&page)
}

async fn close_alarm(ctx: Ctx, staff: Staff, State(app): State<App>, sent: Submission) -> web::Result {
    let (at, actor) = (app.clock.now(), actor(&staff)?);
    let (kind, subject) = (sent.text("kind").to_owned(), sent.text("about").to_owned());
    app.db
        .write(move |tx| Box::pin(async move { super::alarms::close(tx, at, &kind, &subject, &actor).await }))
        .await?;
    ctx.redirect_saying("/operator/alarms", Tone::Good, "alarm-closed")
}

async fn new(ctx: Ctx, staff: Staff, State(app): State<App>) -> web::Result {
    staff.operator()?;
    let mut conn = app.db.read().await?;
    let page = show::add_form(&mut conn, FormState::default()).await?;
    ctx.page(&page)
}

async fn add(ctx: Ctx, staff: Staff, State(app): State<App>, sent: Submission) -> web::Result {
    let actor = actor(&staff)?;
    let joined = add_node(&app, &actor, sent.text("name"), sent.text("location")).await;
    let (field, code) = match joined {
        Ok(joining) => return show_token(&ctx, &joining),
        Err(NodeError::BadName) => ("name", "node-name-invalid"),
        Err(NodeError::NameTaken(_)) => ("name", "node-name-taken"),
        Err(NodeError::UnknownLocation(_)) => ("location", "location-unknown"),
        Err(other) => return Err(other.into()),
    };
    let mut form = sent.state();
    form.refuse(field, code);
    let mut conn = app.db.read().await?;
    let page = show::add_form(&mut conn, form).await?;
    ctx.page_with(StatusCode::UNPROCESSABLE_ENTITY, &page)
}

/// The token is in this answer and nowhere else: reloading does not show it again.
fn show_token(ctx: &Ctx, joining: &Joining) -> web::Result {
    let command = format!("echo '{}' | ez-node-agent join {}", joining.token, joining.url);
    let joined = Joined { name: joining.name.clone(), command, until: joining.expires_at };
    ctx.page(&AddNode { form: FormState::default(), locations: Vec::new(), joined: Some(joined) })
}

async fn find(app: &App, name: &str) -> Result<NodeRow, Error> {
    let mut conn = app.db.read().await?;
    match nodes::find(&mut conn, name).await {
        Ok(node) => Ok(node),
        Err(NodeError::Unknown(_)) => Err(Error::NotFound),
        Err(other) => Err(other.into()),
    }
}

async fn node(ctx: Ctx, _staff: Staff, State(app): State<App>, Path(name): Path<String>) -> web::Result {
    let node = find(&app, &name).await?;
    let mut conn = app.db.read().await?;
    let page = show::node(&mut conn, ctx.now(), &node, FormState::default()).await?;
    ctx.page(&page)
}

async fn cordon(ctx: Ctx, staff: Staff, State(app): State<App>, Path(name): Path<String>) -> web::Result {
    change(&ctx, &staff, &app, &name, NodeChange::Cordon, "node-cordoned").await
}

async fn uncordon(ctx: Ctx, staff: Staff, State(app): State<App>, Path(name): Path<String>) -> web::Result {
    change(&ctx, &staff, &app, &name, NodeChange::Uncordon, "node-uncordoned").await
}

async fn revoke(
    ctx: Ctx,
    staff: Staff,
    State(app): State<App>,
    Path(name): Path<String>,
    sent: Submission,
) -> web::Result {
    staff.operator()?;
    let node = find(&app, &name).await?;
    if sent.text("confirm") != node.name {
        let mut form = sent.state();
        form.refuse("confirm", "confirm-node");
        let mut conn = app.db.read().await?;
        let page = show::node(&mut conn, ctx.now(), &node, form).await?;
        return ctx.page_with(StatusCode::UNPROCESSABLE_ENTITY, &page);
    }
    change(&ctx, &staff, &app, &name, NodeChange::Revoke, "node-revoked").await
}

async fn change(
    ctx: &Ctx,
    staff: &Staff,
    app: &App,
    name: &str,
    change: NodeChange,
    said: &str,
) -> web::Result {
    let actor = actor(staff)?;
    match change_node(app, &actor, name, change).await {
        Ok((name, _)) => ctx.redirect_saying(&format!("/operator/nodes/{name}"), Tone::Good, said),
        Err(NodeError::Unknown(_)) => Err(Error::NotFound),
        Err(NodeError::Refused(_)) => {
            ctx.redirect_saying(&format!("/operator/nodes/{name}"), Tone::Bad, "node-refused")
        }
        Err(other) => Err(other.into()),
    }
}

async fn token(ctx: Ctx, staff: Staff, State(app): State<App>, Path(name): Path<String>) -> web::Result {
    let actor = actor(&staff)?;
    match new_token(&app, &actor, &name).await {
        Ok(joining) => show_token(&ctx, &joining),
        Err(NodeError::Unknown(_)) => Err(Error::NotFound),
        Err(other) => Err(other.into()),
    }
}

fn actor(staff: &Staff) -> Result<String, Error> {
    Ok(format!("operator:{}", staff.operator()?.user_id))
}
