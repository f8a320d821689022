//! Purges that come due together are issued in such portions that no node opens its destroy circuit.

use ez_protocol::message::PolicySummary;

use super::*;
use crate::{
    clock::ManualClock,
    fleet::testing::{enrolled, hello, report_as},
};

/// A node with servers that are retired, and the clock.
async fn retired(app: &App, node: &TestNode, servers: u8) -> Vec<Placement> {
    let mut places = Vec::new();
    for n in 0..servers {
        places.push(end(app, node, n).await);
    }
    places
}

/// A server that was built on a node, and retired.
async fn end(app: &App, node: &TestNode, n: u8) -> Placement {
    let place = placed(app, node, n).await;
    for (op, cause) in [(ensure(&place), "build"), (Op::Retire(Empty {}), "end")] {
        let id = issue(app, &place, op, cause).await.unwrap();
        taken(app, node, id).await;
        done(app, node, id, place.instance).await;
    }
    place
}

pub(super) async fn taken(app: &App, node: &TestNode, id: ProvisioningOrderId) {
    let kind = AnswerKind::Accepted.into();
    answer(app, node, id, OrderAnswer { kind, order_id: id.to_string(), ..OrderAnswer::default() }).await;
}

pub(super) async fn done(app: &App, node: &TestNode, id: ProvisioningOrderId, about: InstanceId) {
    let seq = u64::from_be_bytes(id.as_uuid().as_bytes()[8..].try_into().unwrap()) >> 2;
    let seq = seq & i64::MAX.unsigned_abs();
    assert_eq!(record(app, node, event(seq, id, about, EventKind::Succeeded, "")).await, Recorded::New);
}

/// Asks for a purge of each; those that were issued.
async fn purge(app: &App, places: &[Placement]) -> Vec<ProvisioningOrderId> {
    let mut issued = Vec::new();
    for place in places {
        match issue(app, place, Op::Purge(Empty {}), "purge").await {
            Ok(id) if !issued.contains(&id) => issued.push(id),
            Ok(_) | Err(IssueError::TooMany { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    issued
}

pub(super) fn minutes(clock: &ManualClock, n: u64) {
    clock.advance(Duration::from_secs(60 * n));
}

/// A node whose agent tells what its policy lets through.
async fn that_says(app: &App, name: &str, (per_10_minutes, percent, floor): (u32, u32, u32)) -> TestNode {
    let node = enrolled(app, name, "fsn").await;
    let mut hello = hello(&node, 1_000);
    let policy = hello.policy.take().unwrap();
    hello.policy = Some(PolicySummary {
        purges_per_10_minutes: Some(per_10_minutes),
        purge_percent_per_day: Some(percent),
        purge_floor_per_day: Some(floor),
        ..policy
    });
    report_as(app, &node, hello, 20).await;
    node
}

#[tokio::test]
async fn a_node_is_never_told_more_purges_than_its_policy_lets_through() {
    db::testing::each_database(async |db| {
        let (app, clock) = services(db);
        locations(&app, 40).await;
        let node = that_says(&app, "fsn-1", (2, 0, 5)).await;
        let places = retired(&app, &node, 8).await;

        let first = purge(&app, &places).await;
        assert_eq!(first.len(), 2);
        // The node is away: what waits for it may all arrive at once, however long ago it was issued.
        minutes(&clock, 9);
        assert_eq!(purge(&app, &places).await, first, "the same two, issued once");
        minutes(&clock, 2);
        for id in &first {
            taken(&app, &node, *id).await;
        }
        minutes(&clock, 9);
        assert_eq!(purge(&app, &places).await, first);
        minutes(&clock, 2);
        let more = purge(&app, &places).await;
        assert_eq!(more.len(), 4, "two more");

        // And so on, until the day's budget is used up.
        let mut known = more;
        for _ in 0..3 {
            for id in &known {
                if state(&app, *id).await == State::Signed {
                    taken(&app, &node, *id).await;
                }
            }
            minutes(&clock, 11);
            known = purge(&app, &places).await;
        }
        assert_eq!(known.len(), 5, "five a day");
        minutes(&clock, 24 * 60);
        assert_eq!(purge(&app, &places).await.len(), 7);
    })
    .await;
}

#[tokio::test]
async fn a_refused_purge_does_not_count_and_each_node_has_a_budget_of_its_own() {
    db::testing::each_database(async |db| {
        let (app, _clock) = services(db);
        locations(&app, 40).await;
        let says_nothing = ready_node(&app, "fsn-2", 2_000, 20).await;
        let places = retired(&app, &says_nothing, 6).await;
        let first = purge(&app, &places).await;
        assert_eq!(first.len(), 3, "an agent that says nothing lets three a day through");
        answer(&app, &says_nothing, first[0], refusal("POLICY")).await;
        assert_eq!(purge(&app, &places).await.len(), 4, "the place of the refused one");

        let other = that_says(&app, "fsn-1", (4, 50, 3)).await;
        let mut theirs = Vec::new();
        for n in 10..16 {
            theirs.push(end(&app, &other, n).await);
        }
        assert_eq!(purge(&app, &theirs).await.len(), 3, "half of six a day");
    })
    .await;
}
