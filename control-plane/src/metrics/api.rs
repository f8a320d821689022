//! `/api/v1/servers/{id}/metrics` and `…/traffic`.

use axum::{
    Json, Router,
    extract::{Query, State, rejection::QueryRejection},
    routing::get,
};
use ez_protocol::Month;
use serde::{Deserialize, Serialize};
use sqlx::AnyConnection;
use utoipa::{IntoParams, OpenApi, ToSchema};

use super::{
    model::{Span, Values},
    points, show, traffic,
};
use crate::{
    accounts::ApiCaller,
    api::{Caller, Named, Problem},
    app::App,
    billing, catalog,
    instances::{self, Instance},
};

/// The routes; mounted below `/api/v1` with bearer authentication around them.
pub(crate) fn routes() -> Router<App> {
    Router::new().route("/servers/{id}/metrics", get(used)).route("/servers/{id}/traffic", get(month))
}

/// This slice's part of the OpenAPI document.
pub(crate) fn docs() -> utoipa::openapi::OpenApi {
    #[derive(OpenApi)]
    #[openapi(paths(used, month), components(schemas(MetricsBody, SampleBody, TrafficBody, OverageBody)))]
    struct Docs;
    Docs::openapi()
}

/// What a server used, in equal steps.
#[derive(Debug, Serialize, ToSchema)]
struct MetricsBody {
    /// `hour`, `day` or `week`.
    span: &'static str,
    /// Length of a step.
    step_seconds: i64,
    /// Begin of the first step, UTC milliseconds.
    from: i64,
    /// End of the last step, UTC milliseconds; it may not be over.
    to: i64,
    /// Oldest first. A step of which nothing is known is missing: the server was off, or its node could not be looked at.
    samples: Vec<SampleBody>,
}

/// One step: means.
#[derive(Debug, Serialize, ToSchema)]
struct SampleBody {
    /// Begin of the step, UTC milliseconds.
    at: i64,
    /// Share of all vCPUs, per mille.
    cpu_permille: u64,
    /// Memory in use.
    memory_bytes: u64,
    /// Received, bytes per second.
    net_in: u64,
    /// Sent, bytes per second.
    net_out: u64,
    /// Read from the disk, bytes per second.
    disk_read: u64,
    /// Written to the disk, bytes per second.
    disk_write: u64,
}

impl SampleBody {
    fn new(at: i64, values: &Values) -> Self {
        Self {
            at,
            cpu_permille: values.cpu_permille,
            memory_bytes: values.memory_kib.saturating_mul(1_024),
            net_in: values.net_in,
            net_out: values.net_out,
            disk_read: values.disk_read,
            disk_write: values.disk_write,
        }
    }
}

/// A month's traffic.
#[derive(Debug, Serialize, ToSchema)]
struct TrafficBody {
    /// `2026-11`, UTC.
    month: String,
    /// Received.
    bytes_in: u64,
    /// Sent.
    bytes_out: u64,
    /// What counts against the plan: both directions.
    bytes_counted: u64,
    /// What the plan includes in a month; null if it says nothing.
    bytes_included: Option<u64>,
    /// What is above that, and costs; null where it costs nothing.
    overage: Option<OverageBody>,
    /// When the node told it last, UTC milliseconds; null if it has not.
    updated_at: Option<i64>,
}

/// What traffic above the plan costs.
#[derive(Debug, Serialize, ToSchema)]
struct OverageBody {
    /// Above what is included.
    bytes: u64,
    /// Each started so many GiB are charged.
    unit_gib: u64,
    /// What each costs, minor units.
    unit_minor: i64,
    /// How many were started until now; after the month is closed, how many are charged.
    units: i64,
    /// What they cost together, minor units.
    amount_minor: i64,
    /// Lower-case ISO code.
    currency: String,
    /// `running` until the month is closed, then `free`, `wanted`, `posted` (waits for the next invoice), `invoiced`, or
    /// `waived` (the service had ended).
    state: &'static str,
    /// When the month is closed, UTC milliseconds: it is put on the first invoice after that.
    closes_at: i64,
    /// Stripe's invoice it stands on.
    invoice: Option<String>,
}

/// What a month costs: what was closed, or what holds so far.
async fn overage(
    connection: &mut AnyConnection,
    instance: &Instance,
    month: Month,
    counted: u64,
) -> Result<Option<OverageBody>, Problem> {
    let closes_at = billing::traffic_closes(month).0;
    let body = |deal: &billing::Deal, counted| {
        let unit_minor = deal.unit_minor.filter(|_| deal.included().is_some())?;
        let over = deal.over(counted);
        Some(OverageBody {
            bytes: over.bytes,
            unit_gib: catalog::TRAFFIC_UNIT_GIB,
            unit_minor,
            units: over.units,
            amount_minor: over.amount_minor,
            currency: deal.currency.clone(),
            state: "running",
            closes_at,
            invoice: None,
        })
    };
    let Some(deal) = billing::traffic_deal(connection, instance.id, month).await? else { return Ok(None) };
    Ok(match billing::traffic_bill(connection, instance.id, month).await? {
        Some(bill) => body(&deal, bill.counted).map(|body| OverageBody {
            units: bill.units,
            amount_minor: bill.amount_minor,
            state: bill.state.as_str(),
            invoice: bill.invoice,
            ..body
        }),
        None => body(&deal, counted),
    })
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct WantedSpan {
    /// `hour` in steps of a minute (the default), `day` in steps of 5 minutes, `week` in steps of 30 minutes.
    span: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct WantedMonth {
    /// Such as `2026-11`; the present one if not given.
    month: Option<String>,
}

/// The server, if it is the caller's.
async fn mine(connection: &mut AnyConnection, caller: &ApiCaller, id: &str) -> Result<Instance, Problem> {
    let id = id.parse().map_err(|_| Problem::not_found())?;
    let found = instances::owned(connection, caller.principal.account_id, id).await?;
    found.ok_or_else(Problem::not_found)
}

/// What stands behind the question mark.
fn said<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Box<Problem>> {
    match query {
        Ok(Query(wanted)) => Ok(wanted),
        Err(error) => Err(Box::new(Problem::field("query", "invalid", error.body_text()))),
    }
}

/// Shows what a server used until now: CPU, memory, disk and network.
///
/// The node looks once a minute; what it saw while it was cut off comes later, up to 48 hours back.
#[utoipa::path(get, path = "/api/v1/servers/{id}/metrics", tag = "servers",
    params(("id" = String, Path), WantedSpan),
    responses((status = 200, body = MetricsBody), (status = 404, body = Problem), (status = 422, body = Problem)))]
async fn used(
    Caller(caller): Caller,
    State(app): State<App>,
    Named(id): Named<String>,
    wanted: Result<Query<WantedSpan>, QueryRejection>,
) -> Result<Json<MetricsBody>, Problem> {
    let wanted = said(wanted).map_err(|problem| *problem)?;
    let mut connection = app.db.read().await?;
    let id = mine(&mut connection, &caller, &id).await?.id;
    let span = match wanted.span.as_deref() {
        None => Span::default(),
        Some(name) => Span::named(name).ok_or_else(|| {
            Problem::field("span", "invalid", "Not acceptable: hour, day and week are there.")
        })?,
    };
    let now = app.clock.now();
    let points = points(&mut connection, &id.to_string(), span, now).await?;
    let (from, to) = span.bounds(now);
    let known = points.iter().filter_map(|point| Some(SampleBody::new(point.at.0, point.values.as_ref()?)));
    Ok(Json(MetricsBody {
        span: span.as_str(),
        step_seconds: span.step() * 60,
        from: from * 60_000,
        to: to * 60_000,
        samples: known.collect(),
    }))
}

/// Shows what a server received and sent in a month.
#[utoipa::path(get, path = "/api/v1/servers/{id}/traffic", tag = "servers",
    params(("id" = String, Path), WantedMonth),
    responses((status = 200, body = TrafficBody), (status = 404, body = Problem), (status = 422, body = Problem)))]
async fn month(
    Caller(caller): Caller,
    State(app): State<App>,
    Named(id): Named<String>,
    wanted: Result<Query<WantedMonth>, QueryRejection>,
) -> Result<Json<TrafficBody>, Problem> {
    let wanted = said(wanted).map_err(|problem| *problem)?;
    let mut connection = app.db.read().await?;
    let instance = mine(&mut connection, &caller, &id).await?;
    let month = match wanted.month.as_deref() {
        None => Month::of(app.clock.now()),
        Some(text) => text.parse().map_err(|_| {
            Problem::field("month", "invalid", "Not acceptable: a month is written as 2026-11.")
        })?,
    };
    let used = traffic(&mut connection, instance.id, month).await?;
    let deal = billing::traffic_deal(&mut connection, instance.id, month).await?;
    Ok(Json(TrafficBody {
        overage: overage(&mut connection, &instance, month, used.counted()).await?,
        month: month.to_string(),
        bytes_in: used.bytes_in,
        bytes_out: used.bytes_out,
        bytes_counted: used.counted(),
        bytes_included: match deal {
            Some(deal) => deal.included(),
            None => show::included(&mut connection, &instance).await?,
        },
        updated_at: used.updated_at.map(|at| at.0),
    }))
}
