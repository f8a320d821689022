//! SQLite's one writer: many closures, one transaction, one fsync.
//!
//! Whoever wants to write puts a unit into the queue. The writer takes everything that waits, runs it
//! inside one `BEGIN IMMEDIATE … COMMIT` and answers after the commit. While it commits, the next batch
//! gathers. Each unit has its own savepoint, so that its failure or panic takes back only its own changes;
//! a unit that is alone needs none. If the driver fails in a way that can take back more than one
//! statement (a full disk rolls back the whole transaction), nobody in the batch is told "done": all get
//! [`DbError::Unavailable`], the connection is dropped and the next batch opens a new one.

use std::{
    any::Any as Panic,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use sqlx::{AnyConnection, ConnectOptions, Connection, any::AnyConnectOptions};
use tokio::sync::{mpsc, oneshot};

use super::{DbError, Topic, Wake, open::prepare_sqlite_writer, scope};

/// The most units that share a commit.
const BATCH: usize = 256;
/// A closure that holds the only writer this long waits for something other than the database: a bug.
const UNIT_LIMIT: Duration = Duration::from_secs(20);

/// How often the writer committed and for how many units; for tests and metrics.
#[derive(Debug, Default)]
pub struct WriteCounters {
    /// Writes that were asked for; those whose turn has not come are counted, too.
    pub asked: AtomicU64,
    /// Transactions committed (each costs one fsync).
    pub commits: AtomicU64,
    /// Units answered after a commit.
    pub units: AtomicU64,
    /// Batches given up because the driver failed.
    pub faults: AtomicU64,
}

/// How a unit ended, before the commit.
pub(super) enum Ended {
    Kept,
    RolledBack,
    Panicked,
}

/// One waiting write, its types erased.
pub(super) trait Unit: Send {
    /// Runs the closure and keeps its result.
    fn run<'c>(&'c mut self, tx: &'c mut AnyConnection) -> BoxFuture<'c, Ended>;
    /// Tells the caller. `fault` replaces the result by "unknown".
    fn answer(self: Box<Self>, fault: Option<String>);
}

struct TypedUnit<F, T, E> {
    closure: Option<F>,
    result: Option<Result<T, E>>,
    reply: oneshot::Sender<Result<T, E>>,
}

impl<F, T, E> Unit for TypedUnit<F, T, E>
where
    F: for<'c> FnOnce(&'c mut AnyConnection) -> BoxFuture<'c, Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: From<DbError> + Send + 'static,
{
    fn run<'c>(&'c mut self, tx: &'c mut AnyConnection) -> BoxFuture<'c, Ended> {
        Box::pin(async move {
            let Some(closure) = self.closure.take() else { return Ended::RolledBack };
            // The closure itself may panic before it makes its future.
            let run = AssertUnwindSafe(async move { closure(tx).await }).catch_unwind();
            let (result, ended) = match run.await {
                Ok(Ok(value)) => (Ok(value), Ended::Kept),
                Ok(Err(error)) => (Err(error), Ended::RolledBack),
                Err(panic) => (Err(DbError::Panicked(panic_text(&panic)).into()), Ended::Panicked),
            };
            self.result = Some(result);
            ended
        })
    }

    fn answer(mut self: Box<Self>, fault: Option<String>) {
        let result = match (fault, self.result.take()) {
            (None, Some(result)) => result,
            (Some(fault), _) => Err(DbError::Unavailable(fault).into()),
            (None, None) => Err(DbError::Unavailable("the write was not run".into()).into()),
        };
        let _caller_gave_up = self.reply.send(result);
    }
}

/// The words of a panic.
pub(super) fn panic_text(panic: &Box<dyn Panic + Send>) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

/// The way into the writer's queue.
#[derive(Clone)]
pub(super) struct Queue(mpsc::Sender<Box<dyn Unit>>);

impl Queue {
    /// Starts the writer's task; it ends when the last queue is dropped.
    pub(super) fn start(options: AnyConnectOptions, wake: Wake, counters: Arc<WriteCounters>) -> Self {
        let (sender, receiver) = mpsc::channel(4 * BATCH);
        tokio::spawn(Writer { options, connection: None, wake, counters }.run(receiver));
        Self(sender)
    }

    pub(super) async fn write<T, E, F>(&self, closure: F) -> Result<T, E>
    where
        F: for<'c> FnOnce(&'c mut AnyConnection) -> BoxFuture<'c, Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<DbError> + Send + 'static,
    {
        let gone = |_| DbError::Unavailable("the writer has stopped".into());
        let (reply, answer) = oneshot::channel();
        let unit = Box::new(TypedUnit { closure: Some(closure), result: None, reply });
        self.0.send(unit).await.map_err(|_| gone(()))?;
        answer.await.map_err(|_| gone(()))?
    }
}

struct Writer {
    options: AnyConnectOptions,
    connection: Option<AnyConnection>,
    wake: Wake,
    counters: Arc<WriteCounters>,
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::Receiver<Box<dyn Unit>>) {
        let mut batch = Vec::with_capacity(BATCH);
        while queue.recv_many(&mut batch, BATCH).await > 0 {
            let outcome = self.commit_batch(&mut batch).await;
            let fault = match outcome {
                Ok((committed, topics)) => {
                    self.counters.commits.fetch_add(u64::from(committed), Ordering::Relaxed);
                    self.counters.units.fetch_add(batch.len() as u64, Ordering::Relaxed);
                    topics.into_iter().for_each(|topic| self.wake.notify(topic));
                    None
                }
                Err(error) => {
                    tracing::error!(error = %error, db.units = batch.len(), "gave up a batch of writes");
                    self.counters.faults.fetch_add(1, Ordering::Relaxed);
                    // Dropping the connection ends its transaction, whatever state it was in.
                    self.connection = None;
                    Some(format!("the write's outcome is unknown: {error}"))
                }
            };
            batch.drain(..).for_each(|unit| unit.answer(fault.clone()));
        }
        if let Some(connection) = self.connection.take() {
            let _closing = connection.close().await;
        }
    }

    /// Runs a batch; says whether there was something to commit and who is to be woken.
    async fn commit_batch(&mut self, batch: &mut [Box<dyn Unit>]) -> Result<(bool, Vec<Topic>), DbError> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => {
                let mut fresh = self.options.connect().await?;
                prepare_sqlite_writer(&mut fresh).await?;
                none.insert(fresh)
            }
        };
        let mut topics = Vec::new();
        let alone = batch.len() == 1;
        // Each statement is a way to the database's thread and back, so what belongs together goes together.
        let mut before = if alone { "BEGIN IMMEDIATE" } else { "BEGIN IMMEDIATE; SAVEPOINT unit" };
        let mut kept = false;
        for unit in batch {
            execute(connection, before).await?;
            let run = scope::with_notes(unit.run(connection));
            let (ended, notes) = tokio::time::timeout(UNIT_LIMIT, run)
                .await
                .map_err(|_| DbError::Unavailable("a write waited for something else".into()))?;
            if notes.fault() {
                return Err(DbError::Unavailable("the database driver failed".into()));
            }
            match ended {
                Ended::Kept => {
                    kept = true;
                    topics.extend(notes.topics());
                }
                // If the transaction died unnoticed, this fails and the whole batch is "unknown".
                Ended::RolledBack | Ended::Panicked if !alone => {
                    execute(connection, "ROLLBACK TO unit").await?;
                }
                Ended::RolledBack | Ended::Panicked => {}
            }
            before = "RELEASE unit; SAVEPOINT unit";
        }
        // A commit releases the last savepoint.
        execute(connection, if kept { "COMMIT" } else { "ROLLBACK" }).await?;
        Ok((kept, topics))
    }
}

/// Runs statements of the transaction's own, outside any closure.
async fn execute(connection: &mut AnyConnection, sql: &'static str) -> Result<(), DbError> {
    sqlx::raw_sql(sql).execute(connection).await?;
    Ok(())
}
