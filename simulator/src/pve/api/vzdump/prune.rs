//! Retention: which backups of a VM stay. `keep-last` and one for each of the newest hours, days, weeks,
//! months and years, as `PVE::Storage::prune_mark_backup_group` marks them; in UTC, where a host would
//! take its own time zone.

use std::collections::BTreeSet;

use time::OffsetDateTime;

use crate::pve::state::State;

/// `prune-backups`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Keep {
    /// By name, sorted: `keep-last=3`.
    options: Vec<(String, u64)>,
}

/// Whether a backup stays.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Keep,
    Remove,
}

const RULES: &[&str] =
    &["keep-last", "keep-hourly", "keep-daily", "keep-weekly", "keep-monthly", "keep-yearly"];

impl Keep {
    /// Takes a checked property string apart.
    pub(super) fn parse(text: &str) -> Keep {
        let parts = text.split(',').filter_map(|part| part.split_once('='));
        let mut options: Vec<(String, u64)> =
            parts.map(|(k, v)| (k.trim().to_owned(), v.trim().parse().unwrap_or(0))).collect();
        options.sort();
        Keep { options }
    }

    fn get(&self, name: &str) -> u64 {
        self.options.iter().find(|(k, _)| k == name).map_or(0, |(_, v)| *v)
    }

    /// Everything stays.
    pub(super) fn keeps_all(&self) -> bool {
        self.get("keep-all") > 0 || RULES.iter().all(|rule| self.get(rule) == 0)
    }

    /// How many can stay at most; none: any number.
    pub(super) fn limit(&self) -> Option<u64> {
        (!self.keeps_all()).then(|| RULES.iter().map(|rule| self.get(rule)).sum())
    }

    /// As the log shows it.
    pub(super) fn print(&self) -> String {
        self.options.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(", ")
    }

    /// Of backups made at these seconds, newest first, those that go.
    fn superfluous(&self, newest_first: &[i64]) -> Vec<usize> {
        if self.keeps_all() {
            return Vec::new();
        }
        let mut marks: Vec<Option<Mark>> = vec![None; newest_first.len()];
        for rule in RULES {
            let period = |at: i64| period(rule, at);
            let kept = marks.iter().zip(newest_first).filter(|(m, _)| **m == Some(Mark::Keep));
            let before: BTreeSet<String> = kept.map(|(_, at)| period(*at)).collect();
            let mut new = BTreeSet::new();
            for (mark, at) in marks.iter_mut().zip(newest_first) {
                let id = period(*at);
                if mark.is_some() || before.contains(&id) {
                    continue;
                }
                if new.contains(&id) {
                    *mark = Some(Mark::Remove);
                } else if u64::try_from(new.len()).unwrap_or(u64::MAX) < self.get(rule) {
                    new.insert(id);
                    *mark = Some(Mark::Keep);
                } else {
                    break;
                }
            }
        }
        (0..marks.len()).filter(|i| marks[*i] != Some(Mark::Keep)).collect()
    }
}

/// What a rule keeps one of.
fn period(rule: &str, at: i64) -> String {
    let Ok(t) = OffsetDateTime::from_unix_timestamp(at) else { return at.to_string() };
    let date = t.date();
    match rule {
        "keep-hourly" => format!("{date} {}", t.hour()),
        "keep-daily" => date.to_string(),
        "keep-weekly" => {
            let (year, week, _) = date.to_iso_week_date();
            format!("{year}/{week}")
        }
        "keep-monthly" => format!("{}/{}", t.year(), u8::from(t.month())),
        "keep-yearly" => t.year().to_string(),
        _ => at.to_string(),
    }
}

/// Removes what the rule does not keep of a VM's unprotected backups; gives their volume ids.
pub(super) fn prune(s: &mut State, node: &str, storage: &str, vmid: u32, keep: &Keep) -> Vec<String> {
    let mut own: Vec<(i64, String)> = s
        .backups(node, storage, vmid)
        .filter(|v| v.archive.as_ref().is_some_and(|a| !a.protected))
        .map(|v| (v.ctime, v.volid.clone()))
        .collect();
    own.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    let times: Vec<i64> = own.iter().map(|(at, _)| *at).collect();
    let gone: Vec<String> = keep.superfluous(&times).into_iter().map(|i| own[i].1.clone()).collect();
    gone.iter().for_each(|volid| s.free(node, volid));
    gone
}

#[cfg(test)]
mod tests {
    use super::Keep;

    #[test]
    fn the_newest_stay_and_one_of_each_day() {
        const DAY: i64 = 86_400;
        let times = [10 * DAY + 7200, 10 * DAY + 3600, 9 * DAY + 60, 9 * DAY, 8 * DAY];
        let gone = |rule: &str| Keep::parse(rule).superfluous(&times);
        assert_eq!(gone("keep-last=2"), [2, 3, 4]);
        assert_eq!(gone("keep-daily=2"), [1, 3, 4]);
        assert_eq!(gone("keep-last=1,keep-daily=2"), [1, 3], "the day of the last one is kept already");
        assert!(gone("keep-all=1").is_empty() && gone("keep-last=0").is_empty());
        assert_eq!(Keep::parse("keep-last=1,keep-daily=2").limit(), Some(3));
    }
}
