//! Order and event streams: answers, progress, results.

/// The agent's answer to one delivery.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OrderAnswer {
    /// Accepted, duplicate or refused.
    #[prost(enumeration = "AnswerKind", tag = "1")]
    pub kind: i32,
    /// Refusal code such as `STALE`; empty otherwise.
    #[prost(string, tag = "2")]
    pub code: String,
    /// Name of the policy rule that refused; empty otherwise.
    #[prost(string, tag = "3")]
    pub rule: String,
    /// One sentence for people.
    #[prost(string, tag = "4")]
    pub detail: String,
    /// For a duplicate: the journal's present state of the order, such as `running`.
    #[prost(string, tag = "5")]
    pub state: String,
    /// The order, as far as the agent could read it.
    #[prost(string, tag = "6")]
    pub order_id: String,
}

/// Kinds of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum AnswerKind {
    /// Never sent.
    Unspecified = 0,
    /// Durable in the journal; it will be carried out or its failure reported.
    Accepted = 1,
    /// Already in the journal.
    Duplicate = 2,
    /// Not accepted and never will be.
    Refused = 3,
}

/// Something happened to an order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Event {
    /// Number in the agent's outbox, rising by one.
    #[prost(uint64, tag = "1")]
    pub event_seq: u64,
    /// The provisioning order.
    #[prost(string, tag = "2")]
    pub order_id: String,
    /// The instance.
    #[prost(string, tag = "3")]
    pub instance_id: String,
    /// When, by the agent's clock.
    #[prost(int64, tag = "4")]
    pub at_ms: i64,
    /// What.
    #[prost(enumeration = "EventKind", tag = "5")]
    pub kind: i32,
    /// Step name such as `clone`; empty where no step is meant.
    #[prost(string, tag = "6")]
    pub step: String,
    /// Progress of the step, 0–100, where known.
    #[prost(uint32, optional, tag = "7")]
    pub percent: Option<u32>,
    /// One sentence for people; empty if there is nothing to add.
    #[prost(string, tag = "8")]
    pub detail: String,
    /// For a failure: `retryable`, `capacity`, `policy`, `template`, `user` or `bug`.
    #[prost(string, tag = "9")]
    pub class: String,
    /// For a result: what is true now.
    #[prost(message, optional, tag = "10")]
    pub facts: Option<Facts>,
    /// The instance's generation the order carried.
    #[prost(uint64, tag = "11")]
    pub generation: u64,
    /// With the progress of a step that waits for its turn on the host: where in the queue it is.
    #[prost(message, optional, tag = "12")]
    pub queue: Option<QueuePlace>,
}

/// A place in a queue of the host.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct QueuePlace {
    /// 1 is next, behind the one whose turn it is.
    #[prost(uint32, tag = "1")]
    pub position: u32,
    /// Seconds until its turn comes, where earlier ones tell; absent while the host has no experience yet.
    #[prost(uint32, optional, tag = "2")]
    pub estimate_secs: Option<u32>,
}

/// Kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum EventKind {
    /// Never sent.
    Unspecified = 0,
    /// The order is durable in the journal.
    Accepted = 1,
    /// A step began.
    StepStarted = 2,
    /// A step goes on.
    StepProgress = 3,
    /// A step ended well.
    StepDone = 4,
    /// The order is carried out.
    Succeeded = 5,
    /// The order failed and left nothing behind that it made, or never made anything.
    Failed = 6,
    /// What the order had made is being removed.
    Undoing = 7,
    /// What the order had made is gone.
    Undone = 8,
    /// The agent cannot go on by itself; the facts are in the detail.
    Stuck = 9,
    /// A newer generation took its place before it began.
    Superseded = 10,
    /// Cancelled before it began.
    Cancelled = 11,
    /// A step failed; what follows is said by the next events.
    StepFailed = 12,
}

impl EventKind {
    /// Whether nothing more follows for the order.
    pub const fn is_final(self) -> bool {
        matches!(
            self,
            Self::Succeeded | Self::Failed | Self::Undone | Self::Stuck | Self::Superseded | Self::Cancelled
        )
    }
}

/// What is true about an instance after an order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Facts {
    /// Proxmox's number.
    #[prost(uint32, tag = "1")]
    pub vmid: u32,
    /// Power state: `running`, `stopped`, `paused` or `absent`.
    #[prost(string, tag = "2")]
    pub power: String,
    /// Addresses the guest was given, without prefix length.
    #[prost(string, repeated, tag = "3")]
    pub addresses: Vec<String>,
    /// Whether the guest agent or the console answered: usable. Else "started, not confirmed".
    #[prost(bool, tag = "4")]
    pub confirmed: bool,
    /// Host key fingerprints, where the first-boot console showed them.
    #[prost(string, repeated, tag = "5")]
    pub host_keys: Vec<String>,
    /// After an order about snapshots: all there are.
    #[prost(message, optional, tag = "6")]
    pub snapshots: Option<Snapshots>,
    /// After an order about backups: all there are.
    #[prost(message, optional, tag = "7")]
    pub backups: Option<Backups>,
    /// After a new password: `now` or `next_boot`; empty otherwise.
    #[prost(string, tag = "8")]
    pub password: String,
    /// Whether something that was changed takes effect only with the next cold start.
    #[prost(bool, tag = "9")]
    pub restart_needed: bool,
    /// Whether the server is there and has no disk to boot from: nothing but another disk helps.
    #[prost(bool, tag = "10")]
    pub disk_missing: bool,
}

/// A list that may be empty and still says something.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Snapshots {
    /// Oldest first.
    #[prost(message, repeated, tag = "1")]
    pub list: Vec<SnapshotFact>,
}

/// One snapshot.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SnapshotFact {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// When it was taken, by the host's clock.
    #[prost(int64, tag = "2")]
    pub taken_at_ms: i64,
}

/// A list that may be empty and still says something.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Backups {
    /// Newest first.
    #[prost(message, repeated, tag = "1")]
    pub list: Vec<BackupFact>,
}

/// One backup.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BackupFact {
    /// The provisioning order that made it.
    #[prost(string, tag = "1")]
    pub order_id: String,
    /// When it was begun, by the host's clock.
    #[prost(int64, tag = "2")]
    pub made_at_ms: i64,
    /// Bytes it takes.
    #[prost(uint64, tag = "3")]
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    /// An event as a peer of the version before knows it: without `queue`.
    #[derive(Clone, PartialEq, prost::Message)]
    struct Before {
        #[prost(uint64, tag = "1")]
        event_seq: u64,
        #[prost(string, tag = "6")]
        step: String,
        #[prost(uint64, tag = "11")]
        generation: u64,
    }

    #[test]
    fn a_peer_of_the_version_before_reads_past_a_place_in_the_queue_and_its_events_have_none() {
        let queue = Some(QueuePlace { position: 3, estimate_secs: Some(40) });
        let event =
            Event { event_seq: 7, step: "clone".to_owned(), generation: 2, queue, ..Event::default() };
        let bytes = event.encode_to_vec();
        let before = Before { event_seq: 7, step: "clone".to_owned(), generation: 2 };
        assert_eq!(Before::decode(bytes.as_slice()), Ok(before.clone()));
        assert_eq!(Event::decode(bytes.as_slice()), Ok(event));
        let old = Event::decode(before.encode_to_vec().as_slice());
        assert_eq!(old.map(|event| event.queue), Ok(None));
        // The bytes of the field itself: number 12, a message of two numbers.
        assert!(bytes.ends_with(&[0x62, 0x04, 0x08, 0x03, 0x10, 0x28]), "{bytes:x?}");
    }
}
