//! What this host and its servers look like. Only looks: drift is reported, never repaired here.
//!
//! A server appears in a report only if it is ours in both senses: a row in the journal *and* the
//! marker in its description. The list of VMs is read often and is cheap; configurations (marker,
//! drift) are read at the first sight of a server and at every full look.

mod host;

use std::collections::{BTreeMap, HashMap};

use ez_protocol::{
    InstanceId, UnixMillis,
    marker::Marker,
    message::{HostState, InstanceState},
    order::InstanceSpec,
};

use crate::{
    agent::{Agent, Works},
    journal::{Phase, ResourceRow},
    pve::{ConfigRead, GuestSummary, Power, Vmid, settings},
};

pub use host::{is_news, look as look_at_host};

/// What is remembered between two looks.
#[derive(Debug, Default)]
pub struct Observer {
    known: HashMap<InstanceId, Known>,
    last: BTreeMap<InstanceId, InstanceState>,
    next_gen: u64,
    /// The next look tells everything.
    again: bool,
    /// When the servers were last looked at with success.
    looked_at: Option<UnixMillis>,
    /// Whether the last look failed.
    blind: bool,
    host: Option<HostState>,
}

#[derive(Debug, Clone, Default)]
struct Known {
    marked: bool,
    generation: u64,
    drift: Vec<String>,
}

/// What changed between two looks.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    /// New or changed servers.
    pub changed: Vec<InstanceState>,
    /// Servers that are no longer in the journal.
    pub removed: Vec<String>,
}

impl Changes {
    /// True if there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

impl Observer {
    /// An observer whose state numbers rise across restarts of the process.
    pub fn new(agent: &Agent) -> Self {
        Self { next_gen: agent.clock.now().0.unsigned_abs(), ..Self::default() }
    }

    /// Looks at all servers. `full` reads every configuration anew. What cannot be read is left as
    /// it was seen last: silence of the hypervisor is no state of a server, and neither is it a look.
    pub async fn look(&mut self, agent: &Agent, full: bool) -> Changes {
        let began = agent.clock.now();
        let seen = match &agent.works {
            Some(works) => self.try_look(agent, works, full).await,
            None => Err("the journal is damaged".to_owned()),
        };
        self.came_to(began, seen)
    }

    fn came_to(&mut self, began: UnixMillis, seen: Result<Changes, String>) -> Changes {
        self.blind = seen.is_err();
        match seen {
            Ok(changes) => {
                self.looked_at = Some(began);
                changes
            }
            Err(error) => {
                tracing::warn!(error, "the servers could not be looked at");
                Changes::default()
            }
        }
    }

    /// While the servers cannot be looked at: when they last were, 0 for never.
    pub fn blind_since_ms(&self) -> Option<i64> {
        self.blind.then(|| self.looked_at.map_or(0, |at| at.0))
    }

    async fn try_look(&mut self, agent: &Agent, works: &Works, full: bool) -> Result<Changes, String> {
        let rows = works.journal.resources().await.map_err(|error| error.to_string())?;
        let guests = agent.pve.list_guests().await.map_err(|error| error.to_string())?;
        let guests: HashMap<Vmid, GuestSummary> = guests.into_iter().map(|g| (g.vmid, g)).collect();
        let mut now = BTreeMap::new();
        for row in &rows {
            if row.phase == Phase::Reserved {
                continue;
            }
            if let Some(state) = self.one(agent, row, guests.get(&row.vmid), full).await {
                now.insert(row.instance, state);
            }
        }
        Ok(self.compare(now))
    }

    async fn one(
        &mut self,
        agent: &Agent,
        row: &ResourceRow,
        guest: Option<&GuestSummary>,
        full: bool,
    ) -> Option<InstanceState> {
        let known = self.known.get(&row.instance).cloned().unwrap_or_default();
        let fresh = known.marked && known.generation == row.observed_generation && !full;
        let known = match guest {
            None => Known::default(),
            Some(_) if fresh => known,
            Some(_) => self.examine(agent, row).await.unwrap_or(known),
        };
        if guest.is_some() && !known.marked {
            return None;
        }
        // A half-made server is not a server yet; its order's events tell about it. One that was told of is told to be gone.
        if row.phase == Phase::Creating && guest.is_none() && !self.last.contains_key(&row.instance) {
            return None;
        }
        let power = match guest.map(|g| g.power) {
            // Proxmox backs up a server that is off with its emulator running, and calls it running meanwhile.
            Some(Power::Running) if guest.is_some_and(|g| g.lock.as_deref() == Some("backup")) => {
                self.last.get(&row.instance).map_or("running", |last| last.power.as_str())
            }
            Some(Power::Running) => "running",
            Some(Power::Stopped) => "stopped",
            None => "absent",
        };
        Some(InstanceState {
            instance_id: row.instance.to_string(),
            vmid: row.vmid,
            power: power.to_owned(),
            generation: row.observed_generation,
            state_gen: 0,
            drift: known.drift,
            uptime_s: guest.map_or(0, |g| g.uptime_secs),
            phase: if row.phase == Phase::Retired { "retired" } else { "present" }.to_owned(),
        })
    }

    /// Reads marker and drift from the configuration.
    async fn examine(&mut self, agent: &Agent, row: &ResourceRow) -> Option<Known> {
        let install = agent.identity().node.install;
        let known = match agent.pve.guest_config(row.vmid).await.ok()? {
            ConfigRead::Present(config) => {
                let marked =
                    Marker::find(config.description()).is_some_and(|m| m.owns(install, row.instance));
                let spec: Option<InstanceSpec> =
                    row.applied_json.as_deref().and_then(|json| serde_json::from_str(json).ok());
                let drift =
                    spec.filter(|_| marked).map(|spec| settings::drift(&config, &spec)).unwrap_or_default();
                Known { marked, generation: row.observed_generation, drift }
            }
            ConfigRead::Absent | ConfigRead::Forbidden => Known::default(),
        };
        self.known.insert(row.instance, known.clone());
        Some(known)
    }

    fn compare(&mut self, now: BTreeMap<InstanceId, InstanceState>) -> Changes {
        let mut changes = Changes::default();
        let again = std::mem::take(&mut self.again);
        for (instance, mut state) in now.clone() {
            let last = self.last.get(&instance);
            if !again && last.is_some_and(|last| same(last, &state)) {
                continue;
            }
            self.next_gen += 1;
            state.state_gen = self.next_gen;
            self.last.insert(instance, state.clone());
            changes.changed.push(state);
        }
        let gone: Vec<InstanceId> = self.last.keys().filter(|id| !now.contains_key(id)).copied().collect();
        for instance in gone {
            self.last.remove(&instance);
            self.known.remove(&instance);
            changes.removed.push(instance.to_string());
        }
        changes
    }

    /// Makes the next look tell every server, changed or not. The result of an order tells a power
    /// state too, seen at another moment; without this the older of the two could stand for long.
    pub fn tell_again(&mut self) {
        self.again = true;
    }

    /// Everything as it was seen last.
    pub fn all(&self) -> Vec<InstanceState> {
        self.last.values().cloned().collect()
    }

    /// Looks at the host; answers it if it changed in more than its load.
    pub async fn look_at_host(&mut self, agent: &Agent) -> HostState {
        let host = host::look(agent, self.host.as_ref()).await;
        let warnings = host.warnings.iter().map(|w| format!("{}: {}", w.code, w.text)).collect();
        agent.status.update(agent.clock.now(), |status| {
            status.warnings = warnings;
            status.certificate_until = host.certificate_not_after_ms;
            status.clock_offset_ms = host.clock_offset_ms;
        });
        self.host = Some(host.clone());
        host
    }
}

/// Uptime grows all the time and is no change while it only grows.
fn same(last: &InstanceState, now: &InstanceState) -> bool {
    let restarted = now.uptime_s < last.uptime_s;
    let plain = |state: &InstanceState| InstanceState { uptime_s: 0, state_gen: 0, ..state.clone() };
    !restarted && plain(last) == plain(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(power: &str, uptime_s: u64) -> InstanceState {
        InstanceState { power: power.to_owned(), uptime_s, ..Default::default() }
    }

    #[test]
    fn growing_uptime_is_no_change_and_a_restart_is_one() {
        assert!(same(&state("running", 10), &state("running", 25)));
        assert!(!same(&state("running", 25), &state("running", 3)));
        assert!(!same(&state("running", 25), &state("stopped", 0)));
    }

    #[test]
    fn who_cannot_look_says_when_it_last_could() {
        let mut observer = Observer::default();
        assert_eq!(observer.blind_since_ms(), None, "nothing was tried yet");
        observer.came_to(UnixMillis(1_000), Err("401".to_owned()));
        assert_eq!(observer.blind_since_ms(), Some(0), "never");
        observer.came_to(UnixMillis(2_000), Ok(Changes::default()));
        assert_eq!(observer.blind_since_ms(), None);
        observer.came_to(UnixMillis(3_000), Err("401".to_owned()));
        observer.came_to(UnixMillis(4_000), Err("401".to_owned()));
        assert_eq!(observer.blind_since_ms(), Some(2_000));
    }

    #[test]
    fn changes_get_rising_numbers_and_absence_is_told_once() {
        let id = InstanceId::from_uuid(uuid::Uuid::from_u128(7));
        let mut observer = Observer { next_gen: 100, ..Default::default() };
        let first = observer.compare(BTreeMap::from([(id, state("stopped", 0))]));
        assert_eq!(first.changed[0].state_gen, 101);
        assert!(observer.compare(BTreeMap::from([(id, state("stopped", 0))])).is_empty());
        let second = observer.compare(BTreeMap::from([(id, state("running", 1))]));
        assert_eq!(second.changed[0].state_gen, 102);
        assert_eq!(observer.compare(BTreeMap::new()).removed, [id.to_string()]);
        assert!(observer.compare(BTreeMap::new()).is_empty());
    }
}
