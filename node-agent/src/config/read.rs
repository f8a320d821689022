//! Reads the file and the environment into a [`Config`], collecting every problem.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
};

use url::Url;

use super::{Config, ConfigError, LogFormat, Place, Problem};

/// Key, default (none: required), meaning.
const KEYS: [(&str, Option<&str>); 13] = [
    ("pve_url", Some("https://127.0.0.1:8006")),
    ("pve_fingerprint", None),
    ("pve_token_file", Some("/etc/ez-node-agent/pve-token")),
    ("pve_node", None),
    ("state_dir", Some("/var/lib/ez-node-agent")),
    ("policy_file", Some("/etc/ez-node-agent/policy.toml")),
    ("snippet_dir", Some("/var/lib/ez-node-agent/ci/snippets")),
    ("snippet_storage", None),
    ("cluster_ca_file", Some("/etc/pve/pve-root-ca.pem")),
    ("link_address", None),
    ("host_root", Some("/")),
    ("log_format", Some("text")),
    ("log", Some("info")),
];

/// A text and where it came from.
struct Given {
    text: String,
    place: Place,
}

struct Reader {
    given: BTreeMap<&'static str, Given>,
    whole: PathBuf,
    problems: Vec<Problem>,
}

/// Reads the file at `path` (or [`super::DEFAULT_PATH`], which may be missing) and the environment.
///
/// # Errors
/// Everything that is wrong, together.
pub fn load(path: Option<&Path>, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
    let file = path.unwrap_or(Path::new(super::DEFAULT_PATH));
    match std::fs::read_to_string(file) {
        Ok(text) => parse(file, &text, env),
        Err(error) if path.is_none() && error.kind() == std::io::ErrorKind::NotFound => parse(file, "", env),
        Err(error) => Err(ConfigError(vec![Problem {
            place: Place::Whole(file.to_owned()),
            key: None,
            reason: format!("cannot be read: {error}"),
        }])),
    }
}

/// Reads a configuration from `text`; `file` is only named in messages.
///
/// # Errors
/// Everything that is wrong, together.
pub fn parse(file: &Path, text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
    let mut reader = Reader { given: BTreeMap::new(), whole: file.to_owned(), problems: Vec::new() };
    reader.take_file(file, text);
    reader.take_env(env);
    let config = reader.build();
    match config {
        Some(config) if reader.problems.is_empty() => Ok(config),
        _ => Err(ConfigError(reader.problems)),
    }
}

fn position(text: &str, span: Option<Range<usize>>, file: &Path) -> Place {
    let Some(before) = span.and_then(|span| text.get(..span.start)) else {
        return Place::Whole(file.to_owned());
    };
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    Place::File { path: file.to_owned(), line, column }
}

impl Reader {
    fn problem(&mut self, place: Place, key: &str, reason: impl Into<String>) {
        self.problems.push(Problem { place, key: Some(key.to_owned()), reason: reason.into() });
    }

    fn take_file(&mut self, file: &Path, text: &str) {
        type Table = BTreeMap<toml::Spanned<String>, toml::Spanned<toml::Value>>;
        let table: Table = match toml::from_str(text) {
            Ok(table) => table,
            Err(error) => {
                let place = position(text, error.span(), file);
                let reason = error.message().to_owned();
                return self.problems.push(Problem { place, key: None, reason });
            }
        };
        for (key, value) in table {
            let place = position(text, Some(value.span()), file);
            let name = key.get_ref().as_str();
            let Some((known, _)) = KEYS.iter().find(|(known, _)| *known == name) else {
                let place = position(text, Some(key.span()), file);
                let reason = unknown(name);
                self.problem(place, name, reason);
                continue;
            };
            match value.into_inner() {
                toml::Value::String(text) => {
                    self.given.insert(known, Given { text, place });
                }
                other => {
                    self.problem(place, known, format!("must be a text in quotes, not {}", other.type_str()));
                }
            }
        }
    }

    fn take_env(&mut self, env: &dyn Fn(&str) -> Option<String>) {
        for (key, _) in KEYS {
            let name = format!("EZ_AGENT_{}", key.to_uppercase());
            if let Some(text) = env(&name) {
                self.given.insert(key, Given { text, place: Place::Env(name) });
            }
        }
    }

    /// The given or default text of a key.
    fn text(&mut self, key: &'static str) -> Option<(String, Place)> {
        if let Some(given) = self.given.get(key) {
            return Some((given.text.clone(), given.place.clone()));
        }
        let default = KEYS.iter().find(|(known, _)| *known == key).and_then(|(_, default)| *default)?;
        Some((default.to_owned(), Place::Whole(self.whole.clone())))
    }

    fn required(&mut self, key: &'static str, why: &str) -> Option<(String, Place)> {
        let found = self.text(key).filter(|(text, _)| !text.trim().is_empty());
        if found.is_none() {
            let place = Place::Whole(self.whole.clone());
            let variable = key.to_uppercase();
            self.problem(place, key, format!("is missing: {why} (or set EZ_AGENT_{variable})"));
        }
        found
    }

    fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        let (text, place) = self.required(key, "a path is needed")?;
        let path = PathBuf::from(&text);
        if !path.is_absolute() {
            self.problem(place, key, format!("must be an absolute path, not {text:?}"));
            return None;
        }
        Some(path)
    }

    fn name(&mut self, key: &'static str, why: &str) -> Option<String> {
        let (text, place) = self.required(key, why)?;
        let good = text.len() <= 63
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        if !good {
            self.problem(
                place,
                key,
                format!("{text:?} is not a name: letters, digits, '-', '_' and '.' only"),
            );
            return None;
        }
        Some(text)
    }

    fn url(&mut self) -> Option<Url> {
        let (text, place) = self.required("pve_url", "the address of Proxmox VE's API is needed")?;
        match Url::parse(&text) {
            Ok(url) if url.scheme() == "https" && url.host().is_some() => Some(url),
            Ok(_) => {
                self.problem(
                    place,
                    "pve_url",
                    format!("must begin with https:// and name a host, not {text:?}"),
                );
                None
            }
            Err(error) => {
                self.problem(place, "pve_url", format!("{text:?} is not a URL: {error}"));
                None
            }
        }
    }

    /// Outer `None`: a problem was noted.
    fn fingerprint(&mut self) -> Option<Option<String>> {
        let Some((text, place)) = self.text("pve_fingerprint").filter(|(text, _)| !text.trim().is_empty())
        else {
            return Some(None);
        };
        let upper = text.trim().to_ascii_uppercase();
        let parts: Vec<&str> = upper.split(':').collect();
        let good = parts.len() == 32
            && parts.iter().all(|p| p.len() == 2 && p.chars().all(|c| c.is_ascii_hexdigit()));
        if !good {
            let reason =
                "must be 32 hexadecimal pairs with colons (the SHA-256 fingerprint of the certificate)";
            self.problem(place, "pve_fingerprint", reason);
            return None;
        }
        Some(Some(upper))
    }

    /// Outer `None`: a problem was noted.
    fn link_address(&mut self) -> Option<Option<String>> {
        let Some((text, place)) = self.text("link_address").filter(|(text, _)| !text.trim().is_empty())
        else {
            return Some(None);
        };
        let good = crate::link::split(&text).is_some_and(|(host, port)| {
            port != 0 && !host.contains(|c: char| c.is_whitespace() || matches!(c, '/' | '@'))
        });
        if !good {
            let reason = format!("must be host:port, such as \"link.example:7443\", not {text:?}");
            self.problem(place, "link_address", reason);
            return None;
        }
        Some(Some(text))
    }

    fn log_format(&mut self) -> Option<LogFormat> {
        let (text, place) = self.text("log_format")?;
        match text.as_str() {
            "json" => Some(LogFormat::Json),
            "text" => Some(LogFormat::Text),
            _ => {
                self.problem(place, "log_format", format!("must be \"json\" or \"text\", not {text:?}"));
                None
            }
        }
    }

    fn build(&mut self) -> Option<Config> {
        let pve_url = self.url();
        let pve_fingerprint = self.fingerprint();
        let pve_token_file = self.path("pve_token_file");
        let pve_node = self.name("pve_node", "the name of this node in its cluster, as `hostname` says it");
        let state_dir = self.path("state_dir");
        let policy_file = self.path("policy_file");
        let snippet_dir = self.path("snippet_dir");
        let given = self.given.contains_key("snippet_storage");
        let snippet_storage = match (&pve_node, given) {
            (Some(node), false) => Some(format!("ez-ci-{node}")),
            (None, false) => None,
            (_, true) => self.name("snippet_storage", "the name of the snippet storage"),
        };
        let cluster_ca_file = self.path("cluster_ca_file");
        let link_address = self.link_address();
        let host_root = self.path("host_root");
        let log_format = self.log_format();
        let log = self.text("log").map(|(text, _)| text);
        Some(Config {
            pve_url: pve_url?,
            pve_fingerprint: pve_fingerprint?,
            pve_token_file: pve_token_file?,
            pve_node: pve_node?,
            state_dir: state_dir?,
            policy_file: policy_file?,
            snippet_dir: snippet_dir?,
            snippet_storage: snippet_storage?,
            cluster_ca_file: cluster_ca_file?,
            link_address: link_address?,
            host_root: host_root?,
            log_format: log_format?,
            log: log?,
        })
    }
}

/// What to say about a key nobody knows.
fn unknown(name: &str) -> String {
    let nearest = KEYS.iter().map(|(key, _)| (distance(name, key), *key)).min();
    match nearest {
        Some((d, key)) if d <= 3 => format!("is not a known key; did you mean {key}?"),
        _ => {
            let all: Vec<&str> = KEYS.iter().map(|(key, _)| *key).collect();
            format!("is not a known key; known are {}", all.join(", "))
        }
    }
}

/// Edits between two words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
