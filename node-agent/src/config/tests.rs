use std::path::Path;

use super::*;

const NOTHING: &dyn Fn(&str) -> Option<String> = &|_| None;

fn problems(text: &str) -> Vec<String> {
    match parse(Path::new("agent.toml"), text, NOTHING) {
        Ok(_) => Vec::new(),
        Err(ConfigError(problems)) => problems.iter().map(Problem::to_string).collect(),
    }
}

#[test]
fn two_keys_are_enough_and_the_rest_has_defaults() {
    let config = parse(Path::new("agent.toml"), "pve_node = \"pve1\"\n", NOTHING).unwrap();
    assert_eq!(config.pve_url.as_str(), "https://127.0.0.1:8006/");
    assert_eq!(config.snippet_storage, "ez-ci-pve1");
    assert_eq!(config.journal_file(), Path::new("/var/lib/ez-node-agent/journal.sqlite"));
    assert_eq!(config.log_format, LogFormat::Text);
}

#[test]
fn the_environment_wins_over_the_file() {
    let env = |name: &str| (name == "EZ_AGENT_PVE_NODE").then(|| "from-env".to_owned());
    let config = parse(Path::new("agent.toml"), "pve_node = \"from-file\"", &env).unwrap();
    assert_eq!(config.pve_node, "from-env");
    let bad = |name: &str| (name == "EZ_AGENT_PVE_URL").then(|| "ftp://x".to_owned());
    let error = parse(Path::new("agent.toml"), "pve_node = \"n\"", &bad).unwrap_err().to_string();
    assert!(
        error.starts_with("environment variable EZ_AGENT_PVE_URL: pve_url: must begin with https://"),
        "{error}"
    );
}

#[test]
fn every_problem_is_named_with_its_place() {
    let mut found =
        problems("pve_nod = \"x\"\nstate_dir = \"relative\"\n  log_format = \"xml\"\npve_url = 5\n");
    found.sort();
    let mut wanted = vec![
        "agent.toml:1:1: pve_nod: is not a known key; did you mean pve_node?",
        "agent.toml:2:13: state_dir: must be an absolute path, not \"relative\"",
        "agent.toml:3:16: log_format: must be \"json\" or \"text\", not \"xml\"",
        "agent.toml:4:11: pve_url: must be a text in quotes, not integer",
        "agent.toml: pve_node: is missing: the name of this node in its cluster, as `hostname` says it \
         (or set EZ_AGENT_PVE_NODE)",
    ];
    wanted.sort_unstable();
    assert_eq!(found, wanted);
}

#[test]
fn broken_toml_says_where() {
    let found = problems("pve_node = \"a\"\npve_url = \n");
    assert!(found[0].starts_with("agent.toml:2:"), "{found:?}");
}

#[test]
fn another_link_address_is_host_and_port() {
    let with = |address: &str| format!("pve_node = \"n\"\nlink_address = \"{address}\"");
    for address in ["relay.example:7443", "[2001:db8::1]:443"] {
        let config = parse(Path::new("a"), &with(address), NOTHING).unwrap();
        assert_eq!(config.link_address.as_deref(), Some(address));
    }
    assert_eq!(parse(Path::new("a"), &with(""), NOTHING).unwrap().link_address, None);
    for wrong in ["relay.example", "relay.example:0", ":7443", "https://relay.example:7443", "a b:1"] {
        let found = problems(&with(wrong));
        assert!(found[0].starts_with("agent.toml:2:16: link_address: must be host:port"), "{found:?}");
    }
}

#[test]
fn a_fingerprint_is_checked_and_written_in_one_way() {
    let pairs = vec!["ab"; 32].join(":");
    let config =
        parse(Path::new("a"), &format!("pve_node = \"n\"\npve_fingerprint = \"{pairs}\""), NOTHING).unwrap();
    assert_eq!(config.pve_fingerprint, Some(vec!["AB"; 32].join(":")));
    assert!(problems("pve_node = \"n\"\npve_fingerprint = \"ab:cd\"")[0].contains("32 hexadecimal pairs"));
}

#[test]
fn what_setup_found_counts_where_the_owner_says_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.toml");
    let none = load(Some(&file), NOTHING).unwrap_err().to_string();
    assert!(none.contains("it is not there, and neither is what `ez-node-agent setup` writes"), "{none}");
    std::fs::write(setup_file(&file), "pve_node = \"found\"\nlog = \"debug\"\n").unwrap();
    let found = load(Some(&file), NOTHING).unwrap();
    assert_eq!((found.pve_node.as_str(), found.log.as_str()), ("found", "debug"));
    std::fs::write(&file, "log = \"warn\"\n").unwrap();
    let both = load(Some(&file), NOTHING).unwrap();
    assert_eq!((both.pve_node.as_str(), both.log.as_str()), ("found", "warn"));
    std::fs::write(setup_file(&file), "pve_node = 5\n").unwrap();
    let wrong = load(Some(&file), NOTHING).unwrap_err().to_string();
    assert!(wrong.contains("setup.toml:1:12: pve_node: must be a text in quotes"), "{wrong}");
}
