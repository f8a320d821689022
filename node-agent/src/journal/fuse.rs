//! A crash to order: the journal fails for good at its n-th write, before or after the commit.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use super::JournalError;

/// Where in the n-th write the crash is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Nothing of it is durable.
    BeforeCommit,
    /// It is durable and nobody heard of it.
    AfterCommit,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Fuse(Arc<Mutex<Option<(u32, Cut)>>>, Arc<Mutex<Option<PathBuf>>>);

impl Fuse {
    /// The `n`-th write from now on (1 is the next) is the last.
    pub(crate) fn set(&self, n: u32, cut: Cut) {
        *self.0.lock().unwrap() = Some((n, cut));
    }

    /// A full disk: nothing can be written for as long as this file holds its blocks.
    pub(crate) fn full_while(&self, there: &Path) {
        *self.1.lock().unwrap() = Some(there.to_owned());
    }

    /// There is room again.
    pub(crate) fn mend(&self) {
        *self.0.lock().unwrap() = None;
    }

    /// True once the crash has happened.
    pub(crate) fn blown(&self) -> bool {
        matches!(*self.0.lock().unwrap(), Some((0, _)))
    }

    pub(super) fn before(&self) -> Result<(), JournalError> {
        if self.1.lock().unwrap().as_ref().is_some_and(|file| file.exists()) {
            return Err(JournalError::Unknown);
        }
        let mut fuse = self.0.lock().unwrap();
        match fuse.as_mut() {
            Some((0, _)) => Err(JournalError::Closed),
            Some((left @ 1, Cut::BeforeCommit)) => {
                *left = 0;
                Err(JournalError::Unknown)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn after(&self) -> Result<(), JournalError> {
        let mut fuse = self.0.lock().unwrap();
        match fuse.as_mut() {
            Some((0, _)) => Err(JournalError::Closed),
            Some((left, cut)) => {
                *left -= 1;
                if *left == 0 && *cut == Cut::AfterCommit { Err(JournalError::Unknown) } else { Ok(()) }
            }
            None => Ok(()),
        }
    }
}
