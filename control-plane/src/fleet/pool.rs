//! The arithmetic of address pools. Pure.
//!
//! A pool hands out addresses by *ordinal*: the place of an address (or, in a routed IPv6 pool, of a
//! /64) counted from the start of the prefix. A pool stores one number, the next ordinal never used;
//! what came back is a row. So a /8 costs no more than a /29.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Pools larger than this hand out only their first part; ordinals stay far from the end of `i64`.
const MOST: i64 = 1 << 40;

/// A pool as an operator describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PoolShape {
    /// The prefix, its host bits zero.
    pub prefix: IpNet,
    /// The gateway servers use; inside the prefix it is never handed out.
    pub gateway: IpAddr,
    /// IPv6 only: each server gets a routed /64 of the prefix instead of one address.
    pub routed: bool,
}

/// What is wrong with a pool's description.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolShapeError {
    /// The prefix has host bits set.
    #[error("{0} has host bits set")]
    HostBits(IpNet),
    /// Gateway and prefix are of different families.
    #[error("the gateway {0} is not of the prefix's family")]
    GatewayFamily(IpAddr),
    /// Only an IPv6 prefix of at most 64 bits can be handed out in /64s.
    #[error("a routed pool is an IPv6 prefix of /64 or shorter")]
    NotRoutable,
    /// An end of the range is outside the pool, or the last comes before the first.
    #[error("{address} is no end of a range inside {prefix}")]
    BadRange {
        /// The pool's prefix.
        prefix: IpNet,
        /// The end that does not fit.
        address: IpAddr,
    },
}

/// Ordinals a pool may hand out: from the first (inclusive) to the end (exclusive).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ordinals {
    /// The first one.
    pub first: i64,
    /// One past the last one.
    pub end: i64,
}

impl PoolShape {
    /// Checks the description.
    ///
    /// # Errors
    /// [`PoolShapeError`] says what does not fit.
    pub(super) fn check(&self) -> Result<(), PoolShapeError> {
        if self.prefix.trunc() != self.prefix {
            return Err(PoolShapeError::HostBits(self.prefix));
        }
        if self.gateway.is_ipv4() != self.prefix.addr().is_ipv4() {
            return Err(PoolShapeError::GatewayFamily(self.gateway));
        }
        if self.routed && (self.prefix.addr().is_ipv4() || self.prefix.prefix_len() > 64) {
            return Err(PoolShapeError::NotRoutable);
        }
        Ok(())
    }

    /// The ordinals from `first` to `last`; without them, those of the whole pool. Network and broadcast
    /// addresses are left out.
    ///
    /// # Errors
    /// [`PoolShapeError::BadRange`] when the range is empty or outside the prefix.
    pub(super) fn ordinals(
        &self,
        first: Option<IpAddr>,
        last: Option<IpAddr>,
    ) -> Result<Ordinals, PoolShapeError> {
        let bits = if self.routed { 64 } else { self.prefix.max_prefix_len() };
        let size = power(bits - self.prefix.prefix_len());
        let all = match self.prefix {
            IpNet::V4(net) if net.prefix_len() >= 31 => Ordinals { first: 0, end: size },
            IpNet::V4(_) => Ordinals { first: 1, end: size - 1 },
            // The subnet-router anycast address is not a host's.
            IpNet::V6(_) if !self.routed && size > 1 => Ordinals { first: 1, end: size },
            IpNet::V6(_) => Ordinals { first: 0, end: size },
        };
        let ordinal = |address: IpAddr| {
            self.ordinal_of(address)
                .filter(|o| (all.first..all.end).contains(o))
                .ok_or(PoolShapeError::BadRange { prefix: self.prefix, address })
        };
        let from = first.map_or(Ok(all.first), ordinal)?;
        let end = last.map_or(Ok(all.end), |last| ordinal(last).map(|o| o + 1))?;
        match last {
            Some(address) if from >= end => Err(PoolShapeError::BadRange { prefix: self.prefix, address }),
            _ => Ok(Ordinals { first: from, end }),
        }
    }

    /// The address (the first one of the /64 in a routed pool) and its prefix length; `None` for the gateway.
    pub(super) fn address(&self, ordinal: i64) -> Option<(IpAddr, u8)> {
        let ordinal = u64::try_from(ordinal).ok()?;
        let address = match self.prefix {
            IpNet::V4(net) => IpAddr::V4(Ipv4Addr::from(
                u32::from(net.network()).checked_add(u32::try_from(ordinal).ok()?)?,
            )),
            IpNet::V6(net) if self.routed => IpAddr::V6(Ipv6Addr::from(
                u128::from(net.network()).checked_add((u128::from(ordinal) << 64) + 1)?,
            )),
            IpNet::V6(net) => {
                IpAddr::V6(Ipv6Addr::from(u128::from(net.network()).checked_add(u128::from(ordinal))?))
            }
        };
        // The agent takes an IPv6 network whose gateway is outside of it for routed to its guest as a whole. In a shared one
        // with such a gateway a guest has its own address and no neighbours but by the gateway.
        let shared_by_a_router = matches!(self.prefix, IpNet::V6(_)) && !self.prefix.contains(&self.gateway);
        let length = match (self.routed, shared_by_a_router) {
            (true, _) => 64,
            (false, true) => 128,
            (false, false) => self.prefix.prefix_len(),
        };
        (self.prefix.contains(&address) && address != self.gateway).then_some((address, length))
    }

    fn ordinal_of(&self, address: IpAddr) -> Option<i64> {
        if !self.prefix.contains(&address) {
            return None;
        }
        let offset = match (self.prefix, address) {
            (IpNet::V4(net), IpAddr::V4(a)) => u128::from(u32::from(a) - u32::from(net.network())),
            (IpNet::V6(net), IpAddr::V6(a)) => u128::from(a) - u128::from(net.network()),
            _ => return None,
        };
        i64::try_from(if self.routed { offset >> 64 } else { offset }).ok()
    }
}

fn power(bits: u8) -> i64 {
    if bits >= 40 { MOST } else { 1_i64 << bits }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn shape(prefix: &str, gateway: &str, routed: bool) -> PoolShape {
        PoolShape { prefix: prefix.parse().unwrap(), gateway: gateway.parse().unwrap(), routed }
    }

    fn all(pool: &PoolShape) -> Vec<String> {
        let ordinals = pool.ordinals(None, None).unwrap();
        (ordinals.first..ordinals.end)
            .filter_map(|o| pool.address(o))
            .map(|(a, l)| format!("{a}/{l}"))
            .collect()
    }

    #[test]
    fn network_broadcast_and_gateway_are_left_out() {
        assert_eq!(
            all(&shape("203.0.113.0/29", "203.0.113.1", false)),
            ["203.0.113.2/29", "203.0.113.3/29", "203.0.113.4/29", "203.0.113.5/29", "203.0.113.6/29"]
        );
        assert_eq!(all(&shape("203.0.113.8/31", "203.0.113.8", false)), ["203.0.113.9/31"]);
    }

    #[test]
    fn a_routed_pool_hands_out_networks() {
        let pool = shape("2001:db8:10::/62", "fe80::1", true);
        assert_eq!(
            all(&pool),
            ["2001:db8:10::1/64", "2001:db8:10:1::1/64", "2001:db8:10:2::1/64", "2001:db8:10:3::1/64"]
        );
    }

    #[test]
    fn in_a_shared_network_each_guest_has_its_own_address_alone() {
        assert_eq!(
            all(&shape("2001:db8:10::/126", "fe80::1", false))[..2],
            ["2001:db8:10::1/128", "2001:db8:10::2/128"]
        );
        assert_eq!(all(&shape("2001:db8:10::/126", "2001:db8:10::1", false))[0], "2001:db8:10::2/126");
    }

    #[test]
    fn a_range_bounds_a_pool() {
        let pool = shape("203.0.113.0/24", "203.0.113.1", false);
        let end = |text: &str| Some(text.parse().unwrap());
        let (first, last) = (end("203.0.113.10"), end("203.0.113.12"));
        assert_eq!(pool.ordinals(first, last), Ok(Ordinals { first: 10, end: 13 }));
        assert_eq!(pool.ordinals(first, None), Ok(Ordinals { first: 10, end: 255 }));
        assert!(pool.ordinals(last, first).is_err());
        assert!(pool.ordinals(first, end("203.0.114.1")).is_err());
    }

    #[test]
    fn wrong_shapes_are_named() {
        assert!(matches!(
            shape("203.0.113.1/24", "203.0.113.1", false).check(),
            Err(PoolShapeError::HostBits(_))
        ));
        assert!(matches!(
            shape("203.0.113.0/24", "fe80::1", false).check(),
            Err(PoolShapeError::GatewayFamily(_))
        ));
        assert_eq!(shape("2001:db8::/80", "fe80::1", true).check(), Err(PoolShapeError::NotRoutable));
    }

    proptest! {
        #[test]
        fn addresses_are_inside_and_differ(a in any::<u32>(), len in 20_u8..=32) {
            let prefix = ipnet::Ipv4Net::new(a.into(), len).unwrap().trunc();
            let pool = PoolShape { prefix: prefix.into(), gateway: prefix.network().into(), routed: false };
            let ordinals = pool.ordinals(None, None).unwrap();
            let given: Vec<_> = (ordinals.first..ordinals.end).filter_map(|o| pool.address(o)).collect();
            let distinct: BTreeSet<_> = given.iter().collect();
            prop_assert_eq!(distinct.len(), given.len());
            let inside = |a: &IpAddr| matches!(a, IpAddr::V4(v4) if prefix.contains(v4));
            prop_assert!(given.iter().all(|(a, _)| inside(a)));
            prop_assert!(given.iter().all(|(a, _)| *a != pool.gateway));
        }
    }
}
