//! The saga kit: every step is *look, journal the intent, act, journal the task, wait, journal the
//! result*. Whatever is interrupted is looked at again; nothing is repeated blindly.

use std::time::Duration;

use ez_protocol::message::{EventKind, QueuePlace};
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    context::Cx,
    fault::{self, Class, Trouble, of_task},
    limits::{Entry, Load},
    queue::{CloneWish, Turn},
    task,
};
use crate::{
    journal::{StepRow, StepState},
    pve::{TaskExit, TaskProgress, Upid, WaitError, wait_task},
};

/// What a step sees when it looks.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Look {
    /// The effect is there; nothing to do.
    Done(Value),
    /// The effect is not there and nothing of ours is at work on it.
    Todo,
    /// This task of ours is at work on it.
    Adopt(Upid),
    /// Neither can be said yet.
    Wait(String),
}

/// What acting came to.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Act {
    /// It is done.
    Done(Value),
    /// This task does it.
    Task(Upid),
}

/// One step of a saga, forward or undoing.
pub(super) trait Step: Send + Sync {
    /// Its name, shown to customers through translations.
    fn name(&self) -> &'static str;

    /// Looks what is there. `row` is what the journal knows of this step; an intent without a
    /// result means that the effect may or may not have happened.
    fn look<'a>(&'a self, cx: &'a Cx, row: Option<&'a StepRow>) -> BoxFuture<'a, Result<Look, Trouble>>;

    /// Brings the effect about. Called only after [`Look::Todo`] and a durable intent.
    fn act<'a>(&'a self, cx: &'a Cx) -> BoxFuture<'a, Result<Act, Trouble>>;

    /// What goes into the journal as intent.
    fn intent(&self, cx: &Cx) -> Value {
        let _ = cx;
        json!({})
    }

    /// What acting costs the host.
    fn load(&self, cx: &Cx) -> Load {
        let _ = cx;
        Load::Light
    }

    /// How often it is tried before the order fails.
    fn attempts(&self) -> u32 {
        5
    }

    /// How long it may go without success, waiting for tasks included.
    fn patience(&self, cx: &Cx) -> Duration {
        cx.pace().task
    }

    /// What has to be looked at when a task of it has ended well, before that is its result.
    fn verify<'a>(
        &'a self,
        cx: &'a Cx,
        row: Option<&'a StepRow>,
        upid: &'a Upid,
    ) -> BoxFuture<'a, Result<(), Trouble>> {
        let _ = (cx, row, upid);
        Box::pin(async { Ok(()) })
    }

    /// What a failed task means; the default goes by its text.
    fn judge(&self, exit: &str) -> Trouble {
        of_task(self.name(), exit)
    }
}

/// Key in a step's intent: how many of its tries met a cluster that could not be written to, and do not count.
const WITHOUT_QUORUM: &str = "without_quorum";

/// Runs the steps in order; `k` counts from `first` by `stride` (1, 1 forward; -1, -1 undoing).
pub(super) async fn run(cx: &Cx, steps: &[Box<dyn Step>], first: i64) -> Result<(), Trouble> {
    let rows = cx.journal().steps(cx.id()).await?;
    let mut k = first;
    for step in steps {
        let row = rows.iter().find(|row| row.k == k);
        if row.is_none_or(|row| row.state != StepState::Done) {
            let work = run_step(cx, step.as_ref(), k, row);
            // Tests want to know which step makes which call.
            #[cfg(test)]
            let work = crate::pve::fake::at_work(k, step.name(), work);
            work.await?;
        }
        k += first.signum();
    }
    Ok(())
}

async fn run_step(cx: &Cx, step: &dyn Step, k: i64, row: Option<&StepRow>) -> Result<(), Trouble> {
    if let Some(failed) = row.filter(|row| row.state == StepState::Failed) {
        return Err(remembered(cx, failed));
    }
    let mut round = Round::new(row);
    let (began, queued) = (Instant::now(), cx.queued());
    let mut looks = 0;
    let end = loop {
        if cx.overdue() {
            let what = format!("{}: the order takes longer than it may: {}", step.name(), round.last);
            break fault::stuck(cx.id(), what, where_it_stands(cx));
        }
        let trouble = match round.go(cx, step, k).await {
            Ok(done) => {
                let event = cx.event(EventKind::StepDone).step(step.name()).percent(100);
                return cx.step_result(k, step.name(), StepState::Done, &done, event).await;
            }
            Err(trouble) => trouble,
        };
        let Trouble::Look(why) = trouble else { break trouble };
        if began.elapsed().saturating_sub(cx.queued() - queued) >= step.patience(cx) {
            let what = format!("{}: no progress in {:?}: {why}", step.name(), step.patience(cx));
            break fault::stuck(cx.id(), what, where_it_stands(cx));
        }
        tracing::info!(order = %cx.id(), step = step.name(), why, "looking again");
        round.last = why;
        tokio::time::sleep(cx.pace().again(looks)).await;
        looks += 1;
    };
    let (class, detail) = match &end {
        Trouble::Fail(class, detail) => (class.as_str(), detail.as_str()),
        Trouble::Stuck(way_out) => ("stuck", way_out.as_str()),
        Trouble::Look(_) | Trouble::Journal(_) => return Err(end),
    };
    let event = cx.event(EventKind::StepFailed).step(step.name()).class(class).detail(detail);
    let result = json!({ "class": class, "error": detail });
    cx.step_result(k, step.name(), StepState::Failed, &result, event).await?;
    Err(end)
}

/// Where root looks when a step does not get on for a reason that its text may not tell.
fn where_it_stands(cx: &Cx) -> String {
    let vmid = cx.vmid();
    format!(
        "see what holds it up, with `qm config {vmid}` and `pvenode task list --vmid {vmid} --source all`"
    )
}

/// A failure that was journalled before a crash: the order goes on from there.
fn remembered(cx: &Cx, row: &StepRow) -> Trouble {
    let result: Value =
        row.result_json.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let detail = result["error"].as_str().unwrap_or("the step failed before a restart").to_owned();
    match result["class"].as_str() {
        Some("stuck") => Trouble::Stuck(fault::stuck_by(cx.id(), detail)),
        class => Trouble::Fail(Class::parse(class.unwrap_or_default()), detail),
    }
}

/// What is known while a step is worked on.
struct Round {
    row: Option<StepRow>,
    announced: bool,
    last: String,
    /// Tries that met a cluster without quorum. However many they are, the step has not been tried by them; its patience
    /// ends the waiting.
    without_quorum: u32,
}

impl Round {
    fn new(row: Option<&StepRow>) -> Self {
        let intent: Value =
            row.and_then(|row| serde_json::from_str(&row.intent_json).ok()).unwrap_or_default();
        let without_quorum = intent[WITHOUT_QUORUM].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        Self { row: row.cloned(), announced: row.is_some(), last: String::new(), without_quorum }
    }

    /// Looks and, if nothing is there, acts.
    async fn go(&mut self, cx: &Cx, step: &dyn Step, k: i64) -> Result<Value, Trouble> {
        let look = match step.look(cx, self.row.as_ref()).await {
            Ok(Look::Todo) => self.enter(cx, step).await,
            other => other.map(|look| (look, None)),
        };
        let (look, entry) = match look {
            Ok((look, entry)) => (Ok(look), entry),
            Err(trouble) => (Err(trouble), None),
        };
        if !matches!(look, Ok(Look::Todo)) {
            // Later clones need not wait for what this one is about.
            cx.limits().clones.settled(cx.order().seq);
        }
        match look? {
            Look::Done(value) => return Ok(value),
            Look::Wait(why) => return Err(Trouble::Look(why)),
            Look::Adopt(upid) => {
                let turn = match step.load(cx) {
                    Load::Clone(wish) => Some(cx.limits().clones.go_on(wish, cx.since(&upid))),
                    _ => None,
                };
                if self.row.as_ref().is_none_or(|row| row.upid.as_deref() != Some(upid.as_str())) {
                    self.called(cx, step, k, &upid).await?;
                }
                let outcome = self.end_of(cx, step, &upid).await;
                if let (Some(turn), Ok(_)) = (turn, &outcome) {
                    turn.went_well();
                }
                return outcome;
            }
            Look::Todo => {}
        }
        let tried = self.row.as_ref().map_or(0, |row| row.attempt).saturating_sub(self.without_quorum);
        if tried >= step.attempts() {
            let detail = format!("{}: tried {tried} times: {}", step.name(), self.last);
            cx.limits().clones.settled(cx.order().seq);
            return Err(Trouble::fail(Class::Retryable, detail));
        }
        let turn = match step.load(cx) {
            Load::Clone(wish) => Some(turn(cx, step, wish).await),
            _ => None,
        };
        let event = (!self.announced).then(|| cx.event(EventKind::StepStarted).step(step.name()));
        let mut intent = step.intent(cx);
        if self.without_quorum > 0 {
            intent[WITHOUT_QUORUM] = json!(self.without_quorum);
        }
        cx.step_intent(k, step.name(), &intent, event).await?;
        self.announced = true;
        self.row = cx.step_row(k).await?;
        let outcome = match step.act(cx).await {
            Ok(Act::Done(value)) => Ok(value),
            Ok(Act::Task(upid)) => {
                self.called(cx, step, k, &upid).await?;
                self.end_of(cx, step, &upid).await
            }
            Err(trouble) => Err(trouble),
        };
        if outcome.as_ref().is_err_and(Trouble::is_no_quorum) {
            self.without_quorum += 1;
        }
        if let (Some(turn), Ok(_)) = (turn, &outcome) {
            turn.went_well();
        }
        drop(entry);
        outcome
    }

    /// Waits for room on the host before the step acts. While it waited the world went on, and the VM may be somebody
    /// else's by now: it is looked at once more, with the room in hand. A step that has nothing to do never waits.
    async fn enter(&self, cx: &Cx, step: &dyn Step) -> Result<(Look, Option<Entry>), Trouble> {
        let began = Instant::now();
        let entry = cx.limits().enter(&step.load(cx)).await;
        cx.was_queued(began.elapsed());
        let look = if entry.waited { step.look(cx, self.row.as_ref()).await? } else { Look::Todo };
        Ok((look, Some(entry)))
    }

    /// Waits for the task, and looks at what its good end may hide.
    async fn end_of(&self, cx: &Cx, step: &dyn Step, upid: &Upid) -> Result<Value, Trouble> {
        let value = follow(cx, step, upid).await?;
        step.verify(cx, self.row.as_ref(), upid).await?;
        Ok(value)
    }

    async fn called(&mut self, cx: &Cx, step: &dyn Step, k: i64, upid: &Upid) -> Result<(), Trouble> {
        cx.step_called(k, step.name(), upid).await?;
        self.row = cx.step_row(k).await?;
        Ok(())
    }
}

/// Waits for a clone's turn and says where in the queue it is.
async fn turn(cx: &Cx, step: &dyn Step, wish: CloneWish) -> Turn {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel::<QueuePlace>();
    let began = Instant::now();
    let wait = async {
        let mut say = |place| {
            let _ = tell.send(place);
        };
        let turn = cx.limits().clones.enter(wish, &mut say).await;
        drop(tell);
        turn
    };
    let say = async {
        while let Some(place) = told.recv().await {
            let event = cx.event(EventKind::StepProgress).step(step.name()).queue(place);
            if let Err(error) = cx.say_place(event, place).await {
                tracing::warn!(?error, "a place in the queue could not be written");
            }
        }
    };
    let (turn, ()) = tokio::join!(wait, say);
    // Whoever waits in a queue does nothing that could take too long.
    cx.was_queued(began.elapsed());
    turn
}

/// Waits for a task and says how far it is.
async fn follow(cx: &Cx, step: &dyn Step, upid: &Upid) -> Result<Value, Trouble> {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel::<TaskProgress>();
    let wait = async {
        let mut watch = |progress| {
            let _ = tell.send(progress);
        };
        let end = wait_task(cx.pve(), upid, step.patience(cx), &mut watch).await;
        drop(tell);
        end
    };
    let say = async {
        while let Some(progress) = told.recv().await {
            let mut event = cx.event(EventKind::StepProgress).step(step.name());
            if let Some(percent) = progress.percent {
                event = event.percent(u32::from(percent));
            }
            if let Err(error) = cx.say(event).await {
                tracing::warn!(?error, "a sign of life could not be written");
            }
        }
    };
    let (end, ()) = tokio::join!(wait, say);
    match end {
        Ok(exit @ (TaskExit::Ok | TaskExit::Warnings(_))) => {
            let warnings = matches!(exit, TaskExit::Warnings(_));
            Ok(json!({ "upid": upid.as_str(), "warnings": warnings }))
        }
        Ok(TaskExit::Killed) => Err(Trouble::Look(format!("{}: the worker was killed", step.name()))),
        Ok(TaskExit::Failed(text)) => Err(step.judge(&text)),
        Err(error @ (WaitError::Lost(_) | WaitError::NoAnswer { .. })) => {
            Err(Trouble::Look(error.to_string()))
        }
        Err(error @ WaitError::StillRunning { .. }) => Err(task::still_running(cx, upid, &error)),
    }
}
