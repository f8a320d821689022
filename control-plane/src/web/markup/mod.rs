//! Looks at the markup of every page without a browser: each registered sample is rendered, its tags
//! are read, and what would break a reader, a keyboard or the content security policy is refused.
//!
//! With `EZ_GALLERY_DIR` set, every sample is also written there as a page to look at.

mod html;
mod rules;
mod sources;

use std::{collections::BTreeSet, fs, path::PathBuf};

use crate::web::{Shell, Templates, Viewer, embedded::Tree, views};

/// One rendered sample.
struct Rendered {
    /// `pages/orders/show.html#failed`
    name: String,
    html: String,
}

fn viewer(staff: bool) -> Viewer {
    Viewer { email: "jane@acme.example".to_owned(), account: "Acme GmbH".to_owned(), staff }
}

/// A path that lights the right entry of the side bar.
fn path_of(template: &str) -> String {
    let slice = template.split('/').nth(1).unwrap_or_default();
    match slice {
        "instances" | "orders" => "/servers",
        "billing" => "/billing",
        "accounts" => "/account",
        "fleet" if template.contains("alarms") => "/operator/alarms",
        "fleet" => "/operator/fleet",
        "dispatch" => "/operator/orders",
        _ => "/",
    }
    .to_owned()
}

/// Renders every sample of every page, with the viewer its layout expects.
fn render_all(templates: &Templates) -> Vec<Rendered> {
    let sources: std::collections::BTreeMap<String, String> =
        Tree::Templates.files().into_iter().map(|(name, text)| (name, text.into_owned())).collect();
    let mut rendered = Vec::new();
    for entry in views::all() {
        let source = &sources[entry.template];
        let viewer = match () {
            () if source.contains("layouts/operator.html") => Some(viewer(true)),
            () if source.contains("layouts/customer.html") => Some(viewer(false)),
            () => None,
        };
        let shell = Shell::sample(&path_of(entry.template), viewer);
        let samples = (entry.samples)();
        assert!(!samples.is_empty(), "{} has no sample", entry.template);
        for (sample, value) in samples {
            let name = format!("{}#{sample}", entry.template);
            match templates.value(entry.template, &shell, value, None) {
                Ok(html) => rendered.push(Rendered { name, html }),
                Err(error) => panic!("{name}: {error}"),
            }
        }
    }
    rendered
}

#[test]
fn every_page_is_registered_with_samples() {
    let registered: BTreeSet<&str> = views::all().iter().map(|entry| entry.template).collect();
    assert_eq!(registered.len(), views::all().len(), "a page is registered twice");
    let present: Vec<String> = Tree::Templates
        .files()
        .into_iter()
        .map(|(name, _)| name)
        .filter(|n| n.starts_with("pages/"))
        .collect();
    let missing: Vec<_> = present.iter().filter(|name| !registered.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "pages without a context and a sample: {missing:?}");
}

#[test]
fn every_sample_renders_to_clean_markup() {
    let templates = Templates::load().unwrap();
    let mut found = Vec::new();
    for page in render_all(&templates) {
        let document = html::read(&page.html);
        found.extend(rules::check(&document).into_iter().map(|fault| format!("{}: {fault}", page.name)));
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn a_debug_build_can_write_the_gallery() {
    let Some(directory) = std::env::var_os("EZ_GALLERY_DIR").map(PathBuf::from) else { return };
    let templates = Templates::load().unwrap();
    let assets = templates.assets();
    for (name, body) in assets.all() {
        let file = directory.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, body).unwrap();
    }
    let mut index = String::new();
    for page in render_all(&templates) {
        let file = page.name.replace("pages/", "").replace(".html#", "--").replace('/', "-") + ".html";
        let mut html = page.html;
        for (name, _) in assets.all() {
            html = html.replace(&assets.address(name).unwrap(), name);
        }
        fs::write(directory.join(&file), html).unwrap();
        index.push_str(&format!("<li><a href=\"{file}\">{}</a></li>\n", page.name));
    }
    fs::write(directory.join("index.html"), format!("<!doctype html><ul>\n{index}</ul>\n")).unwrap();
}
