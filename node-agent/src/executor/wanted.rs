//! Pure: what the configuration of a server has to be, and what has to change for it.

use std::collections::BTreeMap;

use ez_protocol::order::InstanceSpec;

use crate::pve::{ConfigChange, GuestConfig};

/// Tag every server of ours carries, for the eye.
pub(super) const TAG: &str = "ez";
/// Tag of a retired one.
pub(super) const TAG_RETIRED: &str = "ez-retired";

/// `net0`, always with its hardware address: without it every write would make a new one.
pub(super) fn net0(spec: &InstanceSpec) -> String {
    let net = &spec.network;
    let mut text = format!("virtio={},bridge={}", net.mac, net.bridge);
    if net.firewall {
        text.push_str(",firewall=1");
    }
    if let Some(mbit) = net.rate_mbit {
        // Proxmox counts megabytes per second.
        text.push_str(&format!(",rate={}", trim(f64::from(mbit) / 8.0)));
    }
    if let Some(vlan) = net.vlan {
        text.push_str(&format!(",tag={vlan}"));
    }
    text
}

/// A number as short as it can be: 12.5, 100.
fn trim(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `ipconfig0`: the first address of each family; the others are told to the guest by cloud-init.
pub(super) fn ipconfig0(spec: &InstanceSpec) -> Option<String> {
    let mut parts = Vec::new();
    for (is_v6, address_key, gateway_key) in [(false, "ip", "gw"), (true, "ip6", "gw6")] {
        let family = spec.network.addresses.iter().filter(|a| a.cidr.addr().is_ipv6() == is_v6);
        let mut family: Vec<_> = family.collect();
        // The one with the gateway leads, so that the guest has its default route.
        family.sort_by_key(|a| a.gateway.is_none());
        if let Some(address) = family.first() {
            parts.push(format!("{address_key}={}", address.cidr));
            if let Some(gateway) = address.gateway {
                parts.push(format!("{gateway_key}={gateway}"));
            }
        }
    }
    (!parts.is_empty()).then(|| parts.join(","))
}

/// Every option of the step `configure`.
pub(super) fn options(spec: &InstanceSpec) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("name", spec.hostname.as_str().to_owned()),
        ("cores", spec.vcpus.to_string()),
        ("memory", spec.memory_mib.to_string()),
        ("net0", net0(spec)),
        ("onboot", "1".to_owned()),
        ("agent", "enabled=1".to_owned()),
        ("tags", TAG.to_owned()),
    ])
}

/// The change from what is to what shall be; `None` if nothing has to change.
pub(super) fn change(config: &GuestConfig, wanted: &BTreeMap<&'static str, String>) -> Option<ConfigChange> {
    let set: BTreeMap<String, String> = wanted
        .iter()
        .filter(|(key, value)| !same(config, key, value))
        .map(|(key, value)| ((*key).to_owned(), value.clone()))
        .collect();
    if set.is_empty() {
        return None;
    }
    Some(ConfigChange { set, delete: Default::default(), digest: Some(config.digest.clone()) })
}

/// Compares by meaning: the order of parts and the case of a MAC do not count.
fn same(config: &GuestConfig, key: &str, wanted: &str) -> bool {
    let Some(is) = config.get(key) else { return false };
    match key {
        "tags" => {
            let wanted = GuestConfig {
                values: BTreeMap::from([("tags".to_owned(), wanted.to_owned())]),
                digest: String::new(),
            };
            wanted.tags().is_subset(&config.tags()) && !config.tags().contains(TAG_RETIRED)
                || config.tags() == wanted.tags()
        }
        "memory" => config.memory_mib().map(|m| m.to_string()).as_deref() == Some(wanted),
        "agent" => matches!(is, "1" | "enabled=1") || is == wanted || is.starts_with("1,"),
        _ => parts(is) == parts(wanted),
    }
}

fn parts(text: &str) -> Vec<String> {
    let mut parts: Vec<String> = text.split(',').map(str::to_ascii_lowercase).collect();
    parts.sort();
    parts
}

/// What an instance's configuration differs in, one short line each; reported, never repaired here.
pub(crate) fn drift(config: &GuestConfig, spec: &InstanceSpec) -> Vec<String> {
    let wanted = options(spec);
    ["cores", "memory", "net0"]
        .into_iter()
        .filter_map(|key| {
            let value = wanted.get(key)?;
            let is = config.get(key).unwrap_or("(nothing)");
            (!same(config, key, value)).then(|| format!("{key} is {is}, should be {value}"))
        })
        .collect()
}
