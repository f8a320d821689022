//! Charts: of a server's use, and of a node's. Drawn by the server as inline SVG, with a table of the same in words.

use ez_protocol::UnixMillis;
use serde::Serialize;

use super::{Money, SAMPLE_NOW, instances::Head};
use crate::web::{templates::Page, views::instances::sample_head};

/// Width of a chart's drawing.
pub const WIDTH: u32 = 400;
/// Its height.
pub const HEIGHT: u32 = 176;
/// Where the lines are: left, top, right, bottom.
pub const PLOT: (u32, u32, u32, u32) = (64, 12, 388, 148);

/// A line of the grid and its label.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tick<T> {
    /// Its place in the drawing.
    pub place: u32,
    /// What stands beside it.
    pub label: T,
}

/// One line of a chart.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// Text `metrics-line-<code>`.
    pub code: &'static str,
    /// SVG path; where nothing is known it is interrupted.
    pub path: String,
    /// The newest value.
    pub now: Option<u64>,
    /// The mean.
    pub mean: Option<u64>,
    /// The largest.
    pub most: Option<u64>,
}

/// A chart.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Chart {
    /// Text `metrics-chart-<code>`.
    pub code: &'static str,
    /// What its numbers are: `permille`, `bytes`, `rate` (bytes per second), `count` or `money`.
    pub unit: &'static str,
    /// Of `money`: its currency.
    pub currency: Option<String>,
    /// Horizontal lines with a value each.
    pub rows: Vec<Tick<u64>>,
    /// Vertical lines with a time each, as written.
    pub columns: Vec<Tick<String>>,
    /// One or two lines.
    pub lines: Vec<Line>,
}

/// A month's traffic.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrafficUse {
    /// `2026-11`
    pub month: String,
    /// Received, bytes.
    pub bytes_in: u64,
    /// Sent, bytes.
    pub bytes_out: u64,
    /// What counts against the plan, bytes.
    pub counted: u64,
    /// What the plan includes, bytes; none if it says nothing.
    pub included: Option<u64>,
    /// What more costs; none where it costs nothing.
    pub overage: Option<Overage>,
}

/// What traffic above the plan costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Overage {
    /// Bytes above.
    pub bytes: u64,
    /// What they cost so far.
    pub cost: Money,
    /// What each started 100 GB costs.
    pub unit: Money,
    /// When the month is closed; it is put on the first invoice after that.
    pub after: UnixMillis,
}

impl Overage {
    /// One for samples.
    pub(crate) fn sample(bytes: u64, minor: i64) -> Self {
        Self {
            bytes,
            cost: Money::new(minor, "eur"),
            unit: Money::new(12, "eur"),
            after: UnixMillis(SAMPLE_NOW.0 + 9 * 86_400_000),
        }
    }
}

/// `GET /servers/{id}/graphs?span=`.
#[derive(Debug, Clone, Serialize)]
pub struct Graphs {
    /// The server.
    pub server: Head,
    /// `hour`, `day` or `week`: text `metrics-span-<span>`.
    pub span: &'static str,
    /// None before the first samples.
    pub charts: Vec<Chart>,
    /// This month's traffic.
    pub traffic: TrafficUse,
}

/// A chart for samples.
pub(crate) fn sample_chart(
    code: &'static str,
    unit: &'static str,
    top: u64,
    lines: &[&'static str],
) -> Chart {
    let value = |place, label: u64| Tick { place, label };
    let time = |place, label: &str| Tick { place, label: label.to_owned() };
    let line = |(n, code): (usize, &&'static str)| Line {
        code,
        path: format!("M64 {}L120 90L180 100M240 60L388 70", 120 + n),
        now: Some(top / 8),
        mean: Some(top / 10),
        most: Some(top / 3),
    };
    Chart {
        code,
        unit,
        currency: None,
        rows: vec![value(148, 0), value(80, top / 2), value(12, top)],
        columns: vec![time(64, "20:00"), time(226, "20:30")],
        lines: lines.iter().enumerate().map(line).collect(),
    }
}

impl Page for Graphs {
    const TEMPLATE: &'static str = "pages/metrics/graphs.html";

    fn samples() -> Vec<(&'static str, Self)> {
        let full = Self {
            server: sample_head("running", "good"),
            span: "hour",
            charts: vec![
                sample_chart("cpu", "permille", 1_000, &["cpu"]),
                sample_chart("memory", "bytes", 4 << 30, &["memory"]),
                sample_chart("disk", "rate", 1 << 20, &["read", "write"]),
                sample_chart("network", "rate", 8 << 20, &["in", "out"]),
            ],
            traffic: TrafficUse {
                month: "2026-11".to_owned(),
                bytes_in: 150 << 30,
                bytes_out: 64 << 30,
                counted: 214 << 30,
                included: Some(2 << 40),
                overage: Some(Overage::sample(0, 0)),
            },
        };
        let mut unknown = full.clone();
        for line in unknown.charts.iter_mut().flat_map(|chart| &mut chart.lines) {
            (line.now, line.mean, line.most) = (None, None, None);
            line.path.clear();
        }
        let over = Self {
            span: "week",
            traffic: TrafficUse {
                counted: 3 << 40,
                overage: Some(Overage::sample(1 << 40, 132)),
                ..full.traffic.clone()
            },
            ..full.clone()
        };
        let none = Self {
            span: "day",
            charts: Vec::new(),
            traffic: TrafficUse {
                bytes_in: 0,
                bytes_out: 0,
                counted: 0,
                included: None,
                overage: None,
                ..full.traffic.clone()
            },
            ..full.clone()
        };
        vec![("full", full), ("gap", unknown), ("over", over), ("none", none)]
    }
}
