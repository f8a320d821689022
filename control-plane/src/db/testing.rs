//! Fresh databases for tests: always SQLite, and PostgreSQL when `TEST_POSTGRES_URL` names a server.

use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{ConnectOptions, Connection};

use super::Db;

/// The variable that names a PostgreSQL server whose user may create schemas.
pub const POSTGRES: &str = "TEST_POSTGRES_URL";

/// Runs the test on a fresh, migrated SQLite file and, if a server is named, in a fresh PostgreSQL schema.
///
/// ```ignore
/// #[tokio::test]
/// async fn story() {
///     db::testing::each_database(async |db| { /* … */ }).await;
/// }
/// ```
pub async fn each_database<F: AsyncFn(Db)>(test: F) {
    let (db, _directory) = sqlite().await;
    test(db).await;
    if let Ok(server) = std::env::var(POSTGRES) {
        let schema = Schema::create(&server).await;
        let db = Db::open(&schema.url).await.unwrap();
        db.migrate().await.unwrap();
        test(db.clone()).await;
        db.close().await;
        schema.remove().await;
    }
}

/// A fresh, migrated SQLite database, for tests that are about something else.
pub async fn sqlite() -> (Db, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let db = Db::open(&format!("sqlite:{}", directory.path().join("test.sqlite").display())).await.unwrap();
    db.migrate().await.unwrap();
    (db, directory)
}

/// The address of a fresh, migrated database, for stories in which its process dies and another one opens it.
pub struct Fresh {
    /// What `Db::open` takes.
    pub url: String,
    directory: Option<tempfile::TempDir>,
    schema: Option<Schema>,
}

impl Fresh {
    /// A file. In memory where the system has room for that: these stories are about processes, not about power cuts.
    pub async fn sqlite() -> Self {
        let memory = std::path::Path::new("/dev/shm");
        let directory = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let directory = directory.unwrap();
        let url = format!("sqlite:{}", directory.path().join("test.sqlite").display());
        Self::migrated(url, Some(directory), None).await
    }

    /// A schema on the PostgreSQL server, if one is named.
    pub async fn postgres() -> Option<Self> {
        let server = std::env::var(POSTGRES).ok()?;
        let schema = Schema::create(&server).await;
        Some(Self::migrated(schema.url.clone(), None, Some(schema)).await)
    }

    async fn migrated(url: String, directory: Option<tempfile::TempDir>, schema: Option<Schema>) -> Self {
        let db = Db::open(&url).await.unwrap();
        db.migrate().await.unwrap();
        db.close().await;
        Self { url, directory, schema }
    }

    /// Where the file lies.
    pub fn directory(&self) -> &std::path::Path {
        self.directory.as_ref().unwrap().path()
    }

    /// Takes it away again.
    pub async fn remove(self) {
        if let Some(schema) = self.schema {
            schema.remove().await;
        }
    }
}

/// A schema of its own on the PostgreSQL server.
struct Schema {
    server: String,
    name: String,
    url: String,
}

impl Schema {
    async fn create(server: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        admin(server, format!("DROP SCHEMA IF EXISTS {name} CASCADE; CREATE SCHEMA {name}")).await;
        let sign = if server.contains('?') { '&' } else { '?' };
        let url = format!("{server}{sign}options=-csearch_path%3D{name}");
        Self { server: server.to_owned(), name, url }
    }

    async fn remove(self) {
        admin(&self.server, format!("DROP SCHEMA {} CASCADE", self.name)).await;
    }
}

/// Whether a text stands anywhere in a table.
pub(crate) async fn mentions(connection: &mut sqlx::AnyConnection, table: &str, text: &str) -> bool {
    use sqlx::{Column as _, Row as _};
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!("SELECT * FROM {table}")));
    let rows = rows.fetch_all(connection).await.unwrap();
    rows.iter().any(|row| {
        row.columns().iter().any(|column| {
            let at = column.ordinal();
            let words = row.try_get::<Option<String>, _>(at).ok().flatten().map(String::into_bytes);
            let bytes = words.or_else(|| row.try_get::<Option<Vec<u8>>, _>(at).ok().flatten());
            bytes.is_some_and(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes()))
        })
    })
}

async fn admin(server: &str, sql: String) {
    sqlx::any::install_default_drivers();
    let mut connection = server.parse::<sqlx::any::AnyConnectOptions>().unwrap().connect().await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}
