//! Each invariant as a function of the world. `docs/ARCHITECTURE.md` lists them in words.

mod addresses;
mod chain;
mod convergence;
mod machines;
mod money;
#[cfg(test)]
mod tests;

use super::{Violation, World};

/// An invariant and how it is checked.
pub struct Invariant {
    /// `I1` to `I12`.
    pub name: &'static str,
    /// In words.
    pub says: &'static str,
    /// Finds what contradicts it.
    pub check: fn(&World) -> Vec<Violation>,
}

/// All twelve.
pub const ALL: [Invariant; 12] = [
    Invariant {
        name: "I1",
        says: "at most one VM per server over all nodes",
        check: machines::one_vm_per_instance,
    },
    Invariant { name: "I2", says: "no VM runs without a live paid order", check: money::no_free_vm },
    Invariant { name: "I3", says: "every paid order ends in time", check: money::paid_orders_end },
    Invariant { name: "I4", says: "an address is on at most one VM", check: addresses::unique },
    Invariant {
        name: "I5",
        says: "only VMs with marker and journal row are touched",
        check: machines::only_our_own,
    },
    Invariant { name: "I6", says: "money equals Stripe's", check: money::equals_stripe },
    Invariant {
        name: "I7",
        says: "every change has an audit row and the chain verifies",
        check: chain::audit,
    },
    Invariant { name: "I8", says: "acknowledged means durable", check: chain::acknowledged_is_durable },
    Invariant { name: "I9", says: "sequence and generation never go back", check: chain::never_back },
    Invariant { name: "I10", says: "sold never exceeds capacity", check: machines::sold_within_capacity },
    Invariant { name: "I11", says: "no secret in a log", check: convergence::no_secret_in_logs },
    Invariant { name: "I12", says: "converged", check: convergence::converged },
];

/// Makes a violation.
fn found(invariant: &'static str, subject: impl Into<String>, detail: impl Into<String>) -> Violation {
    Violation { invariant, subject: subject.into(), detail: detail.into() }
}
