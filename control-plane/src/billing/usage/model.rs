//! From bytes to money. Pure.

use std::time::Duration;

use ez_protocol::{AccountId, InstanceId, Month, OrderId, UnixMillis};
use time::{Date, OffsetDateTime, Time};

use crate::{catalog::TRAFFIC_UNIT_GIB, db::text_enum, metrics};

/// A month is closed so long after its end: so long an agent keeps what it could not tell.
pub(super) const SETTLES: Duration = metrics::KEPT;

text_enum! {
    /// How the bill of a month stands.
    pub enum BillState {
        /// Nothing is charged.
        Free = "free",
        /// It is to be told to Stripe.
        Wanted = "wanted",
        /// Stripe has it and puts it on the next invoice.
        Posted = "posted",
        /// It is on an invoice.
        Invoiced = "invoiced",
        /// It will not be charged: the service had ended.
        Waived = "waived",
    }
}

impl BillState {
    /// Whether a bill may go from here to there. An invoice may be quicker than the answer that tells of the item.
    pub(super) fn may_become(self, next: Self) -> bool {
        matches!(
            (self, next),
            (Self::Wanted, Self::Posted | Self::Invoiced | Self::Waived)
                | (Self::Posted, Self::Invoiced | Self::Waived)
        )
    }
}

/// What was agreed about a server's traffic, from a time on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrafficTerms {
    /// The server.
    pub instance: InstanceId,
    /// Its purchase.
    pub order: OrderId,
    /// Who pays.
    pub account: AccountId,
    /// Traffic a month; 0 if nothing was said.
    pub included_gib: u64,
    /// For each started 100 GiB above, minor units; none if it is not charged.
    pub unit_minor: Option<i64>,
    /// Lower-case ISO code.
    pub currency: String,
}

/// What holds for a whole month.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deal {
    /// Traffic that is included.
    pub included_gib: u64,
    /// For each started 100 GiB above, minor units; none if it is not charged.
    pub unit_minor: Option<i64>,
    /// Lower-case ISO code.
    pub currency: String,
}

/// What is above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Over {
    /// Bytes above what is included.
    pub bytes: u64,
    /// Started 100 GiB.
    pub units: i64,
    /// What they cost, minor units.
    pub amount_minor: i64,
}

const GIB: u64 = 1 << 30;

impl Deal {
    /// What is included, bytes; none if nothing was said.
    pub fn included(&self) -> Option<u64> {
        (self.included_gib > 0).then(|| self.included_gib.saturating_mul(GIB))
    }

    /// What so many bytes are above it, and cost. Never more than fits an invoice.
    pub fn over(&self, counted: u64) -> Over {
        let bytes = self.included().map_or(0, |included| counted.saturating_sub(included));
        let units = i64::try_from(bytes.div_ceil(TRAFFIC_UNIT_GIB * GIB)).unwrap_or(i64::MAX);
        Over {
            bytes,
            units,
            amount_minor: units.saturating_mul(self.unit_minor.unwrap_or(0)).min(99_999_999),
        }
    }
}

/// What holds for a month, out of everything that was agreed, oldest first. Where a plan was changed in the month, each
/// part is the better one for the customer; nothing is charged if at one time nothing was.
pub(super) fn deal(terms: &[(UnixMillis, TrafficTerms)], month: Month) -> Option<Deal> {
    let (begin, end) = (begins(month), begins(after(month)));
    let ends = terms.iter().skip(1).map(|(since, _)| *since).chain([UnixMillis(i64::MAX)]);
    let held: Vec<&TrafficTerms> = terms
        .iter()
        .zip(ends)
        .filter(|((since, _), until)| *since < end && *until > begin)
        .map(|((_, terms), _)| terms)
        .collect();
    let last = held.last()?;
    let priced = held.iter().all(|terms| terms.unit_minor.is_some() && terms.included_gib > 0);
    Some(Deal {
        included_gib: held.iter().map(|terms| terms.included_gib).max().unwrap_or(0),
        unit_minor: held.iter().filter_map(|terms| terms.unit_minor).min().filter(|_| priced),
        currency: last.currency.clone(),
    })
}

/// The month after.
pub(super) fn after(month: Month) -> Month {
    let number = month.number();
    let next = if number % 100 == 12 { number + 89 } else { number + 1 };
    Month::from_number(next).unwrap_or(month)
}

/// The first moment of a month.
pub(in crate::billing) fn begins(month: Month) -> UnixMillis {
    let number = month.number();
    let first = i32::try_from(number / 100)
        .ok()
        .zip(u8::try_from(number % 100).ok().and_then(|n| time::Month::try_from(n).ok()))
        .and_then(|(year, month)| Date::from_calendar_date(year, month, 1).ok());
    let first = first.map(|date| OffsetDateTime::new_utc(date, Time::MIDNIGHT).unix_timestamp());
    UnixMillis::from_secs(first.unwrap_or(0))
}

/// The first moment after a month.
pub(in crate::billing) fn month_ends(month: Month) -> UnixMillis {
    begins(after(month))
}

/// When a month is closed: from then on its bill is fixed.
pub fn traffic_closes(month: Month) -> UnixMillis {
    begins(after(month)).plus(SETTLES)
}

/// The newest month that is closed.
pub(super) fn last_closed(now: UnixMillis) -> Month {
    Month::of(now.minus(SETTLES)).before()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn terms(included_gib: u64, unit_minor: Option<i64>) -> TrafficTerms {
        TrafficTerms {
            instance: InstanceId::generate(UnixMillis(1), [1; 10]),
            order: OrderId::generate(UnixMillis(1), [1; 10]),
            account: AccountId::generate(UnixMillis(1), [1; 10]),
            included_gib,
            unit_minor,
            currency: "eur".into(),
        }
    }

    fn month(number: u32) -> Month {
        Month::from_number(number).unwrap()
    }

    #[test]
    fn each_started_hundred_gib_counts() {
        let deal = Deal { included_gib: 1_000, unit_minor: Some(12), currency: "eur".into() };
        let cost = |counted| {
            let over = deal.over(counted);
            (over.units, over.amount_minor)
        };
        assert_eq!(cost(0), (0, 0));
        assert_eq!(cost(1_000 * GIB), (0, 0));
        assert_eq!(cost(1_000 * GIB + 1), (1, 12));
        assert_eq!(cost(1_100 * GIB), (1, 12));
        assert_eq!(cost(1_100 * GIB + 1), (2, 24));
        assert!(cost(u64::MAX).1 < 100_000_000, "an invoice takes it");
        let free = Deal { unit_minor: None, ..deal };
        assert_eq!(free.over(u64::MAX).amount_minor, 0);
        assert_eq!(Deal { included_gib: 0, ..free }.over(u64::MAX).units, 0);
    }

    #[test]
    fn a_change_within_the_month_is_to_the_customers_good() {
        let nov = begins(month(202_611));
        let day = |n: u64| nov.plus(Duration::from_secs(n * 86_400));
        let all = [
            (day(0), terms(1_000, Some(12))),
            (day(10), terms(2_000, Some(15))),
            (day(40), terms(500, None)),
        ];
        let of = |number| deal(&all, month(number)).map(|deal| (deal.included_gib, deal.unit_minor));
        assert_eq!(of(202_610), None, "before the sale");
        assert_eq!(of(202_611), Some((2_000, Some(12))));
        assert_eq!(of(202_612), Some((2_000, None)), "not charged any more from the tenth of December");
        assert_eq!(of(202_701), Some((500, None)));
    }

    #[test]
    fn months_close_two_days_after_their_end() {
        assert_eq!(begins(month(202_612)).as_secs(), 1_796_083_200);
        assert_eq!(after(month(202_612)), month(202_701));
        let close = traffic_closes(month(202_611));
        assert_eq!(close, begins(month(202_612)).plus(Duration::from_secs(48 * 3_600)));
        assert_eq!(last_closed(close), month(202_611));
        assert_eq!(last_closed(UnixMillis(close.0 - 1)), month(202_610));
    }

    proptest! {
        #[test]
        fn more_traffic_never_costs_less(a in any::<u64>(), b in any::<u64>(), gib in 0_u64..100_000, unit in 1_i64..10_000) {
            let deal = Deal { included_gib: gib, unit_minor: Some(unit), currency: "eur".into() };
            let (less, more) = (a.min(b), a.max(b));
            prop_assert!(deal.over(less).amount_minor <= deal.over(more).amount_minor);
        }

        #[test]
        fn a_month_begins_with_its_first_moment(ms in 0_i64..4_000_000_000_000) {
            let this = Month::of(UnixMillis(ms));
            prop_assert!(begins(this).0 <= ms && ms < begins(after(this)).0);
            prop_assert_eq!(after(this).before(), this);
        }
    }
}
