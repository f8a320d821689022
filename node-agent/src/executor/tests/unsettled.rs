//! Every kind of order, while the world around it is not as it should be: it is delivered a hundred times, the clock
//! jumps while it is at work, the journal's disk is full for a while. It is carried out once and ends as always.

use ez_protocol::refusal::RefusalCode;

use super::{
    disturbed::{Haste, Played, Stage, play, play_delivered, play_full, play_in_time},
    kit::Host,
    scenes::{self, Scene},
};
use crate::{
    journal::{Admission, OrderState},
    pve::fake::{Call, Kind},
    testing::{NOW, ensure, node},
};

const HOUR_MS: i64 = 3_600_000;
/// How far the clock jumps.
const JUMPS: [i64; 4] = [HOUR_MS, -HOUR_MS, 24 * HOUR_MS, -24 * HOUR_MS];

/// Calls that change something, of the order itself.
fn changing(played: &Played) -> Vec<Call> {
    let calls = played.host.pve.trace().split_off(played.first);
    calls.into_iter().filter(|call| matches!(call.kind, Kind::Change | Kind::Task)).collect()
}

/// The same end as without a disturbance, told once, and nothing was done twice.
async fn same_end(scene: &Scene, plain: &Played, played: &Played, at: &str) {
    assert_eq!(played.row.state, plain.row.state, "{at}: {:?}", played.row.result);
    assert_eq!(played.picture().await, plain.picture().await, "{at}");
    assert_eq!(played.effects(), plain.effects(), "{at}");
    assert_eq!(played.ends_told(&scene.target).await, 1, "{at}: exactly one end is told");
    assert_eq!(played.foreign_now(), played.foreign, "{at}: a foreign VM was changed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_order_that_is_delivered_a_hundred_times_is_carried_out_once() {
    for scene in scenes::all() {
        let stage = Stage::of(&scene).await;
        let plain = play(&scene, &stage, Haste::Patient, None).await;
        let played = play_delivered(&scene, &stage, 100).await;
        same_end(&scene, &plain, &played, &scene.name).await;
        assert_eq!(changing(&played), changing(&plain), "{}: something was called again", scene.name);
        // And when it is over, it is still the same order with the same result.
        let Admission::Duplicate(known) = played.host.books.admit(&scene.target).await else {
            panic!("{}: it came in again", scene.name);
        };
        assert_eq!(
            (known.state, known.result),
            (played.row.state, played.row.result.clone()),
            "{}",
            scene.name
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_clock_that_jumps_while_an_order_is_at_work_changes_nothing_about_its_end() {
    let mut jumps = 0;
    for scene in scenes::all() {
        let stage = Stage::of(&scene).await;
        let plain = play(&scene, &stage, Haste::Patient, None).await;
        let calls = plain.host.pve.trace().split_off(plain.first);
        for (at, call) in calls.iter().enumerate() {
            if !(at == 0 || matches!(call.kind, Kind::Change | Kind::Task)) {
                continue;
            }
            for jump in JUMPS {
                let played = play_in_time(&scene, &stage, jump, at).await;
                let at = format!("{}: {jump} ms at call {at}, {call:?}", scene.name);
                same_end(&scene, &plain, &played, &at).await;
                jumps += 1;
            }
        }
    }
    println!("{jumps} jumps of the clock");
}

#[tokio::test]
async fn an_order_that_comes_after_the_clock_has_jumped_is_refused_by_name_or_taken_as_always() {
    for scene in scenes::all() {
        let host = Host::new().await;
        scene.set(&host).await;
        for jump in JUMPS {
            let mut here = node();
            here.now.0 += jump;
            let verdict = host.books.admit_as(&scene.target, here).await;
            let Admission::Refuse(note) = verdict else { panic!("{}: {jump} ms: {verdict:?}", scene.name) };
            let code = note.refusal.code;
            let typed = [RefusalCode::Expired, RefusalCode::NotYet, RefusalCode::ClockSkew].contains(&code);
            assert!(typed, "{}: {jump} ms: {code}", scene.name);
        }
    }
}

#[tokio::test]
async fn an_order_whose_time_is_over_when_it_would_begin_ends_by_name_and_leaves_nothing() {
    for jump in JUMPS {
        let host = Host::new().await;
        host.books.accept(&ensure(1, 1)).await;
        host.clock.set(ez_protocol::UnixMillis(NOW.0 + jump));
        let row = host.run(&ensure(1, 1)).await;
        if jump < 0 {
            assert_eq!(row.state, OrderState::Succeeded, "{jump}: {:?}", row.result);
        } else {
            assert_eq!(row.state, OrderState::Failed, "{jump}: {:?}", row.result);
            assert!(row.result.unwrap().contains("its time was over before it could begin"));
            assert!(host.books.journal.resources().await.unwrap().is_empty());
            assert!(host.pve.changes().is_empty());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_disk_that_is_full_from_any_write_on_delays_an_order_and_no_more() {
    let mut points = 0;
    for scene in scenes::all() {
        let stage = Stage::of(&scene).await;
        let plain = play(&scene, &stage, Haste::Patient, None).await;
        for n in 1.. {
            let (played, was_full) = play_full(&scene, &stage, n).await;
            let at = format!("{}: full from write {n} on", scene.name);
            // A button whose working cannot be seen is not pressed twice; a start that failed and was not written
            // down is tried once more.
            let unknown = played.row.state == OrderState::Failed
                && played.row.result.as_deref().is_some_and(|text| text.contains("unknown: whether"));
            let retried = scene.failing.is_some() && played.row.state == OrderState::Succeeded;
            if !unknown && !retried {
                same_end(&scene, &plain, &played, &at).await;
            }
            assert_eq!(played.ends_told(&scene.target).await, 1, "{at}: exactly one end is told");
            points += u32::from(was_full);
            if !was_full {
                break;
            }
        }
    }
    println!("{points} points from which on the disk was full");
}
