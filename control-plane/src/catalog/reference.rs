//! The reference page of the catalogue's file, written from the types that read it; with `UPDATE_DOCS=1` this test
//! writes it.

use std::fmt::Write as _;

const NOTE: &str = "<!-- Written from the code: UPDATE_DOCS=1 cargo nextest run --workspace -E 'test(the_reference_pages)' -->\n";
const MODEL: &str = include_str!("model.rs");
const COUPONS: &str = include_str!("coupons.rs");
const TRAFFIC: &str = include_str!("traffic/mod.rs");

/// The tables of the file, the type that reads each, and where that stands.
const TABLES: [(&str, &str, &str); 7] = [
    ("[[images]]", "ImageEntry", MODEL),
    ("[[isos]]", "IsoEntry", MODEL),
    ("[[plans]]", "PlanEntry", MODEL),
    ("[[plans.prices]]", "PriceEntry", MODEL),
    ("[[plans.traffic_prices]]", "TrafficPriceEntry", TRAFFIC),
    ("[[coupons]]", "CouponEntry", COUPONS),
    ("[[coupons.codes]]", "CodeEntry", COUPONS),
];

/// One key: its name, what kind of value it takes, whether it must be there, and its doc comment.
struct Key {
    name: String,
    kind: &'static str,
    needed: bool,
    says: String,
}

fn kind(text: &str) -> &'static str {
    let inner = text.strip_prefix("Option<").and_then(|rest| rest.strip_suffix('>')).unwrap_or(text);
    match inner {
        "bool" => "true or false",
        "u32" | "u64" | "i64" => "number",
        "Vec<PriceEntry>" | "Vec<TrafficPriceEntry>" | "Vec<CodeEntry>" => "tables",
        _ if inner.starts_with("Vec<") => "list of texts",
        _ => "text",
    }
}

/// The keys of a type, out of its source.
fn keys(name: &str, source: &str) -> Vec<Key> {
    let start = source.find(&format!("pub struct {name} {{")).unwrap_or_else(|| panic!("no {name}"));
    let body = &source[start..][..source[start..].find("\n}").unwrap()];
    let (mut says, mut needed, mut keys) = (Vec::new(), true, Vec::new());
    for line in body.lines().skip(1).map(str::trim) {
        if let Some(doc) = line.strip_prefix("/// ") {
            says.push(doc);
        } else if line.starts_with("#[serde(default") {
            needed = false;
        } else if let Some((name, of)) = line.strip_prefix("pub ").and_then(|rest| rest.split_once(": ")) {
            let (name, kind) = (name.to_owned(), kind(of.trim_end_matches(',')));
            keys.push(Key { name, kind, needed, says: says.join(" ") });
            (says, needed) = (Vec::new(), true);
        }
    }
    keys
}

fn page() -> String {
    let mut page = format!(
        "# The catalogue's file\n\n{NOTE}\n\
         What an installation sells and where, applied by `ez-control-plane apply FILE.toml` as often as you like: the same \
         file again changes nothing. An unknown key is an error. What the file does not name stays as it is; of a plan \
         or coupon that it names, prices and codes it leaves out are withdrawn. `packaging/control-plane/catalog.example.toml` \
         is a whole one with explanations; locations and address pools stand there.\n\n\
         `apply` ends with what `ez-control-plane billing sync` does: it makes Stripe's products, prices, coupons and \
         promotion codes what the file says. `billing sync --dry-run` shows that first and writes nothing anywhere. How \
         that reads: [sell](../how-to/sell.md).\n"
    );
    for (title, name, source) in TABLES {
        write!(page, "\n## `{title}`\n\n| key | kind | | |\n|---|---|---|---|\n").unwrap();
        for key in keys(name, source) {
            let needed = if key.needed { "must be set" } else { "" };
            writeln!(page, "| `{}` | {} | {needed} | {} |", key.name, key.kind, key.says).unwrap();
        }
    }
    page
}

#[test]
fn the_reference_pages_are_those_of_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/catalog.md");
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let there = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(there, page, "catalog.md is out of date; UPDATE_DOCS=1 writes it");
}
