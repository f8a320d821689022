//! Notify: mail, written in the transaction of its cause and delivered by a job.
//!
//! [`send`] inserts a row into `mail_outbox` and enqueues its delivery, so a letter exists exactly when its
//! cause does. The job renders `templates/email/<name>/` and hands the letter to the SMTP server; what the
//! letter was made of is wiped once it is sent, since it may hold one-time links. Delivered twice is possible
//! (a crash between the server's "accepted" and our commit), never delivered is not. A refusal for good
//! (5xx) is kept and shown, everything else is tried again for two days.

mod mailer;
mod model;
mod store;
#[cfg(test)]
mod tests;

use ez_protocol::UnixMillis;
use sqlx::AnyConnection;

use crate::{
    accounts,
    config::Config,
    db::{self, DbError},
    jobs::{self, JobRegistry},
};

pub use mailer::{Mailer, MailerError};
pub use model::Letter;

const DELIVER: &str = "notify.deliver";
/// Letters that are on their way at once. A server that answers takes many a second on so few; one that does not answer
/// holds each of them for the mailer's whole patience.
const DELIVERIES: usize = 3;

/// Sends a letter to an address, in the caller's transaction.
///
/// # Errors
/// Those of the statements.
pub async fn send<L: Letter>(
    tx: &mut AnyConnection,
    at: UnixMillis,
    to: &str,
    letter: &L,
) -> Result<(), DbError> {
    let random = db::row_randomness(tx).await?;
    let id = ez_protocol::AuditId::generate(at, random).to_string();
    let context = serde_json::to_string(letter).unwrap_or_default();
    store::insert(tx, &id, L::TEMPLATE, to, &context, at).await?;
    jobs::enqueue(tx, DELIVER, &id, &serde_json::Value::Null, at).await
}

/// The templates of all letters written so far, oldest first; for stories.
#[cfg(test)]
pub(crate) async fn written(connection: &mut AnyConnection) -> Result<Vec<String>, DbError> {
    store::written(connection).await
}

/// The templates of the letters to one address, each once; for stories.
#[cfg(test)]
pub(crate) async fn written_to(
    connection: &mut AnyConnection,
    address: &str,
) -> Result<Vec<String>, DbError> {
    store::written_to(connection, address).await
}

/// What the newest letter of a template was made of, until it is sent; for stories.
#[cfg(test)]
pub(crate) async fn newest(
    connection: &mut AnyConnection,
    template: &str,
) -> Result<serde_json::Value, DbError> {
    store::newest(connection, template).await
}

/// Sends a letter to everybody who runs the place: users with the role operator, and `OPERATOR_MAIL`.
///
/// # Errors
/// Those of the statements.
pub async fn send_to_operators<L: Letter>(
    tx: &mut AnyConnection,
    at: UnixMillis,
    config: &Config,
    letter: &L,
) -> Result<(), DbError> {
    let mut addresses = accounts::operators(tx).await?;
    addresses.extend(config.mail.operators.iter().cloned());
    addresses.sort();
    addresses.dedup();
    for address in addresses {
        send(tx, at, &address, letter).await?;
    }
    Ok(())
}

/// Names this slice's job handlers.
pub(crate) fn register_jobs(registry: &mut JobRegistry) {
    registry.on(DELIVER, mailer::deliver);
    registry.give_room(DELIVER, DELIVERIES);
}
