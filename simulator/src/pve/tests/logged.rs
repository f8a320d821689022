//! The request log is what the schema checker judges.

use std::process::Command;

use super::world::World;

/// Runs the schema checker over the request log, where it is present.
pub(super) fn passes_the_checker(w: &World, schema: &str) {
    let Some(shared) = crate::reference::shared("the schema checker").map(|shared| shared.join("pve")) else {
        return;
    };
    let out = Command::new("python3")
        .arg(shared.join("check.py"))
        .arg(shared.join(schema))
        .arg(w.directory.join("logs/pve-one.jsonl"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{schema}: {said}");
    eprintln!("{schema}: {}", said.trim());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_purchase_passes_the_checker() {
    for (version, schema) in [("8.4", "schema-8.4.json"), ("9.2", "schema-9.json")] {
        let w = World::new(version).await;
        w.post("/pools", &[("poolid", "ez")]).await.data();
        super::purchase::buy(&w, 101).await;
        let log = w.directory.join("logs/pve-one.jsonl");
        let text = std::fs::read_to_string(&log).unwrap();
        assert!(text.lines().count() > 12);
        assert!(text.lines().all(|l| l.contains(r#""token":true"#)));
        assert!(!text.contains("11111111-2222-4333-8444-555555555555"), "no secrets");
        passes_the_checker(&w, schema);
    }
}
