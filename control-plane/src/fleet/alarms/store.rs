//! SQL of alarms.

use ez_protocol::{NodeId, UnixMillis};
use sqlx::{AnyConnection, any::AnyRow};

use super::New;
use crate::{
    db::{Cols, DbError, opt_id},
    fleet::model::{Alarm, Severity},
};

pub(super) async fn raise(tx: &mut AnyConnection, at: UnixMillis, alarm: New<'_>) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO alarms (kind, subject, severity, node_id, detail, occurrences, raised_at, last_at)
         VALUES ($1, $2, $3, $4, $5, 1, $6, $6)
         ON CONFLICT (kind, subject) DO UPDATE SET severity = excluded.severity, node_id = excluded.node_id,
             detail = excluded.detail, last_at = excluded.last_at, cleared_at = NULL,
             occurrences = CASE WHEN alarms.cleared_at IS NULL THEN alarms.occurrences + 1 ELSE 1 END,
             raised_at = CASE WHEN alarms.cleared_at IS NULL THEN alarms.raised_at ELSE excluded.raised_at END",
    )
    .bind(alarm.kind.to_owned())
    .bind(alarm.subject.to_owned())
    .bind(alarm.severity)
    .bind(opt_id(alarm.node.as_ref()))
    .bind(alarm.detail.to_owned())
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(())
}

/// What an alarm says and how urgent it is, if it is open.
pub(super) async fn says(
    conn: &mut AnyConnection,
    kind: &str,
    subject: &str,
) -> Result<Option<(String, Severity)>, DbError> {
    let row = sqlx::query(
        "SELECT detail, severity FROM alarms WHERE kind = $1 AND subject = $2 AND cleared_at IS NULL",
    )
    .bind(kind.to_owned())
    .bind(subject.to_owned())
    .fetch_optional(conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let row = Cols::of("alarms", &row);
    Ok(Some((row.text("detail")?, row.get("severity")?)))
}

/// An open alarm says something else; when and how often it rang stays.
pub(super) async fn restate(tx: &mut AnyConnection, alarm: New<'_>) -> Result<(), DbError> {
    sqlx::query(
        "UPDATE alarms SET severity = $3, node_id = $4, detail = $5
         WHERE kind = $1 AND subject = $2 AND cleared_at IS NULL",
    )
    .bind(alarm.kind.to_owned())
    .bind(alarm.subject.to_owned())
    .bind(alarm.severity)
    .bind(opt_id(alarm.node.as_ref()))
    .bind(alarm.detail.to_owned())
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn open_subjects(conn: &mut AnyConnection, kind: &str) -> Result<Vec<String>, DbError> {
    let rows = sqlx::query("SELECT subject FROM alarms WHERE kind = $1 AND cleared_at IS NULL")
        .bind(kind.to_owned())
        .fetch_all(conn)
        .await?;
    rows.iter().map(|row| Cols::of("alarms", row).text("subject")).collect()
}

pub(super) async fn clear(
    tx: &mut AnyConnection,
    at: UnixMillis,
    kind: &str,
    subject: &str,
) -> Result<(), DbError> {
    sqlx::query("UPDATE alarms SET cleared_at = $1 WHERE kind = $2 AND subject = $3 AND cleared_at IS NULL")
        .bind(at.0)
        .bind(kind.to_owned())
        .bind(subject.to_owned())
        .execute(tx)
        .await?;
    Ok(())
}

pub(super) async fn sweep(tx: &mut AnyConnection, before: UnixMillis) -> Result<(), DbError> {
    sqlx::query("DELETE FROM alarms WHERE cleared_at < $1").bind(before.0).execute(tx).await?;
    Ok(())
}

pub(super) async fn list(conn: &mut AnyConnection, limit: i64) -> Result<Vec<Alarm>, DbError> {
    let rows = sqlx::query(
        "SELECT kind, subject, severity, node_id, detail, occurrences, raised_at, last_at, cleared_at FROM alarms
         ORDER BY CASE WHEN cleared_at IS NULL THEN 0 ELSE 1 END, CASE severity WHEN 'critical' THEN 0 ELSE 1 END,
             last_at DESC, kind, subject
         LIMIT $1",
    )
    .bind(limit)
    .fetch_all(conn)
    .await?;
    rows.iter().map(alarm).collect()
}

/// Open alarms of a kind about a node.
pub(super) async fn open_about(
    conn: &mut AnyConnection,
    kind: &str,
    node: NodeId,
) -> Result<Vec<Alarm>, DbError> {
    let rows = sqlx::query(
        "SELECT kind, subject, severity, node_id, detail, occurrences, raised_at, last_at, cleared_at FROM alarms
         WHERE kind = $1 AND node_id = $2 AND cleared_at IS NULL",
    )
    .bind(kind.to_owned())
    .bind(node.to_string())
    .fetch_all(conn)
    .await?;
    rows.iter().map(alarm).collect()
}

fn alarm(row: &AnyRow) -> Result<Alarm, DbError> {
    let row = Cols::of("alarms", row);
    Ok(Alarm {
        kind: row.text("kind")?,
        subject: row.text("subject")?,
        severity: row.get("severity")?,
        node: row.opt_id("node_id")?,
        detail: row.text("detail")?,
        occurrences: row.num("occurrences")?,
        raised_at: row.millis("raised_at")?,
        last_at: row.millis("last_at")?,
        cleared_at: row.opt_millis("cleared_at")?,
    })
}
