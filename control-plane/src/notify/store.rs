//! The `mail_outbox` table.

use ez_protocol::UnixMillis;
use sqlx::AnyConnection;

use crate::db::{Cols, DbError, one_row};

/// A letter that waits.
pub(super) struct Waiting {
    pub(super) template: String,
    pub(super) recipient: String,
    pub(super) context: serde_json::Value,
    pub(super) created_at: UnixMillis,
}

pub(super) async fn insert(
    tx: &mut AnyConnection,
    id: &str,
    template: &str,
    recipient: &str,
    context: &str,
    at: UnixMillis,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO mail_outbox (id, template, recipient, context, created_at) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(id)
    .bind(template)
    .bind(recipient)
    .bind(context)
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(())
}

/// The letter, unless it was sent or refused for good.
pub(super) async fn waiting(connection: &mut AnyConnection, id: &str) -> Result<Option<Waiting>, DbError> {
    let row = sqlx::query(
        "SELECT id, template, recipient, context, created_at FROM mail_outbox
         WHERE id = $1 AND sent_at IS NULL AND failed_at IS NULL",
    )
    .bind(id)
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let row = Cols::of("mail_outbox", &row);
    Ok(Some(Waiting {
        template: row.text("template")?,
        recipient: row.text("recipient")?,
        context: row.json("context")?,
        created_at: row.millis("created_at")?,
    }))
}

pub(super) async fn sent(tx: &mut AnyConnection, id: &str, at: UnixMillis) -> Result<(), DbError> {
    let done = sqlx::query("UPDATE mail_outbox SET sent_at = $2, context = 'null' WHERE id = $1")
        .bind(id)
        .bind(at.0)
        .execute(tx)
        .await?;
    one_row(done)
}

pub(super) async fn failed(
    tx: &mut AnyConnection,
    id: &str,
    at: UnixMillis,
    error: &str,
) -> Result<(), DbError> {
    let done =
        sqlx::query("UPDATE mail_outbox SET failed_at = $2, last_error = $3, context = 'null' WHERE id = $1")
            .bind(id)
            .bind(at.0)
            .bind(error)
            .execute(tx)
            .await?;
    one_row(done)
}

/// What the newest letter of a template was made of; for stories.
#[cfg(test)]
pub(super) async fn newest(
    connection: &mut AnyConnection,
    template: &str,
) -> Result<serde_json::Value, DbError> {
    let row = sqlx::query(
        "SELECT context FROM mail_outbox WHERE template = $1 ORDER BY created_at DESC, id DESC LIMIT 1",
    )
    .bind(template)
    .fetch_one(connection)
    .await?;
    Cols::of("mail_outbox", &row).json("context")
}

/// The templates of all letters written so far, oldest first; for stories.
#[cfg(test)]
pub(super) async fn written(connection: &mut AnyConnection) -> Result<Vec<String>, DbError> {
    let query = sqlx::query_scalar("SELECT template FROM mail_outbox ORDER BY created_at, id");
    Ok(query.fetch_all(connection).await?)
}

/// The templates of the letters to one address, each once; for stories.
#[cfg(test)]
pub(super) async fn written_to(
    connection: &mut AnyConnection,
    address: &str,
) -> Result<Vec<String>, DbError> {
    Ok(sqlx::query_scalar("SELECT DISTINCT template FROM mail_outbox WHERE recipient = $1 ORDER BY template")
        .bind(address)
        .fetch_all(connection)
        .await?)
}
