//! What the pages show, put together. No HTTP here.

use ez_protocol::{Month, NodeId, UnixMillis};
use sqlx::AnyConnection;

use super::{
    chart::{self, Reading, Subject},
    model::{Point, Span},
    points, traffic,
};
use crate::{
    billing, catalog,
    db::DbError,
    instances::{self, Instance},
    web::views::{
        Money,
        metrics::{Chart, Graphs, Overage, TrafficUse},
    },
};

const CPU: &[Reading] = &[("cpu", |v| v.cpu_permille)];
const MEMORY: &[Reading] = &[("memory", |v| v.memory_kib.saturating_mul(1_024))];
const DISK: &[Reading] = &[("read", |v| v.disk_read), ("write", |v| v.disk_write)];
const NETWORK: &[Reading] = &[("in", |v| v.net_in), ("out", |v| v.net_out)];

/// What a plan includes in a month, bytes; none if the plan is gone from the catalogue.
///
/// # Errors
/// Those of the query.
pub(super) async fn included(
    connection: &mut AnyConnection,
    instance: &Instance,
) -> Result<Option<u64>, DbError> {
    let plans = catalog::plans(connection).await?;
    let plan = plans.into_iter().find(|plan| plan.code == instance.plan_code);
    Ok(plan.map(|plan| plan.traffic_gib.saturating_mul(1 << 30)).filter(|bytes| *bytes > 0))
}

/// The page of a server's graphs.
pub(super) async fn graphs(
    connection: &mut AnyConnection,
    instance: &Instance,
    span: Span,
    now: UnixMillis,
) -> Result<Graphs, DbError> {
    let points = points(connection, &instance.id.to_string(), span, now).await?;
    let any = points.iter().any(|point| point.values.is_some())
        || super::newest(connection, &instance.id.to_string()).await?.is_some();
    let rate = |code, lines| Subject { code, unit: "rate", lines, top: None };
    let memory = u64::from(instance.memory_mib) << 20;
    let subjects = [cpu_of("cpu"), memory_of("memory", memory), rate("disk", DISK), rate("network", NETWORK)];
    Ok(Graphs {
        server: instances::page_head(connection, instance, now).await?,
        span: span.as_str(),
        charts: if any { drawn(&subjects, &points, span) } else { Vec::new() },
        traffic: traffic_use(connection, instance, now).await?,
    })
}

/// A server's traffic of the present month.
///
/// # Errors
/// Those of the queries.
pub(crate) async fn traffic_use(
    connection: &mut AnyConnection,
    instance: &Instance,
    now: UnixMillis,
) -> Result<TrafficUse, DbError> {
    let month = Month::of(now);
    let used = traffic(connection, instance.id, month).await?;
    let deal = billing::traffic_deal(connection, instance.id, month).await?;
    let included = match &deal {
        Some(deal) => deal.included(),
        None => included(connection, instance).await?,
    };
    Ok(TrafficUse {
        month: month.to_string(),
        bytes_in: used.bytes_in,
        bytes_out: used.bytes_out,
        counted: used.counted(),
        included,
        overage: deal.and_then(|deal| overage(&deal, used.counted(), month)),
    })
}

/// What so much traffic costs so far; nothing where it costs nothing.
pub(crate) fn overage(deal: &billing::Deal, counted: u64, month: Month) -> Option<Overage> {
    let unit = deal.unit_minor.filter(|_| deal.included().is_some())?;
    let over = deal.over(counted);
    Some(Overage {
        bytes: over.bytes,
        cost: Money::new(over.amount_minor, deal.currency.clone()),
        unit: Money::new(unit, deal.currency.clone()),
        after: billing::traffic_closes(month),
    })
}

fn cpu_of(code: &'static str) -> Subject {
    Subject { code, unit: "permille", lines: CPU, top: Some(1_000) }
}

fn memory_of(code: &'static str, bytes: u64) -> Subject {
    Subject { code, unit: "bytes", lines: MEMORY, top: Some(bytes) }
}

fn drawn(subjects: &[Subject], points: &[Point], span: Span) -> Vec<Chart> {
    subjects.iter().map(|subject| chart::draw(subject, points, span)).collect()
}

/// Charts of what a node with so much memory used in the last 24 hours; none before its first samples.
///
/// # Errors
/// Those of the query.
pub(crate) async fn node_graphs(
    connection: &mut AnyConnection,
    node: NodeId,
    memory_mib: u64,
    now: UnixMillis,
) -> Result<Vec<Chart>, DbError> {
    let points = points(connection, &node.to_string(), Span::Day, now).await?;
    if points.iter().all(|point| point.values.is_none()) {
        return Ok(Vec::new());
    }
    let subjects = [cpu_of("host-cpu"), memory_of("host-memory", memory_mib << 20)];
    Ok(drawn(&subjects, &points, Span::Day))
}
