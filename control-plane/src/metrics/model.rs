//! Samples in rows: packing, averages, spans. Pure.

use std::collections::BTreeMap;

use ez_protocol::{UnixMillis, message::Sample};

/// Slots of a minute; a row is an hour.
pub(super) const MINUTE: i64 = 1;
/// Slots of five minutes; a row is a day.
pub(super) const FIVE: i64 = 5;
/// Slots of an hour; a row is thirty days.
pub(super) const HOUR: i64 = 60;

/// Minutes in a row with slots of so many minutes.
pub(super) const fn row_minutes(minutes: i64) -> i64 {
    match minutes {
        MINUTE => 60,
        FIVE => 24 * 60,
        _ => 30 * 24 * 60,
    }
}

/// What is used at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Values {
    /// CPU, per mille of all there is.
    pub cpu_permille: u64,
    /// Memory, KiB.
    pub memory_kib: u64,
    /// Received, bytes per second.
    pub net_in: u64,
    /// Sent, bytes per second.
    pub net_out: u64,
    /// Read from disks, bytes per second.
    pub disk_read: u64,
    /// Written to disks, bytes per second.
    pub disk_write: u64,
}

impl From<&Sample> for Values {
    fn from(sample: &Sample) -> Self {
        Self {
            cpu_permille: u64::from(sample.cpu_permille),
            memory_kib: sample.memory_kib,
            net_in: sample.net_in,
            net_out: sample.net_out,
            disk_read: sample.disk_read,
            disk_write: sample.disk_write,
        }
    }
}

impl Values {
    fn numbers(&self) -> [u64; 6] {
        [self.cpu_permille, self.memory_kib, self.net_in, self.net_out, self.disk_read, self.disk_write]
    }

    fn of([cpu_permille, memory_kib, net_in, net_out, disk_read, disk_write]: [u64; 6]) -> Self {
        Self { cpu_permille, memory_kib, net_in, net_out, disk_read, disk_write }
    }

    /// The mean of several; `None` of none.
    pub(super) fn mean(all: &[Self]) -> Option<Self> {
        let count = u128::try_from(all.len()).ok().filter(|count| *count > 0)?;
        let mut sums = [0_u128; 6];
        for values in all {
            for (sum, number) in sums.iter_mut().zip(values.numbers()) {
                *sum += u128::from(number);
            }
        }
        Some(Self::of(sums.map(|sum| u64::try_from(sum / count).unwrap_or(u64::MAX))))
    }
}

/// A row's slots. Packed: a byte for the version, then for each filled slot its number and its six values, each as a
/// number of seven bits a byte; about fifteen bytes a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Block(BTreeMap<u16, Values>);

/// First byte of a packed row.
const PACKED: u8 = 1;

impl Block {
    /// Fills a slot that is free; false if it was filled.
    pub(super) fn fill(&mut self, slot: u16, values: Values) -> bool {
        let free = !self.0.contains_key(&slot);
        self.0.entry(slot).or_insert(values);
        free
    }

    /// Puts values into a slot, whatever was there; true if that changed something.
    pub(super) fn set(&mut self, slot: u16, values: Values) -> bool {
        self.0.insert(slot, values) != Some(values)
    }

    /// The filled slots.
    pub(super) fn slots(&self) -> impl Iterator<Item = (u16, Values)> + '_ {
        self.0.iter().map(|(slot, values)| (*slot, *values))
    }

    pub(super) fn pack(&self) -> Vec<u8> {
        let mut out = vec![PACKED];
        for (slot, values) in &self.0 {
            write(u64::from(*slot), &mut out);
            values.numbers().into_iter().for_each(|number| write(number, &mut out));
        }
        out
    }

    /// Reads a packed row; `None` for bytes that are none.
    pub(super) fn unpack(bytes: &[u8]) -> Option<Self> {
        let (PACKED, mut rest) = bytes.split_first().map(|(version, rest)| (*version, rest))? else {
            return None;
        };
        let mut slots = BTreeMap::new();
        while !rest.is_empty() {
            let slot = u16::try_from(read(&mut rest)?).ok()?;
            let mut numbers = [0; 6];
            for number in &mut numbers {
                *number = read(&mut rest)?;
            }
            slots.insert(slot, Values::of(numbers));
        }
        Some(Self(slots))
    }
}

fn write(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn read(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        let part = u64::from(byte & 0x7f);
        // The last of ten bytes has one bit to give.
        if shift == 63 && part > 1 {
            return None;
        }
        number |= part << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Averages of minutes' slots in slots of `minutes`: (first minute, values).
pub(super) fn averaged(slots: &[(i64, Values)], minutes: i64) -> Vec<(i64, Values)> {
    let mut groups: BTreeMap<i64, Vec<Values>> = BTreeMap::new();
    for (minute, values) in slots {
        groups.entry(minute.div_euclid(minutes) * minutes).or_default().push(*values);
    }
    groups.into_iter().filter_map(|(minute, all)| Some((minute, Values::mean(&all)?))).collect()
}

/// One step of a chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Its beginning.
    pub at: UnixMillis,
    /// The mean; none where nothing is known.
    pub values: Option<Values>,
}

/// Equal steps over `from..to` (minutes), each the mean of what lies in it.
pub(super) fn stepped(slots: &[(i64, Values)], from: i64, to: i64, step: i64) -> Vec<Point> {
    let within: Vec<(i64, Values)> = slots.iter().filter(|(m, _)| (from..to).contains(m)).copied().collect();
    let known: BTreeMap<i64, Values> = averaged(&within, step).into_iter().collect();
    let steps = usize::try_from(step).unwrap_or(1);
    (from..to)
        .step_by(steps)
        .map(|minute| Point { at: UnixMillis(minute * 60_000), values: known.get(&minute).copied() })
        .collect()
}

/// How far back a chart looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Span {
    /// An hour, minute by minute.
    #[default]
    Hour,
    /// 24 hours, in steps of five minutes.
    Day,
    /// Seven days, in steps of half an hour.
    Week,
}

impl Span {
    /// All of them, the shortest first.
    pub const ALL: [Self; 3] = [Self::Hour, Self::Day, Self::Week];

    /// `hour`, `day`, `week`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
        }
    }

    /// Reads [`Span::as_str`].
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|span| span.as_str() == name)
    }

    /// Minutes of a step.
    pub const fn step(self) -> i64 {
        match self {
            Self::Hour => 1,
            Self::Day => 5,
            Self::Week => 30,
        }
    }

    const fn minutes(self) -> i64 {
        match self {
            Self::Hour => 60,
            Self::Day => 24 * 60,
            Self::Week => 7 * 24 * 60,
        }
    }

    /// Whether its steps are made of minutes as they came.
    pub(super) const fn reads_minutes(self) -> bool {
        !matches!(self, Self::Week)
    }

    /// First minute and the one after the last; the step that is under way is the last.
    pub(super) const fn bounds(self, now: UnixMillis) -> (i64, i64) {
        let step = self.step();
        let to = (now.0.div_euclid(60_000).div_euclid(step) + 1) * step;
        (to - self.minutes(), to)
    }
}

/// What a server received and sent in a month.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Received, bytes.
    pub bytes_in: u64,
    /// Sent, bytes.
    pub bytes_out: u64,
    /// When it was last told.
    pub updated_at: Option<UnixMillis>,
}

impl Traffic {
    /// Both directions: what counts against the plan.
    pub const fn counted(&self) -> u64 {
        self.bytes_in.saturating_add(self.bytes_out)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values() -> impl Strategy<Value = Values> {
        any::<[u64; 6]>().prop_map(Values::of)
    }

    fn cpu(cpu_permille: u64) -> Values {
        Values { cpu_permille, ..Values::default() }
    }

    proptest! {
        #[test]
        fn rows_survive_packing(slots in proptest::collection::btree_map(any::<u16>(), values(), 0..70)) {
            let block = Block(slots);
            prop_assert_eq!(Block::unpack(&block.pack()), Some(block));
        }

        #[test]
        fn any_bytes_are_a_row_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(block) = Block::unpack(&bytes) {
                prop_assert_eq!(Block::unpack(&block.pack()), Some(block));
            }
        }

        #[test]
        fn a_mean_lies_between_the_least_and_the_most(all in proptest::collection::vec(values(), 1..20)) {
            let mean = Values::mean(&all).unwrap().numbers();
            for (at, mean) in mean.into_iter().enumerate() {
                let one = || all.iter().map(|values| values.numbers()[at]);
                prop_assert!(one().min() <= Some(mean) && one().max() >= Some(mean));
            }
        }

        #[test]
        fn steps_cover_a_span_without_holes_and_end_with_now(ms in 0_i64..4_000_000_000_000) {
            for span in Span::ALL {
                let (from, to) = span.bounds(UnixMillis(ms));
                let points = stepped(&[], from, to, span.step());
                prop_assert_eq!(i64::try_from(points.len()).unwrap() * span.step(), to - from);
                let last = points.last().unwrap().at.0;
                prop_assert!(last <= ms && ms < last + span.step() * 60_000);
            }
        }
    }

    #[test]
    fn a_filled_slot_stays_as_it_is() {
        let mut block = Block::default();
        assert!(block.fill(7, cpu(1)) && !block.fill(7, cpu(2)));
        assert_eq!(block.slots().collect::<Vec<_>>(), [(7, cpu(1))]);
        assert!(block.set(7, cpu(2)) && !block.set(7, cpu(2)));
    }

    #[test]
    fn gaps_stay_gaps_and_steps_are_means() {
        let slots = [(100, cpu(10)), (101, cpu(30)), (110, cpu(5)), (500, cpu(9))];
        let points = stepped(&slots, 100, 115, 5);
        let seen: Vec<_> = points.iter().map(|p| p.values.map(|v| v.cpu_permille)).collect();
        assert_eq!(seen, [Some(20), None, Some(5)]);
        assert_eq!(points[0].at, UnixMillis(100 * 60_000));
    }

    #[test]
    fn an_hour_of_a_busy_server_takes_less_than_two_kilobytes() {
        let busy = Values::of([1_000, 64 << 20, 1 << 30, 1 << 30, 1 << 32, 1 << 32]);
        let mut block = Block::default();
        (0..60).for_each(|slot| {
            block.fill(slot, busy);
        });
        assert!(block.pack().len() < 2_000, "{}", block.pack().len());
    }
}
