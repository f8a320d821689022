//! What the timeline and the API show of a provisioning order: named steps with times.

use std::{collections::BTreeMap, time::Duration};

use ez_protocol::{ProvisioningOrderId, UnixMillis};
use sqlx::AnyConnection;

use super::{settings, told};
use crate::{
    db::{DbError, MANY},
    dispatch::{self, EventRecord, ProvisioningRecord, QueueView, State},
};

/// The steps of building a server, as the node agent names them.
const CREATE_STEPS: [&str; 8] =
    ["clone", "configure", "resize", "cloud_init", "firewall", "start", "start_on_boot", "await_usable"];

/// How a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Not begun.
    Waiting,
    /// Being done.
    Now,
    /// Done.
    Done,
    /// Failed.
    Failed,
    /// Never begun, because the order ended before.
    Skipped,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepProgress {
    /// Its name, such as `clone`.
    pub name: String,
    /// How it stands.
    pub progress: Progress,
    /// When it began, by the node's clock.
    pub started_at: Option<UnixMillis>,
    /// When it ended, by the node's clock.
    pub ended_at: Option<UnixMillis>,
    /// How far it is, 0–100.
    pub percent: Option<u32>,
    /// What is to be said about one that failed, in a customer's words.
    pub note: Option<String>,
    /// Where it waits for its turn on its node.
    pub queue: Option<QueueView>,
}

impl StepProgress {
    /// How long it took.
    pub fn took(&self) -> Option<Duration> {
        Some(self.ended_at?.since(self.started_at?))
    }
}

/// A provisioning order with its steps.
pub type Story = (ProvisioningRecord, Vec<StepProgress>);

/// The steps of a provisioning order as its events tell them.
///
/// # Errors
/// Those of the query.
pub async fn progress_of(
    connection: &mut AnyConnection,
    id: ProvisioningOrderId,
) -> Result<Option<Story>, DbError> {
    let Some(record) = dispatch::show(connection, id).await? else { return Ok(None) };
    let events = dispatch::events_of(connection, id).await?;
    let changes = record.verb == "ensure" && settings::store::change(connection, id).await?.is_some();
    Ok(Some(story(record, &events, changes)))
}

/// The same of several orders, those that there are: a few statements for each [`MANY`] of them.
///
/// # Errors
/// Those of the queries.
pub async fn progress_of_all(
    connection: &mut AnyConnection,
    ids: &[ProvisioningOrderId],
) -> Result<BTreeMap<ProvisioningOrderId, Story>, DbError> {
    let mut all = BTreeMap::new();
    // Events are many; only those of one part are held at a time.
    for some in ids.chunks(MANY) {
        let changing = settings::store::changing(connection, some).await?;
        let told = dispatch::told_of(connection, some).await?.into_iter();
        all.extend(told.map(|(id, (record, events))| (id, story(record, &events, changing.contains(&id)))));
    }
    Ok(all)
}

fn story(record: ProvisioningRecord, events: &[EventRecord], changes: bool) -> Story {
    // An order that changes a server does what is needed; which steps that are, its node knows.
    let builds = record.verb == "ensure" && !changes;
    let expected: &[&str] = if builds { &CREATE_STEPS } else { &[] };
    let steps = fold(&record, events, expected);
    (record, steps)
}

fn fold(record: &ProvisioningRecord, events: &[EventRecord], expected: &[&str]) -> Vec<StepProgress> {
    let empty = |name: &str| StepProgress {
        name: name.to_owned(),
        progress: Progress::Waiting,
        started_at: None,
        ended_at: None,
        percent: None,
        note: None,
        queue: None,
    };
    let mut steps: Vec<StepProgress> = expected.iter().map(|name| empty(name)).collect();
    for event in events {
        let Some(name) = event.step.as_deref().filter(|name| !name.is_empty()) else { continue };
        let at = steps.iter().position(|step| step.name == name).unwrap_or_else(|| {
            steps.push(empty(name));
            steps.len() - 1
        });
        let Some(step) = steps.get_mut(at) else { continue };
        // Whatever is told next, it waits no longer or at another place.
        step.queue = event.queue;
        match event.kind.as_str() {
            "step_started" => {
                step.progress = Progress::Now;
                step.started_at = Some(event.at);
                step.ended_at = None;
            }
            "step_progress" => step.percent = event.percent,
            "step_done" => {
                step.progress = Progress::Done;
                step.started_at = step.started_at.or(Some(event.at));
                step.ended_at = Some(event.at);
                step.percent = None;
            }
            "step_failed" => {
                step.progress = Progress::Failed;
                step.ended_at = Some(event.at);
            }
            _ => {}
        }
    }
    if record.state.is_final() {
        for step in &mut steps {
            step.queue = None;
            step.progress = match (step.progress, record.state) {
                // Steps the node had nothing to do for are not reported.
                (Progress::Waiting | Progress::Now, State::Succeeded) => Progress::Done,
                (Progress::Waiting, _) => Progress::Skipped,
                (Progress::Now, _) => Progress::Failed,
                (other, _) => other,
            };
            // The node's own words are for operators, on the order's page.
            step.note = (step.progress == Progress::Failed).then(|| told::about(record).words.to_owned());
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use ez_protocol::{InstanceId, NodeId};

    use super::*;

    fn record(state: State) -> ProvisioningRecord {
        let uuid = uuid::Uuid::from_u128(7);
        ProvisioningRecord {
            id: ProvisioningOrderId::from_uuid(uuid),
            node: NodeId::from_uuid(uuid),
            epoch: 1,
            seq: 1,
            instance: InstanceId::from_uuid(uuid),
            vmid: 100,
            generation: 1,
            verb: "ensure".into(),
            order: None,
            actor: "system".into(),
            state,
            step: None,
            refusal: None,
            detail: None,
            class: None,
            facts: None,
            issued_at: UnixMillis(0),
            expires_at: UnixMillis(1),
            queued_at: None,
            accepted_at: None,
            finished_at: None,
            attempts: 1,
        }
    }

    fn event(kind: &str, step: &str, at: i64) -> EventRecord {
        EventRecord {
            event_seq: 1,
            kind: kind.into(),
            step: Some(step.into()),
            detail: Some("detail".into()),
            percent: None,
            queue: None,
            at: UnixMillis(at),
        }
    }

    #[test]
    fn steps_carry_times_and_the_current_one_moves() {
        let events = [
            event("step_started", "clone", 10),
            event("step_done", "clone", 3_110),
            event("step_started", "configure", 3_111),
        ];
        let steps = fold(&record(State::Running), &events, &CREATE_STEPS);
        assert_eq!(steps.len(), CREATE_STEPS.len());
        assert_eq!(
            (steps[0].progress, steps[0].took()),
            (Progress::Done, Some(Duration::from_millis(3_100)))
        );
        assert_eq!(steps[1].progress, Progress::Now);
        assert_eq!(steps[2].progress, Progress::Waiting);
    }

    #[test]
    fn a_step_that_waits_says_where_until_its_turn_comes() {
        let place = |position| Some(QueueView { position, estimate_secs: Some(40) });
        let waits =
            |at, position| EventRecord { queue: place(position), ..event("step_progress", "clone", at) };
        let mut events = vec![waits(10, 3), waits(20, 2)];
        let steps = fold(&record(State::Running), &events, &CREATE_STEPS);
        assert_eq!((steps[0].progress, steps[0].queue), (Progress::Waiting, place(2)));
        events.push(event("step_started", "clone", 30));
        let steps = fold(&record(State::Running), &events, &CREATE_STEPS);
        assert_eq!((steps[0].progress, steps[0].queue), (Progress::Now, None));
    }

    #[test]
    fn an_end_leaves_no_step_undecided() {
        let events = [event("step_started", "clone", 10), event("step_failed", "clone", 20)];
        let failed = fold(&record(State::Undone), &events, &CREATE_STEPS);
        assert_eq!(failed[0].progress, Progress::Failed);
        let note = failed[0].note.as_deref().unwrap();
        assert!(note.contains("Try again") && !note.contains("detail"), "{note}");
        assert!(failed[1..].iter().all(|step| step.progress == Progress::Skipped));
        let done = fold(&record(State::Succeeded), &[], &CREATE_STEPS);
        assert!(done.iter().all(|step| step.progress == Progress::Done));
    }
}
