//! The `idempotency_keys` table.

use std::time::Duration;

use ez_protocol::{AccountId, UnixMillis};
use sqlx::AnyConnection;

use super::idempotency::Claim;
use crate::db::{Cols, ConflictKind, DbError, one_row};

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
    /// What the first request made before it ended or died.
    pub(super) made: Option<String>,
    pub(super) claimed_at: UnixMillis,
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
             WHERE idempotency_keys.status IS NULL AND idempotency_keys.made IS NULL
               AND idempotency_keys.created_at <= $5
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
        "SELECT key, fingerprint, status, content_type, body, made, created_at FROM idempotency_keys
         WHERE account_id = $1 AND key = $2",
    )
    .bind(account.to_string())
    .bind(key)
    .fetch_optional(tx)
    .await?;
    let Some(row) = row else {
        // The first request failed and was forgotten at this very moment: this one may come again.
        let fingerprint = fingerprint.to_owned();
        return Ok(Begun::Other(Known { fingerprint, answer: None, made: None, claimed_at: at }));
    };
    let row = Cols::of("idempotency_keys", &row);
    let answer = match row.get::<Option<i64>>("status")? {
        None => None,
        Some(_) => Some(Answer {
            status: row.num("status")?,
            kind: row.text("content_type")?,
            body: row.bytes("body")?,
        }),
    };
    Ok(Begun::Other(Known {
        fingerprint: row.text("fingerprint")?,
        answer,
        made: row.get("made")?,
        claimed_at: row.millis("created_at")?,
    }))
}

/// Writes down what the request made. Refused when another request has taken the key over.
pub(super) async fn made(tx: &mut AnyConnection, claim: &Claim, id: &str) -> Result<(), DbError> {
    let done = sqlx::query(
        "UPDATE idempotency_keys SET made = $4
         WHERE account_id = $1 AND key = $2 AND created_at = $3 AND made IS NULL",
    )
    .bind(claim.account.to_string())
    .bind(&claim.key)
    .bind(claim.at.0)
    .bind(id)
    .execute(tx)
    .await?;
    one_row(done).map_err(|error| match error {
        DbError::NotFound => DbError::Conflict {
            kind: ConflictKind::Other,
            what: "another request carries out this Idempotency-Key".to_owned(),
        },
        other => other,
    })
}

pub(super) async fn finish(tx: &mut AnyConnection, claim: &Claim, answer: &Answer) -> Result<(), DbError> {
    let done = sqlx::query(
        "UPDATE idempotency_keys SET status = $3, content_type = $4, body = $5
         WHERE account_id = $1 AND key = $2",
    )
    .bind(claim.account.to_string())
    .bind(&claim.key)
    .bind(i64::from(answer.status))
    .bind(&answer.kind)
    .bind(answer.body.clone())
    .execute(tx)
    .await?;
    one_row(done)
}

/// Frees a key whose request made nothing.
pub(super) async fn forget(tx: &mut AnyConnection, claim: &Claim) -> Result<(), DbError> {
    sqlx::query(
        "DELETE FROM idempotency_keys
         WHERE account_id = $1 AND key = $2 AND created_at = $3 AND made IS NULL AND status IS NULL",
    )
    .bind(claim.account.to_string())
    .bind(&claim.key)
    .bind(claim.at.0)
    .execute(tx)
    .await?;
    Ok(())
}

/// Removes keys after a day.
pub(super) async fn sweep(tx: &mut AnyConnection, at: UnixMillis) -> Result<(), DbError> {
    sqlx::query("DELETE FROM idempotency_keys WHERE created_at <= $1")
        .bind(at.minus(Duration::from_secs(24 * 3_600)).0)
        .execute(tx)
        .await?;
    Ok(())
}
