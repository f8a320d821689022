//! What is kept how long: rows for thirty days (their bytes only until later orders have overtaken them, see `shed`), then a
//! tombstone for ever. A stuck order has not ended before a person has resumed it or given it up: neither could be done with
//! a tombstone. One that a later order has overtaken is not resumed any more, which only that one's row can tell: both go
//! together.

use std::time::Duration;

use ez_protocol::UnixMillis;

use super::{Journal, JournalError};

/// How long the row of an ended order is kept.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

impl Journal {
    /// Turns orders that ended long ago into tombstones and raises the floor over them. No order
    /// lives longer than a day, so whatever was issued before a buried one is expired as well.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn retain(&self, at: UnixMillis) -> Result<u64, JournalError> {
        let before = at.minus(KEPT).0;
        self.write(move |conn| {
            Box::pin(async move {
                let buried = sqlx::query(
                    "INSERT INTO tombstones (order_id, seq, payload_hash, generation, state, result) \
                     SELECT order_id, seq, payload_hash, generation, state, result FROM orders \
                     WHERE finished_at IS NOT NULL AND finished_at < $1 AND expires_at < $1 \
                     AND (state <> 'stuck' OR EXISTS (SELECT 1 FROM requests WHERE requests.order_id = orders.order_id \
                     AND requests.verb = 'abandon' AND requests.state = 'done' AND requests.ended_at < $1) \
                     OR EXISTS (SELECT 1 FROM orders later WHERE later.instance_uuid = orders.instance_uuid \
                     AND later.seq > orders.seq AND later.state <> 'stuck' AND later.finished_at < $1 \
                     AND later.expires_at < $1)) \
                     ON CONFLICT (order_id) DO NOTHING",
                )
                .bind(before)
                .execute(&mut *conn)
                .await?
                .rows_affected();
                if buried > 0 {
                    sqlx::query("DELETE FROM orders WHERE order_id IN (SELECT order_id FROM tombstones)")
                        .execute(&mut *conn)
                        .await?;
                    sqlx::query(
                        "UPDATE meta SET floor_seq = MAX(floor_seq, (SELECT MAX(seq) FROM tombstones)) WHERE id = 1",
                    )
                    .execute(&mut *conn)
                    .await?;
                }
                sqlx::query("DELETE FROM acts WHERE at < $1").bind(before).execute(conn).await?;
                Ok(buried)
            })
        })
        .await
    }
}
