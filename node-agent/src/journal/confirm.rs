//! Whether the control plane knows that this node has an order.
//!
//! An order whose acceptance never arrived is over for the control plane some minutes after its end, and the server is
//! built elsewhere. So what such an order began must not come to life later: the acknowledgement of the event
//! "accepted" counts, and when it came.

use ez_protocol::{ProvisioningOrderId, UnixMillis};
use sqlx::{Row, SqliteConnection};

use super::{Journal, JournalError, stored};

/// What is known of an order's confirmation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation {
    /// The acceptance has not been acknowledged.
    Missing,
    /// It was, at this time by the own clock.
    At(UnixMillis),
    /// The order was accepted before this was written down.
    Unasked,
}

/// Notes which event tells of the acceptance.
pub(super) async fn expect(
    conn: &mut SqliteConnection,
    id: ProvisioningOrderId,
    event_seq: u64,
) -> Result<(), JournalError> {
    sqlx::query("UPDATE orders SET accepted_event = $1 WHERE order_id = $2")
        .bind(stored(event_seq))
        .bind(id.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

/// Events were acknowledged: the orders whose acceptance is among them are confirmed.
pub(super) async fn note(conn: &mut SqliteConnection, at: UnixMillis) -> Result<(), JournalError> {
    sqlx::query(
        "UPDATE orders SET confirmed_at = $1 WHERE confirmed_at IS NULL AND accepted_event IS NOT NULL \
         AND accepted_event <= (SELECT acked_event_seq FROM meta WHERE id = 1)",
    )
    .bind(at.0)
    .execute(conn)
    .await?;
    Ok(())
}

impl Journal {
    /// Whether the control plane has confirmed that it knows of an order's acceptance.
    ///
    /// # Errors
    /// If it cannot be read, or there is no such order.
    pub async fn confirmation(&self, id: ProvisioningOrderId) -> Result<Confirmation, JournalError> {
        let row = sqlx::query("SELECT accepted_event, confirmed_at FROM orders WHERE order_id = $1")
            .bind(id.to_string())
            .fetch_optional(self.readers())
            .await?
            .ok_or_else(|| JournalError::Conflict(format!("no order {id}")))?;
        let (said, heard): (Option<i64>, Option<i64>) =
            (row.try_get("accepted_event")?, row.try_get("confirmed_at")?);
        Ok(match (said, heard) {
            (None, _) => Confirmation::Unasked,
            (Some(_), None) => Confirmation::Missing,
            (Some(_), Some(at)) => Confirmation::At(UnixMillis(at)),
        })
    }

    /// As if the acceptance had been acknowledged, without touching the outbox, whose numbers tests count.
    #[cfg(test)]
    pub(crate) async fn confirm(&self, id: ProvisioningOrderId, at: UnixMillis) {
        let confirmed = self.write(move |conn| {
            Box::pin(async move {
                sqlx::query("UPDATE orders SET confirmed_at = $1 WHERE order_id = $2")
                    .bind(at.0)
                    .bind(id.to_string())
                    .execute(conn)
                    .await?;
                Ok(())
            })
        });
        confirmed.await.unwrap();
    }
}
