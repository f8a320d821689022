//! Stories of jobs, on both databases.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use ez_protocol::UnixMillis;
use serde_json::{Value, json};

use super::{
    JobError, JobRegistry, JobRun, backoff, cancel, dead_letters, depth, drain, enqueue,
    store::{self, Claimed, Kinds},
    worker,
};
use crate::{
    app::{App, Services},
    clock::{Clock, ManualClock},
    db::{Db, DbError, testing::each_database},
};

const KIND: &str = "test.work";
const START: UnixMillis = UnixMillis(1_000_000);

fn app(db: &Db) -> (App, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(START));
    (Services::for_tests(db.clone(), clock.clone()), clock)
}

async fn ask(app: &App, key: &'static str, payload: Value, at: UnixMillis) {
    let asked =
        app.db.write(move |tx| Box::pin(async move { enqueue(tx, KIND, key, &payload, at).await })).await;
    asked.unwrap();
}

/// A registry whose handler counts its runs and answers what `answer` says.
fn counting(
    answer: impl Fn(usize) -> Result<(), JobError> + Send + Sync + 'static,
) -> (JobRegistry, Arc<AtomicUsize>) {
    let runs = Arc::new(AtomicUsize::new(0));
    let (counter, answer) = (runs.clone(), Arc::new(answer));
    let mut registry = JobRegistry::default();
    registry.on(KIND, move |_app, _run| {
        let run = counter.fetch_add(1, SeqCst);
        let answer = answer.clone();
        async move { answer(run) }
    });
    (registry, runs)
}

async fn rows(app: &App) -> (i64, i64) {
    let mut connection = app.db.read().await.unwrap();
    depth(&mut connection, app.clock.now()).await.unwrap()
}

#[tokio::test]
async fn a_job_runs_once_when_it_is_due() {
    each_database(async |db| {
        let (app, clock) = app(&db);
        let (registry, runs) = counting(|_| Ok(()));
        ask(&app, "a", json!(1), START.plus(Duration::from_secs(60))).await;
        assert_eq!(drain(&app, &registry).await.unwrap(), 0, "not yet");
        clock.advance(Duration::from_secs(60));
        assert_eq!(rows(&app).await, (1, 0));
        assert_eq!(drain(&app, &registry).await.unwrap(), 1);
        assert_eq!(drain(&app, &registry).await.unwrap(), 0);
        assert_eq!((runs.load(SeqCst), rows(&app).await), (1, (0, 0)));
    })
    .await;
}

#[tokio::test]
async fn a_job_exists_only_if_its_cause_does() {
    each_database(async |db| {
        let (app, _clock) = app(&db);
        let (registry, runs) = counting(|_| Ok(()));
        let failed = db
            .write::<(), DbError, _>(|tx| {
                Box::pin(async move {
                    enqueue(tx, KIND, "a", &Value::Null, START).await?;
                    Err(DbError::NotFound)
                })
            })
            .await;
        assert!(failed.is_err());
        assert_eq!(drain(&app, &registry).await.unwrap(), 0);
        assert_eq!(runs.load(SeqCst), 0);
    })
    .await;
}

#[tokio::test]
async fn asked_again_the_earlier_time_and_the_newer_payload_win() {
    each_database(async |db| {
        let (app, clock) = app(&db);
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let mut registry = JobRegistry::default();
        let sink = seen.clone();
        registry.on(KIND, move |_app, run| {
            sink.lock().unwrap().push((run.key, run.payload, run.attempt));
            async { Ok(()) }
        });
        ask(&app, "a", json!("old"), START.plus(Duration::from_secs(10))).await;
        ask(&app, "a", json!("new"), START.plus(Duration::from_secs(90))).await;
        clock.advance(Duration::from_secs(10));
        assert_eq!(drain(&app, &registry).await.unwrap(), 1);
        assert_eq!(*seen.lock().unwrap(), [("a".to_owned(), json!("new"), 1)]);
        ask(&app, "b", json!(1), clock.now()).await;
        db.write::<_, DbError, _>(|tx| Box::pin(async move { cancel(tx, KIND, "b").await })).await.unwrap();
        assert_eq!(drain(&app, &registry).await.unwrap(), 0, "taken back");
    })
    .await;
}

#[tokio::test]
async fn retries_back_off_and_failures_stay_visible() {
    each_database(async |db| {
        let (app, clock) = app(&db);
        let (registry, runs) = counting(|run| match run {
            0 => Err(JobError::retry("not yet")),
            1 => panic!("on purpose"),
            2 => Err(JobError::fail("never")),
            _ => Ok(()),
        });
        ask(&app, "a", Value::Null, START).await;
        assert_eq!(drain(&app, &registry).await.unwrap(), 1);
        clock.advance(backoff(1));
        assert_eq!(drain(&app, &registry).await.unwrap(), 1, "the panic");
        clock.advance(backoff(2));
        assert_eq!(drain(&app, &registry).await.unwrap(), 1);
        clock.advance(Duration::from_secs(3_600));
        assert_eq!(drain(&app, &registry).await.unwrap(), 0, "dead");
        let mut connection = db.read().await.unwrap();
        let dead = dead_letters(&mut connection).await.unwrap();
        drop(connection);
        assert_eq!((dead[0].key.as_str(), dead[0].attempts, dead[0].last_error.as_str()), ("a", 3, "never"));
        ask(&app, "a", Value::Null, clock.now()).await;
        assert_eq!(drain(&app, &registry).await.unwrap(), 1, "asked for again, it lives");
        assert_eq!((runs.load(SeqCst), rows(&app).await), (4, (0, 0)));
    })
    .await;
}

#[test]
fn back_off_grows_and_is_capped() {
    let waits: Vec<Duration> = (1..50).map(backoff).collect();
    assert!(waits.is_sorted());
    assert_eq!(waits.last(), Some(&super::BACKOFF_CAP));
}

#[tokio::test]
async fn asked_for_while_running_it_runs_once_more() {
    each_database(async |db| {
        let (app, clock) = app(&db);
        let mut registry = JobRegistry::default();
        let runs = Arc::new(AtomicUsize::new(0));
        let counter = runs.clone();
        registry.on(KIND, move |app: App, run| {
            let first = counter.fetch_add(1, SeqCst) == 0;
            async move {
                if first {
                    // Later than now: the wish for another run is kept, and not run early.
                    ask(&app, "a", run.payload, app.clock.now().plus(Duration::from_secs(5))).await;
                }
                Ok(())
            }
        });
        ask(&app, "a", json!(1), START).await;
        assert_eq!(drain(&app, &registry).await.unwrap(), 1, "the second run is not due");
        clock.advance(Duration::from_secs(5));
        assert_eq!(drain(&app, &registry).await.unwrap(), 1);
        assert_eq!((runs.load(SeqCst), rows(&app).await), (2, (0, 0)));
    })
    .await;
}

#[tokio::test]
async fn two_workers_never_hold_the_same_key() {
    each_database(async |db| {
        let (app, _clock) = app(&db);
        const JOBS: usize = 40;
        db.write::<_, DbError, _>(|tx| {
            Box::pin(async move {
                for key in 0..JOBS {
                    enqueue(tx, KIND, &format!("k{key}"), &Value::Null, START).await?;
                }
                Ok(())
            })
        })
        .await
        .unwrap();
        // Many claims at once, each for more than its share: no key may be handed out twice.
        let claims = (0..12).map(|_| {
            let app = app.clone();
            tokio::spawn(async move { worker::claim(&app, &Kinds::all(), 7).await.unwrap() })
        });
        let mut keys: Vec<String> = Vec::new();
        for claim in futures::future::join_all(claims).await {
            keys.extend(claim.unwrap().into_iter().map(|job: Claimed| job.key));
        }
        loop {
            let more = worker::claim(&app, &Kinds::all(), 7).await.unwrap();
            if more.is_empty() {
                break;
            }
            keys.extend(more.into_iter().map(|job| job.key));
        }
        let handed_out = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!((handed_out, keys.len()), (JOBS, JOBS));
    })
    .await;
}

#[tokio::test]
async fn a_room_is_asked_for_its_own_kinds_alone() {
    each_database(async |db| {
        let (app, _clock) = app(&db);
        const SLOW: &str = "test.slow_work";
        db.write::<_, DbError, _>(|tx| {
            Box::pin(async move {
                for key in ["a", "b", "c"] {
                    // The slow ones have waited longer.
                    enqueue(tx, SLOW, key, &Value::Null, UnixMillis(START.0 - 1)).await?;
                    enqueue(tx, KIND, key, &Value::Null, START).await?;
                }
                Ok(())
            })
        })
        .await
        .unwrap();
        let claim = async |kinds: Kinds, limit| -> Vec<String> {
            let claimed = worker::claim(&app, &kinds, limit).await.unwrap();
            claimed.into_iter().map(|job| job.kind).collect()
        };
        assert_eq!(
            claim(Kinds::only("test.slow"), 9).await,
            Vec::<String>::new(),
            "a part of a name is none"
        );
        assert_eq!(claim(Kinds::only(SLOW), 1).await, [SLOW]);
        assert_eq!(claim(Kinds::but([SLOW, "test.other"]), 9).await, [KIND; 3]);
        assert_eq!(claim(Kinds::all(), 9).await, [SLOW; 2]);
    })
    .await;
}

#[tokio::test]
async fn a_lease_that_ran_out_is_taken_over_and_the_late_one_books_nothing() {
    each_database(async |db| {
        let (app, clock) = app(&db);
        ask(&app, "a", Value::Null, START).await;
        let claim = |token: &'static str, lease: Duration| {
            let db = db.clone();
            async move {
                db.write::<_, DbError, _>(move |tx| {
                    Box::pin(async move { store::claim(tx, &Kinds::all(), START, lease, token, 5).await })
                })
                .await
                .unwrap()
            }
        };
        // A lease of no length is one whose holder died.
        let dead = claim("dead", Duration::ZERO).await.remove(0);
        let alive = claim("alive", Duration::from_secs(30)).await.remove(0);
        assert_eq!(alive.attempts, 2);
        assert!(claim("third", Duration::from_secs(30)).await.is_empty());
        let (late, ours) = (dead.clone(), alive.clone());
        let (renewed_late, renewed) = db
            .write::<_, DbError, _>(move |tx| {
                Box::pin(async move {
                    store::succeed(tx, &late, None).await?;
                    let late = store::renew(tx, &late, Duration::from_secs(30)).await?;
                    Ok((late, store::renew(tx, &ours, Duration::from_secs(30)).await?))
                })
            })
            .await
            .unwrap();
        assert_eq!((renewed_late, renewed), (false, true));
        assert_eq!(rows(&app).await, (1, 0), "the late one removed nothing");
        db.write::<_, DbError, _>(move |tx| Box::pin(async move { store::succeed(tx, &alive, None).await }))
            .await
            .unwrap();
        clock.advance(Duration::from_secs(60));
        assert_eq!(rows(&app).await, (0, 0));
    })
    .await;
}

#[tokio::test]
async fn a_run_whose_renewal_hangs_stops_before_another_worker_takes_over() {
    let (db, _directory) = crate::db::testing::sqlite().await;
    let (app, _clock) = app(&db);
    ask(&app, "a", Value::Null, START).await;
    let job = worker::claim(&app, &Kinds::all(), 1).await.unwrap().remove(0);
    // Somebody has the only writer and does not give it back.
    let (enter, entered) = tokio::sync::oneshot::channel();
    let (go, wait) = tokio::sync::oneshot::channel::<()>();
    let holder = tokio::spawn({
        let db = db.clone();
        async move {
            db.write::<_, DbError, _>(move |_tx| {
                Box::pin(async move {
                    enter.send(()).unwrap();
                    wait.await.unwrap();
                    Ok(())
                })
            })
            .await
        }
    });
    entered.await.unwrap();
    let lost = worker::lose_lease(&app, &job, Duration::from_millis(400));
    // Long before the writer gives up on who holds it.
    tokio::time::timeout(Duration::from_secs(10), lost).await.expect("it waits for the renewal");
    go.send(()).unwrap();
    holder.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_reconciler_runs_again_after_its_period() {
    each_database(async |db| {
        let (app, clock) = app(&db);
        let runs = Arc::new(AtomicUsize::new(0));
        let counter = runs.clone();
        let mut registry = JobRegistry::default();
        registry.every("test.sweep", Duration::from_secs(60), move |_app, _run| {
            counter.fetch_add(1, SeqCst);
            async { Ok(()) }
        });
        worker::arm_periodic(&app, &registry).await.unwrap();
        worker::arm_periodic(&app, &registry).await.unwrap();
        assert_eq!(drain(&app, &registry).await.unwrap(), 1);
        clock.advance(Duration::from_secs(59));
        assert_eq!(drain(&app, &registry).await.unwrap(), 0);
        clock.advance(Duration::from_secs(1));
        assert_eq!(drain(&app, &registry).await.unwrap(), 1);
        assert_eq!(runs.load(SeqCst), 2);
    })
    .await;
}

#[tokio::test]
async fn a_clock_that_was_a_day_ahead_costs_a_reconciler_no_day() {
    let (db, _directory) = crate::db::testing::sqlite().await;
    let (app, clock) = app(&db);
    let (done, mut ran) = tokio::sync::mpsc::unbounded_channel();
    let mut registry = JobRegistry::default();
    registry.every("test.sweep", Duration::from_secs(60), move |_app, run: JobRun| {
        let done = done.clone();
        async move { done.send(run.at).map_err(JobError::fail) }
    });
    clock.advance(Duration::from_secs(24 * 3_600));
    let stop = tokio_util::sync::CancellationToken::new();
    let worker = tokio::spawn(super::run_until_stopped(app.clone(), registry, stop.clone()));
    assert_eq!(ran.recv().await, Some(clock.now()));
    // Its next run stands in the table, for tomorrow.
    while waits_until(&app).await <= clock.now() {
        tokio::task::yield_now().await;
    }
    clock.set(START);
    app.wake.jobs.notify_one();
    assert_eq!(ran.recv().await, Some(START));
    stop.cancel();
    worker.await.unwrap();
}

async fn waits_until(app: &App) -> UnixMillis {
    let mut connection = app.db.read().await.unwrap();
    let at: i64 = sqlx::query_scalar("SELECT run_at FROM jobs").fetch_one(&mut *connection).await.unwrap();
    UnixMillis(at)
}

#[tokio::test]
async fn a_reconciler_that_failed_for_good_runs_again_and_one_that_was_given_up_lives_again() {
    each_database(async |db| {
        let (app, clock) = app(&db);
        let runs = Arc::new(AtomicUsize::new(0));
        let counter = runs.clone();
        let mut registry = JobRegistry::default();
        registry.every("test.sweep", Duration::from_secs(60), move |_app, _run| {
            let run = counter.fetch_add(1, SeqCst);
            async move { if run < 2 { Err(JobError::fail("never")) } else { Ok(()) } }
        });
        worker::arm_periodic(&app, &registry).await.unwrap();
        for ran in 1..=3 {
            assert_eq!(drain(&app, &registry).await.unwrap(), 1);
            assert_eq!((runs.load(SeqCst), rows(&app).await), (ran, (0, 0)), "none is dead");
            clock.advance(Duration::from_secs(60));
        }
        // As an earlier version left it.
        let dead_at = clock.now().0;
        db.write::<_, DbError, _>(move |tx| {
            Box::pin(async move {
                sqlx::query("UPDATE jobs SET dead_at = $1").bind(dead_at).execute(tx).await?;
                Ok(())
            })
        })
        .await
        .unwrap();
        assert_eq!(drain(&app, &registry).await.unwrap(), 0);
        worker::arm_periodic(&app, &registry).await.unwrap();
        assert_eq!(drain(&app, &registry).await.unwrap(), 1);
        assert_eq!((runs.load(SeqCst), rows(&app).await), (4, (0, 0)));
    })
    .await;
}

#[tokio::test]
async fn the_worker_wakes_for_new_jobs_and_stops_when_told() {
    let (db, _directory) = crate::db::testing::sqlite().await;
    let (app, _clock) = app(&db);
    let (done, mut ran) = tokio::sync::mpsc::unbounded_channel();
    let mut registry = JobRegistry::default();
    registry.on(KIND, move |_app, run| {
        let done = done.clone();
        async move { done.send(run.key).map_err(JobError::fail) }
    });
    let stop = tokio_util::sync::CancellationToken::new();
    let worker = tokio::spawn(super::run_until_stopped(app.clone(), registry, stop.clone()));
    for key in ["a", "b", "a"] {
        ask(&app, key, Value::Null, START).await;
        assert_eq!(ran.recv().await.as_deref(), Some(key));
    }
    stop.cancel();
    worker.await.unwrap();
    assert_eq!(rows(&app).await, (0, 0));
}
