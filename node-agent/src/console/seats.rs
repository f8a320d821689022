//! How many consoles are open: each holds a process of Proxmox, a port of the host and a stream.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ez_protocol::{
    InstanceId,
    refusal::{Refusal, RefusalCode},
};

/// Most consoles of one server at once.
const PER_SERVER: u32 = 4;
/// Most consoles of this host at once.
const PER_NODE: u32 = 32;

/// Who sits where; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Seats(Arc<Mutex<HashMap<InstanceId, u32>>>);

/// One open console; dropping it gives the seat back.
#[derive(Debug)]
pub struct Seat {
    seats: Seats,
    instance: InstanceId,
}

impl Seats {
    /// Takes a seat.
    ///
    /// # Errors
    /// `TOO_MANY` if the server or the host has none left.
    pub fn take(&self, instance: InstanceId) -> Result<Seat, Refusal> {
        let mut all = self.all();
        let too_many = |what: &str, most: u32| {
            let detail = format!("{most} consoles of this {what} are open already: close one");
            Err(Refusal::new(RefusalCode::TooMany, detail))
        };
        if all.values().sum::<u32>() >= PER_NODE {
            return too_many("host", PER_NODE);
        }
        let here = all.entry(instance).or_default();
        if *here >= PER_SERVER {
            return too_many("server", PER_SERVER);
        }
        *here += 1;
        Ok(Seat { seats: self.clone(), instance })
    }

    /// How many consoles are open.
    pub fn taken(&self) -> u32 {
        self.all().values().sum()
    }

    fn all(&self) -> MutexGuard<'_, HashMap<InstanceId, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut all = self.seats.all();
        let left = all.get(&self.instance).copied().unwrap_or(0).saturating_sub(1);
        if left == 0 {
            all.remove(&self.instance);
        } else {
            all.insert(self.instance, left);
        }
    }
}
