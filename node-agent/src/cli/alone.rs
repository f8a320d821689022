//! One process per state directory: two would carry out the same orders, each without knowing of the other.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use anyhow::Context as _;

/// That this process alone runs from a state directory; let go with the value, or when the process dies.
#[derive(Debug)]
pub(super) struct Alone(#[expect(dead_code, reason = "held for its lock")] File);

/// Another process holds the lock.
#[derive(Debug, thiserror::Error)]
#[error(
    "another ez-node-agent (process {holder}) runs from this state directory: it holds {lock}. Nothing was started; stop \
     the other one first, or give each its own state_dir and its own join token"
)]
struct Held {
    holder: String,
    lock: String,
}

/// Whether an error of [`alone`] says that another process holds the lock.
pub(super) fn is_held(error: &anyhow::Error) -> bool {
    error.is::<Held>()
}

/// Whether an agent runs from the state directory of this lock. What may not be looked at says no.
pub(super) fn runs(lock: &Path) -> bool {
    // Shared, so that two that look do not see each other.
    File::open(lock).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// Takes the lock of a state directory.
///
/// # Errors
/// Another process holds it; the error names the file and that process's number.
pub(super) fn alone(lock: &Path) -> anyhow::Result<Alone> {
    let options =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(lock);
    let mut file = options.with_context(|| format!("the lock {}", lock.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _unknown_then = file.read_to_string(&mut holder);
            let holder = holder.trim();
            let holder = if holder.is_empty() { "unknown" } else { holder };
            return Err(Held { holder: holder.to_owned(), lock: lock.display().to_string() }.into());
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("locking {}", lock.display()));
        }
    }
    // Only for the message above, so not worth failing for on a full disk.
    let note = || -> io::Result<()> {
        let mut file = &file;
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    let _unnamed_then = note();
    Ok(Alone(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_has_one_agent_and_its_copy_another() {
        let dir = tempfile::tempdir().unwrap();
        let lock = dir.path().join("run.lock");
        assert!(!runs(&lock), "there is no lock yet");
        let held = alone(&lock).unwrap();
        assert!(runs(&lock) && runs(&lock));
        let refused = alone(&lock).unwrap_err();
        assert!(is_held(&refused));
        let refused = refused.to_string();
        assert!(
            refused.contains("run.lock") && refused.contains(&std::process::id().to_string()),
            "{refused}"
        );
        // A copied directory is not locked by this; the control plane finds out about it.
        let copy = dir.path().join("copy.lock");
        std::fs::copy(&lock, &copy).unwrap();
        assert!(alone(&copy).is_ok());
        drop(held);
        assert!(!runs(&lock));
        assert!(alone(&lock).is_ok(), "free again");
    }
}
