//! The files that come with the simulator, and complaints about those that are wrong.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Value, json};

use super::*;
use crate::{config::Config, serve::Simulator, wall::SystemWall};

fn shipped() -> Vec<Scenario> {
    Scenario::read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")).unwrap()
}

async fn simulator(dir: &Path) -> Simulator {
    let _installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let any = "127.0.0.1:0";
    let storages = json!([{ "id": "local-lvm", "type": "lvmthin", "content": ["images"] }]);
    let node =
        |name: &str| json!({ "name": name, "listen": any, "control_listen": any, "storages": storages });
    let config = json!({
        "state_dir": "sim",
        "pve": {
            "clusters": [
                { "name": "fsn", "version": "9.2", "nodes": [node("fsn-1"), node("fsn-2")] },
                { "name": "hel", "version": "8.4", "nodes": [node("hel-1")] },
            ],
            "root_token": { "id": "root@pam!demo", "secret": "c0ffee00-0000-4000-8000-000000000001" },
        },
        "stripe": {
            "listen": any, "control_listen": any, "secret_key": "sk_test_x",
            "webhook_url": "http://127.0.0.1:1/w", "webhook_secret": "whsec_x",
        },
        "mail": { "smtp_listen": any, "http_listen": any },
        "link_proxy": {
            "control_listen": any, "upstream": "127.0.0.1:1",
            "nodes": [{ "name": "fsn-1", "listen": any }, { "name": "hel-1", "listen": any }],
        },
    });
    let file = dir.join("simulator.json");
    std::fs::write(&file, config.to_string()).unwrap();
    Simulator::start(&Config::load(&file).unwrap(), Arc::new(SystemWall)).await.unwrap()
}

/// Whether a simulator says that nothing is wrong with it.
fn is_well(said: &Value) -> bool {
    let empty = |key: &str| said[key].as_array().is_none_or(Vec::is_empty);
    ["rules", "webhooks", "api", "full_storages"].into_iter().all(empty) && said["down"] != true
}

#[test]
fn there_is_a_scenario_for_each_named_fault() {
    let names: Vec<String> = shipped().into_iter().map(|scenario| scenario.name).collect();
    assert_eq!(
        names,
        [
            "clone-task-fails",
            "clone-worker-killed-early",
            "clone-worker-killed",
            "link-address-change",
            "link-delay",
            "link-duplicate",
            "link-loss",
            "link-partition-down",
            "link-partition-up",
            "link-partition",
            "link-reorder",
            "mail-answer-dropped",
            "mail-down",
            "pve-clone-answer-dropped",
            "pve-daemon-restarts",
            "pve-no-quorum",
            "pve-refuses-clone-after",
            "pve-refuses-clone-before",
            "pve-slow",
            "start-fails",
            "storage-busy",
            "storage-full",
            "stripe-429",
            "stripe-500-after-write",
            "stripe-answer-dropped",
            "stripe-bad-signature",
            "stripe-delays",
            "stripe-duplicates",
            "stripe-loses",
            "stripe-reorders",
            "stripe-stale-signature",
            "vmid-taken",
        ]
    );
}

#[test]
fn the_readme_says_what_each_scenario_proves() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    for Scenario { name, proves, .. } in shipped() {
        assert!(readme.contains(&format!("| `{name}` | {proves} |")), "{name}");
    }
}

#[tokio::test]
async fn every_scenario_can_be_applied_to_a_running_simulator_and_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let simulator = simulator(dir.path()).await;
    let targets = Targets::read(dir.path()).unwrap();
    assert_eq!((targets.pve.len(), targets.link.len()), (3, 2));
    for scenario in shipped() {
        let posted = apply(&scenario, &targets).await.unwrap()
            + apply_at(&scenario, &targets, At::OrderPaid).await.unwrap();
        let wanted: usize = scenario
            .faults
            .iter()
            .map(|fault| match fault.target {
                Target::Pve(None) => targets.pve.len(),
                Target::Link(None) => targets.link.len(),
                _ => 1,
            })
            .sum();
        assert_eq!(posted, wanted, "{}", scenario.name);
        let struck: Vec<String> = faults(&targets)
            .await
            .unwrap()
            .into_iter()
            .filter(|(_, said)| !is_well(said))
            .map(|(url, _)| url)
            .collect();
        let kind = match scenario.faults[0].target {
            Target::Pve(_) => targets.pve.iter().map(|base| format!("{base}/faults")).collect(),
            Target::Stripe => vec![format!("{}/_sim/faults", targets.stripe.as_ref().unwrap())],
            Target::Mail => vec![format!("{}/faults", targets.mail.as_ref().unwrap())],
            Target::Link(_) => targets.link.iter().map(|base| format!("{base}/faults")).collect(),
        };
        assert_eq!(struck, kind, "{}", scenario.name);
        clear(&targets).await.unwrap();
        assert!(faults(&targets).await.unwrap().iter().all(|(_, said)| is_well(said)), "{}", scenario.name);
    }
    simulator.stop().await;
}

#[tokio::test]
async fn a_fault_for_one_node_strikes_that_node_and_its_hits_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let simulator = simulator(dir.path()).await;
    // As a demo would: the nodes in an order of its own.
    let ready: Value = simulator.ready.clone();
    let node = |cluster: usize, node: usize| &ready["pve"]["clusters"][cluster]["nodes"][node];
    let state = json!({ "nodes": [{ "control_url": node(1, 0)["control_url"] }, { "control_url": node(0, 1)["control_url"] }] });
    let targets = Targets::of(&state, &ready);
    let text = "name = \"one\"\nproves = \"x.\"\n[[faults]]\ntarget = \"pve\"\nnode = 0\n[faults.rule]\ncall = { path = \"/version\" }\nfault = \"drop_request\"\n";
    let scenario = file::parse(Path::new("one.toml"), text).unwrap();
    assert_eq!(apply(&scenario, &targets).await.unwrap(), 1);
    let listens = |node: &Value| format!("{}/api2/json/version", node["api_url"].as_str().unwrap());
    let authority = |node: &Value| {
        let pem = std::fs::read(node["ca_pem_file"].as_str().unwrap()).unwrap();
        let ca = reqwest::Certificate::from_pem(&pem).unwrap();
        reqwest::Client::builder().tls_certs_only([ca]).no_proxy().build().unwrap()
    };
    let ask = async |node: &Value| {
        let request = authority(node).get(listens(node));
        request
            .header("authorization", "PVEAPIToken=root@pam!demo=c0ffee00-0000-4000-8000-000000000001")
            .send()
            .await
    };
    assert_eq!(ask(node(0, 1)).await.unwrap().status(), 200, "the other node is well");
    assert_eq!(hits(&targets).await.unwrap(), 0);
    assert!(ask(node(1, 0)).await.is_err());
    assert_eq!(hits(&targets).await.unwrap(), 1);
    assert_eq!(ask(node(1, 0)).await.unwrap().status(), 200, "once is enough");
    let missing = Scenario {
        faults: vec![Planned { target: Target::Pve(Some(2)), ..scenario.faults[0].clone() }],
        ..scenario
    };
    let refused = apply(&missing, &targets).await.unwrap_err().to_string();
    assert_eq!(refused, "there is no node 2 to strike");
    simulator.stop().await;
}

#[test]
fn a_wrong_file_is_told_where_and_why() {
    let head = "name = \"x\"\nproves = \"It holds.\"\n";
    let rule = "[faults.rule]\ncall = { path = \"/clone\" }\nfault = \"drop_answer\"\n";
    for (text, place, reason) in [
        (
            "name = \"y\"\nproves = \"a.\"\n[[faults]]\ntarget = \"mail\"\n".to_owned(),
            "1:8",
            "`name` must be the file's: x",
        ),
        (
            "name = \"x\"\nproves = \"a\"\n[[faults]]\ntarget = \"mail\"\n".to_owned(),
            "2:10",
            "must be a sentence",
        ),
        (format!("{head}faults = []\n"), "3:10", "at least one fault"),
        (format!("{head}colour = 1\n"), "3:1", "unknown field `colour`"),
        (format!("{head}[[faults]]\ntarget = \"dns\"\n"), "4:10", "unknown variant `dns`"),
        (
            format!("{head}[[faults]]\ntarget = \"pve\"\nat = \"noon\"\n{rule}"),
            "5:6",
            "unknown variant `noon`",
        ),
        (format!("{head}[[faults]]\ntarget = \"pve\"\n"), "3:1", "nothing goes wrong here"),
        (format!("{head}[[faults]]\ntarget = \"mail\"\n{rule}"), "5:1", "`rule` is not for this target"),
        (
            format!("{head}[[faults]]\ntarget = \"pve\"\n{rule}[faults.restart]\ndown_ms = 1\n"),
            "3:1",
            "one fault for each",
        ),
        (format!("{head}[[faults]]\ntarget = \"pve\"\n{rule}exit = \"x\"\n"), "5:1", "`exit` goes with fail"),
        (format!("{head}[[faults]]\ntarget = \"pve\"\n{rule}when = 1\n"), "8:1", "unknown field `when`"),
        (
            format!("{head}[[faults]]\ntarget = \"mail\"\nnode = 1\n[faults.smtp]\ndown = true\n"),
            "5:8",
            "`node` is for targets pve and link",
        ),
        (
            format!("{head}[[faults]]\ntarget = \"stripe\"\n[faults.webhooks]\nlose = 0\n"),
            "5:1",
            "at least 1",
        ),
        (
            format!("{head}[[faults]]\ntarget = \"link\"\n[faults.network]\nfault = \"loss\"\npercent = 0\n"),
            "5:1",
            "1 to 100",
        ),
        (format!("{head}[[faults]]\ntarget = \"link\"\n{rule}"), "5:1", "`rule` is not for this target"),
        (format!("{head}faults = 1\n"), "3:10", "expected a sequence"),
    ] {
        let refused = file::parse(&PathBuf::from("dir/x.toml"), &text).unwrap_err().to_string();
        assert!(
            refused.starts_with(&format!("dir/x.toml:{place}: ")) && refused.contains(reason),
            "wanted {place} {reason}, got {refused}\n{text}"
        );
    }
}
