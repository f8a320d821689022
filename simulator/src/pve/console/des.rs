//! DES as VNC authentication uses it: the password's bytes, each with its bits reversed, are the key.

use des::{
    Des,
    cipher::{Array, BlockCipherEncrypt as _, KeyInit as _},
};

/// What a client that knows the password answers to a challenge.
pub(crate) fn answer(challenge: &[u8; 16], password: &str) -> [u8; 16] {
    let mut key = [0; 8];
    for (place, byte) in key.iter_mut().zip(password.bytes()) {
        *place = byte.reverse_bits();
    }
    let cipher = Des::new(&Array::from(key));
    let mut out = *challenge;
    for half in out.chunks_exact_mut(8) {
        let mut block = Array::default();
        block.copy_from_slice(half);
        cipher.encrypt_block(&mut block);
        half.copy_from_slice(&block);
    }
    out
}
