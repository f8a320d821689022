//! How often Stripe is asked: one pace for all calls of this process.
//!
//! Stripe allows so many calls a second for each account and answers 429 beyond that. A quarter of the setting may go out
//! at once, the rest follows with the same distance between calls, so no second holds more than the setting. That quarter
//! is for those who wait in front of a page, and they go first; what runs in the background takes the turns that are left,
//! one after the other, and every fourth one however many wait in front: news of a payment arrive there, and people can load
//! pages without end. The nightly comparison has a slower pace of its own on top. After a 429 everybody holds still for
//! a second, whatever each call then does by itself ([`super::retry`]).
//!
//! The pace is this process's. Where several processes share one account, each gets its share by the setting.

use std::{
    future::Future,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

tokio::task_local! {
    static CLASS: Class;
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Somebody waits for the answer, or an order does. The default.
    Now,
    /// It has time.
    Background,
    /// Everything is compared: slowly.
    Comparing,
}

/// Runs work whose calls to Stripe are of a class.
pub(crate) async fn at<F: Future>(class: Class, work: F) -> F::Output {
    CLASS.scope(class, work).await
}

/// Counts calls by class.
#[derive(Debug, Default)]
pub(super) struct Asked([AtomicU64; 3]);

impl Asked {
    fn place(&self, class: Class) -> &AtomicU64 {
        let [now, background, comparing] = &self.0;
        match class {
            Class::Now => now,
            Class::Background => background,
            Class::Comparing => comparing,
        }
    }

    pub(super) fn count(&self) {
        let class = CLASS.try_with(|class| *class).unwrap_or(Class::Now);
        self.place(class).fetch_add(1, Ordering::Relaxed);
        let word = match class {
            Class::Now => "now",
            Class::Background => "background",
            Class::Comparing => "comparing",
        };
        metrics::counter!("ez_billing_stripe_calls_total", "class" => word).increment(1);
    }

    #[cfg(test)]
    pub(super) fn of(&self, class: Class) -> u64 {
        self.place(class).load(Ordering::Relaxed)
    }
}

/// Calls a second of the comparison.
const COMPARING: u32 = 5;
/// Background calls that may wait for their turn at once; more are told to come back.
const WAITING: usize = 6;
/// So many turns in a row go to those in front while somebody waits behind; the next one is for the background.
const IN_A_ROW: usize = 3;
/// How long everybody holds still after a 429.
const PENALTY: Duration = Duration::from_secs(1);

/// Hands out turns.
#[derive(Debug)]
pub(crate) struct Limiter {
    distance: Duration,
    /// So far ahead of the pace those in front may be.
    ahead: Duration,
    /// When the pace is caught up with.
    next: Mutex<Instant>,
    next_comparing: Mutex<Instant>,
    /// Up to when turns were promised to those who were told to come back.
    promised: Mutex<Instant>,
    in_front: AtomicUsize,
    behind: AtomicUsize,
    /// Turns in front in a row while somebody waited behind.
    in_a_row: AtomicUsize,
}

/// Counts somebody who waits.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn among(all: &'a AtomicUsize) -> Self {
        all.fetch_add(1, Ordering::SeqCst);
        Self(all)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn open(time: &Mutex<Instant>) -> MutexGuard<'_, Instant> {
    time.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a turn if it is due, or not further off than `ahead`; else how long that takes.
fn take(next: &Mutex<Instant>, distance: Duration, ahead: Duration, now: Instant) -> Option<Duration> {
    let mut next = open(next);
    if *next > now + ahead {
        return Some(*next - now - ahead);
    }
    *next = (*next).max(now) + distance;
    None
}

impl Limiter {
    /// So many calls a second, at least one.
    pub(crate) fn new(calls_per_second: u32) -> Self {
        let now = Instant::now();
        let at_once = calls_per_second / 4;
        let distance = Duration::from_secs(1) / (calls_per_second - at_once).max(1);
        Self {
            distance,
            ahead: distance * at_once.saturating_sub(1),
            next: Mutex::new(now),
            next_comparing: Mutex::new(now),
            promised: Mutex::new(now),
            in_front: AtomicUsize::new(0),
            behind: AtomicUsize::new(0),
            in_a_row: AtomicUsize::new(0),
        }
    }

    /// From one call of the comparison to the next.
    fn comparing(&self) -> Duration {
        self.distance.max(Duration::from_secs(1) / COMPARING)
    }

    /// Waits for the caller's turn.
    pub(crate) async fn turn(&self) {
        let class = CLASS.try_with(|class| *class).unwrap_or(Class::Now);
        if class == Class::Comparing {
            while let Some(wait) =
                take(&self.next_comparing, self.comparing(), Duration::ZERO, Instant::now())
            {
                tokio::time::sleep(wait).await;
            }
        }
        let first = class == Class::Now;
        let _place = Waits::among(if first { &self.in_front } else { &self.behind });
        let mut let_by = 0;
        loop {
            let wait = if !first {
                self.turn_behind()
            } else if self.is_turn_of_background() && let_by < IN_A_ROW {
                // Not for ever: one that waits behind may have been put aside by whoever runs it.
                let_by += 1;
                Some(self.distance)
            } else {
                self.turn_in_front()
            };
            match wait {
                None => return,
                Some(wait) => tokio::time::sleep(wait).await,
            }
        }
    }

    /// Whether those in front have had theirs, and somebody waits behind.
    fn is_turn_of_background(&self) -> bool {
        self.behind.load(Ordering::SeqCst) > 0 && self.in_a_row.load(Ordering::SeqCst) >= IN_A_ROW
    }

    /// Takes a turn in front; else how long to wait before the next try.
    fn turn_in_front(&self) -> Option<Duration> {
        let wait = take(&self.next, self.distance, self.ahead, Instant::now());
        if wait.is_none() && self.behind.load(Ordering::SeqCst) > 0 {
            self.in_a_row.fetch_add(1, Ordering::SeqCst);
        }
        wait
    }

    /// Takes a turn in the background; else how long to wait before the next try, never so long that those in front, who
    /// let it by, wait for a sleeper.
    fn turn_behind(&self) -> Option<Duration> {
        let pushed_back = self.in_front.load(Ordering::SeqCst) > 0;
        if pushed_back && !self.is_turn_of_background() {
            return Some(self.distance);
        }
        // In place of one in front it goes out as early as that one would have.
        let ahead = if pushed_back { self.ahead } else { Duration::ZERO };
        let wait = take(&self.next, self.distance, ahead, Instant::now());
        if wait.is_none() {
            self.in_a_row.store(0, Ordering::SeqCst);
        }
        wait.map(|wait| wait.min(self.distance))
    }

    /// Stripe said 429: everybody holds still.
    pub(crate) fn hold_still(&self) {
        let mut next = open(&self.next);
        *next = (*next).max(Instant::now() + self.ahead + PENALTY);
    }

    /// How long background work should stay away, so that it does not stand in a queue and in the way of others; nothing
    /// if there is room. Each one who is told is promised a turn of its own.
    pub(crate) fn come_back_in(&self) -> Option<Duration> {
        if self.behind.load(Ordering::SeqCst) < WAITING {
            return None;
        }
        let (mut promised, now) = (open(&self.promised), Instant::now());
        let soonest = now + self.distance * u32::try_from(WAITING).unwrap_or(1);
        *promised = (*promised + self.distance).max(soonest);
        Some(*promised - now)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Times at which so many callers got their turns, in milliseconds, if nothing but the pace holds them up.
    fn turns(calls_per_second: u32, many: usize, in_front: bool) -> Vec<u128> {
        let limiter = Limiter::new(calls_per_second);
        let ahead = if in_front { limiter.ahead } else { Duration::ZERO };
        let (began, mut times) = (Instant::now(), Vec::new());
        let mut now = began;
        while times.len() < many {
            match take(&limiter.next, limiter.distance, ahead, now) {
                None => times.push((now - began).as_millis()),
                Some(wait) => now += wait,
            }
        }
        times
    }

    #[test]
    fn no_second_holds_more_than_the_setting() {
        for (in_front, calls) in [(false, 20), (true, 20), (true, 1), (true, 80)] {
            let times = turns(calls, 200, in_front);
            for (n, from) in times.iter().enumerate() {
                let within = times.iter().skip(n).filter(|at| **at < from + 1_000).count();
                assert!(within <= calls as usize, "{within} from {from} at {calls} a second");
            }
            let least = u128::from(200 - calls.min(199)) * 1_000 / u128::from(calls);
            let most = 200 * 1_000 / u128::from((calls - calls / 4).max(1)) + 1_000;
            assert!((least..=most).contains(times.last().unwrap()), "{times:?}");
        }
    }

    #[test]
    fn a_few_calls_at_once_wait_for_nothing_where_somebody_waits_for_them() {
        assert_eq!(turns(20, 5, true), [0; 5]);
        assert!(turns(20, 6, true)[5] >= 60);
        assert!(turns(20, 2, false)[1] >= 60, "the background goes one by one");
        assert!(turns(1, 2, true)[1] >= 1_000);
    }

    #[test]
    fn after_a_429_everybody_holds_still() {
        let limiter = Limiter::new(100);
        let now = Instant::now();
        limiter.hold_still();
        assert!(take(&limiter.next, limiter.distance, limiter.ahead, now).unwrap() >= PENALTY / 2);
    }

    #[tokio::test]
    async fn whoever_waits_in_front_of_a_page_goes_first() {
        let limiter = Arc::new(Limiter::new(200));
        let behind: Vec<_> = (0..40)
            .map(|_| {
                let limiter = limiter.clone();
                tokio::spawn(at(Class::Background, async move { limiter.turn().await }))
            })
            .collect();
        limiter.turn().await;
        limiter.turn().await;
        let waiting = behind.iter().filter(|one| !one.is_finished()).count();
        assert!(waiting > 20, "{waiting} of 40 wait still");
        for one in behind {
            one.await.unwrap();
        }
        assert_eq!(limiter.behind.load(Ordering::SeqCst), 0, "nobody is forgotten");
    }

    #[tokio::test]
    async fn pages_loaded_without_end_leave_every_fourth_turn_to_the_background() {
        let limiter = Limiter::new(100);
        let in_front: Vec<_> = (0..8).map(|_| Waits::among(&limiter.in_front)).collect();
        let _behind = Waits::among(&limiter.behind);
        let mut turns = String::new();
        while turns.len() < 16 {
            if limiter.turn_behind().is_none() {
                turns.push('b');
            } else if !limiter.is_turn_of_background() && limiter.turn_in_front().is_none() {
                turns.push('f');
            } else {
                tokio::time::sleep(limiter.distance).await;
            }
        }
        assert_eq!(turns, "fffb".repeat(4));
        drop(in_front);
        // One that waits behind and is not run holds nobody up for long.
        for _ in 0..8 {
            tokio::time::timeout(Duration::from_secs(5), limiter.turn()).await.unwrap();
        }
    }

    #[test]
    fn who_finds_a_queue_is_promised_a_turn_of_its_own() {
        let limiter = Limiter::new(20);
        assert_eq!(limiter.come_back_in(), None);
        let queue: Vec<_> = (0..WAITING).map(|_| Waits::among(&limiter.behind)).collect();
        let (one, other) = (limiter.come_back_in().unwrap(), limiter.come_back_in().unwrap());
        assert!(other > one && other - one <= limiter.distance, "{one:?} {other:?}");
        drop(queue);
        assert_eq!(limiter.come_back_in(), None, "there is room again");
    }

    #[test]
    fn the_comparison_is_slower_than_everything_else() {
        let limiter = Limiter::new(80);
        assert_eq!(limiter.comparing(), Duration::from_millis(200));
        assert!(Limiter::new(1).comparing() >= Duration::from_secs(1), "and never faster than the setting");
    }
}
