//! Opening a database and giving its connections the settings we rely on.

use std::{str::FromStr, time::Duration};

use futures::future::BoxFuture;
use sqlx::{
    AnyConnection, AnyPool, ConnectOptions, Connection as _,
    any::{AnyConnectOptions, AnyPoolOptions},
};

use super::{Backend, DbError};

/// Readers at once. A page needs one for some hundred microseconds.
const SQLITE_READERS: u32 = 4;
/// Connections for reading and again as many for writing: a task that holds a reader and then
/// writes must not wait for a connection that only it could give back.
const POSTGRES_EACH: u32 = 10;
/// How long somebody waits for a connection before being told that the database is unavailable.
const ACQUIRE: Duration = Duration::from_secs(10);
/// An older connection is not used again: what its server holds for it goes with it.
const LIFETIME: Duration = Duration::from_secs(30 * 60);

/// Where a database is and what kind it is.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) backend: Backend,
    pub(super) options: AnyConnectOptions,
}

impl Target {
    /// Reads a `DATABASE_URL`: `sqlite:path` or `postgres://…`.
    pub(super) fn parse(url: &str) -> Result<Self, DbError> {
        let wrong = |why: String| DbError::Unavailable(why);
        let (backend, url) = if let Some(path) = url.strip_prefix("sqlite:") {
            if path.contains(":memory:") || path.contains("mode=memory") {
                return Err(wrong("an SQLite database in memory is not durable; name a file".into()));
            }
            let mode = match (path.contains("mode="), path.contains('?')) {
                (true, _) => "",
                (false, true) => "&mode=rwc",
                (false, false) => "?mode=rwc",
            };
            if path.split('?').next().unwrap_or_default().trim_start_matches('/').is_empty() {
                return Err(wrong("the database's address names no file; write sqlite:PATH".into()));
            }
            (Backend::Sqlite, format!("{url}{mode}"))
        } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            (Backend::Postgres, url.to_owned())
        } else {
            return Err(wrong("the database's address must begin with sqlite: or postgres://".into()));
        };
        // The address may hold a password, so the parser's complaint (which quotes it) is not passed on.
        let options = AnyConnectOptions::from_str(&url)
            .map_err(|_| wrong("the database's address cannot be read".into()))?
            // Spans around the verbs tell what was slow; the driver's own log would quote statements.
            .disable_statement_logging();
        Ok(Self { backend, options })
    }

    /// Connects once, to learn why it does not work if it does not.
    pub(super) async fn greet(&self) -> Result<(), DbError> {
        let greeting = async {
            let connection = self.options.connect().await?;
            connection.close().await
        };
        match tokio::time::timeout(ACQUIRE, greeting).await {
            Ok(Ok(())) => Ok(()),
            // Whatever the reason is, it is the server's address, its state or our place in it.
            Ok(Err(error)) => Err(DbError::Unavailable(error.to_string())),
            Err(_) => Err(DbError::Unavailable(format!("no answer for {} s", ACQUIRE.as_secs()))),
        }
    }

    /// A pool for reading; nothing can be written through it.
    pub(super) fn readers(&self) -> AnyPool {
        let (size, prepare): (u32, Prepare) = match self.backend {
            Backend::Sqlite => (SQLITE_READERS, |c| Box::pin(prepare_sqlite_reader(c))),
            Backend::Postgres => (POSTGRES_EACH, |c| {
                Box::pin(run(c, &["SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"]))
            }),
        };
        self.pool(size, prepare)
    }

    /// A pool for writing (PostgreSQL only; SQLite has one writer).
    pub(super) fn writers(&self) -> AnyPool {
        self.pool(POSTGRES_EACH, |_| Box::pin(async { Ok(()) }))
    }

    fn pool(&self, size: u32, prepare: Prepare) -> AnyPool {
        AnyPoolOptions::new()
            .max_connections(size)
            .acquire_timeout(ACQUIRE)
            // With a lifetime of its own sqlx starts an upkeep task, and that of 0.9.0 can read its count of idle connections
            // one below zero and then spins for ever (https://github.com/launchbadge/sqlx/issues/3645). An old connection
            // is exchanged when somebody wants it instead.
            .max_lifetime(None)
            .idle_timeout(None)
            .before_acquire(|_, known| Box::pin(async move { Ok(known.age < LIFETIME) }))
            .after_connect(move |connection, _| prepare(connection))
            .connect_lazy_with(self.options.clone())
    }
}

type Prepare = for<'c> fn(&'c mut AnyConnection) -> BoxFuture<'c, Result<(), sqlx::Error>>;

/// What every SQLite connection needs. `synchronous=FULL` because acknowledged means durable (I8).
const SQLITE_ALWAYS: &[&str] = &[
    "PRAGMA busy_timeout = 10000",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
];

async fn prepare_sqlite_reader(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    run(connection, SQLITE_ALWAYS).await?;
    // Small caches: each reader would keep its own copy of every page, and the system's cache holds them all once.
    run(connection, &["PRAGMA cache_size = -2048", "PRAGMA query_only = ON"]).await
}

/// Settings of the one connection that writes.
pub(super) async fn prepare_sqlite_writer(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    run(connection, SQLITE_ALWAYS).await?;
    run(connection, &["PRAGMA cache_size = -16384"]).await
}

async fn run(connection: &mut AnyConnection, statements: &[&'static str]) -> Result<(), sqlx::Error> {
    for statement in statements {
        sqlx::raw_sql(*statement).execute(&mut *connection).await?;
    }
    Ok(())
}
