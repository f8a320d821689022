//! The queue of clones: on each storage one at a time, because parallel ones run into each other's lock of the
//! storage, and in the order in which the control plane asked for them.
//!
//! The sequence of a provisioning order is its place, so an agent that is started anew comes to the same queue
//! without a word in its journal. Orders reach their clone by looking at Proxmox first, some sooner than others;
//! an earlier one that is still on its way is *expected*, and waited for.
//!
//! How long one takes is learnt from those that went well since the agent began: the median per size of the last
//! ones between the same two storages.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ez_protocol::message::QueuePlace;
use tokio::{sync::Notify, time::Instant};

/// How many clones between two storages are remembered.
const REMEMBERED: usize = 9;

/// A clone that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloneWish {
    /// Sequence of its order.
    pub seq: u64,
    /// Storage of the template.
    pub from: String,
    /// Storage of the new disk; one clone at a time is made there.
    pub to: String,
    /// What has to be copied, MiB. A linked clone copies nothing: 1.
    pub mib: u64,
}

impl CloneWish {
    fn lane(&self) -> Lane {
        (self.from.clone(), self.to.clone())
    }
}

/// From where to where.
type Lane = (String, String);

/// The host's queues, one per storage.
#[derive(Debug, Default)]
pub(super) struct Clones {
    inner: Mutex<Inner>,
    moved: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// Orders that may come to a clone and have not yet.
    expected: BTreeSet<u64>,
    lines: HashMap<String, Line>,
    /// Seconds per MiB, newest last.
    known: HashMap<Lane, VecDeque<f64>>,
}

#[derive(Debug, Default)]
struct Line {
    /// More than one only where a restart found more at work.
    at_work: Vec<(CloneWish, Instant)>,
    waiting: BTreeMap<u64, CloneWish>,
}

impl Inner {
    /// Seconds that a clone takes, as far as those before it tell.
    fn takes(&self, wish: &CloneWish) -> Option<f64> {
        let mut seen: Vec<f64> = self.known.get(&wish.lane())?.iter().copied().collect();
        seen.sort_by(f64::total_cmp);
        Some(seen.get(seen.len() / 2)? * wish.mib as f64)
    }

    fn may_go(&self, wish: &CloneWish) -> bool {
        let Some(line) = self.lines.get(&wish.to) else { return false };
        let first = line.waiting.keys().next() == Some(&wish.seq);
        first && line.at_work.is_empty() && self.expected.range(..wish.seq).next().is_none()
    }

    /// Where a waiting one is; none while it waits for nothing but an earlier one on its way.
    fn place(&self, wish: &CloneWish, now: Instant) -> Option<QueuePlace> {
        let line = self.lines.get(&wish.to)?;
        let ahead = || line.waiting.range(..wish.seq).map(|(_, wish)| wish);
        if line.at_work.is_empty() && ahead().next().is_none() {
            return None;
        }
        // Earlier ones on their way come to stand before it: so that its place only gets better, they count at once.
        let coming = self.expected.range(..wish.seq).count();
        let position = u32::try_from(ahead().count() + coming + 1).unwrap_or(u32::MAX);
        let left = line.at_work.iter().map(|(wish, since)| {
            let so_far = now.saturating_duration_since(*since).as_secs_f64();
            self.takes(wish).map(|takes| (takes - so_far).max(0.0))
        });
        let like_it = std::iter::repeat_n(wish, coming);
        let secs: Option<f64> = left.chain(ahead().chain(like_it).map(|wish| self.takes(wish))).sum();
        let estimate_secs = secs.map(|secs| secs.ceil() as u32);
        Some(QueuePlace { position, estimate_secs })
    }
}

impl Clones {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An order that may come to a clone begins: later ones wait until it has, or is known not to.
    pub(super) fn expect(&self, seq: u64) {
        self.lock().expected.insert(seq);
    }

    /// It has come to its clone, or there is nothing to wait for.
    pub(super) fn settled(&self, seq: u64) {
        if self.lock().expected.remove(&seq) {
            self.moved.notify_waiters();
        }
    }

    /// Nothing is expected any more.
    pub(super) fn expect_nothing(&self) {
        self.lock().expected.clear();
        self.moved.notify_waiters();
    }

    /// Waits for a clone's turn; `tell` hears of every new position.
    pub(super) async fn enter(
        self: &Arc<Self>,
        wish: CloneWish,
        tell: &mut (dyn FnMut(QueuePlace) + Send),
    ) -> Turn {
        {
            let mut inner = self.lock();
            inner.lines.entry(wish.to.clone()).or_default().waiting.insert(wish.seq, wish.clone());
            inner.expected.remove(&wish.seq);
        }
        self.moved.notify_waiters();
        // From here on whoever is dropped leaves the queue.
        let waiting = Waiting { clones: Arc::clone(self), wish };
        let mut told = None;
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            let place = {
                let mut inner = self.lock();
                if inner.may_go(&waiting.wish) {
                    let now = Instant::now();
                    if let Some(line) = inner.lines.get_mut(&waiting.wish.to) {
                        line.waiting.remove(&waiting.wish.seq);
                        line.at_work.push((waiting.wish.clone(), now));
                    }
                    break;
                }
                inner.place(&waiting.wish, Instant::now())
            };
            if let Some(place) = place.filter(|place| told != Some(place.position)) {
                told = Some(place.position);
                tell(place);
            }
            moved.await;
        }
        Turn { clones: Arc::clone(self), wish: waiting.wish.clone(), began: Instant::now() }
    }

    /// A clone that is at work already, for so long, has its turn without waiting.
    pub(super) fn go_on(self: &Arc<Self>, wish: CloneWish, already: Duration) -> Turn {
        let now = Instant::now();
        let began = now.checked_sub(already).unwrap_or(now);
        let mut inner = self.lock();
        inner.lines.entry(wish.to.clone()).or_default().at_work.push((wish.clone(), began));
        inner.expected.remove(&wish.seq);
        drop(inner);
        self.moved.notify_waiters();
        Turn { clones: Arc::clone(self), wish, began }
    }
}

/// A place in the queue, until it is dropped.
struct Waiting {
    clones: Arc<Clones>,
    wish: CloneWish,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(line) = self.clones.lock().lines.get_mut(&self.wish.to) {
            line.waiting.remove(&self.wish.seq);
        }
        self.clones.moved.notify_waiters();
    }
}

/// A clone's turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    clones: Arc<Clones>,
    wish: CloneWish,
    began: Instant,
}

impl Turn {
    /// It went well: the next ones know how long it takes.
    pub(super) fn went_well(&self) {
        self.took(self.began.elapsed());
    }

    fn took(&self, time: Duration) {
        let mut inner = self.clones.lock();
        let seen = inner.known.entry(self.wish.lane()).or_default();
        seen.push_back(time.as_secs_f64() / self.wish.mib.max(1) as f64);
        if seen.len() > REMEMBERED {
            seen.pop_front();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(line) = self.clones.lock().lines.get_mut(&self.wish.to)
            && let Some(at) = line.at_work.iter().position(|(wish, _)| *wish == self.wish)
        {
            line.at_work.remove(at);
        }
        self.clones.moved.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    fn wish(seq: u64, to: &str) -> CloneWish {
        CloneWish { seq, from: "local".to_owned(), to: to.to_owned(), mib: 3 * 1024 }
    }

    /// A host whose clones say when they have their turn and where they are in the queue.
    struct Host {
        clones: Arc<Clones>,
        went: mpsc::UnboundedReceiver<(u64, Turn)>,
        places: mpsc::UnboundedReceiver<(u64, QueuePlace)>,
        went_out: mpsc::UnboundedSender<(u64, Turn)>,
        places_out: mpsc::UnboundedSender<(u64, QueuePlace)>,
    }

    impl Host {
        fn new() -> Self {
            let (went_out, went) = mpsc::unbounded_channel();
            let (places_out, places) = mpsc::unbounded_channel();
            Self { clones: Arc::default(), went, places, went_out, places_out }
        }

        fn wants(&self, wish: CloneWish) -> tokio::task::JoinHandle<()> {
            let clones = Arc::clone(&self.clones);
            let (went, places) = (self.went_out.clone(), self.places_out.clone());
            tokio::spawn(async move {
                let seq = wish.seq;
                let mut tell = |place| places.send((seq, place)).unwrap();
                let turn = clones.enter(wish, &mut tell).await;
                drop(went.send((seq, turn)));
            })
        }

        /// Lets everybody go as far as they can.
        async fn settle(&self) {
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
        }

        async fn next(&mut self) -> (u64, Turn) {
            self.went.recv().await.unwrap()
        }

        fn told(&mut self) -> Vec<(u64, u32, Option<u32>)> {
            let mut all = Vec::new();
            while let Ok((seq, place)) = self.places.try_recv() {
                all.push((seq, place.position, place.estimate_secs));
            }
            all
        }
    }

    #[tokio::test]
    async fn whoever_was_asked_for_first_goes_first_whatever_the_order_of_arrival() {
        let mut host = Host::new();
        host.wants(wish(1, "a"));
        let (_, first) = host.next().await;
        for seq in [4, 2, 3] {
            host.wants(wish(seq, "a"));
            host.settle().await;
        }
        host.wants(wish(9, "b"));
        assert_eq!(host.next().await.0, 9, "another storage has a queue of its own");
        let told = host.told();
        assert!(told.contains(&(3, 2, None)), "{told:?}");
        assert!(told.contains(&(4, 3, None)), "the one that came first is told that it moved back: {told:?}");
        let mut turn = first;
        for seq in [2, 3, 4] {
            drop(turn);
            let next = host.next().await;
            assert_eq!(next.0, seq);
            turn = next.1;
        }
    }

    #[tokio::test]
    async fn one_that_is_still_on_its_way_is_waited_for_and_one_that_does_not_come_is_not() {
        let mut host = Host::new();
        (5..8).for_each(|seq| host.clones.expect(seq));
        host.wants(wish(7, "a"));
        host.settle().await;
        assert!(host.went.try_recv().is_err(), "5 and 6 come first");
        host.clones.settled(5);
        host.wants(wish(6, "a"));
        assert_eq!(host.next().await.0, 6);
        assert_eq!(host.next().await.0, 7);
    }

    #[tokio::test]
    async fn whoever_gives_up_leaves_the_queue_and_those_behind_move_up() {
        let mut host = Host::new();
        host.wants(wish(1, "a"));
        let (_, first) = host.next().await;
        let gone = host.wants(wish(2, "a"));
        host.settle().await;
        host.wants(wish(3, "a"));
        host.settle().await;
        gone.abort();
        host.settle().await;
        assert_eq!(host.told(), [(2, 1, None), (3, 2, None), (3, 1, None)]);
        drop(first);
        assert_eq!(host.next().await.0, 3);
    }

    #[tokio::test]
    async fn a_clone_that_a_restart_finds_at_work_is_waited_for() {
        let mut host = Host::new();
        let running = host.clones.go_on(wish(1, "a"), Duration::from_secs(5));
        host.wants(wish(2, "a"));
        host.settle().await;
        assert!(host.went.try_recv().is_err());
        drop(running);
        assert_eq!(host.next().await.0, 2);
    }

    #[tokio::test]
    async fn the_estimate_follows_what_the_last_ones_took_and_how_large_they_are() {
        let mut host = Host::new();
        for (seq, secs) in [(1, 30), (2, 3_000), (3, 30)] {
            host.wants(wish(seq, "a"));
            let (_, turn) = host.next().await;
            turn.took(Duration::from_secs(secs));
        }
        let running = host.clones.go_on(wish(4, "a"), Duration::from_secs(10));
        host.wants(CloneWish { mib: 2 * 3 * 1024, ..wish(5, "a") });
        host.settle().await;
        host.wants(wish(6, "a"));
        host.settle().await;
        let told = host.told();
        assert_eq!(told, [(5, 1, Some(20)), (6, 2, Some(80))], "the one slow clone does not count");
        drop(running);
        let (seq, _large) = host.next().await;
        assert_eq!(seq, 5);
        host.settle().await;
        assert_eq!(host.told(), [(6, 1, Some(60))]);
    }
}
