//! One scene for every shape a saga can have: what was before, what is ordered, what is there.

use ez_protocol::order::{Action, ActionVerb, Empty, Op, ProvisioningOrder, Service};

use super::kit::Host;
use crate::{
    executor::{action, ensure as sagas, purge, retire, undo},
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
    /// How the step `start` fails, in the scenes of an undo.
    pub(super) failing_start: Option<Fault>,
}

impl Scene {
    fn new(name: &str, before: Vec<ProvisioningOrder>, op: Op) -> Self {
        let seq = u64::try_from(before.len()).unwrap() + 1;
        // Actions do not count as a generation.
        let generation = before.last().map_or(0, |order| order.generation);
        let next = |n: u64| if matches!(op, Op::Action(_)) { generation } else { generation + n };
        let (target, again) = (order(seq, next(1), op.clone()), order(seq + 1, next(2), op));
        Self { name: name.to_owned(), before, target, again, failing_start: None }
    }

    /// Whether the order makes the server.
    pub(super) fn creates(&self) -> bool {
        self.verb() == Verb::Ensure && self.before.is_empty()
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
        if let Some(fault) = &self.failing_start {
            host.pve.plan(Plan::Always(Some((6, "start")), "start", fault.clone()));
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
    let press = |verb| Op::Action(Action { verb });
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
    for verb in ActionVerb::ALL {
        let mut before = served();
        if verb == ActionVerb::Start {
            before.push(order(2, 1, press(ActionVerb::Stop)));
        }
        scenes.push(Scene::new(&format!("press {}", verb.as_str()), before, press(verb)));
    }
    let text = || "start failed: QEMU exited with code 1".to_owned();
    for (name, fault) in
        [("undo", Fault::TaskFails(text())), ("undo what runs", Fault::TaskFailsLate(text()))]
    {
        let mut scene = Scene::new(name, Vec::new(), ensure(1, 1).op);
        scene.failing_start = Some(fault);
        scenes.push(scene);
    }
    scenes
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
                storage: String::new(),
                disk_bytes: 0,
            };
            let services = [Service::Active, Service::Suspended];
            let creates = services.map(|service| sagas::create_steps(template(), service));
            let converges = services
                .iter()
                .flat_map(|service| [true, false].map(|off| sagas::converge_steps(*service, off)));
            creates.into_iter().chain(converges).collect()
        }
        Verb::Action => ActionVerb::ALL.into_iter().map(action::steps).collect(),
        Verb::Retire => vec![retire::steps()],
        Verb::Purge => vec![purge::steps()],
        Verb::Adopt => Vec::new(),
    };
    let verbs = [Verb::Ensure, Verb::Action, Verb::Retire, Verb::Purge, Verb::Adopt];
    let forward = verbs.into_iter().flat_map(sagas).map(|steps| (1, steps));
    let sagas = forward.chain([(-1, undo::steps())]);
    sagas
        .map(|(sign, steps)| (1i64..).map(|k| k * sign).zip(steps.iter().map(|s| s.name())).collect())
        .collect()
}
