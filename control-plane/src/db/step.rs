//! A step of a write that may be taken back alone, while the transaction around it goes on.
//!
//! For what cannot be known before it is tried: something is given up for something better, and if that cannot be had,
//! nothing was given up. Whoever leaves by an error in between takes the whole write back, step and all.

use sqlx::AnyConnection;

use super::DbError;

/// What follows can be taken back by [`undo_step`], until [`keep_step`].
///
/// # Errors
/// Those of the database.
pub async fn begin_step(tx: &mut AnyConnection) -> Result<(), DbError> {
    run(tx, "SAVEPOINT step").await
}

/// Takes back what was written since [`begin_step`].
///
/// # Errors
/// Those of the database.
pub async fn undo_step(tx: &mut AnyConnection) -> Result<(), DbError> {
    run(tx, "ROLLBACK TO SAVEPOINT step").await?;
    keep_step(tx).await
}

/// What was written since [`begin_step`] stays, if the transaction does.
///
/// # Errors
/// Those of the database.
pub async fn keep_step(tx: &mut AnyConnection) -> Result<(), DbError> {
    run(tx, "RELEASE SAVEPOINT step").await
}

async fn run(tx: &mut AnyConnection, sql: &'static str) -> Result<(), DbError> {
    sqlx::raw_sql(sql).execute(tx).await?;
    Ok(())
}
