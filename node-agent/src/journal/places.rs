//! Where an order is in a queue of the host, kept beside the event that tells it, for those who ask here.

use ez_protocol::{ProvisioningOrderId, UnixMillis, message::QueuePlace};
use sqlx::{Row, SqlitePool};

use super::{Journal, JournalError, outbox};
use crate::report::EventDraft;

/// A place and when it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToldPlace {
    /// Where in the queue.
    pub place: QueuePlace,
    /// When.
    pub at: UnixMillis,
}

/// Where an order is in the queue; none once it began with what it waited for.
///
/// # Errors
/// If it cannot be read.
pub async fn show(pool: &SqlitePool, id: ProvisioningOrderId) -> Result<Option<ToldPlace>, JournalError> {
    let row = sqlx::query("SELECT position, estimate_secs, at FROM queue_places WHERE order_id = $1")
        .bind(id.to_string())
        .fetch_optional(pool)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let number = |value: i64| u32::try_from(value).unwrap_or(u32::MAX);
    let place = QueuePlace {
        position: number(row.try_get("position")?),
        estimate_secs: row.try_get::<Option<i64>, _>("estimate_secs")?.map(number),
    };
    Ok(Some(ToldPlace { place, at: UnixMillis(row.try_get("at")?) }))
}

impl Journal {
    /// Tells a place, and keeps it until the next step begins.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn push_place(
        &self,
        draft: EventDraft,
        id: ProvisioningOrderId,
        place: QueuePlace,
        at: UnixMillis,
    ) -> Result<u64, JournalError> {
        self.write(move |conn| {
            Box::pin(async move {
                sqlx::query(
                    "INSERT INTO queue_places (order_id, position, estimate_secs, at) VALUES ($1, $2, $3, $4) \
                     ON CONFLICT (order_id) DO UPDATE SET position = excluded.position, \
                     estimate_secs = excluded.estimate_secs, at = excluded.at",
                )
                .bind(id.to_string())
                .bind(i64::from(place.position))
                .bind(place.estimate_secs.map(i64::from))
                .bind(at.0)
                .execute(&mut *conn)
                .await?;
                outbox::push(conn, draft).await
            })
        })
        .await
    }
}
