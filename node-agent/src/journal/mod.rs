//! The journal: what this agent has promised, done and still has to say.
//!
//! Rule: *intent before effect, result after effect, acknowledgement after fsync.* Five points are
//! durable before the next thing happens:
//!
//! | point | durable | only then |
//! |---|---|---|
//! | F1 | the verified order and the reservation of its instance | `Accepted` is said |
//! | F2 | the intent of a step | the hypervisor is called |
//! | F3 | the UPID the hypervisor answered | the task is waited for |
//! | F4 | the result of the step | the next step begins |
//! | F5 | the final result and its event, one transaction | the event is sent |
//!
//! SQLite with WAL and `synchronous=FULL`: with `NORMAL`, acknowledged rows are lost in a power cut.
//! All writes go through one task ([`writer`]) that commits many closures with one fsync. Readers
//! have a small pool of their own and see a write as soon as its answer has come.

mod admit;
mod circuit;
mod confirm;
#[cfg(test)]
pub(crate) mod fuse;
mod grants;
mod images;
mod losses;
mod meta;
mod orders;
mod outbox;
mod places;
mod refusals;
pub mod requests;
mod resets;
mod resources;
mod retention;
mod shed;
mod space;
mod steps;
#[cfg(test)]
mod tests;
mod writer;

use std::{path::Path, time::Duration};

use futures::future::BoxFuture;
use sqlx::{
    Row, SqliteConnection, SqlitePool,
    migrate::Migrator,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

pub use admit::{Admission, Facts, Known, Question};
pub use circuit::Circuit;
pub use confirm::Confirmation;
pub use grants::Burn;
pub use images::{ImageAdmission, ImageBuildRow, NewImageBuild};
pub use losses::{DISK, Loss, Losses};
pub use meta::Meta;
pub use orders::{NewOrder, OrderRow, OrderState, Verb};
pub use outbox::OutboxItem;
pub use places::ToldPlace;
pub use refusals::{RefusalNote, RefusedRow};
pub use resources::{BookEntry, DepartedRow, Phase, ResourceRow};
pub use space::{LOW_WATER_BYTES, Space};
pub use steps::{StepRow, StepState, Unsettled};

/// Lists for people: read only, newest first.
pub mod lists {
    pub use super::{
        circuit::show as circuit, images::list as image_builds, meta::node, orders::list as orders,
        orders::list_open as open_orders, orders::show as order, orders::waiting_for_a_person,
        places::show as place, refusals::list as refusals, resources::vmids, steps::list as steps,
    };
}

use crate::{clock::Clock, entropy::Entropy};

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations/node-agent");

/// Why the journal could not do something.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file is damaged; it is kept as it is.
    #[error("the journal is damaged: {0}")]
    Corrupt(String),
    /// The file was written by a newer agent.
    #[error("the journal has schema {found}, this agent knows up to {known}: install the newer agent again")]
    TooNew {
        /// Version in the file.
        found: i64,
        /// Newest version known here.
        known: i64,
    },
    /// A row breaks a rule of the schema (unique, foreign key, check).
    #[error("the journal refused a row: {0}")]
    Conflict(String),
    /// A stored value cannot be read back.
    #[error("the journal holds a value in {table}.{column} that cannot be read: {value:?}")]
    Inconsistent {
        /// Table of the value.
        table: &'static str,
        /// Column of the value.
        column: &'static str,
        /// What was found.
        value: String,
    },
    /// SQLite or the disk failed.
    #[error("reading or writing the journal: {0}")]
    Driver(#[source] sqlx::Error),
    /// The batch this write was part of failed; whether it is durable is unknown until it is read.
    #[error("the journal could not confirm the write")]
    Unknown,
    /// The write met a defect of ours; nothing of it was kept.
    #[error("the write met a defect of this agent and was taken back; its log says which")]
    Defect,
    /// The writer has ended.
    #[error("the journal is closed")]
    Closed,
}

impl JournalError {
    fn is_fatal(&self) -> bool {
        matches!(self, Self::Driver(_) | Self::Unknown | Self::Closed)
    }
}

impl From<sqlx::Error> for JournalError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(db)
                if db.is_unique_violation() || db.is_foreign_key_violation() || db.is_check_violation() =>
            {
                Self::Conflict(db.message().to_owned())
            }
            sqlx::Error::Database(db) if matches!(db.code().as_deref(), Some("11" | "26")) => {
                Self::Corrupt(db.message().to_owned())
            }
            _ => Self::Driver(error),
        }
    }
}

/// An open journal. Clones share it.
#[derive(Clone)]
pub struct Journal {
    writer: writer::Writer,
    readers: SqlitePool,
    #[cfg(test)]
    pub(crate) fuse: fuse::Fuse,
}

impl Journal {
    /// Opens or makes the journal at `path`: checks the file, brings its schema up to date and
    /// starts a new report epoch.
    ///
    /// # Errors
    /// [`JournalError::Corrupt`] for a damaged file (left untouched), [`JournalError::TooNew`] for
    /// one of a later version, [`JournalError::Driver`] if it cannot be opened at all.
    pub async fn open(path: &Path, clock: &dyn Clock, entropy: &dyn Entropy) -> Result<Self, JournalError> {
        let options = options(path).create_if_missing(true);
        check(&options).await?;
        let writer = writer::Writer::start(options.clone()).await?;
        let readers =
            connections(2).connect_with(options.read_only(true)).await.map_err(JournalError::from)?;
        let journal = Self {
            writer,
            readers,
            #[cfg(test)]
            fuse: fuse::Fuse::default(),
        };
        journal.begin_epoch(clock.now(), crate::entropy::bytes(entropy)).await?;
        Ok(journal)
    }

    /// Whether the file is sound; only reads.
    ///
    /// # Errors
    /// [`JournalError::Corrupt`] if it is damaged.
    pub async fn check(path: &Path) -> Result<(), JournalError> {
        let pool = Self::open_read_only(path).await?;
        let verdict: String = sqlx::query("PRAGMA quick_check").fetch_one(&pool).await?.try_get(0)?;
        pool.close().await;
        if verdict == "ok" { Ok(()) } else { Err(JournalError::Corrupt(verdict)) }
    }

    /// Opens the journal of a running agent for reading.
    ///
    /// # Errors
    /// [`JournalError::Driver`] if it is not there or not readable.
    pub async fn open_read_only(path: &Path) -> Result<SqlitePool, JournalError> {
        connections(1).connect_with(options(path).read_only(true)).await.map_err(JournalError::from)
    }

    /// Runs `closure` in the next group commit; the answer comes after the fsync. The closure may
    /// await nothing but the connection. An error rolls back this closure alone.
    ///
    /// # Errors
    /// What the closure answers, or [`JournalError::Unknown`] if the commit failed.
    pub async fn write<T, F>(&self, closure: F) -> Result<T, JournalError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, JournalError>>
            + Send
            + 'static,
    {
        #[cfg(test)]
        self.fuse.before()?;
        let result = self.writer.write(closure).await;
        #[cfg(test)]
        self.fuse.after()?;
        result
    }

    /// Readers that cannot write.
    pub fn readers(&self) -> &SqlitePool {
        &self.readers
    }
}

/// At most so many connections, which stay as long as the pool. Without a lifetime sqlx starts no upkeep task for it: that
/// of 0.9.0 can read its count of idle connections one below zero and then spins on one of our two threads for ever
/// (<https://github.com/launchbadge/sqlx/issues/3645>).
fn connections(most: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new().max_connections(most).max_lifetime(None).idle_timeout(None)
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(5))
}

/// `quick_check`, then the migrations.
async fn check(options: &SqliteConnectOptions) -> Result<(), JournalError> {
    let pool = connections(1).connect_with(options.clone()).await?;
    let verdict: String = sqlx::query("PRAGMA quick_check").fetch_one(&pool).await?.try_get(0)?;
    if verdict != "ok" {
        return Err(JournalError::Corrupt(verdict));
    }
    let newest = MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0);
    match MIGRATIONS.run(&pool).await {
        Ok(()) => {}
        Err(sqlx::migrate::MigrateError::VersionMissing(found)) => {
            return Err(JournalError::TooNew { found, known: newest });
        }
        Err(sqlx::migrate::MigrateError::Execute(error)) => return Err(error.into()),
        Err(other) => return Err(JournalError::Driver(sqlx::Error::Migrate(Box::new(other)))),
    }
    pool.close().await;
    Ok(())
}

/// A stored integer as an unsigned number.
fn unsigned(table: &'static str, column: &'static str, value: i64) -> Result<u64, JournalError> {
    u64::try_from(value).map_err(|_| JournalError::Inconsistent { table, column, value: value.to_string() })
}

/// A number as SQLite stores it. Sequences and generations are below 2^53, so nothing is lost.
fn stored(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A stored text as something that parses.
fn parsed<T: std::str::FromStr>(
    table: &'static str,
    column: &'static str,
    text: &str,
) -> Result<T, JournalError> {
    text.parse().map_err(|_| JournalError::Inconsistent { table, column, value: text.to_owned() })
}
