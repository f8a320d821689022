//! Events on their way to the control plane. A row goes only when it was acknowledged.

use ez_protocol::UnixMillis;
use sqlx::{Row, SqliteConnection};

use super::{Journal, JournalError, confirm, stored, unsigned};
use crate::report::EventDraft;

/// An event that waits for its acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxItem {
    /// Its sequence; grows by one.
    pub event_seq: u64,
    /// The encoded event.
    pub body: Vec<u8>,
}

/// Gives an event its sequence and stores it.
pub(super) async fn push(conn: &mut SqliteConnection, draft: EventDraft) -> Result<u64, JournalError> {
    let row = sqlx::query(
        "UPDATE meta SET last_event_seq = last_event_seq + 1 WHERE id = 1 RETURNING last_event_seq, journal_id",
    )
    .fetch_one(&mut *conn)
    .await?;
    let seq = unsigned("meta", "last_event_seq", row.try_get("last_event_seq")?)?;
    sqlx::query("INSERT INTO outbox (event_seq, body) VALUES ($1, $2)")
        .bind(stored(seq))
        .bind(draft.encode(seq))
        .execute(conn)
        .await?;
    Ok(seq)
}

impl Journal {
    /// Stores an event that belongs to no other write.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn push_event(&self, draft: EventDraft) -> Result<u64, JournalError> {
        self.write(move |conn| Box::pin(async move { push(conn, draft).await })).await
    }

    /// Up to `limit` events after `after`, oldest first.
    ///
    /// # Errors
    /// If they cannot be read.
    pub async fn outbox_after(&self, after: u64, limit: i64) -> Result<Vec<OutboxItem>, JournalError> {
        let rows = sqlx::query(
            "SELECT event_seq, body FROM outbox WHERE event_seq > $1 AND acked = 0 ORDER BY event_seq LIMIT $2",
        )
        .bind(stored(after))
        .bind(limit)
        .fetch_all(self.readers())
        .await?;
        rows.iter()
            .map(|row| {
                let event_seq = unsigned("outbox", "event_seq", row.try_get("event_seq")?)?;
                Ok(OutboxItem { event_seq, body: row.try_get("body")? })
            })
            .collect()
    }

    /// Everything up to `seq` has arrived durably at the other side. Acknowledgements of events that
    /// were never sent are ignored: they cannot be true. Orders whose acceptance is among them are confirmed.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn acknowledge(&self, seq: u64, at: UnixMillis) -> Result<(), JournalError> {
        self.write(move |conn| {
            Box::pin(async move {
                sqlx::query(
                    "UPDATE meta SET acked_event_seq = $1 WHERE id = 1 AND acked_event_seq < $1 \
                     AND last_event_seq >= $1",
                )
                .bind(stored(seq))
                .execute(&mut *conn)
                .await?;
                sqlx::query(
                    "DELETE FROM outbox WHERE event_seq <= (SELECT acked_event_seq FROM meta WHERE id = 1)",
                )
                .execute(&mut *conn)
                .await?;
                confirm::note(conn, at).await
            })
        })
        .await
    }

    /// Events that wait for their acknowledgement.
    ///
    /// # Errors
    /// If they cannot be counted.
    pub async fn outbox_len(&self) -> Result<u64, JournalError> {
        let count: i64 =
            sqlx::query("SELECT COUNT(*) FROM outbox").fetch_one(self.readers()).await?.try_get(0)?;
        unsigned("outbox", "count", count)
    }
}
