//! Reading rows: typed columns over the few kinds of value that `Any` knows.

use std::{fmt::Display, str::FromStr};

use ez_protocol::UnixMillis;
use serde::de::DeserializeOwned;
use sqlx::{Any, Decode, Row, Type, any::AnyRow};

use super::DbError;

/// A row and the table it came from. Ids are TEXT, times BIGINT milliseconds, flags INTEGER 0/1, JSON TEXT.
///
/// ```
/// # use ez_control_plane::db::{Cols, DbError};
/// # use ez_protocol::{NodeId, UnixMillis};
/// fn node(row: &sqlx::any::AnyRow) -> Result<(NodeId, UnixMillis, bool), DbError> {
///     let row = Cols::of("nodes", row);
///     Ok((row.id("id")?, row.millis("created_at")?, row.flag("cordoned")?))
/// }
/// ```
#[derive(Clone, Copy)]
pub struct Cols<'r> {
    table: &'static str,
    row: &'r AnyRow,
}

impl<'r> Cols<'r> {
    /// Looks at a row of `table` (the name is for error messages).
    pub fn of(table: &'static str, row: &'r AnyRow) -> Self {
        Self { table, row }
    }

    /// A value that `Any` decodes itself: `String`, `i64`, `Vec<u8>`, an enum made by `text_enum!`, or an `Option` of these.
    ///
    /// # Errors
    /// [`DbError::Inconsistent`] if the column holds something else; [`DbError::Driver`] if there is no such column.
    pub fn get<T: Decode<'r, Any> + Type<Any>>(&self, column: &'static str) -> Result<T, DbError> {
        self.row.try_get(column).map_err(|error| match error {
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => self.inconsistent(column),
            other => other.into(),
        })
    }

    /// A TEXT column.
    ///
    /// # Errors
    /// As [`Cols::get`].
    pub fn text(&self, column: &'static str) -> Result<String, DbError> {
        self.get(column)
    }

    /// A BIGINT or INTEGER column.
    ///
    /// # Errors
    /// As [`Cols::get`].
    pub fn int(&self, column: &'static str) -> Result<i64, DbError> {
        self.get(column)
    }

    /// An integer column in a narrower or unsigned type.
    ///
    /// # Errors
    /// As [`Cols::get`]; also if the number does not fit.
    pub fn num<T: TryFrom<i64>>(&self, column: &'static str) -> Result<T, DbError> {
        T::try_from(self.int(column)?).map_err(|_| self.inconsistent(column))
    }

    /// A BYTEA column.
    ///
    /// # Errors
    /// As [`Cols::get`].
    pub fn bytes(&self, column: &'static str) -> Result<Vec<u8>, DbError> {
        self.get(column)
    }

    /// An INTEGER column that is 0 or 1.
    ///
    /// # Errors
    /// As [`Cols::get`]; also for any other number.
    pub fn flag(&self, column: &'static str) -> Result<bool, DbError> {
        match self.int(column)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.inconsistent(column)),
        }
    }

    /// A time in milliseconds.
    ///
    /// # Errors
    /// As [`Cols::get`].
    pub fn millis(&self, column: &'static str) -> Result<UnixMillis, DbError> {
        self.int(column).map(UnixMillis)
    }

    /// A time that may be missing.
    ///
    /// # Errors
    /// As [`Cols::get`].
    pub fn opt_millis(&self, column: &'static str) -> Result<Option<UnixMillis>, DbError> {
        Ok(self.get::<Option<i64>>(column)?.map(UnixMillis))
    }

    /// A typed id, address or anything else that parses from text.
    ///
    /// # Errors
    /// As [`Cols::get`]; also if the text does not parse.
    pub fn id<T: FromStr>(&self, column: &'static str) -> Result<T, DbError> {
        self.text(column)?.parse().map_err(|_| self.inconsistent(column))
    }

    /// The same for a column that may be NULL.
    ///
    /// # Errors
    /// As [`Cols::id`].
    pub fn opt_id<T: FromStr>(&self, column: &'static str) -> Result<Option<T>, DbError> {
        let text: Option<String> = self.get(column)?;
        text.map(|text| text.parse().map_err(|_| self.inconsistent(column))).transpose()
    }

    /// JSON stored as TEXT.
    ///
    /// # Errors
    /// As [`Cols::get`]; also if it does not have the wanted shape.
    pub fn json<T: DeserializeOwned>(&self, column: &'static str) -> Result<T, DbError> {
        serde_json::from_str(&self.text(column)?).map_err(|_| self.inconsistent(column))
    }

    /// The error for a value we never write.
    pub fn inconsistent(&self, column: &'static str) -> DbError {
        let row = self.row.try_get::<String, _>(0).unwrap_or_else(|_| "?".to_owned());
        DbError::Inconsistent { table: self.table, column, row }
    }
}

/// Checks that a guarded update changed exactly one row.
///
/// # Errors
/// [`DbError::NotFound`] if it changed none (or, against all keys, several).
pub fn one_row(done: sqlx::any::AnyQueryResult) -> Result<(), DbError> {
    if done.rows_affected() == 1 { Ok(()) } else { Err(DbError::NotFound) }
}

/// What is bound for an id that may be missing.
pub fn opt_id<T: Display>(id: Option<&T>) -> Option<String> {
    id.map(ToString::to_string)
}
