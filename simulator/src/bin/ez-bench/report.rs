//! The figures as a table for people and as `report.json` for programs.

use std::path::Path;

use serde_json::{Map, Value, json};

/// One figure.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    name: &'static str,
    value: f64,
    unit: &'static str,
    /// What it is measured against: the reach of the design in the same unit.
    against: Option<f64>,
    met: Option<bool>,
    how: String,
}

impl Row {
    /// A figure that must not exceed `against`.
    pub(crate) fn at_most(
        name: &'static str,
        value: f64,
        unit: &'static str,
        against: f64,
        how: impl Into<String>,
    ) -> Self {
        let met = Some(value <= against);
        Self { name, value, unit, against: Some(against), met, how: how.into() }
    }

    /// A figure that must reach `against`.
    pub(crate) fn at_least(
        name: &'static str,
        value: f64,
        unit: &'static str,
        against: f64,
        how: impl Into<String>,
    ) -> Self {
        let met = Some(value >= against);
        Self { name, value, unit, against: Some(against), met, how: how.into() }
    }

    /// Something beside it, that nothing is asked of.
    pub(crate) fn seen(name: &'static str, value: f64, unit: &'static str, how: impl Into<String>) -> Self {
        Self { name, value, unit, against: None, met: None, how: how.into() }
    }

    /// The same with another verdict: for reaches of two parts.
    pub(crate) fn judged(mut self, met: bool) -> Self {
        self.met = Some(met);
        self
    }
}

/// What was measured, in this order.
#[derive(Debug, Default)]
pub(crate) struct Report {
    date: String,
    rows: Vec<Row>,
}

impl Report {
    /// An empty one that was begun at this time.
    pub(crate) fn begun(date: String) -> Self {
        Self { date, rows: Vec::new() }
    }

    /// Takes a figure in.
    pub(crate) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// How many figures did not reach what the design asks.
    pub(crate) fn missed(&self) -> usize {
        self.rows.iter().filter(|row| row.met == Some(false)).count()
    }

    /// `{name: {value, unit, against, met, how}}`.
    pub(crate) fn json(&self) -> Value {
        let mut all = Map::new();
        let date = json!({"value": self.date, "unit": "UTC", "against": null, "how": "begin of the run"});
        all.insert("machine_date".into(), date);
        for row in &self.rows {
            let entry = json!({
                "value": rounded(row.value), "unit": row.unit, "against": row.against.map(rounded),
                "met": row.met, "how": row.how,
            });
            all.insert(row.name.into(), entry);
        }
        all.into()
    }

    /// Writes the JSON so that a reader sees the old or the new report, never a part.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let temporary = path.with_extension("json.tmp");
        std::fs::write(&temporary, serde_json::to_string_pretty(&self.json())?)?;
        Ok(std::fs::rename(&temporary, path)?)
    }

    /// The table.
    pub(crate) fn table(&self) -> String {
        let mut out = format!("{:<32} {:>12} {:<10} {:>12}  {}\n", "figure", "value", "", "reach", "");
        for row in &self.rows {
            let against = row.against.map(shown).unwrap_or_default();
            let verdict = match row.met {
                Some(true) => "met   ",
                Some(false) => "MISSED",
                None => "      ",
            };
            out += &format!(
                "{:<32} {:>12} {:<10} {:>12}  {verdict}  {}\n",
                row.name,
                shown(row.value),
                row.unit,
                against,
                row.how
            );
        }
        out
    }
}

/// Four digits matter, not more.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let digits = 10_f64.powf(3.0 - value.abs().log10().floor());
    (value * digits).round() / digits
}

fn shown(value: f64) -> String {
    let value = rounded(value);
    if value.abs() >= 1_000.0 { format!("{value:.0}") } else { format!("{value}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_was_measured_and_whether_it_suffices() {
        let mut report = Report::begun("2026-11-28T12:00:00Z".into());
        report.add(Row::at_most("page_p99_ms", 6.123_456, "ms", 5.0, "server time"));
        report.add(Row::at_least("webhook_rate", 4_321.9, "/s", 4_000.0, "64 connections"));
        report.add(Row::seen("machine_cores", 2.0, "cores", ""));
        assert_eq!(report.missed(), 1);
        let json = report.json();
        assert_eq!(json["page_p99_ms"]["value"], 6.123);
        assert_eq!(json["page_p99_ms"]["against"], 5.0);
        assert_eq!(json["webhook_rate"]["met"], true);
        assert_eq!(json["machine_cores"]["against"], Value::Null);
        assert_eq!(json["machine_date"]["value"], "2026-11-28T12:00:00Z");
        let table = report.table();
        let line = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        assert!(line("page_p99_ms").contains("MISSED") && line("webhook_rate").contains("met"), "{table}");
    }

    #[test]
    fn four_digits_are_shown() {
        assert_eq!(
            (shown(0.012_345_6), shown(12_345.678), shown(0.0)),
            ("0.01235".into(), "12350".into(), "0".into())
        );
    }
}
