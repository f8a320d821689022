//! The page of a server's graphs.

use axum::{
    Router,
    extract::{Path, Query, State},
    routing::get,
};
use serde::Deserialize;

use super::{model::Span, show};
use crate::{
    accounts::Principal,
    app::App,
    instances::{self, Instance},
    web::{self, Ctx, Customer, Error},
};

/// The routes; the web defaults (session, CSRF, limits) are applied around them.
pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/servers/{id}/graphs", get(graphs))
        .route("/servers/{id}/graphs/changes", get(changes))
}

#[derive(Deserialize)]
struct Wanted {
    #[serde(default)]
    span: String,
}

/// The server, if it is the customer's.
async fn mine(app: &App, me: &Principal, id: &str) -> Result<Instance, Error> {
    let id = id.parse().map_err(|_| Error::NotFound)?;
    let mut connection = app.db.read().await?;
    instances::owned(&mut connection, me.account_id, id).await?.ok_or(Error::NotFound)
}

async fn graphs(
    ctx: Ctx,
    Customer(me): Customer,
    State(app): State<App>,
    Path(id): Path<String>,
    Query(wanted): Query<Wanted>,
) -> web::Result {
    let instance = mine(&app, &me, &id).await?;
    if !instance.state.is_live() {
        return ctx.redirect(&format!("/servers/{}", instance.id));
    }
    // What is no span is looked at as the shortest.
    let span = Span::named(&wanted.span).unwrap_or_default();
    let mut connection = app.db.read().await?;
    let page = show::graphs(&mut connection, &instance, span, ctx.now()).await?;
    ctx.page(&page)
}

/// Tells of every new sample, and of what is done to the server.
async fn changes(Customer(me): Customer, State(app): State<App>, Path(id): Path<String>) -> web::Result {
    let id = mine(&app, &me, &id).await?.id;
    web::live(me.account_id, move || {
        let app = app.clone();
        async move {
            let mut connection = app.db.read().await?;
            let newest = super::newest(&mut connection, &id.to_string()).await?;
            let state = instances::get(&mut connection, id).await?.map(|one| (one.state, one.observed_state));
            Ok::<_, crate::db::DbError>((newest, state))
        }
    })
}
