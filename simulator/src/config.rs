//! The configuration of `ez-simulator serve` and the file that says where everything listens.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{link_proxy::LinkProxyConfig, pve::PveConfig};

/// Everything `serve` starts. Paths are absolute or relative to the file.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where all state lives.
    pub state_dir: PathBuf,
    /// Proxmox VE clusters; none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pve: Option<PveConfig>,
    /// Stripe; none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stripe: Option<StripeConfig>,
    /// The mail sink; none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mail: Option<MailConfig>,
    /// The network between agents and the control plane's link; none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_proxy: Option<LinkProxyConfig>,
    /// Where request logs go; `<state_dir>/logs` if absent.
    #[serde(default)]
    pub request_log_dir: PathBuf,
}

/// The Stripe stand-in.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StripeConfig {
    /// Address of the API and the hosted pages; port 0 picks one.
    pub listen: SocketAddr,
    /// Address of the control API; port 0 picks one.
    pub control_listen: SocketAddr,
    /// The only key that is taken; begins with `sk_test_`.
    pub secret_key: String,
    /// Where events are posted.
    pub webhook_url: String,
    /// What they are signed with; begins with `whsec_`.
    pub webhook_secret: String,
    /// Address browsers use, if it is not `listen`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_url: Option<String>,
}

/// The mail sink.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MailConfig {
    /// Address of the SMTP server; port 0 picks one.
    pub smtp_listen: SocketAddr,
    /// Address of the page and the JSON list; port 0 picks one.
    pub http_listen: SocketAddr,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is no JSON of this shape; line and column are in the text.
    #[error("{path}: {reason}")]
    Shape {
        /// The file.
        path: String,
        /// What is wrong and where.
        reason: serde_json::Error,
    },
    /// A value cannot be used.
    #[error("{key}: {reason}")]
    Value {
        /// The key, dotted.
        key: String,
        /// Why.
        reason: String,
    },
}

impl Config {
    /// Reads and checks a configuration; relative paths are taken from the file's directory.
    ///
    /// # Errors
    /// The file is missing, no JSON of this shape, or a value cannot be used.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let path = file.display().to_string();
        let text = std::fs::read_to_string(file)
            .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        let mut config: Self = serde_json::from_str(&text)
            .map_err(|reason| ConfigError::Shape { path: path.clone(), reason })?;
        let file =
            std::path::absolute(file).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        let base = file.parent().unwrap_or(Path::new("/"));
        config.state_dir = base.join(&config.state_dir);
        config.request_log_dir = if config.request_log_dir.as_os_str().is_empty() {
            config.state_dir.join("logs")
        } else {
            base.join(&config.request_log_dir)
        };
        config.check()?;
        Ok(config)
    }

    /// Checks the values.
    ///
    /// # Errors
    /// The first value that cannot be used, with its key.
    pub fn check(&self) -> Result<(), ConfigError> {
        let refuse =
            |key: &str, reason: &str| Err(ConfigError::Value { key: key.into(), reason: reason.into() });
        if self.state_dir.as_os_str().is_empty() {
            return refuse("state_dir", "must name a directory");
        }
        if let Some(Err(reason)) = self.link_proxy.as_ref().map(LinkProxyConfig::check) {
            return refuse("link_proxy.nodes", &reason);
        }
        if let Some(stripe) = &self.stripe {
            if !stripe.secret_key.starts_with("sk_test_") {
                return refuse(
                    "stripe.secret_key",
                    "must begin with sk_test_: a simulator never gets a live key",
                );
            }
            if !stripe.webhook_secret.starts_with("whsec_") {
                return refuse("stripe.webhook_secret", "must begin with whsec_");
            }
            for (key, url) in [
                ("stripe.webhook_url", Some(&stripe.webhook_url)),
                ("stripe.public_url", stripe.public_url.as_ref()),
            ] {
                let good = |url: &String| {
                    url::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https"))
                };
                if url.is_some_and(|url| !good(url)) {
                    return refuse(key, "must be an http or https URL");
                }
            }
        }
        Ok(())
    }
}

/// Writes a file so that a reader sees the old one or the new one, never half of it.
///
/// # Errors
/// The directory cannot be written.
pub fn write_atomically(file: &Path, text: &str) -> std::io::Result<()> {
    let half = file.with_extension("tmp");
    std::fs::write(&half, text)?;
    std::fs::rename(&half, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sim.json");
        std::fs::write(&file, text).unwrap();
        Config::load(&file)
    }

    const STRIPE: &str = r#""listen":"127.0.0.1:0","control_listen":"127.0.0.1:0","webhook_url":"http://127.0.0.1:1/w","webhook_secret":"whsec_x""#;

    #[test]
    fn a_live_key_is_refused_by_name() {
        let refused = load(&format!(r#"{{"state_dir":"s","stripe":{{{STRIPE},"secret_key":"sk_live_x"}}}}"#))
            .unwrap_err();
        assert!(refused.to_string().starts_with("stripe.secret_key: must begin with sk_test_"), "{refused}");
    }

    #[test]
    fn an_unknown_key_is_named_with_its_place() {
        let refused = load("{\"state_dir\":\"s\",\n\"colour\":1}").unwrap_err().to_string();
        assert!(refused.contains("unknown field `colour`") && refused.contains("line 2"), "{refused}");
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let config =
            load(&format!(r#"{{"state_dir":"s","stripe":{{{STRIPE},"secret_key":"sk_test_x"}}}}"#)).unwrap();
        assert!(config.state_dir.is_absolute() && config.request_log_dir.ends_with("s/logs"));
    }
}
