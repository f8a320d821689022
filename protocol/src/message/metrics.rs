//! Metrics streams: what servers and their host use, and how much traffic there was.
//!
//! A batch may come twice, late, or in another order than it was made: samples are named by their minute, traffic is
//! told as totals of a month. Storing it again changes nothing, and a batch that is lost loses no traffic.

use std::collections::BTreeSet;

use crate::{InstanceId, Month};

/// Most samples of one batch, servers and host together: with all its names and the largest numbers it still fits a frame.
pub const MOST_SAMPLES: usize = 2_000;
/// Most traffic totals of one batch.
pub const MOST_TOTALS: usize = 400;
/// Hexadecimal digits of a series.
pub const SERIES_LENGTH: usize = 32;

/// Samples and totals of one node.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MetricsBatch {
    /// Random per traffic book of an agent, 32 hexadecimal digits. An agent that was installed again begins a new one;
    /// totals of different series add up.
    #[prost(string, tag = "1")]
    pub series: String,
    /// Named in the acknowledgement; rises within a run of the agent.
    #[prost(uint64, tag = "2")]
    pub batch: u64,
    /// Samples of servers, one entry for each server.
    #[prost(message, repeated, tag = "3")]
    pub instances: Vec<InstanceSamples>,
    /// Samples of the host; they have no rates.
    #[prost(message, repeated, tag = "4")]
    pub host: Vec<Sample>,
    /// Traffic of servers by month.
    #[prost(message, repeated, tag = "5")]
    pub traffic: Vec<TrafficTotal>,
    /// Samples of this series that were lost because nobody took them in time.
    #[prost(uint64, tag = "6")]
    pub dropped: u64,
}

/// Samples of one server.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InstanceSamples {
    /// The server.
    #[prost(string, tag = "1")]
    pub instance_id: String,
    /// One for each minute.
    #[prost(message, repeated, tag = "2")]
    pub samples: Vec<Sample>,
}

/// One look.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Sample {
    /// When: minutes since 1970, UTC.
    #[prost(uint32, tag = "1")]
    pub minute: u32,
    /// CPU in use, per mille of all it has.
    #[prost(uint32, tag = "2")]
    pub cpu_permille: u32,
    /// Memory in use, KiB.
    #[prost(uint64, tag = "3")]
    pub memory_kib: u64,
    /// Received, bytes per second since the look before.
    #[prost(uint64, tag = "4")]
    pub net_in: u64,
    /// Sent, bytes per second.
    #[prost(uint64, tag = "5")]
    pub net_out: u64,
    /// Read from disks, bytes per second.
    #[prost(uint64, tag = "6")]
    pub disk_read: u64,
    /// Written to disks, bytes per second.
    #[prost(uint64, tag = "7")]
    pub disk_write: u64,
}

/// What a server has sent and received in a month, as one series counted it. It only grows.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TrafficTotal {
    /// The server.
    #[prost(string, tag = "1")]
    pub instance_id: String,
    /// Year × 100 + month, UTC.
    #[prost(uint32, tag = "2")]
    pub month: u32,
    /// Received, bytes.
    #[prost(uint64, tag = "3")]
    pub bytes_in: u64,
    /// Sent, bytes.
    #[prost(uint64, tag = "4")]
    pub bytes_out: u64,
}

/// A batch is stored, or known to be worth nothing: the agent may forget it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MetricsAck {
    /// The batch.
    #[prost(uint64, tag = "1")]
    pub batch: u64,
    /// Send nothing old before so many milliseconds have passed; what is new may come.
    #[prost(uint64, tag = "2")]
    pub pause_ms: u64,
}

/// Why a batch is not taken at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetricsError {
    /// The bytes are no batch.
    #[error("the bytes are no batch of samples")]
    Malformed,
    /// More than one batch may hold.
    #[error("more samples or totals than one batch may hold")]
    TooMany,
    /// The series is not 32 hexadecimal digits.
    #[error("the series is not 32 hexadecimal digits")]
    Series,
    /// A server's name is not one, or is there twice.
    #[error("a server is named wrongly or twice")]
    Instance,
    /// A number that no sample can have.
    #[error("a sample says what cannot be")]
    Sample,
    /// A month that is none.
    #[error("a total is of no month")]
    Month,
}

impl MetricsBatch {
    /// Reads a frame's body and checks everything that can be checked without knowing the node.
    ///
    /// # Errors
    /// What is wrong with it, typed; a batch is taken whole or not at all.
    pub fn from_bytes(body: &[u8]) -> Result<Self, MetricsError> {
        let batch = <Self as prost::Message>::decode(body).map_err(|_| MetricsError::Malformed)?;
        batch.check()?;
        Ok(batch)
    }

    /// How many samples it holds.
    pub fn samples(&self) -> usize {
        self.instances.iter().map(|one| one.samples.len()).sum::<usize>() + self.host.len()
    }

    fn check(&self) -> Result<(), MetricsError> {
        let digits = self.series.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if self.series.len() != SERIES_LENGTH || !digits {
            return Err(MetricsError::Series);
        }
        if self.samples() > MOST_SAMPLES
            || self.instances.len() > MOST_SAMPLES
            || self.traffic.len() > MOST_TOTALS
        {
            return Err(MetricsError::TooMany);
        }
        let mut named = BTreeSet::new();
        for one in &self.instances {
            if !named.insert(id(&one.instance_id)?) {
                return Err(MetricsError::Instance);
            }
        }
        let samples = self.instances.iter().flat_map(|one| &one.samples).chain(&self.host);
        if samples.into_iter().any(|sample| sample.minute == 0 || sample.cpu_permille > 1_000) {
            return Err(MetricsError::Sample);
        }
        for total in &self.traffic {
            id(&total.instance_id)?;
            Month::from_number(total.month).ok_or(MetricsError::Month)?;
        }
        Ok(())
    }
}

fn id(text: &str) -> Result<InstanceId, MetricsError> {
    text.parse().map_err(|_| MetricsError::Instance)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::frame::{Frame, FrameType, StreamKind};

    const SERVER: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

    fn sample(minute: u32) -> Sample {
        Sample {
            minute,
            cpu_permille: 125,
            memory_kib: 1_048_576,
            net_in: 1_000,
            net_out: 300,
            disk_read: 0,
            disk_write: 4_096,
        }
    }

    fn batch() -> MetricsBatch {
        let total =
            TrafficTotal { instance_id: SERVER.into(), month: 202_611, bytes_in: 7_000, bytes_out: 300 };
        MetricsBatch {
            series: "0123456789abcdef".repeat(2),
            batch: 9,
            instances: vec![InstanceSamples {
                instance_id: SERVER.into(),
                samples: vec![sample(29_924_449)],
            }],
            host: vec![Sample { minute: 29_924_449, cpu_permille: 40, memory_kib: 8, ..Sample::default() }],
            traffic: vec![total],
            dropped: 3,
        }
    }

    #[test]
    fn a_batch_looks_on_the_wire_as_it_always_did() {
        let bytes = batch().encode_to_vec();
        let golden = include_str!("../../golden/metrics.hex").trim();
        assert_eq!(data_encoding::HEXLOWER.encode(&bytes), golden);
        let read = data_encoding::HEXLOWER.decode(golden.as_bytes()).unwrap();
        assert_eq!(MetricsBatch::from_bytes(&read), Ok(batch()));
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_reason() {
        let refused = |change: &dyn Fn(&mut MetricsBatch)| {
            let mut changed = batch();
            change(&mut changed);
            MetricsBatch::from_bytes(&changed.encode_to_vec()).unwrap_err()
        };
        assert_eq!(MetricsBatch::from_bytes(&[0xff; 9]), Err(MetricsError::Malformed));
        assert_eq!(refused(&|b| b.series = "x".repeat(32)), MetricsError::Series);
        assert_eq!(refused(&|b| b.series.clear()), MetricsError::Series);
        assert_eq!(refused(&|b| b.instances[0].instance_id = "web-1".into()), MetricsError::Instance);
        assert_eq!(refused(&|b| b.instances.push(b.instances[0].clone())), MetricsError::Instance);
        assert_eq!(refused(&|b| b.instances[0].samples[0].cpu_permille = 1_001), MetricsError::Sample);
        assert_eq!(refused(&|b| b.host[0].minute = 0), MetricsError::Sample);
        assert_eq!(refused(&|b| b.traffic[0].month = 202_613), MetricsError::Month);
        assert_eq!(refused(&|b| b.traffic[0].instance_id.clear()), MetricsError::Instance);
        assert_eq!(refused(&|b| b.host = vec![sample(1); MOST_SAMPLES]), MetricsError::TooMany);
        assert_eq!(
            refused(&|b| b.traffic = vec![b.traffic[0].clone(); MOST_TOTALS + 1]),
            MetricsError::TooMany
        );
    }

    #[test]
    fn the_largest_batch_fits_its_frame() {
        let huge = Sample {
            minute: u32::MAX,
            cpu_permille: 1_000,
            memory_kib: u64::MAX,
            net_in: u64::MAX,
            net_out: u64::MAX,
            disk_read: u64::MAX,
            disk_write: u64::MAX,
        };
        let total = TrafficTotal {
            instance_id: SERVER.into(),
            month: 999_912,
            bytes_in: u64::MAX,
            bytes_out: u64::MAX,
        };
        let each = InstanceSamples { instance_id: SERVER.into(), samples: vec![huge] };
        let largest = MetricsBatch {
            instances: vec![each; MOST_SAMPLES],
            traffic: vec![total; MOST_TOTALS],
            batch: u64::MAX,
            dropped: u64::MAX,
            ..batch()
        };
        let encoded = Frame::new(FrameType::Metrics, &largest).encode(StreamKind::Metrics);
        assert!(encoded.is_ok(), "{} bytes", largest.encoded_len());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_batch_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(batch) = MetricsBatch::from_bytes(&bytes) {
                prop_assert_eq!(MetricsBatch::from_bytes(&batch.encode_to_vec()), Ok(batch));
            }
        }

        #[test]
        fn samples_survive_the_wire(
            minutes in proptest::collection::vec(1_u32.., 0..40),
            numbers in any::<[u64; 5]>(),
            cpu in 0_u32..=1_000,
        ) {
            let [memory_kib, net_in, net_out, disk_read, disk_write] = numbers;
            let samples = minutes.into_iter().map(|minute| Sample {
                minute, cpu_permille: cpu, memory_kib, net_in, net_out, disk_read, disk_write,
            });
            let mut sent = batch();
            sent.instances[0].samples = samples.collect();
            prop_assert_eq!(MetricsBatch::from_bytes(&sent.encode_to_vec()), Ok(sent));
        }
    }
}
