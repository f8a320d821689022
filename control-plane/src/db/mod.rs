//! The database: the only place that knows which one it is.
//!
//! `DATABASE_URL` names an SQLite file or a PostgreSQL server; everything above sees one dialect (see
//! `migrations/README.md`) and two verbs. [`Db::read`] lends a connection that cannot write.
//! [`Db::write`] runs a closure in a transaction and answers after the commit: what was acknowledged is
//! durable (I8), and whoever reads afterwards sees it. On SQLite all writes that wait together share one
//! commit (see `writer`); on PostgreSQL each is an ordinary transaction.
//!
//! Rules for the closure: it awaits nothing but the connection; its error takes back its own changes and
//! nobody else's; an answer of [`DbError::Unavailable`] means that the outcome is unknown.
//!
//! Stores read columns through [`Cols`], which turns a value we never write into
//! [`DbError::Inconsistent`] instead of a panic, and keep enums as text with [`text_enum!`].

mod cols;
mod error;
mod files;
#[cfg(test)]
mod linter;
mod lock;
mod many;
mod migrate;
mod open;
#[cfg(test)]
mod schema;
mod scope;
mod step;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;
mod text;
mod wake;
mod writer;

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures::{FutureExt, future::BoxFuture};
use sqlx::{Any, AnyConnection, AnyPool, ConnectOptions, Connection, pool::PoolConnection};

pub use cols::{Cols, one_row, opt_id};
pub use error::{ConflictKind, DbError};
pub use files::{ServesAlone, sqlite_path};
pub use lock::{lock, pick};
pub use many::{MANY, padded};
pub use migrate::Pending;
pub use scope::{Topic, wake_after_commit};
pub use step::{begin_step, keep_step, undo_step};
pub(crate) use text::text_enum;
pub use wake::Wake;
pub use writer::WriteCounters;

/// Which database is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// One file, one process that writes.
    Sqlite,
    /// A server, several control planes.
    Postgres,
}

/// A handle on the database; cheap to clone.
#[derive(Clone)]
pub struct Db {
    target: open::Target,
    /// Of SQLite.
    file: Option<std::path::PathBuf>,
    readers: AnyPool,
    writer: Writer,
    wake: Wake,
    counters: Arc<WriteCounters>,
}

#[derive(Clone)]
enum Writer {
    Sqlite(writer::Queue),
    Postgres(AnyPool),
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Db").field("backend", &self.target.backend).finish_non_exhaustive()
    }
}

impl Db {
    /// Opens `sqlite:path` or `postgres://…` and checks that it answers. Does not migrate.
    ///
    /// # Errors
    /// [`DbError::Unavailable`] if the address is wrong or nobody answers.
    pub async fn open(url: &str) -> Result<Self, DbError> {
        sqlx::any::install_default_drivers();
        let target = open::Target::parse(url)?;
        let wake = Wake::default();
        let counters = Arc::new(WriteCounters::default());
        let writer = match target.backend {
            Backend::Sqlite => {
                if let Some(path) = sqlite_path(url) {
                    files::make_private(&path)?;
                }
                // The first connection makes it a database, so that readers find one.
                migrate::touch(&target).await?;
                Writer::Sqlite(writer::Queue::start(target.options.clone(), wake.clone(), counters.clone()))
            }
            Backend::Postgres => {
                // The pool would try again until its patience ends and then not say what was wrong.
                target.greet().await?;
                Writer::Postgres(target.writers())
            }
        };
        let file = sqlite_path(url);
        let db = Self { readers: target.readers(), target, file, writer, wake, counters };
        db.ping().await?;
        Ok(db)
    }

    /// Which database is behind.
    pub fn backend(&self) -> Backend {
        self.target.backend
    }

    /// The notifiers that commits through this handle ring.
    pub fn wake(&self) -> &Wake {
        &self.wake
    }

    /// How often writes were committed.
    pub fn counters(&self) -> &WriteCounters {
        &self.counters
    }

    /// Lends a connection for reading.
    ///
    /// # Errors
    /// [`DbError::Unavailable`] if none comes free in time.
    pub async fn read(&self) -> Result<PoolConnection<Any>, DbError> {
        Ok(self.readers.acquire().await?)
    }

    /// Asks the database for a sign of life.
    ///
    /// # Errors
    /// [`DbError::Unavailable`] if it gives none.
    pub async fn ping(&self) -> Result<(), DbError> {
        let mut connection = self.read().await?;
        sqlx::query("SELECT 1").execute(&mut *connection).await?;
        Ok(())
    }

    /// Makes sure that no other process serves from the same SQLite file, as long as the answer is kept. Several may
    /// serve from one PostgreSQL.
    ///
    /// # Errors
    /// [`DbError::Unavailable`] if another one does.
    pub fn serve_alone(&self) -> Result<Option<ServesAlone>, DbError> {
        self.file.as_deref().map(files::serve_alone).transpose()
    }

    /// Copies an SQLite database into a new file that only its owner reads, consistently, while everything runs.
    ///
    /// # Errors
    /// [`DbError::Unavailable`] on PostgreSQL, which has tools of its own, or if the file is there already or cannot
    /// be written.
    pub async fn backup_to(&self, file: &std::path::Path) -> Result<(), DbError> {
        if self.target.backend == Backend::Postgres {
            return Err(DbError::Unavailable("use pg_dump for a PostgreSQL database".into()));
        }
        // The readers' connections refuse even this, which changes nothing of theirs.
        let mut connection = self.target.options.connect().await?;
        // SQLite writes into an empty file as into a new one.
        files::make_new(file)?;
        let copied =
            sqlx::query("VACUUM INTO $1").bind(file.display().to_string()).execute(&mut connection).await;
        if let Err(error) = copied {
            files::remove(file);
            return Err(error.into());
        }
        connection.close().await?;
        Ok(())
    }

    /// Lets go of all connections, after the writes that wait.
    pub async fn close(&self) {
        self.readers.close().await;
        if let Writer::Postgres(pool) = &self.writer {
            pool.close().await;
        }
    }

    /// Runs the closure in a transaction and answers after the commit.
    ///
    /// ```no_run
    /// # async fn example(db: ez_control_plane::db::Db) -> Result<(), ez_control_plane::db::DbError> {
    /// let rows = db
    ///     .write(|tx| {
    ///         Box::pin(async move {
    ///             let done = sqlx::query("DELETE FROM sessions WHERE ends_at < $1").bind(0_i64).execute(tx).await?;
    ///             Ok::<_, ez_control_plane::db::DbError>(done.rows_affected())
    ///         })
    ///     })
    ///     .await?;
    /// # let _ = rows; Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The closure's own error after its changes were taken back; [`DbError::Unavailable`] if the outcome is
    /// unknown; [`DbError::Panicked`] if the closure panicked.
    pub async fn write<T, E, F>(&self, closure: F) -> Result<T, E>
    where
        F: for<'c> FnOnce(&'c mut AnyConnection) -> BoxFuture<'c, Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<DbError> + Send + 'static,
    {
        self.counters.asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        match &self.writer {
            Writer::Sqlite(queue) => queue.write(closure).await,
            Writer::Postgres(pool) => self.write_alone(pool, closure).await,
        }
    }

    /// One closure, one transaction: PostgreSQL does its own group commit.
    async fn write_alone<T, E, F>(&self, pool: &AnyPool, closure: F) -> Result<T, E>
    where
        F: for<'c> FnOnce(&'c mut AnyConnection) -> BoxFuture<'c, Result<T, E>> + Send + 'static,
        E: From<DbError>,
    {
        let mut tx = pool.begin().await.map_err(DbError::from)?;
        let connection: &mut AnyConnection = &mut tx;
        let run = AssertUnwindSafe(async move { closure(connection).await }).catch_unwind();
        let (result, notes) = scope::with_notes(run).await;
        match result {
            Ok(Ok(value)) => {
                tx.commit().await.map_err(|error| {
                    DbError::Unavailable(format!("the write's outcome is unknown: {}", DbError::from(error)))
                })?;
                use std::sync::atomic::Ordering::Relaxed;
                self.counters.commits.fetch_add(1, Relaxed);
                self.counters.units.fetch_add(1, Relaxed);
                notes.topics().for_each(|topic| self.wake.notify(topic));
                Ok(value)
            }
            Ok(Err(error)) => {
                // If the rollback fails the connection is broken and the server rolls back by itself.
                let _rolled_back = tx.rollback().await;
                Err(error)
            }
            Err(panic) => {
                let _rolled_back = tx.rollback().await;
                Err(DbError::Panicked(writer::panic_text(&panic)).into())
            }
        }
    }
}

/// The database's own clock, for leases that several control planes must agree on.
///
/// # Errors
/// Those of the query.
pub async fn database_now(connection: &mut AnyConnection) -> Result<ez_protocol::UnixMillis, DbError> {
    let sql = if connection.backend_name() == "SQLite" {
        "SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER)"
    } else {
        "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"
    };
    let now: i64 = sqlx::query_scalar(sql).fetch_one(connection).await?;
    Ok(ez_protocol::UnixMillis(now))
}

/// Ten bytes that make the id of a row unique that nobody outside ever names, from the database itself.
///
/// # Errors
/// Those of the query.
pub async fn row_randomness(connection: &mut AnyConnection) -> Result<[u8; 10], DbError> {
    let sql = if connection.backend_name() == "SQLite" {
        "SELECT randomblob(10)"
    } else {
        "SELECT substring(uuid_send(gen_random_uuid()) FROM 1 FOR 6) || substring(uuid_send(gen_random_uuid()) FROM 1 FOR 4)"
    };
    let bytes: Vec<u8> = sqlx::query_scalar(sql).fetch_one(connection).await?;
    bytes.try_into().map_err(|_| DbError::Unavailable("the database gave no randomness".into()))
}
