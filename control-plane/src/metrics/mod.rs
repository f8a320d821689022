//! Metrics: what servers and nodes use, minute by minute, and the traffic of servers by month.
//!
//! Owns `metric_blocks` and `traffic_months`. Agents send batches ([`take`]); a batch may come twice, late and in any
//! order, and storing it again changes nothing: a slot that is filled stays as it is, and a total only rises. Nothing an
//! agent says is believed beyond its reach: servers that are not placed on it, samples from the future or older than
//! [`KEPT`], and totals of other months than this and the last are left out and counted, never answered.
//!
//! Samples are kept for 48 hours as they came, as averages of five minutes for 14 days and of an hour for 13 months
//! (`jobs.rs` rolls up and removes). With that the space is bounded by itself: a server has at most 50 rows of minutes,
//! 16 of five minutes and 15 of hours, and no sample can make another row. Metrics never hold up orders: a batch is
//! written in small pieces between which everything else gets its turn, and a database that is busy costs samples of
//! which the agent keeps a copy.

mod api;
mod chart;
mod jobs;
mod model;
mod pages;
mod show;
mod store;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use ez_protocol::{
    InstanceId, Month, NodeId, UnixMillis,
    message::{MetricsBatch, Sample},
};
use sqlx::AnyConnection;

pub(crate) use chart::{Unit, draw_numbers};
pub use model::{Point, Span, Traffic, Values};
pub(crate) use show::{node_graphs, overage, traffic_use};

pub(crate) use api::{docs as api_docs, routes as api_routes};
pub(crate) use jobs::register_jobs;
pub(crate) use pages::routes as page_routes;

use crate::{
    db::{Db, DbError},
    fleet,
};

/// How long samples are kept as they came; older ones are not taken.
pub const KEPT: Duration = Duration::from_secs(48 * 3_600);
/// Clocks of agents may be ahead by this much.
const AHEAD: Duration = Duration::from_secs(300);
/// Rows written in one transaction.
const PIECE: usize = 32;

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Samples in reach; some may have been known already.
    pub samples: u64,
    /// Samples and totals that were left out.
    pub refused: u64,
}

/// Stores a node's batch. When this answers, everything that counts is durable.
///
/// # Errors
/// Those of the database; what was stored until then stays, and the batch may come again.
pub async fn take(db: &Db, at: UnixMillis, node: NodeId, batch: MetricsBatch) -> Result<Taken, DbError> {
    let here: HashSet<InstanceId> = {
        let mut connection = db.read().await?;
        fleet::placed_on(&mut connection, node).await?.into_iter().collect()
    };
    let mut taken = Taken::default();
    // One piece of work per row: the minutes of one subject in one hour.
    let mut hours: BTreeMap<(String, i64), Vec<(u16, Values)>> = BTreeMap::new();
    let host = (node.to_string(), &batch.host);
    let servers = batch.instances.iter().map(|one| (one.instance_id.clone(), &one.samples));
    for (subject, samples) in servers.chain([host]) {
        let ours =
            subject == node.to_string() || subject.parse::<InstanceId>().is_ok_and(|id| here.contains(&id));
        for sample in samples {
            if !ours || !in_reach(at, sample) {
                taken.refused += 1;
                continue;
            }
            let (hour, minute) = (i64::from(sample.minute / 60), sample.minute % 60);
            let values = Values::from(sample);
            let slot = u16::try_from(minute).unwrap_or(0);
            hours.entry((subject.clone(), hour)).or_default().push((slot, values));
            taken.samples += 1;
        }
    }
    let this = Month::of(at);
    let totals: Vec<store::Total> = batch
        .traffic
        .iter()
        .filter_map(|total| {
            let instance = total.instance_id.parse().ok().filter(|id| here.contains(id))?;
            let month = Month::from_number(total.month).filter(|m| *m == this || *m == this.before())?;
            Some(store::Total {
                instance,
                month,
                series: batch.series.clone(),
                bytes_in: signed(total.bytes_in),
                bytes_out: signed(total.bytes_out),
            })
        })
        .collect();
    taken.refused += (batch.traffic.len() - totals.len()) as u64;
    for piece in totals.chunks(PIECE) {
        let piece = piece.to_vec();
        db.write(move |tx| Box::pin(async move { store::raise_totals(tx, at, &piece).await })).await?;
    }
    let mut rest: Vec<_> = hours.into_iter().collect();
    while !rest.is_empty() {
        let piece: Vec<_> = rest.drain(..rest.len().min(PIECE)).collect();
        db.write(move |tx| Box::pin(async move { fill(tx, piece).await })).await?;
    }
    metrics::counter!("ez_metrics_samples_total").increment(taken.samples);
    metrics::counter!("ez_metrics_refused_total").increment(taken.refused);
    Ok(taken)
}

type Hour = ((String, i64), Vec<(u16, Values)>);

/// Fills free slots of rows of minutes.
async fn fill(tx: &mut AnyConnection, hours: Vec<Hour>) -> Result<(), DbError> {
    for ((subject, hour), samples) in hours {
        let key = store::Key { subject, minutes: model::MINUTE, block: hour };
        let (mut block, version) = store::block_to_change(tx, &key).await?;
        if samples.into_iter().fold(false, |news, (slot, values)| block.fill(slot, values) || news) {
            store::put(tx, &key, &block, version, true).await?;
        }
    }
    Ok(())
}

fn in_reach(at: UnixMillis, sample: &Sample) -> bool {
    let minute = UnixMillis(i64::from(sample.minute) * 60_000);
    minute > at.minus(KEPT) && minute <= at.plus(AHEAD)
}

/// What a server received and sent in a month.
///
/// # Errors
/// Those of the query.
pub async fn traffic(
    connection: &mut AnyConnection,
    instance: InstanceId,
    month: Month,
) -> Result<Traffic, DbError> {
    store::traffic(connection, instance, month).await
}

/// What a server or a node used in a span that ends now: averages of equal steps, oldest first, with gaps where nothing
/// is known.
///
/// # Errors
/// Those of the queries.
pub async fn points(
    connection: &mut AnyConnection,
    subject: &str,
    span: Span,
    now: UnixMillis,
) -> Result<Vec<Point>, DbError> {
    let (from, to) = span.bounds(now);
    let mut slots = Vec::new();
    if span.reads_minutes() {
        slots = store::slots(connection, subject, model::MINUTE, from, to).await?;
    } else {
        // Rolled up, and what is not rolled up yet.
        let rolled = store::slots(connection, subject, model::FIVE, from, to).await?;
        let fresh = store::due_slots(connection, subject, from, to).await?;
        slots.extend(model::averaged(&fresh, model::FIVE));
        let known: HashSet<i64> = slots.iter().map(|(minute, _)| *minute).collect();
        slots.extend(rolled.into_iter().filter(|(minute, _)| !known.contains(minute)));
    }
    Ok(model::stepped(&slots, from, to, span.step()))
}

/// The minute of the newest sample of a subject, since 1970; for pages that wait for it.
async fn newest(connection: &mut AnyConnection, subject: &str) -> Result<Option<i64>, DbError> {
    store::newest(connection, subject).await
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
