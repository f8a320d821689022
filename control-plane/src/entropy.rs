//! Where randomness comes from: the one place that may ask the operating system (A7).

use std::sync::{Mutex, PoisonError};

use data_encoding::BASE64URL_NOPAD;
use rand::{
    Rng, SeedableRng, TryRng,
    rngs::{StdRng, SysRng},
};

/// A source of random bytes good enough for secrets. A parameter everywhere, so that tests repeat.
pub trait Entropy: Send + Sync + 'static {
    /// Fills the buffer with random bytes.
    fn fill(&self, buf: &mut [u8]);
}

/// What callers want instead of a buffer.
pub trait EntropyExt: Entropy {
    /// `N` random bytes, for example the ten that an id's `generate` wants.
    fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }

    /// A secret of 256 bits as text that needs no escaping in URLs, after a prefix that says what it is.
    ///
    /// ```
    /// use ez_control_plane::entropy::{EntropyExt, SeededEntropy};
    ///
    /// let token = SeededEntropy::new(7).token("ezt_");
    /// assert!(token.starts_with("ezt_") && token.len() == 4 + 43);
    /// ```
    fn token(&self, prefix: &str) -> String {
        let mut text = prefix.to_owned();
        BASE64URL_NOPAD.encode_append(&self.bytes::<32>(), &mut text);
        text
    }
}

impl<E: Entropy + ?Sized> EntropyExt for E {}

/// The operating system's randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, buf: &mut [u8]) {
        if SysRng.try_fill_bytes(buf).is_err() {
            // A machine without randomness can neither make secrets nor ids; every way to go on is worse.
            std::process::abort();
        }
    }
}

/// Repeatable bytes from a seed; for tests only.
#[derive(Debug)]
pub struct SeededEntropy(Mutex<StdRng>);

impl SeededEntropy {
    /// A source whose bytes depend on the seed alone.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, buf: &mut [u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(buf);
    }
}
