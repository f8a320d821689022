//! What must hold whatever bytes come: one function for each target, each ends quietly or panics.
//!
//! `make fuzz` drives them with libFuzzer on the stable toolchain (`packaging/fuzz` says how); an
//! ordinary test run drives them with the seeds below `seeds/`, to which every finding is added.

mod cloud_init;

use std::path::Path;

use ez_node_agent::policy as host_policy;
use ez_protocol::{
    UnixMillis,
    console::ConsoleGrant,
    envelope::{Envelope, PayloadType},
    frame::{Decoder, StreamKind},
    image::ImageOrder,
    message::MetricsBatch,
    order::ProvisioningOrder,
};

pub use cloud_init::cloud_init;

/// Any bytes, cut in any way, give frames within the cap or a typed error.
pub fn frame(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let Some(kind) = StreamKind::from_byte(first % 8) else { return };
    let mut decoder = Decoder::new(kind);
    let piece = usize::from(*first) + 1;
    for part in rest.chunks(piece) {
        decoder.push(part);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => {
                    assert!(frame.body.len() <= kind.frame_cap());
                    // Samples are read by us from whoever is a node; a refusal is as good as a batch.
                    if let (StreamKind::Metrics, Ok(batch)) = (kind, MetricsBatch::from_bytes(&frame.body)) {
                        assert!(batch.samples() <= ez_protocol::message::MOST_SAMPLES);
                    }
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    let _ = decoder.finish();
}

/// Any bytes decode to an envelope or a typed error; whatever decodes survives its own encoding, and no
/// bytes are believed without a key.
pub fn envelope(data: &[u8]) {
    if let Ok(envelope) = Envelope::decode(data) {
        assert_eq!(Envelope::decode(&envelope.encode()).as_ref(), Ok(&envelope));
        assert!(envelope.verify(PayloadType::Order, &[], UnixMillis(0)).is_err());
    }
}

/// Any bytes are a provisioning order, an image order, a console grant or a typed error, never two of them;
/// what is read can be written and reads the same.
pub fn order(data: &[u8]) {
    if let Ok(grant) = ConsoleGrant::from_bytes(data) {
        let another = ProvisioningOrder::from_bytes(data).is_ok() || ImageOrder::from_bytes(data).is_ok();
        assert!(!another, "two readings of the same bytes");
        let bytes = grant.to_bytes();
        assert!(bytes.is_ok(), "what was read cannot be written: {bytes:?}");
        assert_eq!(ConsoleGrant::from_bytes(&bytes.unwrap_or_default()), Ok(grant));
    }
    if let Ok(order) = ImageOrder::from_bytes(data) {
        assert!(ProvisioningOrder::from_bytes(data).is_err(), "two readings of the same bytes");
        let bytes = order.to_bytes();
        assert!(bytes.is_ok(), "what was read cannot be written: {bytes:?}");
        assert_eq!(ImageOrder::from_bytes(&bytes.unwrap_or_default()), Ok(order));
    }
    if let Ok(order) = ProvisioningOrder::from_bytes(data) {
        let bytes = order.to_bytes();
        assert!(bytes.is_ok(), "what was read cannot be written: {bytes:?}");
        assert_eq!(ProvisioningOrder::from_bytes(&bytes.unwrap_or_default()), Ok(order));
    }
}

/// Any text is a policy or a list of problems, each with its place; a policy never allows what no
/// policy may allow.
pub fn policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match host_policy::parse(Path::new("policy.toml"), text) {
        Ok(policy) => {
            assert!(*policy.vmids.start() >= 100 && policy.vmids.start() <= policy.vmids.end());
            assert!(policy.destroy.purge_after_hours >= host_policy::MIN_PURGE_HOURS);
            assert!(policy.destroy.purge_percent_per_day <= 100);
            assert!(!policy.storages.is_empty() && !policy.bridges.is_empty());
        }
        Err(error) => assert!(error.to_string().contains("policy.toml"), "{error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn each_seed(target: &str, check: fn(&[u8])) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
        let seeds: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!seeds.is_empty(), "{} is empty", dir.display());
        for seed in seeds {
            check(&fs::read(seed).unwrap());
        }
    }

    #[test]
    fn what_must_hold_holds_for_every_seed() {
        each_seed("frame", frame);
        each_seed("envelope", envelope);
        each_seed("order", order);
        each_seed("policy", policy);
        each_seed("cloud_init", cloud_init);
    }
}
