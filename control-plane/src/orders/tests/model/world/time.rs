//! Time: it passes, and what works comes to rest.

use std::time::Duration;

use super::{
    super::{host::Outcome, story::Line},
    Broken, World,
};
use crate::{
    db::DbError,
    fleet::{NodeChange, sessions},
    jobs,
};

impl World {
    pub(super) async fn passes(&mut self, span: Duration) -> Result<(), Broken> {
        let then = self.now().plus(span);
        // Whoever took an order says so before its end and the clocks' tolerance are over, or starts nothing: an agent
        // waits for the acknowledgement.
        for at in 0..self.hosts.len() {
            let latest = self.hosts[at].must_speak_before();
            if latest.is_some_and(|exp| exp.plus(ez_protocol::order::CLOCK_TOLERANCE) <= then) {
                self.tells(at, false).await?;
            }
        }
        self.clock.set(then);
        self.stripe_clock();
        let beat = self.app.db.write(move |tx| Box::pin(async move { sessions::beat(tx, then, "p1").await }));
        beat.await.map_err(|error: DbError| format!("a beat: {error:?}"))
    }

    /// Everything that works, works, for so long: no more faults, and time passes.
    pub(in crate::orders::tests::model) async fn quiet(
        &mut self,
        long: Duration,
        step: Duration,
    ) -> Result<(), Broken> {
        self.refunds_arrive();
        self.stripe_notes();
        let until = self.now().plus(long);
        for at in 0..self.hosts.len() {
            self.hosts[at].refuses = None;
            self.change(at, NodeChange::Uncordon).await?;
        }
        loop {
            self.settle().await?;
            if self.now() >= until {
                return Ok(());
            }
            self.passes(step).await?;
        }
    }

    /// Whatever can happen without time, happens.
    pub(super) async fn settle(&mut self) -> Result<(), Broken> {
        for _ in 0..40 {
            for body in std::mem::take(&mut self.in_flight) {
                self.deliver(&body).await?;
            }
            let ran = jobs::drain(&self.app, &self.registry).await.map_err(|e| format!("jobs: {e:?}"))?;
            let mut busy = false;
            for at in 0..self.hosts.len() {
                self.takes(at, Line::Good).await?;
                let now = self.now();
                while self.hosts[at].is_busy() {
                    self.hosts[at].work(Outcome::Succeeds, now);
                    busy = true;
                }
                busy |= self.hosts[at].is_bursting();
                self.tells(at, false).await?;
                self.reports(at).await?;
            }
            self.stripe_notes();
            if !busy && ran == 0 && self.in_flight.is_empty() {
                return Ok(());
            }
        }
        Err("it never comes to rest".to_owned())
    }
}
