//! `LOG`, `LOG_FORMAT`: what is logged, and how.

use std::str::FromStr;

use tracing_subscriber::EnvFilter;

use super::read::Reader;

/// Logs.
#[derive(Clone, Debug)]
pub struct Log {
    /// Levels by module, such as `info,ez_control_plane::jobs=debug`.
    pub filter: String,
    /// How lines look.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line, for machines.
    Json,
    /// For eyes.
    Text,
}

impl FromStr for LogFormat {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            _ => Err(()),
        }
    }
}

impl Log {
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let filter = reader.optional("LOG").unwrap_or("info").to_owned();
        if EnvFilter::builder().parse(&filter).is_err() {
            reader.problem("LOG", "is not a list of levels such as info,ez_control_plane::jobs=debug");
        }
        let format = reader.parsed("LOG_FORMAT", "text", "json or text");
        Some(Self { filter, format: format? })
    }
}
