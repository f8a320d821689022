//! What a job is, how it ends and when it is tried again.

use std::time::Duration;

use ez_protocol::UnixMillis;

/// The longest wait between two attempts: everything converges soon after a fault has ended (I12).
pub const BACKOFF_CAP: Duration = Duration::from_secs(15);

/// A handler's view of the run.
#[derive(Clone, Debug)]
pub struct JobRun {
    /// The key the job was enqueued under.
    pub key: String,
    /// The newest payload it was enqueued with.
    pub payload: serde_json::Value,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// The service's clock when the run began.
    pub at: UnixMillis,
}

/// How a handler says that it did not succeed.
#[derive(Debug)]
pub enum JobError {
    /// Try again after a back-off: the world may change.
    Retry(Box<dyn std::error::Error + Send + Sync>),
    /// Trying again cannot help; a person has to look. A periodic job comes again with its period all the same.
    Fail(Box<dyn std::error::Error + Send + Sync>),
}

impl JobError {
    /// Try again later because of `error`.
    pub fn retry(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Retry(error.into())
    }

    /// Give up because of `error`.
    pub fn fail(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Fail(error.into())
    }

    /// The error and its sources, one line.
    pub(super) fn chain(&self) -> String {
        let (Self::Retry(error) | Self::Fail(error)) = self;
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(next) = source {
            text.push_str(": ");
            text.push_str(&next.to_string());
            source = next.source();
        }
        text.chars().take(2_000).collect()
    }
}

/// A failing database is worth another attempt; a row we never write is not.
impl From<crate::db::DbError> for JobError {
    fn from(error: crate::db::DbError) -> Self {
        match error {
            crate::db::DbError::Inconsistent { .. } => Self::fail(error),
            other => Self::retry(other),
        }
    }
}

/// A job that was given up.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct DeadJob {
    /// Its kind.
    pub kind: String,
    /// Its key.
    pub key: String,
    /// How often it was tried.
    pub attempts: i64,
    /// What the last attempt said.
    pub last_error: String,
    /// When it was given up.
    pub dead_at: UnixMillis,
}

/// How long to wait after failed attempt number `attempt` (from 1): 0.25 s doubling up to [`BACKOFF_CAP`].
///
/// ```
/// use std::time::Duration;
/// use ez_control_plane::jobs::backoff;
///
/// assert_eq!(backoff(1), Duration::from_millis(250));
/// assert_eq!(backoff(1_000), Duration::from_secs(15));
/// ```
pub fn backoff(attempt: u32) -> Duration {
    Duration::from_millis(250).saturating_mul(1 << attempt.saturating_sub(1).min(10)).min(BACKOFF_CAP)
}
