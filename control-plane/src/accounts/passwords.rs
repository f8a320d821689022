//! Password hashing: argon2id, a few at a time.
//!
//! Each hash takes 46 MiB and some ten milliseconds of a core, so a flood of log-ins is a flood of memory. At
//! most as many run at once as there are permits, and only so many may wait; the rest is told to come back.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use tokio::sync::Semaphore;

use super::AccountsError;

/// Memory per hash in KiB.
const MEMORY_KIB: u32 = 47_104;
/// Hashes at once.
const AT_ONCE: usize = 2;
/// Waiting for their turn.
const MAX_WAITING: usize = 64;

/// Hashes and checks passwords off the async threads; cheap to clone.
#[derive(Clone, Debug)]
pub struct Passwords {
    permits: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
}

impl Default for Passwords {
    fn default() -> Self {
        Self { permits: Arc::new(Semaphore::new(AT_ONCE)), waiting: Arc::default() }
    }
}

/// Counts somebody as waiting for as long as it lives.
struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Passwords {
    /// The PHC form of a password.
    ///
    /// # Errors
    /// [`AccountsError::Busy`] if too many wait.
    pub async fn hash(&self, password: &str, salt: [u8; 16]) -> Result<String, AccountsError> {
        let password = password.to_owned();
        self.run(move || {
            hasher()?.hash_password_with_salt(password.as_bytes(), &salt).ok().map(|h| h.to_string())
        })
        .await?
        .ok_or(AccountsError::Busy)
    }

    /// Whether the password belongs to the hash. Without a hash it takes as long and says no.
    ///
    /// # Errors
    /// [`AccountsError::Busy`] if too many wait.
    pub async fn verify(&self, password: &str, hash: Option<String>) -> Result<bool, AccountsError> {
        let password = password.to_owned();
        self.run(move || {
            let Some(argon2) = hasher() else { return false };
            match hash.as_deref().map(PasswordHash::new) {
                Some(Ok(hash)) => argon2.verify_password(password.as_bytes(), &hash).is_ok(),
                _ => {
                    let spent = argon2.hash_password_with_salt(password.as_bytes(), b"nobody's own salt");
                    drop(spent);
                    false
                }
            }
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, AccountsError> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING + AT_ONCE {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(AccountsError::Busy);
        }
        let waiting = Waiting(self.waiting.clone());
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| AccountsError::Busy)?;
        let done = tokio::task::spawn_blocking(move || {
            let _held = (permit, waiting);
            work()
        });
        done.await.map_err(|_| AccountsError::Busy)
    }
}

/// argon2id with one pass over [`MEMORY_KIB`].
fn hasher() -> Option<Argon2<'static>> {
    let params = Params::new(MEMORY_KIB, 1, 1, None).ok()?;
    Some(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}
