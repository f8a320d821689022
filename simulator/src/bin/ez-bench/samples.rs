//! Times that were taken, and what they come to.

use std::time::Duration;

/// Times in microseconds.
#[derive(Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// Takes one in.
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64() * 1e6);
    }

    /// Takes one in that is known in milliseconds.
    pub(crate) fn add_ms(&mut self, ms: f64) {
        self.0.push(ms * 1e3);
    }

    /// Takes others in.
    pub(crate) fn take(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The smallest that at least this share (0 to 1) does not exceed, in milliseconds; 0 of none.
    pub(crate) fn ms(&mut self, share: f64) -> f64 {
        self.0.sort_by(f64::total_cmp);
        let rank = (share * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or(0.0) / 1e3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_what_was_taken() {
        let mut samples = Samples::default();
        for ms in (1..=200).rev() {
            samples.add_ms(f64::from(ms));
        }
        assert_eq!((samples.ms(0.5), samples.ms(0.99), samples.ms(1.0)), (100.0, 198.0, 200.0));
        assert_eq!(Samples::default().ms(0.5), 0.0);
        let mut one = Samples::default();
        one.add(Duration::from_millis(3));
        assert_eq!((one.ms(0.01), one.ms(0.99), one.len()), (3.0, 3.0, 1));
    }
}
