//! Rules about who may name whom.

use crate::source::{File, has_path, has_word, shipped};

/// Files of `files` below `root` that name one of `words` as a path.
fn naming<'f>(
    files: &'f [File],
    root: &'f str,
    words: &'f [&'f str],
) -> impl Iterator<Item = (&'f File, &'f str)> {
    shipped(files).filter(move |file| file.below(root).is_some()).flat_map(move |file| {
        let code = file.code();
        words.iter().filter(move |word| has_path(&code, word)).map(move |word| (file, *word))
    })
}

pub(crate) fn protocol_is_pure(files: &[File]) -> Vec<String> {
    let banned = ["tokio", "quinn", "rustls", "sqlx", "axum", "SystemTime", "Instant"];
    naming(files, "protocol/src/", &banned)
        .map(|(file, word)| format!("{} names {word}", file.path))
        .collect()
}

pub(crate) fn axum_at_the_edges(files: &[File]) -> Vec<String> {
    let edge = |file: &&File| {
        let inside = file.below("control-plane/src/").unwrap_or_default();
        let named = inside.split('/').any(|part| matches!(part, "pages.rs" | "api.rs" | "pages" | "api"));
        named || ["web/", "telemetry/"].iter().any(|area| inside.starts_with(area)) || inside == "app.rs"
    };
    naming(files, "control-plane/src/", &["axum"])
        .filter(|(file, _)| !edge(file))
        .map(|(file, _)| format!("{} names axum", file.path))
        .collect()
}

/// The directories below `control-plane/src/` that have a store.
fn slices(files: &[File]) -> Vec<&str> {
    let mut slices: Vec<&str> = files
        .iter()
        .filter(|file| file.below("control-plane/src/").is_some_and(|inside| inside.contains('/')))
        .filter_map(File::slice)
        .filter(|slice| !["web", "db", "cli", "config", "telemetry"].contains(slice))
        .collect();
    slices.sort_unstable();
    slices.dedup();
    slices
}

pub(crate) fn slices_through_faces(files: &[File]) -> Vec<String> {
    let slices = slices(files);
    let mut breaches = Vec::new();
    for file in shipped(files).filter(|file| file.slice().is_some()) {
        let code: String = file.code().split_whitespace().collect();
        for slice in slices.iter().filter(|slice| file.slice() != Some(**slice)) {
            for inner in ["store", "pages"] {
                // In a path, or opened by braces: `slice::store::…`, `slice::{store, …}`.
                let path = format!("{slice}::{inner}");
                let opened = code.split(&format!("{slice}::{{")).skip(1).any(|rest| {
                    let group = rest.split('}').next().unwrap_or_default();
                    group.split(',').any(|item| item == inner || item.starts_with(&format!("{inner}::")))
                });
                if has_word(&code, &path) || opened {
                    breaches.push(format!("{} reaches into {slice}::{inner}", file.path));
                }
            }
        }
    }
    breaches
}

pub(crate) fn placement_is_pure(files: &[File]) -> Vec<String> {
    let banned = ["sqlx", "axum", "tokio", "crate::db", "crate::clock", "crate::entropy", "crate::app"];
    naming(files, "control-plane/src/placement/", &banned)
        .map(|(file, word)| format!("{} names {word}", file.path))
        .collect()
}

/// Whether code names a module of its own crate: `crate::module`, or in a group `crate::{…, module::…}`.
fn has_module(code: &str, module: &str) -> bool {
    let dense: String = code.split_whitespace().collect();
    let grouped = dense.split("crate::{").skip(1).any(|rest| {
        let mut depth = 0_i32;
        let mut item = String::new();
        for c in rest.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    if first_is(&item, module) {
                        return true;
                    }
                    item.clear();
                    continue;
                }
                _ => {}
            }
            item.push(c);
        }
        first_is(&item, module)
    });
    grouped || dense.split("crate::").skip(1).any(|rest| first_is(rest, module))
}

/// Whether a path begins with this name.
fn first_is(path: &str, name: &str) -> bool {
    path.split(|c: char| !c.is_alphanumeric() && c != '_').next() == Some(name)
}

pub(crate) fn link_moves_bytes_only(files: &[File]) -> Vec<String> {
    let modules = ["billing", "accounts", "orders", "catalog"];
    let words = ["order_key", "trust_key", "agent_authority", "link_authority"];
    let mut breaches = Vec::new();
    for file in shipped(files).filter(|file| file.slice() == Some("link")) {
        let code = file.code();
        let named = modules.iter().filter(|module| has_module(&code, module));
        let named = named.chain(words.iter().filter(|word| has_word(&code, word)));
        breaches.extend(named.map(|name| format!("{} names {name}", file.path)));
    }
    breaches
}

pub(crate) fn billing_knows_no_orders(files: &[File]) -> Vec<String> {
    let billing = shipped(files).filter(|file| file.slice() == Some("billing"));
    let named = |file: &&File| has_module(&file.code(), "orders");
    billing.filter(named).map(|file| format!("{} names orders", file.path)).collect()
}

pub(crate) fn programs_are_apart(files: &[File]) -> Vec<String> {
    let rules: [(&str, &[&str]); 4] = [
        ("control-plane/src/", &["ez_node_agent", "ez_simulator"]),
        ("node-agent/src/", &["ez_control_plane", "ez_simulator"]),
        ("simulator/src/", &["ez_control_plane", "ez_node_agent"]),
        ("protocol/src/", &["ez_control_plane", "ez_node_agent", "ez_simulator"]),
    ];
    let mut breaches: Vec<String> = rules
        .iter()
        .flat_map(|(root, banned)| naming(files, root, banned))
        .map(|(file, word)| format!("{} names {word}", file.path))
        .collect();
    // Nor may a manifest, except that tests may use what is built.
    for (part, banned) in [
        ("control-plane", ["ez-node-agent", "ez-simulator"]),
        ("node-agent", ["ez-control-plane", "ez-simulator"]),
        ("simulator", ["ez-control-plane", "ez-node-agent"]),
    ] {
        let manifest = files.iter().find(|file| file.path == format!("{part}/Cargo.toml"));
        let shipped =
            manifest.map_or("", |file| file.text.split("[dev-dependencies]").next().unwrap_or_default());
        let lines = shipped.lines().filter(|line| banned.iter().any(|name| line.starts_with(name)));
        breaches.extend(lines.map(|line| format!("{part}/Cargo.toml has {line}")));
    }
    breaches
}

pub(crate) fn stripe_in_its_gate(files: &[File]) -> Vec<String> {
    let crates = [
        "stripe",
        "stripe_core",
        "stripe_billing",
        "stripe_checkout",
        "stripe_product",
        "stripe_client_core",
        "stripe_webhook",
        "stripe_types",
        "async_stripe",
    ];
    let outside = |file: &&File| {
        file.below("control-plane/src/").is_some_and(|inside| !inside.starts_with("billing/stripe/"))
    };
    let mut breaches = Vec::new();
    for file in shipped(files).filter(outside) {
        let code = file.code();
        for name in &crates[1..] {
            if has_path(&code, name) {
                breaches.push(format!("{} names {name}", file.path));
            }
        }
        if code.contains("use stripe::") && file.slice() != Some("billing") || code.contains("use ::stripe::")
        {
            breaches.push(format!("{} names stripe", file.path));
        }
    }
    breaches
}
