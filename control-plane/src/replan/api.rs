//! `/api/v1/servers/{id}/plan_changes`: previewed, confirmed, taken back.

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use ez_protocol::PlanChangeId;
use serde::{Deserialize, Serialize};
use sqlx::AnyConnection;
use utoipa::{OpenApi, ToSchema};

use super::{Refusal, ReplanError, confirm as confirm_change, preview, take_back};
use crate::{
    accounts::ApiCaller,
    api::{self, Caller, Input, Keyed, Named, Page, Problem},
    app::App,
    billing::{self, BillingError, Change, ChangeError},
    catalog::{self, Interval},
    db::DbError,
    instances::{self, Instance},
};

/// The routes; mounted below `/api/v1` with bearer authentication around them.
pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/servers/{id}/plan_changes", get(list).post(create))
        .route("/servers/{id}/plan_changes/{change}", get(show))
        .route("/servers/{id}/plan_changes/{change}/confirm", post(confirm))
        .route("/servers/{id}/plan_changes/{change}/cancel", post(cancel))
}

/// This slice's part of the OpenAPI document.
pub(crate) fn docs() -> utoipa::openapi::OpenApi {
    #[derive(OpenApi)]
    #[openapi(
        paths(list, create, show, confirm, cancel),
        components(schemas(PlanChangeBody, PlanChangeCost, PlanChangeLine, NewPlanChange))
    )]
    struct Docs;
    Docs::openapi()
}

/// The plan that a server shall have.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewPlanChange {
    /// Code of a plan; the server's own if not given.
    #[serde(default)]
    plan: Option<String>,
    /// Such as `month` or `year`; the one it is charged by now if not given.
    #[serde(default)]
    interval: Option<String>,
}

/// One line of what a change costs.
#[derive(Debug, Serialize, ToSchema)]
struct PlanChangeLine {
    /// In the words of the invoice.
    description: String,
    /// Minor units; below zero is time that was paid for and is not used.
    amount_minor: i64,
    /// What it is for, UTC milliseconds.
    from: Option<i64>,
    /// Its end, UTC milliseconds.
    until: Option<i64>,
}

/// What a change costs, as it will be billed.
#[derive(Debug, Serialize, ToSchema)]
struct PlanChangeCost {
    lines: Vec<PlanChangeLine>,
    /// Lower-case ISO code.
    currency: String,
    /// Minor units that are taken off.
    discount_minor: i64,
    /// Minor units of tax that are added.
    tax_minor: i64,
    /// The sum in minor units; below zero becomes credit.
    total_minor: i64,
    /// Credit that is used up for it, minor units.
    credit_minor: i64,
    /// What is charged now, minor units.
    due_minor: i64,
    /// What the next period costs, minor units.
    next_minor: i64,
    /// When that is charged, UTC milliseconds.
    next_at: Option<i64>,
}

/// A change of a server's plan.
#[derive(Debug, Serialize, ToSchema)]
struct PlanChangeBody {
    id: String,
    server_id: String,
    /// `previewed`, `wanted`, `awaiting_payment`, `scheduled`, `applied`, `done`, `expired`, `taken_back`, `refused` or
    /// `dropped`.
    state: &'static str,
    /// `now`, `period_end` (with the end of what is paid), or `outside` (made at Stripe).
    way: &'static str,
    /// Code of the plan before.
    from_plan: Option<String>,
    /// Code of the plan afterwards.
    plan: String,
    /// How often it is charged afterwards.
    interval: Option<String>,
    /// Why it ended as it did, in a stable word.
    reason: Option<String>,
    /// What it costs; absent for one made at Stripe.
    cost: Option<PlanChangeCost>,
    /// With the end of which period it comes, UTC milliseconds.
    due_at: Option<i64>,
    /// Until when its invoice can be paid, UTC milliseconds.
    expires_at: Option<i64>,
    /// Where, while it waits for its payment.
    pay_url: Option<String>,
    /// Until when a preview can be confirmed, UTC milliseconds.
    confirm_until: Option<i64>,
    created_at: i64,
    confirmed_at: Option<i64>,
    /// When it was paid and the price became the new one.
    applied_at: Option<i64>,
    ended_at: Option<i64>,
}

async fn body(connection: &mut AnyConnection, change: Change) -> Result<PlanChangeBody, DbError> {
    let from = catalog::price(connection, &change.from_price).await?;
    let to = catalog::price(connection, &change.to_price).await?;
    let pay_url = billing::pay_url(connection, &change).await?;
    let previewed = change.state == billing::ChangeState::Previewed;
    let millis = |seconds: Option<i64>| seconds.map(|seconds| seconds * 1_000);
    Ok(PlanChangeBody {
        id: change.id.to_string(),
        server_id: change.instance.to_string(),
        state: change.state.as_str(),
        way: change.way.as_str(),
        from_plan: from.map(|price| price.plan_code),
        plan: change.to_plan,
        interval: to.map(|price| price.interval.to_string()),
        reason: change.reason,
        cost: change.quote.map(|quote| PlanChangeCost {
            lines: quote
                .lines
                .into_iter()
                .map(|line| PlanChangeLine {
                    description: line.description,
                    amount_minor: line.amount_minor,
                    from: millis(line.from),
                    until: millis(line.until),
                })
                .collect(),
            currency: quote.currency,
            discount_minor: quote.discount_minor,
            tax_minor: quote.tax_minor,
            total_minor: quote.total_minor,
            credit_minor: quote.credit_minor,
            due_minor: quote.due_minor,
            next_minor: quote.next_minor,
            next_at: quote.next_at.map(|at| at.0),
        }),
        due_at: change.due_at.map(|at| at.0),
        expires_at: change.expires_at.map(|at| at.0),
        pay_url,
        confirm_until: previewed.then(|| change.created_at.plus(billing::PREVIEW_LIVES).0),
        created_at: change.created_at.0,
        confirmed_at: change.confirmed_at.map(|at| at.0),
        applied_at: change.applied_at.map(|at| at.0),
        ended_at: change.ended_at.map(|at| at.0),
    })
}

async fn mine(connection: &mut AnyConnection, caller: &ApiCaller, id: &str) -> Result<Instance, Problem> {
    let id = id.parse().map_err(|_| Problem::not_found())?;
    let found = instances::owned(connection, caller.principal.account_id, id).await?;
    found.ok_or_else(Problem::not_found)
}

async fn of(connection: &mut AnyConnection, instance: &Instance, id: &str) -> Result<Change, Problem> {
    let id: PlanChangeId = id.parse().map_err(|_| Problem::not_found())?;
    let change = billing::change(connection, id).await?.filter(|change| change.instance == instance.id);
    change.ok_or_else(Problem::not_found)
}

fn refusal(error: ReplanError) -> Problem {
    let words = error.to_string();
    let conflict = |code| Problem::conflict(code, format!("Nothing was changed: {words}."));
    match error {
        ReplanError::Unknown | ReplanError::Change(ChangeError::Unknown) => Problem::not_found(),
        ReplanError::DoesNotFit(_) | ReplanError::Ends | ReplanError::Change(ChangeError::Refused(_)) => {
            conflict("wrong_state")
        }
        ReplanError::Suspended => conflict("suspended"),
        ReplanError::NeedsRebuild => conflict("needs_rebuild"),
        ReplanError::NotOnSale => Problem::field("plan", "plan_unknown", words),
        ReplanError::Refused(Refusal::Same) => conflict("so_already"),
        ReplanError::Refused(Refusal::Currency) => conflict("other_currency"),
        ReplanError::Refused(Refusal::DiskShrinks { .. }) => conflict("disk_would_shrink"),
        ReplanError::Refused(Refusal::GrowsLater) => conflict("grows_later"),
        ReplanError::NoRoom => conflict("sold_out"),
        ReplanError::NodeAway => conflict("node_unavailable"),
        ReplanError::Change(ChangeError::Stale) => conflict("preview_stale"),
        ReplanError::Change(ChangeError::Busy) => conflict("plan_change_open"),
        ReplanError::Change(ChangeError::NotPaid) => conflict("not_paid"),
        ReplanError::Change(ChangeError::Ending) => conflict("subscription_ends"),
        ReplanError::Change(ChangeError::Disputed) => conflict("payment_disputed"),
        ReplanError::Change(ChangeError::NotOneServer) => conflict("subscription_not_one_server"),
        ReplanError::Change(ChangeError::Db(error)) | ReplanError::Db(error) => error.into(),
        ReplanError::Billing(BillingError::Over) => {
            Problem::conflict("wrong_state", "There is nothing to take back any more.")
        }
        ReplanError::Billing(BillingError::Db(error)) => error.into(),
        ReplanError::Billing(error) if error.is_retryable() => Problem::payments_away(),
        ReplanError::Billing(error) => Problem::internal(&error),
    }
}

/// Lists a server's plan changes that were confirmed, or made at Stripe, newest first.
#[utoipa::path(get, path = "/api/v1/servers/{id}/plan_changes", tag = "servers", params(("id" = String, Path)),
    responses((status = 200, body = Page<PlanChangeBody>), (status = 404, body = Problem)))]
async fn list(
    Caller(caller): Caller,
    State(app): State<App>,
    Named(id): Named<String>,
) -> Result<Json<Page<PlanChangeBody>>, Problem> {
    let mut connection = app.db.read().await?;
    let instance = mine(&mut connection, &caller, &id).await?;
    let mut data = Vec::new();
    for change in billing::changes_of(&mut connection, instance.order).await? {
        data.push(body(&mut connection, change).await?);
    }
    Ok(Json(Page::whole(data)))
}

/// Asks what another plan or interval costs, line by line. Nothing is changed and nothing charged; confirm the answer within
/// a quarter of an hour. A change to a longer interval, or to a plan that costs no less, comes now; another one with the end of
/// what is paid. A server whose disk would shrink, or whose node has no room, hears so here.
#[utoipa::path(post, path = "/api/v1/servers/{id}/plan_changes", tag = "servers", params(("id" = String, Path)),
    request_body = NewPlanChange,
    responses((status = 201, body = PlanChangeBody), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
async fn create(
    Caller(caller): Caller,
    State(app): State<App>,
    Keyed(claim): Keyed,
    Named(id): Named<String>,
    Input(new): Input<NewPlanChange>,
) -> Result<(StatusCode, Json<PlanChangeBody>), Problem> {
    let (instance, price) = {
        let mut connection = app.db.read().await?;
        let instance = mine(&mut connection, &caller, &id).await?;
        if let Some(made) = claim.as_ref().and_then(api::Claim::made::<PlanChangeId>) {
            // An earlier request with this key asked and was cut off before it could say so.
            let change = billing::change(&mut connection, made).await?.ok_or_else(Problem::not_found)?;
            return Ok((StatusCode::CREATED, Json(body(&mut connection, change).await?)));
        }
        let price = wanted(&mut connection, &instance, new).await?;
        (instance, price)
    };
    let change = preview(&app, &instance, &price, &caller.principal.actor(), claim).await.map_err(refusal)?;
    let mut connection = app.db.read().await?;
    Ok((StatusCode::CREATED, Json(body(&mut connection, change).await?)))
}

/// Our price for what was asked for.
async fn wanted(
    connection: &mut AnyConnection,
    instance: &Instance,
    new: NewPlanChange,
) -> Result<String, Problem> {
    let nothing = || Problem::conflict("not_paid", "Nothing was changed: nobody pays for this server.");
    let now = billing::price_of(connection, instance.order).await?.ok_or_else(nothing)?;
    let now = catalog::price(connection, &now).await?.ok_or_else(nothing)?;
    let plan = new.plan.unwrap_or(now.plan_code);
    let interval = match new.interval {
        Some(word) => word
            .parse::<Interval>()
            .map_err(|_| Problem::field("interval", "interval_unknown", "There is no such interval."))?,
        None => now.interval,
    };
    if catalog::plan(connection, &plan).await?.is_none_or(|plan| !plan.on_sale) {
        return Err(Problem::field("plan", "plan_unknown", "This plan is not on sale."));
    }
    let price = catalog::prices(connection).await?.into_iter().find(|price| {
        price.plan_code == plan && price.interval == interval && price.currency == now.currency
    });
    let missing =
        || Problem::field("interval", "interval_unknown", "This plan has no price for that interval.");
    Ok(price.ok_or_else(missing)?.id)
}

/// Shows one plan change.
#[utoipa::path(get, path = "/api/v1/servers/{id}/plan_changes/{change}", tag = "servers",
    params(("id" = String, Path), ("change" = String, Path)),
    responses((status = 200, body = PlanChangeBody), (status = 404, body = Problem)))]
async fn show(
    Caller(caller): Caller,
    State(app): State<App>,
    Named((id, change)): Named<(String, String)>,
) -> Result<Json<PlanChangeBody>, Problem> {
    let mut connection = app.db.read().await?;
    let instance = mine(&mut connection, &caller, &id).await?;
    let change = of(&mut connection, &instance, &change).await?;
    Ok(Json(body(&mut connection, change).await?))
}

/// Confirms a previewed change. One that comes now is charged now; where the bank wants its customer, the answer is
/// `awaiting_payment` with `pay_url`. The server is resized when it is paid. Confirming again answers how it stands.
#[utoipa::path(post, path = "/api/v1/servers/{id}/plan_changes/{change}/confirm", tag = "servers",
    params(("id" = String, Path), ("change" = String, Path)),
    responses((status = 202, body = PlanChangeBody), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn confirm(
    Caller(caller): Caller,
    State(app): State<App>,
    Keyed(claim): Keyed,
    Named((id, change)): Named<(String, String)>,
) -> Result<(StatusCode, Json<PlanChangeBody>), Problem> {
    let id = {
        let mut connection = app.db.read().await?;
        let instance = mine(&mut connection, &caller, &id).await?;
        of(&mut connection, &instance, &change).await?.id
    };
    let me = &caller.principal;
    let change = confirm_change(&app, me.account_id, id, &me.actor(), claim).await.map_err(refusal)?;
    let mut connection = app.db.read().await?;
    Ok((StatusCode::ACCEPTED, Json(body(&mut connection, change).await?)))
}

/// Takes back a change that is booked for the end of the paid period.
#[utoipa::path(post, path = "/api/v1/servers/{id}/plan_changes/{change}/cancel", tag = "servers",
    params(("id" = String, Path), ("change" = String, Path)),
    responses((status = 200, body = PlanChangeBody), (status = 404, body = Problem), (status = 409, body = Problem)))]
async fn cancel(
    Caller(caller): Caller,
    State(app): State<App>,
    Named((id, change)): Named<(String, String)>,
) -> Result<Json<PlanChangeBody>, Problem> {
    let id = {
        let mut connection = app.db.read().await?;
        let instance = mine(&mut connection, &caller, &id).await?;
        of(&mut connection, &instance, &change).await?.id
    };
    let me = &caller.principal;
    let change = take_back(&app, me.account_id, id, &me.actor()).await.map_err(refusal)?;
    let mut connection = app.db.read().await?;
    Ok(Json(body(&mut connection, change).await?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::billing::{StripeFault, stripe::FaultKind};

    #[test]
    fn a_key_that_stripe_does_not_take_is_a_pause_and_no_failure_of_the_button() {
        for kind in [FaultKind::Unauthorised, FaultKind::Configuration, FaultKind::Busy] {
            let refused = refusal(ReplanError::Billing(BillingError::Stripe(StripeFault::of(kind))));
            assert_eq!(refused.code(), "unavailable", "{kind:?}");
        }
        let refused =
            refusal(ReplanError::Billing(BillingError::Stripe(StripeFault::of(FaultKind::OurMistake))));
        assert_eq!(refused.code(), "internal");
    }
}
