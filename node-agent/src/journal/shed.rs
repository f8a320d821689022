//! What a row lets go of early. An order comes with twice up to 64 KiB and its row is kept for thirty days: at the limits of
//! its policy a flood of orders would fill what a journal may hold within a day.
//!
//! Nobody reads the bytes of an order again that is over, whose end the control plane has acknowledged, and after which its
//! server has gone on: the executor reads those of open orders and of stuck ones that are resumed. Which order was
//! delivered before, what it wished and how it ended stands in the row beside them; the word for what it asked, which people
//! see, and the SHA-256 of the envelope are put there. The bytes themselves are the control plane's to show.
//!
//! Kept whole, besides: the newest order of every server that is here, and of each kind of order the newest that was
//! carried out. So whoever looks at this host alone finds, signed, why each of its servers is as it is, and why one is gone.

#[cfg(test)]
mod tests;

use ez_protocol::{UnixMillis, order::ProvisioningOrder};
use sha2::{Digest as _, Sha256};
use sqlx::{Row, SqliteConnection};

use super::{Journal, JournalError};

/// So many rows at once, each of up to 128 KiB: whatever else is to be written waits for it.
const AT_ONCE: i64 = 16;

/// The next rows whose bytes nobody needs. The index is named so that the search never begins to read what is kept whole
/// or was let go; without it each row's bytes would be read to see its state.
const NEXT: &str = "SELECT o.seq, o.envelope, o.payload FROM orders o INDEXED BY orders_whole \
     WHERE o.shed_at IS NULL AND o.seq > $1 \
     AND o.state IN ('succeeded', 'failed', 'undone', 'superseded', 'cancelled') \
     AND o.event_seq <= (SELECT acked_event_seq FROM meta WHERE id = 1) \
     AND (EXISTS (SELECT 1 FROM orders n WHERE n.instance_uuid = o.instance_uuid AND n.seq > o.seq \
          AND n.state IN ('succeeded', 'failed', 'undone', 'superseded', 'cancelled')) \
          OR NOT EXISTS (SELECT 1 FROM resources r WHERE r.uuid = o.instance_uuid)) \
     AND NOT (o.state = 'succeeded' AND o.verb <> 'action' \
          AND NOT EXISTS (SELECT 1 FROM orders n WHERE n.instance_uuid = o.instance_uuid AND n.seq > o.seq \
          AND n.state = 'succeeded' AND n.verb IN (o.verb, 'purge'))) \
     ORDER BY o.seq LIMIT $2";

impl Journal {
    /// Lets go of the bytes that nobody needs any more; answers of how many orders. A crash leaves some for the next time.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn shed(&self, at: UnixMillis) -> Result<u64, JournalError> {
        let (mut after, mut shed) = (0_i64, 0);
        loop {
            let done = self.write(move |conn| Box::pin(async move { some(conn, after, at).await })).await?;
            let Some(last) = done.last() else { return Ok(shed) };
            after = *last;
            shed += done.len() as u64;
        }
    }
}

/// The next few after a sequence; answers theirs.
async fn some(conn: &mut SqliteConnection, after: i64, at: UnixMillis) -> Result<Vec<i64>, JournalError> {
    let rows = sqlx::query(NEXT).bind(after).bind(AT_ONCE).fetch_all(&mut *conn).await?;
    let mut shed = Vec::new();
    for row in &rows {
        let (seq, envelope, payload): (i64, Vec<u8>, Vec<u8>) =
            (row.try_get("seq")?, row.try_get("envelope")?, row.try_get("payload")?);
        let asks = ProvisioningOrder::from_bytes(&payload).ok().map(|order| order.op.verb());
        sqlx::query(
            "UPDATE orders SET envelope = x'', payload = x'', envelope_hash = $2, asks = $3, shed_at = $4 \
             WHERE seq = $1",
        )
        .bind(seq)
        .bind(Sha256::digest(&envelope).to_vec())
        .bind(asks)
        .bind(at.0)
        .execute(&mut *conn)
        .await?;
        shed.push(seq);
    }
    Ok(shed)
}
