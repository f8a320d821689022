//! The logs of what was asked are judged by checkers that know the real Proxmox VE and Stripe.

use tokio::process::Command;

use crate::{
    purchase::buy,
    support::{Database, Demo},
};

/// The log of each place, and what its Proxmox VE offers.
const PROXMOX: [(&str, &str); 2] = [("pve-fsn.jsonl", "schema-9.json"), ("pve-hel.jsonl", "schema-8.4.json")];

#[tokio::test(flavor = "multi_thread")]
async fn what_a_purchase_asks_of_proxmox_and_stripe_is_what_they_offer() {
    let Some(shared) = ez_simulator::reference::shared("judging the logs of a purchase") else { return };
    let Some(demo) = Demo::start("judged logs", Database::Sqlite, 3).await else { return };
    buy(&demo, "web-1", "fsn").await;
    buy(&demo, "web-2", "hel").await;
    assert_eq!(proxmox(&demo, "a purchase").await, Some(2));
    let mut command = Command::new("python3");
    command.arg(shared.join("stripe/check.py"));
    command.args(["--need-key", "--version", "2026-09-30.endive"]);
    judge(command.arg(demo.path("sim/logs/stripe.jsonl")), "stripe.jsonl").await;
    demo.check().await;
    demo.stop().await;
}

/// Judges everything that was asked of Proxmox so far; how many logs, each of another version, that were.
pub async fn proxmox(demo: &Demo, story: &str) -> Option<usize> {
    let shared = ez_simulator::reference::shared(&format!("judging the log of {story}"))?;
    let mut judged = 0;
    for (log, schema) in PROXMOX {
        let path = demo.path("sim/logs").join(log);
        if !path.exists() {
            continue;
        }
        let mut command = Command::new("python3");
        command.arg(shared.join("pve/check.py")).arg(shared.join("pve").join(schema));
        judge(command.arg(path), log).await;
        judged += 1;
    }
    assert!(judged > 0, "{story}: there is no log");
    Some(judged)
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
