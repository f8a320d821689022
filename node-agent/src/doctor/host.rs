//! The host around the agent: its units, what they let it see, its user, the kernel's buffers, the time.

use std::path::Path;

use super::{Check, Patient, Said};
use crate::setup::SYSTEM_USER;

pub(super) const NAMES: &[&str] = &[
    "unit-enabled",
    "unit-running",
    "repair-unit",
    "agent-version",
    "boot-id",
    "agent-user",
    "udp-buffers",
    "time-sync",
];

const UNIT: &str = "ez-node-agent.service";
const REPAIR: &str = "ez-node-agent-repair.path";
/// What a connection may have on the way, with room for bursts; Linux gives 208 KiB by itself.
const BUFFER_BYTES: u64 = 1024 * 1024;

pub(super) async fn look(patient: &Patient) -> Vec<Check> {
    let system = patient.system.as_ref();
    let (enabled, active, repair, synchronised) = tokio::join!(
        system.run("systemctl", &["is-enabled", UNIT]),
        system.run("systemctl", &["is-active", UNIT]),
        system.run("systemctl", &["is-active", REPAIR]),
        system.run("timedatectl", &["show", "--property=NTPSynchronized", "--value"]),
    );
    vec![
        unit("unit-enabled", &enabled, "enabled", "systemctl enable ez-node-agent"),
        unit("unit-running", &active, "active", "systemctl start ez-node-agent; journalctl -u ez-node-agent"),
        unit("repair-unit", &repair, "active", "systemctl start ez-node-agent-repair.path"),
        version(patient),
        boot_id(patient),
        user(patient),
        buffers(patient),
        time(&synchronised),
    ]
}

fn unit(name: &'static str, said: &Said, wanted: &str, fix: &str) -> Check {
    match said {
        Said::Nothing(why) => Check::warn(
            name,
            format!("systemd could not be asked: {why}"),
            "on a real host systemd runs the agent",
        ),
        Said::Text(text, _) if text == wanted => Check::ok(name, wanted),
        Said::Text(text, _) => {
            let found = if text.is_empty() { "not installed" } else { text.as_str() };
            // Nothing breaks at once, but the next boot or the next killed clone would show it.
            match name {
                "unit-running" => Check::fail(name, found, fix),
                _ => Check::warn(name, found, fix),
            }
        }
    }
}

fn version(patient: &Patient) -> Check {
    let own = env!("CARGO_PKG_VERSION");
    match &patient.status {
        None => Check::unseen("agent-version", "no agent has run here yet", "connection"),
        Some(status) if status.version == own => Check::ok("agent-version", own),
        Some(status) => {
            let found = format!("{} runs, {own} is installed", status.version);
            Check::warn("agent-version", found, "systemctl restart ez-node-agent")
        }
    }
}

/// What the agent itself can read: its unit shows it less of /proc than the doctor sees.
fn boot_id(patient: &Patient) -> Check {
    match &patient.status {
        None => Check::unseen("boot-id", "no agent has run here yet", "connection"),
        Some(status) if status.boot_id.is_empty() => Check::fail(
            "boot-id",
            "the agent cannot read the kernel's boot id: it counts traffic without it, too little after restarts",
            format!(
                "take ProcSubset= out of the unit and its drop-ins (systemctl cat {UNIT}), then systemctl daemon-reload \
                 and systemctl restart ez-node-agent"
            ),
        ),
        Some(_) => Check::ok("boot-id", "the agent knows which boot of this host it is"),
    }
}

/// The agent's user must not be in www-data, which may read nearly all of /etc/pve.
fn user(patient: &Patient) -> Check {
    let read = |path: &str| patient.system.read(Path::new(path)).unwrap_or_default();
    let line = |text: &str, name: &str| {
        text.lines().find(|line| line.split(':').next() == Some(name)).map(str::to_owned)
    };
    if line(&read("/etc/passwd"), SYSTEM_USER).is_none() {
        let fix = "systemd-sysusers ez-node-agent.conf (the package does it)";
        return Check::warn("agent-user", format!("there is no user {SYSTEM_USER}"), fix);
    }
    let in_www_data = line(&read("/etc/group"), "www-data").is_some_and(|line| {
        line.rsplit(':').next().is_some_and(|members| members.split(',').any(|m| m == SYSTEM_USER))
    });
    match in_www_data {
        true => {
            let found = format!("{SYSTEM_USER} is in group www-data, which reads Proxmox's keys");
            Check::fail("agent-user", found, format!("gpasswd -d {SYSTEM_USER} www-data"))
        }
        false => Check::ok("agent-user", format!("{SYSTEM_USER}, without special groups")),
    }
}

fn buffers(patient: &Patient) -> Check {
    let read = |name: &str| {
        let text = patient.system.read(&Path::new("/proc/sys/net/core").join(name)).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let fix = "sysctl --system (the package brings /usr/lib/sysctl.d/60-ez-node-agent.conf)";
    match (read("rmem_max"), read("wmem_max")) {
        (Some(receive), Some(send)) => {
            let found = format!("rmem_max {} KiB, wmem_max {} KiB", receive / 1024, send / 1024);
            match receive.min(send) >= BUFFER_BYTES {
                true => Check::ok("udp-buffers", found),
                false => Check::warn("udp-buffers", format!("{found}: bursts get lost"), fix),
            }
        }
        _ => Check::warn("udp-buffers", "the kernel does not tell", fix),
    }
}

fn time(said: &Said) -> Check {
    let fix = "apt install chrony; timedatectl shows whether it works";
    match said {
        Said::Text(text, true) if text == "yes" => Check::ok("time-sync", "the clock is synchronised"),
        Said::Text(_, true) => Check::warn("time-sync", "the clock is not synchronised", fix),
        Said::Text(..) | Said::Nothing(_) => Check::warn("time-sync", "timedatectl could not be asked", fix),
    }
}
