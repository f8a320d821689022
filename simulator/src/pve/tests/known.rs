//! The committed list of recorded exchanges that the simulator does not repeat, and its account: an
//! entry that no longer fits anything is as much an error as a difference that is not listed.

use serde::Deserialize;
use serde_json::Value;

/// How many differences may be listed.
pub(super) const MOST: usize = 20;

/// `simulator/known-differences.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Known {
    skip: Vec<Skip>,
    pub(super) difference: Vec<Difference>,
}

/// Exchanges that are not judged.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Skip {
    why: Why,
    #[serde(default = "anything")]
    group: String,
    #[serde(default = "anything")]
    note: String,
    call: String,
    /// Only so many of them, the first ones: the same was asked again when the machine had what it needs.
    first: Option<usize>,
    reason: String,
    #[serde(skip)]
    seen: usize,
}

/// Why an exchange is not judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Why {
    /// The simulator has no such call. The test proves it.
    NotSimulated,
    /// The machine that was recorded lacked what the call needs.
    RecordingMachine,
}

impl Why {
    pub(super) fn words(self) -> &'static str {
        match self {
            Why::NotSimulated => "not simulated",
            Why::RecordingMachine => "environment of the recording machine",
        }
    }
}

/// Exchanges that are answered otherwise.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Difference {
    group: String,
    note: String,
    call: String,
    /// Patterns of the points in which they differ; each must fit one and each point must be fitted.
    differs: Vec<String>,
    /// How many exchanges it covers.
    count: usize,
    reason: String,
    #[serde(skip)]
    seen: usize,
}

fn anything() -> String {
    "*".into()
}

/// Whether `text` fits a pattern in which `*` stands for anything.
fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or("")) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

/// A recorded exchange as the patterns see it: group, note, call.
struct Named<'a> {
    group: &'a str,
    note: &'a str,
    call: String,
}

impl<'a> Named<'a> {
    fn of(line: &'a Value) -> Self {
        let text = |k: &str| line[k].as_str().unwrap_or("");
        let path = text("path");
        let path = path.strip_prefix("/api2/json").unwrap_or(path);
        Named { group: text("group"), note: text("note"), call: format!("{} {path}", text("method")) }
    }

    fn fits(&self, group: &str, note: &str, call: &str) -> bool {
        fits(group, self.group) && fits(note, self.note) && fits(call, &self.call)
    }
}

impl Known {
    pub(super) fn read() -> Known {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/known-differences.toml");
        toml::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
    }

    /// The entry by which an exchange is not judged, counted.
    pub(super) fn skips(&mut self, line: &Value) -> Option<Why> {
        let named = Named::of(line);
        let fitting =
            |s: &&mut Skip| s.first.is_none_or(|n| s.seen < n) && named.fits(&s.group, &s.note, &s.call);
        let entry = self.skip.iter_mut().find(fitting)?;
        entry.seen += 1;
        Some(entry.why)
    }

    /// Whether the points in which an exchange differs are listed for it; counted.
    pub(super) fn lists(&mut self, line: &Value, points: &[String]) -> bool {
        let named = Named::of(line);
        let all = |d: &Difference| {
            points.iter().all(|p| d.differs.iter().any(|l| fits(l, p)))
                && d.differs.iter().all(|l| points.iter().any(|p| fits(l, p)))
        };
        let found = self.difference.iter_mut().find(|d| named.fits(&d.group, &d.note, &d.call) && all(d));
        found.map(|d| d.seen += 1).is_some()
    }

    /// What is wrong with the list as it is written.
    fn form(&self) -> Vec<String> {
        let mut out = Vec::new();
        if self.difference.len() > MOST {
            out.push(format!("{} differences are listed, {MOST} are allowed", self.difference.len()));
        }
        let reasons = self.skip.iter().map(|s| &s.reason).chain(self.difference.iter().map(|d| &d.reason));
        if reasons.into_iter().any(|r| r.split_whitespace().count() < 3) {
            out.push("every entry needs a reason".into());
        }
        out
    }

    /// What is wrong with the list after everything was asked.
    pub(super) fn complaints(&self) -> Vec<String> {
        let mut out = self.form();
        for s in self.skip.iter().filter(|s| s.seen == 0) {
            out.push(format!(
                "no recorded exchange is skipped by {:?} {:?} {:?} any more",
                s.group, s.note, s.call
            ));
        }
        for d in self.difference.iter().filter(|d| d.seen != d.count) {
            out.push(format!(
                "{:?} {:?} {:?} lists {} exchanges that differ, {} did",
                d.group, d.note, d.call, d.count, d.seen
            ));
        }
        out
    }
}

#[test]
fn the_list_is_short_and_gives_a_reason_for_everything() {
    assert_eq!(Known::read().form(), Vec::<String>::new());
}

#[test]
fn a_star_stands_for_anything() {
    assert!(fits("GET /nodes/*/hosts", "GET /nodes/pve1/hosts") && fits("*", "") && fits("a*b*c", "a--b--c"));
    assert!(
        fits("a", "a") && !fits("a", "ab") && !fits("a*b", "a--c") && !fits("*b", "ba") && fits("*a", "aa")
    );
}
