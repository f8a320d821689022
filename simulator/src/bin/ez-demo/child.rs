//! Child processes: started, logged, restarted when they die, stopped in reverse order.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{process::Command, sync::watch, task::JoinHandle};

/// A child that dies is started again after this time, as systemd's `RestartSec=` would.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// What to start: a program of ours, its arguments and environment.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// Name in logs and in the list of process ids.
    pub(crate) name: String,
    /// Binary beside this one.
    pub(crate) binary: &'static str,
    /// Arguments.
    pub(crate) arguments: Vec<String>,
    /// Environment on top of ours.
    pub(crate) environment: Vec<(String, String)>,
}

impl Program {
    fn command(&self) -> anyhow::Result<Command> {
        let mut command = Command::new(sibling(self.binary)?);
        command.args(&self.arguments).envs(self.environment.iter().cloned()).stdin(Stdio::null());
        Ok(command)
    }
}

/// The path of a program that was built together with this one.
pub(crate) fn sibling(binary: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where ez-demo lies")?;
    let path = own.with_file_name(binary);
    if !path.is_file() {
        bail!("{} is not built; run `cargo build --workspace` first", path.display());
    }
    Ok(path)
}

/// Starts programs and keeps them alive.
#[derive(Debug)]
pub(crate) struct Supervisor {
    state_dir: PathBuf,
    logs: PathBuf,
    pids: watch::Sender<BTreeMap<String, u32>>,
    stopping: watch::Sender<bool>,
    tasks: Mutex<Vec<(String, JoinHandle<()>)>>,
}

impl Supervisor {
    /// A supervisor that logs into `<state_dir>/logs`.
    pub(crate) fn new(state_dir: &Path) -> anyhow::Result<Self> {
        let logs = state_dir.join("logs");
        std::fs::create_dir_all(&logs)?;
        Ok(Self {
            state_dir: state_dir.to_owned(),
            logs,
            pids: watch::Sender::new(BTreeMap::new()),
            stopping: watch::Sender::new(false),
            tasks: Mutex::new(Vec::new()),
        })
    }

    /// Process ids by name, as they are now.
    pub(crate) fn pids(&self) -> BTreeMap<String, u32> {
        self.pids.borrow().clone()
    }

    /// Says when a process id changes.
    pub(crate) fn changes(&self) -> watch::Receiver<BTreeMap<String, u32>> {
        let mut receiver = self.pids.subscribe();
        receiver.mark_unchanged();
        receiver
    }

    fn log(&self, name: &str) -> anyhow::Result<File> {
        let path = self.logs.join(format!("{name}.log"));
        OpenOptions::new().create(true).append(true).open(&path).with_context(|| path.display().to_string())
    }

    /// The last lines a child wrote, for an error message.
    pub(crate) fn tail(&self, name: &str) -> String {
        let path = self.logs.join(format!("{name}.log"));
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(12)..];
        format!("{}\n(the whole log: {})", last.join("\n"), path.display())
    }

    /// Runs a command of ours to its end and returns what it printed.
    pub(crate) async fn run_once(&self, program: &Program, input: Option<&str>) -> anyhow::Result<String> {
        use tokio::io::AsyncWriteExt as _;
        let mut command = program.command()?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("cannot start {}", program.binary))?;
        if let Some(mut pipe) = child.stdin.take() {
            // A command that does not read its input closes it; that is no fault of ours.
            let _ = pipe.write_all(input.unwrap_or_default().as_bytes()).await;
        }
        let output = child.wait_with_output().await?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            let arguments = program.arguments.join(" ");
            bail!("`{} {arguments}` failed ({}):\n{text}{errors}", program.binary, output.status);
        }
        Ok(text)
    }

    /// Starts a program and restarts it whenever it ends by itself.
    pub(crate) fn keep_alive(self: &Arc<Self>, program: Program) -> anyhow::Result<()> {
        let first = self.spawn(&program)?;
        let this = Arc::clone(self);
        let name = program.name.clone();
        let task = tokio::spawn(async move { this.supervise(program, first).await });
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push((name, task));
        Ok(())
    }

    fn spawn(&self, program: &Program) -> anyhow::Result<tokio::process::Child> {
        let log = self.log(&program.name)?;
        let mut command = program.command()?;
        // A process group of its own: Ctrl-C in the terminal reaches us, and we stop them in order.
        command.stdout(log.try_clone()?).stderr(log).process_group(0).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("cannot start {}", program.binary))?;
        if let Some(pid) = child.id() {
            self.pids.send_modify(|pids| {
                pids.insert(program.name.clone(), pid);
            });
            self.remember_pids();
        }
        Ok(child)
    }

    /// Notes the process ids, so that a next start finds what this one left if it is killed.
    fn remember_pids(&self) {
        let text = serde_json::to_string(&*self.pids.borrow()).unwrap_or_default();
        let _ = std::fs::write(self.state_dir.join("pids.json"), text);
    }

    async fn supervise(&self, program: Program, mut child: tokio::process::Child) {
        let mut stopping = self.stopping.subscribe();
        loop {
            tokio::select! {
                _ = child.wait() => {}
                () = stopped(&mut stopping) => {
                    terminate(&mut child).await;
                    return;
                }
            }
            loop {
                tokio::select! {
                    () = tokio::time::sleep(RESTART_AFTER) => {}
                    () = stopped(&mut stopping) => return,
                }
                if let Ok(started) = self.spawn(&program) {
                    child = started;
                    break;
                }
            }
        }
    }

    /// Stops every child, the last started first among equals; kills what does not obey in time.
    pub(crate) async fn stop_all(&self, patience: Duration) {
        self.stopping.send_replace(true);
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for (_name, task) in tasks.into_iter().rev() {
            let abort = task.abort_handle();
            if tokio::time::timeout(patience, task).await.is_err() {
                // Dropping the task drops the child, and `kill_on_drop` ends it.
                abort.abort();
            }
        }
        let _ = std::fs::remove_file(self.state_dir.join("pids.json"));
    }
}

/// Resolves once everything shall stop.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // The value inside is a lock's guard; it must not live across an await of the caller.
    drop(stopping.wait_for(|stop| *stop).await);
}

/// Asks a child to end and waits for it.
async fn terminate(child: &mut tokio::process::Child) {
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        let _ = kill_process(pid, Signal::TERM);
    }
    let _ = child.wait().await;
}

/// Ends the children of an earlier run that was killed itself. Only processes whose program is one
/// of ours are touched.
pub(crate) async fn stop_leftovers(state_dir: &Path) -> anyhow::Result<()> {
    let Ok(text) = std::fs::read_to_string(state_dir.join("pids.json")) else {
        return Ok(());
    };
    let pids: BTreeMap<String, u32> = serde_json::from_str(&text).unwrap_or_default();
    for pid in pids.into_values() {
        let ours = std::fs::read_link(format!("/proc/{pid}/exe"))
            .is_ok_and(|exe| exe.file_name().is_some_and(|n| n.to_string_lossy().starts_with("ez-")));
        let Some(target) = Pid::from_raw(pid.cast_signed()).filter(|_| ours) else {
            continue;
        };
        let _ = kill_process(target, Signal::KILL);
        // Its ports are free only when it is gone.
        for _ in 0..100 {
            if !Path::new(&format!("/proc/{pid}/exe")).exists() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let _ = std::fs::remove_file(state_dir.join("pids.json"));
    Ok(())
}
