//! Each invariant is shown a healthy world and a planted violation.

use ez_protocol::{InstallId, InstanceId, ProvisioningOrderId, marker::Marker};
use uuid::Uuid;

use super::*;
use crate::check::{load, world::*};

const NODE: &str = "node-1";
const OTHER: &str = "node-2";
const NOW: i64 = 1_795_000_000_000;
const LONG_AGO: i64 = NOW - 3_600_000;

fn marker(n: u128) -> Marker {
    Marker {
        install: InstallId::from_uuid(Uuid::from_u128(1)),
        instance: InstanceId::from_uuid(Uuid::from_u128(n)),
        order: ProvisioningOrderId::from_uuid(Uuid::from_u128(2)),
        epoch: 1,
    }
}

fn instance() -> String {
    marker(7).instance.to_string()
}

fn audit_row(previous: &str, seq: i64) -> Audit {
    let entry = format!("{{\"action\":\"order.paid\",\"seq\":{seq}}}");
    Audit {
        id: format!("audit-{seq}"),
        at: LONG_AGO,
        subject_kind: "order".into(),
        subject: "order-1".into(),
        hash: Some(load::chain_hash(previous, seq, &entry)),
        entry,
        seq: Some(seq),
    }
}

/// One server, bought, paid and running for an hour.
fn healthy() -> World {
    let first = audit_row(load::CHAIN_GENESIS, 1);
    let second = audit_row(first.hash.as_deref().unwrap(), 2);
    let vm = Vm {
        vmid: 20_001,
        marker: Some(marker(7)),
        running: true,
        size: [2, 4096, 40],
        macs: vec!["BC:24:11:00:00:01".into()],
        addresses: vec!["203.0.113.24".into()],
    };
    World {
        now: NOW,
        grace_ms: World::GRACE_MS,
        orders: vec![Order {
            id: "order-1".into(),
            instance: instance(),
            state: "fulfilled".into(),
            paid_at: Some(LONG_AGO),
            updated_at: LONG_AGO,
        }],
        transitions: ["paid", "fulfilled"]
            .map(|to| Transition { order: "order-1".into(), to: to.into(), at: LONG_AGO })
            .into(),
        instances: vec![Instance {
            id: instance(),
            order: "order-1".into(),
            state: "running".into(),
            observed_state: Some("running".into()),
            updated_at: LONG_AGO,
            suspended_at: None,
            plan: "s".into(),
            size: [2, 4096, 40],
        }],
        placements: vec![Placement {
            instance: instance(),
            node: NODE.into(),
            vmid: 20_001,
            vcpu: 2,
            memory_mib: 4096,
            disk_gib: 40,
        }],
        addresses: vec![Address {
            address: "203.0.113.24".into(),
            state: "held".into(),
            instance: Some(instance()),
        }],
        capacity: vec![Capacity { node: NODE.into(), capacity: [64, 65_536, 900], sold: [2, 4096, 40] }],
        nodes: vec![Node {
            id: NODE.into(),
            name: "fsn-1".into(),
            state: "active".into(),
            journal: Some("journal-1".into()),
            acked: 2,
            online: true,
        }],
        provisioning: vec![Provisioning {
            id: "po-1".into(),
            node: NODE.into(),
            seq: 1,
            instance: instance(),
            generation: 1,
            state: "succeeded".into(),
            issued_at: LONG_AGO,
            updated_at: LONG_AGO,
            envelope: "aa".into(),
            earlier: false,
            forgotten: false,
        }],
        events: vec![("journal-1".into(), 1), ("journal-1".into(), 2)],
        generations: vec![(instance(), 1)],
        audit: vec![first, second],
        inbox: vec!["evt_1".into()],
        delivered: vec!["evt_1".into()],
        mirror: vec![MirrorSubscription {
            id: "sub_1".into(),
            order: "order-1".into(),
            status: "active".into(),
            price: Some("price_1".into()),
            updated_at: LONG_AGO,
            served: true,
        }],
        hosts: vec![
            Host {
                node: NODE.into(),
                vms: vec![vm],
                foreign: vec![(100, "hash".into())],
                foreign_before: vec![(100, "hash".into())],
            },
            Host { node: OTHER.into(), ..Host::default() },
        ],
        journals: vec![Journal {
            node: NODE.into(),
            id: "journal-1".into(),
            high_seq: 1,
            tombstones: Vec::new(),
            orders: vec![JournalOrder {
                id: "po-1".into(),
                seq: 1,
                state: "succeeded".into(),
                accepted_at: LONG_AGO,
                envelope: "aa".into(),
            }],
            resources: vec![(instance(), 20_001, 1)],
        }],
        stripe: vec![StripeOrder {
            order: "order-1".into(),
            subscription: Some("sub_1".into()),
            status: Some("active".into()),
            price: Some("price_1".into()),
            plan: Some("s".into()),
            pending: false,
            not_one_server: false,
            lasts_until: None,
            paid: 900,
            refunded: 0,
            taken_back: 0,
            bank_decides: false,
            paid_at: Some(LONG_AGO),
            page: Some(BARGAIN),
            by_code: true,
        }],
        purchases: vec![("order-1".into(), BARGAIN)],
        mirror_invoices: vec![invoice()],
        invoices: vec![invoice()],
        ..World::default()
    }
}

/// A price with a set-up fee, a promotion code and taxes.
const BARGAIN: Purchase = Purchase { due: 1_000, discount: 200, tax: 100, paid: 900 };

fn invoice() -> Invoice {
    let paid_for = Some(("sub_1".into(), LONG_AGO));
    Invoice {
        id: "in_1".into(),
        status: "paid".into(),
        total: 900,
        paid: 900,
        paid_for,
        ..Invoice::default()
    }
}

#[test]
fn money_for_a_service_that_was_over_is_not_kept() {
    let late = |world: &mut World| {
        world.invoices[0].pays_until = Some(LONG_AGO + 9_000);
        world.closed.push(("sub_1".into(), LONG_AGO - 5_000));
    };
    assert_eq!(plant(late), ["I6"]);
    let returned = |world: &mut World| {
        late(world);
        world.invoices[0].refunded = 900;
    };
    assert_eq!(plant(returned), [""; 0]);
    let before = |world: &mut World| {
        late(world);
        world.closed[0].1 = LONG_AGO + 5_000;
    };
    assert_eq!(plant(before), [""; 0], "it was paid while it was served");
    for until in [None, Some(LONG_AGO - 5_000)] {
        let used = |world: &mut World| {
            late(world);
            world.invoices[0].pays_until = until;
        };
        assert_eq!(plant(used), [""; 0], "what was used is owed");
    }
}

/// Any figure of a purchase or an invoice that is not Stripe's is found, and so is a discount out of nowhere.
#[test]
fn what_a_purchase_came_to_is_stripes_to_the_cent() {
    let spoils: [fn(&mut World); 9] = [
        |world| world.purchases[0].1.due += 1,
        |world| world.purchases[0].1.discount -= 1,
        |world| world.purchases[0].1.tax = 0,
        |world| world.purchases[0].1.paid += 1,
        |world| world.stripe[0].by_code = false,
        |world| world.mirror_invoices[0].total = 1_000,
        |world| world.mirror_invoices[0].paid = 0,
        |world| world.invoices.clear(),
        |world| world.mirror_invoices.clear(),
    ];
    for spoil in spoils {
        assert_eq!(plant(spoil), ["I6"]);
    }
    // What was paid just now may be on its way.
    let fresh = |world: &mut World| {
        world.mirror_invoices.clear();
        world.invoices[0].paid_for = Some(("sub_1".into(), world.now));
    };
    assert_eq!(plant(fresh), [""; 0]);
    // A trial: nothing is due, nothing was paid, and that is right.
    let trial = |world: &mut World| {
        world.purchases[0].1 = Purchase::default();
        world.stripe[0].page = Some(Purchase::default());
        world.stripe[0].status = Some("trialing".into());
        world.mirror[0].status = "trialing".into();
        (world.stripe[0].paid, world.stripe[0].by_code) = (0, false);
    };
    assert_eq!(plant(trial), [""; 0]);
    // Too small to be charged, it is paid without money, and the next invoice of its customer takes more than it comes to.
    let small = |world: &mut World| {
        for invoices in [&mut world.mirror_invoices, &mut world.invoices] {
            invoices.push(Invoice { id: "in_2".into(), total: 20, paid: 0, ..invoice() });
            invoices.push(Invoice { id: "in_3".into(), total: 900, paid: 920, ..invoice() });
        }
        world.stripe[0].paid += 920;
    };
    assert_eq!(plant(small), [""; 0]);
}

/// The invariants a world violates, each once.
fn violated(world: &World) -> Vec<&'static str> {
    let mut names: Vec<_> = ALL.iter().flat_map(|i| (i.check)(world)).map(|v| v.invariant).collect();
    names.dedup();
    names
}

fn plant(change: impl FnOnce(&mut World)) -> Vec<&'static str> {
    let mut world = healthy();
    change(&mut world);
    violated(&world)
}

#[test]
fn a_healthy_world_violates_nothing() {
    assert_eq!(ALL.iter().flat_map(|i| (i.check)(&healthy())).collect::<Vec<_>>(), vec![]);
}

#[test]
fn i1_sees_a_second_vm_of_the_same_server() {
    let found = plant(|w| {
        let mut twin = w.hosts[0].vms[0].clone();
        twin.macs.clear();
        twin.addresses.clear();
        w.hosts[1].vms.push(twin);
    });
    assert!(found.contains(&"I1"), "{found:?}");
}

#[test]
fn i2_sees_a_vm_that_runs_without_a_paid_order_or_subscription() {
    // Cancelled after it was paid: the money is owed as well.
    assert_eq!(plant(|w| w.orders[0].state = "cancelled".into()), ["I2", "I3"]);
    let ended = plant(|w| {
        w.stripe[0].status = Some("canceled".into());
        w.mirror[0].status = "canceled".into();
    });
    assert_eq!(ended, ["I2"]);
    // It ended without a wish: what is paid for is served to its end, if the books say so.
    let lapses = |until: i64, served| {
        plant(|w| {
            w.stripe[0].status = Some("canceled".into());
            w.stripe[0].lasts_until = Some(until);
            w.mirror[0].status = "canceled".into();
            w.mirror[0].served = served;
        })
    };
    assert_eq!(lapses(NOW + 1, true), [""; 0]);
    assert_eq!([lapses(LONG_AGO, true), lapses(NOW + 1, false)], [["I2"], ["I2"]]);
    assert_eq!(plant(|w| w.instances[0].suspended_at = Some(LONG_AGO)), ["I2"]);
    assert!(plant(|w| w.orders.clear()).contains(&"I2"));
}

#[test]
fn i3_sees_paid_orders_that_never_end_and_payments_nobody_noticed() {
    assert_eq!(plant(|w| w.orders[0].state = "provisioning".into()), ["I3"]);
    let unnoticed = plant(|w| {
        w.orders[0].state = "awaiting_payment".into();
        w.orders[0].paid_at = None;
        w.hosts[0].vms[0].running = false;
        w.instances[0].observed_state = Some("stopped".into());
    });
    assert_eq!(unnoticed, ["I3"]);
}

#[test]
fn i4_sees_an_address_on_two_vms_and_one_in_use_that_is_not_held() {
    let twice = plant(|w| {
        w.hosts[1].vms.push(Vm { vmid: 101, macs: vec!["bc:24:11:00:00:01".into()], ..Vm::default() });
    });
    assert_eq!(twice, ["I4"]);
    assert_eq!(plant(|w| w.addresses[0].state = "quarantine".into()), ["I4"]);
    // One that the books never gave out, or another way to write one that they did.
    assert_eq!(plant(|w| w.hosts[0].vms[0].addresses.push("198.51.100.9".into())), ["I4"]);
    let written = plant(|w| {
        w.addresses[0].address = "2001:db8:0:0::1".into();
        w.hosts[0].vms[0].addresses = vec!["2001:db8::1".into()];
    });
    assert!(written.is_empty(), "{written:?}");
}

#[test]
fn i5_sees_marked_vms_without_a_row_and_foreign_ones_that_changed() {
    assert_eq!(plant(|w| w.journals[0].resources.clear()), ["I5"]);
    assert_eq!(plant(|w| w.hosts[0].foreign[0].1 = "other".into()), ["I5"]);
    assert_eq!(plant(|w| w.hosts[0].foreign.clear()), ["I5"]);
}

#[test]
fn i6_sees_a_mirror_and_refunds_that_differ_from_stripe() {
    assert_eq!(plant(|w| w.mirror[0].status = "past_due".into()), ["I6"]);
    assert_eq!(plant(|w| w.mirror.clear()), ["I6"]);
    assert_eq!(plant(|w| w.mirror[0].price = Some("price_2".into())), ["I6"]);
    // Another plan is paid for than the server has: not while that change waits for its payment, and not where a person
    // was asked.
    assert_eq!(plant(|w| w.stripe[0].plan = Some("m".into())), ["I6"]);
    let excused = |w: &mut World| {
        w.stripe[0].plan = Some("m".into());
        w.stripe[0].pending = true;
    };
    assert!(plant(excused).is_empty());
    let not_one = |w: &mut World| {
        w.stripe[0].plan = Some("m".into());
        w.stripe[0].not_one_server = true;
    };
    assert_eq!(plant(not_one), ["I6"]);
    let told = |w: &mut World| {
        not_one(w);
        w.told_not_one.push("order-1".into());
    };
    assert!(plant(told).is_empty(), "a person is asked");
    let asked = |w: &mut World| {
        w.stripe[0].plan = Some("m".into());
        w.asked_about.push(instance());
    };
    assert!(plant(asked).is_empty());
    assert_eq!(plant(|w| w.stripe[0].refunded = 900), ["I6"]);
    assert_eq!(plant(|w| w.refunds.push(("order-1".into(), 900, "succeeded".into()))), ["I6"]);
}

#[test]
fn i6_sees_a_payment_made_twice_that_is_kept_and_none_that_went_back() {
    let twice = |refunded: i64, status: &str, state: &str| {
        plant(|w| {
            w.stripe.insert(
                0,
                StripeOrder {
                    subscription: Some("sub_2".into()),
                    status: Some(status.into()),
                    refunded,
                    ..w.stripe[0].clone()
                },
            );
            w.surplus.push(Surplus {
                order: "order-1".into(),
                subscription: Some("sub_2".into()),
                state: state.into(),
                updated_at: LONG_AGO,
            });
        })
    };
    assert!(twice(900, "canceled", "succeeded").is_empty());
    for kept in
        [twice(0, "canceled", "wanted"), twice(900, "active", "succeeded"), twice(0, "canceled", "failed")]
    {
        assert_eq!(kept, ["I6"]);
    }
    let at_the_bank = |state: &str, bank_decides: bool, taken_back: i64| {
        plant(|w| {
            let second = StripeOrder {
                subscription: Some("sub_2".into()),
                status: Some("canceled".into()),
                bank_decides,
                taken_back,
                ..w.stripe[0].clone()
            };
            w.stripe.insert(0, second);
            w.surplus.push(Surplus {
                order: "order-1".into(),
                subscription: Some("sub_2".into()),
                state: state.into(),
                updated_at: LONG_AGO,
            });
        })
    };
    assert!(at_the_bank("wanted", true, 0).is_empty(), "nothing can be refunded until it has decided");
    assert!(at_the_bank("succeeded", false, 900).is_empty(), "it has given it back");
    assert_eq!(at_the_bank("wanted", false, 900), ["I6"]);
    let unnoticed = plant(|w| {
        w.stripe.push(StripeOrder { subscription: Some("sub_2".into()), ..w.stripe[0].clone() });
    });
    assert_eq!(unnoticed, ["I6"]);
}

#[test]
fn i6_sees_traffic_that_is_charged_twice_otherwise_or_by_nobody() {
    let bill = |state: &str| TrafficBill {
        key: "s:202611".into(),
        amount: 36,
        state: state.into(),
        item: Some("ii_1".into()),
        updated_at: LONG_AGO,
    };
    let item = |id: &str, amount| InvoiceItem {
        id: id.into(),
        key: "s:202611".into(),
        amount,
        invoice: Some("in_9".into()),
        made_at: LONG_AGO,
    };
    let well = |w: &mut World| {
        w.traffic = vec![bill("invoiced")];
        w.invoice_items = vec![item("ii_1", 36)];
    };
    assert!(plant(well).is_empty());
    let broken: [fn(&mut World); 6] = [
        |w| w.invoice_items[0].amount = 37,
        |w| w.invoice_items.push(InvoiceItem { id: "ii_2".into(), ..w.invoice_items[0].clone() }),
        |w| w.invoice_items.clear(),
        |w| w.traffic.clear(),
        |w| w.traffic[0].state = "waived".into(),
        |w| w.invoice_items[0].invoice = None,
    ];
    for (n, breaks) in broken.into_iter().enumerate() {
        let found = plant(|w| {
            well(w);
            breaks(w);
        });
        assert_eq!(found, ["I6"], "{n}");
    }
}

#[test]
fn i6_sees_credit_that_was_given_twice_or_not_at_all() {
    let credit = |mark: &str, amount| Credit { mark: mark.into(), amount, at: LONG_AGO };
    let given = plant(|w| {
        w.given_credits = vec![credit("refund_credit:order-1", 500)];
        w.credits = w.given_credits.clone();
    });
    assert!(given.is_empty(), "{given:?}");
    assert_eq!(plant(|w| w.given_credits = vec![credit("goodwill:a", 500)]), ["I6"], "not at all");
    let another = plant(|w| {
        w.given_credits = vec![credit("goodwill:a", 500)];
        w.credits = vec![credit("goodwill:a", 400)];
    });
    assert_eq!(another, ["I6"], "another amount");
    assert_eq!(plant(|w| w.credits = vec![credit("surplus", 500), credit("surplus", 500)]), ["I6"], "twice");
}

#[test]
fn i7_sees_an_edited_a_removed_an_unsealed_and_a_missing_row() {
    assert_eq!(plant(|w| w.audit[0].entry.push(' ')), ["I7"]);
    assert_eq!(plant(|w| drop(w.audit.remove(0))), ["I7"]);
    let unsealed = plant(|w| {
        w.audit[1].seq = None;
        w.audit[1].hash = None;
    });
    assert_eq!(unsealed, ["I7"]);
    assert_eq!(plant(|w| drop(w.audit.pop())), ["I7"]);
    // A row about its money is no row about its state.
    let another = plant(|w| {
        let entry = w.audit[1].entry.replace("order.paid", "payment.refunded");
        let hash = load::chain_hash(w.audit[0].hash.as_deref().unwrap(), 2, &entry);
        w.audit[1] = Audit { entry, hash: Some(hash), ..w.audit[1].clone() };
    });
    assert_eq!(another, ["I7"]);
}

#[test]
fn i8_sees_acknowledged_things_that_are_not_stored() {
    assert_eq!(plant(|w| drop(w.events.pop())), ["I8"]);
    assert_eq!(plant(|w| w.inbox.clear()), ["I8"]);
    let lost = plant(|w| w.journals[0].orders.clear());
    assert_eq!(lost, ["I8"]);
    // What a host forgot when it was set up again, and what a journal has put away, is not lost: and nothing else.
    let forgotten = plant(|w| {
        w.journals[0].orders.clear();
        w.provisioning[0].forgotten = true;
    });
    assert!(!forgotten.contains(&"I8"), "{forgotten:?}");
    let put_away = plant(|w| {
        w.journals[0].orders.clear();
        w.journals[0].tombstones.push("po-1".into());
    });
    assert!(!put_away.contains(&"I8"), "{put_away:?}");
    let another = plant(|w| {
        w.journals[0].orders.clear();
        w.journals[0].tombstones.push("po-2".into());
    });
    assert!(another.contains(&"I8"), "{another:?}");
}

#[test]
fn i9_sees_sequences_given_twice_other_bytes_and_generations_from_nowhere() {
    assert_eq!(plant(|w| w.provisioning.push(w.provisioning[0].clone())), ["I9"]);
    assert_eq!(plant(|w| w.journals[0].orders[0].envelope = "bb".into()), ["I9"]);
    assert_eq!(plant(|w| w.journals[0].resources[0].2 = 2), ["I9"]);
    assert_eq!(plant(|w| w.journals[0].high_seq = 0), ["I9"]);
    assert!(plant(|w| w.provisioning.clear()).contains(&"I9"));
}

#[test]
fn i10_sees_more_sold_than_there_is_and_books_that_do_not_add_up() {
    assert_eq!(plant(|w| w.capacity[0].capacity[1] = 4095), ["I10"]);
    assert_eq!(plant(|w| w.capacity[0].sold[0] = 1), ["I10"]);
    assert_eq!(plant(|w| w.placements.clear()), ["I10"]);
    for index in 0..3 {
        assert_eq!(plant(|w| w.hosts[0].vms[0].size[index] += 1), ["I10"], "more than its place holds");
        assert_eq!(plant(|w| w.hosts[0].vms[0].size[index] -= 1), ["I10"], "less than was sold");
        let under_way = |w: &mut World| {
            w.hosts[0].vms[0].size[index] += 1;
            w.provisioning[0].updated_at = NOW;
        };
        assert!(plant(under_way).is_empty());
    }
}

#[test]
fn i11_sees_a_secret_in_a_log() {
    assert_eq!(plant(|w| w.leaks.push(("control-plane.log".into(), "the Stripe key".into()))), ["I11"]);
}

#[test]
fn i12_sees_what_was_left_behind() {
    let job = |dead| Job { name: "a b".into(), run_at: LONG_AGO, attempts: 3, dead, error: None };
    assert_eq!(plant(|w| w.jobs.push(job(false))), ["I12"]);
    assert_eq!(plant(|w| w.jobs.push(job(true))), ["I12"]);
    assert_eq!(plant(|w| w.unsent_mail.push(("mail-1".into(), LONG_AGO))), ["I12"]);
    assert_eq!(plant(|w| w.instances[0].observed_state = Some("stopped".into())), ["I12"]);
    assert_eq!(plant(|w| w.provisioning[0].state = "running".into()), ["I12"]);
    // A host that was set up again and got its old journal back: what was stuck there is over here.
    let over = |earlier| {
        plant(move |w| {
            w.provisioning[0].state = "failed".into();
            w.provisioning[0].earlier = earlier;
            w.journals[0].orders[0].state = "stuck".into();
        })
    };
    assert!(over(false).contains(&"I12"));
    assert!(!over(true).contains(&"I12"), "{:?}", over(true));
    let undelivered = plant(|w| {
        w.provisioning[0].state = "queued".into();
        w.journals[0].orders.clear();
        w.journals[0].resources.clear();
        w.hosts[0].vms.clear();
        w.instances[0].observed_state = Some("absent".into());
    });
    assert_eq!(undelivered, ["I12"]);
}

#[test]
fn what_is_still_on_its_way_gets_time() {
    let fresh = plant(|w| {
        w.orders[0].updated_at = NOW;
        w.orders[0].paid_at = Some(NOW);
        w.orders[0].state = "provisioning".into();
        w.mirror.clear();
        w.stripe[0].paid_at = Some(NOW);
        w.jobs.push(Job { name: "a b".into(), run_at: NOW, ..Job::default() });
    });
    assert_eq!(fresh, Vec::<&str>::new());
}
