//! Randomness as a parameter. [`SystemEntropy`] asks the operating system; tests pass a
//! [`SeededEntropy`].

use std::sync::Mutex;

use rand::{Rng, SeedableRng, rngs::StdRng};

/// Where random bytes come from.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `buf` with random bytes.
    fn fill(&self, buf: &mut [u8]);

    /// A number in `0..=max`, for jitter (the small bias of the remainder does not matter there).
    fn up_to(&self, max: u64) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        match max.checked_add(1) {
            Some(n) => u64::from_le_bytes(bytes) % n,
            None => u64::from_le_bytes(bytes),
        }
    }
}

/// `N` random bytes.
pub fn bytes<const N: usize>(entropy: &dyn Entropy) -> [u8; N] {
    let mut out = [0; N];
    entropy.fill(&mut out);
    out
}

/// The operating system's generator.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[expect(clippy::disallowed_methods, reason = "the one implementation of Entropy that asks the machine")]
    fn fill(&self, buf: &mut [u8]) {
        rand::rng().fill_bytes(buf);
    }
}

/// A generator that repeats itself for the same seed.
#[derive(Debug)]
pub struct SeededEntropy(Mutex<StdRng>);

impl SeededEntropy {
    /// A generator for `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, buf: &mut [u8]) {
        let mut rng = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        rng.fill_bytes(buf);
    }
}
