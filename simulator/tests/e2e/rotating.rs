//! The installation's signing keys are exchanged while servers run: nodes follow, and none is enrolled again.

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    purchase::{PATIENCE, buy},
    support::{Database, Demo, until},
};

/// What the command says of the keys.
async fn shown(demo: &Demo) -> Value {
    let output = demo.control_plane(&["keys", "show", "--json"]).await;
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// Runs a command of the keys; gives what it says, or why it refuses.
async fn keys(demo: &Demo, arguments: &[&str]) -> Result<String, String> {
    let arguments: Vec<&str> = std::iter::once("keys").chain(arguments.iter().copied()).collect();
    let output = demo.control_plane(&arguments).await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// The control plane is started again, and so many nodes do not believe the version that holds then.
async fn restarted(demo: &Demo, version: u64, behind: usize) {
    demo.kill("/pids/control_plane").await;
    until("nodes to believe the trust document", PATIENCE, || async {
        let shown = shown(demo).await;
        let names = shown["nodes_behind"].as_array()?.len();
        (shown["trust_version"] == version && names == behind).then_some(())
    })
    .await;
}

/// The key that signs, and how many others of its kind are trusted.
fn signing(shown: &Value, role: &str) -> (String, usize) {
    let all = shown["keys"].as_array().unwrap().iter().filter(|key| key["role"] == role);
    let (signs, others): (Vec<_>, Vec<_>) = all.partition(|key| key["state"] == "signs");
    assert_eq!(signs.len(), 1, "{shown}");
    (signs[0]["id"].as_str().unwrap().to_owned(), others.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_keys_are_exchanged_and_nodes_follow() {
    let Some(demo) = Demo::start("keys", Database::Sqlite, 3).await else { return };
    buy(&demo, "web-1", "fsn").await;
    let before = shown(&demo).await;
    assert_eq!((&before["trust_version"], before["nodes_behind"].as_array().unwrap().len()), (&1.into(), 0));
    let first = signing(&before, "order");
    let nothing = keys(&demo, &["switch", "order"]).await.unwrap_err();
    assert!(nothing.contains("no new key waits"), "{nothing}");

    // One agent hangs through all of it.
    demo.signal("/pids/agents/2", Signal::STOP);
    let said = keys(&demo, &["prepare", "order"]).await.unwrap();
    assert!(said.contains("version 2") && said.contains("Restart every process"), "{said}");
    let early = keys(&demo, &["switch", "order"]).await.unwrap_err();
    assert!(early.contains("3 of 3 nodes") && early.contains("Nothing was changed"), "{early}");
    restarted(&demo, 2, 1).await;
    assert_eq!(signing(&shown(&demo).await, "order"), (first.0.clone(), 1));
    buy(&demo, "web-2", "fsn").await;
    let one = keys(&demo, &["switch", "order"]).await.unwrap_err();
    assert!(one.contains("1 of 3 nodes") && one.contains("hel"), "{one}");
    keys(&demo, &["switch", "order", "--now"]).await.unwrap();
    // What runs signs with the key before until it is started again; both count.
    buy(&demo, "web-3", "fsn").await;
    restarted(&demo, 3, 1).await;
    let second = signing(&shown(&demo).await, "order");
    assert!(second.0 != first.0 && second.1 == 1, "{second:?}");
    buy(&demo, "web-4", "fsn").await;

    // The key that signs trust documents, and a key for orders that somebody else may have: not trusted from now on.
    for (role, version) in [("trust", 4), ("order", 6)] {
        keys(&demo, &["prepare", role]).await.unwrap();
        restarted(&demo, version, 1).await;
        keys(&demo, &["switch", role, "--now", "--distrust"]).await.unwrap();
        restarted(&demo, version + 1, 1).await;
        assert_eq!(signing(&shown(&demo).await, role).1, 0);
    }
    buy(&demo, "web-5", "fsn").await;

    // The one that hung takes six versions, one after the other, and then its orders.
    demo.signal("/pids/agents/2", Signal::CONT);
    until("the last node to follow", PATIENCE, || async {
        shown(&demo).await["nodes_behind"].as_array()?.is_empty().then_some(())
    })
    .await;
    buy(&demo, "web-6", "hel").await;
    let audited: Vec<(String, String)> =
        demo.rows("SELECT action, subject_kind FROM audit WHERE action LIKE 'key.%' ORDER BY at, id").await;
    let words: Vec<&str> = audited.iter().map(|(action, _)| action.as_str()).collect();
    assert_eq!(words, ["key.prepared", "key.switched"].repeat(3));
    demo.check().await;
    demo.stop().await;
}

/// Files of a directory without directories in it, with their permissions.
fn copy_files(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// What an operator would look at.
async fn rings(demo: &Demo) -> bool {
    let open: Vec<(String, String)> =
        demo.rows("SELECT kind, detail FROM alarms WHERE cleared_at IS NULL AND kind = 'trust_behind'").await;
    open.iter().any(|(_, detail)| detail.contains("KEYS_DIR is an old copy"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_copy_of_the_keys_is_found_out_and_gives_no_orders() {
    let Some(demo) = Demo::start("old keys", Database::Sqlite, 1).await else { return };
    let kept = tempfile::tempdir().unwrap();
    let (keys_dir, old, new) = (demo.path("keys"), kept.path().join("old"), kept.path().join("new"));
    copy_files(&keys_dir, &old);
    keys(&demo, &["prepare", "order"]).await.unwrap();
    restarted(&demo, 2, 0).await;
    keys(&demo, &["switch", "order", "--distrust"]).await.unwrap();
    restarted(&demo, 3, 0).await;

    // Somebody puts back the copy of before.
    copy_files(&keys_dir, &new);
    for file in std::fs::read_dir(&keys_dir).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    copy_files(&old, &keys_dir);
    demo.kill("/pids/control_plane").await;
    until("the old copy to ring", PATIENCE, || async { rings(&demo).await.then_some(()) }).await;
    for step in [&["show"][..], &["prepare", "order"], &["switch", "order", "--now"]] {
        let refused = keys(&demo, step).await.unwrap_err();
        assert!(refused.contains("old copy"), "{step:?}: {refused}");
    }

    copy_files(&new, &keys_dir);
    restarted(&demo, 3, 0).await;
    until("it to be content", PATIENCE, || async { (!rings(&demo).await).then_some(()) }).await;
    buy(&demo, "web-1", "fsn").await;
    demo.check().await;
    demo.stop().await;
}
