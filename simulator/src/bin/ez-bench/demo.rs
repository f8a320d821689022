//! A whole system to measure: `ez-demo` and the real binaries as children, in a directory of their own.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{
    process::{Child, Command},
    time::Instant,
};

/// How long a start or a restart may take.
const START: Duration = Duration::from_secs(180);

/// A running system.
pub(crate) struct Demo {
    process: Child,
    directory: PathBuf,
}

/// The path of a program that was built together with this one.
fn sibling(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    if !path.is_file() {
        bail!("{} is not built: `make bench` builds everything", path.display());
    }
    Ok(path)
}

/// Asks again and again until there is an answer.
pub(crate) async fn until<T, F>(
    what: &str,
    patience: Duration,
    every: Duration,
    mut ask: impl FnMut() -> F,
) -> anyhow::Result<T>
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ask().await {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            bail!("waited {patience:?} for {what}");
        }
        tokio::time::sleep(every).await;
    }
}

impl Demo {
    /// Starts a new system below `directory`, with further arguments of `ez-demo`.
    pub(crate) async fn start(directory: &Path, arguments: &[&str]) -> anyhow::Result<Self> {
        Self::start_with(directory, arguments, &[]).await
    }

    /// The same in another environment.
    pub(crate) async fn start_with(
        directory: &Path,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        if directory.exists() {
            std::fs::remove_dir_all(directory)?;
        }
        std::fs::create_dir_all(directory)?;
        let log = std::fs::File::create(directory.join("demo.log"))?;
        let mut command = Command::new(sibling("ez-demo")?);
        command.args(["--quiet", "--any-port", "--state-dir"]).arg(directory.join("state"));
        command
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // A process group of its own: Ctrl-C reaches us, and we end everything.
        command.process_group(0).kill_on_drop(true);
        let mut demo = Self { process: command.spawn()?, directory: directory.to_owned() };
        demo.ready().await?;
        Ok(demo)
    }

    async fn ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START;
        while !self.path("state.json").exists() {
            if self.process.try_wait()?.is_some() || Instant::now() >= deadline {
                let log = std::fs::read_to_string(self.directory.join("demo.log")).unwrap_or_default();
                bail!("the system does not start: {log}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// A file in the state directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join("state").join(name)
    }

    /// The summary for scripts, as it is now.
    pub(crate) fn state(&self) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&std::fs::read_to_string(self.path("state.json"))?)?)
    }

    /// A text of the summary.
    pub(crate) fn text(&self, pointer: &str) -> anyhow::Result<String> {
        let state = self.state()?;
        let text = state.pointer(pointer).and_then(Value::as_str);
        Ok(text.with_context(|| format!("state.json has no {pointer}"))?.to_owned())
    }

    /// The process at a place of the summary, such as `/pids/control_plane`.
    pub(crate) fn pid(&self, pointer: &str) -> anyhow::Result<u32> {
        let state = self.state()?;
        let pid = state.pointer(pointer).and_then(Value::as_u64).context("no such process")?;
        Ok(u32::try_from(pid)?)
    }

    /// A port of the plan, such as `portal` or `link`.
    pub(crate) fn port(&self, name: &str) -> anyhow::Result<u16> {
        let plan: Value = serde_json::from_str(&std::fs::read_to_string(self.path("demo.json"))?)?;
        Ok(u16::try_from(plan["ports"][name].as_u64().context("no such port")?)?)
    }

    /// What every command of the control plane needs to know.
    pub(crate) fn environment(&self) -> anyhow::Result<Vec<(String, String)>> {
        let stripe = |key: &str| self.text(&format!("/stripe/{key}"));
        let link = format!("127.0.0.1:{}", self.port("link")?);
        let pairs = [
            ("DATABASE_URL", self.text("/database_url")?),
            ("PUBLIC_URL", self.text("/portal_url")?),
            ("LISTEN", format!("127.0.0.1:{}", self.port("portal")?)),
            ("LINK_LISTEN", link.clone()),
            // As the running control plane has them: other names would ask for another certificate.
            ("LINK_NAMES", "localhost,127.0.0.1".to_owned()),
            ("LINK_ADDRESS", link),
            ("KEYS_DIR", self.path("keys").display().to_string()),
            ("STRIPE_API_BASE", format!("{}/", stripe("url")?)),
            ("STRIPE_SECRET_KEY", stripe("secret_key")?),
            ("STRIPE_WEBHOOK_SECRETS", stripe("webhook_secret")?),
            ("SMTP_URL", format!("smtp://127.0.0.1:{}", self.port("smtp")?)),
            ("MAIL_FROM", "servers@example.com".to_owned()),
        ];
        Ok(pairs.map(|(key, value)| (key.to_owned(), value)).into())
    }

    /// Runs a command of the control plane as an operator on its machine would; what it prints.
    pub(crate) async fn command(&self, arguments: &[&str]) -> anyhow::Result<String> {
        run(&self.environment()?, arguments).await
    }

    /// Kills a process as `kill -9` would.
    pub(crate) fn kill(&self, pointer: &str) -> anyhow::Result<u32> {
        let pid = self.pid(pointer)?;
        let target = Pid::from_raw(pid.cast_signed()).context("no process")?;
        kill_process(target, Signal::KILL)?;
        Ok(pid)
    }

    /// Waits until the place of a killed process is taken by another one, and until that one is ready.
    pub(crate) async fn back(&self, pointer: &str, old: u32) -> anyhow::Result<u32> {
        let every = Duration::from_millis(20);
        let new = until("the killed program to be started again", START, every, || async {
            self.pid(pointer).ok().filter(|pid| *pid != old)
        })
        .await?;
        let url = format!("{}/readyz", self.text("/portal_url")?);
        let client = reqwest::Client::new();
        until("the control plane to be ready", START, every, || async {
            client.get(&url).send().await.ok().filter(|answer| answer.status().is_success()).map(drop)
        })
        .await?;
        Ok(new)
    }

    /// Waits until so many nodes are online.
    pub(crate) async fn nodes_online(&self, wanted: usize) -> anyhow::Result<()> {
        until("the nodes to be online", START, Duration::from_millis(300), || async {
            let list: Value =
                serde_json::from_str(&self.command(&["node", "list", "--json"]).await.ok()?).ok()?;
            let online = list["nodes"].as_array()?.iter().filter(|node| node["presence"] == "online").count();
            (online >= wanted).then_some(())
        })
        .await
    }

    /// Stops everything as Ctrl-C would and removes the directory.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(pid) = self.process.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            kill_process(pid, Signal::TERM)?;
        }
        let stopped = tokio::time::timeout(Duration::from_secs(60), self.process.wait()).await;
        stopped.context("the system does not stop")??;
        std::fs::remove_dir_all(&self.directory)?;
        Ok(())
    }
}

/// Runs a command of the control plane in an environment.
pub(crate) async fn run(environment: &[(String, String)], arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(sibling("ez-control-plane")?);
    command.args(arguments).envs(environment.iter().map(|(key, value)| (key, value)));
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    if !output.status.success() {
        bail!("`ez-control-plane {}`: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

impl Drop for Demo {
    /// What is given up leaves nothing running: the demo's children would outlive it.
    fn drop(&mut self) {
        let Some(demo) = self.process.id() else { return };
        let children = std::fs::read_to_string(self.path("pids.json")).unwrap_or_default();
        let children: BTreeMap<String, u32> = serde_json::from_str(&children).unwrap_or_default();
        // The demo first: it would start again what it sees die.
        for pid in std::iter::once(demo).chain(children.into_values()) {
            if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
                let _it_may_be_gone = kill_process(pid, Signal::KILL);
            }
        }
    }
}
