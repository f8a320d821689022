//! What is acknowledged is there after any crash; what is damaged is said to be.

use std::time::Duration;

use ez_protocol::{
    message::{Event, EventKind},
    order::ProvisioningOrder,
};
use prost::Message as _;

use super::{fuse::Cut, *};
use crate::{
    clock::ManualClock,
    entropy::SeededEntropy,
    report::EventDraft,
    testing::{Books, NOW, ensure, instance, node_id},
};

async fn open(path: &std::path::Path) -> Result<Journal, JournalError> {
    Journal::open(path, &ManualClock::at(NOW), &SeededEntropy::new(1)).await
}

fn event(kind: EventKind) -> EventDraft {
    let order = ensure(1, 1);
    EventDraft::new(kind, order.order_id, instance(10), 1, NOW)
}

#[tokio::test]
async fn it_runs_with_the_settings_that_keep_acknowledged_rows() {
    let books = Books::new().await;
    let ask = |pragma: &'static str| {
        let pool = books.journal.readers().clone();
        async move {
            let row = sqlx::query(pragma).fetch_one(&pool).await.unwrap();
            row.try_get::<String, _>(0).or_else(|_| row.try_get::<i64, _>(0).map(|n| n.to_string())).unwrap()
        }
    };
    assert_eq!(ask("PRAGMA journal_mode").await, "wal");
    assert_eq!(ask("PRAGMA foreign_keys").await, "1");
    let synchronous = books
        .journal
        .write(|conn| {
            Box::pin(async move {
                Ok(sqlx::query("PRAGMA synchronous").fetch_one(conn).await?.try_get::<i64, _>(0)?)
            })
        })
        .await
        .unwrap();
    assert_eq!(synchronous, 2, "FULL");
}

#[tokio::test]
async fn an_accepted_order_is_there_after_a_crash_and_a_cut_one_is_not() {
    let books = Books::new().await;
    books.accept(&ensure(1, 1)).await;
    let again = books.again().await;
    let row = again.journal.order(ensure(1, 1).order_id).await.unwrap().unwrap();
    assert_eq!((row.state, row.seq, row.vmid), (OrderState::Accepted, 1, 1_000));
    assert_eq!(again.journal.meta().await.unwrap().high_seq, 1);
    assert_eq!(again.journal.outbox_len().await.unwrap(), 1, "the event that says so is there as well");

    again.journal.fuse.set(1, Cut::BeforeCommit);
    let read = crate::testing::read(&ensure(2, 2));
    let node = crate::testing::node();
    let cut = again
        .journal
        .admit(read.question(), NOW, move |facts| {
            crate::intake::judge(&read, &node, &|_, _, _| Ok(()), facts)
        })
        .await;
    assert!(cut.is_err());
    let last = books.again().await;
    assert!(last.journal.order(ensure(2, 2).order_id).await.unwrap().is_none());
}

#[tokio::test]
async fn the_intake_is_told_how_many_orders_came_lately_and_how_much_the_journal_holds() {
    let books = Books::new().await;
    let seen = |at: ez_protocol::UnixMillis, seq: u64| {
        let read = crate::testing::read(&ensure(seq, seq));
        let question = read.question();
        let (tell, told) = tokio::sync::oneshot::channel();
        let journal = books.journal.clone();
        async move {
            let judge = move |facts: &Facts| {
                let numbers = (facts.orders_hour, facts.orders_here_hour, facts.journal_bytes);
                tell.send(numbers).unwrap();
                let node = crate::intake::Node { now: NOW, ..crate::testing::node() };
                crate::intake::judge(&read, &node, &|_, _, _| Ok(()), facts)
            };
            journal.admit(question, at, judge).await.unwrap();
            told.await.unwrap()
        }
    };
    let (hour, here, empty) = seen(NOW, 1).await;
    assert_eq!((hour, here), (0, 0));
    let (hour, here, _) = seen(NOW, 2).await;
    assert_eq!((hour, here), (1, 1));
    let (hour, here, _) = seen(NOW.plus(Duration::from_secs(3_600)), 3).await;
    assert_eq!((hour, here), (0, 0), "an hour later");
    let grown = async || seen(NOW.plus(Duration::from_secs(3_600)), 3).await.2;
    books
        .journal
        .write(|conn| {
            Box::pin(async move {
                let flood = "UPDATE orders SET envelope = zeroblob(10000000) WHERE seq = 1";
                sqlx::query(flood).execute(conn).await?;
                Ok(())
            })
        })
        .await
        .unwrap();
    assert!(grown().await > empty + 9_000_000);
    books
        .journal
        .write(|conn| {
            Box::pin(async move {
                sqlx::query("UPDATE orders SET envelope = x'00' WHERE seq = 1").execute(conn).await?;
                Ok(())
            })
        })
        .await
        .unwrap();
    assert!(grown().await < empty + 1_000_000, "what is free is used again and does not count");
}

#[tokio::test]
async fn many_writes_share_one_commit_and_one_bad_one_spoils_no_other() {
    let books = Books::new().await;
    let writes = (0..50_i64).map(|n| {
        books.journal.write(move |conn| {
            Box::pin(async move {
                // Every tenth breaks a rule of the schema.
                let kind = if n % 10 == 0 { "nonsense" } else { "create" };
                sqlx::query("INSERT INTO acts (kind, at) VALUES ($1, $2)")
                    .bind(kind)
                    .bind(n)
                    .execute(conn)
                    .await?;
                Ok(n)
            })
        })
    });
    let results = futures::future::join_all(writes).await;
    for (n, result) in results.iter().enumerate() {
        assert_eq!(result.is_ok(), n % 10 != 0, "{n}: {result:?}");
    }
    assert!(results.iter().filter_map(|r| r.as_ref().err()).all(|e| matches!(e, JournalError::Conflict(_))));
    let count: i64 = sqlx::query("SELECT COUNT(*) FROM acts")
        .fetch_one(books.journal.readers())
        .await
        .unwrap()
        .try_get(0)
        .unwrap();
    assert_eq!(count, 45);
}

#[tokio::test]
async fn a_write_that_meets_a_defect_takes_back_only_its_own() {
    let books = Books::new().await;
    let order = ensure(1, 1);
    let judge = |_: &Facts| -> Admission { panic!("a defect of the judgement") };
    let (before, met, after) = tokio::join!(
        books.journal.push_event(event(EventKind::StepProgress)),
        books.journal.admit(crate::testing::read(&order).question(), NOW, judge),
        books.journal.push_event(event(EventKind::StepProgress)),
    );
    assert!(matches!(met, Err(JournalError::Defect)), "{met:?}");
    assert_eq!((before.unwrap(), after.unwrap()), (1, 2));
    assert!(books.journal.order(order.order_id).await.unwrap().is_none());
    books.accept(&order).await;
}

#[tokio::test]
async fn events_are_numbered_without_a_gap_and_go_only_when_acknowledged() {
    let books = Books::new().await;
    for _ in 0..5 {
        books.journal.push_event(event(EventKind::StepProgress)).await.unwrap();
    }
    let journal = books.again().await.journal;
    let events = journal.outbox_after(0, 10).await.unwrap();
    let numbers: Vec<u64> = events.iter().map(|e| e.event_seq).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
    assert_eq!(Event::decode(events[4].body.as_slice()).unwrap().event_seq, 5);
    journal.acknowledge(3, NOW).await.unwrap();
    journal.acknowledge(2, NOW).await.unwrap();
    assert_eq!(journal.outbox_after(0, 10).await.unwrap().len(), 2);
    // Nobody can have stored what was never sent.
    journal.acknowledge(99, NOW).await.unwrap();
    assert_eq!(journal.outbox_len().await.unwrap(), 2);
    assert_eq!(journal.push_event(event(EventKind::StepDone)).await.unwrap(), 6);
}

#[tokio::test]
async fn an_order_is_confirmed_by_the_acknowledgement_of_its_acceptance_and_stays_so() {
    let books = Books::new().await;
    let [one, two] = [ensure(1, 1), ensure(2, 2)];
    for order in [&one, &two] {
        assert!(matches!(books.admit(order).await, Admission::Accept(..)));
        assert_eq!(books.journal.confirmation(order.order_id).await.unwrap(), Confirmation::Missing);
    }
    let later = NOW.plus(std::time::Duration::from_secs(5));
    books.journal.acknowledge(1, NOW).await.unwrap();
    books.journal.acknowledge(2, later).await.unwrap();
    books.journal.acknowledge(2, later.plus(std::time::Duration::from_secs(5))).await.unwrap();
    let journal = books.again().await.journal;
    assert_eq!(journal.confirmation(one.order_id).await.unwrap(), Confirmation::At(NOW));
    assert_eq!(journal.confirmation(two.order_id).await.unwrap(), Confirmation::At(later));
}

#[tokio::test]
async fn a_damaged_file_is_kept_and_called_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.sqlite");
    std::fs::write(&path, vec![0x42; 8_192]).unwrap();
    assert!(matches!(open(&path).await, Err(JournalError::Corrupt(_))));
    assert_eq!(std::fs::read(&path).unwrap(), vec![0x42; 8_192]);
}

#[tokio::test]
async fn a_journal_of_a_later_version_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.sqlite");
    let journal = open(&path).await.unwrap();
    journal
        .write(|conn| {
            Box::pin(async move {
                sqlx::query(
                    "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                     VALUES (20990101000000, 'later', 1, x'00', 0)",
                )
                .execute(conn)
                .await?;
                Ok(())
            })
        })
        .await
        .unwrap();
    assert!(matches!(open(&path).await, Err(JournalError::TooNew { found: 20_990_101_000_000, .. })));
}

#[tokio::test]
async fn an_order_moves_only_forward() {
    let books = Books::new().await;
    let order = ensure(1, 1);
    books.accept(&order).await;
    let id = order.order_id;
    let journal = &books.journal;
    journal.begin_order(id, OrderState::Running, NOW, None).await.unwrap();
    let carried = BookEntry::Carried { instance: instance(10), generation: 1, applied: None };
    let done = event(EventKind::Succeeded);
    journal
        .finish_order(id, OrderState::Succeeded, NOW, "{}".to_owned(), done.clone(), carried.clone())
        .await
        .unwrap();
    let back = journal.begin_order(id, OrderState::Running, NOW, None).await;
    assert!(matches!(back, Err(JournalError::Conflict(_))), "{back:?}");
    let other = journal.finish_order(id, OrderState::Failed, NOW, "{}".to_owned(), done, carried).await;
    assert!(matches!(other, Err(JournalError::Conflict(_))), "{other:?}");
    let row = journal.order(id).await.unwrap().unwrap();
    assert_eq!((row.state, row.finished_at), (OrderState::Succeeded, Some(NOW)));
    let resource = journal.resource(instance(10)).await.unwrap().unwrap();
    assert_eq!((resource.phase, resource.observed_generation), (Phase::Present, 1));
}

#[tokio::test]
async fn old_orders_become_tombstones_and_raise_the_floor() {
    let books = Books::new().await;
    let order = ensure(1, 1);
    books.accept(&order).await;
    let journal = &books.journal;
    journal.begin_order(order.order_id, OrderState::Running, NOW, None).await.unwrap();
    let gone = BookEntry::Gone { instance: instance(10), generation: 1 };
    journal
        .finish_order(
            order.order_id,
            OrderState::Undone,
            NOW,
            "{}".to_owned(),
            event(EventKind::Undone),
            gone,
        )
        .await
        .unwrap();
    let days = |n: u64| NOW.plus(Duration::from_secs(n * 86_400));
    assert_eq!(journal.retain(days(29)).await.unwrap(), 0);
    assert_eq!(journal.retain(days(31)).await.unwrap(), 1);
    assert!(journal.order(order.order_id).await.unwrap().is_none());
    assert_eq!(journal.meta().await.unwrap().floor_seq, 1);
    let late = crate::intake::Node { now: days(31), ..crate::testing::node() };
    let Admission::Duplicate(known) = books.admit_as(&order, late).await else { panic!() };
    assert_eq!(known.state, OrderState::Undone);
}

#[tokio::test]
async fn the_fence_of_a_server_that_is_gone_goes_with_its_orders_and_lets_no_old_one_in() {
    let books = Books::new().await;
    let journal = &books.journal;
    let days = |n: u64| NOW.plus(Duration::from_secs(n * 86_400));
    let fences = async || {
        sqlx::query_scalar::<_, i64>("SELECT COUNT(*) FROM departed").fetch_one(journal.readers()).await
    };
    // Older than both that follow, and delivered late.
    let old = ensure(2, 2);
    let is_stale = async || match books.admit_as(&old, crate::testing::node()).await {
        Admission::Refuse(note) => note.refusal.code == ez_protocol::refusal::RefusalCode::Stale,
        other => panic!("{other:?}"),
    };
    for (order, generation, at) in [(ensure(4, 4), 4, NOW), (ensure(5, 5), 5, days(20))] {
        books.accept(&order).await;
        let id = order.order_id;
        journal.begin_order(id, OrderState::Running, at, None).await.unwrap();
        let (undone, gone) =
            (event(EventKind::Undone), BookEntry::Gone { instance: instance(10), generation });
        journal.finish_order(id, OrderState::Undone, at, "{}".to_owned(), undone, gone).await.unwrap();
    }
    assert_eq!(journal.retain(days(31)).await.unwrap(), 1);
    assert_eq!(fences().await.unwrap(), 1, "it went a second time, and that is not long ago");
    assert_eq!(journal.retain(days(51)).await.unwrap(), 1);
    assert_eq!(fences().await.unwrap(), 0);
    assert_eq!(journal.meta().await.unwrap().floor_seq, 5);
    assert!(is_stale().await, "even for a clock that has gone back");
}

#[tokio::test]
async fn a_stuck_order_is_kept_until_somebody_resumes_it_or_gives_it_up() {
    let books = Books::new().await;
    let order = ensure(1, 1);
    books.accept(&order).await;
    let (journal, id) = (&books.journal, order.order_id);
    let days = |n: u64| NOW.plus(Duration::from_secs(n * 86_400));
    let sticks = async |at| {
        journal.begin_order(id, OrderState::Running, at, None).await.unwrap();
        let (stuck, nothing) = (event(EventKind::Stuck), BookEntry::Nothing);
        journal.finish_order(id, OrderState::Stuck, at, "{}".to_owned(), stuck, nothing).await.unwrap();
    };
    let asked = async |verb, at| {
        let who = r#"{"name":"root"}"#.to_owned();
        let request = requests::NewRequest { verb, order: Some(id), who, reason: String::new() };
        journal.ask(request, at).await.unwrap();
        let taken = journal.take_requests(requests::Taker::Agent, at).await.unwrap();
        assert_eq!(taken[0].request.state, requests::RequestState::Done, "{:?}", taken[0].request);
    };
    sticks(NOW).await;
    assert_eq!(journal.retain(days(100)).await.unwrap(), 0);
    asked(requests::RequestVerb::Resume, days(100)).await;
    sticks(days(101)).await;
    assert_eq!(journal.retain(days(200)).await.unwrap(), 0, "once resumed is not given up");
    asked(requests::RequestVerb::Abandon, days(200)).await;
    assert_eq!(journal.retain(days(229)).await.unwrap(), 0);
    assert_eq!(journal.retain(days(231)).await.unwrap(), 1);
    assert!(journal.order(id).await.unwrap().is_none());
}

#[tokio::test]
async fn a_stuck_order_does_not_outlive_what_has_overtaken_it() {
    let days = |n: u64| NOW.plus(Duration::from_secs(n * 86_400));
    // An order that was delivered late overtakes with a lower sequence.
    for (old, new) in [(ensure(1, 1), ensure(2, 2)), (ensure(2, 1), ensure(1, 2))] {
        let books = Books::new().await;
        let journal = &books.journal;
        for (order, minute, end, kind) in [
            (&old, 0, OrderState::Stuck, EventKind::Stuck),
            (&new, 1, OrderState::Succeeded, EventKind::Succeeded),
        ] {
            accept_in(&books, order, minute).await;
            let id = order.order_id;
            journal.begin_order(id, OrderState::Running, NOW, None).await.unwrap();
            let told = event(kind);
            journal.finish_order(id, end, NOW, "{}".to_owned(), told, BookEntry::Nothing).await.unwrap();
        }
        assert_eq!(journal.retain(days(29)).await.unwrap(), 0);
        assert_eq!(
            journal.retain(days(31)).await.unwrap(),
            2,
            "nobody could tell any more what came after it"
        );
    }
}

/// Accepts an order so many minutes later.
async fn accept_in(books: &Books, order: &ProvisioningOrder, minutes: u64) {
    let now = NOW.plus(Duration::from_secs(60 * minutes));
    let verdict = books.admit_as(order, crate::intake::Node { now, ..crate::testing::node() }).await;
    assert!(matches!(verdict, Admission::Accept(..)), "{verdict:?}");
}

/// Neither sequence nor time alone says which order is the newest: each of these two is newer than the other by one of them,
/// and a rule that lets either go for the other lets both go.
#[tokio::test]
async fn a_stuck_destruction_keeps_every_order_that_might_be_its_newest_successor() {
    let days = |n: u64| NOW.plus(Duration::from_secs(n * 86_400));
    for later in [vec![(ensure(3, 2), 1)], vec![(ensure(6, 2), 0), (ensure(3, 3), 1)]] {
        let books = Books::new().await;
        let journal = &books.journal;
        let end = async |order: &ProvisioningOrder, minutes: u64, state: OrderState, kind: EventKind| {
            accept_in(&books, order, minutes).await;
            let id = order.order_id;
            journal.begin_order(id, OrderState::Running, NOW, None).await.unwrap();
            if state == OrderState::Stuck {
                let upid = "UPID:fake:00000001:00000001:6AFD3100:qmdestroy:1000:ez-agent@pve!node-fake:";
                journal.step_called(id, 3, "destroy", upid.to_owned(), "boot".into(), NOW).await.unwrap();
            }
            let told = event(kind);
            journal.finish_order(id, state, NOW, "{}".to_owned(), told, BookEntry::Nothing).await.unwrap();
        };
        let stuck = ensure(4, 1);
        end(&stuck, 0, OrderState::Stuck, EventKind::Stuck).await;
        for (order, minutes) in &later {
            end(order, *minutes, OrderState::Failed, EventKind::Failed).await;
        }
        assert_eq!(journal.retain(days(100)).await.unwrap(), 0);
        let who = r#"{"name":"root"}"#.to_owned();
        let (verb, order) = (requests::RequestVerb::Resume, Some(stuck.order_id));
        let request = requests::NewRequest { verb, order, who, reason: String::new() };
        journal.ask(request, days(100)).await.unwrap();
        let taken = journal.take_requests(requests::Taker::Agent, days(100)).await.unwrap().remove(0);
        assert_eq!(taken.request.state, requests::RequestState::Refused, "{:?}", taken.request);
    }
}

/// Which disk was left stands in its step, and that it is not to be resumed tells the newest order of its server.
#[tokio::test]
async fn a_stuck_destruction_is_kept_with_its_newest_successor_until_somebody_has_seen_to_it() {
    let books = Books::new().await;
    let journal = &books.journal;
    let days = |n: u64| NOW.plus(Duration::from_secs(n * 86_400));
    let orders = [1, 2, 3].map(|n| ensure(n, n));
    let end = async |order: &ProvisioningOrder, state, kind| {
        books.accept(order).await;
        let id = order.order_id;
        journal.begin_order(id, OrderState::Running, NOW, None).await.unwrap();
        if state == OrderState::Stuck {
            let upid =
                "UPID:fake:00000001:00000001:6AFD3100:qmdestroy:1000:ez-agent@pve!node-fake:".to_owned();
            journal.step_called(id, 3, "destroy", upid, "boot".into(), NOW).await.unwrap();
        }
        journal.finish_order(id, state, NOW, "{}".to_owned(), event(kind), BookEntry::Nothing).await.unwrap();
    };
    end(&orders[0], OrderState::Stuck, EventKind::Stuck).await;
    end(&orders[1], OrderState::Failed, EventKind::Failed).await;
    end(&orders[2], OrderState::Failed, EventKind::Failed).await;
    let left = async || {
        let left = journal.unsettled_destructions(instance(10), orders[2].order_id).await.unwrap();
        left.into_iter().map(|one| one.order_id).collect::<Vec<_>>()
    };
    let asked = async |verb| {
        let who = r#"{"name":"root"}"#.to_owned();
        let request =
            requests::NewRequest { verb, order: Some(orders[0].order_id), who, reason: String::new() };
        journal.ask(request, days(100)).await.unwrap();
        journal.take_requests(requests::Taker::Agent, days(100)).await.unwrap().remove(0).request
    };
    assert_eq!(
        journal.retain(days(100)).await.unwrap(),
        1,
        "the one between tells nothing that the newest does not"
    );
    assert_eq!(left().await, [orders[0].order_id]);
    let resumed = asked(requests::RequestVerb::Resume).await;
    assert_eq!(resumed.state, requests::RequestState::Refused, "{resumed:?}");
    assert_eq!(asked(requests::RequestVerb::Abandon).await.state, requests::RequestState::Done);
    assert_eq!(journal.retain(days(131)).await.unwrap(), 2);
    assert!(left().await.is_empty());
}

/// A refusal that was none: its task is found only when the order looks what came of it, and another step tells of the disk.
#[tokio::test]
async fn a_task_that_was_found_later_stands_at_its_step_and_the_order_is_known_by_it() {
    let books = Books::new().await;
    let journal = &books.journal;
    let (order, next) = (ensure(1, 1), ensure(2, 2));
    books.accept(&order).await;
    let id = order.order_id;
    journal.begin_order(id, OrderState::Running, NOW, None).await.unwrap();
    for (k, name, said) in [(3, "destroy", "refused"), (-1, "start", "the disk is there")] {
        let (failed, said, boot) =
            (StepState::Failed, format!("{{\"error\":\"{said}\"}}"), "boot".to_owned());
        journal.step_result(id, k, name, failed, said, boot, NOW, None).await.unwrap();
    }
    let (stuck, nothing) = (event(EventKind::Stuck), BookEntry::Nothing);
    journal.finish_order(id, OrderState::Stuck, NOW, "{}".to_owned(), stuck, nothing).await.unwrap();
    let left = async || journal.unsettled_destructions(instance(10), next.order_id).await.unwrap();
    assert!(left().await.is_empty());
    let before = journal.steps(id).await.unwrap().remove(0);
    let upid = "UPID:fake:00000001:00000001:6AFD3100:qmdestroy:1000:ez-agent@pve!node-fake:";
    journal.step_found(id, 3, upid.to_owned()).await.unwrap();
    let after = journal.steps(id).await.unwrap().remove(0);
    assert_eq!((after.upid.as_deref(), after.state), (Some(upid), StepState::Failed));
    assert_eq!((after.at, after.attempt, after.result_json), (before.at, before.attempt, before.result_json));
    let left = left().await;
    assert_eq!((left.len(), left[0].order_id, left[0].upid.as_str()), (1, id, upid));
    assert!(left[0].said.contains("the disk is there"), "{left:?}");
}

#[tokio::test]
async fn an_epoch_does_not_go_back_and_each_start_counts() {
    let books = Books::new().await;
    let journal = &books.journal;
    journal.adopt_identity(node_id(), 3, [1; 16]).await.unwrap();
    journal.adopt_identity(node_id(), 4, [1; 16]).await.unwrap();
    assert!(journal.adopt_identity(node_id(), 3, [1; 16]).await.is_err());
    let before = journal.meta().await.unwrap();
    let after = books.again().await.journal.meta().await.unwrap();
    assert_eq!(after.report_epoch, before.report_epoch + 1);
    assert_eq!(after.journal_id, before.journal_id);
}

#[tokio::test]
async fn a_host_that_becomes_another_node_takes_that_ones_first_order_and_leaves_the_others_servers_alone() {
    let books = Books::new().await;
    let journal = &books.journal;
    journal.adopt_identity(node_id(), 3, [1; 16]).await.unwrap();
    let old = ensure(1, 1);
    books.accept(&old).await;
    let before = journal.meta().await.unwrap();
    let created = async || {
        let question = crate::testing::read(&ensure(2, 2)).question();
        let (tell, told) = tokio::sync::oneshot::channel();
        let judge = move |facts: &Facts| {
            tell.send((facts.resources.len(), facts.creates_day)).unwrap();
            Admission::Duplicate(Known {
                order_id: question.order_id,
                payload_hash: Vec::new(),
                spec_hash: None,
                state: OrderState::Accepted,
                result: None,
            })
        };
        journal.admit(question, NOW, judge).await.unwrap();
        told.await.unwrap()
    };
    assert_eq!(created().await, (1, 1));

    let other = ez_protocol::NodeId::generate(NOW, [9; 10]);
    journal.adopt_identity(other, 1, [2; 16]).await.unwrap();
    assert_eq!(
        created().await,
        (0, 1),
        "its server is in no book of ours; what the host has seen still counts"
    );
    assert!(journal.order(old.order_id).await.unwrap().is_none());
    let after = journal.meta().await.unwrap();
    assert_ne!(after.journal_id, before.journal_id, "that node's journal is gone, and it shows");
    assert_eq!((after.last_event_seq, journal.outbox_len().await.unwrap()), (0, 0));
    let first = ez_protocol::order::ProvisioningOrder {
        order_id: ez_protocol::ProvisioningOrderId::generate(NOW, [8; 10]),
        aud: ez_protocol::order::Audience { node: other, epoch: 1 },
        ..ensure(1, 1)
    };
    let node = crate::intake::Node { node: other, epoch: 1, ..crate::testing::node() };
    let verdict = books.admit_as(&first, node).await;
    assert!(matches!(verdict, Admission::Accept(..)), "{verdict:?}");

    // Coming back as itself, at its next start say, changes nothing.
    journal.adopt_identity(other, 1, [3; 16]).await.unwrap();
    assert!(journal.order(first.order_id).await.unwrap().is_some());
}

#[tokio::test]
async fn no_pool_has_the_drivers_upkeep_task_which_can_spin_for_ever() {
    let books = Books::new().await;
    let alone = Journal::open_read_only(&books.dir.path().join("journal.sqlite")).await.unwrap();
    for pool in [books.journal.readers(), &alone] {
        let options = pool.options();
        assert_eq!((options.get_max_lifetime(), options.get_idle_timeout()), (None, None));
        assert_eq!(options.get_min_connections(), 0);
    }
}
