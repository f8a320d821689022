//! `SMTP_URL`, `MAIL_FROM`, `OPERATOR_MAIL`: outgoing mail.

use lettre::message::Mailbox;
use url::Url;

use super::read::{Reader, Secret};

/// Outgoing mail.
#[derive(Clone, Debug)]
pub struct Mail {
    /// `smtp://host:port` or `smtps://user:password@host`; without it mail waits in the outbox.
    pub smtp_url: Option<Secret>,
    /// The sender of every mail.
    pub from: Mailbox,
    /// Who hears of nodes that went away and orders that need a person.
    pub operators: Vec<String>,
}

impl Mail {
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let smtp = reader.optional("SMTP_URL");
        if let Some(text) = smtp {
            let scheme = text.parse::<Url>().ok().filter(Url::has_host).map(|url| url.scheme().to_owned());
            if !matches!(scheme.as_deref(), Some("smtp" | "smtps")) {
                reader.problem("SMTP_URL", "must look like smtp://host:25 or smtps://user:password@host");
            }
        }
        let from = reader.parsed(
            "MAIL_FROM",
            "EZ Solutions <noreply@localhost.localdomain>",
            "a mail address, such as EZ Solutions <noreply@servers.example>",
        );
        let mut operators = Vec::new();
        for item in reader.list("OPERATOR_MAIL") {
            match item.parse::<Mailbox>() {
                Ok(mailbox) => operators.push(mailbox.email.to_string()),
                Err(_) => reader.problem("OPERATOR_MAIL", format!("{item:?} is not a mail address")),
            }
        }
        Some(Self { smtp_url: smtp.map(Secret::new), from: from?, operators })
    }
}
