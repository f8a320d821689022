//! Bringing the schema up to date, and saying what is missing.

use sqlx::{
    ConnectOptions, Connection,
    migrate::{Migrate, MigrateError, Migrator},
};

use super::{Db, DbError, open::Target};

/// Every migration, embedded.
static MIGRATIONS: Migrator = sqlx::migrate!("../migrations/control-plane");

/// Migrations that this program has and the database has not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending(pub Vec<String>);

impl From<MigrateError> for DbError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
                Self::Driver(Box::new(error))
            }
            other => Self::Driver(Box::new(sqlx::Error::Migrate(Box::new(other)))),
        }
    }
}

impl Db {
    /// Applies what is missing. Safe to call from several processes at once.
    ///
    /// # Errors
    /// [`DbError::Driver`] if a migration fails, was changed after it ran, or is newer than this program.
    pub async fn migrate(&self) -> Result<(), DbError> {
        let mut connection = self.target.options.connect().await?;
        if self.backend() == super::Backend::Sqlite {
            super::open::prepare_sqlite_writer(&mut connection).await?;
        }
        MIGRATIONS.run_direct(None, &mut connection, false).await?;
        connection.close().await?;
        Ok(())
    }

    /// What [`Db::migrate`] would apply.
    ///
    /// # Errors
    /// Those of the query.
    pub async fn pending(&self) -> Result<Pending, DbError> {
        let mut connection = self.read().await?;
        let applied = match connection.list_applied_migrations(&MIGRATIONS.table_name).await {
            Ok(applied) => applied,
            // No table of migrations yet: nothing is applied. Anything worse shows in the ping.
            Err(_) => {
                drop(connection);
                self.ping().await?;
                Vec::new()
            }
        };
        let missing = MIGRATIONS
            .iter()
            .filter(|known| applied.iter().all(|row| row.version != known.version))
            .map(|known| format!("{} {}", known.version, known.description));
        Ok(Pending(missing.collect()))
    }
}

/// Connects once, so that an SQLite file exists and is in WAL mode before readers come.
pub(super) async fn touch(target: &Target) -> Result<(), DbError> {
    let mut connection = target.options.connect().await?;
    super::open::prepare_sqlite_writer(&mut connection).await?;
    connection.close().await?;
    Ok(())
}
