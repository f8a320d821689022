//! Delivery by SMTP.

use std::time::Duration;

use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Mailbox, MultiPart},
};

use super::store;
use crate::{
    app::App,
    config,
    jobs::{JobError, JobRun},
};

/// How long a letter is tried before it is given up.
const GIVE_UP: Duration = Duration::from_secs(2 * 24 * 3_600);
/// Longest wait for the server in one step of the conversation.
const PATIENCE: Duration = Duration::from_secs(20);

/// Hands letters to the SMTP server; cheap to clone.
#[derive(Clone)]
pub struct Mailer {
    from: Mailbox,
    smtp: Option<AsyncSmtpTransport<Tokio1Executor>>,
}

impl std::fmt::Debug for Mailer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailer").field("smtp", &self.smtp.is_some()).finish_non_exhaustive()
    }
}

/// Why a letter was not handed over.
#[derive(Debug, thiserror::Error)]
pub enum MailerError {
    /// `SMTP_URL` is not set: the letter waits.
    #[error("no SMTP server is configured")]
    NoServer,
    /// The letter cannot be built: its address is none, or a line is not text.
    #[error("cannot build the message")]
    Build(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The server refused it for good, or the settings are wrong.
    #[error("the mail server refused the message")]
    Refused(#[source] lettre::transport::smtp::Error),
    /// The server cannot be reached or asks to come back.
    #[error("the mail server is not available")]
    Unavailable(#[source] lettre::transport::smtp::Error),
}

impl Mailer {
    /// Makes a mailer from the configuration; does not connect.
    ///
    /// # Errors
    /// [`MailerError::Refused`] if the address of the server cannot be used.
    pub fn new(config: &config::Mail) -> Result<Self, MailerError> {
        let smtp = match &config.smtp_url {
            Some(url) => Some(
                AsyncSmtpTransport::<Tokio1Executor>::from_url(url.expose())
                    .map_err(MailerError::Refused)?
                    .timeout(Some(PATIENCE))
                    .build(),
            ),
            None => None,
        };
        Ok(Self { from: config.from.clone(), smtp })
    }

    /// Hands one letter over; returns when the server has accepted it.
    ///
    /// # Errors
    /// See [`MailerError`].
    pub async fn hand_over(
        &self,
        to: &str,
        subject: &str,
        text: String,
        html: String,
    ) -> Result<(), MailerError> {
        let build = |error: Box<dyn std::error::Error + Send + Sync>| MailerError::Build(error);
        let message = Message::builder()
            .from(self.from.clone())
            .to(to.parse::<Mailbox>().map_err(|e| build(e.into()))?)
            .subject(subject)
            .multipart(MultiPart::alternative_plain_html(text, html))
            .map_err(|e| build(e.into()))?;
        let smtp = self.smtp.as_ref().ok_or(MailerError::NoServer)?;
        match smtp.send(message).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_permanent() => Err(MailerError::Refused(error)),
            Err(error) => Err(MailerError::Unavailable(error)),
        }
    }
}

/// The job: delivers the letter that the key names, if it still waits.
pub(super) async fn deliver(app: App, run: JobRun) -> Result<(), JobError> {
    let mut connection = app.db.read().await?;
    let Some(letter) = store::waiting(&mut connection, &run.key).await? else { return Ok(()) };
    drop(connection);
    let rendered = app.templates.letter(&letter.template, &letter.context).map_err(JobError::fail)?;
    let handed =
        app.mailer.hand_over(&letter.recipient, &rendered.subject, rendered.text, rendered.html).await;
    metrics::counter!("ez_notify_mails_total", "outcome" => if handed.is_ok() { "sent" } else { "failed" })
        .increment(1);
    let (id, at) = (run.key.clone(), app.clock.now());
    match handed {
        Ok(()) => {
            app.db.write(move |tx| Box::pin(async move { store::sent(tx, &id, at).await })).await?;
            Ok(())
        }
        Err(error @ (MailerError::Refused(_) | MailerError::Build(_))) => give_up(&app, id, error).await,
        Err(error) if at.since(letter.created_at) >= GIVE_UP => give_up(&app, id, error).await,
        Err(error) => Err(JobError::retry(error)),
    }
}

async fn give_up(app: &App, id: String, error: MailerError) -> Result<(), JobError> {
    let (at, text) = (app.clock.now(), error.to_string());
    app.db.write(move |tx| Box::pin(async move { store::failed(tx, &id, at, &text).await })).await?;
    Err(JobError::fail(error))
}
