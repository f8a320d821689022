//! SQL of the inbox beyond intake.

use ez_protocol::UnixMillis;
use sqlx::{AnyConnection, any::AnyRow};

use super::InboxEvent;
use crate::{
    billing::{intake::is_known_kind, model::EventState},
    db::{Cols, DbError},
};

macro_rules! select_events {
    ($rest:literal) => {
        concat!(
            "SELECT id, source, type, object_id, object_type, state, error, attempts, received_at FROM stripe_events ",
            $rest
        )
    };
}

fn read(row: &AnyRow) -> Result<(InboxEvent, Option<String>), DbError> {
    let row = Cols::of("stripe_events", row);
    let (object, kind) = (row.get::<Option<String>>("object_id")?, row.get::<Option<String>>("object_type")?);
    let event = InboxEvent {
        id: row.text("id")?,
        kind: row.text("type")?,
        replayable: object.is_some() && kind.as_deref().is_some_and(is_known_kind),
        object,
        source: row.get("source")?,
        state: row.get("state")?,
        error: row.get("error")?,
        attempts: row.int("attempts")?,
        received_at: row.millis("received_at")?,
    };
    Ok((event, kind))
}

pub(super) async fn inbox(connection: &mut AnyConnection, limit: i64) -> Result<Vec<InboxEvent>, DbError> {
    let rows = sqlx::query(select_events!(
        "ORDER BY CASE WHEN state IN ('parked', 'failed') THEN 0 ELSE 1 END, received_at DESC, id LIMIT $1"
    ))
    .bind(limit)
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Ok(read(row)?.0)).collect()
}

pub(super) async fn inbox_counts(connection: &mut AnyConnection) -> Result<Vec<(EventState, i64)>, DbError> {
    let rows = sqlx::query("SELECT state, COUNT(*) AS many FROM stripe_events GROUP BY state ORDER BY state")
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("stripe_events", row);
            Ok((row.get("state")?, row.int("many")?))
        })
        .collect()
}

/// An event and the kind of its object.
pub(super) async fn event(
    connection: &mut AnyConnection,
    id: &str,
) -> Result<Option<(InboxEvent, Option<String>)>, DbError> {
    let row = sqlx::query(select_events!("WHERE id = $1")).bind(id).fetch_optional(connection).await?;
    row.as_ref().map(read).transpose()
}

pub(super) async fn receive_again(tx: &mut AnyConnection, id: &str) -> Result<(), DbError> {
    sqlx::query("UPDATE stripe_events SET state = 'received', error = NULL, done_at = NULL WHERE id = $1")
        .bind(id)
        .execute(tx)
        .await?;
    Ok(())
}

/// Parks the events about an object that wait; gives how often that was done to the one it was done to most.
pub(super) async fn park_events(tx: &mut AnyConnection, object: &str, error: &str) -> Result<i64, DbError> {
    sqlx::query(
        "UPDATE stripe_events SET state = 'parked', error = $2, attempts = attempts + 1
         WHERE object_id = $1 AND state IN ('received', 'parked')",
    )
    .bind(object)
    .bind(error)
    .execute(&mut *tx)
    .await?;
    let most: Option<i64> = sqlx::query_scalar(
        "SELECT MAX(attempts) FROM stripe_events WHERE object_id = $1 AND state = 'parked'",
    )
    .bind(object)
    .fetch_one(tx)
    .await?;
    Ok(most.unwrap_or(1))
}

pub(super) async fn redact_events(
    tx: &mut AnyConnection,
    now: UnixMillis,
    before: UnixMillis,
) -> Result<u64, DbError> {
    let nothing: Vec<u8> = Vec::new();
    let done = sqlx::query(
        "UPDATE stripe_events SET raw = $3, signature = NULL, redacted_at = $1
         WHERE redacted_at IS NULL AND received_at < $2 AND state IN ('done', 'ignored')",
    )
    .bind(now.0)
    .bind(before.0)
    .bind(nothing)
    .execute(tx)
    .await?;
    Ok(done.rows_affected())
}

/// Whether events about an object wait because it could not be taken over.
pub(super) async fn is_parked(connection: &mut AnyConnection, object: &str) -> Result<bool, DbError> {
    let found: Option<String> =
        sqlx::query_scalar("SELECT id FROM stripe_events WHERE object_id = $1 AND state = 'parked' LIMIT 1")
            .bind(object)
            .fetch_optional(connection)
            .await?;
    Ok(found.is_some())
}

/// News about an object that nobody has taken over or parked.
pub(super) struct Waiting {
    pub(super) event: String,
    pub(super) object: String,
    pub(super) kind: String,
    /// When it came.
    pub(super) since: UnixMillis,
}

/// News that came before a time and that nobody has taken over or parked, the oldest first; what is behind the event that `after`
/// names with its time. It reads no more of the index than it gives.
pub(super) async fn waiting_since(
    connection: &mut AnyConnection,
    before: UnixMillis,
    after: (UnixMillis, &str),
    limit: i64,
) -> Result<Vec<Waiting>, DbError> {
    let rows = sqlx::query(
        "SELECT id, object_id, object_type, received_at FROM stripe_events
         WHERE state = 'received' AND received_at < $1 AND received_at >= $2 AND (received_at > $2 OR id > $3)
               AND object_id IS NOT NULL AND object_type IS NOT NULL
         ORDER BY received_at, id LIMIT $4",
    )
    .bind(before.0)
    .bind(after.0.0)
    .bind(after.1)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    let read = |row: &AnyRow| {
        let row = Cols::of("stripe_events", row);
        Ok(Waiting {
            event: row.text("id")?,
            object: row.text("object_id")?,
            kind: row.text("object_type")?,
            since: row.millis("received_at")?,
        })
    };
    rows.iter().map(read).collect()
}

/// Whether an event that came after a time was set aside.
pub(super) async fn was_set_aside_since(
    connection: &mut AnyConnection,
    since: UnixMillis,
) -> Result<bool, DbError> {
    let found: Option<String> = sqlx::query_scalar(
        "SELECT id FROM stripe_events WHERE state = 'failed' AND received_at >= $1 LIMIT 1",
    )
    .bind(since.0)
    .fetch_optional(connection)
    .await?;
    Ok(found.is_some())
}

/// Whether events about an object wait.
pub(super) async fn waits(connection: &mut AnyConnection, object: &str) -> Result<bool, DbError> {
    let found: Option<String> = sqlx::query_scalar(
        "SELECT id FROM stripe_events WHERE object_id = $1 AND state IN ('received', 'parked') LIMIT 1",
    )
    .bind(object)
    .fetch_optional(connection)
    .await?;
    Ok(found.is_some())
}
