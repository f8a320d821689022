//! The request log: every call, event and delivery as one JSON line, for the checkers of the interface.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::Path,
    sync::{Mutex, PoisonError},
};

use serde_json::{Value, json};

/// Two append-only files: `stripe.jsonl` (calls and events) and `stripe-deliveries.jsonl` (signed webhooks).
#[derive(Debug)]
pub(crate) struct Journal {
    calls: Mutex<File>,
    deliveries: Mutex<File>,
}

impl Journal {
    /// Opens both in `dir`, which is made if need be.
    pub(crate) fn open(dir: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let open =
            |name: &str| OpenOptions::new().create(true).append(true).open(dir.join(name)).map(Mutex::new);
        Ok(Self { calls: open("stripe.jsonl")?, deliveries: open("stripe-deliveries.jsonl")? })
    }

    /// A line about a call and its answer.
    pub(crate) fn call(&self, line: &Value) {
        append(&self.calls, line);
    }

    /// A line about an event as it was made.
    pub(crate) fn event(&self, event: &Value) {
        append(&self.calls, &json!({ "event": event }));
    }

    /// A line about one signed delivery attempt and the injected faults it met. The secret in it is the
    /// simulator's own test secret.
    pub(crate) fn delivery(&self, delivery: &Value, status: Option<u16>, faults: &[&str]) {
        let mut line = json!({ "delivery": delivery, "status": status });
        if !faults.is_empty() {
            line["fault"] = faults.join("+").into();
        }
        append(&self.deliveries, &line);
    }
}

fn append(file: &Mutex<File>, line: &Value) {
    let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(error) = file.write_all(format!("{line}\n").as_bytes()) {
        tracing::warn!(%error, "the request log could not be written");
    }
}
