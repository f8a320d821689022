//! Two control planes on one PostgreSQL: who holds a node's session sends its orders, and nobody else.

use std::{collections::BTreeSet, time::Duration};

use ez_protocol::{
    ProvisioningOrderId,
    envelope::{Envelope, PayloadType},
    frame::CloseCode,
    message::{AnswerKind, Hello, OrderAnswer},
    order::ProvisioningOrder,
};
use tokio::time::timeout;

use super::{
    challenge::{answers, open_alarms},
    client::{Agent, Served},
};
use crate::{
    app::App,
    db::{Db, DbError, testing::Fresh},
    dispatch::{self, State, tests as orders},
    fleet::{
        sessions,
        testing::{TestNode, hello, locations, read, ready_node, services},
    },
};

const DEADLINE: Duration = Duration::from_secs(30);

fn accepted() -> OrderAnswer {
    OrderAnswer { kind: AnswerKind::Accepted.into(), ..OrderAnswer::default() }
}

/// Takes so many deliveries and says which orders they were.
async fn take(app: &App, agent: &Agent, count: usize) -> Vec<ProvisioningOrderId> {
    let trusted = app.keys.trust().unwrap().trusted_keys().unwrap();
    let mut taken = Vec::new();
    for _ in 0..count {
        let bytes = timeout(DEADLINE, agent.take_order(accepted())).await.expect("no order came");
        let envelope = Envelope::decode(&bytes).unwrap();
        let verified = envelope.verify(PayloadType::Order, &trusted, app.clock.now()).unwrap();
        taken.push(ProvisioningOrder::from_bytes(&verified.payload).unwrap().order_id);
    }
    taken
}

/// Issues orders, one half through each control plane.
async fn issue(
    apps: [&App; 2],
    node: &TestNode,
    numbers: std::ops::Range<u8>,
) -> BTreeSet<ProvisioningOrderId> {
    let mut issued = BTreeSet::new();
    for n in numbers {
        let app = apps[usize::from(n % 2)];
        let place = orders::placed(app, node, n).await;
        issued.insert(orders::issue(app, &place, orders::ensure(&place), "build").await.unwrap());
    }
    issued
}

async fn all_accepted_at_once(app: &App, issued: &BTreeSet<ProvisioningOrderId>) {
    let settled = async {
        for id in issued {
            loop {
                let shown = read(app, async |c| dispatch::show(c, *id).await).await.unwrap();
                assert_eq!(shown.attempts, 1, "sent once");
                if shown.state == State::Accepted {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
    };
    timeout(DEADLINE, settled).await.expect("an answer was not stored");
}

#[tokio::test]
async fn an_order_is_sent_by_the_control_plane_that_holds_the_nodes_session() {
    let Some(fresh) = Fresh::postgres().await else { return };
    let (first, _clock) = services(Db::open(&fresh.url).await.unwrap());
    let second = first.on(Db::open(&fresh.url).await.unwrap(), 2);
    locations(&first, 40).await;
    let node = ready_node(&first, "fsn-1", 1_000, 40).await;
    let (at_first, at_second) = (Served::start(&first).await, Served::start(&second).await);

    let ratchet =
        read(&first, async |c| Ok::<_, DbError>(sessions::ratchet_for_tests(c, node.id).await)).await;
    let said = Hello { ratchet, ..hello(&node, 1_000) };
    let agent = Agent::greet(&first, at_first.address, &node, said).await.unwrap();
    let issued = issue([&first, &second], &node, 0..10).await;
    let taken = take(&first, &agent, 10).await;
    assert_eq!(taken.into_iter().collect::<BTreeSet<_>>(), issued, "each of them, whoever issued it");
    all_accepted_at_once(&first, &issued).await;

    // The node dials the other one: from then on that one sends, and the first lets go of it.
    let said = Hello { ratchet: agent.welcome.ratchet.clone(), high_water_seq: 10, ..hello(&node, 1_000) };
    let moved = Agent::greet(&second, at_second.address, &node, said).await.unwrap();
    assert!(!moved.welcome.quarantined);
    let issued = issue([&first, &second], &node, 10..20).await;
    let taken = take(&second, &moved, 10).await;
    assert_eq!(taken.into_iter().collect::<BTreeSet<_>>(), issued);
    all_accepted_at_once(&second, &issued).await;
    let closed = timeout(DEADLINE, agent.connection.closed()).await.expect("the first holds on to it");
    let quinn::ConnectionError::ApplicationClosed(close) = closed else { panic!("{closed}") };
    assert_eq!(CloseCode::from_code(close.error_code.into_inner()), Some(CloseCode::Replaced));
    for app in [&first, &second] {
        app.db.close().await;
    }
    drop((at_first, at_second));
    fresh.remove().await;
}

/// The copy greets the other control plane, which cannot ask the first agent who it is; its own one does.
#[tokio::test]
async fn a_copy_at_another_control_plane_is_found_out_by_the_one_that_lost_the_session() {
    let Some(fresh) = Fresh::postgres().await else { return };
    let (first, _clock) = services(Db::open(&fresh.url).await.unwrap());
    let second = first.on(Db::open(&fresh.url).await.unwrap(), 2);
    locations(&first, 40).await;
    let node = ready_node(&first, "fsn-1", 1_000, 40).await;
    let (at_first, at_second) = (Served::start(&first).await, Served::start(&second).await);
    let ratchet =
        read(&first, async |c| Ok::<_, DbError>(sessions::ratchet_for_tests(c, node.id).await)).await;
    let said = Hello { ratchet, ..hello(&node, 1_000) };
    let mut agent = Agent::greet(&first, at_first.address, &node, said).await.unwrap();
    let kept = agent.welcome.ratchet.clone();
    let said = Hello { ratchet: kept.clone(), ..hello(&node, 1_000) };
    let copy = Agent::greet(&second, at_second.address, &node, said).await.unwrap();
    assert!(!copy.welcome.quarantined, "nothing is wrong with what it says");
    // Its journal has what it was told, and not what the copy was.
    answers(&mut agent, "machine-a", kept.clone()).await;
    answers(&mut agent, "machine-a", kept).await;
    let closed = timeout(DEADLINE, agent.connection.closed()).await.expect("the first holds on to it");
    let quinn::ConnectionError::ApplicationClosed(close) = closed else { panic!("{closed}") };
    assert_eq!(CloseCode::from_code(close.error_code.into_inner()), Some(CloseCode::Quarantined));
    let open = open_alarms(&first).await;
    assert!(matches!(&open[..], [(kind, _)] if kind == "identity_copied"), "{open:?}");
    for app in [&first, &second] {
        app.db.close().await;
    }
    drop((at_first, at_second));
    fresh.remove().await;
}
