//! How much of a node may be sold. Pure arithmetic.
//!
//! What the node shows and what its policy file allows are both upper bounds; the smaller one counts.
//! Virtual CPUs are sold four to one, memory and disk one to one less a reserve for the host itself.

/// Virtual CPUs sold per core.
pub(super) const VCPU_PER_CORE: u64 = 4;
/// Memory kept for the host: at least this much …
const MEMORY_RESERVE_MIB: u64 = 2_048;
/// … and at least one part in so many.
const MEMORY_RESERVE_PART: u64 = 20;
/// Disk kept for the host and its templates: at least this much …
const DISK_RESERVE_GIB: u64 = 10;
/// … and at least one part in so many.
const DISK_RESERVE_PART: u64 = 20;

/// What a node's agent sees of its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Observed {
    /// Logical CPUs.
    pub cores: u64,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Disk in GiB on the storages new servers may use.
    pub disk_gib: u64,
}

/// What the node's policy file allows in sum. `None` means it names no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct PolicyBounds {
    /// Virtual CPUs over all servers.
    pub vcpu: Option<u64>,
    /// Memory in MiB over all servers.
    pub memory_mib: Option<u64>,
    /// Disk in GiB over all servers.
    pub disk_gib: Option<u64>,
}

/// What may be sold of a node in total.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sellable {
    /// Virtual CPUs.
    pub vcpu: u64,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Disk in GiB.
    pub disk_gib: u64,
}

/// The smaller of observation (over-committed or reduced) and policy, per resource.
pub(super) fn sellable(observed: Observed, policy: PolicyBounds) -> Sellable {
    let within = |seen: u64, bound: Option<u64>| bound.map_or(seen, |bound| seen.min(bound));
    Sellable {
        vcpu: within(observed.cores.saturating_mul(VCPU_PER_CORE), policy.vcpu),
        memory_mib: within(
            less_reserve(observed.memory_mib, MEMORY_RESERVE_MIB, MEMORY_RESERVE_PART),
            policy.memory_mib,
        ),
        disk_gib: within(
            less_reserve(observed.disk_gib, DISK_RESERVE_GIB, DISK_RESERVE_PART),
            policy.disk_gib,
        ),
    }
}

fn less_reserve(total: u64, at_least: u64, part: u64) -> u64 {
    total.saturating_sub(at_least.max(total / part))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_host_keeps_its_reserve() {
        let host = Observed { cores: 16, memory_mib: 65_536, disk_gib: 1_000 };
        let free = sellable(host, PolicyBounds::default());
        assert_eq!(free, Sellable { vcpu: 64, memory_mib: 65_536 - 3_276, disk_gib: 950 });
        let small = sellable(Observed { cores: 2, memory_mib: 1_024, disk_gib: 8 }, PolicyBounds::default());
        assert_eq!(small, Sellable { vcpu: 8, memory_mib: 0, disk_gib: 0 });
    }

    proptest! {
        #[test]
        fn neither_bound_is_passed(
            cores in 0_u64..1_000, memory_mib in 0_u64..10_000_000, disk_gib in 0_u64..1_000_000,
            vcpu in prop::option::of(0_u64..5_000), memory in prop::option::of(0_u64..10_000_000),
            disk in prop::option::of(0_u64..1_000_000),
        ) {
            let policy = PolicyBounds { vcpu, memory_mib: memory, disk_gib: disk };
            let sale = sellable(Observed { cores, memory_mib, disk_gib }, policy);
            prop_assert!(sale.vcpu <= cores * VCPU_PER_CORE && sale.memory_mib <= memory_mib);
            prop_assert!(sale.disk_gib <= disk_gib);
            prop_assert!(vcpu.is_none_or(|b| sale.vcpu <= b));
            prop_assert!(memory.is_none_or(|b| sale.memory_mib <= b));
            prop_assert!(disk.is_none_or(|b| sale.disk_gib <= b));
        }
    }
}
