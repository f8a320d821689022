//! One actor per instance: a queue and a task that lives while the queue does.

use std::{
    collections::{HashMap, VecDeque},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ez_protocol::{InstanceId, ProvisioningOrderId};
use futures::FutureExt as _;
use tokio::task::JoinSet;

use super::Engine;
use crate::journal::{JournalError, OrderState, Verb};

/// So often an order may meet a defect of ours before it is given up.
const DEFECTS: u32 = 3;

/// All actors of this agent. Clones share them.
#[derive(Clone)]
pub struct Actors {
    engine: Arc<Engine>,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    queues: HashMap<InstanceId, VecDeque<ProvisioningOrderId>>,
    /// What has come while nothing may be begun yet, in its order; none once the work was taken up.
    held: Option<Vec<Turn>>,
    tasks: JoinSet<()>,
}

/// An order for the actor of its instance, and its sequence where it may come to a clone.
type Turn = (InstanceId, ProvisioningOrderId, Option<u64>);

impl Actors {
    /// Actors over an engine; none runs yet.
    pub fn new(engine: Arc<Engine>) -> Self {
        Self { engine, inner: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins nothing until [`Actors::resume`]: what is accepted meanwhile waits behind what the journal holds.
    pub fn hold(&self) {
        self.lock().held.get_or_insert_default();
    }

    /// While nothing may be begun: ends what has waited for that until its time was over, so that whoever ordered it hears so.
    pub async fn end_overdue(&self) {
        if self.lock().held.is_none() {
            return;
        }
        if let Err(error) = self.engine.end_overdue().await {
            tracing::warn!(error, "orders whose time is over could not be ended yet");
        }
    }

    /// Takes up every order that is not over, in the order of their sequence, and lets go what was held back.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub async fn resume(&self) -> Result<usize, JournalError> {
        let open = self.engine.journal.open_orders().await?;
        let mut inner = self.lock();
        // One that was accepted after the journal was read comes after all in it; most are in both.
        let held = inner.held.take().unwrap_or_default();
        for row in &open {
            let may_clone = row.verb == Verb::Ensure && row.state != OrderState::Undoing;
            self.put(&mut inner, (row.instance, row.order_id, may_clone.then_some(row.seq)));
        }
        for turn in held {
            self.put(&mut inner, turn);
        }
        Ok(open.len())
    }

    /// Lets an accepted order wait for its turn. One that may come to a clone names its sequence, by which clones
    /// are queued; that of one that waits for others of its instance counts only once it is there.
    pub fn enqueue(&self, instance: InstanceId, id: ProvisioningOrderId, clones: Option<u64>) {
        let mut inner = self.lock();
        match &mut inner.held {
            // Whoever delivers one order again and again must not fill the memory with it.
            Some(held) if held.iter().any(|(_, known, _)| *known == id) => {}
            Some(held) => held.push((instance, id, clones)),
            None => self.put(&mut inner, (instance, id, clones)),
        }
    }

    fn put(&self, inner: &mut Inner, (instance, id, clones): Turn) {
        while inner.tasks.try_join_next().is_some() {}
        if let Some(queue) = inner.queues.get_mut(&instance) {
            if !queue.contains(&id) {
                queue.push_back(id);
            }
            return;
        }
        inner.queues.insert(instance, VecDeque::from([id]));
        if let Some(seq) = clones {
            self.engine.limits.clones.expect(seq);
        }
        let this = self.clone();
        inner.tasks.spawn(async move { this.run(instance).await });
    }

    async fn run(self, instance: InstanceId) {
        let mut defects = 0;
        loop {
            // The order at work stays in the queue, so that a second delivery does not start it again.
            let Some(id) = self.lock().queues.get(&instance).and_then(|queue| queue.front().copied()) else {
                self.lock().queues.remove(&instance);
                return;
            };
            // A defect of ours must not leave a server whose orders are taken and never carried out. The journal
            // knows how to go on, as after a crash.
            let went = match AssertUnwindSafe(self.engine.run_order(id)).catch_unwind().await {
                Ok(went) => went,
                Err(_) if defects + 1 < DEFECTS => {
                    defects += 1;
                    Err("the order met a defect of this agent".to_owned())
                }
                Err(_) => self.engine.give_up(id).await,
            };
            if let Err(error) = went {
                tracing::error!(order = %id, %instance, error, "an order was interrupted; it goes on in a moment");
                tokio::time::sleep(self.engine.pace.again_longest).await;
                continue;
            }
            defects = 0;
            let mut inner = self.lock();
            let empty = inner.queues.get_mut(&instance).is_none_or(|queue| {
                queue.pop_front();
                queue.is_empty()
            });
            if empty {
                inner.queues.remove(&instance);
                return;
            }
        }
    }

    /// True while an order is at work or waits.
    pub fn is_busy(&self) -> bool {
        let inner = self.lock();
        !inner.queues.is_empty() || inner.held.as_ref().is_some_and(|held| !held.is_empty())
    }

    /// Drops every actor where it stands, as a crash would: the journal knows how to go on.
    pub fn abandon(&self) {
        let mut inner = self.lock();
        inner.tasks.abort_all();
        inner.queues.clear();
        self.engine.limits.clones.expect_nothing();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{executor::testkit::Host, testing::ensure};

    #[tokio::test]
    async fn an_order_that_is_delivered_again_and_again_is_held_once() {
        let host = Host::new().await;
        let actors = Actors::new(Arc::clone(&host.engine));
        actors.hold();
        for _ in 0..1_000 {
            for order in [ensure(1, 1), ensure(2, 2)] {
                actors.enqueue(order.instance.uuid, order.order_id, Some(order.seq));
            }
        }
        assert_eq!(actors.lock().held.as_ref().map(Vec::len), Some(2));
    }
}
