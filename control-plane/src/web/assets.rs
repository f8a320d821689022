//! Style sheets and scripts, served under one directory named after the hash of them all:
//! `/assets/<hash>/portal.css`. Scripts can import each other by relative path, everything may be
//! cached for ever, and any change gives every file a new address.

use std::{borrow::Cow, collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::web::embedded::Tree;

/// The one style sheet: all files of `css/` in a row. `layers.css` comes first and fixes the order of
/// the layers, so that the order of the others does not matter.
const STYLE_SHEET: &str = "portal.css";

/// One file as it is served.
#[derive(Clone)]
pub(super) struct Asset {
    /// Its `Content-Type`.
    pub(super) content_type: &'static str,
    /// Its bytes.
    pub(super) body: Bytes,
}

/// All style sheets and scripts; cheap to clone.
#[derive(Clone)]
pub struct Assets {
    revision: Arc<str>,
    files: Arc<BTreeMap<String, Asset>>,
}

impl fmt::Debug for Assets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Assets({} files, {})", self.files.len(), self.revision)
    }
}

impl Assets {
    /// Takes the embedded files (or those of the checkout) and names them by their content.
    pub(super) fn load() -> Self {
        let mut style = String::new();
        let mut files = BTreeMap::new();
        let mut sources = Tree::Assets.files();
        sources.sort_by_key(|(name, _)| (name != "css/layers.css", name.clone()));
        for (name, source) in sources {
            match name.split_once('/') {
                Some(("css", _)) => style.push_str(&without_comments(&source)),
                _ => {
                    files.insert(
                        name.clone(),
                        Asset { content_type: content_type(&name), body: bytes(source) },
                    );
                }
            }
        }
        files.insert(
            STYLE_SHEET.to_owned(),
            Asset { content_type: content_type(STYLE_SHEET), body: Bytes::from(style) },
        );
        let mut hash = Sha256::new();
        for (name, asset) in &files {
            hash.update(name.as_bytes());
            hash.update(asset.body.len().to_be_bytes());
            hash.update(&asset.body);
        }
        let revision = data_encoding::HEXLOWER.encode(&hash.finalize()[..8]);
        Self { revision: revision.into(), files: Arc::new(files) }
    }

    /// The address of a file; `None` if there is no such file.
    pub fn address(&self, name: &str) -> Option<String> {
        self.files.contains_key(name).then(|| format!("/assets/{}/{name}", self.revision))
    }

    /// The file at `/assets/<revision>/<name>`. An older revision answers with today's file, so that a
    /// page opened before an update does not lose its style.
    pub(super) fn file(&self, name: &str) -> Option<&Asset> {
        self.files.get(name)
    }

    /// Whether `revision` is the current one and its files may be cached for ever.
    pub(super) fn is_current(&self, revision: &str) -> bool {
        *self.revision == *revision
    }

    /// All files as (name, bytes).
    #[cfg(test)]
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        self.files.iter().map(|(name, asset)| (name.as_str(), &asset.body))
    }
}

fn bytes(source: Cow<'static, str>) -> Bytes {
    match source {
        Cow::Borrowed(text) => Bytes::from_static(text.as_bytes()),
        Cow::Owned(text) => Bytes::from(text),
    }
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

/// Drops comments and spaces that say nothing; our style sheets hold neither comment marks nor braces inside strings.
fn without_comments(source: &str) -> String {
    let mut kept = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, after)) = rest.split_once("/*") {
        kept.push_str(before);
        rest = after.split_once("*/").map_or("", |(_, after)| after);
    }
    kept.push_str(rest);
    let mut lines = String::with_capacity(kept.len());
    for line in kept.lines().map(str::trim).filter(|line| !line.is_empty()) {
        lines.push_str(line);
        lines.push('\n');
    }
    let spaces =
        [("; }", "}"), (" { ", "{"), (" {", "{"), (" }", "}"), ("; ", ";"), (": ", ":"), (", ", ",")];
    let ends = [("{\n", "{"), ("}\n", "}"), (";\n", ";"), (",\n", ",")];
    spaces.into_iter().chain(ends).fold(lines, |text, (wide, tight)| text.replace(wide, tight))
}
