//! Identifiers in Stripe's manner (`cus_` + letters and digits), drawn from a seed and a counter.
//!
//! The seed is made once per state directory and the counter is stored, so that no id comes twice,
//! whatever is killed in between, and no randomness is asked for.

use sha2::{Digest, Sha256};

const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// `prefix` followed by `len` letters and digits that depend on the seed and the number alone.
pub(crate) fn make(seed: &str, number: u64, prefix: &str, len: usize) -> String {
    let mut id = String::from(prefix);
    let mut block = 0_u32;
    while id.len() < prefix.len() + len {
        let digest = Sha256::new()
            .chain_update(seed)
            .chain_update(number.to_be_bytes())
            .chain_update(block.to_be_bytes())
            .finalize();
        for byte in digest {
            if id.len() < prefix.len() + len {
                id.push(char::from(LETTERS[usize::from(byte) % LETTERS.len()]));
            }
        }
        block += 1;
    }
    id
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::make;

    #[test]
    fn numbers_give_different_ids_of_the_asked_length() {
        let ids: HashSet<String> = (0..2_000).map(|number| make("seed", number, "cs_test_", 58)).collect();
        assert_eq!(ids.len(), 2_000);
        assert!(ids.iter().all(|id| id.len() == 66 && id.starts_with("cs_test_")));
        assert_eq!(make("seed", 7, "cus_", 14), make("seed", 7, "cus_", 14));
    }
}
