//! The one writer of the journal: closures wait in a queue, run each in its own savepoint and are
//! committed together. One fsync serves all of them; nobody is answered before it. One that panics takes back only its own.

use std::panic::AssertUnwindSafe;

use futures::{FutureExt as _, future::BoxFuture};
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::sync::{mpsc, oneshot};

use super::JournalError;

/// How many closures one commit carries at most.
const BATCH: usize = 64;

/// What became of one closure inside a batch.
enum Outcome {
    Keep,
    RollBack,
    /// The connection or the disk is at fault: nobody of this batch may believe anything.
    Fatal,
}

/// A closure in the queue, its type erased.
trait Work: Send {
    fn run<'c>(&'c mut self, conn: &'c mut SqliteConnection) -> BoxFuture<'c, Outcome>;
    fn answer(self: Box<Self>, durable: bool);
}

struct Task<F, T> {
    closure: Option<F>,
    result: Option<Result<T, JournalError>>,
    reply: oneshot::Sender<Result<T, JournalError>>,
}

impl<F, T> Work for Task<F, T>
where
    T: Send + 'static,
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, JournalError>> + Send + 'static,
{
    fn run<'c>(&'c mut self, conn: &'c mut SqliteConnection) -> BoxFuture<'c, Outcome> {
        Box::pin(async move {
            let Some(closure) = self.closure.take() else { return Outcome::Fatal };
            // A defect of ours in one write must not end the writer, and with it every order of this host.
            let run = AssertUnwindSafe(async move { closure(conn).await }).catch_unwind();
            let result = run.await.unwrap_or(Err(JournalError::Defect));
            let outcome = match &result {
                Ok(_) => Outcome::Keep,
                Err(error) if error.is_fatal() => Outcome::Fatal,
                Err(_) => Outcome::RollBack,
            };
            self.result = Some(result);
            outcome
        })
    }

    fn answer(self: Box<Self>, durable: bool) {
        let result = match self.result {
            Some(Ok(value)) if durable => Ok(value),
            Some(Err(error)) if durable || error.is_fatal() => Err(error),
            _ => Err(JournalError::Unknown),
        };
        // The asker may have gone away; the write stands all the same.
        let _ = self.reply.send(result);
    }
}

/// The sending end of the queue.
#[derive(Clone)]
pub(super) struct Writer {
    queue: mpsc::Sender<Box<dyn Work>>,
}

impl Writer {
    /// Starts the writer task on a connection of its own.
    pub(super) async fn start(options: SqliteConnectOptions) -> Result<Self, JournalError> {
        let conn = SqliteConnection::connect_with(&options).await.map_err(JournalError::Driver)?;
        let (queue, jobs) = mpsc::channel(256);
        tokio::spawn(run(options, conn, jobs));
        Ok(Self { queue })
    }

    /// Runs `closure` in the next batch and answers after its commit.
    pub(super) async fn write<T, F>(&self, closure: F) -> Result<T, JournalError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, JournalError>>
            + Send
            + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let task = Task { closure: Some(closure), result: None, reply };
        self.queue.send(Box::new(task)).await.map_err(|_| JournalError::Closed)?;
        answer.await.map_err(|_| JournalError::Unknown)?
    }
}

async fn run(options: SqliteConnectOptions, conn: SqliteConnection, mut jobs: mpsc::Receiver<Box<dyn Work>>) {
    let mut conn = Some(conn);
    while let Some(first) = jobs.recv().await {
        let mut batch = vec![first];
        while batch.len() < BATCH {
            match jobs.try_recv() {
                Ok(job) => batch.push(job),
                Err(_) => break,
            }
        }
        if conn.is_none() {
            conn = SqliteConnection::connect_with(&options).await.ok();
        }
        let durable = match conn.as_mut() {
            Some(open) => run_batch(open, &mut batch).await,
            None => false,
        };
        if !durable {
            tracing::error!(waiting = batch.len(), "the journal could not be written; it is opened anew");
            conn = None;
        }
        for job in batch {
            job.answer(durable);
        }
    }
    if let Some(conn) = conn {
        let _ = conn.close().await;
    }
}

/// True once everything kept is on the disk.
async fn run_batch(conn: &mut SqliteConnection, batch: &mut [Box<dyn Work>]) -> bool {
    if exec(conn, "BEGIN IMMEDIATE").await.is_err() {
        return false;
    }
    for job in batch.iter_mut() {
        if exec(conn, "SAVEPOINT job").await.is_err() {
            return false;
        }
        let end = match job.run(conn).await {
            Outcome::Keep => exec(conn, "RELEASE job").await,
            Outcome::RollBack => match exec(conn, "ROLLBACK TO job").await {
                Ok(()) => exec(conn, "RELEASE job").await,
                failed => failed,
            },
            Outcome::Fatal => return false,
        };
        if end.is_err() {
            return false;
        }
    }
    exec(conn, "COMMIT").await.is_ok()
}

async fn exec(conn: &mut SqliteConnection, sql: &'static str) -> Result<(), sqlx::Error> {
    sqlx::query(sql).execute(conn).await.map(|_| ())
}
