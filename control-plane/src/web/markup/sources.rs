//! Reads the template sources: no literal text, every key there, no key left over.

use std::collections::BTreeSet;

use crate::web::{DEFAULT_LANGUAGE, Texts, embedded::Tree};

/// Attributes whose value people read or hear.
const SPOKEN: [&str; 5] = ["title=\"", "alt=\"", "aria-label=\"", "placeholder=\"", "label=\""];

fn templates() -> Vec<(String, String)> {
    Tree::Templates.files().into_iter().map(|(name, text)| (name, text.into_owned())).collect()
}

/// Replaces everything between `open` and `close` by a space.
fn without(source: &str, open: &str, close: &str) -> String {
    let mut kept = String::new();
    let mut rest = source;
    while let Some((before, after)) = rest.split_once(open) {
        kept.push_str(before);
        kept.push(' ');
        rest = after.split_once(close).map_or("", |(_, after)| after);
    }
    kept + rest
}

/// The words a template says by itself.
fn literals(source: &str) -> Vec<String> {
    // A block whose name ends in `_class` fills an attribute, the macro `state_attributes` a tag.
    let markup = [
        ("_class %}", "endblock"),
        ("macro state_attributes", "endmacro"),
        ("{#", "#}"),
        ("{{", "}}"),
        ("{%", "%}"),
    ]
    .iter()
    .fold(source.to_owned(), |text, (open, close)| without(&text, open, close));
    let mut said = Vec::new();
    for spoken in SPOKEN {
        for part in markup.split(spoken).skip(1) {
            said.push(part.split('"').next().unwrap_or_default().to_owned());
        }
    }
    said.push(without(&markup, "<", ">").replace("&nbsp;", " "));
    said.iter()
        .flat_map(|text| text.split_whitespace())
        .filter(|word| word.chars().any(char::is_alphabetic))
        .map(str::to_owned)
        .collect()
}

#[test]
fn templates_hold_no_literal_text() {
    let found: Vec<_> = templates()
        .into_iter()
        .map(|(name, source)| (name, literals(&source)))
        .filter(|(_, words)| !words.is_empty())
        .collect();
    assert!(found.is_empty(), "{found:#?}");
    assert_eq!(literals("<p title=\"Hello\">{{ t(\"x\") }} world</p>"), ["Hello", "world"]);
}

/// Keys named in `source`: whole ones, and prefixes that end before a `~`.
fn named(source: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut whole, mut prefixes) = (BTreeSet::new(), BTreeSet::new());
    for call in ["t(\"", "t_or(\"", "say(\""] {
        for (at, _) in source.match_indices(call) {
            let before = source[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let rest = &source[at + call.len()..];
            let Some((key, after)) = rest.split_once('"') else { continue };
            let joined = after.trim_start().starts_with('~');
            if joined {
                prefixes.insert(key.to_owned())
            } else {
                whole.insert(key.to_owned())
            };
            if call == "t_or(\"" {
                let arguments = after.split(')').next().unwrap_or_default();
                let quoted = arguments.split('"').skip(1).step_by(2);
                whole.extend(quoted.filter(|key| !key.starts_with('-')).map(str::to_owned));
            }
        }
    }
    (whole, prefixes)
}

#[test]
fn every_key_is_there_and_none_is_left_over() {
    let texts = Texts::load(DEFAULT_LANGUAGE).unwrap();
    let (mut whole, mut prefixes) = (BTreeSet::new(), BTreeSet::new());
    for (_, source) in templates().into_iter().chain(mails()) {
        let (keys, starts) = named(&source);
        whole.extend(keys);
        prefixes.extend(starts);
    }
    let missing: Vec<_> = whole.iter().filter(|key| !texts.has(key)).collect();
    assert!(missing.is_empty(), "templates use keys that no catalogue has: {missing:?}");
    let barren: Vec<_> =
        prefixes.iter().filter(|start| !texts.keys().any(|key| key.starts_with(start.as_str()))).collect();
    assert!(barren.is_empty(), "no key starts with: {barren:?}");
    // Keys starting with `said-` are written by Rust code (`Texts::say`), which this does not read.
    let orphans: Vec<_> = texts
        .keys()
        .filter(|key| !key.starts_with("said-"))
        .filter(|key| !whole.contains(*key) && !prefixes.iter().any(|start| key.starts_with(start.as_str())))
        .collect();
    assert!(orphans.is_empty(), "no template uses: {orphans:?}");
}

fn mails() -> Vec<(String, String)> {
    Tree::Mails.files().into_iter().map(|(name, text)| (name, text.into_owned())).collect()
}

#[test]
fn keys_are_read_from_calls_of_t_only() {
    let (whole, prefixes) =
        named("{{ t(\"a-b\") }} {{ t(\"c-\" ~ x) }} {{ t_or(\"d-\" ~ y, \"d-other\") }} {{ let(\"no\") }}");
    assert_eq!(whole.into_iter().collect::<Vec<_>>(), ["a-b", "d-other"]);
    assert_eq!(prefixes.into_iter().collect::<Vec<_>>(), ["c-", "d-"]);
}
