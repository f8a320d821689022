//! What every page knows beside its own context: who looks, where, when, and in which mode.

use ez_protocol::UnixMillis;
use serde::Serialize;

/// Who is logged in, as pages show it.
#[derive(Debug, Clone, Serialize)]
pub struct Viewer {
    /// Mail address.
    pub email: String,
    /// Name of the account, as the account switch shows it.
    pub account: String,
    /// Whether the operator pages may be entered.
    pub staff: bool,
}

/// How much a message matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tone {
    /// It worked.
    Good,
    /// Something to know.
    Info,
    /// It did not work.
    Bad,
}

/// A message shown once after a redirect; the text is `flash-<code>` in the catalogue.
#[derive(Debug, Clone, Serialize)]
pub struct Flash {
    /// How much it matters.
    pub tone: Tone,
    /// Key of the text, without `flash-`.
    pub code: String,
}

/// The colours the reader chose; `Auto` follows the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Theme {
    /// As the system says.
    #[default]
    Auto,
    /// Light.
    Light,
    /// Dark.
    Dark,
}

impl Theme {
    /// Reads the cookie's value.
    pub fn from_cookie(value: &str) -> Self {
        match value {
            "light" => Self::Light,
            "dark" => Self::Dark,
            _ => Self::Auto,
        }
    }
}

/// What every page knows; `shell` in the templates.
#[derive(Debug, Clone, Serialize)]
pub struct Shell {
    /// Path of the page, without query.
    pub path: String,
    /// Where a choice of colours leads back to: a page that can be opened again.
    pub back: String,
    /// Who is logged in.
    pub viewer: Option<Viewer>,
    /// Language of the texts.
    pub lang: String,
    /// Light, dark or as the system says.
    pub theme: Theme,
    /// Now, in unix milliseconds; ages are counted from here.
    pub now: UnixMillis,
    /// Payments are simulated: a banner says so on every page.
    pub test_mode: bool,
    /// Message left by the page that redirected here.
    pub flash: Option<Flash>,
    /// Id of this request, shown in small print on error pages.
    pub request_id: String,
}

impl Shell {
    /// A shell for rendered samples: `viewer` and a fixed time.
    #[cfg(test)]
    pub(crate) fn sample(path: &str, viewer: Option<Viewer>) -> Self {
        Self {
            path: path.to_owned(),
            back: path.to_owned(),
            viewer,
            lang: crate::web::text::DEFAULT_LANGUAGE.to_owned(),
            theme: Theme::Auto,
            now: crate::web::views::SAMPLE_NOW,
            test_mode: true,
            flash: None,
            request_id: "6m3k9q2c".to_owned(),
        }
    }
}
