//! One identity, two agents: a copy of a node's state that is started elsewhere, the same state started twice, and
//! the honest agent that comes back over a connection nobody has missed yet.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use rustix::process::Signal;
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::{
    purchase::PATIENCE,
    support::{Database, Demo, program, until},
};

/// What a person would look at: open alarms and what each says.
async fn alarms(demo: &Demo) -> Vec<(String, String)> {
    demo.rows("SELECT kind, detail FROM alarms WHERE cleared_at IS NULL ORDER BY kind").await
}

/// Name and state of every node.
async fn nodes(demo: &Demo) -> Vec<(String, String)> {
    demo.rows("SELECT name, state FROM nodes ORDER BY name").await
}

async fn session(demo: &Demo) -> Vec<(String, String)> {
    demo.rows("SELECT node_id, connection FROM node_sessions ORDER BY node_id").await
}

/// What an agent says of its link.
fn link(state_dir: &Path) -> String {
    let text = std::fs::read_to_string(state_dir.join("status.json")).unwrap_or_default();
    let status: Value = serde_json::from_str(&text).unwrap_or_default();
    status["link"].as_str().unwrap_or_default().to_owned()
}

/// A copy of a node's state, on a machine of its own.
struct Copy {
    agent: Child,
    dir: tempfile::TempDir,
}

impl Copy {
    /// Copies the state while its agent stands still, and starts the real agent on it.
    async fn start(demo: &Demo) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (demo.path("nodes/fsn-1/state"), dir.path().join("state"));
        demo.signal("/pids/agents/0", Signal::STOP);
        copy_dir(&from, &to);
        demo.signal("/pids/agents/0", Signal::CONT);
        let machine = dir.path().join("machine/etc");
        std::fs::create_dir_all(&machine).unwrap();
        std::fs::write(machine.join("machine-id"), "another machine\n").unwrap();
        let log = std::fs::File::create(dir.path().join("agent.log")).unwrap();
        let agent = Command::new(program("ez-node-agent"))
            .args(["run", "--config"])
            .arg(demo.path("nodes/fsn-1/agent.toml"))
            .env("EZ_AGENT_STATE_DIR", &to)
            .env("EZ_AGENT_HOST_ROOT", dir.path().join("machine"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { agent, dir }
    }

    fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("agent.log")).unwrap()
    }
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Both live: neither gets orders, both are told, and a person sees an alarm that says what was seen. A new
/// enrolment decides which of them is the node.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_on_another_machine_puts_both_out_until_the_node_is_enrolled_again() {
    let Some(demo) = Demo::start("a copied identity", Database::Sqlite, 1).await else { return };
    let mut copy = Copy::start(&demo).await;
    let said = until("an alarm about two agents", PATIENCE, || async {
        let open = alarms(&demo).await;
        open.into_iter().find(|(kind, _)| kind == "identity_copied")
    })
    .await
    .1;
    assert!(said.contains("different machines"), "{said}");
    assert_eq!(nodes(&demo).await, [("fsn-1".to_owned(), "quarantined".to_owned())], "{}", copy.log());
    let original = demo.path("nodes/fsn-1/state");
    for state_dir in [&original, &copy.state_dir()] {
        until("both to be told of the quarantine", PATIENCE, || async {
            link(state_dir).contains("quarantined").then_some(())
        })
        .await;
    }

    let token = demo.control_plane(&["node", "token", "fsn-1", "--json"]).await;
    let token: Value = serde_json::from_slice(&token.stdout).unwrap();
    let joined = demo.join(0, token["token"].as_str().unwrap()).await;
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    demo.kill("/pids/agents/0").await;
    demo.nodes_online().await;
    assert_eq!(nodes(&demo).await, [("fsn-1".to_owned(), "active".to_owned())]);
    assert!(alarms(&demo).await.iter().all(|(kind, _)| kind != "identity_copied"));
    until("the copy to be turned away for good", PATIENCE, || async {
        link(&copy.state_dir()).contains("revoked").then_some(())
    })
    .await;
    copy.agent.kill().await.unwrap();
    demo.check().await;
    demo.stop().await;
}

/// Killed so that nobody says goodbye: the control plane still holds the old connection when the new one comes.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_comes_back_is_believed_at_once_and_without_an_alarm() {
    let Some(demo) = Demo::start("an agent that comes back", Database::Sqlite, 1).await else { return };
    let before = session(&demo).await;
    demo.kill("/pids/agents/0").await;
    until("the new connection to hold the session", PATIENCE, || async {
        let now = session(&demo).await;
        (now.len() == 1 && now != before).then_some(())
    })
    .await;
    let (_, server) = crate::purchase::buy(&demo, "web-1", "fsn").await;
    assert_eq!(server["state"], "running");
    assert_eq!(nodes(&demo).await, [("fsn-1".to_owned(), "active".to_owned())]);
    assert_eq!(alarms(&demo).await, []);
    demo.check().await;
    demo.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_on_the_same_state_is_refused_and_the_first_goes_on() {
    let Some(demo) = Demo::start("one state directory", Database::Sqlite, 1).await else { return };
    let (first, before) = (demo.pid("/pids/agents/0"), session(&demo).await);
    let second = Command::new(program("ez-node-agent"))
        .args(["run", "--config"])
        .arg(demo.path("nodes/fsn-1/agent.toml"))
        .output()
        .await
        .unwrap();
    let words = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success());
    assert!(words.contains(&format!("another ez-node-agent (process {first}) runs")), "{words}");
    assert!(demo.is_alive(first) && session(&demo).await == before, "the first was not disturbed");
    demo.check().await;
    demo.stop().await;
}
