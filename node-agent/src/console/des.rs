//! The answer to a VNC server's challenge: DES, with each byte of the password read backwards bit by bit
//! (RFC 6143, section 7.2.2, and every implementation since). As a cipher it protects nothing, which is why
//! it is spoken on the loopback only.

use des::{
    Des,
    cipher::{Array, BlockCipherEncrypt as _, KeyInit as _},
};

/// Encrypts the challenge with the password's first eight bytes.
pub(super) fn answer(challenge: [u8; 16], password: &[u8]) -> [u8; 16] {
    let mut key = [0; 8];
    for (place, byte) in key.iter_mut().zip(password) {
        *place = byte.reverse_bits();
    }
    let cipher = Des::new(&Array::from(key));
    let mut out = challenge;
    for half in out.chunks_exact_mut(8) {
        let mut block = Array::default();
        block.copy_from_slice(half);
        cipher.encrypt_block(&mut block);
        half.copy_from_slice(&block);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// DES of a known block under a known key, with the key's bits turned as VNC does.
    #[test]
    fn the_answer_is_what_any_vnc_server_expects() {
        // Key 133457799BBCDFF1 turns 0123456789ABCDEF into 85E813540F0AB405.
        let key = [0x13, 0x34, 0x57, 0x79, 0x9b, 0xbc, 0xdf, 0xf1_u8].map(u8::reverse_bits);
        let plain = [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef];
        let mut challenge = [0; 16];
        challenge[..8].copy_from_slice(&plain);
        challenge[8..].copy_from_slice(&plain);
        let answered = answer(challenge, &key);
        let expected = [0x85, 0xe8, 0x13, 0x54, 0x0f, 0x0a, 0xb4, 0x05];
        assert_eq!(answered[..8], expected);
        assert_eq!(answered[8..], expected);
    }

    #[test]
    fn only_the_first_eight_bytes_count_and_short_ones_are_filled_up() {
        let challenge = [7; 16];
        assert_eq!(answer(challenge, b"password"), answer(challenge, b"password and more"));
        assert_ne!(answer(challenge, b"pass"), answer(challenge, b"password"));
    }
}
