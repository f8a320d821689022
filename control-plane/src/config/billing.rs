//! `BILLING_…`: what happens, and when, to a server that is not paid.

use std::time::Duration;

use super::read::Reader;

const HOUR: u64 = 60 * 60;
const DAY: u64 = 24 * HOUR;

/// The clock of unpaid servers. Day 0 is the day the first unpaid invoice fell due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Billing {
    /// So long before a charge the customer gets a mail, longest first; may be none.
    pub remind: Vec<Duration>,
    /// An unpaid server runs on for so long, then it is suspended.
    pub grace: Duration,
    /// A server that is unpaid for so long is retired: its service ends, its disk stays for the retention.
    pub retire_after: Duration,
    /// The customer is told at least so long before it is retired.
    pub notice: Duration,
    /// The bytes of Stripe's events are kept for so long.
    pub keep_events: Duration,
}

impl Billing {
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let days = "a whole number of days";
        let grace: Option<u16> = reader.parsed("BILLING_GRACE_DAYS", "3", days);
        let retire: Option<u16> = reader.parsed("BILLING_RETIRE_DAY", "16", days);
        let notice: Option<u16> = reader.parsed("BILLING_NOTICE_HOURS", "48", "a whole number of hours");
        let events: Option<u16> = reader.parsed("BILLING_KEEP_EVENTS_DAYS", "90", days);
        let remind = reader.optional("BILLING_REMIND_DAYS").unwrap_or("7,3");
        let remind: Result<Vec<u16>, _> =
            remind.split(',').map(str::trim).filter(|day| !day.is_empty()).map(str::parse).collect();
        if remind.is_err() {
            reader.problem("BILLING_REMIND_DAYS", "is not a list of whole days, such as 7,3");
        }
        let (grace, retire, notice, events) = (grace?, retire?, notice?, events?);
        let of = |unit: u64, n: u16| Duration::from_secs(unit * u64::from(n));
        let mut remind: Vec<Duration> = remind.ok()?.into_iter().map(|n| of(DAY, n)).collect();
        remind.sort_unstable();
        remind.dedup();
        remind.reverse();
        let billing = Self {
            remind,
            grace: of(DAY, grace),
            retire_after: of(DAY, retire),
            notice: of(HOUR, notice),
            keep_events: of(DAY, events),
        };
        if billing.retire_after < billing.grace + billing.notice {
            reader.problem(
                "BILLING_RETIRE_DAY",
                "leaves no room for BILLING_GRACE_DAYS and BILLING_NOTICE_HOURS before it",
            );
        }
        if events < 30 {
            reader.problem("BILLING_KEEP_EVENTS_DAYS", "must be at least 30: so long Stripe lists events");
        }
        Some(billing)
    }
}
