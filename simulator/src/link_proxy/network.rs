//! What becomes of each datagram: no sockets, no clock, and chance only from the faults' seeds.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::fault::{LinkFault, Way};

/// A datagram on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parcel {
    /// The agent's side of its flow.
    pub(super) client: SocketAddr,
    pub(super) bytes: Bytes,
}

/// A fault that holds, and what it has done.
struct Armed {
    id: u64,
    fault: LinkFault,
    chance: StdRng,
    seen: u64,
    hits: u64,
}

impl Armed {
    /// Whether it strikes this time.
    fn strikes(&mut self, percent: u8) -> bool {
        self.seen += 1;
        let struck = self.chance.random_range(0..100) < percent;
        self.hits += u64::from(struck);
        struck
    }

    fn cuts(&self, way: Way) -> bool {
        matches!(self.fault, LinkFault::Partition { .. }) && self.fault.covers(way)
    }

    fn millis(ms: u32) -> Duration {
        Duration::from_millis(u64::from(ms))
    }
}

/// A datagram and when it goes; of the same time, the first that came.
#[derive(PartialEq, Eq)]
struct Waiting {
    due: Instant,
    turn: u64,
    parcel: Parcel,
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.turn).cmp(&(other.due, other.turn))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// A datagram that lets others pass.
struct Held {
    parcel: Parcel,
    /// Which fault holds it.
    fault: u64,
    /// So many more go first.
    left: u32,
    overtaken: bool,
    until: Instant,
}

/// One direction.
#[derive(Default)]
struct Line {
    waiting: BinaryHeap<Reverse<Waiting>>,
    held: VecDeque<Held>,
    turns: u64,
    /// When the last one goes: a delay never changes the order.
    last_due: Option<Instant>,
    passed: u64,
}

impl Line {
    fn push(&mut self, due: Instant, parcel: Parcel) {
        let due = self.last_due.map_or(due, |last| last.max(due));
        self.last_due = Some(due);
        self.turns += 1;
        self.waiting.push(Reverse(Waiting { due, turn: self.turns, parcel }));
    }
}

/// The way of one node, with its faults.
#[derive(Default)]
pub(super) struct Network {
    ids: u64,
    armed: Vec<Armed>,
    lines: [Line; 2],
}

impl Network {
    /// Makes something go wrong from now on; gives its number.
    pub(super) fn arm(&mut self, fault: LinkFault) -> u64 {
        self.ids += 1;
        let chance = StdRng::seed_from_u64(fault.seed());
        self.armed.push(Armed { id: self.ids, fault, chance, seen: 0, hits: 0 });
        self.ids
    }

    /// Ends one fault; whether there was one of this number.
    pub(super) fn disarm(&mut self, id: u64) -> bool {
        let before = self.armed.len();
        self.armed.retain(|armed| armed.id != id);
        self.let_go();
        self.armed.len() < before
    }

    /// Ends every fault. What a delay holds comes when it was to come.
    pub(super) fn clear(&mut self) {
        self.armed.clear();
        self.let_go();
    }

    /// What was held back by a fault that is over goes next.
    fn let_go(&mut self) {
        for line in &mut self.lines {
            for held in &mut line.held {
                if !self.armed.iter().any(|armed| armed.id == held.fault) {
                    held.left = 0;
                }
            }
        }
    }

    /// Every fault with how many datagrams it met and struck.
    pub(super) fn list(&self) -> Vec<Value> {
        let show = |a: &Armed| json!({ "id": a.id, "rule": a.fault, "seen": a.seen, "hits": a.hits });
        self.armed.iter().map(show).collect()
    }

    /// How many datagrams were passed on.
    pub(super) fn passed(&self, way: Way) -> u64 {
        self.lines[way.index()].passed
    }

    /// A datagram comes in.
    pub(super) fn arrive(&mut self, now: Instant, way: Way, parcel: Parcel) {
        let (mut due, mut copies, mut hold) = (now, 1, None);
        for armed in self.armed.iter_mut().filter(|armed| armed.fault.covers(way)) {
            match armed.fault {
                LinkFault::Partition { .. } => {
                    armed.seen += 1;
                    armed.hits += 1;
                    return;
                }
                LinkFault::Loss { percent, .. } => {
                    if armed.strikes(percent) {
                        return;
                    }
                }
                LinkFault::Delay { delay_ms, jitter_ms, .. } => {
                    let more = armed.chance.random_range(0..=jitter_ms);
                    armed.seen += 1;
                    armed.hits += u64::from(delay_ms + more > 0);
                    due += Armed::millis(delay_ms + more);
                }
                LinkFault::Duplicate { percent, copies: more, .. } => {
                    if armed.strikes(percent) {
                        copies += more;
                    }
                }
                LinkFault::Reorder { percent, by, hold_ms, .. } => {
                    armed.seen += 1;
                    // A hit only once something has really gone first.
                    if hold.is_none() && armed.chance.random_range(0..100) < percent {
                        hold = Some((armed.id, by, now + Armed::millis(hold_ms)));
                    }
                }
                LinkFault::AddressChange { .. } => {}
            }
        }
        let line = &mut self.lines[way.index()];
        if let Some((fault, left, until)) = hold {
            line.held.push_back(Held { parcel, fault, left, overtaken: false, until });
            return;
        }
        for _ in 0..copies {
            line.push(due, parcel.clone());
        }
        for held in &mut line.held {
            held.overtaken = true;
            held.left = held.left.saturating_sub(1);
        }
        self.release(now, due, way);
    }

    /// Lets those go that were held long enough, behind what overtook them.
    fn release(&mut self, now: Instant, due: Instant, way: Way) {
        let line = &mut self.lines[way.index()];
        let (go, stay): (VecDeque<Held>, VecDeque<Held>) =
            std::mem::take(&mut line.held).into_iter().partition(|held| held.left == 0 || held.until <= now);
        line.held = stay;
        for held in go {
            if held.overtaken
                && let Some(armed) = self.armed.iter_mut().find(|armed| armed.id == held.fault)
            {
                armed.hits += 1;
            }
            self.lines[way.index()].push(due.max(now), held.parcel);
        }
    }

    /// What goes now, in its order.
    pub(super) fn due(&mut self, now: Instant, way: Way) -> Vec<Parcel> {
        self.release(now, now, way);
        let line = &mut self.lines[way.index()];
        let mut out = Vec::new();
        while let Some(Reverse(waiting)) = line.waiting.peek() {
            if waiting.due > now {
                break;
            }
            if let Some(Reverse(waiting)) = line.waiting.pop() {
                out.push(waiting.parcel);
            }
        }
        line.passed += u64::try_from(out.len()).unwrap_or(u64::MAX);
        out
    }

    /// When something goes next, if anything waits.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let waiting = self.lines.iter().filter_map(|line| line.waiting.peek().map(|Reverse(w)| w.due));
        let held = self.lines.iter().flat_map(|line| line.held.iter().map(|held| held.until));
        waiting.chain(held).min()
    }

    /// Whether nothing passes this way.
    pub(super) fn is_cut(&self, way: Way) -> bool {
        self.armed.iter().any(|armed| armed.cuts(way))
    }

    /// A piece of a TCP stream comes in; whether it has to wait.
    pub(super) fn stream_waits(&mut self, way: Way) -> bool {
        let Some(armed) = self.armed.iter_mut().find(|armed| armed.cuts(way)) else { return false };
        armed.seen += 1;
        armed.hits += 1;
        true
    }

    /// How much later a piece of a TCP stream comes.
    pub(super) fn stream_delay(&mut self, way: Way) -> Duration {
        let mut delay = Duration::ZERO;
        for armed in self.armed.iter_mut().filter(|armed| armed.fault.covers(way)) {
            if let LinkFault::Delay { delay_ms, jitter_ms, .. } = armed.fault {
                let more = armed.chance.random_range(0..=jitter_ms);
                armed.seen += 1;
                armed.hits += 1;
                delay += Armed::millis(delay_ms + more);
            }
        }
        delay
    }

    /// Notes that addresses of so many flows were changed by a fault; `false` when it is not armed any more.
    pub(super) fn rebound(&mut self, id: u64, flows: usize) -> bool {
        let Some(armed) = self.armed.iter_mut().find(|armed| armed.id == id) else { return false };
        armed.seen += 1;
        armed.hits += u64::try_from(flows).unwrap_or(u64::MAX);
        true
    }
}
