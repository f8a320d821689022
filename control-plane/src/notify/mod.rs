//! Notify: mail, written in the transaction of its cause and delivered by a job.

use crate::jobs::JobRegistry;

/// Names this slice's job handlers.
pub(crate) fn register_jobs(_registry: &mut JobRegistry) {}

/// Delivers mail by SMTP.
#[derive(Clone, Debug, Default)]
pub struct Mailer;
