//! Console grants that were used. A nonce is burnt in one durable write before anything is opened, so that
//! a grant opens one console whatever crashes: one that was burnt and opened nothing is simply lost, and
//! the person asks for another.

use std::time::Duration;

use ez_protocol::{UnixMillis, console::ConsoleGrant};
use sqlx::{Row, SqliteConnection};

use super::{Journal, JournalError};

/// How long a burnt nonce is kept past its grant's end: a clock set back by less than this opens nothing.
const KEEP: Duration = Duration::from_secs(24 * 3_600);

/// How many are kept at most. No people open so many consoles in a day; whoever has the signing key must not fill the host's
/// disk with them.
const MOST: i64 = 20_000;

/// What became of a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Burn {
    /// It is used up now, and opens its console.
    Now,
    /// It was used up before.
    Before,
    /// No more can be remembered; it opens nothing.
    NoRoom,
}

async fn burn(
    conn: &mut SqliteConnection,
    grant: &ConsoleGrant,
    at: UnixMillis,
) -> Result<Burn, JournalError> {
    sqlx::query("DELETE FROM console_grants WHERE keep_until < $1").bind(at.0).execute(&mut *conn).await?;
    let kept: i64 =
        sqlx::query("SELECT COUNT(*) FROM console_grants").fetch_one(&mut *conn).await?.try_get(0)?;
    if kept >= MOST {
        return Ok(Burn::NoRoom);
    }
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
    Ok(if done.rows_affected() == 1 { Burn::Now } else { Burn::Before })
}

impl Journal {
    /// Uses up a grant: [`Burn::Now`], once.
    ///
    /// # Errors
    /// If it cannot be written; then nothing may be opened.
    pub async fn burn_grant(&self, grant: ConsoleGrant, at: UnixMillis) -> Result<Burn, JournalError> {
        self.write(move |conn| Box::pin(async move { burn(conn, &grant, at).await })).await
    }
}
