//! What the stories stand on: a whole demo in a directory of its own, people who use its API, and
//! waiting for conditions.

mod outside;
mod postgres;

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::Value;
use tokio::{process::Command, time::Instant};

use self::postgres::Postgres;
use crate::{clock::Clock, commits::CommitProxy};

pub use self::outside::{Api, Host, Network, Stripe};

/// What a story has just done may take this long to settle everywhere before the checker's findings count.
const SETTLING: Duration = Duration::from_secs(90);
/// How long a story that has come to its end may have something on its way.
pub const STILL: Duration = Duration::from_secs(2);

/// Which database the control plane uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    Sqlite,
    Postgres,
}

impl Database {
    /// A database of its own for the story, where the control plane does not make one itself; `None` if it is not to be had.
    async fn create(self, story: &str) -> Option<Option<Postgres>> {
        // With `EZ_E2E_DATABASE=postgres` every story is told on PostgreSQL.
        let forced = std::env::var("EZ_E2E_DATABASE").is_ok_and(|name| name == "postgres");
        match self {
            Self::Sqlite if !forced => Some(None),
            Self::Sqlite | Self::Postgres => Some(Some(Postgres::create(story).await?)),
        }
    }
}

/// A whole system: simulators, control plane, one agent per node.
pub struct Demo {
    process: tokio::process::Child,
    directory: tempfile::TempDir,
    postgres: Option<Postgres>,
    arguments: Vec<String>,
    clock: Option<Clock>,
}

fn spawn(
    directory: &Path,
    arguments: &[String],
    postgres: Option<&Postgres>,
    clock: Option<&Clock>,
) -> tokio::process::Child {
    let mut command = Command::new(program("ez-demo"));
    command.args(["--speed", "10", "--quiet", "--any-port", "--state-dir"]).arg(directory.join("state"));
    command.args(arguments);
    if let Some(postgres) = postgres {
        command.args(["--database-url", &postgres.url]);
    }
    let log = std::fs::File::create(directory.join("demo.log")).unwrap();
    command.envs(clock.map(Clock::environment).unwrap_or_default());
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).kill_on_drop(true);
    command.spawn().unwrap()
}

/// Notes that something could not be run here; `make test` prints the list, and CI fails on it.
pub fn not_run(what: &str, why: &str) {
    if let Some(path) = std::env::var_os("EZ_NOT_RUN") {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "{what}: {why}").unwrap();
    }
    eprintln!("not run: {what}: {why}");
}

/// A program that was built together with this test.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let path = own.parent().unwrap().parent().unwrap().join(name);
    assert!(path.is_file(), "{} is not built: run `cargo build --workspace`", path.display());
    path
}

/// Asks again and again until there is an answer; fails with what it waited for.
pub async fn until<T, F>(what: &str, patience: Duration, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {patience:?} for: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

impl Demo {
    /// Starts a demo; `None` if the database is not to be had here.
    pub async fn start(story: &str, database: Database, nodes: u16) -> Option<Self> {
        Self::start_with(story, database, nodes, &[]).await
    }

    /// Starts a demo with further arguments.
    pub async fn start_with(story: &str, database: Database, nodes: u16, more: &[&str]) -> Option<Self> {
        let postgres = database.create(story).await?;
        let directory = tempfile::Builder::new().prefix("ez-e2e-").tempdir().unwrap();
        let mut arguments = vec!["--nodes".to_owned(), nodes.to_string()];
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        let process = spawn(directory.path(), &arguments, postgres.as_ref(), None);
        let mut demo = Self { process, directory, postgres, arguments, clock: None };
        demo.ready().await;
        Some(demo)
    }

    /// Starts a demo on PostgreSQL behind a proxy that can kill at a commit.
    pub async fn start_behind_proxy(story: &str, nodes: u16, more: &[&str]) -> Option<(Self, CommitProxy)> {
        let postgres = Postgres::create(story).await?;
        let mut url = url::Url::parse(&postgres.url).unwrap();
        let server = url.socket_addrs(|| Some(5432)).unwrap()[0];
        let proxy = CommitProxy::start(server).await;
        url.set_port(Some(proxy.address.port())).unwrap();
        url.set_host(Some("127.0.0.1")).unwrap();
        // The proxy reads along.
        url.query_pairs_mut().append_pair("sslmode", "disable");
        let postgres = Postgres { url: url.to_string(), ..postgres };
        let directory = tempfile::Builder::new().prefix("ez-e2e-").tempdir().unwrap();
        let mut arguments = vec!["--nodes".to_owned(), nodes.to_string()];
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        let process = spawn(directory.path(), &arguments, Some(&postgres), None);
        let mut demo = Self { process, directory, postgres: Some(postgres), arguments, clock: None };
        demo.ready().await;
        Some((demo, proxy))
    }

    /// Starts a demo whose programs all live by a clock that the story sets.
    pub async fn start_with_clock(
        story: &str,
        database: Database,
        nodes: u16,
        more: &[&str],
    ) -> Option<(Self, Clock)> {
        let clock = Clock::install(story)?;
        let postgres = database.create(story).await?;
        let directory = tempfile::Builder::new().prefix("ez-e2e-").tempdir().unwrap();
        let mut arguments = vec!["--nodes".to_owned(), nodes.to_string()];
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        let process = spawn(directory.path(), &arguments, postgres.as_ref(), Some(&clock));
        let mut demo = Self { process, directory, postgres, arguments, clock: Some(clock.clone()) };
        demo.ready().await;
        Some((demo, clock))
    }

    /// A program as the demo runs it: by the story's clock, if there is one.
    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(program(name));
        command.envs(self.clock.as_ref().map(Clock::environment).unwrap_or_default());
        command
    }

    async fn launch(&mut self) {
        self.process =
            spawn(self.directory.path(), &self.arguments, self.postgres.as_ref(), self.clock.as_ref());
        self.ready().await;
    }

    async fn ready(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(180);
        while !self.path("state.json").exists() {
            let ended = self.process.try_wait().unwrap();
            assert!(ended.is_none(), "the demo ended: {}", self.log());
            assert!(Instant::now() < deadline, "the demo does not start: {}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // The first look keeps what foreign VMs were: a later one finds what became of them.
        self.run_check().await;
    }

    /// A file in the demo's state directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("state").join(name)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("demo.log")).unwrap_or_default()
    }

    /// The demo's own summary, as it is now.
    pub fn state(&self) -> Value {
        serde_json::from_str(&std::fs::read_to_string(self.path("state.json")).unwrap()).unwrap()
    }

    /// The portal's address.
    pub fn portal(&self) -> String {
        self.state()["portal_url"].as_str().unwrap().to_owned()
    }

    /// Somebody who uses the API with the token of `operator` or `customer`.
    pub fn api(&self, who: &str) -> Api {
        let state = self.state();
        Api {
            client: reqwest::Client::new(),
            base: state["api_url"].as_str().unwrap().to_owned(),
            token: state[who]["api_token"].as_str().unwrap().to_owned(),
        }
    }

    /// The simulated Stripe's control.
    pub fn stripe(&self) -> Stripe {
        let base = self.state()["stripe"]["control_url"].as_str().unwrap().to_owned();
        Stripe { client: reqwest::Client::new(), base }
    }

    /// Letters to an address, newest first.
    pub async fn letters(&self, to: &str) -> Vec<Value> {
        let url = self.state()["mail"]["list_url"].as_str().unwrap().to_owned();
        let all: Vec<Value> = reqwest::get(url).await.unwrap().json().await.unwrap();
        all.into_iter().filter(|letter| letter["to"].to_string().contains(to)).collect()
    }

    /// Runs a command of the control plane as an operator on its machine would.
    pub async fn control_plane(&self, arguments: &[&str]) -> std::process::Output {
        self.control_plane_with_input(arguments, "").await
    }

    /// The same, with something to read on standard input.
    pub async fn control_plane_with_input(&self, arguments: &[&str], input: &str) -> std::process::Output {
        use tokio::io::AsyncWriteExt as _;
        let layout: Value =
            serde_json::from_str(&std::fs::read_to_string(self.path("demo.json")).unwrap()).unwrap();
        let state = self.state();
        let ports = &layout["ports"];
        let mut command = self.command("ez-control-plane");
        command
            .args(arguments)
            .env("DATABASE_URL", state["database_url"].as_str().unwrap())
            .env("PUBLIC_URL", state["portal_url"].as_str().unwrap())
            .env("LISTEN", format!("127.0.0.1:{}", ports["portal"]))
            .env("LINK_LISTEN", format!("127.0.0.1:{}", ports["link"]))
            .env("KEYS_DIR", self.path("keys"))
            .env("STRIPE_API_BASE", format!("{}/", state["stripe"]["url"].as_str().unwrap()))
            .env("STRIPE_SECRET_KEY", state["stripe"]["secret_key"].as_str().unwrap())
            .env("STRIPE_WEBHOOK_SECRETS", state["stripe"]["webhook_secret"].as_str().unwrap())
            .env("SMTP_URL", format!("smtp://127.0.0.1:{}", ports["smtp"]))
            .env("MAIL_FROM", "servers@example.com")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A command that reads nothing closes its end; that is no fault.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes()).await;
        child.wait_with_output().await.unwrap()
    }

    /// The process at a place of the summary, such as `/pids/agents/0`.
    pub fn pid(&self, pointer: &str) -> i64 {
        self.state().pointer(pointer).and_then(Value::as_i64).unwrap()
    }

    /// Whether a process runs; one that was killed and not yet waited for does not.
    pub fn is_alive(&self, pid: i64) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    }

    /// Waits until every node's agent is connected.
    pub async fn nodes_online(&self) {
        self.so_many_online(self.state()["nodes"].as_array().unwrap().len()).await;
    }

    /// The same, but for one that cannot.
    pub async fn nodes_but_one_online(&self) {
        self.so_many_online(self.state()["nodes"].as_array().unwrap().len() - 1).await;
    }

    async fn so_many_online(&self, wanted: usize) {
        until("every node to be online", Duration::from_secs(60), || async {
            let output = self.control_plane(&["node", "list", "--json"]).await;
            let list: Value = serde_json::from_slice(&output.stdout).ok()?;
            let online = list["nodes"].as_array()?.iter().filter(|n| n["presence"] == "online").count();
            (online == wanted).then_some(())
        })
        .await;
    }

    /// Lets a host make, and remove, more servers than it would in a day of real use; its agent is started again.
    pub async fn allow_many_creates(&self, index: usize) {
        let limits = [
            ("creates_per_minute = ", 10),
            ("creates_per_day    = ", 200),
            ("orders_per_hour    = ", 2000),
            ("orders_per_server_per_hour = ", 120),
            ("purges_per_10_minutes = ", 5),
            ("purge_floor_per_day   = ", 3),
            ("replaces_per_hour     = ", 10),
            ("replaces_per_server_per_hour = ", 3),
            ("replace_floor_per_day   = ", 5),
        ];
        let lines = limits.map(|(limit, usual)| (format!("{limit}{usual}"), format!("{limit}10000")));
        self.change_policy(index, &lines).await;
    }

    /// Changes what a host's owner allows; its agent is started again.
    pub async fn change_policy(&self, index: usize, lines: &[(String, String)]) {
        let name = self.state()["nodes"][index]["name"].as_str().unwrap().to_owned();
        let policy = self.path(&format!("nodes/{name}/policy.toml"));
        let mut text = std::fs::read_to_string(&policy).unwrap();
        for (usual, wanted) in lines {
            assert!(text.contains(usual), "{usual} is not in {text}");
            text = text.replace(usual, wanted);
        }
        std::fs::write(&policy, text).unwrap();
        self.kill(&format!("/pids/agents/{index}")).await;
        self.nodes_online().await;
    }

    /// Kills a process as `kill -9` would, and waits until the demo has started it again.
    pub async fn kill(&self, pointer: &str) {
        let old = self.pid(pointer);
        let raw = rustix::process::Pid::from_raw(i32::try_from(old).unwrap()).unwrap();
        match rustix::process::kill_process(raw, rustix::process::Signal::KILL) {
            // Somebody else was quicker: it is being started again already.
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => panic!("{pointer} could not be killed: {error}"),
        }
        until("the killed program to be started again", Duration::from_secs(30), || async {
            (self.pid(pointer) != old).then_some(())
        })
        .await;
    }

    /// Runs the invariant checker until it is content, and fails with what it found if it never is.
    ///
    /// What is on its way needs its time. The minute that the checker gives a system at work is longer than most stories
    /// are: with it, whatever a story had just done would never be looked at.
    pub async fn check(&self) {
        let deadline = Instant::now() + SETTLING;
        loop {
            let output = self.run_check().await;
            if output.status.success() {
                return;
            }
            let text = String::from_utf8_lossy(&output.stdout);
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(Instant::now() < deadline, "the invariant checker found:\n{text}{errors}");
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    /// Runs the invariant checker once, with hardly any grace.
    pub async fn run_check(&self) -> std::process::Output {
        self.run_check_with(STILL).await
    }

    /// Runs the invariant checker once; what is on its way may take `grace`.
    pub async fn run_check_with(&self, grace: Duration) -> std::process::Output {
        let mut command = self.command("ez-simulator");
        let grace_ms = grace.as_millis().to_string();
        command.args(["check", "--json", "--grace-ms", &grace_ms, "--state-dir"]).arg(self.path(""));
        command.output().await.unwrap()
    }

    /// What the invariant checker finds.
    pub async fn violations(&self) -> Vec<Value> {
        let output = self.run_check().await;
        let report: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
        report["violations"].as_array().unwrap().clone()
    }

    /// How many webhook events the control plane has stored.
    pub async fn inbox_rows(&self) -> i64 {
        use sqlx::{AnyConnection, Connection as _};
        sqlx::any::install_default_drivers();
        let url = self.state()["database_url"].as_str().unwrap().to_owned();
        let mut db = AnyConnection::connect(&url).await.unwrap();
        sqlx::query_scalar("SELECT count(*) FROM stripe_events").fetch_one(&mut db).await.unwrap()
    }

    /// Pairs of texts that the control plane has stored.
    pub async fn rows(&self, sql: &'static str) -> Vec<(String, String)> {
        let mut db = open(self.state()["database_url"].as_str().unwrap()).await;
        sqlx::query_as(sql).fetch_all(&mut db).await.unwrap()
    }

    /// Pairs of texts that a node's agent has in its journal.
    pub async fn journal_rows(&self, index: usize, sql: &'static str) -> Vec<(String, String)> {
        let mut db = open(&format!("sqlite:{}", self.journal(index))).await;
        sqlx::query_as(sql).fetch_all(&mut db).await.unwrap()
    }

    fn journal(&self, index: usize) -> String {
        self.state()["nodes"][index]["journal"].as_str().unwrap().to_owned()
    }

    /// Sends a signal to the process at a place of the summary.
    pub fn signal(&self, pointer: &str, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid(pointer)).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Enrols a node's host again, with the token of an operator.
    pub async fn join(&self, index: usize, token: &str) -> std::process::Output {
        use tokio::io::AsyncWriteExt as _;
        let node = self.state()["nodes"][index].clone();
        let layout = std::fs::read_to_string(self.path("demo.json")).unwrap();
        let layout: Value = serde_json::from_str(&layout).unwrap();
        let mut child = self
            .command("ez-node-agent")
            .args(["join", "--config", node["config"].as_str().unwrap()])
            .arg(format!("https://127.0.0.1:{}", layout["ports"]["link"]))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(token.as_bytes()).await.unwrap();
        child.wait_with_output().await.unwrap()
    }

    /// The network of a node, as the simulator's control has it.
    pub fn network(&self, index: usize) -> Network {
        let url = self.state()["nodes"][index]["link_control_url"].as_str().unwrap().to_owned();
        Network { client: reqwest::Client::new(), url: format!("{url}/faults") }
    }

    /// The simulated host of a node, as its administrator sees it.
    pub fn host(&self, index: usize) -> Host {
        self.try_host(index).unwrap()
    }

    /// The same; nothing while the simulator is only being started.
    pub fn try_host(&self, index: usize) -> Option<Host> {
        let node = self.state()["nodes"][index].clone();
        let ready: Value =
            serde_json::from_str(&std::fs::read_to_string(self.path("sim/ready.json")).ok()?).ok()?;
        let clusters = ready["pve"]["clusters"].as_array().unwrap();
        let mut nodes = clusters.iter().flat_map(|c| c["nodes"].as_array().unwrap());
        let ready = nodes.find(|n| n["name"] == node["name"]).unwrap();
        let pem = std::fs::read(ready["ca_pem_file"].as_str().unwrap()).unwrap();
        let authority = reqwest::Certificate::from_pem(&pem).unwrap();
        let client = reqwest::Client::builder().tls_certs_only([authority]).build().unwrap();
        Some(Host { client, node })
    }

    /// Stops the demo and starts it again with the same state.
    pub async fn restart(&mut self) {
        self.terminate().await;
        self.launch().await;
    }

    /// Stops the demo as Ctrl-C would, and removes everything.
    pub async fn stop(mut self) {
        self.terminate().await;
        if let Some(postgres) = self.postgres.take() {
            postgres.drop_database().await;
        }
    }

    async fn terminate(&mut self) {
        if let Some(pid) = self.process.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let status = tokio::time::timeout(Duration::from_secs(40), self.process.wait()).await;
        assert!(matches!(status, Ok(Ok(s)) if s.success()), "the demo does not stop: {}", self.log());
    }
}

/// A connection of one's own to a database that others use.
async fn open(url: &str) -> sqlx::AnyConnection {
    use sqlx::Connection as _;
    sqlx::any::install_default_drivers();
    sqlx::AnyConnection::connect(url).await.unwrap()
}

impl Drop for Demo {
    /// A story that fails leaves nothing running: the demo's children would outlive it.
    fn drop(&mut self) {
        let Some(demo) = self.process.id() else { return };
        let children = std::fs::read_to_string(self.path("pids.json")).unwrap_or_default();
        let children: std::collections::BTreeMap<String, u32> =
            serde_json::from_str(&children).unwrap_or_default();
        // The demo first: it would start again what it sees die.
        for pid in std::iter::once(demo).chain(children.into_values()) {
            if let Some(pid) = rustix::process::Pid::from_raw(pid.cast_signed()) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

/// A public key nobody has the private half of.
pub const SSH_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA jane@laptop";
