//! Tasks: state, log, and finding the clone that an unanswered call may have started.

use proxmox_api::client::Client as _;

use super::ProxmoxHypervisor;
use crate::pve::{
    CloneSearch, LOG_PAGE, LogLine, PveError, TaskExit, TaskState, Upid, Vmid, encode,
    raw::{self, Row},
};

/// Whether a clone's log names `newid` as its target, and whether it names any target at all.
///
/// Since March 2026 the log says `creating a clone of VM X with ID Y`. Older hosts name the target
/// only in its volumes: `vm-101-disk-0`, `images/101/`.
fn target_of(log: &[LogLine], template: Vmid, newid: Vmid) -> Option<bool> {
    let mut named = None;
    for line in log.iter().map(|l| l.text.as_str()) {
        if let Some(rest) = line.split("creating a clone of VM ").nth(1) {
            let id = rest.split("with ID ").nth(1).map(digits);
            return Some(id.as_deref() == Some(newid.to_string().as_str()));
        }
        for mark in ["vm-", "images/", "/"] {
            for part in line.split(mark).skip(1) {
                let id = digits(part);
                let volume = part[id.len()..].starts_with(if mark == "vm-" { "-" } else { "/" });
                if !volume || id.is_empty() || id == template.to_string() {
                    continue;
                }
                if id == newid.to_string() {
                    return Some(true);
                }
                named = Some(false);
            }
        }
    }
    named
}

fn digits(text: &str) -> String {
    text.chars().take_while(char::is_ascii_digit).collect()
}

impl ProxmoxHypervisor {
    fn task_path(&self, upid: &Upid, rest: &str) -> Result<String, PveError> {
        if upid.node() != self.node {
            return Err(PveError::Invalid(format!("task {upid} is not of node {}", self.node)));
        }
        Ok(self.node_path(&format!("/tasks/{}{rest}", encode::escape(upid.as_str()))))
    }

    pub(super) async fn read_task(&self, upid: Upid) -> Result<TaskState, PveError> {
        let row: Row = match self.read(&self.task_path(&upid, "/status")?, &[]).await {
            Err(PveError::Refused { status: 400 | 403, .. }) => return Ok(TaskState::Unknown),
            other => other?,
        };
        if raw::text(&row, "status").as_deref() != Some("stopped") {
            return Ok(TaskState::Running);
        }
        let exit = raw::text(&row, "exitstatus").unwrap_or_else(|| "unexpected status".to_owned());
        Ok(TaskState::Ended(TaskExit::parse(&exit)))
    }

    pub(super) async fn read_task_log(&self, upid: Upid, from: u64) -> Result<Vec<LogLine>, PveError> {
        let start = from.saturating_sub(1).to_string();
        let limit = LOG_PAGE.to_string();
        let query = [("start", start.as_str()), ("limit", limit.as_str())];
        let rows: Vec<Row> = self.read(&self.task_path(&upid, "/log")?, &query).await?;
        let lines = rows.iter().map(|row| LogLine {
            number: raw::count(row, "n"),
            text: raw::text(row, "t").unwrap_or_default(),
        });
        // "no content" is what an empty log looks like, never output.
        Ok(lines.filter(|line| line.text != "no content").collect())
    }

    pub(super) async fn search_clone(
        &self,
        template: Vmid,
        since_secs: i64,
        newid: Vmid,
    ) -> Result<CloneSearch, PveError> {
        let (vmid, since) = (template.to_string(), since_secs.max(0).to_string());
        let query = [
            ("typefilter", "qmclone"),
            ("vmid", vmid.as_str()),
            ("since", since.as_str()),
            ("source", "all"),
            ("limit", "500"),
        ];
        let rows: Vec<Row> = self.read(&self.node_path("/tasks"), &query).await?;
        let mut undecided = false;
        let mut ended = None;
        for row in &rows {
            let Some(upid) = raw::text(row, "upid").and_then(|text| text.parse::<Upid>().ok()) else {
                continue;
            };
            if upid.kind() != "qmclone" || upid.subject() != vmid || upid.started_secs() < since_secs {
                continue;
            }
            let state = self.read_task(upid.clone()).await?;
            let log = match self.read_task_log(upid.clone(), 1).await {
                Err(PveError::Refused { status: 400 | 403, .. }) => continue,
                other => other?,
            };
            match (target_of(&log, template, newid), state) {
                (Some(true), TaskState::Running) => return Ok(CloneSearch::Running(upid)),
                // A later attempt counts more than an earlier one.
                (Some(true), TaskState::Ended(exit)) => {
                    let later = |(seen, _): &(Upid, TaskExit)| seen.started_secs() < upid.started_secs();
                    if ended.as_ref().is_none_or(later) {
                        ended = Some((upid, exit));
                    }
                }
                (None, TaskState::Running) => undecided = true,
                _ => {}
            }
        }
        Ok(match ended {
            _ if undecided => CloneSearch::Undecided,
            Some((upid, exit)) => CloneSearch::Ended(upid, exit),
            None => CloneSearch::NotFound,
        })
    }

    pub(super) async fn delete_task(&self, upid: Upid) -> Result<(), PveError> {
        self.http.delete(&self.task_path(&upid, "")?, &()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(lines: &[&str]) -> Vec<LogLine> {
        lines.iter().map(|t| LogLine { number: 1, text: (*t).to_owned() }).collect()
    }

    #[test]
    fn a_clone_log_tells_its_target_on_new_and_old_hosts() {
        let new = log(&["creating a clone of VM 9000 with ID 101", "create linked clone of drive scsi0"]);
        assert_eq!(target_of(&new, 9000, 101), Some(true));
        assert_eq!(target_of(&new, 9000, 10), Some(false));
        let lvm = log(&[
            "Logical volume \"vm-101-cloudinit\" created.",
            "create full clone of drive scsi0 (local-lvm:base-9000-disk-0)",
        ]);
        assert_eq!(target_of(&lvm, 9000, 101), Some(true));
        assert_eq!(target_of(&lvm, 9000, 1010), Some(false));
        let dir = log(&[
            "Formatting '/var/lib/vz/images/101/vm-101-disk-0.qcow2', fmt=qcow2 backing_file=../9000/base-9000-disk-0.qcow2",
        ]);
        assert_eq!(target_of(&dir, 9000, 101), Some(true));
        assert_eq!(
            target_of(
                &log(&["create full clone of drive scsi0 (local:9000/base-9000-disk-0.qcow2)"]),
                9000,
                101
            ),
            None
        );
        assert_eq!(target_of(&[], 9000, 101), None);
    }
}
