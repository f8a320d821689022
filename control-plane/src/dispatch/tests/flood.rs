//! An agent that was taken over tells more than any agent does.

use super::*;

#[tokio::test]
async fn of_one_order_so_many_events_are_kept_and_its_end_is_heard_all_the_same() {
    let (db, _dir) = db::testing::sqlite().await;
    let (app, _clock) = services(db);
    locations(&app, 10).await;
    let node = ready_node(&app, "fsn-1", 1_000, 5).await;
    let place = placed(&app, &node, 1).await;
    let id = issue(&app, &place, ensure(&place), "build").await.unwrap();
    leave(&app, id).await;
    let (at, told_by, about) = (app.clock.now(), node.id, place.instance);
    let mut kept = 0_u32;
    // Stuck and at work again by turns: each of these is also written down and rings. A unit holds no more than a hundred, since
    // each has its time.
    for first in (1_u64..=2_010).step_by(100) {
        kept += app
            .db
            .write::<_, db::DbError, _>(move |tx| {
                Box::pin(async move {
                    let mut kept = 0_u32;
                    for seq in first..(first + 100).min(2_011) {
                        let kind = if seq % 2 == 0 { EventKind::Stuck } else { EventKind::StepStarted };
                        let told = event(seq, id, about, kind, "clone");
                        let came_to = dispatch::record(tx, at, told_by, "j1", &told).await?;
                        kept += u32::from(came_to == Recorded::New);
                    }
                    Ok(kept)
                })
            })
            .await
            .unwrap();
    }
    assert_eq!(kept, 2_000);
    let end = event(3_000, id, about, EventKind::Succeeded, "");
    assert_eq!(record(&app, &node, end).await, Recorded::New);
    assert_eq!(state(&app, id).await, State::Succeeded);
    let late = event(3_001, id, about, EventKind::StepStarted, "clone");
    assert_eq!(record(&app, &node, late).await, Recorded::Known);
}
