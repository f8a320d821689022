//! Reads the sources of the whole workspace and checks the architecture invariants A1–A8 of
//! `docs/ARCHITECTURE.md`. Each rule is shown able to fail on a planted snippet (`planted.rs`).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod imports;
mod planted;
mod source;
mod tables;
mod text;

use source::{File, workspace};

/// A rule: its name and what it finds, one line per breach.
type Rule = (&'static str, fn(&[File]) -> Vec<String>);

const RULES: &[Rule] = &[
    ("A1 the protocol is pure", imports::protocol_is_pure),
    ("A2 SQL stands in stores and db", tables::sql_in_stores_only),
    ("A2 a table has one owner", tables::one_owner_per_table),
    ("A3 axum stands at the edges", imports::axum_at_the_edges),
    ("A4 slices are used through their faces", imports::slices_through_faces),
    ("A5 placement is pure", imports::placement_is_pure),
    ("A5 link moves bytes only", imports::link_moves_bytes_only),
    ("A5 billing knows no orders", imports::billing_knows_no_orders),
    ("A6 programs do not import each other", imports::programs_are_apart),
    ("A7 time and randomness are parameters", text::time_is_a_parameter),
    ("A8 no shell", text::no_shell),
    ("A8 lints are the workspace's", text::lints_are_shared),
    ("files are short", text::files_are_short),
    ("Stripe's client stays in its gate", imports::stripe_in_its_gate),
    ("Stripe's own retries are not used", text::no_foreign_retries),
];

#[test]
fn the_sources_keep_the_rules() {
    let files = workspace();
    assert!(files.len() > 100, "only {} files found: is the workspace where it was?", files.len());
    let breaches: Vec<String> = RULES
        .iter()
        .flat_map(|(name, rule)| rule(&files).into_iter().map(move |breach| format!("{name}: {breach}")))
        .collect();
    assert!(breaches.is_empty(), "{} breaches:\n{}", breaches.len(), breaches.join("\n"));
}
