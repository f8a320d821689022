//! A change of settings: from the order that carries it to what came of it.

use ez_protocol::{ProvisioningOrderId, UnixMillis, input::Hostname};
use serde_json::json;
use sqlx::AnyConnection;

use super::{Settings, Wishes, store};
use crate::{
    audit,
    db::DbError,
    dispatch::{self, ProvisioningRecord, State},
    instances::{kept, model::Instance, resize, store as instances_store},
};

/// Remembers that an order is on its way that makes a server be like this.
pub(in crate::instances) async fn begin(
    tx: &mut AnyConnection,
    at: UnixMillis,
    instance: &Instance,
    wishes: Wishes,
    order: ProvisioningOrderId,
    settings: &Settings,
) -> Result<(), DbError> {
    store::insert_change(tx, order, instance.id, settings).await?;
    let builds = wishes.builds.max(settings.build);
    store::put(tx, at, instance.id, &Wishes { under_way: Some(order), builds, ..wishes }).await
}

/// Takes over what came of an order that changes settings. Idempotent, and in any order with others.
pub(in crate::instances) async fn came_to(
    tx: &mut AnyConnection,
    at: UnixMillis,
    record: &ProvisioningRecord,
    instance: &Instance,
    settings: Settings,
) -> Result<(), DbError> {
    let before = super::wishes(tx, instance).await?;
    let after = after(before.clone(), record, &settings);
    if after == before {
        return Ok(());
    }
    store::put(tx, at, instance.id, &after).await?;
    if after.applied.build > before.applied.build {
        let host_keys = record.facts.as_ref().map(|facts| facts.host_keys.clone()).unwrap_or_default();
        instances_store::put_image(tx, at, instance.id, &settings.image, &host_keys).await?;
    }
    if let Some(size) = settings.size.as_ref().filter(|_| after.applied.size != before.applied.size) {
        resize::applied(tx, at, instance, size).await?;
    }
    if let Some(name) = after.applied.hostname.as_ref().filter(|name| name.as_str() != instance.hostname) {
        renamed(tx, at, instance, name).await?;
    }
    // Snapshots are of a disk, and this one is gone.
    if after.applied.build > before.applied.build || after.disk_lost {
        kept::forget_snapshots(tx, at, instance.id, record.seq).await?;
    }
    Ok(())
}

/// The node has given a server another name.
async fn renamed(
    tx: &mut AnyConnection,
    at: UnixMillis,
    instance: &Instance,
    name: &Hostname,
) -> Result<(), DbError> {
    instances_store::put_hostname(tx, at, instance.id, name).await?;
    let entry = audit::Entry {
        actor: "system".to_owned(),
        action: "instance.renamed".to_owned(),
        subject_kind: "instance".to_owned(),
        subject_id: instance.id.to_string(),
        detail: json!({ "from": instance.hostname, "to": name.as_str() }),
    };
    audit::record(tx, at, entry).await
}

/// Takes over what an action says of the server's disk: a restore that failed half way has thrown the old one away, and
/// one that worked out has brought another.
pub(in crate::instances) async fn disk_seen(
    tx: &mut AnyConnection,
    at: UnixMillis,
    record: &ProvisioningRecord,
    instance: &Instance,
) -> Result<(), DbError> {
    let Some(facts) = record.facts.as_ref().filter(|_| record.state.is_final()) else { return Ok(()) };
    let lost = facts.disk_missing;
    let restored = record.verb == "backup_restore" && record.state == State::Succeeded;
    let before = super::wishes(tx, instance).await?;
    if before.disk_lost == lost || !(lost || restored) {
        return Ok(());
    }
    // A late word about what another order has made good since.
    let knows_better = |other: &ProvisioningRecord| other.seq > record.seq && other.state == State::Succeeded;
    if dispatch::history_of(tx, instance.id).await?.iter().any(knows_better) {
        return Ok(());
    }
    store::put(tx, at, instance.id, &Wishes { disk_lost: lost, ..before }).await
}

/// What holds after a report.
fn after(mut wishes: Wishes, record: &ProvisioningRecord, settings: &Settings) -> Wishes {
    let current = wishes.under_way == Some(record.id);
    let newer = record.generation > wishes.generation;
    match record.state {
        State::Succeeded => {
            if newer {
                let rebuilt = settings.build > wishes.applied.build;
                wishes.applied = settings.clone();
                wishes.generation = record.generation;
                wishes.restart_needed =
                    record.facts.as_ref().is_some_and(|facts| facts.restart_needed) && !rebuilt;
                wishes.disk_lost = wishes.disk_lost && !rebuilt;
            }
            if current {
                wishes.under_way = None;
            }
        }
        // A person on the host looks at it, and the order may go on: until then nothing else is begun.
        State::Stuck => {}
        state if state.is_final() => {
            let absent = record.facts.as_ref().is_some_and(|facts| facts.power == "absent");
            let missing = record.facts.as_ref().is_some_and(|facts| facts.disk_missing);
            if newer && (missing || absent && settings.build > wishes.applied.build) {
                wishes.disk_lost = true;
            }
            if current {
                wishes.under_way = None;
            }
        }
        // It had been given up, and the node has taken it all the same.
        State::Accepted | State::Running if wishes.under_way.is_none() && newer => {
            wishes.under_way = Some(record.id);
        }
        _ => {}
    }
    wishes
}

#[cfg(test)]
mod tests {
    use ez_protocol::{InstanceId, NodeId};
    use proptest::prelude::*;

    use super::*;
    use crate::{
        dispatch::FactsView,
        instances::settings::{ImageChoice, Suspension},
    };

    fn settings(build: u32, tag: &str) -> Settings {
        Settings {
            build,
            image: ImageChoice { code: "d".into(), digest: "sha256:0".into(), login_user: "root".into() },
            rescue: None,
            iso: None,
            tags: vec![tag.parse().unwrap()],
            firewall: None,
            suspended: false,
            size: None,
            hostname: None,
            rate_mbit: None,
            unfiltered: false,
        }
    }

    fn record(n: u128, state: State, power: &str) -> ProvisioningRecord {
        let id = uuid::Uuid::from_u128(n);
        let facts = FactsView { power: power.into(), restart_needed: true, ..FactsView::default() };
        ProvisioningRecord {
            id: ProvisioningOrderId::from_uuid(id),
            node: NodeId::from_uuid(id),
            epoch: 1,
            seq: u64::try_from(n).unwrap(),
            instance: InstanceId::from_uuid(id),
            vmid: 100,
            generation: u64::try_from(n).unwrap(),
            verb: "ensure".into(),
            order: None,
            actor: "system".into(),
            state,
            step: None,
            refusal: None,
            detail: None,
            class: None,
            facts: Some(facts),
            issued_at: UnixMillis(0),
            expires_at: UnixMillis(1),
            queued_at: None,
            accepted_at: None,
            finished_at: None,
            attempts: 1,
        }
    }

    fn wishes(under_way: Option<u128>) -> Wishes {
        Wishes {
            applied: settings(0, "sold"),
            generation: 1,
            under_way: under_way.map(|n| ProvisioningOrderId::from_uuid(uuid::Uuid::from_u128(n))),
            builds: 1,
            disk_lost: false,
            restart_needed: false,
            suspension: None::<Suspension>,
        }
    }

    #[test]
    fn what_ends_without_success_leaves_what_held_before() {
        for state in [State::Failed, State::Undone, State::Refused, State::Expired, State::Superseded] {
            let left = after(wishes(Some(2)), &record(2, state, "running"), &settings(0, "new"));
            assert_eq!(left, wishes(None), "{state}");
        }
        let stuck = after(wishes(Some(2)), &record(2, State::Stuck, "running"), &settings(0, "new"));
        assert_eq!(stuck, wishes(Some(2)), "a person may let it go on");
    }

    #[test]
    fn a_rebuild_that_threw_the_disk_away_says_so_until_one_works_out() {
        let lost = after(wishes(Some(2)), &record(2, State::Undone, "absent"), &settings(1, "new"));
        assert!(lost.disk_lost && lost.under_way.is_none());
        assert_eq!(lost.applied, settings(0, "sold"));
        let again = after(lost, &record(3, State::Succeeded, "running"), &settings(2, "new"));
        assert!(!again.disk_lost);
        assert_eq!(again.applied, settings(2, "new"));
    }

    #[test]
    fn an_order_that_was_given_up_and_lives_is_under_way_again() {
        let given_up = after(wishes(Some(2)), &record(2, State::Expired, ""), &settings(0, "new"));
        let lives = after(given_up, &record(2, State::Running, ""), &settings(0, "new"));
        assert_eq!(lives, wishes(Some(2)));
    }

    proptest! {
        /// Reports come late, twice and in any order: the newest success holds.
        #[test]
        fn whatever_the_order_of_reports_the_newest_success_holds(
            ends in prop::collection::vec(0..4_usize, 1..6),
            order in prop::collection::vec(0..6_usize, 0..24),
        ) {
            let states = [State::Succeeded, State::Undone, State::Expired, State::Refused];
            let tell = |wishes: Wishes, at: usize| {
                let n = u128::try_from(at + 2).unwrap();
                after(wishes, &record(n, states[ends[at]], "running"), &settings(0, &format!("t{at}")))
            };
            let mut held = wishes(None);
            for at in order.iter().map(|at| at % ends.len()).chain(0..ends.len()) {
                held = tell(held, at);
            }
            let newest = ends.iter().rposition(|end| *end == 0);
            let wanted = newest.map_or(settings(0, "sold"), |at| settings(0, &format!("t{at}")));
            prop_assert_eq!(held.applied, wanted);
            prop_assert_eq!(held.under_way, None);
        }
    }
}
