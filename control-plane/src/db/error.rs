//! What can go wrong with the database, by what the caller can do about it.

use sqlx::error::{DatabaseError, ErrorKind};

/// Which constraint refused a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConflictKind {
    /// A row with this key exists already.
    Unique,
    /// The row that is pointed to does not exist, or is still pointed to.
    ForeignKey,
    /// A `CHECK` said no.
    Check,
    /// A required value was missing, or another constraint said no.
    Other,
}

/// An error of the database, sorted by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The row that was asked for does not exist, or a guarded update matched nothing.
    #[error("no such row")]
    NotFound,
    /// A constraint refused the write; nothing of the caller's closure was kept.
    #[error("refused by a constraint: {what}")]
    Conflict {
        /// Which sort of constraint.
        kind: ConflictKind,
        /// The database's words: table and columns on SQLite, the constraint's name on PostgreSQL.
        what: String,
    },
    /// The database could not be reached or could not promise durability. A write that gets this
    /// answer may or may not have happened: look before repeating it.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// The database holds something our code never writes. A person has to look at it.
    #[error("inconsistent data in {table}.{column} of row {row}")]
    Inconsistent {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// The first column of the row, as text.
        row: String,
    },
    /// The driver or the statement is wrong: a bug of ours.
    #[error("the database driver refused")]
    Driver(#[source] Box<sqlx::Error>),
    /// The closure given to `write` panicked; its changes were rolled back, those of its neighbours were not.
    #[error("a write panicked: {0}")]
    Panicked(String),
}

impl DbError {
    /// Whether a unique index or primary key refused the write.
    pub fn is_unique(&self) -> bool {
        matches!(self, Self::Conflict { kind: ConflictKind::Unique, .. })
    }

    /// Whether waiting and trying again can help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// What a driver error means for the writes that share its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// Only this statement failed; the transaction is as it was before it.
    Statement,
    /// The transaction or the connection may be gone; nobody in it may be told "done".
    Transaction,
}

impl From<sqlx::Error> for DbError {
    fn from(error: sqlx::Error) -> Self {
        let (reach, error) = sort(error);
        if reach == Reach::Transaction {
            super::scope::mark_fault();
        }
        error
    }
}

/// Sorts a driver's error into ours and says how far it reaches.
fn sort(error: sqlx::Error) -> (Reach, DbError) {
    use sqlx::Error as E;
    match error {
        E::RowNotFound => (Reach::Statement, DbError::NotFound),
        E::Database(ref inner) => match sort_database(inner.as_ref()) {
            Some(sorted) => sorted,
            None => (Reach::Statement, DbError::Driver(Box::new(error))),
        },
        E::Io(_) | E::Tls(_) | E::PoolTimedOut | E::PoolClosed | E::WorkerCrashed | E::BeginFailed => {
            (Reach::Transaction, DbError::Unavailable(error.to_string()))
        }
        E::Protocol(_) => (Reach::Transaction, DbError::Driver(Box::new(error))),
        // Wrong column names, types that do not decode: bugs of the statement, found by its story test.
        _ => (Reach::Statement, DbError::Driver(Box::new(error))),
    }
}

/// Sorts what the database itself reported; `None` is an error of the statement's text.
fn sort_database(error: &dyn DatabaseError) -> Option<(Reach, DbError)> {
    let conflict = |kind| {
        let what = error.constraint().unwrap_or_else(|| error.message()).to_owned();
        Some((Reach::Statement, DbError::Conflict { kind, what }))
    };
    let code = error.code().unwrap_or_default();
    match error.kind() {
        ErrorKind::UniqueViolation => return conflict(ConflictKind::Unique),
        ErrorKind::ForeignKeyViolation => return conflict(ConflictKind::ForeignKey),
        ErrorKind::CheckViolation => return conflict(ConflictKind::Check),
        ErrorKind::NotNullViolation | ErrorKind::ExclusionViolation => return conflict(ConflictKind::Other),
        _ => {}
    }
    let sqlite = error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some();
    if sqlite {
        // The primary result code is the low byte of the extended one.
        return match code.parse::<i32>().unwrap_or(0) & 0xff {
            19 => conflict(ConflictKind::Other),
            1 => None,
            _ => Some((Reach::Transaction, DbError::Unavailable(error.to_string()))),
        };
    }
    match code.get(..2).unwrap_or_default() {
        "23" => conflict(ConflictKind::Other),
        // Connection, resources, operator intervention, system error, serialisation and deadlock.
        "08" | "53" | "57" | "58" | "40" | "XX" => {
            Some((Reach::Transaction, DbError::Unavailable(error.to_string())))
        }
        _ => None,
    }
}
