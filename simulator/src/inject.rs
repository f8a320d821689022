//! Injected faults: which rules are armed, how often each strikes, and how often it did.
//!
//! All three simulators share this bookkeeping; what a rule does is theirs. Rules live in memory only
//! and there are none at the start: whoever restarts the simulator starts it healthy.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{net::TcpStream, sync::watch};

/// A rule that was given and what became of it.
#[derive(Debug)]
struct Armed<R> {
    id: u64,
    rule: R,
    times: u32,
    skip: u32,
    /// How many matching occasions there were while it was armed.
    seen: u32,
    /// How many of them it struck.
    hits: u32,
}

/// A strike: the rule, which one it is and how often it had struck before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Strike<R> {
    pub(crate) rule: R,
    pub(crate) id: u64,
    pub(crate) nth: u32,
}

/// The armed rules of one simulator.
#[derive(Debug)]
pub(crate) struct Rules<R>(Mutex<(u64, Vec<Armed<R>>)>);

impl<R> Default for Rules<R> {
    fn default() -> Self {
        Self(Mutex::new((0, Vec::new())))
    }
}

impl<R: Clone + Serialize> Rules<R> {
    fn all(&self) -> MutexGuard<'_, (u64, Vec<Armed<R>>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Arms a rule: it lets `skip` matching occasions pass and strikes the next `times`. Gives its number.
    pub(crate) fn arm(&self, rule: R, times: u32, skip: u32) -> u64 {
        let mut all = self.all();
        all.0 += 1;
        let id = all.0;
        all.1.push(Armed { id, rule, times, skip, seen: 0, hits: 0 });
        id
    }

    /// An occasion: the first rule that fits and is not used up strikes. A rule that still lets
    /// occasions pass counts this one and leaves it to the next rule.
    pub(crate) fn meet(&self, fits: impl Fn(&R) -> bool) -> Option<Strike<R>> {
        let mut all = self.all();
        for armed in all.1.iter_mut().filter(|armed| armed.hits < armed.times && fits(&armed.rule)) {
            armed.seen += 1;
            if armed.seen > armed.skip {
                armed.hits += 1;
                return Some(Strike { rule: armed.rule.clone(), id: armed.id, nth: armed.hits - 1 });
            }
        }
        None
    }

    /// Every rule with what it has done.
    pub(crate) fn list(&self) -> Vec<Value> {
        let show = |armed: &Armed<R>| {
            json!({
                "id": armed.id, "rule": armed.rule, "seen": armed.seen, "hits": armed.hits,
                "left": armed.times - armed.hits,
            })
        };
        self.all().1.iter().map(show).collect()
    }

    /// Forgets every rule.
    pub(crate) fn clear(&self) {
        self.all().1.clear();
    }
}

/// Which calls of an API a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CallPattern {
    /// The method; any if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) method: Option<String>,
    /// A part of the path; with a `$` behind it, its end.
    pub(crate) path: String,
}

impl CallPattern {
    /// Whether a call is meant.
    pub(crate) fn fits(&self, method: &str, path: &str) -> bool {
        let method_fits = self.method.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(method));
        let path_fits = match self.path.strip_suffix('$') {
            Some(end) => path.ends_with(end),
            None => path.contains(&self.path),
        };
        method_fits && path_fits
    }
}

/// One strike, as every rule has it by default.
pub(crate) fn once() -> u32 {
    1
}

/// Whether a count of a rule can be left out of what is shown.
pub(crate) fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// Whether a service is away: then connections are reset, those that are open and those that come.
#[derive(Debug)]
pub(crate) struct Away {
    state: watch::Sender<bool>,
    absences: AtomicU64,
    resets: AtomicU64,
}

impl Default for Away {
    fn default() -> Self {
        Self { state: watch::Sender::new(false), absences: AtomicU64::new(0), resets: AtomicU64::new(0) }
    }
}

impl Away {
    /// Goes away until [`Self::come_back`] is called; gives the number of this absence.
    pub(crate) fn leave(&self) -> u64 {
        self.state.send_replace(true);
        self.absences.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Goes away for a while. A later absence is not ended by the timer of an earlier one.
    pub(crate) fn leave_for(self: &Arc<Self>, time: Duration) {
        let absence = self.leave();
        let away = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            away.end(absence);
        });
    }

    /// Ends an absence, unless a later one has begun.
    fn end(&self, absence: u64) {
        if self.absences.load(Ordering::SeqCst) == absence {
            self.come_back();
        }
    }

    /// Is there again.
    pub(crate) fn come_back(&self) {
        self.state.send_replace(false);
    }

    /// Whether it is away now.
    pub(crate) fn is_away(&self) -> bool {
        *self.state.borrow()
    }

    /// Is there again, and nothing was ever wrong.
    pub(crate) fn clear(&self) {
        self.come_back();
        self.resets.store(0, Ordering::SeqCst);
    }

    /// How many connections were cut or turned away.
    pub(crate) fn resets(&self) -> u64 {
        self.resets.load(Ordering::SeqCst)
    }

    /// Turns a connection away as the kernel does for a process that is gone: with a reset.
    pub(crate) fn reset(&self, stream: TcpStream) {
        self.resets.fetch_add(1, Ordering::SeqCst);
        // Without it the peer sees an orderly end instead, which is as good as gone.
        let _orderly_at_worst = stream.set_zero_linger();
        drop(stream);
    }

    /// Ends when an open connection has to be cut.
    pub(crate) async fn cut(&self) {
        self.gone().await;
        self.resets.fetch_add(1, Ordering::SeqCst);
    }

    /// Waits until it goes away; returns at once if it is.
    async fn gone(&self) {
        let mut state = self.state.subscribe();
        // The sender lives as long as `self`, so the wait cannot fail.
        let _away = state.wait_for(|away| *away).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(given: &[(&'static str, u32, u32)]) -> Rules<&'static str> {
        let rules = Rules::default();
        for (name, times, skip) in given {
            rules.arm(*name, *times, *skip);
        }
        rules
    }

    #[test]
    fn a_rule_lets_some_pass_strikes_some_and_is_used_up() {
        let rules = rules(&[("a", 2, 1)]);
        let struck: Vec<_> = (0..5).map(|_| rules.meet(|r| *r == "a").map(|s| (s.id, s.nth))).collect();
        assert_eq!(struck, [None, Some((1, 0)), Some((1, 1)), None, None]);
        assert_eq!(
            rules.list(),
            [json!({"id": 1, "rule": "a", "seen": 3, "hits": 2, "left": 0})],
            "what came after it was used up is not counted"
        );
        rules.clear();
        assert!(rules.list().is_empty() && rules.meet(|_| true).is_none());
    }

    #[test]
    fn an_occasion_is_struck_by_one_rule_only_and_the_first_comes_first() {
        let rules = rules(&[("a", 1, 1), ("b", 2, 0), ("c", 1, 0)]);
        let mut struck = Vec::new();
        for _ in 0..5 {
            struck.push(rules.meet(|r| *r != "x").map(|s| s.rule));
        }
        assert_eq!(struck, [Some("b"), Some("a"), Some("b"), Some("c"), None]);
    }

    #[test]
    fn a_pattern_means_a_part_of_the_path_or_its_end() {
        let pattern = |method: Option<&str>, path: &str| CallPattern {
            method: method.map(str::to_owned),
            path: path.into(),
        };
        let path = "/nodes/pve1/qemu/9000/clone";
        assert!(pattern(Some("post"), "/clone").fits("POST", path));
        assert!(!pattern(Some("GET"), "/clone").fits("POST", path));
        assert!(pattern(None, "/qemu/").fits("POST", path) && pattern(None, "").fits("GET", path));
        assert!(pattern(None, "/clone$").fits("POST", path) && !pattern(None, "/qemu$").fits("POST", path));
    }

    #[tokio::test]
    async fn the_end_of_an_earlier_absence_does_not_end_a_later_one() {
        let away = Away::default();
        let (earlier, later) = (away.leave(), away.leave());
        away.gone().await;
        away.end(earlier);
        assert!(away.is_away());
        away.end(later);
        assert!(!away.is_away());
        away.leave();
        away.cut().await;
        assert_eq!(away.resets(), 1);
        away.clear();
        assert!(!away.is_away() && away.resets() == 0);
    }
}
