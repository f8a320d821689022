//! Stories and properties of provisioning orders.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::input::{Hostname, SshPublicKey};

/// A key whose blob is a well-formed ed25519 key of zeros.
pub(crate) fn key() -> SshPublicKey {
    SshPublicKey::parse(
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA jane",
    )
    .unwrap()
}

pub(crate) fn spec() -> InstanceSpec {
    InstanceSpec {
        hostname: Hostname::parse("web-1").unwrap(),
        service: Service::Active,
        vcpus: 2,
        memory_mib: 4096,
        disk_gib: 40,
        image: ImageRef {
            name: "debian-13".into(),
            digest: ImageDigest::parse(&format!("sha256:{}", "ab".repeat(32))).unwrap(),
            family: None,
        },
        network: NetworkSpec {
            bridge: "vmbr0".into(),
            vlan: None,
            mac: MacAddress::parse("BC:24:11:00:00:01").unwrap(),
            addresses: vec![
                AddressAssignment {
                    cidr: "203.0.113.24/24".parse().unwrap(),
                    gateway: Some("203.0.113.1".parse().unwrap()),
                },
                AddressAssignment {
                    cidr: "2001:db8:12::1/64".parse().unwrap(),
                    gateway: Some("fe80::1".parse().unwrap()),
                },
            ],
            dns: vec!["192.0.2.53".parse().unwrap()],
            rate_mbit: Some(1000),
            firewall: true,
            rules: None,
        },
        ssh_keys: vec![key()],
        password_hash: None,
        user_data: None,
        build: 0,
        rescue: None,
        iso: None,
        tags: Vec::new(),
        recipes: Vec::new(),
        locale: None,
        timezone: None,
    }
}

pub(crate) fn order(op: Op) -> ProvisioningOrder {
    let id = |n: u128| Uuid::from_u128(0x0193_5000_0000_7000_8000_0000_0000_0000 + n);
    ProvisioningOrder {
        order_id: ProvisioningOrderId::from_uuid(id(1)),
        install: InstallId::from_uuid(id(2)),
        aud: Audience { node: NodeId::from_uuid(id(3)), epoch: 1 },
        seq: 7,
        iat: UnixMillis(1_795_000_000_000),
        nbf: UnixMillis(1_795_000_000_000),
        exp: UnixMillis(1_795_000_600_000),
        instance: InstanceRef { uuid: InstanceId::from_uuid(id(4)), vmid: 20_001 },
        generation: 1,
        op,
        cause: Cause { order: Some(OrderId::from_uuid(id(5))), actor: "customer".into() },
    }
}

fn every_op() -> Vec<Op> {
    let mut ops = vec![
        Op::Ensure(Box::new(spec())),
        Op::Ensure(Box::new(full_spec())),
        Op::Retire(Empty {}),
        Op::Purge(Empty {}),
        Op::Adopt(Empty {}),
    ];
    let name = || SnapshotName::parse("before-upgrade").unwrap();
    let backup = ProvisioningOrderId::from_uuid(Uuid::from_u128(0x0193_5000_0000_7000_8000_0000_0000_0009));
    let hash = PasswordHash::parse("$6$saltsaltsalt$hashhashhashhash").unwrap();
    ops.extend(PowerVerb::ALL.map(|verb| Op::Action(verb.into())));
    ops.extend(
        [
            Action::SnapshotCreate { name: name() },
            Action::SnapshotRollback { name: name() },
            Action::SnapshotDelete { name: name() },
            Action::BackupCreate { keep: 7 },
            Action::BackupRestore { backup },
            Action::BackupDelete { backup },
            Action::SetPassword { hash },
        ]
        .map(Op::Action),
    );
    ops
}

#[test]
fn every_op_survives_its_own_bytes() {
    for op in every_op() {
        let order = order(op);
        let bytes = order.to_bytes().unwrap();
        assert_eq!(ProvisioningOrder::from_bytes(&bytes), Ok(order));
    }
}

#[test]
fn a_constraint_that_is_not_understood_makes_the_whole_order_unreadable() {
    let text = String::from_utf8(order(Op::Ensure(Box::new(spec()))).to_bytes().unwrap()).unwrap();
    for (place, with) in [
        ("\"seq\":7", "\"seq\":7,\"priority\":1"),
        ("\"vmid\":20001", "\"vmid\":20001,\"force\":true"),
        ("\"vcpus\":2", "\"vcpus\":2,\"cpu_type\":\"host\""),
        ("\"bridge\":\"vmbr0\"", "\"bridge\":\"vmbr0\",\"mtu\":9000"),
        ("\"op\":{\"ensure\"", "\"op\":{\"destroy\":{},\"ensure\""),
    ] {
        let changed = text.replacen(place, with, 1);
        assert_ne!(changed, text, "{place} is not in the payload");
        let refused = ProvisioningOrder::from_bytes(changed.as_bytes());
        assert!(matches!(refused, Err(PayloadError::Unreadable(_))), "{with}: {refused:?}");
    }
}

#[test]
fn an_action_has_its_own_parameters_and_no_others() {
    let text = |op: &str| {
        let sample = String::from_utf8(order(Op::Retire(Empty {})).to_bytes().unwrap()).unwrap();
        sample.replacen(r#"{"retire":{}}"#, &format!(r#"{{"action":{op}}}"#), 1)
    };
    let read = |op: &str| ProvisioningOrder::from_bytes(text(op).as_bytes());
    assert_eq!(read(r#"{"verb":"reboot"}"#).unwrap().op, Op::Action(Action::Reboot {}));
    assert!(read(r#"{"verb":"snapshot_delete","name":"before-upgrade"}"#).is_ok());
    for wrong in [
        r#"{"verb":"reboot","hard":true}"#,
        r#"{"verb":"reboot","verb":"stop"}"#,
        r#"{"verb":"explode"}"#,
        r#"{}"#,
        r#"{"verb":"snapshot_create"}"#,
        r#"{"verb":"snapshot_create","name":"current"}"#,
        r#"{"verb":"snapshot_create","name":"../x"}"#,
        r#"{"verb":"snapshot_create","name":"ok","name":"ok"}"#,
        r#"{"verb":"snapshot_create","name":"ok","vmstate":true}"#,
        r#"{"verb":"backup_create","keep":0}"#,
        r#"{"verb":"backup_create","keep":101}"#,
        r#"{"verb":"set_password","hash":"secret"}"#,
        r#"{"verb":"backup_restore","backup":"local:backup/x"}"#,
    ] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn bytes_around_the_object_doubled_keys_and_odd_numbers_are_refused() {
    let text = String::from_utf8(order(Op::Retire(Empty {})).to_bytes().unwrap()).unwrap();
    for wrong in [
        format!("{text} "),
        format!(" {text}"),
        format!("\u{feff}{text}"),
        format!("{text}{text}"),
        text.replacen("\"seq\":7", "\"seq\":7,\"seq\":8", 1),
        text.replacen("\"seq\":7", "\"seq\":7.0", 1),
        text.replacen("\"seq\":7", "\"seq\":\"7\"", 1),
        text.replacen("\"seq\":7", "\"seq\":0", 1),
        text.replacen("\"seq\":7", "\"seq\":9007199254740992", 1),
        text.replacen("\"seq\":7", "\"seq\":-7", 1),
        text.replacen("\"vmid\":20001", "\"vmid\":99", 1),
        text.replacen("1795000600000", "1795000000000", 1),
        text.replacen("\"customer\"", "\"cust omer\"", 1),
        text.replacen("{}", "{\"force\":true}", 1),
        text.replacen("{}", "null", 1),
        String::new(),
        "{".into(),
    ] {
        assert!(ProvisioningOrder::from_bytes(wrong.as_bytes()).is_err(), "{wrong}");
    }
}

fn rules(protocol: Option<Protocol>, (first, last): (u16, u16)) -> FirewallRules {
    let ports = Some(Ports { first, last });
    let (direction, verdict) = (Direction::In, Verdict::Accept);
    let rule = FirewallRule { direction, verdict, protocol, ports, peers: Vec::new() };
    FirewallRules { inbound: Verdict::Drop, rules: vec![rule] }
}

/// A specification in which nothing is left out.
pub(crate) fn full_spec() -> InstanceSpec {
    let mut spec = spec();
    spec.build = 3;
    spec.rescue = Some(ImageRef { name: "rescue".into(), ..spec.image.clone() });
    spec.iso = Some(IsoName::parse("debian-13.1.0-amd64-netinst.iso").unwrap());
    spec.tags = vec![Tag::parse("web").unwrap()];
    spec.network.rules = Some(rules(Some(Protocol::Tcp), (22, 22)));
    spec
}

#[test]
fn names_of_media_tags_and_snapshots_are_plain() {
    for wrong in ["../x.iso", "x.iso/..", ".iso", "a b.iso", "x.img", "-x.iso", "a..b.iso"] {
        assert!(IsoName::parse(wrong).is_err(), "{wrong}");
    }
    for wrong in ["", "ez", "ez-retired", "Web", "a;b", "-a"] {
        assert!(Tag::parse(wrong).is_err(), "{wrong}");
    }
    for wrong in ["a", "A1", "1a", "pending", "a b", "a.b"] {
        assert!(SnapshotName::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn specs_that_contradict_themselves_are_refused() {
    let with = |change: fn(&mut InstanceSpec)| {
        let mut spec = spec();
        change(&mut spec);
        order(Op::Ensure(Box::new(spec))).to_bytes()
    };
    let cases: [fn(&mut InstanceSpec); 20] = [
        |s| s.vcpus = 0,
        |s| s.memory_mib = 64,
        |s| s.disk_gib = 0,
        |s| s.ssh_keys.clear(),
        |s| s.ssh_keys = vec![key(); 21],
        |s| s.network.bridge = "vmbr0,tag=7".into(),
        |s| s.network.vlan = Some(4095),
        |s| s.network.addresses[1] = s.network.addresses[0],
        |s| s.network.addresses[0].gateway = "2001:db8::1".parse().ok(),
        |s| s.network.addresses[0].cidr = "127.0.0.1/8".parse().unwrap(),
        |s| s.image.name = "../debian".into(),
        |s| s.network.rate_mbit = Some(0),
        |s| s.rescue = Some(ImageRef { name: "-".into(), ..s.image.clone() }),
        |s| s.tags = vec![Tag::parse("web").unwrap(); 9],
        |s| (s.network.firewall, s.network.rules) = (false, Some(rules(Some(Protocol::Tcp), (22, 22)))),
        |s| s.network.rules = Some(rules(Some(Protocol::Icmp), (22, 22))),
        |s| s.network.rules = Some(rules(None, (22, 22))),
        |s| s.network.rules = Some(rules(Some(Protocol::Tcp), (23, 22))),
        |s| s.recipes = vec![Recipe::Docker],
        |s| (s.image.family, s.recipes) = (Some(OsFamily::Debian), vec![Recipe::Docker; 2]),
    ];
    for (index, change) in cases.into_iter().enumerate() {
        assert!(matches!(with(change), Err(PayloadError::Spec(_))), "case {index}");
    }
}

#[test]
fn what_nobody_chose_is_not_written_so_that_older_agents_understand_the_order() {
    let text = String::from_utf8(order(Op::Ensure(Box::new(spec()))).to_bytes().unwrap()).unwrap();
    for later in ["recipes", "locale", "timezone", "family"] {
        assert!(!text.contains(later), "{later}: {text}");
    }
    let mut chosen = spec();
    chosen.image.family = Some(OsFamily::Debian);
    chosen.recipes = vec![Recipe::Docker, Recipe::UnattendedUpgrades];
    chosen.locale = Some("de_DE.UTF-8".parse().unwrap());
    chosen.timezone = Some("Europe/Berlin".parse().unwrap());
    let order = order(Op::Ensure(Box::new(chosen)));
    let bytes = order.to_bytes().unwrap();
    assert_eq!(ProvisioningOrder::from_bytes(&bytes), Ok(order));
}

#[test]
fn the_hash_depends_on_what_is_wished_and_on_nothing_else() {
    let first = order(Op::Ensure(Box::new(spec())));
    let mut later = first.clone();
    later.seq += 1;
    assert_eq!(first.op.spec_hash(), later.op.spec_hash());
    let mut bigger = spec();
    bigger.memory_mib += 1;
    assert_ne!(first.op.spec_hash(), Op::Ensure(Box::new(bigger)).spec_hash());
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused_but_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = ProvisioningOrder::from_bytes(&bytes);
    }

    #[test]
    fn orders_survive_their_own_bytes(
        seq in 1_u64..1 << 53, generation in 1_u64..1 << 53, epoch in 1_u64..1 << 53,
        vmid in 100_u32..=999_999_999, vcpus in 1_u32..=128, memory in 128_u32..=4 << 20,
        disk in 1_u32..=65_536, vlan in proptest::option::of(1_u16..=4094), firewall in any::<bool>(),
    ) {
        let mut wished = spec();
        wished.vcpus = vcpus;
        wished.memory_mib = memory;
        wished.disk_gib = disk;
        wished.network.vlan = vlan;
        wished.network.firewall = firewall;
        let mut order = order(Op::Ensure(Box::new(wished)));
        order.seq = seq;
        order.generation = generation;
        order.aud.epoch = epoch;
        order.instance.vmid = vmid;
        let bytes = order.to_bytes().unwrap();
        prop_assert_eq!(ProvisioningOrder::from_bytes(&bytes), Ok(order));
    }

    #[test]
    fn one_changed_byte_never_reads_as_the_same_order(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let order = order(Op::Ensure(Box::new(spec())));
        let mut bytes = order.to_bytes().unwrap();
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != to);
        bytes[at] = to;
        prop_assert_ne!(ProvisioningOrder::from_bytes(&bytes), Ok(order));
    }
}
