//! Two agents with one identity.

use std::time::Duration;

use ez_protocol::{
    frame::{CloseCode, Frame, FrameType, StreamKind},
    message::{Challenge, ChallengeAnswer, Hello, OrderAnswer},
};
use prost::Message as _;
use tokio::time::timeout;

use super::{
    client::{Agent, Served, next, write},
    doors::{closed, wait_until},
    talk::{report, snapshot},
};
use crate::{
    app::App,
    db::{self, Db},
    dispatch::tests as orders,
    fleet::{
        self, NodeState, alarms, nodes,
        testing::{TestNode, enrolled, hello, locations, new_key, read, request, services},
    },
};

const DEADLINE: Duration = Duration::from_secs(30);

async fn stage(db: Db) -> (App, Served, TestNode) {
    let (app, _clock) = services(db);
    locations(&app, 10).await;
    let served = Served::start(&app).await;
    let node = enrolled(&app, "fsn-1", "fsn").await;
    (app, served, node)
}

fn on(machine: &str, ratchet: &[u8], node: &TestNode) -> Hello {
    Hello { fingerprint: machine.into(), ratchet: ratchet.to_vec(), ..hello(node, 1_000) }
}

async fn connected(app: &App, served: &Served, node: &TestNode, said: Hello) -> Agent {
    let agent = Agent::greet(app, served.address, node, said).await.unwrap();
    wait_until(|| app.links.connected() == 1).await;
    agent
}

/// Says what is on its host, so that servers can be placed there.
async fn reports(agent: &mut Agent) {
    report(agent, snapshot(1)).await;
    assert_eq!(agent.told().await.0, FrameType::StateAck);
}

/// Answers the next challenge as an agent on this machine with this ratchet in its journal.
pub(super) async fn answers(agent: &mut Agent, machine: &str, ratchet: Vec<u8>) {
    let (kind, body) = timeout(DEADLINE, agent.told()).await.expect("nobody asked");
    assert_eq!(kind, FrameType::Challenge);
    let nonce = Challenge::decode(body.as_slice()).unwrap().nonce;
    assert_eq!(nonce.len(), 16);
    let answer = ChallengeAnswer { nonce, fingerprint: machine.into(), ratchet, report_epoch: "r1".into() };
    let frame = Frame::new(FrameType::ChallengeAnswer, &answer);
    write(&mut agent.control.0, StreamKind::Control, frame).await;
}

async fn state(app: &App, node: &TestNode) -> NodeState {
    read(app, async |c| nodes::by_id(c, node.id).await).await.unwrap().state
}

pub(super) async fn open_alarms(app: &App) -> Vec<(String, String)> {
    let all = read(app, async |c| alarms::list(c, 9).await).await;
    // That a greeting came from another machine than the enrolment is told beside.
    let open = all.into_iter().filter(|a| a.cleared_at.is_none() && a.kind != "machine_changed");
    open.map(|a| (a.kind, a.detail)).collect()
}

/// Both live and say different things: neither gets an order, and a person is told.
async fn both_are_out(db: Db, machine: &str, is_of_newest_journal: bool, said: &str) {
    let (app, served, node) = stage(db).await;
    let mut first = connected(&app, &served, &node, on("machine-a", &[], &node)).await;
    let kept = first.welcome.ratchet.clone();
    reports(&mut first).await;
    let place = orders::placed(&app, &node, 1).await;
    let copy = Agent::greet(&app, served.address, &node, on(machine, &kept, &node)).await.unwrap();
    assert!(!copy.welcome.quarantined);
    let ratchet = if is_of_newest_journal { copy.welcome.ratchet.clone() } else { kept };
    answers(&mut first, "machine-a", ratchet).await;
    for agent in [&first, &copy] {
        assert_eq!(timeout(DEADLINE, closed(&agent.connection)).await.unwrap(), Some(CloseCode::Quarantined));
    }
    assert_eq!(state(&app, &node).await, NodeState::Quarantined);
    let open = open_alarms(&app).await;
    assert!(
        matches!(&open[..], [(kind, detail)] if kind == "identity_copied" && detail.contains(said)),
        "{open:?}"
    );
    assert!(
        orders::issue(&app, &place, orders::ensure(&place), "build").await.is_err(),
        "nothing is ordered there"
    );

    // Either may report; a person may close the alarm, and a new enrolment ends the quarantine.
    let back =
        Agent::greet(&app, served.address, &node, on("machine-a", &first.welcome.ratchet, &node)).await;
    assert!(back.unwrap().welcome.quarantined);
    let joining = fleet::new_token(&app, "operator:test", "fsn-1").await.unwrap();
    let asked = request(&joining.token.parse().unwrap(), &new_key());
    fleet::testing::enrol_with(&app, asked).await.unwrap();
    assert_eq!((state(&app, &node).await, open_alarms(&app).await.len()), (NodeState::Active, 0));
}

#[tokio::test]
async fn two_live_agents_on_different_machines_are_both_quarantined() {
    db::testing::each_database(async |db| {
        both_are_out(db, "machine-b", true, "different machines").await;
    })
    .await;
}

#[tokio::test]
async fn two_live_agents_on_copies_of_one_journal_are_both_quarantined() {
    let (db, _dir) = db::testing::sqlite().await;
    both_are_out(db, "machine-a", false, "different journals").await;
}

/// The verdict does not depend on the newcomer's patience.
#[tokio::test]
async fn a_copy_that_leaves_before_the_answer_is_found_out_all_the_same() {
    let (db, _dir) = db::testing::sqlite().await;
    let (app, served, node) = stage(db).await;
    let mut first = connected(&app, &served, &node, on("machine-a", &[], &node)).await;
    let kept = first.welcome.ratchet.clone();
    let copy = Agent::greet(&app, served.address, &node, on("machine-b", &kept, &node)).await.unwrap();
    let asked = async {
        let (FrameType::Challenge, body) = first.told().await else { panic!("nobody asked") };
        Challenge::decode(body.as_slice()).unwrap().nonce
    };
    let nonce = timeout(DEADLINE, asked).await.unwrap();
    copy.connection.close(quinn::VarInt::from_u32(CloseCode::Finished.code()), b"gone");
    let answer =
        ChallengeAnswer { nonce, fingerprint: "machine-a".into(), ratchet: kept, report_epoch: "r1".into() };
    let frame = Frame::new(FrameType::ChallengeAnswer, &answer);
    write(&mut first.control.0, StreamKind::Control, frame).await;
    assert_eq!(timeout(DEADLINE, closed(&first.connection)).await.unwrap(), Some(CloseCode::Quarantined));
    assert_eq!(state(&app, &node).await, NodeState::Quarantined);
}

/// A restarted agent, or one of an older version that skips the question: nobody answers, the newest wins, and
/// what was under way goes on there.
#[tokio::test]
async fn a_silent_connection_is_replaced_without_an_alarm_and_its_orders_go_on() {
    let (db, _dir) = db::testing::sqlite().await;
    let (app, served, node) = stage(db).await;
    let mut first = connected(&app, &served, &node, on("machine-a", &[], &node)).await;
    reports(&mut first).await;
    let place = orders::placed(&app, &node, 1).await;
    orders::issue(&app, &place, orders::ensure(&place), "build").await.unwrap();
    // It is on its way there, and never answered.
    let _unanswered = timeout(DEADLINE, first.connection.accept_bi()).await.unwrap().unwrap();
    let kept = first.welcome.ratchet.clone();
    let second = Agent::greet(&app, served.address, &node, on("machine-a", &kept, &node)).await.unwrap();
    let taken = timeout(DEADLINE, second.take_order(OrderAnswer::default())).await.expect("no order came");
    assert!(!taken.is_empty());
    assert_eq!(closed(&first.connection).await, Some(CloseCode::Replaced));
    assert!(second.connection.close_reason().is_none());
    assert_eq!((state(&app, &node).await, open_alarms(&app).await.len()), (NodeState::Active, 0));
}

/// One agent with two connections, as while a certificate is renewed.
#[tokio::test]
async fn the_same_agent_may_come_over_a_second_connection() {
    let (db, _dir) = db::testing::sqlite().await;
    let (app, served, node) = stage(db).await;
    let mut first = connected(&app, &served, &node, on("machine-a", &[], &node)).await;
    let kept = first.welcome.ratchet.clone();
    let second = Agent::greet(&app, served.address, &node, on("machine-a", &kept, &node)).await.unwrap();
    answers(&mut first, "machine-a", second.welcome.ratchet.clone()).await;
    assert_eq!(timeout(DEADLINE, closed(&first.connection)).await.unwrap(), Some(CloseCode::Replaced));
    assert!(second.connection.close_reason().is_none());
    assert_eq!(state(&app, &node).await, NodeState::Active);
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_changes_nothing() {
    let (db, _dir) = db::testing::sqlite().await;
    let (app, served, node) = stage(db).await;
    let mut agent = connected(&app, &served, &node, on("machine-a", &[], &node)).await;
    let answer = ChallengeAnswer { fingerprint: "machine-z".into(), ..ChallengeAnswer::default() };
    let frame = Frame::new(FrameType::ChallengeAnswer, &answer);
    write(&mut agent.control.0, StreamKind::Control, frame).await;
    let ping = Frame::new(FrameType::Ping, &ez_protocol::message::Ping { nonce: 7, now_ms: 1 });
    write(&mut agent.control.0, StreamKind::Control, ping).await;
    let (kind, _) = next(&mut agent.control.1, StreamKind::Control).await.unwrap();
    assert_eq!(kind, FrameType::Pong, "the connection lives");
    assert_eq!(state(&app, &node).await, NodeState::Active);
}
