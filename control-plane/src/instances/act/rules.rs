//! Whether a verb makes sense now. Pure.

use super::{ActError, verb::Verb};
use crate::{
    dispatch::{BackupView, SnapshotView},
    instances::{
        model::{Instance, verb_fits},
        settings::Wishes,
    },
};

/// What is known about a server when something is asked of it.
#[derive(Debug, Clone)]
pub(super) struct Known<'a> {
    pub(super) instance: &'a Instance,
    pub(super) wishes: &'a Wishes,
    pub(super) snapshots: &'a [SnapshotView],
    pub(super) backups: &'a [BackupView],
    /// Word of the action that has not ended.
    pub(super) busy: Option<&'a str>,
}

/// Whether the server can be told so now.
///
/// # Errors
/// The first rule that forbids it.
pub(super) fn check(known: &Known<'_>, verb: &Verb) -> Result<(), ActError> {
    let state = known.instance.state;
    let does_not_fit = || Err(ActError::DoesNotFit { state, verb: verb.kind() });
    if !state.is_live() {
        return does_not_fit();
    }
    if known.wishes.suspension().is_some() && !verb.is_an_operators() {
        return Err(ActError::Suspended);
    }
    if let Some(busy) = known.busy {
        return Err(ActError::Busy(busy.to_owned()));
    }
    if known.wishes.under_way.is_some() {
        return Err(ActError::Busy("a change that its node cannot end by itself".to_owned()));
    }
    // A backup takes the place of a disk, where the machine around it is still there.
    let absent = known.instance.observed_state.as_deref() == Some("absent");
    let brings_a_disk = match verb {
        Verb::Rebuild(_) => true,
        Verb::BackupRestore(_) => !absent,
        _ => false,
    };
    if known.wishes.disk_lost && !brings_a_disk {
        return Err(ActError::NeedsRebuild);
    }
    if let Verb::Power(verb) = verb
        && !verb_fits(*verb, state)
    {
        return does_not_fit();
    }
    let applied = &known.wishes.applied;
    let in_rescue = applied.rescue.is_some();
    if in_rescue && is_about_the_own_system(verb) {
        return Err(ActError::InRescue);
    }
    let snapshot = |name: &str| known.snapshots.iter().any(|snapshot| snapshot.name == name);
    match verb {
        Verb::SnapshotCreate(name) if snapshot(name.as_str()) => Err(ActError::Taken),
        Verb::SnapshotCreate(_) if known.snapshots.len() >= whole(known.instance.max_snapshots) => {
            Err(ActError::TooManySnapshots(known.instance.max_snapshots))
        }
        Verb::SnapshotRollback(name) | Verb::SnapshotDelete(name) if !snapshot(name.as_str()) => {
            Err(ActError::NoSuch("snapshot"))
        }
        Verb::BackupCreate if known.instance.max_backups == 0 => Err(ActError::NotSold),
        Verb::BackupRestore(id) | Verb::BackupDelete(id)
            if !known.backups.iter().any(|backup| backup.order == *id) =>
        {
            Err(ActError::NoSuch("backup"))
        }
        Verb::RescueOn(image) if applied.rescue.as_ref() == Some(image) => Err(ActError::SoAlready),
        Verb::RescueOff if !in_rescue => Err(ActError::SoAlready),
        Verb::IsoAttach(iso) if applied.iso.as_ref() == Some(iso) => Err(ActError::SoAlready),
        Verb::IsoDetach if applied.iso.is_none() => Err(ActError::SoAlready),
        Verb::Firewall(rules) if applied.firewall == *rules => Err(ActError::SoAlready),
        Verb::Rename(name) if known.instance.hostname == name.as_str() => Err(ActError::SoAlready),
        Verb::Tags(tags) if applied.tags == *tags => Err(ActError::SoAlready),
        Verb::Limit(rate) if applied.rate_mbit == *rate => Err(ActError::SoAlready),
        Verb::Filter(on) if applied.unfiltered != *on => Err(ActError::SoAlready),
        _ => Ok(()),
    }
}

/// What would happen to the rescue system instead, or with its disk among the server's.
fn is_about_the_own_system(verb: &Verb) -> bool {
    matches!(
        verb,
        Verb::SnapshotCreate(_)
            | Verb::SnapshotRollback(_)
            | Verb::BackupCreate
            | Verb::BackupRestore(_)
            | Verb::SetPassword(_)
    )
}

fn whole(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
