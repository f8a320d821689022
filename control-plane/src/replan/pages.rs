//! The pages of this slice: choosing another plan, and the change itself.

use axum::{
    Router,
    extract::{Path, State},
    routing::{get, post},
};
use ez_protocol::PlanChangeId;

use super::{ReplanError, confirm as confirm_change, preview, show, take_back};
use crate::{
    accounts::Principal,
    app::App,
    billing::{self, BillingError, Change, ChangeError, ChangeState},
    instances::{self, Instance},
    web::{self, Ctx, Customer, Error, Submission, Tone},
};

/// The routes; the web defaults (session, CSRF, limits) are applied around them.
pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/servers/{id}/plan", get(choose).post(ask))
        .route("/servers/{id}/plan/{change}", get(one))
        .route("/servers/{id}/plan/{change}/changes", get(changes))
        .route("/servers/{id}/plan/{change}/confirm", post(confirm))
        .route("/servers/{id}/plan/{change}/back", post(back))
}

async fn mine(app: &App, me: &Principal, id: &str) -> Result<Instance, Error> {
    let id = id.parse().map_err(|_| Error::NotFound)?;
    let mut connection = app.db.read().await?;
    instances::owned(&mut connection, me.account_id, id).await?.ok_or(Error::NotFound)
}

/// The change, if it is one of this server.
async fn of(app: &App, instance: &Instance, id: &str) -> Result<Change, Error> {
    let id: PlanChangeId = id.parse().map_err(|_| Error::NotFound)?;
    let mut connection = app.db.read().await?;
    let change = billing::change(&mut connection, id).await?;
    change.filter(|change| change.instance == instance.id).ok_or(Error::NotFound)
}

async fn choose(
    ctx: Ctx,
    Customer(me): Customer,
    State(app): State<App>,
    Path(id): Path<String>,
) -> web::Result {
    let instance = mine(&app, &me, &id).await?;
    let server = format!("/servers/{}", instance.id);
    if !instance.state.is_live() {
        return ctx.redirect(&server);
    }
    let mut connection = app.db.read().await?;
    match show::choose(&mut connection, &instance, ctx.now()).await {
        Ok(page) => ctx.page(&page),
        Err(error) => refused(&ctx, &server, error),
    }
}

/// Asks what another plan costs.
async fn ask(
    ctx: Ctx,
    Customer(me): Customer,
    State(app): State<App>,
    Path(id): Path<String>,
    sent: Submission,
) -> web::Result {
    let instance = mine(&app, &me, &id).await?;
    let page = format!("/servers/{}/plan", instance.id);
    match preview(&app, &instance, sent.text("price"), &me.actor(), None).await {
        Ok(change) => ctx.redirect(&format!("{page}/{}", change.id)),
        Err(error) => refused(&ctx, &page, error),
    }
}

async fn one(
    ctx: Ctx,
    Customer(me): Customer,
    State(app): State<App>,
    Path((id, change)): Path<(String, String)>,
) -> web::Result {
    let instance = mine(&app, &me, &id).await?;
    let change = of(&app, &instance, &change).await?;
    let mut connection = app.db.read().await?;
    ctx.page(&show::show(&mut connection, &instance, change, ctx.now()).await?)
}

async fn changes(
    Customer(me): Customer,
    State(app): State<App>,
    Path((id, change)): Path<(String, String)>,
) -> web::Result {
    let instance = mine(&app, &me, &id).await?;
    let change = of(&app, &instance, &change).await?.id;
    web::live(me.account_id, move || {
        let app = app.clone();
        async move {
            let mut connection = app.db.read().await?;
            let known = billing::change(&mut connection, change).await?;
            let pay = match &known {
                Some(known) => billing::pay_url(&mut connection, known).await?,
                None => None,
            };
            let server = instances::mark(&mut connection, instance.id, app.clock.now()).await?;
            Ok::<_, crate::db::DbError>((known.map(|known| (known.state, known.expires_at)), pay, server))
        }
    })
}

async fn confirm(
    ctx: Ctx,
    Customer(me): Customer,
    State(app): State<App>,
    Path((id, change)): Path<(String, String)>,
) -> web::Result {
    let instance = mine(&app, &me, &id).await?;
    let change = of(&app, &instance, &change).await?;
    let page = format!("/servers/{}/plan/{}", instance.id, change.id);
    match confirm_change(&app, me.account_id, change.id, &me.actor(), None).await {
        Ok(change) => match change.state {
            ChangeState::Applied | ChangeState::Done => {
                ctx.redirect_saying(&page, Tone::Good, "plan-change-paid")
            }
            ChangeState::AwaitingPayment => ctx.redirect_saying(&page, Tone::Info, "plan-change-to-pay"),
            ChangeState::Scheduled => ctx.redirect_saying(&page, Tone::Good, "plan-change-booked"),
            _ => ctx.redirect(&page),
        },
        Err(ReplanError::Change(ChangeError::Stale)) => {
            ctx.redirect_saying(&format!("/servers/{}/plan", instance.id), Tone::Info, "plan-change-stale")
        }
        Err(error) => refused(&ctx, &page, error),
    }
}

async fn back(
    ctx: Ctx,
    Customer(me): Customer,
    State(app): State<App>,
    Path((id, change)): Path<(String, String)>,
) -> web::Result {
    let instance = mine(&app, &me, &id).await?;
    let change = of(&app, &instance, &change).await?;
    let page = format!("/servers/{}/plan/{}", instance.id, change.id);
    match take_back(&app, me.account_id, change.id, &me.actor()).await {
        Ok(change) if change.state == ChangeState::TakenBack => {
            ctx.redirect_saying(&page, Tone::Good, "plan-change-back")
        }
        Ok(_) => ctx.redirect(&page),
        Err(ReplanError::Billing(BillingError::Over)) => {
            ctx.redirect_saying(&page, Tone::Info, "plan-change-over")
        }
        Err(error) => refused(&ctx, &page, error),
    }
}

/// Back to the page with a sentence about why nothing was begun.
fn refused(ctx: &Ctx, page: &str, error: ReplanError) -> web::Result {
    let (tone, code) = match error {
        ReplanError::Unknown => return Err(Error::NotFound),
        ReplanError::Db(error) | ReplanError::Change(ChangeError::Db(error)) => return Err(error.into()),
        ReplanError::Billing(BillingError::Db(error)) => return Err(error.into()),
        ReplanError::Refused(super::Refusal::DiskShrinks { .. }) => (Tone::Info, "plan-change-disk"),
        ReplanError::Refused(super::Refusal::GrowsLater) => (Tone::Info, "plan-change-grows"),
        ReplanError::NoRoom => (Tone::Bad, "plan-change-no-room"),
        ReplanError::NodeAway => (Tone::Bad, "server-node-away"),
        ReplanError::Suspended => (Tone::Bad, "server-suspended"),
        ReplanError::NeedsRebuild => (Tone::Bad, "server-needs-rebuild"),
        ReplanError::Change(ChangeError::Busy) => (Tone::Info, "plan-change-busy"),
        ReplanError::Change(ChangeError::NotPaid) => (Tone::Bad, "plan-change-not-paid"),
        ReplanError::Change(ChangeError::Ending) => (Tone::Info, "plan-change-ending"),
        ReplanError::Change(ChangeError::NotOneServer) => (Tone::Info, "plan-change-not-one-server"),
        ReplanError::Change(ChangeError::Stale) => (Tone::Info, "plan-change-stale"),
        ReplanError::Billing(error) => {
            tracing::warn!(%error, "Stripe could not say what a plan change costs");
            (Tone::Bad, "stripe-away")
        }
        _ => (Tone::Info, "plan-change-not-possible"),
    };
    ctx.redirect_saying(page, tone, code)
}
