//! The `jobs` table.

use std::time::Duration;

use ez_protocol::UnixMillis;
use sqlx::AnyConnection;
use tokio::time::Instant;

use super::DeadJob;
use crate::db::{self, Cols, DbError, database_now};

/// A job whose lease we hold.
#[derive(Clone, Debug)]
pub(super) struct Claimed {
    pub(super) kind: String,
    pub(super) key: String,
    pub(super) payload: String,
    pub(super) attempts: i64,
    pub(super) token: String,
    /// A moment by our own clock at which the lease had not begun: whatever it lasts, it lasts from then on.
    pub(super) since: Instant,
}

/// Which kinds a look at the table is about.
#[derive(Clone, Debug)]
pub(super) struct Kinds {
    /// Names with a comma around each. No name holds a comma, and none is another one's pattern.
    names: String,
    /// Whether these are meant, or all others.
    these: bool,
}

impl Kinds {
    /// Every kind.
    pub(super) fn all() -> Self {
        Self::but([])
    }

    /// This kind alone.
    pub(super) fn only(kind: &str) -> Self {
        Self { names: format!(",{kind},"), these: true }
    }

    /// Every kind but these.
    pub(super) fn but<'k>(kinds: impl IntoIterator<Item = &'k str>) -> Self {
        let mut names = ",".to_owned();
        for kind in kinds {
            names.push_str(kind);
            names.push(',');
        }
        Self { names, these: false }
    }
}

pub(super) async fn upsert(
    tx: &mut AnyConnection,
    kind: &str,
    key: &str,
    payload: &str,
    run_at: UnixMillis,
) -> Result<(), DbError> {
    // A leased row keeps its run_at, so that a crashed run is taken up again at once; the wish for
    // another run waits in again_at.
    sqlx::query(
        "INSERT INTO jobs (kind, key, payload, run_at, created_at)
         VALUES ($1, $2, $3, $4, $4)
         ON CONFLICT (kind, key) DO UPDATE SET
             payload = excluded.payload,
             again_at = CASE
                 WHEN jobs.lease_until IS NULL THEN NULL
                 WHEN jobs.again_at IS NOT NULL AND jobs.again_at < excluded.run_at THEN jobs.again_at
                 ELSE excluded.run_at END,
             run_at = CASE
                 WHEN jobs.lease_until IS NOT NULL THEN jobs.run_at
                 WHEN jobs.dead_at IS NULL AND jobs.run_at < excluded.run_at THEN jobs.run_at
                 ELSE excluded.run_at END,
             attempts = CASE WHEN jobs.dead_at IS NULL THEN jobs.attempts ELSE 0 END,
             dead_at = NULL",
    )
    .bind(kind)
    .bind(key)
    .bind(payload)
    .bind(run_at.0)
    .execute(tx)
    .await?;
    Ok(())
}

/// Inserts a reconciler's row if there is none; an existing one keeps its time. One that was given up, by a version that
/// did that, lives again; and one that waits beyond `latest`, as a clock that was wrong has left it, runs now.
pub(super) async fn insert_missing(
    tx: &mut AnyConnection,
    kind: &str,
    run_at: UnixMillis,
    latest: UnixMillis,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO jobs (kind, key, payload, run_at, created_at)
         VALUES ($1, '', 'null', $2, $2)
         ON CONFLICT (kind, key) DO UPDATE SET dead_at = NULL, attempts = 0, run_at = excluded.run_at
         WHERE jobs.dead_at IS NOT NULL OR jobs.run_at > $3",
    )
    .bind(kind)
    .bind(run_at.0)
    .bind(latest.0)
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn is_asked(connection: &mut AnyConnection, kind: &str, key: &str) -> Result<bool, DbError> {
    let found: Option<String> =
        sqlx::query_scalar("SELECT key FROM jobs WHERE kind = $1 AND key = $2 AND dead_at IS NULL")
            .bind(kind)
            .bind(key)
            .fetch_optional(connection)
            .await?;
    Ok(found.is_some())
}

/// Whether there is a row at all: one that runs or will, or was given up.
pub(super) async fn is_there(connection: &mut AnyConnection, kind: &str, key: &str) -> Result<bool, DbError> {
    let found: Option<String> = sqlx::query_scalar("SELECT key FROM jobs WHERE kind = $1 AND key = $2")
        .bind(kind)
        .bind(key)
        .fetch_optional(connection)
        .await?;
    Ok(found.is_some())
}

pub(super) async fn remove_idle(tx: &mut AnyConnection, kind: &str, key: &str) -> Result<(), DbError> {
    sqlx::query("DELETE FROM jobs WHERE kind = $1 AND key = $2 AND lease_until IS NULL")
        .bind(kind)
        .bind(key)
        .execute(tx)
        .await?;
    Ok(())
}

/// Whether something of these kinds is due; a cheap look before taking the write lock.
pub(super) async fn any_due(
    connection: &mut AnyConnection,
    kinds: &Kinds,
    now: UnixMillis,
) -> Result<bool, DbError> {
    let db_now = database_now(&mut *connection).await?;
    let found: Option<i64> = sqlx::query_scalar(
        "SELECT 1 FROM jobs
         WHERE dead_at IS NULL AND run_at <= $1 AND (lease_until IS NULL OR lease_until <= $2)
           AND CASE WHEN $3 LIKE '%,' || kind || ',%' THEN 1 ELSE 0 END = CAST($4 AS BIGINT)
         LIMIT 1",
    )
    .bind(now.0)
    .bind(db_now.0)
    .bind(&kinds.names)
    .bind(i64::from(kinds.these))
    .fetch_optional(connection)
    .await?
    .map(|n: i32| i64::from(n));
    Ok(found.is_some())
}

/// Takes leases on at most `limit` due jobs of these kinds, the longest due first.
///
/// Rows that somebody is writing to are left for the next look, so that neither waits for the other; and the
/// condition is asked again when the lease is taken, so that a row that another worker just took is not.
pub(super) async fn claim(
    tx: &mut AnyConnection,
    kinds: &Kinds,
    now: UnixMillis,
    lease: Duration,
    token: &str,
    limit: i64,
) -> Result<Vec<Claimed>, DbError> {
    let since = Instant::now();
    let db_now = database_now(&mut *tx).await?;
    let due = db::pick(
        tx,
        "SELECT kind, key FROM jobs
         WHERE dead_at IS NULL AND run_at <= $1 AND (lease_until IS NULL OR lease_until <= $2)
           AND CASE WHEN $3 LIKE '%,' || kind || ',%' THEN 1 ELSE 0 END = CAST($4 AS BIGINT)
         ORDER BY run_at
         LIMIT $5",
    );
    let due = due.bind(now.0).bind(db_now.0).bind(&kinds.names).bind(i64::from(kinds.these)).bind(limit);
    let due = due.fetch_all(&mut *tx).await?;
    let mut claimed = Vec::with_capacity(due.len());
    for row in &due {
        let row = Cols::of("jobs", row);
        let taken = sqlx::query(
            "UPDATE jobs SET lease_token = $1, lease_until = $2, attempts = attempts + 1
             WHERE kind = $3 AND key = $4 AND dead_at IS NULL AND run_at <= $5
               AND (lease_until IS NULL OR lease_until <= $6)
             RETURNING kind, key, payload, attempts",
        )
        .bind(token)
        .bind(db_now.plus(lease).0)
        .bind(row.text("kind")?)
        .bind(row.text("key")?)
        .bind(now.0)
        .bind(db_now.0)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(taken) = taken else { continue };
        let taken = Cols::of("jobs", &taken);
        claimed.push(Claimed {
            kind: taken.text("kind")?,
            key: taken.text("key")?,
            payload: taken.text("payload")?,
            attempts: taken.int("attempts")?,
            token: token.to_owned(),
            since,
        });
    }
    Ok(claimed)
}

/// Holds on to a lease; false if it is lost.
pub(super) async fn renew(tx: &mut AnyConnection, job: &Claimed, lease: Duration) -> Result<bool, DbError> {
    let until = database_now(&mut *tx).await?.plus(lease);
    let done =
        sqlx::query("UPDATE jobs SET lease_until = $4 WHERE kind = $1 AND key = $2 AND lease_token = $3")
            .bind(&job.kind)
            .bind(&job.key)
            .bind(&job.token)
            .bind(until.0)
            .execute(tx)
            .await?;
    Ok(done.rows_affected() == 1)
}

/// Removes a job that succeeded, or arms it again if it was asked for meanwhile or is periodic.
pub(super) async fn succeed(
    tx: &mut AnyConnection,
    job: &Claimed,
    next: Option<UnixMillis>,
) -> Result<(), DbError> {
    if next.is_none() {
        let gone = sqlx::query(
            "DELETE FROM jobs WHERE kind = $1 AND key = $2 AND lease_token = $3 AND again_at IS NULL",
        )
        .bind(&job.kind)
        .bind(&job.key)
        .bind(&job.token)
        .execute(&mut *tx)
        .await?;
        if gone.rows_affected() == 1 {
            return Ok(());
        }
    }
    sqlx::query(
        "UPDATE jobs SET
             run_at = CASE WHEN again_at IS NULL OR again_at > $4 THEN $4 ELSE again_at END,
             again_at = NULL, lease_token = NULL, lease_until = NULL, attempts = 0, last_error = NULL
         WHERE kind = $1 AND key = $2 AND lease_token = $3",
    )
    .bind(&job.kind)
    .bind(&job.key)
    .bind(&job.token)
    .bind(next.map_or(i64::MAX, |at| at.0))
    .execute(tx)
    .await?;
    Ok(())
}

/// Gives the lease back and tries again at `next`, or earlier if it was asked for meanwhile.
pub(super) async fn retry(
    tx: &mut AnyConnection,
    job: &Claimed,
    next: UnixMillis,
    error: &str,
) -> Result<(), DbError> {
    sqlx::query(
        "UPDATE jobs SET
             run_at = CASE WHEN again_at IS NULL OR again_at > $4 THEN $4 ELSE again_at END,
             again_at = NULL, lease_token = NULL, lease_until = NULL, last_error = $5
         WHERE kind = $1 AND key = $2 AND lease_token = $3",
    )
    .bind(&job.kind)
    .bind(&job.key)
    .bind(&job.token)
    .bind(next.0)
    .bind(error)
    .execute(tx)
    .await?;
    Ok(())
}

/// Gives a job up; if it was asked for meanwhile, it runs again instead.
pub(super) async fn fail(
    tx: &mut AnyConnection,
    job: &Claimed,
    at: UnixMillis,
    error: &str,
) -> Result<(), DbError> {
    sqlx::query(
        "UPDATE jobs SET
             dead_at = CASE WHEN again_at IS NULL THEN CAST($4 AS BIGINT) END,
             run_at = CASE WHEN again_at IS NULL THEN run_at ELSE again_at END,
             again_at = NULL, lease_token = NULL, lease_until = NULL, last_error = $5
         WHERE kind = $1 AND key = $2 AND lease_token = $3",
    )
    .bind(&job.kind)
    .bind(&job.key)
    .bind(&job.token)
    .bind(at.0)
    .bind(error)
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn dead(connection: &mut AnyConnection) -> Result<Vec<DeadJob>, DbError> {
    let rows = sqlx::query(
        "SELECT kind, key, attempts, last_error, dead_at FROM jobs
         WHERE dead_at IS NOT NULL ORDER BY dead_at DESC LIMIT 200",
    )
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("jobs", row);
            Ok(DeadJob {
                kind: row.text("kind")?,
                key: row.text("key")?,
                attempts: row.int("attempts")?,
                last_error: row.get::<Option<String>>("last_error")?.unwrap_or_default(),
                dead_at: row.millis("dead_at")?,
            })
        })
        .collect()
}

pub(super) async fn depth(connection: &mut AnyConnection, now: UnixMillis) -> Result<(i64, i64), DbError> {
    let row = sqlx::query(
        "SELECT CAST(count(CASE WHEN dead_at IS NULL AND run_at <= $1 THEN 1 END) AS BIGINT) AS due,
                CAST(count(CASE WHEN dead_at IS NOT NULL THEN 1 END) AS BIGINT) AS dead
         FROM jobs",
    )
    .bind(now.0)
    .fetch_one(connection)
    .await?;
    let row = Cols::of("jobs", &row);
    Ok((row.int("due")?, row.int("dead")?))
}

/// Ends every lease, as time does when a process has died.
#[cfg(test)]
pub(super) async fn end_leases(tx: &mut AnyConnection) -> Result<(), DbError> {
    sqlx::query("UPDATE jobs SET lease_until = 0 WHERE lease_until IS NOT NULL").execute(tx).await?;
    Ok(())
}
