//! Any bytes, cut in any way, give frames within the cap or a typed error.
#![no_main]

use ez_protocol::frame::{Decoder, StreamKind};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else { return };
    let Some(kind) = StreamKind::from_byte(first % 8) else { return };
    let mut decoder = Decoder::new(kind);
    let piece = usize::from(*first) + 1;
    for part in rest.chunks(piece) {
        decoder.push(part);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => assert!(frame.body.len() <= kind.frame_cap()),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    let _ = decoder.finish();
});
