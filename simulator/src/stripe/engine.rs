//! One transaction at a time over the world, written to SQLite before anyone sees it.

use std::{path::Path, sync::Arc};

use serde_json::{Value, json};
use sqlx::{
    Connection, Row, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};
use tokio::sync::{Mutex, Notify};

use super::{
    journal::Journal,
    timers,
    world::{Asker, Record, World, int, public, text},
};
use crate::wall::WallClock;

/// Where the clock of this Stripe stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClockMode {
    /// Runs with the computer's, this many milliseconds ahead.
    Ahead(i64),
    /// Stands still at this many milliseconds since 1970.
    Frozen(i64),
}

struct State {
    world: World,
    db: SqliteConnection,
    clock: ClockMode,
}

/// The engine; cheap to clone.
#[derive(Clone)]
pub(crate) struct Engine {
    state: Arc<Mutex<State>>,
    wall: Arc<dyn WallClock>,
    journal: Arc<Journal>,
    /// Differs at every start.
    pub(crate) started: Arc<str>,
    /// Woken when there may be something to deliver.
    pub(crate) wake: Arc<Notify>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("started", &self.started).finish_non_exhaustive()
    }
}

/// The change could not be stored; nothing happened.
#[derive(Debug, thiserror::Error)]
#[error("the simulator's database refused a change: {0}")]
pub(crate) struct StoreError(#[from] sqlx::Error);

impl Engine {
    /// Opens the state and runs what came due while nobody was there.
    pub(crate) async fn open(
        file: &Path,
        base_url: String,
        wall: Arc<dyn WallClock>,
        journal: Arc<Journal>,
    ) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal);
        let mut db = SqliteConnection::connect_with(&options).await?;
        let schema = "CREATE TABLE IF NOT EXISTS objects (id TEXT PRIMARY KEY, kind TEXT NOT NULL, seq BIGINT NOT NULL, json TEXT NOT NULL)";
        sqlx::query(schema).execute(&mut db).await?;
        let rows = sqlx::query("SELECT kind, seq, json FROM objects").fetch_all(&mut db).await?;
        let mut records = Vec::with_capacity(rows.len());
        for row in rows {
            let (kind, seq, json): (String, i64, String) =
                (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let value = serde_json::from_str(&json).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
            records.push(Record { kind, seq: u64::try_from(seq).unwrap_or(0), value });
        }
        let world = World::load(records, base_url);
        let clock = match world.get("_meta", "meta_clock") {
            Some(stored) if text(stored, "mode") == "frozen" => ClockMode::Frozen(int(stored, "ms")),
            Some(stored) => ClockMode::Ahead(int(stored, "ms")),
            None => ClockMode::Ahead(0),
        };
        let seed = format!("{:x}", wall.now_ms());
        let state = Arc::new(Mutex::new(State { world, db, clock }));
        let engine =
            Self { state, wall, journal, started: seed.as_str().into(), wake: Arc::new(Notify::new()) };
        engine.run(Asker::default(), move |world| world.seed(&seed)).await?;
        Ok(engine)
    }

    /// The computer's clock, in milliseconds since 1970.
    pub(crate) fn wall_ms(&self) -> i64 {
        self.wall.now_ms()
    }

    /// The same in seconds.
    pub(crate) fn wall_secs(&self) -> i64 {
        self.wall_ms().div_euclid(1_000)
    }

    /// Runs one transaction. Timers that have come due run first, each in its own.
    ///
    /// The work goes on if the caller goes away: what has begun ends, stored and visible.
    pub(crate) async fn run<T, F>(&self, asker: Asker, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut World) -> T + Send + 'static,
    {
        let engine = self.clone();
        let task = tokio::spawn(async move {
            let mut state = engine.state.lock().await;
            let now_ms = engine.now_ms(state.clock);
            engine.fire_due(&mut state, now_ms).await?;
            state.world.now = now_ms.div_euclid(1_000);
            state.world.ahead = state.world.now - engine.wall_secs();
            state.world.asker = asker;
            let result = work(&mut state.world);
            engine.store(&mut state).await?;
            Ok(result)
        });
        task.await.map_err(|_| sqlx::Error::WorkerCrashed)?
    }

    /// As [`Self::run`], but an `Err` undoes every change.
    pub(crate) async fn attempt<T, E, F>(&self, asker: Asker, work: F) -> Result<Result<T, E>, StoreError>
    where
        T: Send + 'static,
        E: Send + 'static,
        F: FnOnce(&mut World) -> Result<T, E> + Send + 'static,
    {
        self.run(asker, move |world| {
            let result = work(world);
            if result.is_err() {
                world.rollback();
            }
            result
        })
        .await
    }

    /// Runs every timer up to now; the background task's beat.
    pub(crate) async fn tick(&self) -> Result<(), StoreError> {
        self.run(Asker::default(), |_| ()).await
    }

    async fn fire_due(&self, state: &mut State, until_ms: i64) -> Result<(), StoreError> {
        while let Some((at, id)) = state.world.next_due(until_ms.div_euclid(1_000)) {
            state.world.now = at;
            state.world.ahead = at - self.wall_secs();
            state.world.asker = Asker::default();
            timers::fire(&mut state.world, &id);
            if state.world.changes().is_empty() {
                tracing::error!(object = %id, "a timer fired without effect; timers are held back");
                break;
            }
            self.store(state).await?;
        }
        Ok(())
    }

    async fn store(&self, state: &mut State) -> Result<(), StoreError> {
        if state.world.changes().is_empty() {
            return Ok(());
        }
        let stored = write(&mut state.db, &state.world).await;
        if let Err(error) = stored {
            state.world.rollback();
            return Err(error.into());
        }
        let fresh = |(id, record): (&String, &Option<Record>)| {
            let record = record.as_ref().filter(|record| record.kind == "event")?;
            state.world.is_new(id).then(|| public(&record.value))
        };
        let events: Vec<Value> = state.world.changes().iter().filter_map(fresh).collect();
        let deliverable = state.world.changes().keys().any(|id| id.starts_with("_dlv:"));
        state.world.commit();
        for event in events {
            self.journal.event(&event);
        }
        if deliverable {
            self.wake.notify_one();
        }
        Ok(())
    }

    fn now_ms(&self, clock: ClockMode) -> i64 {
        match clock {
            ClockMode::Ahead(ms) => self.wall.now_ms() + ms,
            ClockMode::Frozen(ms) => ms,
        }
    }

    /// The simulated time in milliseconds and how the clock runs.
    pub(crate) async fn clock(&self) -> (i64, ClockMode) {
        let state = self.state.lock().await;
        (self.now_ms(state.clock), state.clock)
    }

    /// Sets the clock to `to_ms` (never back) and runs what has come due by then.
    pub(crate) async fn set_clock(&self, to_ms: i64, frozen: bool) -> Result<i64, StoreError> {
        let engine = self.clone();
        let task = tokio::spawn(async move {
            let mut state = engine.state.lock().await;
            let to_ms = to_ms.max(engine.now_ms(state.clock));
            engine.fire_due(&mut state, to_ms).await?;
            let clock = if frozen {
                ClockMode::Frozen(to_ms)
            } else {
                ClockMode::Ahead(to_ms - engine.wall.now_ms())
            };
            let (mode, ms) = match clock {
                ClockMode::Frozen(ms) => ("frozen", ms),
                ClockMode::Ahead(ms) => ("ahead", ms),
            };
            state.world.put("_meta", json!({ "id": "meta_clock", "mode": mode, "ms": ms }));
            engine.store(&mut state).await?;
            state.clock = clock;
            engine.wake.notify_one();
            Ok(to_ms)
        });
        task.await.map_err(|_| sqlx::Error::WorkerCrashed)?
    }

    /// Holds the engine, so that a test sees calls in flight.
    #[cfg(test)]
    pub(crate) async fn hold(&self) -> impl Drop + use<> {
        struct Held(#[expect(dead_code, reason = "held for its drop")] tokio::sync::OwnedMutexGuard<State>);
        impl Drop for Held {
            fn drop(&mut self) {}
        }
        Held(self.state.clone().lock_owned().await)
    }
}

async fn write(db: &mut SqliteConnection, world: &World) -> Result<(), sqlx::Error> {
    let mut transaction = db.begin().await?;
    for (id, change) in world.changes() {
        match change {
            Some(record) => {
                let text = "INSERT INTO objects (id, kind, seq, json) VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO UPDATE SET json = excluded.json";
                let seq = i64::try_from(record.seq).unwrap_or(i64::MAX);
                sqlx::query(text)
                    .bind(id)
                    .bind(&record.kind)
                    .bind(seq)
                    .bind(record.value.to_string())
                    .execute(&mut *transaction)
                    .await?;
            }
            None => {
                sqlx::query("DELETE FROM objects WHERE id = $1").bind(id).execute(&mut *transaction).await?;
            }
        }
    }
    transaction.commit().await
}
