//! The rules each page is held to.

use std::collections::BTreeSet;

use super::html::{Document, Tag, read};

/// Says what is wrong with a page; empty when nothing is.
pub(super) fn check(page: &Document) -> Vec<String> {
    let mut faults = page.faults.clone();
    let mut ids = BTreeSet::new();
    for tag in &page.tags {
        if let Some(id) = tag.get("id") {
            if id.is_empty() || id.contains(char::is_whitespace) {
                faults.push(format!("<{}> has the id {id:?}", tag.name));
            }
            if !ids.insert(id) {
                faults.push(format!("the id {id:?} is there twice"));
            }
        }
    }
    let labelled: BTreeSet<&str> =
        page.tags.iter().filter(|t| t.name == "label").filter_map(|t| t.get("for")).collect();
    for tag in &page.tags {
        attributes(tag, &ids, &mut faults);
        element(tag, &labelled, &mut faults);
    }
    let count = |name: &str| page.tags.iter().filter(|tag| tag.name == name).count();
    for (name, wanted) in [("h1", 1), ("main", 1), ("title", 1)] {
        if count(name) != wanted {
            faults.push(format!("{} <{name}>, wanted {wanted}", count(name)));
        }
    }
    headings(page, &mut faults);
    faults
}

/// What no tag may carry, and references that must lead somewhere.
fn attributes(tag: &Tag, ids: &BTreeSet<&str>, faults: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (key, value) in &tag.attributes {
        if !seen.insert(key) {
            faults.push(format!("<{}> has {key} twice", tag.name));
        }
        if key == "style" || (key.starts_with("on") && key.len() > 2) {
            faults.push(format!("<{}> has {key}=, which the policy blocks", tag.name));
        }
        if value.trim_start().to_ascii_lowercase().starts_with("javascript:") {
            faults.push(format!("<{}> has a script as {key}", tag.name));
        }
        if matches!(key.as_str(), "aria-describedby" | "aria-labelledby" | "aria-controls" | "for" | "list") {
            for id in value.split_whitespace().filter(|id| !ids.contains(id)) {
                faults.push(format!("<{} {key}> points at {id:?}, which is not there", tag.name));
            }
        }
        if matches!(key.as_str(), "src" | "href" | "action") && value.contains("//") && !local(value) {
            faults.push(format!("<{}> asks a third party: {value}", tag.name));
        }
    }
}

/// Links may lead to a checkout page or a mail; nothing is loaded from elsewhere.
fn local(address: &str) -> bool {
    address.starts_with("https://") || address.starts_with("http://127.0.0.1")
}

/// What an element must have.
fn element(tag: &Tag, labelled: &BTreeSet<&str>, faults: &mut Vec<String>) {
    let name = tag.name.as_str();
    let said = !tag.text.trim().is_empty()
        || ["aria-label", "aria-labelledby"].iter().any(|a| tag.get(a).is_some_and(|v| !v.trim().is_empty()));
    match name {
        "style" | "iframe" | "object" | "embed" | "base" => faults.push(format!("<{name}> is not used here")),
        "script" if tag.get("src").is_none() => faults.push("an inline script".to_owned()),
        "img" if tag.get("alt").is_none() => faults.push("<img> without alt".to_owned()),
        "form" if tag.get("method").is_none() => faults.push("<form> without method".to_owned()),
        "form" if tag.get("method") == Some("dialog") => {}
        "form" if tag.get("action").is_none() => faults.push("<form> without action".to_owned()),
        "input" | "select" | "textarea" if tag.get("type") != Some("hidden") => {
            let by_label = tag.get("id").is_some_and(|id| labelled.contains(id));
            if !(by_label || tag.inside.iter().any(|n| n == "label") || said) {
                faults.push(format!("<{name} name={:?}> without label", tag.get("name").unwrap_or("")));
            }
        }
        "button" | "a" | "summary" if !said => {
            faults.push(format!("<{name}> says nothing: {:?}", tag.attributes));
        }
        "table" if tag.get("aria-labelledby").is_none() && tag.get("aria-label").is_none() => {
            faults.push("<table> without a name".to_owned());
        }
        "th" if tag.get("scope").is_none() => faults.push("<th> without scope".to_owned()),
        "meter" | "progress" if !said => faults.push(format!("<{name}> without a name")),
        "svg" if tag.get("aria-hidden").is_none() && tag.get("role").is_none() => {
            faults.push("<svg> neither hidden nor named".to_owned());
        }
        _ => {}
    }
    if matches!(name, "button" | "a" | "input" | "select")
        && tag.inside.iter().any(|outer| matches!(outer.as_str(), "button" | "a"))
    {
        faults.push(format!("<{name}> inside a link or button"));
    }
}

/// Headings go down one level at a time.
fn headings(page: &Document, faults: &mut Vec<String>) {
    let mut last = 0;
    for tag in &page.tags {
        let Some(level) = tag.name.strip_prefix('h').and_then(|n| n.parse::<u32>().ok()) else { continue };
        if tag.inside.iter().any(|outer| outer == "dialog") {
            continue;
        }
        if level > last + 1 {
            faults.push(format!("<h{level}> {:?} follows <h{last}>", tag.text.trim()));
        }
        last = level;
    }
}

#[test]
fn planted_faults_are_found() {
    let planted = [
        ("<p id=\"a\"></p><p id=\"a\"></p>", "twice"),
        ("<p style=\"color:red\"></p>", "style="),
        ("<button onclick=\"x()\">x</button>", "onclick="),
        ("<input name=\"q\">", "without label"),
        ("<img src=\"/x.png\">", "without alt"),
        ("<form action=\"/x\"></form>", "without method"),
        ("<script>x()</script>", "inline script"),
        ("<a href=\"/x\"><svg aria-hidden=\"true\"></svg></a>", "says nothing"),
        ("<p><b></p></b>", "closes"),
        ("<h1>x</h1><h3>y</h3>", "follows"),
        ("<input id=\"q\" aria-describedby=\"nowhere\" aria-label=\"q\">", "not there"),
        ("<script src=\"//cdn.example/x.js\"></script>", "third party"),
    ];
    for (html, said) in planted {
        let faults = check(&read(html));
        assert!(faults.iter().any(|fault| fault.contains(said)), "{html}: {faults:?}");
    }
}
