//! Rules about SQL: where it stands and whose tables it touches.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{File, shipped};

/// Calls that take SQL.
const CALLS: [&str; 5] = ["sqlx::query", "query_scalar(", "query_as(", "raw_sql(", "AssertSqlSafe"];

fn is_store(file: &File) -> bool {
    file.slice() == Some("db") || file.path.split('/').any(|part| part == "store.rs" || part == "store")
}

pub(crate) fn sql_in_stores_only(files: &[File]) -> Vec<String> {
    let mut breaches = Vec::new();
    for file in shipped(files).filter(|file| file.slice().is_some()) {
        let code = file.code();
        if !is_store(file) && CALLS.iter().any(|call| code.contains(call)) {
            breaches.push(format!("{} holds SQL", file.path));
        }
        if file.slice() != Some("db") && code.contains("AssertSqlSafe") {
            breaches.push(format!("{} puts SQL together", file.path));
        }
    }
    breaches
}

/// The tables and views that the control plane's migrations make.
fn tables(files: &[File]) -> BTreeSet<String> {
    let migrations = files.iter().filter(|file| file.path.starts_with("migrations/control-plane/"));
    let texts: Vec<&str> = migrations.map(|file| file.text.as_str()).collect();
    let making = ["CREATE TABLE ", "CREATE VIEW "];
    let made = making.iter().flat_map(|words| texts.iter().flat_map(move |text| text.split(*words).skip(1)));
    made.filter_map(|rest| rest.split([' ', '(', '\n']).next().map(str::to_owned)).collect()
}

/// The tables that a statement names after FROM, JOIN, INTO, UPDATE.
fn touched(code: &str) -> BTreeSet<&str> {
    let words: Vec<&str> =
        code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| !w.is_empty()).collect();
    words
        .windows(2)
        .filter(|pair| ["FROM", "JOIN", "INTO", "UPDATE"].contains(&pair[0]))
        .map(|pair| pair[1])
        .collect()
}

pub(crate) fn one_owner_per_table(files: &[File]) -> Vec<String> {
    let tables = tables(files);
    let mut users: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in shipped(files).filter(|file| is_store(file)) {
        let code = file.code();
        for table in touched(&code).into_iter().filter(|table| tables.contains(*table)) {
            users.entry(table.to_owned()).or_default().insert(file.slice().unwrap_or("outside").to_owned());
        }
    }
    users
        .into_iter()
        .filter(|(_, slices)| slices.len() > 1)
        .map(|(table, slices)| format!("{table} is used by {slices:?}"))
        .collect()
}
