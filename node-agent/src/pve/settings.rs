//! A wished instance as Proxmox options, and the smallest change that leads there. Pure.
//!
//! Proxmox copies much from a template that must not reach a server (further cards, which nobody would
//! filter; stored keys; protection), and gives `net0` a new MAC whenever it is written without one. So
//! what the agent cares for is written in full, and what a template must not pass on is removed. The latter only right
//! after a clone: in a server that is in service the same options are the host owner's.

use std::collections::{BTreeMap, BTreeSet};

use ez_protocol::order::{
    AddressAssignment, Direction, FirewallRules, InstanceSpec, NetworkSpec, Protocol, Service, Verdict,
};
use ipnet::IpNet;

use super::{ConfigChange, FirewallSetup, GuestConfig, GuestRule, ISO_DRIVE, RESCUE_DRIVE, RULE_COMMENT};

/// Tag by which people recognise our servers; decisions never rest on it.
pub const TAG: &str = "ez";
/// Tag of a server that is stopped and kept.
pub const TAG_RETIRED: &str = "ez-retired";

/// Options of a template that a server must not keep, beside further cards.
const NOT_PASSED_ON: [&str; 5] = ["ciuser", "cipassword", "sshkeys", "searchdomain", "protection"];

/// Options by name.
pub type Options = BTreeMap<&'static str, String>;

/// Size, name, card and drives of a server in service, or of a suspended one, which does not start by
/// itself. `media` is the storage of the media that customers may insert.
pub fn served(spec: &InstanceSpec, present: &GuestConfig, media: Option<&str>) -> Options {
    let mut options = plain(spec);
    if let (Some(iso), Some(storage)) = (&spec.iso, media) {
        options.insert(ISO_DRIVE, format!("{storage}:iso/{},media=cdrom", iso.as_str()));
    }
    options.extend(boot(spec, present).map(|order| ("boot", order)));
    options
}

/// What to boot from: a rescue system before a medium before the server's own disk. A template's own
/// order is left alone until one of them has come or gone.
fn boot(spec: &InstanceSpec, present: &GuestConfig) -> Option<String> {
    let order = present.property("boot", "order").unwrap_or("");
    let had = order.split(';').any(|drive| drive == RESCUE_DRIVE || drive == ISO_DRIVE);
    if spec.rescue.is_none() && spec.iso.is_none() && !had {
        return None;
    }
    let rescue = spec.rescue.as_ref().map(|_| RESCUE_DRIVE.to_owned());
    let iso = spec.iso.as_ref().map(|_| ISO_DRIVE.to_owned());
    let drives: Vec<String> = rescue.into_iter().chain(iso).chain(present.boot_disk()).collect();
    Some(format!("order={}", drives.join(";")))
}

fn plain(spec: &InstanceSpec) -> Options {
    let onboot = if spec.service == Service::Active { "1" } else { "0" };
    BTreeMap::from([
        ("name", spec.hostname.as_str().to_owned()),
        ("sockets", "1".to_owned()),
        ("cores", spec.vcpus.to_string()),
        ("memory", spec.memory_mib.to_string()),
        // Memory is sold one to one: no balloon takes it back.
        ("balloon", "0".to_owned()),
        ("net0", net0(&spec.network)),
        ("onboot", onboot.to_owned()),
        ("agent", "enabled=1".to_owned()),
        ("tags", tags(spec)),
    ])
}

/// Our tag and the ordered ones, sorted as Proxmox keeps them.
fn tags(spec: &InstanceSpec) -> String {
    let all: BTreeSet<&str> = spec.tags.iter().map(|tag| tag.as_str()).chain([TAG]).collect();
    all.into_iter().collect::<Vec<_>>().join(";")
}

/// What differs as long as a server must not be started.
pub fn unstarted() -> Options {
    BTreeMap::from([("onboot", "0".to_owned())])
}

/// The signs of a retired server.
pub fn retired() -> Options {
    BTreeMap::from([("onboot", "0".to_owned()), ("tags", format!("{TAG};{TAG_RETIRED}"))])
}

/// What the guest is told of its network at boot. The distribution's upgrade at first boot is the
/// customer's to order: it makes first boots slow and different every day.
pub fn first_boot(spec: &InstanceSpec) -> Options {
    let mut options = BTreeMap::from([("ciupgrade", "0".to_owned())]);
    if let Some(ipconfig) = ipconfig0(&spec.network) {
        options.insert("ipconfig0", ipconfig);
    }
    if !spec.network.dns.is_empty() {
        let servers: Vec<String> = spec.network.dns.iter().map(ToString::to_string).collect();
        options.insert("nameserver", servers.join(" "));
    }
    options
}

/// `virtio=<MAC>,bridge=…,firewall=…,rate=…,tag=…`. The rate is in megabytes per second.
fn net0(network: &NetworkSpec) -> String {
    let mut value = format!("virtio={},bridge={}", network.mac, network.bridge);
    if network.firewall {
        value.push_str(",firewall=1");
    }
    if let Some(mbit) = network.rate_mbit {
        value.push_str(&format!(",rate={}", f64::from(mbit) / 8.0));
    }
    if let Some(tag) = network.vlan {
        value.push_str(&format!(",tag={tag}"));
    }
    value
}

/// One address of each family, all that Proxmox knows; the one with the gateway leads.
fn ipconfig0(network: &NetworkSpec) -> Option<String> {
    let mut parts = Vec::new();
    for (v6, ip, gw) in [(false, "ip", "gw"), (true, "ip6", "gw6")] {
        let family = || network.addresses.iter().filter(|a| a.cidr.addr().is_ipv6() == v6);
        let Some(address) = family().find(|a| a.gateway.is_some()).or_else(|| family().next()) else {
            continue;
        };
        parts.push(format!("{ip}={}", address.cidr));
        parts.extend(address.gateway.map(|gateway| format!("{gw}={gateway}")));
    }
    (!parts.is_empty()).then(|| parts.join(","))
}

/// What a guest may send from by one of its addresses: that address alone. Only an IPv6 prefix whose gateway
/// lies outside of it is routed to this guest and its own as a whole; in a shared prefix the neighbours'
/// addresses are as foreign as in IPv4.
pub fn sends_from(address: &AddressAssignment) -> IpNet {
    let outside = |gateway| !address.cidr.contains(&gateway);
    let routed = address.cidr.addr().is_ipv6() && address.gateway.is_some_and(outside);
    if routed { address.cidr.trunc() } else { IpNet::from(address.cidr.addr()) }
}

/// The host's filter of a guest's card.
pub fn firewall(network: &NetworkSpec) -> FirewallSetup {
    let rules = network.rules.as_ref();
    FirewallSetup {
        addresses: network.addresses.iter().map(sends_from).collect(),
        inbound: verdict(rules.map_or(Verdict::Accept, |rules| rules.inbound)),
        rules: rules.map(guest_rules).unwrap_or_default(),
    }
}

const fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Accept => "ACCEPT",
        Verdict::Drop => "DROP",
        Verdict::Reject => "REJECT",
    }
}

/// The customer's rules in Proxmox's words. A rule of Proxmox has networks of one family only, so one of
/// ours may become two.
fn guest_rules(rules: &FirewallRules) -> Vec<GuestRule> {
    let mut out = Vec::new();
    for (number, rule) in rules.rules.iter().enumerate() {
        let family = |v6: bool| {
            let of = rule.peers.iter().filter(|net| net.addr().is_ipv6() == v6);
            let list: Vec<String> = of.map(|net| net.trunc().to_string()).collect();
            (!list.is_empty()).then(|| list.join(","))
        };
        let peers = match (family(false), family(true)) {
            (None, None) => vec![None],
            (four, six) => four.into_iter().chain(six).map(Some).collect(),
        };
        for peer in peers {
            let inward = rule.direction == Direction::In;
            out.push(GuestRule {
                direction: if inward { "in" } else { "out" },
                action: verdict(rule.verdict),
                proto: rule.protocol.map(|protocol| match protocol {
                    Protocol::Tcp => "tcp",
                    Protocol::Udp => "udp",
                    Protocol::Icmp => "icmp",
                    Protocol::Icmpv6 => "ipv6-icmp",
                }),
                dport: rule.ports.map(|ports| ports.to_string()),
                source: peer.clone().filter(|_| inward),
                dest: peer.filter(|_| !inward),
                comment: format!("{RULE_COMMENT}{number}"),
            });
        }
    }
    out
}

/// A medium that was taken out, and of a server that was just cloned what its template left in the configuration and it
/// must not have.
pub fn leftovers(present: &GuestConfig, spec: &InstanceSpec, just_cloned: bool) -> BTreeSet<String> {
    let unwanted = |key: &&String| {
        if key.as_str() == ISO_DRIVE {
            return spec.iso.is_none();
        }
        if !just_cloned {
            return false;
        }
        let family = key.trim_end_matches(|c: char| c.is_ascii_digit());
        let card = matches!(family, "net" | "ipconfig") && !matches!(key.as_str(), "net0" | "ipconfig0");
        card || NOT_PASSED_ON.contains(&key.as_str())
    };
    present.values.keys().filter(unwanted).cloned().collect()
}

/// The smallest change that sets `wanted` and removes `unwanted`, guarded by the digest; `None` if
/// there is nothing to do.
pub fn change(present: &GuestConfig, wanted: &Options, unwanted: BTreeSet<String>) -> Option<ConfigChange> {
    let differs = |(key, value): &(&&str, &String)| !same(present, key, value);
    let set: BTreeMap<String, String> =
        wanted.iter().filter(differs).map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    let digest = Some(present.digest.clone()).filter(|digest| !digest.is_empty());
    (!set.is_empty() || !unwanted.is_empty()).then_some(ConfigChange { set, delete: unwanted, digest })
}

/// What a server's size and card differ in, one short line each; to be reported, not repaired.
pub fn drift(present: &GuestConfig, spec: &InstanceSpec) -> Vec<String> {
    let wanted = plain(spec);
    let line = |key: &str| {
        let value = wanted.get(key)?;
        let is = present.get(key).unwrap_or("(nothing)");
        (!same(present, key, value)).then(|| format!("{key} is {is}, should be {value}"))
    };
    ["cores", "memory", "net0"].into_iter().filter_map(line).collect()
}

/// Compares by meaning: the order of parts and the case of a MAC do not count, and the owner of the
/// host may add tags of their own, as long as the server does not look retired.
fn same(present: &GuestConfig, key: &str, wanted: &str) -> bool {
    let Some(is) = present.get(key) else { return false };
    let parts = |text: &str| -> BTreeSet<String> { text.split(',').map(str::to_ascii_lowercase).collect() };
    match key {
        // Proxmox adds the medium's size.
        ISO_DRIVE => is.split(',').next() == wanted.split(',').next(),
        "tags" => {
            let wanted: BTreeSet<String> = wanted.split(';').map(str::to_owned).collect();
            let has = present.tags();
            has == wanted || wanted.is_subset(&has) && !has.contains(TAG_RETIRED)
        }
        "memory" => present.memory_mib().map(|mib| mib.to_string()).as_deref() == Some(wanted),
        "agent" => matches!(is, "1" | "enabled=1") || is.starts_with("1,") || is == wanted,
        _ => parts(is) == parts(wanted),
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

    fn config(values: &[(&str, &str)]) -> GuestConfig {
        let values = values.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        GuestConfig { values, digest: "abc".into() }
    }

    #[test]
    fn a_server_is_written_in_full_and_then_nothing_is_left_to_change() {
        let spec = spec(serde_json::json!({
            "bridge": "vmbr0", "vlan": 5, "mac": "BC:24:11:00:00:01", "firewall": true, "rate_mbit": 100,
            "dns": ["9.9.9.9", "2620:fe::fe"],
            "addresses": [{"cidr": "203.0.113.10/24", "gateway": "203.0.113.1"},
                          {"cidr": "2001:db8:1:2::1/64", "gateway": "fe80::1"}],
        }));
        let wanted = served(&spec, &config(&[]), None);
        assert_eq!(wanted["net0"], "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1,rate=12.5,tag=5");
        let told = first_boot(&spec);
        assert_eq!(told["ipconfig0"], "ip=203.0.113.10/24,gw=203.0.113.1,ip6=2001:db8:1:2::1/64,gw6=fe80::1");
        assert_eq!(told["nameserver"], "9.9.9.9 2620:fe::fe");

        let template = config(&[
            ("net0", "virtio=BC:24:11:99:99:99,bridge=vmbr0"),
            ("net1", "virtio=BC:24:11:99:99:98,bridge=vmbr1"),
            ("ipconfig0", "ip=dhcp"),
            ("ipconfig1", "ip=dhcp"),
            ("sshkeys", "x"),
            ("ide2", "d"),
        ]);
        let first = change(&template, &wanted, leftovers(&template, &spec, true)).unwrap();
        assert_eq!(first.set.len(), wanted.len());
        assert_eq!(first.delete, ["net1", "ipconfig1", "sshkeys"].map(str::to_owned).into());
        assert_eq!(first.digest.as_deref(), Some("abc"));

        let mut after = config(&[("ide2", "drive")]);
        after.values.extend(first.set);
        after
            .values
            .insert("net0".into(), "virtio=bc:24:11:00:00:01,tag=5,bridge=vmbr0,rate=12.5,firewall=1".into());
        after.values.insert("memory".into(), "current=4096".into());
        after.values.insert("tags".into(), "ez;mine".into());
        // The host's owner gave it a card and protects it.
        after.values.insert("net1".into(), "virtio=BC:24:11:00:00:02,bridge=vmbr1".into());
        after.values.insert("protection".into(), "1".into());
        assert_eq!(change(&after, &wanted, leftovers(&after, &spec, false)), None);
        assert!(drift(&after, &spec).is_empty());
        after.values.insert("cores".into(), "8".into());
        assert_eq!(drift(&after, &spec), ["cores is 8, should be 2"]);
        after.values.insert("tags".into(), "ez;ez-retired".into());
        assert!(change(&after, &wanted, BTreeSet::new()).unwrap().set.contains_key("tags"));
        assert_eq!(change(&after, &retired(), BTreeSet::new()).unwrap().set.len(), 1);
    }

    #[test]
    fn a_rescue_system_boots_before_a_medium_before_the_own_disk_and_all_is_taken_back() {
        let mut spec = spec(serde_json::json!({
            "bridge": "vmbr0", "mac": "BC:24:11:00:00:01", "firewall": true, "dns": [], "addresses": [],
        }));
        let mut present = config(&[("scsi0", "s:vm-1-disk-0,size=20G"), ("boot", "order=scsi0;net0")]);
        assert!(!served(&spec, &present, Some("local")).contains_key("boot"));
        spec.iso = ez_protocol::order::IsoName::parse("grml.iso").ok();
        spec.rescue = Some(spec.image.clone());
        present.values.insert(RESCUE_DRIVE.into(), "s:vm-1-disk-1,size=3G".into());
        let wanted = served(&spec, &present, Some("local"));
        assert_eq!(wanted["boot"], "order=scsi30;sata5;scsi0");
        assert_eq!(wanted[ISO_DRIVE], "local:iso/grml.iso,media=cdrom");
        present.values.insert("boot".into(), wanted["boot"].clone());
        present.values.insert(ISO_DRIVE.into(), "local:iso/grml.iso,media=cdrom,size=4K".into());
        assert!(!change(&present, &wanted, BTreeSet::new()).unwrap().set.contains_key(ISO_DRIVE));
        (spec.iso, spec.rescue) = (None, None);
        assert_eq!(served(&spec, &present, Some("local"))["boot"], "order=scsi0");
        assert_eq!(leftovers(&present, &spec, false), [ISO_DRIVE.to_owned()].into());
    }

    #[test]
    fn a_rule_for_both_families_becomes_two_of_proxmox() {
        let spec = spec(serde_json::json!({
            "bridge": "vmbr0", "mac": "BC:24:11:00:00:01", "firewall": true, "dns": [], "addresses": [],
            "rules": { "inbound": "drop", "rules": [
                { "direction": "in", "verdict": "accept", "protocol": "tcp", "ports": {"first": 22, "last": 22},
                  "peers": ["198.51.100.0/24", "2001:db8::/32", "192.0.2.7/32"] },
                { "direction": "out", "verdict": "reject", "protocol": "udp", "ports": {"first": 1, "last": 9} },
            ]},
        }));
        let setup = firewall(&spec.network);
        assert_eq!(setup.inbound, "DROP");
        let shown = |r: &GuestRule| {
            let port = r.dport.clone().unwrap_or_default();
            format!("{} {} {} {:?} {}", r.direction, r.action, port, r.source.as_deref(), r.comment)
        };
        assert_eq!(
            setup.rules.iter().map(shown).collect::<Vec<_>>(),
            [
                "in ACCEPT 22 Some(\"198.51.100.0/24,192.0.2.7/32\") ez:0",
                "in ACCEPT 22 Some(\"2001:db8::/32\") ez:0",
                "out REJECT 1:9 None ez:1",
            ]
        );
    }

    #[test]
    fn only_a_routed_prefix_is_the_guests_as_a_whole() {
        let allowed = |cidr: &str, gateway: Option<&str>| {
            let mut address = serde_json::json!({ "cidr": cidr });
            if let Some(gateway) = gateway {
                address["gateway"] = gateway.into();
            }
            let spec = spec(serde_json::json!({
                "bridge": "vmbr0", "mac": "BC:24:11:00:00:01", "firewall": true, "dns": [], "addresses": [address],
            }));
            firewall(&spec.network).addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(allowed("203.0.113.10/24", Some("203.0.113.1")), "203.0.113.10/32");
        assert_eq!(allowed("2001:db8:1:2::1/64", Some("fe80::1")), "2001:db8:1:2::/64");
        assert_eq!(allowed("2001:db8:1:2::5/64", Some("2001:db8:1:2::1")), "2001:db8:1:2::5/128");
        assert_eq!(allowed("2001:db8:1:2::5/64", None), "2001:db8:1:2::5/128");
        assert_eq!(allowed("2001:db8:1:2::5/128", Some("fe80::1")), "2001:db8:1:2::5/128");
    }
}
