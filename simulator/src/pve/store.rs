//! Where a cluster's state lives: tables in memory, each changed row written to SQLite before the
//! effect is seen by anyone. A `kill -9` loses nothing that was answered.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Row};

/// The database of a cluster could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite refused.
    #[error("{operation}: {source}")]
    Database {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: sqlx::Error,
    },
    /// A row does not decode.
    #[error("row {kind}/{key} cannot be read: {source}")]
    Row {
        /// Table.
        kind: String,
        /// Key.
        key: String,
        /// Why.
        source: serde_json::Error,
    },
}

fn failed(operation: &'static str) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |source| StoreError::Database { operation, source }
}

/// A row to write: table, key, and its body; none deletes it.
pub(crate) type Change = (&'static str, String, Option<String>);

/// One table: rows by key, and which of them differ from the disk.
#[derive(Debug)]
pub(crate) struct Table<V> {
    kind: &'static str,
    rows: BTreeMap<String, V>,
    dirty: BTreeSet<String>,
}

impl<V: Serialize + DeserializeOwned> Table<V> {
    pub(crate) fn new(kind: &'static str) -> Self {
        Table { kind, rows: BTreeMap::new(), dirty: BTreeSet::new() }
    }

    pub(crate) fn get(&self, key: impl ToString) -> Option<&V> {
        self.rows.get(&key.to_string())
    }

    pub(crate) fn contains(&self, key: impl ToString) -> bool {
        self.rows.contains_key(&key.to_string())
    }

    /// A row to change; it is written with the running change.
    pub(crate) fn get_mut(&mut self, key: impl ToString) -> Option<&mut V> {
        let key = key.to_string();
        let row = self.rows.get_mut(&key)?;
        self.dirty.insert(key);
        Some(row)
    }

    pub(crate) fn insert(&mut self, key: impl ToString, value: V) {
        let key = key.to_string();
        self.dirty.insert(key.clone());
        self.rows.insert(key, value);
    }

    pub(crate) fn remove(&mut self, key: impl ToString) -> Option<V> {
        let key = key.to_string();
        let old = self.rows.remove(&key);
        if old.is_some() {
            self.dirty.insert(key);
        }
        old
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &V)> {
        self.rows.iter()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.rows.values()
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(&str, &V) -> bool) {
        let gone: Vec<String> =
            self.rows.iter().filter(|(k, v)| !keep(k, v)).map(|(k, _)| k.clone()).collect();
        for key in gone {
            self.remove(key);
        }
    }

    /// What has to be written.
    pub(crate) fn pending(&self, out: &mut Vec<Change>) -> Result<(), StoreError> {
        for key in &self.dirty {
            let body = match self.rows.get(key) {
                Some(row) => Some(serde_json::to_string(row).map_err(|source| StoreError::Row {
                    kind: self.kind.into(),
                    key: key.clone(),
                    source,
                })?),
                None => None,
            };
            out.push((self.kind, key.clone(), body));
        }
        Ok(())
    }

    /// Called after the write: memory and disk agree.
    pub(crate) fn clean(&mut self) {
        self.dirty.clear();
    }

    /// Takes a row that was read from the disk, if it belongs to this table.
    pub(crate) fn load(&mut self, kind: &str, key: &str, body: &str) -> Result<bool, StoreError> {
        if kind != self.kind {
            return Ok(false);
        }
        let value = serde_json::from_str(body).map_err(|source| StoreError::Row {
            kind: kind.into(),
            key: key.into(),
            source,
        })?;
        self.rows.insert(key.into(), value);
        Ok(true)
    }
}

/// The open database file.
#[derive(Debug)]
pub(crate) struct Disk {
    connection: SqliteConnection,
}

impl Disk {
    pub(crate) async fn open(file: &Path) -> Result<Disk, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // The simulator itself is killed, never the machine under it.
            .synchronous(SqliteSynchronous::Off)
            .disable_statement_logging();
        let mut connection = SqliteConnection::connect_with(&options).await.map_err(failed("open state"))?;
        sqlx::query("CREATE TABLE IF NOT EXISTS rows (kind TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (kind, key))")
            .execute(&mut connection)
            .await
            .map_err(failed("create state table"))?;
        Ok(Disk { connection })
    }

    pub(crate) async fn read_all(&mut self) -> Result<Vec<(String, String, String)>, StoreError> {
        let rows = sqlx::query("SELECT kind, key, body FROM rows")
            .fetch_all(&mut self.connection)
            .await
            .map_err(failed("read state"))?;
        rows.iter()
            .map(|r| Ok((r.try_get(0)?, r.try_get(1)?, r.try_get(2)?)))
            .collect::<Result<_, sqlx::Error>>()
            .map_err(failed("read state"))
    }

    pub(crate) async fn write(&mut self, rows: Vec<Change>) -> Result<(), StoreError> {
        let mut tx = self.connection.begin().await.map_err(failed("begin"))?;
        for (kind, key, body) in rows {
            let query = match body {
                Some(body) => sqlx::query("INSERT INTO rows (kind, key, body) VALUES (?1, ?2, ?3) ON CONFLICT (kind, key) DO UPDATE SET body = excluded.body")
                    .bind(kind)
                    .bind(key)
                    .bind(body),
                None => sqlx::query("DELETE FROM rows WHERE kind = ?1 AND key = ?2").bind(kind).bind(key),
            };
            query.execute(&mut *tx).await.map_err(failed("write state"))?;
        }
        tx.commit().await.map_err(failed("commit state"))
    }
}
