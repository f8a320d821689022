//! Disk space: a reserve file that is given up to finish what was begun, and the low-water mark
//! under which nothing new is accepted.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use super::JournalError;

/// Below this many free bytes new orders are refused with `NO_SPACE`.
pub const LOW_WATER_BYTES: u64 = 64 * 1024 * 1024;

/// Size of the reserve file.
const RESERVE_BYTES: usize = 16 * 1024 * 1024;

/// The directory the journal lives in, seen as space.
#[derive(Debug, Clone)]
pub struct Space {
    dir: PathBuf,
    /// The tests' full disk.
    #[cfg(test)]
    full: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl Space {
    /// Space of `dir`.
    pub fn of(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            #[cfg(test)]
            full: std::sync::Arc::default(),
        }
    }

    /// From now on the disk counts as full.
    #[cfg(test)]
    pub(crate) fn fill(&self) {
        self.full.store(true, std::sync::atomic::Ordering::Relaxed);
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
        #[cfg(test)]
        if self.full.load(std::sync::atomic::Ordering::Relaxed) {
            return true;
        }
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

    /// Gives the reserve up, so that accepted orders can be finished or undone, and that this can be said. True if
    /// there was one.
    pub fn release_reserve(&self) -> bool {
        let given = fs::remove_file(self.reserve()).is_ok();
        if given {
            tracing::warn!("the disk is full: the reserve file was given up to finish what was begun");
        }
        given
    }

    /// Writes; where that fails and there is no room left, gives the reserve up and writes once more. An agent that
    /// cannot write its journal can neither start nor be welcomed, and so not even tell that its disk is full.
    ///
    /// # Errors
    /// What the write answers, the second one where there was one.
    pub async fn or_with_reserve<T, F>(&self, write: impl Fn() -> F) -> Result<T, JournalError>
    where
        F: Future<Output = Result<T, JournalError>>,
    {
        match write().await {
            Err(error) if error.is_fatal() && self.is_low() && self.release_reserve() => {
                tracing::warn!(%error, "the journal could not be written; it is tried once more without the reserve");
                write().await
            }
            first => first,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A write as a full disk lets it: it fails for as long as the reserve holds its blocks.
    async fn write(space: &Space, tries: &Cell<u32>) -> Result<(), JournalError> {
        tries.set(tries.get() + 1);
        if space.reserve().exists() { Err(JournalError::Unknown) } else { Ok(()) }
    }

    #[tokio::test]
    async fn what_a_full_disk_keeps_from_being_written_is_written_once_the_reserve_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let space = Space::of(dir.path());
        fs::write(space.reserve(), b"z").unwrap();
        let tries = Cell::new(0);
        space.or_with_reserve(|| write(&space, &tries)).await.unwrap_err();
        assert!(space.reserve().exists(), "there is room: something else is wrong, and the reserve is kept");

        space.fill();
        tries.set(0);
        space.or_with_reserve(|| write(&space, &tries)).await.unwrap();
        assert_eq!(tries.get(), 2);
        assert!(!space.reserve().exists());

        // With nothing left to give up it is not tried for ever, and a damaged file is not a matter of room.
        tries.set(0);
        let still_full = || {
            tries.set(tries.get() + 1);
            std::future::ready(Err::<(), _>(JournalError::Unknown))
        };
        space.or_with_reserve(still_full).await.unwrap_err();
        assert_eq!(tries.get(), 1);
        fs::write(space.reserve(), b"z").unwrap();
        let damaged = || std::future::ready(Err::<(), _>(JournalError::Corrupt("x".to_owned())));
        space.or_with_reserve(damaged).await.unwrap_err();
        assert!(space.reserve().exists());
    }
}
