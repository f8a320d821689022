use std::collections::BTreeSet;

use ez_protocol::{NodeId, UnixMillis};
use proptest::prelude::*;

use super::*;

const IMAGE: &str = "sha256:aa";

fn need(vcpu: u32, memory_mib: u64, disk_gib: u64) -> Need {
    Need { location: "fsn".into(), vcpu, memory_mib, disk_gib, image_digest: IMAGE.into() }
}

fn node(n: u8) -> NodeView {
    NodeView {
        id: NodeId::generate(UnixMillis(1), [n; 10]),
        name: format!("fsn-{n}"),
        location: "fsn".into(),
        cordoned: false,
        known: true,
        online: true,
        away: false,
        vcpu: Room { capacity: 64, sold: 0 },
        memory_mib: Room { capacity: 65_536, sold: 0 },
        disk_gib: Room { capacity: 1_000, sold: 0 },
        images: BTreeSet::from([IMAGE.to_owned()]),
        has_storage: true,
        has_bridge: true,
        free_ipv4: 10,
        free_vmids: 100,
    }
}

fn fleet(nodes: Vec<NodeView>) -> FleetSnapshot {
    FleetSnapshot { nodes }
}

#[test]
fn each_missing_thing_has_its_own_reason() {
    type Spoil = fn(&mut NodeView);
    let cases: [(Spoil, NoPlace); 9] = [
        (|n| n.location = "nbg".into(), NoPlace::UnknownLocation),
        (|n| n.cordoned = true, NoPlace::NoneAccepting),
        (|n| n.known = false, NoPlace::NoneAccepting),
        (|n| n.images.clear(), NoPlace::ImageNotReady),
        (|n| n.has_bridge = false, NoPlace::NoStorageOrBridge),
        (|n| n.has_storage = false, NoPlace::NoStorageOrBridge),
        (|n| n.free_ipv4 = 0, NoPlace::NoAddress),
        (|n| n.free_vmids = 0, NoPlace::NoAddress),
        (|n| n.disk_gib.sold = 990, NoPlace::SoldOut),
    ];
    for (spoil, reason) in cases {
        let mut one = node(1);
        spoil(&mut one);
        assert_eq!(choose(&fleet(vec![one]), &need(2, 4_096, 40), &[]), Err(reason));
    }
    let one = node(1);
    assert_eq!(choose(&fleet(vec![one.clone()]), &need(2, 4_096, 40), &[one.id]), Err(NoPlace::AllTried));
}

#[test]
fn the_least_full_node_wins_and_online_beats_empty() {
    let (mut a, b) = (node(1), node(2));
    a.memory_mib.sold = 8_192;
    assert_eq!(choose(&fleet(vec![a.clone(), b.clone()]), &need(2, 4_096, 40), &[]), Ok(b.id));
    let mut offline = b;
    offline.online = false;
    assert_eq!(choose(&fleet(vec![a.clone(), offline.clone()]), &need(2, 4_096, 40), &[]), Ok(a.id));
    assert_eq!(choose(&fleet(vec![offline.clone()]), &need(2, 4_096, 40), &[]), Ok(offline.id));
}

#[test]
fn a_tie_is_broken_by_id() {
    let (a, b) = (node(1), node(2));
    assert_eq!(choose(&fleet(vec![b.clone(), a.clone()]), &need(1, 1, 1), &[]), Ok(a.id));
    assert_eq!(choose(&fleet(vec![a.clone(), b]), &need(1, 1, 1), &[]), Ok(a.id));
}

fn any_room() -> impl Strategy<Value = Room> {
    (0_u64..200, 0_u64..220).prop_map(|(capacity, sold)| Room { capacity, sold })
}

prop_compose! {
    fn any_node(n: u8)(
        cordoned in prop::bool::weighted(0.2), known in prop::bool::weighted(0.9), online in any::<bool>(),
        vcpu in any_room(), memory_mib in any_room(), disk_gib in any_room(),
        ready in prop::bool::weighted(0.8), has_storage in prop::bool::weighted(0.9),
        has_bridge in prop::bool::weighted(0.9), free_ipv4 in 0_u64..5, free_vmids in 0_u64..5,
        here in prop::bool::weighted(0.8),
    ) -> NodeView {
        NodeView {
            location: if here { "fsn".into() } else { "nbg".into() },
            cordoned, known, online, away: !online && free_ipv4 % 2 == 0, vcpu, memory_mib, disk_gib, has_storage, has_bridge, free_ipv4, free_vmids,
            images: if ready { BTreeSet::from([IMAGE.to_owned()]) } else { BTreeSet::new() },
            ..node(n)
        }
    }
}

fn any_fleet() -> impl Strategy<Value = Vec<NodeView>> {
    (any_node(1), any_node(2), any_node(3), any_node(4), any_node(5), 0_usize..6)
        .prop_map(|(a, b, c, d, e, keep)| [a, b, c, d, e].into_iter().take(keep).collect())
}

fn able(node: &NodeView, need: &Need, exclude: &[NodeId]) -> bool {
    node.location == need.location
        && !node.cordoned
        && !node.away
        && node.known
        && !exclude.contains(&node.id)
        && node.images.contains(&need.image_digest)
        && node.has_storage
        && node.has_bridge
        && node.free_ipv4 > 0
        && node.free_vmids > 0
        && node.vcpu.sold + u64::from(need.vcpu) <= node.vcpu.capacity
        && node.memory_mib.sold + need.memory_mib <= node.memory_mib.capacity
        && node.disk_gib.sold + need.disk_gib <= node.disk_gib.capacity
}

proptest! {
    #[test]
    fn the_choice_is_able_and_no_able_node_means_no_place(
        nodes in any_fleet(), vcpu in 1_u32..60, memory in 1_u64..60, disk in 1_u64..60, tried in 0_usize..3,
    ) {
        let need = need(vcpu, memory, disk);
        let exclude: Vec<NodeId> = nodes.iter().take(tried).map(|n| n.id).collect();
        match choose(&fleet(nodes.clone()), &need, &exclude) {
            Ok(id) => {
                let chosen = nodes.iter().find(|n| n.id == id).unwrap();
                prop_assert!(able(chosen, &need, &exclude));
                for other in nodes.iter().filter(|n| able(n, &need, &exclude)) {
                    prop_assert!(chosen.online || !other.online, "an online node was passed over");
                    if other.online == chosen.online {
                        prop_assert!(chosen.fullness_after(&need) <= other.fullness_after(&need));
                    }
                }
            }
            Err(_) => prop_assert!(nodes.iter().all(|n| !able(n, &need, &exclude))),
        }
    }

    #[test]
    fn the_order_of_nodes_does_not_matter(nodes in any_fleet(), vcpu in 1_u32..60) {
        let need = need(vcpu, 10, 10);
        let forward = choose(&fleet(nodes.clone()), &need, &[]);
        let backward = choose(&fleet(nodes.into_iter().rev().collect()), &need, &[]);
        prop_assert_eq!(forward.ok(), backward.ok());
    }

    #[test]
    fn where_a_server_can_be_placed_there_is_room(nodes in any_fleet(), vcpu in 1_u32..60) {
        let need = need(vcpu, 10, 10);
        let snapshot = fleet(nodes);
        if choose(&snapshot, &need, &[]).is_ok() {
            prop_assert!(room_for(&snapshot, &need) > 0);
        }
    }
}
