mod flood;
mod paced;
mod purges;

use std::time::Duration;

use ez_protocol::{
    InstanceId, ProvisioningOrderId, UnixMillis,
    envelope::{Envelope, PayloadType},
    message::{AnswerKind, Event, EventKind, Facts, OrderAnswer, QueuePlace},
    order::{Action, Empty, ImageRef, InstanceSpec, Op, ProvisioningOrder, Service},
};

use super::{FenceOutcome, Intent, IssueError, Recorded, State};
use crate::{
    app::App,
    clock::Clock as _,
    db, dispatch,
    fleet::{
        self, NodeChange, Placement, alarms,
        testing::{IMAGE, TestNode, instance, locations, need, read, ready_node, services},
    },
};

fn spec(place: &Placement) -> InstanceSpec {
    InstanceSpec {
        hostname: "web-1".parse().unwrap(),
        service: Service::Active,
        vcpus: 1,
        memory_mib: 4_096,
        disk_gib: 20,
        image: ImageRef { name: "debian-13".into(), digest: IMAGE.parse().unwrap(), family: None },
        network: place.network(None),
        ssh_keys: vec![
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl t"
                .parse()
                .unwrap(),
        ],
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

pub(crate) async fn placed(app: &App, node: &TestNode, n: u8) -> Placement {
    let (at, entropy, id) = (app.clock.now(), app.entropy.clone(), node.id);
    app.db
        .write(move |tx| {
            Box::pin(
                async move { fleet::reserve(tx, at, entropy.as_ref(), id, instance(n), &need(), None).await },
            )
        })
        .await
        .unwrap()
}

pub(crate) async fn issue(
    app: &App,
    place: &Placement,
    op: Op,
    cause: &str,
) -> Result<ProvisioningOrderId, IssueError> {
    let (at, entropy, keys) = (app.clock.now(), app.entropy.clone(), app.keys.clone());
    let intent = Intent {
        instance: place.instance,
        placement: place.clone(),
        op,
        cause_key: cause.to_owned(),
        order: None,
        actor: "system".to_owned(),
        ttl: None,
    };
    app.db
        .write(move |tx| {
            Box::pin(async move { dispatch::issue(tx, &keys, at, entropy.as_ref(), intent).await })
        })
        .await
}

pub(crate) fn ensure(place: &Placement) -> Op {
    Op::Ensure(Box::new(spec(place)))
}

/// The order as a node would read it, verified.
async fn payload(app: &App, node: &TestNode, id: ProvisioningOrderId) -> ProvisioningOrder {
    let at = app.clock.now();
    let due = read(app, async |c| dispatch::due(c, at, node.id, 100).await).await;
    let bytes = &due.iter().find(|d| d.id == id).unwrap().envelope;
    let trusted = app.keys.trust().unwrap().trusted_keys().unwrap();
    let verified = Envelope::decode(bytes).unwrap().verify(PayloadType::Order, &trusted, at).unwrap();
    ProvisioningOrder::from_bytes(&verified.payload).unwrap()
}

fn event(seq: u64, order: ProvisioningOrderId, about: InstanceId, kind: EventKind, step: &str) -> Event {
    Event {
        event_seq: seq,
        order_id: order.to_string(),
        instance_id: about.to_string(),
        at_ms: 5,
        kind: kind.into(),
        step: step.to_owned(),
        ..Event::default()
    }
}

async fn record(app: &App, node: &TestNode, event: Event) -> Recorded {
    let (at, id) = (app.clock.now(), node.id);
    app.db
        .write(move |tx| Box::pin(async move { dispatch::record(tx, at, id, "j1", &event).await }))
        .await
        .unwrap()
}

async fn answer(app: &App, node: &TestNode, id: ProvisioningOrderId, answer: OrderAnswer) {
    let (at, node) = (app.clock.now(), node.id);
    app.db
        .write(move |tx| Box::pin(async move { dispatch::record_answer(tx, at, node, id, &answer).await }))
        .await
        .unwrap();
}

fn refusal(code: &str) -> OrderAnswer {
    OrderAnswer { kind: AnswerKind::Refused.into(), code: code.to_owned(), ..OrderAnswer::default() }
}

async fn leave(app: &App, id: ProvisioningOrderId) {
    let at = app.clock.now();
    app.db.write(move |tx| Box::pin(async move { dispatch::leaving(tx, at, id, 0).await })).await.unwrap();
}

async fn cancel(app: &App, id: ProvisioningOrderId) -> FenceOutcome {
    let at = app.clock.now();
    app.db
        .write(move |tx| Box::pin(async move { dispatch::cancel_unaccepted(tx, at, id).await }))
        .await
        .unwrap()
}

async fn state(app: &App, id: ProvisioningOrderId) -> State {
    read(app, async |c| dispatch::show(c, id).await).await.unwrap().state
}

#[tokio::test]
async fn an_order_is_signed_for_its_node_and_its_events_move_it() {
    db::testing::each_database(async |db| {
        let (app, _clock) = services(db);
        locations(&app, 10).await;
        let node = ready_node(&app, "fsn-1", 1_000, 5).await;
        let place = placed(&app, &node, 1).await;
        let id = issue(&app, &place, ensure(&place), "build").await.unwrap();
        assert_eq!(issue(&app, &place, ensure(&place), "build").await.unwrap(), id, "one cause, one order");

        let order = payload(&app, &node, id).await;
        assert_eq!((order.order_id, order.seq, order.generation), (id, 1, 1));
        assert_eq!((order.aud.node, order.aud.epoch, order.instance.vmid), (node.id, 1, place.vmid));
        assert_eq!(order.install, app.keys.install());
        assert_eq!(order.exp.0 - order.iat.0, 600_000);

        leave(&app, id).await;
        assert_eq!(state(&app, id).await, State::Queued);
        let accepted = OrderAnswer {
            kind: AnswerKind::Accepted.into(),
            order_id: id.to_string(),
            ..OrderAnswer::default()
        };
        answer(&app, &node, id, accepted.clone()).await;
        answer(&app, &node, id, accepted).await;
        assert_eq!(state(&app, id).await, State::Accepted);

        let (about, vmid) = (place.instance, place.vmid);
        let place = Some(QueuePlace { position: 3, estimate_secs: Some(40) });
        for (seq, kind, step, queue) in [
            (1, EventKind::Accepted, "", None),
            (2, EventKind::StepProgress, "clone", place),
            (3, EventKind::StepStarted, "clone", None),
            (4, EventKind::StepDone, "clone", None),
        ] {
            let told = Event { queue, ..event(seq, id, about, kind, step) };
            assert_eq!(record(&app, &node, told).await, Recorded::New);
        }
        assert_eq!(state(&app, id).await, State::Running);
        let facts = Facts { vmid, power: "running".into(), confirmed: true, ..Facts::default() };
        let done = Event { facts: Some(facts), ..event(5, id, about, EventKind::Succeeded, "") };
        assert_eq!(record(&app, &node, done.clone()).await, Recorded::New);
        assert_eq!(record(&app, &node, done).await, Recorded::Known);
        let shown = read(&app, async |c| dispatch::latest_for(c, about).await).await.unwrap();
        assert_eq!((shown.state, shown.facts.unwrap().power.as_str()), (State::Succeeded, "running"));
        assert_eq!(shown.step.as_deref(), Some("clone"));
        let events = read(&app, async |c| dispatch::events_of(c, id).await).await;
        assert_eq!(
            events.iter().map(|e| e.kind.as_str()).collect::<Vec<_>>(),
            ["accepted", "step_progress", "step_started", "step_done", "succeeded"]
        );
        let queue = events.iter().map(|e| e.queue.map(|q| (q.position, q.estimate_secs))).collect::<Vec<_>>();
        assert_eq!(queue, [None, Some((3, Some(40))), None, None, None]);
    })
    .await;
}

#[tokio::test]
async fn sequence_and_generation_only_rise() {
    db::testing::each_database(async |db| {
        let (app, _clock) = services(db);
        locations(&app, 10).await;
        let node = ready_node(&app, "fsn-1", 1_000, 9).await;
        let mut places = Vec::new();
        for n in 0..6 {
            places.push(placed(&app, &node, n).await);
        }
        let orders = places.iter().map(|place| issue(&app, place, ensure(place), "build"));
        let ids = futures::future::try_join_all(orders).await.unwrap();
        let mut seqs = Vec::new();
        for id in ids {
            seqs.push(payload(&app, &node, id).await.seq);
        }
        seqs.sort_unstable();
        assert_eq!(seqs, [1, 2, 3, 4, 5, 6]);

        let first = &places[0];
        let again = issue(&app, first, ensure(first), "rebuild").await.unwrap();
        let reboot = Op::Action(Action::Reboot {});
        let action = issue(&app, first, reboot, "click").await.unwrap();
        let retire = issue(&app, first, Op::Retire(Empty {}), "end").await.unwrap();
        let (again, action, retire) = (
            payload(&app, &node, again).await,
            payload(&app, &node, action).await,
            payload(&app, &node, retire).await,
        );
        assert_eq!((again.generation, action.generation, retire.generation), (2, 2, 3));
        assert_eq!((again.seq, action.seq, retire.seq), (7, 8, 9));
    })
    .await;
}

#[tokio::test]
async fn an_order_that_may_have_left_is_fenced_only_after_its_end() {
    db::testing::each_database(async |db| {
        let (app, clock) = services(db);
        locations(&app, 10).await;
        let node = ready_node(&app, "fsn-1", 1_000, 5).await;
        let (never, left) = (placed(&app, &node, 1).await, placed(&app, &node, 2).await);
        let never = issue(&app, &never, ensure(&never), "build").await.unwrap();
        assert_eq!(cancel(&app, never).await, FenceOutcome::Fenced);

        let about = left.instance;
        let left = issue(&app, &left, ensure(&left), "build").await.unwrap();
        leave(&app, left).await;
        let safe = UnixMillis(clock.now().0 + 600_000 + 300_000);
        assert_eq!(cancel(&app, left).await, FenceOutcome::NotBefore(safe));
        let at = clock.now();
        let due = read(&app, async |c| dispatch::due(c, UnixMillis(at.0 + 60_000), node.id, 9).await).await;
        assert!(due.is_empty(), "a cancelled order is not sent again");

        // It had been accepted all the same: what the node says counts.
        record(&app, &node, event(1, left, about, EventKind::Accepted, "")).await;
        assert_eq!(cancel(&app, left).await, FenceOutcome::Held);
        record(&app, &node, event(2, left, about, EventKind::Undone, "")).await;
        clock.advance(Duration::from_secs(1));
        assert_eq!(cancel(&app, left).await, FenceOutcome::Fenced);
    })
    .await;
}

#[tokio::test]
async fn unaccepted_orders_expire_when_no_clock_can_accept_them_any_more() {
    db::testing::each_database(async |db| {
        let (app, clock) = services(db);
        locations(&app, 10).await;
        let node = ready_node(&app, "fsn-1", 1_000, 5).await;
        let place = placed(&app, &node, 1).await;
        let id = issue(&app, &place, ensure(&place), "build").await.unwrap();
        leave(&app, id).await;
        for (advance, expected) in [(600, State::Queued), (299, State::Queued), (2, State::Expired)] {
            clock.advance(Duration::from_secs(advance));
            super::jobs::expire(app.clone()).await.unwrap();
            assert_eq!(state(&app, id).await, expected);
        }
        assert_eq!(cancel(&app, id).await, FenceOutcome::Fenced);
    })
    .await;
}

#[tokio::test]
async fn what_must_not_be_signed_is_not() {
    db::testing::each_database(async |db| {
        let (app, _clock) = services(db);
        locations(&app, 10).await;
        let node = ready_node(&app, "fsn-1", 1_000, 5).await;
        let (place, other) = (placed(&app, &node, 1).await, placed(&app, &node, 2).await);

        let foreign = Placement { instance: other.instance, ..place.clone() };
        assert!(matches!(issue(&app, &foreign, ensure(&place), "x").await, Err(IssueError::WrongPlace)));
        assert!(matches!(issue(&app, &place, ensure(&other), "x").await, Err(IssueError::WrongSpec(_))));
        let mut open = spec(&place);
        open.network.firewall = false;
        let open = Op::Ensure(Box::new(open));
        assert!(matches!(issue(&app, &place, open, "x").await, Err(IssueError::WrongSpec(_))));
        let stop = Op::Action(Action::Stop {});
        assert!(matches!(issue(&app, &place, stop, "x").await, Err(IssueError::NothingBuilt)));
        let purge = Op::Purge(Empty {});
        assert!(matches!(issue(&app, &place, purge, "x").await, Err(IssueError::NotRetired)));
        fleet::change_node(&app, "operator:test", "fsn-1", NodeChange::Revoke).await.unwrap();
        assert!(matches!(issue(&app, &place, ensure(&place), "x").await, Err(IssueError::NodeNotServing)));
        let at = app.clock.now();
        assert!(read(&app, async |c| dispatch::due(c, at, node.id, 9).await).await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn refusals_are_kept_and_the_bad_ones_ring() {
    db::testing::each_database(async |db| {
        let (app, _clock) = services(db);
        locations(&app, 10).await;
        let node = ready_node(&app, "fsn-1", 1_000, 5).await;
        let place = placed(&app, &node, 1).await;
        let open = async || {
            let all = read(&app, async |c| alarms::list(c, 9).await).await;
            all.into_iter().map(|a| a.kind).collect::<Vec<_>>()
        };
        let stale = issue(&app, &place, ensure(&place), "1").await.unwrap();
        answer(&app, &node, stale, refusal("STALE")).await;
        assert!(open().await.is_empty());
        let conflict = issue(&app, &place, ensure(&place), "2").await.unwrap();
        answer(&app, &node, conflict, refusal("CONFLICT")).await;
        assert_eq!(open().await, ["order_refused"]);
        let shown = read(&app, async |c| dispatch::show(c, conflict).await).await.unwrap();
        assert_eq!((shown.state, shown.refusal.as_deref()), (State::Refused, Some("CONFLICT")));

        let taken = issue(&app, &place, ensure(&place), "3").await.unwrap();
        answer(&app, &node, taken, refusal("VMID_TAKEN")).await;
        let stranger = ready_node(&app, "fsn-2", 5_000, 5).await;
        let lie = event(1, taken, place.instance, EventKind::Succeeded, "");
        assert_eq!(record(&app, &stranger, lie).await, Recorded::Foreign);
        assert_eq!(state(&app, taken).await, State::Refused);
    })
    .await;
}

/// The answer to a delivery and the events of its order come over different streams at the same time.
#[tokio::test]
async fn an_answer_and_the_events_it_raced_with_are_all_stored() {
    db::testing::each_database(async |db| {
        let (app, _clock) = services(db);
        locations(&app, 40).await;
        let node = ready_node(&app, "fsn-1", 1_000, 50).await;
        for n in 1..=20 {
            let place = placed(&app, &node, n).await;
            let id = issue(&app, &place, ensure(&place), "build").await.unwrap();
            let accepted = OrderAnswer {
                kind: AnswerKind::Accepted.into(),
                order_id: id.to_string(),
                ..OrderAnswer::default()
            };
            let seq = u64::from(n) * 10;
            let events = async {
                record(&app, &node, event(seq, id, place.instance, EventKind::Accepted, "")).await;
                record(&app, &node, event(seq + 1, id, place.instance, EventKind::StepStarted, "clone")).await
            };
            let (_, recorded) = tokio::join!(answer(&app, &node, id, accepted), events);
            assert_eq!(recorded, Recorded::New);
            let shown = read(&app, async |c| dispatch::show(c, id).await).await.unwrap();
            assert_eq!(shown.state, State::Running);
        }
    })
    .await;
}
