//! The words people read: message catalogues in Fluent, one file per slice and language.
//!
//! Templates say `t("orders-new-title")`, Rust code says [`Texts::get`]. Keys start with the name of
//! the slice that owns them. Arguments are plain text or whole numbers; money, times and sizes are
//! formatted by the template filters before they are handed over.

use std::{collections::BTreeSet, fmt, sync::Arc};

use fluent_bundle::{FluentArgs, FluentResource, FluentValue, concurrent::FluentBundle};
use unic_langid::LanguageIdentifier;

use crate::web::embedded::Tree;

/// The language every text exists in.
pub const DEFAULT_LANGUAGE: &str = "en";

/// Why a catalogue could not be loaded or a text not be written.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A catalogue file does not parse.
    #[error("catalogue {file} does not parse: {reason}")]
    Parse {
        /// File name below `locales/`.
        file: String,
        /// What the parser said.
        reason: String,
    },
    /// Two files of a language define the same key.
    #[error("catalogue {file} defines a key again: {reason}")]
    Twice {
        /// File name below `locales/`.
        file: String,
        /// Which key.
        reason: String,
    },
    /// No text has this key.
    #[error("no text has the key {0:?}")]
    Missing(String),
    /// The text wants arguments it did not get.
    #[error("text {key:?} cannot be written: {reason}")]
    Format {
        /// Key of the text.
        key: String,
        /// What is missing.
        reason: String,
    },
}

/// All texts of one language.
#[derive(Clone)]
pub struct Texts {
    bundle: Arc<FluentBundle<FluentResource>>,
    keys: Arc<BTreeSet<String>>,
}

impl fmt::Debug for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Texts({} keys)", self.keys.len())
    }
}

impl Texts {
    /// Loads every catalogue of `language` (the name of a directory under `locales/`).
    pub fn load(language: &str) -> Result<Self, TextError> {
        let locale: LanguageIdentifier = language.parse().unwrap_or_default();
        let mut bundle = FluentBundle::new_concurrent(vec![locale]);
        // Isolation marks are invisible characters around arguments; they end up in copied addresses.
        bundle.set_use_isolating(false);
        let mut keys = BTreeSet::new();
        for (file, source) in Tree::Locales.files() {
            if file.split('/').next() != Some(language) {
                continue;
            }
            keys.extend(message_keys(&source));
            let resource = FluentResource::try_new(source.into_owned()).map_err(|(_, errors)| {
                TextError::Parse { file: file.clone(), reason: format!("{errors:?}") }
            })?;
            bundle
                .add_resource(resource)
                .map_err(|errors| TextError::Twice { file: file.clone(), reason: format!("{errors:?}") })?;
        }
        Ok(Self { bundle: Arc::new(bundle), keys: Arc::new(keys) })
    }

    /// Writes the text `key` with its arguments.
    pub fn get(&self, key: &str, args: &FluentArgs<'_>) -> Result<String, TextError> {
        let pattern = self
            .bundle
            .get_message(key)
            .and_then(|message| message.value())
            .ok_or_else(|| TextError::Missing(key.to_owned()))?;
        let mut errors = Vec::new();
        let text = self.bundle.format_pattern(pattern, Some(args), &mut errors);
        match errors.first() {
            None => Ok(text.into_owned()),
            Some(error) => Err(TextError::Format { key: key.to_owned(), reason: error.to_string() }),
        }
    }

    /// Writes the text `key` with `(name, value)` arguments, for use from Rust.
    pub fn say(&self, key: &str, args: &[(&str, &str)]) -> Result<String, TextError> {
        let mut fluent = FluentArgs::with_capacity(args.len());
        for (name, value) in args {
            fluent.set((*name).to_owned(), FluentValue::from((*value).to_owned()));
        }
        self.get(key, &fluent)
    }

    /// Whether a text has this key.
    pub fn has(&self, key: &str) -> bool {
        self.keys.contains(key)
    }

    /// All keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(String::as_str)
    }
}

/// The keys a catalogue defines: a message starts at the beginning of a line, as `key = text`.
fn message_keys(source: &str) -> impl Iterator<Item = String> + '_ {
    source.lines().filter_map(|line| {
        let (key, _) = line.split_once('=')?;
        let key = key.trim_end();
        let starts = key.starts_with(|c: char| c.is_ascii_lowercase());
        (starts && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'))
            .then(|| key.to_owned())
    })
}
