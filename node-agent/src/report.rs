//! Events as the executor says them, before the journal gives them their number.

use ez_protocol::{
    InstanceId, ProvisioningOrderId, UnixMillis,
    message::{Event, EventKind, Facts, QueuePlace},
};
use prost::Message as _;

/// An event without its number.
#[derive(Debug, Clone, PartialEq)]
pub struct EventDraft(Event);

/// Longest text of a detail; an event fits into one frame with room to spare.
const LONGEST_DETAIL: usize = 2_000;

impl EventDraft {
    /// An event of `kind` about an order.
    pub fn new(
        kind: EventKind,
        order: ProvisioningOrderId,
        instance: InstanceId,
        generation: u64,
        at: UnixMillis,
    ) -> Self {
        Self(Event {
            event_seq: 0,
            order_id: order.to_string(),
            instance_id: instance.to_string(),
            at_ms: at.0,
            kind: kind.into(),
            step: String::new(),
            percent: None,
            detail: String::new(),
            class: String::new(),
            facts: None,
            generation,
            queue: None,
        })
    }

    /// Names the step.
    #[must_use]
    pub fn step(mut self, step: &str) -> Self {
        step.clone_into(&mut self.0.step);
        self
    }

    /// Says how far the step has come, 0–100.
    #[must_use]
    pub fn percent(mut self, percent: u32) -> Self {
        self.0.percent = Some(percent.min(100));
        self
    }

    /// Says where in a queue of the host the step is.
    #[must_use]
    pub fn queue(mut self, place: QueuePlace) -> Self {
        self.0.queue = Some(place);
        self
    }

    /// Adds one sentence for people.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        let detail: String = detail.into();
        self.0.detail = detail.chars().take(LONGEST_DETAIL).collect();
        self
    }

    /// Adds the class of a failure.
    #[must_use]
    pub fn class(mut self, class: &str) -> Self {
        class.clone_into(&mut self.0.class);
        self
    }

    /// Adds what is true now.
    #[must_use]
    pub fn facts(mut self, facts: Facts) -> Self {
        self.0.facts = Some(facts);
        self
    }

    /// The bytes that travel, with their number.
    pub fn encode(mut self, event_seq: u64) -> Vec<u8> {
        self.0.event_seq = event_seq;
        self.0.encode_to_vec()
    }
}
