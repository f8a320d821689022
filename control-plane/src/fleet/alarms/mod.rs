//! Alarms: what a person must look at, one row per kind and subject.
//!
//! The same cause again counts up instead of adding rows, and an alarm ends when its cause ends.

mod store;

use ez_protocol::{NodeId, UnixMillis};
use serde_json::json;
use sqlx::AnyConnection;

use super::model::{Alarm, Severity};
use crate::{audit, db::DbError};

/// An alarm to be raised.
#[derive(Clone, Copy, Debug)]
pub struct New<'a> {
    /// Stable word, such as `node_offline`.
    pub kind: &'a str,
    /// What it is about.
    pub subject: &'a str,
    /// How urgent.
    pub severity: Severity,
    /// The node, if one is concerned.
    pub node: Option<NodeId>,
    /// One sentence for people.
    pub detail: &'a str,
}

/// Something happened: opens the alarm, or counts it once more.
///
/// # Errors
/// Those of the database.
pub async fn raise(tx: &mut AnyConnection, at: UnixMillis, alarm: New<'_>) -> Result<(), DbError> {
    store::raise(tx, at, alarm).await
}

/// Something is so: opens the alarm if it is not open. One that is open says from now on what was seen last, which is no news.
/// `true` when it was opened now.
///
/// # Errors
/// Those of the database.
pub async fn hold(tx: &mut AnyConnection, at: UnixMillis, alarm: New<'_>) -> Result<bool, DbError> {
    let Some((detail, severity)) = store::says(tx, alarm.kind, alarm.subject).await? else {
        store::raise(tx, at, alarm).await?;
        return Ok(true);
    };
    if detail != alarm.detail || severity != alarm.severity {
        store::restate(tx, alarm).await?;
    }
    Ok(false)
}

/// What the open alarms of a kind are about.
///
/// # Errors
/// Those of the database.
pub async fn open_subjects(conn: &mut AnyConnection, kind: &str) -> Result<Vec<String>, DbError> {
    store::open_subjects(conn, kind).await
}

/// The open alarms of a kind about a node.
///
/// # Errors
/// Those of the database.
pub async fn open_about(conn: &mut AnyConnection, kind: &str, node: NodeId) -> Result<Vec<Alarm>, DbError> {
    store::open_about(conn, kind, node).await
}

/// The cause is gone.
///
/// # Errors
/// Those of the database.
pub async fn clear(tx: &mut AnyConnection, at: UnixMillis, kind: &str, subject: &str) -> Result<(), DbError> {
    store::clear(tx, at, kind, subject).await
}

/// A person has dealt with it; it comes back if its cause does.
///
/// # Errors
/// Those of the database.
pub async fn close(
    tx: &mut AnyConnection,
    at: UnixMillis,
    kind: &str,
    subject: &str,
    actor: &str,
) -> Result<(), DbError> {
    store::clear(tx, at, kind, subject).await?;
    let entry = audit::Entry {
        actor: actor.to_owned(),
        action: "alarm.closed".to_owned(),
        subject_kind: "alarm".to_owned(),
        subject_id: subject.to_owned(),
        detail: json!({ "kind": kind }),
    };
    audit::record(tx, at, entry).await
}

/// Forgets alarms that ended before this.
///
/// # Errors
/// Those of the database.
pub async fn sweep(tx: &mut AnyConnection, before: UnixMillis) -> Result<(), DbError> {
    store::sweep(tx, before).await
}

/// Open alarms, the most urgent and newest first, then those closed lately; at most `limit`.
///
/// # Errors
/// Those of the database.
pub async fn list(conn: &mut AnyConnection, limit: i64) -> Result<Vec<Alarm>, DbError> {
    store::list(conn, limit).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db;

    #[tokio::test]
    async fn an_open_alarm_says_what_was_seen_last_and_rings_once() {
        db::testing::each_database(async |db| {
            let seen = async |at: i64, severity: Severity, detail: &'static str| {
                let at = UnixMillis(at);
                let alarm = New { kind: "invoice_not_final", subject: "in_1", severity, node: None, detail };
                db.write(move |tx| Box::pin(async move { hold(tx, at, alarm).await })).await.unwrap()
            };
            assert!(seen(1, Severity::Warning, "The address is missing.").await);
            for (at, severity) in [(2, Severity::Warning), (3, Severity::Critical)] {
                assert!(!seen(at, severity, "The tax id is wrong.").await, "nobody is told again");
            }
            let mut connection = db.read().await.unwrap();
            let told = list(&mut connection, 9).await.unwrap();
            assert_eq!(told.len(), 1);
            assert_eq!(
                (told[0].detail.as_str(), told[0].severity.as_str()),
                ("The tax id is wrong.", "critical")
            );
            assert_eq!((told[0].occurrences, told[0].raised_at), (1, UnixMillis(1)));
        })
        .await;
    }
}
