//! What is shown is the sum of what is there, however it became known.

use proptest::prelude::*;
use serde_json::json;

use super::{
    model::{Charge, Failed, Life, Read, Step, history, monthly, months, read, steps},
    *,
};
use crate::billing::usage;

const DAY: i64 = 86_400_000;
/// 23 November 2026.
const NOW: UnixMillis = UnixMillis(1_795_466_970_000);

fn step(monthly_minor: i64, life: Life) -> Step {
    Step { currency: "eur".into(), monthly_minor, life }
}

fn charge(subscription: &str, account: &str, since: i64, step: Step) -> Charge {
    Charge { subscription: subscription.into(), account: account.into(), since: UnixMillis(since), step }
}

#[test]
fn what_is_charged_for_longer_is_shared_out() {
    assert_eq!(monthly(900, "month", 1), 900);
    assert_eq!(monthly(2_700, "month", 3), 900);
    assert_eq!(monthly(9_000, "year", 1), 750);
    assert_eq!(monthly(1_000, "year", 1), 83);
    assert_eq!(monthly(1_002, "year", 1), 84, "half up");
    assert_eq!(monthly(100, "week", 1), 433);
    assert_eq!(monthly(10, "day", 1), 304);
    assert_eq!(monthly(i64::MAX, "day", 1), i64::MAX);
}

#[test]
fn a_subscription_is_read_as_what_it_brings() {
    let of = |status: &str, interval: &str, count: i64| {
        let price = json!({
            "unit_amount": 9_000, "currency": "eur", "recurring": {"interval": interval, "interval_count": count},
        });
        let value = json!({
            "status": status, "start_date": 1_000, "ended_at": 2_000, "items": {"data": [{"price": price, "quantity": 1}]},
        });
        read(&value, NOW).map(|read| (read.step.monthly_minor, read.step.life))
    };
    assert_eq!(of("active", "year", 1), Some((750, Life::Live)));
    assert_eq!(of("past_due", "month", 3), Some((3_000, Life::Live)));
    assert_eq!(of("trialing", "month", 1), Some((0, Life::Live)), "it pays nothing yet");
    assert_eq!(of("canceled", "month", 1), Some((0, Life::Over)));
    assert_eq!(of("unpaid", "month", 1), Some((0, Life::Rests)));
    assert_eq!(of("paused", "month", 1), Some((0, Life::Rests)));
    assert_eq!(of("incomplete", "month", 1), None);
    assert_eq!(read(&json!({"status": "active", "items": {"data": []}}), NOW), None, "no price, no currency");
}

#[test]
fn what_is_made_void_brings_nothing_for_now() {
    let of = |pause: serde_json::Value| {
        let price = json!({"unit_amount": 900, "currency": "eur", "recurring": {"interval": "month", "interval_count": 1}});
        let value = json!({
            "status": "active", "start_date": 1_000, "pause_collection": pause,
            "items": {"data": [{"price": price, "quantity": 1}]},
        });
        read(&value, NOW).map(|read| (read.step.monthly_minor, read.step.life))
    };
    assert_eq!(of(json!({"behavior": "void", "resumes_at": null})), Some((0, Life::Live)));
    for charged in
        [json!(null), json!({"behavior": "keep_as_draft"}), json!({"behavior": "mark_uncollectible"})]
    {
        assert_eq!(of(charged.clone()), Some((900, Life::Live)), "{charged}");
    }
}

#[test]
fn discounts_that_last_are_taken_off() {
    let of = |interval: &str, discounts: &[serde_json::Value]| {
        let price = json!({
            "unit_amount": 9_000, "currency": "eur", "product": "p",
            "recurring": {"interval": interval, "interval_count": 1},
        });
        let value = json!({
            "status": "active", "start_date": 1_000, "items": {"data": [{"price": price, "quantity": 1}]},
            "discounts": discounts,
        });
        read(&value, NOW).unwrap().step.monthly_minor
    };
    let discount = |duration: &str, end: Option<i64>, coupon: serde_json::Value| {
        let mut coupon = coupon;
        coupon["duration"] = duration.into();
        json!({"id": "di_1", "end": end, "source": {"type": "coupon", "coupon": coupon}})
    };
    let later = Some(NOW.as_secs() + 1);
    let fifth = || json!({"percent_off": 20});
    assert_eq!(of("month", &[discount("forever", None, fifth())]), 7_200);
    assert_eq!(of("year", &[discount("repeating", later, fifth())]), 600);
    assert_eq!(of("month", &[discount("repeating", Some(NOW.as_secs()), fifth())]), 9_000, "it is over");
    assert_eq!(
        of("month", &[discount("once", None, fifth())]),
        9_000,
        "one invoice is not what a month brings"
    );
    let amount = |minor: i64| json!({"amount_off": minor, "currency": "eur"});
    assert_eq!(of("year", &[discount("forever", None, amount(1_200))]), 650);
    assert_eq!(of("month", &[discount("forever", None, amount(20_000))]), 0, "never below nothing");
    assert_eq!(of("month", &[discount("forever", None, json!({"percent_off": 12.5}))]), 7_875);
    let other = json!({"percent_off": 50, "applies_to": {"products": ["q"]}});
    assert_eq!(of("month", &[discount("forever", None, other)]), 9_000, "it is another product's");
    assert_eq!(of("month", &[json!("di_1")]), 9_000, "one that is not read counts for nothing");
}

#[test]
fn months_are_told_apart() {
    let november = usage::month_begins(ez_protocol::Month::of(NOW)).0;
    let charges = [
        // Since September; another price since November; its owner left and came with another server.
        charge("sub_1", "a", november - 50 * DAY, step(900, Life::Live)),
        charge("sub_1", "a", november + DAY, step(1_800, Life::Live)),
        charge("sub_2", "b", november - 50 * DAY, step(500, Life::Live)),
        charge("sub_2", "b", november - 10 * DAY, step(0, Life::Over)),
        charge("sub_3", "b", november - 5 * DAY, step(500, Life::Live)),
        charge("sub_4", "c", november + DAY, step(100, Life::Live)),
        charge("sub_4", "c", november + 2 * DAY, step(0, Life::Over)),
    ];
    let failed = [
        Failed { currency: "eur".into(), at: UnixMillis(november + DAY), minor: 900, recovered: true },
        Failed { currency: "eur".into(), at: UnixMillis(november + 2 * DAY), minor: 500, recovered: false },
    ];
    let all = history(&charges, &failed, &months(NOW, 12));
    assert_eq!((all.len(), all[0].months.len()), (1, 12));
    let month = |back: usize| all[0].months[11 - back];
    let now = month(0);
    assert_eq!((now.monthly_minor, now.live, now.begun, now.ended), (2_300, 2, 1, 1));
    assert_eq!(
        (now.new_customers, now.lost_customers),
        (0, 0),
        "who came and went within the month is neither"
    );
    assert_eq!((now.failed, now.failed_minor, now.recovered), (2, 1_400, 1));
    assert_eq!(now.churn_permille, 333);
    let october = month(1);
    assert_eq!((october.monthly_minor, october.live, october.begun, october.ended), (1_400, 2, 1, 1));
    assert_eq!((october.new_customers, october.lost_customers), (0, 0), "one owner, another server");
    assert_eq!((month(2).monthly_minor, month(2).new_customers), (1_400, 2));
    assert_eq!((month(3).monthly_minor, month(3).live, month(3).churn_permille), (0, 0, 0));
    assert!(history(&[], &[], &months(NOW, 12)).is_empty());
}

#[test]
fn who_pauses_stays_and_leaves_once() {
    let november = usage::month_begins(ez_protocol::Month::of(NOW)).0;
    let charges = [
        // Paused in October and cancelled in November.
        charge("sub_1", "a", november - 50 * DAY, step(900, Life::Live)),
        charge("sub_1", "a", november - 10 * DAY, step(0, Life::Rests)),
        charge("sub_1", "a", november + DAY, step(0, Life::Over)),
        // Paused in October and charged again.
        charge("sub_2", "b", november - 50 * DAY, step(500, Life::Live)),
        charge("sub_2", "b", november - 10 * DAY, step(0, Life::Rests)),
        charge("sub_2", "b", november + DAY, step(500, Life::Live)),
    ];
    let all = history(&charges, &[], &months(NOW, 12));
    let told = |back: usize| {
        let month = all[0].months[11 - back];
        let customers = (month.new_customers, month.lost_customers);
        ((month.live, month.paused), (month.begun, month.ended, month.churn_permille), customers)
    };
    assert_eq!(told(2), ((2, 0), (2, 0, 0), (2, 0)));
    assert_eq!(told(1), ((0, 2), (0, 0, 0), (0, 0)));
    assert_eq!(told(0), ((1, 0), (0, 1, 500), (0, 1)));
}

/// What Stripe says of a subscription in the course of its life.
fn life() -> impl Strategy<Value = Vec<Read>> {
    let said = prop_oneof![
        (1_i64..100_000).prop_map(|minor| (minor, Life::Live)),
        Just((0, Life::Live)),
        Just((0, Life::Rests)),
        Just((0, Life::Over)),
    ];
    proptest::collection::vec(said, 1..6)
        .prop_map(|said| said.into_iter().map(|(minor, life)| says(minor, life)).collect())
}

/// What Stripe says of a subscription at one time.
fn says(minor: i64, life: Life) -> Read {
    Read {
        began: Some(UnixMillis(NOW.0 - 100 * DAY)),
        ended: (life != Life::Live).then_some(UnixMillis(NOW.0 - 10 * DAY)),
        step: step(minor, life),
    }
}

/// As Stripe has it: it may rest and be charged again, and nothing comes after an end.
fn possible_life() -> impl Strategy<Value = Vec<Read>> {
    let here =
        prop_oneof![Just((900_i64, Life::Live)), Just((0_i64, Life::Live)), Just((0_i64, Life::Rests))];
    (proptest::collection::vec(here, 1..6), any::<bool>()).prop_map(|(here, ends)| {
        let ends = ends.then_some((0_i64, Life::Over));
        here.into_iter().chain(ends).map(|(minor, life)| says(minor, life)).collect()
    })
}

/// The steps that lives leave behind, read once a day; `again` says which readings come twice.
fn written(lives: &[Vec<Read>], again: Vec<bool>) -> Vec<Charge> {
    let mut charges = Vec::new();
    let mut again = again.into_iter().cycle();
    for (n, life) in lives.iter().enumerate() {
        let mut last: Option<(UnixMillis, Step)> = None;
        let mut at = NOW.0 - 50 * DAY;
        for read in life {
            for _ in 0..(1 + usize::from(again.next().unwrap_or(false))) {
                at += DAY;
                for (since, step) in steps(last.as_ref(), read, UnixMillis(at)) {
                    assert!(last.as_ref().is_none_or(|(known, _)| *known < since), "time goes on");
                    assert!(since.0 <= at + 1);
                    charges.push(charge(&format!("sub_{n}"), &format!("a{n}"), since.0, step.clone()));
                    last = Some((since, step));
                }
            }
        }
    }
    charges
}

proptest! {
    /// Whatever came in between: each begins once, and only those that are over have ended, once, with their owners.
    #[test]
    fn an_end_is_counted_once_and_a_pause_is_none(
        lives in proptest::collection::vec(possible_life(), 1..8),
        again in proptest::collection::vec(any::<bool>(), 64),
    ) {
        let shown = history(&written(&lives, again), &[], &months(NOW, 12));
        let sum = |read: fn(&MonthRevenue) -> i64| shown[0].months.iter().map(read).sum::<i64>();
        let over = lives.iter().filter(|life| life.last().is_some_and(|read| read.step.life == Life::Over));
        let (all, over) = (i64::try_from(lives.len()).unwrap(), i64::try_from(over.count()).unwrap());
        prop_assert_eq!((sum(|month| month.begun), sum(|month| month.ended)), (all, over));
        // They began months before they were looked at, so nobody came and left within one.
        prop_assert_eq!((sum(|month| month.new_customers), sum(|month| month.lost_customers)), (all, over));
    }

    /// However often, late or doubled the readings came: what is shown is the sum over what was read last.
    #[test]
    fn the_month_is_the_sum_over_live_subscriptions(
        lives in proptest::collection::vec(life(), 1..8),
        again in proptest::collection::vec(any::<bool>(), 64),
    ) {
        let mut charges = written(&lives, again);
        let shown = history(&charges, &[], &months(NOW, 12));
        let newest = shown[0].months.last().unwrap();
        let lasts = || lives.iter().filter_map(|life| life.last()).map(|read| &read.step);
        prop_assert_eq!(newest.monthly_minor, lasts().map(|step| step.monthly_minor).sum::<i64>());
        let many = |life: Life| i64::try_from(lasts().filter(|step| step.life == life).count()).unwrap();
        prop_assert_eq!((newest.live, newest.paused), (many(Life::Live), many(Life::Rests)));
        for month in &shown[0].months {
            prop_assert!((0..=1_000).contains(&month.churn_permille));
        }
        // Another order of the rows is the same picture.
        charges.reverse();
        prop_assert_eq!(history(&charges, &[], &months(NOW, 12)), shown);
    }
}
