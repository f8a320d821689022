//! A node as a world of its own: a journal, virtual machines, and an agent that keeps to the protocol.
//!
//! It judges what it is told as the real agent does (`ez-node-agent`'s `intake`) and carries it out in one go, with
//! the outcome that the story asks for. What it has to say waits until the story lets it speak.

use std::collections::BTreeMap;

use ez_protocol::{
    InstanceId, NodeId, ProvisioningOrderId, UnixMillis,
    envelope::{Envelope, PayloadType, TrustedKey},
    message::{AnswerKind, Event, EventKind, Facts, InstanceState, OrderAnswer},
    order::{InstanceSpec, Op, PowerVerb, ProvisioningOrder, Service},
};

/// How work ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Begins,
    Succeeds,
    Fails,
    FailsForGood,
    GetsStuck,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Accepted,
    Running,
    Ended(EventKind),
}

#[derive(Debug)]
struct Entry {
    order: ProvisioningOrder,
    stage: Stage,
    /// It made the virtual machine, so it may take it away again.
    made: bool,
}

/// A virtual machine, whole or half made.
#[derive(Clone, Debug)]
pub(super) struct Vm {
    pub(super) addresses: Vec<String>,
    pub(super) running: bool,
    suspended: bool,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    vmid: u32,
    generation: u64,
}

/// One node.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) id: NodeId,
    pub(super) name: String,
    epoch: u64,
    /// Revoked: its agent is told nothing and says nothing any more.
    pub(super) gone: bool,
    /// What it answers to the next order, whatever it is.
    pub(super) refuses: Option<&'static str>,
    journal: Vec<Entry>,
    refused: BTreeMap<ProvisioningOrderId, String>,
    rows: BTreeMap<InstanceId, Row>,
    departed: BTreeMap<InstanceId, u64>,
    pub(super) vms: BTreeMap<InstanceId, Vm>,
    outbox: Vec<Event>,
    told: usize,
}

impl Host {
    pub(super) fn new(id: NodeId, name: &str, epoch: u64) -> Self {
        Self {
            id,
            name: name.to_owned(),
            epoch,
            gone: false,
            refuses: None,
            journal: Vec::new(),
            refused: BTreeMap::new(),
            rows: BTreeMap::new(),
            departed: BTreeMap::new(),
            vms: BTreeMap::new(),
            outbox: Vec::new(),
            told: 0,
        }
    }

    /// Judges an order and puts it into the journal.
    pub(super) fn judge(&mut self, envelope: &[u8], trusted: &[TrustedKey], now: UnixMillis) -> OrderAnswer {
        let verified = Envelope::decode(envelope).unwrap().verify(PayloadType::Order, trusted, now).unwrap();
        let order = ProvisioningOrder::from_bytes(&verified.payload).unwrap();
        let answer = |kind: AnswerKind, code: &str| OrderAnswer {
            kind: kind.into(),
            code: code.to_owned(),
            order_id: order.order_id.to_string(),
            ..OrderAnswer::default()
        };
        if self.journal.iter().any(|entry| entry.order.order_id == order.order_id) {
            return answer(AnswerKind::Duplicate, "");
        }
        if let Some(code) = self.refused.get(&order.order_id) {
            return answer(AnswerKind::Refused, code);
        }
        let code = self.refusal(&order, now);
        if let Some(code) = code {
            self.refused.insert(order.order_id, code.to_owned());
            return answer(AnswerKind::Refused, code);
        }
        let accepted = answer(AnswerKind::Accepted, "");
        self.accept(order, now);
        accepted
    }

    fn refusal(&mut self, order: &ProvisioningOrder, now: UnixMillis) -> Option<&'static str> {
        assert_eq!(order.aud.node, self.id, "an order for another node was delivered here");
        let taken = self.journal.iter().any(|entry| entry.order.seq == order.seq);
        assert!(!taken, "sequence {} was given out twice on {} (I9)", order.seq, self.name);
        if order.aud.epoch != self.epoch {
            return Some("WRONG_EPOCH");
        }
        if now > order.exp {
            return Some("EXPIRED");
        }
        let row = self.rows.get(&order.instance.uuid).copied();
        if row.is_some_and(|row| row.vmid != order.instance.vmid) {
            return Some("CONFLICT");
        }
        let vmid = order.instance.vmid;
        if self.rows.iter().any(|(id, row)| row.vmid == vmid && *id != order.instance.uuid) {
            return Some("CONFLICT");
        }
        match (&order.op, row) {
            (Op::Ensure(_), _) => {}
            (_, None) => return Some("CONFLICT"),
            (Op::Action(_), Some(row)) if row.generation != order.generation => return Some("STALE"),
            _ => {}
        }
        let highest = row.map_or(0, |row| row.generation);
        let highest = highest.max(self.departed.get(&order.instance.uuid).copied().unwrap_or(0));
        if !matches!(order.op, Op::Action(_)) && order.generation <= highest {
            assert!(order.generation < highest, "one generation stands for two wishes (I9)");
            return Some("STALE");
        }
        self.refuses.take()
    }

    fn accept(&mut self, order: ProvisioningOrder, now: UnixMillis) {
        if order.op.bumps_generation() {
            let row = Row { vmid: order.instance.vmid, generation: order.generation };
            self.rows.insert(order.instance.uuid, row);
        }
        self.say(&order, EventKind::Accepted, now, |_| {});
        self.journal.push(Entry { order, stage: Stage::Accepted, made: false });
    }

    fn say(
        &mut self,
        order: &ProvisioningOrder,
        kind: EventKind,
        now: UnixMillis,
        add: impl FnOnce(&mut Event),
    ) {
        let mut event = Event {
            event_seq: u64::try_from(self.outbox.len()).unwrap() + 1,
            order_id: order.order_id.to_string(),
            instance_id: order.instance.uuid.to_string(),
            at_ms: now.0,
            kind: kind.into(),
            generation: order.generation,
            ..Event::default()
        };
        add(&mut event);
        self.outbox.push(event);
    }

    /// Whether something waits to be worked on.
    pub(super) fn is_busy(&self) -> bool {
        !self.gone && self.journal.iter().any(|entry| matches!(entry.stage, Stage::Accepted | Stage::Running))
    }

    /// Works on the oldest order that has not ended.
    pub(super) fn work(&mut self, outcome: Outcome, now: UnixMillis) {
        let open = |entry: &Entry| matches!(entry.stage, Stage::Accepted | Stage::Running);
        let Some(at) = self.journal.iter().position(open).filter(|_| !self.gone) else { return };
        let order = self.journal[at].order.clone();
        let first = matches!(order.op, Op::Ensure(_)) && !self.vms.contains_key(&order.instance.uuid);
        if self.journal[at].stage == Stage::Accepted {
            let newer = self.journal[at + 1..].iter().any(|later| {
                later.order.instance.uuid == order.instance.uuid && later.order.generation > order.generation
            });
            if newer && !matches!(order.op, Op::Action(_)) {
                return self.end(at, EventKind::Superseded, now, "");
            }
            if first && now > order.exp {
                self.forget(&order);
                return self.end(at, EventKind::Failed, now, "retryable");
            }
            self.begin(at, first, &order, now);
        }
        match outcome {
            Outcome::Begins => {}
            Outcome::Succeeds => self.succeed(at, &order, now),
            Outcome::Fails => self.fail(at, &order, now, "retryable"),
            Outcome::FailsForGood => self.fail(at, &order, now, "user"),
            Outcome::GetsStuck => self.end(at, EventKind::Stuck, now, ""),
        }
    }

    fn begin(&mut self, at: usize, first: bool, order: &ProvisioningOrder, now: UnixMillis) {
        self.journal[at].stage = Stage::Running;
        self.say(order, EventKind::StepStarted, now, |event| event.step = "clone".to_owned());
        if let (true, Op::Ensure(spec)) = (first, &order.op) {
            self.vms.insert(
                order.instance.uuid,
                Vm { addresses: addresses(spec), running: false, suspended: false },
            );
            self.journal[at].made = true;
        }
    }

    fn succeed(&mut self, at: usize, order: &ProvisioningOrder, now: UnixMillis) {
        let instance = order.instance.uuid;
        match &order.op {
            Op::Ensure(spec) => {
                // A server that exists keeps its power state; a new one is started.
                let made = self.journal[at].made;
                let vm = self.vms.entry(instance).or_insert_with(|| Vm {
                    addresses: addresses(spec),
                    running: true,
                    suspended: false,
                });
                vm.running |= made;
                // A suspended server is off, and one that is resumed is on again.
                let off = spec.service == Service::Suspended;
                if off || vm.suspended {
                    vm.running = !off;
                }
                vm.suspended = off;
            }
            Op::Action(action) => {
                if let Some(vm) = self.vms.get_mut(&instance) {
                    vm.running = !matches!(action.power(), Some(PowerVerb::Shutdown | PowerVerb::Stop));
                }
            }
            Op::Retire(_) => {
                if let Some(vm) = self.vms.get_mut(&instance) {
                    vm.running = false;
                }
            }
            Op::Purge(_) => {
                self.vms.remove(&instance);
                self.forget(order);
            }
            Op::Adopt(_) => {}
        }
        self.end(at, EventKind::Succeeded, now, "");
    }

    /// What it made is gone again; what was there before stays.
    fn fail(&mut self, at: usize, order: &ProvisioningOrder, now: UnixMillis, class: &str) {
        if self.journal[at].made {
            self.vms.remove(&order.instance.uuid);
            self.forget(order);
            self.end(at, EventKind::Undone, now, class);
        } else {
            self.end(at, EventKind::Failed, now, class);
        }
    }

    /// The books of an instance that is gone from here; its generation is remembered.
    fn forget(&mut self, order: &ProvisioningOrder) {
        let later = self.journal.iter().any(|entry| {
            entry.order.instance.uuid == order.instance.uuid && entry.order.generation > order.generation
        });
        if !later {
            self.rows.remove(&order.instance.uuid);
        }
        let gone = self.departed.entry(order.instance.uuid).or_default();
        *gone = (*gone).max(order.generation);
    }

    fn end(&mut self, at: usize, kind: EventKind, now: UnixMillis, class: &str) {
        self.journal[at].stage = Stage::Ended(kind);
        let order = self.journal[at].order.clone();
        let facts = (kind == EventKind::Succeeded).then(|| self.facts(&order));
        self.say(&order, kind, now, |event| {
            event.class = class.to_owned();
            event.facts = facts;
        });
    }

    fn facts(&self, order: &ProvisioningOrder) -> Facts {
        let vm = self.vms.get(&order.instance.uuid);
        Facts {
            vmid: order.instance.vmid,
            power: match vm {
                Some(vm) if vm.running => "running".into(),
                Some(_) => "stopped".into(),
                None => "absent".into(),
            },
            addresses: vm.map(|vm| vm.addresses.clone()).unwrap_or_default(),
            confirmed: vm.is_some_and(|vm| vm.running),
            host_keys: Vec::new(),
            ..Facts::default()
        }
    }

    /// The journal's name.
    pub(super) fn journal(&self) -> String {
        format!("j-{}-{}", self.name, self.epoch)
    }

    /// What has not been acknowledged, or all it ever said.
    pub(super) fn speak(&self, all: bool) -> Vec<Event> {
        let from = if all { 0 } else { self.told };
        self.outbox[from..].to_vec()
    }

    /// An event is stored; it need not be told again.
    pub(super) fn heard(&mut self, event: u64) {
        self.told = self.told.max(usize::try_from(event).unwrap());
    }

    /// Whether it has something to say.
    pub(super) fn is_bursting(&self) -> bool {
        !self.gone && self.told < self.outbox.len()
    }

    /// When the control plane could think that an order which is in this journal never got here: by then it has to
    /// have been told.
    pub(super) fn must_speak_before(&self) -> Option<UnixMillis> {
        let untold = |id: &str| self.outbox[self.told..].iter().any(|event| event.order_id == id);
        let waiting = self.journal.iter().filter(|entry| untold(&entry.order.order_id.to_string()));
        waiting.map(|entry| entry.order.exp).min().filter(|_| !self.gone)
    }

    /// What it sees of its servers.
    pub(super) fn look(&self) -> Vec<InstanceState> {
        let seen = self.vms.iter().map(|(id, vm)| InstanceState {
            instance_id: id.to_string(),
            power: if vm.running { "running" } else { "stopped" }.to_owned(),
            ..InstanceState::default()
        });
        seen.collect()
    }

    /// Its owner takes it away; what stood there of one server is gone.
    pub(super) fn leave(&mut self) {
        self.gone = true;
    }

    pub(super) fn wipe(&mut self, instance: InstanceId) {
        self.vms.remove(&instance);
    }
}

fn addresses(spec: &InstanceSpec) -> Vec<String> {
    let mut all: Vec<String> = spec.network.addresses.iter().map(|a| a.cidr.to_string()).collect();
    all.push(spec.network.mac.to_string());
    all
}
