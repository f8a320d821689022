//! One scene for every shape a saga can have: what was before, what is ordered, what is there.

use ez_protocol::order::{
    Action, Empty, FirewallRules, ImageRef, InstanceSpec, IsoName, Op, PasswordHash, PowerVerb,
    ProvisioningOrder, Service, SnapshotName, Tag, Verdict,
};

use super::kit::Host;
use crate::{
    executor::{
        action,
        ensure::{self as sagas, Shape},
        purge, retire, undo,
    },
    journal::Verb,
    pve::{
        ImageTemplate,
        fake::{Fault, Plan},
    },
    testing::{VMID, ensure, order, read},
};

/// A scene.
pub(super) struct Scene {
    pub(super) name: String,
    /// Orders that have been carried out.
    pub(super) before: Vec<ProvisioningOrder>,
    /// The order that is disturbed.
    pub(super) target: ProvisioningOrder,
    /// The same wish once more, with the next sequence and generation.
    pub(super) again: ProvisioningOrder,
    /// Which call of which step fails and how, in the scenes of an undo.
    pub(super) failing: Option<Failing>,
    /// What else is true before the order comes.
    prepare: Option<fn(&Host)>,
}

/// Number and name of a step, its call, and how that fails.
type Failing = ((i64, &'static str), &'static str, Fault);

impl Scene {
    fn new(name: &str, before: Vec<ProvisioningOrder>, op: Op) -> Self {
        let seq = u64::try_from(before.len()).unwrap() + 1;
        // Actions do not count as a generation.
        let generation = before.last().map_or(0, |order| order.generation);
        let next = |n: u64| if matches!(op, Op::Action(_)) { generation } else { generation + n };
        let (target, again) = (order(seq, next(1), op.clone()), order(seq + 1, next(2), op));
        Self { name: name.to_owned(), before, target, again, failing: None, prepare: None }
    }

    /// Whether the order makes the server.
    pub(super) fn creates(&self) -> bool {
        self.verb() == Verb::Ensure && self.before.is_empty()
    }

    /// Whether the order makes its disk anew.
    pub(super) fn rebuilds(&self) -> bool {
        matches!(&self.target.op, Op::Ensure(spec) if spec.build > 0)
    }

    pub(super) fn verb(&self) -> Verb {
        match self.target.op {
            Op::Ensure(_) => Verb::Ensure,
            Op::Action(_) => Verb::Action,
            Op::Retire(_) => Verb::Retire,
            Op::Purge(_) => Verb::Purge,
            Op::Adopt(_) => Verb::Adopt,
        }
    }

    /// Brings the host to where the scene begins.
    pub(super) async fn set(&self, host: &Host) {
        for order in &self.before {
            let end = host.carry_out(order).await;
            assert!(end.state == crate::journal::OrderState::Succeeded, "{}: {:?}", self.name, end.result);
        }
        if self.verb() == Verb::Adopt {
            let marker = read(&self.target).marker();
            host.pve.put_guest(VMID, |guest| {
                guest.config.insert("description".to_owned(), format!("{marker}\nfrom before"));
                guest.pool = Some("ez".to_owned());
            });
        }
        if let Some(prepare) = self.prepare {
            prepare(host);
        }
        if let Some((step, verb, fault)) = &self.failing {
            host.pve.plan(Plan::Always(Some(*step), verb, fault.clone()));
        }
    }
}

fn with(change: impl FnOnce(&mut ez_protocol::order::InstanceSpec)) -> Op {
    let mut op = ensure(1, 1).op;
    if let Op::Ensure(spec) = &mut op {
        change(spec);
    }
    op
}

fn suspended() -> Op {
    with(|spec| spec.service = Service::Suspended)
}

/// Every scene.
pub(super) fn all() -> Vec<Scene> {
    let served = || vec![ensure(1, 1)];
    let after = |mut before: Vec<ProvisioningOrder>, op: Op| {
        let n = u64::try_from(before.len()).unwrap() + 1;
        before.push(order(n, n, op));
        before
    };
    let press = |verb: PowerVerb| Op::Action(verb.into());
    let mut scenes = vec![
        Scene::new("create", Vec::new(), ensure(1, 1).op),
        Scene::new("create, suspended at once", Vec::new(), suspended()),
        Scene::new(
            "change",
            served(),
            with(|spec| {
                (spec.vcpus, spec.memory_mib, spec.disk_gib) = (4, 4096, 40);
                spec.network.addresses[0].cidr = "203.0.113.11/24".parse().unwrap();
            }),
        ),
        Scene::new("suspend", served(), suspended()),
        Scene::new("resume", after(served(), suspended()), ensure(1, 1).op),
        Scene::new("come back", after(served(), Op::Retire(Empty {})), ensure(1, 1).op),
        Scene::new("retire", served(), Op::Retire(Empty {})),
        Scene::new("purge", after(served(), Op::Retire(Empty {})), Op::Purge(Empty {})),
        Scene::new("adopt", Vec::new(), Op::Adopt(Empty {})),
    ];
    scenes.extend(later_life());
    for verb in PowerVerb::ALL {
        let mut before = served();
        if verb == PowerVerb::Start {
            before.push(order(2, 1, press(PowerVerb::Stop)));
        }
        scenes.push(Scene::new(&format!("press {}", verb.as_str()), before, press(verb)));
    }
    let text = || "start failed: QEMU exited with code 1".to_owned();
    for (name, fault) in
        [("undo", Fault::TaskFails(text())), ("undo what runs", Fault::TaskFailsLate(text()))]
    {
        let mut scene = Scene::new(name, Vec::new(), ensure(1, 1).op);
        scene.failing = Some(((6, "start"), "start", fault));
        scenes.push(scene);
    }
    let failed = || Fault::TaskFails("something went wrong".to_owned());
    for (name, undone, failing) in [
        ("undo a rebuild", "rebuild", ((9, "start"), "start", failed())),
        (
            "undo a rebuild whose destruction was refused",
            "rebuild",
            ((3, "destroy"), "destroy", Fault::Refused(500, "something went wrong".to_owned())),
        ),
        ("undo a rescue", "rescue", ((8, "start"), "start", failed())),
        ("undo a restore", "restore over a change", ((4, "restore"), "restore", failed())),
        (
            "undo a restore that was refused",
            "restore over a change",
            ((4, "restore"), "restore", Fault::Refused(400, "Parameter verification failed.".to_owned())),
        ),
        (
            "undo a rollback",
            "roll back over a change",
            ((2, "roll_back"), "roll_back", Fault::Refused(500, "something went wrong".to_owned())),
        ),
    ] {
        let mut scene = later_life().into_iter().find(|scene| scene.name == undone).unwrap();
        name.clone_into(&mut scene.name);
        scene.failing = Some(failing);
        scenes.push(scene);
    }
    scenes
}

/// What a server meets after it was made.
fn later_life() -> Vec<Scene> {
    let served = || vec![ensure(1, 1)];
    let name = || SnapshotName::parse("before-upgrade").unwrap();
    let act = |action: Action| Op::Action(action);
    let then = |mut before: Vec<ProvisioningOrder>, op: Op| {
        let n = u64::try_from(before.len()).unwrap() + 1;
        let generation = before.last().map_or(0, |order| order.generation);
        let next = if matches!(op, Op::Action(_)) { generation } else { generation + 1 };
        before.push(order(n, next, op));
        before
    };
    let with_snapshot = || then(served(), act(Action::SnapshotCreate { name: name() }));
    let with_backup = || then(served(), act(Action::BackupCreate { keep: 3 }));
    let backup = || with_backup()[1].order_id;
    let rescue = || with(|spec| spec.rescue = Some(spec.image.clone()));
    let bigger = || with(|spec| (spec.vcpus, spec.disk_gib) = (4, 40));
    let hash = || PasswordHash::parse("$6$saltsaltsalt$otherhashotherhash").unwrap();
    vec![
        Scene::new("rebuild", served(), with(|spec| spec.build = 1)),
        Scene::new(
            "rebuild, suspended",
            then(served(), suspended()),
            with(|spec| (spec.build, spec.service) = (1, Service::Suspended)),
        ),
        Scene::new("rescue", served(), rescue()),
        Scene::new(
            "another rescue",
            then(served(), rescue()),
            with(|spec| spec.rescue = Some(other_image(spec))),
        ),
        Scene::new("back from rescue", then(served(), rescue()), ensure(1, 1).op),
        Scene::new(
            "medium, tags and rules",
            served(),
            with(|spec| {
                spec.iso = Some(IsoName::parse("grml.iso").unwrap());
                spec.tags = vec![Tag::parse("web").unwrap()];
                spec.network.rules = Some(FirewallRules { inbound: Verdict::Drop, rules: Vec::new() });
            }),
        ),
        Scene::new("snapshot", served(), act(Action::SnapshotCreate { name: name() })),
        Scene::new(
            "roll back over a change",
            then(with_snapshot(), bigger()),
            act(Action::SnapshotRollback { name: name() }),
        ),
        Scene::new("drop a snapshot", with_snapshot(), act(Action::SnapshotDelete { name: name() })),
        Scene::new("backup", served(), act(Action::BackupCreate { keep: 3 })),
        Scene::new("backup, the oldest goes", with_backup(), act(Action::BackupCreate { keep: 1 })),
        Scene::new(
            "restore over a change",
            then(with_backup(), bigger()),
            act(Action::BackupRestore { backup: backup() }),
        ),
        Scene::new("remove a backup", with_backup(), act(Action::BackupDelete { backup: backup() })),
        Scene::new("purge with a backup", then(with_backup(), Op::Retire(Empty {})), Op::Purge(Empty {})),
        Scene::new("password at the next boot", served(), act(Action::SetPassword { hash: hash() })),
        Scene {
            prepare: Some(|host| host.pve.put_guest(VMID, |guest| guest.agent_answers = true)),
            ..Scene::new("password at once", served(), act(Action::SetPassword { hash: hash() }))
        },
    ]
}

/// A second image; the host of the scenes has a template of it.
fn other_image(spec: &InstanceSpec) -> ImageRef {
    let digest = format!("sha256:{}", "2".repeat(64)).parse().unwrap();
    ImageRef { name: "rescue".to_owned(), digest, ..spec.image.clone() }
}

/// The steps of every saga there is, as the executor makes them: numbers and names.
pub(super) fn sagas_of_the_executor() -> Vec<Vec<(i64, &'static str)>> {
    // A new kind of order does not compile here until it has its scenes.
    let sagas = |verb: Verb| match verb {
        Verb::Ensure => {
            let template = || ImageTemplate {
                vmid: 9_000,
                image: String::new(),
                digest: String::new(),
                volume: String::new(),
                storage: String::new(),
                disk_bytes: 0,
            };
            let both = || {
                let converge = [false, true].map(|was_off| Shape::Converge { was_off });
                [Shape::Create(template()), Shape::Rebuild(template())].into_iter().chain(converge)
            };
            // Rescue systems come and go only while a server is in service.
            let rescue =
                [Shape::RescueOn(template(), false), Shape::RescueOn(template(), true), Shape::RescueOff];
            let all = both()
                .chain(rescue)
                .map(|shape| sagas::steps(shape, Service::Active))
                .chain(both().map(|shape| sagas::steps(shape, Service::Suspended)));
            all.collect()
        }
        Verb::Action => {
            let name = || SnapshotName::parse("before-upgrade").unwrap();
            let backup = order(1, 1, Op::Retire(Empty {})).order_id;
            let hash = PasswordHash::parse("$6$saltsaltsalt$otherhashotherhash").unwrap();
            let mut all: Vec<Action> = PowerVerb::ALL.into_iter().map(Action::from).collect();
            all.extend([
                Action::SnapshotCreate { name: name() },
                Action::SnapshotRollback { name: name() },
                Action::SnapshotDelete { name: name() },
                Action::BackupCreate { keep: 1 },
                Action::BackupRestore { backup },
                Action::BackupDelete { backup },
                Action::SetPassword { hash },
            ]);
            all.iter().map(action::steps).collect()
        }
        Verb::Retire => vec![retire::steps()],
        Verb::Purge => vec![purge::steps()],
        Verb::Adopt => Vec::new(),
    };
    let verbs = [Verb::Ensure, Verb::Action, Verb::Retire, Verb::Purge, Verb::Adopt];
    let forward = verbs.into_iter().flat_map(sagas).map(|steps| (1, steps));
    let sagas = forward.chain(undo::Kind::ALL.map(|kind| (-1, kind.steps())));
    sagas
        .map(|(sign, steps)| (1i64..).map(|k| k * sign).zip(steps.iter().map(|s| s.name())).collect())
        .collect()
}
