//! `check-config`: every problem of `agent.toml`, `setup.toml`, the environment and `policy.toml`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde_json::{Value, json};

use super::{env, host, message, print, print_json};
use crate::{
    config::{self, ConfigError, DEFAULT_PATH, Place, Problem},
    policy,
};

/// Says every problem; exit code 2 if there is one.
pub(super) fn check_config(file: Option<&Path>, as_json: bool) -> ExitCode {
    let (node, problems) = problems(file);
    if as_json {
        let list: Vec<Value> = problems.iter().map(problem_json).collect();
        print_json(&json!({ "ok": problems.is_empty(), "problems": list }));
    } else {
        for problem in &problems {
            message(&problem.to_string());
        }
        if let Some(node) = node.filter(|_| problems.is_empty()) {
            print(&format!("configuration and policy of node {node} are good"));
        }
    }
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(2) }
}

fn problems(file: Option<&Path>) -> (Option<String>, Vec<Problem>) {
    let mut problems = Vec::new();
    let config = config::load(file, &env);
    let policy_file = match &config {
        Ok(config) => Some(config.policy_file.clone()),
        Err(ConfigError(wrong)) => {
            problems.extend(wrong.clone());
            likely_policy(file)
        }
    };
    if let Some(Err(ConfigError(wrong))) = policy_file.map(|path| policy::load(&path)) {
        problems.extend(wrong);
    }
    if let Ok(config) = &config
        && let Err(error) = host::connect(config)
    {
        let place = Place::Whole(config.pve_token_file.clone());
        problems.push(Problem { place, key: None, reason: format!("{error:#}") });
    }
    (config.ok().map(|config| config.pve_node), problems)
}

/// Where the policy stands when the configuration, which would say so, cannot be read.
fn likely_policy(file: Option<&Path>) -> Option<PathBuf> {
    let beside = || file.unwrap_or(Path::new(DEFAULT_PATH)).with_file_name("policy.toml");
    Some(env("EZ_AGENT_POLICY_FILE").map_or_else(beside, PathBuf::from)).filter(|path| path.exists())
}

fn problem_json(problem: &Problem) -> Value {
    let (file, line, column) = match &problem.place {
        Place::File { path, line, column } => (path.display().to_string(), Some(*line), Some(*column)),
        Place::Whole(path) => (path.display().to_string(), None, None),
        Place::Env(name) => (format!("environment variable {name}"), None, None),
    };
    json!({ "file": file, "line": line, "column": column, "key": problem.key, "reason": problem.reason })
}
