//! What happened, in its order: the story a failed run prints.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tokio::time::Instant;

/// A diary that everybody writes into.
#[derive(Clone)]
pub struct Diary {
    began: Instant,
    lines: Arc<Mutex<Vec<String>>>,
    counts: Arc<Mutex<BTreeMap<&'static str, u32>>>,
}

impl Diary {
    pub fn begin() -> Self {
        Self { began: Instant::now(), lines: Arc::default(), counts: Arc::default() }
    }

    /// Notes what happened now.
    pub fn note(&self, what: &str) {
        let line = format!("{:8.2} s  {what}", self.began.elapsed().as_secs_f64());
        self.lines.lock().unwrap().push(line);
    }

    /// The last lines.
    pub fn last(&self, count: usize) -> String {
        let lines = self.lines.lock().unwrap();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }

    pub fn count_up(&self, what: &'static str) {
        *self.counts.lock().unwrap().entry(what).or_default() += 1;
    }

    pub fn count(&self, what: &'static str) -> u32 {
        self.counts.lock().unwrap().get(what).copied().unwrap_or(0)
    }
}
