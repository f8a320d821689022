//! Counting the syncs of running programs, from outside: `strace` is attached and writes each one down.
//!
//! Attached, a program is much slower; so syncs are counted in runs of their own and never while a time
//! is taken.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

/// Whether strace can be used here.
pub(crate) fn is_here() -> bool {
    std::process::Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success())
}

/// A tracer that is attached to some processes.
pub(crate) struct Tracer {
    child: Child,
    file: std::path::PathBuf,
}

impl Tracer {
    /// Attaches to processes and writes their syncs into `file`.
    pub(crate) async fn attach(pids: &[u32], file: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new("strace");
        command.args(["-f", "-ttt", "-e", "trace=fsync,fdatasync", "-o"]).arg(file);
        for pid in pids {
            command.args(["-p", &pid.to_string()]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("strace")?;
        let mut lines = BufReader::new(child.stderr.take().context("strace says nothing")?).lines();
        let attached = async {
            let mut left = pids.len();
            while left > 0 {
                let Some(line) = lines.next_line().await? else {
                    bail!("strace ended before it was attached")
                };
                if line.contains("Operation not permitted") {
                    bail!("strace may not attach: {line}");
                }
                left -= usize::from(line.contains(" attached"));
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(Duration::from_secs(30), attached).await.context("strace does not attach")??;
        // What else it says must not fill its pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { child, file: file.to_owned() })
    }

    /// Lets go; the times at which syncs began, in milliseconds since 1970.
    pub(crate) async fn detach(mut self) -> anyhow::Result<Vec<f64>> {
        if let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            kill_process(pid, Signal::TERM)?;
        }
        tokio::time::timeout(Duration::from_secs(20), self.child.wait()).await??;
        let text = std::fs::read_to_string(&self.file)?;
        std::fs::remove_file(&self.file)?;
        Ok(text.lines().filter_map(began).collect())
    }
}

/// When the call of a line began; lines that only tell how one ended are none.
fn began(line: &str) -> Option<f64> {
    let mut words = line.split_whitespace();
    let (_thread, time, call) = (words.next()?, words.next()?, words.next()?);
    let is_sync = call.starts_with("fsync(") || call.starts_with("fdatasync(");
    is_sync.then(|| time.parse::<f64>().ok()).flatten().map(|seconds| seconds * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sync_counts_once() {
        let text = "\
812   1764349200.123456 fdatasync(21) = 0
813   1764349200.200000 fdatasync(22 <unfinished ...>
812   1764349200.300000 fsync(21)       = 0
813   1764349200.400000 <... fdatasync resumed>) = 0
814   1764349200.500000 +++ exited with 0 +++";
        let times: Vec<f64> = text.lines().filter_map(began).collect();
        assert_eq!(times.len(), 3);
        assert!((times[0] - 1_764_349_200_123.456).abs() < 0.01, "{times:?}");
    }
}
