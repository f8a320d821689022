//! A file of fixed records that is written round and round.
//!
//! A record names its own place, counted from the first that was ever written, and carries a check sum: after a crash
//! the file tells by itself where it ends, and a record that was half written is as good as none. Nothing is synced.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
};

use ez_protocol::{InstanceId, message::Sample};
use uuid::Uuid;

use super::backlog::Span;

/// Bytes of a record: place, subject, minute, CPU, kind, memory, four rates, check sum.
pub(super) const RECORD: usize = 8 + 16 + 4 + 2 + 2 + 8 + 4 * 8 + 8;
/// Records read at once when a file is looked through.
const CHUNK: usize = 512;
const INSTANCE: u16 = 1;
const HOST: u16 = 2;

/// What a sample is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    Host,
    Instance(InstanceId),
}

/// A sample with its subject.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Record {
    pub(super) subject: Subject,
    pub(super) sample: Sample,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Ring {
    file: File,
    /// How many records there is room for.
    capacity: u64,
    /// The place that is written next.
    head: u64,
}

impl Ring {
    /// Opens a ring for so many records, or makes it. A file of another size keeps what still fits.
    pub(super) fn open(path: &Path, capacity: u64) -> io::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let mut ring = Self { file, capacity: capacity.max(1), head: 0 };
        ring.head = ring.find_head()?;
        // What a larger ring left behind its end would be found again by the next start.
        let most = ring.capacity * RECORD as u64;
        if ring.file.metadata()?.len() > most {
            ring.file.set_len(most)?;
        }
        Ok(ring)
    }

    /// One more than the highest place that any whole record names.
    fn find_head(&mut self) -> io::Result<u64> {
        let mut head = 0;
        let mut chunk = Vec::with_capacity(CHUNK * RECORD);
        let mut slot = 0;
        loop {
            chunk.clear();
            let read = (&self.file).take((CHUNK * RECORD) as u64).read_to_end(&mut chunk)?;
            for bytes in chunk.chunks_exact(RECORD) {
                if let Some((place, _)) = decode(bytes).filter(|(place, _)| place % self.capacity == slot) {
                    head = head.max(place + 1);
                }
                slot += 1;
            }
            if read < CHUNK * RECORD {
                return Ok(head);
            }
        }
    }

    /// The place after the newest record.
    pub(super) fn head(&self) -> u64 {
        self.head
    }

    /// The oldest place that has not been written over.
    pub(super) fn tail(&self) -> u64 {
        self.head.saturating_sub(self.capacity)
    }

    /// Writes records behind the newest, over the oldest if need be; says where they are.
    pub(super) fn append(&mut self, records: &[Record]) -> io::Result<Span> {
        let from = self.head;
        let mut place = from;
        let mut rest = records;
        while !rest.is_empty() {
            // Up to the end of the file at once, then from its beginning.
            let slot = place % self.capacity;
            let room = usize::try_from(self.capacity - slot).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at(rest.len().min(room));
            let mut bytes = Vec::with_capacity(now.len() * RECORD);
            for (record, place) in now.iter().zip(place..) {
                encode(place, record, &mut bytes);
            }
            self.file.write_all_at(&bytes, slot * RECORD as u64)?;
            place += now.len() as u64;
            self.head = place;
            rest = later;
        }
        Ok(Span { from, to: place })
    }

    /// The whole records of a span. What was written over, or never written whole, is left out.
    pub(super) fn read(&self, from: u64, to: u64) -> Vec<Record> {
        let mut records = Vec::new();
        let mut place = from.max(self.tail());
        let to = to.min(self.head);
        while place < to {
            let slot = place % self.capacity;
            let now = (to - place).min(self.capacity - slot);
            let mut bytes = vec![0; usize::try_from(now).unwrap_or(0) * RECORD];
            if self.file.read_exact_at(&mut bytes, slot * RECORD as u64).is_ok() {
                let whole = bytes.chunks_exact(RECORD).zip(place..).filter_map(|(bytes, place)| {
                    decode(bytes).filter(|(named, _)| *named == place).map(|(_, record)| record)
                });
                records.extend(whole);
            }
            place += now;
        }
        records
    }
}

fn encode(place: u64, record: &Record, out: &mut Vec<u8>) {
    let begin = out.len();
    let (kind, id) = match record.subject {
        Subject::Host => (HOST, Uuid::nil()),
        Subject::Instance(id) => (INSTANCE, id.as_uuid()),
    };
    let sample = &record.sample;
    out.extend_from_slice(&place.to_le_bytes());
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(&sample.minute.to_le_bytes());
    out.extend_from_slice(&u16::try_from(sample.cpu_permille).unwrap_or(1_000).to_le_bytes());
    out.extend_from_slice(&kind.to_le_bytes());
    for number in [sample.memory_kib, sample.net_in, sample.net_out, sample.disk_read, sample.disk_write] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    let sum = check_sum(&out[begin..]);
    out.extend_from_slice(&sum.to_le_bytes());
}

fn decode(bytes: &[u8]) -> Option<(u64, Record)> {
    let (body, sum) = bytes.split_last_chunk::<8>()?;
    if body.len() + 8 != RECORD || u64::from_le_bytes(*sum) != check_sum(body) {
        return None;
    }
    let mut rest = body;
    let place = u64::from_le_bytes(take(&mut rest)?);
    let id = Uuid::from_bytes(take(&mut rest)?);
    let minute = u32::from_le_bytes(take(&mut rest)?);
    let cpu_permille = u32::from(u16::from_le_bytes(take(&mut rest)?));
    let kind = u16::from_le_bytes(take(&mut rest)?);
    let mut numbers = [0; 5];
    for number in &mut numbers {
        *number = u64::from_le_bytes(take(&mut rest)?);
    }
    let [memory_kib, net_in, net_out, disk_read, disk_write] = numbers;
    let subject = match kind {
        HOST => Subject::Host,
        INSTANCE => Subject::Instance(InstanceId::from_uuid(id)),
        _ => return None,
    };
    let sample = Sample { minute, cpu_permille, memory_kib, net_in, net_out, disk_read, disk_write };
    Some((place, Record { subject, sample }))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, behind) = rest.split_first_chunk::<N>()?;
    *rest = behind;
    Some(*first)
}

/// FNV-1a over 64 bits: it finds what a crash tore, not what somebody forged. An empty file's zeros do not pass.
fn check_sum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(n: u64) -> Record {
        let subject = match n % 3 {
            0 => Subject::Host,
            _ => Subject::Instance(InstanceId::from_uuid(Uuid::from_u128(u128::from(n)))),
        };
        let minute = u32::try_from(n).unwrap();
        let sample =
            Sample { minute, cpu_permille: 500, memory_kib: n << 20, net_in: u64::MAX, ..Sample::default() };
        Record { subject, sample }
    }

    fn minutes(records: &[Record]) -> Vec<u64> {
        records.iter().map(|record| u64::from(record.sample.minute)).collect()
    }

    #[test]
    fn a_record_survives_and_none_is_made_of_zeros() {
        for n in 0..6 {
            let mut bytes = Vec::new();
            encode(n, &record(n), &mut bytes);
            assert_eq!(bytes.len(), RECORD);
            assert_eq!(decode(&bytes), Some((n, record(n))));
            bytes[9] ^= 1;
            assert_eq!(decode(&bytes), None);
        }
        assert_eq!(decode(&[0; RECORD]), None);
    }

    #[test]
    fn a_torn_tail_costs_its_record_and_writing_goes_on_behind_the_last_whole_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ring");
        let mut ring = Ring::open(&path, 8).unwrap();
        ring.append(&[record(0), record(1), record(2)]).unwrap();
        drop(ring);
        // The power went while the third was written.
        OpenOptions::new().write(true).open(&path).unwrap().set_len(2 * RECORD as u64 + 30).unwrap();
        let mut ring = Ring::open(&path, 8).unwrap();
        assert_eq!((ring.head(), minutes(&ring.read(0, 9))), (2, vec![0, 1]));
        ring.append(&[record(7)]).unwrap();
        assert_eq!(minutes(&ring.read(0, 9)), [0, 1, 7]);
    }

    #[test]
    fn a_hole_in_the_middle_costs_its_record_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ring");
        let mut ring = Ring::open(&path, 8).unwrap();
        ring.append(&(0..5).map(record).collect::<Vec<_>>()).unwrap();
        ring.file.write_all_at(&[0; 40], RECORD as u64 + 8).unwrap();
        let ring = Ring::open(&path, 8).unwrap();
        assert_eq!((ring.head(), minutes(&ring.read(0, 5))), (5, vec![0, 2, 3, 4]));
    }

    #[test]
    fn a_smaller_ring_forgets_what_lies_behind_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ring");
        let mut ring = Ring::open(&path, 8).unwrap();
        ring.append(&(0..8).map(record).collect::<Vec<_>>()).unwrap();
        let ring = Ring::open(&path, 4).unwrap();
        assert_eq!(ring.head(), 4, "places behind the end belong nowhere");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 4 * RECORD as u64);
    }

    proptest! {
        #[test]
        fn the_newest_are_there_and_the_file_stays_bounded(
            lengths in proptest::collection::vec(0_u64..11, 0..12),
            capacity in 1_u64..9,
            again in any::<bool>(),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("ring");
            let mut ring = Ring::open(&path, capacity).unwrap();
            let mut written = 0;
            for length in lengths {
                let span = ring.append(&(written..written + length).map(record).collect::<Vec<_>>()).unwrap();
                prop_assert_eq!(span, Span { from: written, to: written + length });
                written += length;
                if again {
                    ring = Ring::open(&path, capacity).unwrap();
                }
                prop_assert_eq!((ring.head(), ring.tail()), (written, written.saturating_sub(capacity)));
                let there: Vec<u64> = (written.saturating_sub(capacity)..written).collect();
                prop_assert_eq!(minutes(&ring.read(0, u64::MAX)), there);
                prop_assert!(std::fs::metadata(&path).unwrap().len() <= capacity * RECORD as u64);
            }
        }
    }
}
