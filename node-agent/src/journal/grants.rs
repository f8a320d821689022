//! Console grants that were used. A nonce is burnt in one durable write before anything is opened, so that
//! a grant opens one console whatever crashes: one that was burnt and opened nothing is simply lost, and
//! the person asks for another.

use std::time::Duration;

use ez_protocol::{UnixMillis, console::ConsoleGrant};
use sqlx::SqliteConnection;

use super::{Journal, JournalError};

/// How long a burnt nonce is kept past its grant's end: a clock set back by less than this opens nothing.
const KEEP: Duration = Duration::from_secs(24 * 3_600);

async fn burn(
    conn: &mut SqliteConnection,
    grant: &ConsoleGrant,
    at: UnixMillis,
) -> Result<bool, JournalError> {
    sqlx::query("DELETE FROM console_grants WHERE keep_until < $1").bind(at.0).execute(&mut *conn).await?;
    let done = sqlx::query(
        "INSERT INTO console_grants (nonce, console_id, instance_uuid, kind, actor, used_at, keep_until) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (nonce) DO NOTHING",
    )
    .bind(grant.nonce.as_str())
    .bind(grant.console_id.to_string())
    .bind(grant.instance.uuid.to_string())
    .bind(grant.kind.as_str())
    .bind(&grant.cause.actor)
    .bind(at.0)
    .bind(grant.exp.plus(KEEP).0)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

impl Journal {
    /// Uses up a grant: true, once.
    ///
    /// # Errors
    /// If it cannot be written; then nothing may be opened.
    pub async fn burn_grant(&self, grant: ConsoleGrant, at: UnixMillis) -> Result<bool, JournalError> {
        self.write(move |conn| Box::pin(async move { burn(conn, &grant, at).await })).await
    }
}
