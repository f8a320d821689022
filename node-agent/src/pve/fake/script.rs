//! What was called, by which step of which saga, and what is to go wrong at which call.

use std::{future::Future, sync::Arc};

use super::{Fault, State};

tokio::task_local! {
    static AT_WORK: (i64, &'static str);
}

/// Runs a step's work under its number and name, so that its calls are known by them.
pub(crate) fn at_work<F: Future>(k: i64, name: &'static str, work: F) -> impl Future<Output = F::Output> {
    AT_WORK.scope((k, name), work)
}

/// What a call can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It reads.
    Look,
    /// It changes something at once.
    Change,
    /// It begins a task.
    Task,
    /// It is none of Proxmox: something the agent does on its own disk.
    Local,
}

/// A call as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// The step that made it; calls between the steps have none.
    pub(crate) step: Option<(i64, &'static str)>,
    pub(crate) verb: &'static str,
    pub(crate) kind: Kind,
}

/// Something that is to happen at a call.
#[derive(Clone)]
pub(crate) enum Plan {
    /// A fault at the call with this number, counted from the first there ever was.
    At(usize, Fault),
    /// A fault whenever this step calls this verb.
    Always(Option<(i64, &'static str)>, &'static str, Fault),
    /// The agent is struck while the call with this number is under way.
    Strike(usize, Arc<dyn Fn() + Send + Sync>),
    /// The agent is struck at the first call of this step with this verb from now on.
    StrikeStep(Option<(i64, &'static str)>, &'static str, Arc<dyn Fn() + Send + Sync>),
}

impl super::FakeHypervisor {
    /// Something the agent does on its own disk takes its place among the calls.
    pub(crate) fn local(&self, verb: &'static str) -> Option<Fault> {
        self.state().due(verb, Kind::Local)
    }

    /// Every call so far, those that only read included.
    pub(crate) fn trace(&self) -> Vec<Call> {
        self.state().trace.clone()
    }

    /// Plans something; what was planned before and has not happened stays.
    pub(crate) fn plan(&self, plan: Plan) {
        self.state().plans.push(plan);
    }

    /// Nothing is planned any more.
    pub(crate) fn plan_nothing(&self) {
        let mut state = self.state();
        state.plans.clear();
        state.faults.clear();
    }
}

impl State {
    /// Notes a call and does what is planned for it.
    pub(super) fn due(&mut self, verb: &'static str, kind: Kind) -> Option<Fault> {
        let (number, step) = (self.trace.len(), AT_WORK.try_with(|at| *at).ok());
        self.trace.push(Call { step, verb, kind });
        let mut fault = None;
        self.plans.retain(|plan| match plan {
            Plan::At(n, due) if *n == number => {
                fault = Some(due.clone());
                false
            }
            Plan::Always(s, v, due) if *s == step && *v == verb => {
                fault = Some(due.clone());
                true
            }
            Plan::Strike(n, strike) if *n == number => {
                strike();
                false
            }
            Plan::StrikeStep(s, v, strike) if *s == step && *v == verb => {
                strike();
                false
            }
            _ => true,
        });
        fault
    }
}
