//! The `idempotency_keys` table.

use std::time::Duration;

use ez_protocol::{AccountId, UnixMillis};
use sqlx::AnyConnection;

use crate::db::{Cols, DbError, one_row};

/// An answer that is replayed.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) kind: String,
    pub(super) body: Vec<u8>,
}

/// A key that was used before.
pub(super) struct Known {
    pub(super) fingerprint: String,
    pub(super) answer: Option<Answer>,
}

/// Whether this request is the first with its key.
pub(super) enum Begun {
    Ours,
    Other(Known),
}

/// Claims a key; one whose request died long enough ago is taken over.
pub(super) async fn begin(
    tx: &mut AnyConnection,
    account: AccountId,
    key: &str,
    fingerprint: &str,
    at: UnixMillis,
    in_progress: Duration,
) -> Result<Begun, DbError> {
    let claimed = sqlx::query(
        "INSERT INTO idempotency_keys (account_id, key, fingerprint, created_at)
         VALUES ($1, $2, $3, $4)
         ON CONFLICT (account_id, key) DO UPDATE SET created_at = excluded.created_at
             WHERE idempotency_keys.status IS NULL AND idempotency_keys.created_at <= $5
               AND idempotency_keys.fingerprint = excluded.fingerprint",
    )
    .bind(account.to_string())
    .bind(key)
    .bind(fingerprint)
    .bind(at.0)
    .bind(at.minus(in_progress).0)
    .execute(&mut *tx)
    .await?;
    if claimed.rows_affected() == 1 {
        return Ok(Begun::Ours);
    }
    let row = sqlx::query(
        "SELECT key, fingerprint, status, content_type, body FROM idempotency_keys
         WHERE account_id = $1 AND key = $2",
    )
    .bind(account.to_string())
    .bind(key)
    .fetch_one(tx)
    .await?;
    let row = Cols::of("idempotency_keys", &row);
    let answer = match row.get::<Option<i64>>("status")? {
        None => None,
        Some(_) => Some(Answer {
            status: row.num("status")?,
            kind: row.text("content_type")?,
            body: row.bytes("body")?,
        }),
    };
    Ok(Begun::Other(Known { fingerprint: row.text("fingerprint")?, answer }))
}

pub(super) async fn finish(
    tx: &mut AnyConnection,
    account: AccountId,
    key: &str,
    answer: &Answer,
) -> Result<(), DbError> {
    let done = sqlx::query(
        "UPDATE idempotency_keys SET status = $3, content_type = $4, body = $5
         WHERE account_id = $1 AND key = $2",
    )
    .bind(account.to_string())
    .bind(key)
    .bind(i64::from(answer.status))
    .bind(&answer.kind)
    .bind(answer.body.clone())
    .execute(tx)
    .await?;
    one_row(done)
}

pub(super) async fn forget(tx: &mut AnyConnection, account: AccountId, key: &str) -> Result<(), DbError> {
    let done = sqlx::query("DELETE FROM idempotency_keys WHERE account_id = $1 AND key = $2")
        .bind(account.to_string())
        .bind(key)
        .execute(tx)
        .await?;
    one_row(done)
}

/// Removes keys after a day.
pub(super) async fn sweep(tx: &mut AnyConnection, at: UnixMillis) -> Result<(), DbError> {
    sqlx::query("DELETE FROM idempotency_keys WHERE created_at <= $1")
        .bind(at.minus(Duration::from_secs(24 * 3_600)).0)
        .execute(tx)
        .await?;
    Ok(())
}
