//! Rebuilds, rollbacks and restores keep the pace of their node, so that it never has to refuse one: one customer's do not
//! become the failure of another's.

use ez_protocol::message::PolicySummary;

use super::{
    purges::{done, minutes, taken},
    *,
};
use crate::{
    dispatch::Pace,
    fleet::testing::{enrolled, hello, report_as},
};

async fn node_with(app: &App, (hour, server, percent, floor): (u32, u32, u32, u32)) -> TestNode {
    let node = enrolled(app, "fsn-1", "fsn").await;
    let mut hello = hello(&node, 1_000);
    let policy = hello.policy.take().unwrap();
    hello.policy = Some(PolicySummary {
        replaces_per_hour: Some(hour),
        replaces_per_server_per_hour: Some(server),
        replace_percent_per_day: Some(percent),
        replace_floor_per_day: Some(floor),
        ..policy
    });
    report_as(app, &node, hello, 20).await;
    node
}

async fn built(app: &App, node: &TestNode, n: u8) -> Placement {
    let place = placed(app, node, n).await;
    let id = issue(app, &place, ensure(&place), "build").await.unwrap();
    taken(app, node, id).await;
    done(app, node, id, place.instance).await;
    place
}

/// Has an order taken, or says whose pace forbids it and for how many minutes.
async fn told(app: &App, node: &TestNode, place: &Placement, op: Op, cause: &str) -> Result<(), (Pace, u64)> {
    match issue(app, place, op, cause).await {
        Ok(id) => {
            taken(app, node, id).await;
            Ok(())
        }
        Err(IssueError::Paced { pace, wait }) => Err((pace, wait.as_secs() / 60)),
        Err(other) => panic!("{other}"),
    }
}

fn rollback() -> Op {
    Op::Action(Action::SnapshotRollback { name: "before".parse().unwrap() })
}

fn rebuild(place: &Placement, build: u32) -> Op {
    Op::Ensure(Box::new(InstanceSpec { build, ..spec(place) }))
}

#[tokio::test]
async fn one_servers_rollbacks_wait_and_the_others_have_their_turn() {
    db::testing::each_database(async |db| {
        let (app, clock) = services(db);
        locations(&app, 40).await;
        let node = node_with(&app, (4, 2, 50, 2)).await;
        let (one, two, three) =
            (built(&app, &node, 1).await, built(&app, &node, 2).await, built(&app, &node, 3).await);

        assert_eq!(told(&app, &node, &one, rebuild(&one, 1), "a").await, Ok(()));
        minutes(&clock, 10);
        assert_eq!(told(&app, &node, &one, rollback(), "b").await, Ok(()));
        assert_eq!(told(&app, &node, &one, rollback(), "c").await, Err((Pace::ServerHour, 50)));
        let plain = told(&app, &node, &one, rebuild(&one, 1), "d").await;
        assert_eq!(plain, Ok(()), "another wish that keeps the disk takes no turn");

        assert_eq!(told(&app, &node, &two, rollback(), "e").await, Ok(()));
        // Two servers a day: a third would open the node's circuit, the two go on.
        assert_eq!(told(&app, &node, &three, rollback(), "f").await.unwrap_err().0, Pace::NodeDay);
        let delete = || Op::Action(Action::SnapshotDelete { name: "before".parse().unwrap() });
        assert_eq!(told(&app, &node, &three, delete(), "g").await.unwrap_err().0, Pace::NodeDay);
        assert_eq!(told(&app, &node, &two, delete(), "h").await, Ok(()));
        assert_eq!(told(&app, &node, &two, rollback(), "i").await, Ok(()));
        minutes(&clock, 51);
        assert_eq!(told(&app, &node, &one, rollback(), "j").await, Ok(()));
        assert_eq!(told(&app, &node, &one, rollback(), "k").await, Err((Pace::ServerHour, 9)));
        assert_eq!(told(&app, &node, &three, rollback(), "m").await, Err((Pace::NodeHour, 9)));
        minutes(&clock, 24 * 60);
        assert_eq!(told(&app, &node, &three, rollback(), "l").await, Ok(()));
    })
    .await;
}
