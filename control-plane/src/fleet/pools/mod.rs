//! Locations and address pools from the operator's file.
//!
//! `apply` is idempotent: what is there stays, what is new is added. A pool's prefix is its name; its
//! gateway, name servers, bridge and range may change, its family and routing may not.

mod store;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use ez_protocol::{AddressPoolId, UnixMillis};
use ipnet::IpNet;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;
use sqlx::AnyConnection;

use super::{
    model::Location,
    nodes,
    pool::{PoolShape, PoolShapeError},
};
use crate::{
    audit,
    db::DbError,
    entropy::{Entropy, EntropyExt as _},
};

/// A location in the file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocationSpec {
    /// Short code, such as `fsn`: lower-case letters, digits, hyphens.
    pub code: String,
    /// Name for people.
    pub name: String,
    /// ISO country code.
    #[serde(default)]
    pub country: String,
}

/// An address pool in the file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolSpec {
    /// Code of its location.
    pub location: String,
    /// Bridge on the hosts.
    pub bridge: String,
    /// VLAN tag.
    #[serde(default)]
    pub vlan: Option<u16>,
    /// Prefix, host bits zero.
    pub prefix: IpNet,
    /// Gateway.
    pub gateway: IpAddr,
    /// Name servers.
    #[serde(default)]
    pub dns: Vec<IpAddr>,
    /// First address to give out; the whole prefix without it.
    #[serde(default)]
    pub first: Option<IpAddr>,
    /// Last address to give out.
    #[serde(default)]
    pub last: Option<IpAddr>,
    /// IPv6 only: each server gets a routed /64.
    #[serde(default)]
    pub routed: bool,
}

/// Why the file cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// An entry misses something, or has something unknown.
    #[error("{what} number {number}: {reason}")]
    Unreadable {
        /// `locations` or `address_pools`.
        what: &'static str,
        /// Counted from 1.
        number: usize,
        /// Why.
        reason: String,
    },
    /// A code is no code.
    #[error("location {0:?}: a code is 1 to 20 lower-case letters, digits and hyphens")]
    BadCode(String),
    /// A pool's location does not exist.
    #[error("pool {prefix}: there is no location {location}")]
    UnknownLocation {
        /// The pool.
        prefix: IpNet,
        /// The missing location.
        location: String,
    },
    /// A pool's numbers do not fit.
    #[error("pool {prefix}: {source}")]
    Shape {
        /// The pool.
        prefix: IpNet,
        /// What does not fit.
        source: PoolShapeError,
    },
    /// Two pools share addresses.
    #[error("pool {prefix} overlaps {other}")]
    Overlap {
        /// The pool.
        prefix: IpNet,
        /// The other one.
        other: IpNet,
    },
    /// What cannot be changed once addresses were given out.
    #[error("pool {0}: whether it is routed cannot change")]
    Fixed(IpNet),
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// One thing that was changed, for the operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// `location` or `address_pool`.
    pub kind: &'static str,
    /// Code or prefix.
    pub name: String,
}

/// Adds or changes the `[[locations]]` and `[[address_pools]]` of a file; what is not in it stays as it is.
///
/// # Errors
/// [`ApplyError`] names the entry; nothing was changed.
pub async fn apply(
    tx: &mut AnyConnection,
    at: UnixMillis,
    entropy: &dyn Entropy,
    locations: &[toml::Value],
    pools: &[toml::Value],
) -> Result<Vec<Change>, ApplyError> {
    let locations = read_all("locations", locations)?;
    let pools = read_all("address_pools", pools)?;
    put_all(tx, at, entropy, &locations, &pools).await
}

fn read_all<T: DeserializeOwned>(what: &'static str, entries: &[toml::Value]) -> Result<Vec<T>, ApplyError> {
    let read = |(index, entry): (usize, &toml::Value)| {
        entry.clone().try_into().map_err(|e: toml::de::Error| ApplyError::Unreadable {
            what,
            number: index + 1,
            reason: e.message().to_owned(),
        })
    };
    entries.iter().enumerate().map(read).collect()
}

/// The same for entries that were read already.
///
/// # Errors
/// [`ApplyError`] names the entry; nothing was changed.
pub async fn put_all(
    tx: &mut AnyConnection,
    at: UnixMillis,
    entropy: &dyn Entropy,
    locations: &[LocationSpec],
    pools: &[PoolSpec],
) -> Result<Vec<Change>, ApplyError> {
    let mut changes = Vec::new();
    for spec in locations {
        if !is_code(&spec.code) {
            return Err(ApplyError::BadCode(spec.code.clone()));
        }
        let location =
            Location { code: spec.code.clone(), name: spec.name.clone(), country: spec.country.clone() };
        if nodes::put_location(tx, at, &location).await? {
            changes.push(Change { kind: "location", name: spec.code.clone() });
        }
    }
    let known = nodes::locations(tx).await?;
    for spec in pools {
        if !known.iter().any(|l| l.code == spec.location) {
            let location = spec.location.clone();
            return Err(ApplyError::UnknownLocation { prefix: spec.prefix, location });
        }
        if put_pool(tx, at, entropy, spec).await? {
            changes.push(Change { kind: "address_pool", name: spec.prefix.to_string() });
        }
    }
    for change in &changes {
        let entry = audit::Entry {
            actor: "operator".to_owned(),
            action: format!("{}.applied", change.kind),
            subject_kind: change.kind.to_owned(),
            subject_id: change.name.clone(),
            detail: json!({}),
        };
        audit::record(tx, at, entry).await?;
    }
    Ok(changes)
}

async fn put_pool(
    tx: &mut AnyConnection,
    at: UnixMillis,
    entropy: &dyn Entropy,
    spec: &PoolSpec,
) -> Result<bool, ApplyError> {
    let shape = PoolShape { prefix: spec.prefix, gateway: spec.gateway, routed: spec.routed };
    let wrong = |source| ApplyError::Shape { prefix: spec.prefix, source };
    shape.check().map_err(wrong)?;
    let ordinals = shape.ordinals(spec.first, spec.last).map_err(wrong)?;
    for (other, routed) in store::prefixes(tx).await? {
        if other == spec.prefix {
            if routed != spec.routed {
                return Err(ApplyError::Fixed(spec.prefix));
            }
        } else if other.contains(&spec.prefix) || spec.prefix.contains(&other) {
            return Err(ApplyError::Overlap { prefix: spec.prefix, other });
        }
    }
    let id = AddressPoolId::generate(at, entropy.bytes());
    Ok(store::put(tx, at, id, spec, ordinals).await?)
}

fn is_code(code: &str) -> bool {
    (1..=20).contains(&code.len())
        && code.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}
