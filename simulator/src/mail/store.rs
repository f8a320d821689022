//! The letters, in `<state_dir>/mail.sqlite`.

use std::{path::Path, sync::Arc};

use serde::Serialize;
use sqlx::{
    Connection, Row, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteRow, SqliteSynchronous},
};
use tokio::sync::Mutex;

use super::mime;
use crate::wall::WallClock;

/// A stored letter, as the JSON list shows it.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Number, counted from 1.
    pub(crate) id: i64,
    /// When it was taken, UTC milliseconds since 1970.
    pub(crate) received_at: i64,
    /// Sender of the envelope.
    pub(crate) from: String,
    /// Recipients of the envelope.
    pub(crate) to: Vec<String>,
    /// Subject, decoded.
    pub(crate) subject: String,
    /// Plain text, if there is one.
    pub(crate) text: Option<String>,
    /// HTML, if there is one.
    pub(crate) html: Option<String>,
}

/// The letters; cheap to clone.
#[derive(Clone)]
pub(crate) struct Store {
    db: Arc<Mutex<SqliteConnection>>,
    wall: Arc<dyn WallClock>,
}

impl Store {
    /// Opens or makes the file.
    ///
    /// # Errors
    /// The file cannot be used.
    pub(crate) async fn open(file: &Path, wall: Arc<dyn WallClock>) -> Result<Self, sqlx::Error> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal);
        let mut db = SqliteConnection::connect_with(&options).await?;
        let schema = "CREATE TABLE IF NOT EXISTS letters (id INTEGER PRIMARY KEY AUTOINCREMENT, received_at BIGINT NOT NULL, \
            sender TEXT NOT NULL, recipients TEXT NOT NULL, raw BYTEA NOT NULL)";
        sqlx::query(schema).execute(&mut db).await?;
        Ok(Self { db: Arc::new(Mutex::new(db)), wall })
    }

    /// Stores a letter; its number.
    ///
    /// # Errors
    /// The database refuses.
    pub(crate) async fn insert(&self, from: &str, to: &[String], raw: &[u8]) -> Result<i64, sqlx::Error> {
        let text =
            "INSERT INTO letters (received_at, sender, recipients, raw) VALUES ($1, $2, $3, $4) RETURNING id";
        let query = sqlx::query(text).bind(self.wall.now_ms()).bind(from).bind(to.join("\n")).bind(raw);
        query.fetch_one(&mut *self.db.lock().await).await?.try_get(0)
    }

    /// The newest letters, at most `limit`, those of one recipient if given.
    ///
    /// # Errors
    /// The database refuses.
    pub(crate) async fn list(&self, to: Option<&str>, limit: i64) -> Result<Vec<Stored>, sqlx::Error> {
        let text = "SELECT id, received_at, sender, recipients, raw FROM letters \
            WHERE $1 IS NULL OR instr(char(10) || lower(recipients) || char(10), char(10) || lower($1) || char(10)) > 0 ORDER BY id DESC LIMIT $2";
        let rows = sqlx::query(text).bind(to).bind(limit).fetch_all(&mut *self.db.lock().await).await?;
        rows.iter().map(read).collect()
    }

    /// One letter.
    ///
    /// # Errors
    /// The database refuses.
    pub(crate) async fn get(&self, id: i64) -> Result<Option<Stored>, sqlx::Error> {
        let text = "SELECT id, received_at, sender, recipients, raw FROM letters WHERE id = $1";
        let row = sqlx::query(text).bind(id).fetch_optional(&mut *self.db.lock().await).await?;
        row.as_ref().map(read).transpose()
    }

    /// Throws every letter away.
    ///
    /// # Errors
    /// The database refuses.
    pub(crate) async fn clear(&self) -> Result<(), sqlx::Error> {
        sqlx::query("DELETE FROM letters").execute(&mut *self.db.lock().await).await.map(|_| ())
    }
}

fn read(row: &SqliteRow) -> Result<Stored, sqlx::Error> {
    let raw: Vec<u8> = row.try_get(4)?;
    let letter = mime::parse(&raw);
    let recipients: String = row.try_get(3)?;
    Ok(Stored {
        id: row.try_get(0)?,
        received_at: row.try_get(1)?,
        from: row.try_get(2)?,
        to: recipients.lines().map(str::to_owned).collect(),
        subject: letter.subject,
        text: letter.text,
        html: letter.html,
    })
}
