//! SQL of the calls that were made to Stripe.

use ez_protocol::UnixMillis;
use sqlx::AnyConnection;

use crate::{
    billing::model::CallState,
    db::{Cols, DbError},
};

/// A call as it is stored.
pub(in crate::billing) struct StoredCall {
    pub(in crate::billing) request: String,
    pub(in crate::billing) state: CallState,
    pub(in crate::billing) response_id: Option<String>,
    pub(in crate::billing) created_at: UnixMillis,
}

/// Writes a call down unless its key is there already; gives what is there now.
pub(in crate::billing) async fn open_call(
    tx: &mut AnyConnection,
    at: UnixMillis,
    key: &str,
    purpose: &str,
    subject: &str,
    request: (&str, &str),
) -> Result<StoredCall, DbError> {
    let (text, hash) = request;
    sqlx::query(
        "INSERT INTO stripe_outbox (key, purpose, subject_id, params_hash, request, state, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (key) DO NOTHING",
    )
    .bind(key)
    .bind(purpose)
    .bind(subject)
    .bind(hash)
    .bind(text)
    .bind(CallState::Pending)
    .bind(at.0)
    .execute(&mut *tx)
    .await?;
    let row =
        sqlx::query("SELECT key, request, state, response_id, created_at FROM stripe_outbox WHERE key = $1")
            .bind(key)
            .fetch_one(tx)
            .await?;
    let row = Cols::of("stripe_outbox", &row);
    Ok(StoredCall {
        request: row.text("request")?,
        state: row.get("state")?,
        response_id: row.get("response_id")?,
        created_at: row.millis("created_at")?,
    })
}

/// When a call was written down, if it was.
pub(in crate::billing) async fn call_begun(
    connection: &mut AnyConnection,
    key: &str,
) -> Result<Option<UnixMillis>, DbError> {
    let begun: Option<i64> = sqlx::query_scalar("SELECT created_at FROM stripe_outbox WHERE key = $1")
        .bind(key)
        .fetch_optional(connection)
        .await?;
    Ok(begun.map(UnixMillis))
}

/// What was sent under a key that was answered with something.
pub(in crate::billing) async fn answered_call(
    connection: &mut AnyConnection,
    key: &str,
) -> Result<Option<String>, DbError> {
    Ok(sqlx::query_scalar("SELECT request FROM stripe_outbox WHERE key = $1 AND response_id IS NOT NULL")
        .bind(key)
        .fetch_optional(connection)
        .await?)
}

/// How often a call for a purpose and subject came to nothing: refused, or looked up in vain. Those keep their keys for ever.
pub(in crate::billing) async fn ended_calls(
    connection: &mut AnyConnection,
    purpose: &str,
    subject: &str,
) -> Result<i64, DbError> {
    Ok(sqlx::query_scalar(
        "SELECT COUNT(*) FROM stripe_outbox
         WHERE subject_id = $1 AND purpose = $2 AND state IN ('refused', 'replaced')",
    )
    .bind(subject)
    .bind(purpose)
    .fetch_one(connection)
    .await?)
}

/// Ends a call.
pub(in crate::billing) async fn close_call(
    tx: &mut AnyConnection,
    at: UnixMillis,
    key: &str,
    state: CallState,
    response_id: Option<&str>,
    error: Option<&str>,
) -> Result<(), DbError> {
    sqlx::query(
        "UPDATE stripe_outbox SET state = $2, response_id = $3, error = $4, done_at = $5
         WHERE key = $1 AND state = 'pending'",
    )
    .bind(key)
    .bind(state)
    .bind(response_id)
    .bind(error)
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(())
}

/// What was last wished of a subscription's end, as far as Stripe was asked: whether it ends with its period, and when that
/// was wished. Of wishes in the same millisecond leaving counts.
pub(in crate::billing) async fn last_end_wish(
    connection: &mut AnyConnection,
    subscription: &str,
) -> Result<Option<(bool, UnixMillis)>, DbError> {
    let row = sqlx::query(
        "SELECT purpose, created_at FROM stripe_outbox
         WHERE subject_id = $1 AND purpose IN ('period-end', 'period-end-again', 'period-keep')
         ORDER BY created_at DESC, CASE WHEN purpose = 'period-keep' THEN 1 ELSE 0 END LIMIT 1",
    )
    .bind(subscription)
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        let row = Cols::of("stripe_outbox", &row);
        Ok((row.text("purpose")? != "period-keep", row.millis("created_at")?))
    })
    .transpose()
}
