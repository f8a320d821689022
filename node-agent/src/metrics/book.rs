//! The book of traffic: what each server has sent and received, by month.
//!
//! Proxmox counts from each start of a VM. A look adds what the counters grew by since the look before, or all they
//! show if the VM was started since: because the host has booted anew, because the VM is younger than it was, or
//! because it is no older than the time that has passed and lacks more of it than a picture can be late. What Proxmox
//! shows is its status daemon's picture, which a storage that hangs lets grow old; a server then looks as young as
//! one that was restarted. In the first minutes of a life the two cannot always be told apart, and only the growth
//! counts. What is counted and what it was counted from stand in one file that is replaced whole, so that a crash at
//! any moment loses nothing and counts nothing twice. A server that the book has never seen counts from its start
//! only if that was after the last look; of one that ran before, somebody else may have counted the beginning. Where
//! the kernel does not tell which boot it is, that is no other boot: a VM then has to look younger itself. Too little
//! may be counted in these cases, and never the same twice.
//!
//! Between the last look and the stop of a VM at most a minute of traffic goes by unseen. Months are those of UTC, by
//! the time of the look.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER;
use ez_protocol::{
    InstanceId, Month, UnixMillis,
    message::{Sample, TrafficTotal},
};
use serde::{Deserialize, Serialize};

use super::{
    ring::{Record, Subject},
    sampler::Look,
};
use crate::{
    entropy::{self, Entropy},
    identity::files,
    pve::GuestLoad,
};

/// What Proxmox shows is up to some ten seconds old, and not always equally old.
const SLACK_SECS: u64 = 30;
/// How late a picture may be while its daemon hangs. Proxmox throws away what is older than five minutes; twice that.
const LATE_SECS: u64 = 600;
/// A server that did not run for so long is forgotten; should it run again, it is younger than that.
const FORGET_MS: i64 = 7 * 24 * 3_600_000;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Book {
    path: PathBuf,
    pages: Pages,
    /// What the other side is known to have, by server and month.
    told: BTreeMap<(InstanceId, Month), Total>,
}

/// What stands in the file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Pages {
    series: String,
    /// Every sample before this place of the ring is acknowledged.
    cursor: u64,
    /// Samples that were lost.
    dropped: u64,
    boot_id: String,
    /// The last look.
    looked: Option<Moment>,
    machines: BTreeMap<InstanceId, Machine>,
    traffic: BTreeMap<InstanceId, BTreeMap<Month, Total>>,
}

/// A moment by both clocks: that of the wall, which may be set, and that of the kernel, which begins with the boot.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Moment {
    at_ms: i64,
    host_uptime_secs: Option<u64>,
}

/// A VM's counters at a look.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Machine {
    seen: Moment,
    vmid: u32,
    uptime_secs: u64,
    net_in: u64,
    net_out: u64,
    disk_read: u64,
    disk_write: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Total {
    #[serde(rename = "in")]
    bytes_in: u64,
    #[serde(rename = "out")]
    bytes_out: u64,
}

/// Which boot of the host a look belongs to, against the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Boot {
    Same,
    Another,
    /// One of both looks does not know.
    Unknown,
}

impl Boot {
    fn between(before: &str, now: &str) -> Self {
        match (before, now) {
            ("", _) | (_, "") => Self::Unknown,
            (before, now) if before == now => Self::Same,
            _ => Self::Another,
        }
    }
}

/// What counters grew by, and in how many seconds.
struct Growth {
    secs: u64,
    net_in: u64,
    net_out: u64,
    disk_read: u64,
    disk_write: u64,
}

impl Book {
    /// Opens the book. One that is missing or damaged is begun anew, as another series.
    pub(super) fn open(path: &Path, entropy: &dyn Entropy) -> Self {
        let read = std::fs::read(path).and_then(|bytes| Ok(serde_json::from_slice::<Pages>(&bytes)?));
        let pages = match read {
            Ok(pages) if pages.series.len() == ez_protocol::message::SERIES_LENGTH => pages,
            other => {
                if let Err(error) = other
                    && error.kind() != io::ErrorKind::NotFound
                {
                    tracing::warn!(%error, path = %path.display(), "the book of traffic is begun anew");
                }
                let series = HEXLOWER.encode(&entropy::bytes::<16>(entropy));
                Pages { series, ..Pages::default() }
            }
        };
        Self { path: path.to_owned(), pages, told: BTreeMap::new() }
    }

    pub(super) fn series(&self) -> &str {
        &self.pages.series
    }

    pub(super) fn cursor(&self) -> u64 {
        self.pages.cursor
    }

    pub(super) fn dropped(&self) -> u64 {
        self.pages.dropped
    }

    /// Counts samples that nobody will get.
    pub(super) fn lost(&mut self, samples: u64) {
        self.pages.dropped = self.pages.dropped.saturating_add(samples);
    }

    /// Writes the book; it is durable when this returns.
    pub(super) fn save(&mut self, cursor: u64) -> io::Result<()> {
        self.pages.cursor = cursor;
        files::write_whole(&self.path, &serde_json::to_vec(&self.pages)?, 0o600)
    }

    /// Enters a look; gives its samples.
    pub(super) fn take(&mut self, look: &Look) -> Vec<Record> {
        let boot = Boot::between(&self.pages.boot_id, &look.boot_id);
        let now = Moment { at_ms: look.at.0, host_uptime_secs: look.host_uptime_secs };
        let month = Month::of(look.at);
        let mut records = Vec::with_capacity(look.guests.len() + 1);
        for (instance, load) in &look.guests {
            let before = self.pages.machines.get(instance).copied();
            let growth = match before {
                // The daemon whose picture this is has not looked since.
                Some(before) if boot != Boot::Another && before.same(load) => continue,
                Some(before) if boot != Boot::Another && !restarted(&before, load, now) => {
                    since(&before, load)
                }
                Some(_) => whole(load),
                None if self.began_since(boot, load, now) => whole(load),
                None => Growth { secs: 1, net_in: 0, net_out: 0, disk_read: 0, disk_write: 0 },
            };
            if growth.net_in > 0 || growth.net_out > 0 {
                let total = self.pages.traffic.entry(*instance).or_default().entry(month).or_default();
                total.bytes_in = total.bytes_in.saturating_add(growth.net_in);
                total.bytes_out = total.bytes_out.saturating_add(growth.net_out);
            }
            self.pages.machines.insert(*instance, Machine::of(load, now));
            records
                .push(Record { subject: Subject::Instance(*instance), sample: sample(look, load, &growth) });
        }
        if let Some((cpu, memory)) = look.host {
            let sample = Sample {
                minute: look.minute,
                cpu_permille: permille(cpu),
                memory_kib: memory / 1_024,
                ..Sample::default()
            };
            records.push(Record { subject: Subject::Host, sample });
        }
        self.pages.boot_id.clone_from(&look.boot_id);
        self.pages.looked = Some(now);
        self.tidy(month, look.at);
        records
    }

    /// Whether a VM that is not in the book was started after the last look. The wall's clock may have been set, the
    /// kernel's may have stood still: the longer of the two times counts.
    fn began_since(&self, boot: Boot, load: &GuestLoad, now: Moment) -> bool {
        let Some(looked) = self.pages.looked else { return false };
        if boot == Boot::Another {
            return true;
        }
        let by_wall = u64::try_from((now.at_ms - looked.at_ms) / 1_000).unwrap_or(0);
        let passed = kernel_time(looked, now).unwrap_or(0).max(by_wall);
        load.uptime_secs <= passed.saturating_add(SLACK_SECS)
    }

    /// Totals that the other side does not have yet, at most so many.
    pub(super) fn untold(&self, most: usize) -> Vec<TrafficTotal> {
        let all = self
            .pages
            .traffic
            .iter()
            .flat_map(|(id, months)| months.iter().map(|(month, total)| (*id, *month, *total)));
        let news = all.filter(|(id, month, total)| self.told.get(&(*id, *month)) != Some(total));
        news.take(most)
            .map(|(id, month, total)| TrafficTotal {
                instance_id: id.to_string(),
                month: month.number(),
                bytes_in: total.bytes_in,
                bytes_out: total.bytes_out,
            })
            .collect()
    }

    /// The other side has these.
    pub(super) fn told(&mut self, totals: &[TrafficTotal]) {
        for total in totals {
            let (Ok(id), Some(month)) = (total.instance_id.parse(), Month::from_number(total.month)) else {
                continue;
            };
            self.told.insert((id, month), Total { bytes_in: total.bytes_in, bytes_out: total.bytes_out });
        }
    }

    /// Forgets months that are over and told, and servers that have not run for long. A month before the last is taken
    /// by nobody any more.
    fn tidy(&mut self, month: Month, at: UnixMillis) {
        let told = &self.told;
        for (id, months) in &mut self.pages.traffic {
            months.retain(|of, total| {
                *of >= month.before()
                    || (*of >= month.before().before() && told.get(&(*id, *of)) != Some(total))
            });
        }
        self.pages.traffic.retain(|_, months| !months.is_empty());
        let traffic = &self.pages.traffic;
        self.told.retain(|(id, of), _| traffic.get(id).is_some_and(|months| months.contains_key(of)));
        self.pages.machines.retain(|_, machine| at.0.saturating_sub(machine.seen.at_ms) < FORGET_MS);
    }
}

impl Machine {
    fn of(load: &GuestLoad, seen: Moment) -> Self {
        Self {
            seen,
            vmid: load.vmid,
            uptime_secs: load.uptime_secs,
            net_in: load.net_in,
            net_out: load.net_out,
            disk_read: load.disk_read,
            disk_write: load.disk_write,
        }
    }
}

impl Machine {
    fn same(&self, load: &GuestLoad) -> bool {
        (self.uptime_secs, self.net_in, self.net_out) == (load.uptime_secs, load.net_in, load.net_out)
            && (self.disk_read, self.disk_write) == (load.disk_read, load.disk_write)
    }

    /// Whether any counter went back since. That of a late picture never does.
    fn is_above(&self, load: &GuestLoad) -> bool {
        self.net_in > load.net_in
            || self.net_out > load.net_out
            || self.disk_read > load.disk_read
            || self.disk_write > load.disk_write
    }
}

/// Seconds between two moments of one boot, by the kernel.
fn kernel_time(from: Moment, to: Moment) -> Option<u64> {
    Some(to.host_uptime_secs?.saturating_sub(from.host_uptime_secs?))
}

/// Whether a VM was started between two looks of one boot, or of boots that nobody knows.
fn restarted(before: &Machine, load: &GuestLoad, now: Moment) -> bool {
    if before.vmid != load.vmid || load.uptime_secs < before.uptime_secs {
        return true;
    }
    let Some(passed) = kernel_time(before.seen, now) else { return false };
    // Started since the last look, it cannot be older than the time that passed; the last picture may have been late. One
    // that has run for long was not started anew, however late its picture is: all it ever sent would count again.
    if load.uptime_secs > passed.saturating_add(LATE_SECS) {
        return false;
    }
    let missing = before.uptime_secs.saturating_add(passed).saturating_sub(load.uptime_secs);
    missing > LATE_SECS || (missing > SLACK_SECS && before.is_above(load))
}

/// A counter of a card or a disk that was taken out and put in again begins anew.
fn grown(before: u64, now: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

fn since(before: &Machine, load: &GuestLoad) -> Growth {
    Growth {
        secs: load.uptime_secs.saturating_sub(before.uptime_secs).max(1),
        net_in: grown(before.net_in, load.net_in),
        net_out: grown(before.net_out, load.net_out),
        disk_read: grown(before.disk_read, load.disk_read),
        disk_write: grown(before.disk_write, load.disk_write),
    }
}

fn whole(load: &GuestLoad) -> Growth {
    Growth {
        secs: load.uptime_secs.max(1),
        net_in: load.net_in,
        net_out: load.net_out,
        disk_read: load.disk_read,
        disk_write: load.disk_write,
    }
}

fn sample(look: &Look, load: &GuestLoad, growth: &Growth) -> Sample {
    Sample {
        minute: look.minute,
        cpu_permille: permille(load.cpu),
        memory_kib: load.memory_used / 1_024,
        net_in: growth.net_in / growth.secs,
        net_out: growth.net_out / growth.secs,
        disk_read: growth.disk_read / growth.secs,
        disk_write: growth.disk_write / growth.secs,
    }
}

/// A share as whole per mille; what is outside of 0 and 1 is nonsense from outside.
fn permille(share: f64) -> u32 {
    let bounded = (share.clamp(0.0, 1.0) * 1_000.0).round();
    (0..=1_000_u32).find(|n| f64::from(*n) >= bounded).unwrap_or(0)
}
