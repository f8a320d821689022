//! Stories of a host whose machines come and go: what the book adds up, and what is told in which order.

use std::collections::BTreeMap;

use ez_protocol::{
    InstanceId, UnixMillis,
    message::{MetricsAck, MetricsBatch},
};
use proptest::prelude::*;

use super::{Metrics, sampler::Look};
use crate::{
    entropy::SeededEntropy,
    pve::GuestLoad,
    testing::{NOW, instance},
};

const MINUTE: i64 = 60_000;

/// A host: a clock, a boot, and machines whose counters are known.
struct Host {
    dir: tempfile::TempDir,
    metrics: Metrics,
    at: UnixMillis,
    boot: u32,
    /// Whether the kernel tells its boot and its uptime.
    told: bool,
    up: u64,
    machines: BTreeMap<InstanceId, GuestLoad>,
}

fn open(dir: &tempfile::TempDir, records: u64) -> Metrics {
    Metrics::open_sized(dir.path(), &SeededEntropy::new(1), records).unwrap()
}

impl Host {
    fn new() -> Self {
        Self::with_room_for(1_000)
    }

    fn with_room_for(records: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let metrics = open(&dir, records);
        Self { dir, metrics, at: NOW, boot: 1, told: true, up: 5_000, machines: BTreeMap::new() }
    }

    fn start(&mut self, n: u8) {
        let load = GuestLoad { vmid: u32::from(n), ..GuestLoad::default() };
        self.machines.insert(instance(n), load);
    }

    /// Time goes by; every machine sends and receives.
    fn pass(&mut self, secs: u64, net_in: u64, net_out: u64) {
        self.at = UnixMillis(self.at.0 + i64::try_from(secs).unwrap() * 1_000);
        self.up += secs;
        for load in self.machines.values_mut() {
            load.uptime_secs += secs;
            load.net_in += net_in;
            load.net_out += net_out;
        }
    }

    fn look(&self) {
        self.look_at(self.machines.iter().map(|(id, load)| (*id, load.clone())).collect());
    }

    /// A look that sees this picture, which may be late.
    fn look_at(&self, guests: Vec<(InstanceId, GuestLoad)>) {
        self.metrics.note(&Look {
            at: self.at,
            minute: u32::try_from(self.at.0 / MINUTE).unwrap(),
            boot_id: if self.told { format!("boot-{}", self.boot) } else { String::new() },
            host_uptime_secs: self.told.then_some(self.up),
            host: None,
            guests,
        });
    }

    fn minute(&mut self, net_in: u64, net_out: u64) {
        self.pass(60, net_in, net_out);
        self.look();
    }

    /// `kill -9` and a new start.
    fn crash(&mut self) {
        self.metrics = open(&self.dir, 1_000);
    }

    fn next(&self) -> Option<MetricsBatch> {
        self.metrics.next(self.at, false)
    }

    fn take(&self) -> MetricsBatch {
        let batch = self.next().unwrap();
        self.metrics.acknowledged(MetricsAck { batch: batch.batch, pause_ms: 0 });
        batch
    }

    /// What the book says of a server, over all months.
    fn total(&self, n: u8) -> (u64, u64) {
        let file = std::fs::read(self.dir.path().join("traffic.json")).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&file).unwrap();
        let months = json["traffic"][instance(n).to_string()].as_object();
        let sum = |key: &str| months.iter().flat_map(|m| m.values()).map(|t| t[key].as_u64().unwrap()).sum();
        (sum("in"), sum("out"))
    }
}

fn minutes(batch: &MetricsBatch) -> Vec<u32> {
    batch.instances.iter().flat_map(|one| &one.samples).map(|sample| sample.minute).collect()
}

#[test]
fn a_server_counts_from_its_start_and_its_samples_are_rates() {
    let mut host = Host::new();
    host.look();
    host.pass(30, 0, 0);
    host.start(1);
    host.pass(20, 5_000, 1_000);
    host.look();
    host.minute(60_000, 6_000);
    assert_eq!(host.total(1), (65_000, 7_000));
    let batch = host.take();
    let rates: Vec<_> = batch.instances[0].samples.iter().map(|s| (s.net_in, s.net_out)).collect();
    assert_eq!(rates, [(250, 50), (1_000, 100)]);
    assert_eq!((batch.traffic[0].bytes_in, batch.traffic[0].month), (65_000, 202_611));
}

#[test]
fn of_a_server_that_ran_before_the_book_was_begun_somebody_else_may_have_counted() {
    let mut host = Host::new();
    host.start(1);
    host.pass(10_000, 1_000_000, 1_000_000);
    host.look();
    host.start(2);
    host.pass(9_000, 0, 0);
    // Adopted: it had been running long before the last look.
    host.machines.get_mut(&instance(2)).unwrap().uptime_secs = 90_000;
    host.minute(60, 6);
    assert_eq!((host.total(1), host.total(2)), ((60, 6), (0, 0)));
}

#[test]
fn counters_that_begin_anew_are_added_whole_and_never_backwards() {
    let mut host = Host::new();
    host.look();
    host.start(1);
    host.minute(1_000, 100);
    // A restart of the VM.
    host.start(1);
    host.minute(50, 5);
    assert_eq!(host.total(1), (1_050, 105));
    // One during an outage of the agent, after which it shows more than before.
    host.pass(3_600, 7, 7);
    host.start(1);
    host.pass(1_800, 9_000, 900);
    host.look();
    assert_eq!(host.total(1), (10_050, 1_005));
    // The card was taken out and put in again.
    host.machines.get_mut(&instance(1)).unwrap().net_in = 0;
    host.machines.get_mut(&instance(1)).unwrap().net_out = 0;
    host.minute(3, 3);
    assert_eq!(host.total(1), (10_053, 1_008));
    // The host boots anew, and the VM shows more than before and is older than before, too.
    host.boot += 1;
    host.start(1);
    host.pass(9_000, 20_000, 2_000);
    host.up = 9_100;
    host.look();
    assert_eq!(host.total(1), (30_053, 3_008));
}

#[test]
fn a_picture_that_is_late_makes_no_restart() {
    let mut host = Host::new();
    host.look();
    host.start(1);
    host.pass(90 * 86_400, 1_000_000, 100_000);
    host.look();
    host.start(2);
    host.minute(500, 50);
    assert_eq!((host.total(1), host.total(2)), ((1_000_500, 100_050), (500, 50)));
    for late in [31, 120, 300] {
        // The status daemon hangs on a storage for so long; its picture is from before that.
        host.minute(1, 1);
        host.pass(20, 10, 1);
        let picture: Vec<_> = host.machines.iter().map(|(id, load)| (*id, load.clone())).collect();
        host.pass(late, 5, 1);
        host.look_at(picture);
        host.minute(3, 1);
    }
    let grown = (3 * (1 + 10 + 5 + 3), 3 * 4);
    assert_eq!(host.total(1), (1_000_500 + grown.0, 100_050 + grown.1));
    assert_eq!(host.total(2), (500 + grown.0, 50 + grown.1));
}

#[test]
fn a_restart_whose_counters_are_below_the_old_ones_in_part_counts_them_all() {
    let mut host = Host::new();
    host.look();
    host.start(1);
    host.minute(1_000, 100);
    // As old as before, with less received and more sent.
    host.start(1);
    host.minute(50, 500);
    assert_eq!(host.total(1), (1_050, 600));
}

#[test]
fn a_kernel_that_does_not_tell_its_boot_makes_no_restart() {
    let mut host = Host::new();
    host.told = false;
    host.look();
    host.start(1);
    host.pass(30, 500, 50);
    host.look();
    for _ in 0..5 {
        host.minute(1_000, 100);
    }
    // A picture that stands still counts nothing either.
    host.look();
    assert_eq!(host.total(1), (5_500, 550));
    // A server that ran long before the book first saw it.
    host.start(2);
    let adopted = GuestLoad { vmid: 2, uptime_secs: 90_000, net_in: 7_000, ..GuestLoad::default() };
    host.machines.insert(instance(2), adopted);
    host.minute(10, 1);
    assert_eq!(host.total(2), (0, 0));
    // A restart of the VM shows by itself.
    host.start(1);
    host.minute(60, 6);
    assert_eq!(host.total(1), (5_570, 557));
    // The unit is mended, the agent knows its boot at once: that is no boot either.
    host.told = true;
    host.minute(30, 3);
    host.minute(30, 3);
    assert_eq!(host.total(1), (5_630, 563));
    // And forgotten again.
    host.told = false;
    host.minute(20, 2);
    assert_eq!(host.total(1), (5_650, 565));
}

#[test]
fn a_wall_clock_that_jumps_makes_no_restart() {
    let mut host = Host::new();
    host.look();
    host.start(1);
    host.minute(1_000, 100);
    for jump in [7_200_000, -3_600_000] {
        host.at = UnixMillis(host.at.0 + jump);
        host.minute(10, 1);
    }
    assert_eq!(host.total(1), (1_020, 102));
}

#[test]
fn a_picture_that_stands_still_is_a_gap_and_counts_nothing() {
    let mut host = Host::new();
    host.look();
    host.start(1);
    host.minute(1_000, 100);
    host.take();
    host.at = UnixMillis(host.at.0 + MINUTE);
    host.up += 60;
    host.look();
    assert_eq!((host.total(1), host.next()), ((1_000, 100), None));
}

#[test]
fn traffic_belongs_to_the_month_of_its_look() {
    let mut host = Host::new();
    // 2026-11-30T23:58:00Z
    host.at = UnixMillis(1_796_083_080_000);
    host.look();
    host.start(1);
    host.minute(10, 1);
    host.minute(20, 2);
    host.minute(40, 4);
    let told: Vec<_> = host.take().traffic.iter().map(|t| (t.month, t.bytes_in)).collect();
    assert_eq!(told, [(202_611, 10), (202_612, 60)]);
    // The month before is kept, the one before that is forgotten once it was told.
    host.at = UnixMillis(host.at.0 + 40 * 86_400_000);
    host.minute(1, 1);
    assert_eq!(host.total(1).0, 61);
}

#[test]
fn a_crash_between_any_two_looks_loses_no_traffic_and_counts_none_twice() {
    let mut host = Host::new();
    host.look();
    host.start(1);
    for _ in 0..5 {
        host.minute(100, 10);
        host.crash();
    }
    assert_eq!(host.total(1), (500, 50));
    let batch = host.take();
    assert_eq!((minutes(&batch).len(), batch.traffic[0].bytes_in), (5, 500));
    // Told again after a crash, with the same meaning: the minutes and the total.
    host.crash();
    let again = host.take();
    assert_eq!(
        (&again.series, minutes(&again), &again.traffic),
        (&batch.series, minutes(&batch), &batch.traffic)
    );
    // What was acknowledged before the last look is not told again.
    host.minute(1, 1);
    host.take();
    host.minute(1, 1);
    host.crash();
    assert_eq!(minutes(&host.take()).len(), 1);
}

#[test]
fn a_book_that_cannot_be_read_begins_another_series() {
    let mut host = Host::new();
    host.start(1);
    host.minute(100, 10);
    let before = host.take().series;
    std::fs::write(host.dir.path().join("traffic.json"), b"{torn").unwrap();
    host.metrics = Metrics::open_sized(host.dir.path(), &SeededEntropy::new(2), 1_000).unwrap();
    host.minute(100, 10);
    host.minute(7, 7);
    let after = host.take();
    assert_ne!(after.series, before);
    assert_eq!(after.traffic[0].bytes_in, 7, "it counts from its own first look on");
}

#[test]
fn the_newest_goes_first_and_what_was_not_taken_is_told_again() {
    let mut host = Host::with_room_for(10_000);
    host.look();
    host.start(1);
    for _ in 0..2_500 {
        host.minute(1, 1);
    }
    let newest = host.next().unwrap();
    assert_eq!(minutes(&newest).len(), 2_000);
    host.minute(1, 1);
    host.metrics.give_back();
    let with_more = host.take();
    assert_eq!(minutes(&with_more).last(), Some(&u32::try_from(host.at.0 / MINUTE).unwrap()));
    assert_eq!(host.metrics.next(host.at, true), None, "the rest is old");
    host.minute(1, 1);
    let live = host.metrics.next(host.at, true).unwrap();
    // An acknowledgement of another batch is none.
    host.metrics.acknowledged(MetricsAck { batch: live.batch + 7, pause_ms: 0 });
    host.metrics.begin();
    let mut rest = minutes(&host.take());
    rest.extend(minutes(&host.next().unwrap_or_default()));
    assert_eq!(rest.len(), 502);
}

#[test]
fn a_full_ring_lets_the_oldest_go_and_says_how_many() {
    let mut host = Host::with_room_for(10);
    host.look();
    host.start(1);
    for _ in 0..25 {
        host.minute(1, 1);
    }
    let batch = host.take();
    assert_eq!((minutes(&batch).len(), batch.dropped), (10, 15));
    assert_eq!(batch.traffic[0].bytes_in, 25, "traffic does not depend on samples");
}

#[test]
fn what_is_older_than_two_days_is_not_told() {
    let mut host = Host::new();
    host.look();
    host.start(1);
    host.minute(1, 1);
    host.pass(48 * 3_600 + 60, 0, 0);
    host.minute(1, 1);
    let batch = host.take();
    assert_eq!((minutes(&batch).len(), batch.dropped), (1, 1));
    assert_eq!(host.next(), None);
}

#[derive(Clone, Debug)]
enum Happens {
    Traffic(u16),
    Look,
    VmRestart,
    HostBoot,
    Crash,
    ClockJump(i16),
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        4 => (1_u16..1_000).prop_map(Happens::Traffic),
        4 => Just(Happens::Look),
        1 => Just(Happens::VmRestart),
        1 => Just(Happens::HostBoot),
        1 => Just(Happens::Crash),
        1 => any::<i16>().prop_map(Happens::ClockJump),
    ]
}

#[derive(Clone, Debug)]
enum Late {
    Traffic(u64, u64),
    VmRestart,
    Crash,
    /// A look at a picture of at least this age.
    Look(u64),
}

fn late() -> impl Strategy<Value = Late> {
    prop_oneof![
        4 => (1_u64..120, 1_u64..1_000).prop_map(|(secs, bytes)| Late::Traffic(secs, bytes)),
        4 => (0_u64..300).prop_map(Late::Look),
        1 => Just(Late::VmRestart),
        1 => Just(Late::Crash),
    ]
}

proptest! {
    /// Everything that was there at a look is counted once, whatever comes between; what a machine did between its
    /// last look and its end nobody can know.
    #[test]
    fn the_book_never_loses_what_was_seen_and_never_counts_it_twice(
        story in proptest::collection::vec(happens(), 0..60),
    ) {
        let mut host = Host::new();
        host.look();
        host.start(1);
        host.minute(0, 0);
        let (mut counted, mut unseen) = (0_u64, 0_u64);
        let mut starts = 0;
        for step in story {
            match step {
                Happens::Traffic(bytes) => {
                    // Longer than a picture can be late: a restart is then known for what it is.
                    host.pass(660, u64::from(bytes), 0);
                    unseen += u64::from(bytes);
                }
                Happens::Look => {
                    host.look();
                    counted += std::mem::take(&mut unseen);
                }
                Happens::VmRestart | Happens::HostBoot => {
                    if matches!(step, Happens::HostBoot) {
                        host.boot += 1;
                        host.up = 40;
                    }
                    host.start(1);
                    // What is the same to the second and the byte is the daemon's old picture. No two lives are here.
                    starts += 1;
                    host.pass(20 + starts, 0, 0);
                    unseen = 0;
                }
                Happens::Crash => host.crash(),
                Happens::ClockJump(minutes) => {
                    host.at = UnixMillis(host.at.0 + i64::from(minutes) * 600);
                }
            }
            prop_assert_eq!(host.total(1).0, counted);
        }
    }

    /// Whatever the age of what is seen, no more is counted than has flowed.
    #[test]
    fn late_pictures_and_restarts_never_count_more_than_flowed(
        before in 0_u64..2_000,
        story in proptest::collection::vec(late(), 0..60),
    ) {
        let mut host = Host::new();
        host.look();
        host.start(1);
        let mut flowed = before;
        host.pass(before, before, 0);
        // What the daemon saw, and when; it never shows anything older than what it has shown.
        let mut pictures = Vec::new();
        let mut shown = 0;
        for step in story {
            match step {
                Late::Traffic(secs, bytes) => {
                    host.pass(secs, bytes, bytes / 2);
                    flowed += bytes;
                }
                Late::VmRestart => host.start(1),
                Late::Crash => host.crash(),
                Late::Look(age) => {
                    let seen = |(up, _): &(u64, GuestLoad)| up + age <= host.up;
                    let newest = pictures.iter().rposition(seen).unwrap_or(0).max(shown);
                    if let Some((_, load)) = pictures.get(newest) {
                        host.look_at(vec![(instance(1), load.clone())]);
                        shown = newest;
                    }
                }
            }
            pictures.push((host.up, host.machines[&instance(1)].clone()));
            prop_assert!(host.total(1).0 <= flowed, "{} of {}", host.total(1).0, flowed);
        }
        host.minute(0, 0);
        prop_assert!(host.total(1).0 <= flowed);
    }
}
