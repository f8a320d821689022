//! Which function runs which kind of job.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::BoxFuture;

use super::{JobError, JobRun};
use crate::app::App;

/// What runs a job. Idempotent.
pub type Handler = Arc<dyn Fn(App, JobRun) -> BoxFuture<'static, Result<(), JobError>> + Send + Sync>;

/// A handler and, for reconcilers, how often it runs by itself.
#[derive(Clone)]
pub(super) struct Registered {
    pub(super) handler: Handler,
    pub(super) period: Option<Duration>,
}

/// The handlers of all slices; filled once at start-up.
#[derive(Clone, Default)]
pub struct JobRegistry {
    pub(super) kinds: BTreeMap<&'static str, Registered>,
    /// Kinds that run in slots of their own, and how many those are.
    pub(super) rooms: BTreeMap<&'static str, usize>,
}

impl JobRegistry {
    /// Names the handler of a kind (`slice.verb`). A later call for the same kind replaces the earlier.
    pub fn register(&mut self, kind: &'static str, handler: Handler) {
        self.kinds.insert(kind, Registered { handler, period: None });
    }

    /// The same for a plain async function.
    ///
    /// ```
    /// # use ez_control_plane::{app::App, jobs::{JobError, JobRegistry, JobRun}};
    /// async fn sweep(_app: App, _run: JobRun) -> Result<(), JobError> { Ok(()) }
    /// JobRegistry::default().on("accounts.sweep", sweep);
    /// ```
    pub fn on<F, R>(&mut self, kind: &'static str, handler: F)
    where
        F: Fn(App, JobRun) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), JobError>> + Send + 'static,
    {
        self.register(kind, Arc::new(move |app, run| Box::pin(handler(app, run))));
    }

    /// A reconciler: runs every `period` under the empty key, takes no input, and may also be enqueued as a signal.
    pub fn every<F, R>(&mut self, kind: &'static str, period: Duration, handler: F)
    where
        F: Fn(App, JobRun) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), JobError>> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |app, run| Box::pin(handler(app, run)));
        self.kinds.insert(kind, Registered { handler, period: Some(period) });
    }

    /// Gives a kind so many slots of its own beside those that all others share. For what waits on somebody who may be
    /// silent and whom nothing else needs: it then holds up nobody but its own kind.
    pub fn give_room(&mut self, kind: &'static str, slots: usize) {
        self.rooms.insert(kind, slots);
    }

    /// What runs a kind; for tests that stand between.
    #[cfg(test)]
    pub(crate) fn handler(&self, kind: &str) -> Handler {
        self.kinds[kind].handler.clone()
    }

    /// The registered kinds.
    pub fn kinds(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.kinds.keys().copied()
    }
}

impl std::fmt::Debug for JobRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.kinds.keys()).finish()
    }
}
