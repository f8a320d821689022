//! Takes back what an order did before it failed. Repeatable; what cannot be taken back ends `stuck` with
//! the facts, never silently.

use serde_json::json;

use super::{
    backup::Remark,
    clone::SettleClone,
    configure::Configure,
    context::Cx,
    destroy::{self, Destroy},
    ensure,
    fault::Trouble,
    firstboot::{self, CloudInit},
    power::{NOTE_POWER, Start, Stop},
    repair, rescue,
    saga::{self, Step},
};
use crate::journal::{StepRow, StepState, Verb};

/// What there is to take back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A VM that was being made, before the customer saw it.
    Made,
    /// The same, of a server that is being made anew: its place in the books stays.
    MadeAnew,
    /// A rescue system.
    Rescue,
    /// A restore that came to nothing: the marker, if it had cleared the VM, and the power, if it had not begun.
    Restore,
    /// A destruction that was called and did not go through, of a rebuild or a purge. If it did so all the same its disk may
    /// have stayed; if not, the power of a server that was stopped for it.
    Rebuild,
    /// The power: the server was on, and was stopped for something that did not come about.
    Power,
}

impl Kind {
    /// Every kind.
    #[cfg(test)]
    pub(super) const ALL: [Self; 6] =
        [Self::Made, Self::MadeAnew, Self::Rescue, Self::Restore, Self::Rebuild, Self::Power];

    /// Its steps.
    pub(super) fn steps(self) -> Vec<Box<dyn Step>> {
        match self {
            Self::Made | Self::MadeAnew => {
                let for_good = self == Self::Made;
                vec![Box::new(SettleClone), Box::new(Stop { grace_secs: 0 }), Box::new(Destroy { for_good })]
            }
            Self::Rescue => vec![
                Box::new(rescue::StopIfAttached),
                Box::new(rescue::Detach),
                Box::new(Configure::ServeWithoutRescue),
                Box::new(CloudInit::ServeWithoutRescue),
                Box::new(Start::AsBefore),
            ],
            Self::Restore => vec![Box::new(Remark), Box::new(Start::IfNotRestored)],
            Self::Rebuild => vec![Box::new(Start::IfNotDestroyed)],
            Self::Power => vec![Box::new(Start::AsBefore)],
        }
    }
}

/// What a failed order left that is to be taken back. It depends on the journal alone, so that a restart
/// comes to the same.
pub(super) fn kind(cx: &Cx, verb: Verb, steps: &[StepRow]) -> Option<Kind> {
    let tried = |name: &str| steps.iter().any(|step| step.k > 0 && step.name == name && step.attempt > 0);
    let was_on = steps.iter().filter(|step| step.name == NOTE_POWER).any(|step| {
        let result = step.result_json.as_deref().and_then(|text| serde_json::from_str(text).ok());
        result.is_some_and(|result: serde_json::Value| result["runs"] == json!(true))
    });
    if verb == Verb::Ensure && ensure::creates(cx) {
        let from_before = cx.resource().is_some_and(|row| row.phase == crate::journal::Phase::Creating);
        return (from_before || tried("clone")).then_some(Kind::Made);
    }
    if tried("clone") {
        return Some(Kind::MadeAnew);
    }
    if tried(rescue::ATTACH) {
        return Some(Kind::Rescue);
    }
    if tried("restore") {
        return Some(Kind::Restore);
    }
    if tried(destroy::STEP) {
        let gone = steps.iter().any(|step| step.name == destroy::STEP && step.state == StepState::Done);
        // Also of a server that was off: a disk that stayed is to be told.
        return (!gone).then_some(Kind::Rebuild);
    }
    was_on.then_some(Kind::Power)
}

/// Takes it back. Steps count downwards in the journal.
pub(super) async fn run(cx: &Cx, kind: Kind) -> Result<(), Trouble> {
    saga::run(cx, &kind.steps(), -1).await?;
    if matches!(kind, Kind::Made | Kind::MadeAnew) {
        firstboot::forget(cx);
        repair::withdraw(cx);
    }
    Ok(())
}
