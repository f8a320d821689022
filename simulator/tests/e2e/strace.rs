//! Faults at system calls of a running program, from outside and without a hook in its code.
//!
//! `strace` attaches to a process and, at the n-th call of a kind by one thread, kills the process or
//! makes the call fail. The journal and the database are each written by one thread, so the n-th call
//! of that thread is the n-th write or sync of what matters.

use std::{path::Path, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::support::not_run;

/// A tracer that is attached.
pub struct Tracer {
    child: Child,
    /// What it saw, if it was told to write that down for itself.
    seen: Option<tempfile::TempPath>,
}

/// Whether strace can be used here.
pub fn available(story: &str) -> bool {
    let found = std::process::Command::new("strace").arg("-V").output().is_ok_and(|o| o.status.success());
    if !found {
        not_run(story, "strace is not installed");
    }
    found
}

impl Tracer {
    /// Attaches to a process; `injection` is what strace's `-e inject=` takes.
    pub async fn attach(pid: i64, syscalls: &str, injection: &str) -> Self {
        let seen = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let mut command = Command::new("strace");
        command.args(["-f", "-o"]).arg(&seen).args(["-p", &pid.to_string()]);
        command.args(["-e", &format!("trace={syscalls}"), "-e", &format!("inject={syscalls}:{injection}")]);
        let mut this = Self::start(command).await;
        this.seen = Some(seen);
        this
    }

    /// How many calls it made fail so far.
    pub fn injected(&self) -> usize {
        let text = self.seen.as_ref().map(|path| std::fs::read_to_string(path).unwrap()).unwrap_or_default();
        text.lines().filter(|line| line.ends_with("(INJECTED)")).count()
    }

    /// Attaches and records calls with their data and the files behind descriptors.
    pub async fn record(pid: i64, syscalls: &str, file: &Path) -> Self {
        let mut command = Command::new("strace");
        command.args(["-f", "-y", "-xx", "-s", "1048576", "-o"]).arg(file);
        command.args(["-p", &pid.to_string(), "-e", &format!("trace={syscalls}")]);
        Self::start(command).await
    }

    async fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        // It says so once it holds the process.
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let attached = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.contains("attached") {
                    return;
                }
                assert!(!line.contains("Operation not permitted"), "strace may not attach: {line}");
            }
            panic!("strace ended before it was attached");
        };
        tokio::time::timeout(Duration::from_secs(20), attached).await.unwrap();
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { child, seen: None }
    }

    /// Lets go of the process, which goes on undisturbed if it still lives.
    pub async fn detach(mut self) {
        if let Some(pid) = self.child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = tokio::time::timeout(Duration::from_secs(10), self.child.wait()).await;
    }
}
