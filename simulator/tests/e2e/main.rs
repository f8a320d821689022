//! Stories from end to end: the real programs as processes, over real sockets, against the simulated
//! outside world. The invariant checker runs at the end of each.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub,
    reason = "a story fails by panicking, speaks to a terminal, and is nobody's library"
)]

mod browser;
mod browsing;
mod buying;
mod caring;
mod clock;
mod commits;
mod consoles;
mod crash_points;
mod crashing;
mod dice;
mod fencing;
mod first_boots;
mod foreign_hands;
mod host_commands;
mod identities;
mod images;
mod judging;
mod link_faults;
mod normal;
mod operating;
mod otherwise;
mod overage;
mod pauses;
mod paying;
mod planting;
mod purchase;
mod purging;
mod queueing;
mod reinstalled;
mod replanning;
mod rotating;
mod sampling;
mod scenarios;
mod shopping;
mod soak;
mod strace;
mod support;
mod torn;
mod unsettled;
mod whole_lives;
mod years;
