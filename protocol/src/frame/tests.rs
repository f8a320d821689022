//! Properties of the frame decoder.

use proptest::prelude::*;

use super::*;

const KINDS: [StreamKind; 7] = [
    StreamKind::Control,
    StreamKind::Order,
    StreamKind::Events,
    StreamKind::State,
    StreamKind::Metrics,
    StreamKind::Console,
    StreamKind::Logs,
];

#[test]
fn every_stream_kind_is_its_own_byte() {
    for kind in KINDS {
        assert_eq!(StreamKind::from_byte(kind.byte()), Some(kind));
    }
    assert_eq!(StreamKind::from_byte(0), None);
    assert_eq!(StreamKind::from_byte(8), None);
}

#[test]
fn a_length_over_the_cap_is_refused_by_the_header_alone() {
    for kind in KINDS {
        let len = u32::try_from(kind.frame_cap() + 1).unwrap();
        let mut decoder = Decoder::new(kind);
        decoder.push(&len.to_be_bytes());
        assert_eq!(decoder.next_frame(), Ok(None));
        decoder.push(&[0, 1]);
        let refused = decoder.next_frame().unwrap_err();
        assert_eq!(refused.close_code(), CloseCode::FrameTooLarge);
        assert!(decoder.buffer.capacity() < 64, "nothing was allocated for the body");
    }
}

#[test]
fn a_stream_that_ends_inside_a_frame_is_truncated() {
    let bytes = Frame::raw(FrameType::Ping, vec![1, 2, 3]).encode(StreamKind::Control).unwrap();
    for cut in 1..bytes.len() {
        let mut decoder = Decoder::new(StreamKind::Control);
        decoder.push(&bytes[..cut]);
        assert_eq!(decoder.next_frame(), Ok(None));
        assert_eq!(decoder.finish(), Err(FrameError::Truncated));
    }
}

#[test]
fn close_codes_survive_the_wire_and_zero_is_none_of_them() {
    assert_eq!(CloseCode::from_code(0), None);
    for code in 1..=16 {
        assert_eq!(CloseCode::from_code(code).map(|c| u64::from(c.code())), Some(code));
    }
}

proptest! {
    #[test]
    fn frames_survive_any_way_of_cutting_the_stream(
        bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..8),
        piece in 1_usize..50,
    ) {
        let frames: Vec<Frame> = bodies.into_iter().map(|b| Frame::raw(FrameType::Event, b)).collect();
        let bytes: Vec<u8> = frames.iter().flat_map(|f| f.encode(StreamKind::Events).unwrap()).collect();
        let mut decoder = Decoder::new(StreamKind::Events);
        let mut seen = Vec::new();
        for part in bytes.chunks(piece) {
            decoder.push(part);
            while let Some(frame) = decoder.next_frame().unwrap() {
                seen.push(frame);
            }
        }
        prop_assert_eq!(seen, frames);
        prop_assert_eq!(decoder.finish(), Ok(()));
    }

    #[test]
    fn any_bytes_are_cut_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2_000), kind in 0_usize..7) {
        let mut decoder = Decoder::new(KINDS[kind]);
        decoder.push(&bytes);
        while let Ok(Some(frame)) = decoder.next_frame() {
            prop_assert!(frame.body.len() <= KINDS[kind].frame_cap());
        }
    }
}
