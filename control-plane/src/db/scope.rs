//! What a running write tells the machinery around it, without every store passing it along.
//!
//! A task-local set by [`super::Db::write`] around each closure: whether the driver failed in a way
//! that endangers the whole transaction, and whom to wake once the transaction is durable.

use std::cell::Cell;

/// Who is woken after the commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// The job worker: a job was enqueued.
    Jobs,
    /// The senders of provisioning orders: the outbox grew.
    Dispatch,
    /// The audit sealer: rows wait for the chain.
    Audit,
}

/// What one closure did besides its result.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes {
    fault: Cell<bool>,
    jobs: Cell<bool>,
    dispatch: Cell<bool>,
    audit: Cell<bool>,
}

impl Notes {
    pub(super) fn fault(&self) -> bool {
        self.fault.get()
    }

    pub(super) fn topics(&self) -> impl Iterator<Item = Topic> + use<> {
        let all = [
            (self.jobs.get(), Topic::Jobs),
            (self.dispatch.get(), Topic::Dispatch),
            (self.audit.get(), Topic::Audit),
        ];
        all.into_iter().filter(|(set, _)| *set).map(|(_, topic)| topic)
    }
}

tokio::task_local! {
    static NOTES: Notes;
}

/// Runs a closure's future and hands back its notes.
pub(super) async fn with_notes<F: Future>(future: F) -> (F::Output, Notes) {
    NOTES
        .scope(Notes::default(), async move {
            let output = future.await;
            (output, NOTES.with(Clone::clone))
        })
        .await
}

/// Remembers that the driver failed in a way that endangers the whole transaction.
pub(super) fn mark_fault() {
    let _outside_a_write = NOTES.try_with(|notes| notes.fault.set(true));
}

/// Asks for a wake-up after the running write's commit. Outside a write it does nothing.
pub fn wake_after_commit(topic: Topic) {
    let _outside_a_write = NOTES.try_with(|notes| match topic {
        Topic::Jobs => notes.jobs.set(true),
        Topic::Dispatch => notes.dispatch.set(true),
        Topic::Audit => notes.audit.set(true),
    });
}
