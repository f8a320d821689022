//! `ORDERS_…`: what is held for orders that nobody has paid yet.

use super::read::Reader;

/// How much of a location accounts that never paid may hold together. See `docs/decisions/0014-what-newcomers-hold.md`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orders {
    /// So many unpaid orders of theirs hold a place at a time, however little room there is.
    pub newcomers_hold: u64,
    /// More of them may, up to this part of the room that there would be without them, percent.
    pub newcomers_hold_percent: u64,
}

impl Orders {
    /// How many may hold a place in a location that has room for so many servers without them.
    pub fn newcomers_may_hold(&self, room: u64) -> u64 {
        self.newcomers_hold.max(room.saturating_mul(self.newcomers_hold_percent) / 100)
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let hold: Option<u16> = reader.parsed("ORDERS_NEWCOMERS_HOLD", "10", "a whole number of orders");
        let percent: Option<u16> =
            reader.parsed("ORDERS_NEWCOMERS_HOLD_PERCENT", "20", "a whole number of percent");
        let (hold, percent) = (hold?, percent?);
        if hold == 0 {
            reader.problem("ORDERS_NEWCOMERS_HOLD", "must be at least 1: nobody could begin");
        }
        if percent > 100 {
            reader.problem("ORDERS_NEWCOMERS_HOLD_PERCENT", "must be at most 100");
        }
        Some(Self { newcomers_hold: u64::from(hold), newcomers_hold_percent: u64::from(percent) })
    }
}
