//! Every rule refuses what lies just beyond it and lets through what lies on it.

use std::path::Path;

use ez_protocol::{
    InstallId, InstanceId, NodeId, ProvisioningOrderId, UnixMillis,
    order::{Action, Audience, Cause, Empty, InstanceRef, InstanceSpec, Op, ProvisioningOrder},
    refusal::{Refusal, RefusalCode},
};

use super::*;
use crate::{
    config::Place,
    journal::{DISK, Losses},
    pve::{ConfigChange, GuestConfig, settings},
};

const POLICY: &str = r#"
vmid_first = 1000
vmid_last = 1999
pool = "ez"
template_pool = "ez-templates"
storages = ["local-lvm"]

[network]
bridges = ["vmbr0"]
vlans = ["100-199", "7"]
prefixes = ["203.0.113.0/24", "2001:db8::/48"]

[images]
digests = ["sha256:1111111111111111111111111111111111111111111111111111111111111111"]

[limits]
instances = 3
vcpus_each = 4
memory_mib_each = 8192
disk_gib_each = 100
vcpus = 8
memory_mib = 16384
disk_gib = 200
creates_per_minute = 2
creates_per_day = 5
"#;

#[test]
fn building_images_is_off_unless_everything_about_it_is_said() {
    assert_eq!(policy().build, None);
    let with = |more: &str| {
        let text = POLICY.replace("[limits]", &format!("{more}\n[limits]"));
        parse(Path::new("policy.toml"), &text).map(|policy| policy.build).map_err(|error| error.to_string())
    };
    let whole = "build = true\nsources = [\"https://images.example.com/\"]\nvmid_first = 9000\nvmid_last = 9099\n\
                 import_storage = \"local\"";
    let build = with(whole).unwrap().unwrap();
    assert_eq!((build.vmids, build.import_storage.as_str()), (9_000..=9_099, "local"));
    assert_eq!(with(&whole.replace("true", "false")).unwrap(), None);
    for (place, by, key) in [
        ("sources = [\"https://images.example.com/\"]\n", "", "images.sources"),
        ("https://images.example.com/", "https://images.example.com", "images.sources"),
        ("https://images.example.com/", "file:///", "images.sources"),
        ("vmid_first = 9000\n", "", "images.vmid_first"),
        ("vmid_first = 9000", "vmid_first = 1500", "images.vmid_first"),
        ("vmid_first = 9000", "vmid_first = 9100", "images.vmid_first"),
        ("import_storage = \"local\"", "", "images.import_storage"),
        ("\"local\"", "\"lo cal\"", "images.import_storage"),
    ] {
        let changed = whole.replace(place, by);
        assert_ne!(changed, whole, "{place}");
        let error = with(&changed).unwrap_err();
        assert!(error.contains(key), "{place} -> {by}: {error}");
    }
}

#[test]
fn what_is_wrong_is_said_as_it_is() {
    let found = |text: &str| parse(Path::new("p"), text).unwrap_err().to_string();
    assert!(found(&POLICY.replace("\"ez-templates\"", "\"ez\"")).contains("must be another pool"));
    let long = POLICY.replace("[images]", "[destroy]\npurge_after_hours = 4294967296\n[images]");
    assert!(found(&long).contains("must lie between 24 and"), "{}", found(&long));
    let build = |source: &str| {
        let more = format!(
            "build = true\nsources = [\"{source}\"]\nvmid_first = 9000\nvmid_last = 9099\nimport_storage = \"local\""
        );
        parse(Path::new("p"), &POLICY.replace("[limits]", &format!("{more}\n[limits]")))
    };
    build("http://x/").unwrap();
    assert!(build("http://").is_err() && build("http:///").is_err());
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("policy.toml");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(load(&fifo).unwrap_err().to_string().contains("must be a plain file"));
}

fn policy() -> Policy {
    parse(Path::new("policy.toml"), POLICY).unwrap()
}

const DAY: i64 = 24 * 3_600_000;
const NOW: UnixMillis = UnixMillis(1_795_000_000_000);

fn instance(n: u8) -> InstanceId {
    InstanceId::generate(NOW, [n; 10])
}

fn spec() -> InstanceSpec {
    serde_json::from_value(serde_json::json!({
        "hostname": "web-1", "service": "active", "vcpus": 2, "memory_mib": 4096, "disk_gib": 40,
        "image": {"name": "debian-13", "digest": format!("sha256:{}", "1".repeat(64))},
        "network": {"bridge": "vmbr0", "vlan": 100, "mac": "BC:24:11:00:00:01", "dns": [], "firewall": true,
                    "addresses": [{"cidr": "203.0.113.10/24", "gateway": "203.0.113.1"}]},
        "ssh_keys": [], "password_hash": "$6$saltsaltsalt$hashhashhashhash",
    }))
    .unwrap()
}

fn order(op: Op) -> ProvisioningOrder {
    ProvisioningOrder {
        order_id: ProvisioningOrderId::generate(NOW, [1; 10]),
        install: InstallId::generate(NOW, [2; 10]),
        aud: Audience { node: NodeId::generate(NOW, [3; 10]), epoch: 1 },
        seq: 1,
        iat: NOW,
        nbf: NOW,
        exp: UnixMillis(NOW.0 + 1),
        instance: InstanceRef { uuid: instance(1), vmid: 1000 },
        generation: 1,
        op,
        cause: Cause { order: None, actor: "test".into() },
    }
}

fn used(n: u8, retired_at: Option<UnixMillis>) -> UsedInstance {
    let made = Some(Made { build: 0, digest: spec().image.digest });
    UsedInstance {
        instance: instance(n),
        vcpus: 2,
        memory_mib: 4096,
        disk_gib: 40,
        networks: Vec::new(),
        made,
        unmade: false,
        unsettled: false,
        retired_at,
    }
}

fn rule(usage: &Usage, order: &ProvisioningOrder) -> Option<&'static str> {
    evaluate(&policy(), usage, order, NOW).err().map(|refusal| refusal.rule)
}

fn ensure(change: impl FnOnce(&mut InstanceSpec)) -> ProvisioningOrder {
    let mut spec = spec();
    change(&mut spec);
    order(Op::Ensure(Box::new(spec)))
}

/// What one server's neighbours and itself have lost.
fn lost(hour: u64, here_hour: u64, others_day: u64, here_day: u64) -> Usage {
    let losses = Losses { hour, here_hour, others_day, here_day };
    Usage { instances: (1..=3).map(|n| used(n, None)).collect(), losses, ..Usage::default() }
}

#[test]
fn one_servers_rebuilds_take_nobody_elses_turn_and_a_days_budget_counts_servers() {
    let rebuild = ensure(|spec| spec.build = 1);
    let snapshot = || "before".parse().unwrap();
    let roll_back = order(Op::Action(Action::SnapshotRollback { name: snapshot() }));
    let delete = order(Op::Action(Action::SnapshotDelete { name: snapshot() }));
    for order in [&rebuild, &roll_back] {
        assert_eq!(rule(&lost(2, 2, 0, DISK), order), None);
        assert_eq!(rule(&lost(3, 3, 0, DISK), order), Some("destroy.replaces_per_server_per_hour"));
        assert_eq!(rule(&lost(9, 0, 3 * DISK, 0), order), None);
        assert_eq!(rule(&lost(10, 0, 3 * DISK, 0), order), Some("destroy.replaces_per_hour"));
        // Five servers a day; a server that has lost its disk already costs nothing more.
        assert_eq!(rule(&lost(0, 0, 4 * DISK, 0), order), None);
        assert_eq!(rule(&lost(0, 0, 4 * DISK, DISK), order), None);
        assert_eq!(rule(&lost(0, 0, 4 * DISK + 1, 0), order), Some("destroy.replace_percent_per_day"));
    }
    // Deleting takes no turn of an hour, but a quarter of a disk of the day.
    assert_eq!(rule(&lost(10, 3, 4 * DISK, 3), &delete), None);
    assert_eq!(rule(&lost(0, 0, 5 * DISK, 0), &delete), Some("destroy.replace_percent_per_day"));
    let refusal = |usage: &Usage| evaluate(&policy(), usage, &rebuild, NOW).unwrap_err();
    assert!(!refusal(&lost(10, 0, 0, 0)).circuit, "an hour passes by itself");
    assert!(refusal(&lost(0, 0, 5 * DISK, 0)).circuit);
    let open = Usage { circuit_open: Some(NOW), ..lost(0, 0, 0, 0) };
    assert_eq!(rule(&open, &rebuild), Some("destroy.circuit"));
    assert_eq!(rule(&open, &delete), Some("destroy.circuit"));
    assert_eq!(rule(&open, &order(Op::Action(Action::Reboot {}))), None);
}

/// An image that is not on the list gets onto no disk, whatever has to be made of the server for it.
#[test]
fn a_disk_is_made_of_an_allowed_image_alone() {
    let foreign = |build| {
        ensure(|spec| {
            spec.build = build;
            spec.image.digest = format!("sha256:{}", "2".repeat(64)).parse().unwrap();
        })
    };
    let here = |change: fn(&mut UsedInstance)| {
        let mut own = used(1, None);
        change(&mut own);
        Usage { instances: vec![own], ..Usage::default() }
    };
    for build in [0, 1] {
        assert_eq!(rule(&here(|_| {}), &foreign(build)), Some("images.digests"));
        assert_eq!(
            rule(&here(|own| (own.made, own.unmade) = (None, true)), &foreign(build)),
            Some("images.digests")
        );
        // What was adopted is not made anew by this, and what it was made of is not known.
        assert_eq!(rule(&here(|own| own.made = None), &foreign(build)), None);
    }
    // But by the time of the next wish it is, so that one counts.
    let meanwhile = |own: &mut UsedInstance| (own.made, own.unsettled) = (None, true);
    assert_eq!(rule(&here(meanwhile), &foreign(1)), Some("images.digests"));
    let open = Usage { circuit_open: Some(NOW), ..here(meanwhile) };
    assert_eq!(rule(&open, &ensure(|spec| spec.build = 1)), Some("destroy.circuit"));
    assert_eq!(rule(&open, &ensure(|_| {})), None);
}

#[test]
fn a_routed_network_has_to_lie_inside_of_what_is_allowed() {
    let routed = |cidr: &str| {
        ensure(|spec| {
            let address = serde_json::json!({ "cidr": cidr, "gateway": "fe80::1" });
            spec.network.addresses = vec![serde_json::from_value(address).unwrap()];
        })
    };
    let none = Usage::default();
    assert_eq!(rule(&none, &routed("2001:db8::5/64")), None);
    // The address alone would lie inside; what the server may send from does not.
    assert_eq!(rule(&none, &routed("2001:db8::5/3")), Some("network.prefixes"));
    assert_eq!(rule(&none, &routed("2001:db8::5/16")), Some("network.prefixes"));
}

#[test]
fn a_server_gets_no_address_that_another_one_here_has() {
    let neighbour = |retired_at, change: &dyn Fn(&mut InstanceSpec)| {
        let mut theirs = spec();
        theirs.network.mac = "BC:24:11:00:00:02".parse().unwrap();
        change(&mut theirs);
        let networks = vec![UsedNetwork::from(&theirs.network)];
        UsedInstance { networks, ..used(2, retired_at) }
    };
    let among =
        |instances: Vec<UsedInstance>| rule(&Usage { instances, ..Usage::default() }, &ensure(|_| {}));
    let routed = |spec: &mut InstanceSpec| {
        let address = serde_json::json!({ "cidr": "2001:db8:0:1::1/64", "gateway": "fe80::1" });
        spec.network.addresses = vec![serde_json::from_value(address).unwrap()];
    };
    assert_eq!(among(vec![neighbour(None, &|_| {})]), Some("network.in_use"), "the same address");
    assert_eq!(among(vec![neighbour(Some(NOW), &|_| {})]), Some("network.in_use"), "kept until the purge");
    let own_mac = |spec: &mut InstanceSpec| {
        spec.network.mac = "BC:24:11:00:00:01".parse().unwrap();
        spec.network.vlan = Some(101);
    };
    assert_eq!(among(vec![neighbour(None, &own_mac)]), Some("network.in_use"), "the same card");
    assert_eq!(among(vec![neighbour(None, &|s| s.network.vlan = Some(101))]), None, "another wire");
    let other = |s: &mut InstanceSpec| s.network.addresses[0].cidr = "203.0.113.11/24".parse().unwrap();
    assert_eq!(among(vec![neighbour(None, &other)]), None, "another address of the same prefix");

    let theirs = Usage { instances: vec![neighbour(None, &routed)], ..Usage::default() };
    let inside = ensure(|spec| {
        let address = serde_json::json!({ "cidr": "2001:db8:0:1::9/128" });
        spec.network.addresses = vec![serde_json::from_value(address).unwrap()];
    });
    assert_eq!(rule(&theirs, &inside), Some("network.in_use"), "out of a network that is routed to another");

    // What it has it keeps, whatever came meanwhile: it can be changed and suspended.
    let own = UsedInstance { networks: vec![UsedNetwork::from(&spec().network)], ..used(1, None) };
    assert_eq!(among(vec![own.clone(), neighbour(None, &|_| {})]), None);
    assert_eq!(among(vec![own]), None);
}

#[test]
fn a_configuration_tells_where_its_cards_are_and_one_address_of_each_family() {
    let seen = |values: &[(&str, &str)]| {
        let values = values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        networks_of(&GuestConfig { values, digest: String::new() })
    };
    // What we have written ourselves reads as it was ordered.
    let mut ours = spec();
    ours.network.vlan = Some(101);
    let routed = serde_json::json!({ "cidr": "2001:db8:0:1::1/64", "gateway": "fe80::1" });
    ours.network.addresses.push(serde_json::from_value(routed).unwrap());
    let told = settings::first_boot(&ours);
    let card = settings::served(&ours, &GuestConfig::default(), None).remove("net0").unwrap();
    let read = seen(&[("net0", card.as_str()), ("ipconfig0", told["ipconfig0"].as_str())]);
    assert_eq!(read, [UsedNetwork::from(&ours.network)]);

    // What others have written is read as far as it tells.
    let read = seen(&[
        ("net0", "e1000=bc:24:11:00:00:07,bridge=vmbr1"),
        ("ipconfig0", "ip=dhcp,ip6=auto"),
        ("net3", "model=virtio,macaddr=BC:24:11:00:00:08,bridge=vmbr2,tag=7"),
        ("ipconfig3", "ip=10.0.0.5/8,gw=10.0.0.1"),
        ("net4", "virtio,bridge=vmbr0"),
        ("ipconfig5", "ip=10.0.0.6/8"),
    ]);
    let shown = |net: &UsedNetwork| (net.bridge.clone(), net.vlan, net.mac.to_string(), net.sends_from.len());
    assert_eq!(
        read.iter().map(shown).collect::<Vec<_>>(),
        [
            ("vmbr1".to_owned(), None, "BC:24:11:00:00:07".to_owned(), 0),
            ("vmbr2".to_owned(), Some(7), "BC:24:11:00:00:08".to_owned(), 1),
        ]
    );
    assert_eq!(read[1].sends_from[0].to_string(), "10.0.0.5/32");
    assert!(seen(&[]).is_empty());

    // What was told of it is more than what it keeps: it is asked about nothing that it has.
    let neighbour = UsedInstance { networks: vec![UsedNetwork::from(&spec().network)], ..used(2, None) };
    let own = UsedInstance { networks: vec![UsedNetwork::from(&ours.network)], ..used(1, None) };
    let usage = Usage { instances: vec![own, neighbour], ..Usage::default() };
    let mut less = ours.network.clone();
    less.addresses.truncate(1);
    assert_eq!(rule(&usage, &ensure(|spec| spec.network = less)), None);
}

#[test]
fn an_order_inside_all_bounds_passes() {
    assert_eq!(rule(&Usage::default(), &ensure(|_| {})), None);
}

#[test]
fn each_bound_refuses_what_lies_just_beyond() {
    let none = Usage::default();
    let mut low = ensure(|_| {});
    low.instance.vmid = 999;
    assert_eq!(rule(&none, &low), Some("vmid_range"));
    let mut last = ensure(|_| {});
    last.instance.vmid = 1999;
    assert_eq!(rule(&none, &last), None);
    type Change = fn(&mut InstanceSpec);
    let cases: [(&str, Change); 10] = [
        ("network.bridges", |s| s.network.bridge = "vmbr1".into()),
        ("network.vlans", |s| s.network.vlan = Some(200)),
        ("network.require_firewall", |s| s.network.firewall = false),
        ("network.prefixes", |s| s.network.addresses[0].cidr = "203.0.114.10/24".parse().unwrap()),
        ("network.prefixes", |s| s.network.addresses[0].cidr = "2001:db9::1/64".parse().unwrap()),
        ("limits.vcpus_each", |s| s.vcpus = 5),
        ("limits.memory_mib_each", |s| s.memory_mib = 8193),
        ("limits.disk_gib_each", |s| s.disk_gib = 101),
        ("images.digests", |s| s.image.digest = format!("sha256:{}", "2".repeat(64)).parse().unwrap()),
        ("network.vlans", |s| s.network.vlan = Some(99)),
    ];
    for (expected, change) in cases {
        assert_eq!(rule(&none, &ensure(change)), Some(expected));
    }
    let within: [Change; 3] = [
        |s| s.network.vlan = None,
        |s| s.network.vlan = Some(7),
        |s| (s.vcpus, s.memory_mib, s.disk_gib) = (4, 8192, 100),
    ];
    for change in within {
        assert_eq!(rule(&none, &ensure(change)), None);
    }
}

#[test]
fn sums_count_the_others_and_replace_the_own_share() {
    let two = Usage { instances: vec![used(2, None), used(3, None)], ..Usage::default() };
    assert_eq!(rule(&two, &ensure(|_| {})), None);
    assert_eq!(rule(&two, &ensure(|s| s.vcpus = 4)), None);
    let three = Usage { instances: vec![used(2, None), used(3, None), used(4, None)], ..Usage::default() };
    assert_eq!(rule(&three, &ensure(|_| {})), Some("limits.instances"));
    let own = Usage { instances: vec![used(1, None), used(3, None), used(4, None)], ..Usage::default() };
    assert_eq!(rule(&own, &ensure(|s| s.vcpus = 4)), None);
    assert_eq!(rule(&own, &ensure(|s| s.memory_mib = 8192)), None);
    let mut heavy = own.clone();
    heavy.instances[1].memory_mib = 8193;
    assert_eq!(rule(&heavy, &ensure(|_| {})), Some("limits.memory_mib"));
}

#[test]
fn creating_is_bounded_in_time_and_changing_is_not() {
    let minute = Usage { creates_minute: 2, ..Usage::default() };
    assert_eq!(rule(&minute, &ensure(|_| {})), Some("limits.creates_per_minute"));
    let day = Usage { creates_day: 5, ..Usage::default() };
    assert_eq!(rule(&day, &ensure(|_| {})), Some("limits.creates_per_day"));
    let known = Usage { instances: vec![used(1, None)], ..minute };
    assert_eq!(rule(&known, &ensure(|_| {})), None);
}

#[test]
fn orders_of_every_kind_are_bounded_in_time_and_a_servers_end_by_the_hosts_bound_alone() {
    let usage = |orders_hour, orders_here_hour| Usage {
        instances: vec![used(1, Some(UnixMillis(NOW.0 - 2 * DAY)))],
        orders_hour,
        orders_here_hour,
        ..Usage::default()
    };
    let reboot = order(Op::Action(Action::Reboot {}));
    let end = [order(Op::Retire(Empty {})), order(Op::Purge(Empty {}))];
    for any in [&ensure(|_| {}), &reboot] {
        assert_eq!(rule(&usage(1_999, 119), any), None);
        assert_eq!(rule(&usage(1_999, 120), any), Some("limits.orders_per_server_per_hour"));
        assert_eq!(rule(&usage(2_000, 0), any), Some("limits.orders_per_hour"));
    }
    for any in &end {
        assert_eq!(rule(&usage(1_999, 1_999), any), None);
        assert_eq!(rule(&usage(2_000, 0), any), Some("limits.orders_per_hour"));
    }
    assert_eq!(rule(&usage(2_000, 0), &order(Op::Adopt(Empty {}))), Some("limits.orders_per_hour"));
}

#[test]
fn a_purge_waits_a_day_after_retiring_whatever_the_signature() {
    let purge = order(Op::Purge(Empty {}));
    let with = |at| Usage { instances: vec![used(1, at)], ..Usage::default() };
    assert_eq!(rule(&Usage::default(), &purge), Some("destroy.purge_after_hours"));
    assert_eq!(rule(&with(None), &purge), Some("destroy.purge_after_hours"));
    assert_eq!(rule(&with(Some(UnixMillis(NOW.0 - DAY + 1))), &purge), Some("destroy.purge_after_hours"));
    assert_eq!(rule(&with(Some(UnixMillis(NOW.0 - DAY))), &purge), None);
}

#[test]
fn the_destroy_budget_opens_the_circuit() {
    let retired = Some(UnixMillis(NOW.0 - 2 * DAY));
    let purge = order(Op::Purge(Empty {}));
    let few = |purges_10min, purges_day| {
        let instances = (1..=50).map(|n| used(n, retired)).collect();
        Usage { instances, purges_10min, purges_day, ..Usage::default() }
    };
    assert_eq!(evaluate(&policy(), &few(4, 4), &purge, NOW), Ok(()));
    for usage in [few(5, 5), few(0, 5)] {
        let refusal: Refusal = evaluate(&policy(), &usage, &purge, NOW).unwrap_err().into();
        assert_eq!(refusal.code, RefusalCode::CircuitOpen, "{refusal}");
    }
    let open = Usage { circuit_open: Some(NOW), ..few(0, 0) };
    let refusal: Refusal = evaluate(&policy(), &open, &purge, NOW).unwrap_err().into();
    assert_eq!((refusal.code, refusal.rule.as_deref()), (RefusalCode::CircuitOpen, Some("destroy.circuit")));
    let small = Usage { instances: vec![used(1, retired)], purges_day: 2, ..Usage::default() };
    assert_eq!(evaluate(&policy(), &small, &purge, NOW), Ok(()));
}

fn problems(text: &str) -> Vec<(usize, usize, String)> {
    let error = parse(Path::new("p.toml"), text).unwrap_err();
    let place = |p: &crate::config::Problem| match p.place {
        Place::File { line, column, .. } => (line, column, p.to_string()),
        _ => (0, 0, p.to_string()),
    };
    error.0.iter().map(place).collect()
}

#[test]
fn mistakes_in_the_file_are_named_with_their_place() {
    let found = problems(&POLICY.replace("[images]", "[destroy]\npurge_after_hours = 23\n[images]"));
    assert_eq!((found[0].0, found[0].1), (14, 21), "{found:?}");
    let found = problems(&POLICY.replace("pool = \"ez\"", "pool = \"ez\"\nshell = true"));
    assert_eq!(found[0].0, 5, "{found:?}");
    assert!(found[0].2.contains("shell: is not a known key; known are vmid_first"), "{found:?}");
    let text = POLICY
        .replace("vmid_last = 1999", "vmid_last = 5")
        .replace("\"vmbr0\"", "\"../vmbr0\"")
        .replace("203.0.113.0/24", "203.0.113.1/24")
        .replace("100-199", "0-5000")
        .replace("instances = 3", "instances = 0");
    let found = problems(&text);
    assert_eq!(found.len(), 5, "{found:?}");
    assert!(found.iter().all(|(line, _, _)| *line > 0), "{found:?}");
    assert!(problems("vmid_first = ")[0].0 == 1);
    let found = problems("");
    let needed = reference::KEYS.iter().filter(|key| key.default.is_none()).count();
    assert_eq!(found.len(), needed, "{found:?}");
    assert_eq!(found[2].2, "p.toml: pool: is missing: Proxmox pool its servers live in");
}

#[test]
fn all_mistakes_are_named_at_once_and_slips_get_a_suggestion() {
    let text = POLICY
        .replace("bridges = [\"vmbr0\"]", "bridges = \"vmbr0\"")
        .replace("vcpus_each", "vcpu_each")
        .replace("instances = 3", "instances = -3")
        .replace("[images]", "clone = \"thin\"\n[image]")
        .replace("pool = \"ez\"", "pool = 5");
    let texts: Vec<String> = problems(&text).into_iter().map(|(_, _, text)| text).collect();
    for wanted in [
        "p.toml:13:1: network.clone: is not a known key; known are bridges, vlans, prefixes, require_firewall",
        "p.toml:14:2: image: is not a known key; did you mean images?",
        "limits.vcpu_each: is not a known key; did you mean vcpus_each?",
        "p.toml:4:8: pool: must be a text, not integer",
        "p.toml:9:11: network.bridges: must be a list of texts, not string",
        "p.toml: limits.vcpus_each: is missing: Most vCPUs of one server",
        "limits.instances: must lie between 1 and 4294967295",
    ] {
        assert!(texts.iter().any(|text| text.contains(wanted)), "{wanted}\n{texts:#?}");
    }
    assert_eq!(texts.len(), 7, "{texts:#?}");
}

#[test]
fn what_is_not_said_is_as_the_reference_says() {
    let said = policy();
    let spelt: String = reference::KEYS
        .iter()
        .filter_map(|key| Some((key.name.split_once('.')?, key.default?)))
        .filter(|((section, _), _)| *section == "destroy")
        .map(|((_, name), default)| format!("{name} = {default}\n"))
        .collect();
    let with = |extra: &str| parse(Path::new("p.toml"), &format!("{extra}{POLICY}")).unwrap();
    let clone = reference::find("clone").and_then(|key| key.default).unwrap();
    assert_eq!(with(&format!("clone = {clone}\n")), said);
    assert_eq!(parse(Path::new("p.toml"), &format!("{POLICY}\n[destroy]\n{spelt}")).unwrap(), said);
    let quiet = POLICY
        .replace("creates_per_minute = 2\n", "")
        .replace("creates_per_day = 5\n", "")
        .replace("vlans = [\"100-199\", \"7\"]", "");
    let policy = parse(Path::new("p.toml"), &quiet).unwrap();
    let default = |name: &str| reference::find(name).unwrap().default.unwrap().parse::<u32>().unwrap();
    assert_eq!(policy.limits.creates_per_minute, default("limits.creates_per_minute"));
    assert_eq!(policy.limits.creates_per_day, default("limits.creates_per_day"));
    assert_eq!(policy.limits.orders_per_hour, default("limits.orders_per_hour"));
    assert_eq!(policy.limits.orders_per_server_per_hour, default("limits.orders_per_server_per_hour"));
    assert!(policy.vlans.is_empty() && policy.require_firewall);
}

#[test]
fn the_example_that_is_shipped_is_a_policy() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/node-agent/policy.toml");
    let policy = parse(&path, &std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(policy.destroy.purge_after_hours, MIN_PURGE_HOURS);
}

#[test]
fn only_own_options_and_own_snippets_are_set() {
    let change = |key: &str, value: &str| ConfigChange {
        set: [(key.to_owned(), value.to_owned())].into(),
        ..ConfigChange::default()
    };
    let check =
        |key: &str, value: &str| check_change(&policy(), 1000, "ez-ci-n1", &change(key, value)).is_ok();
    assert!(check("cores", "2"));
    assert!(check("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1,tag=100"));
    // What the snippet store names is let through, whatever kinds of files it has.
    let store = crate::cloudinit::SnippetStore::new("snippets", "ez-ci-n1").unwrap();
    assert!(check("cicustom", &store.cicustom(1000, 3)));
    for (key, value) in [
        ("args", "-x"),
        ("hookscript", "x"),
        ("scsi1", "local:10"),
        ("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr9"),
        ("net0", "virtio=BC:24:11:00:00:01"),
        ("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0,tag=9"),
        ("cicustom", "user=ez-ci-n1:snippets/ez-1001-3-user.yaml"),
        ("cicustom", "user=local:snippets/ez-1000-3-user.yaml"),
        ("cicustom", "user=ez-ci-n1:snippets/ez-1000-3-user.yaml,network=ez-ci-n1:snippets/x"),
        ("cicustom", "user=ez-ci-n1:snippets/ez-1000-../x-user.yaml"),
        ("cicustom", ""),
    ] {
        assert!(!check(key, value), "{key}={value}");
    }
    let delete = |key: &str| {
        let change = ConfigChange { delete: [key.to_owned()].into(), ..ConfigChange::default() };
        check_change(&policy(), 1000, "ez-ci-n1", &change).is_ok()
    };
    assert!(delete("net1") && delete("sshkeys") && !delete("scsi0") && !delete("lock"));
}
