//! `DATABASE_URL`, `KEYS_DIR`: what has to survive.

use std::path::PathBuf;

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
        }
        let credentials = reader.optional("CREDENTIALS_DIRECTORY");
        let keys = reader.optional("KEYS_DIR").or(credentials).unwrap_or("keys");
        Some(Self { database_url: Secret::new(url), keys_dir: PathBuf::from(keys) })
    }
}
