//! Disk space: a reserve file that is given up to finish what was begun, and the low-water mark
//! under which nothing new is accepted.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

/// Below this many free bytes new orders are refused with `NO_SPACE`.
pub const LOW_WATER_BYTES: u64 = 64 * 1024 * 1024;

/// Size of the reserve file.
const RESERVE_BYTES: usize = 16 * 1024 * 1024;

/// The directory the journal lives in, seen as space.
#[derive(Debug, Clone)]
pub struct Space {
    dir: PathBuf,
}

impl Space {
    /// Space of `dir`.
    pub fn of(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    fn reserve(&self) -> PathBuf {
        self.dir.join("reserve")
    }

    /// Free bytes for unprivileged users.
    ///
    /// # Errors
    /// If the file system cannot be asked.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.dir).map_err(io::Error::from)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// True if new orders have to be refused. An unreadable file system counts as full.
    pub fn is_low(&self) -> bool {
        self.free_bytes().map_or(true, |free| free < LOW_WATER_BYTES)
    }

    /// True if the reserve file is there, whole.
    pub fn has_reserve(&self) -> bool {
        fs::metadata(self.reserve()).is_ok_and(|m| m.len() == RESERVE_BYTES as u64)
    }

    /// Makes the reserve file if there is room for it, really written so that its blocks are ours.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep_reserve(&self) -> io::Result<()> {
        if self.has_reserve() || self.free_bytes()? < LOW_WATER_BYTES + RESERVE_BYTES as u64 {
            return Ok(());
        }
        let mut file = fs::File::create(self.reserve())?;
        let block = vec![0x5a; 1024 * 1024];
        for _ in 0..RESERVE_BYTES / block.len() {
            file.write_all(&block)?;
        }
        file.sync_all()
    }

    /// Gives the reserve up, so that accepted orders can be finished or undone.
    pub fn release_reserve(&self) {
        if fs::remove_file(self.reserve()).is_ok() {
            tracing::warn!("the disk is full: the reserve file was given up to finish what was begun");
        }
    }
}
