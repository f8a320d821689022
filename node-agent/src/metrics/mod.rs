//! What servers and the host use, looked at once a minute, kept while nobody listens, and told in batches.
//!
//! Two files in the state directory:
//! - `metrics.ring`: samples, a fixed number of fixed records ([`ring`]). It is written without fsync: after a power cut
//!   some minutes may be missing, and nothing else. When it is full the oldest sample goes, and is counted.
//! - `traffic.json`: the book of traffic ([`book`]), written whole and durably after every look. Counters of Proxmox
//!   begin at 0 with each start of a VM; the book adds up what they grew by, month by month.
//!
//! What was not yet acknowledged ([`backlog`]) is told newest first, so that charts are alive again at once after an
//! outage; the rest follows slowly. A batch may be told twice: samples are named by their minute and traffic is told as
//! the total of a month, so that storing it again changes nothing.
//!
//! Nothing here may hold up orders: a file that cannot be written costs samples, never more.

mod backlog;
mod book;
mod ring;
mod sampler;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ez_protocol::{
    InstanceId, UnixMillis,
    message::{InstanceSamples, MOST_SAMPLES, MOST_TOTALS, MetricsAck, MetricsBatch, TrafficTotal},
};
use tokio::sync::{Notify, watch};

use self::{
    backlog::{Backlog, Span},
    book::Book,
    ring::{Record, Ring, Subject},
};
use crate::entropy::Entropy;

pub use sampler::run;

/// Samples older than this are not told any more.
pub const KEPT: Duration = Duration::from_secs(48 * 3_600);
/// Size of the ring's file, at most.
const RING_BYTES: u64 = 64 * 1024 * 1024;

/// Samples and traffic of this host.
pub struct Metrics {
    inner: Mutex<Inner>,
    /// Rung when there is something new to tell.
    pub changed: Notify,
    acks: watch::Sender<MetricsAck>,
}

struct Inner {
    ring: Ring,
    backlog: Backlog,
    book: Book,
    /// What was told and not acknowledged.
    told: Option<Told>,
    last_batch: u64,
}

struct Told {
    batch: u64,
    span: Option<Span>,
    totals: Vec<TrafficTotal>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Opens both files below a directory, or makes them. A book that cannot be read is begun anew: it counts from here
    /// on, never twice.
    ///
    /// # Errors
    /// If the ring can neither be read nor made.
    pub fn open(dir: &Path, entropy: &dyn Entropy) -> io::Result<Self> {
        Self::open_sized(dir, entropy, RING_BYTES / ring::RECORD as u64)
    }

    fn open_sized(dir: &Path, entropy: &dyn Entropy, records: u64) -> io::Result<Self> {
        let ring = Ring::open(&dir.join("metrics.ring"), records)?;
        let book = Book::open(&dir.join("traffic.json"), entropy);
        // A ring that is younger than the book (its file was lost) begins at 0 again.
        let from = if book.cursor() > ring.head() { ring.tail() } else { book.cursor().max(ring.tail()) };
        let backlog = Backlog::of(Span { from, to: ring.head() });
        let inner = Inner { ring, backlog, book, told: None, last_batch: 0 };
        let (acks, _) = watch::channel(MetricsAck::default());
        Ok(Self { inner: Mutex::new(inner), changed: Notify::new(), acks })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Acknowledgements as they come.
    pub fn acks(&self) -> watch::Receiver<MetricsAck> {
        self.acks.subscribe()
    }

    /// Takes in what was looked at: the book first, which must not lose anything, then the ring.
    fn note(&self, look: &sampler::Look) {
        let mut inner = self.lock();
        let records = inner.book.take(look);
        let kept = inner.ring.append(&records);
        match kept {
            Ok(span) => {
                inner.backlog.add(span);
                let gone = inner.ring.tail();
                let lost = inner.backlog.forget_before(gone);
                inner.book.lost(lost);
            }
            Err(error) => {
                inner.book.lost(records.len() as u64);
                tracing::warn!(%error, "samples could not be kept");
            }
        }
        let cursor = inner.backlog.lowest().unwrap_or(inner.ring.head());
        if let Err(error) = inner.book.save(cursor) {
            tracing::warn!(%error, "the book of traffic could not be written; it is written at the next look");
        }
        drop(inner);
        self.changed.notify_one();
    }

    /// A connection begins: what the last one did not get acknowledged is to be told again.
    pub fn begin(&self) {
        self.give_back();
    }

    /// The batch that is out was not acknowledged in time.
    pub fn give_back(&self) {
        let mut inner = self.lock();
        if let Some(span) = inner.told.take().and_then(|told| told.span) {
            inner.backlog.add(span);
        }
    }

    /// The next batch: the newest samples that nobody has acknowledged, and with the newest of all the totals that
    /// changed. With `live_only` nothing older is taken out. `None`: there is nothing to tell. The batch before must
    /// have been acknowledged or given back.
    pub fn next(&self, now: UnixMillis, live_only: bool) -> Option<MetricsBatch> {
        let mut inner = self.lock();
        let oldest = u32::try_from(now.minus(KEPT).0 / 60_000).unwrap_or(0);
        let head = inner.ring.head();
        loop {
            let live = inner.backlog.newest().is_none_or(|end| end == head);
            let totals = if live { inner.book.untold(MOST_TOTALS) } else { Vec::new() };
            let span = match live || !live_only {
                true => inner.backlog.take_newest(MOST_SAMPLES as u64),
                false => None,
            };
            let Some(span) = span else {
                return (!totals.is_empty()).then(|| inner.tell(None, &[], totals));
            };
            let records = inner.ring.read(span.from, span.to);
            let whole = records.len();
            let fresh: Vec<Record> =
                records.into_iter().filter(|record| record.sample.minute >= oldest).collect();
            inner.book.lost((whole - fresh.len()) as u64);
            if !fresh.is_empty() || !totals.is_empty() {
                return Some(inner.tell(Some(span), &fresh, totals));
            }
        }
    }

    /// The other side has a batch.
    pub fn acknowledged(&self, ack: MetricsAck) {
        let mut inner = self.lock();
        if inner.told.as_ref().is_some_and(|told| told.batch == ack.batch)
            && let Some(told) = inner.told.take()
        {
            inner.book.told(&told.totals);
        }
        drop(inner);
        self.acks.send_replace(ack);
    }
}

impl Inner {
    fn tell(&mut self, span: Option<Span>, records: &[Record], totals: Vec<TrafficTotal>) -> MetricsBatch {
        self.last_batch += 1;
        let batch = self.last_batch;
        let mut instances: BTreeMap<InstanceId, InstanceSamples> = BTreeMap::new();
        let mut host = Vec::new();
        for record in records {
            match record.subject {
                Subject::Host => host.push(record.sample),
                Subject::Instance(id) => {
                    let new = || InstanceSamples { instance_id: id.to_string(), samples: Vec::new() };
                    instances.entry(id).or_insert_with(new).samples.push(record.sample);
                }
            }
        }
        let message = MetricsBatch {
            series: self.book.series().to_owned(),
            batch,
            instances: instances.into_values().collect(),
            host,
            traffic: totals.clone(),
            dropped: self.book.dropped(),
        };
        self.told = Some(Told { batch, span, totals });
        message
    }
}
