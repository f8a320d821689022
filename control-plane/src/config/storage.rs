//! `DATABASE_URL`, `KEYS_DIR`: what has to survive.

use std::path::PathBuf;

use url::Url;

use super::read::{Reader, Secret};

/// Database and key files.
#[derive(Clone, Debug)]
pub struct Storage {
    /// `sqlite:path` or `postgres://…`; may hold a password.
    pub database_url: Secret,
    /// Where `keys init` puts the CA and signing keys and `serve` reads them.
    pub keys_dir: PathBuf,
}

impl Storage {
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let url = reader.optional("DATABASE_URL").unwrap_or("sqlite:ez-control-plane.sqlite");
        if !["sqlite:", "postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
            reader.problem("DATABASE_URL", "must begin with sqlite: or postgres://");
        } else if let Some(path) = url.strip_prefix("sqlite:") {
            let path = path.split('?').next().unwrap_or_default();
            if path.trim_start_matches('/').is_empty() {
                reader.problem("DATABASE_URL", "names no file; write sqlite:PATH");
            }
        } else if !has_host(url) {
            // Not quoted: it may hold a password.
            reader.problem("DATABASE_URL", "names no server; write postgres://USER:PASSWORD@HOST/DATABASE");
        }
        let credentials = reader.optional("CREDENTIALS_DIRECTORY");
        let keys = reader.optional("KEYS_DIR").or(credentials).unwrap_or("keys");
        Some(Self { database_url: Secret::new(url), keys_dir: PathBuf::from(keys) })
    }
}

/// Whether a PostgreSQL address says where the server is, by its host or by `?host=` (a socket's directory).
fn has_host(url: &str) -> bool {
    url.parse::<Url>().is_ok_and(|url| {
        url.host_str().is_some_and(|host| !host.is_empty())
            || url.query_pairs().any(|(key, value)| key == "host" && !value.is_empty())
    })
}
