//! The calls, one file per resource.

mod acl;
mod agent;
mod cloudinit;
mod cluster;
mod console;
mod download;
mod firewall;
mod ipset;
mod network;
mod node;
mod node_storage;
mod picture;
mod pools;
pub(crate) mod qemu;
mod roles;
mod stats;
mod storage;
mod tasks;
mod tokens;
mod users;
mod vzdump;

use super::call::Call;

/// All calls of all versions; the parameter tables say what belongs to which.
pub(crate) fn calls() -> Vec<Call> {
    let mut all = Vec::new();
    all.extend(node::calls());
    all.extend(network::calls());
    all.extend(cluster::calls());
    all.extend(tasks::calls());
    all.extend(storage::calls());
    all.extend(node_storage::calls());
    all.extend(download::calls());
    all.extend(pools::calls());
    all.extend(users::calls());
    all.extend(tokens::calls());
    all.extend(roles::calls());
    all.extend(acl::calls());
    all.extend(qemu::calls());
    all.extend(firewall::calls());
    all.extend(ipset::calls());
    all.extend(cloudinit::calls());
    all.extend(agent::calls());
    all.extend(console::calls());
    all.extend(stats::calls());
    all.extend(vzdump::calls());
    all
}
