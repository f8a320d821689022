//! Local wake-ups: a hint that something became due. Polling stays the truth.

use std::sync::Arc;

use tokio::sync::Notify;

use super::Topic;

/// The notifiers of this process; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Wake {
    /// A job was enqueued.
    pub jobs: Arc<Notify>,
    /// A provisioning order waits in the outbox.
    pub dispatch: Arc<Notify>,
    /// Audit rows wait for the chain.
    pub audit: Arc<Notify>,
}

impl Wake {
    /// Wakes whoever waits for the topic; if nobody waits now, the next wait returns at once.
    pub fn notify(&self, topic: Topic) {
        match topic {
            Topic::Jobs => self.jobs.notify_one(),
            Topic::Dispatch => self.dispatch.notify_one(),
            Topic::Audit => self.audit.notify_one(),
        }
    }
}
