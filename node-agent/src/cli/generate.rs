//! `generate`: manual pages and completions for the package, written from the definition of the commands, so that they
//! cannot say anything else than the program does.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{CommandFactory as _, ValueEnum};
use clap_complete::Shell;
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};
use ez_protocol::UnixMillis;

use super::{Cli, env, journal::time};
use crate::{config, policy::reference};

/// What is generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum What {
    /// Manual pages, one per command and file.
    Man,
    /// Completions for bash, zsh and fish.
    Completions,
}

const NAME: &str = "ez-node-agent";
const MANUAL: &str = "EZ node agent";

pub(super) fn generate(what: What, dir: &Path) -> anyhow::Result<ExitCode> {
    fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    match what {
        What::Man => manual(dir),
        What::Completions => completions(dir),
    }
    .with_context(|| format!("writing into {}", dir.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn completions(dir: &Path) -> io::Result<()> {
    for (shell, file) in [
        (Shell::Bash, "ez-node-agent.bash"),
        (Shell::Zsh, "_ez-node-agent"),
        (Shell::Fish, "ez-node-agent.fish"),
    ] {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), NAME, &mut text);
        fs::write(dir.join(file), text)?;
    }
    Ok(())
}

fn manual(dir: &Path) -> io::Result<()> {
    let mut cli = Cli::command();
    cli.build();
    let mut waiting = vec![cli];
    while let Some(command) = waiting.pop() {
        let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
        waiting.extend(
            command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help").cloned(),
        );
        let mut text = Vec::new();
        Man::new(command).section("8").date(date()).manual(MANUAL).source(version()).render(&mut text)?;
        fs::write(dir.join(format!("{name}.8")), text)?;
    }
    page(&dir.join("ez-node-agent-policy.5"), &policy_page())?;
    page(&dir.join("ez-node-agent-config.5"), &config_page())
}

fn version() -> String {
    format!("{NAME} {}", env!("CARGO_PKG_VERSION"))
}

/// The day of the commit that is packaged, as whoever makes the package says; without one, the first day there is.
fn date() -> String {
    let secs = env("SOURCE_DATE_EPOCH").and_then(|text| text.parse().ok()).unwrap_or(0);
    time(UnixMillis::from_secs(secs)).chars().take(10).collect()
}

fn page(path: &PathBuf, roff: &Roff) -> io::Result<()> {
    fs::write(path, roff.render())
}

/// A page about a file, up to its list of keys.
fn opening(name: &str, what: &str, file: &str, text: &[&str]) -> Roff {
    let mut roff = Roff::new();
    roff.control("TH", [name, "5", &date(), &version(), MANUAL]);
    roff.control("SH", ["NAME"]).text([roman(format!("{name} - {what}"))]);
    roff.control("SH", ["SYNOPSIS"]).text([roman(file)]);
    roff.control("SH", ["DESCRIPTION"]);
    for (index, paragraph) in text.iter().enumerate() {
        if index > 0 {
            roff.control("PP", []);
        }
        roff.text([roman(*paragraph)]);
    }
    roff.control("SH", ["KEYS"]);
    roff
}

fn policy_page() -> Roff {
    let mut roff = opening(
        "ez-node-agent-policy",
        "what even a correctly signed order may not do on a host",
        "/etc/ez-node-agent/policy.toml",
        &[
            "A TOML file that belongs to root of the host and that nobody else may write. The control plane can neither read \
             nor change it. Unknown keys are errors. A refusal names the key.",
            "After a change: ez-node-agent check-config, then systemctl restart ez-node-agent.",
        ],
    );
    for key in reference::KEYS {
        let default =
            key.default.map_or_else(|| "must be set".to_owned(), |default| format!("default {default}"));
        let head = [bold(key.name), roman(format!(" ({}, {default})", key.kind.as_str()))];
        roff.control("TP", []).text(head).text([roman(key.means.replace('`', ""))]);
    }
    roff.control("SH", ["SEE ALSO"]).text([roman("ez-node-agent(8), ez-node-agent-config(5)")]);
    roff
}

fn config_page() -> Roff {
    let mut roff = opening(
        "ez-node-agent-config",
        "how the node agent reaches its host and where it keeps its things",
        "/etc/ez-node-agent/agent.toml, /etc/ez-node-agent/setup.toml",
        &[
            "agent.toml holds the settings of the host's owner; no program writes it. setup.toml is written by ez-node-agent \
             setup with what it found; agent.toml wins over it. Every key can also be given in the environment as \
             EZ_AGENT_ and its name in capitals, which wins over both.",
        ],
    );
    for key in config::KEYS {
        let default = key.default.map_or_else(String::new, |default| format!(" (default {default})"));
        roff.control("TP", []).text([bold(key.name), roman(default)]).text([roman(key.means)]);
    }
    roff.control("SH", ["SEE ALSO"]).text([roman("ez-node-agent(8), ez-node-agent-policy(5)")]);
    roff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_file_has_a_page_and_every_shell_its_completions() {
        let dir = tempfile::tempdir().unwrap();
        generate(What::Man, dir.path()).unwrap();
        generate(What::Completions, dir.path()).unwrap();
        for file in [
            "ez-node-agent.8",
            "ez-node-agent-setup.8",
            "ez-node-agent-order.8",
            "ez-node-agent-order-abandon.8",
            "ez-node-agent-policy.5",
            "ez-node-agent-config.5",
            "ez-node-agent.bash",
            "_ez-node-agent",
            "ez-node-agent.fish",
        ] {
            let text = fs::read_to_string(dir.path().join(file)).unwrap();
            assert!(text.len() > 200, "{file}: {text}");
        }
        assert!(!dir.path().join("ez-node-agent-generate.8").exists(), "hidden commands have no page");
        let policy = fs::read_to_string(dir.path().join("ez-node-agent-policy.5")).unwrap();
        assert!(policy.contains("require_firewall") && policy.contains("default true"), "{policy}");
        let bash = fs::read_to_string(dir.path().join("ez-node-agent.bash")).unwrap();
        assert!(bash.contains("--dry-run") && bash.contains("unlock"));
    }
}
