//! Simulated Proxmox VE clusters.
//!
//! Each node answers over HTTPS like the real thing: same statuses, reason phrases, bodies and delays,
//! tasks that take time, locks that are waited for, permissions judged before existence. What is
//! answered was looked up in recordings of a real installation; rules that no recording covers say so.
//! A test asks every recorded call again; the few answers that differ, and the calls that are not
//! compared, stand with their reasons in `simulator/known-differences.toml`.
//!
//! A cluster's whole state is in SQLite (`<state_dir>/<cluster>/state.sqlite`), written before an
//! effect can be seen: after a `kill -9` a task that was running has ended with `unexpected status`
//! and has left what a killed worker leaves, for instance a half-made clone with its lock.
//!
//! A second, plain listener per node is for tests and operators: see [`control`].

mod access;
mod api;
mod boot;
mod call;
mod clock;
mod cloudinit;
mod cluster;
pub mod config;
mod console;
mod contents;
mod control;
mod drive;
mod foreign;
mod inject;
mod load;
mod params;
mod reply;
mod schema;
mod seed;
mod server;
mod state;
mod store;
mod task;
#[cfg(test)]
mod tests;
mod tls;
mod vmconfig;
mod volume_access;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

pub use clock::Clock;
pub use config::PveConfig;
pub(crate) use control::faults::{Full, Restart};
pub(crate) use inject::Rule as FaultRule;
pub use store::StoreError;
pub use tls::TlsError;

use cluster::{Cluster, NodeFacts, Parts};
use state::State;
use store::Disk;

/// The clusters could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A directory could not be made.
    #[error("directory {0}: {1}")]
    Directory(PathBuf, std::io::Error),
    /// An address could not be bound.
    #[error("listen on {0}: {1}")]
    Listen(String, std::io::Error),
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// State.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A cluster as it runs; goes into the simulator's `ready.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReadyCluster {
    /// Its name.
    pub name: String,
    /// The version it answers.
    pub version: String,
    /// Its nodes.
    pub nodes: Vec<ReadyNode>,
}

/// A node as it runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReadyNode {
    /// Its name.
    pub name: String,
    /// Base of its API: `https://127.0.0.1:18006`.
    pub api_url: String,
    /// SHA-256 of its certificate, upper-case hex with colons.
    pub fingerprint: String,
    /// File with the cluster's CA certificate.
    pub ca_pem_file: PathBuf,
    /// Base of its control API.
    pub control_url: String,
}

/// The running clusters.
pub struct Running {
    /// Where everything listens.
    pub clusters: Vec<ReadyCluster>,
    running: Vec<Arc<Cluster>>,
}

impl Running {
    /// Ends all listeners. Workers are left as they are, as a power cut would.
    pub fn stop(&self) {
        for cluster in &self.running {
            cluster.stop.cancel();
        }
    }
}

impl Running {
    /// The `pve` section of `ready.json`: the configuration with the actual addresses, and per node what
    /// [`ReadyNode`] says.
    pub fn ready(&self, config: &PveConfig) -> serde_json::Value {
        let mut section = serde_json::to_value(config).unwrap_or_default();
        for (c, cluster) in self.clusters.iter().enumerate() {
            for (n, node) in cluster.nodes.iter().enumerate() {
                let place = &mut section["clusters"][c]["nodes"][n];
                place["listen"] = node.api_url.trim_start_matches("https://").into();
                place["control_listen"] = node.control_url.trim_start_matches("http://").into();
                place["api_url"] = node.api_url.as_str().into();
                place["fingerprint"] = node.fingerprint.as_str().into();
                place["ca_pem_file"] = node.ca_pem_file.to_string_lossy().into();
                place["control_url"] = node.control_url.as_str().into();
            }
        }
        section
    }
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("clusters", &self.clusters).finish_non_exhaustive()
    }
}

fn make_directory(path: &Path) -> Result<(), StartError> {
    std::fs::create_dir_all(path).map_err(|e| StartError::Directory(path.into(), e))
}

async fn listen(address: &str) -> Result<(TcpListener, String), StartError> {
    let failed = |e| StartError::Listen(address.to_owned(), e);
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let actual = listener.local_addr().map_err(failed)?.to_string();
    Ok((listener, actual))
}

/// The full version behind what the configuration says: `8.4` is `8.4.21`.
fn full_version(given: &str) -> String {
    match given {
        "8" | "8.4" => "8.4.21".into(),
        "9" | "9.2" => "9.2.11".into(),
        v if v.matches('.').count() < 2 => format!("{v}.1"),
        v => v.into(),
    }
}

/// Starts every cluster of the configuration with its state below `state_dir`; requests are logged
/// to `<request_log_dir>/pve-<cluster>.jsonl`.
pub async fn start(
    config: &PveConfig,
    state_dir: &Path,
    request_log_dir: &Path,
    clock: Clock,
) -> Result<Running, StartError> {
    make_directory(request_log_dir)?;
    let mut ready = Vec::new();
    let mut running = Vec::new();
    for given in &config.clusters {
        let directory = state_dir.join(&given.name);
        make_directory(&directory)?;
        let mut disk = Disk::open(&directory.join("state.sqlite")).await?;
        let mut state = State::load(given.seed, &mut disk).await?;
        let now = clock.now();
        seed::fill(&mut state, config, given, &directory, now);
        state.bury_workers(now);
        let mut facts = BTreeMap::new();
        let mut listeners = Vec::new();
        let mut nodes = Vec::new();
        for node in &given.nodes {
            let faults = Arc::new(inject::NodeFaults::default());
            let tls = tls::node(&directory, &given.name, &node.name)?;
            let (api, api_address) = listen(&node.listen).await?;
            let (control, control_address) = listen(&node.control_listen).await?;
            nodes.push(ReadyNode {
                name: node.name.clone(),
                api_url: format!("https://{api_address}"),
                fingerprint: tls.fingerprint.clone(),
                ca_pem_file: tls::ca_file(&directory),
                control_url: format!("http://{control_address}"),
            });
            facts.insert(
                node.name.clone(),
                NodeFacts {
                    config: node.clone(),
                    fingerprint: tls.fingerprint.clone(),
                    faults: faults.clone(),
                },
            );
            listeners.push((node.name.clone(), api, control, tls.config, faults));
        }
        let version = full_version(&given.version);
        let boot = state.meta.get("boot").and_then(|b| b.parse().ok()).unwrap_or(now);
        let parts = Parts {
            name: given.name.clone(),
            version: version.clone(),
            directory,
            request_log: request_log_dir.join(format!("pve-{}.jsonl", given.name)),
            nodes: facts,
            clock: clock.clone(),
            state,
            disk,
            boot,
        };
        let cluster = Arc::new(Cluster::new(parts, config));
        cluster.change("seed", |_| ()).await;
        // Machines that were off for a reboot when the simulator died.
        let rebooting: Vec<u32> = cluster
            .read(|s| s.meta.iter().filter_map(|(k, _)| k.strip_prefix("reboot ")?.parse().ok()).collect())
            .await;
        for vmid in rebooting {
            api::qemu::qmeventd(&cluster, vmid);
        }
        let router = Arc::new(call::Router::new(cluster.major));
        for (node, api, control, tls, faults) in listeners {
            let server = Arc::new(server::Server {
                cluster: cluster.clone(),
                router: router.clone(),
                node: node.clone(),
                faults: faults.clone(),
            });
            tokio::spawn(server::serve(server, api, tls));
            tokio::spawn(control::serve(cluster.clone(), node, faults, control));
        }
        ready.push(ReadyCluster { name: given.name.clone(), version, nodes });
        running.push(cluster);
    }
    Ok(Running { clusters: ready, running })
}
