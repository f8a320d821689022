//! Filters and functions of the templates.
//!
//! | name | gives |
//! |---|---|
//! | `t(key, name=value …)` | the text; an unknown key is an error |
//! | `t_or(key, fallback, …)` | the text, or the text `fallback` when `key` is unknown (codes from outside) |
//! | `asset(name)` | address of a style sheet or script |
//! | `ms \| time` | `<time-ago><time datetime=…>23 Nov 2026, 20:49:30 UTC</time></time-ago>` |
//! | `ms \| clock` | the same, time of day only |
//! | `ms \| date` | `24 Dec 2026` |
//! | `ago(ms, shell.now)` | `4 s ago`, exact time on hover |
//! | `ms \| duration` | `3.1 s`, `2 min 5 s` |
//! | `money` | `9.00 €` from `{minor, currency}` |
//! | `n \| permille` | `12.5 %` from 125 |
//! | `n \| bytes`, `n \| mib`, `n \| gib` | `214 GB`, `4 GB`, `40 GB` |

use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, Output, State, Value, escape_formatter,
    value::{Kwargs, ValueKind},
};
use time::{OffsetDateTime, macros::format_description};

use crate::{
    currency,
    web::{assets::Assets, text::Texts},
};

/// Adds everything to the environment.
pub(super) fn register(environment: &mut Environment<'static>, texts: &Texts, assets: &Assets) {
    environment.set_formatter(print);
    let catalogue = texts.clone();
    environment.add_function("t", move |key: &str, args: Kwargs| write(&catalogue, key, &args));
    let catalogue = texts.clone();
    environment.add_function("t_or", move |key: &str, fallback: &str, args: Kwargs| {
        let key = if catalogue.has(key) { key } else { fallback };
        write(&catalogue, key, &args)
    });
    let assets = assets.clone();
    environment.add_function("asset", move |name: &str| {
        assets.address(name).ok_or_else(|| invalid(format!("no asset {name:?}")))
    });
    environment.add_function("ago", ago);
    environment.add_filter("time", |ms: i64| element(ms, Style::Full));
    environment.add_filter("clock", |ms: i64| element(ms, Style::Clock));
    environment.add_filter("date", |ms: i64| element(ms, Style::Date));
    environment.add_filter("duration", duration);
    environment.add_filter("money", money);
    environment.add_filter("minor", |minor: i64, currency: String| written_money(minor, &currency));
    environment.add_filter("permille", permille);
    environment.add_filter("bytes", |n: u64| written_bytes(n));
    environment.add_filter("mib", |n: u64| written_bytes(n << 20));
    environment.add_filter("gib", |n: u64| written_bytes(n << 30));
}

/// Prints a value. Escapes what can end text or an attribute (the engine's own escaping also replaces
/// every slash, which makes addresses unreadable), and refuses `none`: a page never says "none".
fn print(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if value.is_none() {
        return Err(invalid("a value that is not there cannot be printed".to_owned()));
    }
    let text = match (state.auto_escape(), value.as_str()) {
        (AutoEscape::Html, Some(text)) if !value.is_safe() => text,
        _ => return escape_formatter(out, state, value),
    };
    let mut rest = text;
    while let Some(at) = rest.find(['&', '<', '>', '"', '\'']) {
        let (before, from) = rest.split_at(at);
        let escaped = match from.as_bytes()[0] {
            b'&' => "&amp;",
            b'<' => "&lt;",
            b'>' => "&gt;",
            b'"' => "&quot;",
            _ => "&#39;",
        };
        out.write_str(before).and_then(|()| out.write_str(escaped)).map_err(unwritten)?;
        rest = &from[1..];
    }
    out.write_str(rest).map_err(unwritten)
}

fn unwritten(error: std::fmt::Error) -> Error {
    Error::new(ErrorKind::WriteFailure, "writing a page").with_source(error)
}

fn invalid(reason: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

fn write(texts: &Texts, key: &str, args: &Kwargs) -> Result<String, Error> {
    let mut fluent = fluent_bundle::FluentArgs::new();
    for name in args.args() {
        let value: Value = args.get(name)?;
        match (value.kind(), value.as_i64()) {
            (ValueKind::Number, Some(number)) => fluent.set(name.to_owned(), number),
            (ValueKind::Undefined | ValueKind::None, _) => {
                return Err(invalid(format!("argument {name} of text {key:?} has no value")));
            }
            _ => fluent.set(name.to_owned(), value.to_string()),
        }
    }
    texts.get(key, &fluent).map_err(|error| invalid(error.to_string()))
}

/// How much of a time is shown.
#[derive(Clone, Copy)]
enum Style {
    Full,
    Clock,
    Date,
}

fn utc(ms: i64) -> Result<OffsetDateTime, Error> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000)
        .map_err(|_| invalid(format!("{ms} is not a time")))
}

fn written(at: OffsetDateTime, style: Style) -> Result<String, Error> {
    let text = match style {
        Style::Full => at.format(format_description!(
            "[day padding:none] [month repr:short] [year], [hour]:[minute]:[second] UTC"
        )),
        Style::Clock => at.format(format_description!("[hour]:[minute]:[second]")),
        Style::Date => at.format(format_description!("[day padding:none] [month repr:short] [year]")),
    };
    text.map_err(|error| invalid(error.to_string()))
}

fn machine(at: OffsetDateTime) -> Result<String, Error> {
    at.format(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z"))
        .map_err(|error| invalid(error.to_string()))
}

/// A day as letters write it: `24 Dec 2026`.
pub(crate) fn written_date(at: ez_protocol::UnixMillis) -> String {
    utc(at.0).and_then(|at| written(at, Style::Date)).unwrap_or_default()
}

/// A month as letters write it: `December 2026`.
pub(crate) fn written_month(month: ez_protocol::Month) -> String {
    let number = month.number();
    let name = u8::try_from(number % 100).ok().and_then(|n| time::Month::try_from(n).ok());
    name.map_or_else(|| month.to_string(), |name| format!("{name} {}", number / 100))
}

/// A time as an element: exact UTC for everybody; a script turns it into the reader's zone.
fn element(ms: i64, style: Style) -> Result<Value, Error> {
    let at = utc(ms)?;
    let name = match style {
        Style::Full => "full",
        Style::Clock => "clock",
        Style::Date => "date",
    };
    Ok(Value::from_safe_string(format!(
        "<time-ago data-style=\"{name}\"><time datetime=\"{}\" title=\"{}\">{}</time></time-ago>",
        machine(at)?,
        written(at, Style::Full)?,
        written(at, style)?,
    )))
}

/// How long ago `ms` was, seen from `now`; counts on in the browser.
fn ago(ms: i64, now: i64) -> Result<Value, Error> {
    let at = utc(ms)?;
    Ok(Value::from_safe_string(format!(
        "<time-ago data-style=\"ago\"><time datetime=\"{}\" title=\"{}\">{}</time></time-ago>",
        machine(at)?,
        written(at, Style::Full)?,
        age(now.saturating_sub(ms)),
    )))
}

/// `just now`, `4 s ago`, `3 min ago`, `5 h ago`, `2 d ago`; the script writes the same words.
fn age(ms: i64) -> String {
    match ms / 1000 {
        ..2 => "just now".to_owned(),
        s @ ..60 => format!("{s} s ago"),
        s @ ..3600 => format!("{} min ago", s / 60),
        s @ ..172_800 => format!("{} h ago", s / 3600),
        s => format!("{} d ago", s / 86_400),
    }
}

/// `0.2 s`, `41 s`, `2 min 5 s`, `3 h 10 min`, `2 d 4 h`.
fn duration(ms: i64) -> String {
    let ms = ms.max(0);
    let s = ms / 1000;
    match s {
        ..10 => format!("{}.{} s", s, (ms % 1000) / 100),
        10..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {} min", s / 3600, (s % 3600) / 60),
        _ => format!("{} d {} h", s / 86_400, (s % 86_400) / 3600),
    }
}

/// Money with its currency, never without.
fn money(value: &Value) -> Result<String, Error> {
    let minor: i64 = value.get_attr("minor")?.try_into()?;
    let currency = value.get_attr("currency")?;
    let currency = currency.as_str().ok_or_else(|| invalid("money has a currency".to_owned()))?;
    Ok(written_money(minor, currency))
}

/// Money as people read it: `9.00 €`, `−4.50 €`, `1,200 JPY`.
pub(crate) fn written_money(minor: i64, currency: &str) -> String {
    let sign = if minor < 0 { "−" } else { "" };
    let number = currency::written(minor.unsigned_abs(), currency);
    let unit = match currency {
        "eur" => "€".to_owned(),
        "usd" => "$".to_owned(),
        "gbp" => "£".to_owned(),
        other => other.to_uppercase(),
    };
    // A no-break space: an amount and its currency stay on one line.
    format!("{sign}{number}\u{a0}{unit}")
}

/// Per mille as people read it: `12.5 %`, `40 %`.
fn permille(n: u64) -> String {
    match n % 10 {
        0 => format!("{}\u{a0}%", n / 10),
        rest => format!("{}.{rest}\u{a0}%", n / 10),
    }
}

/// A size in the unit that keeps it short; binary multiples under their everyday names.
pub(crate) fn written_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut unit = 0;
    let mut divisor = 1u64;
    while unit + 1 < UNITS.len() && bytes / divisor >= 1024 {
        divisor <<= 10;
        unit += 1;
    }
    let tenths = (u128::from(bytes) * 10 + u128::from(divisor) / 2) / u128::from(divisor);
    match tenths % 10 {
        0 => format!("{}\u{a0}{}", tenths / 10, UNITS[unit]),
        _ if tenths >= 100 => format!("{}\u{a0}{}", (tenths + 5) / 10, UNITS[unit]),
        rest => format!("{}.{rest}\u{a0}{}", tenths / 10, UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_typed_stays_text() {
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| AutoEscape::Html);
        environment.set_formatter(print);
        let show = |template: &str, value: Value| {
            environment.render_str(template, minijinja::context! { x => value })
        };
        let typed = Value::from("<a href='/x'>\"&");
        assert_eq!(show("{{ x }}", typed).unwrap(), "&lt;a href=&#39;/x&#39;&gt;&quot;&amp;");
        assert_eq!(show("{{ x }}", Value::from_safe_string("<b>".to_owned())).unwrap(), "<b>");
        assert_eq!(show("{{ x }}", Value::from(7)).unwrap(), "7");
        assert!(show("{{ x }}", Value::from(())).is_err(), "none is never printed");
    }

    #[test]
    fn amounts_read_as_people_write_them() {
        assert_eq!(written_money(900, "eur"), "9.00\u{a0}€");
        assert_eq!(written_money(-450, "eur"), "−4.50\u{a0}€");
        assert_eq!(written_money(123_456_789, "usd"), "1,234,567.89\u{a0}$");
        assert_eq!(written_money(1200, "jpy"), "1,200\u{a0}JPY");
        assert_eq!(written_money(-1200, "xof"), "−1,200\u{a0}XOF");
        assert_eq!(written_money(5120, "kwd"), "5.120\u{a0}KWD");
    }

    #[test]
    fn sizes_keep_their_unit_short() {
        assert_eq!(written_bytes(4096 << 20), "4\u{a0}GB");
        assert_eq!(written_bytes(1536 << 20), "1.5\u{a0}GB");
        assert_eq!(written_bytes(20 << 40), "20\u{a0}TB");
        assert_eq!(written_bytes(0), "0\u{a0}B");
        assert_eq!((permille(125), permille(400)), ("12.5\u{a0}%".to_owned(), "40\u{a0}%".to_owned()));
    }

    #[test]
    fn durations_and_ages_name_at_most_two_units() {
        assert_eq!(duration(240), "0.2 s");
        assert_eq!(duration(41_900), "41 s");
        assert_eq!(duration(125_000), "2 min 5 s");
        assert_eq!(age(-5), "just now");
        assert_eq!(age(4_000), "4 s ago");
        assert_eq!(age(7_300_000), "2 h ago");
    }

    #[test]
    fn times_are_exact_for_machines() {
        let html = element(1_795_466_970_000, Style::Clock).map(|v| v.to_string()).unwrap_or_default();
        assert!(html.contains("datetime=\"2026-11-23T20:49:30Z\""), "{html}");
        assert!(html.contains(">20:49:30</time>"), "{html}");
    }
}
