//! The logs of a full purchase are judged by checkers that know the real Proxmox VE and Stripe.

use tokio::process::Command;

use crate::{
    purchase::buy,
    support::{Database, Demo},
};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_purchase_asks_of_proxmox_and_stripe_is_what_they_offer() {
    let Some(shared) = ez_simulator::reference::shared("judging the logs of a purchase") else { return };
    let Some(demo) = Demo::start("judged logs", Database::Sqlite, 3).await else { return };
    buy(&demo, "web-1", "fsn").await;
    buy(&demo, "web-2", "hel").await;
    for (log, schema) in [("pve-fsn.jsonl", "schema-9.json"), ("pve-hel.jsonl", "schema-8.4.json")] {
        let mut command = Command::new("python3");
        command.arg(shared.join("pve/check.py")).arg(shared.join("pve").join(schema));
        judge(command.arg(demo.path("sim/logs").join(log)), log).await;
    }
    let mut command = Command::new("python3");
    command.arg(shared.join("stripe/check.py"));
    command.args(["--need-key", "--version", "2026-09-30.endive"]);
    judge(command.arg(demo.path("sim/logs/stripe.jsonl")), "stripe.jsonl").await;
    demo.check().await;
    demo.stop().await;
}

async fn judge(command: &mut Command, log: &str) {
    let output = command.output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let sum = String::from_utf8_lossy(&output.stderr);
    println!("{log}: {sum}{text}");
    assert!(output.status.success(), "{log}: {sum}{text}");
    let judged = sum.chars().chain(text.chars()).find(char::is_ascii_digit);
    assert!(judged.is_some_and(|first| first != '0'), "{log} is empty");
}
