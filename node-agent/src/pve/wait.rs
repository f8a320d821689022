//! Waiting for a task: polled often while it is young, seldom when it is old.
//!
//! A poll costs the host two small file reads, a late one costs the customer. So the interval is a
//! twentieth of the task's age, between 50 ms and 5 s: waiting adds at most 5 % or 50 ms.

use std::time::Duration;

use futures::{FutureExt as _, future::BoxFuture};
use tokio::time::Instant;

use super::{Hypervisor, PveError, TaskExit, TaskState, Upid};

const FIRST_POLL: Duration = Duration::from_millis(50);
const LAST_POLL: Duration = Duration::from_secs(5);
/// How often a watcher hears that the task is still at work.
const REPORT_EVERY: Duration = Duration::from_secs(5);
/// First and longest pause while the host does not answer.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// A sign of life of a running task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskProgress {
    /// How long we have been waiting.
    pub waited: Duration,
    /// Percent done, where the task's log tells.
    pub percent: Option<u8>,
}

/// Why waiting ended without the task's end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// The task was still running when the patience was used up. It goes on running.
    #[error("task {upid} still runs after {waited:?}")]
    StillRunning {
        /// The task.
        upid: Upid,
        /// How long was waited.
        waited: Duration,
    },
    /// Proxmox does not know the task (any more): look at the VM itself.
    #[error("task {0} is not known to Proxmox")]
    Lost(Upid),
    /// The host did not answer usefully until the patience was used up.
    #[error("cannot follow task {upid}: {reason}")]
    NoAnswer {
        /// The task.
        upid: Upid,
        /// The last error.
        reason: PveError,
    },
}

/// The pause after which a task of this age is asked again.
fn interval(age: Duration) -> Duration {
    (age / 20).clamp(FIRST_POLL, LAST_POLL)
}

/// Percentage at the end of a copy's log line: `transferred 1.2 GiB of 3.0 GiB (40.00%)`.
fn percent_in(line: &str) -> Option<u8> {
    let before = &line[..line.rfind('%')?];
    // Guests have a say in what stands before the number: it may be any character.
    let begin = before.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.').len();
    let value: f64 = before[begin..].parse().ok()?;
    (0.0..=100.0).contains(&value).then_some(value as u8)
}

/// Where the passing of time comes from, so that tests need not wait.
trait Pace: Send {
    /// Since waiting began.
    fn waited(&self) -> Duration;
    /// Lets time pass.
    fn nap(&mut self, length: Duration) -> BoxFuture<'_, ()>;
}

/// Real time.
struct RealTime(Instant);

impl Pace for RealTime {
    fn waited(&self) -> Duration {
        self.0.elapsed()
    }
    fn nap(&mut self, length: Duration) -> BoxFuture<'_, ()> {
        tokio::time::sleep(length).boxed()
    }
}

/// Waits until the task has ended, at most `patience`. `watch` hears signs of life.
///
/// The task's own failure is an `Ok` with a [`TaskExit`] that is no success. While the host does not
/// answer, asking is repeated with pauses from 1 to 15 s: asking changes nothing.
///
/// # Errors
/// See [`WaitError`]; in none of its cases is it known how the task ended.
pub async fn wait_task(
    pve: &dyn Hypervisor,
    upid: &Upid,
    patience: Duration,
    watch: &mut (dyn FnMut(TaskProgress) + Send),
) -> Result<TaskExit, WaitError> {
    wait_at(pve, upid, patience, watch, &mut RealTime(Instant::now())).await
}

async fn wait_at(
    pve: &dyn Hypervisor,
    upid: &Upid,
    patience: Duration,
    watch: &mut (dyn FnMut(TaskProgress) + Send),
    pace: &mut dyn Pace,
) -> Result<TaskExit, WaitError> {
    let mut reported = Duration::ZERO;
    let mut log = LogReader { next: 1, percent: None };
    let mut pause = RETRY.0;
    loop {
        let state = pve.task_status(upid).await;
        let waited = pace.waited();
        let nap = match state {
            Ok(TaskState::Ended(exit)) => return Ok(exit),
            Ok(TaskState::Unknown) => return Err(WaitError::Lost(upid.clone())),
            Ok(TaskState::Running) if waited >= patience => {
                return Err(WaitError::StillRunning { upid: upid.clone(), waited });
            }
            Ok(TaskState::Running) => {
                pause = RETRY.0;
                if waited.saturating_sub(reported) >= REPORT_EVERY {
                    reported = waited;
                    log.read_on(pve, upid).await;
                    watch(TaskProgress { waited, percent: log.percent });
                }
                interval(waited)
            }
            Err(reason) if waited >= patience || matches!(reason, PveError::Invalid(_)) => {
                return Err(WaitError::NoAnswer { upid: upid.clone(), reason });
            }
            Err(_) => {
                let nap = pause;
                pause = (pause * 2).min(RETRY.1);
                nap
            }
        };
        pace.nap(nap.min(patience.saturating_sub(waited).max(FIRST_POLL))).await;
    }
}

/// Remembers how far a log was read.
struct LogReader {
    next: u64,
    percent: Option<u8>,
}

impl LogReader {
    async fn read_on(&mut self, pve: &dyn Hypervisor, upid: &Upid) {
        // The log is decoration; a failure to read it is not worth a word.
        let Ok(lines) = pve.task_log(upid, self.next).await else { return };
        for line in lines {
            self.next = self.next.max(line.number + 1);
            self.percent = percent_in(&line.text).or(self.percent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pve::fake::{FakeHypervisor, Fault};

    #[test]
    fn young_tasks_are_asked_often_and_old_ones_seldom() {
        assert_eq!(interval(Duration::ZERO), FIRST_POLL);
        assert_eq!(interval(Duration::from_secs(4)), Duration::from_millis(200));
        assert_eq!(interval(Duration::from_secs(3600)), LAST_POLL);
    }

    #[test]
    fn percentages_of_copies_are_read() {
        assert_eq!(percent_in("transferred 1.2 GiB of 3.0 GiB (40.59%)"), Some(40));
        assert_eq!(percent_in("drive-scsi0: transferred 3.0 GiB of 3.0 GiB (100.00%) in 5s"), Some(100));
        assert_eq!(percent_in("100%"), Some(100));
        // A guest's own words reach the log of its backup.
        for text in ["é50%", "50\u{a0}50%", "…(50.5%)…"] {
            assert_eq!(percent_in(text), Some(50), "{text}");
        }
        for none in ["create full clone of drive scsi0", "%", "(900%)", "", "50\u{a0}%", "é%"] {
            assert_eq!(percent_in(none), None, "{none}");
        }
    }

    /// Time that passes only by napping.
    struct Counted(Duration);

    impl Pace for Counted {
        fn waited(&self) -> Duration {
            self.0
        }
        fn nap(&mut self, length: Duration) -> BoxFuture<'_, ()> {
            self.0 += length;
            std::future::ready(()).boxed()
        }
    }

    async fn wait(
        pve: &FakeHypervisor,
        upid: &Upid,
        seconds: u64,
        watch: &mut (dyn FnMut(TaskProgress) + Send),
    ) -> Result<TaskExit, WaitError> {
        wait_at(pve, upid, Duration::from_secs(seconds), watch, &mut Counted(Duration::ZERO)).await
    }

    #[tokio::test]
    async fn a_long_task_reports_its_progress_and_then_its_end() {
        let pve = FakeHypervisor::with_template(9000);
        pve.set_polls(400);
        let upid = pve.clone_template(FakeHypervisor::request(9000, 101)).await.unwrap();
        pve.log_line(&upid, "transferred 1.0 GiB of 4.0 GiB (25.00%)");
        let mut seen = Vec::new();
        let exit = wait(&pve, &upid, 3600, &mut |p| seen.push(p.percent)).await;
        assert_eq!(exit, Ok(TaskExit::Ok));
        assert!(seen.len() > 3 && seen.iter().all(|p| *p == Some(25)), "{seen:?}");
    }

    #[tokio::test]
    async fn silence_of_the_host_is_waited_out_and_patience_ends() {
        let pve = FakeHypervisor::with_template(9000);
        let upid = pve.clone_template(FakeHypervisor::request(9000, 101)).await.unwrap();
        for _ in 0..3 {
            pve.fail_next("task_status", Fault::Unreachable);
        }
        assert_eq!(wait(&pve, &upid, 60, &mut |_| {}).await, Ok(TaskExit::Ok));
        pve.set_polls(u32::MAX);
        let upid = pve.start(101).await.unwrap();
        let waited = wait(&pve, &upid, 60, &mut |_| {}).await;
        assert!(matches!(waited, Err(WaitError::StillRunning { .. })), "{waited:?}");
        let gone =
            "UPID:fake:0000000F:00000001:6B03C9AA:qmstart:101:ez-agent@pve!node-fake:".parse().unwrap();
        let lost = wait(&pve, &gone, 60, &mut |_| {}).await;
        assert_eq!(lost, Err(WaitError::Lost(gone)));
    }
}
