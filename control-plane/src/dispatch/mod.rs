//! Dispatch: builds, signs and keeps provisioning orders and what agents answer.

mod api;
mod pages;

pub(crate) use api::routes as api_routes;
pub(crate) use pages::routes as page_routes;

use crate::jobs::JobRegistry;

/// Names this slice's job handlers.
pub(crate) fn register_jobs(_registry: &mut JobRegistry) {}

/// The keys that sign provisioning orders and the certificate authorities.
#[derive(Debug, Default)]
pub struct Keys;

impl Keys {
    /// Reads the keys that `keys init` made.
    ///
    /// # Errors
    /// What is missing or unreadable, by path.
    pub fn load(_dir: &std::path::Path) -> Result<Self, String> {
        Ok(Self)
    }

    /// Throw-away keys for tests.
    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        Self
    }
}
