//! Shares of what is there only so many times: a bound for all who ask together, and one for each of them.
//!
//! What is counted is held at the moment (open streams, visitors, handshakes), so memory is bounded by what may be held.
//! How often something is asked for is limited elsewhere (`web::limit`).

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Hands out shares by key.
#[derive(Debug)]
pub(crate) struct Shares<K> {
    all: usize,
    each: usize,
    /// Below so many in all, a key may hold more than its own.
    idle_below: usize,
    held: Arc<Mutex<Held<K>>>,
}

#[derive(Debug)]
struct Held<K> {
    all: usize,
    by: HashMap<K, usize>,
}

/// One share; it is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Share<K: Eq + Hash> {
    key: K,
    held: Arc<Mutex<Held<K>>>,
}

fn open<K>(held: &Mutex<Held<K>>) -> MutexGuard<'_, Held<K>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K: Clone + Eq + Hash> Shares<K> {
    /// At most `all` at once, and at most `each` of one key.
    pub(crate) fn new(all: usize, each: usize) -> Self {
        let held = Held { all: 0, by: HashMap::new() };
        Self { all, each, idle_below: 0, held: Arc::new(Mutex::new(held)) }
    }

    /// A key may have more than its own while half of all lie idle: many who share one address are held up only when
    /// others need the room.
    pub(crate) fn lending_half(mut self) -> Self {
        self.idle_below = self.all / 2;
        self
    }

    /// A share for as long as the answer is kept; nothing if there is none for this key now.
    pub(crate) fn take(&self, key: K) -> Option<Share<K>> {
        let mut held = open(&self.held);
        let own = held.by.get(&key).copied().unwrap_or(0);
        if held.all >= self.all || (own >= self.each && held.all >= self.idle_below) {
            return None;
        }
        held.all += 1;
        held.by.insert(key.clone(), own + 1);
        drop(held);
        Some(Share { key, held: self.held.clone() })
    }

    /// How many are held in all.
    pub(crate) fn held(&self) -> usize {
        open(&self.held).all
    }
}

impl<K: Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let mut held = open(&self.held);
        held.all = held.all.saturating_sub(1);
        if let Some(own) = held.by.get_mut(&self.key) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                held.by.remove(&self.key);
            }
        }
    }
}

/// Who stands behind an address: an IPv6 caller owns its whole /64.
pub(crate) fn network(caller: IpAddr) -> u128 {
    match caller.to_canonical() {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6) >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_who_takes_all_it_can_leaves_room_for_the_others() {
        let shares = Shares::new(4, 2);
        let mut greedy: Vec<_> = (0..9).filter_map(|_| shares.take("greedy")).collect();
        assert_eq!(greedy.len(), 2);
        let others = [shares.take("one"), shares.take("other")];
        assert!(others.iter().all(Option::is_some));
        assert!(shares.take("late").is_none(), "no more than all");
        greedy.pop();
        assert_eq!(shares.held(), 3);
        assert!(shares.take("late").is_some());
        drop((greedy, others));
        assert_eq!(shares.held(), 0);
        assert!(open(&shares.held).by.is_empty(), "who holds nothing is forgotten");
    }

    #[test]
    fn many_behind_one_address_use_what_lies_idle_and_no_more() {
        let shares = Shares::new(100, 2).lending_half();
        let herd: Vec<_> = (0..100).filter_map(|_| shares.take("office")).collect();
        assert_eq!(herd.len(), 50);
        let others: Vec<_> = (0..10).map(|n| shares.take(["a", "b", "c", "d", "e"][n / 2])).collect();
        assert!(others.iter().all(Option::is_some), "everybody else still has a share");
        assert!(shares.take("office").is_none() && shares.take("a").is_none());
    }

    #[test]
    fn an_ipv6_caller_is_its_network() {
        let n = |text: &str| network(text.parse().unwrap());
        assert_eq!(n("2001:db8:1:2::1"), n("2001:db8:1:2:ffff::9"));
        assert_ne!(n("2001:db8:1:2::1"), n("2001:db8:1:3::1"));
        assert_eq!(n("::ffff:192.0.2.1"), n("192.0.2.1"));
    }
}
