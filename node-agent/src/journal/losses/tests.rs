//! An order counts while it may still take something away, and afterwards only if it did.

use ez_protocol::{
    InstanceId, UnixMillis,
    message::EventKind,
    order::{Action, Op, ProvisioningOrder},
};

use super::{super::*, Losses};
use crate::{
    report::EventDraft,
    testing::{Books, NOW, ensure, instance, order},
};

fn later(ms: u64) -> UnixMillis {
    NOW.plus(std::time::Duration::from_millis(ms))
}

async fn lost(books: &Books, of: InstanceId, at: UnixMillis) -> Losses {
    let load = books.journal.write(move |conn| {
        Box::pin(async move {
            let circuit = circuit::load(conn).await?;
            super::load(conn, of, &circuit, at).await
        })
    });
    load.await.unwrap()
}

fn roll_back(seq: u64) -> ProvisioningOrder {
    order(seq, 1, Op::Action(Action::SnapshotRollback { name: "before".parse().unwrap() }))
}

/// Accepts a rollback and lets it end as failed, after a step.
async fn attempt(books: &Books, seq: u64, step: &'static str, refused: bool) {
    let order = roll_back(seq);
    books.accept(&order).await;
    let id = order.order_id;
    books.journal.begin_order(id, OrderState::Running, NOW, None).await.unwrap();
    books.journal.step_intent(id, 1, step, "{}".into(), "boot".into(), NOW, None).await.unwrap();
    if refused {
        let sql = "UPDATE steps SET state = 'failed' WHERE upid IS NULL";
        let fail = books.journal.write(move |conn| {
            Box::pin(async move { Ok(sqlx::query(sql).execute(conn).await.map(|_| ())?) })
        });
        fail.await.unwrap();
    }
    let event = EventDraft::new(EventKind::Failed, id, instance(10), 1, NOW);
    let books_entry = BookEntry::Nothing;
    books.journal.finish_order(id, OrderState::Failed, NOW, "{}".into(), event, books_entry).await.unwrap();
}

#[tokio::test]
async fn an_attempt_that_touched_nothing_does_not_count_and_root_begins_the_count_anew() {
    let books = Books::new().await;
    books.accept(&ensure(1, 1)).await;
    let (own, other, soon) = (instance(10), instance(11), later(1));
    books.accept(&roll_back(2)).await;
    let one = Losses { hour: 1, here_hour: 1, others_day: 0, here_day: DISK };
    assert_eq!(lost(&books, own, soon).await, one, "what waits may be carried out");
    assert_eq!(
        lost(&books, other, soon).await,
        Losses { hour: 1, here_hour: 0, others_day: DISK, here_day: 0 }
    );

    attempt(&books, 3, "note_power", false).await;
    attempt(&books, 4, "roll_back", true).await;
    assert_eq!(lost(&books, own, soon).await, one, "nothing was touched");
    attempt(&books, 5, "roll_back", false).await;
    assert_eq!(
        lost(&books, own, soon).await,
        Losses { hour: 2, here_hour: 2, ..one },
        "one server, one disk"
    );

    let delete = Action::SnapshotDelete { name: "before".parse().unwrap() };
    books.accept(&order(6, 1, Op::Action(delete))).await;
    assert_eq!(lost(&books, own, soon).await.hour, 2, "a snapshot is no disk");
    let hour = later(3_600_000);
    assert_eq!(
        lost(&books, other, hour).await,
        Losses { hour: 0, here_hour: 0, others_day: DISK, here_day: 0 }
    );

    let unlock = books.journal.write(move |conn| Box::pin(async move { circuit::reset(conn, soon).await }));
    unlock.await.unwrap();
    assert_eq!(lost(&books, own, soon).await, Losses::default());
}

/// What was wished and came to nothing does not open the way: the next wish for the same build counts as the first did.
#[tokio::test]
async fn a_rebuild_counts_by_what_lies_on_the_disk() {
    let books = Books::new().await;
    let created = ensure(1, 1);
    books.accept(&created).await;
    let applied = match &created.op {
        Op::Ensure(spec) => serde_json::to_string(spec).ok(),
        _ => None,
    };
    let end = async |order: &ProvisioningOrder, generation, state, entry| {
        let id = order.order_id;
        let kind = if state == OrderState::Succeeded { EventKind::Succeeded } else { EventKind::Failed };
        let event = EventDraft::new(kind, id, instance(10), generation, NOW);
        books.journal.begin_order(id, OrderState::Running, NOW, None).await.unwrap();
        books.journal.finish_order(id, state, NOW, "{}".into(), event, entry).await.unwrap();
    };
    let carried = BookEntry::Carried { instance: instance(10), generation: 1, applied };
    end(&created, 1, OrderState::Succeeded, carried).await;

    let rebuild = |n: u64| {
        let mut order = ensure(n, n);
        let Op::Ensure(spec) = &mut order.op else { unreachable!("an ensure") };
        (spec.build, spec.vcpus) = (1, u32::try_from(n).unwrap());
        order
    };
    for n in 2..5 {
        let order = rebuild(n);
        books.accept(&order).await;
        assert_eq!(lost(&books, instance(10), later(1)).await.here_hour, 1, "rebuild {n}");
        end(&order, n, OrderState::Failed, BookEntry::Nothing).await;
        assert_eq!(lost(&books, instance(10), later(1)).await.here_hour, 0, "it touched nothing");
    }
}
