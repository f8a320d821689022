//! What may go wrong on the way, as `POST /nodes/{name}/faults` and scenario files give it.

use serde::{Deserialize, Serialize};

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Way {
    /// From the agent to the control plane.
    Up,
    /// From the control plane to the agent.
    Down,
}

impl Way {
    pub(crate) const BOTH: [Self; 2] = [Self::Up, Self::Down];

    /// Its place in a pair.
    pub(crate) fn index(self) -> usize {
        match self {
            Self::Up => 0,
            Self::Down => 1,
        }
    }
}

/// The directions a fault is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Direction {
    Up,
    Down,
    #[default]
    Both,
}

impl Direction {
    pub(crate) fn covers(self, way: Way) -> bool {
        matches!((self, way), (Self::Both, _) | (Self::Up, Way::Up) | (Self::Down, Way::Down))
    }
}

/// Longest a datagram is held back.
const LONGEST_MS: u32 = 60_000;

fn one() -> u32 {
    1
}

/// One thing that goes wrong until it is taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum LinkFault {
    /// Everything comes later, by `delay_ms` and up to `jitter_ms` more; the order stays.
    Delay {
        #[serde(default)]
        direction: Direction,
        delay_ms: u32,
        #[serde(default)]
        jitter_ms: u32,
        #[serde(default)]
        seed: u64,
    },
    /// So many of a hundred datagrams are lost.
    Loss {
        #[serde(default)]
        direction: Direction,
        percent: u8,
        #[serde(default)]
        seed: u64,
    },
    /// Nothing passes.
    Partition {
        #[serde(default)]
        direction: Direction,
    },
    /// So many of a hundred datagrams are overtaken by the `by` that follow, or go after `hold_ms`.
    Reorder {
        #[serde(default)]
        direction: Direction,
        percent: u8,
        #[serde(default = "one")]
        by: u32,
        hold_ms: u32,
        #[serde(default)]
        seed: u64,
    },
    /// So many of a hundred datagrams come `copies` times more.
    Duplicate {
        #[serde(default)]
        direction: Direction,
        percent: u8,
        #[serde(default = "one")]
        copies: u32,
        #[serde(default)]
        seed: u64,
    },
    /// The control plane sees the agent at another port from now on, as when a NAT forgets: `times` times in
    /// all, `every_ms` apart.
    AddressChange {
        #[serde(default = "one")]
        times: u32,
        #[serde(default)]
        every_ms: u32,
    },
}

impl LinkFault {
    /// Whether it makes sense.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn check(&self) -> Result<(), String> {
        let percent = |percent: u8| {
            if (1..=100).contains(&percent) { Ok(()) } else { Err("`percent` must be 1 to 100".to_owned()) }
        };
        let time = |key: &str, ms: u32| {
            if ms <= LONGEST_MS { Ok(()) } else { Err(format!("`{key}` must be at most {LONGEST_MS}")) }
        };
        let count = |key: &str, count: u32| {
            if (1..=1_000).contains(&count) { Ok(()) } else { Err(format!("`{key}` must be 1 to 1000")) }
        };
        match *self {
            Self::Delay { delay_ms, jitter_ms, .. } => {
                if delay_ms == 0 && jitter_ms == 0 {
                    return Err("a delay needs `delay_ms` or `jitter_ms`".to_owned());
                }
                time("delay_ms", delay_ms).and_then(|()| time("jitter_ms", jitter_ms))
            }
            Self::Loss { percent: p, .. } => percent(p),
            Self::Partition { .. } => Ok(()),
            Self::Reorder { percent: p, by, hold_ms, .. } => {
                if hold_ms == 0 {
                    return Err(
                        "`hold_ms` must be at least 1: the last datagram is overtaken by none".to_owned()
                    );
                }
                percent(p).and_then(|()| count("by", by)).and_then(|()| time("hold_ms", hold_ms))
            }
            Self::Duplicate { percent: p, copies, .. } => percent(p).and_then(|()| count("copies", copies)),
            Self::AddressChange { times, every_ms } => {
                if times > 1 && every_ms == 0 {
                    return Err("`times` over 1 needs `every_ms`".to_owned());
                }
                count("times", times).and_then(|()| time("every_ms", every_ms))
            }
        }
    }

    /// Whether it is about datagrams of this direction.
    pub(crate) fn covers(&self, way: Way) -> bool {
        match self {
            Self::Delay { direction, .. }
            | Self::Loss { direction, .. }
            | Self::Partition { direction }
            | Self::Reorder { direction, .. }
            | Self::Duplicate { direction, .. } => direction.covers(way),
            Self::AddressChange { .. } => false,
        }
    }

    /// Where its chance comes from.
    pub(crate) fn seed(&self) -> u64 {
        match self {
            Self::Delay { seed, .. }
            | Self::Loss { seed, .. }
            | Self::Reorder { seed, .. }
            | Self::Duplicate { seed, .. } => *seed,
            Self::Partition { .. } | Self::AddressChange { .. } => 0,
        }
    }
}
