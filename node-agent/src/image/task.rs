//! Waiting for a task through the administrator's way to Proxmox.

use std::{collections::BTreeSet, time::Duration};

use serde_json::Value;
use tokio::time::Instant;

use super::{BuildError, Report, Site, Step};
use crate::{
    pve::{LOG_PAGE, PveError, TaskExit, Upid, text},
    setup::{AdminApi, Verb},
};

/// Longest pause between two looks.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long an answer that does not come is waited for.
const SILENCE: Duration = Duration::from_secs(300);

/// How long a step may take; a download over a slow line takes hours.
const fn patience(step: Step) -> Duration {
    match step {
        Step::Download => Duration::from_secs(6 * 3_600),
        Step::Create => Duration::from_secs(3_600),
        _ => Duration::from_secs(600),
    }
}

/// The task handle in an answer. `pvesh` prints a worker's log before it.
pub(super) fn handle(answer: &Value) -> Result<Upid, PveError> {
    let text = answer.as_str().unwrap_or_default();
    let word =
        text.split_whitespace().rev().map(|word| word.trim_matches('"')).find(|w| w.starts_with("UPID:"));
    word.unwrap_or(text).parse()
}

/// Reports the task of a step and waits until it has ended well.
pub(super) async fn follow(
    api: &dyn AdminApi,
    site: &Site,
    step: Step,
    answer: &Value,
    report: &mut dyn Report,
) -> Result<(), BuildError> {
    let upid = handle(answer).map_err(BuildError::pve("reading the task's handle"))?;
    report.called(upid.as_str()).await?;
    match wait(api, site, step, &upid).await? {
        exit if exit.is_success() => Ok(()),
        exit => {
            Err(BuildError::Task { step: step.as_str(), exit: exit.error().unwrap_or_default().to_owned() })
        }
    }
}

/// Waits for a task to end. A task nobody knows any more counts as killed: looking tells what it did.
pub(super) async fn wait(
    api: &dyn AdminApi,
    site: &Site,
    step: Step,
    upid: &Upid,
) -> Result<TaskExit, BuildError> {
    let began = Instant::now();
    let mut heard = began;
    let path = format!("/nodes/{}/tasks/{upid}/status", site.node);
    loop {
        match api.call(Verb::Get, &path, &[]).await {
            Ok(status) => {
                heard = Instant::now();
                if status.get("status").and_then(Value::as_str) == Some("stopped") {
                    let exit = status.get("exitstatus").and_then(Value::as_str);
                    return Ok(TaskExit::parse(exit.unwrap_or("unexpected status")));
                }
            }
            Err(error) if error.text().contains("no such task") => return Ok(TaskExit::Killed),
            Err(reason) if heard.elapsed() > SILENCE => {
                return Err(BuildError::Pve { doing: "following a task", reason });
            }
            Err(_) => {}
        }
        if began.elapsed() > patience(step) {
            let exit = format!("still running after {} s; it goes on by itself", began.elapsed().as_secs());
            return Err(BuildError::Task { step: step.as_str(), exit });
        }
        tokio::time::sleep((began.elapsed() / 20).clamp(Duration::from_millis(50), LONGEST_PAUSE)).await;
    }
}

/// The disks that a destruction could not remove: only its log names them. One that Proxmox has forgotten tells nothing any
/// more.
pub(super) async fn kept_disks(
    api: &dyn AdminApi,
    site: &Site,
    upid: &Upid,
) -> Result<BTreeSet<String>, BuildError> {
    let path = format!("/nodes/{}/tasks/{upid}/log", site.node);
    let (mut kept, mut read) = (BTreeSet::new(), 0_usize);
    loop {
        let query = [("start", read.to_string()), ("limit", LOG_PAGE.to_string())];
        let answer = match api.call(Verb::Get, &path, &query).await {
            Ok(answer) => answer,
            Err(error) if error.text().contains("no such task") => return Ok(kept),
            Err(reason) => return Err(BuildError::Pve { doing: "reading the log of a destruction", reason }),
        };
        let rows = answer.as_array().map(Vec::as_slice).unwrap_or_default();
        let lines = rows.iter().filter_map(|row| row.get("t").and_then(Value::as_str));
        kept.extend(lines.filter_map(text::kept_volume).map(str::to_owned));
        read += rows.len();
        if rows.len() < LOG_PAGE {
            return Ok(kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_found_behind_the_log_that_pvesh_prints() {
        let upid = "UPID:pve1:0000445C:00053052:6B03CEF4:download:x:root@pam:";
        for text in [upid.to_owned(), format!("downloading …\n100%\nTASK OK\n{upid}"), format!("\"{upid}\"")]
        {
            assert_eq!(handle(&Value::from(text)).unwrap().as_str(), upid);
        }
        assert!(handle(&Value::Null).is_err());
    }
}
