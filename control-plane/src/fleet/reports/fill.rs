//! Alarms of storages and thin pools that fill up. A thin pool whose data or metadata is full stops every VM on it.

use std::collections::BTreeSet;

use ez_protocol::UnixMillis;
use sqlx::AnyConnection;

use crate::{
    db::DbError,
    fleet::{
        alarms,
        model::{Severity, StorageView, ThinPoolView},
        nodes::NodeRow,
    },
};

/// Somebody should make room.
const WARNING: u64 = 850;
/// Somebody should make room now.
const CRITICAL: u64 = 950;
/// An alarm ends only this far below, so that it does not ring at every file.
const SLACK: u64 = 20;

/// Word of the alarms.
const KIND: &str = "storage_fills";

/// A thing that can be full.
struct Vessel {
    /// What people call it.
    name: String,
    permille: u64,
}

/// Raises, changes and ends the alarms of a node.
pub(super) async fn watch(
    tx: &mut AnyConnection,
    at: UnixMillis,
    node: &NodeRow,
    storages: &[StorageView],
    pools: &[ThinPoolView],
) -> Result<(), DbError> {
    let vessels = vessels(storages, pools);
    let open = alarms::open_about(tx, KIND, node.id).await?;
    for vessel in &vessels {
        let subject = format!("{}: {}", node.name, vessel.name);
        let before = open.iter().find(|alarm| alarm.subject == subject).map(|alarm| alarm.severity);
        match severity(vessel.permille, before) {
            Some(severity) if before != Some(severity) => {
                let percent = vessel.permille / 10;
                let detail = format!(
                    "{} of {} is {percent} % full. Make it larger, or move or remove what is on it; new servers are \
                     better kept away until then.",
                    vessel.name, node.name
                );
                let alarm = alarms::New {
                    kind: KIND,
                    subject: &subject,
                    severity,
                    node: Some(node.id),
                    detail: &detail,
                };
                alarms::raise(tx, at, alarm).await?;
            }
            Some(_) => {}
            None if before.is_some() => alarms::clear(tx, at, KIND, &subject).await?,
            None => {}
        }
    }
    // What the node does not tell of any more cannot be full.
    let told: BTreeSet<String> = vessels.iter().map(|v| format!("{}: {}", node.name, v.name)).collect();
    for gone in open.iter().filter(|alarm| !told.contains(&alarm.subject)) {
        alarms::clear(tx, at, KIND, &gone.subject).await?;
    }
    Ok(())
}

fn vessels(storages: &[StorageView], pools: &[ThinPoolView]) -> Vec<Vessel> {
    let storages = storages.iter().filter(|s| s.total_mib > 0).map(|s| Vessel {
        name: format!("storage {}", s.id),
        permille: s.used_mib.min(s.total_mib).saturating_mul(1_000) / s.total_mib,
    });
    let pools = pools.iter().flat_map(|p| {
        let part = |what: &str, permille: u32| Vessel {
            name: format!("{what} of thin pool {}", p.name),
            permille: u64::from(permille),
        };
        [part("data", p.data_permille), part("metadata", p.metadata_permille)]
    });
    storages.chain(pools).collect()
}

/// What is right now, after what was.
fn severity(permille: u64, before: Option<Severity>) -> Option<Severity> {
    let from = |limit: u64, held: bool| limit - if held { SLACK } else { 0 };
    if permille >= from(CRITICAL, before == Some(Severity::Critical)) {
        Some(Severity::Critical)
    } else if permille >= from(WARNING, before.is_some()) {
        Some(Severity::Warning)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_begins_at_its_limit_and_ends_a_little_below() {
        use Severity::{Critical, Warning};
        for (permille, before, after) in [
            (849, None, None),
            (850, None, Some(Warning)),
            (831, Some(Warning), Some(Warning)),
            (829, Some(Warning), None),
            (950, Some(Warning), Some(Critical)),
            (949, None, Some(Warning)),
            (931, Some(Critical), Some(Critical)),
            (900, Some(Critical), Some(Warning)),
            (100, Some(Critical), None),
        ] {
            assert_eq!(severity(permille, before), after, "{permille} after {before:?}");
        }
    }

    #[test]
    fn a_pool_has_two_ways_to_be_full_and_a_storage_of_no_size_none() {
        let storage =
            |total_mib| StorageView { id: "a".into(), kind: "dir".into(), total_mib, used_mib: 900 };
        let pool = ThinPoolView {
            name: "pve/data".into(),
            total_mib: 9,
            data_permille: 100,
            metadata_permille: 960,
        };
        let seen: Vec<_> = vessels(&[storage(1_000), storage(0)], &[pool])
            .into_iter()
            .map(|v| (v.name, v.permille))
            .collect();
        let wanted = [
            ("storage a", 900),
            ("data of thin pool pve/data", 100),
            ("metadata of thin pool pve/data", 960),
        ];
        assert_eq!(seen, wanted.map(|(name, permille)| (name.to_owned(), permille)));
    }
}
