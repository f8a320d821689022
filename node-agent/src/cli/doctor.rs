//! `doctor`: gathers what there is and shows what was found.

use std::{path::Path, process::ExitCode, sync::Arc};

use serde_json::json;

use super::{StatusFile, env, host, message, print, print_json};
use crate::{
    clock::SystemClock,
    config::{self, DEFAULT_PATH},
    doctor::{Check, HostSystem, Level, Patient, examine, worst},
    identity, policy, setup,
};

pub(super) async fn doctor(file: Option<&Path>, as_json: bool) -> anyhow::Result<ExitCode> {
    let config = config::load(file, &env);
    let known = config.as_ref().ok();
    let status = known.and_then(|config| status(&config.status_file()));
    let runs = known.zip(status.as_ref()).is_some_and(|(config, status)| {
        super::status::is_alive(status, super::alone::runs(&config.lock_file()), &super::run::boot_id())
    });
    let patient = Patient {
        config_file: file.unwrap_or(Path::new(DEFAULT_PATH)).to_owned(),
        policy: known.map(|config| policy::load(&config.policy_file)),
        identity: known.map(identity::look),
        status,
        runs,
        agents_user: setup::files::service_owner().map(|(user, _)| user),
        pve: match known {
            Some(config) => host::connect(config).map_err(|error| format!("{error:#}")),
            None => Err("there is no configuration".to_owned()),
        },
        config,
        system: Arc::new(HostSystem),
        clock: Arc::new(SystemClock),
    };
    let checks = examine(&patient).await;
    show(&checks, as_json);
    Ok(ExitCode::from(match worst(&checks) {
        Level::Ok => 0,
        Level::Warn => 10,
        Level::Fail => 11,
    }))
}

fn status(path: &Path) -> Option<StatusFile> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn show(checks: &[Check], as_json: bool) {
    let count = |level| checks.iter().filter(|check| check.level == level).count();
    let (ok, warnings, errors) = (count(Level::Ok), count(Level::Warn), count(Level::Fail));
    if as_json {
        print_json(&json!({ "ok": ok, "warnings": warnings, "errors": errors, "checks": checks }));
        return;
    }
    for check in checks {
        print(&format!("{:4}  {:20}  {}", check.level.as_str(), check.name, check.found));
        if !check.fix.is_empty() {
            print(&format!("{:26}→ {}", "", check.fix));
        }
    }
    message(&format!("{ok} ok, {warnings} warnings, {errors} errors"));
}
