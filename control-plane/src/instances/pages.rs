//! The pages of this slice: the list of servers, one server, looking after it, and the operator's view of it.

mod care;
mod operator;

use axum::{
    Router,
    extract::{Path, Query, State},
    routing::{get, post},
};
use ez_protocol::InstanceId;
use http::StatusCode;
use serde::Deserialize;

use super::{EndError, Instance, delete, owned, show};
use crate::{
    accounts::Principal,
    app::App,
    web::{self, Ctx, Customer, Error, FormState, Submission, Tone},
};

/// The routes; the web defaults (session, CSRF, limits) are applied around them.
pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/servers", get(list))
        .route("/servers/changes", get(list_changes))
        .route("/servers/{id}", get(server))
        .route("/servers/{id}/changes", get(changes))
        .route("/servers/{id}/delete", post(end))
        .merge(care::routes())
        .merge(operator::routes())
}

#[derive(Deserialize)]
struct Filter {
    #[serde(default)]
    q: String,
    page: Option<usize>,
}

async fn list(
    ctx: Ctx,
    Customer(me): Customer,
    State(app): State<App>,
    Query(filter): Query<Filter>,
) -> web::Result {
    let mut connection = app.db.read().await?;
    let unpaid = super::unpaid(&mut connection, me.account_id).await?;
    let wanted = (filter.q.as_str(), filter.page.unwrap_or(1).clamp(1, 10_000));
    let page = show::list(&mut connection, me.account_id, ctx.now(), wanted, unpaid).await?;
    ctx.page(&page)
}

async fn list_changes(Customer(me): Customer, State(app): State<App>) -> web::Result {
    web::live(me.account_id, move || {
        let app = app.clone();
        async move {
            let mut connection = app.db.read().await?;
            show::list_mark(&mut connection, me.account_id).await
        }
    })
}

/// The server, if it is the customer's.
async fn mine(app: &App, me: &Principal, id: &str) -> Result<Instance, Error> {
    let id: InstanceId = id.parse().map_err(|_| Error::NotFound)?;
    let mut connection = app.db.read().await?;
    owned(&mut connection, me.account_id, id).await?.ok_or(Error::NotFound)
}

async fn server(
    ctx: Ctx,
    Customer(me): Customer,
    State(app): State<App>,
    Path(id): Path<String>,
) -> web::Result {
    let instance = mine(&app, &me, &id).await?;
    let mut connection = app.db.read().await?;
    ctx.page(&show::page(&mut connection, &instance, ctx.now(), FormState::default()).await?)
}

async fn changes(Customer(me): Customer, State(app): State<App>, Path(id): Path<String>) -> web::Result {
    live(&app, &me, &id).await
}

/// Tells whenever something about a server changes.
async fn live(app: &App, me: &Principal, id: &str) -> web::Result {
    let id = mine(app, me, id).await?.id;
    let app = app.clone();
    web::live(me.account_id, move || {
        let app = app.clone();
        async move {
            let mut connection = app.db.read().await?;
            show::mark(&mut connection, id, app.clock.now()).await
        }
    })
}

async fn end(
    ctx: Ctx,
    Customer(me): Customer,
    State(app): State<App>,
    Path(id): Path<String>,
    sent: Submission,
) -> web::Result {
    let instance = mine(&app, &me, &id).await?;
    if sent.text("confirm") != instance.hostname {
        let mut form = sent.state();
        form.refuse("confirm", "confirm-name");
        let mut connection = app.db.read().await?;
        let page = show::page(&mut connection, &instance, ctx.now(), form).await?;
        return ctx.page_with(StatusCode::UNPROCESSABLE_ENTITY, &page);
    }
    let page = format!("/servers/{}", instance.id);
    match delete(&app, instance.id, &actor(&me)).await {
        Ok(_) => ctx.redirect_saying(&page, Tone::Good, "server-deleted"),
        Err(EndError::Unknown) => Err(Error::NotFound),
        Err(EndError::Db(error)) => Err(error.into()),
        Err(error) => {
            tracing::warn!(instance.id = %instance.id, error = %error, "a server could not be deleted");
            ctx.redirect_saying(&page, Tone::Bad, "server-not-deleted")
        }
    }
}

/// Who asks, as the provisioning order names them: no personal data.
fn actor(me: &Principal) -> String {
    me.actor()
}
