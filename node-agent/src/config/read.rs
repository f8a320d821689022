//! Reads the file and the environment into a [`Config`], collecting every problem.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use url::Url;

use super::{Config, ConfigError, LogFormat, Place, Problem};

/// A key of `agent.toml`.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What applies where nobody sets it; none: see its meaning.
    pub default: Option<&'static str>,
    /// What it means, for people.
    pub means: &'static str,
}

const fn key(name: &'static str, default: Option<&'static str>, means: &'static str) -> Key {
    Key { name, default, means }
}

/// Every key, in the order in which the file has them.
pub const KEYS: &[Key] = &[
    key("pve_url", Some("https://127.0.0.1:8006"), "Proxmox VE's API on this host."),
    key(
        "pve_fingerprint",
        None,
        "SHA-256 fingerprint of its certificate, the only one that is accepted. Setup finds it.",
    ),
    key(
        "pve_token_file",
        Some("/etc/ez-node-agent/pve-token"),
        "File with the agent's API token, user@realm!name=secret.",
    ),
    key("pve_node", None, "Name of this node in its cluster. Setup finds it."),
    key("state_dir", Some("/var/lib/ez-node-agent"), "Journal, identity, trust document, status."),
    key(
        "policy_file",
        Some("/etc/ez-node-agent/policy.toml"),
        "What even a valid signature may not do here. The systemd unit fixes this place.",
    ),
    key(
        "snippet_dir",
        Some("/var/lib/ez-node-agent/ci/snippets"),
        "Where cloud-init files are written; its name is snippets.",
    ),
    key(
        "snippet_storage",
        None,
        "The Proxmox storage that serves the directory above it; ez-ci-<node> unless set.",
    ),
    key(
        "cluster_ca_file",
        Some("/etc/pve/pve-root-ca.pem"),
        "The cluster's root certificate; its SHA-256 is the identity of the cluster. Setup makes a copy that the agent may read.",
    ),
    key(
        "link_address",
        None,
        "host:port to dial instead of the addresses of the trust document, for relays and port forwards.",
    ),
    key(
        "host_root",
        Some("/"),
        "Where the machine's own /etc and /sys are, from which it is told from a copy of its disk.",
    ),
    key("log_format", Some("text"), "text for people, json for log collectors."),
    key("log", Some("info"), "How much is logged, such as debug or ez_node_agent=debug,info."),
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

/// Reads the file at `path` (or [`super::DEFAULT_PATH`], which may be missing), what setup wrote beside it, and the
/// environment. The file wins over setup's, the environment over both.
///
/// # Errors
/// Everything that is wrong, together.
pub fn load(path: Option<&Path>, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
    let file = path.unwrap_or(Path::new(super::DEFAULT_PATH));
    let mut reader = Reader::new(file);
    let by_setup = super::setup_file(file);
    let found = reader.take_if_there(&by_setup);
    if !reader.take_if_there(file) && !found && path.is_some() {
        let reason =
            "cannot be read: it is not there, and neither is what `ez-node-agent setup` writes beside it";
        let place = Place::Whole(file.to_owned());
        reader.problems.push(Problem { place, key: None, reason: reason.to_owned() });
    }
    reader.take_env(env);
    reader.finish()
}

/// Reads a configuration from `text`; `file` is only named in messages.
///
/// # Errors
/// Everything that is wrong, together.
pub fn parse(file: &Path, text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
    let mut reader = Reader::new(file);
    reader.take_file(file, text);
    reader.take_env(env);
    reader.finish()
}

impl Reader {
    fn new(file: &Path) -> Self {
        Self { given: BTreeMap::new(), whole: file.to_owned(), problems: Vec::new() }
    }

    fn finish(mut self) -> Result<Config, ConfigError> {
        match self.build() {
            Some(config) if self.problems.is_empty() => Ok(config),
            _ => Err(ConfigError(self.problems)),
        }
    }

    /// Takes a file that may be missing; false if it is. One that is there and cannot be read is a problem.
    fn take_if_there(&mut self, file: &Path) -> bool {
        match std::fs::read_to_string(file) {
            Ok(text) => self.take_file(file, &text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return false,
            Err(error) => {
                let (place, reason) = (Place::Whole(file.to_owned()), format!("cannot be read: {error}"));
                self.problems.push(Problem { place, key: None, reason });
            }
        }
        true
    }

    fn problem(&mut self, place: Place, key: &str, reason: impl Into<String>) {
        self.problems.push(Problem { place, key: Some(key.to_owned()), reason: reason.into() });
    }

    fn take_file(&mut self, file: &Path, text: &str) {
        type Table = BTreeMap<toml::Spanned<String>, toml::Spanned<toml::Value>>;
        let table: Table = match toml::from_str(text) {
            Ok(table) => table,
            Err(error) => {
                let place = Place::at(file, text, error.span().map(|span| span.start));
                let reason = error.message().to_owned();
                return self.problems.push(Problem { place, key: None, reason });
            }
        };
        for (key, value) in table {
            let place = Place::at(file, text, Some(value.span().start));
            let name = key.get_ref().as_str();
            let Some(known) = KEYS.iter().map(|key| key.name).find(|known| *known == name) else {
                let place = Place::at(file, text, Some(key.span().start));
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
        for key in KEYS.iter().map(|key| key.name) {
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
        let default = KEYS.iter().find(|known| known.name == key).and_then(|known| known.default)?;
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
    super::suggest::unknown(name, KEYS.iter().map(|key| key.name))
}
