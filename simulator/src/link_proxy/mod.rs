//! The network between node agents and the control plane's link, which goes wrong on request.
//!
//! One lane for each node: it listens on a port of its own, for UDP (QUIC, the link) and TCP (enrolment)
//! alike, and passes everything on to the link's port. It reads nothing of what it passes; what it does is
//! what a network does.
//!
//! - `fault` is what may go wrong, as `POST` takes it.
//! - `network` decides, without sockets and clock, what becomes of each datagram: dropped, passed on now,
//!   later, out of order or twice. Chance comes from the seed in the fault.
//! - `lane` owns a node's sockets. Each client address gets an upstream socket of its own, as a NAT does it.
//! - `tcp` passes connections on. Loss, reordering and duplicates do not exist on TCP; partitions and delays do.
//! - `control` is the HTTP control API: `GET /nodes`, `GET /nodes/{name}` with what was passed and struck,
//!   `GET`, `POST` and `DELETE /nodes/{name}/faults`, `DELETE /nodes/{name}/faults/{id}`.
//!
//! `up` is from the agent to the control plane, `down` the other way. Faults live in memory: a proxy that is
//! started again is well.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

pub(crate) use fault::LinkFault;

mod control;
mod fault;
mod lane;
mod network;
mod tcp;
#[cfg(test)]
mod tests;

/// The section `link_proxy` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LinkProxyConfig {
    /// Address of the control API; port 0 picks one.
    pub control_listen: SocketAddr,
    /// Where the control plane's link listens, UDP and TCP.
    pub upstream: SocketAddr,
    /// One lane for each node.
    pub nodes: Vec<LaneConfig>,
}

/// The lane of one node.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LaneConfig {
    /// The node's name, as it stands in the control API's paths.
    pub name: String,
    /// Where its agent dials, UDP and TCP; port 0 picks one.
    pub listen: SocketAddr,
}

impl LinkProxyConfig {
    /// Checks names.
    ///
    /// # Errors
    /// One is no part of a path, or stands twice.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (index, lane) in self.nodes.iter().enumerate() {
            let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if lane.name.is_empty() || !lane.name.chars().all(good) {
                return Err(format!("{:?} is not a node's name", lane.name));
            }
            if self.nodes[..index].iter().any(|other| other.name == lane.name) {
                return Err(format!("{} stands twice", lane.name));
            }
        }
        Ok(())
    }
}

/// Why the proxy did not start.
#[derive(Debug, thiserror::Error)]
#[error("link_proxy.{key}: cannot listen on {address}: {source}")]
pub struct StartError {
    /// The key of the configuration, or the node.
    key: String,
    address: SocketAddr,
    source: std::io::Error,
}

/// A running proxy.
#[derive(Debug)]
pub struct Running {
    /// Address of the control API.
    pub control: SocketAddr,
    /// The lanes with the addresses they listen on, in the order of the configuration.
    pub nodes: Vec<LaneConfig>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Running {
    /// Stops passing anything on.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Starts every lane and the control API.
///
/// # Errors
/// [`StartError`] names the address that cannot be had.
pub async fn start(config: &LinkProxyConfig) -> Result<Running, StartError> {
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let mut lanes = BTreeMap::new();
    let mut nodes = Vec::new();
    for wanted in &config.nodes {
        let failed =
            |source| StartError { key: format!("nodes.{}", wanted.name), address: wanted.listen, source };
        let sockets = lane::Sockets::bind(wanted.listen).await.map_err(failed)?;
        let listen = sockets.address().map_err(failed)?;
        nodes.push(LaneConfig { name: wanted.name.clone(), listen });
        let lane = lane::Lane::new(listen, config.upstream);
        lane.serve(sockets, &mut tasks, &stop);
        lanes.insert(wanted.name.clone(), lane);
    }
    let failed =
        |source| StartError { key: "control_listen".to_owned(), address: config.control_listen, source };
    let listener = TcpListener::bind(config.control_listen).await.map_err(failed)?;
    let control = listener.local_addr().map_err(failed)?;
    crate::serve::http(&mut tasks, listener, control::router(lanes), &stop);
    Ok(Running { control, nodes, stop, tasks })
}
