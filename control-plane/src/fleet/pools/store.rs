//! SQL of address pools.

use ez_protocol::{AddressPoolId, UnixMillis};
use ipnet::IpNet;
use sqlx::AnyConnection;

use super::PoolSpec;
use crate::{
    db::{Cols, DbError},
    fleet::pool::Ordinals,
};

pub(super) async fn prefixes(conn: &mut AnyConnection) -> Result<Vec<(IpNet, bool)>, DbError> {
    let rows = sqlx::query("SELECT id, prefix, routed FROM address_pools").fetch_all(conn).await?;
    rows.iter()
        .map(|row| {
            let row = Cols::of("address_pools", row);
            Ok((row.id("prefix")?, row.flag("routed")?))
        })
        .collect()
}

pub(super) async fn put(
    tx: &mut AnyConnection,
    at: UnixMillis,
    id: AddressPoolId,
    spec: &PoolSpec,
    ordinals: Ordinals,
) -> Result<bool, DbError> {
    let dns = serde_json::to_string(&spec.dns).unwrap_or_default();
    // The next ordinal only rises: what was given out is never given out again by a changed range.
    let done = sqlx::query(
        "INSERT INTO address_pools (id, location, bridge, vlan, family, prefix, gateway, dns, routed, first_ordinal,
             next_ordinal, end_ordinal, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10, $11, $12)
         ON CONFLICT (prefix) DO UPDATE SET location = excluded.location, bridge = excluded.bridge,
             vlan = excluded.vlan, gateway = excluded.gateway, dns = excluded.dns,
             first_ordinal = excluded.first_ordinal, end_ordinal = excluded.end_ordinal,
             next_ordinal = CASE WHEN address_pools.next_ordinal < excluded.first_ordinal THEN excluded.first_ordinal
                 ELSE address_pools.next_ordinal END
         WHERE address_pools.location <> excluded.location OR address_pools.bridge <> excluded.bridge
             OR COALESCE(address_pools.vlan, 0) <> COALESCE(excluded.vlan, 0)
             OR address_pools.gateway <> excluded.gateway OR address_pools.dns <> excluded.dns
             OR address_pools.first_ordinal <> excluded.first_ordinal
             OR address_pools.end_ordinal <> excluded.end_ordinal",
    )
    .bind(id.to_string())
    .bind(spec.location.clone())
    .bind(spec.bridge.clone())
    .bind(spec.vlan.map(i64::from))
    .bind(if spec.prefix.addr().is_ipv4() { 4_i64 } else { 6_i64 })
    .bind(spec.prefix.to_string())
    .bind(spec.gateway.to_string())
    .bind(dns)
    .bind(i64::from(spec.routed))
    .bind(ordinals.first)
    .bind(ordinals.end)
    .bind(at.0)
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}
