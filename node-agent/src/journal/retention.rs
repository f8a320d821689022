//! What is kept how long: rows for thirty days (their bytes only until later orders have overtaken them, see `shed`), then a
//! tombstone for ever. A stuck order has not ended before a person has resumed it or given it up: neither could be done with
//! a tombstone. One that a later order has overtaken is not resumed any more, which only that one's row can tell: both go
//! together, but where it is stuck by a destruction that nobody has seen to: its step alone knows which disk was left, so it is
//! kept, and with it the newest order of its server, by which it is not resumed. An order overtakes by its sequence or by the time
//! at which it was accepted (`orders`), so the newest are all those than which no other is newer by both.
//!
//! The fence of a server that is gone is kept as long as the rows of its orders. After that nothing older than it can come in
//! any more: no order lives longer than a day, and the floor is above all that were buried.

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
                     WITH unsettled AS (SELECT o.order_id, o.instance_uuid \
                     FROM steps s JOIN orders o ON o.order_id = s.order_id \
                     WHERE o.state = 'stuck' AND s.name = 'destroy' AND s.upid IS NOT NULL AND s.state <> 'done' \
                     AND NOT EXISTS (SELECT 1 FROM requests r WHERE r.order_id = o.order_id AND r.verb = 'abandon' \
                     AND r.state = 'done') \
                     AND NOT EXISTS (SELECT 1 FROM orders n JOIN steps d ON d.order_id = n.order_id \
                     WHERE n.instance_uuid = o.instance_uuid AND n.seq > o.seq AND d.name = 'destroy' AND d.state = 'done')) \
                     SELECT order_id, seq, payload_hash, generation, state, result FROM orders \
                     WHERE finished_at IS NOT NULL AND finished_at < $1 AND expires_at < $1 \
                     AND (state <> 'stuck' OR EXISTS (SELECT 1 FROM requests WHERE requests.order_id = orders.order_id \
                     AND requests.verb = 'abandon' AND requests.state = 'done' AND requests.ended_at < $1) \
                     OR EXISTS (SELECT 1 FROM orders later WHERE later.instance_uuid = orders.instance_uuid \
                     AND (later.seq > orders.seq OR later.accepted_at > orders.accepted_at) \
                     AND later.state <> 'stuck' AND later.finished_at < $1 AND later.expires_at < $1)) \
                     AND order_id NOT IN (SELECT order_id FROM unsettled) \
                     AND (instance_uuid NOT IN (SELECT instance_uuid FROM unsettled) \
                     OR EXISTS (SELECT 1 FROM orders next WHERE next.instance_uuid = orders.instance_uuid \
                     AND next.seq > orders.seq AND next.accepted_at >= orders.accepted_at)) \
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
                // After the burial: what is left of its orders is below the floor now.
                sqlx::query(
                    "DELETE FROM departed WHERE gone_at < $1 \
                     AND NOT EXISTS (SELECT 1 FROM orders WHERE orders.instance_uuid = departed.uuid) \
                     AND NOT EXISTS (SELECT 1 FROM resources WHERE resources.uuid = departed.uuid)",
                )
                .bind(before)
                .execute(&mut *conn)
                .await?;
                sqlx::query("DELETE FROM acts WHERE at < $1").bind(before).execute(conn).await?;
                Ok(buried)
            })
        })
        .await
    }
}
