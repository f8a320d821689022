//! What the system tells about a process: memory and time on the cores.

use anyhow::Context as _;

/// Clock ticks a second in `/proc`; Linux tells them in this unit whatever the kernel's own is.
const TICKS: f64 = 100.0;

/// Memory of a process that is in use now, in KiB.
pub(crate) fn rss_kib(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

/// Seconds that a process has spent on cores since it began.
pub(crate) fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    // The name in brackets may hold anything; what follows it is numbers.
    let (_, rest) = stat.rsplit_once(") ").context("no process name")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks = |index: usize| -> anyhow::Result<f64> {
        Ok(fields.get(index).context("too few fields")?.parse::<f64>()?)
    };
    Ok((ticks(11)? + ticks(12)?) / TICKS)
}

/// The machine's load of the last minute.
pub(crate) fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}
