//! SQL of events.

use ez_protocol::{
    NodeId, ProvisioningOrderId, UnixMillis,
    message::{Event, EventKind},
};
use sqlx::{AnyConnection, any::AnyRow};

use crate::{
    db::{Cols, DbError, padded},
    dispatch::{
        model::{EventRecord, QueueView, event_word},
        record::text,
    },
};

/// Most events of one order that are kept, far above what a slow build tells of itself: an agent that was taken over must
/// not fill the database with what it says of orders that it has.
const MOST: i64 = 2_000;

/// Whether an order has all the events that are kept of one.
pub(in crate::dispatch) async fn is_full(
    conn: &mut AnyConnection,
    order: ProvisioningOrderId,
) -> Result<bool, DbError> {
    let beyond = sqlx::query(
        "SELECT event_seq FROM provisioning_events WHERE provisioning_order_id = $1 ORDER BY at, event_seq LIMIT 1 OFFSET $2",
    )
    .bind(order.to_string())
    .bind(MOST - 1)
    .fetch_optional(conn)
    .await?;
    Ok(beyond.is_some())
}

pub(in crate::dispatch) async fn insert_event(
    tx: &mut AnyConnection,
    at: UnixMillis,
    node: NodeId,
    journal: &str,
    order: ProvisioningOrderId,
    event: &Event,
) -> Result<bool, DbError> {
    let kind = EventKind::try_from(event.kind).unwrap_or(EventKind::Unspecified);
    let given = |words: &str| (!words.is_empty()).then(|| text(words));
    let done = sqlx::query(
        "INSERT INTO provisioning_events (journal, event_seq, node_id, provisioning_order_id, kind, step, detail, percent,
             at, recorded_at, queue_position, queue_estimate_secs)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT DO NOTHING",
    )
    .bind(journal.to_owned())
    .bind(i64::try_from(event.event_seq).unwrap_or(i64::MAX))
    .bind(node.to_string())
    .bind(order.to_string())
    .bind(event_word(kind).to_owned())
    .bind(given(&event.step))
    .bind(given(&event.detail))
    .bind(event.percent.map(i64::from))
    .bind(event.at_ms)
    .bind(at.0)
    .bind(event.queue.map(|place| i64::from(place.position)))
    .bind(event.queue.and_then(|place| place.estimate_secs).map(i64::from))
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

pub(in crate::dispatch) async fn events_of(
    conn: &mut AnyConnection,
    id: ProvisioningOrderId,
) -> Result<Vec<EventRecord>, DbError> {
    let rows = sqlx::query(
        "SELECT event_seq, kind, step, detail, percent, at, queue_position, queue_estimate_secs FROM provisioning_events
         WHERE provisioning_order_id = $1 ORDER BY recorded_at, event_seq LIMIT 2000",
    )
    .bind(id.to_string())
    .fetch_all(conn)
    .await?;
    rows.iter().map(read).collect()
}

/// What was told about some orders, up to [`crate::db::MANY`] of them: of each as much, in the same order, as
/// [`events_of`] has.
pub(in crate::dispatch) async fn events_of_some(
    conn: &mut AnyConnection,
    ids: &[ProvisioningOrderId],
) -> Result<Vec<(ProvisioningOrderId, EventRecord)>, DbError> {
    let mut query = sqlx::query(
        "SELECT provisioning_order_id, event_seq, kind, step, detail, percent, at, queue_position, queue_estimate_secs
         FROM (SELECT provisioning_order_id, event_seq, kind, step, detail, percent, at, queue_position,
                 queue_estimate_secs, recorded_at,
                 ROW_NUMBER() OVER (PARTITION BY provisioning_order_id ORDER BY recorded_at, event_seq) AS place
             FROM provisioning_events WHERE provisioning_order_id IN
                 ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22,
                 $23, $24, $25)) AS told
         WHERE place <= 2000 ORDER BY provisioning_order_id, recorded_at, event_seq",
    );
    for id in padded(ids) {
        query = query.bind(id);
    }
    let rows = query.fetch_all(conn).await?;
    rows.iter()
        .map(|row| Ok((Cols::of("provisioning_events", row).id("provisioning_order_id")?, read(row)?)))
        .collect()
}

fn read(row: &AnyRow) -> Result<EventRecord, DbError> {
    let row = Cols::of("provisioning_events", row);
    let number = |name: &'static str| match row.get::<Option<i64>>(name)? {
        Some(value) => u32::try_from(value).map(Some).map_err(|_| row.inconsistent(name)),
        None => Ok(None),
    };
    let estimate_secs = number("queue_estimate_secs")?;
    let queue = number("queue_position")?.map(|position| QueueView { position, estimate_secs });
    Ok(EventRecord {
        event_seq: row.num("event_seq")?,
        kind: row.text("kind")?,
        step: row.get("step")?,
        detail: row.get("detail")?,
        percent: number("percent")?,
        queue,
        at: row.millis("at")?,
    })
}
