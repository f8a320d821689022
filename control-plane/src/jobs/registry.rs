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
