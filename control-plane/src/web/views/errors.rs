//! The pages shown when something did not work.

use serde::Serialize;

use crate::web::templates::Page;

/// One page for all refusals; the texts are `errors-<code>-title` and `errors-<code>-text`.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// `not-found`, `forbidden`, `too-many`, `too-large`, `timed-out` or `internal`.
    pub code: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// Whole seconds after which trying again makes sense.
    pub retry_after: Option<u64>,
}

impl Page for Failure {
    const TEMPLATE: &'static str = "pages/errors/failure.html";

    fn samples() -> Vec<(&'static str, Self)> {
        [
            ("not-found", 404),
            ("forbidden", 403),
            ("too-many", 429),
            ("too-large", 413),
            ("timed-out", 503),
            ("internal", 500),
        ]
        .into_iter()
        .map(|(code, status)| (code, Self { code, status, retry_after: (status == 429).then_some(40) }))
        .collect()
    }
}
