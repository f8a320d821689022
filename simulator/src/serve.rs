//! Starts every service of a configuration in one process and says where they listen.

use std::{path::PathBuf, sync::Arc};

use serde_json::Value;

use crate::{
    config::{Config, write_atomically},
    pve, stripe,
    wall::WallClock,
};

/// Why the simulator did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The Stripe stand-in.
    #[error(transparent)]
    Stripe(#[from] stripe::StartError),
    /// The Proxmox VE clusters.
    #[error(transparent)]
    Pve(#[from] pve::StartError),
    /// Section `pve` of the configuration.
    #[error("section pve: {0}")]
    PveConfig(#[from] serde_json::Error),
    /// The state directory or `ready.json` cannot be written.
    #[error("cannot write {path}: {source}")]
    Files {
        /// The file or directory.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
}

/// All running services.
#[derive(Debug)]
pub struct Simulator {
    /// The Stripe stand-in, if configured.
    pub stripe: Option<stripe::Running>,
    /// The Proxmox VE clusters, if configured.
    pub pve: Option<pve::Running>,
    /// What `ready.json` says: the configuration with the actual addresses.
    pub ready: Value,
    ready_file: PathBuf,
}

impl Simulator {
    /// Starts everything and writes `<state_dir>/ready.json`.
    ///
    /// # Errors
    /// The first service that cannot start; those before it are stopped.
    pub async fn start(config: &Config, wall: Arc<dyn WallClock>) -> Result<Self, ServeError> {
        let files =
            |path: &std::path::Path, source| ServeError::Files { path: path.display().to_string(), source };
        std::fs::create_dir_all(&config.state_dir).map_err(|source| files(&config.state_dir, source))?;
        let ready_file = config.state_dir.join("ready.json");
        // A reader of an old file would talk to addresses that are gone.
        match std::fs::remove_file(&ready_file) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(files(&ready_file, source));
            }
            _ => {}
        }
        let mut actual = config.clone();
        let mut simulator = Self { stripe: None, pve: None, ready: Value::Null, ready_file };
        if let Err(error) = simulator.start_all(config, &mut actual, wall).await {
            simulator.stop().await;
            return Err(error);
        }
        simulator.ready = serde_json::to_value(&actual).unwrap_or_default();
        let text = serde_json::to_string_pretty(&simulator.ready).unwrap_or_default();
        write_atomically(&simulator.ready_file, &text)
            .map_err(|source| files(&simulator.ready_file, source))?;
        Ok(simulator)
    }

    async fn start_all(
        &mut self,
        config: &Config,
        actual: &mut Config,
        wall: Arc<dyn WallClock>,
    ) -> Result<(), ServeError> {
        if let Some(section) = &config.pve {
            let wanted: pve::PveConfig = serde_json::from_value(section.clone())?;
            let (state, logs) = (&config.state_dir, &config.request_log_dir);
            let running = pve::start(&wanted, state, logs, pve::Clock::system()).await?;
            actual.pve = Some(running.ready(&wanted));
            self.pve = Some(running);
        }
        if let (Some(wanted), Some(actual)) = (&config.stripe, &mut actual.stripe) {
            let running = stripe::start(wanted, &config.state_dir, &config.request_log_dir, wall).await?;
            (actual.listen, actual.control_listen) = (running.api, running.control);
            self.stripe = Some(running);
        }
        Ok(())
    }

    /// Stops everything; what is stored stays.
    pub async fn stop(self) {
        // Nobody must take the addresses for alive; a file that is gone already is fine.
        let _gone = std::fs::remove_file(&self.ready_file);
        if let Some(pve) = &self.pve {
            pve.stop();
        }
        if let Some(stripe) = self.stripe {
            stripe.stop().await;
        }
    }
}
