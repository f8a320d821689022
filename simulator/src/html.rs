//! Small helpers of the simulator's pages.

/// Text made safe for HTML, in content and in quoted attributes.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

/// An amount in minor units with its currency: `9.00 €`.
pub(crate) fn money(minor: i64, currency: &str) -> String {
    let sign = match currency {
        "eur" => "€".to_owned(),
        "usd" => "$".to_owned(),
        "gbp" => "£".to_owned(),
        other => other.to_uppercase(),
    };
    let minus = if minor < 0 { "−" } else { "" };
    let minor = minor.unsigned_abs();
    format!("{minus}{}.{:02}\u{a0}{sign}", minor / 100, minor % 100)
}

/// A whole page of a simulated service, with the banner that says what this is.
pub(crate) fn document(service: &str, title: &str, notice: &str, body: &str) -> String {
    format!(
        r##"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title} – simulated {service}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/assets/simulator.css">
</head>
<body>
<header class="banner"><p><strong>Simulation.</strong> {notice}</p></header>
{body}
<footer><p>ez-simulator · test mode</p></footer>
</body>
</html>
"##,
        title = escape(title),
    )
}

#[cfg(test)]
mod tests {
    use super::{escape, money};

    #[test]
    fn amounts_and_text_are_written_safely() {
        assert_eq!(money(905, "eur"), "9.05\u{a0}€");
        assert_eq!(money(-120, "chf"), "−1.20\u{a0}CHF");
        assert_eq!(escape("<a href=\"x\">'&"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;");
    }
}
