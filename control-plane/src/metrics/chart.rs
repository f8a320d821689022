//! From points to a drawing. Pure.

use ez_protocol::UnixMillis;
use time::{OffsetDateTime, macros::format_description};

use super::model::{Point, Span, Values};
use crate::web::views::metrics::{Chart, Line, PLOT, Tick};

/// What a line shows.
pub(super) type Reading = (&'static str, fn(&Values) -> u64);

/// What a chart is about.
pub(super) struct Subject {
    /// Text `metrics-chart-<code>`.
    pub(super) code: &'static str,
    /// `permille`, `bytes` or `rate`.
    pub(super) unit: &'static str,
    /// Its lines.
    pub(super) lines: &'static [Reading],
    /// The value of the upper edge; none: what fits.
    pub(super) top: Option<u64>,
}

/// Draws points of a span.
pub(super) fn draw(subject: &Subject, points: &[Point], span: Span) -> Chart {
    let values = |read: fn(&Values) -> u64| points.iter().map(move |point| point.values.as_ref().map(read));
    let most = subject.lines.iter().flat_map(|(_, read)| values(*read)).flatten().max().unwrap_or(0);
    // What is more than there should be is still drawn.
    let top = subject.top.filter(|top| *top >= most && *top > 0).unwrap_or_else(|| fitting(most));
    let lines = subject.lines.iter().map(|(code, read)| {
        let all: Vec<Option<u64>> = values(*read).collect();
        let known: Vec<u64> = all.iter().copied().flatten().collect();
        let sum: u128 = known.iter().map(|value| u128::from(*value)).sum();
        let count = u128::try_from(known.len()).unwrap_or(u128::MAX);
        Line {
            code,
            path: path(&all, top),
            // A step that has just begun may hold nothing yet.
            now: all.iter().rev().take(3).flatten().next().copied(),
            mean: sum.checked_div(count).and_then(|mean| u64::try_from(mean).ok()),
            most: known.iter().max().copied(),
        }
    });
    let (_, upper, _, lower) = PLOT;
    let rows = [0, 1, 2].map(|half| Tick {
        place: lower - (lower - upper) * half / 2,
        label: top / 2 * u64::from(half) + if half == 2 { top % 2 } else { 0 },
    });
    Chart {
        code: subject.code,
        unit: subject.unit,
        currency: None,
        rows: rows.into(),
        columns: columns(points, span),
        lines: lines.collect(),
    }
}

/// What plain numbers are; both belong to what is sold in a currency.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unit<'a> {
    /// Minor units of a currency.
    Money(&'a str),
    /// So many.
    Count(&'a str),
}

/// Draws plain numbers of equal steps.
pub(crate) fn draw_numbers(
    code: &'static str,
    unit: Unit<'_>,
    lines: &[(&'static str, Vec<u64>)],
    labels: &[String],
) -> Chart {
    let most = lines.iter().flat_map(|(_, values)| values).copied().max().unwrap_or(0);
    let (word, currency, least) = match unit {
        Unit::Money(currency) => ("money", currency, 200),
        Unit::Count(currency) => ("count", currency, 4),
    };
    let top = round_top(most, least);
    let (_, upper, _, lower) = PLOT;
    let row =
        |half: u32| Tick { place: lower - (lower - upper) * half / 2, label: top / 2 * u64::from(half) };
    let line = |(code, values): &(&'static str, Vec<u64>)| {
        let all: Vec<Option<u64>> = values.iter().copied().map(Some).collect();
        let sum: u128 = values.iter().map(|value| u128::from(*value)).sum();
        let count = u128::try_from(values.len()).unwrap_or(u128::MAX);
        Line {
            code,
            path: path(&all, top),
            now: values.last().copied(),
            mean: sum.checked_div(count).and_then(|mean| u64::try_from(mean).ok()),
            most: values.iter().max().copied(),
        }
    };
    // Every third label has room.
    let shown = labels.iter().enumerate().filter(|(n, _)| (labels.len() - 1 - n).is_multiple_of(3));
    Chart {
        code,
        unit: word,
        currency: Some(currency.to_owned()),
        rows: [0, 1, 2].map(row).into(),
        columns: shown
            .map(|(n, label)| Tick { place: across(n, labels.len()), label: label.clone() })
            .collect(),
        lines: lines.iter().map(line).collect(),
    }
}

/// One, two or four with zeros behind, at least as much as there is: its half reads well.
fn round_top(most: u64, least: u64) -> u64 {
    let steps = (0..19).flat_map(|zeros| [1, 2, 4].map(|digit| digit * 10_u64.pow(zeros)));
    steps.filter(|top| *top >= least && top.is_multiple_of(2)).find(|top| *top >= most).unwrap_or(u64::MAX)
}

/// The next power of two, a kilobyte at least: halves of it read well.
fn fitting(most: u64) -> u64 {
    most.max(1_024).checked_next_power_of_two().unwrap_or(u64::MAX)
}

/// Place of the n-th of so many points.
fn across(n: usize, points: usize) -> u32 {
    let (left, _, right, _) = PLOT;
    let last = u64::try_from(points.saturating_sub(1).max(1)).unwrap_or(1);
    let n = u64::try_from(n).unwrap_or(0).min(last);
    left + u32::try_from(u64::from(right - left) * n / last).unwrap_or(0)
}

/// A line through what is known, with tenths of a unit of height; interrupted by what is not.
fn path(values: &[Option<u64>], top: u64) -> String {
    use std::fmt::Write as _;
    let (_, upper, _, lower) = PLOT;
    let mut path = String::new();
    let mut drawing = false;
    for (n, value) in values.iter().enumerate() {
        let Some(value) = value else {
            drawing = false;
            continue;
        };
        let height = u128::from(lower - upper) * 10 * u128::from((*value).min(top)) / u128::from(top.max(1));
        let tenths = u128::from(lower) * 10 - height;
        let x = across(n, values.len());
        let word = if drawing { 'L' } else { 'M' };
        let _never_fails = write!(path, "{word}{x} {}.{}", tenths / 10, tenths % 10);
        // One alone is drawn as a dot: a line of no length with round ends.
        if !drawing && values.get(n + 1).is_none_or(Option::is_none) {
            path.push_str("h0");
        }
        drawing = true;
    }
    path
}

/// Full quarters of an hour, of a day, or midnights.
fn columns(points: &[Point], span: Span) -> Vec<Tick<String>> {
    let every = match span {
        Span::Hour => 15,
        Span::Day => 6 * 60,
        Span::Week => 24 * 60,
    };
    let full = points.iter().enumerate().filter(|(_, point)| (point.at.0 / 60_000) % every == 0);
    full.map(|(n, point)| Tick { place: across(n, points.len()), label: written(point.at, span) }).collect()
}

fn written(at: UnixMillis, span: Span) -> String {
    let Ok(at) = OffsetDateTime::from_unix_timestamp(at.as_secs()) else { return String::new() };
    let text = match span {
        Span::Week => at.format(format_description!("[day padding:none] [month repr:short]")),
        Span::Hour | Span::Day => at.format(format_description!("[hour]:[minute]")),
    };
    text.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::model::stepped;

    const CPU: Subject =
        Subject { code: "cpu", unit: "permille", lines: &[("cpu", |v| v.cpu_permille)], top: Some(1_000) };
    const NETWORK: Subject =
        Subject { code: "network", unit: "rate", lines: &[("in", |v| v.net_in)], top: None };

    fn points(values: &[Option<u64>]) -> Vec<Point> {
        let slots = values.iter().zip(0..).filter_map(|(value, minute)| {
            value.map(|n| (minute, Values { cpu_permille: n, net_in: n, ..Values::default() }))
        });
        stepped(&slots.collect::<Vec<_>>(), 0, i64::try_from(values.len()).unwrap(), 1)
    }

    #[test]
    fn a_gap_interrupts_the_line_and_one_alone_is_a_dot() {
        let drawn = draw(&CPU, &points(&[Some(0), Some(1_000), None, Some(500), None]), Span::Hour);
        assert_eq!(drawn.lines[0].path, "M64 148.0L145 12.0M307 80.0h0");
        let line = &drawn.lines[0];
        assert_eq!((line.now, line.mean, line.most), (Some(500), Some(500), Some(1_000)));
        let labels: Vec<_> = drawn.rows.iter().map(|row| (row.place, row.label)).collect();
        assert_eq!(labels, [(148, 0), (80, 500), (12, 1_000)]);
    }

    #[test]
    fn the_upper_edge_fits_what_there_is() {
        let top = |most| draw(&NETWORK, &points(&[Some(most)]), Span::Hour).rows[2].label;
        assert_eq!((top(0), top(1_500), top(u64::MAX)), (1_024, 2_048, u64::MAX));
        let over = Subject { top: Some(10), ..CPU };
        assert_eq!(draw(&over, &points(&[Some(11)]), Span::Hour).rows[2].label, 1_024);
    }

    #[test]
    fn amounts_and_counts_have_round_edges() {
        assert_eq!(
            (round_top(0, 4), round_top(5, 4), round_top(41, 4), round_top(401, 200)),
            (4, 10, 100, 1_000)
        );
        assert_eq!(round_top(u64::MAX, 4), u64::MAX);
        let labels: Vec<String> = (1..=12).map(|n| format!("2026-{n:02}")).collect();
        let drawn =
            draw_numbers("mrr", Unit::Money("eur"), &[("mrr", (0..12).map(|n| n * 100).collect())], &labels);
        assert_eq!((drawn.unit, drawn.currency.as_deref()), ("money", Some("eur")));
        assert_eq!(
            (drawn.lines[0].now, drawn.lines[0].most, drawn.rows[2].label),
            (Some(1_100), Some(1_100), 2_000)
        );
        let shown: Vec<&str> = drawn.columns.iter().map(|tick| tick.label.as_str()).collect();
        assert_eq!(shown, ["2026-03", "2026-06", "2026-09", "2026-12"]);
        assert_eq!(
            draw_numbers("customers", Unit::Count("eur"), &[("new", vec![3])], &labels[..1]).unit,
            "count"
        );
    }

    #[test]
    fn times_stand_at_round_places() {
        let (from, to) = Span::Hour.bounds(UnixMillis(1_795_466_970_000));
        let labels: Vec<_> =
            columns(&stepped(&[], from, to, 1), Span::Hour).into_iter().map(|tick| tick.label).collect();
        assert_eq!(labels, ["20:00", "20:15", "20:30", "20:45"].map(str::to_owned)[..]);
        let (from, to) = Span::Week.bounds(UnixMillis(1_795_466_970_000));
        let labels: Vec<_> =
            columns(&stepped(&[], from, to, 30), Span::Week).into_iter().map(|tick| tick.label).collect();
        assert_eq!((labels.len(), labels[0].as_str()), (7, "17 Nov"));
    }
}
