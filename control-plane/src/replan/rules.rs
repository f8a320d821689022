//! Whether a server's plan can become another one, and when. Pure.

use crate::{billing::Way, fleet::Held};

/// A plan with its price.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offer {
    /// Our price id.
    pub(super) price: String,
    /// Months of its period.
    pub(super) months: i64,
    /// Lower-case ISO code.
    pub(super) currency: String,
    /// What a period costs, minor units.
    pub(super) amount_minor: i64,
    /// What it takes from a node.
    pub(super) size: Held,
}

/// Why a plan cannot become another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is that one.
    #[error("the server has this plan and interval already")]
    Same,
    /// A subscription keeps its currency.
    #[error("a subscription keeps its currency")]
    Currency,
    /// Disks only grow.
    #[error(
        "the server's disk has {has} GiB, and a disk cannot be made smaller ({wanted} GiB): order a smaller server, move what \
         you need there, and delete this one"
    )]
    DiskShrinks {
        /// What the server has, GiB.
        has: u32,
        /// What the plan has, GiB.
        wanted: u32,
    },
    /// What begins with the next period cannot grow: nobody has paid for the room until then.
    #[error(
        "a change to a shorter interval comes with the end of the paid period and cannot give more than now: change the plan \
         first, then the interval"
    )]
    GrowsLater,
}

/// When a change comes about: to a longer interval, or a plan that costs no less, now; else with the end of what is paid.
/// A cheaper plan that gives more of something comes now as well.
///
/// # Errors
/// [`Refusal`].
pub(super) fn way(now: &Offer, wanted: &Offer) -> Result<Way, Refusal> {
    if now.price == wanted.price {
        return Err(Refusal::Same);
    }
    if now.currency != wanted.currency {
        return Err(Refusal::Currency);
    }
    if wanted.size.disk_gib < now.size.disk_gib {
        return Err(Refusal::DiskShrinks { has: now.size.disk_gib, wanted: wanted.size.disk_gib });
    }
    let grows = wanted.size.exceeds(now.size);
    match wanted.months.cmp(&now.months) {
        std::cmp::Ordering::Greater => Ok(Way::Now),
        std::cmp::Ordering::Less if grows => Err(Refusal::GrowsLater),
        std::cmp::Ordering::Less => Ok(Way::PeriodEnd),
        std::cmp::Ordering::Equal if grows || wanted.amount_minor >= now.amount_minor => Ok(Way::Now),
        std::cmp::Ordering::Equal => Ok(Way::PeriodEnd),
    }
}

/// Whether a running server takes less of something: it is restarted for that.
pub(super) fn restarts(now: Held, wanted: Held) -> bool {
    wanted.vcpu < now.vcpu || wanted.memory_mib < now.memory_mib
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn offer(price: &str, months: i64, amount_minor: i64, memory_mib: u32, disk_gib: u32) -> Offer {
        let size = Held { vcpu: 1, memory_mib, disk_gib };
        Offer { price: price.into(), months, currency: "eur".into(), amount_minor, size }
    }

    #[test]
    fn more_comes_now_and_less_with_the_end_of_what_is_paid() {
        let small = offer("s:month", 1, 900, 2_048, 20);
        let large = offer("l:month", 1, 1_900, 4_096, 20);
        let yearly = offer("s:year", 12, 9_000, 2_048, 20);
        let quarterly = offer("s:quarter", 3, 2_500, 2_048, 20);
        assert_eq!(way(&small, &large), Ok(Way::Now));
        assert_eq!(way(&large, &small), Ok(Way::PeriodEnd));
        assert_eq!(way(&small, &yearly), Ok(Way::Now));
        assert_eq!(way(&yearly, &quarterly), Ok(Way::PeriodEnd));
        assert_eq!(way(&quarterly, &yearly), Ok(Way::Now));
        assert_eq!(way(&yearly, &large), Err(Refusal::GrowsLater));
        assert_eq!(way(&small, &small), Err(Refusal::Same));
        assert_eq!(way(&small, &Offer { currency: "usd".into(), ..large.clone() }), Err(Refusal::Currency));
    }

    #[test]
    fn a_disk_never_shrinks_whatever_it_costs() {
        let large = offer("l:month", 1, 1_900, 4_096, 40);
        for smaller in [offer("s:month", 1, 900, 2_048, 20), offer("x:year", 12, 99_000, 8_192, 39)] {
            let refused = Refusal::DiskShrinks { has: 40, wanted: smaller.size.disk_gib };
            assert_eq!(way(&large, &smaller), Err(refused));
        }
    }

    proptest! {
        /// Room is only ever kept for what is paid for now.
        #[test]
        fn what_waits_for_the_end_of_a_period_never_grows(
            now in (1..24_i64, 1..9_000_i64, 1..9_u32, 1..9_u32), wanted in (1..24_i64, 1..9_000_i64, 1..9_u32, 1..9_u32),
        ) {
            let of = |name: &str, (months, amount, memory, disk)| offer(name, months, amount, memory, disk);
            let (now, wanted) = (of("a", now), of("b", wanted));
            if way(&now, &wanted) == Ok(Way::PeriodEnd) {
                prop_assert!(!wanted.size.exceeds(now.size));
            }
        }
    }
}
