//! Faults of this Stripe: webhooks that come twice, late, in another order, badly signed or never, and calls
//! that are refused, answered with an error after their effect, or not answered at all.
//!
//! What happens to a delivery is decided once, when it is first due; a later attempt of it is an ordinary
//! one. Only "never" is written down (the delivery is `lost`), so that a restart does not undo it.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::inject::Rules;

mod api;
mod webhooks;

pub(crate) use api::{ApiKind, ApiRule};
pub(crate) use webhooks::WebhookFaults;
use webhooks::{Trick, WebhookRule};

/// What is decided about one delivery.
#[derive(Debug, Clone, Default)]
struct Plan {
    words: Vec<&'static str>,
    copies: u32,
    not_before: Option<Instant>,
    lost: bool,
    spoil: Option<Spoil>,
    batch: Option<(u64, u32)>,
}

/// How a signature is spoiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoil {
    /// Made with a wrong secret.
    Bad,
    /// Made an hour ago.
    Stale,
}

/// Events that are held until there are enough of them.
#[derive(Debug)]
struct Batch {
    wanted: usize,
    deliveries: Vec<String>,
    until: Instant,
}

/// How one attempt is made.
#[derive(Debug, Clone, Default)]
pub(crate) struct Manner {
    /// Faults it meets, for the log.
    pub(crate) words: Vec<&'static str>,
    /// How many times more it is sent.
    pub(crate) copies: u32,
    /// How its signature is spoiled.
    pub(crate) spoil: Option<Spoil>,
    /// The batch it is sent with, one after the other.
    pub(crate) batch: Option<(u64, u32)>,
    /// Its place in the batch.
    pub(crate) place: usize,
}

/// What becomes of a delivery that is due.
#[derive(Debug, Clone)]
pub(crate) enum Verdict {
    /// It is sent.
    Send(Manner),
    /// Not yet.
    Hold,
    /// Never.
    Lose,
}

#[derive(Debug, Default)]
struct Decided {
    plans: HashMap<String, Plan>,
    batches: HashMap<(u64, u32), Batch>,
}

/// Everything that is armed.
#[derive(Debug, Default)]
pub(crate) struct Injector {
    webhooks: Rules<WebhookRule>,
    api: Rules<ApiRule>,
    decided: Mutex<Decided>,
}

impl Injector {
    fn decided(&self) -> MutexGuard<'_, Decided> {
        self.decided.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Arms the rules of a request; their numbers.
    ///
    /// # Errors
    /// The request makes no sense.
    pub(crate) fn arm_webhooks(&self, wanted: &WebhookFaults) -> Result<Vec<u64>, String> {
        let rules = wanted.rules()?;
        Ok(rules.into_iter().map(|(rule, times)| self.webhooks.arm(rule, times, wanted.skip)).collect())
    }

    /// Arms a rule about calls; its number.
    ///
    /// # Errors
    /// The rule makes no sense.
    pub(crate) fn arm_api(&self, rule: ApiRule) -> Result<u64, String> {
        rule.check()?;
        let (times, skip) = (rule.times, rule.skip);
        Ok(self.api.arm(rule, times, skip))
    }

    /// The fault a call meets.
    pub(crate) fn call(&self, method: &str, path: &str) -> Option<ApiRule> {
        self.api.meet(|rule| rule.call.fits(method, path)).map(|strike| strike.rule)
    }

    /// All rules and what is held back.
    pub(crate) fn list(&self) -> Value {
        let held = self.decided().plans.len();
        json!({ "webhooks": self.webhooks.list(), "api": self.api.list(), "held": held })
    }

    /// Takes every rule back. What is held is sent; what is lost stays lost.
    pub(crate) fn clear(&self) {
        self.webhooks.clear();
        self.api.clear();
        *self.decided() = Decided::default();
    }

    /// Decides about a delivery that is due for the first time.
    pub(crate) fn decide(&self, delivery: &str, kind: &str, now: Instant) {
        let mut decided = self.decided();
        if decided.plans.contains_key(delivery) {
            return;
        }
        let mut plan = Plan::default();
        for word in ["lose", "duplicate", "reorder", "delay", "bad_signature", "stale_signature"] {
            let fits = |rule: &WebhookRule| {
                rule.trick.word() == word && rule.kind.as_deref().is_none_or(|wanted| wanted == kind)
            };
            let Some(strike) = self.webhooks.meet(fits) else { continue };
            plan.words.push(word);
            match strike.rule.trick {
                Trick::Duplicate { copies } => plan.copies = copies,
                Trick::Delay { ms } => plan.not_before = Some(now + Duration::from_millis(ms)),
                Trick::Lose => plan.lost = true,
                Trick::BadSignature => plan.spoil = Some(Spoil::Bad),
                Trick::StaleSignature => plan.spoil = Some(Spoil::Stale),
                Trick::Reorder { of, hold_ms } => {
                    let key = (strike.id, strike.nth / of.max(1));
                    let batch = decided.batches.entry(key).or_insert_with(|| Batch {
                        wanted: usize::try_from(of).unwrap_or(usize::MAX),
                        deliveries: Vec::new(),
                        until: now + Duration::from_millis(hold_ms),
                    });
                    batch.deliveries.push(delivery.to_owned());
                    plan.batch = Some(key);
                }
            }
            if plan.lost {
                break;
            }
        }
        if !plan.words.is_empty() {
            decided.plans.insert(delivery.to_owned(), plan);
        }
    }

    /// What becomes of a delivery now. Asked after every delivery that is due was decided about.
    pub(crate) fn verdict(&self, delivery: &str, now: Instant) -> Verdict {
        let decided = self.decided();
        let Some(plan) = decided.plans.get(delivery) else { return Verdict::Send(Manner::default()) };
        if plan.lost {
            return Verdict::Lose;
        }
        if plan.not_before.is_some_and(|at| now < at) {
            return Verdict::Hold;
        }
        let mut place = 0;
        if let Some(batch) = plan.batch.and_then(|key| decided.batches.get(&key)) {
            if batch.deliveries.len() < batch.wanted && now < batch.until {
                return Verdict::Hold;
            }
            let behind = batch.deliveries.iter().rev().position(|id| id == delivery);
            place = behind.unwrap_or_default();
        }
        Verdict::Send(Manner {
            words: plan.words.clone(),
            copies: plan.copies,
            spoil: plan.spoil,
            batch: plan.batch,
            place,
        })
    }

    /// A delivery was tried or lost: nothing is decided about it any more.
    pub(crate) fn forget(&self, delivery: &str) {
        self.decided().plans.remove(delivery);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn armed(wanted: Value) -> Result<Injector, String> {
        let injector = Injector::default();
        injector.arm_webhooks(&serde_json::from_value(wanted).map_err(|e| e.to_string())?)?;
        Ok(injector)
    }

    #[test]
    fn requests_that_make_no_sense_are_refused_with_a_reason() {
        for (wanted, reason) in [
            (json!({}), "name one of"),
            (json!({"lose": 0}), "at least 1"),
            (json!({"lose": 1, "hold_ms": 5}), "`hold_ms` goes with"),
            (json!({"loose": 1}), "unknown field `loose`"),
        ] {
            let refused = armed(wanted).unwrap_err();
            assert!(refused.contains(reason), "{refused}");
        }
        let call = json!({"method": "POST", "path": "/v1/refunds"});
        for (rule, reason) in [
            (json!({"call": call, "fault": "status_after", "status": 429}), "before any work"),
            (json!({"call": call, "fault": "status_before", "status": 404}), "429 or 500 to 504"),
            (json!({"call": call, "fault": "status_before", "status": 429, "code": "x"}), "rate_limit or"),
            (json!({"call": call, "fault": "slow"}), "`delay_ms` is missing"),
            (json!({"call": call, "fault": "drop_answer", "status": 500}), "`status` goes with"),
        ] {
            let rule: ApiRule = serde_json::from_value(rule).unwrap();
            let refused = Injector::default().arm_api(rule).unwrap_err();
            assert!(refused.contains(reason), "{refused}");
        }
    }

    #[test]
    fn a_batch_waits_until_it_is_full_and_then_goes_newest_first() {
        let injector = armed(json!({"reorder": 3, "type": "b"})).unwrap();
        let now = Instant::now();
        for (delivery, kind) in [("1", "b"), ("2", "a"), ("3", "b")] {
            injector.decide(delivery, kind, now);
        }
        assert!(matches!(injector.verdict("1", now), Verdict::Hold));
        assert!(matches!(injector.verdict("2", now), Verdict::Send(m) if m.words.is_empty()));
        injector.decide("4", "b", now);
        let place = |delivery: &str| match injector.verdict(delivery, now) {
            Verdict::Send(manner) => manner.place,
            other => panic!("{delivery}: {other:?}"),
        };
        assert_eq!((place("4"), place("3"), place("1")), (0, 1, 2));
    }

    #[test]
    fn a_batch_that_does_not_fill_is_sent_all_the_same() {
        let injector = armed(json!({"reorder": 3, "hold_ms": 100})).unwrap();
        let now = Instant::now();
        injector.decide("1", "a", now);
        assert!(matches!(injector.verdict("1", now), Verdict::Hold));
        assert!(matches!(injector.verdict("1", now + Duration::from_millis(100)), Verdict::Send(_)));
    }

    #[test]
    fn one_event_may_meet_several_faults_and_a_second_attempt_none() {
        let injector = armed(json!({"duplicate": 2, "delay_ms": 50, "bad_signature": 1})).unwrap();
        let now = Instant::now();
        injector.decide("1", "a", now);
        assert!(matches!(injector.verdict("1", now), Verdict::Hold));
        let later = now + Duration::from_millis(50);
        match injector.verdict("1", later) {
            Verdict::Send(m) => {
                assert_eq!((m.copies, m.spoil), (2, Some(Spoil::Bad)));
                assert_eq!(m.words, ["duplicate", "delay", "bad_signature"]);
            }
            other => panic!("{other:?}"),
        }
        injector.forget("1");
        assert!(matches!(injector.verdict("1", later), Verdict::Send(m) if m.words.is_empty()));
    }
}
