//! Rate limits in bounded memory.
//!
//! Each limit is an array of times, one slot per hash of the caller: a caller's slot says when it has
//! used up what it asked for (the generic cell rate algorithm). Two callers that share a slot share a
//! limit, which is rare and harmless; in return the memory is fixed, nothing is ever evicted, and a
//! flood of addresses cannot push anybody out.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use axum::extract::ConnectInfo;
use ez_protocol::UnixMillis;
use http::{HeaderMap, Method, Request};
use ipnet::IpNet;

use crate::{app::App, entropy::EntropyExt as _, shares::network};

/// Slots per limit: 16,384 of eight bytes.
const SLOTS: usize = 1 << 14;

/// What is asked for; each has its own limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// A page or an asset.
    Look,
    /// A change by a form.
    Change,
    /// Login, sign-up, password: what a guesser repeats.
    Credentials,
    /// An endpoint of the API.
    Endpoint,
    /// A webhook that nobody signed.
    Forgery,
}

/// Paths whose forms take or send credentials.
const CREDENTIAL_PATHS: [&str; 5] = ["/login", "/signup", "/forgot", "/reset", "/verify"];

impl Ask {
    pub(super) fn of(method: &Method, path: &str) -> Self {
        match *method {
            Method::GET | Method::HEAD => Self::Look,
            _ if CREDENTIAL_PATHS.contains(&path) => Self::Credentials,
            _ => Self::Change,
        }
    }
}

/// One limit: `burst` at once, then one per `every`.
#[derive(Debug)]
struct Limit {
    every_us: i64,
    burst_us: i64,
    slots: Box<[AtomicI64]>,
}

impl Limit {
    fn new(burst: i64, every: Duration) -> Self {
        let every_us = i64::try_from(every.as_micros()).unwrap_or(i64::MAX);
        let slots = (0..SLOTS).map(|_| AtomicI64::new(0)).collect();
        Self { every_us, burst_us: every_us.saturating_mul(burst), slots }
    }

    fn slot(&self, slot: u64) -> &AtomicI64 {
        &self.slots[usize::try_from(slot % SLOTS as u64).unwrap_or(0)]
    }

    /// Whether one could be taken now.
    fn is_left(&self, slot: u64, now: UnixMillis) -> bool {
        let now_us = now.0.saturating_mul(1_000);
        let ahead = self.slot(slot).load(Ordering::Relaxed).max(now_us).saturating_sub(now_us);
        ahead.saturating_add(self.every_us) <= self.burst_us
    }

    /// Takes one; the wait in whole seconds when there is none left.
    fn take(&self, slot: u64, now: UnixMillis) -> Result<(), u64> {
        let slot = self.slot(slot);
        let now_us = now.0.saturating_mul(1_000);
        let mut wait = 0;
        let taken = slot.try_update(Ordering::Relaxed, Ordering::Relaxed, |used_up| {
            let next = used_up.max(now_us).saturating_add(self.every_us);
            wait = next.saturating_sub(now_us).saturating_sub(self.burst_us);
            (wait <= 0).then_some(next)
        });
        match taken {
            Ok(_) => Ok(()),
            Err(_) => Err(u64::try_from(wait).unwrap_or(0).div_ceil(1_000_000)),
        }
    }
}

/// All limits; each part of the router has its own.
#[derive(Debug)]
pub(crate) struct Limits {
    /// Mixed into every slot, so that nobody can pick addresses that share one.
    seed: u64,
    look: Limit,
    change: Limit,
    credentials: Limit,
    /// The same for a provider's customer, who has 65,536 networks: an IPv6 /48.
    credentials_of_site: Limit,
    endpoint: Limit,
    forgery: Limit,
}

/// The slot of a network. The seed keeps anybody from picking addresses that share one.
fn slot_of(seed: u64, network: u128) -> u64 {
    let mut hasher = DefaultHasher::new();
    (seed, network).hash(&mut hasher);
    hasher.finish()
}

impl Limits {
    /// Limits whose slots nobody can guess.
    pub(crate) fn of(app: &App) -> Self {
        Self::new(u64::from_be_bytes(app.entropy.bytes::<8>()))
    }

    fn new(seed: u64) -> Self {
        Self {
            seed,
            look: Limit::new(800, Duration::from_micros(2_500)),
            change: Limit::new(60, Duration::from_millis(200)),
            credentials: Limit::new(20, Duration::from_secs(3)),
            credentials_of_site: Limit::new(60, Duration::from_secs(1)),
            endpoint: Limit::new(300, Duration::from_millis(20)),
            forgery: Limit::new(60, Duration::from_secs(1)),
        }
    }

    /// Takes one request of `ask` from the caller's allowance; the wait in seconds when it is used up.
    pub(crate) fn take(&self, ask: Ask, caller: IpAddr, now: UnixMillis) -> Result<(), u64> {
        let network = network(caller);
        let slot = slot_of(self.seed, network);
        match ask {
            Ask::Look => self.look.take(slot, now),
            Ask::Change => self.change.take(slot, now),
            Ask::Credentials => {
                self.credentials.take(slot, now)?;
                match site(network) {
                    Some(site) => self.credentials_of_site.take(slot_of(self.seed, site), now),
                    None => Ok(()),
                }
            }
            Ask::Endpoint => self.endpoint.take(slot, now),
            Ask::Forgery => self.forgery.take(slot, now),
        }
    }
}

/// The /48 of an IPv6 network; an IPv4 address stands for itself.
fn site(network: u128) -> Option<u128> {
    let site = network >> 80 << 80;
    (site != 0).then_some(site)
}

/// Attempts to enrol by network: so many at once and then one a second, and so many failed ones in an hour.
#[derive(Debug)]
pub(crate) struct Attempts {
    seed: u64,
    made: Limit,
    failed: Limit,
}

impl Attempts {
    /// Limits whose slots nobody can guess.
    pub(crate) fn of(app: &App) -> Self {
        Self::new(u64::from_be_bytes(app.entropy.bytes::<8>()))
    }

    fn new(seed: u64) -> Self {
        Self {
            seed,
            made: Limit::new(10, Duration::from_secs(1)),
            failed: Limit::new(20, Duration::from_secs(180)),
        }
    }

    /// Whether the caller may try.
    pub(crate) fn admit(&self, caller: IpAddr, now: UnixMillis) -> bool {
        let slot = slot_of(self.seed, network(caller));
        self.failed.is_left(slot, now) && self.made.take(slot, now).is_ok()
    }

    /// The try failed.
    pub(crate) fn failed(&self, caller: IpAddr, now: UnixMillis) {
        // Tries at the same moment may fail together; the last ones find nothing left to take.
        let _used_up = self.failed.take(slot_of(self.seed, network(caller)), now);
    }
}

/// Who asks: the peer, or, behind a trusted proxy, the nearest address that is not a trusted proxy.
pub(crate) fn caller_of<B>(request: &Request<B>, trusted: &[IpNet]) -> IpAddr {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |info| info.0.ip());
    caller(peer, request.headers(), trusted)
}

fn caller(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    // A socket that listens on [::] tells an IPv4 peer as ::ffff:….
    let is_trusted = |address: &IpAddr| trusted.iter().any(|net| net.contains(&address.to_canonical()));
    if !is_trusted(&peer) {
        return peer;
    }
    headers
        .get_all("x-forwarded-for")
        .iter()
        .rev()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.rsplit(','))
        .map_while(|item| item.trim().parse::<IpAddr>().ok())
        .find(|address| !is_trusted(address))
        .unwrap_or(peer)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_burst_passes_then_one_at_a_time() {
        let limit = Limit::new(3, Duration::from_secs(2));
        let at = |ms: i64| UnixMillis(1_000_000 + ms);
        for _ in 0..3 {
            assert_eq!(limit.take(7, at(0)), Ok(()));
        }
        assert_eq!(limit.take(7, at(0)), Err(2));
        assert_eq!(limit.take(7, at(1_500)), Err(1));
        assert_eq!(limit.take(8, at(0)), Ok(()), "another caller is not held up");
        assert_eq!(limit.take(7, at(2_000)), Ok(()));
        assert_eq!(limit.take(7, at(2_000)), Err(2));
        for _ in 0..3 {
            assert_eq!(limit.take(7, at(60_000)), Ok(()), "after a pause the burst is there again");
        }
    }

    #[test]
    fn forwarded_addresses_count_only_behind_our_own_proxy() {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", HeaderValue::from_static("6.6.6.6, 203.0.113.9, 10.0.0.2"));
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let from =
            |peer: &str, trusted: &[IpNet]| caller(peer.parse().unwrap(), &headers, trusted).to_string();
        assert_eq!(from("198.51.100.1", &trusted), "198.51.100.1");
        assert_eq!(from("10.0.0.1", &trusted), "203.0.113.9");
        assert_eq!(from("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn a_guesser_with_many_networks_of_one_site_is_slowed_down_too() {
        let (limits, now) = (Limits::new(1), UnixMillis(1_700_000_000_000));
        let of = |text: String| limits.take(Ask::Credentials, text.parse().unwrap(), now);
        let tried = (0..200).filter(|n| of(format!("2001:db8:1:{n:x}::1")).is_ok()).count();
        assert_eq!(tried, 60, "one of each network, and no more of all of them");
        assert_eq!(of("2001:db8:2::1".into()), Ok(()), "another site");
        let tried = (0..200).filter(|n| of(format!("198.51.100.{n}")).is_ok()).count();
        assert_eq!(tried, 200, "an IPv4 address stands for itself");
    }

    #[test]
    fn enrolling_is_tried_a_few_times_and_seldom_in_vain() {
        let attempts = Attempts::new(1);
        let from = |text: &str| text.parse::<IpAddr>().unwrap();
        let host = from("2001:db8::1");
        let mut now = UnixMillis(1_700_000_000_000);
        let admitted = (0..15).filter(|_| attempts.admit(host, now)).count();
        assert_eq!(admitted, 10);
        assert!(!attempts.admit(from("2001:db8::2"), now), "the same network");
        for _ in 0..20 {
            now = now.plus(Duration::from_secs(1));
            assert!(attempts.admit(host, now));
            attempts.failed(host, now);
        }
        assert!(!attempts.admit(host, now.plus(Duration::from_secs(10))), "twenty in vain");
        assert!(attempts.admit(from("2001:db8:0:1::1"), now), "another network");
        assert!(attempts.admit(host, now.plus(Duration::from_secs(180))), "one more after a while");
    }

    #[test]
    fn a_proxy_is_known_on_a_socket_for_both_kinds_of_addresses() {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", HeaderValue::from_static("203.0.113.9"));
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let peer = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(caller(peer, &headers, &trusted).to_string(), "203.0.113.9");
    }
}
