//! Letters: each renders, and delivery survives a server that is away.

use std::{sync::Arc, time::Duration};

use ez_protocol::UnixMillis;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use super::{DELIVERIES, Letter, send};
use crate::{
    accounts,
    app::{App, Services, job_registry},
    billing,
    clock::ManualClock,
    config::{Config, Vars},
    db::{Db, DbError, testing::each_database},
    dispatch,
    entropy::SeededEntropy,
    fleet, jobs, orders,
    web::Templates,
};

/// Every letter of every slice: its folder and a filled context.
fn samples() -> Vec<(&'static str, serde_json::Value)> {
    fn of<L: Letter>() -> (&'static str, serde_json::Value) {
        (L::TEMPLATE, serde_json::to_value(L::sample()).unwrap())
    }
    vec![
        of::<accounts::VerifyEmail>(),
        of::<accounts::AccountExists>(),
        of::<accounts::ResetPassword>(),
        of::<orders::PaymentConfirmation>(),
        of::<orders::ServerReady>(),
        of::<orders::OrderNeedsAttention>(),
        of::<orders::OrderRefunded>(),
        of::<orders::OrderReturnedByBank>(),
        of::<orders::OrderNeedsOperator>(),
        of::<fleet::NodeOffline>(),
        of::<billing::AddressNeeded>(),
        of::<billing::CardExpiring>(),
        of::<billing::PaymentFailed>(),
        of::<billing::PaymentNeedsYou>(),
        of::<billing::PaymentReceipt>(),
        of::<billing::TrafficNear>(),
        of::<billing::TrafficOver>(),
        of::<billing::RefundFailed>(),
        of::<billing::RefundSent>(),
        of::<billing::RenewalSoon>(),
        of::<billing::ServerEnds>(),
        of::<billing::ServerLapses>(),
        of::<billing::PlanChanged>(),
        of::<billing::PlanChangeWaits>(),
        of::<billing::PlanChangeOff>(),
        of::<billing::PlanChangeBooked>(),
        of::<billing::ServerRestored>(),
        of::<billing::ServerSuspended>(),
        of::<billing::ServerWillBeDeleted>(),
    ]
}

#[test]
fn every_letter_renders() {
    let templates = Templates::load().unwrap();
    for (name, sample) in samples() {
        let letter = templates.letter(name, &sample).unwrap();
        assert!(!letter.subject.is_empty() && !letter.subject.contains('\n'), "{name}: {:?}", letter.subject);
        assert!(letter.text.len() > 40 && !letter.text.contains("<p>"), "{name}: {}", letter.text);
        assert!(letter.html.contains("<p>"), "{name}: {}", letter.html);
        for (_, link) in sample.as_object().unwrap().iter().filter(|(key, _)| key.as_str() == "link") {
            assert!(letter.text.contains(link.as_str().unwrap()), "{name} lacks its link");
        }
    }
}

/// A letter waits with the words of the version that wrote it.
#[test]
fn a_letter_that_was_written_before_an_update_renders_after_it() {
    let templates = Templates::load().unwrap();
    let mut sample = serde_json::to_value(billing::PaymentFailed::sample()).unwrap();
    let now = templates.letter(billing::PaymentFailed::TEMPLATE, &sample).unwrap();
    sample.as_object_mut().unwrap().remove("late").unwrap();
    let before = templates.letter(billing::PaymentFailed::TEMPLATE, &sample).unwrap();
    assert_eq!((before.subject, before.text, before.html), (now.subject, now.text, now.html));
}

#[test]
fn every_folder_has_a_sample() {
    let folders = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../templates/email")).unwrap();
    let mut folders: Vec<String> = folders.map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    let mut sampled: Vec<String> = samples().into_iter().map(|(name, _)| name.to_owned()).collect();
    folders.sort();
    sampled.sort();
    assert_eq!(folders, sampled);
}

/// A mail server for one test: accepts letters and hands their lines on.
async fn mail_server() -> (u16, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (read, mut write) = stream.into_split();
            let mut lines = BufReader::new(read).lines();
            write.write_all(b"220 test\r\n").await.unwrap();
            let (mut in_data, mut letter) = (false, String::new());
            while let Ok(Some(line)) = lines.next_line().await {
                let answer: &[u8] = match (in_data, line.as_str()) {
                    (true, ".") => {
                        in_data = false;
                        sender.send(std::mem::take(&mut letter)).unwrap();
                        b"250 kept\r\n"
                    }
                    (true, line) => {
                        letter.push_str(line);
                        letter.push('\n');
                        continue;
                    }
                    (false, line) if line.starts_with("RCPT TO:<refused@") => b"550 no such person\r\n",
                    (false, "DATA") => {
                        in_data = true;
                        b"354 go on\r\n"
                    }
                    (false, _) => b"250 fine\r\n",
                };
                write.write_all(answer).await.unwrap();
            }
        }
    });
    (port, receiver)
}

fn app(db: &Db, port: u16) -> (App, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(UnixMillis(1_000)));
    let vars = Vars::from_pairs([
        ("PUBLIC_URL", "http://127.0.0.1:8080"),
        ("STRIPE_API_BASE", "http://127.0.0.1:1"),
        ("STRIPE_SECRET_KEY", "sk_test_tests"),
        ("STRIPE_WEBHOOK_SECRETS", "whsec_tests"),
        ("MAIL_FROM", "EZ Solutions <noreply@ez.example>"),
    ])
    .with("SMTP_URL", &format!("smtp://127.0.0.1:{port}"));
    let config = Config::read(&vars).unwrap();
    let entropy = Arc::new(SeededEntropy::new(1));
    let app =
        Services::assemble(config, db.clone(), dispatch::Keys::for_tests(), clock.clone(), entropy).unwrap();
    (app, clock)
}

async fn post(app: &App, to: &'static str) {
    app.db
        .write::<_, DbError, _>(move |tx| {
            Box::pin(async move { send(tx, UnixMillis(1_000), to, &accounts::VerifyEmail::sample()).await })
        })
        .await
        .unwrap();
}

async fn outbox(db: &Db) -> Vec<(bool, bool, String)> {
    let mut connection = db.read().await.unwrap();
    let rows = sqlx::query_as::<_, (Option<i64>, Option<i64>, String)>(
        "SELECT sent_at, failed_at, context FROM mail_outbox ORDER BY recipient",
    );
    let rows = rows.fetch_all(&mut *connection).await.unwrap();
    rows.into_iter().map(|(sent, failed, context)| (sent.is_some(), failed.is_some(), context)).collect()
}

#[tokio::test]
async fn a_letter_is_delivered_once_and_its_secret_wiped() {
    each_database(async |db| {
        let (port, mut arrived) = mail_server().await;
        let (app, _clock) = app(&db, port);
        post(&app, "ada@example.org").await;
        assert_eq!(jobs::drain(&app, &job_registry()).await.unwrap(), 1);
        let letter = arrived.recv().await.unwrap();
        assert!(letter.contains("To: ada@example.org") && letter.contains("token=3Dsample"), "{letter}");
        assert_eq!(outbox(&db).await, [(true, false, "null".to_owned())]);
        assert_eq!(jobs::drain(&app, &job_registry()).await.unwrap(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_letter_waits_while_the_server_is_away_and_is_given_up_after_two_days() {
    let (db, _directory) = crate::db::testing::sqlite().await;
    let (app, clock) = app(&db, 1);
    post(&app, "ada@example.org").await;
    for _ in 0..3 {
        assert_eq!(jobs::drain(&app, &job_registry()).await.unwrap(), 1);
        clock.advance(Duration::from_secs(15));
    }
    assert!(matches!(outbox(&db).await[..], [(false, false, _)]));
    clock.advance(Duration::from_secs(2 * 24 * 3_600));
    assert_eq!(jobs::drain(&app, &job_registry()).await.unwrap(), 1);
    assert_eq!(outbox(&db).await, [(false, true, "null".to_owned())]);
}

#[tokio::test]
async fn a_refusal_for_good_is_kept_and_not_repeated() {
    let (db, _directory) = crate::db::testing::sqlite().await;
    let (port, _arrived) = mail_server().await;
    let (app, clock) = app(&db, port);
    post(&app, "refused@example.org").await;
    assert_eq!(jobs::drain(&app, &job_registry()).await.unwrap(), 1);
    assert_eq!(outbox(&db).await, [(false, true, "null".to_owned())]);
    clock.advance(Duration::from_secs(3_600));
    assert_eq!(jobs::drain(&app, &job_registry()).await.unwrap(), 0);
    let mut connection = db.read().await.unwrap();
    assert_eq!(jobs::dead_letters(&mut connection).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_mail_server_that_says_nothing_holds_up_letters_and_nothing_else() {
    const OTHER: &str = "test.other";
    let (db, _directory) = crate::db::testing::sqlite().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (app, _clock) = app(&db, listener.local_addr().unwrap().port());
    let (call, mut called) = mpsc::unbounded_channel();
    let silent = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
            call.send(()).unwrap();
        }
    });
    for _ in 0..64 {
        post(&app, "ada@example.org").await;
    }
    let (done, mut ran) = mpsc::unbounded_channel();
    let mut registry = jobs::JobRegistry::default();
    super::register_jobs(&mut registry);
    registry.on(OTHER, move |_app, run| {
        let done = done.clone();
        async move { done.send(run.key).map_err(jobs::JobError::fail) }
    });
    let stop = CancellationToken::new();
    let worker = tokio::spawn(jobs::run_until_stopped(app.clone(), registry, stop.clone()));
    for _ in 0..DELIVERIES {
        called.recv().await.unwrap();
    }

    app.db
        .write::<_, DbError, _>(|tx| {
            Box::pin(async move {
                jobs::enqueue(tx, OTHER, "order", &serde_json::Value::Null, UnixMillis(1_000)).await
            })
        })
        .await
        .unwrap();
    // The first letter is let go after twenty seconds; the job does not wait for that.
    let prompt = tokio::time::timeout(Duration::from_secs(10), ran.recv()).await;
    assert_eq!(prompt.expect("it waits behind the letters").as_deref(), Some("order"));
    assert!(called.try_recv().is_err(), "more letters are on their way than have room");

    // The server goes away, so that what waits for it ends.
    stop.cancel();
    silent.abort();
    worker.await.unwrap();
}
