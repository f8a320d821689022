//! One story per way an order can go.

use ez_protocol::{
    UnixMillis,
    message::EventKind,
    order::{Empty, InstanceRef, Op, PowerVerb, Service},
};

use super::kit::Host;
use crate::{
    executor::Load,
    journal::{OrderState, Phase},
    policy::{self, Usage, UsedInstance},
    pve::fake::Fault,
    testing::{NOW, VMID, ensure, instance, order},
};

fn press(seq: u64, generation: u64, verb: PowerVerb) -> ez_protocol::order::ProvisioningOrder {
    order(seq, generation, Op::Action(verb.into()))
}

#[tokio::test]
async fn a_create_goes_through_its_named_steps_and_ends_with_facts() {
    let host = Host::new().await;
    let end = host.carry_out(&ensure(1, 1)).await;
    assert_eq!(end.state, OrderState::Succeeded, "{:?}", end.result);
    assert_eq!(
        host.steps_done().await,
        [
            "clone",
            "configure",
            "resize",
            "cloud_init",
            "firewall",
            "start",
            "start_on_boot",
            "start",
            "await_usable"
        ]
    );
    let last = host.events().await.pop().unwrap();
    let facts = last.facts.unwrap();
    assert_eq!(last.kind, i32::from(EventKind::Succeeded));
    assert_eq!(
        (facts.vmid, facts.power.as_str(), facts.addresses[0].as_str()),
        (VMID, "running", "203.0.113.10")
    );
    assert!(!facts.confirmed, "a silent guest is said to be silent");

    let guest = host.pve.guest(VMID).unwrap();
    let option = |key: &str| guest.config.get(key).map_or("", String::as_str);
    assert!(guest.running);
    assert_eq!(guest.pool.as_deref(), Some("ez"));
    assert_eq!(option("net0"), "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1");
    assert_eq!(option("ipconfig0"), "ip=203.0.113.10/24,gw=203.0.113.1");
    assert_eq!((option("cores"), option("memory"), option("tags")), ("2", "2048", "ez"));
    assert!(option("scsi0").ends_with("size=20G"));
    assert_eq!(guest.firewall.unwrap().addresses.into_iter().next().unwrap().to_string(), "203.0.113.10/32");
    let row = host.books.journal.resource(instance(10)).await.unwrap().unwrap();
    assert_eq!((row.phase, row.observed_generation), (Phase::Present, 1));
}

#[tokio::test]
async fn an_answering_guest_agent_confirms() {
    let host = Host::new().await;
    host.pve.put_guest(9_000, |template| template.agent_answers = true);
    host.carry_out(&ensure(1, 1)).await;
    assert!(host.events().await.pop().unwrap().facts.unwrap().confirmed);
}

#[tokio::test]
async fn a_lost_answer_of_any_call_is_looked_at_and_never_repeated_blindly() {
    for verb in ["clone_template", "set_config", "resize", "regenerate_cloudinit", "set_firewall", "start"] {
        for fault in [Fault::LostBefore, Fault::LostAfter, Fault::Unreachable] {
            let host = Host::new().await;
            host.pve.fail_next(verb, fault.clone());
            let end = host.carry_out(&ensure(1, 1)).await;
            assert_eq!(end.state, OrderState::Succeeded, "{verb} {fault:?}: {:?}", end.result);
            assert!(host.pve.guest(VMID).unwrap().running);
            let clones = if verb == "clone_template" && fault != Fault::LostAfter { 2 } else { 1 };
            assert_eq!(host.count("clone_template"), clones, "{verb} {fault:?}");
        }
    }
}

#[tokio::test]
async fn a_failing_task_of_any_step_is_undone_and_nothing_stays() {
    let text = || Fault::TaskFails("start failed: QEMU exited with code 1".to_owned());
    for verb in ["clone_template", "resize", "start"] {
        let host = Host::new().await;
        host.pve.fail_next(verb, text());
        let end = host.carry_out(&ensure(1, 1)).await;
        assert_eq!(end.state, OrderState::Undone, "{verb}: {:?}", end.result);
        assert!(host.pve.guest(VMID).is_none(), "{verb}");
        assert!(host.files.0.lock().unwrap().is_empty(), "{verb}");
        assert!(host.books.journal.resources().await.unwrap().is_empty(), "{verb}");
        let kinds: Vec<i32> = host.events().await.iter().map(|e| e.kind).collect();
        let tail = [EventKind::StepFailed, EventKind::Undoing].map(i32::from);
        assert!(kinds.windows(2).any(|pair| pair == tail), "{verb}: {kinds:?}");
    }
}

#[tokio::test]
async fn a_storage_whose_lock_was_not_free_in_time_is_asked_again() {
    for text in [
        "clone failed: can't lock file '/var/lock/pve-manager/pve-storage-local-lvm' - got timeout",
        "clone failed: error with cfs lock 'storage-ceph': got lock request timeout",
    ] {
        let host = Host::new().await;
        host.pve.fail_next("clone_template", Fault::TaskFails(text.to_owned()));
        let end = host.carry_out(&ensure(1, 1)).await;
        assert_eq!(end.state, OrderState::Succeeded, "{text}: {:?}", end.result);
        assert_eq!(host.count("clone_template"), 2, "{text}");
        assert!(host.pve.guest(VMID).unwrap().running);
    }
}

#[tokio::test]
async fn a_refused_call_of_any_step_is_undone() {
    for verb in ["set_config", "regenerate_cloudinit", "set_firewall"] {
        let host = Host::new().await;
        host.pve.fail_next(verb, Fault::Refused(403, "Permission check failed".to_owned()));
        let end = host.carry_out(&ensure(1, 1)).await;
        assert_eq!(end.state, OrderState::Undone, "{verb}");
        assert!(host.pve.guest(VMID).is_none(), "{verb}");
        assert!(end.result.unwrap().contains("\"class\":\"policy\""), "{verb}");
    }
}

#[tokio::test]
async fn an_undo_that_cannot_be_finished_says_so() {
    let host = Host::new().await;
    host.pve.fail_next("start", Fault::TaskFails("start failed".to_owned()));
    host.pve.fail_next("destroy", Fault::Refused(403, "Permission check failed".to_owned()));
    let end = host.carry_out(&ensure(1, 1)).await;
    assert_eq!(end.state, OrderState::Stuck);
    assert!(end.result.unwrap().contains("undoing it"));
    assert!(host.pve.guest(VMID).is_some());
    let row = host.books.journal.resource(instance(10)).await.unwrap();
    assert!(row.is_some(), "its VMID stays taken");
}

#[tokio::test]
async fn a_foreign_vm_on_the_vmid_is_left_alone() {
    let host = Host::new().await;
    host.pve.put_guest(VMID, |guest| {
        guest.config.insert("description".to_owned(), "the operator's own".to_owned());
    });
    let before = host.pve.guest(VMID);
    let end = host.carry_out(&ensure(1, 1)).await;
    assert_eq!(end.state, OrderState::Failed);
    assert!(end.result.unwrap().contains("VMID_TAKEN"));
    assert_eq!(host.pve.guest(VMID), before);
    assert!(host.pve.changes().is_empty(), "nothing was called: {:?}", host.pve.changes());
}

#[tokio::test]
async fn a_vm_whose_marker_goes_while_its_destruction_waits_for_room_is_left_alone() {
    let host = Host::new().await;
    host.carry_out(&ensure(1, 1)).await;
    host.carry_out(&order(2, 2, Op::Retire(Empty {}))).await;
    let purge = order(3, 3, Op::Purge(Empty {}));
    host.books.accept(&purge).await;
    // Others do all the heavy work that this host may have.
    let load = || Load::Heavy;
    let others = [host.engine.limits.enter(&load()).await, host.engine.limits.enter(&load()).await];
    let (engine, id) = (std::sync::Arc::clone(&host.engine), purge.order_id);
    let work = tokio::spawn(async move { engine.run_order(id).await });
    let has_looked = || {
        let trace = host.pve.trace();
        trace.iter().any(|call| call.step == Some((4, "destroy")) && call.verb == "guest_status")
    };
    while !has_looked() {
        tokio::task::yield_now().await;
    }
    // Meanwhile the host's owner takes the number for a VM of their own.
    host.pve.put_guest(VMID, |guest| {
        guest.config.insert("description".to_owned(), "the operator's own".to_owned());
    });
    drop(others);
    work.await.unwrap().unwrap();
    let end = host.row(&purge).await;
    assert_eq!(end.state, OrderState::Stuck, "{:?}", end.result);
    assert!(end.result.unwrap().contains("hands off"));
    assert!(host.pve.guest(VMID).is_some() && host.count("destroy") == 0);
    let rows = host.books.journal.steps(purge.order_id).await.unwrap();
    assert!(rows.iter().all(|row| row.name != "destroy" || row.attempt == 0), "nothing was intended");
}

#[tokio::test]
async fn a_missing_template_fails_before_anything_is_called() {
    let host = Host::new().await;
    host.pve.put_guest(9_000, |guest| {
        guest.config.remove("description");
    });
    let end = host.carry_out(&ensure(1, 1)).await;
    assert_eq!(end.state, OrderState::Failed);
    assert!(end.result.unwrap().contains("\"class\":\"template\""));
    assert!(host.pve.changes().is_empty());
}

#[tokio::test]
async fn a_killed_clone_without_the_repair_unit_is_stuck_with_the_way_out() {
    let host = Host::new().await;
    host.pve.fail_next("clone_template", Fault::TaskKilled);
    let end = host.carry_out(&ensure(1, 1)).await;
    assert_eq!(end.state, OrderState::Stuck);
    assert!(end.result.unwrap().contains("qm unlock 1000"));
}

#[tokio::test]
async fn a_killed_clone_is_cleaned_by_the_repair_and_made_again() {
    let mut host = Host::new().await;
    host.install_repair();
    host.pve.fail_next("clone_template", Fault::TaskKilled);
    let request = host.repair_dir.clone().unwrap().join("clean-clone-1000.json");
    let order = ensure(1, 1);
    host.books.accept(&order).await;
    let engine = std::sync::Arc::clone(&host.engine);
    let work = tokio::spawn(async move { engine.run_order(order.order_id).await });
    while !request.exists() {
        tokio::task::yield_now().await;
    }
    let asked: serde_json::Value = serde_json::from_slice(&std::fs::read(&request).unwrap()).unwrap();
    assert_eq!((asked["verb"].as_str(), asked["vmid"].as_u64()), (Some("clean-clone"), Some(1_000)));
    host.pve.forget(VMID);
    std::fs::remove_file(&request).unwrap();
    work.await.unwrap().unwrap();
    assert_eq!(host.row(&ensure(1, 1)).await.state, OrderState::Succeeded);
    assert_eq!(host.count("clone_template"), 2);
}

#[tokio::test]
async fn what_the_repair_finds_to_be_no_rest_of_a_clone_is_somebody_elses() {
    let mut host = Host::new().await;
    host.install_repair();
    host.pve.fail_next("clone_template", Fault::TaskKilled);
    let request = host.repair_dir.clone().unwrap().join("clean-clone-1000.json");
    let order = ensure(1, 1);
    host.books.accept(&order).await;
    let engine = std::sync::Arc::clone(&host.engine);
    let work = tokio::spawn(async move { engine.run_order(order.order_id).await });
    while !request.exists() {
        tokio::task::yield_now().await;
    }
    // Meanwhile the rest went and somebody else took the number. Root finds nothing that it may remove and takes the
    // request away; the agent's token cannot see the VM. Root is not asked again.
    host.pve.put_guest(VMID, |guest| {
        guest.config.remove("lock");
        guest.config.insert("description".to_owned(), "their own".to_owned());
        guest.pool = Some(crate::pve::fake::OUT_OF_SIGHT.to_owned());
    });
    std::fs::remove_file(&request).unwrap();
    work.await.unwrap().unwrap();
    let end = host.row(&ensure(1, 1)).await;
    assert_eq!(end.state, OrderState::Undone, "{:?}", end.result);
    assert!(end.result.unwrap().contains("VMID_TAKEN"), "another number is tried");
    assert!(!request.exists());
    assert_eq!(host.count("destroy"), 0);
}

#[tokio::test]
async fn a_later_generation_supersedes_what_has_not_begun() {
    let host = Host::new().await;
    host.books.accept(&ensure(1, 1)).await;
    let mut bigger = ensure(2, 2);
    if let Op::Ensure(spec) = &mut bigger.op {
        spec.vcpus = 4;
    }
    host.books.accept(&bigger).await;
    assert_eq!(host.run(&ensure(1, 1)).await.state, OrderState::Superseded);
    assert_eq!(host.run(&bigger).await.state, OrderState::Succeeded);
    assert_eq!(host.pve.guest(VMID).unwrap().config["cores"], "4");
    assert_eq!(host.count("clone_template"), 1);
}

#[tokio::test]
async fn an_order_that_could_not_begin_in_time_does_not_begin() {
    let host = Host::new().await;
    host.books.accept(&ensure(1, 1)).await;
    host.clock.set(UnixMillis(NOW.0 + 600_001));
    assert_eq!(host.run(&ensure(1, 1)).await.state, OrderState::Failed);
    assert!(host.pve.changes().is_empty());
    assert!(host.books.journal.resources().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_ensure_on_what_exists_changes_only_what_differs() {
    let host = Host::new().await;
    host.carry_out(&ensure(1, 1)).await;
    let before = host.pve.changes().len();
    assert_eq!(host.carry_out(&ensure(2, 2)).await.state, OrderState::Succeeded);
    let calls = host.pve.changes()[before..].to_vec();
    assert_eq!(calls, ["set_firewall 1000"], "nothing differs but what is always set");

    let mut bigger = ensure(3, 3);
    if let Op::Ensure(spec) = &mut bigger.op {
        (spec.memory_mib, spec.disk_gib) = (4_096, 40);
    }
    assert_eq!(host.carry_out(&bigger).await.state, OrderState::Succeeded);
    let guest = host.pve.guest(VMID).unwrap();
    assert_eq!(guest.config["memory"], "4096");
    assert!(guest.config["scsi0"].ends_with("size=40G"));
    assert!(guest.running, "the power state is not touched");
}

#[tokio::test]
async fn a_suspended_server_stops_stays_off_and_comes_back() {
    let host = Host::new().await;
    host.carry_out(&ensure(1, 1)).await;
    let mut unpaid = ensure(2, 2);
    if let Op::Ensure(spec) = &mut unpaid.op {
        spec.service = Service::Suspended;
    }
    host.carry_out(&unpaid).await;
    assert!(!host.pve.guest(VMID).unwrap().running);
    let start = host.carry_out(&press(3, 2, PowerVerb::Start)).await;
    assert_eq!(start.state, OrderState::Failed);
    assert!(start.result.unwrap().contains("suspended"));
    host.carry_out(&ensure(4, 3)).await;
    assert!(host.pve.guest(VMID).unwrap().running);
}

#[tokio::test]
async fn buttons_are_pressed_once() {
    let host = Host::new().await;
    host.carry_out(&ensure(1, 1)).await;
    for (seq, verb, runs) in [
        (2, PowerVerb::Reboot, true),
        (3, PowerVerb::Reset, true),
        (4, PowerVerb::Shutdown, false),
        (5, PowerVerb::Start, true),
        (6, PowerVerb::Stop, false),
    ] {
        let end = host.carry_out(&press(seq, 1, verb)).await;
        assert_eq!(end.state, OrderState::Succeeded, "{verb:?}: {:?}", end.result);
        assert_eq!(host.pve.guest(VMID).unwrap().running, runs, "{verb:?}");
        assert_eq!(host.count(verb.as_str()), if verb == PowerVerb::Start { 2 } else { 1 }, "{verb:?}");
    }
}

#[tokio::test]
async fn a_button_whose_answer_was_lost_is_not_pressed_again() {
    for fault in [Fault::LostBefore, Fault::LostAfter] {
        let host = Host::new().await;
        host.carry_out(&ensure(1, 1)).await;
        host.pve.fail_next("reboot", fault);
        let end = host.carry_out(&press(2, 1, PowerVerb::Reboot)).await;
        assert_eq!(end.state, OrderState::Failed);
        assert!(end.result.unwrap().contains("unknown"));
        assert_eq!(host.count("reboot"), 1);
    }
}

#[tokio::test]
async fn retire_keeps_the_disk_and_purge_removes_everything() {
    let host = Host::new().await;
    host.carry_out(&ensure(1, 1)).await;
    assert_eq!(host.carry_out(&order(2, 2, Op::Retire(Empty {}))).await.state, OrderState::Succeeded);
    let guest = host.pve.guest(VMID).unwrap();
    assert!(!guest.running);
    assert_eq!((guest.config["tags"].as_str(), guest.config["onboot"].as_str()), ("ez;ez-retired", "0"));
    let start = host.carry_out(&press(3, 2, PowerVerb::Start)).await;
    assert_eq!(start.state, OrderState::Failed);

    assert_eq!(host.carry_out(&order(4, 3, Op::Purge(Empty {}))).await.state, OrderState::Succeeded);
    assert!(host.pve.guest(VMID).is_none());
    assert!(host.files.0.lock().unwrap().is_empty());
    assert!(host.books.journal.resources().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_purge_never_takes_a_running_server_or_somebody_elses() {
    let host = Host::new().await;
    host.carry_out(&ensure(1, 1)).await;
    host.carry_out(&order(2, 2, Op::Retire(Empty {}))).await;
    host.pve.put_guest(VMID, |guest| guest.running = true);
    assert_eq!(host.carry_out(&order(3, 3, Op::Purge(Empty {}))).await.state, OrderState::Failed);
    host.pve.put_guest(VMID, |guest| {
        guest.running = false;
        guest.config.insert("description".to_owned(), "taken over by hand".to_owned());
    });
    assert_eq!(host.carry_out(&order(4, 4, Op::Purge(Empty {}))).await.state, OrderState::Stuck);
    assert_eq!(host.count("destroy"), 0);
}

#[tokio::test]
async fn adopt_takes_a_marked_vm_into_the_books_and_no_other() {
    let host = Host::new().await;
    let adopt = order(1, 5, Op::Adopt(Empty {}));
    let end = host.carry_out(&adopt).await;
    assert_eq!(end.state, OrderState::Failed, "there is none");
    let marker = crate::testing::read(&adopt).marker();
    host.pve.put_guest(VMID, |guest| {
        guest.config.insert("description".to_owned(), format!("{marker}\nfrom before"));
    });
    let end = host.carry_out(&order(2, 6, Op::Adopt(Empty {}))).await;
    assert_eq!(end.state, OrderState::Succeeded, "{:?}", end.result);
    assert!(host.pve.changes().is_empty());
    let row = host.books.journal.resource(instance(10)).await.unwrap().unwrap();
    assert_eq!((row.phase, row.generation), (Phase::Present, 6));
}

/// Until its first order says what its network is, its configuration does.
#[tokio::test]
async fn the_address_of_a_server_that_was_taken_over_is_nobody_elses() {
    let host = Host::new().await;
    let adopt = order(1, 5, Op::Adopt(Empty {}));
    let marker = crate::testing::read(&adopt).marker().to_string();
    host.pve.put_guest(VMID, |guest| {
        guest.pool = Some("ez".to_owned());
        for (key, value) in [
            ("description", marker.as_str()),
            ("net0", "virtio=BC:24:11:00:00:09,bridge=vmbr0,firewall=1"),
            ("ipconfig0", "ip=203.0.113.10/24,gw=203.0.113.1"),
            ("scsi0", "local-lvm:vm-1000-disk-0,size=20G"),
            ("ide2", "local-lvm:vm-1000-cloudinit,media=cdrom"),
        ] {
            guest.config.insert(key.to_owned(), value.to_owned());
        }
    });
    // Another server that is to have the same address.
    let mut other = ensure(3, 1);
    other.instance = InstanceRef { uuid: instance(11), vmid: VMID + 1 };
    let refused = async || {
        let row = host.books.journal.resource(instance(10)).await.unwrap().unwrap();
        let usage = Usage { instances: vec![UsedInstance::from(&row)], ..Usage::default() };
        policy::evaluate(&host.engine.rules.policy, &usage, &other, NOW).err().map(|refusal| refusal.rule)
    };
    host.books.accept(&adopt).await;
    assert_eq!(refused().await, None, "nobody has looked yet");
    assert_eq!(host.run(&adopt).await.state, OrderState::Succeeded);
    assert_eq!(refused().await, Some("network.in_use"));

    let mut moved = ensure(2, 6);
    if let Op::Ensure(spec) = &mut moved.op {
        spec.network.mac = "BC:24:11:00:00:09".parse().unwrap();
        spec.network.addresses[0].cidr = "203.0.113.20/24".parse().unwrap();
    }
    host.books.accept(&moved).await;
    assert_eq!(refused().await, Some("network.in_use"), "it still has it");
    let row = host.run(&moved).await;
    assert_eq!(row.state, OrderState::Succeeded, "{:?}", row.result);
    assert_eq!(refused().await, None, "it has let it go");
}

#[tokio::test]
async fn adopting_what_is_in_the_books_changes_nothing_but_the_generation() {
    let host = Host::new().await;
    assert_eq!(host.carry_out(&ensure(1, 1)).await.state, OrderState::Succeeded);
    let adopted = async |seq: u64| {
        let before = host.books.journal.resource(instance(10)).await.unwrap().unwrap();
        let end = host.carry_out(&order(seq, seq, Op::Adopt(Empty {}))).await;
        assert_eq!(end.state, OrderState::Succeeded, "{:?}", end.result);
        let after = host.books.journal.resource(instance(10)).await.unwrap().unwrap();
        assert_eq!((after.generation, after.observed_generation), (seq, seq));
        assert_eq!((after.phase, &after.applied_json), (before.phase, &before.applied_json));
        assert_eq!(after.retired_at, before.retired_at, "the purge waits no longer for it");
        after
    };
    assert!(adopted(2).await.applied_json.is_some());
    host.carry_out(&order(3, 3, Op::Retire(Empty {}))).await;
    assert_eq!(adopted(4).await.phase, Phase::Retired);
    // It cannot be found for now: it stays in the books.
    host.pve.forget(VMID);
    assert_eq!(host.carry_out(&order(5, 5, Op::Adopt(Empty {}))).await.state, OrderState::Failed);
    assert!(host.books.journal.resource(instance(10)).await.unwrap().is_some());
}

#[tokio::test]
async fn a_retry_after_a_stuck_create_goes_on_from_what_is_there() {
    let mut host = Host::new().await;
    host.pve.fail_next("clone_template", Fault::TaskKilled);
    assert_eq!(host.carry_out(&ensure(1, 1)).await.state, OrderState::Stuck);
    // The operator cleaned up as the message said, and retries.
    host.pve.forget(VMID);
    assert_eq!(host.carry_out(&ensure(2, 2)).await.state, OrderState::Succeeded);

    // Or installed the repair and retries with the rest still there.
    let mut other = Host::new().await;
    other.pve.fail_next("clone_template", Fault::TaskKilled);
    assert_eq!(other.carry_out(&ensure(1, 1)).await.state, OrderState::Stuck);
    other.install_repair();
    let request = other.repair_dir.clone().unwrap().join("clean-clone-1000.json");
    other.books.accept(&ensure(2, 2)).await;
    let engine = std::sync::Arc::clone(&other.engine);
    let work = tokio::spawn(async move { engine.run_order(ensure(2, 2).order_id).await });
    while !request.exists() {
        tokio::task::yield_now().await;
    }
    other.pve.forget(VMID);
    work.await.unwrap().unwrap();
    assert_eq!(other.row(&ensure(2, 2)).await.state, OrderState::Succeeded);
    assert!(!request.exists(), "a request that has been served is withdrawn");
    host.restart().await;
}

#[tokio::test]
async fn a_retry_that_fails_at_once_takes_back_what_the_stuck_try_before_it_made() {
    let host = Host::new().await;
    // Whole, and out of reach: the worker died before the pool.
    host.pve.fail_next("clone_template", Fault::TaskKilledLate);
    let end = host.carry_out(&ensure(1, 1)).await;
    assert_eq!(end.state, OrderState::Stuck);
    assert!(end.result.unwrap().contains("pveum pool modify ez --vms 1000"));
    // The operator does as it says; meanwhile the template has gone.
    host.pve.put_guest(VMID, |guest| guest.pool = Some("ez".to_owned()));
    host.pve.forget(9_000);
    assert_eq!(host.carry_out(&ensure(2, 2)).await.state, OrderState::Undone);
    assert!(host.pve.guest(VMID).is_none());
    assert!(host.books.journal.resources().await.unwrap().is_empty());
}

/// Carries an order out and plays root's repair unit as soon as it is asked.
async fn with_repair(host: &Host, order: &ez_protocol::order::ProvisioningOrder) -> OrderState {
    let request = host.repair_dir.clone().unwrap().join("clean-clone-1000.json");
    host.books.accept(order).await;
    let repaired = async {
        while !request.exists() {
            tokio::task::yield_now().await;
        }
        host.pve.forget(VMID);
        std::fs::remove_file(&request).unwrap();
    };
    let (row, ()) = tokio::join!(host.run(order), repaired);
    row.state
}

#[tokio::test]
async fn a_clone_that_failed_and_left_its_lock_is_cleaned_up_by_the_repair() {
    let mut host = Host::new().await;
    host.install_repair();
    host.pve.fail_next("clone_template", Fault::TaskFailsHalf("clone failed: and its cleanup, too".into()));
    assert_eq!(with_repair(&host, &ensure(1, 1)).await, OrderState::Undone);
    assert!(host.books.journal.resources().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_retry_that_fails_at_once_has_the_dead_clone_before_it_removed() {
    let mut host = Host::new().await;
    host.pve.fail_next("clone_template", Fault::TaskKilled);
    assert_eq!(host.carry_out(&ensure(1, 1)).await.state, OrderState::Stuck);
    host.install_repair();
    host.pve.forget(9_000);
    assert_eq!(with_repair(&host, &ensure(2, 2)).await, OrderState::Undone);
    assert!(host.books.journal.resources().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_was_superseded_before_it_began_can_be_retired_and_purged() {
    let host = Host::new().await;
    host.books.accept(&ensure(1, 1)).await;
    let retire = order(2, 2, Op::Retire(Empty {}));
    host.books.accept(&retire).await;
    assert_eq!(host.run(&ensure(1, 1)).await.state, OrderState::Superseded);
    assert_eq!(host.run(&retire).await.state, OrderState::Succeeded);
    assert_eq!(host.carry_out(&order(3, 3, Op::Purge(Empty {}))).await.state, OrderState::Succeeded);
    assert!(host.pve.changes().is_empty());
    assert!(host.books.journal.resources().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_retired_server_comes_back_by_an_ensure() {
    let host = Host::new().await;
    host.carry_out(&ensure(1, 1)).await;
    host.carry_out(&order(2, 2, Op::Retire(Empty {}))).await;
    assert_eq!(host.carry_out(&ensure(3, 3)).await.state, OrderState::Succeeded);
    let guest = host.pve.guest(VMID).unwrap();
    assert!(guest.running);
    assert_eq!((guest.config["tags"].as_str(), guest.config["onboot"].as_str()), ("ez", "1"));
    let row = host.books.journal.resource(instance(10)).await.unwrap().unwrap();
    assert_eq!((row.phase, row.retired_at), (Phase::Present, None));
}

#[tokio::test]
async fn where_tags_are_forbidden_a_server_lives_and_is_retired_without_them() {
    let host = Host::new().await;
    host.pve.forbid_tags();
    let end = host.carry_out(&ensure(1, 1)).await;
    assert_eq!(end.state, OrderState::Succeeded, "{:?}", end.result);
    let guest = host.pve.guest(VMID).unwrap();
    assert!(guest.running && !guest.config.contains_key("tags"));
    assert_eq!((guest.config["cores"].as_str(), guest.config["onboot"].as_str()), ("2", "1"));
    let end = host.carry_out(&order(2, 2, Op::Retire(Empty {}))).await;
    assert_eq!(end.state, OrderState::Succeeded, "{:?}", end.result);
    assert_eq!(host.pve.guest(VMID).unwrap().config["onboot"], "0");
}
