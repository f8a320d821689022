//! What the timeline and the API tell of an order: named steps, each with its time.

use std::time::Duration;

use ez_protocol::UnixMillis;
use sqlx::AnyConnection;

use super::model::{Order, OrderState};
use crate::{
    db::DbError,
    dispatch::{ProvisioningRecord, State},
    instances::{self, Instance, Progress, StepProgress, Story},
};

/// The steps before the node's own, by the names the texts know.
const PAID: &str = "paid";
const PLACED: &str = "placed";
const SIGNED: &str = "signed";
const ACCEPTED: &str = "accepted";

/// The last step of a build, and its name when it is over and the guest said nothing.
const AWAIT_USABLE: &str = "await_usable";
const UNCONFIRMED: &str = "started_unconfirmed";

/// The node's steps as they are shown before it has said anything.
const BUILD: [&str; 8] =
    ["clone", "configure", "resize", "cloud_init", "firewall", "start", "start_on_boot", "await_usable"];

/// An order's story so far.
pub(super) struct Timeline {
    pub(super) steps: Vec<StepProgress>,
}

/// Tells an order's story.
pub(super) async fn tell(
    connection: &mut AnyConnection,
    order: &Order,
    instance: &Instance,
) -> Result<Timeline, DbError> {
    let told = match instance.provisioning_order {
        Some(id) => instances::progress_of(connection, id).await?,
        None => None,
    };
    Ok(from_told(order, instance, told))
}

/// Tells a story whose provisioning order was read before.
pub(super) fn from_told(order: &Order, instance: &Instance, told: Option<Story>) -> Timeline {
    // After the end of a server its order of building is not the newest any more; the story is over then.
    let told = told.filter(|(record, _)| record.verb == "ensure");
    let (record, build) = match told {
        Some((record, steps)) => (Some(record), steps),
        None => (None, Vec::new()),
    };
    let steps = compose(order, instance, record.as_ref(), build);
    Timeline { steps }
}

fn compose(
    order: &Order,
    instance: &Instance,
    record: Option<&ProvisioningRecord>,
    build: Vec<StepProgress>,
) -> Vec<StepProgress> {
    let done = |name: &str, at: Option<UnixMillis>| step(name, Progress::Done, at);
    let fulfilled = order.state == OrderState::Fulfilled;
    let mut steps = Vec::with_capacity(11);
    steps.push(match order.paid_at {
        Some(at) => done(PAID, Some(at)),
        None => step(PAID, Progress::Waiting, None),
    });
    steps.push(match instance.assigned_at.filter(|_| instance.node.is_some() || fulfilled) {
        Some(at) => done(PLACED, Some(at)),
        None => step(PLACED, Progress::Waiting, None),
    });
    steps.push(match record {
        Some(record) => done(SIGNED, Some(record.issued_at)),
        None if fulfilled => done(SIGNED, None),
        None => step(SIGNED, Progress::Waiting, None),
    });
    steps.push(match record.map(|record| (record.accepted_at, record)) {
        Some((Some(at), record)) => {
            let mut accepted = done(ACCEPTED, Some(at));
            accepted.started_at = Some(record.issued_at);
            accepted.ended_at = Some(at);
            accepted
        }
        Some((None, record)) if record.state == State::Refused => {
            let mut refused = step(ACCEPTED, Progress::Failed, record.finished_at);
            refused.note = Some(instances::failure_in_words(record).words.to_owned());
            refused
        }
        Some((None, record)) if record.state == State::Succeeded => done(ACCEPTED, record.finished_at),
        None if fulfilled => done(ACCEPTED, None),
        _ => step(ACCEPTED, Progress::Waiting, None),
    });
    if build.is_empty() {
        let as_it_is = if fulfilled { Progress::Done } else { Progress::Waiting };
        steps.extend(BUILD.into_iter().map(|name| step(name, as_it_is, None)));
    } else {
        steps.extend(build);
    }
    let unseen = record.is_some_and(|record| {
        record.state == State::Succeeded && !record.facts.as_ref().is_some_and(|facts| facts.confirmed)
    });
    if unseen && let Some(last) = steps.iter_mut().find(|step| step.name == AWAIT_USABLE) {
        UNCONFIRMED.clone_into(&mut last.name);
    }
    mark_current(order, &mut steps);
    steps
}

/// The first step that is neither done nor failed is the current one while the order goes on; nothing follows when it does not.
fn mark_current(order: &Order, steps: &mut [StepProgress]) {
    let ended = matches!(
        order.state,
        OrderState::Cancelled | OrderState::Expired | OrderState::Refunded | OrderState::Refunding
    );
    if ended {
        for step in steps.iter_mut().filter(|step| matches!(step.progress, Progress::Waiting | Progress::Now))
        {
            step.progress = Progress::Skipped;
        }
        return;
    }
    if order.state == OrderState::NeedsOperator {
        if !steps.iter().any(|step| step.progress == Progress::Failed)
            && let Some(step) =
                steps.iter_mut().find(|step| matches!(step.progress, Progress::Waiting | Progress::Now))
        {
            step.progress = Progress::Failed;
        }
        return;
    }
    let going =
        matches!(order.state, OrderState::AwaitingPayment | OrderState::Paid | OrderState::Provisioning);
    if going
        && !steps.iter().any(|step| step.progress == Progress::Now)
        && let Some(step) = steps.iter_mut().find(|step| step.progress == Progress::Waiting)
    {
        step.progress = Progress::Now;
    }
}

fn step(name: &str, progress: Progress, at: Option<UnixMillis>) -> StepProgress {
    StepProgress {
        name: name.to_owned(),
        progress,
        started_at: None,
        ended_at: at,
        percent: None,
        note: None,
        queue: None,
    }
}

/// How long a step took, where both ends are known.
pub(super) fn took_ms(step: &StepProgress) -> Option<u64> {
    step.took().filter(|took| *took > Duration::ZERO).and_then(|took| u64::try_from(took.as_millis()).ok())
}
