//! What running machines use: made up, but alive. It follows from the machine's number, its start and the time alone, so
//! nothing has to be kept: counters begin at 0 with each start and never go back.

use std::f64::consts::TAU;

use super::state::{Run, Vm};
use super::vmconfig;

/// What a machine uses now, and what it has moved since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Load {
    /// Share of its CPUs.
    pub(crate) cpu: f64,
    /// Bytes.
    pub(crate) memory: u64,
    pub(crate) net_in: u64,
    pub(crate) net_out: u64,
    pub(crate) disk_read: u64,
    pub(crate) disk_write: u64,
}

/// Two waves on a level, each with its share and its length in seconds; they add up to something between 0 and 1.
const WAVES: [(f64, f64); 2] = [(0.3, 1_800.0), (0.19, 420.0)];

/// How busy a machine is at a time (seconds).
fn busy(vmid: u32, at: f64) -> f64 {
    WAVES.iter().fold(0.5, |sum, (share, length)| sum + share * (TAU * at / length + f64::from(vmid)).sin())
}

/// The integral of [`busy`]: seconds of full work until a time.
fn worked(vmid: u32, at: f64) -> f64 {
    let wave =
        |(share, length): &(f64, f64)| share * length / TAU * (TAU * at / length + f64::from(vmid)).cos();
    0.5 * at - WAVES.iter().map(wave).sum::<f64>()
}

/// Bytes that move at full work in a second; machines differ.
fn per_second(vmid: u32, base: u32) -> f64 {
    f64::from(base) * f64::from(1 + vmid % 5)
}

/// A machine's load; one that does not run, or whose guest waits, uses nothing.
pub(crate) fn of(vm: &Vm, now: i64) -> Load {
    let Some(run) = vm.run.as_ref().filter(|run| !run.prelaunch) else { return Load::default() };
    let work = work(vm.vmid, run, now);
    let moved = |base| (per_second(vm.vmid, base) * work) as u64;
    let busy = busy(vm.vmid, seconds(now));
    let memory = vmconfig::memory_mib(&vm.config) << 20;
    // The first minute fills it; then it breathes.
    let filled = (seconds(now - run.since) / 60.0).clamp(0.1, 1.0) * (0.3 + 0.2 * busy);
    Load {
        cpu: if run.paused { 0.0 } else { 0.01 + 0.3 * busy * busy },
        memory: (memory as f64 * filled) as u64,
        net_in: moved(40_000),
        net_out: moved(120_000),
        disk_read: moved(9_000),
        disk_write: moved(25_000),
    }
}

fn work(vmid: u32, run: &Run, now: i64) -> f64 {
    (worked(vmid, seconds(now)) - worked(vmid, seconds(run.since))).max(0.0)
}

fn seconds(ms: i64) -> f64 {
    ms as f64 / 1_000.0
}

/// Share of a host's cores that its machines keep busy, with a little for itself.
pub(crate) fn host_cpu<'v>(machines: impl Iterator<Item = &'v Vm>, cores: u32, now: i64) -> f64 {
    let used: f64 = machines.map(|vm| of(vm, now).cpu * vmconfig::cpus(&vm.config) as f64).sum();
    (0.02 + used / f64::from(cores.max(1))).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(vmid: u32, since: i64) -> Vm {
        let run = Run {
            pid: 1,
            since,
            paused: false,
            agent_device: false,
            agent_at: None,
            prelaunch: false,
            booted_from: None,
        };
        let config = [("memory".to_owned(), "1024".to_owned())].into();
        Vm { vmid, run: Some(run), config, ..Vm::default() }
    }

    #[test]
    fn counters_begin_at_nothing_and_never_go_back() {
        const START: i64 = 1_795_000_000_000;
        for vmid in [100, 101, 2_047] {
            let vm = machine(vmid, START);
            let mut before = of(&vm, START);
            assert_eq!((before.net_in, before.disk_write), (0, 0));
            for second in 1..4_000 {
                let now = of(&vm, START + second * 1_000);
                assert!(now.net_in >= before.net_in && now.net_out >= before.net_out);
                assert!(now.disk_read >= before.disk_read && now.disk_write >= before.disk_write);
                assert!((0.0..=1.0).contains(&now.cpu) && now.memory < 1 << 30, "{now:?}");
                before = now;
            }
            assert!(before.net_out > 100_000_000, "{before:?}");
            assert_eq!(of(&Vm { run: None, ..vm.clone() }, START + 9_000), Load::default());
            assert_eq!(of(&machine(vmid, START + 9_000), START + 9_000).net_in, 0, "a restart begins anew");
        }
    }
}
