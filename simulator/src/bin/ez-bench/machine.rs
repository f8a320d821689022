//! The machine itself: what the figures are measured against, in the same run.

use std::{
    fs::File,
    io::Write as _,
    path::Path,
    sync::{Mutex, PoisonError},
};

use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::{
    process,
    report::{Report, Row},
    samples::Samples,
};

/// Appends of one sampling.
const SYNCS: usize = 300;
/// A page of SQLite's log and its header.
const APPEND: usize = 4_096 + 24;
/// What a core hashes for its measure, in MiB.
const HASHED: usize = 256;

/// What was seen of the machine while the figures were taken.
#[derive(Default)]
pub(crate) struct Machine(Mutex<Samples>);

impl Machine {
    /// Times synced appends in the directory where the databases lie; beside every figure that waits for
    /// syncs. Gives the median of these in milliseconds.
    pub(crate) fn sync_here(&self, directory: &Path) -> anyhow::Result<f64> {
        let path = directory.join("sync-probe");
        let mut file = File::create(&path)?;
        let mut samples = Samples::default();
        for _ in 0..SYNCS {
            file.write_all(&[7; APPEND])?;
            let began = Instant::now();
            file.sync_data()?;
            samples.add(began.elapsed());
        }
        drop(file);
        std::fs::remove_file(&path)?;
        let median = samples.ms(0.5);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take(samples);
        Ok(median)
    }

    /// The rows about the machine.
    pub(crate) fn rows(&self, report: &mut Report, load_before: f64) {
        let mut syncs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !syncs.is_empty() {
            let how = "write of 4,120 bytes at a file's end, then fdatasync, where the databases lie";
            report.add(Row::seen("machine_fsync_p50_ms", syncs.ms(0.5), "ms", how));
            report.add(Row::seen("machine_fsync_p99_ms", syncs.ms(0.99), "ms", how));
        }
        let how = "SHA-256 on one core";
        report.add(Row::seen("machine_core_sha256", hashing(), "MiB/s", how));
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        report.add(Row::seen("machine_cores", cores as f64, "cores", "what this process may use"));
        let how = "load average of a minute, before the first measurement";
        report.add(Row::seen("machine_load_before", load_before, "", how));
        let how = "the same after the last one: mostly the bench itself";
        report.add(Row::seen("machine_load_after", process::load(), "", how));
    }
}

/// MiB that one core hashes in a second.
fn hashing() -> f64 {
    let block = vec![7_u8; 1 << 20];
    let began = Instant::now();
    let mut hasher = Sha256::new();
    for _ in 0..HASHED {
        hasher.update(&block);
    }
    std::hint::black_box(hasher.finalize());
    HASHED as f64 / began.elapsed().as_secs_f64()
}
