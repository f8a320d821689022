//! The `audit` table.

use ez_protocol::{AuditId, UnixMillis};
use sqlx::AnyConnection;

use super::{Entry, Recorded};
use crate::db::{Cols, DbError, one_row};

pub(super) async fn insert(
    tx: &mut AnyConnection,
    id: AuditId,
    at: UnixMillis,
    entry: &Entry,
    exact: &str,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO audit (id, at, actor, action, subject_kind, subject_id, entry)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(id.to_string())
    .bind(at.0)
    .bind(&entry.actor)
    .bind(&entry.action)
    .bind(&entry.subject_kind)
    .bind(&entry.subject_id)
    .bind(exact)
    .execute(tx)
    .await?;
    Ok(())
}

/// The last place and its hash.
pub(super) async fn head(connection: &mut AnyConnection) -> Result<Option<(i64, String)>, DbError> {
    let row = sqlx::query("SELECT seq, hash FROM audit WHERE seq IS NOT NULL ORDER BY seq DESC LIMIT 1")
        .fetch_optional(connection)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let row = Cols::of("audit", &row);
    Ok(Some((row.int("seq")?, row.text("hash")?)))
}

/// Ids and exact bytes of rows that wait, in the order of their ids (and so of their times).
pub(super) async fn unsealed(tx: &mut AnyConnection, limit: i64) -> Result<Vec<(String, String)>, DbError> {
    let rows = sqlx::query("SELECT id, entry FROM audit WHERE seq IS NULL ORDER BY id LIMIT $1")
        .bind(limit)
        .fetch_all(tx)
        .await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("audit", row);
            Ok((row.text("id")?, row.text("entry")?))
        })
        .collect()
}

pub(super) async fn set_place(tx: &mut AnyConnection, id: &str, seq: i64, hash: &str) -> Result<(), DbError> {
    let done = sqlx::query("UPDATE audit SET seq = $2, hash = $3 WHERE id = $1 AND seq IS NULL")
        .bind(id)
        .bind(seq)
        .bind(hash)
        .execute(tx)
        .await?;
    one_row(done)
}

pub(super) async fn count_unsealed(connection: &mut AnyConnection) -> Result<i64, DbError> {
    Ok(sqlx::query_scalar("SELECT count(*) FROM audit WHERE seq IS NULL").fetch_one(connection).await?)
}

/// A chained row, as the check needs it.
pub(super) struct Sealed {
    pub(super) seq: i64,
    pub(super) hash: String,
    pub(super) entry: String,
    /// Whether the columns that people query say the same as the hashed bytes.
    pub(super) columns_fit: bool,
}

pub(super) async fn sealed(
    connection: &mut AnyConnection,
    from: i64,
    limit: i64,
) -> Result<Vec<Sealed>, DbError> {
    let rows = sqlx::query(
        "SELECT id, at, actor, action, subject_kind, subject_id, entry, seq, hash FROM audit
         WHERE seq >= $1 ORDER BY seq LIMIT $2",
    )
    .bind(from)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("audit", row);
            let recorded = read(&row);
            let columns_fit = match (&recorded, row.id("id")) {
                (Ok(recorded), Ok(id)) => recorded.entry.exact(id, recorded.at) == row.text("entry")?,
                _ => false,
            };
            Ok(Sealed {
                seq: row.int("seq")?,
                hash: row.text("hash")?,
                entry: row.text("entry")?,
                columns_fit,
            })
        })
        .collect()
}

fn read(row: &Cols<'_>) -> Result<Recorded, DbError> {
    let exact: serde_json::Value = row.json("entry")?;
    Ok(Recorded {
        at: row.millis("at")?,
        entry: Entry {
            actor: row.text("actor")?,
            action: row.text("action")?,
            subject_kind: row.text("subject_kind")?,
            subject_id: row.text("subject_id")?,
            detail: exact.get("detail").cloned().unwrap_or_default(),
        },
    })
}

pub(super) async fn of_subject(
    connection: &mut AnyConnection,
    subject_kind: &str,
    subject_id: &str,
) -> Result<Vec<Recorded>, DbError> {
    let rows = sqlx::query(
        "SELECT id, at, actor, action, subject_kind, subject_id, entry FROM audit
         WHERE subject_kind = $1 AND subject_id = $2 ORDER BY at, id LIMIT 500",
    )
    .bind(subject_kind)
    .bind(subject_id)
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| read(&Cols::of("audit", row))).collect()
}
