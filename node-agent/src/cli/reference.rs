//! The pages `docs/reference/{node-agent-cli,policy,refusals}.md`, written from the code. A test compares them with the
//! files; with `UPDATE_DOCS=1` it writes them.

use std::{fmt::Write as _, path::Path};

use clap::{Arg, Command, CommandFactory as _, Parser as _};
use ez_protocol::refusal::RefusalCode;

use super::Cli;
use crate::{
    doctor,
    policy::{RULES, reference},
};

const NOTE: &str = "<!-- Written from the code: UPDATE_DOCS=1 cargo nextest run --workspace -E 'test(the_reference_pages)' -->\n";

fn cli() -> String {
    let mut command = Cli::command();
    command.build();
    let mut page = format!("# ez-node-agent\n\n{NOTE}\n");
    page.push_str(
        "Data goes to standard output, messages to standard error. Where a command has `--json`, its fields stay as they \
         are; more may come.\n\n| exit code | means |\n|---|---|\n| 0 | done, or all is well |\n| 1 | it failed; the message says \
         at what |\n| 2 | wrong usage, configuration or policy |\n| 3 | not there: no journal yet, an order it does not know |\n\
         | 5 | it may not be now; the message says why |\n| 6 | asked of the agent, not answered yet |\n| 10, 11 | `doctor`: \
         warnings, errors |\n",
    );
    section(&mut page, &command, 2);
    page.push_str("\n## Checks of `doctor`\n\n");
    let names: Vec<String> = doctor::names().iter().map(|name| format!("`{name}`")).collect();
    let _ = writeln!(page, "{} checks, by their stable names: {}.", names.len(), names.join(", "));
    page
}

fn section(page: &mut String, command: &Command, depth: usize) {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    let about =
        command.get_long_about().or_else(|| command.get_about()).map(ToString::to_string).unwrap_or_default();
    let usage = command.clone().render_usage().to_string();
    let _ = writeln!(
        page,
        "\n{} `{name}`\n\n{about}\n\n```\n{}\n```",
        "#".repeat(depth),
        usage.trim_start_matches("Usage: ")
    );
    let shown = |arg: &&Arg| !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version");
    let arguments: Vec<&Arg> =
        command.get_arguments().filter(shown).filter(|arg| depth == 2 || !arg.is_global_set()).collect();
    if !arguments.is_empty() {
        page.push_str("\n| | |\n|---|---|\n");
    }
    for arg in arguments {
        let names = arg.get_value_names().filter(|_| arg.get_action().takes_values());
        let value = names.map(|names| names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" "));
        let head = match (arg.get_long(), value) {
            (Some(long), Some(value)) => format!("`--{long} <{value}>`"),
            (Some(long), None) => format!("`--{long}`"),
            (None, value) => format!("`<{}>`", value.unwrap_or_default()),
        };
        let help =
            arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(page, "| {head} | {} |", help.replace('\n', " ").replace('|', "\\|"));
    }
    let subs = command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help");
    subs.for_each(|sub| section(page, sub, depth.max(2) + 1));
}

fn policy() -> String {
    let mut page = format!("# The policy file\n\n{NOTE}\n");
    page.push_str(
        "`/etc/ez-node-agent/policy.toml` bounds what even a correctly signed order may do on a host. It belongs to root of \
         the host, and a file that anybody else may write is refused. The control plane can neither read nor change it; \
         it is told the ranges, so that it does not sell what would be refused. `ez-node-agent setup` writes the first \
         one from what it finds; after that no program touches it.\n\nAfter a change: `ez-node-agent check-config` (every \
         problem with file, line and column; an unknown key is one), then `systemctl restart ez-node-agent`.\n\nA refusal \
         names the key as its rule: see [refusals](refusals.md).\n",
    );
    let mut last = None;
    for key in reference::KEYS {
        let (section, name) = key.name.split_once('.').unwrap_or(("", key.name));
        if last != Some(section) {
            let title =
                if section.is_empty() { "Top of the file".to_owned() } else { format!("`[{section}]`") };
            let _ = writeln!(page, "\n## {title}\n\n| key | kind | default | |\n|---|---|---|---|");
            last = Some(section);
        }
        let default = key.default.map_or_else(|| "must be set".to_owned(), |default| format!("`{default}`"));
        let _ = writeln!(page, "| `{name}` | {} | {default} | {} |", key.kind.as_str(), key.means);
    }
    page
}

/// What a code means, and what to do about it.
fn explained(code: RefusalCode) -> (&'static str, &'static str) {
    use RefusalCode as C;
    match code {
        C::BadSignature => (
            "No trusted key signed these bytes.",
            "If it is not an attack, the node's trust document is old: join again.",
        ),
        C::WrongRole => {
            ("A trusted key signed that may not sign orders.", "Look at the keys of the control plane.")
        }
        C::BadPayload => (
            "The signed bytes are no order that this agent understands completely.",
            "Upgrade the agent, or the control plane, so that they are at most one version apart.",
        ),
        C::WrongAudience => (
            "It is for another node or another installation.",
            "If it comes again, two nodes share an identity, or a delivery goes astray.",
        ),
        C::WrongEpoch => (
            "It is from before this node's latest enrolment.",
            "Nothing: the control plane issues a new one.",
        ),
        C::Expired => (
            "Its time is over.",
            "Nothing: the control plane issues a new one. Often: look at the clock and the connection.",
        ),
        C::NotYet => ("Its time has not come.", "Look at the clock of both hosts."),
        C::BadWindow => {
            ("It claims to live longer than such an order may.", "A fault of the control plane; report it.")
        }
        C::Stale => (
            "An older sequence or generation than this node knows.",
            "Nothing, if it is a late delivery. After a restore of the control plane's database: it has to catch up.",
        ),
        C::Conflict => (
            "The same sequence, generation or VMID as something else here, or an op that does not fit.",
            "An operator has to look: `ez-node-agent journal --order` on the host, the order's page in the portal.",
        ),
        C::Policy => (
            "The policy file of the host forbids it; the rule is named.",
            "Change the order, or, as root of the host, the policy.",
        ),
        C::Unsupported => ("A kind of order that this agent does not carry out.", "Upgrade the agent."),
        C::NoSpace => (
            "Less than 64 MiB are free for the journal, it holds more than 4 GiB, or too many events wait.",
            "Free space on the host; the order is tried again. A journal of that size was flooded: look who signs such orders.",
        ),
        C::ClockSkew => (
            "The host's clock and the control plane's differ by more than 300 s.",
            "Synchronise the host's clock (chrony); the order is tried again.",
        ),
        C::VmidTaken => (
            "The VMID belongs to a VM that is not the agent's.",
            "Nothing: the control plane picks another. Keep VMs of your own out of the range.",
        ),
        C::CircuitOpen => (
            "The destroy budget of the policy was exceeded: nothing is purged, replaced or deleted any more.",
            "Find out who wanted so much gone; then, as root of the host, `ez-node-agent unlock`.",
        ),
        C::Used => (
            "A console grant that opened a console before.",
            "Nothing: open the console again. If it comes by itself, somebody replays what was sent to this node.",
        ),
        C::UnknownInstance => (
            "There is no such server on this node, or its VM does not carry its marker.",
            "If the server should be here: `ez-node-agent journal --order` on the host, and the description of the VM.",
        ),
        C::NotRunning => ("The server is not running, so it has no console.", "Start it."),
        C::TooMany => (
            "As many consoles of the server, or of the host, are open as may be.",
            "Close one; one that was left open ends by itself after 15 minutes.",
        ),
        C::Unavailable => (
            "The host did not open the console; the detail says why.",
            "Try again; if it stays so, `ez-node-agent doctor` on the host.",
        ),
        C::JournalCorrupt => (
            "The journal is damaged; the node only reports.",
            "Keep the file, move it away, join again; the control plane sends `adopt` for each server.",
        ),
    }
}

/// What a rule that is no key of the policy file means.
fn rule(name: &str) -> Option<&'static str> {
    Some(match name {
        "vmid_range" => "The VMID lies outside `vmid_first` … `vmid_last`.",
        "network.in_use" => "Another server of this host has the address or the hardware address.",
        "destroy.circuit" => "The destroy budget was exceeded; see `CIRCUIT_OPEN`.",
        "config_keys" => {
            "The change of a VM's configuration touches an option that the agent never sets; a last look before each call."
        }
        other => return reference::find(other).map(|key| key.means),
    })
}

fn refusals() -> String {
    let mut page = format!("# Refusals\n\n{NOTE}\n");
    page.push_str(
        "Why an agent did not accept a provisioning order or a console grant. The code is stable; both sides show it: `ez-node-agent journal \
         --refused` on the host, the order's page in the portal. A refused order stays refused; nothing was called at \
         Proxmox for it.\n\n| code | means | what to do |\n|---|---|---|\n",
    );
    for code in RefusalCode::ALL {
        let (means, what) = explained(*code);
        let _ = writeln!(page, "| `{code}` | {means} | {what} |");
    }
    page.push_str("\n## Rules of `POLICY` and `CIRCUIT_OPEN`\n\n| rule | |\n|---|---|\n");
    for name in RULES {
        let _ = writeln!(page, "| `{name}` | {} |", rule(name).unwrap_or_default());
    }
    page
}

#[test]
fn the_reference_pages_are_what_the_code_says() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference");
    for (name, page) in [("node-agent-cli.md", cli()), ("policy.md", policy()), ("refusals.md", refusals())] {
        let path = dir.join(name);
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, &page).unwrap();
        }
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        let differs = there.lines().zip(page.lines()).find(|(is, should)| is != should);
        assert_eq!(there, page, "{name} is out of date (first: {differs:?}); UPDATE_DOCS=1 writes it");
    }
}

#[test]
fn every_rule_that_can_refuse_is_explained() {
    for name in RULES {
        assert!(rule(name).is_some_and(|means| !means.is_empty()), "{name}");
    }
    // A rule is a text in these two files; none may be missing in the list.
    for source in [include_str!("../policy/evaluate.rs"), include_str!("../policy/keys.rs")] {
        let words = source.split('"').skip(1).step_by(2);
        let is_rule = |word: &&str| {
            let dotted = word.split_once('.').is_some_and(|(section, _)| {
                matches!(
                    section,
                    "network" | "images" | "backups" | "media" | "console" | "limits" | "destroy"
                )
            });
            dotted || matches!(*word, "vmid_range" | "config_keys")
        };
        for word in words.filter(is_rule) {
            assert!(RULES.contains(&word), "{word} refuses and is not in RULES");
        }
    }
}

/// What a person pastes: each line of the page's blocks is a command, those of ours are understood, and there are no more
/// than promised.
#[test]
fn the_commands_of_the_how_to_are_commands() {
    let page = include_str!("../../../docs/how-to/add-a-node.md");
    let commands: Vec<&str> =
        page.split("```").skip(1).step_by(2).flat_map(str::lines).filter(|l| !l.is_empty()).collect();
    assert!((5..=8).contains(&commands.len()), "{commands:#?}");
    for command in commands.iter().filter(|command| command.starts_with("ez-node-agent")) {
        let words: Vec<&str> = command.split_whitespace().collect();
        if let Err(error) = Cli::try_parse_from(&words) {
            panic!("{command}: {error}");
        }
    }
}
