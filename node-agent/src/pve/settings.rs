//! A wished instance as Proxmox options, and the smallest change that leads there.
//!
//! Proxmox copies much from a template that must not reach a server (further cards, stored keys,
//! protection), and gives `net0` a new MAC whenever it is written without one. So every option the
//! agent cares for is written in full, and what a template must not pass on is removed.

use std::collections::{BTreeMap, BTreeSet};

use ez_protocol::{
    marker::Marker,
    order::{InstanceSpec, NetworkSpec, Service},
};
use ipnet::IpNet;

use super::{ConfigChange, FirewallSetup, GuestConfig};

/// Tag by which people recognise our servers; decisions never rest on it.
pub const TAG: &str = "ez";
/// Tag of a server that is stopped and kept.
pub const TAG_RETIRED: &str = "ez-retired";

/// Options of a template that a server must not keep.
const NOT_PASSED_ON: [&str; 5] = ["ciuser", "cipassword", "sshkeys", "searchdomain", "protection"];

/// The description: the marker alone on the first line, a word for the operator after it.
pub fn description(marker: &Marker, spec: &InstanceSpec) -> String {
    format!(
        "{marker}\n{} ({}); managed by EZ node agent, do not edit the first line.\n",
        spec.hostname, spec.image.name
    )
}

/// The options an instance shall have. `cicustom` names its snippets.
pub fn desired(spec: &InstanceSpec, marker: &Marker, cicustom: &str) -> BTreeMap<String, String> {
    let onboot = if spec.service == Service::Active { "1" } else { "0" };
    let mut options = BTreeMap::new();
    let mut set = |key: &str, value: String| options.insert(key.to_owned(), value);
    set("name", spec.hostname.as_str().to_owned());
    set("description", description(marker, spec));
    set("tags", TAG.to_owned());
    set("sockets", "1".to_owned());
    set("cores", spec.vcpus.to_string());
    set("memory", spec.memory_mib.to_string());
    set("balloon", "0".to_owned());
    set("agent", "1".to_owned());
    set("onboot", onboot.to_owned());
    set("net0", net0(&spec.network));
    set("ciupgrade", "0".to_owned());
    set("cicustom", cicustom.to_owned());
    if let Some(ipconfig) = ipconfig0(&spec.network) {
        set("ipconfig0", ipconfig);
    }
    if !spec.network.dns.is_empty() {
        let servers: Vec<String> = spec.network.dns.iter().map(ToString::to_string).collect();
        set("nameserver", servers.join(" "));
    }
    options
}

/// `virtio=<MAC>,bridge=…,firewall=…,tag=…,rate=…`. The rate is in megabytes per second.
fn net0(network: &NetworkSpec) -> String {
    let mut value =
        format!("virtio={},bridge={},firewall={}", network.mac, network.bridge, u8::from(network.firewall));
    if let Some(tag) = network.vlan {
        value.push_str(&format!(",tag={tag}"));
    }
    if let Some(mbit) = network.rate_mbit {
        value.push_str(&format!(",rate={}", f64::from(mbit) / 8.0));
    }
    value
}

/// The first address of each family with its gateway; Proxmox knows one of each per card.
fn ipconfig0(network: &NetworkSpec) -> Option<String> {
    let mut parts = Vec::new();
    for (v6, ip, gw) in [(false, "ip", "gw"), (true, "ip6", "gw6")] {
        let Some(address) = network.addresses.iter().find(|a| matches!(a.cidr, IpNet::V6(_)) == v6) else {
            continue;
        };
        parts.push(format!("{ip}={}", address.cidr));
        parts.extend(address.gateway.map(|gateway| format!("{gw}={gateway}")));
    }
    (!parts.is_empty()).then(|| parts.join(","))
}

/// What the guest may send from: each of its addresses alone, and for IPv6 the whole prefix when the
/// gateway lies outside of it, because the prefix is then routed to the guest.
pub fn firewall(network: &NetworkSpec) -> FirewallSetup {
    let allowed = |address: &ez_protocol::order::AddressAssignment| {
        let routed = matches!(address.cidr, IpNet::V6(_))
            && address.gateway.is_some_and(|gateway| !address.cidr.contains(&gateway));
        if routed { address.cidr.trunc() } else { IpNet::from(address.cidr.addr()) }
    };
    FirewallSetup { addresses: network.addresses.iter().map(allowed).collect() }
}

/// The smallest change from `present` to `wanted`, guarded by the digest; `None` if there is none.
pub fn change(present: &GuestConfig, wanted: &BTreeMap<String, String>) -> Option<ConfigChange> {
    let differs =
        |(key, value): &(&String, &String)| !present.get(key).is_some_and(|old| same(key, old, value));
    let set: BTreeMap<String, String> =
        wanted.iter().filter(differs).map(|(k, v)| (k.clone(), v.clone())).collect();
    let unwanted = |key: &&String| {
        let family = key.trim_end_matches(|c: char| c.is_ascii_digit());
        let card = matches!(family, "net" | "ipconfig") && family != key.as_str();
        (card || NOT_PASSED_ON.contains(&key.as_str())) && !wanted.contains_key(*key)
    };
    let delete: BTreeSet<String> = present.values.keys().filter(unwanted).cloned().collect();
    if set.is_empty() && delete.is_empty() {
        return None;
    }
    let digest = Some(present.digest.clone()).filter(|digest| !digest.is_empty());
    Some(ConfigChange { set, delete, digest })
}

/// Whether two texts of an option mean the same: order and case do not matter where Proxmox rewrites.
fn same(key: &str, old: &str, new: &str) -> bool {
    let parts = |text: &str| -> BTreeSet<String> { text.split(',').map(str::to_ascii_lowercase).collect() };
    match key {
        "net0" | "ipconfig0" | "cicustom" => parts(old) == parts(new),
        "description" => old.trim_end() == new.trim_end(),
        _ => old == new,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(network: serde_json::Value) -> InstanceSpec {
        serde_json::from_value(serde_json::json!({
            "hostname": "web-1.example.com", "service": "active", "vcpus": 2, "memory_mib": 4096, "disk_gib": 40,
            "image": {"name": "debian-13", "digest": format!("sha256:{}", "1".repeat(64))},
            "network": network, "ssh_keys": [], "password_hash": "$6$saltsaltsalt$hashhashhashhash",
        }))
        .unwrap()
    }

    fn marker() -> Marker {
        let id = "01890a5d-ac96-774b-bcce-b302099a8057";
        format!("ez:v1 {id} {id} {id} 1").parse().unwrap()
    }

    #[test]
    fn a_server_is_written_in_full_and_then_nothing_is_left_to_change() {
        let spec = spec(serde_json::json!({
            "bridge": "vmbr0", "vlan": 5, "mac": "BC:24:11:00:00:01", "firewall": true, "rate_mbit": 100,
            "dns": ["9.9.9.9", "2620:fe::fe"],
            "addresses": [{"cidr": "203.0.113.10/24", "gateway": "203.0.113.1"},
                          {"cidr": "2001:db8:1:2::1/64", "gateway": "fe80::1"}],
        }));
        let wanted = desired(&spec, &marker(), "user=s:snippets/u,meta=s:snippets/m");
        assert_eq!(wanted["net0"], "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1,tag=5,rate=12.5");
        assert_eq!(
            wanted["ipconfig0"],
            "ip=203.0.113.10/24,gw=203.0.113.1,ip6=2001:db8:1:2::1/64,gw6=fe80::1"
        );
        assert_eq!(wanted["nameserver"], "9.9.9.9 2620:fe::fe");
        assert_eq!(Marker::find(&wanted["description"]), Some(marker()));
        let allowed = firewall(&spec.network).addresses;
        let texts: Vec<String> = allowed.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["203.0.113.10/32", "2001:db8:1:2::/64"]);

        let template = [
            ("net0", "virtio=BC:24:11:99:99:99,bridge=vmbr0"),
            ("net1", "x"),
            ("sshkeys", "x"),
            ("ide2", "d"),
        ];
        let values = template.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let first = change(&GuestConfig { values, digest: "abc".into() }, &wanted).unwrap();
        assert_eq!(first.set, wanted);
        assert_eq!(first.delete, ["net1".to_owned(), "sshkeys".to_owned()].into());
        assert_eq!(first.digest.as_deref(), Some("abc"));

        let mut after = wanted.clone();
        after
            .insert("net0".into(), "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1,rate=12.5,tag=5".into());
        after.insert("ide2".into(), "drive".into());
        assert_eq!(change(&GuestConfig { values: after, digest: "abc".into() }, &wanted), None);
    }

    #[test]
    fn an_on_link_prefix_lets_only_the_own_address_through() {
        let spec = spec(serde_json::json!({
            "bridge": "vmbr0", "mac": "BC:24:11:00:00:01", "firewall": true, "dns": [],
            "addresses": [{"cidr": "2001:db8:1:2::5/64", "gateway": "2001:db8:1:2::1"}],
        }));
        let texts: Vec<String> = firewall(&spec.network).addresses.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["2001:db8:1:2::5/128"]);
        let wanted = desired(&spec, &marker(), "x");
        assert_eq!(wanted["ipconfig0"], "ip6=2001:db8:1:2::5/64,gw6=2001:db8:1:2::1");
        assert!(!wanted.contains_key("nameserver"));
    }
}
