//! A host's VMs, asked of its Proxmox VE as any administrator could.

use std::path::Path;

use ez_protocol::marker::Marker;
use serde_json::Value;

use super::{LoadError, NodeAccess, hex_hash};
use crate::check::world::{Host, Vm};

/// Reads a host, and keeps how its foreign VMs looked when it was first read.
pub(super) async fn read(state_dir: &Path, node: &NodeAccess) -> Result<Host, LoadError> {
    let client = client(state_dir, node)?;
    let api = Api { client, node };
    let mut host = Host { node: node.id.clone(), ..Host::default() };
    for item in api.list().await? {
        let is_template = item["template"].as_i64() == Some(1);
        let Some(vmid) = number(&item["vmid"]).filter(|_| !is_template) else { continue };
        let config = match api.get(&format!("/nodes/{}/qemu/{vmid}/config", node.name)).await {
            Ok(config) => config,
            // A VM may go away between the list and this. One that is still there and cannot be read is not absent.
            Err(error) if api.list().await?.iter().any(|item| number(&item["vmid"]) == Some(vmid)) => {
                return Err(error);
            }
            Err(_) => continue,
        };
        let marker = config["description"].as_str().and_then(Marker::find);
        let running = item["status"] == "running";
        if marker.is_none() && !is_being_made(&config) {
            host.foreign.push((vmid, hex_hash(config.to_string().as_bytes())));
        }
        let (macs, addresses) = (macs(&config), addresses(&config));
        host.vms.push(Vm { vmid, marker, running, size: size(&config), macs, addresses });
    }
    host.foreign_before = baseline(state_dir, node, &host.foreign);
    Ok(host)
}

struct Api<'a> {
    client: reqwest::Client,
    node: &'a NodeAccess,
}

impl Api<'_> {
    /// The node's VMs, templates too.
    async fn list(&self) -> Result<Vec<Value>, LoadError> {
        let list = self.get(&format!("/nodes/{}/qemu", self.node.name)).await?;
        Ok(list.as_array().cloned().unwrap_or_default())
    }

    async fn get(&self, path: &str) -> Result<Value, LoadError> {
        let base = self.node.pve_url.trim_end_matches('/').trim_end_matches("/api2/json");
        let url = format!("{base}/api2/json{path}");
        let token = format!("PVEAPIToken={}={}", self.node.pve_token_id, self.node.pve_token_secret);
        let fault = LoadError::http(&url);
        let answer = self.client.get(&url).header("authorization", token).send().await.map_err(&fault)?;
        let answer: Value = answer.error_for_status().map_err(&fault)?.json().await.map_err(&fault)?;
        Ok(answer["data"].clone())
    }
}

/// A client that believes only the host's own cluster authority.
fn client(state_dir: &Path, node: &NodeAccess) -> Result<reqwest::Client, LoadError> {
    let path = state_dir.join("sim/ready.json");
    let broken = |reason: String| LoadError::State { path: path.clone(), reason };
    let text = std::fs::read_to_string(&path).map_err(|e| broken(e.to_string()))?;
    let ready: Value = serde_json::from_str(&text).map_err(|e| broken(e.to_string()))?;
    let clusters = ready["pve"]["clusters"].as_array().into_iter().flatten();
    let mut nodes = clusters.filter_map(|c| c["nodes"].as_array()).flatten();
    let file = nodes.find(|n| n["name"] == node.name).and_then(|n| n["ca_pem_file"].as_str());
    let file = file.ok_or_else(|| broken(format!("no ca_pem_file of {}", node.name)))?;
    let pem = std::fs::read(file).map_err(|e| broken(e.to_string()))?;
    let authority = reqwest::Certificate::from_pem(&pem).map_err(|e| broken(e.to_string()))?;
    reqwest::Client::builder()
        .tls_certs_only([authority])
        .timeout(std::time::Duration::from_secs(20))
        .build()
        .map_err(|e| broken(e.to_string()))
}

/// Whether a VM is only coming to be: a clone, or a restore, which begins by clearing everything, the marker included, and
/// leaves that where it fails.
fn is_being_made(config: &Value) -> bool {
    let bare = |config: &serde_json::Map<String, Value>| {
        config.keys().all(|key| matches!(key.as_str(), "memory" | "lock" | "digest"))
    };
    matches!(config["lock"].as_str(), Some("clone" | "create")) || config.as_object().is_some_and(bare)
}

/// Numbers come as numbers or as text.
fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str().and_then(|s| s.parse().ok()))
}

/// vCPU, MiB of memory and GiB of the disk it boots from.
fn size(config: &Value) -> [i64; 3] {
    let of = |key: &str| number(&config[key]);
    let cpus = of("cores").map_or(0, |cores| cores * of("sockets").unwrap_or(1));
    let disk = config["scsi0"].as_str().or_else(|| config["virtio0"].as_str()).unwrap_or_default();
    let disk = disk.split(',').find_map(|part| part.strip_prefix("size=")?.strip_suffix('G')?.parse().ok());
    [cpus, of("memory").unwrap_or(0), disk.unwrap_or(0)]
}

/// The hardware addresses of every card.
fn macs(config: &Value) -> Vec<String> {
    let cards = config.as_object().into_iter().flatten();
    let cards = cards.filter(|(key, _)| key.strip_prefix("net").is_some_and(|n| n.parse::<u8>().is_ok()));
    cards
        .filter_map(|(_, value)| {
            value.as_str()?.split(',').next()?.split_once('=').map(|(_, mac)| mac.to_owned())
        })
        .collect()
}

/// The static addresses of every card, without prefix length.
fn addresses(config: &Value) -> Vec<String> {
    let cards = config.as_object().into_iter().flatten();
    let texts = cards.filter(|(key, _)| key.starts_with("ipconfig")).filter_map(|(_, value)| value.as_str());
    let pairs = texts.flat_map(|text| text.split(',')).filter_map(|part| part.split_once('='));
    let own = pairs.filter(|(key, _)| *key == "ip" || *key == "ip6");
    own.filter_map(|(_, value)| value.split_once('/').map(|(address, _)| address.to_owned())).collect()
}

/// What the foreign VMs were when each was first seen; kept beside the demo's state.
fn baseline(state_dir: &Path, node: &NodeAccess, now: &[(i64, String)]) -> Vec<(i64, String)> {
    let path = state_dir.join("check").join(format!("foreign-{}.json", node.name));
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    let mut known: Vec<(i64, String)> = serde_json::from_str(&known).unwrap_or_default();
    for item in now {
        if !known.iter().any(|(vmid, _)| *vmid == item.0) {
            known.push(item.clone());
        }
    }
    let _ = std::fs::create_dir_all(state_dir.join("check"));
    let _ = std::fs::write(&path, serde_json::to_string(&known).unwrap_or_default());
    known
}
