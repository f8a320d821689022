//! What the money says about a server, from facts and a time. Pure.
//!
//! Everything it looks at is in the local copy, and nothing of how the copy came about: whatever order the news
//! came in, the same copy at the same time gives the same answer.
//!
//! The clock of an unpaid invoice goes by what was read on the day of each step or later: an older copy does not know what
//! was paid since. Until then the step waits, and what is off or over already for an unpaid invoice stays so. What is off for
//! another cause stays off as well, and is no further by that: the clock takes none of its steps because of it.

use ez_protocol::UnixMillis;

use crate::{config, db::text_enum};

text_enum! {
    /// Whether a server is served.
    pub enum Stand {
        /// It may run.
        Run = "run",
        /// It is off until something changes; its disk and addresses stay.
        Suspend = "suspend",
        /// Its service is over.
        End = "end",
    }
}

text_enum! {
    /// Why.
    pub enum Why {
        /// It is paid.
        Paid = "paid",
        /// An invoice is unpaid, and not for long.
        Grace = "grace",
        /// An operator said so.
        Exempt = "exempt",
        /// An invoice is unpaid for too long.
        Unpaid = "unpaid",
        /// The subscription is paused.
        Paused = "paused",
        /// The customer's bank takes a payment back, and it is not decided.
        Disputed = "disputed",
        /// The bank has decided for the customer.
        DisputeLost = "dispute_lost",
        /// The payment of the running period went back.
        Refunded = "refunded",
        /// The subscription is over.
        Ended = "ended",
    }
}

text_enum! {
    /// What comes next.
    pub enum Step {
        /// The next charge.
        Charge = "charge",
        /// The subscription ends, as was asked for.
        End = "end",
        /// It is suspended.
        Suspend = "suspend",
        /// Its owner is told that it will be deleted.
        Notice = "notice",
        /// It is retired.
        Retire = "retire",
    }
}

/// Stripe's word for a subscription, as far as it decides something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::billing) enum Status {
    Active,
    PastDue,
    Unpaid,
    Paused,
    Incomplete,
    Expired,
    Canceled,
    /// A word we do not know: as past due inside grace, with an alarm.
    Unknown,
}

impl Status {
    pub(in crate::billing) fn of(word: &str) -> Self {
        match word {
            "active" | "trialing" => Self::Active,
            "past_due" => Self::PastDue,
            "unpaid" => Self::Unpaid,
            "paused" => Self::Paused,
            "incomplete" => Self::Incomplete,
            "incomplete_expired" => Self::Expired,
            "canceled" => Self::Canceled,
            _ => Self::Unknown,
        }
    }
}

/// The first invoice that was tried to collect, or is late where nobody tries, and is not paid. Of an active subscription a
/// renewal before its latest invoice: Stripe's word does not tell of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::billing) struct Unpaid {
    pub(in crate::billing) invoice: String,
    /// Day 0.
    pub(in crate::billing) since: UnixMillis,
}

/// Where the disputes of a server's payments stand, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::billing) enum Disputed {
    Lost(UnixMillis),
    Open(UnixMillis),
    No,
}

/// What is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::billing) struct Facts {
    pub(in crate::billing) status: Status,
    /// It was cancelled because nobody paid, not because somebody wanted so.
    pub(in crate::billing) ended_unpaid: bool,
    /// It was cancelled because a payment is disputed, which says nothing before the bank has decided.
    pub(in crate::billing) ended_by_dispute: bool,
    pub(in crate::billing) period_start: Option<UnixMillis>,
    pub(in crate::billing) period_end: Option<UnixMillis>,
    pub(in crate::billing) cancel_at: Option<UnixMillis>,
    pub(in crate::billing) unpaid: Option<Unpaid>,
    pub(in crate::billing) disputed: Disputed,
    /// The payment of the running period went back in full, and nothing else paid for it.
    pub(in crate::billing) refunded: bool,
    pub(in crate::billing) exempt: bool,
    /// We have ended it for good: no payment brings it back.
    pub(in crate::billing) closed: bool,
    /// When we saw that it had ended with its customer, whom somebody deleted at Stripe.
    pub(in crate::billing) orphaned: Option<UnixMillis>,
    /// The host has told Stripe not to collect for now: there is no next charge, and what is not collected is not owed.
    pub(in crate::billing) collection_paused: bool,
    /// When the notice about the unpaid invoice was written.
    pub(in crate::billing) notice_at: Option<UnixMillis>,
    /// When subscription and unpaid invoice were read: of the two readings the earlier.
    pub(in crate::billing) read_at: UnixMillis,
    /// How it stands so far.
    pub(in crate::billing) stands: Stand,
    /// And why.
    pub(in crate::billing) stands_why: Why,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::billing) struct Judgement {
    pub(in crate::billing) stand: Stand,
    pub(in crate::billing) why: Why,
    /// What comes next, and when.
    pub(in crate::billing) next: Option<(Step, UnixMillis)>,
    /// The notice is due: written now, it is retired no sooner than the time in `next`.
    pub(in crate::billing) notice: bool,
}

fn answer(stand: Stand, why: Why, next: Option<(Step, UnixMillis)>) -> Judgement {
    Judgement { stand, why, next, notice: false }
}

/// What holds at a time.
pub(in crate::billing) fn judge(facts: &Facts, settings: &config::Billing, now: UnixMillis) -> Judgement {
    let over = matches!(facts.status, Status::Canceled | Status::Expired);
    let wished = !facts.ended_unpaid && !facts.ended_by_dispute && facts.orphaned.is_none();
    if facts.closed || (over && wished) {
        return answer(Stand::End, Why::Ended, None);
    }
    if facts.exempt {
        // It is served whatever is owed, and charged and ended as any other. What Stripe has cancelled for a dispute earns
        // nothing any more: then what is paid for is all there is to serve.
        if facts.ended_by_dispute {
            return match (facts.disputed, served_until(facts, settings)) {
                (Disputed::Lost(_), _) => answer(Stand::End, Why::DisputeLost, None),
                (_, Some(end)) if end > now => answer(Stand::Run, Why::Exempt, Some((Step::End, end))),
                _ => answer(Stand::End, Why::Ended, None),
            };
        }
        let next = if facts.status == Status::Active { comes(facts) } else { None };
        return answer(Stand::Run, Why::Exempt, next);
    }
    match facts.disputed {
        Disputed::Lost(_) => return answer(Stand::End, Why::DisputeLost, None),
        Disputed::Open(_) => return answer(Stand::Suspend, Why::Disputed, None),
        Disputed::No => {}
    }
    if facts.refunded {
        return answer(Stand::End, Why::Refunded, None);
    }
    match (facts.status, &facts.unpaid) {
        (
            Status::Active | Status::PastDue | Status::Unpaid | Status::Canceled | Status::Unknown,
            Some(unpaid),
        ) => clock(facts, unpaid, settings, now),
        // Paid after all, when Stripe had given up or a bank has decided for us, or over without anybody's wish: what was
        // paid for is served, and no more.
        (Status::Canceled | Status::Expired, _) => match served_until(facts, settings) {
            Some(end) if end > now => answer(Stand::Run, Why::Paid, Some((Step::End, end))),
            _ => answer(Stand::End, Why::Ended, None),
        },
        (Status::Active, None) => answer(Stand::Run, Why::Paid, comes(facts)),
        (Status::Paused, _) => answer(Stand::Suspend, Why::Paused, None),
        (Status::Unpaid | Status::Incomplete, None) | (Status::Incomplete, Some(_)) => {
            answer(Stand::Suspend, Why::Unpaid, None)
        }
        // Something is owed, and it is not seen what: never a reason to switch anything off.
        (Status::PastDue | Status::Unknown, None) => answer(Stand::Run, Why::Grace, None),
    }
}

/// What comes next of a subscription that runs: its end, if that was asked for, or its next charge.
fn comes(facts: &Facts) -> Option<(Step, UnixMillis)> {
    let end = facts.cancel_at.map(|at| (Step::End, at));
    let charge = facts.period_end.filter(|_| !facts.collection_paused).map(|at| (Step::Charge, at));
    end.or(charge)
}

/// Until when a server is served whose subscription is over: to the end of what is paid, and never without its notice if
/// nobody wished it to end.
fn served_until(facts: &Facts, settings: &config::Billing) -> Option<UnixMillis> {
    let told = facts.orphaned.map(|at| at.plus(settings.notice));
    facts.period_end.max(told)
}

/// The clock of an unpaid invoice.
fn clock(facts: &Facts, unpaid: &Unpaid, settings: &config::Billing, now: UnixMillis) -> Judgement {
    let grace = if facts.status == Status::Unpaid { std::time::Duration::ZERO } else { settings.grace };
    let suspend = unpaid.since.plus(grace);
    // A step is due on its day, by a reading of that day or later.
    let is_due = |step: UnixMillis| now >= step && facts.read_at >= step;
    let next = Some((Step::Suspend, suspend));
    if now < suspend {
        return answer(Stand::Run, Why::Grace, next);
    }
    if !is_due(suspend) {
        match (facts.stands, facts.stands_why) {
            (Stand::Run, _) => return answer(Stand::Run, Why::Grace, next),
            (_, Why::Unpaid) => {}
            // Another cause has switched it off, or ended it, and is gone. It says nothing about the invoice: that is read first.
            (_, why) => return answer(Stand::Suspend, why, next),
        }
    }
    let retire = unpaid.since.plus(settings.retire_after);
    let Some(told) = facts.notice_at else {
        let notice = suspend.max(retire.minus(settings.notice));
        if !is_due(notice) {
            return answer(Stand::Suspend, Why::Unpaid, Some((Step::Notice, notice)));
        }
        // Late, after we were down for long: the owner has the whole notice all the same.
        let retire = retire.max(now.plus(settings.notice));
        let judgement = answer(Stand::Suspend, Why::Unpaid, Some((Step::Retire, retire)));
        return Judgement { notice: true, ..judgement };
    };
    let retire = retire.max(told.plus(settings.notice));
    let ended = facts.stands == Stand::End && facts.stands_why == Why::Unpaid;
    if now < retire || (!is_due(retire) && !ended) {
        return answer(Stand::Suspend, Why::Unpaid, Some((Step::Retire, retire)));
    }
    answer(Stand::End, Why::Unpaid, None)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    const T0: UnixMillis = UnixMillis(1_800_000_000_000);

    fn settings() -> config::Billing {
        config::Config::for_tests().unwrap().billing
    }

    fn paid() -> Facts {
        Facts {
            status: Status::Active,
            ended_unpaid: false,
            ended_by_dispute: false,
            period_start: Some(T0),
            period_end: Some(T0.plus(30 * DAY)),
            cancel_at: None,
            unpaid: None,
            disputed: Disputed::No,
            refunded: false,
            exempt: false,
            closed: false,
            orphaned: None,
            collection_paused: false,
            notice_at: None,
            // Just now, whenever that is.
            read_at: UnixMillis(i64::MAX),
            stands: Stand::Run,
            stands_why: Why::Paid,
        }
    }

    fn owing(status: Status) -> Facts {
        Facts { status, unpaid: Some(Unpaid { invoice: "in_1".into(), since: T0 }), ..paid() }
    }

    /// What holds on each day of an unpaid server whose owner is told when it is due.
    fn life(mut facts: Facts, days: u32) -> Vec<(Stand, Why)> {
        (0..days)
            .map(|day| {
                let now = T0.plus(day * DAY);
                let judged = judge(&facts, &settings(), now);
                if judged.notice {
                    facts.notice_at = Some(now);
                }
                (judged.stand, judged.why)
            })
            .collect()
    }

    #[test]
    fn an_unpaid_server_runs_three_days_is_off_until_day_16_and_then_ends() {
        let days = life(owing(Status::PastDue), 18);
        assert!(days[..3].iter().all(|day| *day == (Stand::Run, Why::Grace)));
        assert!(days[3..16].iter().all(|day| *day == (Stand::Suspend, Why::Unpaid)));
        assert_eq!(days[16..], [(Stand::End, Why::Unpaid); 2]);
        // Stripe gave up trying, or does not try at all: our clock goes on.
        assert_eq!(life(Facts { ended_unpaid: true, ..owing(Status::Canceled) }, 18), days);
        assert_eq!(life(owing(Status::Unpaid), 18)[0], (Stand::Suspend, Why::Unpaid), "no grace");
        // Stripe looks at the latest invoice alone; what was not paid before it is owed all the same.
        assert_eq!(life(owing(Status::Active), 18), days);
    }

    #[test]
    fn nobody_is_retired_without_having_been_told_two_days_before() {
        let late = T0.plus(40 * DAY);
        let judged = judge(&owing(Status::PastDue), &settings(), late);
        assert_eq!(judged.stand, Stand::Suspend);
        assert!(judged.notice);
        assert_eq!(judged.next, Some((Step::Retire, late.plus(2 * DAY))));
        let told = Facts { notice_at: Some(late), ..owing(Status::PastDue) };
        assert_eq!(judge(&told, &settings(), late.plus(DAY)).stand, Stand::Suspend);
        assert_eq!(judge(&told, &settings(), late.plus(2 * DAY)).stand, Stand::End);
    }

    #[test]
    fn no_step_is_taken_by_a_reading_from_before_its_day() {
        let read_on = |day: u32, facts: Facts| Facts { read_at: T0.plus(day * DAY), ..facts };
        let at = |facts: &Facts, day: u32| judge(facts, &settings(), T0.plus(day * DAY));
        // It waits, and says since when.
        let due = Some((Step::Suspend, T0.plus(3 * DAY)));
        for day in [3, 16, 40] {
            let waits = at(&read_on(2, owing(Status::PastDue)), day);
            assert_eq!(waits, answer(Stand::Run, Why::Grace, due), "day {day}");
        }
        assert_eq!(at(&read_on(3, owing(Status::PastDue)), 3).stand, Stand::Suspend);
        let off = Facts { stands: Stand::Suspend, stands_why: Why::Unpaid, ..owing(Status::PastDue) };
        assert!(!at(&read_on(13, off.clone()), 15).notice && at(&read_on(14, off.clone()), 15).notice);
        let told = Facts { notice_at: Some(T0.plus(14 * DAY)), ..off };
        let late = at(&read_on(15, told.clone()), 20);
        assert_eq!(late, answer(Stand::Suspend, Why::Unpaid, Some((Step::Retire, T0.plus(16 * DAY)))));
        assert_eq!(at(&read_on(16, told.clone()), 20).stand, Stand::End);
        // Another invoice that was read long ago brings nothing back.
        assert_eq!(at(&read_on(0, told.clone()), 20).stand, Stand::Suspend);
        assert_eq!(at(&read_on(0, Facts { stands: Stand::End, ..told }), 20).stand, Stand::End);
    }

    #[test]
    fn what_another_cause_has_switched_off_takes_no_step_of_the_clock_by_a_reading_from_before_its_day() {
        let at = |read: u32, day: u32, facts: &Facts| {
            judge(&Facts { read_at: T0.plus(read * DAY), ..facts.clone() }, &settings(), T0.plus(day * DAY))
        };
        let due = Some((Step::Suspend, T0.plus(3 * DAY)));
        for (stands, why) in [
            (Stand::Suspend, Why::Disputed),
            (Stand::Suspend, Why::Paused),
            (Stand::End, Why::DisputeLost),
            (Stand::End, Why::Refunded),
        ] {
            let off = Facts { stands, stands_why: why, ..owing(Status::PastDue) };
            let told = Facts { notice_at: Some(T0.plus(14 * DAY)), ..off.clone() };
            for facts in [&off, &told] {
                let waits = answer(Stand::Suspend, why, due);
                assert_eq!(at(2, 20, facts), waits, "off already, and read again now");
                // What it says stays the same for as long as nothing is read.
                assert_eq!(at(2, 20, &Facts { stands: Stand::Suspend, ..facts.clone() }), waits);
                assert_eq!(at(2, 2, facts).stand, Stand::Run, "nothing was due yet");
            }
            // The service is over for an unpaid invoice alone.
            assert_eq!(at(15, 20, &told).next, Some((Step::Retire, T0.plus(16 * DAY))));
            assert_eq!(at(15, 20, &told).stand, Stand::Suspend);
            assert_eq!(at(16, 20, &told).stand, Stand::End);
        }
    }

    #[test]
    fn each_status_has_its_answer() {
        let at = |status| {
            let judged = judge(&Facts { status, ..paid() }, &settings(), T0.plus(DAY));
            (judged.stand, judged.why)
        };
        assert_eq!(at(Status::of("trialing")), (Stand::Run, Why::Paid));
        assert_eq!(at(Status::of("past_due")), (Stand::Run, Why::Grace), "nothing seen that is owed");
        assert_eq!(at(Status::of("unpaid")), (Stand::Suspend, Why::Unpaid));
        assert_eq!(at(Status::of("paused")), (Stand::Suspend, Why::Paused));
        assert_eq!(at(Status::of("incomplete")), (Stand::Suspend, Why::Unpaid));
        assert_eq!(at(Status::of("incomplete_expired")), (Stand::End, Why::Ended));
        assert_eq!(at(Status::of("canceled")), (Stand::End, Why::Ended));
        assert_eq!(at(Status::of("dormant")), (Stand::Run, Why::Grace));
    }

    #[test]
    fn a_dispute_switches_off_at_once_and_its_end_decides() {
        let disputed = |disputed| judge(&Facts { disputed, ..paid() }, &settings(), T0).stand;
        assert_eq!(disputed(Disputed::Open(T0)), Stand::Suspend);
        assert_eq!(disputed(Disputed::No), Stand::Run);
        assert_eq!(disputed(Disputed::Lost(T0)), Stand::End);
    }

    #[test]
    fn what_stripe_cancels_for_a_dispute_is_off_until_the_bank_has_decided() {
        let ended = |disputed| Facts { status: Status::Canceled, ended_by_dispute: true, disputed, ..paid() };
        let at = |facts: &Facts, day: u32| judge(facts, &settings(), T0.plus(day * DAY));
        for day in [0, 29, 90] {
            let open = at(&ended(Disputed::Open(T0)), day);
            assert_eq!(open, answer(Stand::Suspend, Why::Disputed, None), "day {day}");
            let lost = at(&ended(Disputed::Lost(T0)), day);
            assert_eq!(lost, answer(Stand::End, Why::DisputeLost, None), "day {day}");
        }
        // Won, or not heard of yet: what was paid for.
        let end = T0.plus(30 * DAY);
        assert_eq!(at(&ended(Disputed::No), 29), answer(Stand::Run, Why::Paid, Some((Step::End, end))));
        assert_eq!(at(&ended(Disputed::No), 30), answer(Stand::End, Why::Ended, None));
        let closed = Facts { closed: true, ..ended(Disputed::Open(T0)) };
        assert_eq!(at(&closed, 0).stand, Stand::End, "we have ended it");
        // Exempt, it runs meanwhile, and is not served for nothing for ever.
        let exempt = |disputed| Facts { exempt: true, ..ended(disputed) };
        let runs = answer(Stand::Run, Why::Exempt, Some((Step::End, end)));
        assert_eq!(at(&exempt(Disputed::Open(T0)), 29), runs);
        assert_eq!(at(&exempt(Disputed::No), 30).stand, Stand::End);
        assert_eq!(at(&exempt(Disputed::Lost(T0)), 1), answer(Stand::End, Why::DisputeLost, None));
        let wished = Facts { ended_by_dispute: false, ..ended(Disputed::Open(T0)) };
        assert_eq!(at(&wished, 0).stand, Stand::End, "somebody wished it");
    }

    #[test]
    fn nobody_expects_a_charge_while_collection_is_paused() {
        let paused = Facts { collection_paused: true, ..paid() };
        assert_eq!(judge(&paused, &settings(), T0), answer(Stand::Run, Why::Paid, None));
        let ending = Facts { cancel_at: paused.period_end, ..paused.clone() };
        assert_eq!(judge(&ending, &settings(), T0).next, Some((Step::End, T0.plus(30 * DAY))));
        // What was owed before is owed still.
        let owing = Facts { unpaid: owing(Status::PastDue).unpaid, status: Status::PastDue, ..paused };
        assert_eq!(judge(&owing, &settings(), T0.plus(4 * DAY)).stand, Stand::Suspend);
    }

    #[test]
    fn what_ended_with_a_deleted_customer_is_served_as_long_as_it_is_paid_and_never_ends_without_notice() {
        let gone = |at| Facts { status: Status::Canceled, orphaned: Some(at), ..paid() };
        let end = T0.plus(30 * DAY);
        let early = gone(T0.plus(DAY));
        assert_eq!(
            judge(&early, &settings(), T0.plus(2 * DAY)),
            answer(Stand::Run, Why::Paid, Some((Step::End, end)))
        );
        assert_eq!(judge(&early, &settings(), end).stand, Stand::End);
        let late = gone(end.minus(DAY));
        assert_eq!(judge(&late, &settings(), end).next, Some((Step::End, end.plus(DAY))), "two days' notice");
        assert_eq!(judge(&late, &settings(), end.plus(DAY)).stand, Stand::End);
        let exempt = Facts { exempt: true, ..late.clone() };
        assert_eq!(judge(&exempt, &settings(), end.plus(9 * DAY)).stand, Stand::Run);
        assert_eq!(
            judge(&Facts { closed: true, ..late }, &settings(), T0).stand,
            Stand::End,
            "somebody wished it"
        );
    }

    #[test]
    fn what_is_exempt_is_charged_and_ends_as_any_other() {
        let end = T0.plus(30 * DAY);
        let exempt = Facts { exempt: true, ..paid() };
        let next = |facts: &Facts| judge(facts, &settings(), T0).next;
        assert_eq!(
            judge(&exempt, &settings(), T0),
            answer(Stand::Run, Why::Exempt, Some((Step::Charge, end)))
        );
        assert_eq!(next(&Facts { cancel_at: Some(end), ..exempt.clone() }), Some((Step::End, end)));
        assert_eq!(next(&Facts { collection_paused: true, ..exempt }), None, "nobody charges it");
        assert_eq!(next(&Facts { exempt: true, ..owing(Status::PastDue) }), None, "nothing switches it off");
    }

    proptest! {
        /// Nothing but money, a bank or a wish switches a server off, and a payment brings it back on any day.
        #[test]
        fn what_is_paid_runs_and_what_is_exempt_is_never_suspended(day in 0_u32..60, exempt: bool, open in 0..3_u8) {
            let now = T0.plus(day * DAY);
            let disputed = [Disputed::No, Disputed::Open(T0), Disputed::Lost(T0)][usize::from(open)];
            let owing = Facts { disputed, exempt, ..owing(Status::PastDue) };
            if exempt {
                prop_assert_eq!(judge(&owing, &settings(), now).stand, Stand::Run);
            }
            let paid = Facts { status: Status::Active, unpaid: None, disputed: Disputed::No, ..owing };
            prop_assert_eq!(judge(&paid, &settings(), now).stand, Stand::Run);
        }

        /// However old the reading: nothing gets worse by it than it would be at the moment of the reading, nor than it is.
        #[test]
        fn time_alone_takes_no_step(
            read in 0_u32..60,
            later in 0_u32..60,
            notice in proptest::option::of(0_u32..60),
            stands in prop_oneof![Just(Stand::Run), Just(Stand::Suspend), Just(Stand::End)],
            stands_why in prop_oneof![Just(Why::Unpaid), Just(Why::Disputed), Just(Why::Refunded)],
        ) {
            let at = T0.plus(read * DAY);
            let notice_at = notice.map(|day| T0.plus(day * DAY));
            let facts = Facts { notice_at, read_at: at, stands, stands_why, ..owing(Status::PastDue) };
            let (then, now) = (judge(&facts, &settings(), at), judge(&facts, &settings(), at.plus(later * DAY)));
            prop_assert!(now.stand <= then.stand.max(stands), "{now:?} after {then:?}");
        }

        /// Time only makes it worse: from running to off to ended, never back.
        #[test]
        fn the_clock_goes_one_way(days in prop::collection::vec(0_u32..60, 1..20), notice in 0_u32..60) {
            let mut days = days;
            days.sort_unstable();
            let facts = Facts { notice_at: Some(T0.plus(notice * DAY)), ..owing(Status::PastDue) };
            let stands: Vec<Stand> =
                days.iter().map(|day| judge(&facts, &settings(), T0.plus(*day * DAY)).stand).collect();
            prop_assert!(stands.windows(2).all(|pair| pair[0] <= pair[1]), "{stands:?}");
        }
    }
}
