//! The operator's pages of provisioning orders, and the ways out of a purchase that waits for a person.

use axum::{
    Router,
    extract::{Path, Query, State},
    routing::{get, post},
};
use ez_protocol::{OrderId, ProvisioningOrderId};
use serde::Deserialize;

use super::{ProvisioningRecord, builds_at, latest_for, shown};
use crate::{
    app::App,
    instances,
    orders::{self, ExitError, Order},
    web::{self, Ctx, Error, Staff, Tone},
};

/// The routes; the web defaults (session, CSRF, limits) are applied around them.
pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/operator/orders", get(list))
        .route("/operator/orders/changes", get(list_changes))
        .route("/operator/orders/{id}", get(one))
        .route("/operator/orders/{id}/changes", get(one_changes))
        .route("/operator/orders/{id}/{exit}", post(exit))
}

#[derive(Deserialize)]
struct Which {
    #[serde(default)]
    state: String,
}

async fn list(ctx: Ctx, _staff: Staff, State(app): State<App>, Query(which): Query<Which>) -> web::Result {
    let mut conn = app.db.read().await?;
    let page = shown::page(&mut conn, &which.state).await?;
    ctx.page(&page)
}

async fn list_changes(staff: Staff, State(app): State<App>) -> web::Result {
    web::live(staff.0.account_id, move || {
        let app = app.clone();
        async move {
            let mut conn = app.db.read().await?;
            shown::list_mark(&mut conn).await
        }
    })
}

/// What an id in an address names: a provisioning order, or the purchase behind some.
enum Named {
    Provisioning(Box<ProvisioningRecord>),
    Purchase(Box<Order>),
}

async fn named(app: &App, id: &str) -> Result<Named, Error> {
    let mut conn = app.db.read().await?;
    let provisioning: ProvisioningOrderId = id.parse().map_err(|_| Error::NotFound)?;
    if let Some(order) = super::show(&mut conn, provisioning).await? {
        return Ok(Named::Provisioning(Box::new(order)));
    }
    let purchase: OrderId = id.parse().map_err(|_| Error::NotFound)?;
    let purchase = orders::get(&mut conn, purchase).await?.ok_or(Error::NotFound)?;
    Ok(match latest_for(&mut conn, purchase.instance).await? {
        Some(order) => Named::Provisioning(Box::new(order)),
        None => Named::Purchase(Box::new(purchase)),
    })
}

async fn one(ctx: Ctx, _staff: Staff, State(app): State<App>, Path(id): Path<String>) -> web::Result {
    let page = match named(&app, &id).await? {
        Named::Provisioning(order) => {
            let mut conn = app.db.read().await?;
            shown::order(&mut conn, ctx.now(), &order).await?
        }
        Named::Purchase(purchase) => {
            let mut conn = app.db.read().await?;
            shown::unissued(&mut conn, &purchase).await?
        }
    };
    ctx.page(&page)
}

async fn one_changes(staff: Staff, State(app): State<App>, Path(id): Path<String>) -> web::Result {
    let Named::Provisioning(order) = named(&app, &id).await? else { return Ok(web::ended()) };
    web::live(staff.0.account_id, move || {
        let (app, order) = (app.clone(), order.clone());
        async move {
            let mut conn = app.db.read().await?;
            shown::order_mark(&mut conn, &order).await
        }
    })
}

/// One of the four ways out of a purchase.
async fn exit(
    ctx: Ctx,
    staff: Staff,
    State(app): State<App>,
    Path((id, exit)): Path<(String, String)>,
) -> web::Result {
    let actor = format!("operator:{}", staff.operator()?.user_id);
    let back = format!("/operator/orders/{id}");
    let id: OrderId = id.parse().map_err(|_| Error::NotFound)?;
    let done = match exit.as_str() {
        "retry" => orders::retry(&app, id, &actor).await,
        "re_place" => match orders::revoke_holders(&app, id, &actor).await {
            Ok(revoked) => orders::re_place(&app, id, &actor, revoked).await,
            Err(refused) => Err(refused),
        },
        "abandon" => {
            let revoked = is_fenced(&app, id).await?;
            orders::abandon(&app, id, &actor, revoked).await
        }
        "refund" => orders::refund(&app, id, &actor).await,
        _ => return Err(Error::NotFound),
    };
    match done {
        Ok(_) => ctx.redirect_saying(&back, Tone::Good, "exit-taken"),
        Err(ExitError::Unknown) => Err(Error::NotFound),
        Err(ExitError::NotFencedBefore(_) | ExitError::HeldByNode(_)) => {
            ctx.redirect_saying(&back, Tone::Bad, "exit-held")
        }
        Err(ExitError::RevokedLately(_)) => ctx.redirect_saying(&back, Tone::Bad, "exit-lately"),
        Err(ExitError::Order(_) | ExitError::Instance(_) | ExitError::RefundBegan | ExitError::Built) => {
            ctx.redirect_saying(&back, Tone::Bad, "exit-refused")
        }
        Err(ExitError::Db(error)) => Err(error.into()),
    }
}

/// Whether no node can act on a purchase any more; only then its place is given up.
async fn is_fenced(app: &App, id: OrderId) -> Result<bool, Error> {
    let mut conn = app.db.read().await?;
    let purchase = orders::get(&mut conn, id).await?.ok_or(Error::NotFound)?;
    let instance = instances::get(&mut conn, purchase.instance).await?.ok_or(Error::NotFound)?;
    let builds = builds_at(&mut conn, app.clock.now(), instance.id, instance.node).await?;
    Ok(builds.without_revoked(&mut conn).await?.is_fenced())
}
