//! Rules about the text itself.

use crate::source::{File, shipped};

/// The most lines a file may have.
const LONGEST: usize = 800;

pub(crate) fn files_are_short(files: &[File]) -> Vec<String> {
    let long =
        files.iter().map(|file| (file, file.text.lines().count())).filter(|(_, lines)| *lines > LONGEST);
    long.map(|(file, lines)| format!("{} has {lines} lines", file.path)).collect()
}

pub(crate) fn time_is_a_parameter(files: &[File]) -> Vec<String> {
    // The one implementation of each program says so with an #[expect] and its reason.
    let ambient = [
        "SystemTime::now()",
        "Uuid::now_v7()",
        "Uuid::new_v4()",
        "rand::rng()",
        "rand::random()",
        "OffsetDateTime::now_utc()",
    ];
    let mut breaches = Vec::new();
    for file in shipped(files).filter(|file| !file.path.ends_with("build.rs")) {
        let code = file.code();
        for call in ambient.iter().filter(|call| code.contains(**call)) {
            if !code.contains("clippy::disallowed_methods") {
                breaches.push(format!("{} calls {call}", file.path));
            }
        }
    }
    breaches
}

pub(crate) fn no_shell(files: &[File]) -> Vec<String> {
    let shell = |code: &str| {
        ["\"sh\"", "\"bash\"", "\"/bin/sh\"", "\"/bin/bash\""].iter().any(|name| code.contains(name))
    };
    let spawns = shipped(files).filter(|file| {
        let code = file.code();
        shell(&code) && (code.contains("Command::new") || code.contains("\"-c\""))
    });
    spawns.map(|file| format!("{} starts a shell", file.path)).collect()
}

pub(crate) fn lints_are_shared(files: &[File]) -> Vec<String> {
    let mut breaches = Vec::new();
    for part in ["protocol", "control-plane", "node-agent", "simulator"] {
        let manifest = files.iter().find(|file| file.path == format!("{part}/Cargo.toml"));
        if manifest.is_some_and(|file| !file.text.contains("[lints]\nworkspace = true")) {
            breaches.push(format!("{part}/Cargo.toml does not take the workspace's lints"));
        }
    }
    if let Some(root) = files.iter().find(|file| file.path == "Cargo.toml") {
        for line in [
            "unsafe_code = \"forbid\"",
            "unwrap_used = \"deny\"",
            "expect_used = \"deny\"",
            "print_stdout = \"deny\"",
            "disallowed_methods = \"deny\"",
        ] {
            if !root.text.contains(line) {
                breaches.push(format!("Cargo.toml lacks {line}"));
            }
        }
    }
    breaches
}

pub(crate) fn no_foreign_retries(files: &[File]) -> Vec<String> {
    let mut breaches = Vec::new();
    for file in shipped(files).filter(|file| file.slice().is_some()) {
        let code = file.code();
        for name in [
            "RequestStrategy::Retry",
            "RequestStrategy::ExponentialBackoff",
            "RequestStrategy::idempotent_with_uuid",
        ] {
            if code.contains(name) {
                breaches.push(format!("{} uses {name}", file.path));
            }
        }
    }
    breaches
}
